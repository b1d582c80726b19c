// Models in the memory of core.wasm: loading from a source, and questions about a loaded one.
//
// The bytes stream to their place in the core's memory and stay there: pages that belong to the model from the first step of
// loading on, and are freed with it.

import * as layout from '../_generated/core.js';
import { checkSignal, RealmError } from '../errors.js';
import { KV_TYPES } from '../options.js';
import type { HostLoadOptions, ModelHost, ModelInfo } from '../platform.js';
import type { ModelSource } from '../source.js';
import type { Core } from './core.js';
import { MEMORY_LIMIT } from './features.js';

const MODES = { full: layout.REALM_LOAD_FULL, vocab: layout.REALM_LOAD_VOCAB, header: layout.REALM_LOAD_HEADER };
const NO_TOKEN = 0xffffffff;
const STREAMED = 0.95; // of the progress: the rest is parsing
const SPARE_IDS = 8; // a token covers a byte or more of text, but for BOS, EOS and a leading space

/** A loaded file; handles on it are counted. */
export class LoadedModel {
  #users = 1;

  constructor(
    readonly core: Core,
    readonly address: number,
    readonly key: string,
    private readonly gone: (key: string) => void,
  ) {}

  retain(): this {
    this.#users++;
    return this;
  }

  release(): void {
    if (--this.#users > 0) return;
    this.gone(this.key);
    this.core.exports.realm_model_close(this.address);
  }
}

/** One user's handle. */
export class WasmModel implements ModelHost {
  readonly info: ModelInfo;
  readonly #core: Core;
  #loaded: LoadedModel | undefined;

  /** Takes over a reference to the loaded model. */
  constructor(loaded: LoadedModel) {
    this.#loaded = loaded;
    this.#core = loaded.core;
    this.info = readInfo(loaded);
  }

  get key(): string {
    return this.#open.key;
  }

  get address(): number {
    return this.#open.address;
  }

  get #open(): LoadedModel {
    if (!this.#loaded) throw new RealmError('closed', 'this model was closed; load it again');
    return this.#loaded;
  }

  encode(text: Uint8Array, addSpecial: boolean, parseSpecial: boolean): Uint32Array {
    const core = this.#core.begin();
    const flags = (addSpecial ? layout.REALM_ENCODE_ADD_SPECIAL : 0) | (parseSpecial ? layout.REALM_ENCODE_PARSE_SPECIAL : 0);
    const cap = text.length + SPARE_IDS;
    const [model, at, ids] = [this.address, core.put(text), core.room(cap * 4)];
    const { out, error } = core;
    core.check(core.exports.realm_model_encode(model, at, text.length, flags, ids, cap, out, error));
    return core.copyWords(ids, Math.min(core.result, cap));
  }

  decode(ids: Uint32Array, special: boolean, textStart: boolean): Uint8Array {
    const core = this.#core.begin();
    const flags = (special ? layout.REALM_DECODE_SPECIAL : 0) | (textStart ? layout.REALM_DECODE_TEXT_START : 0);
    const [model, at] = [this.address, core.put(ids)];
    const write = (room: number, cap: number): number => {
      const { out, error } = core;
      core.check(core.exports.realm_model_decode(model, at, ids.length, flags, room, cap, out, error));
      return core.result;
    };
    const size = write(0, 0);
    const room = core.room(size);
    return core.copyBytes(room, Math.min(write(room, size), size));
  }

  describe(): string {
    const core = this.#core.begin();
    const size = core.exports.realm_model_describe(this.address, 0, 0) >>> 0;
    const room = core.room(size);
    core.exports.realm_model_describe(this.address, room, size);
    return new TextDecoder().decode(core.copyBytes(room, size));
  }

  string(key: string): string | undefined {
    const core = this.#core.begin();
    const { out } = core;
    if (core.exports.realm_model_string(this.address, core.putText(key), out, out + 4) === 0) return undefined;
    return new TextDecoder().decode(core.copyBytes(core.result, core.view.getUint32(out + 4, true)));
  }

  share(): WasmModel {
    return new WasmModel(this.#open.retain());
  }

  close(): void {
    this.#loaded?.release();
    this.#loaded = undefined;
  }
}

function readInfo({ core, address }: LoadedModel): ModelInfo {
  const at = core.begin().room(layout.REALM_MODEL_INFO_SIZE);
  core.exports.realm_model_get_info(address, at);
  const { bos, eos, eot, addBos, addEos, hasWeights, ...found } = layout.readCoreModelInfo(core.view, at);
  const token = (id: number): number | null => (id === NO_TOKEN ? null : id);
  return {
    ...found,
    bos: token(bos),
    eos: token(eos),
    eot: token(eot),
    addBos: addBos !== 0,
    addEos: addEos !== 0,
    hasWeights: hasWeights !== 0,
    parameterCount: Number(found.parameterCount),
    weightBytes: Number(found.weightBytes),
    kvBytesPerToken: Number(found.kvBytesPerToken),
  };
}

// ---- loading ----

/** Reads a model into memory: its address. `pause` gives other events their turn. */
export async function readModel(
  core: Core,
  runtime: number,
  source: ModelSource,
  options: HostLoadOptions,
  pause: () => Promise<void>,
): Promise<number> {
  await checkMagic(source, options.signal);
  const pages = reserve(core, source);
  const loader = begin(core, runtime, source, pages, options);
  try {
    await fill(core, source, pages, options);
    await parse(core, loader, source, options, pause);
  } catch (problem) {
    core.exports.realm_loader_abandon(loader);
    throw problem;
  }
  core.check(core.exports.realm_loader_finish(loader, core.out, core.error), `${source.name}: `);
  return core.result;
}

/** A page of HTML, say, is refused before it is read to its end. */
async function checkMagic(source: ModelSource, signal: AbortSignal | undefined): Promise<void> {
  const start = await source.read(0, Math.min(4, source.size), signal);
  if (new TextDecoder().decode(start) === 'GGUF') return;
  throw new RealmError('invalid-gguf', `${source.name}: not a GGUF file: it does not begin with 'GGUF'`);
}

function reserve(core: Core, source: ModelSource): number {
  const pages = source.size < MEMORY_LIMIT ? core.exports.realm_pages_alloc(BigInt(source.size)) >>> 0 : 0;
  if (pages !== 0) return pages;
  const text = `${source.name} needs ${source.size} bytes of WebAssembly memory, of which ${core.bytes.length} are in use`;
  throw new RealmError('out-of-memory', `${text} and at most ${MEMORY_LIMIT} can be had; a GPU has no such limit`);
}

/** The pages belong to the loader from here on. */
function begin(core: Core, runtime: number, source: ModelSource, pages: number, options: HostLoadOptions): number {
  const at = core.begin().room(layout.REALM_MODEL_OPTIONS_SIZE);
  const { contextLength, kvType, mode } = options;
  layout.writeCoreModelOptions(core.view, at, { mode: MODES[mode], contextLength, kvType: KV_TYPES[kvType], prefetch: 0 });
  const size = BigInt(source.size);
  const status = core.exports.realm_loader_begin_bytes(runtime, pages, size, at, core.out, core.error);
  if (status !== 0) core.exports.realm_pages_free(pages, size);
  core.check(status, `${source.name}: `);
  const loader = core.result;
  core.exports.realm_loader_own_pages(loader, pages, size);
  return loader;
}

async function fill(core: Core, source: ModelSource, pages: number, options: HostLoadOptions): Promise<void> {
  let done = 0;
  let ended = false; // a source may still have a piece under way when it fails
  const place = (offset: number, bytes: Uint8Array): void => {
    if (ended) throw new RealmError('cancelled', 'the loading has ended');
    if (offset + bytes.length > source.size) throw new RealmError('io', `${source.name} is longer than it said`);
    core.bytes.set(bytes, pages + offset);
    done += bytes.length;
    options.progress?.((STREAMED * done) / source.size);
  };
  try {
    await source.stream(0, source.size, place, options.signal);
  } finally {
    ended = true;
  }
  if (done < source.size) throw new RealmError('io', `${source.name} ended after ${done} of ${source.size} bytes`);
}

async function parse(
  core: Core,
  loader: number,
  source: ModelSource,
  options: HostLoadOptions,
  pause: () => Promise<void>,
): Promise<void> {
  for (let progress = 0; progress < 1; ) {
    await pause();
    checkSignal(options.signal);
    core.check(core.exports.realm_loader_step(loader, core.out, core.error), `${source.name}: `);
    progress = core.view.getFloat32(core.out, true);
    options.progress?.(STREAMED + (1 - STREAMED) * Math.min(1, progress));
  }
}
