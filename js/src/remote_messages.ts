// The messages between a thread that has realms (remote_client.ts) and the worker that runs them (remote_server.ts).
//
// Every message is a call, or belongs to one by its number. The caller numbers calls, realms and models itself, so it need not wait
// for an answer to go on. Both sides look at what they get before they use it: a worker may be in the hands of its guest.

import { FINISHES, type Finish } from './_generated/abi.js';
import { WORK_NAMES, type DrawnTokens, type Work } from './drawn.js';
import { isErrorCode, RealmError, type LimitFacts } from './errors.js';
import type { ModelInfo, TenantStats } from './platform.js';
import type { Ended, Published, Transfer } from './port.js';

/** Two ends that hand each other structured clones, in order. */
export interface Channel {
  send(message: ToWorker | FromWorker, transfer?: Transferable[]): void;
  /** `died` is called once, when nothing will come any more although nobody closed the channel. */
  listen(receive: (message: unknown) => void, died: (problem: RealmError) => void): void;
  /** Ends the other side and whatever it does. */
  close(): void;
}

export type ToWorker =
  | { kind: 'call'; id: number; method: string; args: readonly unknown[] }
  | { kind: 'cancel'; id: number }
  | { kind: 'took'; id: number; size: number };

export type FromWorker =
  | { kind: 'result'; id: number; value: unknown }
  | { kind: 'error'; id: number; code: string; message: string; facts?: LimitFacts }
  | { kind: 'progress'; id: number; done: number }
  | { kind: 'transfer'; id: number; state: Transfer }
  | { kind: 'notice'; id: number; text: string }
  | { kind: 'text'; id: number; piece: Uint8Array };

/** What a loaded model is to the other side. */
export interface ModelFacts {
  name: string;
  key: string;
  info: ModelInfo;
  chatTemplate: string | null;
}

/** Rows of logits, side by side. */
export interface LogitRows {
  values: Float32Array;
  rows: number;
}

// ---- checks ----

const MOST_ERROR_TEXT = 2000;

type Check<Value> = (value: unknown) => value is Value;

export function isToWorker(message: unknown): message is ToWorker {
  if (!isRecord(message) || !isCount(message['id'])) return false;
  const { kind, method, args, size } = message;
  if (kind === 'call') return isText(method) && Array.isArray(args);
  return kind === 'cancel' || (kind === 'took' && isCount(size));
}

export function isFromWorker(message: unknown): message is FromWorker {
  if (!isRecord(message) || !isCount(message['id'])) return false;
  const { kind, code, done, piece, state, text } = message;
  if (kind === 'error') return isText(code) && isText(message['message']) && isFacts(message['facts']);
  if (kind === 'progress') return isNumber(done);
  if (kind === 'transfer') return isRecord(state) && ['loaded', 'verified', 'total'].every((name) => isCount(state[name]));
  if (kind === 'notice') return isText(text) && text.length <= MOST_ERROR_TEXT;
  return kind === 'result' || (kind === 'text' && piece instanceof Uint8Array);
}

function isFacts(value: unknown): value is LimitFacts | undefined {
  if (value === undefined) return true;
  if (!isRecord(value)) return false;
  const { limit, value: set, retryAfter } = value;
  const numbers = [set, retryAfter].every((one) => one === undefined || isNumber(one));
  return numbers && (limit === undefined || (isText(limit) && limit.length < 64));
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

export const isText: Check<string> = (value) => typeof value === 'string';
export const isNumber: Check<number> = (value) => typeof value === 'number';
export const isCount: Check<number> = (value): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
export const isTexts: Check<string[]> = (value) => Array.isArray(value) && value.every(isText);
export const isNothing: Check<undefined> = (value) => value === undefined;
export const isMaybeText: Check<string | undefined> = (value) => value === undefined || isText(value);
export const isBytes: Check<Uint8Array> = (value) => value instanceof Uint8Array;
export const isIds: Check<Uint32Array> = (value) => value instanceof Uint32Array;

export function isPrompt(value: unknown): value is { text: string; addSpecial: boolean } {
  return isRecord(value) && isText(value['text']) && typeof value['addSpecial'] === 'boolean';
}

export function isStats(value: unknown): value is Record<string, number | string> {
  return isRecord(value) && Object.values(value).every((one) => isNumber(one) || isText(one));
}

const TENANT_COUNTS = [
  'running', 'queued', 'sessions', 'kvTokens', 'requests', 'tokensPrompt', 'tokensGenerated', 'waitedSeconds', 'retryAfter',
];

export function isTenantStats(value: unknown): value is TenantStats {
  if (!isRecord(value) || !isRecord(value['refused'])) return false;
  return TENANT_COUNTS.every((name) => isNumber(value[name])) && Object.values(value['refused']).every(isCount);
}

export function isPublished(value: unknown): value is Published {
  return isRecord(value) && isCount(value['prefix']) && isCount(value['tokens']);
}

export function isLogitRows(value: unknown): value is LogitRows {
  if (!isRecord(value) || !(value['values'] instanceof Float32Array) || !isCount(value['rows'])) return false;
  return value['rows'] > 0 && value['values'].length % value['rows'] === 0;
}

export function isModelFacts(value: unknown): value is ModelFacts {
  if (!isRecord(value) || !isRecord(value['info'])) return false;
  const { name, key, chatTemplate } = value;
  return isText(name) && isText(key) && (chatTemplate === null || isText(chatTemplate)) && isInfo(value['info']);
}

function isInfo(info: Record<string, unknown>): boolean {
  return ['vocabSize', 'contextLength', 'embeddingLength', 'layerCount'].every((name) => isCount(info[name]));
}

export function isEnded(value: unknown): value is Ended {
  if (!isRecord(value)) return false;
  const { finish, tokens, promptTokens, extra, firstTokenSeconds, totalSeconds, work, drawn } = value;
  const known = FINISHES.includes(finish as Finish) && isIds(tokens) && isBytes(extra);
  const timed = isNumber(firstTokenSeconds) && isNumber(totalSeconds) && isWork(work);
  return known && isCount(promptTokens) && timed && (drawn === undefined || isDrawn(drawn)) && !('problem' in value);
}

function isWork(value: unknown): value is Work {
  return isRecord(value) && WORK_NAMES.every((name) => isNumber(value[name]));
}

function isDrawn(value: unknown): value is DrawnTokens {
  if (!isRecord(value) || !isIds(value['ids']) || !(value['logprobs'] instanceof Float32Array)) return false;
  const { top, ids, logprobs } = value;
  return isCount(top) && ids.length === logprobs.length && ids.length % (1 + top) === 0;
}

/** What an export of a guest may return. */
export function isNumeric(value: unknown): value is unknown {
  if (Array.isArray(value)) return value.every(isNumeric);
  return value === undefined || isNumber(value) || typeof value === 'bigint';
}

// ---- errors ----

/** An error as it crosses the border: its code, its message and what it says of a limit. */
export function errorMessage(id: number, problem: unknown): FromWorker {
  const { code, message, limit, value, retryAfter } = problem as { code?: unknown; message?: unknown } & LimitFacts;
  const text = String(message ?? problem).slice(0, MOST_ERROR_TEXT);
  const told: FromWorker = { kind: 'error', id, code: isErrorCode(code) ? code : 'internal', message: text };
  if (limit !== undefined || retryAfter !== undefined) told.facts = { limit, value, retryAfter };
  return told;
}

export function receivedError(code: string, message: string, facts: LimitFacts = {}): RealmError {
  return new RealmError(isErrorCode(code) ? code : 'internal', message.slice(0, MOST_ERROR_TEXT), facts);
}
