// The settings a caller passes: limits of a realm, how tokens are drawn. Values are checked here once. Names are camelCase;
// the snake_case of the Python host is accepted too.

import { BIAS_SIZE, MODES, writeBias, type Mode, type Packed, type Sampling } from './_generated/abi.js';
import { joined } from './bytes.js';
import type { Told } from './drawn.js';
import { RealmError } from './errors.js';
import { Model } from './model.js';
import { random64 } from './random.js';

export const KV_TYPES = { f16: 0, f32: 1 } as const;
export type KvType = keyof typeof KV_TYPES;
export const CPU_FEATURES = { portable: 1, avx2: 2, avx512: 4, amx: 8, avxvnni: 16, 'neon-dotprod': 256, 'neon-i8mm': 512 } as const;
export type CpuFeature = keyof typeof CPU_FEATURES;
const MAX_THREADS = 1024;
const MAX_WEIGHT = 10_000;
const UINT32 = 0xffffffff;
const MAX_DEADLINE = 1e6;
const MOST_TOP_LOGPROBS = 20; // as OpenAI's API; the core allows a few more

/** What a tenant may use. 0: no limit of its own; the runtime's and the model's limits always hold. */
export interface ResourceLimits {
  // of the tenant, over all its realms; a change holds at once, also for what runs
  /** Share of computed tokens where there is more work than fits. */
  weight?: number;
  /** Requests that compute at once. */
  concurrentRequests?: number;
  /** Requests that may wait beyond those. */
  queueLength?: number;
  /** Most tokens of a conversation. */
  contextLength?: number;
  /** Tokens whose keys and values are held. */
  kvTokens?: number;
  /** Computed tokens, of prompts and generated. */
  tokensPerSecond?: number;
  tokensPerMinute?: number;
  // of one realm
  sessions?: number;
  tickets?: number;
  tensorBytes?: number;
  guestMemoryBytes?: number;
  /** Text of running requests waiting to be read. */
  textBytes?: number;
  /** Longest uninterrupted stay in the guest; kept by `isolation: 'worker'`. */
  guestSeconds?: number;
}

export const DEFAULT_LIMITS: Required<ResourceLimits> = {
  weight: 1,
  concurrentRequests: 0,
  queueLength: 0,
  contextLength: 0,
  kvTokens: 0,
  tokensPerSecond: 0,
  tokensPerMinute: 0,
  sessions: 0,
  tickets: 0,
  tensorBytes: 256 << 20,
  guestMemoryBytes: 16 << 20,
  textBytes: 16 << 20,
  guestSeconds: 2,
};

const TENANT_LIMITS = [
  'weight', 'concurrentRequests', 'queueLength', 'contextLength', 'kvTokens', 'tokensPerSecond', 'tokensPerMinute',
] as const;
const COUNTS = ['concurrentRequests', 'queueLength', 'contextLength', 'sessions', 'tickets'];

export function checkLimits(limits: ResourceLimits = {}): Required<ResourceLimits> {
  const given = camelKeys(limits as Record<string, unknown>, Object.keys(DEFAULT_LIMITS), 'limit');
  const all = { ...DEFAULT_LIMITS, ...given } as Required<ResourceLimits>;
  const { guestSeconds, ...whole } = all;
  realNumber('guestSeconds', guestSeconds, 0, 3600, true);
  for (const [name, value] of Object.entries(whole)) {
    wholeNumber(name, value, 0, COUNTS.includes(name) ? UINT32 : Number.MAX_SAFE_INTEGER);
  }
  wholeNumber('weight', all.weight, 0, MAX_WEIGHT);
  return all;
}

/** Whether any of the limits is one of the tenant's, not only of the realm. */
export function limitsTenant(limits: Required<ResourceLimits>): boolean {
  return TENANT_LIMITS.some((name) => limits[name] !== DEFAULT_LIMITS[name]);
}

/** What every request accepts. */
export interface GenerateOptions {
  maxTokens?: number;
  /** Text to stop before; it is not part of the result. */
  stop?: string | readonly string[];
  /** Who runs the loop of tokens: whole (as it is without one) the engine, granular the guest, layers the guest layer by layer. */
  mode?: Mode;
  model?: Model;
  /** BOS and EOS as the model wants. */
  addSpecial?: boolean;
  /** Control tokens written in the prompt become their ids. */
  parseSpecial?: boolean;
  /** 0: the likeliest token. */
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  frequencyPenalty?: number;
  presencePenalty?: number;
  penaltyWindow?: number;
  /** The same seed draws the same tokens; without one, each request has its own. */
  seed?: number | bigint | null;
  logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number> | null;
  ignoreEnd?: boolean;
  /** The result tells the log probability of each token. */
  logprobs?: boolean;
  /** And those of so many of the likeliest at each place (not in mode whole; without a mode, the guest's loop then runs). */
  topLogprobs?: number;
  /** Among the tenant's own requests, higher ones come first. */
  priority?: number;
  /** Seconds from the start after which what is not done fails with `limit-exceeded`. */
  deadline?: number;
  signal?: AbortSignal;
  /** The names of the Python host are accepted too. */
  max_tokens?: number;
  top_k?: number;
  top_p?: number;
  min_p?: number;
  top_logprobs?: number;
}

/** A request's options, complete and checked. */
export interface Settings {
  maxTokens: number;
  stops: Uint8Array;
  mode: Mode;
  model: Model | undefined;
  addSpecial: boolean;
  parseSpecial: boolean;
  params: Sampling;
  biases: Packed;
  urgency: Urgency;
  told: Told;
  signal: AbortSignal | undefined;
}

/** What the scheduler hears of a request; its guest does not. */
export interface Urgency {
  priority: number;
  /** Seconds; 0: none. */
  deadline: number;
}

/** The names of GenerateOptions. */
export const SETTINGS = [
  'maxTokens', 'stop', 'mode', 'model', 'addSpecial', 'parseSpecial', 'temperature', 'topK', 'topP', 'minP',
  'repetitionPenalty', 'frequencyPenalty', 'presencePenalty', 'penaltyWindow', 'seed', 'logitBias', 'ignoreEnd',
  'logprobs', 'topLogprobs', 'priority', 'deadline', 'signal',
] as const;

export function checkSettings(options: GenerateOptions = {}, extra: readonly string[] = []): Settings {
  const own = camelKeys(options as Record<string, unknown>, [...SETTINGS, ...extra], 'setting') as GenerateOptions;
  const told = checkTold(own);
  return {
    maxTokens: wholeNumber('maxTokens', own.maxTokens ?? 256, 1, UINT32),
    stops: packStops(own.stop ?? []),
    mode: modeFor(own.mode, told),
    model: checkModel(own.model),
    addSpecial: own.addSpecial ?? true,
    parseSpecial: own.parseSpecial ?? false,
    params: checkSampling(own),
    biases: packBiases(own.logitBias),
    urgency: checkUrgency(own),
    told,
    signal: own.signal,
  };
}

export function checkUrgency({ priority, deadline }: Pick<GenerateOptions, 'priority' | 'deadline'>): Urgency {
  return {
    priority: wholeNumber('priority', priority ?? 0, 0, UINT32),
    deadline: deadline === undefined ? 0 : realNumber('deadline', deadline, 0, MAX_DEADLINE, true),
  };
}

export function checkTold({ logprobs, topLogprobs }: Pick<GenerateOptions, 'logprobs' | 'topLogprobs'>): Told {
  return {
    logprobs: oneOf('logprobs', logprobs ?? false, [true, false]),
    topLogprobs: wholeNumber('topLogprobs', topLogprobs ?? 0, 0, MOST_TOP_LOGPROBS),
  };
}

/** The engine's own loop tells of chosen tokens alone; where the guest samples, there are logits. */
function modeFor(mode: Mode | undefined, { topLogprobs }: Told): Mode {
  if (mode === 'whole' && topLogprobs > 0) throw invalid('topLogprobs needs mode granular or layers');
  return oneOf('mode', mode ?? (topLogprobs > 0 ? 'granular' : 'whole'), MODES);
}

function checkModel(model: unknown): Model | undefined {
  if (model === undefined || model instanceof Model) return model;
  throw invalid(`model must be what loadModel gave, not ${shown(model)}`);
}

function checkSampling(own: GenerateOptions): Sampling {
  return {
    temperature: realNumber('temperature', own.temperature ?? 0.8, 0, 1e6),
    topK: wholeNumber('topK', own.topK ?? 40, 0, UINT32),
    topP: realNumber('topP', own.topP ?? 0.95, 0, 1, true),
    minP: realNumber('minP', own.minP ?? 0.05, 0, 1),
    repetitionPenalty: realNumber('repetitionPenalty', own.repetitionPenalty ?? 1, 0, 1e6, true),
    frequencyPenalty: realNumber('frequencyPenalty', own.frequencyPenalty ?? 0, -2, 2),
    presencePenalty: realNumber('presencePenalty', own.presencePenalty ?? 0, -2, 2),
    penaltyWindow: wholeNumber('penaltyWindow', own.penaltyWindow ?? 0, 0, UINT32),
    seed: checkSeed(own.seed),
    ignoreEnd: own.ignoreEnd ?? false,
  };
}

function checkSeed(seed: unknown): bigint {
  if (seed === undefined || seed === null) return random64();
  if (typeof seed === 'bigint' && seed >= 0n && seed < 1n << 64n) return seed;
  return BigInt(wholeNumber('seed', seed, 0, Number.MAX_SAFE_INTEGER));
}

function packBiases(bias: GenerateOptions['logitBias']): Packed {
  if (bias === undefined || bias === null) return new Uint8Array(0);
  if (typeof bias !== 'object' || Array.isArray(bias)) {
    throw invalid(`logitBias must map token ids to numbers, not ${shown(bias)}`);
  }
  const entries = bias instanceof Map ? [...bias] : Object.entries(bias);
  const view = new DataView(new ArrayBuffer(entries.length * BIAS_SIZE));
  entries.forEach(([key, value], index) => {
    const token = wholeNumber('logitBias token', Number(key), 0, UINT32);
    if (typeof value !== 'number' || Number.isNaN(value) || value === Infinity) {
      throw invalid(`logitBias of token ${token} must be a number or -Infinity, not ${shown(value)}`);
    }
    writeBias(view, index * BIAS_SIZE, { token, value });
  });
  return new Uint8Array(view.buffer);
}

/** Each stop string after its length, as realm.wit wants it. */
function packStops(stop: string | readonly string[]): Uint8Array {
  const texts = typeof stop === 'string' ? [stop] : [...stop];
  const parts = texts.map((text) => {
    const data = encodeText(text);
    if (data.length === 0) throw invalid('a stop string must not be empty');
    const packed = new Uint8Array(4 + data.length);
    new DataView(packed.buffer).setUint32(0, data.length, true);
    packed.set(data, 4);
    return packed;
  });
  return joined(parts);
}

// ---- the engine's options ----

/** Node: cpu, webgpu, metal, cuda. Browser: wasm, webgpu. auto takes the best there is. */
export type Backend = 'auto' | 'cpu' | 'wasm' | 'webgpu' | 'metal' | 'cuda';
const BACKENDS: readonly Backend[] = ['auto', 'cpu', 'wasm', 'webgpu', 'metal', 'cuda'];
export type Isolation = 'none' | 'worker';

export interface EngineOptions {
  backend?: Backend;
  /** Compute threads; by default the processors this process may use. */
  threads?: number;
  cpuFeatures?: readonly CpuFeature[];
  /** 1: no forward pass, for tests and for measuring overhead. */
  executor?: 0 | 1;
  /** Node: 'worker' runs the guest in a thread of its own that ends when the guest does not return in time. */
  isolation?: Isolation;
}

export interface CheckedEngineOptions {
  backend: Backend;
  isolation: Isolation;
  threads: number;
  features: number;
  executor: number;
}

export function checkEngine(options: EngineOptions, available: readonly Backend[]): CheckedEngineOptions {
  const backend = oneOf('backend', options.backend ?? 'auto', BACKENDS);
  if (!available.includes(backend)) {
    const text = `there is no backend '${backend}' here; available: ${available.join(', ')}`;
    throw new RealmError('backend-unavailable', text);
  }
  const features = (options.cpuFeatures ?? []).map((name) => {
    oneOf('cpuFeatures', name, Object.keys(CPU_FEATURES));
    return CPU_FEATURES[name];
  });
  return {
    backend,
    isolation: oneOf('isolation', options.isolation ?? 'none', ['none', 'worker']),
    threads: options.threads === undefined ? 0 : wholeNumber('threads', options.threads, 1, MAX_THREADS),
    features: features.reduce((mask: number, bit) => mask | bit, 0),
    executor: wholeNumber('executor', options.executor ?? 0, 0, 1),
  };
}

// ---- values ----

const encoder = new TextEncoder();

/** UTF-8 of a string, or the bytes as they are. */
export function encodeText(text: unknown): Uint8Array {
  if (text instanceof Uint8Array) return text;
  if (typeof text !== 'string') throw invalid(`a text must be a string or bytes, not ${shown(text)}`);
  return encoder.encode(text);
}

export function tokenIds(ids: Iterable<number>): Uint32Array {
  const found = Array.isArray(ids) || ArrayBuffer.isView(ids) ? (ids as number[]) : undefined;
  if (!found) throw invalid('token ids must be an array of whole numbers');
  for (const id of found) wholeNumber('token id', id, 0, UINT32);
  return Uint32Array.from(found);
}

/** The options with camelCase keys; an unknown key is an error that says which are known. */
export function camelKeys(options: Record<string, unknown>, known: readonly string[], what: string): object {
  if (typeof options !== 'object' || options === null) throw invalid(`options must be an object, not ${shown(options)}`);
  const found: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    const name = known.includes(key) ? key : key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
    if (!known.includes(name)) throw invalid(`unknown ${what} ${key}; known are: ${known.join(', ')}`);
    if (value !== undefined) found[name] = value;
  }
  return found;
}

export function oneOf<Name extends string | boolean>(name: string, value: unknown, allowed: readonly Name[]): Name {
  if (!(allowed as readonly unknown[]).includes(value)) {
    throw invalid(`${name} must be one of ${allowed.join(', ')}, not ${shown(value)}`);
  }
  return value as Name;
}

export function wholeNumber(name: string, value: unknown, low: number, high: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < low || value > high) {
    throw invalid(`${name} must be a whole number from ${low} to ${high}, not ${shown(value)}`);
  }
  return value;
}

function realNumber(name: string, value: unknown, low: number, high: number, openLow = false): number {
  const good = typeof value === 'number' && value >= low && value <= high && !(openLow && value === low);
  if (!good) throw invalid(`${name} must be in ${openLow ? '(' : '['}${low}, ${high}], not ${shown(value)}`);
  return value;
}

export function invalid(message: string): RealmError {
  return new RealmError('invalid-argument', message);
}

function shown(value: unknown): string {
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 80 ? `${text.slice(0, 80)}...` : text;
}
