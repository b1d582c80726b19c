/* ops_avx2.c: row and element-wise ops for AVX2 with FMA and F16C, and the AVX2 table.
 * The matmuls stand in matmul_avx2.c and matmul_float_avx2.c, attention in attention_avx2.c. */
#include "avx2.h"
#include "dequantize.h"

#include <math.h>

/* ---- rows ---- */

static float sum_of_squares(const float *x, size_t n) {
    __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = avx2_load(x + i, n - i);
        sums[i / 8 & 1] = _mm256_fmadd_ps(v, v, sums[i / 8 & 1]);
    }
    return avx2_sum(_mm256_add_ps(sums[0], sums[1]));
}

static void rmsnorm(const float *x, const float *w, float eps, uint32_t n, uint32_t row0, uint32_t row1, float *out) {
    for (size_t r = row0; r < row1; r++) {
        const float *from = x + r * n;
        __m256 scale = _mm256_set1_ps((float)(1.0 / sqrt((double)sum_of_squares(from, n) / n + eps)));
        for (size_t i = 0; i < n; i += 8) {
            __m256 v = _mm256_mul_ps(avx2_load(from + i, n - i), scale);
            avx2_store(out + r * n + i, n - i, _mm256_mul_ps(v, avx2_load(w + i, n - i)));
        }
    }
}

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

static void store_halves(uint16_t *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __m128i v = _mm256_cvtps_ph(avx2_load(from + i, n - i), _MM_FROUND_TO_NEAREST_INT);
        memcpy(to + i, &v, n - i < 8 ? 2 * (n - i) : sizeof v);
    }
}

static void kv_store(void *part, uint32_t kv_type, uint32_t slot, const float *row, uint32_t n_head_kv, uint32_t head_dim) {
    for (size_t h = 0; h < n_head_kv; h++, row += head_dim) {
        const size_t at = (h * CPU_KV_PAGE + slot) * head_dim;
        if (kv_type == REALM_KV_F32) memcpy((float *)part + at, row, (size_t)head_dim * sizeof *row);
        else store_halves((uint16_t *)part + at, row, head_dim);
    }
}

/* ---- elements ---- */

/* x[i] = expression of a = x[i] and b = y[i] */
#define ELEMENTWISE(x, y, n, expression) \
    for (size_t i = 0; i < (n); i += 8) { \
        const __m256 a = avx2_load((x) + i, (n) - i), b = avx2_load((y) + i, (n) - i); \
        avx2_store((x) + i, (n) - i, expression); \
    }

/* x * sigmoid(s) */
AVX2_INLINE __m256 times_sigmoid(__m256 x, __m256 s) {
    __m256 e = avx2_exp(_mm256_sub_ps(_mm256_setzero_ps(), s));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

/* 0.5 x (1 + tanh t) = x sigmoid(2 t), t = sqrt(2 / pi) (x + 0.044715 x^3) */
AVX2_INLINE __m256 gelu(__m256 x) {
    const __m256 c = _mm256_set1_ps(2.0f * 0.79788456080286535588f), cubic = _mm256_set1_ps(0.044715f);
    __m256 factor = _mm256_fmadd_ps(_mm256_mul_ps(x, x), cubic, _mm256_set1_ps(1.0f));
    return times_sigmoid(x, _mm256_mul_ps(_mm256_mul_ps(x, c), factor));
}

static void silu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, _mm256_mul_ps(times_sigmoid(a, a), b))
}

static void gelu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, _mm256_mul_ps(gelu(a), b))
}

static void add(float *x, const float *y, size_t n) {
    ELEMENTWISE(x, y, n, _mm256_add_ps(a, b))
}

static void scale(float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i += 8) avx2_store(x + i, n - i, _mm256_mul_ps(avx2_load(x + i, n - i), _mm256_set1_ps(s)));
}

static void softcap(float *x, float cap, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __m256 t = avx2_tanh(_mm256_div_ps(avx2_load(x + i, n - i), _mm256_set1_ps(cap)));
        avx2_store(x + i, n - i, _mm256_mul_ps(t, _mm256_set1_ps(cap)));
    }
}

static void add_bias(float *x, const float *b, uint32_t n, uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) add(x + r * n, b, n);
}

static void softmax_stats(const float *x, uint32_t n, float *max, float *sum) {
    float most = -INFINITY;
    size_t i = 0;
    __m256 lanes = _mm256_set1_ps(most);
    for (; i + 8 <= n; i += 8) lanes = _mm256_max_ps(lanes, _mm256_loadu_ps(x + i));
    most = avx2_max(lanes);
    for (; i < n; i++) most = x[i] > most ? x[i] : most;
    __m256 total = _mm256_setzero_ps();
    for (i = 0; i < n; i += 8) {
        __m256 e = avx2_exp(_mm256_sub_ps(avx2_load(x + i, n - i), _mm256_set1_ps(most)));
        total = _mm256_add_ps(total, _mm256_and_ps(e, _mm256_castsi256_ps(avx2_mask(n - i))));
    }
    *max = most;
    *sum = avx2_sum(total);
}

/* ---- the table ---- */

void cpu_fill_avx2(cpu_ops *ops) {
    cpu_fill_matmul_avx2(ops);
    ops->name = "avx2";
    ops->dequantize[BLOCK_Q4_0] = dequantize_q4_0;
    ops->dequantize[BLOCK_Q8_0] = dequantize_q8_0;
    ops->dequantize[BLOCK_Q4_K] = dequantize_q4_k;
    ops->dequantize[BLOCK_Q5_K] = dequantize_q5_k;
    ops->dequantize[BLOCK_Q6_K] = dequantize_q6_k;
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
    ops->attention = cpu_attention_avx2;
}
