// The one error class of the JavaScript hosts: `code` is a stable name of realm.wit, the message is for people.

import { ERROR_CODES, type ErrorCode } from './_generated/abi.js';

export type { ErrorCode };

const BRAND = Symbol.for('@realm-ai/sdk RealmError');

/** What an error of a limit says besides its code. */
export interface LimitFacts {
  /** The name of the limit, as in ResourceLimits; kvBytes is the engine's. */
  limit?: string | undefined;
  /** What it is set to. */
  value?: number | undefined;
  /** Seconds after which to try again; absent where waiting does not help. */
  retryAfter?: number | undefined;
}

export class RealmError extends Error implements LimitFacts {
  readonly code: ErrorCode;
  readonly limit?: string | undefined;
  readonly value?: number | undefined;
  readonly retryAfter?: number | undefined;

  /** A package that is loaded twice (import and require) has two of these classes: each knows the other's errors. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    if (this !== RealmError) return Function.prototype[Symbol.hasInstance].call(this, value);
    return typeof value === 'object' && value !== null && BRAND in value;
  }

  constructor(code: ErrorCode, message: string, options?: ErrorOptions & LimitFacts) {
    super(message, options);
    this.name = 'RealmError';
    this.code = code;
    if (options?.limit !== undefined) this.limit = options.limit;
    if (options?.value !== undefined) this.value = options.value;
    if (options?.retryAfter !== undefined) this.retryAfter = options.retryAfter;
  }
}

Object.defineProperty(RealmError.prototype, BRAND, { value: true });

export function isErrorCode(code: unknown): code is ErrorCode {
  return (ERROR_CODES as readonly unknown[]).includes(code);
}

const FAILURE_TEXTS: Partial<Record<ErrorCode, string>> = {
  'context-full': "the prompt and the answer do not fit into the model's context",
  'limit-exceeded': 'a limit of the realm was reached',
  io: "the model's file was cut short or became unreadable while in use: restore it, and load it again",
  stalled: 'the guest waits for nothing',
  'device-lost': 'the GPU that computed the model was lost: load the model again',
};

/** The error of a request that a guest ended with this code. */
export function requestFailure(code: ErrorCode): RealmError {
  return new RealmError(code, FAILURE_TEXTS[code] ?? 'the guest ended the request with an error');
}

export function cancelled(reason?: unknown): RealmError {
  return new RealmError('cancelled', 'the request was cancelled', { cause: reason });
}

/** Throws when the signal was aborted already. */
export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled(signal.reason);
}
