// A model's plan as the core exports it (realm_model_plan): one block of records, read once when the model is loaded.

import {
  PLAN_OP_BYTES, PLAN_TENSOR_BYTES, readPlanHeader, readPlanOp, readPlanTensor,
  type PlanHeader, type PlanOp, type PlanTensor,
} from '../_generated/records.js';

export type { PlanHeader, PlanOp, PlanTensor };

export interface Plan {
  readonly header: PlanHeader;
  readonly ops: readonly PlanOp[];
  readonly tensors: readonly PlanTensor[];
  /** Radians per position of each rotated pair. */
  readonly rope: Float32Array;
}

export function readPlan(block: Uint8Array): Plan {
  const view = new DataView(block.buffer, block.byteOffset, block.byteLength);
  const header = readPlanHeader(view, 0);
  const rope = Float32Array.from({ length: header.ropeHalf }, (_, i) => view.getFloat32(header.ropeOffset + 4 * i, true));
  return {
    header,
    ops: all(header.opCount, (i) => readPlanOp(view, header.opOffset + i * PLAN_OP_BYTES)),
    tensors: all(header.tensorCount, (i) => readPlanTensor(view, header.tensorOffset + i * PLAN_TENSOR_BYTES)),
    rope,
  };
}

function all<T>(count: number, read: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => read(index));
}
