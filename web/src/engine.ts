// Opens the engine of a worker: finds out what this browser can do and what was asked for.

import { RealmError } from '../../js/src/errors.js';
import { LocalEngine } from '../../js/src/local.js';
import type { CheckedEngineOptions } from '../../js/src/options.js';
import { usePlatform } from '../../js/src/platform.js';
import { chooseBuild, type CoreBuild } from '../../js/src/wasm/features.js';
import { openWasmPlatform } from '../../js/src/wasm/host.js';
import { spawnWebThread } from '../../js/src/wasm/threads.js';
import type { Assets } from './assets.js';
import { openSource } from './source.js';

const MOST_THREADS = 16; // more than one for each fast processor slows all down

export interface WebEngineOptions extends CheckedEngineOptions {
  assets: Assets;
}

export async function openEngine({ assets, ...options }: WebEngineOptions): Promise<LocalEngine> {
  if (options.backend === 'webgpu') throw new RealmError('backend-unavailable', 'this build computes without WebGPU');
  const threads = options.threads || Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
  const build = chooseBuild(threads, Object.keys(assets.cores) as CoreBuild[]);
  const [module, guest] = await Promise.all([compiled(assets.cores[build]!), bytes(assets.guest)]);
  const platform = await openWasmPlatform({
    module, guest, threads, spawn: spawnWebThread, demoModel: assets.demoModel, open: openSource,
  });
  usePlatform(platform);
  return new LocalEngine(platform.engine(options), { backend: 'wasm' });
}

async function compiled(address: string): Promise<WebAssembly.Module> {
  const response = await fetched(address);
  if (response.headers.get('Content-Type')?.startsWith('application/wasm')) return WebAssembly.compileStreaming(response);
  return WebAssembly.compile(await response.arrayBuffer());
}

async function bytes(address: string): Promise<Uint8Array> {
  return new Uint8Array(await (await fetched(address)).arrayBuffer());
}

async function fetched(address: string): Promise<Response> {
  let reason: unknown;
  try {
    const response = await fetch(address);
    if (response.ok) return response;
    reason = `HTTP ${response.status}`;
  } catch (problem) {
    reason = (problem as Error).message;
  }
  const text = `${address}, a part of the SDK, cannot be loaded (${String(reason)})`;
  throw new RealmError('backend-unavailable', `${text}; it must lie beside the SDK's script, and other origins need CORS`);
}
