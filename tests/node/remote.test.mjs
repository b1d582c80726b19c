// The messages between a thread with realms and its worker: what a hostile or dying worker may do to its caller, and a hostile caller
// to the worker. Both ends are bundled here from their sources, over channels that the tests hold in their hands.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { test } from 'node:test';

import { ROOT, rejectsWith } from './helpers.mjs';

const esbuild = createRequire(`${ROOT}node/package.json`)('esbuild');
const { RemoteEngine, RealmError, serve, LocalEngine, usePlatform } = await bundled(`
  export { RemoteEngine } from './js/src/remote_client.ts';
  export { serve } from './js/src/remote_server.ts';
  export { LocalEngine } from './js/src/local.ts';
  export { usePlatform } from './js/src/platform.ts';
  export { RealmError } from './js/src/errors.ts';`);

const REALM = { guest: undefined, tenant: 1n, limits: { textBytes: 100 } };
const INFO = { vocabSize: 1, contextLength: 1, embeddingLength: 1, layerCount: 1 };
const FACTS = { name: 'a', key: 'b', info: INFO, chatTemplate: null };
const LOAD = { contextLength: 0, kvType: 'f16' };
const WORK = { queuedSeconds: 0, prefillSeconds: 0, decodeSeconds: 0, stepSeconds: 0, steps: 1, rows: 1 };
const ENDED = {
  finish: 'end', tokens: Uint32Array.of(1), promptTokens: 1, extra: new Uint8Array(0), firstTokenSeconds: 0, totalSeconds: 0,
  work: WORK,
};

async function bundled(contents) {
  const alias = { '@huggingface/jinja': `${ROOT}node/node_modules/@huggingface/jinja` };
  const made = await esbuild.build({
    stdin: { contents, resolveDir: ROOT }, bundle: true, format: 'esm', platform: 'node', write: false, alias, logLevel: 'error',
  });
  return import(`data:text/javascript;base64,${Buffer.from(made.outputFiles[0].text).toString('base64')}`);
}

/** An engine whose worker is the test: `sent` has what it got, `say` answers, `die` ends it. */
function faked() {
  const fake = { sent: [], closed: false, events: [] };
  const channel = {
    send: (message) => fake.sent.push(structuredClone(message)),
    listen: (receive, died) => Object.assign(fake, { say: receive, die: died }),
    close: () => (fake.closed = true),
  };
  fake.engine = new RemoteEngine(channel, {}, {
    busy: (busy) => fake.events.push(busy ? 'busy' : 'idle'),
    unused: () => fake.events.push('unused'),
    gone: () => fake.events.push('gone'),
  });
  fake.last = (method) => fake.sent.findLast((message) => message.method === method).id;
  fake.say({ kind: 'result', id: fake.last('open'), value: undefined });
  return fake;
}

function listening() {
  const heard = { texts: [], ends: [] };
  heard.listener = { text: (piece) => heard.texts.push(piece), end: (ended) => heard.ends.push(ended) };
  return heard;
}

test('what is no message, or for nobody, is dropped', async () => {
  const fake = faked();
  const stats = fake.engine.stats();
  const id = fake.last('stats');
  for (const message of [
    null, 1, 'text', [], {}, { kind: 'result' }, { kind: 'result', id: -1 }, { kind: 'result', id: 'x' }, { kind: 'result', id: 1e9 },
    { kind: 'other', id }, { kind: 'error', id, code: 1, message: 'x' }, { kind: 'text', id, piece: 'x' }, { kind: 'progress', id },
    { kind: 'text', id, piece: new Uint8Array(1) },
  ]) fake.say(message);
  fake.say({ kind: 'result', id, value: { steps: 3 } });
  assert.deepEqual(await stats, { steps: 3 });
});

test('what a loading tells on its way is passed on, if it is well-formed', async () => {
  const { engine, say, last } = faked();
  const told = [];
  const loading = engine.load('x', { ...LOAD, transfer: (state) => told.push(state), notice: (text) => told.push(text) });
  const id = last('load');
  const state = { loaded: 1, verified: 0, total: 2 };
  for (const message of [
    { kind: 'transfer', id }, { kind: 'transfer', id, state: { ...state, loaded: -1 } }, { kind: 'transfer', id, state: { loaded: 1 } },
    { kind: 'notice', id }, { kind: 'notice', id, text: 7 }, { kind: 'notice', id, text: 'x'.repeat(1e5) },
    { kind: 'transfer', id, state }, { kind: 'notice', id, text: 'no room' },
  ]) say(message);
  assert.deepEqual(told, [state, 'no room']);
  say({ kind: 'error', id, code: 'limit-exceeded', message: 'no room', facts: { limit: 'storage', value: 3 } });
  await assert.rejects(loading, { code: 'limit-exceeded', limit: 'storage', value: 3 });
});

test('an answer of the wrong kind is an error of its call', async () => {
  const { engine, say, last } = faked();
  const loading = engine.load('x', LOAD);
  say({ kind: 'result', id: last('load'), value: FACTS });
  const model = await loading;
  const calls = {
    stats: [() => engine.stats(), [1, { a: {} }]],
    encode: [() => model.encode(new Uint8Array(0), false, false), [[1], 'x', undefined]],
    decode: [() => model.decode(new Uint32Array(0), false, false), ['x', new Uint32Array(1)]],
    describe: [() => model.describe(), [{}]],
    renderChat: [() => model.renderChat([], {}), ['x', { text: 1, addSpecial: true }]],
    logits: [() => model.logits(Uint32Array.of(1), undefined), [{ values: new Float32Array(3), rows: 2 }, { values: [1], rows: 1 }]],
    load: [() => engine.load('x', LOAD), [{}, { ...FACTS, info: {} }, { ...FACTS, key: 1 }]],
  };
  for (const [method, [ask, values]] of Object.entries(calls)) {
    for (const value of values) {
      const asked = ask();
      say({ kind: 'result', id: last(method), value });
      await rejectsWith(asked, 'internal');
    }
  }
});

test('errors keep code and message; a code nobody knows becomes internal', async () => {
  const { engine, say, last } = faked();
  for (const [code, expected] of [['no-weights', 'no-weights'], ['nonsense', 'internal']]) {
    const asked = engine.load('x', LOAD);
    say({ kind: 'error', id: last('load'), code, message: 'because' });
    await assert.rejects(asked, { code: expected, message: 'because' });
    await assert.rejects(asked, RealmError);
  }
});

test('an end of the wrong kind is the failure of its request', () => {
  const drawn = { top: 1, ids: new Uint32Array(2), logprobs: new Float32Array(2) };
  const wrong = [{ finish: 'x' }, { work: 1 }, { work: { ...WORK, rows: '1' } }, { drawn: [] }, { drawn: { ...drawn, top: 2 } },
    { drawn: { ...drawn, top: -1 } }, { drawn: { ...drawn, ids: [1, 2] } }, { drawn: { ...drawn, logprobs: new Float32Array(4) } }];
  for (const part of [{ drawn }, ...wrong]) {
    const { engine, say, last } = faked();
    const heard = listening();
    engine.realm(REALM).start({}, undefined, heard.listener);
    say({ kind: 'result', id: last('start'), value: { ...ENDED, ...part } });
    assert.equal(heard.ends[0].problem?.code, part.drawn === drawn ? undefined : 'internal');
  }
});

test('a request ends exactly once, and nothing comes after', () => {
  const { engine, say, last, events } = faked();
  const realm = engine.realm(REALM);
  const heard = listening();
  const running = realm.start({}, undefined, heard.listener);
  const id = last('start');
  say({ kind: 'text', id, piece: Uint8Array.of(65) });
  running.took(1);
  say({ kind: 'result', id, value: ENDED });
  say({ kind: 'result', id, value: ENDED });
  say({ kind: 'text', id, piece: Uint8Array.of(65) });
  say({ kind: 'error', id, code: 'io', message: '' });
  running.cancel();
  running.took(1);
  assert.deepEqual([heard.texts.length, heard.ends.length, heard.ends[0].finish], [1, 1, 'end']);
  say({ kind: 'result', id: last('realm'), value: ['memory'] });
  assert.equal(events.at(-1), 'idle');
  realm.close();
  assert.equal(events.at(-1), 'unused');
});

test('a worker that floods its caller with text is ended', () => {
  const fake = faked();
  const heard = listening();
  fake.engine.realm(REALM).start({}, undefined, heard.listener);
  for (let i = 0; i < 5; i++) fake.say({ kind: 'text', id: fake.last('start'), piece: new Uint8Array(60) });
  assert.equal(heard.texts.length, 1);
  assert.equal(heard.ends[0].problem.code, 'internal');
  assert(fake.closed);
});

test('a worker that dies ends everything with the reason, also later calls', async () => {
  const { engine, die, events } = faked();
  const realm = engine.realm(REALM);
  const heard = listening();
  realm.start({}, undefined, heard.listener);
  const asked = [engine.stats(), realm.exports, engine.load('x', LOAD)];
  die(new RealmError('guest-memory', 'too much'));
  for (const one of asked) await rejectsWith(one, 'guest-memory');
  assert.equal(heard.ends[0].problem.code, 'guest-memory');
  assert(events.includes('gone'));
  await rejectsWith(engine.stats(), 'guest-memory');
  assert.throws(() => realm.start({}, undefined, heard.listener), { code: 'guest-memory' });
  realm.close();
});

test('an abort is over for the caller at once, and heard of by the worker', async () => {
  const { engine, say, sent, last } = faked();
  const stop = new AbortController();
  const seen = [];
  const loading = engine.load('x', { ...LOAD, signal: stop.signal, progress: (done) => seen.push(done) });
  const id = last('load');
  say({ kind: 'progress', id, done: 0.5 });
  stop.abort();
  await rejectsWith(loading, 'cancelled');
  say({ kind: 'progress', id, done: 0.9 });
  assert.deepEqual(seen, [0.5]);
  assert.deepEqual(sent.slice(-2).map(({ kind, method }) => method ?? kind), ['cancel', 'closeModel']);
  const broken = engine.load('x', { ...LOAD, progress: () => { throw new TypeError('mine'); } });
  say({ kind: 'progress', id: last('load'), done: 0.5 });
  await assert.rejects(broken, TypeError);
});

test('what cannot be sent is the error of its call alone', async () => {
  const { engine, say, last } = faked();
  const loading = engine.load('x', LOAD);
  say({ kind: 'result', id: last('load'), value: FACTS });
  const model = await loading;
  await rejectsWith(model.renderChat([], { templateVariables: { f: () => 1 } }), 'invalid-argument');
  const stats = engine.stats();
  say({ kind: 'result', id: last('stats'), value: {} });
  await stats;
});

test('a worker answers every call, however wrong, and drops what is none', async () => {
  const host = { stats: () => ({ ok: 1 }), load: async () => { throw new RealmError('io', 'none'); } };
  usePlatform({ standardGuest: () => Uint8Array.of(1), demoModel: () => 'demo', engine: () => host });
  const answers = [];
  let receive;
  serve({ send: (message) => answers.push(message), listen: (heard) => (receive = heard) }, async () => new LocalEngine(host));
  const calls = [
    ['stats'], ['open', {}], ['open', {}], ['stats'], ['toString'], ['constructor'], ['encode', 1, new Uint8Array(1)], ['encode'], ['load', 'x'],
    ['load', 1, 'x', { contextLength: 0, kvType: '__proto__' }], ['load', 1, 'x', { contextLength: 0, kvType: 'f16' }],
    ['realm', 2, undefined, 5, {}], ['realm', 2, 'x', 5n, {}], ['realm', 2, undefined, 5n, { guestMemoryBytes: 65536 }],
    ['start', 2, undefined, {}], ['start', 3, undefined, {}], ['callExport', 3, 'x', ['y']], ['closeModel', 9], ['shareModel', 4, 9],
  ];
  calls.forEach(([method, ...args], index) => receive({ kind: 'call', id: index + 1, method, args }));
  for (const message of [null, { kind: 'call', id: 99, method: 5, args: [] }, { kind: 'took', id: 1, size: -1 }, { kind: 'cancel', id: 77 }]) {
    receive(message);
  }
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(answers.map(({ id }) => id).sort((a, b) => a - b), calls.map((_, index) => index + 1));
  const codes = Object.fromEntries(answers.map(({ id, kind, code }) => [id, code ?? kind]));
  const invalid = 'invalid-argument';
  assert.deepEqual(Object.values(codes), [
    'closed', 'result', invalid, 'result', 'unsupported', 'unsupported', 'closed', invalid, invalid, invalid, 'io', invalid, invalid,
    'guest-invalid', 'guest-invalid', 'closed', 'closed', 'result', 'closed',
  ]);
});
