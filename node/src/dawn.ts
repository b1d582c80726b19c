// WebGPU in Node: Dawn, from the npm package `webgpu`, which is installed only by who wants it.

import { RealmError } from '../../js/src/errors.js';
import type { Backend } from '../../js/src/options.js';
import { openDevice } from '../../js/src/webgpu/device.js';
import { WebGpuExecutor } from '../../js/src/webgpu/executor.js';

/** Backends that are WebGPU: by any name, on Apple's Metal, on a GPU of NVIDIA. */
export const GPU_BACKENDS: readonly Backend[] = ['webgpu', 'metal', 'cuda'];

let opened: Promise<GPU> | undefined; // kept: devices end with it

export async function openGpu(backend: Backend): Promise<WebGpuExecutor> {
  const device = await openDevice(await (opened ??= dawn(backend)));
  const [, { info }] = device.owners;
  if (backend !== 'cuda' || info.vendor === 'nvidia') return WebGpuExecutor.open(device);
  device.device.destroy();
  const text = `backend 'cuda' needs a GPU of NVIDIA, not '${info.vendor}'; take backend 'webgpu'`;
  throw new RealmError('backend-unavailable', text);
}

async function dawn(backend: Backend): Promise<GPU> {
  try {
    const { create, globals } = await import('webgpu');
    Object.assign(globalThis, globals);
    return create([]);
  } catch (problem) {
    const text = `backend '${backend}' needs the npm package 'webgpu' beside @realm-ai/sdk: npm install webgpu`;
    throw new RealmError('backend-unavailable', `${text} (${(problem as Error).message})`, { cause: problem });
  }
}
