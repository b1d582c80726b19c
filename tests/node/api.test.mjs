// The public API of the Node host: generation, streams, chat, tokens, options, errors.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';

import { Realm, RealmError } from '../../node/dist/index.mjs';
import { ANSWER, DEMO, QUESTION, ROOT, rejectsWith, throwsWith } from './helpers.mjs';

const realm = new Realm();
const folder = mkdtempSync(join(tmpdir(), 'realm-api-'));
after(() => {
  realm.dispose();
  rmSync(folder, { recursive: true, force: true });
});

test('chat answers, with the demo model when none is loaded', async () => {
  const answer = await realm.chat(QUESTION, { temperature: 0 });
  assert.equal(answer.text, ANSWER);
  assert.equal(answer.finishReason, 'end');
  assert.equal(answer.usage.totalTokens, answer.promptTokens + answer.tokens.length);
  assert.equal(await realm.detokenize(answer.tokens), answer.text);
});

test('require gives the same API as import', async () => {
  const { Realm: Required } = createRequire(import.meta.url)(`${ROOT}node/dist/index.cjs`);
  const other = new Required();
  assert.equal((await other.chat(QUESTION, { temperature: 0 })).text, ANSWER);
  other.dispose();
});

test('an error is a RealmError for both bundles, and only those are', async () => {
  const { Realm: Other, RealmError: OtherError } = createRequire(import.meta.url)(`${ROOT}node/dist/index.cjs`);
  assert.notEqual(Other, Realm);
  const problem = await realm.loadModel('/nowhere.gguf').catch((error) => error);
  for (const Kind of [RealmError, OtherError, Error]) assert(problem instanceof Kind);
  class Special extends RealmError {}
  assert(!(problem instanceof Special));
  assert(new Special('io', '') instanceof OtherError);
  for (const other of [new Error(''), null, undefined, 'text', {}]) assert(!(other instanceof RealmError));
});

test('a stream is a ReadableStream and an async iterable', async () => {
  const stream = realm.chatStream(QUESTION, { temperature: 0 });
  assert(stream instanceof ReadableStream);
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  assert(pieces.length > 2);
  assert.equal(pieces.join(''), ANSWER);
  assert.equal((await stream.result).text, ANSWER);
});

test('cancelling a stream ends its request', async () => {
  const reader = realm.streamTokens('The', { ignoreEnd: true, maxTokens: 400 });
  const result = reader.result;
  for await (const _ of reader) break;
  await rejectsWith(result, 'cancelled');
  assert.equal((await realm.chat(QUESTION, { temperature: 0 })).text, ANSWER);
});

test('the three modes and both spellings of options give the same tokens', async () => {
  const tokens = [];
  for (const mode of ['granular', 'whole', 'layers']) {
    tokens.push((await realm.generate('The capital', { mode, seed: 5, maxTokens: 12, ignoreEnd: true })).tokens);
  }
  const snake = { seed: 5n, max_tokens: 12, ignore_end: true, top_k: 40, top_p: 0.95, min_p: 0.05 };
  tokens.push((await realm.generate('The capital', snake)).tokens);
  for (const other of tokens) assert.deepEqual(other, tokens[0]);
  assert.equal(tokens[0].length, 12);
});

test('log probabilities come with whole results, with streams and from isolated guests', async () => {
  const options = { temperature: 0, logprobs: true, maxTokens: 8 };
  const plain = await realm.generate('The capital of', { temperature: 0, maxTokens: 8 });
  assert(!('logprobs' in plain) && !('topLogprobs' in plain));
  const whole = await realm.generate('The capital of', options);
  assert.deepEqual(whole.tokens, plain.tokens);
  assert.equal(whole.logprobs.length, whole.tokens.length);
  assert(whole.logprobs.every((value) => value <= 0));
  const stream = realm.streamTokens('The capital of', { ...options, top_logprobs: 2 });
  for await (const _ of stream);
  const isolated = new Realm({ isolation: 'worker' });
  try {
    for (const told of [await stream.result, await isolated.generate('The capital of', { ...options, topLogprobs: 2 })]) {
      assert.deepEqual(told.topLogprobs.map(([first]) => first.id), whole.tokens); // greedy
      for (const [place, top] of told.topLogprobs.entries()) {
        assert.equal(top.length, 2);
        assert(top[0].logprob >= top[1].logprob);
        assert.equal(top[0].logprob, told.logprobs[place]);
      }
      const { queuedSeconds, prefillSeconds, decodeSeconds, stepSeconds, totalSeconds, steps, rows } = told.timings;
      assert(steps >= 1 && rows >= told.tokens.length && prefillSeconds > 0 && stepSeconds > 0);
      assert(queuedSeconds + prefillSeconds + decodeSeconds <= totalSeconds + 0.5); // two clocks
    }
  } finally {
    isolated.dispose();
  }
});

test('a stop string ends the text before it', async () => {
  const answer = await realm.chat(QUESTION, { temperature: 0, stop: [' Paris'] });
  assert.equal(answer.text, 'The capital of France is');
  assert.equal(answer.finishReason, 'stop');
});

test('control tokens that users write stay text', async () => {
  const prompt = await realm.renderChat([{ role: 'user', content: 'a<|user|>b' }]);
  const model = await realm.loadModel(DEMO);
  const plain = await realm.renderChat([{ role: 'user', content: 'ab' }]);
  const controls = async (text) => {
    const ids = await model.tokenize(text, { parseSpecial: true });
    const spelled = await Promise.all(ids.map((id) => model.detokenize([id])));
    return spelled.filter((text) => text === '').length;
  };
  assert.equal(await controls(prompt), await controls(plain));
});

test('logits have a row for each token, alone or after others', async () => {
  const ids = await realm.tokenize('The capital of France is', { addSpecial: true });
  const rows = await realm.logits(ids);
  assert.equal(rows.length, ids.length);
  const alone = await realm.logits(ids.slice(0, 2));
  for (const [index, row] of alone.entries()) {
    const largest = Math.max(...row.map((value, at) => Math.abs(value - rows[index][at])));
    assert(largest < 1e-3, `${largest}`);
  }
});

test('options out of range are refused', async () => {
  for (const wrong of [{ temperature: -1 }, { maxTokens: 0 }, { maxTokens: 1.5 }, { topP: 0 }, { topP: NaN }, { seed: -1 },
    { stop: '' }, { mode: 'fast' }, { logitBias: { 5: Infinity } }, { nonsense: 1 }]) {
    await rejectsWith(realm.generate('x', wrong), 'invalid-argument');
  }
  throwsWith(() => new Realm({ threads: 0 }), 'invalid-argument');
  throwsWith(() => new Realm({ limits: { sessions: -1 } }), 'invalid-argument');
});

test('backends this machine does not have are refused, auto is not', async () => {
  throwsWith(() => new Realm({ backend: process.platform === 'darwin' ? 'cuda' : 'metal' }), 'backend-unavailable');
  const gpu = new Realm({ backend: process.platform === 'darwin' ? 'metal' : 'cuda' });
  const loaded = await gpu.loadModel(DEMO).then(() => 'a GPU', (problem) => problem.code); // known once the driver was asked
  assert(['a GPU', 'backend-unavailable'].includes(loaded), loaded);
  gpu.dispose();
  new Realm({ backend: 'auto' }).dispose();
  throwsWith(() => new Realm({ backend: 'abacus' }), 'invalid-argument');
});

test('files that are no model are typed errors', async () => {
  const broken = join(folder, 'broken.gguf');
  writeFileSync(broken, 'GGUF, but not really');
  const cut = join(folder, 'cut.gguf');
  copyFileSync(DEMO, cut);
  truncateSync(cut, 5000);
  await rejectsWith(realm.loadModel(join(folder, 'missing.gguf')), 'not-found');
  await rejectsWith(realm.loadModel(folder), 'io');
  await rejectsWith(realm.loadModel('a\0b'), 'io');
  for (const path of [broken, cut]) {
    await assert.rejects(realm.loadModel(path), (problem) => /gguf|model/.test(problem.code) && problem instanceof RealmError);
  }
  writeFileSync(join(folder, 'empty.gguf'), '');
  await assert.rejects(realm.loadModel(join(folder, 'empty.gguf')), RealmError);
});

test('the same file is loaded once, with progress', async () => {
  const own = new Realm();
  const seen = [];
  const models = await Promise.all([1, 2, 3].map(() => own.loadModel(DEMO, { contextLength: 77, progress: (done) => seen.push(done) })));
  assert.equal(new Set(models.map((model) => model.port().key)).size, 1);
  assert.equal(seen.at(-1), 1);
  assert(seen.every((done) => done > 0 && done <= 1));
  assert.equal(models[0].info.contextLength, 77);
  await rejectsWith(own.loadModel(DEMO, { contextLength: 78, signal: AbortSignal.abort() }), 'cancelled');
  const stop = () => { throw new Error('stop'); };
  await assert.rejects(own.loadModel(DEMO, { contextLength: 79, progress: stop }), /stop/);
  own.dispose();
});

test('who gives up loading, however late, leaves no model behind, and the next caller gets it', async () => {
  const own = new Realm();
  const path = join(folder, 'given-up.gguf');
  copyFileSync(DEMO, path);
  const reports = [];
  const load = async (options) => own.unloadModel(await own.loadModel(path, options));
  await load({ progress: (done) => reports.push(done) });
  for (let step = 1; step < reports.length; step++) { // the last report comes when the model is there
    const stop = new AbortController();
    let count = 0;
    await rejectsWith(load({ signal: stop.signal, progress: () => ++count === step && stop.abort() }), 'cancelled');
    if (step % 2) await load({});
    await until(() => !isMapped(path), `after ${step} of ${reports.length} reports the file is still mapped`);
  }
  own.dispose();
});

async function until(condition, problem) {
  for (let tries = 0; !condition(); tries++) {
    assert(tries < 1000, problem);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Where the system tells. */
const isMapped = (path) => process.platform === 'linux' && readFileSync('/proc/self/maps', 'utf8').includes(path);

test('an unloaded model is gone from its realm', async () => {
  const own = new Realm();
  const model = await own.loadModel(DEMO, { contextLength: 100 });
  const other = model.share();
  assert.equal((await own.chat(QUESTION, { temperature: 0 })).text, ANSWER);
  own.unloadModel(model);
  await rejectsWith(own.generate('x', { model }), 'closed');
  throwsWith(() => own.unloadModel(model), 'invalid-handle');
  assert.deepEqual(await other.tokenize('hi'), await realm.tokenize('hi'));
  other.close();
  other.close();
  own.dispose();
});

test('the limits of a realm hold', async () => {
  const small = new Realm({ limits: { kvTokens: 64 } });
  await rejectsWith(small.generate('The', { maxTokens: 200, ignoreEnd: true }), 'limit-exceeded');
  small.dispose();
  const narrow = new Realm({ limits: { guestMemoryBytes: 1 << 18 } });
  await rejectsWith(narrow.generate('a'.repeat(1 << 17)), 'limit-exceeded');
  narrow.dispose();
  throwsWith(() => new Realm({ limits: { guestMemoryBytes: 65536 } }), 'guest-memory');
});
