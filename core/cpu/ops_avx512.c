/* ops_avx512.c: row and element-wise ops for AVX-512, and the AVX-512 table. Tails are masked vectors.
 * The matmuls stand in matmul_avx512.c and matmul_float_avx512.c, attention in attention_avx512.c. */
#include "avx512.h"

/* ---- what ops_vector.h is written with, beside the names in avx512.h ---- */

#define vec_sum _mm512_reduce_add_ps

AVX512_INLINE __m512 vec_load(const float *x, size_t n) { return _mm512_maskz_loadu_ps(avx512_mask(n), x); }

AVX512_INLINE void vec_store(float *x, size_t n, __m512 v) { _mm512_mask_storeu_ps(x, avx512_mask(n), v); }

/* Pairs (i, i + half): 16 at a time, cosines and sines taken apart. */
static void rotate_halves(float *head, const float *cos_sin, size_t half) {
    const __m512i even = _mm512_slli_epi32(avx512_iota(), 1), odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    for (size_t i = 0; i < half; i += 16) {
        __mmask16 mask = avx512_mask(half - i);
        __m512 low = _mm512_maskz_loadu_ps(avx512_mask(2 * (half - i)), cos_sin + 2 * i), high = _mm512_setzero_ps();
        if (half - i > 8) high = _mm512_maskz_loadu_ps(avx512_mask(2 * (half - i) - 16), cos_sin + 2 * i + 16);
        __m512 c = _mm512_permutex2var_ps(low, even, high), s = _mm512_permutex2var_ps(low, odd, high);
        __m512 a = _mm512_maskz_loadu_ps(mask, head + i), b = _mm512_maskz_loadu_ps(mask, head + half + i);
        _mm512_mask_storeu_ps(head + i, mask, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(head + half + i, mask, _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c)));
    }
}

/* Pairs (2i, 2i + 1): 8 at a time, x and its swapped neighbours. */
static void rotate_neighbours(float *head, const float *cos_sin, size_t half) {
    for (size_t i = 0; i < 2 * half; i += 16) {
        __mmask16 mask = avx512_mask(2 * half - i);
        __m512 angles = _mm512_maskz_loadu_ps(mask, cos_sin + i), v = _mm512_maskz_loadu_ps(mask, head + i);
        __m512 swapped = _mm512_mul_ps(_mm512_permute_ps(v, 0xb1), _mm512_movehdup_ps(angles));
        _mm512_mask_storeu_ps(head + i, mask, _mm512_fmaddsub_ps(v, _mm512_moveldup_ps(angles), swapped));
    }
}

static void store_halves(uint16_t *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i += 16)
        _mm256_mask_storeu_epi16(to + i, avx512_mask(n - i), _mm512_cvtps_ph(vec_load(from + i, n - i), _MM_FROUND_TO_NEAREST_INT));
}

#include "ops_vector.h"

/* ---- the table ---- */

void cpu_fill_avx512(cpu_ops *ops) {
    cpu_fill_matmul_avx512(ops);
    cpu_fill_matmul_float_avx512(ops);
    ops->name = "avx512";
    fill_row_ops(ops);
    ops->attention = cpu_attention_avx512;
}
