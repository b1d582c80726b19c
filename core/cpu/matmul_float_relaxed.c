/* matmul_float_relaxed.c: matmul_float_simd128.c with fused multiply-adds. */
#define CPU_RELAXED 1
#include "matmul_float_simd128.c"
