// The seam to an executor outside the core: takes batch after batch from it, has each computed, and finishes it.
//
// Between two batches the event loop has a turn, in which the guests act on what they got: so that those who decode step together.

import { BATCH_BYTES, readBatch, type Batch } from '../_generated/records.js';
import { RealmError, type ErrorCode } from '../errors.js';
import { ERROR_CODES } from '../_generated/abi.js';
import type { Core } from './core.js';
import type { Shard } from './loader.js';

/** The core's memory while a batch is out. */
export interface BatchMemory {
  /** A view of the core's memory; only valid until the next await. */
  bytes(address: number, size: number): Uint8Array;
  /** Whether anybody still waits for the batch. */
  wanted(batch: number): boolean;
}

/** What computes: js/src/webgpu/executor.ts. */
export interface GpuExecutor {
  /** Brings a model's weights onto the device; `plan` is the core's block. */
  addModel(plan: Uint8Array, shards: readonly Shard[], options: UploadOptions): Promise<void>;
  removeModel(id: number): void;
  /** Computes the batch and writes its results into the core's memory; false when it was given up because nobody wants it. */
  run(batch: Batch, memory: BatchMemory): Promise<boolean>;
  /** Held on the device. */
  readonly bytes: number;
  destroy(): void;
}

export interface UploadOptions {
  signal?: AbortSignal | undefined;
  progress?: ((done: number) => void) | undefined;
}

/** The batches of one engine. */
export class Batches implements BatchMemory {
  readonly #core: Core;
  readonly #record: number;
  readonly #waiting: (() => void)[] = [];
  #running = false;
  #again = false;
  #out = false; // a batch is being computed
  #closed = false;

  constructor(
    core: Core,
    private readonly runtime: number,
    /** Who computes a model, by the id in its plan; undefined when its device was lost. */
    private readonly executor: (model: number) => GpuExecutor | undefined,
    /** After each batch: has its tickets looked at, and gives the event loop a turn. */
    private readonly finished: (failure: RealmError | undefined) => Promise<void>,
  ) {
    this.#core = core;
    this.#record = core.exports.realm_wasm_alloc(BATCH_BYTES) >>> 0;
    if (this.#record === 0) throw new RealmError('out-of-memory', 'no memory for an engine');
  }

  /** There may be batches. */
  work(): void {
    this.#again = true;
    if (!this.#running) void this.#run();
  }

  /** Does something that must not happen while a batch is computed: now, or when this one has ended. */
  between(action: () => void): void {
    if (this.#out) this.#waiting.push(action);
    else action();
  }

  bytes(address: number, size: number): Uint8Array {
    if (this.#closed) throw new RealmError('closed', 'the engine was closed'); // its memory is others' now
    return this.#core.bytes.subarray(address, address + size);
  }

  wanted(batch: number): boolean {
    return !this.#closed && this.#core.exports.realm_runtime_batch_wanted(this.runtime, BigInt(batch)) !== 0;
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#again) {
      this.#again = false;
      for (let batch = this.#take(); batch; batch = this.#take()) {
        this.#out = true;
        const failure = await this.#compute(batch);
        this.#out = false;
        if (this.#closed) return;
        this.#finish(batch, failure);
        for (const action of this.#waiting.splice(0)) action();
        await this.finished(failure);
        if (this.#closed) return;
      }
    }
    this.#running = false;
  }

  #take(): Batch | undefined {
    const core = this.#core;
    core.check(core.exports.realm_runtime_take_batch(this.runtime, this.#record, core.out, core.error));
    return core.result === 0 ? undefined : readBatch(core.view, this.#record);
  }

  async #compute(batch: Batch): Promise<RealmError | undefined> {
    try {
      const executor = this.executor(batch.model);
      if (!executor) return new RealmError('device-lost', 'the GPU that held the model was lost: load the model again');
      return (await executor.run(batch, this)) ? undefined : new RealmError('cancelled', 'the work was cancelled');
    } catch (problem) {
      if (problem instanceof RealmError) return problem;
      return new RealmError('internal', `the executor failed: ${(problem as Error).message}`, { cause: problem });
    }
  }

  #finish(batch: Batch, failure: RealmError | undefined): void {
    const core = this.#core.begin();
    const message = failure ? core.putText(failure.message) : 0;
    const status = failure ? statusOf(failure.code) : 0;
    core.check(core.exports.realm_runtime_finish_batch(this.runtime, BigInt(batch.id), status, message, core.error));
  }

  /** The runtime is gone: what is being computed has no place any more. */
  close(): void {
    this.#closed = true;
    this.#core.exports.realm_wasm_free(this.#record);
  }
}

function statusOf(code: ErrorCode): number {
  return ERROR_CODES.indexOf(code) + 1;
}
