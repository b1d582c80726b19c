// Answers windows over IPC. Each window has a realm of its own; all share one copy of the model.
//
//   chat:start (id, messages) -> chat:text (id, piece) ..., then chat:end (id, {finishReason, usage}) or chat:error (id, {code, message})
//   chat:abort (id)           -> chat:error with the code `cancelled`
//
// The window chooses the id, a number it has not in use. Inference runs on the engine's own threads, never in the main process' loop.

import { Realm, RealmError } from '@realm-ai/sdk';

const SETTINGS = { maxTokens: 512 };

export class ChatService {
  #windows = new Map(); // id of the web contents -> { realm, ready, running: id -> AbortController }

  /** `model`: path of a GGUF file; undefined: the demo model. `settings` hold for every answer. */
  constructor({ model, settings = {} } = {}) {
    this.model = model;
    this.settings = { ...SETTINGS, ...settings };
  }

  listen(ipcMain) {
    ipcMain.on('chat:start', (event, id, messages) => void this.#answer(event.sender, id, messages));
    ipcMain.on('chat:abort', (event, id) => this.#windows.get(event.sender.id)?.running.get(id)?.abort());
  }

  /** Ends what runs. */
  close() {
    for (const key of [...this.#windows.keys()]) this.#closeWindow(key);
  }

  async #answer(sender, id, messages) {
    const send = (channel, data) => sender.isDestroyed() || sender.send(channel, id, data);
    const stop = new AbortController();
    let running;
    try {
      const window = this.#window(sender);
      if (window.running.has(id)) throw new RealmError('busy', `the request ${id} is running already`);
      running = window.running.set(id, stop);
      await window.ready;
      const stream = window.realm.chatStream(messages, { ...this.settings, signal: stop.signal });
      for await (const piece of stream) send('chat:text', piece);
      const { finishReason, usage } = await stream.result;
      send('chat:end', { finishReason, usage });
    } catch (problem) {
      if (!(problem instanceof RealmError)) console.error(problem);
      send('chat:error', { code: problem.code ?? 'internal', message: problem.message });
    } finally {
      running?.delete(id);
    }
  }

  #window(sender) {
    let window = this.#windows.get(sender.id);
    if (!window) {
      const realm = new Realm();
      const ready = this.model ? realm.loadModel(this.model) : Promise.resolve();
      ready.catch(() => undefined); // each request tells of it
      window = { realm, ready, running: new Map() };
      this.#windows.set(sender.id, window);
      sender.once('destroyed', () => this.#closeWindow(sender.id));
    }
    return window;
  }

  #closeWindow(key) {
    const window = this.#windows.get(key);
    this.#windows.delete(key);
    window?.realm.dispose();
  }
}
