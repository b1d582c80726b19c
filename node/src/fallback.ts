// The core as WebAssembly in a worker thread: for machines that no native addon of the package fits, and for who asks for it.

import { existsSync } from 'node:fs';
import { Worker } from 'node:worker_threads';

import { RealmError } from '../../js/src/errors.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import type { EnginePort } from '../../js/src/port.js';
import { RemoteEngine } from '../../js/src/remote_client.js';
import { RemoteEngines } from '../../js/src/remote_engines.js';
import { asset } from './host.js';
import { WorkerChannel } from './worker_channel.js';

let warned = false;

const engines = new RemoteEngines((options, owner) => {
  const worker = new Worker(new URL('./wasm_worker.mjs', import.meta.url), { execArgv: [] });
  const channel = new WorkerChannel(worker);
  return new RemoteEngine(channel, options, { ...owner, busy: (busy) => channel.hold(busy) });
});

/** `reason`: why the addon cannot be used; without it, nobody need be told. */
export function wasmEngine(options: CheckedEngineOptions, reason: RealmError | undefined): EnginePort {
  if (!existsSync(asset('core.wasm'))) {
    throw reason ?? new RealmError('backend-unavailable', 'this package was made without the core as WebAssembly');
  }
  if (reason && !warned) {
    warned = true;
    process.emitWarning(`${reason.message} Until then the core runs as WebAssembly, several times slower.`, { code: 'REALM_WASM' });
  }
  return engines.get(options);
}
