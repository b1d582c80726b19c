// The kernels of kernels/wgsl as methods, one per op of core/plan.h. A method records dispatches into a compute pass and returns;
// it knows nothing of plans, sessions or when the pass is submitted. Pipelines, bind groups and parameter blocks are made once
// and kept: a decode step like the one before it creates no GPU object.
//
// WebGPU lets a dispatch write a buffer or read it, not both: the bindings of one call lie in different GPUBuffers unless the
// method says that dst may be src. Offsets of bindings are multiples of 256. Nothing is recorded for 0 rows.

import { RealmError } from '../errors.js';
import type { GpuDevice } from './device.js';
import { kernelText, type OpName } from './kernel_texts.js';
import { UNIT, roundUp, weightLayout, type WeightLayout } from './weight_layout.js';

export type { WeightLayout };

export interface Binding {
  buffer: GPUBuffer;
  /** In bytes, a multiple of 256. */
  offset: number;
  /** In bytes, a multiple of 4. */
  size: number;
}

/** A matrix (rows, cols) in the device's layout (`weightLayout`), cut between rows where a binding may not hold it. */
export interface Weight {
  /** ggml's type id. */
  type: number;
  rows: number;
  cols: number;
  parts: WeightPart[];
}

export interface WeightPart {
  binding: Binding;
  row0: number;
  rows: number;
}

export type KvType = 'f16' | 'f32';

type Pass = GPUComputePassEncoder;
/** Parameters in the order of the kernel's struct; f32 ones are marked. */
type Parameter = number | { f32: number };
/** 'r' a buffer that is read, 'w' one that is written (or both). */
type Access = 'r' | 'w';

const POSITIONS_PER_PAGE = 16;
/** Rows up to which a matrix-vector kernel, reading the weight through the cache for each row, beats tiles of 8 and more rows. */
const MATVEC_ROWS = 4;
const MAX_HEAD_DIM = 512;
/** Up to so many rows of a batch are taken for decoding sessions: they hardly lie in one segment. */
const ATTENTION_FEW_ROWS = 16;
/** Workgroups that keep a large GPU busy, and positions that are worth one. */
const ATTENTION_GROUPS = 256;
const ATTENTION_POSITIONS = 256;
const MAX_CACHED_BIND_GROUPS = 8192;
const PARAMETER_BLOCKS = 1024;

export class Kernels {
  readonly #gpu: GpuDevice;
  readonly #pipelines = new Map<string, GPUComputePipeline>();
  readonly #modules = new Map<string, GPUShaderModule>();
  readonly #layouts = new Map<string, GPUBindGroupLayout>();
  readonly #parameters: ParameterBlocks;
  readonly #bindGroups = new Map<string, GPUBindGroup>();
  readonly #bufferIds = new WeakMap<GPUBuffer, number>();
  #nextBufferId = 0;
  readonly #scratch = new Map<string, GPUBuffer>();
  /** While `prepare` runs: pipelines on their way, by key. */
  #compiling: Map<string, Promise<unknown>> | undefined;

  constructor(gpu: GpuDevice) {
    this.#gpu = gpu;
    this.#parameters = new ParameterBlocks(gpu);
  }

  static async open(gpu: GpuDevice): Promise<Kernels> {
    return new Kernels(gpu);
  }

  /** Compiles the pipelines that the calls in `record` need, all of them at once; the calls themselves do nothing. */
  async prepare(record: () => void): Promise<void> {
    const compiling = (this.#compiling = new Map<string, Promise<unknown>>());
    try {
      record();
    } finally {
      this.#compiling = undefined;
    }
    await Promise.all(compiling.values());
  }

  /** How rows of a weight lie on the device. */
  weightLayout(type: number, cols: number): WeightLayout {
    return weightLayout(type, cols);
  }

  /** Rows of a weight that one binding may hold. */
  rowsPerBinding(type: number, cols: number): number {
    return Math.floor(this.#gpu.limits.maxStorageBufferBindingSize / weightLayout(type, cols).rowBytes);
  }

  /** Lets go of the buffers that cached bind groups name; call it after destroying buffers. */
  dropBindGroups(): void {
    this.#bindGroups.clear();
  }

  // ---- ops on weights ----

  /** dst (rows, cols) = rows of the weight at `tokens` (u32); ids past the weight give zeros. */
  embed(pass: Pass, { weight, tokens, dst, rows }: { weight: Weight; tokens: Binding; dst: Binding; rows: number }): void {
    const layout = weightLayout(weight.type, weight.cols);
    const units = Math.ceil(weight.cols / UNIT);
    const pipeline = this.#pipeline('embed', 'rrrw', {}, layout.name);
    for (const part of weight.parts) {
      const params = [rows, weight.cols, units, layout.rowBytes / 16, part.row0, part.rows, weight.rows];
      this.#dispatch(pass, pipeline, [part.binding, part.binding, tokens, dst], params, (rows * units * 2) / 64);
    }
  }

  /** dst (rows, weight.rows) = src (rows, weight.cols) @ weight^T. */
  matmul(pass: Pass, { weight, src, dst, rows }: { weight: Weight; src: Binding; dst: Binding; rows: number }): void {
    if (rows === 0) return;
    const layout = weightLayout(weight.type, weight.cols);
    const units = Math.ceil(weight.cols / UNIT);
    const source = weight.cols % UNIT === 0 ? src : this.#padded(pass, src, rows, weight.cols);
    const plan = rows <= MATVEC_ROWS ? this.#matvecPlan(layout.name, units, rows) : this.#tilePlan(layout.name, rows);
    for (const part of weight.parts) {
      const params = [rows, part.rows, units, layout.rowBytes / 16, weight.rows, part.row0, UNIT / 4];
      const groups = Math.ceil(part.rows / plan.outputs) * plan.groupsPerStripe;
      this.#dispatch(pass, plan.pipeline, [part.binding, part.binding, source, dst], params, groups);
    }
  }

  #matvecPlan(block: string, units: number, rows: number): MatmulPlan {
    let lanes = 64; // no more threads than units in a row, so that none idles
    while (lanes > 4 && lanes > units) lanes /= 2;
    const pipeline = this.#pipeline('matvec', 'rrrw', { LANES: lanes }, block);
    return { pipeline, outputs: (64 / lanes) * 4, groupsPerStripe: rows };
  }

  #tilePlan(block: string, rows: number): MatmulPlan {
    let tm = 8;
    while (tm > 1 && rows <= 4 * tm) tm /= 2;
    const pipeline = this.#pipeline('matmul', 'rrrw', { TM: tm }, block);
    return { pipeline, outputs: 64, groupsPerStripe: Math.ceil(rows / (8 * tm)) };
  }

  /** src (rows, cols) with rows of whole units, in a buffer of our own. */
  #padded(pass: Pass, src: Binding, rows: number, cols: number): Binding {
    const padded = roundUp(cols, UNIT);
    const dst = this.#scratchOf('padded rows', rows * padded * 4);
    const pipeline = this.#pipeline('pad', 'rw');
    this.#dispatch(pass, pipeline, [src, dst], [rows, cols, padded], (rows * padded) / 256);
    return dst;
  }

  /** A buffer for what lives between two dispatches; one that became too small is freed once no recorded pass needs it. */
  #scratchOf(label: string, size: number): Binding {
    let buffer = this.#scratch.get(label);
    if (buffer === undefined || buffer.size < size) {
      buffer = this.#gpu.device.createBuffer({ label, size: roundUp(size, 1 << 16), usage: GPU_STORAGE });
      this.#scratch.set(label, buffer);
    }
    return { buffer, offset: 0, size };
  }

  // ---- ops on rows ----

  /** dst = src / sqrt(mean(src^2) + eps) * weight (width,) for each row; dst may be src. */
  rmsnorm(
    pass: Pass,
    { src, weight, dst, rows, width, eps }: { src: Binding; weight: Binding; dst: Binding; rows: number; width: number; eps: number },
  ): void {
    const inPlace = src.buffer === dst.buffer;
    if (inPlace && src.offset !== dst.offset) throw sameBuffer('rmsnorm');
    const pipeline = this.#pipeline('rmsnorm', 'rrw', { IN_PLACE: inPlace });
    this.#dispatch(pass, pipeline, [inPlace ? weight : src, weight, dst], [rows, width, { f32: eps }], rows);
  }

  /** dst (rows, width) += weight (width,). */
  bias(pass: Pass, { dst, weight, rows, width }: { dst: Binding; weight: Binding; rows: number; width: number }): void {
    this.#dispatch(pass, this.#pipeline('bias', 'rw'), [weight, dst], [rows * width, width], (rows * width) / 256);
  }

  /** dst (rows, width) = src at rowsOf (u32). */
  gather(
    pass: Pass,
    { src, dst, rowsOf, rows, width }: { src: Binding; dst: Binding; rowsOf: Binding; rows: number; width: number },
  ): void {
    this.#dispatch(pass, this.#pipeline('gather', 'rrw'), [src, rowsOf, dst], [rows, width], (rows * width) / 256);
  }

  /** dst *= factor, count numbers. */
  scale(pass: Pass, { dst, factor, count }: { dst: Binding; factor: number; count: number }): void {
    this.#dispatch(pass, this.#pipeline('scale', 'w'), [dst], [count, { f32: factor }], count / 256);
  }

  /** dst = cap * tanh(dst / cap), count numbers. */
  softcap(pass: Pass, { dst, cap, count }: { dst: Binding; cap: number; count: number }): void {
    this.#dispatch(pass, this.#pipeline('softcap', 'w'), [dst], [count, { f32: cap }], count / 256);
  }

  /** dst = silu(dst) * src, count numbers. */
  siluMul(pass: Pass, operands: Elementwise): void {
    this.#elementwise(pass, 'silu_mul', operands);
  }

  /** dst = gelu_tanh(dst) * src, count numbers. */
  geluMul(pass: Pass, operands: Elementwise): void {
    this.#elementwise(pass, 'gelu_mul', operands);
  }

  /** dst += src, count numbers. */
  add(pass: Pass, operands: Elementwise): void {
    this.#elementwise(pass, 'add', operands);
  }

  #elementwise(pass: Pass, op: OpName, { dst, src, count }: Elementwise): void {
    if (dst.buffer === src.buffer) throw sameBuffer(op);
    this.#dispatch(pass, this.#pipeline(op, 'rw'), [src, dst], [count], count / 256);
  }

  // ---- positions: rope, KV, attention ----

  /** Cos and sin for the rows of a batch, for all `rope` calls of a step: dst (rows, half, 2) f32; positions u32, turns by `ropeTurns`. */
  ropeTable(
    pass: Pass,
    { positions, turns, dst, rows, half }: { positions: Binding; turns: Binding; dst: Binding; rows: number; half: number },
  ): void {
    const pipeline = this.#pipeline('rope_table', 'rrw');
    this.#dispatch(pass, pipeline, [positions, turns, dst], [rows, half], (rows * half) / 64);
  }

  /** Rotates the first 2 * half dims of each head of dst (rows, heads * headDim). */
  rope(
    pass: Pass,
    { dst, table, rows, heads, headDim, half, neox }:
      { dst: Binding; table: Binding; rows: number; heads: number; headDim: number; half: number; neox: boolean },
  ): void {
    if (half === 0) return;
    const pipeline = this.#pipeline('rope', 'rw');
    this.#dispatch(pass, pipeline, [table, dst], [rows, heads, headDim, half, neox ? 1 : 0], (rows * heads * half) / 64);
  }

  /** Bytes of one page of one pool (K or V) of a layer. */
  static kvPageBytes(headsKv: number, headDim: number, kvType: KvType): number {
    return headsKv * POSITIONS_PER_PAGE * roundUp(headDim, 2) * (kvType === 'f32' ? 4 : 2);
  }

  /** K and V rows into their pools, (pages, headsKv, 16, headDim) each; slots (u32) are page * 16 + position % 16, others are skipped. */
  kvStore(
    pass: Pass,
    { k, v, kPool, vPool, slots, rows, heads, headDim, kvType }: {
      k: Binding; v: Binding; kPool: Binding; vPool: Binding; slots: Binding; rows: number; heads: number; headDim: number;
      kvType: KvType;
    },
  ): void {
    const capacity = Math.floor(kPool.size / Kernels.kvPageBytes(heads, headDim, kvType)) * POSITIONS_PER_PAGE;
    const pipeline = this.#pipeline('kv_store', 'rrrww', { KV_F32: kvType === 'f32' });
    const threads = rows * heads * Math.ceil(headDim / 2);
    this.#dispatch(pass, pipeline, [k, v, slots, kPool, vPool], [rows, heads, headDim, capacity], threads / 64);
  }

  /**
   * dst = softmax(scale * q . K) V, a row seeing the positions of its session up to its own (with `window`: the last ones).
   * `segments` are records of 8 u32: row0, rows, pos0, kv type (0 f16, 1 f32), first entry in pageTable, pages, unused x 2;
   * `rowSegment` (u32) names the record of each row. Rows whose record has another kv type are left alone: call once per type.
   */
  attention(pass: Pass, a: AttentionArguments): void {
    if (a.headDim > MAX_HEAD_DIM) {
      throw new RealmError('unsupported-architecture', `heads of ${a.headDim} dims; the WebGPU kernels take ${MAX_HEAD_DIM}`);
    }
    const { quarter, blockRows, splits, groups } = attentionPlan(a);
    const f32 = a.kvType === 'f32';
    const constants = { KV_F32: f32, QUARTER: quarter, CHUNKS: Math.ceil(a.headDim / 64) };
    const pipeline = this.#pipeline('attention', 'rrrrrrw', constants);
    const params = [
      a.rows, a.heads, a.headsKv, a.headDim, a.window, f32 ? 1 : 0, { f32: a.scale }, { f32: a.softcap }, blockRows, splits,
    ];
    const parts = splits > 1 ? this.#scratchOf('parts', a.rows * a.heads * splits * (a.headDim + 2) * 4) : a.dst;
    const buffers = [a.q, a.kPool, a.vPool, a.pageTable, a.segments, a.rowSegment, parts];
    this.#dispatch(pass, pipeline, buffers, params, groups);
    if (splits === 1) return;
    const merge = this.#pipeline('attention_merge', 'rrrw');
    const sizes = [a.rows, a.heads, a.headDim, splits, f32 ? 1 : 0];
    this.#dispatch(pass, merge, [parts, a.segments, a.rowSegment, a.dst], sizes, a.rows * a.heads);
  }

  // ---- recording ----

  /** Records `groups` workgroups (rounded up); the parameter block is bound by dynamic offset. */
  #dispatch(pass: Pass, pipeline: CachedPipeline, buffers: Binding[], parameters: Parameter[], groups: number): void {
    if (groups === 0 || this.#compiling) return;
    const block = this.#parameters.block(parameters);
    pass.setPipeline(pipeline.pipeline);
    pass.setBindGroup(0, this.#bindGroup(pipeline, buffers, block.buffer), [block.offset]);
    const [x, y] = split(Math.ceil(groups), this.#gpu.limits.maxComputeWorkgroupsPerDimension);
    pass.dispatchWorkgroups(x, y);
  }

  #bindGroup(pipeline: CachedPipeline, buffers: Binding[], parameters: GPUBuffer): GPUBindGroup {
    let key = `${pipeline.access}:${this.#bufferId(parameters)}`;
    for (const b of buffers) key += `,${this.#bufferId(b.buffer)}+${b.offset}+${b.size}`;
    const found = this.#bindGroups.get(key);
    if (found !== undefined) return found;
    if (this.#bindGroups.size >= MAX_CACHED_BIND_GROUPS) this.#bindGroups.clear();
    const entries: GPUBindGroupEntry[] = buffers.map((b, binding) => ({
      binding,
      resource: { buffer: b.buffer, offset: b.offset, size: roundUp(b.size, 4) },
    }));
    entries.push({ binding: buffers.length, resource: { buffer: parameters, size: ParameterBlocks.BYTES } });
    const group = this.#gpu.device.createBindGroup({ layout: this.#layout(pipeline.access), entries });
    this.#bindGroups.set(key, group);
    return group;
  }

  #bufferId(buffer: GPUBuffer): number {
    let id = this.#bufferIds.get(buffer);
    if (id === undefined) this.#bufferIds.set(buffer, (id = this.#nextBufferId++));
    return id;
  }

  #pipeline(op: OpName, access: string, constants: Record<string, number | boolean> = {}, block?: string): CachedPipeline {
    const label = `${op}${block === undefined ? '' : ` ${block}`}`;
    const key = `${label} ${Object.values(constants).join()}`;
    let pipeline = this.#pipelines.get(key);
    if (pipeline === undefined) {
      const { device } = this.#gpu;
      const layout = device.createPipelineLayout({ bindGroupLayouts: [this.#layout(access)] });
      const numbers = Object.fromEntries(Object.entries(constants).map(([name, value]) => [name, Number(value)]));
      const compute = { module: this.#module(label, op, block), entryPoint: 'main', constants: numbers };
      const wanted = { label: key, layout, compute };
      if (this.#compiling) this.#compile(key, wanted);
      else this.#pipelines.set(key, (pipeline = device.createComputePipeline(wanted)));
    }
    return { pipeline: pipeline as GPUComputePipeline, access }; // there is none yet where nothing is dispatched
  }

  #compile(key: string, wanted: GPUComputePipelineDescriptor): void {
    if (this.#compiling!.has(key)) return;
    const compiled = this.#gpu.device.createComputePipelineAsync(wanted);
    this.#compiling!.set(key, compiled.then((pipeline) => this.#pipelines.set(key, pipeline)));
  }

  #module(label: string, op: OpName, block?: string): GPUShaderModule {
    let module = this.#modules.get(label);
    if (module === undefined) {
      module = this.#gpu.device.createShaderModule({ label, code: kernelText(op, block) });
      this.#modules.set(label, module);
    }
    return module;
  }

  /** Explicit, because an automatic layout leaves out bindings that a block type does not use. */
  #layout(access: string): GPUBindGroupLayout {
    let layout = this.#layouts.get(access);
    if (layout === undefined) {
      const entries: GPUBindGroupLayoutEntry[] = [...access].map((kind, binding) => ({
        binding,
        visibility: GPU_COMPUTE,
        buffer: { type: (kind as Access) === 'w' ? 'storage' : 'read-only-storage' },
      }));
      const parameters: GPUBufferBindingLayout = { type: 'uniform', hasDynamicOffset: true };
      entries.push({ binding: access.length, visibility: GPU_COMPUTE, buffer: parameters });
      layout = this.#gpu.device.createBindGroupLayout({ label: access, entries });
      this.#layouts.set(access, layout);
    }
    return layout;
  }
}

export interface Elementwise {
  dst: Binding;
  src: Binding;
  count: number;
}

export interface AttentionArguments {
  q: Binding;
  dst: Binding;
  kPool: Binding;
  vPool: Binding;
  pageTable: Binding;
  segments: Binding;
  rowSegment: Binding;
  rows: number;
  heads: number;
  headsKv: number;
  headDim: number;
  /** 0: all positions. */
  window: number;
  scale: number;
  /** 0: none. */
  softcap: number;
  kvType: KvType;
  /** The most positions that a session of the batch has; tells whether few rows are worth splitting. Absent: they are not. */
  longest?: number;
}

interface AttentionPlan {
  quarter: number;
  /** Rows of a workgroup. */
  blockRows: number;
  /** Workgroups that share the positions of a row. */
  splits: number;
  groups: number;
}

/** Many rows: tiles of 16 queries. Few: a workgroup per row and KV head, and positions split until the device has work. */
function attentionPlan({ rows, heads, headsKv, window, longest = 0 }: AttentionArguments): AttentionPlan {
  const shared = heads / headsKv;
  const many = rows > ATTENTION_FEW_ROWS;
  const quarter = many || shared > 4 ? 4 : 1;
  const blockRows = many ? Math.max(1, Math.floor((4 * quarter) / shared)) : 1;
  const groups = Math.ceil(rows / blockRows) * headsKv * Math.ceil(shared / (4 * quarter));
  const positions = window === 0 ? longest : Math.min(longest, window);
  let splits = 1;
  while (groups * splits < ATTENTION_GROUPS && positions > splits * ATTENTION_POSITIONS) splits *= 2;
  return { quarter, blockRows, splits, groups: groups * splits };
}

interface CachedPipeline {
  pipeline: GPUComputePipeline;
  access: string;
}

interface MatmulPlan {
  pipeline: CachedPipeline;
  /** Weight rows of a workgroup. */
  outputs: number;
  /** Workgroups that share these rows. */
  groupsPerStripe: number;
}

// The flags as numbers: the global objects that name them do not exist in Node.
const GPU_COMPUTE = 4;
const GPU_COPY_DST = 8;
const GPU_UNIFORM = 64;
const GPU_STORAGE = 128;

/** Frequencies in radians per position -> 64-bit fractions of a turn (u32 pairs, upper word first) for `ropeTable`. */
export function ropeTurns(frequencies: ArrayLike<number>): Uint32Array {
  const words = new Uint32Array(2 * frequencies.length);
  for (let i = 0; i < frequencies.length; i++) {
    const turns = frequencies[i]! / (2 * Math.PI);
    const upper = (turns - Math.floor(turns)) * 2 ** 32;
    words[2 * i] = Math.floor(upper);
    words[2 * i + 1] = Math.floor((upper - Math.floor(upper)) * 2 ** 32);
  }
  return words;
}

/** Folds a row of workgroups that is too long for one dimension. Kernels get some too many and leave them. */
function split(groups: number, most: number): [number, number] {
  if (groups <= most) return [groups, 1];
  const y = Math.ceil(groups / most);
  return [Math.ceil(groups / y), y];
}

function sameBuffer(op: string): RealmError {
  return new RealmError('invalid-argument', `${op}: src and dst lie in the same buffer`);
}

/** Parameter blocks by content: written once, never changed, so a step that repeats the last one uploads nothing. */
class ParameterBlocks {
  static readonly BYTES = 48;
  readonly #gpu: GpuDevice;
  readonly #stride: number;
  readonly #offsets = new Map<string, number>();
  #buffer: GPUBuffer | undefined;

  constructor(gpu: GpuDevice) {
    this.#gpu = gpu;
    this.#stride = roundUp(ParameterBlocks.BYTES, gpu.limits.minUniformBufferOffsetAlignment);
  }

  block(parameters: Parameter[]): { buffer: GPUBuffer; offset: number } {
    const words = new Uint32Array(ParameterBlocks.BYTES / 4);
    const floats = new Float32Array(words.buffer);
    parameters.forEach((value, i) => {
      if (typeof value === 'number') words[i] = value;
      else floats[i] = value.f32;
    });
    const key = words.join();
    let offset = this.#offsets.get(key);
    if (offset === undefined || this.#buffer === undefined) {
      offset = this.#append(words);
      this.#offsets.set(key, offset);
    }
    return { buffer: this.#buffer!, offset };
  }

  /** A full buffer is left to the passes that use it: blocks of recorded passes must not change. */
  #append(words: Uint32Array<ArrayBuffer>): number {
    const size = PARAMETER_BLOCKS * this.#stride;
    if (this.#buffer === undefined || this.#offsets.size === PARAMETER_BLOCKS) {
      this.#offsets.clear();
      this.#buffer = this.#gpu.device.createBuffer({ label: 'parameters', size, usage: GPU_UNIFORM | GPU_COPY_DST });
    }
    const offset = this.#offsets.size * this.#stride;
    this.#gpu.device.queue.writeBuffer(this.#buffer, offset, words);
    return offset;
  }
}
