// Stands before the engine worker's script: a WebGPU device of default limits that holds nothing. It notes which buffers are
// made, how much of each is written, their first bytes, and which pipelines are compiled when, and tells whoever asks on the channel `counting-gpu`.

{
  const HEAD_BYTES = 16;
  const LIMITS = {
    maxBufferSize: 256 << 20,
    maxStorageBufferBindingSize: 128 << 20,
    maxStorageBuffersPerShaderStage: 8,
    maxComputeWorkgroupStorageSize: 16384,
    maxComputeInvocationsPerWorkgroup: 256,
    maxComputeWorkgroupSizeX: 256,
    maxComputeWorkgroupsPerDimension: 65535,
    minUniformBufferOffsetAlignment: 256,
  };
  const buffers = [];
  const pipelines = { prepared: [], late: [] };

  const makeBuffer = ({ label, size }) => {
    const buffer = { label, size, written: 0, head: new Uint8Array(HEAD_BYTES), destroy: () => undefined };
    buffers.push(buffer);
    return buffer;
  };
  const writeBuffer = (buffer, offset, data, from = 0, count = undefined) => {
    const unit = data.BYTES_PER_ELEMENT ?? 1; // offset and count are in elements of an array
    const size = count === undefined ? data.byteLength - from * unit : count * unit;
    if (offset + size > buffer.size) throw new Error(`${buffer.label}: written past its end`);
    buffer.written += size;
    if (offset >= HEAD_BYTES) return;
    const start = (data.byteOffset ?? 0) + from * unit;
    buffer.head.set(new Uint8Array(data.buffer ?? data, start, Math.min(size, HEAD_BYTES - offset)), offset);
  };

  const nothing = () => ({});
  const device = {
    limits: LIMITS,
    features: new Set(),
    lost: new Promise(nothing),
    queue: { writeBuffer, submit: nothing, onSubmittedWorkDone: async () => undefined },
    addEventListener: nothing,
    pushErrorScope: nothing,
    popErrorScope: async () => null,
    createBuffer: makeBuffer,
    createShaderModule: nothing,
    createBindGroupLayout: nothing,
    createPipelineLayout: nothing,
    createComputePipeline: ({ label }) => (pipelines.late.push(label), {}),
    createComputePipelineAsync: async ({ label }) => (pipelines.prepared.push(label), {}),
    createBindGroup: nothing,
    createCommandEncoder: () => ({ copyBufferToBuffer: nothing, finish: nothing }),
    destroy: nothing,
  };
  const adapter = { limits: LIMITS, features: new Set(), info: { vendor: 'counting' }, requestDevice: async () => device };
  Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => adapter } });

  const channel = new BroadcastChannel('counting-gpu');
  channel.onmessage = () => {
    const made = buffers.map(({ label, size, written, head }) => ({ label, size, written, head }));
    channel.postMessage({ buffers: made, pipelines });
  };
}
