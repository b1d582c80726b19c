/* matmul_simd128.c: quantized weights times activations rounded to whole numbers, for WebAssembly.
 *
 * A weight type is described by a `quant`: how 32 weights unfold into bytes, and how a group of 256 gives its scales. Up to
 * FEW_ROWS rows are multiplied straight from the file's layout, one output at a time. For more rows the weights of OUTPUTS
 * outputs are first unfolded into a panel that stays in the first-level cache.
 * Plain SIMD has a product of 16-bit numbers, so activations get 14 bits: better than bf16. Relaxed SIMD (matmul_relaxed.c
 * compiles this file anew) has one of bytes, twice as fast: int8 activations with a scale per 32. */
#include "simd128.h"

#define GROUP_K 256
#define FEW_ROWS 4
#define OUTPUTS 8
#define PANEL_K 512
#define TILE_ROWS 3 /* 3 x 8 sums in integers and in floats fill the registers */

/* ---- what differs between plain and relaxed SIMD ---- */

#ifdef CPU_RELAXED

typedef int8_t activation;
#define LARGEST 127.0f /* magnitude of an activation */
#define SPLAT 4        /* activations in 32 bits */

/* The second operand's bytes are below 128, or this engine was found to take them as the type's load32 means them. */
SIMD_INLINE v128_t multiply(v128_t x, v128_t w, v128_t sum) {
    return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(x, w, sum);
}

/* The weights of 16 bytes in the form and order of the activations. */
SIMD_INLINE void spread(v128_t bytes, bool is_signed, v128_t w[1]) {
    (void)is_signed;
    w[0] = bytes;
}

/* 16 whole numbers in the order of the weights. */
SIMD_INLINE void store_activations(activation *to, const v128_t q[4]) {
    wasm_v128_store(to, wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(q[0], q[1]), wasm_i16x8_narrow_i32x4(q[2], q[3])));
}

#else

typedef int16_t activation;
#define LARGEST (64 * 127.0f) /* keeps sums of 32 products within 32 bits, and holds what int8 holds exactly */
#define SPLAT 2

SIMD_INLINE v128_t multiply(v128_t x, v128_t w, v128_t sum) {
    return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(x, w));
}

/* The even bytes, then the odd ones: two shifts or a mask widen them in place. */
SIMD_INLINE void spread(v128_t bytes, bool is_signed, v128_t w[2]) {
    w[0] = is_signed ? wasm_i16x8_shr(wasm_i16x8_shl(bytes, 8), 8) : wasm_v128_and(bytes, wasm_i16x8_splat(0xff));
    w[1] = is_signed ? wasm_i16x8_shr(bytes, 8) : wasm_u16x8_shr(bytes, 8);
}

SIMD_INLINE void store_activations(activation *to, const v128_t q[4]) {
    const v128_t low = wasm_i16x8_narrow_i32x4(q[0], q[1]), high = wasm_i16x8_narrow_i32x4(q[2], q[3]);
    wasm_v128_store(to, wasm_i16x8_shuffle(low, high, 0, 2, 4, 6, 8, 10, 12, 14));
    wasm_v128_store(to + 8, wasm_i16x8_shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15));
}

#endif

#define VECTORS (4 / SPLAT) /* that hold 16 activations */

/* ---- the types ---- */

typedef struct quant {
    uint32_t sub;          /* elements that share a scale: 16 or 32 */
    uint32_t offset_shift; /* bytes are weight + (1 << offset_shift), 0: weight */
    bool has_min;          /* weight = scale * byte - min */
    bool is_signed;        /* bytes are signed */
    bool is_small;         /* blocks of 32: the last group of a row may be short */
    uint32_t group_bytes;  /* GROUP_K weights in the file */
    /* Weights [32 * piece, 32 * piece + 32) of a group, one byte each. */
    void (*load32)(const uint8_t *group, uint32_t piece, v128_t bytes[2]);
    /* Scales (and mins) of the first `count` sub-blocks of a group; zero beyond. */
    void (*scales)(const uint8_t *group, uint32_t count, v128_t scale[4], v128_t min[2]);
} quant;

/* Half-precision scales of up to 8 small blocks, which open with them. */
SIMD_INLINE void block_scales(const uint8_t *group, uint32_t count, size_t block_bytes, v128_t scale[4]) {
    v128_t h = wasm_i32x4_splat(0);
    if (count == 8) {
        h = wasm_v128_load16_lane(group, h, 0);
        h = wasm_v128_load16_lane(group + block_bytes, h, 1);
        h = wasm_v128_load16_lane(group + 2 * block_bytes, h, 2);
        h = wasm_v128_load16_lane(group + 3 * block_bytes, h, 3);
        h = wasm_v128_load16_lane(group + 4 * block_bytes, h, 4);
        h = wasm_v128_load16_lane(group + 5 * block_bytes, h, 5);
        h = wasm_v128_load16_lane(group + 6 * block_bytes, h, 6);
        h = wasm_v128_load16_lane(group + 7 * block_bytes, h, 7);
    } else {
        uint16_t some[8] = {0};
        for (uint32_t b = 0; b < count; b++) some[b] = base_u16(group + b * block_bytes);
        h = wasm_v128_load(some);
    }
    scale[0] = simd_from_scales(wasm_i32x4_extend_low_i16x8(h));
    scale[1] = simd_from_scales(wasm_i32x4_extend_high_i16x8(h));
}

SIMD_INLINE void q8_0_scales(const uint8_t *group, uint32_t count, v128_t scale[4], v128_t min[2]) {
    (void)min;
    block_scales(group, count, sizeof(block_q8_0), scale);
}

SIMD_INLINE void q8_0_load32(const uint8_t *group, uint32_t piece, v128_t bytes[2]) {
    const int8_t *qs = ((const block_q8_0 *)group)[piece].qs;
    bytes[0] = wasm_v128_load(qs);
    bytes[1] = wasm_v128_load(qs + 16);
}

SIMD_INLINE void q4_0_scales(const uint8_t *group, uint32_t count, v128_t scale[4], v128_t min[2]) {
    (void)min;
    block_scales(group, count, sizeof(block_q4_0), scale);
}

/* The upper halves of bytes; unlike a shift of bytes, one of words and a mask are an instruction each. */
SIMD_INLINE v128_t high_nibbles(v128_t v) {
    return wasm_v128_and(wasm_u16x8_shr(v, 4), wasm_i8x16_splat(15));
}

SIMD_INLINE void q4_0_load32(const uint8_t *group, uint32_t piece, v128_t bytes[2]) {
    const v128_t v = wasm_v128_load(((const block_q4_0 *)group)[piece].qs);
    bytes[0] = wasm_v128_and(v, wasm_i8x16_splat(15));
    bytes[1] = high_nibbles(v);
}

/* Eight unsigned bytes times a factor. */
SIMD_INLINE void scale_bytes(v128_t words, v128_t factor, v128_t out[2]) {
    out[0] = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_u32x4_extend_low_u16x8(words)), factor);
    out[1] = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_u32x4_extend_high_u16x8(words)), factor);
}

/* Q4_K and Q5_K open with d, dmin and eight 6-bit scales and mins in 12 bytes. */
SIMD_INLINE void k_scales(const uint8_t *block, uint32_t count, v128_t scale[4], v128_t min[2]) {
    (void)count;
    const uint32_t a = base_u32(block + 4), b = base_u32(block + 8), c = base_u32(block + 12);
    const uint32_t scales_high = (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u), mins_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u);
    const v128_t bytes = wasm_i32x4_make((int)(a & 0x3f3f3f3fu), (int)scales_high, (int)(b & 0x3f3f3f3fu), (int)mins_high);
    const v128_t d = simd_from_scales(wasm_i32x4_load16x4(block)); /* d, dmin and what follows them */
    scale_bytes(wasm_u16x8_extend_low_u8x16(bytes), wasm_i32x4_shuffle(d, d, 0, 0, 0, 0), scale);
    scale_bytes(wasm_u16x8_extend_high_u8x16(bytes), wasm_i32x4_shuffle(d, d, 1, 1, 1, 1), min);
}

/* Low or high nibbles of 32 bytes. */
SIMD_INLINE void nibbles32(const uint8_t *qs, bool high, v128_t bytes[2]) {
    for (int i = 0; i < 2; i++) {
        const v128_t v = wasm_v128_load(qs + 16 * i);
        bytes[i] = high ? high_nibbles(v) : wasm_v128_and(v, wasm_i8x16_splat(15));
    }
}

SIMD_INLINE void q4_k_load32(const uint8_t *group, uint32_t piece, v128_t bytes[2]) {
    nibbles32(((const block_q4_k *)group)->qs + 32 * (piece / 2), piece & 1, bytes);
}

SIMD_INLINE void q5_k_load32(const uint8_t *group, uint32_t piece, v128_t bytes[2]) {
    const block_q5_k *block = (const block_q5_k *)group;
    const v128_t bit = wasm_i8x16_splat((int8_t)(1u << piece));
    nibbles32(block->qs + 32 * (piece / 2), piece & 1, bytes);
    for (int i = 0; i < 2; i++) {
        const v128_t fifth = wasm_i8x16_eq(wasm_v128_and(wasm_v128_load(block->qh + 16 * i), bit), bit);
        bytes[i] = wasm_v128_or(bytes[i], wasm_v128_and(fifth, wasm_i8x16_splat(16)));
    }
}

SIMD_INLINE void q6_k_scales(const uint8_t *group, uint32_t count, v128_t scale[4], v128_t min[2]) {
    (void)count, (void)min;
    const block_q6_k *block = (const block_q6_k *)group;
    const v128_t bytes = wasm_v128_load(block->scales), d = simd_from_scales(wasm_i32x4_splat((int16_t)block->d));
    const v128_t low = wasm_i16x8_extend_low_i8x16(bytes), high = wasm_i16x8_extend_high_i8x16(bytes);
    scale[0] = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(low)), d);
    scale[1] = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(low)), d);
    scale[2] = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(high)), d);
    scale[3] = wasm_f32x4_mul(wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(high)), d);
}

SIMD_INLINE void q6_k_load32(const uint8_t *group, uint32_t piece, v128_t bytes[2]) {
    const block_q6_k *block = (const block_q6_k *)group;
    nibbles32(block->ql + 64 * (piece / 4) + 32 * (piece & 1), piece & 2, bytes);
    for (int i = 0; i < 2; i++) { /* two of eight bits become the upper two of six; whole 16-bit lanes may shift, the mask cuts */
        const v128_t v = wasm_v128_load(block->qh + 32 * (piece / 4) + 16 * i);
        const v128_t high = (piece & 3) == 3 ? wasm_u16x8_shr(v, 2) : wasm_i16x8_shl(v, 4 - 2 * (piece & 3));
        bytes[i] = wasm_v128_or(bytes[i], wasm_v128_and(high, wasm_i8x16_splat(0x30)));
    }
}

static const quant quant_q8_0 = {32, 0, false, true, true, 8 * sizeof(block_q8_0), q8_0_load32, q8_0_scales};
static const quant quant_q4_0 = {32, 3, false, false, true, 8 * sizeof(block_q4_0), q4_0_load32, q4_0_scales};
static const quant quant_q4_k = {32, 0, true, false, false, sizeof(block_q4_k), q4_k_load32, k_scales};
static const quant quant_q5_k = {32, 0, true, false, false, sizeof(block_q5_k), q5_k_load32, k_scales};
static const quant quant_q6_k = {16, 5, false, false, false, sizeof(block_q6_k), q6_k_load32, q6_k_scales};

/* ---- preparing activations: x[i] ~ d[i / 32] * q[i] ---- */

/* GROUP_K activations of a row; in the last, short group the rest of the scales and sums is zero. */
typedef struct group {
    activation q[GROUP_K];
    float d[GROUP_K / 32];              /* scale */
    float d_sum[GROUP_K / 32];          /* d * sum of q: what mins multiply */
    int32_t minus_sum32[GROUP_K / 32];  /* -sum of q: what offsets multiply */
    int32_t minus_sum16[GROUP_K / 16];
} group;

static size_t groups_of(uint32_t k) {
    return ((size_t)k + GROUP_K - 1) / GROUP_K;
}

static size_t prepared_size(uint32_t n_rows, uint32_t k) {
    return n_rows * groups_of(k) * sizeof(group);
}

SIMD_INLINE int sum_lanes(v128_t v) {
    v = wasm_i32x4_add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
    return wasm_i32x4_extract_lane(v, 0) + wasm_i32x4_extract_lane(v, 1);
}

static void prepare_block(const float *x, group *g, uint32_t b) {
    v128_t most = wasm_f32x4_splat(0), unordered = wasm_f32x4_splat(0), q[8];
    for (int i = 0; i < 8; i++) {
        const v128_t v = wasm_v128_load(x + 4 * i);
        most = wasm_f32x4_pmax(most, wasm_f32x4_abs(v));
        unordered = wasm_v128_or(unordered, wasm_f32x4_ne(v, v));
    }
    const float largest = simd_max(most);
    const bool is_zero = largest < 1e-30f; /* else LARGEST / largest could overflow */
    const float inverse = is_zero ? 0.0f : LARGEST / largest;
    float d = is_zero ? 0.0f : largest / LARGEST;
    if (wasm_v128_any_true(unordered)) d = __builtin_nanf(""); /* a NaN goes on into the result */
    for (int i = 0; i < 8; i++) q[i] = simd_round(wasm_f32x4_mul(wasm_v128_load(x + 4 * i), wasm_f32x4_splat(inverse)));
    store_activations(g->q + 32 * b, q);
    store_activations(g->q + 32 * b + 16, q + 4);
    const int sum0 = sum_lanes(wasm_i32x4_add(wasm_i32x4_add(q[0], q[1]), wasm_i32x4_add(q[2], q[3])));
    const int sum1 = sum_lanes(wasm_i32x4_add(wasm_i32x4_add(q[4], q[5]), wasm_i32x4_add(q[6], q[7])));
    g->d[b] = d;
    g->d_sum[b] = d * (float)(sum0 + sum1);
    g->minus_sum32[b] = -(sum0 + sum1);
    g->minus_sum16[2 * b] = -sum0;
    g->minus_sum16[2 * b + 1] = -sum1;
}

static void prepare(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared) {
    (void)n_rows;
    group *g = (group *)prepared + row0 * groups_of(k);
    for (size_t r = row0; r < row1; r++) {
        for (uint32_t k0 = 0; k0 < k; k0 += GROUP_K, g++) {
            const uint32_t blocks = k - k0 < GROUP_K ? (k - k0) / 32 : GROUP_K / 32;
            if (blocks < GROUP_K / 32) memset(g, 0, sizeof *g);
            for (uint32_t b = 0; b < blocks; b++) prepare_block(x + r * x_stride + k0 + 32 * b, g, b);
        }
    }
}

/* ---- few rows ---- */

/* Multiplies the weights' scales with the activations' into s; returns what offsets or mins add to the result. */
SIMD_INLINE v128_t group_scales(const quant *t, const group *x, const v128_t scale[4], const v128_t min[2], float s[16]) {
    const v128_t d[2] = {wasm_v128_load(x->d), wasm_v128_load(x->d + 4)};
    v128_t added = wasm_f32x4_splat(0), both[4];
    if (t->sub == 16) {
        for (int h = 0; h < 2; h++) {
            both[2 * h] = wasm_f32x4_mul(scale[2 * h], wasm_i32x4_shuffle(d[h], d[h], 0, 0, 1, 1));
            both[2 * h + 1] = wasm_f32x4_mul(scale[2 * h + 1], wasm_i32x4_shuffle(d[h], d[h], 2, 2, 3, 3));
        }
    } else {
        for (int h = 0; h < 2; h++) both[h] = wasm_f32x4_mul(scale[h], d[h]);
    }
    const int32_t *minus_sum = t->sub == 16 ? x->minus_sum16 : x->minus_sum32;
    for (uint32_t i = 0; i < GROUP_K / t->sub / 4; i++) {
        wasm_v128_store(s + 4 * i, both[i]);
        if (!t->offset_shift) continue;
        const v128_t sum = wasm_i32x4_shl(wasm_v128_load(minus_sum + 4 * i), t->offset_shift);
        added = simd_madd(both[i], wasm_f32x4_convert_i32x4(sum), added);
    }
    for (int h = 0; t->has_min && h < 2; h++) added = simd_nmadd(min[h], wasm_v128_load(x->d_sum + 4 * h), added);
    return added;
}

/* sum + 16 weights . 16 activations */
SIMD_INLINE v128_t dot16(const quant *t, v128_t bytes, const activation *x, v128_t sum) {
    v128_t w[VECTORS];
    spread(bytes, t->is_signed, w);
    for (int i = 0; i < VECTORS; i++) sum = multiply(wasm_v128_load(x + 4 * SPLAT * i), w[i], sum);
    return sum;
}

/* acc[m] += 32 weights . x[m] */
SIMD_INLINE void few_piece(const quant *t, const uint8_t *w, uint32_t p, const group *const x[], float s[][16], uint32_t m_count,
                           v128_t acc[][2]) {
    v128_t bytes[2];
    t->load32(w, p, bytes);
    for (uint32_t m = 0; m < m_count; m++) {
        const activation *q = x[m]->q + 32 * p;
        const v128_t zero = wasm_i32x4_splat(0);
        v128_t *sum = &acc[m][m_count <= 2 ? p & 1 : 0]; /* few rows need two sums each, or additions wait for each other */
        if (t->sub == 16) {
            const v128_t dot[2] = {dot16(t, bytes[0], q, zero), dot16(t, bytes[1], q + 16, zero)};
            *sum = simd_madd(wasm_f32x4_convert_i32x4(dot[0]), wasm_v128_load32_splat(&s[m][2 * p]), *sum);
            *sum = simd_madd(wasm_f32x4_convert_i32x4(dot[1]), wasm_v128_load32_splat(&s[m][2 * p + 1]), *sum);
        } else {
            const v128_t dot = dot16(t, bytes[1], q + 16, dot16(t, bytes[0], q, zero));
            *sum = simd_madd(wasm_f32x4_convert_i32x4(dot), wasm_v128_load32_splat(&s[m][p]), *sum);
        }
    }
}

/* acc[m] += the first `count` sub-blocks of a group of w . x[m] */
SIMD_INLINE void few_group(const quant *t, const uint8_t *w, uint32_t count, const group *const x[], uint32_t m_count, v128_t acc[]) {
    v128_t scale[4], min[2], sums[FEW_ROWS][2];
    float s[FEW_ROWS][16];
    SIMD_OPAQUE(w);
    t->scales(w, count, scale, min);
    for (uint32_t m = 0; m < m_count; m++) {
        sums[m][0] = acc[m];
        sums[m][1] = group_scales(t, x[m], scale, min, s[m]);
    }
    if (count == GROUP_K / t->sub) {
        CPU_UNROLL for (uint32_t p = 0; p < GROUP_K / 32; p++) few_piece(t, w, p, x, s, m_count, sums);
    } else {
        for (uint32_t p = 0; p < count; p++) few_piece(t, w, p, x, s, m_count, sums); /* only small blocks get here */
    }
    for (uint32_t m = 0; m < m_count; m++) acc[m] = wasm_f32x4_add(sums[m][0], sums[m][1]);
}

SIMD_INLINE void few_rows(const quant *t, const uint8_t *w, size_t row_bytes, const group *prepared, uint32_t m_count, uint32_t k,
                          uint32_t n_out, float *out, size_t out_stride) {
    for (uint32_t o = 0; o < n_out; o++, w += row_bytes) {
        v128_t acc[FEW_ROWS];
        const group *x[FEW_ROWS];
        for (uint32_t m = 0; m < m_count; m++) {
            acc[m] = wasm_f32x4_splat(0);
            x[m] = prepared + m * groups_of(k);
        }
        const uint8_t *group_w = w;
        for (uint32_t g = 0; g < k / GROUP_K; g++, group_w += t->group_bytes) {
            few_group(t, group_w, GROUP_K / t->sub, x, m_count, acc);
            for (uint32_t m = 0; m < m_count; m++) x[m]++;
        }
        if (t->is_small && k % GROUP_K) few_group(t, group_w, k % GROUP_K / 32, x, m_count, acc);
        for (uint32_t m = 0; m < m_count; m++) out[m * out_stride + o] = simd_sum(acc[m]);
    }
}

/* ---- many rows ---- */

/* The weights of OUTPUTS outputs, SPLAT elements of each output side by side, and their scales. */
typedef struct panel {
    _Alignas(16) activation w[PANEL_K / SPLAT][OUTPUTS][SPLAT];
    float scale[PANEL_K / 16][OUTPUTS];
    float min[PANEL_K / 32][OUTPUTS];
} panel;

SIMD_INLINE void panel_store16(const quant *t, v128_t bytes, activation to[][OUTPUTS][SPLAT]) {
    v128_t w[VECTORS];
    spread(bytes, t->is_signed, w);
    for (int i = 0; i < VECTORS; i++, to += 4) {
        wasm_v128_store32_lane(to[0], w[i], 0);
        wasm_v128_store32_lane(to[1], w[i], 1);
        wasm_v128_store32_lane(to[2], w[i], 2);
        wasm_v128_store32_lane(to[3], w[i], 3);
    }
}

/* The first `count` sub-blocks of a group of output o become elements from k0 on of the panel. */
SIMD_INLINE void panel_group(const quant *t, const uint8_t *w, uint32_t count, panel *p, uint32_t k0, uint32_t o) {
    v128_t scale[4], min[2];
    float s[16], m[8];
    t->scales(w, count, scale, min);
    for (uint32_t i = 0; i < GROUP_K / t->sub / 4; i++) wasm_v128_store(s + 4 * i, scale[i]);
    for (uint32_t i = 0; i < count; i++) p->scale[k0 / t->sub + i][o] = s[i];
    if (t->has_min) {
        for (uint32_t i = 0; i < 2; i++) wasm_v128_store(m + 4 * i, min[i]);
        for (uint32_t i = 0; i < count; i++) p->min[k0 / 32 + i][o] = m[i];
    }
    activation(*to)[OUTPUTS][SPLAT] = (activation(*)[OUTPUTS][SPLAT])p->w[k0 / SPLAT][o];
    for (uint32_t i = 0; i < count * t->sub / 32; i++, to += 32 / SPLAT) {
        v128_t bytes[2];
        t->load32(w, i, bytes);
        panel_store16(t, bytes[0], to);
        panel_store16(t, bytes[1], to + 16 / SPLAT);
    }
}

/* Elements [0, k) of OUTPUTS rows of weights; past the last output the last is repeated, computed and not stored. */
SIMD_INLINE void panel_fill(const quant *t, const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t k, panel *p) {
    for (uint32_t o = 0; o < OUTPUTS; o++) {
        const uint8_t *from = w + (o < n_out ? o : n_out - 1) * row_bytes;
        for (uint32_t k0 = 0; k0 < k; k0 += GROUP_K, from += t->group_bytes)
            panel_group(t, from, (k - k0 < GROUP_K ? k - k0 : GROUP_K) / t->sub, p, k0, o);
    }
}

/* sums[r] = 16 or 32 activations of row r . weights of each output; they start so that the weights' offset counts for nothing. */
SIMD_INLINE void panel_dot(const quant *t, activation (*w)[OUTPUTS][SPLAT], const activation *const q[], const int32_t *const minus_sum[],
                           uint32_t rows, v128_t sums[TILE_ROWS][2]) {
    for (uint32_t r = 0; r < rows; r++) {
        v128_t start = wasm_i32x4_splat(0);
        if (t->offset_shift) start = wasm_i32x4_shl(wasm_v128_load32_splat(minus_sum[r]), t->offset_shift);
        sums[r][0] = sums[r][1] = start;
    }
    CPU_UNROLL for (uint32_t i = 0; i < t->sub / SPLAT; i++) {
        const v128_t w0 = wasm_v128_load(w[i][0]), w1 = wasm_v128_load(w[i][4]);
        for (uint32_t r = 0; r < rows; r++) {
            const v128_t v = wasm_v128_load32_splat(q[r] + SPLAT * i);
            sums[r][0] = multiply(v, w0, sums[r][0]);
            sums[r][1] = multiply(v, w1, sums[r][1]);
            SIMD_STEP_DONE(sums[r][0], sums[r][1]);
        }
    }
}

/* acc[r] += block b of x[r] . the panel's weights from block at on */
SIMD_INLINE void panel_block(const quant *t, panel *p, uint32_t at, const group *const x[], uint32_t b, uint32_t rows,
                             v128_t acc[TILE_ROWS][2]) {
    v128_t sums[TILE_ROWS][2], part[TILE_ROWS][2];
    const activation *q[TILE_ROWS];
    const int32_t *minus_sum[TILE_ROWS];
    activation(*w)[OUTPUTS][SPLAT] = p->w + at * (32 / SPLAT);
    float(*scales)[OUTPUTS] = p->scale + at * (32 / t->sub);
    SIMD_OPAQUE(w);
    SIMD_OPAQUE(scales);
    for (uint32_t r = 0; r < rows; r++) {
        q[r] = x[r]->q + 32 * b;
        minus_sum[r] = t->sub == 16 ? x[r]->minus_sum16 + 2 * b : x[r]->minus_sum32 + b;
        SIMD_OPAQUE(q[r]);
    }
    for (uint32_t i = 0; i < 32 / t->sub; i++) {
        panel_dot(t, w + 16 / SPLAT * i, q, minus_sum, rows, sums);
        const v128_t scale[2] = {wasm_v128_load(scales[i]), wasm_v128_load(scales[i] + 4)};
        for (uint32_t r = 0; r < rows; r++) {
            for (int h = 0; h < 2; h++) {
                const v128_t dot = wasm_f32x4_convert_i32x4(sums[r][h]);
                part[r][h] = i ? simd_madd(dot, scale[h], part[r][h]) : wasm_f32x4_mul(dot, scale[h]);
            }
            q[r] += 16;
            minus_sum[r]++;
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        const v128_t d = wasm_v128_load32_splat(x[r]->d + b);
        for (int h = 0; h < 2; h++) acc[r][h] = simd_madd(part[r][h], d, acc[r][h]);
        if (t->has_min) {
            const v128_t d_sum = wasm_v128_load32_splat(x[r]->d_sum + b);
            for (int h = 0; h < 2; h++) acc[r][h] = simd_nmadd(wasm_v128_load(p->min[at] + 4 * h), d_sum, acc[r][h]);
        }
        SIMD_STEP_DONE(acc[r][0], acc[r][1]);
    }
}

/* out[r][o] = or += the panel's part; x: the rows' first group in the panel, `stride` groups apart. */
SIMD_INLINE void panel_rows(const quant *t, panel *p, uint32_t k, const group *first, size_t stride, uint32_t rows, uint32_t n_out,
                            bool add, float *out, size_t out_stride) {
    v128_t acc[TILE_ROWS][2];
    const group *x[TILE_ROWS];
    for (uint32_t r = 0; r < rows; r++) {
        acc[r][0] = acc[r][1] = wasm_f32x4_splat(0);
        x[r] = first + r * stride;
    }
    for (uint32_t at = 0; at < k / 32;) {
        for (uint32_t b = 0; b < GROUP_K / 32 && at < k / 32; b++, at++) panel_block(t, p, at, x, b, rows, acc);
        for (uint32_t r = 0; r < rows; r++) x[r]++;
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t h = 0; h < 2 && 4 * h < n_out; h++) {
            float *to = out + r * out_stride + 4 * h;
            simd_store(to, n_out - 4 * h, add ? wasm_f32x4_add(acc[r][h], simd_load(to, n_out - 4 * h)) : acc[r][h]);
        }
    }
}

/* All rows times elements [k0, k0 + n) of the panel's outputs. */
SIMD_INLINE void panel_multiply(const quant *t, panel *p, const group *prepared, uint32_t n_rows, uint32_t k, uint32_t k0, uint32_t n,
                                uint32_t n_out, float *out, size_t out_stride) {
    const size_t stride = groups_of(k);
    const group *x = prepared + k0 / GROUP_K;
    uint32_t r = 0;
    for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS)
        panel_rows(t, p, n, x + r * stride, stride, TILE_ROWS, n_out, k0 != 0, out + r * out_stride, out_stride);
    for (; r < n_rows; r++) panel_rows(t, p, n, x + r * stride, stride, 1, n_out, k0 != 0, out + r * out_stride, out_stride);
}

/* ---- the table ---- */

/* One function for every loop: engines make better code of several small functions than of one large. */
#define NOT_INLINED static __attribute__((noinline)) void
#define DEFINE_FEW(suffix, rows) \
    NOT_INLINED few##rows##_##suffix(const uint8_t *w, size_t row_bytes, const group *x, uint32_t k, uint32_t n_out, float *out, \
                                     size_t out_stride) { \
        few_rows(&quant_##suffix, w, row_bytes, x, rows, k, n_out, out, out_stride); \
    }
#define DEFINE_MATMUL(suffix, group_bytes) \
    DEFINE_FEW(suffix, 1) \
    DEFINE_FEW(suffix, 2) \
    DEFINE_FEW(suffix, 3) \
    DEFINE_FEW(suffix, 4) \
    NOT_INLINED fill_##suffix(const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t k, panel *p) { \
        panel_fill(&quant_##suffix, w, row_bytes, n_out, k, p); \
    } \
    NOT_INLINED multiply_##suffix(panel *p, const group *x, uint32_t n_rows, uint32_t k, uint32_t k0, uint32_t n, uint32_t n_out, \
                                  float *out, size_t out_stride) { \
        panel_multiply(&quant_##suffix, p, x, n_rows, k, k0, n, n_out, out, out_stride); \
    } \
    static const kernels kernels_##suffix = {group_bytes, {few1_##suffix, few2_##suffix, few3_##suffix, few4_##suffix}, \
                                             fill_##suffix, multiply_##suffix}; \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(&kernels_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }

/* The loops of one type. */
typedef struct kernels {
    uint32_t group_bytes;
    void (*few[FEW_ROWS])(const uint8_t *w, size_t row_bytes, const group *x, uint32_t k, uint32_t n_out, float *out, size_t out_stride);
    void (*fill)(const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t k, panel *p);
    void (*multiply)(panel *p, const group *x, uint32_t n_rows, uint32_t k, uint32_t k0, uint32_t n, uint32_t n_out, float *out,
                     size_t out_stride);
} kernels;

static void matmul(const kernels *f, const void *weights, size_t row_bytes, const group *x, uint32_t n_rows, uint32_t k, uint32_t out0,
                   uint32_t out1, float *out, size_t out_stride) {
    panel p;
    const uint8_t *w = (const uint8_t *)weights + out0 * row_bytes;
    if (n_rows == 0 || out0 >= out1) return;
    if (n_rows <= FEW_ROWS) {
        f->few[n_rows - 1](w, row_bytes, x, k, out1 - out0, out + out0, out_stride);
        return;
    }
    for (size_t o = out0; o < out1; o += OUTPUTS, w += OUTPUTS * row_bytes) {
        const uint32_t n_out = out1 - o < OUTPUTS ? (uint32_t)(out1 - o) : OUTPUTS;
        for (uint32_t k0 = 0; k0 < k; k0 += PANEL_K) {
            const uint32_t n = k - k0 < PANEL_K ? k - k0 : PANEL_K;
            f->fill(w + k0 / GROUP_K * f->group_bytes, row_bytes, n_out, n, &p);
            f->multiply(&p, x, n_rows, k, k0, n, n_out, out + o, out_stride);
        }
    }
}

DEFINE_MATMUL(q8_0, 8 * sizeof(block_q8_0))
DEFINE_MATMUL(q4_0, 8 * sizeof(block_q4_0))
DEFINE_MATMUL(q4_k, sizeof(block_q4_k))
DEFINE_MATMUL(q5_k, sizeof(block_q5_k))
DEFINE_MATMUL(q6_k, sizeof(block_q6_k))

#ifdef CPU_RELAXED

/* Bytes with the top bit set are beyond what relaxed products promise. Engines take them as unsigned or as signed numbers, or
 * let pairs of products overflow; Q8_0 has a form for each of the first two and stays with plain SIMD for the last. */
SIMD_INLINE void q8_0_load32_offset(const uint8_t *group, uint32_t piece, v128_t bytes[2]) {
    q8_0_load32(group, piece, bytes);
    bytes[0] = wasm_v128_xor(bytes[0], wasm_i8x16_splat((int8_t)0x80));
    bytes[1] = wasm_v128_xor(bytes[1], wasm_i8x16_splat((int8_t)0x80));
}

static const quant quant_q8_0_offset = {32, 7, false, false, true, 8 * sizeof(block_q8_0), q8_0_load32_offset, q8_0_scales};
DEFINE_MATMUL(q8_0_offset, 8 * sizeof(block_q8_0))

/* 127 times four bytes 255 */
static int probe(void) {
    volatile int8_t x = 127, w = -1; /* volatile: the engine answers, not the compiler */
    return wasm_i32x4_extract_lane(multiply(wasm_i8x16_splat(x), wasm_i8x16_splat(w), wasm_i32x4_splat(0)), 0);
}

void cpu_fill_matmul_relaxed(cpu_ops *ops) {
    const int answer = probe();
    if (answer == 4 * 127 * 255) ops->matmul[BLOCK_Q8_0] = (cpu_matmul){prepared_size, prepare, matmul_q8_0_offset, OUTPUTS};
    else if (answer == 4 * 127 * -1) ops->matmul[BLOCK_Q8_0] = (cpu_matmul){prepared_size, prepare, matmul_q8_0, OUTPUTS};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){prepared_size, prepare, matmul_q4_0, OUTPUTS};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){prepared_size, prepare, matmul_q4_k, OUTPUTS};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){prepared_size, prepare, matmul_q5_k, OUTPUTS};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){prepared_size, prepare, matmul_q6_k, OUTPUTS};
}

#else

void cpu_fill_matmul_simd128(cpu_ops *ops) {
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){prepared_size, prepare, matmul_q8_0, OUTPUTS};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){prepared_size, prepare, matmul_q4_0, OUTPUTS};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){prepared_size, prepare, matmul_q4_k, OUTPUTS};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){prepared_size, prepare, matmul_q5_k, OUTPUTS};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){prepared_size, prepare, matmul_q6_k, OUTPUTS};
}

#endif
