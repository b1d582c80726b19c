// Guest modules: checked against the interface, given a memory maximum, compiled once.
//
// JavaScript cannot limit the memory that a module defines itself, so a module that asks for more than it may have gets a lower
// maximum written into its memory section before it is compiled.

import { EXPORTS, IMPORT_MODULE, IMPORTS } from './_generated/abi.js';
import { RealmError } from './errors.js';

const PAGE = 65536;
const MAX_MODULE_BYTES = 16 << 20;
const MEMORY_SECTION = 5;

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
    const module = new WebAssembly.Module(limitMemory(bytes, pages) as BufferSource);
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

// ---- the memory section ----

/** The same module with no memory's maximum above `pages`. What is no module at all is left to the compiler's error. */
export function limitMemory(bytes: Uint8Array, pages: number): Uint8Array {
  for (let at = 8; at < bytes.length; ) {
    const id = bytes[at]!;
    const size = leb(bytes, at + 1);
    const end = size.end + size.value;
    if (id === MEMORY_SECTION) return withSection(bytes, at, end, limitedSection(bytes, size.end, pages));
    at = end;
  }
  return bytes;
}

function limitedSection(bytes: Uint8Array, start: number, pages: number): number[] {
  const count = leb(bytes, start);
  const made = [...unsigned(count.value)];
  let at = count.end;
  for (let i = 0; i < count.value; i++) {
    const flags = bytes[at]!;
    if (flags > 1) throw new RealmError('guest-invalid', 'the module has a shared or 64-bit memory');
    const minimum = leb(bytes, at + 1);
    const maximum = flags === 1 ? leb(bytes, minimum.end) : { value: Infinity, end: minimum.end };
    if (minimum.value > pages) {
      const text = `the guest needs ${minimum.value * PAGE} bytes of memory and may have ${pages * PAGE}`;
      throw new RealmError('guest-memory', text);
    }
    made.push(1, ...unsigned(minimum.value), ...unsigned(Math.min(maximum.value, pages)));
    at = maximum.end;
  }
  return made;
}

function withSection(bytes: Uint8Array, start: number, end: number, content: number[]): Uint8Array {
  const section = [MEMORY_SECTION, ...unsigned(content.length), ...content];
  const made = new Uint8Array(start + section.length + bytes.length - end);
  made.set(bytes.subarray(0, start));
  made.set(section, start);
  made.set(bytes.subarray(end), start + section.length);
  return made;
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
