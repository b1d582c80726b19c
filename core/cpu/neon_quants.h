/* neon_quants.h: the quantized block types as the NEON kernels see them. A `quant` says how 32 weights of a type become bytes in
 * order, and how a group of 256 weights gives its scales; the kernels' loops serve all types. Bytes are below 64 or signed, so
 * that the signed products of NEON take them all. */
#ifndef REALM_CPU_NEON_QUANTS_H
#define REALM_CPU_NEON_QUANTS_H

#include "neon.h"

#define GROUP_K 256

typedef struct quant {
    uint32_t sub;         /* elements that share a scale: 16 or 32 */
    uint32_t offset;      /* load32 gives weight + offset */
    bool has_min;         /* weight = scale * byte - min */
    bool is_small;        /* blocks of 32: the last group of a row may be short */
    uint32_t group_bytes; /* GROUP_K weights in the file */
    /* Weights [32 * piece, 32 * piece + 32) of a group. */
    int8x16x2_t (*load32)(const uint8_t *group, uint32_t piece);
    /* Scales (and mins, per 32) of the first `count` sub-blocks of a group; zero beyond. */
    void (*scales)(const uint8_t *group, uint32_t count, float32x4_t scale[4], float32x4_t min[2]);
} quant;

/* Half-precision scales of up to 8 small blocks, which open with them. */
NEON_INLINE void block_scales(const uint8_t *group, uint32_t count, size_t block_bytes, float32x4_t scale[4]) {
    uint16x8_t h = vdupq_n_u16(0);
    if (count == 8) {
        h = vsetq_lane_u16(base_u16(group), h, 0);
        h = vsetq_lane_u16(base_u16(group + block_bytes), h, 1);
        h = vsetq_lane_u16(base_u16(group + 2 * block_bytes), h, 2);
        h = vsetq_lane_u16(base_u16(group + 3 * block_bytes), h, 3);
        h = vsetq_lane_u16(base_u16(group + 4 * block_bytes), h, 4);
        h = vsetq_lane_u16(base_u16(group + 5 * block_bytes), h, 5);
        h = vsetq_lane_u16(base_u16(group + 6 * block_bytes), h, 6);
        h = vsetq_lane_u16(base_u16(group + 7 * block_bytes), h, 7);
    } else {
        uint16_t some[8] = {0};
        for (uint32_t b = 0; b < count; b++) some[b] = base_u16(group + b * block_bytes);
        h = vld1q_u16(some);
    }
    scale[0] = neon_from_halves(vget_low_u16(h));
    scale[1] = neon_from_halves(vget_high_u16(h));
}

NEON_INLINE void q8_0_scales(const uint8_t *group, uint32_t count, float32x4_t scale[4], float32x4_t min[2]) {
    (void)min;
    block_scales(group, count, sizeof(block_q8_0), scale);
}

NEON_INLINE int8x16x2_t q8_0_load32(const uint8_t *group, uint32_t piece) {
    const int8_t *qs = ((const block_q8_0 *)group)[piece].qs;
    return (int8x16x2_t){{vld1q_s8(qs), vld1q_s8(qs + 16)}};
}

NEON_INLINE void q4_0_scales(const uint8_t *group, uint32_t count, float32x4_t scale[4], float32x4_t min[2]) {
    (void)min;
    block_scales(group, count, sizeof(block_q4_0), scale);
}

NEON_INLINE int8x16_t low_nibbles(uint8x16_t v) {
    return vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15)));
}

NEON_INLINE int8x16_t high_nibbles(uint8x16_t v) {
    return vreinterpretq_s8_u8(vshrq_n_u8(v, 4));
}

NEON_INLINE int8x16x2_t q4_0_load32(const uint8_t *group, uint32_t piece) {
    const uint8x16_t v = vld1q_u8(((const block_q4_0 *)group)[piece].qs);
    return (int8x16x2_t){{low_nibbles(v), high_nibbles(v)}};
}

/* Eight numbers times a factor. */
NEON_INLINE void scale_words(int16x8_t words, float factor, float32x4_t out[2]) {
    out[0] = vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), factor);
    out[1] = vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(words))), factor);
}

/* Q4_K and Q5_K open with d, dmin and eight 6-bit scales and mins in 12 bytes. */
NEON_INLINE void k_scales(const uint8_t *block, uint32_t count, float32x4_t scale[4], float32x4_t min[2]) {
    (void)count;
    const uint32_t a = base_u32(block + 4), b = base_u32(block + 8), c = base_u32(block + 12);
    const uint32_t scales_high = (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u), mins_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u);
    const int8x8_t scales = vcreate_s8((uint64_t)scales_high << 32 | (a & 0x3f3f3f3fu));
    const int8x8_t mins = vcreate_s8((uint64_t)mins_high << 32 | (b & 0x3f3f3f3fu));
    const float32x4_t d = neon_from_halves(vcreate_u16(base_u32(block)));
    scale_words(vmovl_s8(scales), vgetq_lane_f32(d, 0), scale);
    scale_words(vmovl_s8(mins), vgetq_lane_f32(d, 1), min);
}

/* Low or high nibbles of 32 bytes. */
NEON_INLINE int8x16x2_t nibbles32(const uint8_t *qs, bool high) {
    const uint8x16_t v0 = vld1q_u8(qs), v1 = vld1q_u8(qs + 16);
    return high ? (int8x16x2_t){{high_nibbles(v0), high_nibbles(v1)}} : (int8x16x2_t){{low_nibbles(v0), low_nibbles(v1)}};
}

NEON_INLINE int8x16x2_t q4_k_load32(const uint8_t *group, uint32_t piece) {
    return nibbles32(((const block_q4_k *)group)->qs + 32 * (piece / 2), piece & 1);
}

/* Bits [from, ...) of each byte moved to [to, ...), ones that do not belong there taken away by the mask. */
NEON_INLINE int8x16_t move_bits(const uint8_t *bytes, uint32_t from, uint32_t to, uint8_t mask) {
    const int8x16_t by = vdupq_n_s8((int8_t)((int)to - (int)from)); /* constant: becomes an immediate shift */
    return vreinterpretq_s8_u8(vandq_u8(vshlq_u8(vld1q_u8(bytes), by), vdupq_n_u8(mask)));
}

NEON_INLINE int8x16x2_t q5_k_load32(const uint8_t *group, uint32_t piece) {
    const block_q5_k *block = (const block_q5_k *)group;
    int8x16x2_t v = nibbles32(block->qs + 32 * (piece / 2), piece & 1);
    for (int i = 0; i < 2; i++) v.val[i] = vorrq_s8(v.val[i], move_bits(block->qh + 16 * i, piece, 4, 0x10));
    return v;
}

NEON_INLINE void q6_k_scales(const uint8_t *group, uint32_t count, float32x4_t scale[4], float32x4_t min[2]) {
    (void)count, (void)min;
    const block_q6_k *block = (const block_q6_k *)group;
    const int8x16_t bytes = vld1q_s8(block->scales);
    const float d = vgetq_lane_f32(neon_from_halves(vdup_n_u16(block->d)), 0);
    scale_words(vmovl_s8(vget_low_s8(bytes)), d, scale);
    scale_words(vmovl_s8(vget_high_s8(bytes)), d, scale + 2);
}

NEON_INLINE int8x16x2_t q6_k_load32(const uint8_t *group, uint32_t piece) {
    const block_q6_k *block = (const block_q6_k *)group;
    int8x16x2_t v = nibbles32(block->ql + 64 * (piece / 4) + 32 * (piece & 1), piece & 2);
    for (uint32_t i = 0; i < 2; i++)
        v.val[i] = vorrq_s8(v.val[i], move_bits(block->qh + 32 * (piece / 4) + 16 * i, 2 * (piece & 3), 4, 0x30));
    return v;
}

static const quant quant_q8_0 = {32, 0, false, true, 8 * sizeof(block_q8_0), q8_0_load32, q8_0_scales};
static const quant quant_q4_0 = {32, 8, false, true, 8 * sizeof(block_q4_0), q4_0_load32, q4_0_scales};
static const quant quant_q4_k = {32, 0, true, false, sizeof(block_q4_k), q4_k_load32, k_scales};
static const quant quant_q5_k = {32, 0, true, false, sizeof(block_q5_k), q5_k_load32, k_scales};
static const quant quant_q6_k = {16, 32, false, false, sizeof(block_q6_k), q6_k_load32, q6_k_scales};

#endif
