/* matmul_neon.c: quantized weights times int8 activations (int8_rows.h) with signed dot products of four bytes (sdot).
 *
 * Two loops serve all types of neon_quants.h:
 *   few rows   (decode) one output at a time, straight from the file's layout, every row using the weights just unpacked;
 *   many rows  (prefill) 8 outputs x 512 weights are unpacked once into a panel in which a vector holds 4 consecutive weights of
 *              4 outputs, and every tile of 4 rows multiplies them with its activations, four of which are a lane. */
#include "int8_rows.h"
#include "neon_quants.h"

#define FEW_ROWS 3  /* up to this many rows are multiplied straight from the file's layout */
#define OUTPUTS 8   /* of a panel */
#define PANEL_K 512 /* weights of an output that are unpacked at a time */
#define TILE_ROWS 4 /* 4 x 8 sums in integers and in floats, and what they are made of, fill the registers */

/* ---- preparing activations ---- */

static void prepare_block(const float *x, const int8_row *row, size_t b) {
    float32x4_t most = vdupq_n_f32(0);
    for (int i = 0; i < 8; i++) most = vmaxq_f32(most, vabsq_f32(vld1q_f32(x + 4 * i)));
    const float largest = vmaxvq_f32(most);  /* of a NaN all of these make a NaN, which goes on into the result */
    const bool is_zero = largest < 1e-30f;   /* else 127 / largest could overflow */
    const float inverse = is_zero ? 0.0f : 127.0f / largest, d = is_zero ? 0.0f : largest / 127.0f;
    int sums[2];
    for (int h = 0; h < 2; h++) {
        int32x4_t q[4];
        for (int i = 0; i < 4; i++) q[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * h + 4 * i), inverse));
        const int16x8_t low = vqmovn_high_s32(vqmovn_s32(q[0]), q[1]), high = vqmovn_high_s32(vqmovn_s32(q[2]), q[3]);
        const int8x16_t bytes = vqmovn_high_s16(vqmovn_s16(low), high);
        vst1q_s8(row->q + 32 * b + 16 * h, bytes);
        sums[h] = vaddlvq_s8(bytes);
    }
    row->d[b] = d;
    row->d_sum[b] = d * (float)(sums[0] + sums[1]);
    row->sum32[b] = -INT8_OFFSET * (sums[0] + sums[1]);
    row->sum16[2 * b] = -INT8_OFFSET * sums[0];
    row->sum16[2 * b + 1] = -INT8_OFFSET * sums[1];
}

void cpu_prepare_neon(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared) {
    (void)n_rows;
    const size_t blocks = k / 32, padded = int8_blocks(k);
    for (size_t r = row0; r < row1; r++) {
        const int8_row row = int8_row_at(prepared, k, r);
        for (size_t b = 0; b < blocks; b++) prepare_block(x + r * x_stride + 32 * b, &row, b);
        memset(row.q + k, 0, int8_q_bytes(k) - k);
        for (size_t b = blocks; b < padded; b++) {
            row.d[b] = row.d_sum[b] = 0;
            row.sum32[b] = row.sum16[2 * b] = row.sum16[2 * b + 1] = 0;
        }
    }
}

/* ---- few rows ---- */

/* What offsets add to a result: scales times four sums, which were multiplied by -INT8_OFFSET. */
NEON_INLINE float32x4_t add_offset(const quant *t, float32x4_t scale, const int32_t *sums, float32x4_t acc) {
    const int32x4_t v = vld1q_s32(sums);
    return vfmaq_f32(acc, scale, t->offset == 8 ? vcvtq_n_f32_s32(v, 4) : vcvtq_n_f32_s32(v, 2)); /* v * offset / INT8_OFFSET */
}

/* Multiplies the weights' scales with the activations' into `both`; returns acc and what offsets or mins add to it. */
NEON_INLINE float32x4_t group_scales(const quant *t, const int8_row *x, size_t group, const float32x4_t scale[4],
                                     const float32x4_t min[2], float32x4_t both[4], float32x4_t acc) {
    for (int h = 0; h < 2; h++) {
        const float32x4_t d = vld1q_f32(x->d + 8 * group + 4 * h);
        if (t->sub == 16) {
            both[2 * h] = vmulq_f32(scale[2 * h], vzip1q_f32(d, d));
            both[2 * h + 1] = vmulq_f32(scale[2 * h + 1], vzip2q_f32(d, d));
            acc = add_offset(t, both[2 * h], x->sum16 + 16 * group + 8 * h, acc);
            acc = add_offset(t, both[2 * h + 1], x->sum16 + 16 * group + 8 * h + 4, acc);
        } else {
            both[h] = vmulq_f32(scale[h], d);
            if (t->offset) acc = add_offset(t, both[h], x->sum32 + 8 * group + 4 * h, acc);
            if (t->has_min) acc = vfmsq_f32(acc, min[h], vld1q_f32(x->d_sum + 8 * group + 4 * h));
        }
    }
    return acc;
}

/* The four sums of four vectors each. */
NEON_INLINE int32x4_t sums_of_4(const int32x4_t v[4]) {
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

/* Four sub-blocks of weights . activations, four numbers each; those from `count` on are zero. */
NEON_INLINE int32x4_t few_dots(const quant *t, const uint8_t *w, uint32_t sub, uint32_t count, const int8_t *q) {
    const int32x4_t zero = vdupq_n_s32(0);
    int32x4_t dots[4] = {zero, zero, zero, zero};
    if (t->sub == 16) {
        CPU_UNROLL for (uint32_t i = 0; i < 4; i += 2) {
            const int8x16x2_t v = t->load32(w, (sub + i) / 2);
            dots[i] = vdotq_s32(zero, v.val[0], vld1q_s8(q + 16 * (sub + i)));
            dots[i + 1] = vdotq_s32(zero, v.val[1], vld1q_s8(q + 16 * (sub + i) + 16));
        }
    } else {
        CPU_UNROLL for (uint32_t i = 0; i < 4; i++) {
            if (sub + i >= count) break;
            const int8x16x2_t v = t->load32(w, sub + i);
            dots[i] = vdotq_s32(zero, v.val[0], vld1q_s8(q + 32 * (sub + i)));
            dots[i] = vdotq_s32(dots[i], v.val[1], vld1q_s8(q + 32 * (sub + i) + 16));
        }
    }
    return sums_of_4(dots);
}

/* acc[m] += the first `count` sub-blocks of a group of w . x[m] */
NEON_INLINE void few_group(const quant *t, const uint8_t *w, uint32_t count, size_t group, const int8_row *x, uint32_t m_count,
                           float32x4_t acc[]) {
    float32x4_t scale[4], min[2], both[FEW_ROWS][4];
    t->scales(w, count, scale, min);
    for (uint32_t m = 0; m < m_count; m++) acc[m] = group_scales(t, &x[m], group, scale, min, both[m], acc[m]);
    CPU_UNROLL for (uint32_t i = 0; i < GROUP_K / t->sub / 4; i++) {
        for (uint32_t m = 0; m < m_count; m++)
            acc[m] = vfmaq_f32(acc[m], vcvtq_f32_s32(few_dots(t, w, 4 * i, count, x[m].q + GROUP_K * group)), both[m][i]);
    }
}

NEON_INLINE void few_rows(const quant *t, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t m_count, uint32_t k,
                          uint32_t n_out, float *out, size_t out_stride) {
    int8_row x[FEW_ROWS];
    for (uint32_t m = 0; m < m_count; m++) x[m] = int8_row_at(prepared, k, m);
    for (size_t o = 0; o < n_out; o++) {
        const uint8_t *group_w = w + o * row_bytes;
        float32x4_t acc[FEW_ROWS];
        size_t group = 0;
        for (uint32_t m = 0; m < m_count; m++) acc[m] = vdupq_n_f32(0);
        for (; group < k / GROUP_K; group++, group_w += t->group_bytes)
            few_group(t, group_w, GROUP_K / t->sub, group, x, m_count, acc);
        if (t->is_small && k % GROUP_K) few_group(t, group_w, k % GROUP_K / t->sub, group, x, m_count, acc);
        for (uint32_t m = 0; m < m_count; m++) out[m * out_stride + o] = vaddvq_f32(acc[m]);
    }
}

/* ---- many rows ---- */

/* The weights of OUTPUTS outputs, less their type's offset, and their scales. */
typedef struct panel {
    _Alignas(16) int8_t w[PANEL_K / 4][OUTPUTS][4];
    float scale[PANEL_K / 16][OUTPUTS];
    float min[PANEL_K / 32][OUTPUTS];
} panel;

/* Scales and mins of the first `count` sub-blocks of a group of output o become those from `at` on of the panel. */
NEON_INLINE void panel_scales(const quant *t, const uint8_t *w, uint32_t count, panel *p, uint32_t at, uint32_t o) {
    float32x4_t scale[4], min[2];
    float s[16], m[8];
    t->scales(w, count, scale, min);
    for (uint32_t i = 0; i < GROUP_K / t->sub / 4; i++) vst1q_f32(s + 4 * i, scale[i]);
    for (uint32_t i = 0; i < count; i++) p->scale[at + i][o] = s[i];
    if (!t->has_min) return;
    for (uint32_t i = 0; i < 2; i++) vst1q_f32(m + 4 * i, min[i]);
    for (uint32_t i = 0; i < count; i++) p->min[at + i][o] = m[i];
}

/* 16 weights of four outputs, to 4 weights of each output side by side, four times. */
NEON_INLINE void panel_store(const int8x16_t v[4], int8_t to[][OUTPUTS][4]) {
    int32x4_t r[4];
    for (int i = 0; i < 4; i++) r[i] = vreinterpretq_s32_s8(v[i]);
    const int32x4_t a = vtrn1q_s32(r[0], r[1]), b = vtrn2q_s32(r[0], r[1]); /* elements 0 and 2, 1 and 3 of two outputs */
    const int32x4_t c = vtrn1q_s32(r[2], r[3]), d = vtrn2q_s32(r[2], r[3]);
    vst1q_s8(to[0][0], neon_low_halves(vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(c)));
    vst1q_s8(to[1][0], neon_low_halves(vreinterpretq_s8_s32(b), vreinterpretq_s8_s32(d)));
    vst1q_s8(to[2][0], neon_high_halves(vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(c)));
    vst1q_s8(to[3][0], neon_high_halves(vreinterpretq_s8_s32(b), vreinterpretq_s8_s32(d)));
}

/* 32 weights of outputs [o, o + 4); `rows` are the groups they stand in. */
NEON_INLINE void panel_piece(const quant *t, const uint8_t *const rows[OUTPUTS], uint32_t piece, uint32_t o, int8_t to[][OUTPUTS][4]) {
    int8x16_t v[2][4];
    const int8x16_t offset = vdupq_n_s8((int8_t)t->offset);
    for (uint32_t i = 0; i < 4; i++) {
        const int8x16x2_t bytes = t->load32(rows[o + i], piece);
        for (int h = 0; h < 2; h++) v[h][i] = t->offset ? vsubq_s8(bytes.val[h], offset) : bytes.val[h];
    }
    panel_store(v[0], (int8_t(*)[OUTPUTS][4])to[0][o]);
    panel_store(v[1], (int8_t(*)[OUTPUTS][4])to[4][o]);
}

/* Elements [0, k) of OUTPUTS rows of weights; past the last output the last is repeated, computed and not stored. */
NEON_INLINE void panel_fill(const quant *t, const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t k, panel *p) {
    for (uint32_t k0 = 0; k0 < k; k0 += GROUP_K, w += t->group_bytes) {
        const uint32_t weights = k - k0 < GROUP_K ? k - k0 : GROUP_K;
        const uint8_t *rows[OUTPUTS];
        for (uint32_t o = 0; o < OUTPUTS; o++) {
            rows[o] = w + (o < n_out ? o : n_out - 1) * row_bytes;
            panel_scales(t, rows[o], weights / t->sub, p, k0 / t->sub, o);
        }
        for (uint32_t piece = 0; piece < weights / 32; piece++)
            for (uint32_t o = 0; o < OUTPUTS; o += 4) panel_piece(t, rows, piece, o, p->w + (k0 + 32 * piece) / 4);
    }
}

/* sums[r][h] += 16 activations of row r . weights of each output */
NEON_INLINE void panel_dot16(int8_t w[][OUTPUTS][4], const int8_t *const q[], uint32_t rows, int32x4_t sums[TILE_ROWS][2]) {
    int8x16_t v[TILE_ROWS];
    for (uint32_t r = 0; r < rows; r++) v[r] = vld1q_s8(q[r]);
    for (int h = 0; h < 2; h++) {
        const int8x16_t w0 = vld1q_s8(w[0][4 * h]), w1 = vld1q_s8(w[1][4 * h]), w2 = vld1q_s8(w[2][4 * h]), w3 = vld1q_s8(w[3][4 * h]);
        for (uint32_t r = 0; r < rows; r++) sums[r][h] = vdotq_laneq_s32(sums[r][h], w0, v[r], 0);
        for (uint32_t r = 0; r < rows; r++) sums[r][h] = vdotq_laneq_s32(sums[r][h], w1, v[r], 1);
        for (uint32_t r = 0; r < rows; r++) sums[r][h] = vdotq_laneq_s32(sums[r][h], w2, v[r], 2);
        for (uint32_t r = 0; r < rows; r++) sums[r][h] = vdotq_laneq_s32(sums[r][h], w3, v[r], 3);
    }
}

/* acc[r] += block b of x[r] . the panel's weights from block `at` on */
NEON_INLINE void panel_block(const quant *t, panel *p, uint32_t at, const int8_row *x, size_t b, uint32_t rows,
                             float32x4_t acc[TILE_ROWS][2]) {
    float32x4_t part[TILE_ROWS][2];
    const int8_t *q[TILE_ROWS];
    for (uint32_t r = 0; r < rows; r++) q[r] = x[r].q + 32 * b;
    CPU_UNROLL for (uint32_t i = 0; i < 32 / t->sub; i++) {
        const float *scales = p->scale[at * (32 / t->sub) + i];
        const float32x4_t scale[2] = {vld1q_f32(scales), vld1q_f32(scales + 4)};
        int32x4_t sums[TILE_ROWS][2];
        for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = vdupq_n_s32(0);
        CPU_UNROLL for (uint32_t j = 0; j < t->sub; j += 16) {
            panel_dot16(p->w + 8 * at + 4 * i + j / 4, q, rows, sums);
            for (uint32_t r = 0; r < rows; r++) q[r] += 16;
        }
        for (uint32_t r = 0; r < rows; r++) {
            for (int h = 0; h < 2; h++) {
                const float32x4_t dot = vcvtq_f32_s32(sums[r][h]);
                part[r][h] = i ? vfmaq_f32(part[r][h], dot, scale[h]) : vmulq_f32(dot, scale[h]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (int h = 0; h < 2; h++) {
            acc[r][h] = vfmaq_n_f32(acc[r][h], part[r][h], x[r].d[b]);
            if (t->has_min) acc[r][h] = vfmsq_n_f32(acc[r][h], vld1q_f32(p->min[at] + 4 * h), x[r].d_sum[b]);
        }
    }
}

/* out[r][o] = or += elements [k0, k0 + k) of x[r] . the panel's weights */
NEON_INLINE void panel_rows(const quant *t, panel *p, const void *prepared, uint32_t row, uint32_t rows, uint32_t k_all, uint32_t k0,
                            uint32_t k, uint32_t n_out, float *out, size_t out_stride) {
    float32x4_t acc[TILE_ROWS][2];
    int8_row x[TILE_ROWS];
    for (uint32_t r = 0; r < rows; r++) {
        acc[r][0] = acc[r][1] = vdupq_n_f32(0);
        x[r] = int8_row_at(prepared, k_all, row + r);
    }
    for (uint32_t at = 0; at < k / 32; at++) panel_block(t, p, at, x, k0 / 32 + at, rows, acc);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t h = 0; h < 2 && 4 * h < n_out; h++) {
            float *to = out + (row + r) * out_stride + 4 * h;
            neon_store(to, n_out - 4 * h, k0 ? vaddq_f32(acc[r][h], neon_load(to, n_out - 4 * h)) : acc[r][h]);
        }
    }
}

NEON_INLINE void many_rows(const quant *t, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k,
                           uint32_t n_out, float *out, size_t out_stride) {
    panel p;
    for (uint32_t k0 = 0; k0 < k; k0 += PANEL_K) {
        const uint32_t n = k - k0 < PANEL_K ? k - k0 : PANEL_K;
        panel_fill(t, w + k0 / GROUP_K * t->group_bytes, row_bytes, n_out, n, &p);
        for (uint32_t r = 0; r < n_rows; r += TILE_ROWS) {
            switch (n_rows - r) { /* constants, so that sums live in registers */
            case 1: panel_rows(t, &p, prepared, r, 1, k, k0, n, n_out, out, out_stride); break;
            case 2: panel_rows(t, &p, prepared, r, 2, k, k0, n, n_out, out, out_stride); break;
            case 3: panel_rows(t, &p, prepared, r, 3, k, k0, n, n_out, out, out_stride); break;
            default: panel_rows(t, &p, prepared, r, TILE_ROWS, k, k0, n, n_out, out, out_stride); break;
            }
        }
    }
}

/* ---- the table ---- */

NEON_INLINE void matmul(const quant *t, const void *weights, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k,
                        uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    const uint8_t *w = (const uint8_t *)weights + out0 * row_bytes;
    const uint32_t n_out = out1 - out0;
    out += out0;
    switch (n_rows) {
    case 0: break;
    case 1: few_rows(t, w, row_bytes, prepared, 1, k, n_out, out, out_stride); break;
    case 2: few_rows(t, w, row_bytes, prepared, 2, k, n_out, out, out_stride); break;
    case 3: few_rows(t, w, row_bytes, prepared, 3, k, n_out, out, out_stride); break;
    default:
        for (uint32_t o = 0; o < n_out; o += OUTPUTS)
            many_rows(t, w + o * row_bytes, row_bytes, prepared, n_rows, k, n_out - o < OUTPUTS ? n_out - o : OUTPUTS, out + o, out_stride);
    }
}

#define DEFINE_MATMUL(suffix) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(&quant_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(q8_0)
DEFINE_MATMUL(q4_0)
DEFINE_MATMUL(q4_k)
DEFINE_MATMUL(q5_k)
DEFINE_MATMUL(q6_k)

void cpu_matmul_neon(uint32_t type, const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, uint32_t out0,
                     uint32_t out1, float *out, size_t out_stride) {
    switch (type) {
    case BLOCK_Q8_0: matmul_q8_0(w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); break;
    case BLOCK_Q4_0: matmul_q4_0(w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); break;
    case BLOCK_Q4_K: matmul_q4_k(w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); break;
    case BLOCK_Q5_K: matmul_q5_k(w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); break;
    default: matmul_q6_k(w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); break;
    }
}

void cpu_fill_matmul_neon(cpu_ops *ops) {
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){int8_prepared_size, cpu_prepare_neon, matmul_q8_0, OUTPUTS};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){int8_prepared_size, cpu_prepare_neon, matmul_q4_0, OUTPUTS};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){int8_prepared_size, cpu_prepare_neon, matmul_q4_k, OUTPUTS};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){int8_prepared_size, cpu_prepare_neon, matmul_q5_k, OUTPUTS};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){int8_prepared_size, cpu_prepare_neon, matmul_q6_k, OUTPUTS};
}
