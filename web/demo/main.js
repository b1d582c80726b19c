// The demo page. Everything it asks of the SDK stands in this file; chat.js, models.js, plot.js and settings.js only show
// things. `page` is the whole state: the realm, the promise of its model, and what can be stopped.

import { Realm } from './realm/realm.mjs';
import { Conversation } from './chat.js';
import { KeptModels, ModelCard, bytes } from './models.js';
import { SpeedPlot } from './plot.js';
import { EngineForm, SettingsForm } from './settings.js';

const $ = (id) => document.getElementById(id);
const DEMO = { label: 'Demo model', input: undefined };

const chat = new Conversation($('messages'), $('scroll'), $('spoken'));
const card = new ModelCard($('model-card'));
const plot = new SpeedPlot($('plot'), $('rate'));
const settings = new SettingsForm($('settings'));
const engine = new EngineForm($('engine'), $('missing'));
const kept = new KeptModels($('cache'), (model) => open({ label: model.name, input: model.key }));

const page = { realm: undefined, model: undefined, source: DEMO, loading: undefined, running: undefined };

// ---- the engine and its model ----

/** A realm on the chosen backend, with the model that was in use. */
function restart() {
  page.running?.abort();
  page.loading?.abort();
  page.realm?.dispose(); // closes its model
  page.model = undefined;
  page.realm = new Realm(engine.options());
  return open(page.source);
}

/** Loads a model in place of the one in use. `page.model` is a promise, so a question may already be asked. */
function open(source) {
  page.running?.abort();
  page.loading?.abort();
  const loading = (page.loading = new AbortController());
  const previous = page.model;
  page.source = source;
  page.model = load(page.realm, source, loading, previous);
  page.model.catch(() => undefined); // shown by the card, and to whoever asks
  return page.model;
}

async function load(realm, source, loading, previous) {
  status('busy', `Loading ${source.label}…`);
  card.loading(source.label, () => loading.abort());
  try {
    const old = await previous?.catch(() => undefined);
    if (old && !old.closed) realm.unloadModel(old); // first, so that memory never holds two
    const onProgress = (done) => loading.signal.aborted || card.progress(done);
    const model = await realm.loadModel(source.input, { onProgress, signal: loading.signal });
    await show(realm, model, source);
    return model;
  } catch (problem) {
    if (loading !== page.loading) throw problem; // another model is wanted by now
    if (loading.signal.aborted) card.stopped(() => open(source));
    else card.failed(problem, () => open(source));
    status('failed', loading.signal.aborted ? 'Loading was cancelled' : 'No model');
    throw problem;
  }
}

async function show(realm, model, source) {
  card.ready(source.label, model);
  const stats = await realm.stats();
  status('ready', `Ready on ${engine.describe(stats)}`);
  $('weight-bytes').textContent = bytes(model.info.weightBytes);
  showMemory(stats);
  kept.refresh();
}

// ---- a question and its answer ----

async function ask(question) {
  const running = (page.running = new AbortController());
  const answer = chat.ask(question);
  answering(true);
  try {
    const model = await page.model;
    const options = { ...settings.sampling(), model, signal: running.signal };
    const stream = model.chatTemplate
      ? page.realm.chatStream(chat.messages(settings.system()), options)
      : page.realm.streamTokens(question, options);
    plot.begin();
    for await (const piece of stream) {
      answer.add(piece);
      plot.token();
    }
    finish(answer, await stream.result);
  } catch (problem) {
    if (running.signal.aborted) answer.stopped();
    else answer.failed(problem);
  } finally {
    plot.end();
    if (page.running === running) answering(false);
  }
}

function finish(answer, result) {
  const { firstTokenSeconds, tokensPerSecond } = result.timings;
  answer.end(result.finishReason);
  plot.end(tokensPerSecond);
  $('first-token').textContent = `${Math.round(firstTokenSeconds * 1000)} ms`;
  $('token-count').textContent = `${result.usage.promptTokens} in, ${result.usage.completionTokens} out`;
  page.realm.stats().then(showMemory, () => undefined);
}

/** Swaps Send and Stop; whoever stood on the button that goes is taken to what comes. */
function answering(on) {
  const focused = document.activeElement;
  $('send').hidden = on;
  $('stop').hidden = !on;
  if (on && focused === $('send')) $('stop').focus();
  if (!on && focused === $('stop')) $('prompt').focus();
  if (!on) page.running = undefined;
  $('empty').hidden = chat.started;
  $('new-chat').disabled = !chat.started;
}

// ---- what the page says ----

function status(state, text) {
  $('status').dataset.state = state;
  $('status').textContent = text;
}

/** Of the engine: what its WebAssembly holds, and its buffers on the GPU. */
function showMemory({ memoryBytes, deviceBytes }) {
  $('memory').textContent = deviceBytes ? `${bytes(memoryBytes)} + ${bytes(deviceBytes)} GPU` : bytes(memoryBytes);
}

// ---- events ----

function listen() {
  for (const early of document.querySelectorAll('#suggestions button, #send')) early.disabled = false;
  $('ask').addEventListener('submit', (event) => {
    event.preventDefault();
    submit($('prompt').value);
  });
  $('prompt').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit($('prompt').value);
  });
  $('suggestions').addEventListener('click', (event) => {
    if (event.target.localName !== 'button') return;
    $('prompt').focus();
    submit(event.target.textContent);
  });
  $('stop').addEventListener('click', () => page.running?.abort());
  document.addEventListener('keydown', (event) => event.key === 'Escape' && page.running?.abort());
  $('new-chat').addEventListener('click', () => {
    page.running?.abort();
    chat.clear();
    answering(false);
    $('prompt').focus();
  });
  engine.form.addEventListener('change', restart);
  listenForModels();
}

function submit(text) {
  if (page.running || text.trim() === '') return;
  $('prompt').value = '';
  ask(text.trim());
}

function listenForModels() {
  $('use-demo').addEventListener('click', () => open(DEMO));
  $('file').addEventListener('change', () => openFiles($('file').files));
  $('open-url').addEventListener('submit', (event) => {
    event.preventDefault();
    openAddress($('url').value.trim());
  });
  let depth = 0; // enter and leave come for every element on the way
  const veil = (change) => ($('drop-veil').hidden = (depth = Math.max(0, depth + change)) === 0);
  addEventListener('dragenter', (event) => (event.preventDefault(), veil(1)));
  addEventListener('dragleave', () => veil(-1));
  addEventListener('dragover', (event) => event.preventDefault());
  addEventListener('drop', (event) => {
    event.preventDefault();
    veil(-depth);
    openFiles(event.dataTransfer.files);
  });
}

/** One file, or the parts of a split model, which are read where they are. */
function openFiles(files) {
  const parts = [...files].sort((a, b) => a.name.localeCompare(b.name));
  if (parts.length > 0) open({ label: parts[0].name, input: parts.length === 1 ? parts[0] : parts });
  $('file').value = ''; // so that choosing the same file again is a change
}

function openAddress(text) {
  const address = URL.canParse(text, location.href) ? new URL(text, location.href) : undefined;
  if (text === '' || !/^https?:$/.test(address?.protocol)) {
    card.failed(new Error('Give the address of a GGUF file, beginning with https://'));
    $('url').focus();
    return;
  }
  open({ label: decodeURIComponent(address.pathname.split('/').pop()) || address.host, input: address.href });
}

// ---- start ----

function start() {
  listen();
  navigator.serviceWorker?.register('sw.js').catch((problem) => console.warn('no offline use:', problem.message));
  const probed = engine.probe();
  page.model = engine.options().backend === 'webgpu' ? probed.then(restart) : restart(); // it may not be there any more
  page.model.catch(() => undefined);
}

// The engine's threads would take the processor from the page's first layout, so that comes first. A hidden page has no frames.
if (document.hidden) setTimeout(start);
else requestAnimationFrame(() => setTimeout(start));
