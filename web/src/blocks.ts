// Files as blocks of one size, and which blocks are at hand: what downloads plan with and the cache's journal records.
// Only whole blocks count; the last one of a file may be short.

export const BLOCK = 1 << 20;
/** Larger files are refused: the set below stays under 128 KiB. */
export const MAX_FILE_SIZE = 2 ** 40;

export function blockCount(size: number, block = BLOCK): number {
  return Math.ceil(size / block);
}

/** Consecutive blocks. */
export interface Run {
  first: number;
  count: number;
}

/** The blocks of a file of `size` bytes that are at hand. */
export class BlockSet {
  readonly count: number;
  readonly #bits: Uint8Array;
  #held = 0;
  #bytes = 0;

  constructor(readonly size: number, readonly block = BLOCK) {
    this.count = blockCount(size, block);
    this.#bits = new Uint8Array(Math.ceil(this.count / 8));
  }

  has(index: number): boolean {
    return ((this.#bits[index >> 3] ?? 0) >> (index & 7)) % 2 === 1;
  }

  add(index: number): void {
    if (index < 0 || index >= this.count || this.has(index)) return;
    this.#bits[index >> 3] = (this.#bits[index >> 3] ?? 0) | (1 << (index & 7));
    this.#held += 1;
    this.#bytes += this.length(index);
  }

  /** Bytes in one block. */
  length(index: number): number {
    return Math.min(this.block, this.size - index * this.block);
  }

  get bytes(): number {
    return this.#bytes;
  }

  get complete(): boolean {
    return this.#held === this.count;
  }

  /** All blocks at hand, as runs. */
  runs(): Run[] {
    const runs: Run[] = [];
    for (let index = 0; index < this.count; index += 1) {
      if (!this.has(index)) continue;
      const last = runs.at(-1);
      if (last && last.first + last.count === index) last.count += 1;
      else runs.push({ first: index, count: 1 });
    }
    return runs;
  }
}

/**
 * The next blocks to fetch with one request: free ones from `first` on. Runs are long enough that requests cost little, and get
 * shorter near the end, so that all lanes end together.
 */
export function nextRun(first: number, end: number, lanes: number, isFree: (index: number) => boolean): Run {
  const longest = Math.min(32, Math.max(1, Math.ceil((end - first) / lanes / 2)));
  let count = 0;
  while (count < longest && first + count < end && isFree(first + count)) count += 1;
  return { first, count };
}
