/* matmul_float_avx2.c: weights of any type times f32 activations with fused multiply-adds.
 *
 * Four outputs x up to three rows at a time (twelve sums fill the registers); sums run along k in the lanes of a vector and
 * are added up at the end. Quantized weights, and all where rows are many, are first turned into floats, BLOCK_OUTPUTS x
 * BLOCK_K at a time, in a buffer that stays in the first-level cache. */
#include "avx2.h"
#include "dequantize.h"

#define OUTPUTS 4
#define ROWS 3
#define BLOCK_OUTPUTS 16
#define BLOCK_K 512 /* a multiple of every block */

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

/* Weights [k0, k0 + n) of a row as floats; k0 a multiple of BLOCK_K. */
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

/* Rows of weights of a tile; past the last output the last is repeated, computed and not stored. */
AVX2_INLINE void weight_rows(const uint8_t *w, size_t row_bytes, uint32_t n_out, const uint8_t *rows[OUTPUTS]) {
    for (uint32_t o = 0; o < OUTPUTS; o++) rows[o] = w + (o < n_out ? o : n_out - 1) * row_bytes;
}

/* Up to BLOCK_OUTPUTS outputs of any number of rows. */
static void widened(uint32_t type, const uint8_t *w, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k, uint32_t n_out,
                    float *out, size_t out_stride) {
    _Alignas(32) float wide[BLOCK_OUTPUTS][BLOCK_K];
    for (size_t k0 = 0; k0 < k; k0 += BLOCK_K) {
        const uint32_t n = k - k0 < BLOCK_K ? (uint32_t)(k - k0) : BLOCK_K;
        for (uint32_t o = 0; o < n_out; o++) widen(type, w + o * row_bytes, k0, n, wide[o]);
        for (uint32_t r = 0; r < n_rows; r += ROWS) {
            for (uint32_t o = 0; o < n_out; o += OUTPUTS) {
                const uint8_t *rows[OUTPUTS];
                weight_rows((const uint8_t *)wide[o], sizeof wide[o], n_out - o, rows);
                tile(load8_f32, rows, n_out - o < OUTPUTS ? n_out - o : OUTPUTS, x + (size_t)r * k + k0, k, n, n_rows - r, k0 != 0,
                     out + r * out_stride + o, out_stride);
            }
        }
    }
}

/* Few rows of a plain type, straight from the file's layout. */
AVX2_INLINE void direct(load8_fn *load8, const uint8_t *w, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k, uint32_t n_out,
                        float *out, size_t out_stride) {
    for (uint32_t o = 0; o < n_out; o += OUTPUTS) {
        const uint8_t *rows[OUTPUTS];
        weight_rows(w + o * row_bytes, row_bytes, n_out - o, rows);
        tile(load8, rows, n_out - o < OUTPUTS ? n_out - o : OUTPUTS, x, k, k, n_rows, false, out + o, out_stride);
    }
}

void cpu_matmul_float_avx2(uint32_t type, const void *weights, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k,
                           uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    for (size_t o = out0; n_rows && o < out1; o += BLOCK_OUTPUTS) {
        const uint8_t *w = (const uint8_t *)weights + o * row_bytes;
        const uint32_t n_out = out1 - o < BLOCK_OUTPUTS ? (uint32_t)(out1 - o) : BLOCK_OUTPUTS;
        if (n_rows > ROWS) widened(type, w, row_bytes, x, n_rows, k, n_out, out + o, out_stride);
        else if (type == BLOCK_F32) direct(load8_f32, w, row_bytes, x, n_rows, k, n_out, out + o, out_stride);
        else if (type == BLOCK_F16) direct(load8_f16, w, row_bytes, x, n_rows, k, n_out, out + o, out_stride);
        else if (type == BLOCK_BF16) direct(load8_bf16, w, row_bytes, x, n_rows, k, n_out, out + o, out_stride);
        else widened(type, w, row_bytes, x, n_rows, k, n_out, out + o, out_stride);
    }
}
