/* ops_avx512.c: row and element-wise ops for AVX-512, and the AVX-512 table. Tails are masked vectors.
 * The matmuls stand in matmul_avx512.c and matmul_float_avx512.c, attention in attention_avx512.c. */
#include "avx512.h"

#include <math.h>

/* ---- rows ---- */

static float sum_of_squares(const float *x, size_t n) {
    __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(avx512_mask(n - i), x + i);
        sums[i / 16 & 1] = _mm512_fmadd_ps(v, v, sums[i / 16 & 1]);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
}

static void rmsnorm(const float *x, const float *w, float eps, uint32_t n, uint32_t row0, uint32_t row1, float *out) {
    for (size_t r = row0; r < row1; r++) {
        const float *from = x + r * n;
        __m512 scale = _mm512_set1_ps((float)(1.0 / sqrt((double)sum_of_squares(from, n) / n + eps)));
        for (size_t i = 0; i < n; i += 16) {
            __mmask16 mask = avx512_mask(n - i);
            __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from + i), scale);
            _mm512_mask_storeu_ps(out + r * n + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, w + i)));
        }
    }
}

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

static void rope(float *x, size_t x_stride, const float *cos_sin, uint32_t n_head, uint32_t head_dim, uint32_t half, bool neox,
                 uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) {
        for (size_t h = 0; h < n_head; h++) {
            float *head = x + r * x_stride + h * head_dim;
            if (neox) rotate_halves(head, cos_sin + r * half * 2, half);
            else rotate_neighbours(head, cos_sin + r * half * 2, half);
        }
    }
}

static void kv_store(void *part, uint32_t kv_type, uint32_t slot, const float *row, uint32_t n_head_kv, uint32_t head_dim) {
    for (size_t h = 0; h < n_head_kv; h++, row += head_dim) {
        const size_t at = (h * CPU_KV_PAGE + slot) * head_dim;
        for (size_t i = 0; i < head_dim; i += 16) {
            __mmask16 mask = avx512_mask(head_dim - i);
            __m512 v = _mm512_maskz_loadu_ps(mask, row + i);
            if (kv_type == REALM_KV_F32) _mm512_mask_storeu_ps((float *)part + at + i, mask, v);
            else _mm256_mask_storeu_epi16((uint16_t *)part + at + i, mask, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
        }
    }
}

/* ---- elements ---- */

/* x[i] = f(x[i], y[i]), y may be NULL */
#define ELEMENTWISE(x, y, n, expression) \
    for (size_t i = 0; i < (n); i += 16) { \
        const __mmask16 mask = avx512_mask((n) - i); \
        const __m512 a = _mm512_maskz_loadu_ps(mask, (x) + i), b = _mm512_maskz_loadu_ps(mask, (y) + i); \
        _mm512_mask_storeu_ps((x) + i, mask, expression); \
    }

/* x * sigmoid(s) */
AVX512_INLINE __m512 times_sigmoid(__m512 x, __m512 s) {
    __m512 e = avx512_exp(_mm512_sub_ps(_mm512_setzero_ps(), s));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

/* 0.5 x (1 + tanh t) = x sigmoid(2 t), t = sqrt(2 / pi) (x + 0.044715 x^3) */
AVX512_INLINE __m512 gelu(__m512 x) {
    const __m512 c = _mm512_set1_ps(2.0f * 0.79788456080286535588f), cubic = _mm512_set1_ps(0.044715f);
    __m512 factor = _mm512_fmadd_ps(_mm512_mul_ps(x, x), cubic, _mm512_set1_ps(1.0f));
    return times_sigmoid(x, _mm512_mul_ps(_mm512_mul_ps(x, c), factor));
}

static void silu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, _mm512_mul_ps(times_sigmoid(a, a), b))
}

static void gelu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, _mm512_mul_ps(gelu(a), b))
}

static void add(float *x, const float *y, size_t n) {
    ELEMENTWISE(x, y, n, _mm512_add_ps(a, b))
}

static void scale(float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 mask = avx512_mask(n - i);
        _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(s)));
    }
}

static void softcap(float *x, float cap, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 mask = avx512_mask(n - i);
        __m512 t = avx512_tanh(_mm512_div_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(cap)));
        _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(t, _mm512_set1_ps(cap)));
    }
}

static void add_bias(float *x, const float *b, uint32_t n, uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) add(x + r * n, b, n);
}

static void softmax_stats(const float *x, uint32_t n, float *max, float *sum) {
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 most = least, total = _mm512_setzero_ps();
    for (size_t i = 0; i < n; i += 16) most = _mm512_max_ps(most, _mm512_mask_loadu_ps(least, avx512_mask(n - i), x + i));
    *max = _mm512_reduce_max_ps(most);
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 mask = avx512_mask(n - i);
        __m512 e = avx512_exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(*max)));
        total = _mm512_mask_add_ps(total, mask, total, e);
    }
    *sum = _mm512_reduce_add_ps(total);
}

/* ---- the table ---- */

void cpu_fill_avx512(cpu_ops *ops) {
    cpu_fill_matmul_avx512(ops);
    cpu_fill_matmul_float_avx512(ops);
    ops->name = "avx512";
    ops->rmsnorm = rmsnorm;
    ops->rope = rope;
    ops->silu_mul = silu_mul;
    ops->gelu_mul = gelu_mul;
    ops->add = add;
    ops->scale = scale;
    ops->softcap = softcap;
    ops->add_bias = add_bias;
    ops->kv_store = kv_store;
    ops->softmax_stats = softmax_stats;
    ops->attention = cpu_attention_avx512;
}
