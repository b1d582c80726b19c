/**
 * The examples for Node and the code of README.md, each started once, as a user has them: copied into an empty folder whose
 * node_modules holds links to the package of this checkout and to what the example depends on.
 *
 * Electron itself is replaced at its border, by a module `electron` that passes messages between the main process module and the
 * page as structured clones; everything else is the example's own code.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import vm from 'node:vm';

import { ANSWER, DEMO, QUESTION, ROOT } from './helpers.mjs';

const desk = mkdtempSync(join(tmpdir(), 'realm-examples-'));
after(() => rmSync(desk, { recursive: true, force: true }));

/** An example in a folder of its own, with its dependencies. */
function copied(name, packages = []) {
  const folder = join(desk, name);
  if (name !== 'readme') cpSync(join(ROOT, 'examples/node', name), folder, { recursive: true });
  link(join(ROOT, 'node'), join(folder, 'node_modules/@realm-ai/sdk'));
  for (const one of packages) link(join(ROOT, 'node/node_modules', one), join(folder, 'node_modules', one));
  return folder;
}

function link(target, place) {
  mkdirSync(dirname(place), { recursive: true });
  symlinkSync(target, place, 'junction');
}

const load = (folder, name) => import(pathToFileURL(join(folder, name)).href);

async function until(condition) {
  const end = performance.now() + 10_000;
  while (!condition()) {
    assert(performance.now() < end, `never: ${condition}`);
    await pause(2);
  }
}

// ---- streaming, README ----

test('the streaming script answers', () => {
  const folder = copied('streaming');
  const done = node(folder, ['streaming.mjs']);
  assert.equal(done.status, 0, done.stderr);
  assert.match(done.stdout, /Paris[^]*France\? The capital of France is Paris\.\n[^]*Tokyo[^]*Lima/);
  const missing = node(folder, ['streaming.mjs', 'missing.gguf']);
  assert.equal(missing.status, 1);
  assert.match(missing.stderr, /^not-found: /);
});

test('the JavaScript of README.md runs as pasted', () => {
  const folder = copied('readme');
  const blocks = [...readFileSync(join(ROOT, 'README.md'), 'utf8').matchAll(/^```js\n(.*?)^```$/gms)];
  assert(blocks.length > 1);
  for (const [, code] of blocks) {
    writeFileSync(join(folder, 'pasted.mjs'), code);
    const done = node(folder, ['--throw-deprecation', 'pasted.mjs']);
    assert.equal(done.status, 0, done.stderr);
    assert.match(done.stdout, /Paris|Tokyo/);
  }
});

function node(folder, words) {
  return spawnSync(process.execPath, words, { cwd: folder, encoding: 'utf8', timeout: 60_000 });
}

// ---- express ----

const express = copied('express', ['express']);
const LONG = { ignoreEnd: true, maxTokens: 400, temperature: 0 };

/** The example's application on a free port, with what it has logged. */
async function served(t, { settings, ...limits } = {}) {
  const { createApp } = await load(express, 'app.mjs');
  const { Customers } = await load(express, 'customers.mjs');
  const customers = new Customers({ model: DEMO, ...limits });
  const logged = [];
  const server = createApp(customers, { settings, log: (entry) => logged.push(entry) }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    customers.close();
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, customers, logged };
}

function post(url, customer, body = { messages: QUESTION, temperature: 0 }, more = {}) {
  const headers = { 'content-type': 'application/json', ...(customer && { 'x-customer-id': customer }) };
  return fetch(url, { method: 'POST', headers, body: typeof body === 'string' ? body : JSON.stringify(body), ...more });
}

test('the server starts from its command, answers, and ends when told to', async () => {
  const environment = { ...process.env, PORT: '0', MODEL: DEMO };
  const server = spawn(process.execPath, ['server.mjs'], { cwd: express, env: environment, stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  server.stdout.setEncoding('utf8').on('data', (text) => (output += text));
  try {
    await until(() => /port \d+/.test(output));
    const response = await post(`http://127.0.0.1:${/port (\d+)/.exec(output)[1]}/chat`, 'acme');
    assert.equal((await response.json()).text, ANSWER);
    await until(() => output.includes('acme ok'));
  } finally {
    server.kill('SIGTERM');
  }
  if (server.exitCode === null) await once(server, 'exit');
  if (process.platform !== 'win32') assert.equal(server.exitCode, 0);
});

test('two customers at once have a realm each and one copy of the model', async (t) => {
  const { url, customers } = await served(t);
  const seen = [];
  const run = customers.run.bind(customers);
  customers.run = (customer, work) => run(customer, (realm) => (seen.push(realm), work(realm)));
  const answers = await Promise.all(['acme', 'globex', 'acme'].map(async (name) => (await post(`${url}/chat`, name)).json()));
  for (const answer of answers) {
    assert.equal(answer.text, ANSWER);
    assert.equal(answer.finishReason, 'end');
  }
  assert.equal(customers.size, 2);
  assert.equal(new Set(seen).size, 2);
  if (process.platform !== 'linux') return; // the system tells how often the file is mapped
  const maps = readFileSync('/proc/self/maps', 'utf8').split('\n').filter((line) => line.endsWith('/realm-demo.gguf'));
  assert.equal(maps.length, 1, maps.join('\n'));
});

test('a stream has the same text in pieces, and its end', async (t) => {
  const { url } = await served(t);
  const response = await post(`${url}/chat/stream`, 'acme');
  assert.match(response.headers.get('content-type'), /^text\/event-stream/);
  const events = [...(await response.text()).matchAll(/^event: (\w+)\ndata: (.*)\n\n/gm)];
  const data = events.map(([, name, json]) => ({ name, ...JSON.parse(json) }));
  assert(data.length > 3);
  assert.equal(data.slice(0, -1).map((one) => one.text).join(''), ANSWER);
  assert.equal(data.at(-1).name, 'end');
  assert.equal(data.at(-1).finishReason, 'end');
});

test('what a client does wrong has a code and a status', async (t) => {
  const { url, logged } = await served(t);
  const long = [{ role: 'user', content: 'capital '.repeat(4000) }];
  for (const [path, customer, body, status, code] of [
    ['/chat', undefined, undefined, 400, 'invalid-argument'],
    ['/chat', '../etc', undefined, 400, 'invalid-argument'],
    ['/chat', 'acme', '{', 400, 'invalid-argument'],
    ['/chat', 'acme', {}, 400, 'invalid-argument'],
    ['/chat', 'acme', { messages: [] }, 400, 'invalid-argument'],
    ['/chat', 'acme', { messages: QUESTION, maxTokens: 1e6 }, 400, 'invalid-argument'],
    ['/chat/stream', 'acme', { messages: QUESTION, temperature: -1 }, 400, 'invalid-argument'],
    ['/chat/stream', 'acme', { messages: long }, 413, 'context-full'],
    ['/chat', 'acme', { messages: ['x'.repeat(300_000)] }, 413, 'limit-exceeded'],
    ['/nowhere', 'acme', {}, 404, 'not-found'],
  ]) {
    const response = await post(url + path, customer, body);
    assert.deepEqual([response.status, (await response.json()).error.code], [status, code], `${path} ${status}`);
  }
  assert(logged.every(({ code }) => code !== 'ok' && code !== 'internal'));
  assert.equal((await post(`${url}/chat`, 'acme')).status, 200);
});

test('a client that hangs up aborts its generation', async (t) => {
  const { url, logged, customers } = await served(t, { settings: LONG });
  const steps = () => customers.run('acme', async (realm) => (await realm.stats()).steps);
  for (const path of ['/chat', '/chat/stream']) {
    const before = await steps();
    const running = request(url + path, { method: 'POST', headers: { 'x-customer-id': 'acme', 'content-type': 'application/json' } });
    running.on('error', () => undefined);
    running.end(JSON.stringify({ messages: QUESTION }));
    if (path === '/chat/stream') await once((await once(running, 'response'))[0], 'data');
    else while ((await steps()) === before) await pause(1);
    running.destroy();
    await until(() => logged.length > 0);
    assert.deepEqual(logged.pop(), { customer: 'acme', code: 'cancelled' });
    for (let last = -1, now; (now = await steps()) !== last; last = now) await pause(100); // until the engine rests
    assert((await steps()) - before < LONG.maxTokens, 'the generation went on to its end'); // each token is a step
  }
});

test('a customer over a limit is told when to come back, and the others are not disturbed', async (t) => {
  const { url } = await served(t, { limits: { concurrentRequests: 1 }, settings: LONG });
  const stop = new AbortController();
  const running = await post(`${url}/chat/stream`, 'acme', undefined, { signal: stop.signal }); // answers with its first text
  assert.equal(running.status, 200);
  const refused = await post(`${url}/chat`, 'acme');
  assert.equal(refused.status, 429);
  assert(Number(refused.headers.get('retry-after')) >= 1);
  const { error } = await refused.json();
  assert.equal(error.code, 'limit-exceeded');
  assert(['concurrentRequests', 'queueLength'].includes(error.limit), error.limit);
  assert.equal((await post(`${url}/chat`, 'globex')).status, 200);
  stop.abort();
});

test('the number of realms is bounded, and idle ones are closed', async (t) => {
  const { url, customers } = await served(t, { most: 1, idleMs: 50 });
  let inside;
  const busy = customers.run('acme', () => new Promise((resolve) => (inside = resolve)));
  await until(() => inside);
  const refused = await post(`${url}/chat`, 'globex');
  assert.deepEqual([refused.status, (await refused.json()).error.code], [429, 'limit-exceeded']);
  inside();
  await busy;
  assert.equal((await post(`${url}/chat`, 'globex')).status, 200); // acme was idle and made room
  assert.equal(customers.size, 1);
  await until(() => customers.size === 0);
});

// ---- electron ----

const FAKE_ELECTRON = `
const { EventEmitter } = require('node:events');
const app = Object.assign(new EventEmitter(), { whenReady: async () => undefined, quit: () => app.emit('will-quit') });
const ipcMain = new EventEmitter();
const ipcRenderer = new EventEmitter();
const contents = Object.assign(new EventEmitter(), {
  id: 1, gone: false, setWindowOpenHandler() {}, isDestroyed: () => contents.gone,
  send: (channel, ...data) => setImmediate(() => ipcRenderer.emit(channel, {}, ...structuredClone(data))),
});
ipcRenderer.send = (channel, ...data) => setImmediate(() => ipcMain.emit(channel, { sender: contents }, ...structuredClone(data)));
class BrowserWindow {
  constructor(options) { BrowserWindow.options = options; this.webContents = contents; }
  async loadFile(file) { BrowserWindow.file = file; }
}
const world = {};
const contextBridge = { exposeInMainWorld: (name, value) => (world[name] = value) };
module.exports = { app, BrowserWindow, contextBridge, contents, ipcMain, ipcRenderer, world };
`;

/** The started example: the page's elements, and its border. */
async function electronApplication(t) {
  const folder = copied('electron');
  mkdirSync(join(folder, 'node_modules/electron'));
  writeFileSync(join(folder, 'node_modules/electron/index.js'), FAKE_ELECTRON);
  const { default: electron } = await load(folder, 'node_modules/electron/index.js');
  t.after(() => electron.app.emit('window-all-closed'));
  await load(folder, 'main.mjs');
  const { webPreferences } = electron.BrowserWindow.options;
  assert(webPreferences.contextIsolation && webPreferences.sandbox && !webPreferences.nodeIntegration);
  await load(folder, 'preload.cjs');
  assert.equal(webPreferences.preload, join(folder, 'preload.cjs'));
  return { electron, page: openPage(electron.BrowserWindow.file, electron.world), folder };
}

/** Runs the page's script on elements that only hold what was set. */
function openPage(file, world) {
  const html = readFileSync(file, 'utf8');
  assert.doesNotMatch(html, /https?:\/\//);
  const elements = {};
  for (const [, id] of html.matchAll(/ id="(\w+)"/g)) {
    const handlers = {};
    elements[id] = { value: '', textContent: '', addEventListener: (name, run) => (handlers[name] = run), handlers };
  }
  const document = { getElementById: (id) => elements[id] ?? assert.fail(`no element ${id}`) };
  const [, script] = /<script src="(\S+)">/.exec(html);
  vm.runInNewContext(readFileSync(join(dirname(file), script), 'utf8'), { document, window: world });
  return elements;
}

function ask(page, text) {
  page.question.value = text;
  page.form.handlers.submit({ preventDefault() {} });
}

test('the Electron application streams answers to its window, aborts, and ends with it', async (t) => {
  const { electron, page, folder } = await electronApplication(t);
  const channels = [];
  for (const name of ['text', 'end', 'error']) electron.ipcRenderer.on(`chat:${name}`, () => channels.push(name));

  ask(page, QUESTION[0].content);
  await until(() => page.stop.disabled);
  assert.match(page.answer.textContent, /Paris/);
  assert(channels.filter((name) => name === 'text').length > 2);
  assert.equal(channels.at(-1), 'end');

  ask(page, 'Tell me about France.');
  page.stop.handlers.click();
  await until(() => page.stop.disabled);
  assert.match(page.answer.textContent, /\[cancelled\]$/);

  const ended = await new Promise((resolve) => electron.world.realm.chat('no list', { onEnd: resolve, onError: resolve }));
  assert.equal(ended.code, 'invalid-argument');

  const { ChatService } = await load(folder, 'chat_service.mjs');
  await closesWithItsWindow(new ChatService({ model: DEMO, settings: LONG }), electron.contents);
});

/** A window that goes away in the middle of an answer: its realm is closed, nothing more is sent. */
async function closesWithItsWindow(service, contents) {
  let start;
  service.listen({ on: (name, run) => name === 'chat:start' && (start = run) });
  const sent = [];
  const { send } = contents;
  contents.send = (channel) => sent.push(channel);
  start({ sender: contents }, 7, QUESTION);
  await until(() => sent.length > 0);
  contents.gone = true;
  contents.emit('destroyed');
  const before = sent.length;
  await pause(50);
  assert.deepEqual(sent.slice(before), []);
  assert(!sent.includes('chat:end'));
  contents.send = send;
}
