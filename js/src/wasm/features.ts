// What the engine that runs this code can do, and which build of the core suits it.

import { MAXIMUM_PAGES } from '../_generated/core.js';

/** The builds of the core, by the names of their files without `.wasm`. */
export type CoreBuild = 'core' | 'core-relaxed' | 'core-threads' | 'core-threads-relaxed';

/** A module of one function that is valid only where relaxed SIMD is: i8x16.relaxed_swizzle of two splats. */
const RELAXED = [
  0, 97, 115, 109, 1, 0, 0, 0, // magic, version
  1, 5, 1, 96, 0, 1, 123, // types: () -> v128
  3, 2, 1, 0, // functions
  10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11, // code
];

export function hasRelaxedSimd(): boolean {
  return WebAssembly.validate(new Uint8Array(RELAXED));
}

/** Shared memory: in a page only when it is cross-origin isolated. */
export function hasThreads(): boolean {
  const { crossOriginIsolated } = globalThis as { crossOriginIsolated?: boolean };
  if (crossOriginIsolated === false || typeof SharedArrayBuffer === 'undefined') return false;
  try {
    return new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  }
}

/** The build for this machine. `available`: those the package has. */
export function chooseBuild(threads: number, available: readonly CoreBuild[]): CoreBuild {
  const shared = threads > 1 && hasThreads() ? '-threads' : '';
  const wanted = `core${shared}${hasRelaxedSimd() ? '-relaxed' : ''}` as CoreBuild;
  return available.includes(wanted) ? wanted : (`core${shared}` as CoreBuild);
}

/** Whether a module of the core is one with shared memory. */
export function isShared(module: WebAssembly.Module): boolean {
  return WebAssembly.Module.imports(module).some((found) => found.kind === 'memory');
}

/** The most a core can hold. */
export const MEMORY_LIMIT = MAXIMUM_PAGES * 65536;
