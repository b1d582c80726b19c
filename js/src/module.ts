// Guest modules: checked against the interface, given maxima of memory and tables, compiled once.
//
// JavaScript cannot limit the memory and tables that a module defines itself, so a module that asks for more than it may have gets lower
// maxima written into it before it is compiled. What could fill the engine's own heap otherwise (garbage-collected objects, thrown
// exceptions) is refused: running out of it ends the whole process.

import { EXPORTS, IMPORT_MODULE, IMPORTS } from './_generated/abi.js';
import { joined } from './bytes.js';
import { RealmError } from './errors.js';

const PAGE = 65536;
const MAX_MODULE_BYTES = 16 << 20;
const TYPE_SECTION = 1;
const TABLE_SECTION = 4;
const MEMORY_SECTION = 5;
const LAST_SECTION = 12; // of WebAssembly 2.0
const MAX_TABLES = 4;
const MAX_TABLE_ENTRIES = 65536;
const FUNCTION_TYPE = 0x60;
const FUNCREF = 0x70;
const EXTERNREF = 0x6f;
const VALUE_TYPES = [0x7f, 0x7e, 0x7d, 0x7c, 0x7b, FUNCREF, EXTERNREF]; // numbers, vectors, references

const compiled = new WeakMap<Uint8Array, Map<number, WebAssembly.Module>>();

/** The compiled module of these bytes, whose memory cannot grow beyond the limit. */
export function guestModule(bytes: Uint8Array, memoryBytes: number): WebAssembly.Module {
  const pages = Math.min(65536, Math.floor((memoryBytes || 65536 * PAGE) / PAGE));
  const known = compiled.get(bytes) ?? new Map<number, WebAssembly.Module>();
  compiled.set(bytes, known);
  let module = known.get(pages);
  if (!module) known.set(pages, (module = compile(bytes, pages)));
  return module;
}

function compile(bytes: Uint8Array, pages: number): WebAssembly.Module {
  if (bytes.length > MAX_MODULE_BYTES) {
    throw new RealmError('guest-invalid', `the module is longer than ${MAX_MODULE_BYTES} bytes`);
  }
  try {
    const module = new WebAssembly.Module(limitModule(bytes, pages) as BufferSource);
    checkImports(module);
    return module;
  } catch (problem) {
    if (problem instanceof RealmError) throw problem;
    throw new RealmError('guest-invalid', `the module cannot be compiled: ${(problem as Error).message}`);
  }
}

function checkImports(module: WebAssembly.Module): void {
  for (const found of WebAssembly.Module.imports(module)) {
    if (found.module !== IMPORT_MODULE || !(found.name in IMPORTS) || found.kind !== 'function') {
      const text = `the module imports ${found.module} ${found.name}, which the interface does not have`;
      throw new RealmError('guest-invalid', text);
    }
  }
}

/** Throws guest-invalid unless the module exports the memory and functions of realm.wit. */
export function requireOrchestrator(module: WebAssembly.Module): void {
  const kinds = new Map(WebAssembly.Module.exports(module).map((found) => [found.name, found.kind]));
  if (kinds.get('memory') !== 'memory') {
    throw new RealmError('guest-invalid', "the module does not export a memory named 'memory'");
  }
  for (const name of ['cabi_realloc', ...Object.keys(EXPORTS)]) {
    if (kinds.get(name) !== 'function') {
      throw new RealmError('guest-invalid', `the module does not export the function ${name}`);
    }
  }
}

// ---- sections ----

/** The same module with no memory's maximum above `pages`. What is no module at all is left to the compiler's error. */
export function limitModule(bytes: Uint8Array, pages: number): Uint8Array {
  const parts = [bytes.subarray(0, 8)];
  for (let at = 8; at < bytes.length; ) {
    const id = bytes[at]!;
    const size = leb(bytes, at + 1);
    const end = size.end + size.value;
    if (id === TYPE_SECTION) checkTypes(bytes, size.end);
    if (id > LAST_SECTION) throw new RealmError('guest-invalid', `the module has a section ${id}, which guests may not have`);
    const content = id === TABLE_SECTION ? limitedTables(bytes, size.end) : undefined;
    const limited = id === MEMORY_SECTION ? limitedMemory(bytes, size.end, pages) : content;
    parts.push(limited ? Uint8Array.from([id, ...unsigned(limited.length), ...limited]) : bytes.subarray(at, end));
    at = end;
  }
  return joined(parts);
}

/** Every type must be a function's, of plain values: then there are no objects to allocate. */
function checkTypes(bytes: Uint8Array, start: number): void {
  const count = leb(bytes, start);
  let at = count.end;
  for (let i = 0; i < count.value; i++) {
    if (bytes[at++] !== FUNCTION_TYPE) throw new RealmError('guest-invalid', 'the module has types other than functions');
    at = checkValueTypes(bytes, checkValueTypes(bytes, at));
  }
}

/** Parameters or results; returns where they end. */
function checkValueTypes(bytes: Uint8Array, start: number): number {
  const count = leb(bytes, start);
  for (let i = 0; i < count.value; i++) {
    if (VALUE_TYPES.includes(bytes[count.end + i]!)) continue;
    throw new RealmError('guest-invalid', 'the module has functions of values other than numbers and plain references');
  }
  return count.end + count.value;
}

function limitedMemory(bytes: Uint8Array, start: number, pages: number): number[] {
  const count = leb(bytes, start);
  if (count.value > 1) throw new RealmError('guest-invalid', 'the module has more than one memory');
  if (count.value === 0) return [0];
  const { minimum, made } = limitedSize(bytes, count.end, pages);
  if (minimum <= pages) return [1, ...made];
  const text = `the guest needs ${minimum * PAGE} bytes of memory and may have ${pages * PAGE}`;
  throw new RealmError('guest-memory', text);
}

function limitedTables(bytes: Uint8Array, start: number): number[] {
  const count = leb(bytes, start);
  if (count.value > MAX_TABLES) throw new RealmError('guest-invalid', `the module has more than ${MAX_TABLES} tables`);
  const all = [...unsigned(count.value)];
  let at = count.end;
  for (let i = 0; i < count.value; i++) {
    const type = bytes[at]!;
    if (type !== FUNCREF && type !== EXTERNREF) throw new RealmError('guest-invalid', 'the module has a table of objects');
    const { minimum, made, end } = limitedSize(bytes, at + 1, MAX_TABLE_ENTRIES);
    if (minimum > MAX_TABLE_ENTRIES) {
      throw new RealmError('guest-memory', `a table of the guest has more than ${MAX_TABLE_ENTRIES} entries`);
    }
    all.push(type, ...made);
    at = end;
  }
  return all;
}

/** Minimum and maximum of a memory or a table, rewritten so that the maximum is at most `most`. */
function limitedSize(bytes: Uint8Array, start: number, most: number): { minimum: number; made: number[]; end: number } {
  const flags = bytes[start]!;
  if (flags > 1) throw new RealmError('guest-invalid', 'the module has a shared or 64-bit memory or table');
  const minimum = leb(bytes, start + 1);
  const maximum = flags === 1 ? leb(bytes, minimum.end) : { value: Infinity, end: minimum.end };
  const made = [1, ...unsigned(minimum.value), ...unsigned(Math.min(maximum.value, most))];
  return { minimum: minimum.value, made, end: maximum.end };
}

/** An unsigned LEB128 of at most 32 bits. */
function leb(bytes: Uint8Array, at: number): { value: number; end: number } {
  let value = 0;
  for (let shift = 0; shift < 35; shift += 7) {
    const byte = bytes[at++];
    if (byte === undefined) break;
    value += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) return { value, end: at };
  }
  throw new RealmError('guest-invalid', 'the module is cut off or malformed');
}

function unsigned(value: number): number[] {
  const made: number[] = [];
  for (; value >= 0x80; value = Math.floor(value / 128)) made.push((value % 128) | 0x80);
  return [...made, value];
}
