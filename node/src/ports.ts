// Where realms of Node run: in this thread next to the native engine, or their guests in threads of their own. Where no binary of the
// package fits the machine, everything is in a worker thread, in the core as WebAssembly.

import { RealmError } from '../../js/src/errors.js';
import { LocalEngine } from '../../js/src/local.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import type { EnginePort, PortHost } from '../../js/src/port.js';
import { wasmEngine } from './fallback.js';
import { nodePlatform } from './host.js';
import { IsolatedEngine } from './isolation.js';
import { NativeError } from './native.js';

let missing: NativeError | undefined; // why there is no addon, once that is known

export const nodePorts: PortHost = {
  backends: ['auto', 'cpu', 'wasm', 'webgpu', process.platform === 'darwin' ? 'metal' : 'cuda'],

  engine(options: CheckedEngineOptions): EnginePort {
    const native = options.backend === 'cpu' || options.backend === 'auto';
    const local = native ? nativeEngine(options) : undefined;
    if (!local) return withoutAddon(options);
    return options.isolation === 'worker' ? new IsolatedEngine(local, options) : local;
  },
};

function nativeEngine(options: CheckedEngineOptions): LocalEngine | undefined {
  if (missing) return undefined;
  try {
    return new LocalEngine(nodePlatform.engine(options));
  } catch (problem) {
    if (!(problem instanceof NativeError)) throw problem;
    missing = problem;
    return undefined;
  }
}

function withoutAddon(options: CheckedEngineOptions): EnginePort {
  if (options.isolation === 'worker') {
    throw missing ?? new RealmError('unsupported', "isolation: 'worker' needs the native addon; take backend 'cpu' or 'auto'");
  }
  return wasmEngine(options, missing);
}
