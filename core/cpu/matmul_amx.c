/* matmul_amx.c: quantized weights times many rows of activations with AMX tiles of bf16 (Intel ISE reference, "AMX").
 *
 * A tile product is C (16, 16) f32 += A (16, 32) bf16 @ B (32, 16) bf16, B with pairs of rows interleaved. Weights are A: a row
 * of 32 outputs x PANEL_K weights is unpacked as it stands. Activations are B: `prepare` transposes them once per batch.
 * So C holds outputs x rows and is transposed on its way out. Both factors are rounded to bf16, which is closer than int8
 * activations are; sums are float. Batches below MIN_ROWS use the int8 kernels of matmul_avx512.c, which read less. */
#include "avx512_quants.h"
#include "int8_rows.h"

#define MIN_ROWS 12      /* a tile costs the same from 1 to 16 rows; from here on it beats the int8 kernels */
#define STEP 32          /* weights of a tile row */
#define TILE_BYTES 1024
#define PANEL_K 2048     /* two tile rows of it and the rows' tiles stay in the second-level cache */
#define PANEL_STEPS (PANEL_K / STEP)

typedef struct panel { /* 32 outputs x PANEL_K weights as A tiles, and a place for four C tiles */
    _Alignas(64) uint16_t w[2][PANEL_STEPS][16][STEP];
    _Alignas(64) float c[2][2][16][16]; /* [outputs][rows] */
} panel;

/* ---- preparing activations ---- */

/* Tiles of 16 rows: [row / 16][k / 32][pair][row % 16][2] */
static size_t tiles_size(uint32_t n_rows, uint32_t k) { return ((size_t)n_rows + 15) / 16 * (k / STEP) * TILE_BYTES; }

static size_t prepared_size(uint32_t n_rows, uint32_t k) {
    size_t few = int8_prepared_size(n_rows < MIN_ROWS ? n_rows : MIN_ROWS, k);
    size_t many = n_rows < MIN_ROWS ? 0 : tiles_size(n_rows, k);
    return few > many ? few : many;
}

AVX512_INLINE __m512i to_bf16(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* Rows of a tile that are in `given` are converted, those in `zero` become zero, others are left to another thread. */
static void prepare_tile(const float *x, size_t x_stride, __mmask16 given, __mmask16 zero, uint32_t k, uint8_t *to) {
    for (uint32_t at = 0; at < k; at += STEP, to += TILE_BYTES) {
        __m512i v[16];
        for (uint32_t r = 0; r < 16; r++) {
            v[r] = _mm512_setzero_si512();
            if (given >> r & 1) v[r] = to_bf16(_mm512_loadu_ps(x + r * x_stride + at), _mm512_loadu_ps(x + r * x_stride + at + 16));
        }
        avx512_transpose(v);
        for (uint32_t p = 0; p < 16; p++) _mm512_mask_storeu_epi32(to + 64 * p, given | zero, v[p]);
    }
}

static void prepare(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared) {
    if (n_rows < MIN_ROWS) {
        cpu_prepare_int8_avx512(x, x_stride, n_rows, k, row0, row1, prepared);
        return;
    }
    for (uint32_t tile0 = row0 / 16 * 16; tile0 < row1; tile0 += 16) {
        uint32_t first = tile0 < row0 ? row0 - tile0 : 0;
        __mmask16 given = avx512_mask(row1 - tile0) & (__mmask16)~avx512_mask(first);
        __mmask16 zero = (__mmask16)~avx512_mask(n_rows - tile0);
        prepare_tile(x + tile0 * x_stride, x_stride, given, zero, k, (uint8_t *)prepared + tiles_size(tile0, k));
    }
}

/* ---- weights to tiles ---- */

/* 16 of 64 bytes as floats: u * scale - shift */
#define QUARTER(v, quarter, scale, shift) \
    _mm512_fmsub_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(v, quarter))), _mm512_set1_ps(scale), \
                    _mm512_set1_ps(shift))

/* 64 weights to two steps of one output; `half`: only the first. */
AVX512_INLINE void unpack_piece(const quant *t, const uint8_t *group, uint32_t piece, bool half, const float *scale,
                                const float *shift, uint16_t (*to)[16][STEP]) {
    const __m512i v = t->load64(group, piece, half);
    const uint32_t s = piece * 64 / t->sub, last = s + STEP / t->sub; /* sub-block of each step */
    const uint32_t next = t->sub == 16 ? 1 : 0;                        /* small ones change in mid-step */
    _mm512_store_si512(to[0][0], to_bf16(QUARTER(v, 0, scale[s], shift[s]), QUARTER(v, 1, scale[s + next], shift[s + next])));
    if (half) return;
    _mm512_store_si512(to[1][0], to_bf16(QUARTER(v, 2, scale[last], shift[last]), QUARTER(v, 3, scale[last + next], shift[last + next])));
}

/* `subs` sub-blocks of one output from w on. */
AVX512_INLINE void unpack_output(const quant *t, const uint8_t *w, uint32_t subs, uint16_t (*to)[16][STEP]) {
    for (uint32_t s = 0; s < subs; s += GROUP, w += t->group_bytes) {
        const uint32_t count = subs - s < GROUP ? subs - s : GROUP, weights = count * t->sub;
        _Alignas(64) float scales[16], shifts[16];
        __m512 scale, min;
        t->scales(w, count, &scale, &min);
        _mm512_store_ps(scales, scale);
        _mm512_store_ps(shifts, t->has_min ? min : _mm512_mul_ps(scale, _mm512_set1_ps((float)t->offset)));
        for (uint32_t p = 0; 64 * p < weights; p++, to += 2) unpack_piece(t, w, p, 64 * p + 64 > weights, scales, shifts, to);
    }
}

/* Outputs past the last repeat it: they are computed and not stored. */
AVX512_INLINE void unpack_panel(const quant *t, const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t subs, panel *p) {
    for (uint32_t o = 0; o < 32; o++) {
        const uint8_t *from = w + (o < n_out ? o : n_out - 1) * row_bytes;
        unpack_output(t, from, subs, (uint16_t (*)[16][STEP])&p->w[o / 16][0][o % 16]);
    }
}

/* ---- products ---- */

/* All tiles are 16 rows of 64 bytes. The configuration belongs to the thread. */
static void configure_tiles(void) {
    _Alignas(64) uint8_t config[64] = {1}; /* palette; then bytes per row (u16 at 16) and rows (u8 at 48) of each tile */
    for (int tile = 0; tile < 8; tile++) {
        config[16 + 2 * tile] = 64;
        config[48 + tile] = 16;
    }
    __asm__ volatile("" ::: "memory"); /* compilers have dropped stores that only ldtilecfg reads */
    _tile_loadconfig(config);
}

/* c = 32 outputs x 32 rows over `steps` steps; b0 and b1 are tiles of 16 rows each. */
AVX512_INLINE void multiply_2x2(panel *p, uint32_t steps, const uint8_t *b0, const uint8_t *b1) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t s = 0; s < steps; s++) {
        _tile_loadd(4, p->w[0][s], 64);
        _tile_loadd(6, b0 + s * TILE_BYTES, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1 + s * TILE_BYTES, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, p->w[1][s], 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, p->c[0][0], 64);
    _tile_stored(1, p->c[0][1], 64);
    _tile_stored(2, p->c[1][0], 64);
    _tile_stored(3, p->c[1][1], 64);
}

/* c = 32 outputs x 16 rows; two sums for each tile, so that products do not wait for one another. */
AVX512_INLINE void multiply_2x1(panel *p, uint32_t steps, const uint8_t *b) {
    _tile_zero(0);
    _tile_zero(2);
    for (uint32_t s = 0; s < steps; s++) {
        _tile_loadd(4, p->w[0][s], 64);
        _tile_loadd(6, b + s * TILE_BYTES, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, p->w[1][s], 64);
        _tile_dpbf16ps(2, 5, 6);
    }
    _tile_stored(0, p->c[0][0], 64);
    _tile_stored(2, p->c[1][0], 64);
}

/* One C tile to out (rows, n_out), or added to it. */
static void store_tile(const float (*c)[16], uint32_t rows, __mmask16 outputs, bool add, float *out, size_t out_stride) {
    __m512i v[16];
    for (uint32_t i = 0; i < 16; i++) v[i] = _mm512_load_si512(c[i]);
    avx512_transpose(v);
    for (uint32_t r = 0; r < rows && r < 16; r++) {
        float *to = out + r * out_stride;
        __m512 sum = _mm512_castsi512_ps(v[r]);
        if (add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(outputs, to));
        _mm512_mask_storeu_ps(to, outputs, sum);
    }
}

/* Up to 32 outputs of all rows. */
AVX512_INLINE void panel_outputs(const quant *t, const uint8_t *w, size_t row_bytes, const uint8_t *tiles, uint32_t n_rows, uint32_t k,
                                 uint32_t n_out, panel *p, float *out, size_t out_stride) {
    const __mmask16 outputs[2] = {avx512_mask(n_out), avx512_mask(n_out < 16 ? 0 : n_out - 16)};
    const size_t tile_stride = tiles_size(16, k);
    for (uint32_t k0 = 0; k0 < k; k0 += PANEL_K) {
        const uint32_t count = k - k0 < PANEL_K ? k - k0 : PANEL_K;
        unpack_panel(t, w + k0 / (GROUP * t->sub) * t->group_bytes, row_bytes, n_out, count / t->sub, p);
        const uint8_t *b = tiles + k0 / STEP * TILE_BYTES;
        for (uint32_t r = 0; r < n_rows; r += 32, b += 2 * tile_stride) {
            const bool two = n_rows - r > 16;
            if (two) multiply_2x2(p, count / STEP, b, b + tile_stride);
            else multiply_2x1(p, count / STEP, b);
            for (uint32_t i = 0; i < 4; i++) {
                const uint32_t row = r + 16 * (i & 1);
                if (row >= n_rows) continue;
                store_tile((const float (*)[16])p->c[i >> 1][i & 1], n_rows - row, outputs[i >> 1], k0 > 0,
                           out + row * out_stride + 16 * (i >> 1), out_stride);
            }
        }
    }
}

AVX512_INLINE void matmul(const quant *t, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k,
                          uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    panel p;
    configure_tiles();
    for (uint32_t o = out0; o < out1; o += 32) {
        panel_outputs(t, w + o * row_bytes, row_bytes, prepared, n_rows, k, out1 - o < 32 ? out1 - o : 32, &p, out + o, out_stride);
    }
    _tile_release(); /* the system need not save tiles when it switches threads */
}

/* ---- the table ---- */

#define DEFINE_MATMUL(suffix) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        if (n_rows < MIN_ROWS) cpu_matmul_##suffix##_avx512(w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
        else matmul(&quant_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(q8_0)
DEFINE_MATMUL(q4_0)
DEFINE_MATMUL(q4_k)
DEFINE_MATMUL(q5_k)
DEFINE_MATMUL(q6_k)

void cpu_fill_amx(cpu_ops *ops) {
    ops->name = "amx";
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){prepared_size, prepare, matmul_q8_0, 32};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){prepared_size, prepare, matmul_q4_0, 32};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){prepared_size, prepare, matmul_q4_k, 32};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){prepared_size, prepare, matmul_q5_k, 32};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){prepared_size, prepare, matmul_q6_k, 32};
}
