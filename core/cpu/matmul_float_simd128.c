/* matmul_float_simd128.c: weights in F32, F16 and BF16 times f32 activations, for WebAssembly.
 *
 * Up to FEW_ROWS rows: one output at a time, sums along k in the lanes of a vector. More rows: the weights of OUTPUTS outputs
 * are widened into a panel that stays in the first-level cache, and each activation is multiplied with a column of it. */
#include "simd128.h"

#define FEW_ROWS 4
#define OUTPUTS 8
#define PANEL_K 256
#define TILE_ROWS 4

/* Weights [i, i + n) of a row, n <= 4, as floats with zeros after them. */
typedef v128_t load4_fn(const uint8_t *w, size_t i, size_t n);

SIMD_INLINE v128_t load4_f32(const uint8_t *w, size_t i, size_t n) {
    return simd_load((const float *)w + i, n);
}

/* Up to n of 4 16-bit numbers, sign-extended, zeros after them. */
SIMD_INLINE v128_t load4_words(const uint8_t *w, size_t i, size_t n) {
    if (n >= 4) return wasm_i32x4_load16x4(w + 2 * i);
    int16_t some[4] = {0};
    for (size_t j = 0; j < n; j++) some[j] = (int16_t)base_u16(w + 2 * (i + j));
    return wasm_i32x4_load16x4(some);
}

SIMD_INLINE v128_t load4_f16(const uint8_t *w, size_t i, size_t n) {
    return simd_from_halves(load4_words(w, i, n));
}

SIMD_INLINE v128_t load4_bf16(const uint8_t *w, size_t i, size_t n) {
    return wasm_i32x4_shl(load4_words(w, i, n), 16);
}

/* ---- few rows ---- */

SIMD_INLINE void few_rows(load4_fn *load4, const uint8_t *w, size_t row_bytes, const float *x, uint32_t rows, uint32_t k, uint32_t n_out,
                          float *out, size_t out_stride) {
    for (size_t o = 0; o < n_out; o++) {
        v128_t acc[FEW_ROWS][2];
        for (uint32_t r = 0; r < rows; r++) acc[r][0] = acc[r][1] = wasm_f32x4_splat(0);
        for (size_t i = 0; i < k; i += 8) {
            for (size_t h = 0; h < 2 && i + 4 * h < k; h++) {
                const size_t at = i + 4 * h;
                const v128_t v = load4(w + o * row_bytes, at, k - at);
                for (uint32_t r = 0; r < rows; r++) acc[r][h] = simd_madd(v, simd_load(x + (size_t)r * k + at, k - at), acc[r][h]);
            }
        }
        for (uint32_t r = 0; r < rows; r++) out[r * out_stride + o] = simd_sum(wasm_f32x4_add(acc[r][0], acc[r][1]));
    }
}

/* ---- many rows ---- */

/* Elements [0, k) of OUTPUTS rows of weights; past the last output the last is repeated, computed and not stored. */
SIMD_INLINE void panel_fill(load4_fn *load4, const uint8_t *w, size_t row_bytes, uint32_t n_out, size_t k0, uint32_t k,
                            float panel[PANEL_K][OUTPUTS]) {
    for (uint32_t o = 0; o < OUTPUTS; o++) {
        const uint8_t *from = w + (o < n_out ? o : n_out - 1) * row_bytes;
        for (size_t i = 0; i < k; i += 4) {
            const v128_t v = load4(from, k0 + i, k - i);
            wasm_v128_store32_lane(panel[i] + o, v, 0); /* PANEL_K is a multiple of 4: zeros past k have room */
            wasm_v128_store32_lane(panel[i + 1] + o, v, 1);
            wasm_v128_store32_lane(panel[i + 2] + o, v, 2);
            wasm_v128_store32_lane(panel[i + 3] + o, v, 3);
        }
    }
}

/* out[r][o] = or += x[r] . the panel's weights; x: rows at the panel's first element. */
SIMD_INLINE void panel_rows(float panel[PANEL_K][OUTPUTS], const float *x, size_t x_stride, uint32_t rows, uint32_t k, uint32_t n_out,
                            bool add, float *out, size_t out_stride) {
    v128_t acc[TILE_ROWS][2];
    for (uint32_t r = 0; r < rows; r++) acc[r][0] = acc[r][1] = wasm_f32x4_splat(0);
    for (size_t i = 0; i < k; i++) {
        const v128_t w0 = wasm_v128_load(panel[i]), w1 = wasm_v128_load(panel[i] + 4);
        for (uint32_t r = 0; r < rows; r++) {
            const v128_t v = wasm_v128_load32_splat(x + r * x_stride + i);
            acc[r][0] = simd_madd(v, w0, acc[r][0]);
            acc[r][1] = simd_madd(v, w1, acc[r][1]);
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t h = 0; h < 2 && 4 * h < n_out; h++) {
            float *to = out + r * out_stride + 4 * h;
            simd_store(to, n_out - 4 * h, add ? wasm_f32x4_add(acc[r][h], simd_load(to, n_out - 4 * h)) : acc[r][h]);
        }
    }
}

SIMD_INLINE void many_rows(load4_fn *load4, const uint8_t *w, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k,
                           uint32_t n_out, float *out, size_t out_stride) {
    _Alignas(16) float panel[PANEL_K][OUTPUTS];
    for (size_t k0 = 0; k0 < k; k0 += PANEL_K) {
        const uint32_t n = k - k0 < PANEL_K ? (uint32_t)(k - k0) : PANEL_K;
        panel_fill(load4, w, row_bytes, n_out, k0, n, panel);
        size_t r = 0;
        for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS)
            panel_rows(panel, x + r * k + k0, k, TILE_ROWS, n, n_out, k0 != 0, out + r * out_stride, out_stride);
        for (; r < n_rows; r++) panel_rows(panel, x + r * k + k0, k, 1, n, n_out, k0 != 0, out + r * out_stride, out_stride);
    }
}

/* ---- the table ---- */

SIMD_INLINE void matmul(load4_fn *load4, const void *weights, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k,
                        uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    const uint8_t *w = (const uint8_t *)weights + out0 * row_bytes;
    out += out0;
    switch (n_rows) {
    case 0: return;
    case 1: few_rows(load4, w, row_bytes, x, 1, k, out1 - out0, out, out_stride); return;
    case 2: few_rows(load4, w, row_bytes, x, 2, k, out1 - out0, out, out_stride); return;
    case 3: few_rows(load4, w, row_bytes, x, 3, k, out1 - out0, out, out_stride); return;
    case 4: few_rows(load4, w, row_bytes, x, 4, k, out1 - out0, out, out_stride); return;
    default: break;
    }
    for (uint32_t o = 0; o < out1 - out0; o += OUTPUTS, w += OUTPUTS * row_bytes) {
        const uint32_t n_out = out1 - out0 - o < OUTPUTS ? out1 - out0 - o : OUTPUTS;
        many_rows(load4, w, row_bytes, x, n_rows, k, n_out, out + o, out_stride);
    }
}

#define DEFINE_MATMUL(suffix) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(load4_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(f32)
DEFINE_MATMUL(f16)
DEFINE_MATMUL(bf16)

#ifdef CPU_RELAXED
void cpu_fill_matmul_float_relaxed(cpu_ops *ops) {
#else
void cpu_fill_matmul_float_simd128(cpu_ops *ops) {
#endif
    ops->matmul[BLOCK_F32].run = matmul_f32; /* prepared: the portable f32 rows */
    ops->matmul[BLOCK_F16].run = matmul_f16;
    ops->matmul[BLOCK_BF16].run = matmul_bf16;
    ops->matmul[BLOCK_F32].out_tile = ops->matmul[BLOCK_F16].out_tile = ops->matmul[BLOCK_BF16].out_tile = OUTPUTS;
}
