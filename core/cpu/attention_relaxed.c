/* attention_relaxed.c: attention_simd128.c with fused multiply-adds, and the table of the relaxed build: all that profits. */
#define CPU_RELAXED 1
#include "attention_simd128.c"

void cpu_fill_relaxed(cpu_ops *ops) {
    cpu_fill_matmul_relaxed(ops);
    cpu_fill_matmul_float_relaxed(ops);
    ops->name = "relaxed";
    ops->attention = cpu_attention_relaxed;
}
