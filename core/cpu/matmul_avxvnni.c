/* matmul_avxvnni.c: matmul_avx2.c once more, with the dot products of AVX-VNNI: for processors that have them without AVX-512. */
#define CPU_AVXVNNI
#include "matmul_avx2.c"
