// The border between the public classes and the engine they use, which is in this thread (local.ts) or behind messages to a worker
// (remote_client.ts).
//
// Port = what a public object holds instead of the thing itself. What may cross threads returns a promise; the rest only submits,
// and its failure is the failure of what was submitted. Closing twice does nothing.

import type { Finish, Request } from './_generated/abi.js';
import type { ChatOptions, Message, Prompt } from './chat.js';
import { NO_WORK, type DrawnTokens, type Told, type Work } from './drawn.js';
import type { RealmError } from './errors.js';
import type { Backend, CheckedEngineOptions, KvType, ResourceLimits, Urgency } from './options.js';
import type { EngineStats, ModelInfo, TenantStats } from './platform.js';

/** A model file: a path (Node), an address, or the bytes; several are the parts of a split file, in order. */
export type ModelInput = string | URL | Blob | ArrayBuffer | Uint8Array | readonly (string | URL | Blob)[];

/** Bytes of a model's files. */
export interface Transfer {
  /** At hand: downloaded now, or found on this device. */
  loaded: number;
  /** Checked against a SHA-256, where one was given. */
  verified: number;
  /** 0: not known yet. */
  total: number;
}

export interface LoadOptions {
  contextLength: number;
  kvType: KvType;
  progress: ((done: number) => void) | undefined;
  transfer?: ((state: Transfer) => void) | undefined;
  /** Told what is no error, such as no room to keep a download. */
  notice?: ((message: string) => void) | undefined;
  signal: AbortSignal | undefined;
  /** How to fetch and keep the file, as the host's sources understand it. */
  download?: Readonly<Record<string, unknown>>;
}

export interface PortHost {
  readonly backends: readonly Backend[];
  /** The engine of these options: one for all who ask for the same. */
  engine(options: CheckedEngineOptions): EnginePort;
}

export interface EnginePort {
  realm(options: RealmPortOptions): RealmPort;
  /** Without a source: the demo model. */
  load(source: ModelInput | undefined, options: LoadOptions): Promise<ModelPort>;
  stats(): Promise<EngineStats>;
  tenantStats(tenant: bigint): Promise<TenantStats>;
}

export interface RealmPortOptions {
  /** An own guest's module; undefined: the standard guest. */
  guest: Uint8Array | undefined;
  tenant: bigint;
  limits: Required<ResourceLimits>;
}

export interface RealmPort {
  /** Names of what the guest's module exports; rejected when the module is refused. */
  readonly exports: Promise<readonly string[]>;
  start(request: RealmRequest, model: ModelPort | undefined, listener: Listener): RunningRequest;
  /** Calls an export that takes and returns numbers. */
  call(name: string, values: readonly (number | bigint)[]): Promise<unknown>;
  setLimits(limits: Required<ResourceLimits>): Promise<void>;
  /** Takes a model away from the guest. */
  revoke(model: ModelPort): void;
  close(): void;
}

export interface ModelPort {
  readonly name: string;
  readonly info: ModelInfo;
  /** Equal for handles on the same loaded file. */
  readonly key: string;
  readonly chatTemplate: string | null;
  encode(text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Promise<Uint32Array>;
  decode(ids: Uint32Array, special: boolean, textStart: boolean): Promise<Uint8Array>;
  describe(): Promise<string>;
  string(key: string): Promise<string | undefined>;
  /** One row for each id. */
  logits(ids: Uint32Array, signal: AbortSignal | undefined): Promise<Float32Array[]>;
  renderChat(messages: readonly Message[], options: ChatOptions): Promise<Prompt>;
  /** Computes the tokens for all tenants; unpublish takes the prefix. */
  publish(ids: Uint32Array): Promise<Published>;
  unpublish(prefix: number): Promise<void>;
  /** Another handle on the same file. */
  share(): ModelPort;
  close(): void;
}

export interface Published {
  prefix: number;
  tokens: number;
}

// ---- running requests ----

/** What the guest is handed, but for its model; and what it is not told. */
export interface RealmRequest extends Omit<Request, 'model'> {
  urgency: Urgency;
  told: Told;
}

/** The last word of a request. */
export interface Ended {
  problem?: RealmError;
  finish: Finish;
  tokens: Uint32Array;
  promptTokens: number;
  extra: Uint8Array;
  firstTokenSeconds: number;
  totalSeconds: number;
  work: Work;
  /** Of the tokens, when asked for. */
  drawn?: DrawnTokens | undefined;
}

export interface RunningRequest {
  /** Ends it soon; harmless when it has ended. */
  cancel(): void;
  /** Streamed text was read: its bytes no longer count as waiting. */
  took(size: number): void;
}

/** What hears of a request: text as it comes (bytes of its own), and the end exactly once. */
export interface Listener {
  /** Nobody reads the text before the end. */
  patient?: boolean;
  text(piece: Uint8Array): void;
  end(ended: Ended): void;
}

/** An end without a result. */
export const NOTHING: Ended = {
  finish: 'failed',
  tokens: new Uint32Array(0),
  promptTokens: 0,
  extra: new Uint8Array(0),
  firstTokenSeconds: 0,
  totalSeconds: 0,
  work: NO_WORK,
};

// ---- the host in use ----

let current: PortHost | undefined;

export function usePorts(host: PortHost): void {
  current = host;
}

export function ports(): PortHost {
  if (!current) throw new Error('no host was set up: import the package itself, not its parts');
  return current;
}
