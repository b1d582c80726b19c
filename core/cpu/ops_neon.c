/* ops_neon.c: row and element-wise ops for NEON.
 * The matmuls stand in matmul_neon.c, matmul_i8mm.c and matmul_float_neon.c, attention in attention_neon.c. */
#include "neon.h"

#include <math.h>

/* ---- rows ---- */

static double sum_of_squares(const float *x, size_t n) {
    double total = 0;
    for (size_t start = 0; start < n; start += 256) { /* short sums in floats, their sum in double */
        const size_t end = n - start < 256 ? n : start + 256;
        float32x4_t sums[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
        for (size_t i = start; i < end; i += 4) {
            const float32x4_t v = neon_load(x + i, end - i);
            sums[i / 4 & 1] = vfmaq_f32(sums[i / 4 & 1], v, v);
        }
        total += (double)vaddvq_f32(vaddq_f32(sums[0], sums[1]));
    }
    return total;
}

static void rmsnorm(const float *x, const float *w, float eps, uint32_t n, uint32_t row0, uint32_t row1, float *out) {
    for (size_t r = row0; r < row1; r++) {
        const float *from = x + r * n;
        const float scale = (float)(1.0 / sqrt(sum_of_squares(from, n) / n + (double)eps));
        for (size_t i = 0; i < n; i += 4) {
            const float32x4_t v = vmulq_n_f32(neon_load(from + i, n - i), scale);
            neon_store(out + r * n + i, n - i, vmulq_f32(v, neon_load(w + i, n - i)));
        }
    }
}

/* Pairs (i, i + half): 4 at a time, cosines and sines taken apart. */
static void rotate_halves(float *head, const float *cos_sin, size_t half) {
    for (size_t i = 0; i < half; i += 4) {
        const size_t n = half - i;
        const float32x4_t low = neon_load(cos_sin + 2 * i, 2 * n), high = n > 2 ? neon_load(cos_sin + 2 * i + 4, 2 * n - 4) : low;
        const float32x4_t c = vuzp1q_f32(low, high), s = vuzp2q_f32(low, high);
        const float32x4_t a = neon_load(head + i, n), b = neon_load(head + half + i, n);
        neon_store(head + i, n, vfmsq_f32(vmulq_f32(a, c), b, s));
        neon_store(head + half + i, n, vfmaq_f32(vmulq_f32(b, c), a, s));
    }
}

/* Pairs (2i, 2i + 1): 2 at a time, x and its swapped neighbours. */
static void rotate_neighbours(float *head, const float *cos_sin, size_t half) {
    const uint32x4_t even_minus = vreinterpretq_u32_u64(vdupq_n_u64(0x80000000u));
    for (size_t i = 0; i < 2 * half; i += 4) {
        const size_t n = 2 * half - i;
        const float32x4_t angles = neon_load(cos_sin + i, n), v = neon_load(head + i, n);
        const float32x4_t c = vtrn1q_f32(angles, angles), s = vtrn2q_f32(angles, angles);
        const float32x4_t swapped = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(vrev64q_f32(v)), even_minus));
        neon_store(head + i, n, vfmaq_f32(vmulq_f32(v, c), swapped, s));
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
    for (size_t i = 0; i < n; i += 4) {
        const uint16x4_t h = vreinterpret_u16_f16(vcvt_f16_f32(neon_load(from + i, n - i)));
        uint16_t some[4];
        vst1_u16(some, h);
        memcpy(to + i, some, n - i >= 4 ? 8 : 2 * (n - i));
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
    for (size_t i = 0; i < (n); i += 4) { \
        const float32x4_t a = neon_load((x) + i, (n) - i), b = neon_load((y) + i, (n) - i); \
        neon_store((x) + i, (n) - i, expression); \
    }

/* x * sigmoid(s) */
NEON_INLINE float32x4_t times_sigmoid(float32x4_t x, float32x4_t s) {
    return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), neon_exp(vnegq_f32(s))));
}

/* 0.5 x (1 + tanh t) = x sigmoid(2 t), t = sqrt(2 / pi) (x + 0.044715 x^3) */
NEON_INLINE float32x4_t gelu(float32x4_t x) {
    const float32x4_t factor = vfmaq_f32(vdupq_n_f32(1.0f), vmulq_f32(x, x), vdupq_n_f32(0.044715f));
    return times_sigmoid(x, vmulq_f32(vmulq_n_f32(x, 2.0f * 0.79788456080286535588f), factor));
}

static void silu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, vmulq_f32(times_sigmoid(a, a), b))
}

static void gelu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, vmulq_f32(gelu(a), b))
}

static void add(float *x, const float *y, size_t n) {
    ELEMENTWISE(x, y, n, vaddq_f32(a, b))
}

static void scale(float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i += 4) neon_store(x + i, n - i, vmulq_n_f32(neon_load(x + i, n - i), s));
}

static void softcap(float *x, float cap, size_t n) {
    for (size_t i = 0; i < n; i += 4) {
        const float32x4_t t = neon_tanh(vdivq_f32(neon_load(x + i, n - i), vdupq_n_f32(cap)));
        neon_store(x + i, n - i, vmulq_n_f32(t, cap));
    }
}

static void add_bias(float *x, const float *b, uint32_t n, uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) add(x + r * n, b, n);
}

static void softmax_stats(const float *x, uint32_t n, float *max, float *sum) {
    float32x4_t lanes = vdupq_n_f32(-INFINITY);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) lanes = vmaxnmq_f32(lanes, vld1q_f32(x + i));
    float most = vmaxnmvq_f32(lanes);
    for (; i < n; i++) most = x[i] > most ? x[i] : most;
    double total = 0;
    for (size_t start = 0; start < n; start += 1024) { /* short sums in floats, their sum in double */
        const size_t end = n - start < 1024 ? n : start + 1024;
        float32x4_t part = vdupq_n_f32(0);
        for (i = start; i + 4 <= end; i += 4) part = vaddq_f32(part, neon_exp(vsubq_f32(vld1q_f32(x + i), vdupq_n_f32(most))));
        total += (double)vaddvq_f32(part);
        for (; i < end; i++) total += (double)expf(x[i] - most);
    }
    *max = most;
    *sum = (float)total;
}

/* ---- the table ---- */

void cpu_fill_neon(cpu_ops *ops) {
    cpu_fill_matmul_neon(ops);
    cpu_fill_matmul_float_neon(ops);
    ops->name = "neon-dotprod";
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
    ops->attention = cpu_attention_neon;
}
