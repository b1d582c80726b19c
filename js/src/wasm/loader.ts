// Loading a model into core.wasm: first the directories of its files, which the core checks and plans from, then the weights.
//
// For the CPU the files stand in the core's memory one after the other, and the weights stream to their place there. A GPU takes
// them from the sources itself: then the directories alone are here. Either way the pages belong to the model and go with it.

import * as layout from '../_generated/core.js';
import { checkSignal, RealmError } from '../errors.js';
import { KV_TYPES } from '../options.js';
import type { HostLoadOptions } from '../platform.js';
import type { ModelSource } from '../source.js';
import type { Core } from './core.js';
import { MEMORY_LIMIT } from './features.js';

const MODES = { full: layout.REALM_LOAD_FULL, vocab: layout.REALM_LOAD_VOCAB, header: layout.REALM_LOAD_HEADER };
const FIRST_HEAD = 1 << 18; // bytes of a file that are read to find its directory; doubled while it is cut off
const BASE_ALIGNMENT = 4096; // of a file in the model's bytes, as realm.h says; the core's answer is compared
const HEAD_ALIGNMENT = 16;
const PARSED = 0.05; // of the progress
const FILLED = 0.9;
const PACK_BYTES = 2 ** 25; // between two turns of the event loop

/** One file of the model, and where it begins in the model's bytes. */
export interface Shard {
  source: ModelSource;
  base: number;
}

export class ModelLoader {
  readonly shards: readonly Shard[];
  readonly #heads: Uint8Array[] = [];
  readonly #name: string;
  #loader = 0;
  #pages = 0;
  #pagesBytes = 0;

  constructor(
    private readonly core: Core,
    private readonly runtime: number,
    sources: readonly ModelSource[],
    private readonly options: HostLoadOptions,
    /** Gives other events their turn. */
    private readonly pause: () => Promise<void>,
  ) {
    let end = 0;
    this.shards = sources.map((source) => {
      const base = roundUp(end, BASE_ALIGNMENT);
      end = base + source.size;
      return { source, base };
    });
    this.#name = sources[0]?.name ?? 'model';
  }

  /** The whole model in the core's memory: its address. */
  async intoMemory(): Promise<number> {
    await this.#readHeads(FIRST_HEAD);
    const last = this.shards.at(-1)!;
    this.#reserve(last.base + last.source.size);
    await this.#begin(true);
    return this.#finishing(async () => {
      await this.#parse();
      await this.#fill();
      await this.#pack();
    });
  }

  /** All but the weights: the model's address. */
  async directories(): Promise<number> {
    await this.#readHeads(FIRST_HEAD);
    await this.#begin(false);
    return this.#finishing(() => this.#parse());
  }

  /** The loader becomes a model, or is given up. */
  async #finishing(work: () => Promise<void>): Promise<number> {
    const { core } = this;
    try {
      await work();
    } catch (problem) {
      core.exports.realm_loader_abandon(this.#loader);
      throw problem;
    }
    core.check(core.exports.realm_loader_finish(this.#loader, core.out, core.error), `${this.#name}: `);
    return core.result;
  }

  // ---- directories ----

  /** A page of HTML, say, is refused before anything else is done for it. */
  async #readHeads(size: number): Promise<void> {
    for (const [index, { source }] of this.shards.entries()) {
      const head = await source.read(0, Math.min(size, source.size), this.options.signal);
      if (new TextDecoder().decode(head.subarray(0, 4)) !== 'GGUF') {
        throw new RealmError('invalid-gguf', `${source.name}: not a GGUF file: it does not begin with 'GGUF'`);
      }
      this.#heads[index] = head;
    }
  }

  #reserve(size: number): void {
    const { core } = this;
    this.#pages = size <= MEMORY_LIMIT ? core.exports.realm_pages_alloc(BigInt(size)) >>> 0 : 0;
    this.#pagesBytes = size;
    if (this.#pages !== 0) return;
    const text = `${this.#name} needs ${size} bytes of WebAssembly memory, of which ${core.bytes.length} are in use`;
    throw new RealmError('out-of-memory', `${text} and at most ${MEMORY_LIMIT} can be had; a GPU has no such limit`);
  }

  #freePages(): void {
    if (this.#pages !== 0) this.core.exports.realm_pages_free(this.#pages, BigInt(this.#pagesBytes));
    this.#pages = 0;
  }

  /** Opens the directories, reading more of a file while its directory is cut off. The pages then belong to the loader. */
  async #begin(inMemory: boolean): Promise<void> {
    try {
      for (;;) {
        if (!inMemory) this.#reserve(this.#heads.reduce((sum, head) => sum + roundUp(head.length, HEAD_ALIGNMENT), 0));
        const needed = this.#tryBegin(inMemory ? (index) => this.#pages + this.shards[index]!.base : this.#headPlaces(), inMemory);
        if (!needed) break;
        if (!inMemory) this.#freePages();
        await this.#readMore(needed);
      }
    } catch (problem) {
      this.#freePages();
      throw problem;
    }
    this.core.exports.realm_loader_own_pages(this.#loader, this.#pages, BigInt(this.#pagesBytes));
  }

  #headPlaces(): (index: number) => number {
    let at = this.#pages;
    const places = this.#heads.map((head) => {
      const place = at;
      at += roundUp(head.length, HEAD_ALIGNMENT);
      return place;
    });
    return (index) => places[index]!;
  }

  /** How many leading bytes of each file are needed where it has too few; undefined: the loader has begun. */
  #tryBegin(place: (index: number) => number, inMemory: boolean): number[] | undefined {
    const core = this.core.begin();
    const count = this.shards.length;
    const records = core.room(count * layout.REALM_SHARD_SIZE);
    const options = core.room(layout.REALM_MODEL_OPTIONS_SIZE);
    const { contextLength, kvType, mode } = this.options;
    const own = { mode: MODES[mode], contextLength, kvType: KV_TYPES[kvType], prefetch: 0 };
    layout.writeCoreModelOptions(core.view, options, own);
    const recordAt = (index: number): number => records + index * layout.REALM_SHARD_SIZE;
    for (const [index, { source }] of this.shards.entries()) {
      const head = this.#heads[index]!;
      core.bytes.set(head, place(index));
      const fields = { data: place(index), size: BigInt(head.length), fileSize: BigInt(source.size), base: 0n, needed: 0n };
      layout.writeCoreShard(core.view, recordAt(index), fields);
    }
    const { exports, out, error } = core;
    const begin = inMemory ? exports.realm_loader_begin_shards : exports.realm_loader_begin_header;
    const status = begin(this.runtime, records, count, options, out, error);
    const shards = this.shards.map((_, index) => layout.readCoreShard(core.view, recordAt(index)));
    if (status === 0) {
      this.#loader = core.result;
      if (shards.every(({ base }, index) => Number(base) === this.shards[index]!.base)) return undefined;
      throw new RealmError('internal', 'the core places the files elsewhere');
    }
    const needed = shards.map((shard, index) => (Number(shard.needed) > this.#heads[index]!.length ? Number(shard.needed) : 0));
    if (needed.every((more) => more === 0)) core.check(status, `${this.#name}: `);
    return needed;
  }

  async #readMore(needed: readonly number[]): Promise<void> {
    for (const [index, { source }] of this.shards.entries()) {
      const had = this.#heads[index]!.length;
      if (needed[index] === 0) continue;
      if (had >= source.size) throw new RealmError('invalid-gguf', `${source.name} ends inside its directory`);
      const size = Math.min(source.size, Math.max(needed[index]!, 2 * had));
      this.#heads[index] = await source.read(0, size, this.options.signal);
    }
  }

  // ---- steps ----

  async #parse(): Promise<void> {
    const { core } = this;
    await this.#supply();
    for (let progress = 0; progress < 1; ) {
      await this.pause();
      checkSignal(this.options.signal);
      core.check(core.exports.realm_loader_step(this.#loader, core.out, core.error), `${this.#name}: `);
      progress = core.view.getFloat32(core.out, true);
      this.options.progress?.(PARSED * Math.min(1, progress));
    }
  }

  /** A small tensor that the plan itself needs. */
  async #supply(): Promise<void> {
    const { core } = this;
    core.exports.realm_loader_wants(this.#loader, core.out, core.out + 8);
    const offset = Number(core.view.getBigUint64(core.out, true));
    const size = Number(core.view.getBigUint64(core.out + 8, true));
    if (size === 0) return;
    const { source, base } = this.shards.findLast((shard) => shard.base <= offset)!;
    const bytes = await source.read(offset - base, size, this.options.signal);
    const at = core.begin().put(bytes);
    core.check(core.exports.realm_loader_supply(this.#loader, at, BigInt(size), core.error), `${this.#name}: `);
  }

  // ---- weights ----

  async #fill(): Promise<void> {
    const total = this.shards.reduce((sum, { source }) => sum + source.size, 0);
    let before = 0;
    for (const [index, shard] of this.shards.entries()) {
      const start = this.#heads[index]!.length;
      const report = (done: number): void => {
        this.options.progress?.(PARSED + ((FILLED - PARSED) * (before + start + done)) / total);
      };
      await this.#stream(shard, start, report);
      before += shard.source.size;
    }
  }

  /** Weights take the form that the core's kernels are fastest with. */
  async #pack(): Promise<void> {
    const { core } = this;
    for (let progress = 0; progress < 1; ) {
      await this.pause();
      checkSignal(this.options.signal);
      core.check(core.exports.realm_loader_pack(this.#loader, BigInt(PACK_BYTES), core.out, core.error), `${this.#name}: `);
      progress = core.view.getFloat32(core.out, true);
      this.options.progress?.(FILLED + (1 - FILLED) * progress);
    }
  }

  async #stream({ source, base }: Shard, start: number, report: (done: number) => void): Promise<void> {
    const { core } = this;
    let done = 0;
    let ended = false; // a source may still have a piece under way when it fails
    const place = (offset: number, bytes: Uint8Array): void => {
      if (ended) throw new RealmError('cancelled', 'the loading has ended');
      if (offset < start || offset + bytes.length > source.size) throw new RealmError('io', `${source.name} gave foreign bytes`);
      core.bytes.set(bytes, this.#pages + base + offset);
      done += bytes.length;
      report(done);
    };
    try {
      await source.stream(start, source.size - start, place, this.options.signal);
    } finally {
      ended = true;
    }
    if (start + done < source.size) throw new RealmError('io', `${source.name} ended after ${start + done} of ${source.size} bytes`);
  }
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** The plan of a loaded model: the block of records that executors outside the core read. */
export function modelPlan(core: Core, model: number): Uint8Array {
  const size = core.exports.realm_model_plan(model, 0, 0) >>> 0;
  const room = core.begin().room(size);
  core.exports.realm_model_plan(model, room, size);
  return core.copyBytes(room, size);
}
