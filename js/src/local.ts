// Ports to an engine in this thread: thin, because what they stand for is one call away.

import { renderPrompt, type ChatOptions, type Message, type Prompt } from './chat.js';
import { RealmError } from './errors.js';
import { Guest } from './guest.js';
import { hostLogits, hostPublish } from './host_session.js';
import { guestModule, requireOrchestrator } from './module.js';
import { platform, watched, type EngineHost, type EngineStats, type ModelHost, type ModelInfo, type TenantStats } from './platform.js';
import type { EnginePort, Listener, LoadOptions, ModelInput, ModelPort, RealmPort, RealmPortOptions } from './port.js';
import type { Published, RealmRequest, RunningRequest } from './port.js';
import type { ResourceLimits } from './options.js';

export class LocalEngine implements EnginePort {
  /** `facts` are told with the counters. */
  constructor(
    readonly host: EngineHost,
    private readonly facts: EngineStats = {},
  ) {}

  realm(options: RealmPortOptions): LocalRealm {
    return new LocalRealm(this.host, options);
  }

  async load(source: ModelInput | undefined, options: LoadOptions): Promise<LocalModel> {
    const wanted = source ?? platform().demoModel();
    return new LocalModel(this.host, await this.host.load(wanted, { mode: 'full', ...options }), inputName(wanted));
  }

  /** A handle on a model that is loaded already. */
  find(key: string): LocalModel {
    const found = this.host.find(key);
    if (!found) throw new RealmError('closed', 'this model was closed; load it again');
    return new LocalModel(this.host, found, '');
  }

  async stats(): Promise<EngineStats> {
    return { ...this.host.stats(), ...this.facts };
  }

  async tenantStats(tenant: bigint): Promise<TenantStats> {
    return this.host.tenantStats(tenant);
  }
}

function inputName(source: ModelInput): string {
  if (typeof source === 'string' || source instanceof URL) return String(source);
  if (Array.isArray(source)) return inputName(source[0] as ModelInput);
  return 'name' in source ? String(source.name) : 'model';
}

export class LocalRealm implements RealmPort {
  readonly #module: WebAssembly.Module;
  readonly #guest: Guest;
  #checked = false;

  constructor(engine: EngineHost, { guest, tenant, limits }: RealmPortOptions) {
    this.#module = watched(() => guestModule(guest ?? platform().standardGuest(), limits.guestMemoryBytes));
    this.#guest = new Guest(engine, this.#module, guest === undefined, tenant, limits);
  }

  get exports(): Promise<readonly string[]> {
    return Promise.resolve(WebAssembly.Module.exports(this.#module).map((found) => found.name).sort());
  }

  start(request: RealmRequest, model: ModelPort | undefined, listener: Listener): RunningRequest {
    if (!this.#checked) requireOrchestrator(this.#module);
    this.#checked = true;
    return this.#guest.start(request, model && hostOf(model), listener);
  }

  async call(name: string, values: readonly (number | bigint)[]): Promise<unknown> {
    return this.#guest.call(name, values);
  }

  async setLimits(limits: Required<ResourceLimits>): Promise<void> {
    this.#guest.setLimits(limits);
  }

  revoke(model: ModelPort): void {
    this.#guest.revoke(hostOf(model));
  }

  close(): void {
    this.#guest.close();
  }
}

export class LocalModel implements ModelPort {
  readonly info: ModelInfo;
  readonly key: string;
  #template: string | null | undefined;

  constructor(
    private readonly engine: EngineHost,
    readonly host: ModelHost,
    readonly name: string,
  ) {
    this.info = host.info;
    this.key = host.key;
  }

  get chatTemplate(): string | null {
    return (this.#template ??= this.host.string('tokenizer.chat_template') ?? null);
  }

  async encode(text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Promise<Uint32Array> {
    return this.host.encode(text, addSpecial, parseSpecial);
  }

  async decode(ids: Uint32Array, special: boolean, textStart: boolean): Promise<Uint8Array> {
    return this.host.decode(ids, special, textStart);
  }

  async describe(): Promise<string> {
    return this.host.describe();
  }

  async string(key: string): Promise<string | undefined> {
    return this.host.string(key);
  }

  logits(ids: Uint32Array, signal: AbortSignal | undefined): Promise<Float32Array[]> {
    return hostLogits(this.engine, this.host, ids, signal);
  }

  async renderChat(messages: readonly Message[], options: ChatOptions): Promise<Prompt> {
    return renderPrompt(this.host, this.chatTemplate, messages, options);
  }

  publish(ids: Uint32Array): Promise<Published> {
    return hostPublish(this.engine, this.host, ids);
  }

  async unpublish(prefix: number): Promise<void> {
    this.host.unpublish(prefix);
  }

  share(): LocalModel {
    return new LocalModel(this.engine, this.host.share(), this.name);
  }

  close(): void {
    this.host.close();
  }
}

function hostOf(model: ModelPort): ModelHost {
  if (model instanceof LocalModel) return model.host;
  throw new RealmError('invalid-handle', 'this model belongs to another engine; load it with this realm');
}
