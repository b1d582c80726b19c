// The platform over core.wasm: slices that leave the event loop free, cancellation, memory that comes back, threads that end,
// loading that fails. WIDE_MODEL is a file of the 1.1B model's width with few layers (test_wasm_platform.py makes it).

import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { afterEach, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import * as sdk from '../../build/wasm/sdk.mjs';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const DEMO = `${ROOT}demo_model/realm-demo.gguf`;
const WIDE = process.env.WIDE_MODEL;
const ANSWER = 'The capital of France is Paris.';
const QUESTION = [{ role: 'user', content: 'What is the capital of France?' }];
const STOP_MS = 200; // what a stop click may take
const platforms = [];

async function use(module = 'core', threads = 1, spawn = sdk.spawnNodeThread) {
  const assets = [`${ROOT}build/wasm/${module}.wasm`, `${ROOT}build/guest/realm.wasm`, DEMO];
  const platform = await sdk.useCore(...assets, threads, spawn);
  platforms.push(platform);
  return platform;
}

afterEach(() => platforms.splice(0).forEach((platform) => platform.dispose()));

async function rejectsWith(promise, code) {
  await assert.rejects(promise, (problem) => (assert.equal(problem.code, code, problem.stack), true));
}

const tick = () => new Promise(setImmediate);

for (const [module, threads] of [['core', 1], ['core-threads', 2]]) {
  test(`a prefill of a wide model leaves the event loop free and ends when stopped: ${module}`, async () => {
    await use(module, threads);
    const realm = new sdk.Realm();
    await realm.loadModel(WIDE);
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    const stop = new AbortController();
    const running = realm.generate('a long prompt '.repeat(150), { maxTokens: 4, signal: stop.signal });
    await new Promise((resolve) => setTimeout(resolve, 400)); // in the middle of its first step
    const began = performance.now();
    stop.abort();
    await rejectsWith(running, 'cancelled');
    assert(performance.now() - began < STOP_MS, `${performance.now() - began} ms`);
    delay.disable();
    assert(delay.max / 1e6 < STOP_MS, `the event loop waited ${delay.max / 1e6} ms`);
    const again = performance.now(); // what was cancelled is not computed to its end
    await realm.generate('a', { maxTokens: 1 });
    assert(performance.now() - again < 2000);
    realm.dispose();
  });
}

test('many realms decode together, and each gets the same', async () => {
  await use();
  const realms = Array.from({ length: 20 }, () => new sdk.Realm());
  await realms[0].loadModel(DEMO);
  const before = (await realms[0].stats()).steps;
  const made = await Promise.all(realms.map((realm) => realm.chat(QUESTION, { temperature: 0 })));
  for (const { text } of made) assert.equal(text, ANSWER);
  const { steps } = await realms[0].stats();
  // One after the other: 20 times as many as tokens. Beside the first streams, the others' prompts come in chunks that grow.
  assert(steps - before < 5 * made[0].tokens.length, `${steps - before} steps`);
  for (const realm of realms) realm.dispose();
});

test('memory comes back when models are closed', async () => {
  const platform = await use();
  const sizes = [];
  for (let round = 0; round < 6; round++) {
    const realm = new sdk.Realm();
    await realm.loadModel(WIDE);
    await realm.generate('a', { maxTokens: 2 });
    sizes.push((await realm.stats()).memoryBytes);
    realm.dispose();
    await tick();
  }
  assert.equal(sizes.at(-1), sizes[1], String(sizes));
  assert(platform.threads === 1);
});

test('loading holds the file once', async () => {
  await use();
  const realm = new sdk.Realm();
  const { size } = statSync(WIDE);
  await realm.loadModel(WIDE);
  const { memoryBytes } = await realm.stats();
  assert(memoryBytes < size + (48 << 20), `${memoryBytes} bytes for a file of ${size}`);
  realm.dispose();
});

test('the same file is loaded once; one who gives up does not stop another', async () => {
  await use();
  const [first, second] = [new sdk.Realm(), new sdk.Realm()];
  const stop = new AbortController();
  const progress = [];
  const left = first.loadModel(WIDE, { signal: stop.signal });
  const kept = second.loadModel(WIDE, { progress: (done) => progress.push(done) });
  await tick();
  stop.abort();
  await rejectsWith(left, 'cancelled');
  const model = await kept;
  assert.equal((await first.loadModel(WIDE)).info.layerCount, model.info.layerCount);
  assert.equal(progress.at(-1), 1);
  assert(progress.every((done, at) => at === 0 || done >= progress[at - 1]));
  first.dispose();
  second.dispose();
});

test('a loading that everybody gave up frees what it had', async () => {
  await use();
  const realm = new sdk.Realm();
  const sizes = [];
  for (let round = 0; round < 4; round++) {
    const stop = new AbortController();
    await rejectsWith(realm.loadModel(WIDE, { signal: stop.signal, progress: () => stop.abort() }), 'cancelled');
    await tick();
    sizes.push((await realm.stats()).memoryBytes);
  }
  assert.equal(sizes.at(-1), sizes[0]);
  realm.dispose();
});

test('what does not fit is refused with what it needs', async () => {
  await use();
  const realm = new sdk.Realm();
  const sparse = { size: 5 * 2 ** 30, slice: () => new Blob(['GGUF\x03\0\0\0']), name: 'big.gguf' };
  Object.setPrototypeOf(sparse, Blob.prototype);
  await assert.rejects(realm.loadModel(sparse), (problem) => {
    assert.equal(problem.code, 'out-of-memory');
    assert.match(problem.message, /big\.gguf needs 5368709120 bytes .* at most 4294901760/);
    return true;
  });
  await rejectsWith(realm.loadModel(new Blob(['<!doctype html>'])), 'invalid-gguf');
  realm.dispose();
});

test('threads that do not come are done without, and threads end with the platform', async () => {
  const failing = await use('core-threads', 3, (start, failed) => (queueMicrotask(failed), { terminate() {} }));
  assert.equal(failing.threads, 1);
  const none = await use('core-threads', 3, () => { throw new Error('no workers here'); });
  assert.equal(none.threads, 1);

  const started = [];
  const spawn = (...given) => (started.push(sdk.spawnNodeThread(...given)), started.at(-1));
  const platform = await use('core-threads', 3, spawn);
  assert.equal(platform.threads, 3);
  const realm = new sdk.Realm();
  await realm.loadModel(DEMO);
  assert.equal((await realm.chat(QUESTION, { temperature: 0 })).text, ANSWER);
  realm.dispose();
  const exits = started.map((worker) => new Promise((resolve) => worker.once('exit', resolve)));
  platforms.pop().dispose();
  await Promise.all(exits);
});
