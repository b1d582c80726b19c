// Generated from core/include/realm_records.h by realm_build gen; do not edit.

export const KV_PAGE = 16;
export const NONE = 4294967295;
export const LAYER_HEAD = 65535;

export const OpKind = {
  EMBED: 0,
  RMSNORM: 1,
  MATMUL: 2,
  BIAS: 3,
  ROPE: 4,
  KV_STORE: 5,
  ATTENTION: 6,
  SILU_MUL: 7,
  GELU_MUL: 8,
  ADD: 9,
  SCALE: 10,
  GATHER: 11,
  SOFTCAP: 12,
} as const;

export const Slot = {
  X: 0,
  H: 1,
  Q: 2,
  K: 3,
  V: 4,
  A: 5,
  G: 6,
  U: 7,
  Y: 8,
  LOGITS: 9,
  COUNT: 10,
} as const;

/** Exact up to 2^53, far above any address or file. */
const u64 = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * 4294967296;

export interface Batch {
  id: number;
  model: number;
  nRows: number;
  nSegments: number;
  nOut: number;
  nPages: number;
  nPageOps: number;
  layerFirst: number;
  layerCount: number;
  kvType: number;
  poolPagesF16: number;
  poolPagesF32: number;
  tokens: number;
  positions: number;
  kvSlots: number;
  rowSegments: number;
  outRows: number;
  segments: number;
  pages: number;
  pageOps: number;
  logits: number;
}

export const BATCH_BYTES = 128;

export function readBatch(view: DataView, at: number): Batch {
  return {
    id: u64(view, at + 0),
    model: u64(view, at + 8),
    nRows: view.getUint32(at + 16, true),
    nSegments: view.getUint32(at + 20, true),
    nOut: view.getUint32(at + 24, true),
    nPages: view.getUint32(at + 28, true),
    nPageOps: view.getUint32(at + 32, true),
    layerFirst: view.getUint32(at + 36, true),
    layerCount: view.getUint32(at + 40, true),
    kvType: view.getUint32(at + 44, true),
    poolPagesF16: view.getUint32(at + 48, true),
    poolPagesF32: view.getUint32(at + 52, true),
    tokens: u64(view, at + 56),
    positions: u64(view, at + 64),
    kvSlots: u64(view, at + 72),
    rowSegments: u64(view, at + 80),
    outRows: u64(view, at + 88),
    segments: u64(view, at + 96),
    pages: u64(view, at + 104),
    pageOps: u64(view, at + 112),
    logits: u64(view, at + 120),
  };
}

export interface BatchSegment {
  row0: number;
  nRows: number;
  pos0: number;
  kvType: number;
  page0: number;
  nPages: number;
  hidden: number;
}

export const BATCH_SEGMENT_BYTES = 32;

export function readBatchSegment(view: DataView, at: number): BatchSegment {
  return {
    row0: view.getUint32(at + 0, true),
    nRows: view.getUint32(at + 4, true),
    pos0: view.getUint32(at + 8, true),
    kvType: view.getUint32(at + 12, true),
    page0: view.getUint32(at + 16, true),
    nPages: view.getUint32(at + 20, true),
    hidden: u64(view, at + 24),
  };
}

export interface PageOp {
  kvType: number;
  source: number;
  destination: number;
}

export const PAGE_OP_BYTES = 16;

export function readPageOp(view: DataView, at: number): PageOp {
  return {
    kvType: view.getUint32(at + 0, true),
    source: view.getUint32(at + 4, true),
    destination: view.getUint32(at + 8, true),
  };
}

export interface PlanHeader {
  model: number;
  fileSize: number;
  opCount: number;
  opOffset: number;
  tensorCount: number;
  tensorOffset: number;
  ropeHalf: number;
  ropeOffset: number;
  ropeNeox: number;
  layerCount: number;
  embeddingLength: number;
  feedForwardLength: number;
  vocabSize: number;
  headCount: number;
  headCountKv: number;
  headDim: number;
  contextLength: number;
  kvType: number;
  maxRows: number;
  maxPagesF16: number;
  maxPagesF32: number;
  slotWidth: readonly number[];
}

export const PLAN_HEADER_BYTES = 136;

export function readPlanHeader(view: DataView, at: number): PlanHeader {
  return {
    model: u64(view, at + 0),
    fileSize: u64(view, at + 8),
    opCount: view.getUint32(at + 16, true),
    opOffset: view.getUint32(at + 20, true),
    tensorCount: view.getUint32(at + 24, true),
    tensorOffset: view.getUint32(at + 28, true),
    ropeHalf: view.getUint32(at + 32, true),
    ropeOffset: view.getUint32(at + 36, true),
    ropeNeox: view.getUint32(at + 40, true),
    layerCount: view.getUint32(at + 44, true),
    embeddingLength: view.getUint32(at + 48, true),
    feedForwardLength: view.getUint32(at + 52, true),
    vocabSize: view.getUint32(at + 56, true),
    headCount: view.getUint32(at + 60, true),
    headCountKv: view.getUint32(at + 64, true),
    headDim: view.getUint32(at + 68, true),
    contextLength: view.getUint32(at + 72, true),
    kvType: view.getUint32(at + 76, true),
    maxRows: view.getUint32(at + 80, true),
    maxPagesF16: view.getUint32(at + 84, true),
    maxPagesF32: view.getUint32(at + 88, true),
    slotWidth: Array.from({ length: 10 }, (_, i) => view.getUint32(at + 92 + 4 * i, true)),
  };
}

export interface PlanOp {
  kind: number;
  layer: number;
  dst: number;
  src: number;
  src2: number;
  nHead: number;
  weight: number;
  width: number;
  window: number;
  f0: number;
  f1: number;
}

export const PLAN_OP_BYTES = 32;

export function readPlanOp(view: DataView, at: number): PlanOp {
  return {
    kind: view.getUint16(at + 0, true),
    layer: view.getUint16(at + 2, true),
    dst: view.getUint16(at + 4, true),
    src: view.getUint16(at + 6, true),
    src2: view.getUint16(at + 8, true),
    nHead: view.getUint16(at + 10, true),
    weight: view.getUint32(at + 12, true),
    width: view.getUint32(at + 16, true),
    window: view.getUint32(at + 20, true),
    f0: view.getFloat32(at + 24, true),
    f1: view.getFloat32(at + 28, true),
  };
}

export interface PlanTensor {
  offset: number;
  rowBytes: number;
  rows: number;
  cols: number;
  type: number;
  directory: number;
}

export const PLAN_TENSOR_BYTES = 32;

export function readPlanTensor(view: DataView, at: number): PlanTensor {
  return {
    offset: u64(view, at + 0),
    rowBytes: u64(view, at + 8),
    rows: view.getUint32(at + 16, true),
    cols: view.getUint32(at + 20, true),
    type: view.getUint32(at + 24, true),
    directory: view.getUint32(at + 28, true),
  };
}
