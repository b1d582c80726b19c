// Where realms of a page run: in one engine worker for each set of options, which ends some seconds after its last realm and model.

import { RealmError } from '../../js/src/errors.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import type { EnginePort, PortHost } from '../../js/src/port.js';
import { RemoteEngine } from '../../js/src/remote_client.js';
import { assets } from './assets.js';
import { PageChannel } from './page_channel.js';

const IDLE_MS = 5000; // memory of an engine is only given back with its worker

const engines = new Map<string, RemoteEngine>();

export const webPorts: PortHost = {
  backends: ['auto', 'webgpu', 'wasm'],

  engine(options: CheckedEngineOptions): EnginePort {
    if (options.isolation === 'worker') {
      throw new RealmError('unsupported', "isolation: 'worker' is for Node; a page's guests are in its engine worker already");
    }
    const key = JSON.stringify(options);
    return engines.get(key) ?? startEngine(key, options);
  },
};

function startEngine(key: string, options: CheckedEngineOptions): RemoteEngine {
  let idle: ReturnType<typeof setTimeout> | undefined;
  const channel = new PageChannel(assets.worker);
  const engine: RemoteEngine = new RemoteEngine(
    channel,
    { ...options, assets: { ...assets } },
    {
      used: () => clearTimeout(idle),
      unused: () => {
        idle = setTimeout(() => engine.end(new RealmError('closed', 'this engine is no longer in use')), IDLE_MS);
      },
      gone: () => {
        clearTimeout(idle);
        if (engines.get(key) === engine) engines.delete(key);
      },
      address: (text) => new URL(text, document.baseURI).href,
    },
  );
  engines.set(key, engine);
  return engine;
}
