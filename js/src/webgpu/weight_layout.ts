// Where a weight's bits lie in a GPU buffer. Kernels read 16 bytes at a time, so a row begins at a multiple of 16 and what is not a
// multiple of 16 in a block (scales above all) is moved into planes behind the quants: the same bits in another order, at the
// same size but for the padding. kernels/wgsl/blocks has the reader of each layout.

import { RealmError } from '../errors.js';

/** A run of a file block's bytes; runs of the same plane follow each other, block after block. */
interface Piece {
  plane: number;
  from: number;
  bytes: number;
}

interface BlockType {
  name: string;
  elements: number;
  bytes: number;
  /** Absent: rows are copied as they are. */
  pieces?: Piece[];
}

const plane = (index: number, from: number, bytes: number): Piece => ({ plane: index, from, bytes });

/** By ggml's type id. */
const TYPES: Readonly<Record<number, BlockType>> = {
  0: { name: 'f32', elements: 1, bytes: 4 },
  1: { name: 'f16', elements: 1, bytes: 2 },
  2: { name: 'q4_0', elements: 32, bytes: 18, pieces: [plane(0, 2, 16), plane(1, 0, 2)] },
  3: { name: 'q4_1', elements: 32, bytes: 20, pieces: [plane(0, 4, 16), plane(1, 0, 4)] },
  6: { name: 'q5_0', elements: 32, bytes: 22, pieces: [plane(0, 6, 16), plane(1, 2, 4), plane(2, 0, 2)] },
  7: { name: 'q5_1', elements: 32, bytes: 24, pieces: [plane(0, 8, 16), plane(1, 4, 4), plane(2, 0, 4)] },
  8: { name: 'q8_0', elements: 32, bytes: 34, pieces: [plane(0, 2, 32), plane(1, 0, 2)] },
  10: { name: 'q2_k', elements: 256, bytes: 84, pieces: [plane(0, 16, 64), plane(1, 0, 16), plane(2, 80, 4)] },
  11: {
    name: 'q3_k',
    elements: 256,
    bytes: 110,
    pieces: [plane(0, 32, 64), plane(1, 0, 32), plane(2, 96, 12), plane(3, 108, 2)],
  },
  12: { name: 'q4_k', elements: 256, bytes: 144 },
  13: { name: 'q5_k', elements: 256, bytes: 176 },
  14: { name: 'q6_k', elements: 256, bytes: 210, pieces: [plane(0, 0, 208), plane(1, 208, 2)] },
  20: { name: 'iq4_nl', elements: 32, bytes: 18, pieces: [plane(0, 2, 16), plane(1, 0, 2)] },
  23: { name: 'iq4_xs', elements: 256, bytes: 136, pieces: [plane(0, 8, 128), plane(1, 0, 8)] },
  30: { name: 'bf16', elements: 1, bytes: 2 },
};

/** Columns that kernels take at a time; rows of the float types are padded to a multiple. */
export const UNIT = 32;

export interface WeightLayout {
  /** Base name of the reader in kernels/wgsl/blocks. */
  readonly name: string;
  readonly fileRowBytes: number;
  /** Of a row on the device: a multiple of 16. */
  readonly rowBytes: number;
  /** Whole rows in the file's layout -> the same rows in the device's. */
  repack(rows: Uint8Array): Uint8Array;
}

export function isComputable(type: number): boolean {
  return TYPES[type] !== undefined;
}

export function weightLayout(type: number, cols: number): WeightLayout {
  const block = TYPES[type];
  if (block === undefined) {
    throw new RealmError('unsupported-tensor-type', `the WebGPU kernels do not know tensor type ${type}`);
  }
  if (!Number.isInteger(cols) || cols <= 0 || cols % block.elements !== 0) {
    throw new RealmError('invalid-argument', `a row of ${block.name} is a multiple of ${block.elements}, not ${cols}`);
  }
  const fileRowBytes = (cols / block.elements) * block.bytes;
  const padded = block.elements === 1 ? roundUp(cols, UNIT) * block.bytes : fileRowBytes;
  const rowBytes = roundUp(padded, 16);
  const blocks = cols / block.elements;
  return {
    name: block.name,
    fileRowBytes,
    rowBytes,
    repack: (rows) => repack(rows, block, blocks, fileRowBytes, rowBytes),
  };
}

function repack(
  rows: Uint8Array, block: BlockType, blocks: number, fileRowBytes: number, rowBytes: number,
): Uint8Array {
  if (rows.length % fileRowBytes !== 0) {
    throw new RealmError('invalid-argument', `${rows.length} bytes are not whole rows of ${fileRowBytes}`);
  }
  if (block.pieces === undefined && fileRowBytes === rowBytes) return rows;
  const count = rows.length / fileRowBytes;
  const out = new Uint8Array(count * rowBytes);
  if (block.pieces === undefined) {
    for (let r = 0; r < count; r++) out.set(rows.subarray(r * fileRowBytes, (r + 1) * fileRowBytes), r * rowBytes);
    return out;
  }
  let plane = 0; // offset of the piece's plane in a row
  for (const piece of block.pieces) {
    for (let r = 0; r < count; r++) {
      movePiece(rows, r * fileRowBytes + piece.from, block.bytes, out, r * rowBytes + plane, piece.bytes, blocks);
    }
    plane += piece.bytes * blocks;
  }
  return out;
}

/** One piece of each block of a row. Long runs go by memory copy; for short ones that costs more than the bytes. */
function movePiece(
  source: Uint8Array, from: number, stride: number, target: Uint8Array, to: number, bytes: number, blocks: number,
): void {
  for (let b = 0; b < blocks; b++, from += stride, to += bytes) {
    if (bytes >= 64) target.set(source.subarray(from, from + bytes), to);
    else for (let i = 0; i < bytes; i++) target[to + i] = source[from + i]!;
  }
}

export function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
