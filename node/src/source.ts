// Where a model's bytes come from in Node when the core cannot map the file itself, as core.wasm: files and bytes in memory.

import { promises as fs } from 'node:fs';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { cancelled, checkSignal, RealmError } from '../../js/src/errors.js';
import type { ModelSource, OpenSource } from '../../js/src/source.js';

const PIECE_BYTES = 1 << 20;

type Chunk = Parameters<ModelSource['stream']>[2];

/** Bytes by position; `piece` reads at most PIECE_BYTES into a buffer that is used again. */
abstract class PieceSource implements ModelSource {
  constructor(
    readonly name: string,
    readonly size: number,
    readonly key: string,
  ) {}

  protected abstract piece(offset: number, size: number): Promise<Uint8Array>;
  abstract close(): void;

  async read(offset: number, size: number, signal?: AbortSignal): Promise<Uint8Array> {
    const all = new Uint8Array(size);
    await this.stream(offset, size, (at, bytes) => all.set(bytes, at - offset), signal);
    return all;
  }

  async stream(offset: number, size: number, chunk: Chunk, signal?: AbortSignal): Promise<void> {
    for (let at = offset; at < offset + size; ) {
      checkSignal(signal);
      const bytes = await this.piece(at, Math.min(PIECE_BYTES, offset + size - at));
      if (signal?.aborted) throw cancelled(signal.reason);
      if (bytes.length === 0) throw new RealmError('io', `${this.name} ended after ${at} of ${this.size} bytes`);
      await chunk(at, bytes);
      at += bytes.length;
    }
  }
}

class FileSource extends PieceSource {
  readonly #buffer = new Uint8Array(PIECE_BYTES);
  #closed = false;

  constructor(
    private readonly file: fs.FileHandle,
    name: string,
    size: number,
    key: string,
  ) {
    super(name, size, key);
  }

  async piece(offset: number, size: number): Promise<Uint8Array> {
    const { bytesRead } = await this.file.read(this.#buffer, 0, size, offset);
    return this.#buffer.subarray(0, bytesRead);
  }

  close(): void {
    if (!this.#closed) void this.file.close().catch(() => undefined);
    this.#closed = true;
  }
}

let serial = 0;

class BlobSource extends PieceSource {
  constructor(private readonly blob: Blob) {
    super('name' in blob ? String(blob.name) : 'model', blob.size, `blob ${++serial}`);
  }

  async piece(offset: number, size: number): Promise<Uint8Array> {
    return new Uint8Array(await this.blob.slice(offset, offset + size).arrayBuffer());
  }

  close(): void {}
}

async function openFile(path: string): Promise<ModelSource> {
  if (path.includes('\0')) throw new RealmError('io', 'the path of a model must not have a zero character');
  let file: fs.FileHandle | undefined;
  try {
    file = await fs.open(path, 'r');
    const { dev, ino, size, mtimeNs, isFile } = await file.stat({ bigint: true }).then((status) => ({
      ...status,
      isFile: status.isFile(),
    }));
    if (!isFile) throw new RealmError('io', `${path} is not a file`);
    return new FileSource(file, path, Number(size), JSON.stringify([resolve(path), `${dev}`, `${ino}`, `${mtimeNs}`, `${size}`]));
  } catch (problem) {
    await file?.close();
    throw fileError(path, problem);
  }
}

function fileError(path: string, problem: unknown): RealmError {
  if (problem instanceof RealmError) return problem;
  const missing = ['ENOENT', 'ENOTDIR'].includes((problem as NodeJS.ErrnoException).code ?? '');
  if (missing) return new RealmError('not-found', `there is no model file ${path}`);
  return new RealmError('io', `the model file ${path} cannot be read: ${(problem as Error).message}`);
}

function openOne(input: unknown): ModelSource | Promise<ModelSource> {
  if (typeof input === 'string') return openFile(input);
  if (input instanceof URL && input.protocol === 'file:') return openFile(fileURLToPath(input));
  if (input instanceof Blob) return new BlobSource(input);
  if (input instanceof ArrayBuffer || ArrayBuffer.isView(input)) return new BlobSource(new Blob([input as BlobPart]));
  throw new RealmError('invalid-argument', 'a model is a path, a file: URL, a Blob or bytes');
}

const ABOUT_ALL = ['signal', 'progress', 'transfer', 'notice'];

/** Settings of downloads mean something in a browser only, and must not be ignored: `sha256` is a promise. */
export function refuseDownloads(options: object = {}): void {
  const [refused] = Object.keys(options).filter((name) => !ABOUT_ALL.includes(name));
  if (refused) throw new RealmError('unsupported', `${refused} is for downloads in a browser; here models are files`);
}

/** Paths, file URLs, Blobs and bytes; a list of them is a split model. */
export const openNodeSource: OpenSource = async (input, options) => {
  refuseDownloads(options);
  const opened: ModelSource[] = [];
  try {
    for (const one of Array.isArray(input) ? (input as unknown[]) : [input]) opened.push(await openOne(one));
    return opened;
  } catch (problem) {
    for (const source of opened) source.close();
    throw problem;
  }
};
