// The page's end of the engine worker.

import { RealmError } from '../../js/src/errors.js';
import type { Channel } from '../../js/src/remote_messages.js';

export class PageChannel implements Channel {
  readonly #worker: Worker;
  #receive: (message: unknown) => void = () => undefined;
  #died: (problem: RealmError) => void = () => undefined;

  constructor(private readonly script: string) {
    this.#worker = startWorker(script);
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault(); // whoever waits is told
      this.#died(death(event, this.script));
    };
  }

  send(message: unknown, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  listen(receive: (message: unknown) => void, died: (problem: RealmError) => void): void {
    this.#receive = receive;
    this.#died = died;
  }

  close(): void {
    this.#receive = () => undefined;
    this.#died = () => undefined;
    this.#worker.terminate();
  }
}

/** A page may not start a worker from another origin, but a script of its own may run one. */
function startWorker(script: string): Worker {
  const name = 'realm-engine';
  if (new URL(script, location.href).origin === location.origin) return new Worker(script, { name });
  const own = new Blob([`importScripts(${JSON.stringify(script)});`], { type: 'text/javascript' });
  return new Worker(URL.createObjectURL(own), { name }); // the address stays: the worker starts others from it
}

function death(event: ErrorEvent, script: string): RealmError {
  if (event.message) return new RealmError('internal', `the engine worker has failed: ${event.message}`);
  const reason = 'is the file there, and do the page\'s security policies (CSP, COEP) allow it?';
  return new RealmError('backend-unavailable', `the engine worker ${script} cannot be started: ${reason}`);
}
