// The command of the Node host: results, errors with their code, exit statuses.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { Realm } from '../../node/dist/index.mjs';
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

test('logits writes what the library computes', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'realm-logits-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const done = realm(['logits', '--ids', '1,20,3', '--out', join(folder, 'out.npy'), '-m', DEMO, '-t', '1']);
  assert.equal(done.status, 0, done.err);
  const written = readFileSync(join(folder, 'out.npy'));
  assert.equal(written.subarray(0, 8).toString('latin1'), '\x93NUMPY\x01\x00');
  const begin = 10 + written.readUInt16LE(8);
  assert.equal(begin % 64, 0);
  const header = written.subarray(10, begin).toString();
  const own = new Realm({ threads: 1 });
  t.after(() => own.dispose());
  await own.loadModel(DEMO);
  const rows = await own.logits([1, 20, 3]);
  assert.match(header, new RegExp(`'descr': '<f4'.*'shape': \\(3, ${rows[0].length}\\)`));
  const values = new Float32Array(written.buffer.slice(written.byteOffset + begin, written.byteOffset + written.length));
  assert.deepEqual(values, Float32Array.from(rows.flatMap((row) => [...row])));
});

test('bench reports what the Python command reports', () => {
  const found = JSON.parse(realm(['bench', '-p', '16', '-n', '4', '-r', '2', '-t', '1', '--json', '-m', DEMO]).out);
  const keys = readFileSync(`${ROOT}host_python/realm/_bench.py`, 'utf8').matchAll(/^ {12}"(\w+)":/gm);
  assert.deepEqual(Object.keys(found), Array.from(keys, ([, name]) => name));
  assert.equal(found.threads, 1);
  for (const name of ['prompt_tokens_per_second', 'generation_tokens_per_second', 'first_token_seconds']) {
    assert(found[name].min > 0 && found[name].min <= found[name].median && found[name].median <= found[name].max, name);
  }
  assert(found.weight_bytes_per_token > 0 && found.bandwidth_share > 0 && found.peak_resident_bytes > 1e6);
  assert.match(realm(['bench', '-p', '4', '-n', '2', '-r', '1']).out, /^load_seconds +[\d.]+$/m);
});

test('failures are one line with a code, and a status', () => {
  for (const [args, input, status, code] of [
    [['generate', 'x', '-m', '/nowhere.gguf'], '', 1, 'not-found'],
    [['inspect', ROOT], '', 1, 'io'],
    [['detokenize'], 'one two', 1, 'invalid-argument'],
    [['tokenize', '--batch'], '{}', 1, 'invalid-argument'],
    [['generate', 'x', '--temperature=-1'], '', 1, 'invalid-argument'],
    [['bench', '-p', '0'], '', 1, 'invalid-argument'],
    [['bench', '-p', '500', '-n', '100000'], '', 1, 'context-full'],
    [['logits', '--ids', '1,x', '--out', '/nowhere'], '', 1, 'invalid-argument'],
    [['logits', '--ids', '1', '--out', '/nowhere/out.npy'], '', 1, 'io'],
    [['logits', '--ids', '1'], '', 2, 'invalid-argument'],
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
