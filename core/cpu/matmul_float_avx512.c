/* matmul_float_avx512.c: F32, F16 and BF16 weights times f32 activations with fused multiply-adds.
 *
 * Four outputs x up to four rows at a time; sums run along k in the lanes of a vector and are added up at the end. With many
 * rows, BLOCK_OUTPUTS x BLOCK_K weights are first widened into a buffer that stays in the first-level cache. */
#include "avx512.h"

#define OUTPUTS 4
#define ROWS 4
#define BLOCK_OUTPUTS 16
#define BLOCK_K 512

/* Weights [i, i + 16) of a row as floats; lanes outside the mask are neither read nor kept. */
typedef __m512 load16_fn(const uint8_t *w, size_t i, __mmask16 mask);

AVX512_INLINE __m512 load16_f32(const uint8_t *w, size_t i, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, w + 4 * i);
}

AVX512_INLINE __m512 load16_f16(const uint8_t *w, size_t i, __mmask16 mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, w + 2 * i));
}

AVX512_INLINE __m512 load16_bf16(const uint8_t *w, size_t i, __mmask16 mask) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, w + 2 * i)), 16));
}

/* sums[o][r] += w[o] . x[r] over k elements */
AVX512_INLINE void dot_tile(load16_fn *load16, const uint8_t *const w[OUTPUTS], const float *x, size_t x_stride, size_t k,
                            uint32_t rows, float sums[OUTPUTS][ROWS]) {
    __m512 acc[OUTPUTS][ROWS];
    for (int o = 0; o < OUTPUTS; o++)
        for (uint32_t r = 0; r < rows; r++) acc[o][r] = _mm512_setzero_ps();
    for (size_t i = 0; i < k; i += 16) {
        const __mmask16 mask = avx512_mask(k - i);
        __m512 xs[ROWS];
        for (uint32_t r = 0; r < rows; r++) xs[r] = _mm512_maskz_loadu_ps(mask, x + r * x_stride + i);
        for (int o = 0; o < OUTPUTS; o++) {
            __m512 v = load16(w[o], i, mask);
            for (uint32_t r = 0; r < rows; r++) acc[o][r] = _mm512_fmadd_ps(v, xs[r], acc[o][r]);
        }
    }
    for (int o = 0; o < OUTPUTS; o++)
        for (uint32_t r = 0; r < rows; r++) sums[o][r] = _mm512_reduce_add_ps(acc[o][r]);
}

/* out[r][o] = or += the dot products of up to OUTPUTS x ROWS */
AVX512_INLINE void tile(load16_fn *load16, const uint8_t *const w[OUTPUTS], uint32_t n_out, const float *x, size_t x_stride, size_t k,
                        uint32_t rows, bool add, float *out, size_t out_stride) {
    float sums[OUTPUTS][ROWS];
    switch (rows) { /* constants, so that the sums live in registers */
    case 1: dot_tile(load16, w, x, x_stride, k, 1, sums); break;
    case 2: dot_tile(load16, w, x, x_stride, k, 2, sums); break;
    case 3: dot_tile(load16, w, x, x_stride, k, 3, sums); break;
    default: dot_tile(load16, w, x, x_stride, k, ROWS, sums); rows = ROWS; break;
    }
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t o = 0; o < n_out; o++) out[r * out_stride + o] = sums[o][r] + (add ? out[r * out_stride + o] : 0.0f);
}

/* Rows of weights of a tile; past the last output the last is repeated, computed and not stored. */
AVX512_INLINE void weight_rows(const uint8_t *w, size_t row_bytes, uint32_t n_out, const uint8_t *rows[OUTPUTS]) {
    for (uint32_t o = 0; o < OUTPUTS; o++) rows[o] = w + (o < n_out ? o : n_out - 1) * row_bytes;
}

/* Up to OUTPUTS outputs of few rows, straight from the file's layout. */
AVX512_INLINE void few_rows(load16_fn *load16, const uint8_t *w, size_t row_bytes, const float *x, uint32_t n_rows, uint32_t k,
                            uint32_t n_out, float *out, size_t out_stride) {
    const uint8_t *rows[OUTPUTS];
    weight_rows(w, row_bytes, n_out, rows);
    tile(load16, rows, n_out, x, k, k, n_rows, false, out, out_stride);
}

/* Up to BLOCK_OUTPUTS outputs of many rows. */
AVX512_INLINE void many_rows(load16_fn *load16, size_t element, const uint8_t *w, size_t row_bytes, const float *x, uint32_t n_rows,
                             uint32_t k, uint32_t n_out, float *out, size_t out_stride) {
    _Alignas(64) float wide[BLOCK_OUTPUTS][BLOCK_K];
    for (size_t k0 = 0; k0 < k; k0 += BLOCK_K) {
        const size_t n = k - k0 < BLOCK_K ? k - k0 : BLOCK_K;
        for (uint32_t o = 0; o < n_out; o++)
            for (size_t i = 0; i < n; i += 16)
                _mm512_store_ps(wide[o] + i, load16(w + o * row_bytes + k0 * element, i, avx512_mask(n - i)));
        for (uint32_t r = 0; r < n_rows; r += ROWS) {
            for (uint32_t o = 0; o < n_out; o += OUTPUTS) {
                const uint8_t *rows[OUTPUTS];
                weight_rows((const uint8_t *)wide[o], sizeof wide[o], n_out - o, rows);
                tile(load16_f32, rows, n_out - o < OUTPUTS ? n_out - o : OUTPUTS, x + (size_t)r * k + k0, k, n, n_rows - r, k0 != 0,
                     out + r * out_stride + o, out_stride);
            }
        }
    }
}

AVX512_INLINE void matmul(load16_fn *load16, size_t element, const uint8_t *w, size_t row_bytes, const float *x, uint32_t n_rows,
                          uint32_t k, uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    const uint32_t step = n_rows <= ROWS ? OUTPUTS : BLOCK_OUTPUTS;
    for (size_t o = out0; n_rows && o < out1; o += step) {
        const uint32_t n_out = out1 - o < step ? (uint32_t)(out1 - o) : step;
        if (n_rows <= ROWS) few_rows(load16, w + o * row_bytes, row_bytes, x, n_rows, k, n_out, out + o, out_stride);
        else many_rows(load16, element, w + o * row_bytes, row_bytes, x, n_rows, k, n_out, out + o, out_stride);
    }
}

#define DEFINE_MATMUL(suffix, element) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(load16_##suffix, element, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(f32, 4)
DEFINE_MATMUL(f16, 2)
DEFINE_MATMUL(bf16, 2)

/* The prepared form, plain f32 rows, is the portable one. */
void cpu_fill_matmul_float_avx512(cpu_ops *ops) {
    ops->matmul[BLOCK_F32].run = matmul_f32;
    ops->matmul[BLOCK_F16].run = matmul_f16;
    ops->matmul[BLOCK_BF16].run = matmul_bf16;
    ops->matmul[BLOCK_F32].out_tile = ops->matmul[BLOCK_F16].out_tile = ops->matmul[BLOCK_BF16].out_tile = BLOCK_OUTPUTS;
}
