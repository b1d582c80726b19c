// The cache of downloaded models in the origin private file system: a folder for each model with `data` and `journal`.
// Whoever writes an entry holds its Web Lock exclusively; complete entries are read as Blobs under the shared lock, by any
// number of tabs. Where storage, locks or the permission are missing there is no cache, and everything else works.

import { RealmError, type LimitFacts } from '../../js/src/errors.js';
import { BLOCK, BlockSet, type Run } from './blocks.js';
import { digestLine, headerLine, parseJournal, runLine, type Identity, type Journal } from './journal.js';
import { sha256 } from './sha256.js';
import { sized, type BlockStore } from './store.js';

const FOLDER = 'realm-models';
/** What is written is made durable, and then recorded, after so many blocks or so long. */
const SYNC_BLOCKS = 16;
const SYNC_MS = 2000;
/** A journal of the largest file is smaller. */
const MAX_JOURNAL_BYTES = 64 << 20;

/** In workers only, and not yet in TypeScript's DOM library. */
interface SyncHandle {
  read(buffer: Uint8Array, options: { at: number }): number;
  write(buffer: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

/** Gives a lock back; done when others can have it. */
type Release = () => Promise<void>;

/** A model in the cache. */
export interface CachedModel {
  id: string;
  /** The address, or the name that the application gave. */
  key: string;
  name: string;
  size: number;
  /** Of those, so many bytes are here. */
  cached: number;
  complete: boolean;
  /** SHA-256, if it was checked. */
  sha256: string | undefined;
  created: Date;
}

/** Room for cached models on this device, in bytes. */
export interface CacheRoom {
  used: number;
  free: number;
}

/** A complete copy, with the lock that keeps it from being deleted. */
export interface CompleteEntry {
  blob: Blob;
  journal: Journal;
  release: Release;
}

/** The cache, or why there is none. */
export async function openCache(): Promise<ModelCache | string> {
  const { storage, locks } = (globalThis.navigator ?? {}) as Partial<Navigator>;
  if (!storage?.getDirectory || !locks) return 'this page has no storage for files (it needs HTTPS or localhost)';
  try {
    const root = await storage.getDirectory();
    return new ModelCache(await root.getDirectoryHandle(FOLDER, { create: true }));
  } catch (problem) {
    return `the browser refuses storage to this page (${String(problem)})`;
  }
}

export function entryId(key: string): string {
  return sha256(new TextEncoder().encode(key)).slice(0, 32);
}

export class ModelCache {
  constructor(readonly folder: FileSystemDirectoryHandle) {}

  async list(): Promise<CachedModel[]> {
    const models: CachedModel[] = [];
    for await (const id of this.folder.keys()) {
      const journal = await this.journal(id);
      if (journal) models.push(describe(id, journal));
    }
    return models.sort((a, b) => a.created.getTime() - b.created.getTime());
  }

  async room(): Promise<CacheRoom> {
    const { quota = 0, usage = 0 } = await navigator.storage.estimate();
    return { used: usage, free: Math.max(0, quota - usage) };
  }

  /** Deletes a model; one that a page is using is `busy`. Deleting what is not there is not an error. */
  async delete(id: string): Promise<void> {
    const release = await lock(id, 'exclusive');
    if (!release) throw new RealmError('busy', 'this model is in use, perhaps in another tab; close it there and try again');
    try {
      await this.#remove(id);
    } finally {
      await release();
    }
  }

  /** Deletes all that nobody uses; returns how many are left. */
  async clear(): Promise<number> {
    const ids: string[] = [];
    for await (const id of this.folder.keys()) ids.push(id);
    const deleted = await Promise.allSettled(ids.map((id) => this.delete(id)));
    return deleted.filter((one) => one.status === 'rejected').length;
  }

  /** What an entry says of itself; it may be changing in another tab. */
  async journal(id: string): Promise<Journal | undefined> {
    try {
      const folder = await this.folder.getDirectoryHandle(id);
      const file = await (await folder.getFileHandle('journal')).getFile();
      return file.size > MAX_JOURNAL_BYTES ? undefined : parseJournal(await file.text());
    } catch {
      return undefined;
    }
  }

  async data(id: string): Promise<Blob> {
    const folder = await this.folder.getDirectoryHandle(id);
    return (await folder.getFileHandle('data')).getFile();
  }

  /** A complete copy, if there is one that nobody is about to delete. */
  async complete(id: string): Promise<CompleteEntry | undefined> {
    const release = await lock(id, 'shared');
    if (!release) return undefined;
    try {
      const journal = await this.journal(id);
      if (journal?.blocks.complete) {
        const blob = await this.data(id);
        if (blob.size === journal.identity.size) return { blob, journal, release };
      }
    } catch {
      // as good as not there: it will be written anew
    }
    await release();
    return undefined;
  }

  /** An entry to write to, or why there is none; what it holds of another file is dropped. */
  async write(id: string, identity: Identity): Promise<EntryStore | NotKept> {
    const release = await lock(id, 'exclusive');
    if (!release) return new NotKept(`${identity.name} is being loaded in another tab, too`);
    try {
      return await this.#open(id, identity, release);
    } catch (problem) {
      await release();
      if (problem instanceof RealmError) return new NotKept(problem.message, problem);
      return new NotKept(`the browser's storage cannot be used (${String(problem)})`);
    }
  }

  async #open(id: string, identity: Identity, release: Release): Promise<EntryStore> {
    const folder = await this.folder.getDirectoryHandle(id, { create: true });
    const journalHandle = await syncHandle(folder, 'journal');
    let dataHandle: SyncHandle | undefined;
    try {
      dataHandle = await syncHandle(folder, 'data');
      const journal = resume(journalHandle, dataHandle, identity);
      await this.#checkRoom(identity, journal.blocks.bytes);
      return new EntryStore(this, id, journal, dataHandle, journalHandle, release);
    } catch (problem) {
      journalHandle.close();
      dataHandle?.close();
      throw problem;
    }
  }

  /** What the browser estimates may be too much (it hides the real figure from pages); then a write fails. */
  async #checkRoom(identity: Identity, held: number): Promise<void> {
    const { free } = await this.room();
    if (identity.size > held + free) throw noRoom(identity.name, identity.size, held + free);
  }

  async #remove(id: string): Promise<void> {
    try {
      await this.folder.removeEntry(id, { recursive: true });
    } catch (problem) {
      if ((problem as DOMException).name !== 'NotFoundError') {
        throw new RealmError('io', `the cached model cannot be deleted (${String(problem)})`, { cause: problem });
      }
    }
  }
}

/** Why a model is not kept. */
export class NotKept {
  constructor(
    readonly reason: string,
    readonly facts: LimitFacts = {},
  ) {}
}

function noRoom(name: string, needed: number, room: number): RealmError {
  const figures = `${megabytes(needed)} are needed and there is room for ${megabytes(room)}`;
  const advice = 'delete cached models or free space on this device';
  return new RealmError('limit-exceeded', `no room to keep ${name}: ${figures}; ${advice}`, { limit: 'storage', value: room });
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function describe(id: string, journal: Journal): CachedModel {
  const { key, name, size } = journal.identity;
  const { blocks, digest, created } = journal;
  return { id, key, name, size, cached: blocks.bytes, complete: blocks.complete, sha256: digest, created: new Date(created) };
}

// ---- one entry that is being written ----

/** Blocks in the file system. Until the file is complete this holds both files open and the entry's lock. */
export class EntryStore implements BlockStore {
  readonly held: BlockSet;
  #digest: string | undefined;
  #unrecorded: number[] = [];
  #recordedAt = performance.now();
  #blob: Blob | undefined;
  #closed = false;
  /** Why nothing more is kept. */
  problem: RealmError | undefined;
  /** Told of the problem. What it throws ends the download. */
  onProblem: (problem: RealmError) => void = () => undefined;

  constructor(
    readonly cache: ModelCache,
    readonly id: string,
    readonly journal: Journal,
    readonly data: SyncHandle,
    readonly log: SyncHandle,
    private release: Release,
  ) {
    this.held = journal.blocks;
    this.#digest = journal.digest;
  }

  get digest(): string | undefined {
    return this.#digest;
  }

  set digest(value: string | undefined) {
    this.#digest = value;
    if (value !== undefined && !this.#blob) this.#append(digestLine(value));
  }

  write(index: number, bytes: Uint8Array): boolean {
    if (this.problem || this.#closed) return false;
    try {
      writeAll(this.data, bytes, index * BLOCK);
      this.held.add(index);
      this.#unrecorded.push(index);
      const due = this.#unrecorded.length >= SYNC_BLOCKS || performance.now() - this.#recordedAt > SYNC_MS;
      if (due || this.held.complete) this.#record();
      return true;
    } catch (problem) {
      const { identity } = this.journal;
      this.problem = noRoom(identity.name, identity.size, this.held.bytes);
      this.problem.cause = problem;
    }
    this.onProblem(this.problem);
    return false;
  }

  read(index: number, room?: Uint8Array): Uint8Array | Promise<Uint8Array> {
    const at = index * BLOCK;
    const length = this.held.length(index);
    if (this.#blob) return readBlob(this.#blob, at, length);
    const bytes = sized(room, length);
    if (this.#closed) throw new RealmError('closed', 'the model was closed');
    const count = this.data.read(bytes, { at });
    if (count !== bytes.length) throw damaged(this.journal.identity.name);
    return bytes;
  }

  /** Lets other tabs read the complete file. */
  async finish(): Promise<void> {
    if (this.#blob || this.#closed) return;
    this.#record();
    this.#blob = await this.cache.data(this.id);
    this.#closeHandles();
    if (this.#closed) return;
    await this.release();
    this.release = (await lock(this.id, 'shared')) ?? (() => Promise.resolve());
    if (this.#closed) await this.release();
  }

  /** The bytes are not what they should be: the entry is emptied. */
  async discard(): Promise<void> {
    if (!this.#blob && !this.#closed) {
      this.#unrecorded = [];
      this.log.truncate(0);
      this.data.truncate(0);
    }
    const complete = this.#blob !== undefined;
    await this.#end();
    if (complete) await this.cache.delete(this.id).catch(() => undefined);
  }

  close(): void {
    void this.#end();
  }

  async #end(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (!this.#blob) {
      try {
        this.#record();
      } catch {
        // what is not recorded will be fetched again
      }
      this.#closeHandles();
    }
    await this.release();
  }

  #closeHandles(): void {
    this.data.close();
    this.log.close();
  }

  /** First the bytes reach the disk, then the journal says so. */
  #record(): void {
    this.#recordedAt = performance.now();
    if (this.#unrecorded.length === 0) return;
    this.data.flush();
    this.#append(runsOf(this.#unrecorded).map(({ first, count }) => runLine(first, count)).join(''));
    this.#unrecorded = [];
  }

  #append(text: string): void {
    writeAll(this.log, new TextEncoder().encode(text), this.log.getSize());
    this.log.flush();
  }
}

function damaged(name: string): RealmError {
  return new RealmError('io', `the cached copy of ${name} is damaged; delete it and load the model again`);
}

async function readBlob(blob: Blob, at: number, size: number): Promise<Uint8Array> {
  return new Uint8Array(await blob.slice(at, at + size).arrayBuffer());
}

/** What an interrupted download left, if it was the same file; else an empty entry. */
function resume(log: SyncHandle, data: SyncHandle, identity: Identity): Journal {
  const text = readText(log);
  const found = parseJournal(text);
  const same = found && found.identity.size === identity.size && found.identity.validator === identity.validator;
  if (same && data.getSize() >= lastByte(found.blocks)) {
    log.truncate(new TextEncoder().encode(text.slice(0, text.lastIndexOf('\n') + 1)).length);
    return found;
  }
  log.truncate(0);
  data.truncate(0);
  const created = Date.now();
  writeAll(log, new TextEncoder().encode(headerLine(identity, created)), 0);
  log.flush();
  return { identity, created, blocks: new BlockSet(identity.size), digest: undefined };
}

function readText(log: SyncHandle): string {
  const size = Math.min(log.getSize(), MAX_JOURNAL_BYTES);
  const bytes = new Uint8Array(size);
  return new TextDecoder().decode(bytes.subarray(0, Math.max(0, log.read(bytes, { at: 0 }))));
}

/** The data file must reach so far to hold these blocks. */
function lastByte(blocks: BlockSet): number {
  const last = blocks.runs().at(-1);
  return last ? Math.min((last.first + last.count) * BLOCK, blocks.size) : 0;
}

function runsOf(indexes: readonly number[]): Run[] {
  const runs: Run[] = [];
  for (const index of [...indexes].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && last.first + last.count === index) last.count += 1;
    else runs.push({ first: index, count: 1 });
  }
  return runs;
}

/** Some browsers answer a full disk with a short or negative count instead of an exception. */
function writeAll(handle: SyncHandle, bytes: Uint8Array, at: number): void {
  const count = handle.write(bytes, { at });
  if (count !== bytes.length) throw new Error(`wrote ${count} of ${bytes.length} bytes`);
}

async function syncHandle(folder: FileSystemDirectoryHandle, name: string): Promise<SyncHandle> {
  const file = (await folder.getFileHandle(name, { create: true })) as unknown as {
    createSyncAccessHandle?: () => Promise<SyncHandle>;
  };
  if (!file.createSyncAccessHandle) throw new Error('files can only be written in a worker');
  return file.createSyncAccessHandle();
}

/** Takes the entry's lock if it is free; the result gives it back. */
async function lock(id: string, mode: LockMode): Promise<Release | undefined> {
  return new Promise((resolve, reject) => {
    const held: Promise<unknown> = navigator.locks.request(`${FOLDER}/${id}`, { mode, ifAvailable: true }, (granted) => {
      if (!granted) return resolve(undefined);
      return new Promise<void>((release) => {
        resolve(() => {
          release();
          return held.then(() => undefined);
        });
      });
    });
    held.catch(reject);
  });
}
