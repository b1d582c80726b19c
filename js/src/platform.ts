// What the thread that computes must provide to the code that Node and the browser share: engines, their models and contexts, the
// standard guest. Node implements it over its addon (node/src/host.ts); core.wasm is the other one (js/src/wasm/).

import type { Host, Packed } from './_generated/abi.js';
import type { Work } from './drawn.js';
import type { RealmError } from './errors.js';
import type { CheckedEngineOptions, ResourceLimits, Urgency } from './options.js';
import type { LoadOptions, ModelInput } from './port.js';

/** Sizes and special tokens of a model; a token it does not have is null. */
export interface ModelInfo {
  vocabSize: number;
  contextLength: number;
  embeddingLength: number;
  layerCount: number;
  headCount: number;
  headCountKv: number;
  bos: number | null;
  eos: number | null;
  eot: number | null;
  addBos: boolean;
  addEos: boolean;
  hasWeights: boolean;
  parameterCount: number;
  weightBytes: number;
  kvBytesPerToken: number;
}

/** One user's handle on a loaded file; the file's data is shared by all handles of the process. */
export interface ModelHost {
  readonly info: ModelInfo;
  /** Equal for handles on the same loaded file. */
  readonly key: string;
  encode(text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Uint32Array;
  decode(ids: Uint32Array, special: boolean, textStart: boolean): Uint8Array;
  /** JSON of architecture, metadata and tensors. */
  describe(): string;
  /** A metadata string. */
  string(key: string): string | undefined;
  /** Ends what a context has published. */
  unpublish(prefix: number): void;
  /** Another handle on the same file. */
  share(): ModelHost;
  close(): void;
}

/** The host side of one realm: the imports of its guest, and what the host itself asks. */
export interface ContextHost extends Omit<Host, 'emit' | 'log'> {
  grant(model: ModelHost): number;
  revoke(model: number): void;
  /** Tickets that have not ended. */
  openTickets(): number;
  /** Whether nobody waits for tokens before the ends of their tickets, as it is at first: then they may be told later, and together. */
  patient?(nobody: boolean): void;
  setLimits(limits: Required<ResourceLimits>): void;
  /** The last work of this context that was refused or failed for a limit, told once. */
  refusal(): RealmError | undefined;
  /** A session without prefix cache; publish makes what it holds public for all tenants. */
  /** The request in whose name it is opened says what is left of its time. */
  sessionOpen(model: number, urgency?: Urgency): number;
  sessionOpenPrivate(model: number): number;
  publish(session: number): { prefix: number; tokens: number };
  /** A session without prefix cache and with f32 keys and values. */
  sessionOpenExact(model: number): number;
  /** Like forward; ticketLogits gives the logits after each token once the ticket has ended. */
  forwardLogits(model: number, session: number, tokens: Uint32Array): number;
  ticketLogits(ticket: number): Float32Array;
  /** Token records: exactly `count` under the session's unmodified logits, the likeliest first. */
  likeliest(session: number, count: number): Packed;
  /** What the engine did for a ticket so far. */
  ticketWork(ticket: number): Work | undefined;
  close(): void;
}

export interface HostLoadOptions extends LoadOptions {
  mode: 'full' | 'vocab' | 'header';
}

export type EngineStats = Readonly<Record<string, number | string>>;

/** What a tenant uses now, in all its realms, and has used since it came. */
export interface TenantStats {
  /** Requests that compute. */
  running: number;
  /** Requests that wait for a place. */
  queued: number;
  sessions: number;
  kvTokens: number;
  requests: number;
  /** Computed; prefixes that were found are not. */
  tokensPrompt: number;
  tokensGenerated: number;
  /** Of all requests, before their first row was computed. */
  waitedSeconds: number;
  /** Seconds until the rates allow new work. */
  retryAfter: number;
  /** Work that failed, by the limit. */
  refused: Readonly<Record<string, number>>;
}

export interface EngineHost {
  /** `moved` is called when a ticket of the context made progress or ended. */
  context(tenant: bigint, limits: Required<ResourceLimits>, moved: () => void): ContextHost;
  load(source: ModelInput, options: HostLoadOptions): Promise<ModelHost>;
  /** Another handle on a model that is loaded in this process. */
  find(key: string): ModelHost | undefined;
  stats(): EngineStats;
  tenantStats(tenant: bigint): TenantStats;
  /** A request began (1) or ended (-1): while any runs, the event loop must not end. */
  running(change: 1 | -1): void;
}

export interface Platform {
  engine(options: CheckedEngineOptions): EngineHost;
  /** The bytes of the standard guest. */
  standardGuest(): Uint8Array;
  demoModel(): ModelInput;
  /** Runs a function soon, after the events that are waiting already. */
  defer(run: () => void): void;
  /** Runs a call into a guest under the eyes of a watchdog, where there is one. */
  watched?<Value>(call: () => Value): Value;
}

let current: Platform | undefined;

export function usePlatform(platform: Platform): void {
  current = platform;
}

export function platform(): Platform {
  if (!current) throw new Error('no host was set up: import the package itself, not its parts');
  return current;
}

/** A call into a guest, or work on its bytes. */
export function watched<Value>(call: () => Value): Value {
  return current?.watched ? current.watched(call) : call();
}
