/* matmul_few_amx.c: quantized weights times 3 to 16 rows of int8 activations with AMX tiles: sequences that decode together.
 *
 * Every weight is used once for all rows, so unpacking has to be cheap: bytes stay integers. A tile product is C (16 outputs, 16 rows)
 * i32 = A (16, sub) bytes @ B (sub, 16) bytes over one sub-block, and what leaves the tile is scaled and summed as floats. Q8_0
 * weights go from the file into tiles as they are. Activations are rounded as in int8_rows.h, but lie as B tiles want them. */
#include "amx.h"
#include "avx512_quants.h"

#define BLOCK 32 /* activations that share a scale */

/* Prepared activations of up to 16 rows, by block of 32; rows that do not exist are zeros. */
typedef struct few_block {
    _Alignas(64) int8_t q[BLOCK / 4][16][4]; /* [k / 4][row][k % 4] */
    float d[16];                             /* scale, by row */
    float d_sum[16];                         /* d * sum of q */
} few_block;

typedef struct strip { /* a group of weights of 16 outputs */
    _Alignas(64) uint8_t w[16][GROUP * 32];
    _Alignas(64) float scale[16][GROUP], min[16][GROUP]; /* [output][sub-block] */
    _Alignas(64) int32_t c[4][16][16];                   /* products of four sub-blocks: [output][row] */
} strip;

/* ---- preparing activations ---- */

size_t cpu_few_prepared_size(uint32_t k) { return k / BLOCK * sizeof(few_block); }

static void prepare_block(const float *x, uint32_t row, few_block *to) {
    int32_t sums[2];
    __m128i bytes[2];
    to->d[row] = avx512_int8_block(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16), bytes, sums);
    to->d_sum[row] = to->d[row] * (float)(sums[0] + sums[1]);
    for (int i = 0; i < BLOCK / 4; i++) memcpy(to->q[i][row], (const uint8_t *)bytes + 4 * i, 4);
}

void cpu_few_prepare(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared) {
    few_block *blocks = prepared;
    const uint32_t end = row1 == n_rows ? 16 : row1; /* who has the last row clears what follows it */
    for (uint32_t b = 0; b < k / BLOCK; b++) {
        for (uint32_t r = row0; r < row1; r++) prepare_block(x + r * x_stride + (size_t)b * BLOCK, r, &blocks[b]);
        for (uint32_t r = row1; r < end; r++) {
            for (int i = 0; i < BLOCK / 4; i++) memset(blocks[b].q[i][r], 0, 4);
            blocks[b].d[r] = blocks[b].d_sum[r] = 0.0f;
        }
    }
}

/* ---- weights ---- */

/* A group of one output: its bytes (signed, or unsigned where there is a min) and scales. */
AVX512_INLINE void unpack_row(const quant *t, bool direct, const uint8_t *group, uint32_t count, uint32_t row, strip *p) {
    __m512 scale, min;
    t->scales(group, count, &scale, &min);
    _mm512_store_ps(p->scale[row], scale);
    if (t->has_min) _mm512_store_ps(p->min[row], min);
    if (direct) return;
    const __m512i offset = _mm512_set1_epi8((char)t->offset);
    const uint32_t weights = count * t->sub;
    for (uint32_t i = 0; 64 * i < weights; i++) {
        const __m512i v = t->load64(group, i, 64 * i + 64 > weights);
        _mm512_store_si512(p->w[row] + 64 * i, t->has_min ? v : _mm512_sub_epi8(v, offset));
    }
}

AVX512_INLINE void unpack_rows(const quant *t, bool direct, const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t count, strip *p) {
    for (uint32_t o = 0; o < 16; o++) { /* outputs past the last repeat it: they are computed and not stored */
        const uint8_t *group = w + (o < n_out ? o : n_out - 1) * row_bytes;
        unpack_row(t, direct, group, count, o, p);
    }
}

/* ---- products ---- */

static void configure_tiles(uint32_t sub) {
    amx_config config = {.palette = 1};
    for (int i = 0; i < 4; i++) amx_shape(&config, i, 16, 64);                       /* C */
    for (int i = 4; i < 6; i++) amx_shape(&config, i, 16, (uint16_t)sub);            /* A */
    for (int i = 6; i < 8; i++) amx_shape(&config, i, (uint8_t)(sub / 4), 64);       /* B */
    amx_configure(&config);
}

/* C (16 outputs, 16 rows) = A (16, sub) @ B (sub, 16); tile numbers are constants of the instructions. */
#define MULTIPLY(tc, ta, tb, a, stride, b, has_min) \
    do { \
        _tile_zero(tc); \
        _tile_loadd(ta, a, stride); \
        _tile_loadd(tb, b, 64); \
        if (has_min) _tile_dpbusd(tc, ta, tb); \
        else _tile_dpbssd(tc, ta, tb); \
    } while (0)

/* sums[output] (by row) += sub-block s: its products times both scales, less the mins. */
AVX512_INLINE void add_products(const quant *t, const strip *p, const few_block *x, uint32_t s, __m512 sums[16]) {
    const int32_t(*c)[16] = p->c[s % 4];
    x += s * t->sub / BLOCK;
    const __m512 d = _mm512_load_ps(x->d), d_sum = _mm512_load_ps(x->d_sum);
    CPU_UNROLL for (int o = 0; o < 16; o++) {
        const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(p->scale[o][s]));
        sums[o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(c[o])), scale, sums[o]);
        if (t->has_min) sums[o] = _mm512_fnmadd_ps(d_sum, _mm512_set1_ps(p->min[o][s]), sums[o]);
    }
}

/* Asks for the group that the next 16 outputs have here, a part of its rows at a time: all at once would be more than the processor
 * can wait for. */
AVX512_INLINE void prefetch_rows(const quant *t, const uint8_t *w, size_t row_bytes, uint32_t first, uint32_t end) {
    for (uint32_t o = first; o < end; o++) {
        for (uint32_t i = 0; i < t->group_bytes; i += 64) _mm_prefetch((const char *)w + (16 + o) * row_bytes + i, _MM_HINT_T1);
    }
}

/* Where a sub-block's weights and activations begin. */
AVX512_INLINE const uint8_t *weights_of(const quant *t, bool direct, const uint8_t *w, const strip *p, uint32_t s) {
    return direct ? (const uint8_t *)((const block_q8_0 *)w + s)->qs : p->w[0] + s * t->sub;
}

AVX512_INLINE const void *rows_of(const quant *t, const few_block *x, uint32_t s) {
    return x[s * t->sub / BLOCK].q[s * t->sub % BLOCK / 4];
}

#define MULTIPLY_AT(s, tc, ta, tb) MULTIPLY(tc, ta, tb, weights_of(t, direct, w, p, s), stride, rows_of(t, x, s), t->has_min)
#define MULTIPLY_FOUR(s) \
    do { \
        MULTIPLY_AT(s, 0, 4, 6); \
        MULTIPLY_AT((s) + 1, 1, 5, 7); \
        MULTIPLY_AT((s) + 2, 2, 4, 6); \
        MULTIPLY_AT((s) + 3, 3, 5, 7); \
    } while (0)

/* sums += a whole group. The tile unit multiplies four sub-blocks while the four before are summed; its results are stored where
 * those were. */
AVX512_INLINE void multiply_group(const quant *t, bool direct, const uint8_t *w, size_t row_bytes, strip *p, const few_block *x,
                                  __m512 totals[16]) {
    const size_t stride = direct ? row_bytes : sizeof p->w[0];
    __m512 sums[16]; /* in registers */
    CPU_UNROLL for (int o = 0; o < 16; o++) sums[o] = totals[o];
    MULTIPLY_FOUR(0);
    _tile_stored(0, p->c[0], 64);
    _tile_stored(1, p->c[1], 64);
    _tile_stored(2, p->c[2], 64);
    _tile_stored(3, p->c[3], 64);
    CPU_ROLLED for (uint32_t s = 0; s < GROUP - 4; s += 4) {
        prefetch_rows(t, w, row_bytes, s, s + 4);
        MULTIPLY_FOUR(s + 4);
        add_products(t, p, x, s, sums);
        _tile_stored(0, p->c[0], 64);
        add_products(t, p, x, s + 1, sums);
        _tile_stored(1, p->c[1], 64);
        add_products(t, p, x, s + 2, sums);
        _tile_stored(2, p->c[2], 64);
        add_products(t, p, x, s + 3, sums);
        _tile_stored(3, p->c[3], 64);
    }
    prefetch_rows(t, w, row_bytes, GROUP - 4, GROUP);
    CPU_UNROLL for (uint32_t s = GROUP - 4; s < GROUP; s++) add_products(t, p, x, s, sums);
    CPU_UNROLL for (int o = 0; o < 16; o++) totals[o] = sums[o];
}

/* The same of fewer sub-blocks than a group has. */
AVX512_INLINE void multiply_rest(const quant *t, bool direct, const uint8_t *w, size_t row_bytes, strip *p, uint32_t count,
                                 const few_block *x, __m512 sums[16]) {
    const size_t stride = direct ? row_bytes : sizeof p->w[0];
    for (uint32_t s = 0; s < count; s++) {
        MULTIPLY_AT(s, 0, 4, 6);
        _tile_stored(0, p->c[s % 4], 64);
        add_products(t, p, x, s, sums);
    }
}

/* Up to 16 outputs of all rows. */
AVX512_INLINE void strip_outputs(const quant *t, bool direct, const uint8_t *w, size_t row_bytes, const few_block *x, uint32_t n_rows,
                                 uint32_t k, uint32_t n_out, strip *p, float *out, size_t out_stride) {
    __m512 sums[16];
    CPU_UNROLL for (int o = 0; o < 16; o++) sums[o] = _mm512_setzero_ps();
    const uint32_t subs = k / t->sub;
    for (uint32_t s = 0; s < subs; s += GROUP, w += t->group_bytes, x += GROUP * t->sub / BLOCK) {
        const uint32_t count = subs - s < GROUP ? subs - s : GROUP;
        unpack_rows(t, direct, w, row_bytes, n_out, count, p);
        if (count == GROUP) multiply_group(t, direct, w, row_bytes, p, x, sums);
        else multiply_rest(t, direct, w, row_bytes, p, count, x, sums);
    }
    avx512_transpose((__m512i *)sums);
    for (uint32_t r = 0; r < n_rows; r++) _mm512_mask_storeu_ps(out + r * out_stride, avx512_mask(n_out), sums[r]);
}

AVX512_INLINE void matmul(const quant *t, bool is_q8_0, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t n_rows,
                          uint32_t k, uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    strip p;
    configure_tiles(t->sub);
    for (uint32_t o = out0; o < out1; o += 16) {
        const uint32_t n_out = out1 - o < 16 ? out1 - o : 16;
        const bool direct = is_q8_0 && n_out == 16; /* a tile load reads 16 outputs */
        if (direct) strip_outputs(t, true, w + o * row_bytes, row_bytes, prepared, n_rows, k, n_out, &p, out + o, out_stride);
        else strip_outputs(t, false, w + o * row_bytes, row_bytes, prepared, n_rows, k, n_out, &p, out + o, out_stride);
    }
    _tile_release();
}

/* ---- the functions by type ---- */

#define DEFINE_MATMUL(suffix, is_q8_0) \
    void cpu_matmul_few_##suffix##_amx(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                       uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(&quant_##suffix, is_q8_0, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(q8_0, true)
DEFINE_MATMUL(q4_0, false)
DEFINE_MATMUL(q4_k, false)
DEFINE_MATMUL(q5_k, false)
DEFINE_MATMUL(q6_k, false)
