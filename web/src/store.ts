// What downloads and sources agree on: a file in blocks that several sources may share, and a place that keeps blocks.

import { BLOCK, BlockSet } from './blocks.js';

/** The bytes are lent until the call, or its promise, ends. */
export type Deliver = (index: number, bytes: Uint8Array) => void | Promise<void>;

/** A file whose bytes can be had block by block. */
export interface BlockFile {
  readonly name: string;
  readonly size: number;
  readonly key: string;
  /** Bytes in a block; the last one may be short. */
  readonly block: number;
  /** What was streamed once can be streamed again without another download. */
  readonly keeps: boolean;
  /** The bytes turned out to be wrong, or will never come: opening again must begin anew. */
  readonly spoiled: boolean;
  /** SHA-256, when it is known already. */
  digest: string | undefined;
  /** Bytes at hand. */
  loaded(): number;
  /** Called whenever `loaded` grew. */
  readonly listeners: Set<() => void>;
  /** Hands out blocks [first, end), in order when `lanes` is 1. Ends only when no `deliver` runs any more. */
  stream(first: number, end: number, deliver: Deliver, signal: AbortSignal | undefined, lanes?: number): Promise<void>;
  /** Everything was streamed: a cached copy is complete now. */
  finish(): Promise<void>;
  /** Spoils the file: nothing of it may be used again. */
  discard(): Promise<void>;
  close(): void;
}

/** Keeps downloaded blocks. */
export interface BlockStore {
  readonly held: BlockSet;
  digest: string | undefined;
  /** False: there is no room, and there will be none. */
  write(index: number, bytes: Uint8Array): boolean;
  /** The block; `room`, if it was not needed before, may be used for it. */
  read(index: number, room?: Uint8Array): Uint8Array | Promise<Uint8Array>;
  finish(): Promise<void>;
  discard(): Promise<void>;
  close(): void;
}

/** Blocks as Blobs, which browsers move to disk: for servers without ranges where there is no cache. */
export class BlobStore implements BlockStore {
  readonly held: BlockSet;
  digest: string | undefined;
  readonly #parts = new Map<number, Blob>();

  constructor(size: number) {
    this.held = new BlockSet(size);
  }

  write(index: number, bytes: Uint8Array): boolean {
    this.#parts.set(index, new Blob([bytes as Uint8Array<ArrayBuffer>]));
    this.held.add(index);
    return true;
  }

  async read(index: number): Promise<Uint8Array> {
    return new Uint8Array(await (this.#parts.get(index) ?? new Blob()).arrayBuffer());
  }

  finish(): Promise<void> {
    return Promise.resolve();
  }

  discard(): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  close(): void {
    this.#parts.clear();
  }
}

/** Cuts a stream of pieces into blocks, beginning at a block's start. */
export class Assembler {
  #block: Uint8Array | undefined;
  #filled = 0;

  /** `spare`: room for a block that nobody needs, if there is any. */
  constructor(public index: number, readonly size: number, readonly block = BLOCK, public spare?: Uint8Array) {}

  /** The next byte that is missing. */
  get position(): number {
    return this.index * this.block + this.#filled;
  }

  /** Takes what fits into the current block: how much that was, and the block when it is full. */
  take(piece: Uint8Array): { taken: number; full: Uint8Array | undefined } {
    const length = Math.min(this.block, this.size - this.index * this.block);
    this.#block ??= sized(this.spare, length);
    const taken = Math.min(piece.length, length - this.#filled);
    this.#block.set(piece.subarray(0, taken), this.#filled);
    this.#filled += taken;
    if (this.#filled < length) return { taken, full: undefined };
    const full = this.#block;
    this.#block = undefined;
    this.#filled = 0;
    this.spare = undefined;
    this.index += 1;
    return { taken, full };
  }
}

/** An array of this length: the given one, if it has it. */
export function sized(room: Uint8Array | undefined, length: number): Uint8Array {
  return room?.length === length ? room : new Uint8Array(length);
}

export function notify(listeners: ReadonlySet<() => void>): void {
  for (const listener of listeners) listener();
}
