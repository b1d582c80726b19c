// All that the page sees of the main process: `realm.chat` and the `abort` of what it returns. (A sandboxed preload is CommonJS.)

const { contextBridge, ipcRenderer } = require('electron');

const listeners = new Map(); // id -> { onText, onEnd, onError }
let last = 0;

/** Calls onText(piece) as text comes, then onEnd(result) or onError({code, message}) once. */
function chat(messages, { onText, onEnd, onError }) {
  const id = ++last;
  listeners.set(id, { onText, onEnd, onError });
  ipcRenderer.send('chat:start', id, messages);
  return { abort: () => ipcRenderer.send('chat:abort', id) };
}

function finish(id, name, data) {
  const listener = listeners.get(id);
  listeners.delete(id);
  listener?.[name]?.(data);
}

ipcRenderer.on('chat:text', (event, id, piece) => listeners.get(id)?.onText?.(piece));
ipcRenderer.on('chat:end', (event, id, result) => finish(id, 'onEnd', result));
ipcRenderer.on('chat:error', (event, id, problem) => finish(id, 'onError', problem));
contextBridge.exposeInMainWorld('realm', { chat });
