/* ops_avx512.c: kernels for AVX-512 (F, BW, VL, DQ) with VNNI. */
#include "cpu_internal.h"

void cpu_fill_avx512(cpu_ops *ops) {
    ops->name = "avx512";
}
