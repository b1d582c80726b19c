// runner.mjs: runs kernels for the tests, one process per adapter. Frames on standard input: a length (u32), a JSON header, then the
// bytes of its arrays; an answer on standard output for each, in the same form. Bundled with the sources of js/src/webgpu.
//
// Every array becomes a buffer of its own with marked bytes before and behind: a kernel that writes outside is found out.

import { openDevice } from '../../js/src/webgpu/device.ts';
import { Kernels } from '../../js/src/webgpu/kernels.ts';
import { answer, reader } from './frames.mjs';

const GUARD = 256; // also the alignment of bindings
const MARK = 0xff; // as f32: NaN, so that what stays unwritten shows
const REPACKED_ROWS = 3; // at a time, as if streamed
const USAGE = { storage: 128 | 8 | 4, read: 1 | 8 };

async function main() {
  const { create, globals } = await import(process.env.REALM_DAWN);
  Object.assign(globalThis, globals);
  const gpu = await openDevice(create([]), JSON.parse(process.argv[2] ?? '{}'));
  const kernels = await Kernels.open(gpu);
  reportCompilerMessages(gpu.device);
  const { f16, subgroups, subgroupMinSize, subgroupMaxSize, description } = gpu;
  answer({ f16, subgroups, subgroupMinSize, subgroupMaxSize, description }, []);
  for await (const { header, arrays } of frames(process.stdin)) {
    try {
      const used = header.workgroups ? withWorkgroups(gpu, header.workgroups) : kernels;
      const outputs = await runCase(gpu, used, header, arrays);
      answer({ outputs: header.outputs }, outputs);
    } catch (error) {
      answer({ error: error.message, code: error.code ?? null }, []);
    }
  }
  process.exit(0); // Dawn's threads would keep the process
}

function withWorkgroups(gpu, maxComputeWorkgroupsPerDimension) {
  const { minUniformBufferOffsetAlignment } = gpu.limits;
  return new Kernels({ ...gpu, limits: { minUniformBufferOffsetAlignment, maxComputeWorkgroupsPerDimension } });
}

/** What the compiler says goes to standard error: an error scope tells only that a module is invalid. */
function reportCompilerMessages(device) {
  const create = device.createShaderModule.bind(device);
  device.createShaderModule = (descriptor) => {
    const module = create(descriptor);
    void module.getCompilationInfo().then(({ messages }) => {
      for (const { type, message, lineNum } of messages) console.error(`${type} in ${descriptor.label}:${lineNum}: ${message}`);
    });
    return module;
  };
}

async function runCase({ device }, kernels, header, arrays) {
  device.pushErrorScope('validation');
  const buffers = new Map(header.arrays.map(({ name, size }, i) => [name, upload(device, arrays[i] ?? size)]));
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  try {
    for (const { op, args } of header.calls) kernels[op](pass, resolve(device, kernels, buffers, args));
  } finally {
    pass.end();
    device.queue.submit([encoder.finish()]);
    const error = await device.popErrorScope();
    if (error) throw new Error(error.message);
  }
  const outputs = [];
  for (const name of header.outputs) outputs.push(await download(device, name, buffers.get(name)));
  for (const { buffer } of buffers.values()) buffer.destroy();
  kernels.dropBindGroups();
  return outputs;
}

/** Names of arrays become bindings, descriptions of weights become weights. */
function resolve(device, kernels, buffers, args) {
  const value = (given) => {
    if (typeof given === 'string') return buffers.get(given) ?? given;
    return given !== null && typeof given === 'object' ? weight(device, kernels, buffers, given) : given;
  };
  return Object.fromEntries(Object.entries(args).map(([name, given]) => [name, value(given)]));
}

function weight(device, kernels, buffers, { type, rows, cols, data, parts = 1 }) {
  const layout = kernels.weightLayout(type, cols);
  const file = buffers.get(data).bytes;
  const perPart = Math.ceil(rows / parts);
  const made = [];
  for (let row0 = 0; row0 < rows; row0 += perPart) {
    const count = Math.min(perPart, rows - row0);
    const bytes = new Uint8Array(count * layout.rowBytes);
    for (let r = 0; r < count; r += REPACKED_ROWS) {
      const end = row0 + Math.min(r + REPACKED_ROWS, count);
      bytes.set(layout.repack(file.subarray((row0 + r) * layout.fileRowBytes, end * layout.fileRowBytes)), r * layout.rowBytes);
    }
    const binding = upload(device, bytes);
    buffers.set(`${data} part ${row0}`, binding);
    made.push({ binding, row0, rows: count });
  }
  return { type, rows, cols, parts: made };
}

/** A guarded buffer with these bytes, or with `content` marked bytes. */
function upload(device, content) {
  const bytes = typeof content === 'number' ? new Uint8Array(content).fill(MARK) : content;
  const size = Math.ceil(bytes.length / 4) * 4;
  const buffer = device.createBuffer({ size: size + 2 * GUARD, usage: USAGE.storage, mappedAtCreation: true });
  const mapped = new Uint8Array(buffer.getMappedRange()).fill(MARK);
  mapped.set(bytes, GUARD);
  buffer.unmap();
  return { buffer, offset: GUARD, size: Math.max(size, 4), bytes };
}

async function download(device, name, { buffer, bytes }) {
  const staging = device.createBuffer({ size: buffer.size, usage: USAGE.read });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(1);
  const all = new Uint8Array(staging.getMappedRange().slice(0));
  staging.destroy();
  const end = GUARD + bytes.length;
  if (all.subarray(0, GUARD).some((byte) => byte !== MARK) || all.subarray(end).some((byte) => byte !== MARK)) {
    throw new Error(`a kernel wrote outside of ${name}`);
  }
  return all.subarray(GUARD, end);
}

// ---- frames ----

async function* frames(stream) {
  const read = reader(stream);
  for (;;) {
    const prefix = await read(4);
    if (prefix === undefined) return;
    const header = JSON.parse((await read(prefix.readUInt32LE(0))).toString());
    const arrays = [];
    for (const { size, given } of header.arrays) arrays.push(given ? new Uint8Array(await read(size)) : undefined);
    yield { header, arrays };
  }
}

await main();
