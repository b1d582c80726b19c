/* matmul_avx512.c: quantized weights times int8 activations (int8_rows.h) with VNNI's u8 x s8 dot products.
 *
 * Two loops serve all types of avx512_quants.h:
 *   few rows   (decode) one or a few outputs at a time, straight from the file's layout, every row using the weights just unpacked;
 *   many rows  (prefill) 32 outputs x 512 weights are unpacked once into panels in which a vector holds 4 consecutive
 *              weights of 16 outputs, and every tile of 6 rows multiplies them with broadcast activations. */
#include "avx512_quants.h"
#include "int8_rows.h"

#define DECODE_ROWS 8     /* up to this many rows go through the decode loop; from there on panels win */
#define PANEL_K 512       /* weights of an output that are unpacked at a time */
#define PANEL_BYTES ((size_t)PANEL_K * 16)
#define PANELS_OUTPUTS 256 /* outputs that take the same activations, and whose sums stay in the cache, before the next weights */
#define TILE_ROWS 6       /* 2 x 6 integer and 2 x 6 float sums fill the registers */
#define PREFETCH_BYTES 1536 /* how far ahead of use weights are asked for; the best of 0.5-8 KB for reading from memory */

/* ---- preparing activations ---- */

/* For panels: 32 activations of each row of a tile, in the order of their use. An integer of less than 2^22 added to the bits of
 * BIAS is added to the number: a sum of products that starts there needs no conversion, and (BIAS + dot) * d - BIAS * d is dot * d,
 * rounded once, as long as d has so few bits that BIAS * d is exact. */
#define BIAS 12582912.0f /* 1.5 * 2^23 */

typedef struct row_block {
    int32_t q[8][TILE_ROWS]; /* four bytes each */
    float d[TILE_ROWS], d_bias[TILE_ROWS], d_sum[TILE_ROWS];
    int32_t start32[TILE_ROWS], start16[2][TILE_ROWS]; /* BIAS and what takes the weights' offset back, for all 32 and by halves */
} row_block;

static const row_block *row_block_at(const void *prepared, uint32_t k, size_t row) {
    return (const row_block *)prepared + row / TILE_ROWS * (k / 32);
}

/* Without the two lowest bits. */
static float cut_scale(float d) {
    uint32_t bits;
    memcpy(&bits, &d, sizeof bits);
    bits &= ~3u;
    memcpy(&d, &bits, sizeof d);
    return d;
}

static void prepare_block(const float *x, const int8_row *row, size_t b) {
    int32_t sums[2];
    __m128i bytes[2];
    const float d = avx512_int8_block(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16), bytes, sums);
    _mm_store_si128((__m128i *)(row->q + 32 * b), bytes[0]);
    _mm_store_si128((__m128i *)(row->q + 32 * b + 16), bytes[1]);
    row->d[b] = d;
    row->d_sum[b] = d * (float)(sums[0] + sums[1]);
    row->sum32[b] = -INT8_OFFSET * (sums[0] + sums[1]);
    row->sum16[2 * b] = -INT8_OFFSET * sums[0];
    row->sum16[2 * b + 1] = -INT8_OFFSET * sums[1];
}

static void prepare_row(const float *x, uint32_t k, int8_row row) {
    size_t blocks = k / 32, padded = int8_blocks(k);
    for (size_t b = 0; b < blocks; b++) prepare_block(x + 32 * b, &row, b);
    memset(row.q + k, 0, int8_q_bytes(k) - k);
    for (size_t b = blocks; b < padded; b++) {
        row.d[b] = row.d_sum[b] = 0;
        row.sum32[b] = row.sum16[2 * b] = row.sum16[2 * b + 1] = 0;
    }
}

/* The same numbers for row r of a tile. */
static void prepare_tile_block(const float *x, row_block *to, uint32_t r) {
    int32_t sums[2], bias;
    __m128i bytes[2];
    memcpy(&bias, &(float){BIAS}, sizeof bias);
    const float d = cut_scale(avx512_int8_block(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16), bytes, sums));
    for (int i = 0; i < 8; i++) memcpy(&to->q[i][r], (const int8_t *)bytes + 4 * i, 4);
    to->d[r] = d;
    to->d_bias[r] = d * BIAS;
    to->d_sum[r] = d * (float)(sums[0] + sums[1]);
    to->start32[r] = bias - INT8_OFFSET * (sums[0] + sums[1]);
    for (int h = 0; h < 2; h++) to->start16[h][r] = bias - INT8_OFFSET * sums[h];
}

void cpu_prepare_int8_avx512(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0,
                             uint32_t row1, void *prepared) {
    for (uint32_t r = row0; r < row1; r++) {
        const float *row = x + r * x_stride;
        if (n_rows <= DECODE_ROWS) {
            prepare_row(row, k, int8_row_at(prepared, k, r));
            continue;
        }
        row_block *to = (row_block *)prepared + r / TILE_ROWS * (size_t)(k / 32);
        for (size_t b = 0; b < k / 32; b++) prepare_tile_block(row + 32 * b, &to[b], r % TILE_ROWS);
    }
}

static size_t prepared_size(uint32_t n_rows, uint32_t k) {
    const size_t few = int8_prepared_size(n_rows < DECODE_ROWS ? n_rows : DECODE_ROWS, k);
    const size_t tiles = ((size_t)n_rows + TILE_ROWS - 1) / TILE_ROWS * (k / 32) * sizeof(row_block);
    return few > tiles ? few : tiles;
}

/* ---- few rows ---- */

/* Scales of the activations of a group's 16 sub-blocks. */
AVX512_INLINE __m512 row_scales(const quant *t, const int8_row *x, size_t group) {
    if (t->sub == 32) return _mm512_loadu_ps(x->d + GROUP * group);
    __m512i twice = _mm512_srli_epi32(avx512_iota(), 1);
    return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(x->d + GROUP / 2 * group)));
}

/* What weight offsets or mins take from the result, for a whole group. */
AVX512_INLINE __m512 add_offsets(const quant *t, const int8_row *x, size_t group, __m512 scale, __m512 min, __m512 acc) {
    if (t->has_min) return _mm512_fnmadd_ps(min, _mm512_loadu_ps(x->d_sum + GROUP * group), acc);
    const int32_t *sums = (t->sub == 32 ? x->sum32 : x->sum16) + GROUP * group;
    __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(sums)), _mm512_set1_ps((float)t->offset / INT8_OFFSET));
    return _mm512_fmadd_ps(scale, sum, acc);
}

/* What a decode loop takes on at a time: `outputs` whose weights begin `distance` bytes apart, `rows` of activations. Several outputs
 * far from each other keep several pages of the file under way: memory answers a quarter faster than to a single stream. Eight are
 * better than four where there is a byte to a weight; where there is less, more is computed meanwhile. */
typedef struct decode_shape {
    uint32_t outputs, rows;
    size_t distance;
} decode_shape;

#define DECODE_SUMS 8 /* outputs x rows */

/* Asks for a line of each 64 weights, and with the last of a group for what is left of it: requests that come all at once wait for each
 * other and hold up the loads behind them. */
AVX512_INLINE void prefetch_piece(const quant *t, const uint8_t *w, uint32_t piece) {
    const uint32_t end = piece + 1 < GROUP * t->sub / 64 ? 64 * piece + 64 : t->group_bytes;
    for (uint32_t i = 64 * piece; i < end && i < t->group_bytes; i += 64) _mm_prefetch((const char *)w + PREFETCH_BYTES + i, _MM_HINT_T0);
}

/* Few sums are split in two, or every addition would wait for the one before. */
#define SUM_OF(piece, shape) ((shape).outputs * (shape).rows <= 2 ? (piece) & 1 : 0)

/* acc[o * rows + m] += 64 weights of output o . x[m]; x_at is where they stand in the row, scales those of the piece's group. */
AVX512_INLINE void decode_piece(const quant *t, decode_shape shape, const uint8_t *w, uint32_t piece, bool half, size_t x_at,
                                const int8_row *x, const __m512 *scales, __m512 acc[][2]) {
    const __m512i lane = _mm512_srli_epi32(avx512_iota(), t->sub == 32 ? 3 : 2); /* 4 weights a lane */
    const __m512i pick = _mm512_add_epi32(lane, _mm512_set1_epi32((int)(piece * 64 / t->sub)));
    CPU_UNROLL for (uint32_t o = 0; o < shape.outputs; o++) {
        prefetch_piece(t, w + o * shape.distance, piece);
        const __m512i v = t->load64(w + o * shape.distance, piece, half);
        CPU_UNROLL for (uint32_t m = 0; m < shape.rows; m++) {
            const uint32_t i = o * shape.rows + m;
            __m512i q = _mm512_loadu_si512(x[m].q + x_at);
            __m512 dot = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), v, q));
            __m512 *sum = &acc[i][SUM_OF(piece, shape)];
            *sum = _mm512_fmadd_ps(dot, _mm512_permutexvar_ps(pick, scales[i]), *sum);
        }
    }
}

/* acc += the group's part of the products; `full`: count is GROUP. */
AVX512_INLINE void decode_group(const quant *t, decode_shape shape, const uint8_t *w, bool full, uint32_t count, size_t group,
                                const int8_row *x, __m512 acc[][2]) {
    __m512 scales[DECODE_SUMS];
    CPU_UNROLL for (uint32_t o = 0; o < shape.outputs; o++) {
        __m512 scale, min;
        t->scales(w + o * shape.distance, count, &scale, &min);
        CPU_UNROLL for (uint32_t m = 0; m < shape.rows; m++) {
            const uint32_t i = o * shape.rows + m;
            scales[i] = _mm512_mul_ps(scale, row_scales(t, &x[m], group));
            acc[i][0] = add_offsets(t, &x[m], group, scales[i], min, acc[i][0]);
        }
    }
    const size_t x_at = group * GROUP * t->sub;
    if (full) {
        CPU_UNROLL for (uint32_t p = 0; p < GROUP * t->sub / 64; p++) decode_piece(t, shape, w, p, false, x_at + 64 * p, x, scales, acc);
        return;
    }
    const uint32_t weights = count * t->sub;
    for (uint32_t p = 0; 64 * p < weights; p++) decode_piece(t, shape, w, p, 64 * p + 64 > weights, x_at + 64 * p, x, scales, acc);
}

/* out[m * out_stride + o * out_step] for the shape's outputs and rows. */
AVX512_INLINE void decode_outputs(const quant *t, decode_shape shape, const uint8_t *w, uint32_t k, const int8_row *x, float *out,
                                  size_t out_step, size_t out_stride) {
    const uint32_t sums = shape.outputs * shape.rows, subs = k / t->sub;
    __m512 acc[DECODE_SUMS][2];
    CPU_UNROLL for (uint32_t i = 0; i < sums; i++) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
    size_t group = 0;
    for (; (group + 1) * GROUP <= subs; group++, w += t->group_bytes) decode_group(t, shape, w, true, GROUP, group, x, acc);
    if (subs % GROUP) decode_group(t, shape, w, false, subs % GROUP, group, x, acc);
    CPU_UNROLL for (uint32_t i = 0; i < sums; i++)
        out[i % shape.rows * out_stride + i / shape.rows * out_step] = _mm512_reduce_add_ps(_mm512_add_ps(acc[i][0], acc[i][1]));
}

/* `together` outputs at a time, from as many parts of the range. */
AVX512_INLINE void decode_rows(const quant *t, uint32_t together, uint32_t rows, const uint8_t *w, size_t row_bytes, const void *prepared,
                               uint32_t k, uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    int8_row x[DECODE_ROWS];
    for (uint32_t m = 0; m < rows; m++) x[m] = int8_row_at(prepared, k, m);
    const size_t part = (out1 - out0) / together;
    const decode_shape many = {together, rows, part * row_bytes}, one = {1, rows, 0};
    for (size_t o = out0; o < out0 + part; o++) decode_outputs(t, many, w + o * row_bytes, k, x, out + o, part, out_stride);
    for (size_t o = out0 + part * together; o < out1; o++) decode_outputs(t, one, w + o * row_bytes, k, x, out + o, 0, out_stride);
}

/* ---- many rows ---- */

typedef struct panels { /* two panels of 16 outputs x PANEL_K weights */
    _Alignas(64) uint8_t w[2][PANEL_BYTES];          /* [panel][weight / 4][output][weight % 4] */
    _Alignas(64) float scale[2][PANEL_K / 16][16];   /* [panel][sub-block][output] */
    _Alignas(64) float min[2][PANEL_K / 16][16];
    __mmask16 outputs[2];                            /* which of the 16 exist */
} panels;

/* Where a panel's weights come from: outputs [0, n), rows row_bytes apart; `subs` sub-blocks from w on. */
typedef struct panel_source {
    const uint8_t *w;
    size_t row_bytes;
    uint32_t n, subs;
} panel_source;

/* Group g of row r. Rows past the last repeat it: they are computed and not stored. */
AVX512_INLINE const uint8_t *panel_group(const quant *t, const panel_source *from, uint32_t r, uint32_t g) {
    return from->w + (r < from->n ? r : from->n - 1) * from->row_bytes + (size_t)g * t->group_bytes;
}

AVX512_INLINE void panel_scales(const quant *t, const panel_source *from, uint32_t g, uint32_t count, float scales[][16], float mins[][16]) {
    __m512 scale[16], min[16];
    for (uint32_t r = 0; r < 16; r++) t->scales(panel_group(t, from, r, g), count, &scale[r], &min[r]);
    avx512_transpose((__m512i *)scale);
    for (uint32_t i = 0; i < 16; i++) _mm512_store_ps(scales[i], scale[i]);
    if (!t->has_min) return;
    avx512_transpose((__m512i *)min);
    for (uint32_t i = 0; i < 16; i++) _mm512_store_ps(mins[i], min[i]);
}

AVX512_INLINE void panel_weights(const quant *t, const panel_source *from, uint32_t g, uint32_t weights, uint8_t *to) {
    const __m512i raise = _mm512_set1_epi8((char)(t->offset ? INT8_OFFSET - t->offset : 0));
    for (uint32_t p = 0; 64 * p < weights; p++, to += 64 * 16) {
        __m512i v[16];
        for (uint32_t r = 0; r < 16; r++)
            v[r] = _mm512_add_epi8(t->load64(panel_group(t, from, r, g), p, 64 * p + 64 > weights), raise);
        avx512_transpose(v);
        for (uint32_t i = 0; i < 16; i++) _mm512_store_si512(to + 64 * i, v[i]);
    }
}

AVX512_INLINE void panel_unpack(const quant *t, const panel_source *from, panels *out, int panel) {
    for (uint32_t g = 0; g * GROUP < from->subs; g++) {
        const uint32_t s = g * GROUP, count = from->subs - s < GROUP ? from->subs - s : GROUP;
        panel_scales(t, from, g, count, out->scale[panel] + s, out->min[panel] + s);
        panel_weights(t, from, g, count * t->sub, out->w[panel] + (size_t)s * t->sub * 16);
    }
}

/* dots[r][panel] = BIAS + half h of block b of 16 outputs . rows, as the bits of a float */
AVX512_INLINE void tile_dots(const quant *t, const panels *w, uint32_t b, uint32_t h, const row_block *x, uint32_t rows,
                             __m512i dots[][2]) {
    for (uint32_t r = 0; r < rows; r++)
        dots[r][0] = dots[r][1] = t->offset == 0 ? _mm512_castps_si512(_mm512_set1_ps(BIAS))
                                                 : _mm512_set1_epi32(t->sub == 32 ? x->start32[r] : x->start16[h][r]);
    CPU_UNROLL for (uint32_t g = 0; g < t->sub / 4; g++) {
        const size_t fours = h * t->sub / 4 + g, at = (8 * b + fours) * 64;
        const __m512i w0 = _mm512_load_si512(w->w[0] + at), w1 = _mm512_load_si512(w->w[1] + at);
        for (uint32_t r = 0; r < rows; r++) {
            const __m512i q = _mm512_set1_epi32(x->q[fours][r]);
            dots[r][0] = _mm512_dpbusd_epi32(dots[r][0], w0, q);
            dots[r][1] = _mm512_dpbusd_epi32(dots[r][1], w1, q);
        }
    }
}

/* Adds half h of block b (all of it, where a scale is of 32 weights) to the sums: integer dot products times both scales, less the mins. */
AVX512_INLINE void tile_sub_block(const quant *t, const panels *w, uint32_t b, uint32_t h, const row_block *x, uint32_t rows,
                                  __m512 sums[][2]) {
    __m512i dots[TILE_ROWS][2];
    tile_dots(t, w, b, h, x, rows, dots);
    const uint32_t s = b * (32 / t->sub) + h;
    for (uint32_t r = 0; r < rows; r++) {
        const __m512 d = _mm512_set1_ps(x->d[r]), d_bias = _mm512_set1_ps(x->d_bias[r]), d_sum = _mm512_set1_ps(x->d_sum[r]);
        for (int p = 0; p < 2; p++) {
            const __m512 dot = _mm512_fmsub_ps(_mm512_castsi512_ps(dots[r][p]), d, d_bias);
            sums[r][p] = _mm512_fmadd_ps(dot, _mm512_load_ps(w->scale[p][s]), sums[r][p]);
            if (t->has_min) sums[r][p] = _mm512_fnmadd_ps(_mm512_load_ps(w->min[p][s]), d_sum, sums[r][p]);
        }
    }
}

/* A tile's share of the activations, of panels and of out. */
typedef struct tile_place {
    const row_block *x;
    size_t next_x; /* where the next tile's activations begin, in blocks from x */
    float *out;
    size_t out_stride;
    bool add; /* to what is in out */
} tile_place;

/* out (rows, 32) = or += x (rows, 32 * blocks) @ panels. What is written at the end, and what the next tile reads, is asked for ahead. */
AVX512_INLINE void tile(const quant *t, const panels *w, uint32_t blocks, const tile_place *at, uint32_t rows) {
    __m512 sums[TILE_ROWS][2];
    for (uint32_t r = 0; r < rows; r++) {
        sums[r][0] = sums[r][1] = _mm512_setzero_ps();
        for (int p = 0; p < 2; p++) _mm_prefetch((const char *)(at->out + r * at->out_stride + 16 * p), _MM_HINT_T0);
    }
    for (uint32_t b = 0; b < blocks; b++) {
        const row_block *x = &at->x[b];
        CPU_UNROLL for (uint32_t i = 0; i < sizeof *x; i += 64) _mm_prefetch((const char *)(x + at->next_x) + i, _MM_HINT_T0);
        CPU_UNROLL for (uint32_t h = 0; h < 32 / t->sub; h++) tile_sub_block(t, w, b, h, x, rows, sums);
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (int p = 0; p < 2; p++) {
            float *to = at->out + r * at->out_stride + 16 * p;
            if (at->add) sums[r][p] = _mm512_add_ps(sums[r][p], _mm512_maskz_loadu_ps(w->outputs[p], to));
            _mm512_mask_storeu_ps(to, w->outputs[p], sums[r][p]);
        }
    }
}

AVX512_INLINE void tile_any(const quant *t, const panels *w, uint32_t blocks, const tile_place *at, uint32_t rows) {
    switch (rows) { /* constants, so that the sums live in registers */
    case 1: tile(t, w, blocks, at, 1); break;
    case 2: tile(t, w, blocks, at, 2); break;
    case 3: tile(t, w, blocks, at, 3); break;
    case 4: tile(t, w, blocks, at, 4); break;
    case 5: tile(t, w, blocks, at, 5); break;
    default: tile(t, w, blocks, at, TILE_ROWS); break;
    }
}

/* Up to 32 outputs, `subs` sub-blocks from w on. */
AVX512_INLINE void panels_unpack(const quant *t, const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t subs, panels *p) {
    const uint32_t n0 = n_out < 16 ? n_out : 16, n1 = n_out - n0;
    p->outputs[0] = avx512_mask(n0);
    p->outputs[1] = avx512_mask(n1);
    panel_unpack(t, &(panel_source){w, row_bytes, n0, subs}, p, 0);
    /* Without outputs of its own the second panel repeats the first output, computed and not stored. */
    panel_unpack(t, &(panel_source){n1 ? w + 16 * row_bytes : w, row_bytes, n1 ? n1 : 1, subs}, p, 1);
}

/* All rows times the panels: out (n_rows, 32). Between two tiles a row of the next panels' weights is asked for: `soon_bytes` of each. */
AVX512_INLINE void panels_multiply(const quant *t, const panels *p, uint32_t blocks, tile_place at, uint32_t n_rows, const uint8_t *soon,
                                   size_t row_bytes, size_t soon_bytes) {
    const size_t step = TILE_ROWS * at.out_stride;
    for (uint32_t r = 0, i = 0; r < n_rows; r += TILE_ROWS, i++, at.x += at.next_x, at.out += step) {
        for (size_t b = 0; i < 32 && b < soon_bytes; b += 64) _mm_prefetch((const char *)soon + i * row_bytes + b, _MM_HINT_T1);
        tile_any(t, p, blocks, &at, n_rows - r);
    }
}

/* Up to PANELS_OUTPUTS outputs of all rows, PANEL_K weights at a time. The panels stay in the nearest cache while all rows pass by. */
AVX512_INLINE void prefill_outputs(const quant *t, const uint8_t *w, size_t row_bytes, const row_block *x, uint32_t n_rows, uint32_t k,
                                   uint32_t n_out, float *out, size_t out_stride) {
    const size_t panel_bytes = PANEL_K / (GROUP * t->sub) * t->group_bytes;
    panels p;
    for (size_t k0 = 0; k0 < k; k0 += PANEL_K, w += panel_bytes) {
        const uint32_t weights = k - k0 < PANEL_K ? (uint32_t)(k - k0) : PANEL_K;
        for (uint32_t o = 0; o < n_out; o += 32) {
            const uint8_t *from = w + o * row_bytes, *soon = o + 32 < n_out ? from + 32 * row_bytes : w + panel_bytes;
            panels_unpack(t, from, row_bytes, n_out - o < 32 ? n_out - o : 32, weights / t->sub, &p);
            const tile_place at = {x + k0 / 32, k / 32, out + o, out_stride, k0 > 0};
            panels_multiply(t, &p, weights / 32, at, n_rows, soon, row_bytes, panel_bytes);
        }
    }
}

/* ---- the table ---- */

AVX512_INLINE void matmul(const quant *t, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k,
                          uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    switch (n_rows) {
    case 0: break;
    case 1: decode_rows(t, t->group_bytes > 512 ? 8 : 4, 1, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 2: decode_rows(t, 2, 2, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 3: decode_rows(t, 1, 3, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 4: decode_rows(t, 1, 4, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 5: decode_rows(t, 1, 5, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 6: decode_rows(t, 1, 6, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 7: decode_rows(t, 1, 7, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 8: decode_rows(t, 1, 8, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    default:
        for (uint32_t o = out0; o < out1; o += PANELS_OUTPUTS) {
            const uint32_t n_out = out1 - o < PANELS_OUTPUTS ? out1 - o : PANELS_OUTPUTS;
            prefill_outputs(t, w + o * row_bytes, row_bytes, row_block_at(prepared, k, 0), n_rows, k, n_out, out + o, out_stride);
        }
    }
}

#define DEFINE_MATMUL(suffix) \
    void cpu_matmul_##suffix##_avx512(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                      uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(&quant_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(q8_0)
DEFINE_MATMUL(q4_0)
DEFINE_MATMUL(q4_k)
DEFINE_MATMUL(q5_k)
DEFINE_MATMUL(q6_k)

void cpu_fill_matmul_avx512(cpu_ops *ops) {
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){prepared_size, cpu_prepare_int8_avx512, cpu_matmul_q8_0_avx512, 32};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){prepared_size, cpu_prepare_int8_avx512, cpu_matmul_q4_0_avx512, 32};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){prepared_size, cpu_prepare_int8_avx512, cpu_matmul_q4_k_avx512, 32};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){prepared_size, cpu_prepare_int8_avx512, cpu_matmul_q5_k_avx512, 32};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){prepared_size, cpu_prepare_int8_avx512, cpu_matmul_q6_k_avx512, 32};
}
