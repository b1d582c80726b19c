// A model file that is cut short while it is mapped: the requests on it fail, also in a worker, and the process goes on.

import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, rmSync, statSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';

import { Realm } from '../../node/dist/index.mjs';
import { ANSWER, DEMO, QUESTION, ROOT, rejectsWith } from './helpers.mjs';

const LONG = { ignoreEnd: true, maxTokens: 400, temperature: 0 };
const WHOLE = process.platform === 'win32' && 'Windows keeps mapped files whole';

/** A copy of the demo model. */
function copied(t) {
  const folder = mkdtempSync(join(tmpdir(), 'realm-lost-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'model.gguf');
  copyFileSync(DEMO, path);
  return path;
}

async function opened(t, path) {
  const realm = new Realm();
  t.after(() => realm.dispose());
  await realm.loadModel(path);
  return realm;
}

test('requests on a file cut short fail with io; other models and the process go on', { skip: WHOLE }, async (t) => {
  const path = copied(t);
  const [cut, other, whole] = [await opened(t, path), await opened(t, path), await opened(t, DEMO)];
  const running = [cut, cut, other].map((realm) => realm.generate('The', LONG));
  const stream = cut.streamTokens('The capital', LONG);
  const reading = (async () => { for await (const _ of stream); })();
  const unharmed = whole.generate('The', LONG);
  await new Promise((resolve) => setTimeout(resolve, 5));
  truncateSync(path, Math.floor(statSync(path).size / 3));
  await Promise.all([...running, reading, stream.result].map((one) => rejectsWith(one, 'io')));
  await rejectsWith(cut.generate('The', LONG), 'io');
  await rejectsWith(cut.logits([1, 2, 3]), 'io');
  assert.equal((await unharmed).tokens.length, 400);
  assert.equal((await whole.chat(QUESTION, { temperature: 0 })).text, ANSWER);
  const again = new Realm();
  t.after(() => again.dispose());
  await rejectsWith(again.loadModel(path), 'invalid-gguf');
  copyFileSync(DEMO, path);
  await again.loadModel(path);
  assert.equal((await again.chat(QUESTION, { temperature: 0 })).text, ANSWER);
});

test('in a worker that ends afterwards too', { skip: WHOLE }, async (t) => {
  const path = copied(t);
  const code = `
    const { parentPort } = require('node:worker_threads');
    const { truncateSync } = require('node:fs');
    const { Realm } = require(${JSON.stringify(`${ROOT}node/dist/index.cjs`)});
    (async () => {
      const realm = new Realm();
      await realm.loadModel(${JSON.stringify(path)});
      await realm.generate('The', { maxTokens: 2 });
      truncateSync(${JSON.stringify(path)}, 0);
      const code = await realm.generate('The', { maxTokens: 2 }).then(() => 'none', (problem) => problem.code);
      parentPort.postMessage(code);
      realm.dispose();
    })();`;
  const worker = new Worker(code, { eval: true });
  const ended = new Promise((resolve) => worker.on('exit', resolve));
  const found = await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
  assert.equal(found, 'io');
  assert.equal(await ended, 0);
  const whole = await opened(t, DEMO);
  assert.equal((await whole.chat(QUESTION, { temperature: 0 })).text, ANSWER);
});

test('while it loads', { skip: WHOLE }, async (t) => {
  for (let cutAfter = 0; cutAfter < 4; cutAfter++) {
    const path = copied(t);
    const realm = new Realm();
    t.after(() => realm.dispose());
    let steps = 0;
    const cut = () => { if (steps++ === cutAfter) truncateSync(path, 0); };
    const loaded = realm.loadModel(path, { progress: cut });
    await rejectsWith(loaded.then(() => realm.generate('The', { maxTokens: 2 })), 'io');
  }
});
