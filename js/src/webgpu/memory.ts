// Buffers of a device: asked for with an error scope around them, because a GPU says only afterwards that memory is out.

import { RealmError } from '../errors.js';
import type { GpuDevice } from './device.js';

// The flags as numbers: the global objects that name them do not exist in Node.
export const USAGE = { mapRead: 1, copySrc: 4, copyDst: 8, storage: 128 } as const;
export const STORAGE = USAGE.storage | USAGE.copySrc | USAGE.copyDst;
export const READBACK = USAGE.mapRead | USAGE.copyDst;
/** Bindings begin at multiples of it. */
export const ALIGNMENT = 256;

export interface BufferRequest {
  label: string;
  size: number;
  usage?: number;
}

/** All of the buffers or none. */
export async function allocate(gpu: GpuDevice, requests: readonly BufferRequest[]): Promise<GPUBuffer[]> {
  for (const { label, size } of requests) checkSize(gpu, label, size);
  gpu.device.pushErrorScope('out-of-memory');
  const buffers = requests.map(({ label, size, usage = STORAGE }) =>
    gpu.device.createBuffer({ label, size: Math.max(ALIGNMENT, Math.ceil(size / 4) * 4), usage }),
  );
  const failure = await gpu.device.popErrorScope();
  if (!failure) return buffers;
  for (const buffer of buffers) buffer.destroy();
  const total = requests.reduce((sum, { size }) => sum + size, 0);
  const what = requests.length === 1 ? requests[0]!.label : `${requests[0]!.label} and ${requests.length - 1} more`;
  throw new RealmError(
    'out-of-memory',
    `the GPU has no ${megabytes(total)} MB left for ${what}: close other models or pages, or take a smaller model`,
  );
}

export async function allocateOne(gpu: GpuDevice, label: string, size: number, usage = STORAGE): Promise<GPUBuffer> {
  const [buffer] = await allocate(gpu, [{ label, size, usage }]);
  return buffer!;
}

/** A buffer is bound as a whole: both limits hold for it. */
function checkSize(gpu: GpuDevice, label: string, size: number): void {
  const most = Math.min(gpu.limits.maxBufferSize, gpu.limits.maxStorageBufferBindingSize);
  if (size <= most) return;
  throw new RealmError(
    'limit-exceeded',
    `${label} takes ${megabytes(size)} MB in one piece, this GPU allows ${megabytes(most)} MB`,
  );
}

export function megabytes(bytes: number): number {
  return Math.ceil(bytes / (1 << 20));
}
