// Compute threads of core.wasm in worker threads of Node.

import { Worker } from 'node:worker_threads';

import { THREAD_CODE, type SpawnThread } from '../../js/src/wasm/threads.js';

export const spawnNodeThread: SpawnThread = (start, failed) => {
  const code = `${THREAD_CODE}; serve(require('node:worker_threads').workerData);`;
  const worker = new Worker(code, { eval: true, workerData: start, name: 'realm-compute' });
  worker.on('error', failed).on('exit', failed);
  worker.unref(); // it waits for ever: no reason for the process to stay
  return worker;
};
