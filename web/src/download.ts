// A file on a server that answers ranges. Blocks that are neither kept nor on their way are fetched in runs over a few
// connections; callers that stream the same file at once share what arrives. Nothing is held in memory but the blocks in
// flight and, without a cache, the file's first blocks, because its header is read before its weights.

import { cancelled } from '../../js/src/errors.js';
import { BLOCK, BlockSet, nextRun, type Run } from './blocks.js';
import { orAbort, request, TransferError, withRetries, type Answer, type Head, type TransferOptions } from './http.js';
import { Assembler, notify, type BlockFile, type BlockStore, type Deliver } from './store.js';

/** Blocks of a header that stay in memory where there is no cache. */
const REMEMBERED_BLOCKS = 16;
/** A server may give less than was asked for, but not so little that the requests never end. */
const SMALLEST_ANSWER = 64 << 10;

/** What is known of a file on a server. */
export interface Remote {
  url: string;
  name: string;
  key: string;
  size: number;
  validator: string;
}

export class RangedFile implements BlockFile {
  readonly block = BLOCK;
  readonly listeners = new Set<() => void>();
  readonly #arrived: BlockSet;
  readonly #memory = new Map<number, Uint8Array>();
  /** Blocks on their way: their bytes, or undefined when they did not come. */
  readonly #claims = new Map<number, Claim>();
  #failed: TransferError | undefined;
  #digest: string | undefined;
  spoiled = false;

  constructor(
    readonly remote: Remote,
    readonly store: BlockStore | undefined,
    readonly options: TransferOptions,
    readonly connections: number,
  ) {
    this.#arrived = new BlockSet(remote.size);
    for (let index = 0; store && index < store.held.count; index += 1) if (store.held.has(index)) this.#arrived.add(index);
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

  get keeps(): boolean {
    return this.store !== undefined;
  }

  get digest(): string | undefined {
    return this.store?.digest ?? this.#digest;
  }

  set digest(value: string | undefined) {
    this.#digest = value;
    if (this.store) this.store.digest = value;
  }

  loaded(): number {
    return this.#arrived.bytes;
  }

  /** Takes a block that came with the first answer. */
  accept(index: number, bytes: Uint8Array): void {
    if (this.store?.held.has(index)) return;
    const kept = this.store?.write(index, bytes) ?? false;
    if (!kept && index < REMEMBERED_BLOCKS) this.#memory.set(index, bytes);
    this.#arrived.add(index);
    notify(this.listeners);
  }

  async stream(
    first: number,
    end: number,
    deliver: Deliver,
    signal: AbortSignal | undefined,
    lanes = this.connections,
  ): Promise<void> {
    const cursor = { next: first, end, lanes };
    await inLanes(Math.min(lanes, end - first), signal, (laneSignal) => this.#lane(cursor, deliver, laneSignal));
  }

  async finish(): Promise<void> {
    if (this.store?.held.complete) await this.store.finish();
  }

  async discard(): Promise<void> {
    this.spoiled = true;
    this.#memory.clear();
    await this.store?.discard();
  }

  close(): void {
    this.#memory.clear();
    this.store?.close();
  }

  // ---- one connection ----

  async #lane(cursor: { next: number; end: number; lanes: number }, deliver: Deliver, signal: AbortSignal): Promise<void> {
    let room: Uint8Array | undefined; // of one run after the other: garbage would gather faster than it is collected
    while (cursor.next < cursor.end) {
      const index = cursor.next;
      const run = nextRun(index, cursor.end, cursor.lanes, (at) => this.#isFree(at));
      cursor.next += Math.max(1, run.count);
      if (run.count > 0) room = await this.#fetch(run, deliver, signal, room);
      else await this.#share(index, (room ??= new Uint8Array(BLOCK)), deliver, signal);
    }
  }

  #isFree(index: number): boolean {
    return !this.#isHeld(index) && !this.#claims.has(index);
  }

  #isHeld(index: number): boolean {
    return this.#memory.has(index) || (this.store?.held.has(index) ?? false);
  }

  /** A block that is kept, or that another caller is fetching; who gave up leaves it to those who wait. */
  async #share(index: number, room: Uint8Array, deliver: Deliver, signal: AbortSignal): Promise<void> {
    const claim = this.#claims.get(index);
    let bytes: Uint8Array | undefined;
    if (this.#isHeld(index)) bytes = this.#memory.get(index) ?? (await this.store?.read(index, room));
    else if (claim) bytes = await orAbort(claim.bytes(), signal);
    if (signal.aborted) throw cancelled(signal.reason);
    if (bytes) await deliver(index, bytes);
    else if (this.#isFree(index)) await this.#fetch({ first: index, count: 1 }, deliver, signal);
    else await this.#share(index, room, deliver, signal);
  }

  /** Returns room for another block, when there is some. */
  async #fetch(run: Run, deliver: Deliver, signal: AbortSignal, room?: Uint8Array): Promise<Uint8Array | undefined> {
    const claims = new Map<number, Claim>();
    const end = run.first + run.count;
    for (let index = run.first; index < end; index += 1) claims.set(index, new Claim());
    for (const [index, claim] of claims) this.#claims.set(index, claim);
    const assembler = new Assembler(run.first, this.size, BLOCK, room);
    const arrived = async (index: number, bytes: Uint8Array): Promise<void> => {
      this.accept(index, bytes);
      const claim = claims.get(index);
      claim?.resolve(bytes);
      this.#claims.delete(index);
      await deliver(index, bytes);
      if (!claim?.shared && !this.#memory.has(index)) assembler.spare = bytes;
    };
    const attempt = (): Promise<void> => this.#attempt(assembler, end, arrived, signal);
    try {
      while (assembler.index < end) await withRetries(attempt, () => assembler.position, this.options, signal);
    } finally {
      for (const [index, claim] of claims) {
        claim.resolve(undefined);
        if (this.#claims.get(index) === claim) this.#claims.delete(index);
      }
    }
    return assembler.spare;
  }

  /** One answer, as far as it goes. */
  async #attempt(assembler: Assembler, endBlock: number, arrived: Deliver, signal: AbortSignal): Promise<void> {
    if (this.#failed) throw this.#failed;
    const start = assembler.position;
    const end = Math.min(endBlock * BLOCK, this.size);
    const answer = await this.#answer({ start, end }, signal);
    try {
      while (assembler.index < endBlock) {
        const piece = await answer.read();
        if (!piece) break;
        for (let at = 0; at < piece.length && assembler.index < endBlock; ) {
          const { taken, full } = assembler.take(piece.subarray(at));
          at += taken;
          if (full) await arrived(assembler.index - 1, full);
        }
      }
    } finally {
      answer.close();
    }
    const asPromised = assembler.position === answer.head.end && assembler.position - start >= SMALLEST_ANSWER;
    if (assembler.index < endBlock && !asPromised) {
      throw new TransferError('io', `${this.remote.url} ended the transfer early, at byte ${assembler.position}`, 'again');
    }
  }

  async #answer(range: { start: number; end: number }, signal: AbortSignal): Promise<Answer> {
    try {
      const answer = await request(this.remote.url, range, this.options, signal);
      const complaint = complaintAbout(answer.head, range.start, this.remote);
      if (complaint) {
        answer.close();
        throw complaint;
      }
      return answer;
    } catch (problem) {
      if (problem instanceof TransferError && problem.kind === 'changed' && !this.#failed) {
        this.#failed = problem;
        await this.discard();
      }
      throw problem;
    }
  }
}

/** Whether an answer still belongs to the file that was opened, and begins where it must. */
export function complaintAbout(head: Head, start: number, remote: Remote): TransferError | undefined {
  const otherSize = head.size !== undefined && head.size !== remote.size;
  const otherVersion = head.validator !== '' && remote.validator !== '' && head.validator !== remote.validator;
  if (otherSize || otherVersion) {
    return new TransferError('io', `${remote.url} was replaced on the server while it was loading; load it again`, 'changed');
  }
  if (head.start !== start) {
    return new TransferError('io', `${remote.url} answered from byte ${head.start}, not from ${start}`, 'again');
  }
  return undefined;
}

// ---- helpers ----

class Claim {
  /** Somebody else waits for the bytes, too. */
  shared = false;
  resolve: (bytes: Uint8Array | undefined) => void = () => undefined;
  readonly #promise = new Promise<Uint8Array | undefined>((resolve) => (this.resolve = resolve));

  bytes(): Promise<Uint8Array | undefined> {
    this.shared = true;
    return this.#promise;
  }
}

/** Runs lanes side by side. The first failure stops the others; all have ended when this ends. */
async function inLanes(
  count: number,
  outer: AbortSignal | undefined,
  lane: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const controller = new AbortController();
  const stop = (): void => controller.abort(outer?.reason);
  if (outer?.aborted) stop();
  outer?.addEventListener('abort', stop, { once: true });
  let failure: { problem: unknown } | undefined;
  const guarded = async (): Promise<void> => {
    try {
      await lane(controller.signal);
    } catch (problem) {
      failure ??= { problem };
      controller.abort();
    }
  };
  await Promise.all(Array.from({ length: count }, guarded));
  outer?.removeEventListener('abort', stop);
  if (outer?.aborted) throw cancelled(outer.reason);
  if (failure) throw failure.problem;
}
