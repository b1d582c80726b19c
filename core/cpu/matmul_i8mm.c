/* matmul_i8mm.c: quantized weights times four and more rows of int8 activations with 8-bit matrix products (smmla): sequences that
 * decode together, and prompts. Fewer rows go through matmul_neon.c.
 *
 * A product is (2 rows, 8) @ (8, 2 outputs) -> 2 x 2 sums. Weights of 8 outputs x 512 are unpacked once into a panel in which a vector
 * holds 8 consecutive weights of two outputs; activations are prepared by pairs of rows in the same way. */
#include "int8_rows.h"
#include "neon_quants.h"

#define FEW_ROWS 3   /* up to this many rows matmul_neon.c is as fast and needs no panel */
#define OUTPUTS 8    /* of a panel */
#define OUT_PAIRS (OUTPUTS / 2)
#define PANEL_K 512  /* weights of an output that are unpacked at a time */
#define TILE_PAIRS 2 /* of rows: 2 x 4 sums in integers and in floats */

/* Activations of two rows, by block of 32. The second row of the last pair may not exist: it is computed and not stored. */
typedef struct pair_block {
    int8_t q[4][2][8];  /* [k / 8][row][k % 8] */
    float d[2][2];      /* scale: [row][twice], as products lie in a vector */
    float d_sum[2][2];  /* d * sum of q */
} pair_block;

/* ---- preparing activations ---- */

static size_t prepared_size(uint32_t n_rows, uint32_t k) {
    const size_t pairs = ((size_t)n_rows + 1) / 2 * (k / 32) * sizeof(pair_block), few = int8_prepared_size(FEW_ROWS, k);
    return pairs > few ? pairs : few;
}

static void prepare_block(const float *x, uint32_t row, pair_block *to) {
    float32x4_t most = vdupq_n_f32(0);
    for (int i = 0; i < 8; i++) most = vmaxq_f32(most, vabsq_f32(vld1q_f32(x + 4 * i)));
    const float largest = vmaxvq_f32(most); /* of a NaN all of these make a NaN, which goes on into the result */
    const bool is_zero = largest < 1e-30f;  /* else 127 / largest could overflow */
    const float inverse = is_zero ? 0.0f : 127.0f / largest, d = is_zero ? 0.0f : largest / 127.0f;
    int sum = 0;
    for (int i = 0; i < 4; i++) {
        const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 8 * i), inverse));
        const int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 8 * i + 4), inverse));
        const int8x8_t bytes = vqmovn_s16(vqmovn_high_s32(vqmovn_s32(low), high));
        vst1_s8(to->q[i][row], bytes);
        sum += vaddlv_s8(bytes);
    }
    to->d[row][0] = to->d[row][1] = d;
    to->d_sum[row][0] = to->d_sum[row][1] = d * (float)sum;
}

static void prepare(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared) {
    if (n_rows <= FEW_ROWS) {
        cpu_prepare_neon(x, x_stride, n_rows, k, row0, row1, prepared);
        return;
    }
    const size_t blocks = k / 32;
    for (size_t r = row0; r < row1; r++) {
        pair_block *to = (pair_block *)prepared + r / 2 * blocks;
        for (size_t b = 0; b < blocks; b++) prepare_block(x + r * x_stride + 32 * b, r & 1, &to[b]);
    }
}

/* ---- weights ---- */

/* The weights of OUTPUTS outputs, less their type's offset, and their scales, twice as products lie in a vector. */
typedef struct panel {
    _Alignas(16) int8_t w[PANEL_K / 8][OUT_PAIRS][2][8];
    float scale[PANEL_K / 16][OUT_PAIRS][2][2]; /* [sub-block][pair][twice][output] */
    float min[PANEL_K / 32][OUT_PAIRS][2][2];
} panel;

/* The numbers of two outputs, four by four, to [sub-block][twice][output]. */
NEON_INLINE void store_scales(float32x4_t a, float32x4_t b, uint32_t count, float to[][OUT_PAIRS][2][2]) {
    const float32x4_t low = vzip1q_f32(a, b), high = vzip2q_f32(a, b);
    const float32x2_t pairs[4] = {vget_low_f32(low), vget_high_f32(low), vget_low_f32(high), vget_high_f32(high)};
    for (uint32_t i = 0; i < 4 && i < count; i++) vst1q_f32(to[i][0][0], vcombine_f32(pairs[i], pairs[i]));
}

/* Scales and mins of the first `count` sub-blocks of a group of the outputs at a and b become those from `at` on of a pair. */
NEON_INLINE void panel_scales(const quant *t, const uint8_t *a, const uint8_t *b, uint32_t count, panel *p, uint32_t at, uint32_t pair) {
    float32x4_t scale[2][4], min[2][2];
    t->scales(a, count, scale[0], min[0]);
    t->scales(b, count, scale[1], min[1]);
    for (uint32_t i = 0; i < GROUP_K / t->sub / 4 && 4 * i < count; i++)
        store_scales(scale[0][i], scale[1][i], count - 4 * i, (float(*)[OUT_PAIRS][2][2])p->scale[at + 4 * i][pair]);
    for (uint32_t i = 0; t->has_min && i < 2; i++)
        store_scales(min[0][i], min[1][i], 4, (float(*)[OUT_PAIRS][2][2])p->min[at + 4 * i][pair]);
}

/* 32 weights of the outputs at a and b. */
NEON_INLINE void panel_piece(const quant *t, const uint8_t *a, const uint8_t *b, uint32_t piece, int8_t to[][OUT_PAIRS][2][8]) {
    const int8x16_t offset = vdupq_n_s8((int8_t)t->offset);
    int8x16x2_t v = t->load32(a, piece), u = t->load32(b, piece);
    for (int h = 0; h < 2; h++) {
        if (t->offset) v.val[h] = vsubq_s8(v.val[h], offset), u.val[h] = vsubq_s8(u.val[h], offset);
        vst1q_s8(to[2 * h][0][0], neon_low_halves(v.val[h], u.val[h]));
        vst1q_s8(to[2 * h + 1][0][0], neon_high_halves(v.val[h], u.val[h]));
    }
}

/* Elements [0, k) of OUTPUTS rows of weights; past the last output the last is repeated, computed and not stored. */
NEON_INLINE void panel_fill(const quant *t, const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t k, panel *p) {
    for (uint32_t k0 = 0; k0 < k; k0 += GROUP_K, w += t->group_bytes) {
        const uint32_t weights = k - k0 < GROUP_K ? k - k0 : GROUP_K;
        for (uint32_t pair = 0; pair < OUT_PAIRS; pair++) {
            const uint8_t *a = w + (2 * pair < n_out ? 2 * pair : n_out - 1) * row_bytes;
            const uint8_t *b = w + (2 * pair + 1 < n_out ? 2 * pair + 1 : n_out - 1) * row_bytes;
            panel_scales(t, a, b, weights / t->sub, p, k0 / t->sub, pair);
            for (uint32_t piece = 0; piece < weights / 32; piece++)
                panel_piece(t, a, b, piece, (int8_t(*)[OUT_PAIRS][2][8])p->w[(k0 + 32 * piece) / 8][pair]);
        }
    }
}

/* ---- products ---- */

/* acc[r] += one block of the row pairs x[r] . the panel's weights from block `at` on */
NEON_INLINE void panel_block(const quant *t, panel *p, uint32_t at, const pair_block *const x[], uint32_t pairs,
                             float32x4_t acc[TILE_PAIRS][OUT_PAIRS]) {
    float32x4_t part[TILE_PAIRS][OUT_PAIRS];
    CPU_UNROLL for (uint32_t i = 0; i < 32 / t->sub; i++) {
        int32x4_t sums[TILE_PAIRS][OUT_PAIRS];
        for (uint32_t r = 0; r < pairs; r++)
            for (uint32_t o = 0; o < OUT_PAIRS; o++) sums[r][o] = vdupq_n_s32(0);
        CPU_UNROLL for (uint32_t j = 0; j < t->sub / 8; j++) {
            const uint32_t eight = i * (t->sub / 8) + j;
            int8x16_t q[TILE_PAIRS];
            for (uint32_t r = 0; r < pairs; r++) q[r] = vld1q_s8(x[r]->q[eight][0]);
            for (uint32_t o = 0; o < OUT_PAIRS; o++) {
                const int8x16_t w = vld1q_s8(p->w[4 * at + eight][o][0]);
                for (uint32_t r = 0; r < pairs; r++) sums[r][o] = vmmlaq_s32(sums[r][o], q[r], w);
            }
        }
        for (uint32_t o = 0; o < OUT_PAIRS; o++) {
            const float32x4_t scale = vld1q_f32(p->scale[at * (32 / t->sub) + i][o][0]);
            for (uint32_t r = 0; r < pairs; r++) {
                const float32x4_t dot = vcvtq_f32_s32(sums[r][o]);
                part[r][o] = i ? vfmaq_f32(part[r][o], dot, scale) : vmulq_f32(dot, scale);
            }
        }
    }
    for (uint32_t r = 0; r < pairs; r++) {
        const float32x4_t d = vld1q_f32(x[r]->d[0]), d_sum = vld1q_f32(x[r]->d_sum[0]);
        for (uint32_t o = 0; o < OUT_PAIRS; o++) {
            acc[r][o] = vfmaq_f32(acc[r][o], part[r][o], d);
            if (t->has_min) acc[r][o] = vfmsq_f32(acc[r][o], vld1q_f32(p->min[at][o][0]), d_sum);
        }
    }
}

/* One row of products of OUT_PAIRS pairs of outputs: out = or += them. */
NEON_INLINE void store_row(const float32x4_t acc[OUT_PAIRS], uint32_t second, uint32_t n_out, bool add, float *out) {
    for (uint32_t o = 0; 2 * o < n_out; o += 2) {
        const float32x2_t low = second ? vget_high_f32(acc[o]) : vget_low_f32(acc[o]);
        const float32x2_t high = second ? vget_high_f32(acc[o + 1]) : vget_low_f32(acc[o + 1]);
        const float32x4_t v = vcombine_f32(low, high);
        neon_store(out + 2 * o, n_out - 2 * o, add ? vaddq_f32(v, neon_load(out + 2 * o, n_out - 2 * o)) : v);
    }
}

/* out[r][o] = or += `blocks` blocks of rows [row, row + n) . the panel's weights; x: blocks of the first pair, `stride` from the next. */
NEON_INLINE void panel_rows(const quant *t, panel *p, const pair_block *first, size_t stride, uint32_t pairs, uint32_t blocks, uint32_t n,
                            uint32_t n_out, bool add, float *out, size_t out_stride) {
    float32x4_t acc[TILE_PAIRS][OUT_PAIRS];
    const pair_block *x[TILE_PAIRS];
    for (uint32_t r = 0; r < pairs; r++) {
        for (uint32_t o = 0; o < OUT_PAIRS; o++) acc[r][o] = vdupq_n_f32(0);
        x[r] = first + r * stride;
    }
    for (uint32_t at = 0; at < blocks; at++) {
        panel_block(t, p, at, x, pairs, acc);
        for (uint32_t r = 0; r < pairs; r++) x[r]++;
    }
    for (uint32_t r = 0; r < n; r++) store_row(acc[r / 2], r & 1, n_out, add, out + r * out_stride);
}

NEON_INLINE void panel_outputs(const quant *t, const uint8_t *w, size_t row_bytes, const pair_block *x, uint32_t n_rows, uint32_t k,
                               uint32_t n_out, float *out, size_t out_stride) {
    panel p;
    const size_t stride = k / 32; /* blocks of a pair */
    for (uint32_t k0 = 0; k0 < k; k0 += PANEL_K) {
        const uint32_t n = k - k0 < PANEL_K ? k - k0 : PANEL_K, most = 2 * TILE_PAIRS;
        panel_fill(t, w + k0 / GROUP_K * t->group_bytes, row_bytes, n_out, n, &p);
        for (uint32_t r = 0; r < n_rows; r += most) {
            const pair_block *from = x + r / 2 * stride + k0 / 32;
            const uint32_t rows = n_rows - r < most ? n_rows - r : most;
            float *to = out + r * out_stride;
            if (rows > 2) panel_rows(t, &p, from, stride, TILE_PAIRS, n / 32, rows, n_out, k0 != 0, to, out_stride);
            else panel_rows(t, &p, from, stride, 1, n / 32, rows, n_out, k0 != 0, to, out_stride);
        }
    }
}

/* ---- the table ---- */

NEON_INLINE void matmul(uint32_t type, const quant *t, const void *weights, size_t row_bytes, const void *prepared, uint32_t n_rows,
                        uint32_t k, uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    if (n_rows <= FEW_ROWS) {
        cpu_matmul_neon(type, weights, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride);
        return;
    }
    for (size_t o = out0; o < out1; o += OUTPUTS)
        panel_outputs(t, (const uint8_t *)weights + o * row_bytes, row_bytes, prepared, n_rows, k,
                      out1 - o < OUTPUTS ? (uint32_t)(out1 - o) : OUTPUTS, out + o, out_stride);
}

#define DEFINE_MATMUL(suffix, type) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(type, &quant_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(q8_0, BLOCK_Q8_0)
DEFINE_MATMUL(q4_0, BLOCK_Q4_0)
DEFINE_MATMUL(q4_k, BLOCK_Q4_K)
DEFINE_MATMUL(q5_k, BLOCK_Q5_K)
DEFINE_MATMUL(q6_k, BLOCK_Q6_K)

void cpu_fill_i8mm(cpu_ops *ops) {
    ops->name = "neon-i8mm";
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){prepared_size, prepare, matmul_q8_0, OUTPUTS};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){prepared_size, prepare, matmul_q4_0, OUTPUTS};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){prepared_size, prepare, matmul_q4_k, OUTPUTS};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){prepared_size, prepare, matmul_q5_k, OUTPUTS};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){prepared_size, prepare, matmul_q6_k, OUTPUTS};
}
