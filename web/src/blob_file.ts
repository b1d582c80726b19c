// Bytes that are on this device already: a File the user chose, a Blob, an array, a complete copy in the cache. They are used
// where they are.

import { cancelled, RealmError } from '../../js/src/errors.js';
import { ByteReader } from './byte_reader.js';
import { Assembler, notify, type BlockFile, type Deliver } from './store.js';

const PIECE = 1 << 20;

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
    const assembler = new Assembler(first, this.size, PIECE);
    const part = this.blob.slice(first * PIECE, end * PIECE);
    // Chromium now and then leaves a read into an own buffer of a Blob's stream unanswered for ever.
    const reader = new ByteReader(part.stream());
    try {
      for (;;) {
        if (signal?.aborted) throw cancelled(signal.reason);
        const bytes = await readable(reader.read(), this.name);
        if (!bytes) break;
        for (let at = 0; at < bytes.length; ) {
          const { taken, full } = assembler.take(bytes.subarray(at));
          at += taken;
          if (!full) continue;
          await deliver(assembler.index - 1, full);
          assembler.spare = full;
        }
      }
    } finally {
      reader.cancel();
    }
    if (assembler.index < end) throw new RealmError('io', `${this.name} is shorter than it was; choose it again`);
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
    return new Uint8Array(await readable(this.blob.slice(0, 64).arrayBuffer(), this.name));
  }
}

async function readable<T>(reading: Promise<T>, name: string): Promise<T> {
  try {
    return await reading;
  } catch (problem) {
    const message = `${name} cannot be read: it was changed, moved or deleted after it was opened; choose it again`;
    throw new RealmError('io', message, { cause: problem });
  }
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
