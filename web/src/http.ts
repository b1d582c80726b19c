// One HTTP request for a range of a file, and the loop that repeats it: what an answer may say, when a connection counts as
// stalled, which failures are worth another attempt. Servers are not believed: an answer must be what was asked for.

import { cancelled, checkSignal, RealmError, type ErrorCode } from '../../js/src/errors.js';
import { MAX_FILE_SIZE } from './blocks.js';
import { ByteReader } from './byte_reader.js';

/** Of a body, read at once. */
/** Within the stall time a connection must bring so much, or the first bytes of its answer. */
const STALL_BYTES = 16 << 10;
const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 10_000;
/** Progress that makes earlier failures forgotten. */
const PROGRESS_BYTES = 1 << 20;

export interface TransferOptions {
  headers: Readonly<Record<string, string>>;
  credentials: RequestCredentials;
  stallMs: number;
  /** Attempts without progress after which a transfer fails. */
  retries: number;
}

/**
 * `again`: another attempt may succeed. `changed`: the server has another file now; what came before is worthless.
 * `final`: the server's word.
 */
export class TransferError extends RealmError {
  constructor(code: ErrorCode, message: string, readonly kind: 'again' | 'changed' | 'final', options?: ErrorOptions) {
    super(code, message, options);
  }
}

// ---- one answer ----

/** What the head of an answer says about the file. */
export interface Head {
  /** Where the body begins in the file. */
  start: number;
  /** Where the body should end, if that is known. */
  end: number | undefined;
  /** Of the whole file, if that is known. */
  size: number | undefined;
  /** ETag or Last-Modified; empty when there is none, or the page may not read it. */
  validator: string;
  /** The server answers ranges. */
  ranged: boolean;
  contentType: string;
}

/** An answer whose body is read piece by piece. Whoever gets one must `close` it. */
export class Answer {
  readonly #reader: ByteReader | undefined;
  /** Bytes of the body that were read. */
  taken = 0;

  constructor(readonly url: string, readonly head: Head, response: Response, readonly watch: Watch) {
    this.#reader = response.body ? new ByteReader(response.body) : undefined;
  }

  /** The next bytes, or undefined at the end. They are valid until the next read. */
  async read(): Promise<Uint8Array | undefined> {
    this.watch.resume();
    try {
      // Raced, because not every runtime ends a read when its request is aborted.
      const value = await orAbort(this.#reader?.read() ?? Promise.resolve(undefined), this.watch.signal);
      if (this.watch.signal.aborted) throw new Error('aborted');
      this.taken += value?.length ?? 0;
      this.watch.progress(value?.length ?? 0);
      return value;
    } catch (problem) {
      throw this.watch.failure(problem, `the connection to ${this.url} broke`);
    } finally {
      this.watch.pause();
    }
  }

  close(): void {
    this.watch.stop();
    this.#reader?.cancel();
  }
}

/** Asks for bytes [start, end) of a file, or for all of it; the answer may give more, or all. */
export async function request(
  url: string,
  range: { start: number; end?: number } | undefined,
  options: TransferOptions,
  signal: AbortSignal | undefined,
): Promise<Answer> {
  checkSignal(signal);
  const headers = new Headers(options.headers);
  if (range) headers.set('Range', `bytes=${range.start}-${range.end === undefined ? '' : range.end - 1}`);
  const watch = new Watch(url, options.stallMs, signal);
  try {
    const response = await fetchWatched(url, { headers, credentials: options.credentials }, watch);
    watch.progress(STALL_BYTES);
    return new Answer(url, readHead(response, range?.start ?? 0, url), response, watch);
  } catch (problem) {
    watch.stop();
    throw problem;
  } finally {
    watch.pause();
  }
}

/** The size of a file whose answers to ranges do not show it (another origin's Content-Range is often hidden). */
export async function askSize(url: string, options: TransferOptions, signal?: AbortSignal): Promise<number | undefined> {
  const watch = new Watch(url, options.stallMs, signal);
  try {
    const { headers, credentials } = options;
    const response = await fetchWatched(url, { method: 'HEAD', headers, credentials }, watch);
    return response.ok ? readHead(response, 0, url).size : undefined;
  } finally {
    watch.stop();
  }
}

async function fetchWatched(url: string, init: RequestInit, watch: Watch): Promise<Response> {
  watch.resume();
  try {
    return await fetch(url, { ...init, cache: 'no-store', signal: watch.signal });
  } catch (problem) {
    throw watch.failure(problem, unreachable(url));
  }
}

function readHead(response: Response, start: number, url: string): Head {
  const refused = refusal(response, url);
  if (refused) {
    response.body?.cancel().catch(() => undefined);
    throw refused;
  }
  const text = (name: string): string => response.headers.get(name) ?? '';
  const common = { validator: text('etag').replace(/^W\//, '') || text('last-modified'), contentType: text('content-type') };
  if (response.status === 200) {
    const plain = /^(identity)?$/i.test(text('content-encoding'));
    const size = plain ? wholeNumber(text('content-length')) : undefined;
    return { ...common, start: 0, end: size, size: checkSize(size, url), ranged: false };
  }
  const range = parseContentRange(text('content-range'));
  if (range ? range.start !== start || range.end <= start : text('content-range') !== '' || /multipart/i.test(common.contentType)) {
    throw new TransferError('io', `${url} answered another range than was asked for: ${text('content-range')}`, 'again');
  }
  return { ...common, start, end: range?.end, size: checkSize(range?.size, url), ranged: true };
}

/** `bytes 0-1023/4096`, or `*` for the size. */
export function parseContentRange(text: string): { start: number; end: number; size: number | undefined } | undefined {
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/i.exec(text.trim());
  if (!match) return undefined;
  const range = { start: Number(match[1]), end: Number(match[2]) + 1, size: wholeNumber(match[3] ?? '') };
  const sound = Number.isSafeInteger(range.end) && range.end > range.start && range.end <= (range.size ?? range.end);
  return sound ? range : undefined;
}

function wholeNumber(text: string): number | undefined {
  return /^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : undefined;
}

function checkSize(size: number | undefined, url: string): number | undefined {
  if (size === undefined || size <= MAX_FILE_SIZE) return size;
  throw new TransferError('io', `${url} claims to have ${size} bytes, more than any model`, 'final');
}

/** The error of a status that brings no file. */
function refusal(response: Response, url: string): TransferError | undefined {
  const { status } = response;
  if (status === 200 || status === 206) return undefined;
  const answer = `${url} answered ${status}${response.statusText ? ` ${response.statusText}` : ''}`;
  if (status === 404 || status === 410) return new TransferError('not-found', `${answer}: check the address`, 'final');
  if (status === 401 || status === 403) {
    return new TransferError('io', `${answer}: the server wants a sign-in or forbids access; see the option \`headers\``, 'final');
  }
  if (status === 416) return new TransferError('io', `${answer}: the file is shorter than it was`, 'changed');
  if (status === 408 || status === 429 || status >= 500) {
    return new TransferError('io', `${answer}: the server has a problem; try again later`, 'again');
  }
  return new TransferError('io', `${answer}, which is no file`, 'final');
}

function unreachable(url: string): string {
  if (globalThis.navigator?.onLine === false) return `cannot load ${url}: this device is offline`;
  const elsewhere = globalThis.location !== undefined && new URL(url).origin !== globalThis.location.origin;
  const permission = ', or it does not allow this page to read the file (CORS)';
  return `cannot load ${url}: the server cannot be reached${elsewhere ? permission : ''}`;
}

// ---- stalled connections ----

/** Aborts a request that brings (almost) nothing for too long, or whose caller gave up. */
class Watch {
  readonly #controller = new AbortController();
  readonly #abort = (): void => this.#controller.abort();
  readonly #timer: ReturnType<typeof setInterval>;
  /** Time that was spent waiting for the last `STALL_BYTES`; while the caller is busy with what came, none passes. */
  #waitedMs = 0;
  #waitingSince: number | undefined;
  #seen = 0;
  #stalled = false;

  constructor(readonly url: string, readonly limitMs: number, readonly outer: AbortSignal | undefined) {
    outer?.addEventListener('abort', this.#abort, { once: true });
    this.#timer = setInterval(() => this.#check(), Math.max(10, Math.min(1000, limitMs / 4)));
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  resume(): void {
    this.#waitingSince = performance.now();
  }

  pause(): void {
    this.#waitedMs = this.#waited();
    this.#waitingSince = undefined;
  }

  progress(bytes: number): void {
    this.#seen += bytes;
    if (this.#seen < STALL_BYTES) return;
    this.#seen = 0;
    this.#waitedMs = 0;
    if (this.#waitingSince !== undefined) this.resume();
  }

  stop(): void {
    clearInterval(this.#timer);
    this.outer?.removeEventListener('abort', this.#abort);
    this.#controller.abort();
  }

  /** What a rejected fetch or read means. */
  failure(problem: unknown, otherwise: string): RealmError {
    if (this.outer?.aborted) return cancelled(this.outer.reason);
    if (this.#stalled) {
      return new TransferError('timed-out', `${this.url} sent (almost) nothing for ${this.limitMs / 1000} s`, 'again');
    }
    return new TransferError('io', otherwise, 'again', { cause: problem });
  }

  #waited(): number {
    return this.#waitedMs + (this.#waitingSince === undefined ? 0 : performance.now() - this.#waitingSince);
  }

  #check(): void {
    if (this.#waitingSince === undefined || this.#waited() < this.limitMs) return;
    this.#stalled = true;
    this.#controller.abort();
  }
}

// ---- attempts ----

/**
 * Runs `attempt` until it succeeds. Failures that may heal are repeated, each after a longer wait; `progress` tells how many bytes
 * there are by now, and enough new ones make earlier failures forgotten.
 */
export async function withRetries<T>(
  attempt: () => Promise<T>,
  progress: () => number,
  options: TransferOptions,
  signal: AbortSignal | undefined,
): Promise<T> {
  let failures = 0;
  let reached = progress();
  for (;;) {
    try {
      return await attempt();
    } catch (problem) {
      if (!(problem instanceof TransferError) || problem.kind !== 'again') throw problem;
      if (progress() - reached >= PROGRESS_BYTES) failures = 0;
      reached = progress();
      failures += 1;
      if (failures > options.retries) throw problem;
      await pause(Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (failures - 1)), signal);
    }
  }
}

/** Waits, or ends early with the signal's abort. */
export async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  checkSignal(signal);
  let wake: () => void = () => undefined;
  const waited = new Promise<void>((resolve) => (wake = resolve));
  const timer = setTimeout(wake, ms);
  signal?.addEventListener('abort', wake, { once: true });
  await waited;
  clearTimeout(timer);
  signal?.removeEventListener('abort', wake);
  checkSignal(signal);
}

/** The promise's value, or undefined as soon as the signal is aborted. */
export async function orAbort<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T | undefined> {
  if (!signal) return promise;
  promise.catch(() => undefined); // nobody may be there any more
  if (signal.aborted) return undefined;
  let stop: () => void = () => undefined;
  const aborted = new Promise<undefined>((resolve) => (stop = () => resolve(undefined)));
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
