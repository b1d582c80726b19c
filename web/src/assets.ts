// The files beside the page's bundle. Each address is written so that bundlers see it and bring the file along.

import type { CoreBuild } from '../../js/src/wasm/features.js';

export interface Assets {
  /** The engine worker, a classic script that needs nothing else. */
  worker: string;
  guest: string;
  demoModel: string;
  cores: Record<CoreBuild, string>;
}

export const assets: Assets = {
  worker: new URL('./worker.js', import.meta.url).href,
  guest: new URL('./realm.wasm', import.meta.url).href,
  demoModel: new URL('./realm-demo.gguf', import.meta.url).href,
  cores: {
    core: new URL('./core.wasm', import.meta.url).href,
    'core-relaxed': new URL('./core-relaxed.wasm', import.meta.url).href,
    'core-threads': new URL('./core-threads.wasm', import.meta.url).href,
    'core-threads-relaxed': new URL('./core-threads-relaxed.wasm', import.meta.url).href,
  },
};
