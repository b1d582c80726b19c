/* avx2.h: small vector helpers the AVX2 files share. Include only from *_avx2.c. */
#ifndef REALM_CPU_AVX2_H
#define REALM_CPU_AVX2_H

#include <immintrin.h>

#include "cpu_internal.h"

#define AVX2_INLINE CPU_INLINE

void cpu_fill_matmul_avx2(cpu_ops *ops);
void cpu_attention_avx2(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch);
/* x (n_rows, k) f32 @ w^T for any type. */
void cpu_matmul_float_avx2(uint32_t type, const void *weights, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k,
                           uint32_t out0, uint32_t out1, float *out, size_t out_stride);

/* The first n lanes set (all from 8 on). Masked loads and stores do not touch memory outside. */
AVX2_INLINE __m256i avx2_mask(size_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

/* Up to n of 8 floats, zeros after them. */
AVX2_INLINE __m256 avx2_load(const float *x, size_t n) {
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, avx2_mask(n));
}

AVX2_INLINE void avx2_store(float *x, size_t n, __m256 v) {
    if (n >= 8) _mm256_storeu_ps(x, v);
    else _mm256_maskstore_ps(x, avx2_mask(n), v);
}

/* Up to n of 8 16-bit numbers, zeros after them. */
AVX2_INLINE __m128i avx2_load16(const void *x, size_t n) {
    if (n >= 8) return _mm_loadu_si128((const __m128i *)x);
    uint16_t some[8] = {0};
    memcpy(some, x, 2 * n);
    return _mm_loadu_si128((const __m128i *)some);
}

AVX2_INLINE float avx2_sum(__m256 v) {
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

AVX2_INLINE float avx2_max(__m256 v) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

AVX2_INLINE __m256 avx2_abs(__m256 v) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

/* r[i] lane j <-> r[j] lane i */
AVX2_INLINE void avx2_transpose(__m256 r[8]) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) { /* r[i + j], 128-bit lane L: column 4 L + j of rows i..i + 3 */
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int j = 0; j < 4; j++) {
        __m256 low = r[j], high = r[4 + j];
        r[j] = _mm256_permute2f128_ps(low, high, 0x20);
        r[4 + j] = _mm256_permute2f128_ps(low, high, 0x31);
    }
}

/* 2^n for whole n in [-126, 127] */
AVX2_INLINE __m256 avx2_power_of_2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* e^x within 2 ulp; below -104 zero, above 88.8 infinite, NaN stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2; 2^n goes in two
 * steps, because it may lie outside the normal numbers. */
AVX2_INLINE __m256 avx2_exp(__m256 x) {
    const __m256 log2e = _mm256_set1_ps(1.44269504088896341f);
    const __m256 ln2_high = _mm256_set1_ps(0.693145751953125f), ln2_low = _mm256_set1_ps(1.42860677e-6f);
    x = _mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-128.0f), x)); /* second operand wins: NaN passes */
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, ln2_low, _mm256_fnmadd_ps(n, ln2_high, x));
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i whole = _mm256_cvtps_epi32(n), part = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, avx2_power_of_2(part)), avx2_power_of_2(_mm256_sub_epi32(whole, part)));
}

/* tanh x with an absolute error below 2e-7: 1 - 2 / (e^2|x| + 1), with the sign of x. */
AVX2_INLINE __m256 avx2_tanh(__m256 x) {
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 magnitude = avx2_abs(x), e = avx2_exp(_mm256_add_ps(magnitude, magnitude));
    __m256 t = _mm256_sub_ps(one, _mm256_div_ps(_mm256_set1_ps(2.0f), _mm256_add_ps(e, one)));
    return _mm256_or_ps(t, _mm256_and_ps(x, _mm256_set1_ps(-0.0f)));
}

/* ---- the names that ops_vector.h and attention_row.h use ---- */

typedef __m256 vec;
#define VEC_LANES 8
#define vec_all _mm256_set1_ps
#define vec_add _mm256_add_ps
#define vec_sub _mm256_sub_ps
#define vec_mul _mm256_mul_ps
#define vec_div _mm256_div_ps
#define vec_madd _mm256_fmadd_ps
#define vec_max _mm256_max_ps
#define vec_exp avx2_exp
#define vec_tanh avx2_tanh
#define vec_top avx2_max

#endif
