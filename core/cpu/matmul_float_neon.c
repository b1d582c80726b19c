/* matmul_float_neon.c: weights in F32, F16 and BF16 times f32 activations.
 *
 * Up to FEW_ROWS rows: one output at a time, sums along k in the lanes of a vector. More rows: the weights of OUTPUTS outputs
 * are widened into a panel that stays in the first-level cache, and each activation is multiplied with a column of it. */
#include "neon.h"

#define FEW_ROWS 4
#define OUTPUTS 16
#define PANEL_K 256
#define TILE_ROWS 4 /* 4 x 16 sums, a column and 4 activations of each row fit the registers */

/* Weights [i, i + n) of a row, n <= 4, as floats with zeros after them. */
typedef float32x4_t load4_fn(const uint8_t *w, size_t i, size_t n);

NEON_INLINE float32x4_t load4_f32(const uint8_t *w, size_t i, size_t n) {
    return neon_load((const float *)w + i, n);
}

NEON_INLINE float32x4_t load4_f16(const uint8_t *w, size_t i, size_t n) {
    return neon_from_halves(neon_load16(w + 2 * i, n));
}

NEON_INLINE float32x4_t load4_bf16(const uint8_t *w, size_t i, size_t n) {
    return vreinterpretq_f32_u32(vshll_n_u16(neon_load16(w + 2 * i, n), 16));
}

/* ---- few rows ---- */

NEON_INLINE void few_rows(load4_fn *load4, const uint8_t *w, size_t row_bytes, const float *x, uint32_t rows, uint32_t k, uint32_t n_out,
                          float *out, size_t out_stride) {
    for (size_t o = 0; o < n_out; o++, w += row_bytes) {
        float32x4_t acc[FEW_ROWS][4];
        size_t i = 0;
        for (uint32_t r = 0; r < rows; r++) acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = vdupq_n_f32(0);
        for (; i + 16 <= k; i += 16) {
            for (size_t h = 0; h < 4; h++) {
                const float32x4_t v = load4(w, i + 4 * h, 4);
                for (uint32_t r = 0; r < rows; r++) acc[r][h] = vfmaq_f32(acc[r][h], v, vld1q_f32(x + (size_t)r * k + i + 4 * h));
            }
        }
        for (; i < k; i += 4) {
            const float32x4_t v = load4(w, i, k - i);
            for (uint32_t r = 0; r < rows; r++) acc[r][0] = vfmaq_f32(acc[r][0], v, neon_load(x + (size_t)r * k + i, k - i));
        }
        for (uint32_t r = 0; r < rows; r++) {
            const float32x4_t both[2] = {vaddq_f32(acc[r][0], acc[r][1]), vaddq_f32(acc[r][2], acc[r][3])};
            out[r * out_stride + o] = vaddvq_f32(vaddq_f32(both[0], both[1]));
        }
    }
}

/* ---- many rows ---- */

/* r[i] lane j <-> r[j] lane i */
NEON_INLINE void transpose(float32x4_t r[4]) {
    const float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]), c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
    r[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    r[1] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    r[2] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    r[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

/* Elements [k0, k0 + k) of OUTPUTS rows of weights; past the last output the last is repeated, computed and not stored. */
NEON_INLINE void panel_fill(load4_fn *load4, const uint8_t *w, size_t row_bytes, uint32_t n_out, size_t k0, uint32_t k,
                            float panel[PANEL_K][OUTPUTS]) {
    for (uint32_t o = 0; o < OUTPUTS; o += 4) {
        for (size_t i = 0; i < k; i += 4) { /* PANEL_K is a multiple of 4: zeros past k have room */
            float32x4_t v[4];
            for (uint32_t j = 0; j < 4; j++) v[j] = load4(w + (o + j < n_out ? o + j : n_out - 1) * row_bytes, k0 + i, k - i);
            transpose(v);
            for (uint32_t j = 0; j < 4; j++) vst1q_f32(panel[i + j] + o, v[j]);
        }
    }
}

/* acc[r] += one element of each row . a column */
#define STEP(column, lane) \
    CPU_UNROLL for (uint32_t c = 0; c < OUTPUTS / 4; c++) { \
        const float32x4_t w = vld1q_f32((column) + 4 * c); \
        CPU_UNROLL for (uint32_t r = 0; r < rows; r++) acc[r][c] = vfmaq_laneq_f32(acc[r][c], w, v[r], lane); \
    }

/* out[r][o] = or += x[r] . the panel's weights; x: rows at the panel's first element. */
NEON_INLINE void panel_rows(float panel[PANEL_K][OUTPUTS], const float *x, size_t x_stride, uint32_t rows, uint32_t k, uint32_t n_out,
                            bool add, float *out, size_t out_stride) {
    float32x4_t acc[TILE_ROWS][OUTPUTS / 4], v[TILE_ROWS];
    CPU_UNROLL for (uint32_t r = 0; r < rows; r++) {
        CPU_UNROLL for (uint32_t c = 0; c < OUTPUTS / 4; c++) acc[r][c] = vdupq_n_f32(0);
    }
    size_t i = 0;
    for (; i + 4 <= k; i += 4) {
        for (uint32_t r = 0; r < rows; r++) v[r] = vld1q_f32(x + r * x_stride + i);
        STEP(panel[i], 0)
        STEP(panel[i + 1], 1)
        STEP(panel[i + 2], 2)
        STEP(panel[i + 3], 3)
    }
    for (; i < k; i++) {
        for (uint32_t r = 0; r < rows; r++) v[r] = vdupq_n_f32(x[r * x_stride + i]);
        STEP(panel[i], 0)
    }
    CPU_UNROLL for (uint32_t r = 0; r < rows; r++) {
        CPU_UNROLL for (uint32_t c = 0; c < OUTPUTS / 4; c++) {
            float *to = out + r * out_stride + 4 * c;
            if (4 * c < n_out) neon_store(to, n_out - 4 * c, add ? vaddq_f32(acc[r][c], neon_load(to, n_out - 4 * c)) : acc[r][c]);
        }
    }
}

NEON_INLINE void many_rows(load4_fn *load4, const uint8_t *w, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k,
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

NEON_INLINE void matmul(load4_fn *load4, const void *weights, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k,
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

void cpu_fill_matmul_float_neon(cpu_ops *ops) {
    ops->matmul[BLOCK_F32].run = matmul_f32; /* prepared: the portable f32 rows */
    ops->matmul[BLOCK_F16].run = matmul_f16;
    ops->matmul[BLOCK_BF16].run = matmul_bf16;
    ops->matmul[BLOCK_F32].out_tile = ops->matmul[BLOCK_F16].out_tile = ops->matmul[BLOCK_BF16].out_tile = OUTPUTS;
}
