// The one error class of the JavaScript hosts: `code` is a stable name of realm.wit, the message is for people.

import { ERROR_CODES, type ErrorCode } from './_generated/abi.js';

export type { ErrorCode };

export class RealmError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'RealmError';
    this.code = code;
  }
}

export function isErrorCode(code: unknown): code is ErrorCode {
  return (ERROR_CODES as readonly unknown[]).includes(code);
}

const FAILURE_TEXTS: Partial<Record<ErrorCode, string>> = {
  'context-full': "the prompt and the answer do not fit into the model's context",
  'limit-exceeded': 'a limit of the realm was reached',
  stalled: 'the guest waits for nothing',
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
