/* ops_avx2.c: kernels for AVX2 with FMA and F16C. */
#include "cpu_internal.h"

void cpu_fill_avx2(cpu_ops *ops) {
    ops->name = "avx2";
}
