// The package for Node: the shared API over the native addon.

import { usePlatform } from '../../js/src/platform.js';
import { usePorts } from '../../js/src/port.js';
import { nodePlatform } from './host.js';
import { nodePorts } from './ports.js';

usePlatform(nodePlatform);
usePorts(nodePorts);

export * from '../../js/src/public.js';
