// Running requests as the application sees them: a promise of the result, or a stream of text with the result at its end.

import type { Finish } from './_generated/abi.js';
import { joined } from './bytes.js';
import type { DrawnTokens, Work } from './drawn.js';
import { cancelled, RealmError } from './errors.js';
import type { Ended, Listener, RunningRequest } from './port.js';

export interface Usage {
  promptTokens: number;
  completionTokens: number;
  totalTokens: number;
}

/** Seconds from the request's start in the guest; then what the engine did for it, by its own clock. */
export interface Timings extends Work {
  firstTokenSeconds: number;
  totalSeconds: number;
  /** Of the generated tokens after the first one. */
  tokensPerSecond: number;
}

/** One of the likeliest tokens at a place. */
export interface LikelyToken {
  id: number;
  logprob: number;
}

export interface Generation {
  text: string;
  tokens: number[];
  promptTokens: number;
  /** end (by the model), stop (a stop string), length, or what an own guest says. */
  finishReason: Finish;
  usage: Usage;
  timings: Timings;
  /** Of each of the tokens, when asked for. */
  logprobs?: number[];
  /** The likeliest at each place, the first one first. */
  topLogprobs?: LikelyToken[][];
}

const decoder = new TextDecoder();

/** Starts a request with a listener. */
export type Start = (listener: Listener) => RunningRequest;

/** An AbortSignal or the reader may end a request before its guest does. */
export function runRequest(
  start: Start,
  signal: AbortSignal | undefined,
  patient: boolean,
): Promise<Ended & { text: string }> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(cancelled(signal.reason));
    const pieces: Uint8Array[] = [];
    const running = start({
      patient,
      text: (piece) => pieces.push(piece),
      end: (ended) => {
        signal?.removeEventListener('abort', abort);
        if (ended.problem) reject(ended.problem);
        else resolve({ ...ended, text: decoder.decode(joined(pieces)) });
      },
    });
    const abort = (): void => {
      running.cancel();
      reject(cancelled(signal?.reason));
    };
    signal?.addEventListener('abort', abort, { once: true });
  });
}

/** Bytes to text: a character may be split between two pieces of an own guest. */
class TextPieces {
  readonly #decoder = new TextDecoder();
  #text = '';

  add(piece: Uint8Array): string {
    const decoded = this.#decoder.decode(piece, { stream: true });
    this.#text += decoded;
    return decoded;
  }

  /** The rest, once no more comes. */
  last(): string {
    const decoded = this.#decoder.decode();
    this.#text += decoded;
    return decoded;
  }

  get text(): string {
    return this.#text;
  }
}

export function generation(ended: Ended, text: string): Generation {
  const completionTokens = ended.tokens.length;
  const rest = ended.totalSeconds - ended.firstTokenSeconds;
  return {
    text,
    tokens: Array.from(ended.tokens),
    promptTokens: ended.promptTokens,
    finishReason: ended.finish,
    usage: {
      promptTokens: ended.promptTokens,
      completionTokens,
      totalTokens: ended.promptTokens + completionTokens,
    },
    timings: {
      firstTokenSeconds: ended.firstTokenSeconds,
      totalSeconds: ended.totalSeconds,
      tokensPerSecond: completionTokens > 1 && rest > 0 ? (completionTokens - 1) / rest : 0,
      ...ended.work,
    },
    ...(ended.drawn && probabilities(ended.drawn)),
  };
}

function probabilities({ top, ids, logprobs }: DrawnTokens): Pick<Generation, 'logprobs' | 'topLogprobs'> {
  const size = 1 + top;
  const places = Array.from({ length: Math.floor(ids.length / size) }, (_, place) => place * size);
  const likely = (at: number): LikelyToken => ({ id: ids[at]!, logprob: logprobs[at]! });
  return {
    logprobs: places.map((at) => logprobs[at]!),
    ...(top > 0 && { topLogprobs: places.map((at) => Array.from({ length: top }, (_, nth) => likely(at + 1 + nth))) }),
  };
}

/** Pieces of text as they come. Leaving it (break, cancel) cancels the request; `result` is the whole at the end. */
export class TokenStream extends ReadableStream<string> {
  readonly result: Promise<Generation>;

  /** @internal `prepare` says how to start; nothing runs before it. */
  constructor(prepare: () => Promise<Start>, signal: AbortSignal | undefined) {
    const source = new StreamSource(prepare, signal);
    super(source, { highWaterMark: 0 });
    this.result = source.result;
  }
}

class StreamSource implements UnderlyingDefaultSource<string> {
  readonly result: Promise<Generation>;
  readonly #pieces: { text: string; size: number }[] = [];
  readonly #text = new TextPieces();
  #running: RunningRequest | undefined;
  #done = false;
  #problem: RealmError | undefined;
  #wake: () => void = () => undefined;
  #resolve: (value: Generation) => void = () => undefined;
  #reject: (problem: unknown) => void = () => undefined;

  constructor(
    private readonly prepare: () => Promise<Start>,
    private readonly signal: AbortSignal | undefined,
  ) {
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.result.catch(() => undefined); // the stream tells of it too
  }

  async start(): Promise<void> {
    this.signal?.addEventListener('abort', this.#aborted, { once: true });
    if (this.signal?.aborted) return this.#aborted();
    try {
      const start = await this.prepare();
      if (this.#done) return;
      this.#running = start({ text: (piece) => this.#add(piece), end: (ended) => this.#end(ended) });
    } catch (problem) {
      this.#fail(problem as RealmError);
    }
  }

  async pull(controller: ReadableStreamDefaultController<string>): Promise<void> {
    while (this.#pieces.length === 0 && !this.#done) await new Promise<void>((resolve) => (this.#wake = resolve));
    const piece = this.#pieces.shift();
    if (piece) {
      this.#running?.took(piece.size);
      controller.enqueue(piece.text);
    } else if (this.#problem) controller.error(this.#problem);
    else controller.close();
  }

  cancel(reason: unknown): void {
    this.#running?.cancel();
    this.#fail(cancelled(reason));
  }

  readonly #aborted = (): void => {
    this.#running?.cancel();
    this.#pieces.length = 0;
    this.#fail(cancelled(this.signal?.reason));
  };

  #add(piece: Uint8Array): void {
    if (this.#done) return;
    this.#push(this.#text.add(piece), piece.length);
  }

  #push(text: string, size: number): void {
    if (text === '') this.#running?.took(size);
    else this.#pieces.push({ text, size });
    this.#wake();
  }

  #end(ended: Ended): void {
    if (this.#done) return;
    if (ended.problem) return this.#fail(ended.problem);
    this.#push(this.#text.last(), 0);
    this.#settle();
    this.#resolve(generation(ended, this.#text.text));
  }

  #fail(problem: RealmError): void {
    if (this.#done) return;
    this.#problem = problem;
    this.#settle();
    this.#reject(problem);
  }

  #settle(): void {
    this.#done = true;
    this.signal?.removeEventListener('abort', this.#aborted);
    this.#wake();
  }
}
