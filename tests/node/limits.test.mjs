// What tenants may use, and what they share: errors that name the limit, limits that change, deadlines, priorities, accounts, public
// prefixes. Beside the addon in this thread, the same holds for guests in worker threads and for core.wasm, where the facts of an error
// cross a channel.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';

import { Realm } from '../../node/dist/index.mjs';
import { DEMO, rejectsWith, throwsWith } from './helpers.mjs';

const PORTABLE = { cpuFeatures: ['portable'], threads: 1 };
const GREEDY = { temperature: 0, maxTokens: 6 };
const ENDLESS = { temperature: 0, maxTokens: 1_000_000, ignoreEnd: true }; // to the end of the context
const SYSTEM = { role: 'system', content: 'You answer in one short sentence, and you never say more than you were asked.' };
const PAGE = 16;
let accounts = 1000; // each test's own tenant

function opened(t, options) {
  const realm = new Realm(options);
  t.after(() => realm.dispose());
  return realm;
}

async function refused(promise) {
  const problem = await promise.then(() => assert.fail('nothing was refused'), (error) => error);
  assert.equal(problem.code, 'limit-exceeded', problem.stack);
  return problem;
}

for (const [name, options] of Object.entries({ here: {}, worker: { isolation: 'worker' }, wasm: { backend: 'wasm' } })) {
  test(`a limit that was met is named, with its value (${name})`, async (t) => {
    const realm = opened(t, { ...options, limits: { kvTokens: 40 } });
    const problem = await refused(realm.generate('The', { maxTokens: 200, ignoreEnd: true }));
    assert.equal(problem.limit, 'kvTokens');
    assert.equal(problem.value, 40);
    assert.equal(problem.retryAfter, undefined);
  });

  test(`a deadline ends what is not done, and only that (${name})`, async (t) => {
    const realm = opened(t, options);
    for (const mode of ['whole', 'granular']) {
      const problem = await refused(realm.generate('The', { ...ENDLESS, mode, deadline: 0.000_001 }));
      assert.equal(problem.limit, 'deadline');
      assert.equal((await realm.generate('The', { ...GREEDY, ignoreEnd: true, mode, deadline: 600 })).tokens.length, 6);
    }
    assert.deepEqual((await realm.tenantStats()).refused, { deadline: 2 });
  });

  test(`priorities order what waits (${name})`, async (t) => {
    const realm = opened(t, { ...options, limits: { concurrentRequests: 1, queueLength: 8 } });
    await realm.loadModel(DEMO);
    const order = async (priorities) => {
      const ends = [];
      const first = realm.streamTokens('The', { ...ENDLESS, priority: 9 })[Symbol.asyncIterator]();
      await first.next(); // it has the only place
      const all = priorities.map((priority, index) =>
        realm.generate('A', { ...GREEDY, priority, deadline: 600 }).then(() => ends.push(index)));
      while ((await realm.tenantStats()).queued < priorities.length) await pause(5);
      await first.return();
      await Promise.all(all);
      return ends;
    };
    assert.deepEqual(await order([0, 0, 0]), [0, 1, 2]);
    assert.deepEqual(await order([0, 5, 3]), [1, 2, 0]);
  });

  test(`a tenant's account says what it uses and has used (${name})`, async (t) => {
    const realm = opened(t, { ...options, tenant: accounts++, limits: { concurrentRequests: 1, queueLength: 1 } });
    const before = await realm.tenantStats();
    assert.deepEqual([before.requests, before.tokensPrompt, before.tokensGenerated, before.refused], [0, 0, 0, {}]);
    const done = await realm.generate('The capital of France is', { ...GREEDY, ignoreEnd: true });
    const after = await realm.tenantStats();
    assert.deepEqual([after.requests, after.tokensPrompt, after.tokensGenerated], [1, done.promptTokens, 6]);

    const first = realm.streamTokens('The', ENDLESS)[Symbol.asyncIterator]();
    await first.next();
    const waits = realm.generate('A', GREEDY);
    while ((await realm.tenantStats()).queued === 0) await pause(5);
    const problem = await refused(realm.generate('A', GREEDY));
    assert.equal(problem.limit, 'queueLength');
    const now = await realm.tenantStats();
    assert.deepEqual([now.running, now.queued, now.refused], [1, 1, { queueLength: 1 }]);
    assert(now.kvTokens > 0 && now.sessions >= 2, JSON.stringify(now));
    await first.return();
    await waits;
    assert((await realm.tenantStats()).waitedSeconds > 0);
  });

  test(`limits change while the realm lives (${name})`, async (t) => {
    const realm = opened(t, { ...options, limits: { kvTokens: 4 } });
    await refused(realm.generate('The capital of France is', GREEDY));
    await realm.setLimits({ kvTokens: 400 });
    assert.equal(realm.limits.kvTokens, 400);
    assert.equal((await realm.generate('The capital of France is', { ...GREEDY, ignoreEnd: true })).tokens.length, 6);
  });

  test(`a public prefix is computed once for all tenants (${name})`, async (t) => {
    const place = { ...options, ...(name === 'wasm' ? {} : PORTABLE) };
    const question = [SYSTEM, { role: 'user', content: 'What is the capital of France?' }];
    const cold = opened(t, place);
    const model = await cold.loadModel(DEMO);
    const ask = async () => {
      const realm = opened(t, place);
      await realm.loadModel(model);
      const before = (await realm.stats()).rows;
      const { text } = await realm.chat(question, GREEDY);
      return { text, rows: (await realm.stats()).rows - before };
    };
    const alone = await ask();
    const prefix = await model.publishPrefix([SYSTEM]);
    assert(prefix.sharedTokens >= PAGE && prefix.sharedTokens <= prefix.tokens.length);
    assert.deepEqual(await ask(), { text: alone.text, rows: alone.rows - prefix.sharedTokens });
    await model.unpublish(prefix);
    assert.deepEqual(await ask(), alone);
    await rejectsWith(model.unpublish(prefix), 'not-found');
    await rejectsWith(model.publishPrefix('short'), 'invalid-argument');
  });
}

test('a rate says when to come back, and holds for all realms of a tenant', async (t) => {
  const realm = opened(t, { tenant: 77, limits: { tokensPerMinute: 30 } });
  const sibling = opened(t, { tenant: 77 });
  const other = opened(t, { tenant: 78 });
  await realm.generate('The capital of France is', { ...GREEDY, maxTokens: 25, ignoreEnd: true });
  for (const one of [realm, sibling]) {
    const problem = await refused(one.generate('The capital of Spain is', GREEDY));
    assert.equal(problem.limit, 'tokensPerMinute');
    assert.equal(problem.value, 30);
    assert(problem.retryAfter > 0 && problem.retryAfter <= 60, String(problem.retryAfter));
  }
  await other.generate('The capital of Spain is', GREEDY);
});

test('limits that make no sense are refused', () => {
  for (const limits of [{ weight: -1 }, { weight: 20_000 }, { tokensPerSecond: 0.5 }, { queueLength: 2 ** 32 }, { no: 1 }]) {
    throwsWith(() => new Realm({ limits }), 'invalid-argument');
  }
  const realm = new Realm();
  for (const urgency of [{ priority: -1 }, { priority: 0.5 }, { deadline: 0 }, { deadline: NaN }, { deadline: '1' }]) {
    throwsWith(() => realm.streamTokens('A', urgency), 'invalid-argument');
  }
  realm.dispose();
  for (const tenant of [0, -1, 0n, 1n << 63n]) throwsWith(() => new Realm({ tenant }), 'invalid-argument');
});
