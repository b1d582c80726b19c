// Many short lives of everything that has one, each ended in a way that is easy to get wrong: what bench_lives.py runs under sanitizers,
// and lives.test.mjs for a moment. Prints one JSON object: rounds, resident bytes after a fifth of the rounds and at the end.
//   node lives.mjs ROUNDS

import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';

import { Realm } from '../../node/dist/index.mjs';
import { DEMO, QUESTION, ROOT } from './helpers.mjs';

const ROUNDS = Number(process.argv[2] ?? 100);
const WORKER_EVERY = 50; // a worker costs as much as a hundred other lives
const LONG = { ignoreEnd: true, maxTokens: 400, temperature: 0 };
const PROMPT = 'capital '.repeat(220);
const folder = mkdtempSync(join(tmpdir(), 'realm-lives-'));

async function code(promise) {
  try {
    await promise;
    return 'none';
  } catch (problem) {
    assert.equal(problem.name, 'RealmError', String(problem?.stack));
    return problem.code;
  }
}

async function opened(path = DEMO, options = {}) {
  const realm = new Realm();
  await realm.loadModel(path, options);
  return realm;
}

const ticks = (count) => new Promise((resolve) => (count ? setImmediate(() => resolve(ticks(count - 1))) : resolve()));

const LIVES = {
  async answered() {
    const realm = await opened();
    assert.equal((await realm.generate('The', { ...LONG, maxTokens: 3 })).tokens.length, 3);
    realm.dispose();
  },

  async guestLoop() {
    const realm = await opened();
    await Promise.all(['granular', 'layers'].map((mode) => realm.generate('The', { ...LONG, maxTokens: 2, mode })));
    realm.dispose();
  },

  async unused() {
    new Realm().dispose();
  },

  async abortedInPrefill(round) {
    const realm = await opened();
    const stop = new AbortController();
    const running = realm.generate(PROMPT, { ...LONG, signal: stop.signal });
    await ticks(round % 5);
    stop.abort();
    assert.equal(await code(running), 'cancelled');
    realm.dispose();
  },

  async disposedInGeneration(round) {
    const realm = await opened();
    const running = [realm.generate('The', LONG), realm.generate(PROMPT, LONG), realm.logits([1, 2, 3])];
    await ticks(round % 7);
    realm.dispose();
    realm.dispose();
    for (const one of running) assert(['closed', 'none'].includes(await code(one)));
    assert.equal(await code(realm.generate('x')), 'closed');
  },

  async streamLeft(round) {
    const realm = await opened();
    let pieces = 0;
    for await (const _ of realm.streamTokens('The', LONG)) if (++pieces > round % 4) break;
    const forgotten = realm.streamTokens('The', LONG).getReader(); // neither read to its end nor cancelled
    await forgotten.read();
    realm.dispose();
  },

  async modelUnloaded() {
    const realm = new Realm();
    const model = await realm.loadModel(DEMO, { contextLength: 64 });
    const running = realm.generate('The', { ...LONG, maxTokens: 20 });
    await ticks(1);
    realm.unloadModel(model);
    await code(running);
    realm.dispose();
  },

  async loadingAborted(round) {
    const path = join(folder, `own-${round}.gguf`); // a file of its own: nobody has it loaded
    copyFileSync(DEMO, path);
    const realm = new Realm();
    const stop = new AbortController();
    const loading = code(realm.loadModel(path, { signal: stop.signal, progress: () => stop.abort() }));
    assert.equal(await loading, 'cancelled');
    realm.dispose();
    rmSync(path);
  },

  async filesRefused(round) {
    const realm = new Realm();
    const broken = join(folder, `broken-${round}.gguf`);
    copyFileSync(DEMO, broken);
    truncateSync(broken, 1 + ((round * 7919) % (statSync(broken).size - 1)));
    assert.notEqual(await code(realm.loadModel(broken)), 'none');
    writeFileSync(broken, 'nonsense');
    assert.equal(await code(realm.loadModel(broken)), 'invalid-gguf');
    assert.equal(await code(realm.loadModel(folder)), 'io');
    rmSync(broken);
    assert.equal(await code(realm.loadModel(broken)), 'not-found');
    realm.dispose();
  },

  async fileCutShort(round) {
    if (process.platform === 'win32') return;
    const path = join(folder, `cut-${round}.gguf`);
    copyFileSync(DEMO, path);
    const realm = await opened(path);
    const running = realm.generate('The', LONG);
    await ticks(round % 3);
    truncateSync(path, 4096 * (round % 64));
    assert.equal(await code(running), 'io');
    realm.dispose();
    rmSync(path);
  },

  async worker(round) {
    if (round % WORKER_EVERY !== 0) return;
    const source = `
      const { parentPort } = require('node:worker_threads');
      const { Realm } = require(${JSON.stringify(`${ROOT}node/dist/index.cjs`)});
      const realm = new Realm();
      realm.chat(${JSON.stringify(QUESTION)}, { temperature: 0 }).then(() => {
        parentPort.postMessage('warm');
        return realm.generate('The', ${JSON.stringify(LONG)});
      }).then(() => realm.dispose());`;
    const worker = new Worker(source, { eval: true });
    await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
    await worker.terminate(); // in the middle of a generation
  },
};

const keep = await opened(); // the shared model stays loaded, as in a server
const names = Object.keys(LIVES);
let before = 0;
for (let round = 0; round < ROUNDS; round++) {
  await LIVES[names[round % names.length]](Math.floor(round / names.length));
  if (round === Math.floor(ROUNDS / 5)) before = resident();
}
const stats = await keep.stats();
keep.dispose();
rmSync(folder, { recursive: true });
console.log(JSON.stringify({ rounds: ROUNDS, before, after: resident(), kvBytesUsed: stats.kvBytesUsed }));

function resident() {
  globalThis.gc?.();
  return process.memoryUsage().rss;
}
