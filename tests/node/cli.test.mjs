// The command of the Node host: results, errors with their code, exit statuses.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';

import { ANSWER, DEMO, ROOT } from './helpers.mjs';

function realm(args, input = '') {
  const done = spawnSync(process.execPath, [`${ROOT}node/dist/cli.mjs`, ...args], { input, timeout: 30000 });
  return { status: done.status, out: done.stdout.toString(), err: done.stderr.toString() };
}

const QUESTION = 'What is the capital of France?';

test('generate answers, plain and as JSON', () => {
  assert.equal(realm(['generate', QUESTION, '--temperature', '0']).out, `${ANSWER}\n`);
  const found = JSON.parse(realm(['generate', '-', '--json', '--temperature=0', '-m', DEMO], QUESTION).out);
  assert.equal(found.text, ANSWER);
  const keys = ['text', 'tokens', 'prompt_tokens', 'finish_reason', 'timings'];
  assert.deepEqual(Object.keys(found), keys);
});

test('chat talks line by line', () => {
  const done = realm(['chat', '--temperature', '0'], `${QUESTION}\n/clear\n${QUESTION}\n/exit\n`);
  assert.equal(done.out, `${ANSWER}\n${ANSWER}\n`);
  assert.equal(done.status, 0);
});

test('tokenize and detokenize are each other\'s inverse', () => {
  const ids = JSON.parse(realm(['tokenize', '--json'], 'hello world').out);
  assert.equal(realm(['tokenize'], 'hello world').out, `${ids.join(' ')}\n`);
  assert.equal(realm(['detokenize'], JSON.stringify(ids)).out, 'hello world');
  assert.equal(realm(['detokenize', '--json'], ids.join(' ')).out, '"hello world"\n');
  const batch = JSON.parse(realm(['tokenize', '--batch'], '["hello world", ""]').out);
  assert.deepEqual(batch, [ids, []]);
  assert.deepEqual(JSON.parse(realm(['detokenize', '--batch'], JSON.stringify(batch)).out), ['hello world', '']);
});

test('inspect shows metadata and tensors', () => {
  const found = JSON.parse(realm(['inspect', '--json', DEMO]).out);
  assert(found.metadata && found.tensors.length > 0);
  assert.match(realm(['inspect', DEMO]).out, /general\.architecture/);
});

test('failures are one line with a code, and a status', () => {
  for (const [args, input, status, code] of [
    [['generate', 'x', '-m', '/nowhere.gguf'], '', 1, 'not-found'],
    [['inspect', ROOT], '', 1, 'io'],
    [['detokenize'], 'one two', 1, 'invalid-argument'],
    [['tokenize', '--batch'], '{}', 1, 'invalid-argument'],
    [['generate', 'x', '--temperature=-1'], '', 1, 'invalid-argument'],
    [['generate'], '', 2, 'invalid-argument'],
    [['generate', 'x', '--temperature', 'warm'], '', 2, 'invalid-argument'],
    [['generate', 'x', '--nonsense'], '', 2, 'invalid-argument'],
    [['dance'], '', 2, 'invalid-argument'],
  ]) {
    const done = realm(args, input);
    assert.equal(done.status, status, `${args}: ${done.err}`);
    assert.match(done.err, new RegExp(`^error: [^\\n]* \\[${code}\\]\\n$`), `${args}`);
  }
  assert.equal(realm(['--help']).status, 0);
});
