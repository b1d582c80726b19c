// The platform over core.wasm: one instance of the core, its engines and their models, in the thread that runs the event loop.
//
// The core has no thread of its own here: an engine computes in slices of a few milliseconds, and between two turns of the event
// loop messages, cancellations and guests get in. Guests that decode act on their completions in microtasks, before the next
// turn: so their sessions step together.

import * as layout from '../_generated/core.js';
import { readPlanHeader } from '../_generated/records.js';
import { checkSignal, RealmError } from '../errors.js';
import { limitName } from '../host_results.js';
import { Loading } from '../loading.js';
import type { CheckedEngineOptions, ResourceLimits } from '../options.js';
import type { EngineHost, EngineStats, HostLoadOptions, ModelHost, Platform, TenantStats } from '../platform.js';
import type { ModelInput } from '../port.js';
import type { ModelSource, OpenSource } from '../source.js';
import { WasmContext, type ContextOwner } from './context.js';
import { Core, coreImports, sharedMemory } from './core.js';
import { isShared } from './features.js';
import { Batches, type GpuExecutor } from './gpu.js';
import { modelPlan, ModelLoader } from './loader.js';
import { LoadedModel, WasmModel } from './model.js';
import { Threads, type SpawnThread } from './threads.js';

const NEVER_DUE = (1n << 64n) - 1n;
const LONGEST_WAIT_MS = 60_000;
const TURN_MS = 8; // how long the event loop may wait
const SLICE_MS = 4; // of one call into the core
const FIRST_BUDGET = 2 ** 21; // multiply-adds: a slice even on a slow machine
const LARGEST_BUDGET = 2 ** 32;
const KV_BYTES = 2 ** 30; // as far as the memory has room
const BATCH_ROWS = 128; // of a step computed here: logits and activations of more would take memory that weights need
const COMPLETIONS = 256;
const BUSY_INSIDE_A_STEP = 2;

export interface WasmPlatformOptions {
  /** A build of the core: features.ts says which suits this machine. */
  module: WebAssembly.Module;
  /** Most compute threads, this one included. More than one needs a build with threads, and `spawn`. */
  threads?: number;
  spawn?: SpawnThread;
  /** Opens the GPU that computes instead of this module; again after it was lost, when the next model is loaded. */
  gpu?: () => Promise<GpuExecutor>;
  /** The bytes of the standard guest. */
  guest: Uint8Array;
  demoModel: ModelInput;
  open: OpenSource;
}

export interface WasmPlatform extends Platform {
  /** Compute threads, this one included. */
  readonly threads: number;
  /** Frees the core and all that is in it; nothing made by this platform may be used afterwards. */
  dispose(): void;
}

/** Threads that cannot be had are done without; a GPU that cannot be had is the error of its opening. */
export async function openWasmPlatform(options: WasmPlatformOptions): Promise<WasmPlatform> {
  const device = options.gpu && new Device(options.gpu);
  await device?.executor();
  const { module } = options;
  const memory = isShared(module) ? sharedMemory() : undefined;
  const core = new Core(await WebAssembly.instantiate(module, coreImports(memory)), memory);
  const threads = new Threads(core.exports);
  if (memory && options.spawn) await threads.start(module, memory, (options.threads ?? 1) - 1, options.spawn);
  return new CorePlatform(core, threads, device, options);
}

class CorePlatform implements WasmPlatform {
  readonly threads: number;
  readonly #engines = new Map<string, WasmEngine>();

  constructor(
    private readonly core: Core,
    private readonly workers: Threads,
    private readonly device: Device | undefined,
    private readonly options: WasmPlatformOptions,
  ) {
    this.threads = workers.free + 1;
  }

  /** One for each set of options. The first that wants threads has them. */
  engine({ threads, features, executor }: CheckedEngineOptions): EngineHost {
    const key = `${threads} ${features} ${executor}`;
    let engine = this.#engines.get(key);
    if (!engine) {
      const own = { features, executor, threads: Math.min(threads || this.threads, this.workers.free + 1) };
      this.#engines.set(key, (engine = new WasmEngine(this.core, own, this.options.open, this.device)));
    }
    return engine;
  }

  standardGuest(): Uint8Array {
    return this.options.guest;
  }

  demoModel(): ModelInput {
    return this.options.demoModel;
  }

  defer(run: () => void): void {
    later(run);
  }

  dispose(): void {
    for (const engine of this.#engines.values()) engine.close();
    this.#engines.clear();
    this.workers.stop();
    this.device?.close();
  }
}

/** The GPU of a platform, and which of its models are where. */
class Device {
  #current: Promise<GpuExecutor> | undefined;
  readonly #models = new Map<number, GpuExecutor>(); // by the id of their plan

  constructor(private readonly open: () => Promise<GpuExecutor>) {}

  executor(): Promise<GpuExecutor> {
    return (this.#current ??= this.open());
  }

  of(model: number): GpuExecutor | undefined {
    return this.#models.get(model);
  }

  async add(plan: Uint8Array, loader: ModelLoader, options: HostLoadOptions): Promise<number> {
    const id = readPlanHeader(new DataView(plan.buffer, plan.byteOffset, plan.byteLength), 0).model;
    const executor = await this.executor();
    try {
      await executor.addModel(plan, loader.shards, { progress: options.progress, signal: options.signal });
    } catch (problem) {
      if (problem instanceof RealmError && problem.code === 'device-lost') this.lost();
      throw problem;
    }
    this.#models.set(id, executor);
    return id;
  }

  remove(model: number): void {
    this.#models.get(model)?.removeModel(model);
    this.#models.delete(model);
  }

  /** Nothing on it is left; the next model opens another. */
  lost(): void {
    this.#current = undefined;
    this.#models.clear();
  }

  get bytes(): number {
    return [...new Set(this.#models.values())].reduce((sum, executor) => sum + executor.bytes, 0);
  }

  close(): void {
    void this.#current?.then((executor) => executor.destroy(), () => undefined);
    this.lost();
  }
}

// ---- engines ----

class WasmEngine implements EngineHost, ContextOwner {
  readonly runtime: number;
  readonly #contexts = new Map<number, { context: WasmContext; moved: () => void }>();
  readonly #models = new Map<string, LoadedModel>();
  readonly #loading = new Map<string, Loading<LoadedModel>>();
  readonly #completions: number;
  readonly #pace = new Pace();
  readonly #batches: Batches | undefined;
  #serial = 0;
  #due: ReturnType<typeof setTimeout> | undefined;
  #lostDevices = 0; // in keys of models: a guest must not take one that is loaded again for the one that was lost
  #scheduled = false;
  #closed = false;

  constructor(
    readonly core: Core,
    options: Pick<CheckedEngineOptions, 'threads' | 'features' | 'executor'>,
    private readonly open: OpenSource,
    private readonly device: Device | undefined,
  ) {
    const at = core.begin().room(layout.REALM_RUNTIME_OPTIONS_SIZE);
    const own = { noDriver: 1, hostClock: 0, fakeStepNs: 0n, fakeRowNs: 0n, fakePositionNs: 0n, batchRows: device ? 0 : BATCH_ROWS, kvBytes: BigInt(KV_BYTES) };
    const executor = device && options.executor === layout.REALM_EXECUTOR_CPU ? layout.REALM_EXECUTOR_EXTERNAL : options.executor;
    layout.writeCoreRuntimeOptions(core.view, at, { ...options, ...own, executor });
    core.check(core.exports.realm_runtime_create(at, core.out, core.error));
    this.runtime = core.result;
    this.#completions = core.exports.realm_wasm_alloc(COMPLETIONS * layout.REALM_COMPLETION_SIZE) >>> 0;
    if (this.#completions === 0) throw new RealmError('out-of-memory', 'no memory for an engine');
    if (executor !== layout.REALM_EXECUTOR_EXTERNAL) return;
    const computes = (model: number): GpuExecutor | undefined => device?.of(model);
    this.#batches = new Batches(core, this.runtime, computes, (failure) => this.#batchEnded(failure));
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#due);
    for (const { context } of [...this.#contexts.values()]) context.close();
    this.core.exports.realm_runtime_destroy(this.runtime);
    this.core.exports.realm_wasm_free(this.#completions);
    this.#batches?.close();
  }

  context(tenant: bigint, limits: Required<ResourceLimits>, moved: () => void): WasmContext {
    const serial = ++this.#serial;
    const context = new WasmContext(this, serial, tenant, limits);
    this.#contexts.set(serial, { context, moved });
    return context;
  }

  left(serial: number): void {
    this.#contexts.delete(serial);
  }

  stats(): EngineStats {
    const { core, runtime } = this;
    const at = core.begin().room(layout.REALM_RUNTIME_STATS_SIZE);
    core.exports.realm_runtime_get_stats(runtime, at);
    const found = layout.readCoreRuntimeStats(core.view, at);
    return {
      kernels: core.text(core.exports.realm_runtime_kernels(runtime)),
      threads: core.exports.realm_runtime_threads(runtime),
      steps: Number(found.steps),
      rows: Number(found.rows),
      stepNanoseconds: Number(found.stepNs),
      prefixHits: Number(found.prefixHits),
      kvBytesUsed: Number(found.kvBytesUsed),
      kvBytesLimit: Number(found.kvBytesLimit),
      memoryBytes: core.bytes.length,
      ...(this.device && { deviceBytes: this.device.bytes }),
    };
  }

  tenantStats(tenant: bigint): TenantStats {
    const { core, runtime } = this;
    const at = core.begin().room(layout.REALM_TENANT_STATS_SIZE);
    core.exports.realm_tenant_get_stats(runtime, tenant, at);
    const { waitedNs, retryAfterNs, ...found } = layout.readCoreTenantStats(core.view, at);
    return {
      running: Number(found.running),
      queued: Number(found.queued),
      sessions: Number(found.sessions),
      kvTokens: Number(found.kvTokens),
      requests: Number(found.requests),
      tokensPrompt: Number(found.tokensPrompt),
      tokensGenerated: Number(found.tokensGenerated),
      waitedSeconds: Number(waitedNs) / 1e9,
      retryAfter: Number(retryAfterNs) / 1e9,
      refused: found.refused > 0n ? this.#refusals(tenant) : {},
    };
  }

  #refusals(tenant: bigint): Record<string, number> {
    const { core, runtime } = this;
    const counts: Record<string, number> = {};
    for (let kind = 1; ; kind++) {
      const name = core.text(core.exports.realm_limit_name(kind));
      if (name === '') return counts;
      const count = Number(core.exports.realm_tenant_refused(runtime, tenant, kind));
      if (count > 0) counts[limitName(name)] = count;
    }
  }

  /** While there is something to compute, a turn is scheduled: that keeps an event loop going. */
  running(): void {}

  // ---- models ----

  find(key: string): ModelHost | undefined {
    const found = this.#models.get(key);
    return found && new WasmModel(found.retain());
  }

  /** The same bytes under the same options are loaded once. */
  async load(input: ModelInput, options: HostLoadOptions): Promise<ModelHost> {
    checkSignal(options.signal);
    const { download, transfer, notice, signal } = options;
    const sources = await this.open(input, { ...download, transfer, notice, signal });
    try {
      return await this.#share(sources, options);
    } finally {
      for (const source of sources) source.close(); // but for those that a loading took
    }
  }

  async #share(sources: ModelSource[], options: HostLoadOptions): Promise<ModelHost> {
    const names = sources.map((source) => source.key);
    const key = JSON.stringify([names, options.mode, options.contextLength, options.kvType, this.#lostDevices]);
    const found = this.find(key);
    if (found) {
      options.progress?.(1);
      return found;
    }
    const under = this.#loading.get(key);
    const loading = under && !under.abandoned ? under : this.#begin(key, sources.splice(0), options);
    return loading.wait(options, (loaded) => new WasmModel(loaded.retain()));
  }

  #begin(key: string, sources: ModelSource[], options: HostLoadOptions): Loading<LoadedModel> {
    const loading = new Loading((progress, signal) => this.#read(key, sources, { ...options, progress, signal }));
    this.#loading.set(key, loading);
    const drop = (): void => {
      if (this.#loading.get(key) === loading) this.#loading.delete(key);
    };
    const release = (loaded: LoadedModel): void => {
      drop();
      queueMicrotask(() => loaded.release()); // when the others took theirs
    };
    void loading.done.then(release, drop);
    return loading;
  }

  async #read(key: string, sources: ModelSource[], options: HostLoadOptions): Promise<LoadedModel> {
    try {
      if (sources.length === 0) throw new RealmError('not-found', 'a model has at least one file');
      const loader = new ModelLoader(this.core, this.runtime, sources, options, () => new Promise(later));
      const loaded = await this.#place(key, loader, options);
      this.#models.set(key, loaded);
      return loaded;
    } finally {
      for (const source of sources) source.close();
    }
  }

  /** The weights go where they are computed with; nowhere when they are not wanted. */
  async #place(key: string, loader: ModelLoader, options: HostLoadOptions): Promise<LoadedModel> {
    let loaded: LoadedModel | undefined;
    const forget = (): void => {
      if (this.#models.get(key) === loaded) this.#models.delete(key); // another may be there since the device was lost
    };
    return (loaded = await this.#placed(key, loader, options, forget));
  }

  async #placed(key: string, loader: ModelLoader, options: HostLoadOptions, forget: () => void): Promise<LoadedModel> {
    if (options.mode === 'full' && !this.#batches) return new LoadedModel(this.core, await loader.intoMemory(), key, forget);
    const address = await loader.directories();
    if (options.mode !== 'full' || !this.device) return new LoadedModel(this.core, address, key, forget);
    try {
      const { device } = this;
      const id = await device.add(modelPlan(this.core, address), loader, options);
      return new LoadedModel(this.core, address, key, () => {
        forget();
        this.#batches!.between(() => device.remove(id));
      });
    } catch (problem) {
      this.core.exports.realm_model_close(address);
      throw problem;
    }
  }

  // ---- computing ----

  work(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    later(() => this.#turn());
  }

  /** With a GPU only products of host tensors are computed in turns, and batches beside them. */
  #turn(): void {
    this.#scheduled = false;
    if (this.#closed) return;
    this.#batches?.work();
    const end = performance.now() + TURN_MS;
    let busy = 0;
    let moved = false;
    do {
      busy = this.#step();
      moved = this.#deliver();
    } while (busy !== 0 && !moved && performance.now() < end);
    if (busy !== 0) this.work();
    else this.#workWhenDue();
  }

  /** Work that a tenant's rate holds back goes on by itself. */
  #workWhenDue(): void {
    clearTimeout(this.#due);
    const wait = BigInt.asUintN(64, this.core.exports.realm_runtime_next_due(this.runtime));
    if (wait >= NEVER_DUE) return;
    this.#due = setTimeout(() => this.work(), Math.min(Number(wait) / 1e6 + 1, LONGEST_WAIT_MS));
  }

  async #batchEnded(failure: RealmError | undefined): Promise<void> {
    if (this.#closed) return;
    if (failure?.code === 'device-lost') this.#deviceLost();
    this.#deliver();
    await new Promise<void>(later);
  }

  /** Who loads a model again gets it on a new device. */
  #deviceLost(): void {
    this.#lostDevices++;
    this.device?.lost();
    this.#models.clear();
  }

  #step(): number {
    const { core, runtime } = this;
    const start = performance.now();
    core.check(core.exports.realm_runtime_step(runtime, 0n, this.#pace.budget, core.out, core.error));
    const busy = core.result;
    this.#pace.took(performance.now() - start, busy === BUSY_INSIDE_A_STEP);
    return busy;
  }

  /** Tells every context that something of its own has moved; whether there was any. */
  #deliver(): boolean {
    const { core } = this;
    const moved = new Set<number>();
    for (let count = COMPLETIONS; count === COMPLETIONS; ) {
      count = core.exports.realm_runtime_wait(this.runtime, this.#completions, COMPLETIONS, 0n);
      for (let i = 0; i < count; i++) {
        const at = this.#completions + i * layout.REALM_COMPLETION_SIZE;
        moved.add(Number(layout.readCoreCompletion(core.view, at).tag));
      }
    }
    for (const serial of moved) this.#contexts.get(serial)?.moved();
    return moved.size > 0;
  }
}

/** Finds how much work takes a slice's time on this machine. */
class Pace {
  #budget = FIRST_BUDGET;

  get budget(): bigint {
    return BigInt(Math.round(this.#budget));
  }

  /** A step that came to its end says nothing of how much more would have fitted. */
  took(ms: number, cut: boolean): void {
    if (!cut && ms <= SLICE_MS) return;
    const change = Math.min(2, Math.max(0.5, SLICE_MS / Math.max(ms, 0.1)));
    this.#budget = Math.min(LARGEST_BUDGET, Math.max(FIRST_BUDGET, this.#budget * change));
  }
}

// ---- turns of the event loop ----

type SetImmediate = (run: () => void) => unknown;

/** Runs a function after the events that wait already. Timers are no use: browsers hold them back by 4 ms. */
const later: (run: () => void) => void = makeLater();

function makeLater(): (run: () => void) => void {
  const { setImmediate } = globalThis as { setImmediate?: SetImmediate };
  if (setImmediate) return (run) => void setImmediate(run);
  const waiting: (() => void)[] = [];
  const channel = new MessageChannel();
  channel.port1.onmessage = () => waiting.shift()?.();
  return (run) => {
    waiting.push(run);
    channel.port2.postMessage(0);
  };
}
