// executor_runner.mjs: js/src/webgpu/executor.ts for a core in another process. Requests are frames: a model (plan and bytes), a
// batch (its record and arrays as one block, in which addresses are offsets), the loss of the device.

import { readBatch } from '../../js/src/_generated/records.ts';
import { openDevice } from '../../js/src/webgpu/device.ts';
import { WebGpuExecutor } from '../../js/src/webgpu/executor.ts';
import { answer, frames } from './frames.mjs';

const PIECE = 1000; // bytes, so that rows come torn

async function main() {
  const { create, globals } = await import(process.env.REALM_DAWN);
  Object.assign(globalThis, globals);
  const state = { executor: undefined, open: () => openDevice(create([]), JSON.parse(process.argv[2] ?? '{}')) };
  state.executor = await WebGpuExecutor.open(await state.open());
  answer({ description: state.executor.gpu.description }, []);
  for await (const { header, arrays } of frames(process.stdin)) {
    try {
      answer(...(await REQUESTS[header.kind](state, header, arrays)));
    } catch (error) {
      answer({ error: error.message, code: error.code ?? null }, []);
    }
  }
  process.exit(0); // Dawn's threads would keep the process
}

const REQUESTS = {
  async model(state, { shards }, [plan, bytes]) {
    const sources = shards.map(({ base, size }) => ({ base, source: sourceOf(bytes.subarray(base, base + size)) }));
    const done = [];
    await state.executor.addModel(plan, sources, { progress: (part) => done.push(part) });
    return [{ progress: done.at(-1), bytes: state.executor.bytes }, []];
  },

  async batch(state, { wanted }, [block]) {
    const memory = { bytes: (address, size) => block.subarray(address, address + size), wanted: () => wanted };
    const computed = await state.executor.run(readBatch(new DataView(block.buffer, block.byteOffset), 0), memory);
    return [{ computed }, [block]];
  },

  async close(state, { model }) {
    state.executor.removeModel(model);
    return [{}, []];
  },

  async pace(state, { rate }) {
    state.executor.pace(rate);
    return [{}, []];
  },

  async lose(state) {
    state.executor.gpu.device.destroy();
    return [{}, []];
  },

  async reopen(state) {
    state.executor = await WebGpuExecutor.open(await state.open());
    return [{}, []];
  },
};

/** Pieces in an order of their own, several under way at once. */
function sourceOf(bytes) {
  return {
    name: 'memory', size: bytes.length, key: '', close() {},
    async read(offset, size) {
      return bytes.slice(offset, offset + size);
    },
    async stream(offset, size, chunk) {
      const starts = Array.from({ length: Math.ceil(size / PIECE) }, (_, i) => offset + i * PIECE).filter((at) => at < bytes.length);
      const mixed = [...starts.filter((_, i) => i % 3 === 1), ...starts.filter((_, i) => i % 3 !== 1).reverse()];
      const one = async (start) => chunk(start, bytes.slice(start, Math.min(start + PIECE, offset + size)));
      for (let i = 0; i < mixed.length; i += 2) await Promise.all(mixed.slice(i, i + 2).map(one));
    },
  };
}

await main();
