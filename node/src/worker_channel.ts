// Both ends of a worker thread. The thread alone does not keep the process alive.

import type { MessagePort, Worker } from 'node:worker_threads';

import { RealmError } from '../../js/src/errors.js';
import type { Channel } from '../../js/src/remote_messages.js';

export class WorkerChannel implements Channel {
  #receive: (message: unknown) => void = () => undefined;
  #died: (problem: RealmError) => void = () => undefined;
  #problem: RealmError | undefined;
  #closed = false;

  constructor(private readonly worker: Worker) {
    worker.on('message', (message) => this.#receive(message));
    worker.on('error', (problem) => this.#end(death(problem)));
    worker.on('exit', () => this.#end(new RealmError('internal', 'the worker thread has ended')));
    worker.unref(); // after the listeners, which count as a use
  }

  send(message: unknown, transfer: Transferable[] = []): void {
    this.worker.postMessage(message, transfer as ArrayBuffer[]);
  }

  listen(receive: (message: unknown) => void, died: (problem: RealmError) => void): void {
    this.#receive = receive;
    this.#died = died;
    if (this.#problem) queueMicrotask(() => died(this.#problem!));
  }

  /** Whether the process must not end before the thread has answered. */
  hold(wanted: boolean): void {
    if (wanted) this.worker.ref();
    else this.worker.unref();
  }

  close(): void {
    this.#closed = true;
    this.#receive = () => undefined;
    void this.worker.terminate();
  }

  #end(problem: RealmError): void {
    if (this.#closed || this.#problem) return;
    this.#problem = problem;
    this.#died(problem);
  }
}

function death(problem: Error): RealmError {
  if ((problem as NodeJS.ErrnoException).code === 'ERR_WORKER_OUT_OF_MEMORY') {
    return new RealmError('guest-memory', 'the guest used more memory than its worker thread may have');
  }
  return new RealmError('internal', `the worker thread has ended: ${problem.message}`, { cause: problem });
}

/** The thread's own end. */
export function portChannel(port: MessagePort): Channel {
  return {
    send: (message, transfer = []) => port.postMessage(message, transfer as ArrayBuffer[]),
    listen: (receive) => void port.on('message', receive),
    close: () => port.close(),
  };
}
