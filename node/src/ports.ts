// Where realms of Node run: in this thread next to the native engine, or their guests in threads of their own.

import { LocalEngine } from '../../js/src/local.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import type { EnginePort, PortHost } from '../../js/src/port.js';
import { nodePlatform } from './host.js';
import { IsolatedEngine } from './isolation.js';

export const nodePorts: PortHost = {
  backends: ['auto', 'cpu'],

  engine(options: CheckedEngineOptions): EnginePort {
    const local = new LocalEngine(nodePlatform.engine(options));
    return options.isolation === 'worker' ? new IsolatedEngine(local, options) : local;
  },
};
