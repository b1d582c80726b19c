// Opens the engine of a worker: finds out what this browser can do and what was asked for.

import { RealmError } from '../../js/src/errors.js';
import { LocalEngine } from '../../js/src/local.js';
import type { Backend, CheckedEngineOptions } from '../../js/src/options.js';
import { usePlatform } from '../../js/src/platform.js';
import { chooseBuild, type CoreBuild } from '../../js/src/wasm/features.js';
import { openWasmPlatform } from '../../js/src/wasm/host.js';
import { spawnWebThread } from '../../js/src/wasm/threads.js';
import { openDevice } from '../../js/src/webgpu/device.js';
import { WebGpuExecutor } from '../../js/src/webgpu/executor.js';
import type { Assets } from './assets.js';
import { openSource } from './source.js';

const MOST_THREADS = 16; // more than one for each fast processor slows all down

export interface WebEngineOptions extends CheckedEngineOptions {
  assets: Assets;
}

export async function openEngine({ assets, ...options }: WebEngineOptions): Promise<LocalEngine> {
  const gpu = options.executor === 0 && (await wantsGpu(options.backend)) ? openGpu : undefined;
  const threads = gpu ? 1 : options.threads || Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
  const build = chooseBuild(threads, Object.keys(assets.cores) as CoreBuild[]);
  const [module, guest] = await Promise.all([compiled(assets.cores[build]), bytes(assets.guest)]);
  const own = { spawn: spawnWebThread, demoModel: assets.demoModel, open: openSource };
  const platform = await openWasmPlatform({ module, guest, threads, ...own, ...(gpu && { gpu }) });
  usePlatform(platform);
  return new LocalEngine(platform.engine({ ...options, threads }), { backend: gpu ? 'webgpu' : 'wasm' });
}

// ---- the GPU ----

async function openGpu(): Promise<WebGpuExecutor> {
  return WebGpuExecutor.open(await openDevice(navigator.gpu));
}

/** `auto` takes a GPU that is one: an adapter in software is slower than WebAssembly. */
async function wantsGpu(backend: Backend): Promise<boolean> {
  if (backend !== 'auto') return backend === 'webgpu';
  try {
    const { info, device } = await openDevice(navigator.gpu).then(({ owners, device }) => ({ info: owners[1].info, device }));
    device.destroy();
    return !isSoftware(info);
  } catch {
    return false;
  }
}

function isSoftware(info: GPUAdapterInfo): boolean {
  const { isFallbackAdapter } = info as { isFallbackAdapter?: boolean };
  const names = `${info.vendor} ${info.architecture} ${info.device} ${info.description}`;
  return isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|basic render/i.test(names);
}

// ---- files ----

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
