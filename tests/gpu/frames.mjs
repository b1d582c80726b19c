// Frames over standard input and output: a length (u32), a JSON header whose `sizes` name the byte arrays behind it, then those.
// A runner whose requests name their arrays otherwise reads them with `reader`.

export async function* frames(stream) {
  const read = reader(stream);
  for (;;) {
    const prefix = await read(4);
    if (prefix === undefined) return;
    const header = JSON.parse((await read(prefix.readUInt32LE(0))).toString());
    const arrays = [];
    for (const size of header.sizes) arrays.push(new Uint8Array(await read(size)));
    yield { header, arrays };
  }
}

export function answer(header, arrays) {
  const text = Buffer.from(JSON.stringify({ ...header, sizes: arrays.map(({ length }) => length) }));
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32LE(text.length);
  process.stdout.write(Buffer.concat([prefix, text, ...arrays]));
}

/** A function that gives the next `size` bytes, or undefined at the stream's end. */
export function reader(stream) {
  const chunks = stream[Symbol.asyncIterator]();
  let pending = Buffer.alloc(0);
  return async (size) => {
    const parts = [pending];
    for (let have = pending.length; have < size; ) {
      const { value, done } = await chunks.next();
      if (done) return undefined;
      parts.push(value);
      have += value.length;
    }
    const all = Buffer.concat(parts);
    pending = all.subarray(size);
    return all.subarray(0, size);
  };
}
