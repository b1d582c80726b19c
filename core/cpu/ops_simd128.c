/* ops_simd128.c: row and element-wise ops for WebAssembly's 128-bit vectors.
 * The matmuls stand in matmul_simd128.c and matmul_float_simd128.c, attention in attention_simd128.c. */
#include "simd128.h"

#include <math.h>

/* ---- rows ---- */

static double sum_of_squares(const float *x, size_t n) {
    double total = 0;
    for (size_t start = 0; start < n; start += 256) { /* short sums in floats, their sum in double */
        const size_t end = n - start < 256 ? n : start + 256;
        v128_t sums[2] = {wasm_f32x4_splat(0), wasm_f32x4_splat(0)};
        for (size_t i = start; i < end; i += 4) {
            const v128_t v = simd_load(x + i, end - i);
            sums[i / 4 & 1] = simd_madd(v, v, sums[i / 4 & 1]);
        }
        total += (double)simd_sum(wasm_f32x4_add(sums[0], sums[1]));
    }
    return total;
}

static void rmsnorm(const float *x, const float *w, float eps, uint32_t n, uint32_t row0, uint32_t row1, float *out) {
    for (size_t r = row0; r < row1; r++) {
        const float *from = x + r * n;
        const v128_t scale = wasm_f32x4_splat((float)(1.0 / sqrt(sum_of_squares(from, n) / n + (double)eps)));
        for (size_t i = 0; i < n; i += 4) {
            const v128_t v = wasm_f32x4_mul(simd_load(from + i, n - i), scale);
            simd_store(out + r * n + i, n - i, wasm_f32x4_mul(v, simd_load(w + i, n - i)));
        }
    }
}

/* Pairs (i, i + half): 4 at a time, cosines and sines taken apart. */
static void rotate_halves(float *head, const float *cos_sin, size_t half) {
    for (size_t i = 0; i < half; i += 4) {
        const size_t n = half - i;
        const v128_t low = simd_load(cos_sin + 2 * i, 2 * n), high = n > 2 ? simd_load(cos_sin + 2 * i + 4, 2 * n - 4) : low;
        const v128_t c = wasm_i32x4_shuffle(low, high, 0, 2, 4, 6), s = wasm_i32x4_shuffle(low, high, 1, 3, 5, 7);
        const v128_t a = simd_load(head + i, n), b = simd_load(head + half + i, n);
        simd_store(head + i, n, simd_nmadd(b, s, wasm_f32x4_mul(a, c)));
        simd_store(head + half + i, n, simd_madd(a, s, wasm_f32x4_mul(b, c)));
    }
}

/* Pairs (2i, 2i + 1): 2 at a time, x and its swapped neighbours. */
static void rotate_neighbours(float *head, const float *cos_sin, size_t half) {
    const v128_t even_minus = wasm_i32x4_make((int)0x80000000u, 0, (int)0x80000000u, 0);
    for (size_t i = 0; i < 2 * half; i += 4) {
        const size_t n = 2 * half - i;
        const v128_t angles = simd_load(cos_sin + i, n), v = simd_load(head + i, n);
        const v128_t c = wasm_i32x4_shuffle(angles, angles, 0, 0, 2, 2), s = wasm_i32x4_shuffle(angles, angles, 1, 1, 3, 3);
        const v128_t swapped = wasm_v128_xor(wasm_i32x4_shuffle(v, v, 1, 0, 3, 2), even_minus);
        simd_store(head + i, n, simd_madd(swapped, s, wasm_f32x4_mul(v, c)));
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
        const v128_t h = simd_to_halves(simd_load(from + i, n - i)), words = wasm_u16x8_narrow_i32x4(h, h);
        if (n - i >= 4) {
            wasm_v128_store64_lane(to + i, words, 0);
            continue;
        }
        uint16_t some[8];
        wasm_v128_store(some, words);
        for (size_t j = 0; i + j < n; j++) to[i + j] = some[j];
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
        const v128_t a = simd_load((x) + i, (n) - i), b = simd_load((y) + i, (n) - i); \
        simd_store((x) + i, (n) - i, expression); \
    }

/* x * sigmoid(s) */
SIMD_INLINE v128_t times_sigmoid(v128_t x, v128_t s) {
    return wasm_f32x4_div(x, wasm_f32x4_add(wasm_f32x4_splat(1.0f), simd_exp(wasm_f32x4_neg(s))));
}

/* 0.5 x (1 + tanh t) = x sigmoid(2 t), t = sqrt(2 / pi) (x + 0.044715 x^3) */
SIMD_INLINE v128_t gelu(v128_t x) {
    const v128_t c = wasm_f32x4_splat(2.0f * 0.79788456080286535588f), cubic = wasm_f32x4_splat(0.044715f);
    const v128_t factor = simd_madd(wasm_f32x4_mul(x, x), cubic, wasm_f32x4_splat(1.0f));
    return times_sigmoid(x, wasm_f32x4_mul(wasm_f32x4_mul(x, c), factor));
}

static void silu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, wasm_f32x4_mul(times_sigmoid(a, a), b))
}

static void gelu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, wasm_f32x4_mul(gelu(a), b))
}

static void add(float *x, const float *y, size_t n) {
    ELEMENTWISE(x, y, n, wasm_f32x4_add(a, b))
}

static void scale(float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i += 4) simd_store(x + i, n - i, wasm_f32x4_mul(simd_load(x + i, n - i), wasm_f32x4_splat(s)));
}

static void softcap(float *x, float cap, size_t n) {
    for (size_t i = 0; i < n; i += 4) {
        const v128_t t = simd_tanh(wasm_f32x4_div(simd_load(x + i, n - i), wasm_f32x4_splat(cap)));
        simd_store(x + i, n - i, wasm_f32x4_mul(t, wasm_f32x4_splat(cap)));
    }
}

static void add_bias(float *x, const float *b, uint32_t n, uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) add(x + r * n, b, n);
}

static void softmax_stats(const float *x, uint32_t n, float *max, float *sum) {
    v128_t lanes = wasm_f32x4_splat(-INFINITY);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) lanes = wasm_f32x4_pmax(lanes, wasm_v128_load(x + i));
    float most = simd_max(lanes);
    for (; i < n; i++) most = x[i] > most ? x[i] : most;
    double total = 0;
    for (size_t start = 0; start < n; start += 1024) { /* short sums in floats, their sum in double */
        const size_t end = n - start < 1024 ? n : start + 1024;
        v128_t part = wasm_f32x4_splat(0);
        for (i = start; i + 4 <= end; i += 4)
            part = wasm_f32x4_add(part, simd_exp(wasm_f32x4_sub(wasm_v128_load(x + i), wasm_f32x4_splat(most))));
        total += (double)simd_sum(part);
        for (; i < end; i++) total += (double)expf(x[i] - most);
    }
    *max = most;
    *sum = (float)total;
}

/* ---- the table ---- */

void cpu_fill_simd128(cpu_ops *ops) {
    cpu_fill_matmul_simd128(ops);
    cpu_fill_matmul_float_simd128(ops);
    ops->name = "simd128";
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
    ops->attention = cpu_attention_simd128;
}
