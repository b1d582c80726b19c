// Reads a stream of bytes, giving the memory of each piece back before the next one is asked for.

export class ByteReader {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #nowhere = new MessageChannel();
  #lent: Uint8Array | undefined; // what was handed out last

  constructor(stream: ReadableStream<Uint8Array>) {
    this.#nowhere.port2.close();
    this.#reader = stream.getReader();
  }

  /** The next bytes, or undefined at the end. They are valid until the next read. */
  async read(): Promise<Uint8Array | undefined> {
    this.#release();
    return (this.#lent = (await this.#reader.read()).value);
  }

  cancel(): void {
    this.#release();
    this.#nowhere.port1.close();
    this.#reader.cancel().catch(() => undefined);
  }

  /** Gives memory back at once by sending it to nobody: garbage would only be collected when some 100 MB have gathered. */
  #release(): void {
    const whole = this.#lent && this.#lent.byteLength === this.#lent.buffer.byteLength; // no other piece can lie in it
    if (this.#lent && whole) this.#nowhere.port1.postMessage(null, [this.#lent.buffer]);
    this.#lent = undefined;
  }
}
