// The files beside the page's bundle. Each address is written so that bundlers see it and bring the file along.

export interface Assets {
  /** The engine worker, a classic script that needs nothing else. */
  worker: string;
  guest: string;
  demoModel: string;
  core: string;
  coreRelaxed: string;
  coreThreads: string;
  coreThreadsRelaxed: string;
}

export const assets: Assets = {
  worker: new URL('./worker.js', import.meta.url).href,
  guest: new URL('./realm.wasm', import.meta.url).href,
  demoModel: new URL('./realm-demo.gguf', import.meta.url).href,
  core: new URL('./core.wasm', import.meta.url).href,
  coreRelaxed: new URL('./core-relaxed.wasm', import.meta.url).href,
  coreThreads: new URL('./core-threads.wasm', import.meta.url).href,
  coreThreadsRelaxed: new URL('./core-threads-relaxed.wasm', import.meta.url).href,
};
