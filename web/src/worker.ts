// The engine worker of a page: everything heavy happens here.

import { serve } from '../../js/src/remote_server.js';
import type { Channel } from '../../js/src/remote_messages.js';
import { openEngine, type WebEngineOptions } from './engine.js';

interface Scope {
  onmessage: ((event: MessageEvent) => void) | null;
  postMessage(message: unknown, transfer: Transferable[]): void;
  close(): void;
}

const scope = globalThis as unknown as Scope;
const channel: Channel = {
  send: (message, transfer = []) => scope.postMessage(message, transfer),
  listen: (receive) => (scope.onmessage = ({ data }) => receive(data)),
  close: () => scope.close(),
};
serve(channel, (options) => openEngine(options as WebEngineOptions));
