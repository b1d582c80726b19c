/* matmul_relaxed.c: matmul_simd128.c with relaxed SIMD's product of bytes. */
#define CPU_RELAXED 1
#include "matmul_simd128.c"
