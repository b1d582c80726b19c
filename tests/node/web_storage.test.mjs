// The parts of the browser's storage that need no browser: SHA-256, blocks and runs, journals, names of shards, answers of
// servers, and sources over arrays, Blobs and a server in this process.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';

import { build } from '../../node/node_modules/esbuild/lib/main.js';
import { ROOT, rejectsWith, throwsWith } from './helpers.mjs';

const folder = mkdtempSync(join(tmpdir(), 'realm-storage-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** The modules of web/src as this Node can import them. */
async function load(...names) {
  const entryPoints = names.map((name) => `${ROOT}web/src/${name}.ts`);
  await build({ entryPoints, outdir: folder, bundle: true, splitting: true, format: 'esm', outExtension: { '.js': '.mjs' } });
  return Promise.all(names.map((name) => import(pathToFileURL(join(folder, `${name}.mjs`)).href)));
}

const [{ Sha256, sha256 }, { BLOCK, BlockSet, nextRun }, journals, split, { parseContentRange }, { openSource }] = await load(
  'sha256', 'blocks', 'journal', 'split', 'http', 'source',
);

/** Bytes that differ everywhere, with the magic number of a model. */
function modelBytes(size) {
  const words = new Uint32Array(Math.ceil(size / 4));
  for (let i = 0, x = 1; i < words.length; i += 1) words[i] = x = (Math.imul(x, 1664525) + 1013904223) >>> 0;
  const bytes = new Uint8Array(words.buffer, 0, size);
  bytes.set(new TextEncoder().encode('GGUF'));
  return bytes;
}

const equalBytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)) === 0;
const digestOf = (bytes) => createHash('sha256').update(bytes).digest('hex');

async function collect(source, offset = 0, size = source.size - offset) {
  const seen = new Uint8Array(size);
  let count = 0;
  await source.stream(offset, size, (at, bytes) => {
    seen.set(bytes, at - offset);
    count += bytes.length;
  });
  assert.equal(count, size, 'every byte comes once');
  return seen;
}

// ---- SHA-256 ----

test('SHA-256: the examples of FIPS 180-4', () => {
  const text = (value) => new TextEncoder().encode(value);
  assert.equal(sha256(text('')), 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
  assert.equal(sha256(text('abc')), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
  const long = text('abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq');
  assert.equal(sha256(long), '248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1');
  const million = sha256(new Uint8Array(1e6).fill(97));
  assert.equal(million, 'cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0');
});

test('SHA-256 agrees with OpenSSL around block borders, in pieces of any size', () => {
  const bytes = modelBytes(1000);
  for (const size of [0, 1, 3, 54, 55, 56, 57, 63, 64, 65, 119, 120, 127, 128, 129, 1000]) {
    const message = bytes.subarray(0, size);
    assert.equal(sha256(message), digestOf(message), `${size} bytes`);
    for (const piece of [1, 7, 63, 64, 65]) {
      const hash = new Sha256();
      for (let at = 0; at < size; at += piece) hash.update(message.subarray(at, at + piece));
      assert.equal(hash.hex(), digestOf(message), `${size} bytes in pieces of ${piece}`);
    }
  }
});

// ---- blocks ----

test('a set of blocks knows its bytes, and a short last block', () => {
  const set = new BlockSet(10 * BLOCK + 5);
  assert.equal(set.count, 11);
  for (const index of [0, 1, 4, 10, 10, 11, -1]) set.add(index);
  assert.equal(set.bytes, 3 * BLOCK + 5);
  assert.deepEqual(set.runs(), [{ first: 0, count: 2 }, { first: 4, count: 1 }, { first: 10, count: 1 }]);
  assert.equal(set.complete, false);
  for (let index = 0; index < 11; index += 1) set.add(index);
  assert.equal(set.complete, true);
  assert.equal(set.bytes, 10 * BLOCK + 5);
});

test('runs cover every block once, and get short near the end', () => {
  const taken = new Set([3, 4, 70]);
  const runs = [];
  for (let next = 0; next < 100; ) {
    const run = nextRun(next, 100, 4, (index) => !taken.has(index));
    if (run.count === 0) next += 1;
    for (let index = run.first; index < run.first + run.count; index += 1) {
      assert.equal(taken.has(index), false);
      taken.add(index);
    }
    next += run.count;
    runs.push(run.count);
  }
  assert.equal(taken.size, 100);
  assert(Math.max(...runs) <= 13 && runs.at(-1) === 1);
});

// ---- journals ----

const IDENTITY = { key: 'https://host/model.gguf', name: 'model.gguf', size: 5 * BLOCK - 1, validator: '"abc"' };

test('a journal says what is on disk', () => {
  const { headerLine, runLine, digestLine, parseJournal } = journals;
  const text = headerLine(IDENTITY, 7) + runLine(0, 2) + runLine(4, 1) + digestLine('ab'.repeat(32));
  const journal = parseJournal(text);
  assert.deepEqual(journal.identity, IDENTITY);
  assert.equal(journal.created, 7);
  assert.deepEqual(journal.blocks.runs(), [{ first: 0, count: 2 }, { first: 4, count: 1 }]);
  assert.equal(journal.digest, 'ab'.repeat(32));
});

test('a journal torn at any byte never says more than was written', () => {
  const { headerLine, runLine, parseJournal } = journals;
  const header = headerLine(IDENTITY, 7);
  const text = header + runLine(1, 1) + runLine(3, 2);
  for (let end = 0; end <= text.length; end += 1) {
    const journal = parseJournal(text.slice(0, end));
    if (end < header.length) assert.equal(journal, undefined);
    else assert.equal(journal.blocks.complete, false);
    const full = text.slice(0, end).split('\n').length - 2; // whole lines after the header
    if (journal) assert.equal(journal.blocks.runs().length, Math.max(0, full));
  }
});

test('a strange journal is none, or says nothing', () => {
  const { headerLine, parseJournal } = journals;
  for (const text of ['\n', 'null\n', '[]\n', '{"realm":1}\n', '{"realm":2}\n', headerLine({ ...IDENTITY, size: 1e300 }, 0)]) {
    assert.equal(parseJournal(text), undefined, text);
  }
  const strange = headerLine(IDENTITY, 0) + '+999999999 999999999\n+-1 5\nsha256 xyz\n+0\n\n';
  const journal = parseJournal(strange);
  assert.equal(journal.blocks.bytes, 0);
  assert.equal(journal.digest, undefined);
});

// ---- shards ----

test('the address of one shard gives all, with its query', () => {
  const urls = split.shardUrls(new URL('https://h/dir/m-00002-of-00003.gguf?sig=1'));
  assert.deepEqual(urls.map(String), [1, 2, 3].map((at) => `https://h/dir/m-0000${at}-of-00003.gguf?sig=1`));
  for (const name of ['m.gguf', 'm-00000-of-00002.gguf', 'm-00003-of-00002.gguf', 'm-1-of-2.gguf', 'm-00001-of-00002.bin']) {
    assert.equal(split.shardUrls(new URL(`https://h/${name}`)).length, 1, name);
  }
  throwsWith(() => split.shardUrls(new URL('https://h/m-00001-of-99999.gguf')), 'invalid-argument');
});

test('chosen shards are put in order, and missing or foreign ones named', () => {
  const order = (...names) => split.orderShards(names, (name) => name);
  assert.deepEqual(order('a-00002-of-00002.gguf', 'a-00001-of-00002.gguf'), ['a-00001-of-00002.gguf', 'a-00002-of-00002.gguf']);
  assert.deepEqual(order('single.gguf'), ['single.gguf']);
  throwsWith(() => order('a-00001-of-00002.gguf'), 'not-found');
  throwsWith(() => order('a-00001-of-00002.gguf', 'b-00002-of-00002.gguf'), 'invalid-argument');
  throwsWith(() => order('a-00001-of-00002.gguf', 'a-00001-of-00002.gguf'), 'invalid-argument');
  throwsWith(() => order('a.gguf', 'b.gguf'), 'invalid-argument');
});

// ---- answers of servers ----

test('a Content-Range is exact or nothing', () => {
  assert.deepEqual(parseContentRange('bytes 0-9/100'), { start: 0, end: 10, size: 100 });
  assert.deepEqual(parseContentRange('bytes 5-5/*'), { start: 5, end: 6, size: undefined });
  for (const text of ['', 'bytes */100', 'bytes 9-0/100', 'bytes 0-100/100', 'bytes -1-5/9', 'bytes 0-9/9999999999999999', 'items 0-1/2']) {
    const range = parseContentRange(text);
    assert(range === undefined || range.size === undefined, text);
  }
});

// ---- sources without a browser ----

test('arrays and Blobs are read and streamed where they are', async () => {
  const bytes = modelBytes(9 * BLOCK + 123);
  for (const input of [bytes, bytes.buffer.slice(0, bytes.length), new Blob([bytes]), new File([bytes], 'm.gguf')]) {
    const [source] = await openSource(input);
    assert.equal(source.size, bytes.length);
    assert(equalBytes(await source.read(BLOCK - 7, 5 * BLOCK), bytes.subarray(BLOCK - 7, 6 * BLOCK - 7)));
    assert(equalBytes(await collect(source), bytes));
    await rejectsWith(source.read(bytes.length - 1, 2), 'io');
    await rejectsWith(source.read(-1, 2), 'invalid-argument');
    source.close();
    source.close();
    await rejectsWith(source.read(0, 1), 'closed');
  }
});

test('what is no model is refused at once', async () => {
  await rejectsWith(openSource(new Uint8Array(0)), 'invalid-gguf');
  await rejectsWith(openSource(new TextEncoder().encode('<!DOCTYPE html><p>')), 'invalid-gguf');
  for (const input of [null, 5, {}, 'ftp://host/m.gguf', 'not an address', []]) await rejectsWith(openSource(input), 'invalid-argument');
  await rejectsWith(openSource(modelBytes(10), { sha256: 'abc' }), 'invalid-argument');
  await rejectsWith(openSource(modelBytes(10), { connections: 0 }), 'invalid-argument');
  await rejectsWith(openSource(modelBytes(10), { cache: 'maybe' }), 'invalid-argument');
  await rejectsWith(openSource(modelBytes(10), { cache: 'always' }), 'invalid-argument');
});

test('a digest covers the whole file, whatever is streamed of it', async () => {
  const bytes = modelBytes(17 * BLOCK);
  const [good] = await openSource(new Blob([bytes]), { sha256: digestOf(bytes).toUpperCase() });
  assert(equalBytes(await collect(good, 100), bytes.subarray(100)));
  const damaged = bytes.slice();
  damaged[16 * BLOCK] ^= 1;
  const [bad] = await openSource(new Blob([damaged]), { sha256: digestOf(bytes) });
  await bad.read(0, 1000);
  await rejectsWith(collect(bad, 100, 5000), 'io');
});

test('a small file, which may have no weights, is checked before it is read', async () => {
  const bytes = modelBytes(5000);
  const [good] = await openSource(bytes, { sha256: digestOf(bytes) });
  assert(equalBytes(await good.read(10, 20), bytes.subarray(10, 30)));
  const [bad] = await openSource(bytes, { sha256: '0'.repeat(64) });
  await rejectsWith(bad.read(0, 10), 'io');
});

test('an abort and a close end a stream, and nothing comes afterwards', async () => {
  const bytes = modelBytes(40 * BLOCK);
  for (const [end, code] of [['abort', 'cancelled'], ['close', 'closed']]) {
    const [source] = await openSource(new Blob([bytes]));
    const controller = new AbortController();
    let late = 0;
    let ended = false;
    const stream = source.stream(0, bytes.length, () => {
      if (ended) late += 1;
      if (end === 'abort') controller.abort();
      else source.close();
    }, controller.signal);
    await rejectsWith(stream, code);
    ended = true;
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(late, 0);
  }
  await rejectsWith(openSource(bytes, { signal: AbortSignal.abort() }), 'cancelled');
});

test('an error of the caller comes out as it is', async () => {
  const [source] = await openSource(new Blob([modelBytes(3 * BLOCK)]));
  await assert.rejects(source.stream(0, 10, () => { throw new RangeError('mine'); }), RangeError);
});

// ---- a server in this process ----

const content = modelBytes(20 * BLOCK + 777);
let ranged = true;
const asked = [];
const server = createServer((request, response) => {
  const match = ranged && /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const start = match ? Number(match[1]) : 0;
  const end = match && match[2] ? Math.min(Number(match[2]) + 1, content.length) : content.length;
  asked.push([start, end]);
  const headers = { 'Content-Length': end - start, ETag: '"1"' };
  if (match) headers['Content-Range'] = `bytes ${start}-${end - 1}/${content.length}`;
  response.writeHead(match ? 206 : 200, headers);
  response.end(content.subarray(start, end));
});
before(() => new Promise((resolve) => server.listen(0, '127.0.0.1', resolve)));
after(() => {
  server.close();
  server.closeAllConnections();
});
const address = () => `http://127.0.0.1:${server.address().port}/model.gguf`;

for (const mode of [true, false]) {
  test(`a download ${mode ? 'in ranges' : 'without ranges'}: header first, then every byte`, async () => {
    ranged = mode;
    const [source] = await openSource(address());
    assert.equal(source.name, 'model.gguf');
    assert(equalBytes(await source.read(0, 1000), content.subarray(0, 1000)));
    assert(equalBytes(await source.read(1000, 2 * BLOCK), content.subarray(1000, 1000 + 2 * BLOCK)));
    asked.length = 0;
    assert(equalBytes(await collect(source, 1000), content.subarray(1000)));
    if (mode) {
      assert(asked.length >= 4, 'several requests');
      assert.equal(Math.min(...asked.map(([start]) => start)), 3 * BLOCK, 'the header is not fetched twice');
    } else assert.equal(asked.length, 0, 'one request');
    source.close();
  });
}

test('two callers of one address at the same time share its download', async () => {
  ranged = true;
  asked.length = 0;
  const [[first], [second]] = await Promise.all([openSource(address()), openSource(address())]);
  const both = await Promise.all([collect(first), collect(second)]);
  for (const bytes of both) assert(equalBytes(bytes, content));
  const fetched = asked.reduce((sum, [start, end]) => sum + end - start, 0);
  assert(fetched < 1.5 * content.length, `${fetched} bytes for a file of ${content.length}`);
  first.close();
  assert(equalBytes(await collect(second, 0, 10), content.subarray(0, 10)));
  second.close();
});

test('without a cache a digest is checked in the same pass', async () => {
  ranged = true;
  const [source] = await openSource(address(), { sha256: digestOf(content) });
  asked.length = 0;
  assert(equalBytes(await collect(source, 5 * BLOCK), content.subarray(5 * BLOCK)));
  const fetched = asked.reduce((sum, [start, end]) => sum + end - start, 0);
  assert(fetched <= content.length);
  source.close();
});
