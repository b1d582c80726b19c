// A model's file, opened: found in the cache, begun as a download, or used where it is. Callers of one address share the file.

import { cancelled, RealmError } from '../../js/src/errors.js';
import { BlobFile, MemoryFile, uniqueKey } from './blob_file.js';
import { BLOCK } from './blocks.js';
import { RangedFile, type Remote } from './download.js';
import { askSize, orAbort, request, TransferError, withRetries, type Answer, type TransferOptions } from './http.js';
import { entryId, NotKept, openCache, type CompleteEntry, type EntryStore, type ModelCache } from './opfs.js';
import { SequentialFile, spool } from './sequential.js';
import { BlobStore, type BlockFile } from './store.js';

/** A URL without fragment, or bytes of this device. */
export type Input = URL | Blob | Uint8Array;

/** WebSourceOptions, complete and checked. */
export interface Settings extends TransferOptions {
  cache: 'auto' | 'always' | 'never';
  cacheKey: string | undefined;
  connections: number;
  notice: (message: string) => void;
  /** Bytes of a body whose length nobody announced. */
  spooled: (bytes: number) => void;
}

// ---- files that callers share ----

const sharedFiles = new Map<string, Shared>();

/** A file with the number of its users; the last one to leave stops what is going on and closes it. */
export class Shared {
  #users = 0;
  #file: BlockFile | undefined;
  readonly #controller = new AbortController();
  readonly #opening: Promise<BlockFile>;

  constructor(open: (signal: AbortSignal) => Promise<BlockFile>, readonly forget: () => void) {
    this.#opening = open(this.#controller.signal).then((file) => (this.#file = file));
    this.#opening.catch(() => this.forget());
  }

  get spoiled(): boolean {
    return this.#file?.spoiled ?? this.#controller.signal.aborted;
  }

  async ready(signal: AbortSignal | undefined): Promise<BlockFile> {
    this.#users += 1;
    try {
      const file = await orAbort(this.#opening, signal);
      if (file && !signal?.aborted) return file;
      throw cancelled(signal?.reason);
    } catch (problem) {
      this.leave();
      throw problem;
    }
  }

  leave(): void {
    this.#users -= 1;
    if (this.#users > 0) return;
    this.forget();
    this.#controller.abort();
    this.#opening.then((file) => file.close(), () => undefined);
  }
}

export function share(input: Input, settings: Settings, digest: string | undefined): Shared {
  if (!(input instanceof URL)) return new Shared((signal) => openLocal(input, settings, signal), () => undefined);
  const { cacheKey, headers, credentials, cache } = settings;
  const key = JSON.stringify([cacheKey ?? input.href, headers, credentials, cache]);
  const known = sharedFiles.get(key);
  if (known && !known.spoiled) return known;
  const forget = (): void => {
    if (sharedFiles.get(key) === shared) sharedFiles.delete(key);
  };
  const shared: Shared = new Shared((signal) => openUrl(input, settings, digest, signal), forget);
  sharedFiles.set(key, shared);
  return shared;
}

// ---- files on this device ----

async function openLocal(input: Blob | Uint8Array, settings: Settings, signal: AbortSignal): Promise<BlockFile> {
  const file = input instanceof Uint8Array ? new MemoryFile(input) : new BlobFile(input, localName(input), blobKey(input));
  checkMagic(await file.beginning(), file.name, '');
  return settings.cache === 'always' ? await copyToCache(file, settings, signal) : file;
}

/** A file of the same name, size and date is taken to be the same. */
function blobKey(blob: Blob): string {
  return blob instanceof File ? `file:${blob.name}:${blob.size}:${blob.lastModified}` : uniqueKey();
}

async function copyToCache(file: BlockFile, settings: Settings, signal: AbortSignal): Promise<BlockFile> {
  const key = settings.cacheKey ?? (file.key.startsWith('file:') ? file.key : undefined);
  if (key === undefined) throw new RealmError('invalid-argument', 'bytes without a name can only be kept under a `cacheKey`');
  const cache = await openCache();
  const entry = typeof cache === 'string' ? undefined : await cache.complete(entryId(key));
  if (entry && typeof cache !== 'string') return cachedFile(cache, entry);
  const identity = { key, name: file.name, size: file.size, validator: '' };
  if (typeof cache === 'string') throw notKept(new NotKept(cache));
  const store = await cache.write(entryId(key), identity);
  if (store instanceof NotKept) throw notKept(store);
  try {
    await fill(store, file, signal);
    await store.finish();
  } finally {
    store.close();
  }
  const copy = await cache.complete(entryId(key));
  return copy ? cachedFile(cache, copy) : file;
}

async function fill(store: EntryStore, file: BlockFile, signal: AbortSignal): Promise<void> {
  const keep = (index: number, bytes: Uint8Array): void => {
    for (let at = 0; at < bytes.length; at += BLOCK) {
      const number = (index * file.block + at) / BLOCK;
      if (!store.write(number, bytes.subarray(at, at + BLOCK))) throw store.problem ?? notKept(new NotKept('the cache was closed'));
    }
  };
  await file.stream(0, Math.ceil(file.size / file.block), keep, signal);
}

function notKept({ reason, facts: { limit, value } }: NotKept): RealmError {
  return new RealmError('limit-exceeded', `the model cannot be kept on this device: ${reason}`, { limit, value });
}

function cachedFile(cache: ModelCache, entry: CompleteEntry): BlobFile {
  const { identity, digest } = entry.journal;
  const id = entryId(identity.key);
  const drop = async (): Promise<void> => {
    await entry.release();
    await cache.delete(id).catch(() => undefined);
  };
  const file = new BlobFile(entry.blob, identity.name, remoteKey(identity), () => void entry.release(), drop);
  file.digest = digest;
  return file;
}

function remoteKey(identity: { key: string; size: number; validator: string }): string {
  return `${identity.key} ${identity.size} ${identity.validator}`;
}

// ---- files on a server ----

async function openUrl(url: URL, settings: Settings, digest: string | undefined, signal: AbortSignal): Promise<BlockFile> {
  const id = entryId(settings.cacheKey ?? url.href);
  const cache = await cacheFor(settings);
  const entry = await cache?.complete(id);
  if (cache && entry && digest !== undefined && entry.journal.digest === digest) return cachedFile(cache, entry);
  const attempts = { ...settings, retries: entry ? 0 : settings.retries };
  const open = (ranged: boolean) => openRemote(url, settings, { cache, entry, digest, ranged }, signal);
  try {
    return await withRetries(() => open(true), () => 0, attempts, signal);
  } catch (problem) {
    const unreachable = problem instanceof TransferError && problem.kind === 'again';
    if (cache && entry && unreachable) return cachedFile(cache, entry); // offline: what is here is complete
    await entry?.release();
    if (!unreachable) throw problem;
    return await open(false).catch(() => Promise.reject(problem)); // some servers only answer plain questions
  }
}

async function cacheFor(settings: Settings): Promise<ModelCache | undefined> {
  if (settings.cache === 'never') return undefined;
  const cache = await openCache();
  if (typeof cache !== 'string') return cache;
  if (settings.cache === 'always') throw notKept(new NotKept(cache));
  settings.notice(`models are not kept on this device: ${cache}`);
  return undefined;
}

interface Known {
  cache: ModelCache | undefined;
  entry: CompleteEntry | undefined;
  digest: string | undefined;
  /** Whether to ask for a range. */
  ranged: boolean;
}

async function openRemote(url: URL, settings: Settings, known: Known, signal: AbortSignal): Promise<BlockFile> {
  const { cache, entry, digest } = known;
  const key = settings.cacheKey ?? url.href;
  const begunBefore = entry?.journal ?? (await cache?.journal(entryId(key)));
  let readsOn = false;
  const { answer, size } = await ask(url, known.ranged ? (begunBefore ? 64 : BLOCK) : 0, settings, signal);
  try {
    const begun = await readBeginning(answer);
    checkMagic(begun, url.href, answer.head.contentType);
    const remote = { url: url.href, name: fileName(url), key, validator: answer.head.validator };
    if (cache && entry && isSame(entry, size, remote.validator) && digest === undefined) return cachedFile(cache, entry);
    await entry?.release();
    if (size === undefined) return await openUnannounced(answer, begun, remote, settings, cache, signal);
    const file: Remote = { ...remote, size, key: remoteKey({ ...remote, size }) };
    const store = await storeFor(cache, { ...remote, size }, settings);
    readsOn = !answer.head.ranged;
    if (readsOn) return new SequentialFile(file, store ?? new BlobStore(size), settings, answer, begun);
    const ranged = new RangedFile(file, store, settings, settings.connections);
    if (begun.length === Math.min(BLOCK, size)) ranged.accept(0, begun);
    return ranged;
  } finally {
    if (!readsOn) answer.close();
  }
}

/** The first answer, to a range from the beginning or (0 bytes) to no range, and the size if it can be found out. */
async function ask(
  url: URL,
  bytes: number,
  settings: Settings,
  signal: AbortSignal,
): Promise<{ answer: Answer; size: number | undefined }> {
  const range = bytes > 0 ? { start: 0, end: bytes } : undefined;
  const answer = await request(url.href, range, settings, signal);
  if (answer.head.size !== undefined || !answer.head.ranged) return { answer, size: answer.head.size };
  const size = await askSize(url.href, settings, signal).catch(() => undefined);
  if (size !== undefined) return { answer, size };
  answer.close();
  const whole = await request(url.href, undefined, settings, signal);
  return { answer: whole, size: whole.head.size };
}

/** All of a range, or enough of a whole body to see what it is. */
async function readBeginning(answer: Answer): Promise<Uint8Array> {
  const wanted = answer.head.ranged ? BLOCK : 64;
  const pieces: Uint8Array[] = [];
  while (answer.taken < wanted) {
    const piece = await answer.read();
    if (!piece) break;
    pieces.push(piece.slice());
  }
  return concatenate(pieces);
}

function isSame(entry: CompleteEntry, size: number | undefined, validator: string): boolean {
  const { identity } = entry.journal;
  const sameVersion = validator === '' || identity.validator === '' || validator === identity.validator;
  return sameVersion && (size === undefined || size === identity.size);
}

async function storeFor(
  cache: ModelCache | undefined,
  identity: { key: string; name: string; size: number; validator: string },
  settings: Settings,
): Promise<EntryStore | undefined> {
  const store = await cache?.write(entryId(identity.key), identity);
  if (store && !(store instanceof NotKept)) {
    store.onProblem = (problem) => {
      if (settings.cache === 'always') throw problem;
      settings.notice(problem.message);
    };
  }
  if (!(store instanceof NotKept)) return store;
  if (settings.cache === 'always') throw notKept(store);
  settings.notice(`${identity.name} is not kept on this device: ${store.reason}`);
  return undefined;
}

/** A body whose length is not known has to come completely before anything else. */
async function openUnannounced(
  answer: Answer,
  begun: Uint8Array,
  remote: { url: string; name: string; key: string; validator: string },
  settings: Settings,
  cache: ModelCache | undefined,
  signal: AbortSignal,
): Promise<BlockFile> {
  const blob = await spool(answer, begun, settings.spooled, signal);
  const identity = { ...remote, size: blob.size };
  const file = new BlobFile(blob, remote.name, remoteKey(identity));
  const store = await storeFor(cache, identity, settings);
  if (!store || !cache) return file;
  try {
    await fill(store, file, signal);
    await store.finish();
  } catch (problem) {
    if (settings.cache === 'always' || signal.aborted) throw problem;
    settings.notice(`${remote.name} is not kept on this device: ${String(problem)}`);
  } finally {
    store.close();
  }
  return file;
}

// ---- names ----

export function fileName(url: URL): string {
  if (url.protocol === 'data:') return 'data:';
  const name = url.pathname.slice(url.pathname.lastIndexOf('/') + 1);
  try {
    return decodeURIComponent(name) || url.host;
  } catch {
    return name;
  }
}

export function localName(input: Blob | Uint8Array): string {
  return input instanceof File ? input.name : 'model';
}

// ---- is it a model at all ----

function checkMagic(beginning: Uint8Array, name: string, contentType: string): void {
  const text = new TextDecoder('latin1').decode(beginning.subarray(0, 64));
  if (text.startsWith('GGUF')) return;
  let found = `it begins with ${JSON.stringify(text.slice(0, 16))}`;
  if (beginning.length === 0) found = 'it is empty';
  else if (/html/i.test(contentType) || /^\s*<(!doctype|html)/i.test(text)) found = 'it is a web page; give the address of the file itself';
  else if (text.startsWith('version https://git-lfs')) found = 'it is the pointer of Git LFS; give the address of the file itself';
  throw new RealmError('invalid-gguf', `${name} is no GGUF model: ${found}`);
}

function concatenate(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1) return pieces[0]!;
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
