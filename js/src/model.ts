// A model as the application holds it: a handle with questions about text and metadata.

import { RealmError } from './errors.js';
import { encodeText, tokenIds } from './options.js';
import type { ModelHost, ModelInfo } from './platform.js';

const decoder = new TextDecoder();
const forgotten = new FinalizationRegistry<ModelHost>((host) => host.close());

/** A handle on a loaded file. Close it when it is not needed; realms that use the model keep it. */
export class Model {
  readonly info: ModelInfo;
  #host: ModelHost | undefined;
  #template: string | null | undefined;

  /** Made by Realm.loadModel. */
  constructor(host: ModelHost, readonly path: string) {
    this.#host = host;
    this.info = host.info;
    forgotten.register(this, host, this);
  }

  get closed(): boolean {
    return this.#host === undefined;
  }

  /** Gives the handle back; doing it again does nothing. */
  close(): void {
    const host = this.#host;
    this.#host = undefined;
    forgotten.unregister(this);
    host?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** @internal */
  host(): ModelHost {
    if (!this.#host) throw new RealmError('closed', 'this model was closed; load it again');
    return this.#host;
  }

  /** Another handle on the same model, to be closed by its own user. */
  share(): Model {
    return new Model(this.host().share(), this.path);
  }

  /** The token ids of a text. Control tokens written in it are read as such only when asked. */
  tokenize(text: string | Uint8Array, options: { addSpecial?: boolean; parseSpecial?: boolean } = {}): number[] {
    const ids = this.host().encode(encodeText(text), options.addSpecial ?? false, options.parseSpecial ?? false);
    return Array.from(ids);
  }

  /** The bytes of token ids, which may end inside a character. */
  detokenizeBytes(ids: Iterable<number>, options: { special?: boolean; textStart?: boolean } = {}): Uint8Array {
    return this.host().decode(tokenIds(ids), options.special ?? false, options.textStart ?? true);
  }

  detokenize(ids: Iterable<number>, options: { special?: boolean; textStart?: boolean } = {}): string {
    return decoder.decode(this.detokenizeBytes(ids, options));
  }

  /** Architecture, metadata and tensors of the file. */
  describe(): Record<string, unknown> {
    return JSON.parse(this.host().describe()) as Record<string, unknown>;
  }

  metadataString(key: string): string | undefined {
    return this.host().string(key);
  }

  get chatTemplate(): string | null {
    this.#template ??= this.metadataString('tokenizer.chat_template') ?? null;
    return this.#template;
  }
}
