// Between the core and an executor outside it: takes batch after batch and finishes each, well or badly.

import type { Batch } from '../_generated/records.js';
import { RealmError } from '../errors.js';
import type { BatchMemory } from './executor.js';

/** The core's side: realm_runtime_take_batch and realm_runtime_finish_batch. */
export interface BatchSource extends BatchMemory {
  takeBatch(): Batch | undefined;
  finishBatch(id: number, failure?: RealmError): void;
}

export interface BatchExecutor {
  run(batch: Batch, memory: BatchMemory): Promise<boolean>;
}

/** Computes batches until there is none; `finished` is called after each, for the host to look at its tickets. */
export async function runBatches(core: BatchSource, executor: BatchExecutor, finished: () => void): Promise<void> {
  for (let batch = core.takeBatch(); batch; batch = core.takeBatch()) {
    core.finishBatch(batch.id, await compute(batch, core, executor));
    finished();
  }
}

async function compute(batch: Batch, core: BatchSource, executor: BatchExecutor): Promise<RealmError | undefined> {
  try {
    if (await executor.run(batch, core)) return undefined;
    return new RealmError('cancelled', 'the work was cancelled');
  } catch (error) {
    if (error instanceof RealmError) return error;
    return new RealmError('internal', `the executor failed: ${(error as Error).message}`, { cause: error });
  }
}
