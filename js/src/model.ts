// A model as the application holds it: a handle with questions about text and metadata.

import type { ChatOptions, Message, Prompt } from './chat.js';
import { RealmError } from './errors.js';
import { encodeText, invalid, tokenIds } from './options.js';
import type { ModelInfo } from './platform.js';
import type { ModelPort } from './port.js';

const KV_PAGE = 16; // REALM_KV_PAGE: whole pages are shared
const ENDINGS = ['a', '7 (b)']; // two user messages that begin differently
const decoder = new TextDecoder();
const forgotten = new FinalizationRegistry<ModelPort>((port) => port.close());

/** A published prefix: `sharedTokens` of its tokens are found computed by every tenant. */
export interface PublicPrefix {
  tokens: Uint32Array;
  sharedTokens: number;
  /** Of the publication, in its model. */
  number: number;
}

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

  /** A text of the file's metadata, such as `general.name`; undefined where the file has none of this key. */
  async metadataString(key: string): Promise<string | undefined> {
    return this.port().string(key);
  }

  /**
   * Computes the beginning of prompts once, for the realms of every tenant, until it is unpublished: a text as `generate` takes it,
   * messages (the system prompt, say) as `chat` does, or token ids. Publish only what any tenant may know; what follows stays private.
   */
  async publishPrefix(
    prefix: string | Uint8Array | readonly Message[] | readonly number[] | Uint32Array,
    options: ChatOptions & { addSpecial?: boolean; parseSpecial?: boolean } = {},
  ): Promise<PublicPrefix> {
    const tokens = await this.#prefixTokens(prefix, options);
    if (tokens.length < KV_PAGE) {
      throw invalid(`a public prefix needs at least ${KV_PAGE} tokens, this one has ${tokens.length}`);
    }
    const { prefix: number, tokens: sharedTokens } = await this.port().publish(tokens);
    return { tokens, sharedTokens, number };
  }

  /** Ends the sharing; requests that run on the prefix are not disturbed. */
  async unpublish(prefix: PublicPrefix): Promise<void> {
    await this.port().unpublish(prefix.number);
  }

  async #prefixTokens(prefix: unknown, options: ChatOptions & { addSpecial?: boolean; parseSpecial?: boolean }): Promise<Uint32Array> {
    const { addSpecial = true, parseSpecial = false, ...template } = options;
    if (typeof prefix === 'string' || prefix instanceof Uint8Array) {
      return this.port().encode(encodeText(prefix), addSpecial, parseSpecial);
    }
    const messages = Array.isArray(prefix) && typeof prefix[0] === 'object';
    return messages ? this.#commonTokens(prefix as Message[], template) : tokenIds(prefix as Iterable<number>);
  }

  /** What every conversation that begins with these messages has in common, whatever the user says next. */
  async #commonTokens(messages: readonly Message[], template: ChatOptions): Promise<Uint32Array> {
    const [first, second] = (await Promise.all(
      ENDINGS.map(async (content) => {
        const { text, addSpecial } = await this.port().renderChat([...messages, { role: 'user', content }], template);
        return this.port().encode(encodeText(text), addSpecial, true);
      }),
    )) as [Uint32Array, Uint32Array];
    const common = first.findIndex((token, index) => token !== second[index]);
    return common < 0 ? first : first.slice(0, common);
  }

  get chatTemplate(): string | null {
    return this.port().chatTemplate;
  }

  /** @internal */
  async renderChat(messages: readonly Message[], options: ChatOptions): Promise<Prompt> {
    return this.port().renderChat(messages, options);
  }
}
