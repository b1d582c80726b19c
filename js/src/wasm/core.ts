// The core's C functions in one WebAssembly instance, and the memory they take arguments from.
//
// Everything a call needs is put into an arena that begins anew with each call: put, then call, then read. A view of the memory is
// only good until the next call, because memory may grow in it.

import { INITIAL_PAGES, MAXIMUM_PAGES, readCoreError, REALM_ERROR_SIZE } from '../_generated/core.js';
import type { CoreExports, SeatExports } from '../_generated/core.js';
import { RealmError } from '../errors.js';
import { codeOf } from '../host_results.js';

const ARENA_BYTES = 65536;
const ALIGN = 16;

export type Exports = CoreExports & Partial<SeatExports> & { _initialize(): void };

/** What a module of the core imports. Shared memory comes from the host, other memory from the module. */
export function coreImports(memory: WebAssembly.Memory | undefined): WebAssembly.Imports {
  const clock = { realm: { now_ms: () => performance.now() } };
  return memory ? { ...clock, env: { memory } } : clock;
}

/** The largest shared memory this machine gives: a whole reservation of 4 GiB is refused on small ones. */
export function sharedMemory(): WebAssembly.Memory {
  for (let maximum = MAXIMUM_PAGES; ; maximum = Math.floor(maximum / 2)) {
    try {
      return new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum, shared: true });
    } catch (problem) {
      if (maximum < 4096) throw new RealmError('out-of-memory', 'no shared memory can be had here', { cause: problem });
    }
  }
}

export class Core {
  readonly exports: Exports;
  readonly memory: WebAssembly.Memory;
  /** A realm_error, and room for a result of up to 16 bytes. */
  readonly error: number;
  readonly out: number;
  readonly #arena: number;
  readonly #extra: number[] = []; // blocks of this call beside the arena
  #used = 0;
  #buffer: ArrayBufferLike | undefined;
  #view = new DataView(new ArrayBuffer(0));
  #bytes = new Uint8Array(0);

  constructor(instance: WebAssembly.Instance, memory?: WebAssembly.Memory) {
    this.exports = instance.exports as unknown as Exports;
    this.memory = memory ?? (instance.exports['memory'] as WebAssembly.Memory);
    this.exports._initialize();
    this.#arena = this.#allocate(ARENA_BYTES + REALM_ERROR_SIZE + 2 * ALIGN);
    this.out = this.#arena + ARENA_BYTES;
    this.error = this.out + ALIGN;
  }

  // ---- memory ----

  get view(): DataView {
    this.#refresh();
    return this.#view;
  }

  get bytes(): Uint8Array {
    this.#refresh();
    return this.#bytes;
  }

  #refresh(): void {
    if (this.memory.buffer === this.#buffer) return;
    this.#buffer = this.memory.buffer;
    this.#view = new DataView(this.#buffer);
    this.#bytes = new Uint8Array(this.#buffer);
  }

  /** A copy of words, floats or bytes in the memory. */
  copyWords(address: number, count: number): Uint32Array {
    return new Uint32Array(this.memory.buffer, address, count).slice();
  }

  copyFloats(address: number, count: number): Float32Array {
    return new Float32Array(this.memory.buffer, address, count).slice();
  }

  copyBytes(address: number, size: number): Uint8Array {
    return this.bytes.slice(address, address + size);
  }

  /** The first word of the results. */
  get result(): number {
    return this.view.getUint32(this.out, true);
  }

  // ---- arguments ----

  /** Begins a call: everything put for the one before is gone. */
  begin(): this {
    this.#used = 0;
    while (this.#extra.length > 0) this.exports.realm_wasm_free(this.#extra.pop()!);
    return this;
  }

  /** Room for this call, zeroed. */
  room(size: number): number {
    const rounded = Math.ceil(size / ALIGN) * ALIGN;
    let address: number;
    if (this.#used + rounded <= ARENA_BYTES) {
      address = this.#arena + this.#used;
      this.#used += rounded;
    } else {
      address = this.#allocate(rounded);
      this.#extra.push(address);
    }
    this.bytes.fill(0, address, address + size);
    return address;
  }

  put(data: ArrayBufferView): number {
    const address = this.room(data.byteLength);
    this.bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), address);
    return address;
  }

  /** A NUL-terminated text. */
  putText(text: string): number {
    return this.put(new TextEncoder().encode(`${text}\0`));
  }

  #allocate(size: number): number {
    const address = size < 0x80000000 ? this.exports.realm_wasm_alloc(size) >>> 0 : 0;
    if (address === 0) throw new RealmError('out-of-memory', `WebAssembly memory has no room for ${size} bytes`);
    return address;
  }

  // ---- results ----

  /** For calls that were given `error`. */
  check(status: number, prefix = ''): void {
    if (status === 0) return;
    throw new RealmError(codeOf(status), prefix + readCoreError(this.view, this.error).message);
  }

  /** A NUL-terminated text of the module's own. */
  text(address: number): string {
    const start = address >>> 0;
    return new TextDecoder().decode(this.bytes.slice(start, this.bytes.indexOf(0, start)));
  }
}
