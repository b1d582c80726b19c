// Node's side of what js/src/platform.ts asks for: engines, models and contexts over the native addon.

import { promises as fs, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import {
  InterfaceError,
  readToken,
  SAMPLING_SIZE,
  TICKET_STATES,
  TOKEN_SIZE,
  writeSampling,
  type CacheInfo,
  type ErrorCode,
  type ModelProperties,
  type Packed,
  type Sampling,
  type TicketState,
  type Token,
} from '../../js/src/_generated/abi.js';
import { workOf, type Work } from '../../js/src/drawn.js';
import { checkSignal, isErrorCode, RealmError } from '../../js/src/errors.js';
import { codeOf, GrantedModels, limitError, limitName } from '../../js/src/host_results.js';
import { Loading } from '../../js/src/loading.js';
import { KV_TYPES, limitsTenant, type CheckedEngineOptions, type ResourceLimits, type Urgency } from '../../js/src/options.js';
import type { ContextHost, EngineHost, EngineStats, HostLoadOptions, ModelHost } from '../../js/src/platform.js';
import type { ModelInfo, Platform, TenantStats } from '../../js/src/platform.js';
import type { ModelInput } from '../../js/src/port.js';
import { dispatcher, type Addon, type Dispatcher } from './addon.js';
import { refuseDownloads } from './source.js';

const LOAD_MODES = { full: 0, vocab: 1, header: 2 };
const ADD_SPECIAL = 1;
const PARSE_SPECIAL = 2;
const WRITE_SPECIAL = 1;
const TEXT_START = 2;
const KV_OF_MODEL = 2; // REALM_KV_MODEL
const STREAM_MS = 8; // tokens of so much time are told together
const PATIENT_MS = 50;

const decoder = new TextDecoder();

// ---- errors ----

/** A value or handle; a failed status becomes the error of a result. */
function checked<Value>(value: Value | number): Value {
  if (typeof value === 'number' && value < 0) throw new InterfaceError(codeOf(-value));
  return value as Value;
}

/** The addon's errors with their code as a RealmError. */
function typed(problem: unknown, prefix = ''): RealmError {
  if (problem instanceof RealmError) return problem;
  const { code, message } = problem as { code?: unknown; message: string };
  return new RealmError(isErrorCode(code) ? code : 'internal', prefix + message, { cause: problem });
}

function guarded<Value>(action: () => Value): Value {
  try {
    return action();
  } catch (problem) {
    throw typed(problem);
  }
}

// ---- models ----

class NodeModel implements ModelHost {
  readonly info: ModelInfo;

  constructor(
    private readonly engine: NodeEngine,
    readonly handle: number,
    readonly key: string,
    info?: ModelInfo,
  ) {
    this.info = info ?? (engine.addon.modelInfo(handle) as ModelInfo);
  }

  encode(text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Uint32Array {
    const flags = (addSpecial ? ADD_SPECIAL : 0) | (parseSpecial ? PARSE_SPECIAL : 0);
    return guarded(() => this.engine.addon.modelEncode(this.handle, text, flags));
  }

  decode(ids: Uint32Array, special: boolean, textStart: boolean): Uint8Array {
    const flags = (special ? WRITE_SPECIAL : 0) | (textStart ? TEXT_START : 0);
    return guarded(() => this.engine.addon.modelDecode(this.handle, ids, flags));
  }

  describe(): string {
    return decoder.decode(guarded(() => this.engine.addon.modelDescribe(this.handle)));
  }

  string(key: string): string | undefined {
    const found = guarded(() => this.engine.addon.modelString(this.handle, key));
    return found && decoder.decode(found);
  }

  unpublish(prefix: number): void {
    const status = this.engine.addon.modelUnpublish(this.handle, prefix);
    if (status !== 0) throw new RealmError(codeOf(-status), `the model has no public prefix ${prefix}`);
  }

  share(): ModelHost {
    const handle = guarded(() => this.engine.addon.modelShare(this.handle));
    return new NodeModel(this.engine, handle, this.key, this.info);
  }

  close(): void {
    this.engine.addon.modelClose(this.handle);
  }
}

// ---- contexts ----

/** In the order of the addon. */
function limitValues(limits: Required<ResourceLimits>): Float64Array {
  const { sessions, tickets, tensorBytes, weight, concurrentRequests, queueLength, contextLength } = limits;
  const { kvTokens, tokensPerSecond, tokensPerMinute } = limits;
  return new Float64Array([
    sessions, tickets, tensorBytes, weight, concurrentRequests, queueLength, contextLength, kvTokens, tokensPerSecond, tokensPerMinute,
  ]);
}

class NodeContext implements ContextHost {
  private readonly addon: Addon;
  private readonly handle: number;
  private readonly serial: number;
  private readonly models = new GrantedModels();
  private readonly params = new Uint8Array(SAMPLING_SIZE);
  private readonly paramsView = new DataView(this.params.buffer);
  private readonly token = new Uint8Array(TOKEN_SIZE);
  private readonly tokenView = new DataView(this.token.buffer);

  constructor(
    private readonly dispatch: Dispatcher,
    runtime: number,
    tenant: bigint,
    limits: Required<ResourceLimits>,
    moved: () => void,
  ) {
    this.addon = dispatch.addon;
    this.serial = dispatch.add(moved);
    try {
      this.handle = this.addon.contextCreate(runtime, this.serial, tenant, limitValues(limits), limitsTenant(limits) ? 1 : 0);
    } catch (problem) {
      dispatch.remove(this.serial);
      throw typed(problem);
    }
    this.patient(true);
  }

  close(): void {
    this.dispatch.remove(this.serial);
    this.addon.contextClose(this.handle);
    this.models.clear();
  }

  grant(model: ModelHost): number {
    try {
      return this.models.add(model as NodeModel, (shared) => checked(this.addon.contextGrant(this.handle, shared.handle)));
    } catch (problem) {
      throw typed(problem);
    }
  }

  revoke(model: number): void {
    this.addon.contextRevoke(this.handle, model);
    this.models.remove(model);
  }

  openTickets(): number {
    return this.addon.openTickets(this.handle);
  }

  modelInfo(model: number): ModelProperties {
    return this.models.modelInfo(model);
  }

  encode(model: number, text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Uint32Array {
    return this.models.encode(model, text, addSpecial, parseSpecial);
  }

  decode(model: number, tokens: Uint32Array, special: boolean, textStart: boolean): Uint8Array {
    return this.models.decode(model, tokens, special, textStart);
  }

  sessionOpen(model: number, { priority, deadline }: Urgency = { priority: 0, deadline: 0 }): number {
    return checked(this.addon.sessionOpen(this.handle, model, KV_OF_MODEL, 0, 0, priority, Math.ceil(deadline * 1e9)));
  }

  setLimits(limits: Required<ResourceLimits>): void {
    checked(this.addon.contextSetLimits(this.handle, limitValues(limits)));
  }

  refusal(): RealmError | undefined {
    const found = this.addon.contextRefusal(this.handle);
    return found && limitError(codeOf(found.status), found.message, found.limit, found.value, found.retryAfter);
  }

  sessionOpenPrivate(model: number): number {
    return checked(this.addon.sessionOpen(this.handle, model, KV_OF_MODEL, 0, 1, 0, 0));
  }

  publish(session: number): { prefix: number; tokens: number } {
    const [prefix = 0, tokens = 0] = checked<Uint32Array>(this.addon.sessionPublish(this.handle, session)) as Uint32Array;
    return { prefix, tokens };
  }

  sessionOpenExact(model: number): number {
    return checked(this.addon.sessionOpen(this.handle, model, KV_TYPES.f32, 0, 1, 0, 0));
  }

  sessionClose(session: number): void {
    this.addon.sessionClose(this.handle, session);
  }

  sessionPosition(session: number): number {
    return checked(this.addon.sessionPosition(this.handle, session));
  }

  sessionRewind(session: number, position: number): number {
    checked(this.addon.sessionRewind(this.handle, session, position));
    return position;
  }

  patient(nobody: boolean): void {
    this.addon.holdProgress(this.handle, nobody ? PATIENT_MS : STREAM_MS);
  }

  forward(session: number, tokens: Uint32Array): number {
    this.dispatch.submitting();
    return checked(this.addon.forward(this.handle, session, tokens));
  }

  forwardLayers(session: number, first: number, count: number, tokens: Uint32Array): number {
    return checked(this.addon.forwardLayers(this.handle, session, first, count, tokens));
  }

  score(session: number, tokens: Uint32Array): number {
    return checked(this.addon.score(this.handle, session, tokens));
  }

  forwardLogits(model: number, session: number, tokens: Uint32Array): number {
    return checked(this.addon.forwardLogits(this.handle, model, session, tokens));
  }

  sample(session: number, params: Sampling, biases: Packed): Token {
    writeSampling(this.paramsView, 0, params);
    checked(this.addon.sample(this.handle, session, this.params, biases, this.token));
    return readToken(this.tokenView, 0);
  }

  generate(session: number, tokens: Uint32Array, params: Sampling, biases: Packed, maxTokens: number): number {
    writeSampling(this.paramsView, 0, params);
    this.dispatch.submitting();
    return checked(this.addon.generate(this.handle, session, tokens, this.params, biases, maxTokens));
  }

  /** A handle that is no ticket has failed. */
  ticketReady(ticket: number): TicketState {
    return TICKET_STATES[this.addon.ticketState(this.handle, ticket)] ?? 'failed';
  }

  ticketError(ticket: number): ErrorCode {
    const status = this.addon.ticketError(this.handle, ticket);
    return status < 0 ? codeOf(-status) : 'invalid-argument'; // asked although nothing failed
  }

  ticketTokens(ticket: number): Packed {
    return checked(this.addon.ticketTokens(this.handle, ticket));
  }

  ticketScores(ticket: number): Float32Array {
    return checked(this.addon.ticketScores(this.handle, ticket));
  }

  ticketLogits(ticket: number): Float32Array {
    return checked(this.addon.ticketLogits(this.handle, ticket));
  }

  likeliest(session: number, count: number): Packed {
    return checked(this.addon.likeliest(this.handle, session, count));
  }

  ticketWork(ticket: number): Work | undefined {
    const found = this.addon.ticketWork(this.handle, ticket);
    if (typeof found === 'number') return undefined;
    const [queued = 0n, prefill = 0n, decode = 0n, step = 0n, steps = 0n, rows = 0n] = found;
    return workOf(queued, prefill, decode, step, steps, rows);
  }

  ticketTensor(ticket: number): number {
    return checked(this.addon.ticketTensor(this.handle, ticket));
  }

  ticketCancel(ticket: number): void {
    this.addon.ticketCancel(this.handle, ticket);
  }

  ticketDrop(ticket: number): void {
    this.addon.ticketDrop(this.handle, ticket);
  }

  tensorCreate(rows: number, cols: number, data: Float32Array): number {
    return checked(this.addon.tensorCreate(this.handle, rows, cols, data));
  }

  tensorWeight(model: number, name: string): number {
    return checked(this.addon.tensorWeight(this.handle, model, name));
  }

  tensorRead(tensor: number): Float32Array {
    return checked(this.addon.tensorRead(this.handle, tensor));
  }

  tensorDrop(tensor: number): void {
    this.addon.tensorDrop(this.handle, tensor);
  }

  matmul(a: number, b: number): number {
    return checked(this.addon.matmul(this.handle, a, b, 0));
  }

  matmulTransposed(a: number, b: number): number {
    return checked(this.addon.matmul(this.handle, a, b, 1));
  }

  storeLayer(address: bigint, tensor: number): number {
    checked(this.addon.storeLayer(this.handle, address, tensor));
    return tensor;
  }

  loadLayer(address: bigint): number {
    return checked(this.addon.loadLayer(this.handle, address));
  }

  cacheStats(): CacheInfo {
    const found = this.addon.cacheStats(this.handle);
    const [layers = 0n, bytes = 0n, hits = 0n, misses = 0n, evictions = 0n] = typeof found === 'number' ? [] : found;
    return { layers, bytes, hits, misses, evictions };
  }
}

// ---- engines ----

class NodeEngine implements EngineHost {
  readonly addon: Addon;
  readonly runtime: number;
  private readonly loading = new Map<string, Loading<number>>();

  constructor(
    private readonly dispatch: Dispatcher,
    options: CheckedEngineOptions,
  ) {
    this.addon = dispatch.addon;
    this.runtime = guarded(() => this.addon.runtimeOpen(options.threads, options.features, options.executor, 0, 0));
  }

  context(tenant: bigint, limits: Required<ResourceLimits>, moved: () => void): ContextHost {
    return new NodeContext(this.dispatch, this.runtime, tenant, limits, moved);
  }

  find(key: string): ModelHost | undefined {
    const handle = this.addon.modelFind(this.runtime, key);
    return handle ? new NodeModel(this, handle, key) : undefined;
  }

  stats(): EngineStats {
    return guarded(() => this.addon.runtimeStats(this.runtime));
  }

  tenantStats(tenant: bigint): TenantStats {
    const { refused, waitedNs, retryAfterNs, ...counts } = guarded(() => this.addon.tenantStats(this.runtime, tenant));
    return {
      ...counts,
      waitedSeconds: waitedNs / 1e9,
      retryAfter: retryAfterNs / 1e9,
      refused: Object.fromEntries(Object.entries(refused).map(([name, count]) => [limitName(name), count])),
    };
  }

  running(change: 1 | -1): void {
    this.dispatch.running(change);
  }

  /** The same unchanged file under the same options is loaded once in the process. */
  async load(source: ModelInput, options: HostLoadOptions): Promise<ModelHost> {
    refuseDownloads(options.download);
    const file = await identify(pathOf(source));
    checkSignal(options.signal);
    const key = JSON.stringify([file.identity, options.mode, options.contextLength, options.kvType]);
    const found = this.addon.modelFind(this.runtime, key);
    if (found) {
      options.progress?.(1);
      return new NodeModel(this, found, key);
    }
    const under = this.loading.get(key);
    const loading = under && !under.abandoned ? under : this.begin(file.path, key, options);
    return loading.wait(options, () => new NodeModel(this, this.addon.modelFind(this.runtime, key), key));
  }

  /** Its own handle goes when those who wait have taken theirs. */
  private begin(path: string, key: string, options: HostLoadOptions): Loading<number> {
    const loading = new Loading((progress, signal) => this.read(path, key, { ...options, progress, signal }));
    this.loading.set(key, loading);
    const drop = (): void => {
      if (this.loading.get(key) === loading) this.loading.delete(key);
    };
    const release = (handle: number): void => {
      drop();
      queueMicrotask(() => this.addon.modelClose(handle));
    };
    void loading.done.then(release, drop);
    return loading;
  }

  private async read(path: string, key: string, options: HostLoadOptions): Promise<number> {
    const { contextLength, signal } = options;
    let loader = 0;
    try {
      loader = await this.addon.loaderBegin(this.runtime, path, LOAD_MODES[options.mode], contextLength, KV_TYPES[options.kvType]);
      for (let done = 0; done < 1; ) {
        checkSignal(signal);
        done = await this.addon.loaderStep(loader);
        options.progress?.(done);
      }
      return this.addon.loaderFinish(loader, key);
    } catch (problem) {
      if (loader) this.addon.loaderAbandon(loader);
      throw typed(problem, `${path}: `);
    }
  }
}

function pathOf(source: ModelInput): string {
  const path = source instanceof URL && source.protocol === 'file:' ? fileURLToPath(source) : source;
  if (typeof path === 'string' && !path.includes('\0')) return path;
  throw new RealmError('io', 'a model must be the path or the file: address of a GGUF file');
}

async function identify(path: string): Promise<{ path: string; identity: unknown[] }> {
  try {
    const real = await fs.realpath(path);
    const { dev, ino, size, mtimeNs } = await fs.stat(real, { bigint: true }).then((status) => {
      if (status.isFile()) return status;
      throw new RealmError('io', `${path} is not a file`);
    });
    return { path: real, identity: [real, `${dev}`, `${ino}`, `${mtimeNs}`, `${size}`] };
  } catch (problem) {
    if (problem instanceof RealmError) throw problem;
    const missing = ['ENOENT', 'ENOTDIR'].includes((problem as NodeJS.ErrnoException).code ?? '');
    if (missing) throw new RealmError('not-found', `there is no model file ${path}`);
    throw new RealmError('io', `the model file ${path} cannot be read: ${(problem as Error).message}`);
  }
}

// ---- the platform ----

const engines = new Map<string, NodeEngine>();
let guest: Uint8Array | undefined;

/** Beside the bundle, in node/dist/assets. */
export function asset(name: string): string {
  return fileURLToPath(new URL(`./assets/${name}`, import.meta.url));
}

export function standardGuest(): Uint8Array {
  return (guest ??= readFileSync(asset('realm.wasm')));
}

export function demoModel(): string {
  return asset('realm-demo.gguf');
}

export const nodePlatform: Platform = {
  /** One for each set of options. */
  engine(options: CheckedEngineOptions): EngineHost {
    const key = JSON.stringify([options.threads, options.features, options.executor]);
    let engine = engines.get(key);
    if (!engine) engines.set(key, (engine = new NodeEngine(dispatcher(), options)));
    return engine;
  },

  standardGuest,

  demoModel,

  defer: setImmediate,
};

/** Read bandwidth of `bytes` of memory with the engine's threads, in bytes per second. */
export function readBandwidth(engine: EngineHost, bytes: number, repeats: number): number {
  const { addon, runtime } = engine as NodeEngine;
  return guarded(() => addon.readBandwidth(runtime, bytes, repeats));
}

/** A file's header or tokenizer, without a realm around it. */
export function openModel(path: string, mode: 'vocab' | 'header'): Promise<ModelHost> {
  const engine = nodePlatform.engine({ backend: 'cpu', isolation: 'none', threads: 1, features: 0, executor: 0 });
  return engine.load(path, { mode, contextLength: 0, kvType: 'f16', progress: undefined, signal: undefined });
}
