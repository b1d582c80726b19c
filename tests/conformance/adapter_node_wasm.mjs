// The conformance adapter of core.wasm in Node: `adapter_node_wasm.mjs MODULE THREADS`, a module of build/wasm.

import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import * as sdk from '../../build/wasm/sdk.mjs';
import { answerer } from './operations.mjs';

const [module, threads] = process.argv.slice(2);
const file = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const assets = [file(`build/wasm/${module}.wasm`), file('build/guest/realm.wasm'), file('demo_model/realm-demo.gguf')];
await sdk.useCore(...assets, Number(threads));
const answer = answerer(sdk, { threads: Number(threads) });

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
}
