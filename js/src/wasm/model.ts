// Models inside core.wasm: handles on them, and what can be asked of one. Loading them is loader.ts.

import * as layout from '../_generated/core.js';
import { RealmError } from '../errors.js';
import type { ModelHost, ModelInfo } from '../platform.js';
import type { Core } from './core.js';

const NO_TOKEN = 0xffffffff;
const SPARE_IDS = 8; // a token covers a byte or more of text, but for BOS, EOS and a leading space

/** A loaded file; handles on it are counted. */
export class LoadedModel {
  #users = 1;

  constructor(
    readonly core: Core,
    readonly address: number,
    readonly key: string,
    /** The last handle was closed. */
    private readonly gone: () => void,
  ) {}

  retain(): this {
    this.#users++;
    return this;
  }

  release(): void {
    if (--this.#users > 0) return;
    this.gone();
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

  unpublish(prefix: number): void {
    const core = this.#core.begin();
    core.check(core.exports.realm_prefix_unpublish(this.address, prefix, core.error));
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
