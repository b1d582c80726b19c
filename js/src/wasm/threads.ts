// Compute threads of core.wasm: workers that share its memory. Each takes a seat in the core (platform_wasm.c) before an engine is
// made, and waits there for tasks inside WebAssembly: it hears no message any more and ends by terminate.

import type { Exports } from './core.js';

/** What a worker needs to take its seat: its own stack and thread-local block in the shared memory. */
export interface ThreadStart {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  seat: number;
  stack: number;
  tls: number;
}

export interface Thread {
  terminate(): unknown;
}

/** Starts a worker that runs THREAD_CODE with this start; `failed` is called when it cannot, or ended by itself. */
export type SpawnThread = (start: ThreadStart, failed: () => void) => Thread;

/** The worker's whole program, as text, so that no file has to be found. Defines `serve`. */
export const THREAD_CODE = `
const serve = ({ module, memory, seat, stack, tls }) => {
  const imports = { env: { memory }, realm: { now_ms: () => performance.now() } };
  const { exports } = new WebAssembly.Instance(module, imports);
  exports.__stack_pointer.value = stack;
  exports.__wasm_init_tls(tls);
  exports.realm_wasm_seat_serve(seat);
};
`;

const PATIENCE_MS = 10_000; // until a worker that does not come is given up
const LOOK_MS = 2;

/** Threads in Web Workers. A page whose policy forbids workers from blobs has none. */
export const spawnWebThread: SpawnThread = (start, failed) => {
  const code = new Blob([THREAD_CODE, 'onmessage = ({ data }) => serve(data);'], { type: 'text/javascript' });
  const address = URL.createObjectURL(code);
  const worker = new Worker(address, { name: 'realm-compute' });
  worker.onerror = failed;
  worker.postMessage(start);
  setTimeout(() => URL.revokeObjectURL(address), PATIENCE_MS);
  return worker;
};

/** The workers of one core. */
export class Threads {
  readonly #seats = new Map<number, Thread>();

  constructor(private readonly exports: Exports) {}

  /** Starts up to `count` threads and waits until they sit; those that fail are left out. */
  async start(module: WebAssembly.Module, memory: WebAssembly.Memory, count: number, spawn: SpawnThread): Promise<void> {
    await Promise.all(Array.from({ length: count }, () => this.#startOne(module, memory, spawn)));
  }

  /** How many wait for an engine. */
  get free(): number {
    return [...this.#seats.keys()].filter((seat) => this.exports.realm_wasm_seat_ready!(seat) === 1).length;
  }

  /** Ends all of them; no engine may use them any more. */
  stop(): void {
    for (const [seat, thread] of this.#seats) this.#leave(seat, thread);
    this.#seats.clear();
  }

  async #startOne(module: WebAssembly.Module, memory: WebAssembly.Memory, spawn: SpawnThread): Promise<void> {
    const seat = this.exports.realm_wasm_seat_create!() >>> 0;
    if (seat === 0) return;
    const stack = this.exports.realm_wasm_seat_stack!(seat) >>> 0;
    const tls = this.exports.realm_wasm_seat_tls!(seat) >>> 0;
    let failed = false;
    try {
      const thread = spawn({ module, memory, seat, stack, tls }, () => (failed = true));
      if (await this.#sits(seat, () => failed)) this.#seats.set(seat, thread);
      else this.#leave(seat, thread);
    } catch {
      this.exports.realm_wasm_seat_leave!(seat); // no worker here: one thread less
    }
  }

  async #sits(seat: number, failed: () => boolean): Promise<boolean> {
    for (const end = performance.now() + PATIENCE_MS; performance.now() < end && !failed(); ) {
      if (this.exports.realm_wasm_seat_ready!(seat) === 1) return true;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    return false;
  }

  #leave(seat: number, thread: Thread): void {
    this.exports.realm_wasm_seat_leave!(seat);
    void thread.terminate();
  }
}
