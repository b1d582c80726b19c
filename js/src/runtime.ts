// Own guest modules: `Runtime` loads them, calls their exports, and runs them as orchestrators.

import { loadModel, tenantNumber, type LoadModelOptions } from './api.js';
import { RealmError } from './errors.js';
import { camelKeys, checkEngine, checkLimits, checkSettings, encodeText, invalid } from './options.js';
import type { EngineOptions, GenerateOptions, ResourceLimits } from './options.js';
import { Model } from './model.js';
import { ports, type EnginePort, type ModelInput, type RealmPort } from './port.js';
import { generation, runRequest, type Generation, type Start } from './request.js';

export interface RuntimeOptions extends EngineOptions {
  limits?: ResourceLimits;
}

/** What an orchestrator made of a request. `extra` is its own result, in whatever form it chose. */
export interface GuestResult extends Generation {
  extra: Uint8Array;
}

/** A place for own guests and the models they may use. Dispose of it, or declare it with `using`. */
export class Runtime {
  readonly limits: Required<ResourceLimits>;
  readonly #engine: EnginePort;
  readonly #guests: GuestModule[] = [];
  readonly #models: Model[] = [];
  #disposed = false;

  constructor(options: RuntimeOptions = {}) {
    const names = ['backend', 'threads', 'limits', 'cpuFeatures', 'executor', 'isolation'];
    const own = camelKeys(options as Record<string, unknown>, names, 'option') as RuntimeOptions;
    this.limits = checkLimits(own.limits);
    this.#engine = ports().engine(checkEngine(own, ports().backends));
  }

  /** Ends all guests and gives the models back. Doing it again does nothing. */
  dispose(): void {
    this.#disposed = true;
    for (const guest of this.#guests.splice(0)) guest.dispose();
    for (const model of this.#models.splice(0)) model.close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async loadModel(source: ModelInput, options: LoadModelOptions = {}): Promise<Model> {
    this.#checkOpen();
    const model = await loadModel(this.#engine, source, options);
    if (this.#disposed) model.close();
    this.#checkOpen();
    this.#models.push(model);
    return model;
  }

  /**
   * Makes a guest of a module's bytes. Without `isolation: 'worker'` it runs where the engine is and cannot be interrupted: then load
   * only what is trusted.
   */
  async loadWasm(bytes: Uint8Array, options: { limits?: ResourceLimits } = {}): Promise<GuestModule> {
    this.#checkOpen();
    if (!(bytes instanceof Uint8Array)) throw invalid('a module must be given as bytes, a Uint8Array');
    const limits = options.limits ? checkLimits(options.limits) : this.limits;
    const port = this.#engine.realm({ guest: bytes, tenant: tenantNumber(undefined), limits });
    const guest = new GuestModule(port, await port.exports);
    if (this.#disposed) guest.dispose();
    this.#checkOpen();
    this.#guests.push(guest);
    return guest;
  }

  /** Calls an export of the guest loaded last. */
  async callFunction(name: string, ...values: (number | bigint)[]): Promise<unknown> {
    this.#checkOpen();
    const last = this.#guests.at(-1);
    if (!last) throw new RealmError('invalid-argument', 'no module is loaded; call loadWasm first');
    return last.callFunction(name, ...values);
  }

  #checkOpen(): void {
    if (this.#disposed) throw new RealmError('closed', 'this runtime was closed; make a new one');
  }
}

/** An own guest: an instance of a module with its own memory and limits. */
export class GuestModule {
  readonly #port: RealmPort;

  /** Made by Runtime.loadWasm. */
  constructor(port: RealmPort, readonly exports: readonly string[]) {
    this.#port = port;
  }

  dispose(): void {
    this.#port.close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Calls an export that takes and returns numbers. */
  async callFunction(name: string, ...values: (number | bigint)[]): Promise<unknown> {
    return this.#port.call(name, values);
  }

  /** Runs the guest as an orchestrator: start, polls, outcome. */
  async run(
    prompt: string | Uint8Array = '',
    options: GenerateOptions & { extra?: Uint8Array } = {},
  ): Promise<GuestResult> {
    const settings = checkSettings(options, ['extra']);
    const { stops, maxTokens, mode, params, biases, addSpecial, parseSpecial, model, urgency, told } = settings;
    const text = encodeText(prompt);
    const extra = options.extra ?? new Uint8Array(0);
    const request = { prompt: text, addSpecial, parseSpecial, stops, maxTokens, mode, params, biases, extra, urgency, told };
    const start: Start = (listener) => this.#port.start(request, model?.port(), listener);
    const ended = await runRequest(start, settings.signal, false); // who knows what the guest does with a token
    return { ...generation(ended, ended.text), extra: ended.extra };
  }
}
