// The WGSL files of kernels/wgsl as texts: what a bundle holds of them, and which make up a kernel.

import prelude from '../../../kernels/wgsl/prelude.wgsl';
import blocks from '../../../kernels/wgsl/blocks/interface.wgsl';

import bf16 from '../../../kernels/wgsl/blocks/bf16.wgsl';
import f16 from '../../../kernels/wgsl/blocks/f16.wgsl';
import f32 from '../../../kernels/wgsl/blocks/f32.wgsl';
import iq4_nl from '../../../kernels/wgsl/blocks/iq4_nl.wgsl';
import iq4_xs from '../../../kernels/wgsl/blocks/iq4_xs.wgsl';
import q2_k from '../../../kernels/wgsl/blocks/q2_k.wgsl';
import q3_k from '../../../kernels/wgsl/blocks/q3_k.wgsl';
import q4_0 from '../../../kernels/wgsl/blocks/q4_0.wgsl';
import q4_1 from '../../../kernels/wgsl/blocks/q4_1.wgsl';
import q4_k from '../../../kernels/wgsl/blocks/q4_k.wgsl';
import q5_0 from '../../../kernels/wgsl/blocks/q5_0.wgsl';
import q5_1 from '../../../kernels/wgsl/blocks/q5_1.wgsl';
import q5_k from '../../../kernels/wgsl/blocks/q5_k.wgsl';
import q6_k from '../../../kernels/wgsl/blocks/q6_k.wgsl';
import q8_0 from '../../../kernels/wgsl/blocks/q8_0.wgsl';

import add from '../../../kernels/wgsl/add.wgsl';
import attention from '../../../kernels/wgsl/attention.wgsl';
import attention_merge from '../../../kernels/wgsl/attention_merge.wgsl';
import bias from '../../../kernels/wgsl/bias.wgsl';
import embed from '../../../kernels/wgsl/embed.wgsl';
import gather from '../../../kernels/wgsl/gather.wgsl';
import gelu_mul from '../../../kernels/wgsl/gelu_mul.wgsl';
import kv_store from '../../../kernels/wgsl/kv_store.wgsl';
import matmul from '../../../kernels/wgsl/matmul.wgsl';
import matvec from '../../../kernels/wgsl/matvec.wgsl';
import pad from '../../../kernels/wgsl/pad.wgsl';
import rmsnorm from '../../../kernels/wgsl/rmsnorm.wgsl';
import rope from '../../../kernels/wgsl/rope.wgsl';
import rope_table from '../../../kernels/wgsl/rope_table.wgsl';
import scale from '../../../kernels/wgsl/scale.wgsl';
import silu_mul from '../../../kernels/wgsl/silu_mul.wgsl';
import softcap from '../../../kernels/wgsl/softcap.wgsl';

const BLOCKS: Readonly<Record<string, string>> = {
  bf16, f16, f32, iq4_nl, iq4_xs, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0,
};

const OPS = {
  add, attention, attention_merge, bias, embed, gather, gelu_mul, kv_store, matmul, matvec, pad, rmsnorm, rope, rope_table, scale,
  silu_mul, softcap,
};

export type OpName = keyof typeof OPS;

/** The whole text of an op's kernel; ops on weights also name the block type they read. */
export function kernelText(op: OpName, block?: string): string {
  return block === undefined ? prelude + OPS[op] : prelude + blocks + BLOCKS[block] + OPS[op];
}
