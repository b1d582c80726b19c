/* matmul_avx2.c: quantized weights times int8 activations (int8_rows.h) with u8 x s8 multiply-adds.
 *
 * Two loops serve all types of avx2_quants.h:
 *   few rows   (decode) one or a few outputs at a time, straight from the file's layout, every row using the weights just unpacked;
 *   many rows  (prefill) 16 outputs x 512 weights are unpacked once into panels in which a vector holds 4 consecutive weights
 *              of 8 outputs, and every tile of 4 rows multiplies them with broadcast activations.
 * matmul_avxvnni.c compiles this file once more with CPU_AVXVNNI, where one instruction adds four products to a 32-bit sum. */
#include "avx2_quants.h"
#include "int8_rows.h"

#define DECODE_ROWS 4       /* up to this many rows go through the decode loop; from there on panels win */
#define PREFETCH_BYTES 2048 /* how far ahead of use weights are asked for */
#define PANEL_K 512         /* weights of an output that are unpacked at a time */
#define TILE_ROWS 4         /* 2 x 4 sums of 16 bits and what they are made of fill the registers */

/* ---- preparing activations ---- */

AVX2_INLINE int sum_lanes(__m128i v) {
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
}

static void prepare_block(const float *x, const int8_row *row, size_t b) {
    __m256 v[4], most = _mm256_setzero_ps(), unordered = _mm256_setzero_ps();
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        most = _mm256_max_ps(most, avx2_abs(v[i]));
        unordered = _mm256_or_ps(unordered, _mm256_cmp_ps(v[i], v[i], _CMP_UNORD_Q));
    }
    float largest = avx2_max(most);
    bool is_zero = largest < 1e-30f; /* else 127 / largest could overflow */
    float inverse = is_zero ? 0.0f : 127.0f / largest, d = is_zero ? 0.0f : largest / 127.0f;
    if (_mm256_movemask_ps(unordered)) d = __builtin_nanf(""); /* a NaN goes on into the result */
    __m256i q[4];
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inverse)));
    __m256i words0 = _mm256_packs_epi32(q[0], q[1]), words1 = _mm256_packs_epi32(q[2], q[3]);
    __m256i bytes = _mm256_packs_epi16(words0, words1); /* dwords in the order 0 2 4 6 1 3 5 7 */
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0));
    _mm256_store_si256((__m256i *)(row->q + 32 * b), bytes);
    __m256i sums = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
    int sum0 = sum_lanes(_mm256_castsi256_si128(sums)), sum1 = sum_lanes(_mm256_extracti128_si256(sums, 1));
    row->d[b] = d;
    row->d_sum[b] = d * (float)(sum0 + sum1);
    row->sum32[b] = -INT8_OFFSET * (sum0 + sum1);
    row->sum16[2 * b] = -INT8_OFFSET * sum0;
    row->sum16[2 * b + 1] = -INT8_OFFSET * sum1;
}

static void prepare_int8(const float *x, const int8_row *row, uint32_t k) {
    size_t blocks = k / 32, padded = int8_blocks(k);
    for (size_t b = 0; b < blocks; b++) prepare_block(x + 32 * b, row, b);
    memset(row->q + k, 0, int8_q_bytes(k) - k);
    for (size_t b = blocks; b < padded; b++) {
        row->d[b] = row->d_sum[b] = 0;
        row->sum32[b] = row->sum16[2 * b] = row->sum16[2 * b + 1] = 0;
    }
}

static void prepare(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared) {
    (void)n_rows;
    for (size_t r = row0; r < row1; r++) {
        int8_row row = int8_row_at(prepared, k, r);
        prepare_int8(x + r * x_stride, &row, k);
    }
}

/* ---- products ---- */

#ifdef CPU_AVXVNNI

/* The weights' bytes are unsigned, or there would be no instruction for them: Q8_0 as weight + 128. */
AVX2_INLINE __m256i q8_0_load32_offset(const uint8_t *group, uint32_t piece) {
    return _mm256_xor_si256(q8_0_load32(group, piece), _mm256_set1_epi8((char)0x80));
}

static const quant quant_q8_0_offset = {32, 128, false, false, 8 * sizeof(block_q8_0), 1, q8_0_load32_offset, q8_0_scales};

/* Eight sums of four products each. */
AVX2_INLINE __m256i dot32(const quant *t, __m256i w, __m256i q) {
    (void)t;
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), w, q);
}

#else

/* Eight sums of four products each. The 16-bit sums in between cannot saturate: |w| <= 128, |q| <= 127, two products. */
AVX2_INLINE __m256i dot32(const quant *t, __m256i w, __m256i q) {
    __m256i words = t->is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)) : _mm256_maddubs_epi16(w, q);
    return _mm256_madd_epi16(words, _mm256_set1_epi16(1));
}

#endif

/* ---- few rows ---- */

/* Multiplies the group's scales with the activations' (into s) and returns what offsets or mins take from the result. */
AVX2_INLINE __m256 group_scales(const quant *t, const int8_row *x, size_t group, const __m256 scale[2], __m256 min, float s[16]) {
    const __m256 d = _mm256_loadu_ps(x->d + 8 * group);
    if (t->sub == 32) {
        const __m256 both = _mm256_mul_ps(scale[0], d);
        _mm256_store_ps(s, both);
        if (t->has_min) return _mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), min), _mm256_loadu_ps(x->d_sum + 8 * group));
        if (t->is_signed) return _mm256_setzero_ps();
        const __m256 sums = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(x->sum32 + 8 * group)));
        return _mm256_mul_ps(both, _mm256_mul_ps(sums, _mm256_set1_ps((float)t->offset / INT8_OFFSET)));
    }
    __m256 taken = _mm256_setzero_ps();
    for (int h = 0; h < 2; h++) { /* eight sub-blocks of 16: four activation scales, each twice */
        const __m256i twice = _mm256_add_epi32(_mm256_set_epi32(3, 3, 2, 2, 1, 1, 0, 0), _mm256_set1_epi32(4 * h));
        const __m256 both = _mm256_mul_ps(scale[h], _mm256_permutevar8x32_ps(d, twice));
        _mm256_store_ps(s + 8 * h, both);
        const __m256 sums = _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i *)(x->sum16 + 16 * group + 8 * h)));
        taken = _mm256_fmadd_ps(both, _mm256_mul_ps(sums, _mm256_set1_ps((float)t->offset / INT8_OFFSET)), taken);
    }
    return taken;
}

/* What a decode loop takes on at a time: `outputs` whose weights begin `distance` bytes apart, `rows` of activations. Several outputs
 * far from each other keep several pages of the file under way: memory answers much faster than to a single stream. */
typedef struct decode_shape {
    uint32_t outputs, rows;
    size_t distance;
} decode_shape;

#define DECODE_SUMS 4 /* outputs x rows */

/* Few sums are split in two, or every addition would wait for the one before. */
#define SUM_OF(piece, shape) ((shape).outputs * (shape).rows <= 2 ? (piece) & 1 : 0)

/* acc[o * rows + m] += 32 weights of output o . x[m] */
AVX2_INLINE void decode_piece(const quant *t, decode_shape shape, const uint8_t *w, uint32_t p, size_t group, const int8_row *x,
                              const float s[][16], __m256 acc[][2]) {
    CPU_UNROLL for (uint32_t o = 0; o < shape.outputs; o++) {
        const __m256i v = t->load32(w + o * shape.distance, p);
        CPU_UNROLL for (uint32_t m = 0; m < shape.rows; m++) {
            const uint32_t i = o * shape.rows + m;
            __m256i q = _mm256_loadu_si256((const __m256i *)(x[m].q + GROUP_K * group + 32 * p));
            __m256 by = t->sub == 32 ? _mm256_broadcast_ss(&s[i][p])
                                     : _mm256_set_m128(_mm_broadcast_ss(&s[i][2 * p + 1]), _mm_broadcast_ss(&s[i][2 * p]));
            __m256 *sum = &acc[i][SUM_OF(p, shape)];
            *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot32(t, v, q)), by, *sum);
        }
    }
}

/* acc += the group's part of the products; `full`: all GROUP_K weights exist. */
AVX2_INLINE void decode_group(const quant *t, decode_shape shape, const uint8_t *w, bool full, uint32_t count, size_t group,
                              const int8_row *x, __m256 acc[][2]) {
    _Alignas(32) float s[DECODE_SUMS][16];
    CPU_UNROLL for (uint32_t o = 0; o < shape.outputs; o++) {
        __m256 scale[2], min;
        t->scales(w + o * shape.distance, count, scale, &min);
        CPU_UNROLL for (uint32_t m = 0; m < shape.rows; m++) {
            const uint32_t i = o * shape.rows + m;
            acc[i][0] = _mm256_add_ps(acc[i][0], group_scales(t, &x[m], group, scale, min, s[i]));
        }
    }
    if (full) {
        CPU_UNROLL for (uint32_t p = 0; p < GROUP_K / 32; p++) decode_piece(t, shape, w, p, group, x, s, acc);
        return;
    }
    for (uint32_t p = 0; p < count * t->sub / 32; p++) decode_piece(t, shape, w, p, group, x, s, acc);
}

/* out[m * out_stride + o * out_step] for the shape's outputs and rows. */
AVX2_INLINE void decode_outputs(const quant *t, decode_shape shape, const uint8_t *w, uint32_t k, const int8_row *x, float *out,
                                size_t out_step, size_t out_stride) {
    const uint32_t sums = shape.outputs * shape.rows;
    __m256 acc[DECODE_SUMS][2];
    CPU_UNROLL for (uint32_t i = 0; i < sums; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    size_t group = 0;
    for (; (group + 1) * GROUP_K <= k; group++, w += t->group_bytes) {
        CPU_UNROLL for (uint32_t o = 0; o < shape.outputs; o++) {
            const char *ahead = (const char *)w + o * shape.distance + PREFETCH_BYTES;
            for (uint32_t i = 0; i < t->group_bytes; i += 64) _mm_prefetch(ahead + i, _MM_HINT_T0);
        }
        decode_group(t, shape, w, true, GROUP_K / t->sub, group, x, acc);
    }
    if (k % GROUP_K) decode_group(t, shape, w, false, k % GROUP_K / t->sub, group, x, acc);
    CPU_UNROLL for (uint32_t i = 0; i < sums; i++)
        out[i % shape.rows * out_stride + i / shape.rows * out_step] = avx2_sum(_mm256_add_ps(acc[i][0], acc[i][1]));
}

/* `together` outputs at a time, from as many parts of the range. */
AVX2_INLINE void decode_rows(const quant *t, uint32_t together, uint32_t rows, const uint8_t *w, size_t row_bytes, const void *prepared,
                             uint32_t k, uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    int8_row x[DECODE_ROWS];
    for (uint32_t m = 0; m < rows; m++) x[m] = int8_row_at(prepared, k, m);
    const size_t part = (out1 - out0) / together;
    const decode_shape many = {together, rows, part * row_bytes}, one = {1, rows, 0};
    for (size_t o = out0; o < out0 + part; o++) decode_outputs(t, many, w + o * row_bytes, k, x, out + o, part, out_stride);
    for (size_t o = out0 + part * together; o < out1; o++) decode_outputs(t, one, w + o * row_bytes, k, x, out + o, 0, out_stride);
}

/* ---- many rows ---- */

typedef struct panels { /* two panels of 8 outputs x PANEL_K weights */
    _Alignas(32) uint8_t w[2][PANEL_K * 8];        /* [panel][weight / 4][output][weight % 4] */
    _Alignas(32) float scale[2][PANEL_K / 16][8];  /* [panel][sub-block][output] */
    _Alignas(32) float min[2][PANEL_K / 16][8];    /* what is taken from a weight: its type's min, or scale * offset */
    uint32_t outputs[2];                           /* how many of the 8 exist */
} panels;

/* Eight outputs at w, rows row_bytes apart. Rows past the last repeat it: they are computed and not stored. */
typedef struct panel_source {
    const uint8_t *w;
    size_t row_bytes;
    uint32_t n;
} panel_source;

AVX2_INLINE const uint8_t *panel_row(const panel_source *from, uint32_t o) {
    return from->w + (o < from->n ? o : from->n - 1) * from->row_bytes;
}

/* Scales and mins of the first `count` sub-blocks of a group, output by output, to sub-block by sub-block. */
AVX2_INLINE void panel_scales(const quant *t, const panel_source *from, uint32_t count, float (*scales)[8], float (*mins)[8]) {
    __m256 scale[2][8], min[8];
    for (uint32_t o = 0; o < 8; o++) {
        __m256 both[2];
        t->scales(panel_row(from, o), count, both, &min[o]);
        scale[0][o] = both[0];
        scale[1][o] = both[1];
    }
    const __m256 offset = _mm256_set1_ps((float)t->offset);
    for (uint32_t half = 0; 8 * half < count; half++) {
        avx2_transpose(scale[half]);
        for (uint32_t i = 0; i < 8; i++) {
            _mm256_store_ps(scales[8 * half + i], scale[half][i]);
            if (!t->has_min) _mm256_store_ps(mins[8 * half + i], _mm256_mul_ps(scale[half][i], offset));
        }
    }
    if (!t->has_min) return;
    avx2_transpose(min);
    for (uint32_t i = 0; i < 8; i++) _mm256_store_ps(mins[i], min[i]);
}

AVX2_INLINE void panel_weights(const quant *t, const panel_source *from, uint32_t pieces, uint8_t *to) {
    for (uint32_t p = 0; p < pieces; p++, to += 32 * 8) {
        __m256 v[8];
        for (uint32_t o = 0; o < 8; o++) v[o] = _mm256_castsi256_ps(t->load32(panel_row(from, o), p));
        avx2_transpose(v);
        for (uint32_t i = 0; i < 8; i++) _mm256_store_ps((float *)(void *)(to + 32 * i), v[i]);
    }
}

/* `k` weights of eight outputs, group by group. */
AVX2_INLINE void panel_unpack(const quant *t, panel_source from, uint32_t k, panels *out, int panel) {
    for (uint32_t at = 0; at < k; at += GROUP_K, from.w += t->group_bytes) {
        const uint32_t weights = k - at < GROUP_K ? k - at : GROUP_K, s = at / t->sub;
        panel_scales(t, &from, weights / t->sub, out->scale[panel] + s, out->min[panel] + s);
        panel_weights(t, &from, weights / 32, out->w[panel] + (size_t)at * 8);
    }
}

#ifdef CPU_AVXVNNI

/* dots[r][panel] = sub-block s of 8 outputs . x[r], as integers. */
AVX2_INLINE void tile_dots(const quant *t, const panels *w, uint32_t s, const int8_row *x, size_t k0, uint32_t rows,
                           __m256i dots[][2]) {
    for (uint32_t r = 0; r < rows; r++) dots[r][0] = dots[r][1] = _mm256_setzero_si256();
    CPU_UNROLL for (uint32_t g = 0; g < t->sub / 4; g++) {
        const size_t at = (size_t)s * t->sub + 4 * g;
        const __m256i w0 = _mm256_load_si256((const __m256i *)(w->w[0] + at * 8));
        const __m256i w1 = _mm256_load_si256((const __m256i *)(w->w[1] + at * 8));
        CPU_UNROLL for (uint32_t r = 0; r < rows; r++) {
            const __m256i q = _mm256_set1_epi32((int)base_u32(x[r].q + k0 + at));
            dots[r][0] = _mm256_dpbusd_avx_epi32(dots[r][0], w0, q);
            dots[r][1] = _mm256_dpbusd_avx_epi32(dots[r][1], w1, q);
        }
    }
}

#else

/* Two neighbouring products each, as 16-bit sums. */
AVX2_INLINE __m256i multiply(const quant *t, __m256i w, __m256i q) {
    return t->is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)) : _mm256_maddubs_epi16(w, q);
}

/* dots[r][panel] = sub-block s of 8 outputs . x[r], as integers; 16-bit sums are added while they cannot overflow. */
AVX2_INLINE void tile_dots(const quant *t, const panels *w, uint32_t s, const int8_row *x, size_t k0, uint32_t rows,
                           __m256i dots[][2]) {
    for (uint32_t r = 0; r < rows; r++) dots[r][0] = dots[r][1] = _mm256_setzero_si256();
    CPU_ROLLED for (uint32_t g0 = 0; g0 < t->sub / 4; g0 += t->adds) {
        __m256i words[TILE_ROWS][2];
        for (uint32_t r = 0; r < rows; r++) words[r][0] = words[r][1] = _mm256_setzero_si256();
        CPU_ROLLED for (uint32_t g = g0; g < g0 + t->adds; g++) { /* unrolled, compilers keep more alive than there are registers */
            const size_t at = (size_t)s * t->sub + 4 * g;
            const __m256i w0 = _mm256_load_si256((const __m256i *)(w->w[0] + at * 8));
            const __m256i w1 = _mm256_load_si256((const __m256i *)(w->w[1] + at * 8));
            CPU_UNROLL for (uint32_t r = 0; r < rows; r++) {
                const __m256i q = _mm256_set1_epi32((int)base_u32(x[r].q + k0 + at));
                words[r][0] = _mm256_add_epi16(words[r][0], multiply(t, w0, q));
                words[r][1] = _mm256_add_epi16(words[r][1], multiply(t, w1, q));
            }
        }
        for (uint32_t r = 0; r < rows; r++) {
            for (int p = 0; p < 2; p++)
                dots[r][p] = _mm256_add_epi32(dots[r][p], _mm256_madd_epi16(words[r][p], _mm256_set1_epi16(1)));
        }
    }
}

#endif

/* Scale times sum of the activations of a sub-block. */
AVX2_INLINE float activation_sum(const quant *t, const int8_row *x, size_t at) {
    return t->sub == 32 ? x->d_sum[at / 32] : x->d[at / 32] * (float)x->sum16[at / 16] * (-1.0f / INT8_OFFSET);
}

/* out (rows, 16) = or += x (rows, subs * sub) @ panels */
AVX2_INLINE void tile(const quant *t, const panels *w, uint32_t subs, const int8_row *x, size_t k0, uint32_t rows, float *out,
                      size_t out_stride) {
    __m256 sums[TILE_ROWS][2];
    for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = _mm256_setzero_ps();
    for (uint32_t s = 0; s < subs; s++) {
        const size_t at = k0 + s * t->sub;
        __m256i dots[TILE_ROWS][2];
        tile_dots(t, w, s, x, k0, rows, dots);
        for (uint32_t r = 0; r < rows; r++) {
            const __m256 d = _mm256_broadcast_ss(&x[r].d[at / 32]), taken = _mm256_set1_ps(activation_sum(t, &x[r], at));
            for (int p = 0; p < 2; p++) {
                const __m256 scale = _mm256_mul_ps(_mm256_load_ps(w->scale[p][s]), d);
                sums[r][p] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[r][p]), scale, sums[r][p]);
                if (!t->is_signed) sums[r][p] = _mm256_fnmadd_ps(_mm256_load_ps(w->min[p][s]), taken, sums[r][p]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (int p = 0; p < 2; p++) {
            float *to = out + r * out_stride + 8 * p;
            if (w->outputs[p] == 0) continue;
            if (k0) sums[r][p] = _mm256_add_ps(sums[r][p], avx2_load(to, w->outputs[p]));
            avx2_store(to, w->outputs[p], sums[r][p]);
        }
    }
}

/* Up to 16 outputs of all rows, PANEL_K weights at a time. */
AVX2_INLINE void prefill_outputs(const quant *t, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k,
                                 uint32_t n_out, float *out, size_t out_stride) {
    panels p;
    p.outputs[0] = n_out < 8 ? n_out : 8;
    p.outputs[1] = n_out - p.outputs[0];
    for (size_t k0 = 0; k0 < k; k0 += PANEL_K) {
        const uint32_t count = k - k0 < PANEL_K ? (uint32_t)(k - k0) : PANEL_K;
        const uint8_t *from = w + k0 / GROUP_K * t->group_bytes;
        panel_unpack(t, (panel_source){from, row_bytes, p.outputs[0]}, count, &p, 0);
        /* Without outputs of its own the second panel repeats the first output, computed and not stored. */
        const bool second = p.outputs[1] != 0;
        panel_unpack(t, (panel_source){second ? from + 8 * row_bytes : from, row_bytes, second ? p.outputs[1] : 1}, count, &p, 1);
        for (uint32_t r = 0; r < n_rows; r += TILE_ROWS) {
            int8_row x[TILE_ROWS];
            for (uint32_t i = 0; i < TILE_ROWS && r + i < n_rows; i++) x[i] = int8_row_at(prepared, k, r + i);
            float *to = out + r * out_stride;
            switch (n_rows - r) { /* constants, so that the sums live in registers */
            case 1: tile(t, &p, count / t->sub, x, k0, 1, to, out_stride); break;
            case 2: tile(t, &p, count / t->sub, x, k0, 2, to, out_stride); break;
            case 3: tile(t, &p, count / t->sub, x, k0, 3, to, out_stride); break;
            default: tile(t, &p, count / t->sub, x, k0, TILE_ROWS, to, out_stride); break;
            }
        }
    }
}

/* ---- the table ---- */

AVX2_INLINE void matmul(const quant *t, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k,
                        uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    switch (n_rows) {
    case 0: break;
    case 1: decode_rows(t, 4, 1, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 2: decode_rows(t, 2, 2, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 3: decode_rows(t, 1, 3, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    case 4: decode_rows(t, 1, 4, w, row_bytes, prepared, k, out0, out1, out, out_stride); break;
    default:
        for (uint32_t o = out0; o < out1; o += 16)
            prefill_outputs(t, w + o * row_bytes, row_bytes, prepared, n_rows, k, out1 - o < 16 ? out1 - o : 16, out + o, out_stride);
    }
}

#define DEFINE_MATMUL(suffix) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(&quant_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(q4_0)
DEFINE_MATMUL(q4_k)
DEFINE_MATMUL(q5_k)
DEFINE_MATMUL(q6_k)

#ifdef CPU_AVXVNNI

DEFINE_MATMUL(q8_0_offset)

void cpu_fill_avxvnni(cpu_ops *ops) {
    ops->name = "avxvnni";
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){int8_prepared_size, prepare, matmul_q8_0_offset, 16};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){int8_prepared_size, prepare, matmul_q4_0, 16};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){int8_prepared_size, prepare, matmul_q4_k, 16};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){int8_prepared_size, prepare, matmul_q5_k, 16};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){int8_prepared_size, prepare, matmul_q6_k, 16};
}

#else

DEFINE_MATMUL(q8_0)

#define DEFINE_MATMUL_FLOAT(suffix, type) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        cpu_matmul_float_avx2(type, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL_FLOAT(f32, BLOCK_F32)
DEFINE_MATMUL_FLOAT(f16, BLOCK_F16)
DEFINE_MATMUL_FLOAT(bf16, BLOCK_BF16)

void cpu_fill_matmul_avx2(cpu_ops *ops) {
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){int8_prepared_size, prepare, matmul_q8_0, 16};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){int8_prepared_size, prepare, matmul_q4_0, 16};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){int8_prepared_size, prepare, matmul_q4_k, 16};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){int8_prepared_size, prepare, matmul_q5_k, 16};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){int8_prepared_size, prepare, matmul_q6_k, 16};
    ops->matmul[BLOCK_F32].run = matmul_f32; /* prepared: the portable f32 rows */
    ops->matmul[BLOCK_F16].run = matmul_f16;
    ops->matmul[BLOCK_BF16].run = matmul_bf16;
    ops->matmul[BLOCK_F32].out_tile = ops->matmul[BLOCK_F16].out_tile = ops->matmul[BLOCK_BF16].out_tile = 16;
}

#endif
