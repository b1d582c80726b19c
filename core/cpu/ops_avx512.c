/* ops_avx512.c: kernels for AVX-512 (F, BW, VL, DQ) with VNNI. */
#include "avx512.h"

void cpu_fill_avx512(cpu_ops *ops) {
    ops->name = "avx512";
    cpu_fill_matmul_avx512(ops);
}
