// Small guest modules, assembled here: what a body does is visible in its few instructions.

import { readFileSync } from 'node:fs';

import { ROOT } from './helpers.mjs';

const STANDARD = new WebAssembly.Module(readFileSync(`${ROOT}node/dist/assets/realm.wasm`));
const FUNCTIONS = WebAssembly.Module.exports(STANDARD).filter(({ kind }) => kind === 'function');
const CALLS = FUNCTIONS.map(({ name }) => name).filter((name) => name !== 'cabi_realloc');

const END = 0x0b;
/** loop br 0 */
export const LOOP = [0x03, 0x40, 0x0c, 0, END, 0x00, END];
/** unreachable */
export const TRAP = [0x00, END];
/** Grows the memory until it cannot, then traps. */
export const GROW_MEMORY = [0x03, 0x40, 0x41, 1, 0x40, 0, 0x41, 0x7f, 0x47, 0x0d, 0, END, 0x00, END];
/** The same with a table of functions, which is on the heap of the thread: 65,536 entries at a time. */
export const GROW_TABLE = [0x03, 0x40, 0xd0, 0x70, 0x41, ...signed(65536), 0xfc, 15, 0, 0x41, 0x7f, 0x47, 0x0d, 0, END, 0x00, END];
/** i32.const 7 */
export const SEVEN = [0x41, 7, END];

/**
 * A module in which every function of the interface, and `act`, has this body; `starting`: it runs at instantiation too.
 * All functions are () -> i32: JavaScript drops the arguments they do not take.
 */
export function orchestrator(body, { starting = false } = {}) {
  const exported = [['memory', 2, 0], ['cabi_realloc', 0, 0], ...[...CALLS, 'act'].map((name) => [name, 0, 1])];
  const sections = [
    section(1, vector([[0x60, 0, 1, 0x7f], [0x60, 0, 0]])),
    section(3, vector([[0], [0], [1]])),
    section(4, vector([[0x70, 0, 1]])),
    section(5, vector([[0, 1]])),
    section(7, vector(exported.map(([name, kind, index]) => [...text(name), kind, index]))),
    ...(starting ? [section(8, [2])] : []),
    section(10, vector([code([0x41, ...signed(1024), END]), code(body), code([0x10, 1, 0x1a, END])])),
  ];
  return Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, ...sections.flat()]);
}

function section(id, content) {
  return [id, ...unsigned(content.length), ...content];
}

function vector(items) {
  return [...unsigned(items.length), ...items.flat()];
}

function code(body) {
  return [...unsigned(body.length + 1), 0, ...body];
}

function text(value) {
  return vector([...Buffer.from(value)]);
}

function unsigned(value) {
  return value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >>> 7)];
}

function signed(value) {
  return value < 64 ? [value] : [(value & 127) | 128, ...signed(value >>> 7)];
}
