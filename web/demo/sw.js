// The service worker: the page works offline after its first load, and gets threads on servers that send no headers.
//
// Offline: what the page is made of is stored at once; later the network is asked first and the store answers when it fails, so that
// an update is never missed. Models are not stored here, the SDK keeps those.
// Threads: SharedArrayBuffer needs a cross-origin isolated page. Where the server's answers lack the two headers for that, they are
// added here; it takes effect with the second load, because the first one came before this worker.

const STORE = 'realm-demo-1';
const PARTS = [
  './', 'style.css', 'icon.svg', 'main.js', 'chat.js', 'models.js', 'plot.js', 'settings.js',
  ...['realm.mjs', 'worker.js', 'realm.wasm', 'realm-demo.gguf'].map((name) => `realm/${name}`),
];
// Which of these a browser takes depends on what it can do, and on isolation, which changes with the second load.
const CORES = ['', '-relaxed', '-threads', '-threads-relaxed'].map((kind) => `realm/core${kind}.wasm`);
const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
};

self.addEventListener('install', (event) => event.waitUntil(install()));
self.addEventListener('activate', (event) => event.waitUntil(activate()));
self.addEventListener('fetch', (event) => {
  const { request } = event;
  const ours = new URL(request.url).origin === location.origin;
  if (ours && request.method === 'GET' && !request.headers.has('range')) event.respondWith(answer(request));
});

async function install() {
  const store = await caches.open(STORE);
  await store.addAll(PARTS);
  await Promise.allSettled(CORES.map((core) => store.add(core)));
  await self.skipWaiting();
}

async function activate() {
  const old = (await caches.keys()).filter((name) => name.startsWith('realm-demo-') && name !== STORE);
  await Promise.all(old.map((name) => caches.delete(name)));
  await self.clients.claim();
}

async function answer(request) {
  const store = await caches.open(STORE);
  try {
    const fresh = await fetch(request);
    if (fresh.ok && (await store.match(request))) await store.put(request, fresh.clone());
    return isolated(fresh);
  } catch (problem) {
    const kept = await store.match(request, { ignoreSearch: true });
    if (!kept) throw problem;
    return isolated(kept);
  }
}

function isolated(response) {
  if (response.type === 'opaque' || response.status === 0) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response([204, 205, 304].includes(status) ? null : response.body, { status, statusText, headers });
}
