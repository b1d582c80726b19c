// Weights on their way from a source into GPU buffers: tensor by tensor as the bytes arrive, in any order, repacked row by row.
// Nothing of them stays in the memory of JavaScript or WebAssembly but rows whose bytes came in two pieces.

import { checkSignal, RealmError } from '../errors.js';
import type { ModelSource } from '../source.js';
import type { GpuDevice } from './device.js';
import type { Kernels, Weight } from './kernels.js';
import { allocate, type BufferRequest } from './memory.js';
import type { Plan, PlanTensor } from './plan.js';
import type { WeightLayout } from './weight_layout.js';

/** Bytes handed to the device before waiting for it: what it copies them into is not unlimited. */
const UPLOAD_WINDOW = 32 << 20;

/** One file of the model, and where it begins in the model's bytes. */
export interface Shard {
  source: ModelSource;
  base: number;
}

export interface UploadOptions {
  signal?: AbortSignal | undefined;
  /** Called with numbers up to 1. */
  progress?: ((done: number) => void) | undefined;
}

/** The weights of a model: first their buffers, then what is in them. */
export class DeviceWeights {
  /** By index of the plan's tensors. */
  readonly tensors: readonly Weight[];
  readonly bytes: number;
  readonly #gpu: GpuDevice;
  readonly #placed: PlacedTensor[];

  private constructor(gpu: GpuDevice, placed: PlacedTensor[]) {
    this.#gpu = gpu;
    this.#placed = placed;
    this.tensors = placed.map(({ weight }) => weight);
    this.bytes = this.#buffers.reduce((sum, buffer) => sum + buffer.size, 0);
  }

  static async allocate(gpu: GpuDevice, kernels: Kernels, plan: Plan): Promise<DeviceWeights> {
    return new DeviceWeights(gpu, await placeTensors(gpu, kernels, plan.tensors));
  }

  async fill(shards: readonly Shard[], options: UploadOptions = {}): Promise<void> {
    const upload = new Upload(this.#gpu, this.#placed, options);
    for (const shard of shards) await upload.stream(shard);
    upload.check(shards);
  }

  get #buffers(): GPUBuffer[] {
    return this.tensors.flatMap(({ parts }) => parts.map(({ binding }) => binding.buffer));
  }

  destroy(): void {
    for (const buffer of this.#buffers) buffer.destroy();
  }
}

// ---- buffers ----

interface PlacedTensor {
  /** Range in the model's bytes. */
  start: number;
  end: number;
  layout: WeightLayout;
  weight: Weight;
  /** Rows of which only a part has come: by row, with how many bytes. */
  fragments: Map<number, { bytes: Uint8Array; have: number }>;
}

async function placeTensors(gpu: GpuDevice, kernels: Kernels, tensors: readonly PlanTensor[]): Promise<PlacedTensor[]> {
  const cuts = tensors.map((tensor) => cutRows(kernels, tensor));
  const requests: BufferRequest[] = cuts.flatMap((parts, index) =>
    parts.map(({ rows, rowBytes }) => ({ label: `weight ${index}`, size: rows * rowBytes })),
  );
  const buffers = await allocate(gpu, requests);
  let next = 0;
  return tensors.map((tensor, index) => {
    const parts = cuts[index]!.map(({ row0, rows }) => {
      const buffer = buffers[next++]!;
      return { binding: { buffer, offset: 0, size: buffer.size }, row0, rows };
    });
    return {
      start: tensor.offset,
      end: tensor.offset + tensor.rows * tensor.rowBytes,
      layout: kernels.weightLayout(tensor.type, tensor.cols),
      weight: { type: tensor.type, rows: tensor.rows, cols: tensor.cols, parts },
      fragments: new Map(),
    };
  });
}

function cutRows(kernels: Kernels, tensor: PlanTensor): { row0: number; rows: number; rowBytes: number }[] {
  const { rowBytes } = kernels.weightLayout(tensor.type, tensor.cols);
  const most = Math.max(1, kernels.rowsPerBinding(tensor.type, tensor.cols));
  const parts = [];
  for (let row0 = 0; row0 < tensor.rows; row0 += most) {
    parts.push({ row0, rows: Math.min(most, tensor.rows - row0), rowBytes });
  }
  return parts;
}

// ---- bytes ----

class Upload {
  readonly #gpu: GpuDevice;
  readonly #tensors: PlacedTensor[];
  readonly #options: UploadOptions;
  readonly #total: number;
  #done = 0;
  #sinceWait = 0;

  constructor(gpu: GpuDevice, tensors: readonly PlacedTensor[], options: UploadOptions) {
    this.#gpu = gpu;
    this.#tensors = [...tensors].sort((a, b) => a.start - b.start);
    this.#options = options;
    this.#total = tensors.reduce((sum, tensor) => sum + tensor.end - tensor.start, 0);
  }

  /** From the file's first byte of a tensor to its last, which is all but its head. */
  async stream({ source, base }: Shard): Promise<void> {
    const own = this.#tensors.filter(({ start }) => start >= base && start < base + source.size);
    if (own.length === 0) return;
    const first = own[0]!.start;
    const last = own.reduce((end, tensor) => Math.max(end, tensor.end), 0);
    const take = (offset: number, bytes: Uint8Array): Promise<void> => this.#take(base + offset, bytes);
    await source.stream(first - base, last - first, take, this.#options.signal);
  }

  /** Sources see to their own length; that all of the tensors came is what counts here. */
  check(shards: readonly Shard[]): void {
    if (this.#done === this.#total) return;
    const names = shards.map(({ source }) => source.name).join(', ');
    throw new RealmError('io', `${names} ended after ${this.#done} of ${this.#total} bytes of weights`);
  }

  async #take(at: number, bytes: Uint8Array): Promise<void> {
    checkSignal(this.#options.signal);
    const end = at + bytes.length;
    for (const tensor of this.#tensors) {
      if (tensor.end <= at) continue;
      if (tensor.start >= end) break;
      const from = Math.max(at, tensor.start);
      this.#takeRows(tensor, from - tensor.start, bytes.subarray(from - at, Math.min(end, tensor.end) - at));
    }
    this.#options.progress?.(this.#done / this.#total);
    if (this.#sinceWait < UPLOAD_WINDOW) return;
    this.#sinceWait = 0;
    this.#gpu.device.queue.submit([]); // writes are only carried out with a submission
    await this.#gpu.device.queue.onSubmittedWorkDone();
  }

  /** Bytes of one tensor from `offset` on: whole rows at once, torn ones when they are complete. */
  #takeRows(tensor: PlacedTensor, offset: number, bytes: Uint8Array): void {
    const size = tensor.layout.fileRowBytes;
    let row = Math.floor(offset / size);
    let at = 0;
    if (offset % size !== 0) {
      at = Math.min(size - (offset % size), bytes.length);
      this.#takeFragment(tensor, row++, offset % size, bytes.subarray(0, at));
    }
    const whole = Math.floor((bytes.length - at) / size);
    if (whole > 0) this.#write(tensor, row, whole, bytes.subarray(at, at + whole * size));
    at += whole * size;
    if (at < bytes.length) this.#takeFragment(tensor, row + whole, 0, bytes.subarray(at));
    this.#done += bytes.length;
    this.#sinceWait += bytes.length;
  }

  #takeFragment(tensor: PlacedTensor, row: number, offset: number, bytes: Uint8Array): void {
    const size = tensor.layout.fileRowBytes;
    let fragment = tensor.fragments.get(row);
    if (!fragment) tensor.fragments.set(row, (fragment = { bytes: new Uint8Array(size), have: 0 }));
    fragment.bytes.set(bytes, offset);
    fragment.have += bytes.length;
    if (fragment.have < size) return;
    tensor.fragments.delete(row);
    this.#write(tensor, row, 1, fragment.bytes);
  }

  #write({ layout, weight }: PlacedTensor, row: number, count: number, bytes: Uint8Array): void {
    for (const part of weight.parts) {
      const from = Math.max(row, part.row0);
      const to = Math.min(row + count, part.row0 + part.rows);
      if (from >= to) continue;
      const size = layout.fileRowBytes;
      const packed = layout.repack(bytes.subarray((from - row) * size, (to - row) * size));
      const { buffer } = part.binding;
      this.#gpu.device.queue.writeBuffer(buffer, (from - part.row0) * layout.rowBytes, packed as Uint8Array<ArrayBuffer>);
    }
  }
}
