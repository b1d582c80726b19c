// What every host of the core does with its answers: statuses become errors, and a context answers questions about the models
// that its guest was granted.

import { ERROR_CODES, InterfaceError, type ErrorCode, type ModelProperties } from './_generated/abi.js';
import { RealmError, type LimitFacts } from './errors.js';
import type { ModelHost } from './platform.js';

const NO_TOKEN = 0xffffffff;

/** The code of a failed realm_status. */
export function codeOf(status: number): ErrorCode {
  return ERROR_CODES[status - 1] ?? 'internal';
}

/** An error that names a limit, as the core says it: retry_after in nanoseconds, the limit's name with underscores. */
export function limitError(code: ErrorCode, message: string, limit: string, value: number, retryAfterNs: number): RealmError {
  const facts: LimitFacts = {};
  if (limit !== '') {
    facts.limit = limitName(limit);
    facts.value = value;
  }
  if (retryAfterNs > 0) facts.retryAfter = retryAfterNs / 1e9;
  return new RealmError(code, message, facts);
}

/** As ResourceLimits names it. */
export function limitName(native: string): string {
  return native.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
}

/** Codes of failures that the core says more about than a guest is told. */
export function meetsLimit(code: ErrorCode): boolean {
  return code === 'limit-exceeded' || code === 'context-full';
}

/** What a guest sees of an error: its code. */
export function asResult<Value>(action: () => Value): Value {
  try {
    return action();
  } catch (problem) {
    throw problem instanceof RealmError ? new InterfaceError(problem.code) : problem;
  }
}

/** Handles of models inside one context, each kept for as long as the guest may ask about it. */
export class GrantedModels {
  readonly #models = new Map<number, ModelHost>();

  /** `grant` makes the handle of the shared model it is given. */
  add<Model extends ModelHost>(model: Model, grant: (shared: Model) => number): number {
    const shared = model.share() as Model;
    try {
      const handle = grant(shared);
      this.#models.set(handle, shared);
      return handle;
    } catch (problem) {
      shared.close();
      throw problem;
    }
  }

  remove(handle: number): void {
    this.#models.get(handle)?.close();
    this.#models.delete(handle);
  }

  clear(): void {
    for (const handle of [...this.#models.keys()]) this.remove(handle);
  }

  get(handle: number): ModelHost {
    const model = this.#models.get(handle);
    if (!model) throw new InterfaceError('invalid-handle');
    return model;
  }

  modelInfo(model: number): ModelProperties {
    const { vocabSize, contextLength, layerCount, embeddingLength, bos, eos } = this.get(model).info;
    return { vocabSize, contextLength, layerCount, embeddingLength, bos: bos ?? NO_TOKEN, eos: eos ?? NO_TOKEN };
  }

  encode(model: number, text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Uint32Array {
    const found = this.get(model);
    return asResult(() => found.encode(text, addSpecial, parseSpecial));
  }

  decode(model: number, tokens: Uint32Array, special: boolean, textStart: boolean): Uint8Array {
    const found = this.get(model);
    return asResult(() => found.decode(tokens, special, textStart));
  }
}
