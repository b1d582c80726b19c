// WebGPU in Node: Dawn, from the npm package `webgpu`, which is installed only by who wants it.

import { RealmError } from '../../js/src/errors.js';
import { openDevice } from '../../js/src/webgpu/device.js';
import { WebGpuExecutor } from '../../js/src/webgpu/executor.js';

let opened: Promise<GPU> | undefined; // kept: devices end with it

export async function openGpu(): Promise<WebGpuExecutor> {
  return WebGpuExecutor.open(await openDevice(await (opened ??= dawn())));
}

async function dawn(): Promise<GPU> {
  try {
    const { create, globals } = await import('webgpu');
    Object.assign(globalThis, globals);
    return create([]);
  } catch (problem) {
    const text = "backend 'webgpu' needs the npm package 'webgpu' beside @realm-ai/sdk: npm install webgpu";
    throw new RealmError('backend-unavailable', `${text} (${(problem as Error).message})`, { cause: problem });
  }
}
