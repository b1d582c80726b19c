// A file on a server without ranges: one answer from the first byte to the last, put into a store as it comes, so that the
// header can be read while the rest is on its way. After a broken connection what is there already is skipped.

import { cancelled, RealmError } from '../../js/src/errors.js';
import { BLOCK } from './blocks.js';
import { complaintAbout, type Remote } from './download.js';
import { orAbort, request, TransferError, withRetries, type Answer, type TransferOptions } from './http.js';
import { Assembler, BlobStore, notify, type BlockFile, type BlockStore, type Deliver } from './store.js';

/** The longest body that is taken without having been announced. */
const MAX_UNANNOUNCED = 16 * 2 ** 30;

export class SequentialFile implements BlockFile {
  readonly block = BLOCK;
  readonly keeps = true;
  spoiled = false;
  readonly listeners = new Set<() => void>();
  readonly #stop = new AbortController();
  /** Takes over where the store has no room. */
  readonly #overflow: BlobStore;
  #failure: unknown;
  #waiting = new Set<() => void>();

  /** Begins with an answer that has given `begun` bytes already. */
  constructor(
    readonly remote: Remote,
    readonly store: BlockStore,
    readonly options: TransferOptions,
    answer: Answer,
    begun: Uint8Array,
  ) {
    this.#overflow = new BlobStore(remote.size);
    void this.#download(answer, begun);
  }

  get name(): string {
    return this.remote.name;
  }

  get size(): number {
    return this.remote.size;
  }

  get key(): string {
    return this.remote.key;
  }

  get digest(): string | undefined {
    return this.store.digest;
  }

  set digest(value: string | undefined) {
    this.store.digest = value;
  }

  loaded(): number {
    return this.store.held.bytes + this.#overflow.held.bytes;
  }

  async stream(first: number, end: number, deliver: Deliver, signal: AbortSignal | undefined): Promise<void> {
    const room = new Uint8Array(BLOCK);
    for (let index = first; index < end; index += 1) {
      while (!this.#has(index)) await this.#moved(signal);
      await deliver(index, await this.#read(index, room));
      if (signal?.aborted) throw cancelled(signal.reason);
    }
  }

  /** A failed download closes its store, perhaps just now. */
  async #read(index: number, room: Uint8Array): Promise<Uint8Array> {
    try {
      return await (this.store.held.has(index) ? this.store : this.#overflow).read(index, room);
    } catch (problem) {
      throw this.#failure ?? problem;
    }
  }

  async finish(): Promise<void> {
    if (this.store.held.complete) await this.store.finish();
  }

  async discard(): Promise<void> {
    this.spoiled = true;
    this.#stop.abort();
    await this.store.discard();
  }

  close(): void {
    this.#stop.abort();
    this.#overflow.close();
    this.store.close();
  }

  #has(index: number): boolean {
    return this.store.held.has(index) || this.#overflow.held.has(index);
  }

  /** Waits for the next block. */
  async #moved(signal: AbortSignal | undefined): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    let wake: () => void = () => undefined;
    const moved = new Promise<void>((resolve) => (wake = resolve));
    this.#waiting.add(wake);
    await orAbort(moved, signal);
    this.#waiting.delete(wake);
    if (signal?.aborted) throw cancelled(signal.reason);
  }

  async #download(first: Answer, begun: Uint8Array): Promise<void> {
    const assembler = new Assembler(0, this.size);
    const { signal } = this.#stop;
    let answer: Answer | undefined = first;
    try {
      this.#take(assembler, begun);
      await withRetries(
        async () => {
          answer ??= await request(this.remote.url, { start: assembler.position }, this.options, signal);
          try {
            await this.#drain(answer, assembler);
          } finally {
            answer.close();
            answer = undefined;
          }
        },
        () => assembler.position,
        this.options,
        signal,
      );
    } catch (problem) {
      this.#failure = problem;
      this.spoiled = true;
      if (problem instanceof TransferError && problem.kind === 'changed') await this.store.discard();
      else this.store.close(); // what came stays for the next attempt
    }
    this.#wake();
  }

  /** Reads an answer to its end; what it repeats of the file is skipped. */
  async #drain(answer: Answer, assembler: Assembler): Promise<void> {
    const { start } = answer.head;
    const complaint = complaintAbout(answer.head, start, this.remote);
    if (complaint) throw complaint;
    let skip = assembler.position - start - answer.taken;
    for (let piece = await answer.read(); piece; piece = await answer.read()) {
      const skipped = Math.min(skip, piece.length);
      skip -= skipped;
      this.#take(assembler, piece.subarray(skipped));
    }
    if (assembler.position < this.size) {
      throw new TransferError('io', `${this.remote.url} ended the transfer early, at byte ${assembler.position}`, 'again');
    }
  }

  #take(assembler: Assembler, piece: Uint8Array): void {
    for (let at = 0; at < piece.length; ) {
      if (assembler.position >= this.size) {
        throw new RealmError('io', `${this.remote.url} sends more than the ${this.size} bytes it announced`);
      }
      const { taken, full } = assembler.take(piece.subarray(at));
      at += taken;
      if (!full) continue;
      this.#keep(assembler.index - 1, full);
      assembler.spare = full;
    }
  }

  #keep(index: number, bytes: Uint8Array): void {
    if (!this.#has(index) && !this.store.write(index, bytes)) this.#overflow.write(index, bytes);
    notify(this.listeners);
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }
}

/** The whole body of an answer whose length nobody announced; it cannot be opened before its end has come. */
export async function spool(
  answer: Answer,
  begun: Uint8Array,
  progress: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<Blob> {
  const parts: Blob[] = [new Blob([begun as Uint8Array<ArrayBuffer>])];
  let pending: Uint8Array[] = [];
  let total = begun.length;
  let waiting = 0;
  for (let piece = await answer.read(); piece; piece = await answer.read()) {
    if (signal?.aborted) throw cancelled(signal.reason);
    pending.push(piece.slice());
    waiting += piece.length;
    total += piece.length;
    if (total > MAX_UNANNOUNCED) {
      throw new RealmError('io', `${answer.url} sends more than ${MAX_UNANNOUNCED / 2 ** 20} MiB and does not say how much will come`);
    }
    if (waiting < BLOCK) continue;
    parts.push(new Blob(pending as Uint8Array<ArrayBuffer>[]));
    pending = [];
    waiting = 0;
    progress(total);
  }
  return new Blob([...parts, ...(pending as Uint8Array<ArrayBuffer>[])]);
}
