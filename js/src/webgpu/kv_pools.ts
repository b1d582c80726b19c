// The KV pages of one model on the device. The core only numbers them; here a number is a place in two buffers for each layer, K and V,
// that grow as higher numbers come up. Fresh buffers are zero, as WebGPU promises.

import { NONE, type PageOp } from '../_generated/records.js';
import { RealmError } from '../errors.js';
import type { GpuDevice } from './device.js';
import { Kernels, type Binding, type KvType } from './kernels.js';
import { allocate, allocateOne, megabytes } from './memory.js';
import type { PlanHeader } from './plan.js';

/** Of a pool when it is first used; growing doubles it. */
const FIRST_PAGES = 16;

export interface LayerPool {
  k: Binding;
  v: Binding;
}

export class KvPools {
  readonly #gpu: GpuDevice;
  readonly #kernels: Kernels;
  readonly #header: PlanHeader;
  /** By KV type, as the records number them. */
  readonly #pools: Pool[];
  #scratch: GPUBuffer | undefined;

  constructor(gpu: GpuDevice, kernels: Kernels, header: PlanHeader) {
    this.#gpu = gpu;
    this.#kernels = kernels;
    this.#header = header;
    const pool = (type: KvType, limit: number): Pool => {
      const pageBytes = Kernels.kvPageBytes(header.headCountKv, header.headDim, type);
      const most = Math.floor(gpu.limits.maxStorageBufferBindingSize / pageBytes);
      return { type, pageBytes, pages: 0, limit: Math.min(limit, most), buffers: [] };
    };
    this.#pools = [pool('f16', header.maxPagesF16), pool('f32', header.maxPagesF32)];
  }

  type(kvType: number): KvType {
    return this.#pools[kvType]!.type;
  }

  layer(kvType: number, layer: number): LayerPool {
    const { buffers } = this.#pools[kvType]!;
    const bind = (buffer: GPUBuffer): Binding => ({ buffer, offset: 0, size: buffer.size });
    return { k: bind(buffers[2 * layer]!), v: bind(buffers[2 * layer + 1]!) };
  }

  /** Room for page numbers below `pages`. */
  async reserve(kvType: number, pages: number): Promise<void> {
    const pool = this.#pools[kvType]!;
    if (pages <= pool.pages) return;
    if (pages > pool.limit) throw this.#tooMany(pool);
    const wanted = Math.min(pool.limit, Math.max(FIRST_PAGES, pages, 2 * pool.pages));
    const bigger = await this.#allocate(pool, wanted, pages);
    const encoder = this.#gpu.device.createCommandEncoder({ label: 'growing the KV pools' });
    pool.buffers.forEach((old, i) => encoder.copyBufferToBuffer(old, 0, bigger[i]!, 0, pool.pages * pool.pageBytes));
    this.#gpu.device.queue.submit([encoder.finish()]);
    for (const old of pool.buffers) old.destroy();
    this.#kernels.dropBindGroups();
    pool.pages = bigger[0]!.size / pool.pageBytes;
    pool.buffers = bigger;
  }

  /** What memory allows between what is needed and what is wanted. */
  async #allocate(pool: Pool, wanted: number, needed: number): Promise<GPUBuffer[]> {
    const count = 2 * this.#header.layerCount;
    const ask = (pages: number): Promise<GPUBuffer[]> =>
      allocate(this.#gpu, Array.from({ length: count }, () => ({ label: 'KV pages', size: pages * pool.pageBytes })));
    try {
      return await ask(wanted);
    } catch (error) {
      if (wanted === needed) throw error;
      return ask(needed);
    }
  }

  /** Copies and wipes, in their order; each concerns all layers. */
  async record(encoder: GPUCommandEncoder, ops: readonly PageOp[]): Promise<void> {
    const largest = Math.max(...this.#pools.map(({ pageBytes }) => pageBytes));
    const copies = ops.some(({ source }) => source !== NONE);
    if (copies) this.#scratch ??= await allocateOne(this.#gpu, 'a KV page on its way', largest);
    for (const op of ops) {
      const { buffers, pageBytes } = this.#pools[op.kvType]!;
      for (const buffer of buffers) {
        const to = op.destination * pageBytes;
        if (op.source === NONE) {
          encoder.clearBuffer(buffer, to, pageBytes);
        } else { // WebGPU copies only between two buffers
          encoder.copyBufferToBuffer(buffer, op.source * pageBytes, this.#scratch!, 0, pageBytes);
          encoder.copyBufferToBuffer(this.#scratch!, 0, buffer, to, pageBytes);
        }
      }
    }
  }

  get bytes(): number {
    return this.#pools.reduce((sum, { buffers }) => sum + buffers.reduce((own, { size }) => own + size, 0), 0);
  }

  destroy(): void {
    for (const { buffers } of this.#pools) buffers.forEach((buffer) => buffer.destroy());
    this.#scratch?.destroy();
  }

  #tooMany({ limit, pageBytes }: Pool): RealmError {
    const all = limit * pageBytes * 2 * this.#header.layerCount;
    return new RealmError(
      'limit-exceeded',
      `the KV cache has reached what this GPU binds at once (${megabytes(all)} MB): close sessions or use a shorter context`,
    );
  }
}

interface Pool {
  readonly type: KvType;
  /** Of one page in one buffer: a layer's K or V. */
  readonly pageBytes: number;
  readonly limit: number;
  pages: number;
  /** K and V of layer 0, of layer 1, ... */
  buffers: GPUBuffer[];
}
