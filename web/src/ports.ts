// Where realms of a page run: in one engine worker for each set of options.

import { RealmError } from '../../js/src/errors.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import type { EnginePort, PortHost } from '../../js/src/port.js';

export const webPorts: PortHost = {
  backends: ['auto', 'webgpu', 'wasm'],

  engine(_options: CheckedEngineOptions): EnginePort {
    throw new RealmError('backend-unavailable', 'this build has no engine for pages yet');
  },
};
