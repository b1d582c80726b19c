// Where realms of a page run: in an engine worker.

import { RealmError } from '../../js/src/errors.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import type { EnginePort, PortHost } from '../../js/src/port.js';
import { RemoteEngine } from '../../js/src/remote_client.js';
import { RemoteEngines } from '../../js/src/remote_engines.js';
import { assets } from './assets.js';
import { PageChannel } from './page_channel.js';

const address = (text: string): string => new URL(text, document.baseURI).href;
const engines = new RemoteEngines((options, owner) => {
  return new RemoteEngine(new PageChannel(assets.worker), { ...options, assets: { ...assets } }, { ...owner, address });
});

export const webPorts: PortHost = {
  backends: ['auto', 'webgpu', 'wasm'],

  engine(options: CheckedEngineOptions): EnginePort {
    if (options.isolation === 'worker') {
      throw new RealmError('unsupported', "isolation: 'worker' is for Node; a page's guests are in its engine worker already");
    }
    return engines.get(options);
  },
};
