// Node without its addon: the core as WebAssembly in a worker thread, behind the same API.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { Realm, Runtime } from '../../node/dist/index.mjs';
import { orchestrator, SEVEN } from './guests.mjs';
import { ANSWER, DEMO, QUESTION, ROOT, rejectsWith } from './helpers.mjs';

const WASM = { backend: 'wasm' };
const ROUNDING = 0.5; // relaxed SIMD rounds activations to 8 bits (seen: 0.19); logits are around 10
const LONG = { ignoreEnd: true, maxTokens: 400, temperature: 0 };

function opened(t, Kind, options) {
  const made = new Kind(options);
  t.after(() => made.dispose());
  return made;
}

test('answers, streams, tokenizes and aborts as the addon does', async (t) => {
  const [near, far] = [opened(t, Realm, { cpuFeatures: ['portable'] }), opened(t, Realm, WASM)];
  await near.loadModel(DEMO);
  const seen = [];
  const model = await far.loadModel(DEMO, { progress: (done) => seen.push(done) });
  assert.equal(seen.at(-1), 1);
  assert.deepEqual(model.info, (await near.loadModel(DEMO)).info);
  assert.equal((await far.chat(QUESTION, { temperature: 0 })).text, ANSWER);
  let streamed = '';
  for await (const piece of far.chatStream(QUESTION, { temperature: 0 })) streamed += piece;
  assert.equal(streamed, ANSWER);
  assert.deepEqual(await far.tokenize('hello'), await near.tokenize('hello'));
  const [here, there] = [await near.logits([1, 2, 3]), await far.logits([1, 2, 3])];
  there.forEach((row, at) => row.forEach((value, id) => assert(Math.abs(value - here[at][id]) < ROUNDING)));
  const stop = new AbortController();
  const running = far.generate('The', { ...LONG, signal: stop.signal });
  await new Promise((resolve) => setTimeout(resolve, 20));
  stop.abort();
  await rejectsWith(running, 'cancelled');
  const stats = await far.stats();
  assert.equal(stats.backend, 'wasm');
  assert.notEqual(stats.kernels, (await opened(t, Realm).stats()).kernels);
});

test('own guests run there, and errors are typed', async (t) => {
  const runtime = opened(t, Runtime, WASM);
  assert.equal(await (await runtime.loadWasm(orchestrator(SEVEN))).callFunction('act'), 7);
  const realm = opened(t, Realm, WASM);
  await rejectsWith(realm.loadModel('/nowhere.gguf'), 'not-found');
  for (const one of [realm, opened(t, Realm)]) await rejectsWith(one.loadModel(DEMO, { sha256: '0'.repeat(64) }), 'unsupported');
  const [native] = [await opened(t, Realm).loadModel(DEMO)];
  await rejectsWith(realm.generate('x', { model: native }), 'invalid-handle');
  assert.throws(() => new Realm({ ...WASM, isolation: 'worker' }), { code: 'unsupported' });
});

test('where no addon fits, a warning says what to do, and the process ends by itself', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'realm-fallback-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  copyFileSync(DEMO, join(folder, 'realm.node')); // a file that is no addon
  const code = `
    import { Realm } from ${JSON.stringify(`${ROOT}node/dist/index.mjs`)};
    const realm = new Realm();
    console.log((await realm.chat(${JSON.stringify(QUESTION)}, { temperature: 0 })).text);`;
  const env = { ...process.env, REALM_ADDON: join(folder, 'realm.node') };
  const done = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8', timeout: 30000, env });
  assert.equal(done.stdout.trim(), ANSWER, done.stderr);
  assert.match(done.stderr, /REALM_WASM/);
  assert.equal(done.status, 0);
});
