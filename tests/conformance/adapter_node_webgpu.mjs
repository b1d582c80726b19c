// The conformance adapter of Node's `backend: 'webgpu'`: core.wasm schedules, Dawn (npm `webgpu`) computes.

import { createInterface } from 'node:readline';

import * as sdk from '../../node/dist/index.mjs';
import { answerer } from './operations.mjs';

const answer = answerer(sdk, { backend: 'webgpu' });

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answer(JSON.parse(line)))}\n`);
}
process.exit(0); // not after the seconds an engine stays for the next realm
