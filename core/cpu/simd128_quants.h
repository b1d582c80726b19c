/* simd128_quants.h: what WebAssembly's kernels for quantized weights stand on: how a weight type is described, and the form of the
 * activations it is multiplied with. Compiled twice: plain SIMD has a product of 16-bit numbers, so activations get 14 bits,
 * better than bf16; relaxed SIMD (CPU_RELAXED) has one of bytes, twice as fast: int8 activations with a scale per 32. */
#ifndef REALM_CPU_SIMD128_QUANTS_H
#define REALM_CPU_SIMD128_QUANTS_H

#include "packing.h"
#include "simd128.h"

#define GROUP_K 256
#define FEW_ROWS 4

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

#endif
