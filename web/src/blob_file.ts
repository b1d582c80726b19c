// Bytes that are on this device already: a File the user chose, a Blob, an array, a complete copy in the cache. They are used
// where they are.

import { cancelled, RealmError } from '../../js/src/errors.js';
import { notify, type BlockFile, type Deliver } from './store.js';

/** Large enough that asking the browser for a piece costs little. */
const PIECE = 4 << 20;

export class BlobFile implements BlockFile {
  readonly block = PIECE;
  readonly keeps = true;
  spoiled = false;
  readonly listeners = new Set<() => void>();
  digest: string | undefined;

  /** `release` is called at the end, `drop` when the bytes turned out to be wrong. */
  constructor(
    readonly blob: Blob,
    readonly name: string,
    readonly key: string,
    readonly release: () => void = () => undefined,
    readonly drop: () => Promise<void> = () => Promise.resolve(),
  ) {}

  get size(): number {
    return this.blob.size;
  }

  loaded(): number {
    return this.blob.size;
  }

  async stream(first: number, end: number, deliver: Deliver, signal: AbortSignal | undefined): Promise<void> {
    let coming = this.#piece(first);
    for (let index = first; index < end; index += 1) {
      const bytes = await coming;
      if (signal?.aborted) throw cancelled(signal.reason);
      if (index + 1 < end) coming = this.#piece(index + 1); // read while the caller works on this one
      coming.catch(() => undefined);
      await deliver(index, bytes);
    }
    if (signal?.aborted) throw cancelled(signal.reason);
  }

  finish(): Promise<void> {
    notify(this.listeners);
    return Promise.resolve();
  }

  discard(): Promise<void> {
    this.spoiled = true;
    return this.drop();
  }

  close(): void {
    this.release();
  }

  /** Enough to see what the file is. */
  async beginning(): Promise<Uint8Array> {
    return readPart(this.blob.slice(0, 64), this.name);
  }

  #piece(index: number): Promise<Uint8Array> {
    return readPart(this.blob.slice(index * PIECE, (index + 1) * PIECE), this.name);
  }
}

async function readPart(part: Blob, name: string): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(await part.arrayBuffer());
  } catch (problem) {
    const message = `${name} cannot be read: it was changed, moved or deleted after it was opened; choose it again`;
    throw new RealmError('io', message, { cause: problem });
  }
  if (bytes.length !== part.size) throw new RealmError('io', `${name} is shorter than it was; choose it again`);
  return bytes;
}

/** An array that the caller keeps unchanged. */
export class MemoryFile implements BlockFile {
  readonly block = PIECE;
  readonly keeps = true;
  readonly name = 'model';
  readonly key = uniqueKey();
  readonly listeners = new Set<() => void>();
  spoiled = false;
  digest: string | undefined;

  constructor(readonly bytes: Uint8Array) {}

  get size(): number {
    return this.bytes.length;
  }

  loaded(): number {
    return this.bytes.length;
  }

  async stream(first: number, end: number, deliver: Deliver, signal: AbortSignal | undefined): Promise<void> {
    for (let index = first; index < end; index += 1) {
      if (signal?.aborted) throw cancelled(signal.reason);
      await deliver(index, this.bytes.subarray(index * PIECE, (index + 1) * PIECE));
    }
  }

  beginning(): Promise<Uint8Array> {
    return Promise.resolve(this.bytes.slice(0, 64));
  }

  finish(): Promise<void> {
    return Promise.resolve();
  }

  discard(): Promise<void> {
    this.spoiled = true;
    return Promise.resolve();
  }

  close(): void {
    // the caller's
  }
}

/** For bytes that say nothing of themselves. */
export function uniqueKey(): string {
  return `bytes:${crypto.randomUUID()}`;
}
