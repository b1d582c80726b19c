// The public class `Realm`: one tenant with its own guest and limits, on models shared with the whole process.
//
// Realm.generate -> RealmPort.start -> (in this thread or a worker) Guest.start, then polls whenever a ticket moved -> Ended
// -> Generation

import { camelKeys, checkEngine, checkLimits, checkSettings, encodeText, invalid, KV_TYPES, oneOf } from './options.js';
import { SETTINGS, tokenIds, wholeNumber } from './options.js';
import type { EngineOptions, GenerateOptions, KvType, ResourceLimits, Settings } from './options.js';
import type { ChatOptions, Message } from './chat.js';
import { checkSignal, RealmError } from './errors.js';
import { Model } from './model.js';
import type { EngineStats, TenantStats } from './platform.js';
import { ports, type EnginePort, type ModelInput, type RealmPort, type Transfer } from './port.js';
import { random64 } from './random.js';
import { generation, runRequest, TokenStream, type Generation, type Start } from './request.js';

export interface RealmOptions extends EngineOptions {
  limits?: ResourceLimits;
  /** Realms of one tenant share the prefixes of their prompts; others never do. */
  tenant?: number | bigint;
}

export interface LoadModelOptions {
  /** Most tokens of one session; 0: the model's own. */
  contextLength?: number;
  kvType?: KvType;
  /** Called with numbers up to 1. */
  progress?: (done: number) => void;
  onProgress?: (done: number) => void;
  signal?: AbortSignal;
  // Of downloads, in a browser:
  /** Called with the bytes of all files: loaded, verified, total. */
  onTransfer?: (state: Transfer) => void;
  /** Told what is no error: no room to keep the file, storage refused. */
  onNotice?: (message: string) => void;
  /** The digest in hexadecimal digits that the file must have; a list has one for each part of a split model. */
  sha256?: string | readonly string[];
  /** Whether the file is kept on the device. auto: downloads are, where there is room. */
  cache?: 'auto' | 'always' | 'never';
  /** Names the model in the cache where its address changes. */
  cacheKey?: string;
  /** Sent with every request. */
  headers?: Readonly<Record<string, string>>;
  credentials?: RequestCredentials;
  connections?: number;
  stallMs?: number;
  retries?: number;
}

const DOWNLOAD_OPTIONS = [
  'sha256', 'cache', 'cacheKey', 'headers', 'credentials', 'connections', 'stallMs', 'retries',
] as const;

export type ChatGenerateOptions = GenerateOptions & ChatOptions;

const CHAT_OPTIONS = ['tools', 'chatTemplate', 'templateVariables', 'addGenerationPrompt'] as const;
const forgotten = new FinalizationRegistry<RealmPort>((port) => port.close());

/** Dispose of it when it is not needed any more, or declare it with `using`. */
export class Realm {
  #limits: Required<ResourceLimits>;
  readonly #engine: EnginePort;
  readonly #port: RealmPort;
  readonly #tenant: bigint;
  readonly #models: Model[] = [];
  #demo: Promise<Model> | undefined;
  #disposed = false;

  constructor(options: RealmOptions = {}) {
    const own = realmOptions(options);
    this.#limits = checkLimits(own.limits);
    this.#tenant = tenantNumber(own.tenant);
    this.#engine = ports().engine(checkEngine(own, ports().backends));
    this.#port = this.#engine.realm({ guest: undefined, tenant: this.#tenant, limits: this.limits });
    forgotten.register(this, this.#port, this);
  }

  get limits(): Required<ResourceLimits> {
    return this.#limits;
  }

  /** Other limits from now on, also for what runs; those of the tenant hold for all its realms. The guest's memory and time stay. */
  async setLimits(limits: ResourceLimits): Promise<void> {
    this.#checkOpen();
    const { guestMemoryBytes, guestSeconds, textBytes } = this.#limits;
    const checked = { ...checkLimits(limits), guestMemoryBytes, guestSeconds, textBytes };
    await this.#port.setLimits(checked);
    this.#limits = checked;
  }

  /** Ends what runs (its callers get `closed`) and frees the realm. Doing it again does nothing. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    forgotten.unregister(this);
    this.#port.close();
    for (const model of this.#models.splice(0)) model.close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  // ---- models ----

  /** Loads a GGUF file, or shares it when it is loaded already. The first model is the realm's default. */
  async loadModel(model: Model | ModelInput, options: LoadModelOptions = {}): Promise<Model> {
    return this.#load(model, options);
  }

  async #load(model: Model | ModelInput | undefined, options: LoadModelOptions): Promise<Model> {
    this.#checkOpen();
    const handle = model instanceof Model ? model.share() : await loadModel(this.#engine, model, options);
    if (this.#disposed) {
      handle.close();
      this.#checkOpen();
    }
    this.#models.push(handle);
    return handle;
  }

  /** Takes the model away from this realm and closes the handle; work that runs on it fails. */
  unloadModel(model: Model): void {
    this.#checkOpen();
    const key = model.closed ? undefined : model.port().key;
    const index = this.#models.findIndex((own) => !own.closed && own.port().key === key);
    if (index < 0) throw new RealmError('invalid-handle', 'this realm has no such model');
    const [own] = this.#models.splice(index, 1);
    this.#port.revoke(own!.port());
    own!.close();
  }

  /** The default model: the one loaded first, or else the demo model that ships with Realm. */
  async #model(): Promise<Model> {
    this.#checkOpen();
    if (this.#models[0]) return this.#models[0];
    this.#demo ??= this.#load(undefined, {}).finally(() => (this.#demo = undefined));
    return this.#demo;
  }

  // ---- generation ----

  /** Continues a prompt as it is. */
  async generate(prompt: string | Uint8Array, options: GenerateOptions = {}): Promise<Generation> {
    const settings = checkSettings(options);
    const model = settings.model ?? (await this.#model());
    const ended = await runRequest(this.#start(encodeText(prompt), model, settings), settings.signal, true);
    return generation(ended, ended.text);
  }

  /** Like generate, as a stream of text pieces that is also an async iterable. */
  streamTokens(prompt: string | Uint8Array, options: GenerateOptions = {}): TokenStream {
    this.#checkOpen();
    const settings = checkSettings(options);
    const text = encodeText(prompt);
    return new TokenStream(async () => {
      return this.#start(text, settings.model ?? (await this.#model()), settings);
    }, settings.signal);
  }

  /** Answers messages with `role` and `content`, rendered by the model's own chat template. */
  async chat(messages: readonly Message[], options: ChatGenerateOptions = {}): Promise<Generation> {
    const settings = checkSettings(options, CHAT_OPTIONS);
    const start = await this.#chatStart(messages, options, settings);
    const ended = await runRequest(start, settings.signal, true);
    return generation(ended, ended.text);
  }

  chatStream(messages: readonly Message[], options: ChatGenerateOptions = {}): TokenStream {
    this.#checkOpen();
    const settings = checkSettings(options, CHAT_OPTIONS);
    return new TokenStream(() => this.#chatStart(messages, options, settings), settings.signal);
  }

  /** The prompt a conversation becomes. Control tokens that users wrote are broken up. */
  async renderChat(messages: readonly Message[], options: ChatOptions & { model?: Model } = {}): Promise<string> {
    const { model, ...rendering } = options;
    return (await (model ?? (await this.#model())).renderChat(messages, chatOptions(rendering))).text;
  }

  // ---- tokens, logits, state ----

  async tokenize(
    text: string | Uint8Array,
    options: { addSpecial?: boolean; parseSpecial?: boolean } = {},
  ): Promise<number[]> {
    return (await this.#model()).tokenize(text, options);
  }

  async detokenize(ids: Iterable<number>, options: { special?: boolean } = {}): Promise<string> {
    return (await this.#model()).detokenize(ids, options);
  }

  /** Raw logits after each of the ids, one row each, computed with f32 keys and values. */
  async logits(
    ids: Iterable<number>,
    options: { model?: Model; signal?: AbortSignal } = {},
  ): Promise<Float32Array[]> {
    const tokens = tokenIds(ids);
    if (tokens.length === 0) throw invalid('logits needs at least one token id');
    const model = options.model ?? (await this.#model());
    return model.port().logits(tokens, options.signal);
  }

  /** Counters of the engine this realm runs on. */
  async stats(): Promise<EngineStats> {
    this.#checkOpen();
    return this.#engine.stats();
  }

  /** What all realms of this one's tenant use now, and have used since the tenant came. */
  async tenantStats(): Promise<TenantStats> {
    this.#checkOpen();
    return this.#engine.tenantStats(this.#tenant);
  }

  // ---- inside ----

  #checkOpen(): void {
    if (this.#disposed) throw new RealmError('closed', 'this realm was closed; make a new one');
  }

  async #chatStart(messages: readonly Message[], options: ChatGenerateOptions, settings: Settings): Promise<Start> {
    const model = settings.model ?? (await this.#model());
    const { text, addSpecial } = await model.renderChat(messages, chatOptions(options));
    return this.#start(encodeText(text), model, { ...settings, addSpecial, parseSpecial: true });
  }

  #start(prompt: Uint8Array, model: Model, settings: Settings): Start {
    this.#checkOpen();
    checkTextBytes(prompt.length + settings.stops.length, this.limits);
    const { stops, maxTokens, mode, params, biases, addSpecial, parseSpecial, urgency, told } = settings;
    const extra = new Uint8Array(0);
    const request = { prompt, addSpecial, parseSpecial, stops, maxTokens, mode, params, biases, extra, urgency, told };
    return (listener) => this.#port.start(request, model.port(), listener);
  }
}

export async function loadModel(
  engine: EnginePort,
  source: ModelInput | undefined,
  options: LoadModelOptions,
): Promise<Model> {
  const names = ['contextLength', 'kvType', 'progress', 'onProgress', 'onTransfer', 'onNotice', 'signal'];
  const own = camelKeys(options as Record<string, unknown>, [...names, ...DOWNLOAD_OPTIONS], 'setting') as LoadModelOptions;
  const download = DOWNLOAD_OPTIONS.filter((name) => name in own).map((name) => [name, own[name]] as const);
  checkSignal(own.signal);
  return new Model(
    await engine.load(source, {
      contextLength: wholeNumber('contextLength', own.contextLength ?? 0, 0, 0xffffffff),
      kvType: oneOf('kvType', own.kvType ?? 'f16', Object.keys(KV_TYPES) as KvType[]),
      progress: own.progress ?? own.onProgress,
      transfer: own.onTransfer,
      notice: own.onNotice,
      signal: own.signal,
      download: Object.fromEntries(download),
    }),
  );
}

/** The part of the options that a template hears of. */
function chatOptions(options: ChatGenerateOptions): ChatOptions {
  const own = camelKeys(options as Record<string, unknown>, [...SETTINGS, ...CHAT_OPTIONS], 'setting');
  return Object.fromEntries(Object.entries(own).filter(([name]) => (CHAT_OPTIONS as readonly string[]).includes(name)));
}

function realmOptions(options: RealmOptions): RealmOptions {
  const names = ['backend', 'threads', 'limits', 'cpuFeatures', 'executor', 'isolation', 'tenant'];
  return camelKeys(options as Record<string, unknown>, names, 'option') as RealmOptions;
}

/** Realms share prefixes only when the application says they belong to one tenant. */
export function tenantNumber(tenant: number | bigint | undefined): bigint {
  if (tenant === undefined) return (1n << 63n) | random64(); // beside other threads
  const number = typeof tenant === 'bigint' ? tenant : BigInt(wholeNumber('tenant', tenant, 1, Number.MAX_SAFE_INTEGER));
  if (number < 1n || number >= 1n << 63n) throw invalid(`tenant must be a whole number from 1 to 2**63 - 1, not ${tenant}`); // 0: the host
  return number;
}

/** The guest holds the text, its token ids (at worst four bytes for each of the text's) and copies. */
function checkTextBytes(size: number, limits: Required<ResourceLimits>): void {
  const most = Math.floor((limits.guestMemoryBytes || 2 ** 32) / 8);
  if (size <= most) return;
  const text = `a prompt and stop strings of ${size} bytes are more than the ${most} that a realm with guestMemoryBytes`;
  throw new RealmError('limit-exceeded', `${text}=${limits.guestMemoryBytes} takes`);
}
