// A worker thread in which one realm's guest runs. The models and the engine are those of the process: the addon is one for all threads.
//
// It is started before it is needed, and made ready as far as possible without knowing for whom. The number it shares with its owner is
// odd while the thread is inside a guest: a number that stays odd and does not change is a guest that does not return.

import { parentPort, workerData } from 'node:worker_threads';

import { LocalEngine } from '../../js/src/local.js';
import { guestModule } from '../../js/src/module.js';
import { DEFAULT_LIMITS } from '../../js/src/options.js';
import { usePlatform } from '../../js/src/platform.js';
import { serve } from '../../js/src/remote_server.js';
import { dispatcher } from './addon.js';
import { nodePlatform } from './host.js';
import { portChannel } from './worker_channel.js';

const stays = new Int32Array((workerData as { stays: SharedArrayBuffer }).stays);
let inside = false;

function watched<Value>(call: () => Value): Value {
  if (inside) return call();
  inside = true;
  Atomics.add(stays, 0, 1);
  try {
    return call();
  } finally {
    Atomics.add(stays, 0, 1);
    inside = false;
  }
}

usePlatform({ ...nodePlatform, watched });
dispatcher();
guestModule(nodePlatform.standardGuest(), DEFAULT_LIMITS.guestMemoryBytes);

serve(portChannel(parentPort!), (options) => new LocalEngine(nodePlatform.engine(options)));
