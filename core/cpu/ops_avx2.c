/* ops_avx2.c: row and element-wise ops for AVX2 with FMA and F16C, and the AVX2 table.
 * The matmuls stand in matmul_avx2.c and matmul_float_avx2.c, attention in attention_avx2.c. */
#include "avx2.h"
#include "dequantize.h"

/* ---- what ops_vector.h is written with, beside the names in avx2.h ---- */

#define vec_load avx2_load
#define vec_store avx2_store
#define vec_sum avx2_sum

/* Pairs (i, i + half): 8 at a time, cosines and sines taken apart. */
static void rotate_halves(float *head, const float *cos_sin, size_t half) {
    for (size_t i = 0; i < half; i += 8) {
        const size_t n = half - i;
        __m256 low = avx2_load(cos_sin + 2 * i, 2 * n), high = n > 4 ? avx2_load(cos_sin + 2 * i + 8, 2 * n - 8) : _mm256_setzero_ps();
        __m256 a01 = _mm256_permute2f128_ps(low, high, 0x20), a23 = _mm256_permute2f128_ps(low, high, 0x31);
        __m256 c = _mm256_shuffle_ps(a01, a23, 0x88), s = _mm256_shuffle_ps(a01, a23, 0xdd);
        __m256 a = avx2_load(head + i, n), b = avx2_load(head + half + i, n);
        avx2_store(head + i, n, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        avx2_store(head + half + i, n, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
}

/* Pairs (2i, 2i + 1): 4 at a time, x and its swapped neighbours. */
static void rotate_neighbours(float *head, const float *cos_sin, size_t half) {
    for (size_t i = 0; i < 2 * half; i += 8) {
        const size_t n = 2 * half - i;
        __m256 angles = avx2_load(cos_sin + i, n), v = avx2_load(head + i, n);
        __m256 swapped = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), _mm256_movehdup_ps(angles));
        avx2_store(head + i, n, _mm256_fmaddsub_ps(v, _mm256_moveldup_ps(angles), swapped));
    }
}

static void store_halves(uint16_t *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __m128i v = _mm256_cvtps_ph(avx2_load(from + i, n - i), _MM_FROUND_TO_NEAREST_INT);
        memcpy(to + i, &v, n - i < 8 ? 2 * (n - i) : sizeof v);
    }
}

#include "ops_vector.h"

/* ---- the table ---- */

void cpu_fill_avx2(cpu_ops *ops) {
    cpu_fill_matmul_avx2(ops);
    ops->name = "avx2";
    ops->dequantize[BLOCK_Q4_0] = dequantize_q4_0;
    ops->dequantize[BLOCK_Q8_0] = dequantize_q8_0;
    ops->dequantize[BLOCK_Q4_K] = dequantize_q4_k;
    ops->dequantize[BLOCK_Q5_K] = dequantize_q5_k;
    ops->dequantize[BLOCK_Q6_K] = dequantize_q6_k;
    fill_row_ops(ops);
    ops->attention = cpu_attention_avx2;
}
