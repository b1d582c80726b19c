// Where realms of Node run: in this thread, next to the native engine.

import { LocalEngine } from '../../js/src/local.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import type { EnginePort, PortHost } from '../../js/src/port.js';
import { nodePlatform } from './host.js';

export const nodePorts: PortHost = {
  backends: ['auto', 'cpu'],

  engine(options: CheckedEngineOptions): EnginePort {
    return new LocalEngine(nodePlatform.engine(options));
  },
};
