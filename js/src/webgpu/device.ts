// Opens a GPU for the kernels: asks for all the memory the adapter allows and for the features that a kernel uses, checks the
// limits kernels rely on, and turns the loss of the device and errors nobody waited for into something to ask about.

import { RealmError } from '../errors.js';

export interface GpuDevice {
  readonly device: GPUDevice;
  /** Features the device was opened with; kernels have a portable way where one is missing. */
  readonly f16: boolean;
  readonly subgroups: boolean;
  /** What the adapter says of subgroup sizes; 0 where it does not. No kernel may rely on one. */
  readonly subgroupMinSize: number;
  readonly subgroupMaxSize: number;
  readonly packedDot: boolean;
  readonly limits: GPUSupportedLimits;
  readonly description: string;
  /** Settles when the device is gone, with the reason; every later use of it is void. */
  readonly lost: Promise<string>;
  /** Held, because Dawn in Node crashes when these are collected while the device lives. */
  readonly owners: readonly [GPU, GPUAdapter];
  /** The first error that no error scope caught, such as a kernel the driver refuses. */
  failure(): string | undefined;
}

/** What the kernels need of any device, in WebGPU's own default limits, checked so that a change here is noticed. */
const REQUIRED: Partial<Record<keyof GPUSupportedLimits, number>> = {
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupsPerDimension: 65535,
};

/** Raised to what the adapter has: how large a weight or a KV pool may be. */
const RAISED = ['maxBufferSize', 'maxStorageBufferBindingSize'] as const;

export interface WantedDevice {
  /** Features to leave out, to test the portable ways: 'shader-f16', 'subgroups'. */
  disable?: string[];
  /** Keep to WebGPU's default limits, to test the splitting of large tensors. */
  defaultLimits?: boolean;
}

export async function openDevice(gpu: GPU | undefined, wanted: WantedDevice = {}): Promise<GpuDevice> {
  if (!gpu) throw unavailable('there is no WebGPU here (navigator.gpu is missing)');
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) throw unavailable('WebGPU finds no adapter: the GPU, its driver or a browser setting is missing');
  const device = await requestDevice(adapter, wanted);
  return describe(gpu, adapter, device);
}

async function requestDevice(adapter: GPUAdapter, wanted: WantedDevice): Promise<GPUDevice> {
  for (const [name, needed] of Object.entries(REQUIRED)) {
    const has = adapter.limits[name as keyof GPUSupportedLimits] as number;
    if (has < needed) throw unavailable(`the adapter's ${name} is ${has}, ${needed} is needed`);
  }
  const optional = ['shader-f16', 'subgroups', 'timestamp-query'] as GPUFeatureName[];
  const features = optional.filter((name) => adapter.features.has(name) && !wanted.disable?.includes(name));
  const raised = wanted.defaultLimits ? [] : RAISED.map((name) => [name, adapter.limits[name]]);
  try {
    return await adapter.requestDevice({ requiredFeatures: features, requiredLimits: Object.fromEntries(raised) });
  } catch (error) {
    throw unavailable('the adapter gives no device', error);
  }
}

function describe(gpu: GPU, adapter: GPUAdapter, device: GPUDevice): GpuDevice {
  const { vendor, architecture, description, subgroupMinSize = 0, subgroupMaxSize = 0 } = adapter.info;
  let failure: string | undefined;
  device.addEventListener('uncapturederror', (event) => {
    failure ??= event.error.message;
  });
  return {
    device,
    f16: device.features.has('shader-f16'),
    subgroups: device.features.has('subgroups' as GPUFeatureName),
    subgroupMinSize,
    subgroupMaxSize,
    packedDot: gpu.wgslLanguageFeatures?.has('packed_4x8_integer_dot_product') ?? false,
    limits: device.limits,
    description: [description || vendor, architecture].filter(Boolean).join(', '),
    lost: device.lost.then((info) => info.message || info.reason),
    owners: [gpu, adapter],
    failure: () => failure,
  };
}

function unavailable(message: string, cause?: unknown): RealmError {
  return new RealmError('backend-unavailable', message, { cause });
}
