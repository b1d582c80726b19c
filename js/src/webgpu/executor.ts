// Computes the core's batches on a GPU: a loop over the plan's ops, each one call of the kernels, recorded into one command buffer
// per step. Large batches go in pieces, so that one nobody wants any more ends soon. Who decides what is in a batch is the core.
//
// Activations stay in one buffer per slot, weights and KV pages where they are; only ids go up and logits come down.

import {
  BATCH_SEGMENT_BYTES, KV_PAGE, LAYER_HEAD, OpKind, PAGE_OP_BYTES, Slot, readBatchSegment, readPageOp,
  type Batch, type BatchSegment,
} from '../_generated/records.js';
import { RealmError } from '../errors.js';
import type { GpuDevice } from './device.js';
import { ropeTurns, type Binding, Kernels } from './kernels.js';
import { KvPools } from './kv_pools.js';
import { ALIGNMENT, READBACK, allocate, allocateOne } from './memory.js';
import { readPlan, type Plan, type PlanOp } from './plan.js';
import { DeviceWeights, type Shard, type UploadOptions } from './weights.js';

/** What the executor needs of the core while a batch is out. */
export interface BatchMemory {
  /** A view of the core's memory; only valid until the next await. */
  bytes(address: number, size: number): Uint8Array;
  /** Whether anybody still waits for the batch. */
  wanted(batch: number): boolean;
}

/** Rows whose logits are computed at a time, which bounds their buffer; a multiple of 64 keeps bindings aligned. */
const HEAD_ROWS = 64;
/** How long a piece of a large batch may take. */
const PIECE_MS = 60;
/** Multiply-adds per millisecond before anything was measured: a slow software adapter. */
const FIRST_RATE = 1e6;
/** Rows of batches whose kernels are compiled while the weights come in, most wanted first: a token, then each shape of tiles. */
const PREPARED_ROWS = [1, 16, 64, 32, 8];
/** No more is begun after so long: a GPU's compiler has done all by then, that of a software adapter needs seconds for each. */
const PREPARE_MS = 1500;
const LOST_PATIENCE_MS = 500;
const PAGE_TABLE_BYTES = 1024; // at first
/** Batches of up to so many rows read weights faster than they multiply: their rate is another one. */
const FEW_ROWS = 8;

export class WebGpuExecutor {
  readonly gpu: GpuDevice;
  readonly #kernels: Kernels;
  readonly #models = new Map<number, DeviceModel>();
  readonly #rates = { few: FIRST_RATE, many: FIRST_RATE };
  readonly #lost: Promise<never>;
  #lostReason: string | undefined;

  private constructor(gpu: GpuDevice, kernels: Kernels) {
    this.gpu = gpu;
    this.#kernels = kernels;
    this.#lost = gpu.lost.then((reason) => {
      this.#lostReason = reason;
      throw this.#deviceLost();
    });
    this.#lost.catch(() => {}); // told to whoever runs a batch
  }

  static async open(gpu: GpuDevice): Promise<WebGpuExecutor> {
    return new WebGpuExecutor(gpu, await Kernels.open(gpu));
  }

  /** Brings a model's weights onto the device; `plan` is the core's block. */
  async addModel(plan: Uint8Array, shards: readonly Shard[], options: UploadOptions = {}): Promise<void> {
    const read = readPlan(plan);
    const model = await this.#guard(DeviceModel.load(this.gpu, this.#kernels, read, shards, options));
    this.removeModel(read.header.model); // of a core that was there before
    this.#models.set(read.header.model, model);
  }

  /** Not while a batch of the model is computed. */
  removeModel(id: number): void {
    this.#models.get(id)?.destroy();
    this.#models.delete(id);
    this.#kernels.dropBindGroups();
  }

  /** Bytes on the device: weights, KV pages, activations. */
  get bytes(): number {
    return [...this.#models.values()].reduce((sum, model) => sum + model.bytes, 0);
  }

  /** What is assumed of the device's speed, in multiply-adds per millisecond, until more is measured. */
  pace(rate: number): void {
    this.#rates.few = this.#rates.many = rate;
  }

  destroy(): void {
    for (const id of [...this.#models.keys()]) this.removeModel(id);
    this.gpu.device.destroy();
  }

  /** Computes the batch and writes its results into the core's memory; false when it was given up because nobody wants it. */
  async run(batch: Batch, memory: BatchMemory): Promise<boolean> {
    const model = this.#models.get(batch.model);
    if (!model) throw new RealmError('internal', `the executor has no model ${batch.model}`);
    return this.#guard(new Step(this.gpu, this.#kernels, model, batch, memory, this.#rates).run());
  }

  /** The work's result, or why the device cannot give one. */
  async #guard<T>(work: Promise<T>): Promise<T> {
    if (this.#lostReason !== undefined) {
      work.catch(() => {});
      throw this.#deviceLost();
    }
    try {
      const result = await Promise.race([work, this.#lost]);
      const failure = this.gpu.failure();
      if (failure !== undefined) throw new RealmError('internal', `the GPU refused a command: ${failure}`);
      return result;
    } catch (error) {
      work.catch(() => {});
      if (error instanceof RealmError) throw error;
      await this.#lostSoon();
      if (this.#lostReason !== undefined) throw this.#deviceLost();
      throw new RealmError('internal', `the GPU failed: ${(error as Error).message}`, { cause: error });
    }
  }

  /** A browser tells of a lost device some time after what ran on it has failed. */
  async #lostSoon(): Promise<void> {
    const patience = new Promise<void>((resolve) => setTimeout(resolve, LOST_PATIENCE_MS));
    await Promise.race([patience, this.#lost]).catch(() => undefined);
  }

  #deviceLost(): RealmError {
    return new RealmError('device-lost', `the GPU was lost (${this.#lostReason || 'no reason given'}): load the model again`);
  }
}

// ---- what a model has on the device ----

class DeviceModel {
  readonly plan: Plan;
  readonly weights: DeviceWeights;
  readonly pools: KvPools;
  /** Activations by slot, of as many rows as a batch has; Y and logits of HEAD_ROWS. */
  readonly slots: Binding[];
  readonly inputs: Inputs;
  readonly ropeTurns: Binding;
  /** (rows, half, 2) of the running batch. */
  readonly ropeTable: Binding;
  readonly #gpu: GpuDevice;
  #staging: GPUBuffer | undefined;

  private constructor(gpu: GpuDevice, kernels: Kernels, plan: Plan, weights: DeviceWeights, buffers: GPUBuffer[]) {
    this.#gpu = gpu;
    this.plan = plan;
    this.weights = weights;
    this.pools = new KvPools(gpu, kernels, plan.header);
    this.slots = buffers.slice(0, Slot.COUNT).map(whole);
    this.ropeTurns = whole(buffers[Slot.COUNT]!);
    this.ropeTable = whole(buffers[Slot.COUNT + 1]!);
    this.inputs = new Inputs(gpu, kernels, plan.header.maxRows, buffers[Slot.COUNT + 2]!, buffers[Slot.COUNT + 3]!);
  }

  static async load(
    gpu: GpuDevice, kernels: Kernels, plan: Plan, shards: readonly Shard[], options: UploadOptions,
  ): Promise<DeviceModel> {
    const { slotWidth, maxRows, ropeHalf } = plan.header;
    const gathered: number[] = [Slot.Y, Slot.LOGITS];
    const sizes = slotWidth.map((width, slot) => (gathered.includes(slot) ? HEAD_ROWS : maxRows) * width * 4);
    sizes.push(ropeHalf * 8, maxRows * ropeHalf * 8, Inputs.size(maxRows), PAGE_TABLE_BYTES);
    const buffers = await allocate(gpu, sizes.map((size) => ({ label: 'activations', size })));
    let weights: DeviceWeights;
    try {
      weights = await DeviceWeights.allocate(gpu, kernels, plan);
    } catch (error) {
      for (const buffer of buffers) buffer.destroy();
      throw error;
    }
    gpu.device.queue.writeBuffer(buffers[Slot.COUNT]!, 0, ropeTurns(plan.rope) as Uint32Array<ArrayBuffer>);
    const model = new DeviceModel(gpu, kernels, plan, weights, buffers);
    const both = await Promise.allSettled([weights.fill(shards, options), model.#prepare(kernels)]);
    const failed = both.find((one) => one.status === 'rejected');
    if (!failed) return model;
    model.destroy();
    throw failed.reason;
  }

  /** So that the first token need not wait for the GPU's compiler. */
  async #prepare(kernels: Kernels): Promise<void> {
    const { maxRows, contextLength } = this.plan.header;
    await this.pools.reserve(0, 1);
    const end = performance.now() + PREPARE_MS;
    for (const rows of PREPARED_ROWS) {
      if (rows > maxRows || performance.now() > end) continue;
      const last = { nRows: rows, pos0: contextLength, nPages: 0 }; // at the end of a context, where attention is split
      const shape = { nRows: rows, kvType: 0, segments: [last] };
      const recorder = new Recorder(kernels, this, shape, () => ({}) as GPUComputePassEncoder);
      await kernels.prepare(() => recorder.recordAll());
    }
  }

  /** A buffer the host can read, of at least `size` bytes. */
  async staging(size: number): Promise<GPUBuffer> {
    if (this.#staging && this.#staging.size >= size) return this.#staging;
    this.#staging?.destroy();
    this.#staging = undefined;
    return (this.#staging = await allocateOne(this.#gpu, 'results', size, READBACK));
  }

  get bytes(): number {
    const own = [...this.slots, this.ropeTable].reduce((sum, { size }) => sum + size, 0);
    return this.weights.bytes + this.pools.bytes + own;
  }

  destroy(): void {
    this.weights.destroy();
    this.pools.destroy();
    this.inputs.destroy();
    this.#staging?.destroy();
    for (const { buffer } of [...this.slots, this.ropeTurns, this.ropeTable]) buffer.destroy();
  }
}

function whole(buffer: GPUBuffer): Binding {
  return { buffer, offset: 0, size: buffer.size };
}

/** The arrays of a batch on the device: one upload a step, at places that stay, so that bind groups stay too. */
class Inputs {
  readonly #gpu: GpuDevice;
  readonly #kernels: Kernels;
  readonly #buffer: GPUBuffer;
  readonly #image: Uint8Array<ArrayBuffer>;
  readonly #column: number;
  #pages: GPUBuffer;

  constructor(gpu: GpuDevice, kernels: Kernels, maxRows: number, buffer: GPUBuffer, pages: GPUBuffer) {
    this.#gpu = gpu;
    this.#kernels = kernels;
    this.#buffer = buffer;
    this.#pages = pages;
    this.#column = Inputs.#columnBytes(maxRows);
    this.#image = new Uint8Array(Inputs.size(maxRows));
  }

  static #columnBytes(maxRows: number): number {
    return Math.ceil((maxRows * 4) / ALIGNMENT) * ALIGNMENT;
  }

  /** Five columns of u32 and the segments. */
  static size(maxRows: number): number {
    return 5 * Inputs.#columnBytes(maxRows) + maxRows * BATCH_SEGMENT_BYTES;
  }

  async upload(batch: Batch, memory: BatchMemory): Promise<void> {
    if (this.#pages.size < batch.nPages * 4) {
      const bigger = await allocateOne(this.#gpu, 'page table', batch.nPages * 8);
      this.#pages.destroy();
      this.#pages = bigger;
      this.#kernels.dropBindGroups();
    }
    const { queue } = this.#gpu.device;
    const columns = [batch.tokens, batch.positions, batch.kvSlots, batch.rowSegments];
    columns.forEach((address, i) => this.#image.set(memory.bytes(address, batch.nRows * 4), i * this.#column));
    this.#image.set(memory.bytes(batch.outRows, batch.nOut * 4), 4 * this.#column);
    const segments = memory.bytes(batch.segments, batch.nSegments * BATCH_SEGMENT_BYTES);
    this.#image.set(segments, 5 * this.#column);
    queue.writeBuffer(this.#buffer, 0, this.#image, 0, 5 * this.#column + segments.length);
    queue.writeBuffer(this.#pages, 0, memory.bytes(batch.pages, batch.nPages * 4).slice());
  }

  #at(offset: number, size: number): Binding {
    return { buffer: this.#buffer, offset, size };
  }

  get tokens(): Binding { return this.#at(0, this.#column); }
  get positions(): Binding { return this.#at(this.#column, this.#column); }
  get kvSlots(): Binding { return this.#at(2 * this.#column, this.#column); }
  get rowSegments(): Binding { return this.#at(3 * this.#column, this.#column); }
  /** From the first-th row whose logits are wanted. */
  outRows(first: number): Binding { return this.#at(4 * this.#column + first * 4, this.#column - first * 4); }
  get segments(): Binding { return this.#at(5 * this.#column, this.#image.length - 5 * this.#column); }
  get pages(): Binding { return whole(this.#pages); }

  destroy(): void {
    this.#buffer.destroy();
    this.#pages.destroy();
  }
}

// ---- ops -> kernels ----

/** What the choice of kernels needs to know of a batch. */
interface BatchShape {
  nRows: number;
  kvType: number;
  segments: readonly { nRows: number; pos0: number; nPages: number }[];
}

/** The kernel calls of a plan's ops, and what they cost. */
class Recorder {
  /** Multiply-adds recorded since somebody set it to 0. */
  cost = 0;

  constructor(
    private readonly kernels: Kernels,
    private readonly model: DeviceModel,
    private readonly batch: BatchShape,
    private readonly pass: () => GPUComputePassEncoder,
  ) {}

  /** Everything a batch may run. */
  recordAll(): void {
    this.recordRopeTable();
    for (const op of this.model.plan.ops) this.record(op, op.layer === LAYER_HEAD ? 1 : this.batch.nRows);
  }

  recordRopeTable(): void {
    const { inputs, plan, ropeTurns: turns, ropeTable: dst } = this.model;
    const { nRows: rows } = this.batch;
    this.kernels.ropeTable(this.pass(), { positions: inputs.positions, turns, dst, rows, half: plan.header.ropeHalf });
  }

  #slot(slot: number): Binding {
    return this.model.slots[slot]!;
  }

  /** One op over the first `rows` rows of its slots. */
  record(op: PlanOp, rows: number, firstOut = 0): void {
    const kernels = this.kernels;
    const pass = this.pass();
    const { plan, weights, inputs } = this.model;
    const { width } = op;
    const dst = this.#slot(op.dst);
    const src = this.#slot(op.src);
    const count = rows * width;
    const weight = weights.tensors[op.weight]!;
    const vector = weight?.parts[0]?.binding as Binding;
    this.cost += count;
    switch (op.kind) {
      case OpKind.EMBED:
        return kernels.embed(pass, { weight, tokens: inputs.tokens, dst, rows });
      case OpKind.RMSNORM:
        return kernels.rmsnorm(pass, { src, weight: vector, dst, rows, width, eps: op.f0 });
      case OpKind.MATMUL:
        this.cost += rows * weight.rows * weight.cols;
        return kernels.matmul(pass, { weight, src, dst, rows });
      case OpKind.BIAS:
        return kernels.bias(pass, { dst, weight: vector, rows, width });
      case OpKind.ROPE: {
        const { headDim, ropeHalf: half, ropeNeox } = plan.header;
        return kernels.rope(pass, {
          dst, table: this.model.ropeTable, rows, heads: op.nHead, headDim, half, neox: ropeNeox === 1,
        });
      }
      case OpKind.KV_STORE:
        return this.#storeKv(pass, op, rows);
      case OpKind.ATTENTION:
        return this.#attend(pass, op, rows);
      case OpKind.SILU_MUL:
        return kernels.siluMul(pass, { dst, src, count });
      case OpKind.GELU_MUL:
        return kernels.geluMul(pass, { dst, src, count });
      case OpKind.ADD:
        return kernels.add(pass, { dst, src, count });
      case OpKind.SCALE:
        return kernels.scale(pass, { dst, factor: op.f0, count });
      case OpKind.GATHER:
        return kernels.gather(pass, { src, dst, rowsOf: inputs.outRows(firstOut), rows, width });
      case OpKind.SOFTCAP:
        return kernels.softcap(pass, { dst, cap: op.f0, count });
      default:
        throw new RealmError('unsupported', `the WebGPU executor does not know op ${op.kind}`);
    }
  }

  #storeKv(pass: GPUComputePassEncoder, op: PlanOp, rows: number): void {
    const { pools, plan, inputs } = this.model;
    const { k: kPool, v: vPool } = pools.layer(this.batch.kvType, op.layer);
    this.kernels.kvStore(pass, {
      k: this.#slot(op.src), v: this.#slot(op.src2), kPool, vPool, slots: inputs.kvSlots, rows,
      heads: plan.header.headCountKv, headDim: plan.header.headDim, kvType: pools.type(this.batch.kvType),
    });
  }

  #attend(pass: GPUComputePassEncoder, op: PlanOp, rows: number): void {
    const { pools, plan, inputs } = this.model;
    const { k: kPool, v: vPool } = pools.layer(this.batch.kvType, op.layer);
    const { headCount: heads, headCountKv: headsKv, headDim } = plan.header;
    let longest = 0;
    for (const s of this.batch.segments) {
      this.cost += 2 * s.nRows * s.nPages * KV_PAGE * op.width;
      longest = Math.max(longest, s.pos0 + s.nRows);
    }
    this.kernels.attention(pass, {
      q: this.#slot(op.src), dst: this.#slot(op.dst), kPool, vPool, pageTable: inputs.pages, segments: inputs.segments,
      rowSegment: inputs.rowSegments, rows, heads, headsKv, headDim, window: op.window, scale: op.f0, softcap: op.f1,
      kvType: pools.type(this.batch.kvType), longest,
    });
  }
}

// ---- one batch ----

interface Rates {
  few: number;
  many: number;
}

/** Multiply-adds that may be submitted before waiting, spent by one piece after the other. */
class Step {
  readonly #gpu: GpuDevice;
  readonly #model: DeviceModel;
  readonly #batch: Batch;
  readonly #memory: BatchMemory;
  readonly #rates: Rates;
  readonly #segments: BatchSegment[];
  #encoder: GPUCommandEncoder;
  #openPass: GPUComputePassEncoder | undefined;
  readonly #recorder: Recorder;

  constructor(
    gpu: GpuDevice, kernels: Kernels, model: DeviceModel, batch: Batch, memory: BatchMemory, rates: Rates,
  ) {
    this.#gpu = gpu;
    this.#model = model;
    this.#batch = batch;
    this.#memory = memory;
    this.#rates = rates;
    this.#segments = this.#read(batch.segments, batch.nSegments, BATCH_SEGMENT_BYTES, readBatchSegment);
    const { nRows, kvType } = batch;
    this.#recorder = new Recorder(kernels, model, { nRows, kvType, segments: this.#segments }, () => this.#pass);
    this.#encoder = gpu.device.createCommandEncoder();
  }

  async run(): Promise<boolean> {
    await this.#prepare();
    if (this.#batch.layerFirst > 0) this.#writeHidden();
    const ops = this.#model.plan.ops.filter((op) => this.#covers(op));
    for (const op of ops) {
      if (!(await this.#breathe())) return false;
      this.#recorder.record(op, this.#batch.nRows);
    }
    if (this.#endsInside()) await this.#readHidden();
    else await this.#computeLogits();
    return true;
  }

  #read<T>(address: number, count: number, size: number, read: (view: DataView, at: number) => T): T[] {
    const bytes = this.#memory.bytes(address, count * size);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return Array.from({ length: count }, (_, i) => read(view, i * size));
  }

  /** KV pages first: what fails later fails with the page operations carried out, as the core expects. */
  async #prepare(): Promise<void> {
    const { pools, inputs } = this.#model;
    const batch = this.#batch;
    const ops = this.#read(batch.pageOps, batch.nPageOps, PAGE_OP_BYTES, readPageOp);
    await pools.reserve(0, batch.poolPagesF16);
    await pools.reserve(1, batch.poolPagesF32);
    if (ops.length > 0) {
      await pools.record(this.#encoder, ops);
      this.#submit();
    }
    await inputs.upload(batch, this.#memory);
    this.#recorder.recordRopeTable();
  }

  #covers(op: PlanOp): boolean {
    const { layerFirst, layerCount } = this.#batch;
    return op.layer !== LAYER_HEAD && op.layer >= layerFirst && op.layer < layerFirst + layerCount;
  }

  #endsInside(): boolean {
    return this.#batch.layerFirst + this.#batch.layerCount < this.#model.plan.header.layerCount;
  }

  // ---- recording ----

  get #pass(): GPUComputePassEncoder {
    return (this.#openPass ??= this.#encoder.beginComputePass());
  }

  #endPass(): void {
    this.#openPass?.end();
    this.#openPass = undefined;
  }

  #submit(): void {
    this.#endPass();
    this.#gpu.device.queue.submit([this.#encoder.finish()]);
    this.#encoder = this.#gpu.device.createCommandEncoder();
  }

  get #rate(): number {
    return this.#batch.nRows <= FEW_ROWS ? this.#rates.few : this.#rates.many;
  }

  /** What was learnt about the device's speed; a piece too short to say anything counts for nothing. */
  #measure(cost: number, milliseconds: number): void {
    if (milliseconds < 2) return;
    const rate = 0.5 * this.#rate + (0.5 * cost) / milliseconds;
    if (this.#batch.nRows <= FEW_ROWS) this.#rates.few = rate;
    else this.#rates.many = rate;
  }

  /** Lets a piece finish when it has become long; false when nobody wants the batch any more. */
  async #breathe(): Promise<boolean> {
    const { cost } = this.#recorder;
    if (cost < this.#rate * PIECE_MS) return true;
    const start = performance.now();
    this.#recorder.cost = 0;
    this.#submit();
    await this.#gpu.device.queue.onSubmittedWorkDone();
    this.#measure(cost, performance.now() - start);
    return this.#memory.wanted(this.#batch.id);
  }

  // ---- results ----

  /** The head over HEAD_ROWS wanted rows at a time, each copied out before the next takes its place. */
  async #computeLogits(): Promise<void> {
    const { nOut, logits } = this.#batch;
    if (nOut === 0) return this.#finish(async () => {});
    const rowBytes = this.#model.plan.header.vocabSize * 4;
    const head = this.#model.plan.ops.filter((op) => op.layer === LAYER_HEAD);
    const staging = await this.#model.staging(nOut * rowBytes);
    for (let first = 0; first < nOut; first += HEAD_ROWS) {
      const rows = Math.min(HEAD_ROWS, nOut - first);
      for (const op of head) this.#recorder.record(op, rows, first);
      this.#endPass();
      this.#encoder.copyBufferToBuffer(this.#model.slots[Slot.LOGITS]!.buffer, 0, staging, first * rowBytes, rows * rowBytes);
    }
    await this.#finish(() => this.#readBack(staging, [{ address: logits, from: 0, size: nOut * rowBytes }]));
  }

  #writeHidden(): void {
    const rowBytes = this.#model.plan.header.embeddingLength * 4;
    const { buffer } = this.#model.slots[Slot.X]!;
    for (const { hidden, row0, nRows } of this.#segments) {
      const rows = this.#memory.bytes(hidden, nRows * rowBytes).slice();
      this.#gpu.device.queue.writeBuffer(buffer, row0 * rowBytes, rows);
    }
  }

  async #readHidden(): Promise<void> {
    const rowBytes = this.#model.plan.header.embeddingLength * 4;
    const size = this.#batch.nRows * rowBytes;
    const staging = await this.#model.staging(size);
    this.#endPass();
    this.#encoder.copyBufferToBuffer(this.#model.slots[Slot.X]!.buffer, 0, staging, 0, size);
    const pieces = this.#segments.map(({ hidden, row0, nRows }) => ({
      address: hidden, from: row0 * rowBytes, size: nRows * rowBytes,
    }));
    await this.#finish(() => this.#readBack(staging, pieces));
  }

  /** Submits what is left and waits for it. */
  async #finish(wait: () => Promise<void>): Promise<void> {
    const start = performance.now();
    this.#submit();
    await wait();
    this.#measure(this.#recorder.cost, performance.now() - start);
  }

  async #readBack(staging: GPUBuffer, pieces: { address: number; from: number; size: number }[]): Promise<void> {
    const size = pieces.reduce((end, piece) => Math.max(end, piece.from + piece.size), 0);
    await staging.mapAsync(1, 0, size);
    const bytes = new Uint8Array(staging.getMappedRange(0, size));
    for (const piece of pieces) {
      this.#memory.bytes(piece.address, piece.size).set(bytes.subarray(piece.from, piece.from + piece.size));
    }
    staging.unmap();
  }
}
