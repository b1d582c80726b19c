// What a guest runs in: an instance of its module and the view of its memory. Instances of the standard guest are made ahead, some at a
// time and after what waits already: a request in a new realm does not wait for the memory's reservation. None is ever used twice.

import { AbiError, IMPORT_MODULE, lowerImports, type Export, type GuestMemory, type Host } from './_generated/abi.js';
import { platform, watched } from './platform.js';

const SPARES = 8;

export class AllocationError extends AbiError {}

export class Sandbox {
  readonly memory = new Memory();
  readonly instance: WebAssembly.Instance;

  /** The module's start function, where it has one, may call what `host` has by then. */
  constructor(module: WebAssembly.Module, readonly host: Host) {
    const imports = { [IMPORT_MODULE]: lowerImports(host, this.memory) };
    this.instance = watched(() => new WebAssembly.Instance(module, imports));
    this.memory.attach(this.instance.exports);
  }
}

/** The memory of an instance: a view that is made anew when the memory moved. */
class Memory implements GuestMemory {
  #memory: WebAssembly.Memory | undefined;
  #realloc: Export | undefined;
  #view = new DataView(new ArrayBuffer(0));

  attach(exports: WebAssembly.Exports): void {
    const { memory, cabi_realloc: realloc } = exports;
    if (memory instanceof WebAssembly.Memory) this.#memory = memory;
    if (typeof realloc === 'function') this.#realloc = realloc as Export;
  }

  view(): DataView {
    if (this.#memory && this.#view.buffer !== this.#memory.buffer) this.#view = new DataView(this.#memory.buffer);
    return this.#view;
  }

  allocate(size: number, align: number): number {
    const address = this.#realloc ? this.#realloc(0, 0, align, size) >>> 0 : 0;
    if (address === 0 || address % align !== 0 || address + size > this.view().byteLength) {
      throw new AllocationError("the guest's cabi_realloc gave no usable memory");
    }
    return address;
  }
}

// ---- made ahead ----

interface Stock {
  module: WebAssembly.Module;
  spares: Sandbox[];
}

let stock: Stock | undefined; // of the module that was used last

/** A sandbox of a module without start function, with the host's functions. */
export function takeSandbox(module: WebAssembly.Module, host: Host): Sandbox {
  if (stock?.module !== module) {
    stock = { module, spares: [] }; // the first of many, or the only one
    return new Sandbox(module, host);
  }
  const spare = stock.spares.pop();
  if (stock.spares.length === 0) refillLater(stock);
  if (!spare) return new Sandbox(module, host);
  Object.assign(spare.host, host);
  return spare;
}

function refillLater({ module, spares }: Stock): void {
  platform().defer(() => {
    try {
      while (spares.length < SPARES) spares.push(new Sandbox(module, {} as Host));
    } catch {
      // no room to make any ahead: who needs one will hear of it
    }
  });
}
