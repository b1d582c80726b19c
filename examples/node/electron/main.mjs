// The main process: one window, and the chat service behind it.

import { fileURLToPath } from 'node:url';

import { app, BrowserWindow, ipcMain } from 'electron';

import { ChatService } from './chat_service.mjs';

const file = (name) => fileURLToPath(new URL(name, import.meta.url));
const model = process.argv.find((argument) => argument.endsWith('.gguf'));

const service = new ChatService({ model });
service.listen(ipcMain);
app.on('window-all-closed', () => app.quit());
app.on('will-quit', () => service.close());

await app.whenReady();
const window = new BrowserWindow({
  width: 720,
  height: 560,
  webPreferences: { preload: file('preload.cjs'), contextIsolation: true, sandbox: true, nodeIntegration: false },
});
window.webContents.setWindowOpenHandler(() => ({ action: 'deny' }));
window.webContents.on('will-navigate', (event) => event.preventDefault());
await window.loadFile(file('index.html'));
