// The two forms: how tokens are drawn, and what computes. Both are remembered where the browser allows it.

import { modelCache } from './realm/realm.mjs';

const NUMBERS = ['temperature', 'topP', 'topK', 'minP', 'maxTokens', 'seed'];

export class SettingsForm {
  constructor(form) {
    this.form = form;
    remember(form, 'settings');
  }

  system() {
    return this.form.elements.system.value.trim();
  }

  /** What differs from empty and valid; the SDK has defaults for the rest. */
  sampling() {
    const fields = NUMBERS.map((name) => this.form.elements[name]);
    const given = fields.filter((field) => field.value !== '' && field.validity.valid);
    return Object.fromEntries(given.map((field) => [field.name, field.valueAsNumber]));
  }
}

export class EngineForm {
  constructor(form, missing) {
    this.form = form;
    this.missing = missing;
    remember(form, 'engine');
  }

  /** Options of a Realm. */
  options() {
    const { backend, threads } = this.form.elements;
    const chosen = threads.disabled || !threads.validity.valid || threads.value === '' ? {} : { threads: threads.valueAsNumber };
    return { backend: backend.value, ...chosen };
  }

  describe(stats) {
    const name = { webgpu: 'WebGPU', wasm: 'WebAssembly' }[stats.backend] ?? stats.backend ?? this.options().backend;
    const threads = stats.backend === 'wasm' && stats.threads;
    return threads ? `${name}, ${threads} ${threads === 1 ? 'thread' : 'threads'}` : name;
  }

  /** Finds out what this browser lacks, says so in words, and takes away what cannot be chosen. */
  async probe() {
    const { backend, threads } = this.form.elements;
    const webgpu = await navigator.gpu?.requestAdapter().catch(() => null);
    if (!webgpu) {
      this.form.querySelector('[value=webgpu]').disabled = true;
      if (backend.value === 'webgpu') backend.value = 'auto';
      this.#say('This browser offers no WebGPU here; WebAssembly computes.');
    }
    if (!globalThis.crossOriginIsolated) {
      threads.disabled = true;
      this.#say('One thread only: the page is not cross-origin isolated.', await isolatedAfterReload());
    }
    await modelCache.room().catch((problem) => this.#say(`Models are not kept: ${problem.message}.`));
  }

  #say(text, button) {
    const item = document.createElement('li');
    item.append(text, ...(button ? [' ', button] : []));
    this.missing.append(item);
  }
}

/** Once the service worker runs, it adds the headers that isolate the page (see sw.js): from the next load on. */
async function isolatedAfterReload() {
  if (!navigator.serviceWorker || !isSecureContext) return undefined;
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'quiet';
  button.textContent = 'Reload with threads';
  button.addEventListener('click', async () => {
    await navigator.serviceWorker.ready;
    location.reload();
  });
  return button;
}

/** Fills a form with what it held before, and keeps what changes. A browser may refuse that too. */
function remember(form, name) {
  const key = `realm-demo-${name}`;
  try {
    for (const [field, value] of Object.entries(JSON.parse(localStorage.getItem(key) ?? '{}'))) {
      if (form.elements[field]) form.elements[field].value = value;
    }
  } catch {
    // nothing to remember
  }
  const save = () => {
    try {
      localStorage.setItem(key, JSON.stringify(Object.fromEntries(new FormData(form))));
    } catch {
      // the settings last as long as the page
    }
  };
  form.addEventListener('change', save);
  form.addEventListener('reset', () => setTimeout(save)); // the fields change after this event
}
