// NumPy's file format .npy, version 1.0, for a matrix of float32.

export function npy(rows: readonly Float32Array[]): Uint8Array {
  const columns = rows[0]?.length ?? 0;
  const shape = `{'descr': '<f4', 'fortran_order': False, 'shape': (${rows.length}, ${columns}), }`;
  const header = shape.padEnd(Math.ceil((shape.length + 11) / 64) * 64 - 11) + '\n'; // the data begins at a multiple of 64
  const file = new Uint8Array(10 + header.length + rows.length * columns * 4);
  const view = new DataView(file.buffer);
  file.set(Buffer.from('\x93NUMPY\x01\x00', 'latin1'));
  view.setUint16(8, header.length, true);
  file.set(Buffer.from(header, 'latin1'), 10);
  rows.forEach((row, index) => {
    file.set(new Uint8Array(row.buffer, row.byteOffset, row.byteLength), 10 + header.length + index * columns * 4);
  });
  return file;
}
