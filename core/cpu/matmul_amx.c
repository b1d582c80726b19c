/* matmul_amx.c: quantized weights times many rows of activations with AMX tiles of bf16 (Intel ISE reference, "AMX").
 *
 * A tile product is C (16, 16) f32 += A (16, 32) bf16 @ B (32, 16) bf16, B with pairs of rows interleaved. Weights are A: rows
 * of PANEL_OUTPUTS x PANEL_K weights are unpacked as they stand. Activations are B: `prepare` transposes them once per batch.
 * So C holds outputs x rows and is transposed on its way out. Both factors are rounded to bf16, which is closer than int8
 * activations are; sums are float. Up to 16 rows go to matmul_few_amx.c, one or two to matmul_avx512.c. */
#include "amx.h"
#include "avx512_quants.h"
#include "int8_rows.h"

#define STEP 32          /* weights of a tile row */
#define TILE_BYTES 1024
#define PANEL_OUTPUTS 256
#define AHEAD 2          /* steps that tiles are asked for ahead of use; 1 and 3 are no better */
#define PANEL_K 2048     /* a panel of 1 MiB and 32 rows of activations fit the second-level cache */
#define PANEL_STEPS (PANEL_K / STEP)

typedef uint16_t tile[16][STEP];

typedef struct panel { /* weights as A tiles, and a place for four C tiles */
    _Alignas(64) tile w[PANEL_OUTPUTS / 16][PANEL_STEPS];
    _Alignas(64) float c[2][2][16][16]; /* [outputs][rows] */
} panel;

/* ---- preparing activations ---- */

/* Tiles of 16 rows: [row / 16][k / 32][pair][row % 16][2] */
static size_t tiles_size(uint32_t n_rows, uint32_t k) { return ((size_t)n_rows + 15) / 16 * (k / STEP) * TILE_BYTES; }

static size_t prepared_size(uint32_t n_rows, uint32_t k) {
    const size_t sizes[] = {int8_prepared_size(CPU_FEW_MIN - 1, k), cpu_few_prepared_size(k), tiles_size(n_rows, k)};
    size_t most = sizes[0];
    if (n_rows >= CPU_FEW_MIN && sizes[1] > most) most = sizes[1];
    if (n_rows > CPU_FEW_MAX && sizes[2] > most) most = sizes[2];
    return most;
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
    if (n_rows < CPU_FEW_MIN) {
        cpu_prepare_int8_avx512(x, x_stride, n_rows, k, row0, row1, prepared);
        return;
    }
    if (n_rows <= CPU_FEW_MAX) {
        cpu_few_prepare(x, x_stride, n_rows, k, row0, row1, prepared);
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
                                const float *shift, uint32_t row, tile *to) {
    const __m512i v = t->load64(group, piece, half);
    const uint32_t s = piece * 64 / t->sub, last = s + STEP / t->sub; /* sub-block of each step */
    const uint32_t next = t->sub == 16 ? 1 : 0;                        /* small ones change in mid-step */
    _mm512_store_si512(to[0][row], to_bf16(QUARTER(v, 0, scale[s], shift[s]), QUARTER(v, 1, scale[s + next], shift[s + next])));
    if (half) return;
    _mm512_store_si512(to[1][row], to_bf16(QUARTER(v, 2, scale[last], shift[last]), QUARTER(v, 3, scale[last + next], shift[last + next])));
}

/* `count` sub-blocks of one output to its row of the tiles. */
AVX512_INLINE void unpack_group(const quant *t, const uint8_t *group, uint32_t count, uint32_t row, tile *to) {
    _Alignas(64) float scales[16], shifts[16];
    const uint32_t weights = count * t->sub;
    __m512 scale, min;
    t->scales(group, count, &scale, &min);
    _mm512_store_ps(scales, scale);
    _mm512_store_ps(shifts, t->has_min ? min : _mm512_mul_ps(scale, _mm512_set1_ps((float)t->offset)));
    for (uint32_t p = 0; 64 * p < weights; p++, to += 2) unpack_piece(t, group, p, 64 * p + 64 > weights, scales, shifts, row, to);
}

/* 16 outputs, group by group, so that the tiles being filled stay in the first-level cache. Outputs past the last repeat
 * it: they are computed and not stored. */
AVX512_INLINE void unpack_outputs(const quant *t, const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t subs, tile *to) {
    for (uint32_t s = 0; s < subs; s += GROUP, w += t->group_bytes, to += GROUP * t->sub / STEP) {
        const uint32_t count = subs - s < GROUP ? subs - s : GROUP;
        for (uint32_t o = 0; o < 16; o++) {
            const uint8_t *group = w + (o < n_out ? o : n_out - 1) * row_bytes;
            for (uint32_t i = 0; i < t->group_bytes; i += 64) _mm_prefetch((const char *)group + 16 * row_bytes + i, _MM_HINT_T0);
            unpack_group(t, group, count, o, to);
        }
    }
}

/* ---- products ---- */

/* All tiles are 16 rows of 64 bytes. */
static void configure_tiles(void) {
    amx_config config = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) amx_shape(&config, tile, 16, 64);
    amx_configure(&config);
}

/* Tile loads wait for the second-level cache unless the lines were asked for before. */
AVX512_INLINE void prefetch_tile(const tile *t) {
    CPU_UNROLL for (int line = 0; line < 16; line++) _mm_prefetch((const char *)t + 64 * line, _MM_HINT_T0);
}

/* c = 32 outputs x 32 rows over `steps` steps; a0, a1 hold 16 outputs each, b0, b1 16 rows each. */
AVX512_INLINE void multiply_2x2(const tile *a0, const tile *a1, const tile *b0, const tile *b1, uint32_t steps, panel *p) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t s = 0; s < steps; s++) {
        prefetch_tile(a0 + s + AHEAD);
        prefetch_tile(a1 + s + AHEAD);
        prefetch_tile(b0 + s + AHEAD);
        prefetch_tile(b1 + s + AHEAD);
        _tile_loadd(4, a0[s], 64);
        _tile_loadd(6, b0[s], 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b1[s], 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a1[s], 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, p->c[0][0], 64);
    _tile_stored(1, p->c[0][1], 64);
    _tile_stored(2, p->c[1][0], 64);
    _tile_stored(3, p->c[1][1], 64);
}

/* c = 32 outputs x 16 rows */
AVX512_INLINE void multiply_2x1(const tile *a0, const tile *a1, const tile *b, uint32_t steps, panel *p) {
    _tile_zero(0);
    _tile_zero(2);
    for (uint32_t s = 0; s < steps; s++) {
        _tile_loadd(4, a0[s], 64);
        _tile_loadd(6, b[s], 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a1[s], 64);
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

/* out (up to 32 rows, up to 32 outputs) = or += the panel's outputs from o on . rows from r on */
static void multiply_block(panel *p, uint32_t o, uint32_t n_out, const tile *b, size_t tile_stride, uint32_t rows, uint32_t steps,
                           bool add, float *out, size_t out_stride) {
    if (rows > 16) multiply_2x2(p->w[o / 16], p->w[o / 16 + 1], b, b + tile_stride, steps, p);
    else multiply_2x1(p->w[o / 16], p->w[o / 16 + 1], b, steps, p);
    for (uint32_t i = 0; i < 2 && 16 * i < rows; i++) {
        for (uint32_t j = 0; j < 2 && o + 16 * j < n_out; j++) {
            store_tile((const float (*)[16])p->c[j][i], rows - 16 * i, avx512_mask(n_out - o - 16 * j), add,
                       out + 16 * i * out_stride + o + 16 * j, out_stride);
        }
    }
}

/* Up to PANEL_OUTPUTS outputs of all rows. */
AVX512_INLINE void panel_outputs(const quant *t, const uint8_t *w, size_t row_bytes, const tile *tiles, uint32_t n_rows, uint32_t k,
                                 uint32_t n_out, panel *p, float *out, size_t out_stride) {
    const size_t tile_stride = k / STEP;
    for (uint32_t k0 = 0; k0 < k; k0 += PANEL_K) {
        const uint32_t count = k - k0 < PANEL_K ? k - k0 : PANEL_K;
        const uint8_t *from = w + k0 / (GROUP * t->sub) * t->group_bytes;
        for (uint32_t o = 0; o < n_out; o += 16) unpack_outputs(t, from + o * row_bytes, row_bytes, n_out - o, count / t->sub, p->w[o / 16]);
        for (uint32_t r = 0; r < n_rows; r += 32) {
            const tile *b = tiles + r / 16 * tile_stride + k0 / STEP;
            for (uint32_t o = 0; o < n_out; o += 32) {
                multiply_block(p, o, n_out, b, tile_stride, n_rows - r < 32 ? n_rows - r : 32, count / STEP, k0 > 0,
                               out + r * out_stride, out_stride);
            }
        }
    }
}

AVX512_INLINE void matmul(const quant *t, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k,
                          uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    panel p;
    configure_tiles();
    for (uint32_t o = out0; o < out1; o += PANEL_OUTPUTS) {
        panel_outputs(t, w + o * row_bytes, row_bytes, prepared, n_rows, k, out1 - o < PANEL_OUTPUTS ? out1 - o : PANEL_OUTPUTS, &p,
                      out + o, out_stride);
    }
    _tile_release(); /* the system need not save tiles when it switches threads */
}

/* ---- the table ---- */

#define DEFINE_MATMUL(suffix) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        if (n_rows < CPU_FEW_MIN) cpu_matmul_##suffix##_avx512(w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
        else if (n_rows <= CPU_FEW_MAX) cpu_matmul_few_##suffix##_amx(w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
        else matmul(&quant_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(q8_0)
DEFINE_MATMUL(q4_0)
DEFINE_MATMUL(q4_k)
DEFINE_MATMUL(q5_k)
DEFINE_MATMUL(q6_k)

void cpu_fill_amx(cpu_ops *ops) {
    ops->name = "amx";
    ops->attention = cpu_attention_amx;
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){prepared_size, prepare, matmul_q8_0, 32};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){prepared_size, prepare, matmul_q4_0, 32};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){prepared_size, prepare, matmul_q4_k, 32};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){prepared_size, prepare, matmul_q5_k, 32};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){prepared_size, prepare, matmul_q6_k, 32};
}
