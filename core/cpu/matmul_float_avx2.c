/* matmul_float_avx2.c: weights of any type times f32 activations with fused multiply-adds.
 *
 * Four outputs x up to three rows at a time (twelve sums fill the registers); sums run along k in the lanes of a vector and
 * are added up at the end. Quantized weights, and halves where rows are many, are turned into floats TILE_K at a time in a
 * buffer that stays in the first-level cache. */
#include "avx2.h"
#include "dequantize.h"

#define OUTPUTS 4
#define ROWS 3
#define TILE_K 1024 /* a multiple of every block */

/* Weights [i, i + n) of a row, n <= 8, as floats with zeros after them. */
typedef __m256 load8_fn(const uint8_t *w, size_t i, size_t n);

AVX2_INLINE __m256 load8_f32(const uint8_t *w, size_t i, size_t n) {
    return avx2_load((const float *)w + i, n);
}

AVX2_INLINE __m256 load8_f16(const uint8_t *w, size_t i, size_t n) {
    return _mm256_cvtph_ps(avx2_load16(w + 2 * i, n));
}

AVX2_INLINE __m256 load8_bf16(const uint8_t *w, size_t i, size_t n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(avx2_load16(w + 2 * i, n)), 16));
}

/* acc[o][r] += w[o] . x[r] over n <= 8 elements from i on */
AVX2_INLINE void dot_step(load8_fn *load8, const uint8_t *const w[OUTPUTS], const float *x, size_t x_stride, size_t i, size_t n,
                          uint32_t rows, __m256 acc[OUTPUTS][ROWS]) {
    __m256 xs[ROWS];
    for (uint32_t r = 0; r < rows; r++) xs[r] = avx2_load(x + r * x_stride + i, n);
    for (int o = 0; o < OUTPUTS; o++) {
        __m256 v = load8(w[o], i, n);
        for (uint32_t r = 0; r < rows; r++) acc[o][r] = _mm256_fmadd_ps(v, xs[r], acc[o][r]);
    }
}

/* sums[o][r] = w[o] . x[r] over k elements */
AVX2_INLINE void dot_tile(load8_fn *load8, const uint8_t *const w[OUTPUTS], const float *x, size_t x_stride, size_t k, uint32_t rows,
                          float sums[OUTPUTS][ROWS]) {
    __m256 acc[OUTPUTS][ROWS];
    for (int o = 0; o < OUTPUTS; o++)
        for (uint32_t r = 0; r < rows; r++) acc[o][r] = _mm256_setzero_ps();
    size_t i = 0;
    for (; i + 8 <= k; i += 8) dot_step(load8, w, x, x_stride, i, 8, rows, acc);
    if (i < k) dot_step(load8, w, x, x_stride, i, k - i, rows, acc);
    for (int o = 0; o < OUTPUTS; o++)
        for (uint32_t r = 0; r < rows; r++) sums[o][r] = avx2_sum(acc[o][r]);
}

/* out[r][o] = or += the dot products of up to OUTPUTS x ROWS */
AVX2_INLINE void tile(load8_fn *load8, const uint8_t *const w[OUTPUTS], uint32_t n_out, const float *x, size_t x_stride, size_t k,
                      uint32_t rows, bool add, float *out, size_t out_stride) {
    float sums[OUTPUTS][ROWS];
    switch (rows) { /* constants, so that the sums live in registers */
    case 1: dot_tile(load8, w, x, x_stride, k, 1, sums); break;
    case 2: dot_tile(load8, w, x, x_stride, k, 2, sums); break;
    default: dot_tile(load8, w, x, x_stride, k, ROWS, sums); rows = ROWS; break;
    }
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t o = 0; o < n_out; o++) out[r * out_stride + o] = sums[o][r] + (add ? out[r * out_stride + o] : 0.0f);
}

/* Weights [k0, k0 + n) of a row as floats; k0 a multiple of TILE_K. */
static void widen(uint32_t type, const uint8_t *row, size_t k0, uint32_t n, float *out) {
    const block_type *block = block_type_of(type);
    row += k0 / block->elements * block->bytes;
    switch (type) {
    case BLOCK_Q4_0: dequantize_q4_0(row, n, out); break;
    case BLOCK_Q8_0: dequantize_q8_0(row, n, out); break;
    case BLOCK_Q4_K: dequantize_q4_k(row, n, out); break;
    case BLOCK_Q5_K: dequantize_q5_k(row, n, out); break;
    case BLOCK_Q6_K: dequantize_q6_k(row, n, out); break;
    case BLOCK_F16: for (uint32_t i = 0; i < n; i += 8) avx2_store(out + i, n - i, load8_f16(row, i, n - i)); break;
    case BLOCK_BF16: for (uint32_t i = 0; i < n; i += 8) avx2_store(out + i, n - i, load8_bf16(row, i, n - i)); break;
    default: memcpy(out, row, n * sizeof *out); break;
    }
}

/* Up to OUTPUTS outputs of many rows, TILE_K weights at a time. */
static void many_rows(uint32_t type, const uint8_t *const w[OUTPUTS], const float *x, uint32_t n_rows, uint32_t k, uint32_t n_out,
                      float *out, size_t out_stride) {
    _Alignas(32) float wide[OUTPUTS][TILE_K];
    for (size_t k0 = 0; k0 < k; k0 += TILE_K) {
        const uint32_t n = k - k0 < TILE_K ? (uint32_t)(k - k0) : TILE_K;
        const uint8_t *rows[OUTPUTS];
        for (int o = 0; o < OUTPUTS; o++) {
            rows[o] = (const uint8_t *)wide[o];
            widen(type, w[o], k0, n, wide[o]);
        }
        for (uint32_t r = 0; r < n_rows; r += ROWS)
            tile(load8_f32, rows, n_out, x + (size_t)r * k + k0, k, n, n_rows - r, k0 != 0, out + r * out_stride, out_stride);
    }
}

void cpu_matmul_float_avx2(uint32_t type, const void *w, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k,
                           uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    if (n_rows == 0) return;
    for (size_t o = out0; o < out1; o += OUTPUTS) {
        const uint32_t n_out = out1 - o < OUTPUTS ? (uint32_t)(out1 - o) : OUTPUTS;
        const uint8_t *rows[OUTPUTS]; /* past the last output the last is repeated, computed and not stored */
        for (uint32_t i = 0; i < OUTPUTS; i++) rows[i] = (const uint8_t *)w + (o + (i < n_out ? i : n_out - 1)) * row_bytes;
        if (n_rows <= ROWS && type == BLOCK_F32) tile(load8_f32, rows, n_out, x, k, k, n_rows, false, out + o, out_stride);
        else if (n_rows <= ROWS && type == BLOCK_F16) tile(load8_f16, rows, n_out, x, k, k, n_rows, false, out + o, out_stride);
        else if (n_rows <= ROWS && type == BLOCK_BF16) tile(load8_bf16, rows, n_out, x, k, k, n_rows, false, out + o, out_stride);
        else many_rows(type, rows, x, n_rows, k, n_out, out + o, out_stride);
    }
}
