// Reads a stream into one buffer again and again: a new one for each piece would leave as much garbage as there are bytes.

export class ByteReader {
  readonly #own: ReadableStreamBYOBReader | undefined;
  /** For streams, or browsers, that hand out buffers of their own. */
  readonly #default: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #buffer: ArrayBuffer;
  readonly #nowhere = new MessageChannel();
  #lent: Uint8Array | undefined; // what the stream itself allocated and was handed out last

  /** `own`: false leaves the buffers to the stream. */
  constructor(stream: ReadableStream<Uint8Array>, size: number, own = true) {
    this.#buffer = new ArrayBuffer(own ? size : 0);
    this.#nowhere.port2.close();
    this.#own = own ? byobReader(stream) : undefined;
    if (!this.#own) this.#default = stream.getReader();
  }

  /** The next bytes, or undefined at the end. They are valid until the next read. */
  async read(): Promise<Uint8Array | undefined> {
    if (this.#default) {
      this.#release();
      return (this.#lent = (await this.#default.read()).value);
    }
    const { done, value } = await this.#own!.read(new Uint8Array(this.#buffer));
    if (value) this.#buffer = value.buffer;
    return done ? undefined : value;
  }

  cancel(): void {
    this.#release();
    this.#nowhere.port1.close();
    (this.#own ?? this.#default)?.cancel().catch(() => undefined);
  }

  /** Gives memory back at once by sending it to nobody: garbage would only be collected when some 100 MB have gathered. */
  #release(): void {
    if (this.#lent) this.#nowhere.port1.postMessage(null, [this.#lent.buffer]);
    this.#lent = undefined;
  }
}

function byobReader(stream: ReadableStream<Uint8Array>): ReadableStreamBYOBReader | undefined {
  try {
    return stream.getReader({ mode: 'byob' });
  } catch {
    return undefined;
  }
}
