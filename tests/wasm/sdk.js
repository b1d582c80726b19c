// The public SDK over core.wasm in the thread that imports it, for tests: the same names as the package, and the parts inside.

import { readFileSync } from 'node:fs';

import { LocalEngine } from '../../js/src/local.js';
import { usePlatform } from '../../js/src/platform.js';
import { usePorts } from '../../js/src/port.js';
import { openWasmPlatform } from '../../js/src/wasm/host.js';
import { openNodeSource } from '../../node/src/source.js';
import { spawnNodeThread } from '../../node/src/threads.js';

export * from '../../js/src/public.js';
export { openNodeSource, openWasmPlatform, spawnNodeThread };
export { chooseBuild, hasRelaxedSimd, hasThreads } from '../../js/src/wasm/features.js';

/** Sets up the SDK of this module over the core in a file; the platform is the caller's to dispose of. */
export async function useCore(path, guest, demoModel, threads = 1, spawn = spawnNodeThread) {
  const module = await WebAssembly.compile(readFileSync(path));
  const own = { threads, spawn, open: openNodeSource };
  const platform = await openWasmPlatform({ module, guest: readFileSync(guest), demoModel, ...own });
  usePlatform(platform);
  usePorts({ backends: ['auto', 'cpu'], engine: (options) => new LocalEngine(platform.engine(options)) });
  return platform;
}
