// `isolation: 'worker'`: guests that loop, trap or eat memory end alone; everything else is as without a worker.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { test } from 'node:test';

import { Realm, Runtime } from '../../node/dist/index.mjs';
import { GROW_MEMORY, GROW_TABLE, LOOP, orchestrator, SEVEN, TRAP } from './guests.mjs';
import { ANSWER, DEMO, QUESTION, ROOT, rejectsWith } from './helpers.mjs';

const WORKER = { isolation: 'worker' };
const SHORT = { guestSeconds: 0.2, guestMemoryBytes: 4 << 20 };
const LONG = { ignoreEnd: true, maxTokens: 400, temperature: 0 };

function opened(t, Kind, options) {
  const made = new Kind(options);
  t.after(() => made.dispose());
  return made;
}

test('a guest that loops is ended in time, wherever it does; the event loop and others go on', async (t) => {
  const runtime = opened(t, Runtime, { ...WORKER, limits: SHORT });
  const other = opened(t, Realm);
  const calm = await runtime.loadWasm(orchestrator(SEVEN));
  const [called, run] = [await runtime.loadWasm(orchestrator(LOOP)), await runtime.loadWasm(orchestrator(LOOP))];
  await other.loadModel(DEMO);
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const generated = other.generate('The', LONG);
  const began = performance.now();
  await Promise.all([
    rejectsWith(called.callFunction('act'), 'timed-out'),
    rejectsWith(run.run('x'), 'timed-out'),
    rejectsWith(runtime.loadWasm(orchestrator(LOOP, { starting: true })), 'timed-out'),
  ]);
  const seconds = (performance.now() - began) / 1000;
  delay.disable();
  assert(seconds >= 0.2 && seconds < 2, `${seconds} s`);
  assert(delay.percentile(90) < 50e6, `${delay.percentile(90) / 1e6} ms`);
  assert.equal((await generated).tokens.length, 400);
  await rejectsWith(called.callFunction('act'), 'timed-out');
  assert.equal(await calm.callFunction('act'), 7);
});

test('memory and tables are bounded', async (t) => {
  const runtime = opened(t, Runtime, { ...WORKER, limits: { ...SHORT, guestSeconds: 20 } });
  await rejectsWith((await runtime.loadWasm(orchestrator(GROW_MEMORY))).run('x'), 'guest-memory');
  const before = process.memoryUsage().rss;
  await rejectsWith((await runtime.loadWasm(orchestrator(GROW_TABLE))).callFunction('act'), 'guest-trap');
  assert(process.memoryUsage().rss - before < 64 << 20);
  const calm = await runtime.loadWasm(orchestrator(SEVEN));
  assert.equal(await calm.callFunction('act'), 7);
});

test('a guest that traps is gone, and a module that is refused says why', async (t) => {
  const runtime = opened(t, Runtime, { ...WORKER, limits: SHORT });
  const trapping = await runtime.loadWasm(orchestrator(TRAP));
  await rejectsWith(trapping.run('x'), 'guest-trap');
  await rejectsWith(trapping.run('x'), 'guest-trap');
  await rejectsWith(trapping.callFunction('act'), 'guest-trap');
  await rejectsWith(runtime.loadWasm(Uint8Array.of(1, 2, 3)), 'guest-invalid');
  await rejectsWith(runtime.loadWasm(orchestrator(SEVEN), { limits: { guestMemoryBytes: 1000 } }), 'guest-memory');
  await rejectsWith((await runtime.loadWasm(orchestrator(SEVEN))).callFunction('nothing'), 'guest-invalid');
});

test('a module that could fill the heap of the engine is refused', async (t) => {
  const runtime = opened(t, Runtime);
  const header = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
  const refused = {
    'an array type': [...header, 1, 4, 1, 0x5e, 0x7f, 1],
    'a tag': [...header, 1, 4, 1, 0x60, 0, 0, 13, 3, 1, 0, 0],
    'two memories': [...header, 5, 5, 2, 0, 1, 0, 1],
    'a table of objects': [...header, 4, 5, 1, 0x63, 0x70, 0, 1],
    'five tables': [...header, 4, 16, 5, ...new Array(5).fill([0x70, 0, 1]).flat()],
  };
  for (const [what, bytes] of Object.entries(refused)) {
    await assert.rejects(runtime.loadWasm(Uint8Array.from(bytes)), { code: 'guest-invalid' }, what);
  }
  const large = [...header, 4, 6, 1, 0x70, 0, 0x81, 0x80, 0x04];
  await rejectsWith(runtime.loadWasm(Uint8Array.from(large)), 'guest-memory');
});

test('everything a realm does is the same through a worker', async (t) => {
  const portable = { cpuFeatures: ['portable'] }; // whose numbers do not depend on the batch
  const [near, far] = [opened(t, Realm, portable), opened(t, Realm, { ...WORKER, ...portable })];
  const model = await near.loadModel(DEMO);
  await far.loadModel(model);
  assert.equal((await far.chat(QUESTION, { temperature: 0 })).text, ANSWER);
  for (const mode of ['granular', 'whole', 'layers']) {
    const options = { seed: 7, maxTokens: 20, ignoreEnd: true, mode, stop: ['zzz'] };
    const [here, there] = [await near.generate('The capital of', options), await far.generate('The capital of', options)];
    assert.deepEqual([there.text, there.tokens, there.usage], [here.text, here.tokens, here.usage]);
  }
  const stream = far.chatStream(QUESTION, { temperature: 0 });
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  assert(pieces.length > 2);
  assert.equal(pieces.join(''), ANSWER);
  assert.equal((await stream.result).finishReason, 'end');
  assert.deepEqual(await far.tokenize('hello'), await near.tokenize('hello'));
  assert.deepEqual(await far.logits([1, 2, 3]), await near.logits([1, 2, 3]));
  assert.equal(typeof (await far.stats()).steps, 'number');
  await rejectsWith(far.generate('x', { maxTokens: 0 }), 'invalid-argument');
  await rejectsWith(far.generate('x'.repeat(100_000)), 'context-full');
});

test('an own orchestrator of a worker gets the models it is given', async (t) => {
  const results = [];
  for (const isolation of ['none', 'worker']) {
    const runtime = opened(t, Runtime, { isolation, cpuFeatures: ['portable'] });
    const model = await runtime.loadModel(DEMO);
    const guest = await runtime.loadWasm(readFileSync(`${ROOT}build/guest/pick.wasm`));
    const extra = Buffer.from([5, 0, 0, 0, ...Buffer.from(' Rome'), 6, 0, 0, 0, ...Buffer.from(' Paris')]);
    results.push((await guest.run('The capital of France is', { model, extra })).extra);
  }
  assert.deepEqual(results[1], results[0]);
  assert.equal(results[0][0], 1); // Paris
});

test('aborting rejects at once and leaves the realm usable', async (t) => {
  const realm = opened(t, Realm, WORKER);
  await realm.loadModel(DEMO);
  const stop = new AbortController();
  const running = realm.generate('The', { ...LONG, signal: stop.signal });
  await new Promise((resolve) => setTimeout(resolve, 20));
  stop.abort();
  const began = performance.now();
  await rejectsWith(running, 'cancelled');
  assert(performance.now() - began < 50);
  for await (const _ of realm.streamTokens('The', LONG)) break;
  assert.equal((await realm.chat(QUESTION, { temperature: 0 })).text, ANSWER);
});

test('a reader that waits holds the text back, and more than the limit ends the guest', async (t) => {
  const realm = opened(t, Realm, { ...WORKER, limits: { textBytes: 600 } }); // of some 900 in all
  await realm.loadModel(DEMO);
  let read = 0;
  for await (const piece of realm.streamTokens('The', LONG)) read += piece.length;
  assert(read > 800, `${read} bytes were read in time`);
  const unread = realm.streamTokens('The', LONG);
  await rejectsWith(unread.result, 'guest-trap');
});

test('disposing during generation ends it; twice is harmless; later use is an error', async () => {
  const realm = new Realm(WORKER);
  await realm.loadModel(DEMO);
  const running = [realm.generate('The', LONG), realm.generate('A', LONG)];
  const stream = realm.streamTokens('The', LONG);
  await new Promise((resolve) => setTimeout(resolve, 20));
  realm.dispose();
  realm.dispose();
  for (const one of [...running, stream.result]) await rejectsWith(one, 'closed');
  await rejectsWith(realm.generate('x'), 'closed');
});

test('unloading a model takes it from the guest', async (t) => {
  const realm = opened(t, Realm, WORKER);
  const model = await realm.loadModel(DEMO);
  const other = model.share();
  const running = realm.generate('The', LONG);
  await new Promise((resolve) => setTimeout(resolve, 20));
  realm.unloadModel(model);
  await assert.rejects(running, { name: 'RealmError' });
  assert.equal((await realm.chat(QUESTION, { temperature: 0, model: other })).text, ANSWER);
  other.close();
});

test('twenty realms generate at once, each in its worker, with equal results', async () => {
  const portable = { ...WORKER, cpuFeatures: ['portable'] }; // whose results do not depend on the batch
  const realms = Array.from({ length: 20 }, () => new Realm(portable));
  const model = await realms[0].loadModel(DEMO);
  const options = { ...LONG, maxTokens: 30, model };
  const answers = await Promise.all(realms.map((realm) => realm.generate('The capital of', options)));
  for (const answer of answers) assert.equal(answer.text, answers[0].text);
  for (const realm of realms) realm.dispose();
});

test('a realm in a warm worker is there in a few milliseconds', async (t) => {
  const times = [];
  for (let round = 0; round < 6; round++) {
    await new Promise((resolve) => setTimeout(resolve, 150)); // the next worker starts meanwhile
    const began = performance.now();
    const runtime = new Runtime(WORKER);
    await runtime.loadWasm(orchestrator(SEVEN));
    times.push(performance.now() - began);
    runtime.dispose();
  }
  t.diagnostic(`milliseconds: ${times.map((time) => time.toFixed(1)).join(' ')}`);
  assert(Math.min(...times) < 250); // other programs run on the test machine: 5 to 10 ms where none do
});

test('a process with workers ends by itself', () => {
  const code = `
    import { Realm } from ${JSON.stringify(`${ROOT}node/dist/index.mjs`)};
    const realm = new Realm({ isolation: 'worker' });
    console.log((await realm.chat(${JSON.stringify(QUESTION)}, { temperature: 0 })).text);`;
  const done = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8', timeout: 20000 });
  assert.equal(done.stdout.trim(), ANSWER, done.stderr);
  assert.equal(done.status, 0, done.stderr);
});

test('options and limits are checked', () => {
  for (const options of [{ isolation: 'thread' }, { ...WORKER, limits: { guestSeconds: 0 } }, { limits: { guestSeconds: NaN } }]) {
    assert.throws(() => new Realm(options), { code: 'invalid-argument' });
  }
});
