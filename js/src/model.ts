// A model as the application holds it: a handle with questions about text and metadata.

import type { ChatOptions, Message, Prompt } from './chat.js';
import { RealmError } from './errors.js';
import { encodeText, tokenIds } from './options.js';
import type { ModelInfo } from './platform.js';
import type { ModelPort } from './port.js';

const decoder = new TextDecoder();
const forgotten = new FinalizationRegistry<ModelPort>((port) => port.close());

/** A handle on a loaded file. Close it when it is not needed; realms that use the model keep it. */
export class Model {
  readonly info: ModelInfo;
  #port: ModelPort | undefined;

  /** Made by Realm.loadModel. */
  constructor(port: ModelPort, readonly path: string = port.name) {
    this.#port = port;
    this.info = port.info;
    forgotten.register(this, port, this);
  }

  get closed(): boolean {
    return this.#port === undefined;
  }

  /** Gives the handle back; doing it again does nothing. */
  close(): void {
    const port = this.#port;
    this.#port = undefined;
    forgotten.unregister(this);
    port?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** @internal */
  port(): ModelPort {
    if (!this.#port) throw new RealmError('closed', 'this model was closed; load it again');
    return this.#port;
  }

  /** Another handle on the same model, to be closed by its own user. */
  share(): Model {
    return new Model(this.port().share(), this.path);
  }

  /** The token ids of a text. Control tokens written in it are read as such only when asked. */
  async tokenize(
    text: string | Uint8Array,
    options: { addSpecial?: boolean; parseSpecial?: boolean } = {},
  ): Promise<number[]> {
    const { addSpecial = false, parseSpecial = false } = options;
    return Array.from(await this.port().encode(encodeText(text), addSpecial, parseSpecial));
  }

  /** The bytes of token ids, which may end inside a character. */
  async detokenizeBytes(
    ids: Iterable<number>,
    options: { special?: boolean; textStart?: boolean } = {},
  ): Promise<Uint8Array> {
    return this.port().decode(tokenIds(ids), options.special ?? false, options.textStart ?? true);
  }

  async detokenize(ids: Iterable<number>, options: { special?: boolean; textStart?: boolean } = {}): Promise<string> {
    return decoder.decode(await this.detokenizeBytes(ids, options));
  }

  /** Architecture, metadata and tensors of the file. */
  async describe(): Promise<Record<string, unknown>> {
    return JSON.parse(await this.port().describe()) as Record<string, unknown>;
  }

  async metadataString(key: string): Promise<string | undefined> {
    return this.port().string(key);
  }

  get chatTemplate(): string | null {
    return this.port().chatTemplate;
  }

  /** @internal */
  async renderChat(messages: readonly Message[], options: ChatOptions): Promise<Prompt> {
    return this.port().renderChat(messages, options);
  }
}
