// Own guests: plain modules, an orchestrator beside the standard one, memory limits, traps, modules that do not fit.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { Realm, Runtime } from '../../node/dist/index.mjs';
import { DEMO, ROOT, rejectsWith } from './helpers.mjs';

const HEADER = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
const PICK = `${ROOT}build/guest/pick.wasm`;

/** (memory (export "memory") 1) (func (export "grow") (param i32) (result i32) memory.grow) (func (export "trap") unreachable) */
const PLAIN = Uint8Array.from([
  ...HEADER, 1, 9, 2, 0x60, 1, 0x7f, 1, 0x7f, 0x60, 0, 0, 3, 3, 2, 0, 1, 5, 3, 1, 0, 1,
  7, 24, 3, 6, ...Buffer.from('memory'), 2, 0, 4, ...Buffer.from('grow'), 0, 0, 4, ...Buffer.from('trap'), 0, 1,
  10, 12, 2, 6, 0, 0x20, 0, 0x40, 0, 0x0b, 3, 0, 0, 0x0b,
]);

// The fast kernels round by the batch's shape, and the two ways of asking batch differently.
const PORTABLE = { cpuFeatures: ['portable'] };

function opened(t, options) {
  const runtime = new Runtime(options);
  t.after(() => runtime.dispose());
  return runtime;
}

test('a module without a maximum gets the limit as its maximum', async (t) => {
  const runtime = opened(t, { limits: { guestMemoryBytes: 4 * 65536 } });
  const guest = await runtime.loadWasm(PLAIN);
  assert.deepEqual(guest.exports, ['grow', 'memory', 'trap']);
  assert.equal(await guest.callFunction('grow', 3), 1);
  assert.equal(await runtime.callFunction('grow', 1), -1);
  assert.equal(await (await opened(t).loadWasm(PLAIN)).callFunction('grow', 100), 1);
  await rejectsWith(runtime.loadWasm(PLAIN, { limits: { guestMemoryBytes: 1000 } }), 'guest-memory');
});

test('a guest that traps is gone, others are unharmed', async (t) => {
  const runtime = opened(t);
  const [one, other] = [await runtime.loadWasm(PLAIN), await runtime.loadWasm(PLAIN)];
  await rejectsWith(one.callFunction('trap'), 'guest-trap');
  await rejectsWith(one.callFunction('grow', 0), 'guest-trap');
  assert.equal(await other.callFunction('grow', 0), 1);
  await rejectsWith(other.callFunction('nothing'), 'guest-invalid');
});

test('what is no orchestrator, no module or imports something else is refused', async (t) => {
  const runtime = opened(t);
  await rejectsWith((await runtime.loadWasm(PLAIN)).run('x'), 'guest-invalid');
  const foreign = [...HEADER, 1, 4, 1, 0x60, 0, 0, 2, 7, 1, 1, 0x61, 1, 0x62, 0, 0];
  for (const bytes of [[], HEADER.slice(0, 6), [...HEADER, 5], [...HEADER, 5, 0x80], [1, 2, 3, 4, 5, 6, 7, 8, 9], foreign]) {
    await rejectsWith(runtime.loadWasm(Uint8Array.from(bytes)), 'guest-invalid');
  }
});

test('an own orchestrator scores answers as the logits say', async (t) => {
  const runtime = opened(t, PORTABLE);
  const model = await runtime.loadModel(DEMO);
  const answers = [' Rome', ' Paris', ' Tokyo'];
  const prompt = 'The capital of France is';
  const { extra } = await (await runtime.loadWasm(readFileSync(PICK))).run(prompt, { model, extra: packed(answers) });
  const found = new DataView(extra.buffer, extra.byteOffset);
  const scores = answers.map((_, index) => found.getFloat32(4 + 4 * index, true));
  const expected = await Promise.all(answers.map((answer) => logProbability(t, model, prompt, answer)));
  assert.equal(found.getUint32(0, true), expected.indexOf(Math.max(...expected)));
  scores.forEach((score, index) => assert(Math.abs(score - expected[index]) < 0.05, `${scores} ${expected}`));
});

test('a disposed runtime has no guests', async (t) => {
  const runtime = opened(t);
  const guest = await runtime.loadWasm(PLAIN);
  runtime.dispose();
  runtime.dispose();
  await rejectsWith(guest.callFunction('grow', 0), 'closed');
  await rejectsWith(runtime.loadWasm(PLAIN), 'closed');
});

/** Each text after its length. */
function packed(texts) {
  return Buffer.concat(texts.flatMap((text) => {
    const size = Buffer.alloc(4);
    size.writeUInt32LE(Buffer.byteLength(text));
    return [size, Buffer.from(text)];
  }));
}

/** Of an answer's tokens after a prompt, from raw logits. */
async function logProbability(t, model, prompt, answer) {
  const realm = new Realm(PORTABLE);
  t.after(() => realm.dispose());
  const before = await model.tokenize(prompt, { addSpecial: true });
  const tokens = await model.tokenize(answer);
  const rows = await realm.logits([...before, ...tokens], { model });
  return tokens.reduce((sum, token, index) => {
    const row = rows[before.length - 1 + index];
    const largest = Math.max(...row);
    const total = row.reduce((all, value) => all + Math.exp(value - largest), 0);
    return sum + row[token] - largest - Math.log(total);
  }, 0);
}
