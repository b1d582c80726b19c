// The functions of the native addon (addon*.c) as TypeScript sees them. Handles are numbers; what runs for every token returns a
// number that is negative for a failed status.

import { loadNative } from './native.js';

/** What the core says of work that met a limit. */
export interface Refusal {
  status: number;
  message: string;
  limit: string;
  value: number;
  /** In nanoseconds. */
  retryAfter: number;
}

/** What the core says of a tenant. */
export interface NativeTenantStats {
  running: number;
  queued: number;
  sessions: number;
  kvTokens: number;
  requests: number;
  tokensPrompt: number;
  tokensGenerated: number;
  waitedNs: number;
  retryAfterNs: number;
  refused: Record<string, number>;
}

export interface Addon {
  readonly abiVersion: number;
  /** Called with the serials of contexts whose tickets moved; with none, when events were lost. */
  listen(moved: (...serials: number[]) => void): void;
  keepAlive(wanted: boolean): void;
  submitting(begins: boolean): void;
  runtimeOpen(threads: number, features: number, executor: number, batchRows: number, kvBytes: number): number;
  runtimeStats(runtime: number): Record<string, number | string>;
  tenantStats(runtime: number, tenant: bigint): NativeTenantStats;
  readBandwidth(runtime: number, bytes: number, repeats: number): number;
  loaderBegin(runtime: number, path: string, mode: number, contextLength: number, kvType: number): Promise<number>;
  loaderStep(loader: number): Promise<number>;
  loaderFinish(loader: number, key: string): number;
  loaderAbandon(loader: number): void;
  modelFind(runtime: number, key: string): number;
  modelShare(model: number): number;
  modelClose(model: number): void;
  modelInfo(model: number): unknown;
  modelDescribe(model: number): Uint8Array;
  modelString(model: number, key: string): Uint8Array | undefined;
  modelEncode(model: number, text: Uint8Array, flags: number): Uint32Array;
  modelDecode(model: number, ids: Uint32Array, flags: number): Uint8Array;
  modelUnpublish(model: number, prefix: number): number;
  contextCreate(runtime: number, serial: number, tenant: bigint, limits: Float64Array, ofTenant: number): number;
  contextSetLimits(context: number, limits: Float64Array): number;
  contextRefusal(context: number): Refusal | undefined;
  sessionPublish(context: number, session: number): Uint32Array | number;
  contextClose(context: number): void;
  contextGrant(context: number, model: number): number;
  contextRevoke(context: number, model: number): number;
  openTickets(context: number): number;
  /** `deadline` in nanoseconds. */
  sessionOpen(
    context: number,
    model: number,
    kvType: number,
    contextLength: number,
    noPrefix: number,
    priority: number,
    deadline: number,
  ): number;
  sessionClose(context: number, session: number): number;
  sessionPosition(context: number, session: number): number;
  sessionRewind(context: number, session: number, position: number): number;
  forward(context: number, session: number, tokens: Uint32Array): number;
  forwardLayers(context: number, session: number, first: number, count: number, tokens: Uint32Array): number;
  score(context: number, session: number, tokens: Uint32Array): number;
  forwardLogits(context: number, model: number, session: number, tokens: Uint32Array): number;
  sample(context: number, session: number, params: Uint8Array, biases: Uint8Array, out: Uint8Array): number;
  generate(
    context: number,
    session: number,
    tokens: Uint32Array,
    params: Uint8Array,
    biases: Uint8Array,
    maxTokens: number,
  ): number;
  holdProgress(context: number, milliseconds: number): void;
  ticketState(context: number, ticket: number): number;
  ticketError(context: number, ticket: number): number;
  ticketTokens(context: number, ticket: number): Uint8Array | number;
  ticketScores(context: number, ticket: number): Float32Array | number;
  ticketLogits(context: number, ticket: number): Float32Array | number;
  /** Records token. */
  likeliest(context: number, session: number, count: number): Uint8Array | number;
  /** Nanoseconds queued, of prefill, of decode, of steps; steps, rows. */
  ticketWork(context: number, ticket: number): BigUint64Array | number;
  ticketTensor(context: number, ticket: number): number;
  ticketCancel(context: number, ticket: number): number;
  ticketDrop(context: number, ticket: number): number;
  tensorCreate(context: number, rows: number, cols: number, values: Float32Array): number;
  tensorWeight(context: number, model: number, name: string): number;
  tensorRead(context: number, tensor: number): Float32Array | number;
  tensorDrop(context: number, tensor: number): number;
  matmul(context: number, a: number, b: number, transposed: number): number;
  storeLayer(context: number, address: bigint, tensor: number): number;
  loadLayer(context: number, address: bigint): number;
  cacheStats(context: number): BigUint64Array | number;
}

/** Hears when tickets of this thread's contexts move, and hands that to the right one. */
export class Dispatcher {
  readonly #listeners = new Map<number, () => void>();
  #serial = 0;
  #running = 0;
  #acting = false; // JavaScript runs because tickets moved
  #submitting = false;

  constructor(readonly addon: Addon) {
    addon.listen((...serials) => this.#moved(serials));
  }

  /** A number for a new context, and who hears of its tickets. */
  add(moved: () => void): number {
    this.#listeners.set(++this.#serial, moved);
    return this.#serial;
  }

  remove(serial: number): void {
    this.#listeners.delete(serial);
  }

  running(change: 1 | -1): void {
    this.#running += change;
    if (this.#running === (change === 1 ? 1 : 0)) this.addon.keepAlive(this.#running > 0);
  }

  /** Before work is submitted: what is submitted until JavaScript returns (ticks come after promises) starts together. */
  submitting(): void {
    if (this.#acting || this.#submitting) return;
    this.#submitting = true;
    this.addon.submitting(true);
    process.nextTick(this.#submitted);
  }

  readonly #submitted = (): void => {
    this.#submitting = false;
    this.addon.submitting(false);
  };

  #moved(serials: number[]): void {
    const all = serials.length === 0 ? [...this.#listeners.keys()] : serials.length === 1 ? serials : new Set(serials);
    this.#acting = true;
    for (const serial of all) this.#listeners.get(serial)?.();
    this.#acting = false;
  }
}

/** This package may be loaded twice, by import and by require; the addon is one, and has one listener. */
export function dispatcher(): Dispatcher {
  const addon = loadNative() as Addon & { dispatcher?: Dispatcher };
  return (addon.dispatcher ??= new Dispatcher(addon));
}
