// What is remembered of a request beside its guest: the tokens drawn for it, with their log probabilities and the likeliest at each
// place when asked for; and the engine's work for it.

import { readToken, TOKEN_SIZE, type Packed } from './_generated/abi.js';

const MOST_DRAWN = 1 << 18; // tokens of one request: more than a context has room for

/** What a caller asks for. */
export interface Told {
  logprobs: boolean;
  /** So many of the likeliest tokens at each place; only those that a guest samples have them. */
  topLogprobs: number;
}

/** Records of 1 + top tokens: the one that was drawn, then the likeliest, the first one first. */
export interface DrawnTokens {
  top: number;
  ids: Uint32Array;
  logprobs: Float32Array;
}

export class Drawn {
  readonly #ids: number[] = [];
  readonly #logprobs: number[] = [];

  constructor(readonly top: number) {}

  get full(): boolean {
    return this.#ids.length >= MOST_DRAWN * (1 + this.top);
  }

  /** Token records, one after the other. */
  add(tokens: Packed): void {
    const view = new DataView(tokens.buffer, tokens.byteOffset, tokens.byteLength);
    for (let at = 0; at + TOKEN_SIZE <= tokens.length && !this.full; at += TOKEN_SIZE) this.push(readToken(view, at));
  }

  push({ id, logprob }: { id: number; logprob: number }): void {
    this.#ids.push(id);
    this.#logprobs.push(logprob);
  }

  /** Those of a result's tokens: an end token, and what came after a stop string, are not among them. */
  first(count: number): DrawnTokens {
    const size = count * (1 + this.top);
    const [ids, logprobs] = [this.#ids.slice(0, size), this.#logprobs.slice(0, size)];
    return { top: this.top, ids: Uint32Array.from(ids), logprobs: Float32Array.from(logprobs) };
  }
}

/** What the engine did, by its own clock. */
export interface Work {
  /** Until the first step that computed for the request: places, rates, the schedule. */
  queuedSeconds: number;
  /** From there until its prompt was computed. */
  prefillSeconds: number;
  /** The rest, in which its tokens were drawn. */
  decodeSeconds: number;
  /** Of both, steps with rows of it. */
  stepSeconds: number;
  steps: number;
  /** Its own, in those steps. */
  rows: number;
}

export const WORK_NAMES = ['queuedSeconds', 'prefillSeconds', 'decodeSeconds', 'stepSeconds', 'steps', 'rows'] as const;

export const NO_WORK: Readonly<Work> = {
  queuedSeconds: 0, prefillSeconds: 0, decodeSeconds: 0, stepSeconds: 0, steps: 0, rows: 0,
};

/** From nanoseconds and counts as the core keeps them. */
export function workOf(queued: bigint, prefill: bigint, decode: bigint, step: bigint, steps: bigint, rows: bigint): Work {
  const seconds = (nanoseconds: bigint): number => Number(nanoseconds) / 1e9;
  return {
    queuedSeconds: seconds(queued),
    prefillSeconds: seconds(prefill),
    decodeSeconds: seconds(decode),
    stepSeconds: seconds(step),
    steps: Number(steps),
    rows: Number(rows),
  };
}

/** A guest that decodes with a ticket for each token waits in line for each: only before the first that is the request's queue. */
export function addWork(all: Work, more: Work): void {
  if (more.steps === 0) return;
  if (all.steps > 0) all.decodeSeconds += more.queuedSeconds;
  else all.queuedSeconds = more.queuedSeconds;
  all.prefillSeconds += more.prefillSeconds;
  all.decodeSeconds += more.decodeSeconds;
  all.stepSeconds += more.stepSeconds;
  all.steps += more.steps;
  all.rows += more.rows;
}
