// Where a model's bytes come from: a file, a Blob, an address, a cache. Who loads a model reads its header first and then
// streams the weights to where they stay; a source never keeps them.

import type { LoadOptions } from './port.js';

/** One file of bytes that do not change. */
export interface ModelSource {
  /** For messages: a path, an address, a file's name. */
  readonly name: string;
  readonly size: number;
  /** Equal for the same bytes. */
  readonly key: string;
  /** Exactly `size` bytes; fewer are a typed error. */
  read(offset: number, size: number, signal?: AbortSignal): Promise<Uint8Array>;
  /**
   * Hands out the range in pieces, in any order and possibly several at once, each with its offset in the file; waiting for
   * `chunk` is the back-pressure. A piece is only valid until `chunk` returns or its promise resolves.
   */
  stream(
    offset: number,
    size: number,
    chunk: (offset: number, bytes: Uint8Array) => void | Promise<void>,
    signal?: AbortSignal,
  ): Promise<void>;
  /** Lets go of what is open. Doing it again does nothing. */
  close(): void;
}

export interface OpenSourceOptions {
  signal?: AbortSignal | undefined;
  transfer?: LoadOptions['transfer'];
  notice?: LoadOptions['notice'];
  /** Called with numbers up to 1 while bytes come in that are not yet streamed to the model. */
  progress?: ((done: number) => void) | undefined;
}

/** Finds out what the caller of loadModel gave: one source for each file of a split model, in order. */
export type OpenSource = (input: unknown, options: OpenSourceOptions) => Promise<ModelSource[]>;
