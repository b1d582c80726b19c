/* avx512.h: small vector helpers the AVX-512 files share. Include only from *_avx512.c and *_amx.c. */
#ifndef REALM_CPU_AVX512_H
#define REALM_CPU_AVX512_H

#include <immintrin.h>

#include "cpu_internal.h"

#define AVX512_INLINE CPU_INLINE

void cpu_fill_matmul_avx512(cpu_ops *ops);
void cpu_fill_matmul_float_avx512(cpu_ops *ops);
void cpu_attention_avx512(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1,
                          float *scratch);
void cpu_attention_shared_avx512(const cpu_attention *job, uint32_t row, uint32_t head0, uint32_t head1, float *scratch);

/* What the AMX file hands small batches to: activations to int8 (int8_rows.h), and the products with them. */
void cpu_prepare_int8_avx512(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1,
                             void *prepared);
#define CPU_DECLARE_MATMUL(suffix) \
    void cpu_matmul_##suffix##_avx512(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                      uint32_t out0, uint32_t out1, float *out, size_t out_stride)
CPU_DECLARE_MATMUL(q8_0);
CPU_DECLARE_MATMUL(q4_0);
CPU_DECLARE_MATMUL(q4_k);
CPU_DECLARE_MATMUL(q5_k);
CPU_DECLARE_MATMUL(q6_k);

/* Lanes [0, n) set, n clamped to 16. Masked loads and stores do not touch memory outside. */
AVX512_INLINE __mmask16 avx512_mask(size_t n) {
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

AVX512_INLINE __m512i avx512_iota(void) {
    return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}

/* r[i] lane j <-> r[j] lane i */
AVX512_INLINE void avx512_transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* r[i + j], 128-bit lane L: column 4 L + j of rows i..i + 3 */
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; j++) { /* 0x88 takes lanes 0 and 2 of both operands, 0xdd lanes 1 and 3 */
        t[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    }
    for (int j = 0; j < 4; j++) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
        r[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
        r[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
    }
}

/* e^x within 2 ulp; below -104 zero, above 88.8 infinite, NaN stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2. */
AVX512_INLINE __m512 avx512_exp(__m512 x) {
    const __m512 log2e = _mm512_set1_ps(1.44269504088896341f);
    const __m512 ln2_high = _mm512_set1_ps(0.693145751953125f), ln2_low = _mm512_set1_ps(1.42860677e-6f);
    x = _mm512_min_ps(_mm512_set1_ps(128.0f), _mm512_max_ps(_mm512_set1_ps(-128.0f), x)); /* second operand wins: NaN passes */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, ln2_low, _mm512_fnmadd_ps(n, ln2_high, x));
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, n);
}

/* tanh x with an absolute error below 2e-7: 1 - 2 / (e^2|x| + 1), with the sign of x. */
AVX512_INLINE __m512 avx512_tanh(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 magnitude = _mm512_abs_ps(x), e = avx512_exp(_mm512_add_ps(magnitude, magnitude));
    __m512 t = _mm512_sub_ps(one, _mm512_div_ps(_mm512_set1_ps(2.0f), _mm512_add_ps(e, one)));
    const __m512i sign = _mm512_set1_epi32((int)0x80000000u);
    return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_castps_si512(t), _mm512_castps_si512(x), sign, 0xf8));
}

/* ---- the names that ops_vector.h and attention_row.h use ---- */

typedef __m512 vec;
#define VEC_LANES 16
#define vec_all _mm512_set1_ps
#define vec_add _mm512_add_ps
#define vec_sub _mm512_sub_ps
#define vec_mul _mm512_mul_ps
#define vec_div _mm512_div_ps
#define vec_madd _mm512_fmadd_ps
#define vec_max _mm512_max_ps
#define vec_exp avx512_exp
#define vec_tanh avx512_tanh
#define vec_top _mm512_reduce_max_ps

#endif
