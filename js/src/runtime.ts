// Own guest modules: `Runtime` loads them, calls their exports, and runs them as orchestrators.

import { loadModel, tenantNumber, type LoadModelOptions } from './api.js';
import { RealmError } from './errors.js';
import { Guest } from './guest.js';
import { guestModule, requireOrchestrator } from './module.js';
import { camelKeys, checkEngine, checkLimits, checkSettings, encodeText, type EngineOptions } from './options.js';
import type { GenerateOptions, ResourceLimits } from './options.js';
import { Model } from './model.js';
import { platform, type EngineHost } from './platform.js';
import { generation, runRequest, type Generation } from './request.js';

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
  readonly #engine: EngineHost;
  readonly #guests: GuestModule[] = [];
  readonly #models: Model[] = [];
  #disposed = false;

  constructor(options: RuntimeOptions = {}) {
    const names = ['backend', 'threads', 'limits', 'cpuFeatures', 'executor'];
    const own = camelKeys(options as Record<string, unknown>, names, 'option') as RuntimeOptions;
    this.limits = checkLimits(own.limits);
    this.#engine = platform().engine(checkEngine(own, platform().backends));
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

  async loadModel(path: string | URL, options: LoadModelOptions = {}): Promise<Model> {
    this.#checkOpen();
    const model = await loadModel(this.#engine, path, options);
    this.#models.push(model);
    return model;
  }

  /** Makes a guest of a module's bytes. It runs in this thread and cannot be interrupted: load only what is trusted. */
  loadWasm(bytes: Uint8Array, options: { limits?: ResourceLimits } = {}): GuestModule {
    this.#checkOpen();
    const limits = options.limits ? checkLimits(options.limits) : this.limits;
    const guest = new GuestModule(this.#engine, bytes, limits);
    this.#guests.push(guest);
    return guest;
  }

  /** Calls an export of the guest loaded last. */
  callFunction(name: string, ...values: (number | bigint)[]): unknown {
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
  readonly #module: WebAssembly.Module;
  readonly #guest: Guest;

  /** Made by Runtime.loadWasm. */
  constructor(engine: EngineHost, bytes: Uint8Array, limits: Required<ResourceLimits>) {
    this.#module = guestModule(bytes, limits.guestMemoryBytes);
    this.#guest = new Guest(engine, this.#module, tenantNumber(undefined), limits);
  }

  dispose(): void {
    this.#guest.close();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  get exports(): string[] {
    return WebAssembly.Module.exports(this.#module).map((found) => found.name).sort();
  }

  /** Calls an export that takes and returns numbers. */
  callFunction(name: string, ...values: (number | bigint)[]): unknown {
    return this.#guest.call(name, values);
  }

  /** Runs the guest as an orchestrator: start, polls, outcome. */
  async run(
    prompt: string | Uint8Array = '',
    options: GenerateOptions & { extra?: Uint8Array } = {},
  ): Promise<GuestResult> {
    requireOrchestrator(this.#module);
    const settings = checkSettings(options, ['extra']);
    const { stops, maxTokens, mode, params, biases, addSpecial, parseSpecial, model } = settings;
    const text = encodeText(prompt);
    const extra = options.extra ?? new Uint8Array(0);
    const request = { prompt: text, addSpecial, parseSpecial, stops, maxTokens, mode, params, biases, extra };
    const ended = await runRequest((listener) => this.#guest.start(request, model?.host(), listener), settings.signal);
    return { ...generation(ended, ended.text), extra: ended.extra };
  }
}
