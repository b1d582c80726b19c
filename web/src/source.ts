// What an application calls a model, opened: addresses, chosen files, arrays become sources of bytes, one for each shard.
// The sources check ranges and digests, and report how much is there; where the bytes come from is decided in open_file.ts.

import { cancelled, checkSignal, RealmError } from '../../js/src/errors.js';
import type { ModelSource, OpenSourceOptions } from '../../js/src/source.js';
import { fileName, localName, share, type Input, type Settings } from './open_file.js';
import { Sha256 } from './sha256.js';
import { orderShards, shardUrls } from './split.js';
import type { BlockFile, Deliver } from './store.js';

export interface WebSourceOptions extends OpenSourceOptions {
  /**
   * Whether the bytes are kept on this device. `auto`: downloads are kept where there is room, and files that are here
   * are used where they are; `always`: a copy is kept, or opening fails; `never`.
   */
  cache?: 'auto' | 'always' | 'never' | undefined;
  /** The expected digest in hexadecimal digits; a list has one for each shard. */
  sha256?: string | readonly string[] | undefined;
  /** Names the model in the cache instead of its address, where addresses change (signatures). */
  cacheKey?: string | undefined;
  /** Sent with every request, for example Authorization. */
  headers?: Readonly<Record<string, string>> | undefined;
  credentials?: RequestCredentials | undefined;
  /** Parallel connections of one download. */
  connections?: number | undefined;
  /** A connection that brings (almost) nothing for so long is given up and tried again. */
  stallMs?: number | undefined;
  /** Attempts without progress after which a download fails. */
  retries?: number | undefined;
}

const SHARDS_AT_ONCE = 4;
/** Files that are checked before anything of them is used: the first shard of a model may have metadata and no weights. */
const CHECKED_FIRST = 16 << 20;

export async function openSource(input: unknown, options: WebSourceOptions = {}): Promise<ModelSource[]> {
  checkSignal(options.signal);
  const settings = checkSettings(options);
  const inputs = await resolveInputs(input);
  const digests = checkDigests(options.sha256, inputs.length);
  const progress = new Progress(options);
  const sources = new Array<Source | undefined>(inputs.length).fill(undefined);
  const open = async (at: number): Promise<void> => {
    const shared = share(inputs[at]!, inputs.length > 1 ? withShardKey(settings, at) : settings, digests[at]);
    const file = await shared.ready(options.signal);
    sources[at] = new Source(file, () => shared.leave(), digests[at], progress);
  };
  try {
    for (let at = 0; at < inputs.length; at += SHARDS_AT_ONCE) {
      const group = inputs.slice(at, at + SHARDS_AT_ONCE).map((_, index) => open(at + index));
      await Promise.allSettled(group);
      await Promise.all(group);
    }
  } catch (problem) {
    for (const source of sources) source?.close();
    throw problem;
  }
  progress.update();
  return sources as Source[];
}

/** The cache of models, or why there is none. */
export { openCache } from './opfs.js';
export type { CachedModel, CacheRoom, ModelCache } from './opfs.js';

// ---- what was given ----

function checkSettings(options: WebSourceOptions): Settings {
  const whole = (name: 'connections' | 'stallMs' | 'retries', fallback: number, low: number, high: number): number => {
    const value = options[name] ?? fallback;
    if (Number.isInteger(value) && value >= low && value <= high) return value;
    throw new RealmError('invalid-argument', `${name} is ${value}; it must be a whole number from ${low} to ${high}`);
  };
  const cache = options.cache ?? 'auto';
  if (!['auto', 'always', 'never'].includes(cache)) {
    throw new RealmError('invalid-argument', `cache is ${JSON.stringify(cache)}; it must be 'auto', 'always' or 'never'`);
  }
  return {
    cache,
    cacheKey: options.cacheKey,
    connections: whole('connections', 4, 1, 16),
    stallMs: whole('stallMs', 20_000, 50, 3_600_000),
    retries: whole('retries', 4, 0, 100),
    headers: { ...options.headers },
    credentials: options.credentials ?? 'same-origin',
    notice: options.notice ?? (() => undefined),
    spooled: (loaded) => options.transfer?.({ loaded, verified: 0, total: 0 }),
  };
}

function checkDigests(sha256: string | readonly string[] | undefined, count: number): (string | undefined)[] {
  if (sha256 === undefined) return new Array<undefined>(count).fill(undefined);
  const list = typeof sha256 === 'string' ? [sha256] : [...sha256];
  if (list.length !== count || list.some((digest) => !/^[0-9a-f]{64}$/i.test(digest))) {
    throw new RealmError('invalid-argument', `sha256 must have 64 hexadecimal digits for each of the ${count} files`);
  }
  return list.map((digest) => digest.toLowerCase());
}

function withShardKey(settings: Settings, at: number): Settings {
  return settings.cacheKey === undefined ? settings : { ...settings, cacheKey: `${settings.cacheKey}#${at}` };
}

/** One entry for each shard, in order. */
async function resolveInputs(input: unknown): Promise<Input[]> {
  if (typeof input === 'string' || input instanceof URL) return shardUrls(toUrl(input));
  if (isList(input)) {
    const items = Array.from(input);
    if (items.length === 0) throw new RealmError('invalid-argument', 'no file was given');
    if (items.every((item) => typeof item === 'string' || item instanceof URL)) {
      const urls = (items as (string | URL)[]).map(toUrl);
      return urls.length === 1 ? shardUrls(urls[0]!) : orderShards(urls, fileName);
    }
    return orderShards(await Promise.all(items.map(toLocal)), localName);
  }
  return orderShards([await toLocal(input)], localName);
}

function isList(input: unknown): input is Iterable<unknown> {
  return typeof input === 'object' && input !== null && Symbol.iterator in input && !ArrayBuffer.isView(input);
}

function toUrl(input: string | URL): URL {
  const text = JSON.stringify(String(input));
  let url: URL;
  try {
    url = new URL(input, globalThis.location?.href);
  } catch {
    throw new RealmError('invalid-argument', `${text} is no address; give a whole one, with https://`);
  }
  if (!/^(https?|blob|data):$/.test(url.protocol)) {
    throw new RealmError('invalid-argument', `${text}: models are loaded over http or https, or from a File that was chosen`);
  }
  url.hash = '';
  return url;
}

async function toLocal(input: unknown): Promise<Blob | Uint8Array> {
  if (input instanceof Blob) return input;
  if (input instanceof Uint8Array) return input;
  if (input instanceof ArrayBuffer || isSharedBuffer(input)) return new Uint8Array(input);
  if (ArrayBuffer.isView(input)) return new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
  const handle = input as { kind?: unknown; getFile?: () => Promise<File> } | null | undefined;
  if (handle?.kind === 'file' && typeof handle.getFile === 'function') return handle.getFile();
  const given = input === null ? 'null' : typeof input;
  throw new RealmError('invalid-argument', `a model is a URL, a File, a Blob, an ArrayBuffer, or a list of shards; got ${given}`);
}

function isSharedBuffer(input: unknown): input is ArrayBuffer {
  return typeof SharedArrayBuffer === 'function' && (input as unknown) instanceof SharedArrayBuffer;
}

// ---- sources ----

/** A user's view of a file. */
class Source implements ModelSource {
  readonly #stop = new AbortController();
  readonly #changed = (): void => this.progress.update();
  #verified = false;

  constructor(
    readonly file: BlockFile,
    readonly leave: () => void,
    readonly expected: string | undefined,
    readonly progress: Progress,
  ) {
    this.#verified = expected !== undefined && file.digest === expected;
    file.listeners.add(this.#changed);
    progress.sources.push(this);
  }

  get name(): string {
    return this.file.name;
  }

  get size(): number {
    return this.file.size;
  }

  get key(): string {
    return this.expected === undefined ? this.file.key : `sha256:${this.expected}`;
  }

  get verifiedBytes(): number {
    return this.#verified ? this.size : 0;
  }

  async read(offset: number, size: number, signal?: AbortSignal): Promise<Uint8Array> {
    const bytes = new Uint8Array(this.#checkRange(offset, size));
    const place = (at: number, piece: Uint8Array): void => bytes.set(piece, at - offset);
    await this.#guarded(signal, async (both) => {
      if (this.#unverified && this.size <= CHECKED_FIRST) await this.#verify(() => undefined, both);
      await this.#pass(offset, size, place, both);
    });
    return bytes;
  }

  /** Where a digest is expected, the whole file, not only the range, has been checked when the first stream resolves. */
  async stream(offset: number, size: number, chunk: Chunk, signal?: AbortSignal): Promise<void> {
    this.#checkRange(offset, size);
    await this.#guarded(signal, async (both) => {
      if (this.#unverified && !this.file.keeps) {
        await this.#verify(within(this.file.block, offset, size, chunk, both), both); // both in one pass
      } else {
        await this.#pass(offset, size, chunk, both);
        if (this.#unverified) await this.#verify(() => undefined, both);
      }
      await this.file.finish();
    });
  }

  close(): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.file.listeners.delete(this.#changed);
    this.leave();
  }

  get #unverified(): boolean {
    return this.expected !== undefined && !this.#verified;
  }

  #checkRange(offset: number, size: number): number {
    if (this.#stop.signal.aborted) throw closed(this.name);
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(size) && offset >= 0 && size >= 0;
    if (!whole) throw new RealmError('invalid-argument', `${offset} and ${size} are no range of bytes`);
    if (size > this.size - offset) {
      throw new RealmError('io', `${this.name} has ${this.size} bytes, ${size} from byte ${offset} were asked for: is it cut short?`);
    }
    return size;
  }

  async #guarded(signal: AbortSignal | undefined, action: (both: AbortSignal) => Promise<void>): Promise<void> {
    checkSignal(signal);
    try {
      await action(signal ? AbortSignal.any([signal, this.#stop.signal]) : this.#stop.signal);
    } catch (problem) {
      if (this.#stop.signal.aborted) throw closed(this.name);
      if (signal?.aborted) throw cancelled(signal.reason);
      throw problem;
    }
  }

  async #pass(offset: number, size: number, chunk: Chunk, signal: AbortSignal): Promise<void> {
    if (size === 0) return;
    const { block } = this.file;
    const deliver = within(block, offset, size, chunk, signal);
    // What is left behind the last tensor is padding: a copy in the cache should have it, too.
    const rest = this.size - offset - size;
    const end = Math.ceil((rest < block ? this.size : offset + size) / block);
    await this.file.stream(Math.floor(offset / block), end, deliver, signal);
  }

  /** Reads the whole file in order and compares its digest. */
  async #verify(deliver: Deliver, signal: AbortSignal): Promise<void> {
    const hash = new Sha256();
    const blocks = Math.ceil(this.size / this.file.block);
    const check = (index: number, bytes: Uint8Array): void | Promise<void> => {
      hash.update(bytes);
      return deliver(index, bytes);
    };
    await this.file.stream(0, blocks, check, signal, 1);
    const digest = hash.hex();
    if (digest !== this.expected) {
      await this.file.discard();
      const difference = `its sha256 is ${digest}, expected was ${this.expected}`;
      throw new RealmError('io', `${this.name} is damaged or not the file that was meant: ${difference}; load it again`);
    }
    this.file.digest = digest;
    this.#verified = true;
    this.progress.update();
  }
}

type Chunk = (offset: number, bytes: Uint8Array) => void | Promise<void>;

/** Turns blocks into pieces of a range; what is outside is dropped, and nothing comes after an abort. */
function within(block: number, offset: number, size: number, chunk: Chunk, signal: AbortSignal): Deliver {
  return (index, bytes) => {
    checkSignal(signal);
    const start = index * block;
    const from = Math.max(0, offset - start);
    const to = Math.min(bytes.length, offset + size - start);
    return from < to ? chunk(start + from, bytes.subarray(from, to)) : undefined;
  };
}

function closed(name: string): RealmError {
  return new RealmError('closed', `${name} was closed`);
}

/** Adds up what the sources of one model have. */
class Progress {
  readonly sources: Source[] = [];

  constructor(readonly options: WebSourceOptions) {}

  update(): void {
    const sum = (part: (source: Source) => number): number => this.sources.reduce((all, source) => all + part(source), 0);
    const loaded = sum((source) => source.file.loaded());
    this.options.transfer?.({ loaded, verified: sum((source) => source.verifiedBytes), total: sum((source) => source.size) });
  }
}
