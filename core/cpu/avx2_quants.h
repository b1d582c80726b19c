/* avx2_quants.h: the quantized block types as the AVX2 kernels see them. A `quant` says how 32 weights of a type become bytes in
 * order, and how a group of 256 weights gives its scales; the kernels' loops serve all types. */
#ifndef REALM_CPU_AVX2_QUANTS_H
#define REALM_CPU_AVX2_QUANTS_H

#include "avx2.h"

#define GROUP_K 256

typedef struct quant {
    uint32_t sub;         /* elements that share a scale: 16 or 32 */
    uint32_t offset;      /* load32 gives weight + offset as unsigned bytes; 0: signed or with mins */
    bool has_min;         /* weight = scale * u - min */
    bool is_signed;       /* load32 gives signed bytes */
    uint32_t group_bytes; /* GROUP_K weights in the file */
    uint32_t adds;        /* how many 16-bit sums of two products may be added without overflow */
    __m256i (*load32)(const uint8_t *group, uint32_t piece); /* weights [32 * piece, 32 * piece + 32) of a group */
    /* Scales (and mins, per 32) of the first `count` sub-blocks of a group; zero beyond. */
    void (*scales)(const uint8_t *group, uint32_t count, __m256 scale[2], __m256 *min);
} quant;

/* ---- the types ---- */

/* Half-precision scales of up to 8 small blocks, which open with them. */
AVX2_INLINE __m256 block_scales(const uint8_t *group, uint32_t count, size_t block_bytes) {
    uint16_t d[8] = {0};
    for (uint32_t b = 0; b < count; b++) d[b] = base_u16(group + b * block_bytes);
    return _mm256_cvtph_ps(_mm_set_epi16((short)d[7], (short)d[6], (short)d[5], (short)d[4], (short)d[3], (short)d[2], (short)d[1],
                                         (short)d[0]));
}

AVX2_INLINE void q8_0_scales(const uint8_t *group, uint32_t count, __m256 scale[2], __m256 *min) {
    scale[0] = block_scales(group, count, sizeof(block_q8_0));
    scale[1] = *min = _mm256_setzero_ps();
}

AVX2_INLINE __m256i q8_0_load32(const uint8_t *group, uint32_t piece) {
    return _mm256_loadu_si256((const __m256i *)((const block_q8_0 *)group)[piece].qs);
}

AVX2_INLINE void q4_0_scales(const uint8_t *group, uint32_t count, __m256 scale[2], __m256 *min) {
    scale[0] = block_scales(group, count, sizeof(block_q4_0));
    scale[1] = *min = _mm256_setzero_ps();
}

AVX2_INLINE __m256i q4_0_load32(const uint8_t *group, uint32_t piece) {
    __m128i v = _mm_loadu_si128((const __m128i *)((const block_q4_0 *)group)[piece].qs);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
}

/* Q4_K and Q5_K open with d, dmin and eight 6-bit scales and mins in 12 bytes. */
AVX2_INLINE void k_scales(const uint8_t *block, uint32_t count, __m256 scale[2], __m256 *min) {
    (void)count;
    uint32_t a = base_u32(block + 4), b = base_u32(block + 8), c = base_u32(block + 12);
    uint32_t scales_high = (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u), mins_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u);
    __m128i bytes = _mm_set_epi32((int)mins_high, (int)(b & 0x3f3f3f3fu), (int)scales_high, (int)(a & 0x3f3f3f3fu));
    __m128 d = _mm_cvtph_ps(_mm_cvtsi32_si128((int)base_u32(block)));
    scale[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), _mm256_broadcastss_ps(d));
    scale[1] = _mm256_setzero_ps();
    *min = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))), _mm256_broadcastss_ps(_mm_movehdup_ps(d)));
}

/* Low or high nibbles of 32 bytes. */
AVX2_INLINE __m256i nibbles32(const uint8_t *qs, bool high) {
    __m256i v = _mm256_loadu_si256((const __m256i *)qs);
    return _mm256_and_si256(high ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
}

AVX2_INLINE __m256i q4_k_load32(const uint8_t *group, uint32_t piece) {
    return nibbles32(((const block_q4_k *)group)->qs + 32 * (piece / 2), piece & 1);
}

AVX2_INLINE __m256i q5_k_load32(const uint8_t *group, uint32_t piece) {
    const block_q5_k *block = (const block_q5_k *)group;
    const __m256i bit = _mm256_set1_epi8((char)(1u << piece));
    __m256i fifth = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_loadu_si256((const __m256i *)block->qh), bit), bit);
    return _mm256_or_si256(nibbles32(block->qs + 32 * (piece / 2), piece & 1), _mm256_and_si256(fifth, _mm256_set1_epi8(16)));
}

AVX2_INLINE void q6_k_scales(const uint8_t *group, uint32_t count, __m256 scale[2], __m256 *min) {
    (void)count;
    const block_q6_k *block = (const block_q6_k *)group;
    __m128i bytes = _mm_loadu_si128((const __m128i *)block->scales);
    __m256 d = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(block->d)));
    scale[0] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), d);
    scale[1] = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))), d);
    *min = _mm256_setzero_ps();
}

AVX2_INLINE __m256i q6_k_load32(const uint8_t *group, uint32_t piece) {
    const block_q6_k *block = (const block_q6_k *)group;
    __m256i low = nibbles32(block->ql + 64 * (piece / 4) + 32 * (piece & 1), piece & 2);
    __m256i high = _mm256_loadu_si256((const __m256i *)(block->qh + 32 * (piece / 4)));
    high = _mm256_srl_epi16(high, _mm_cvtsi32_si128((int)(2 * (piece & 3))));
    return _mm256_or_si256(low, _mm256_slli_epi16(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4));
}

static const quant quant_q8_0 = {32, 0, false, true, 8 * sizeof(block_q8_0), 1, q8_0_load32, q8_0_scales};
static const quant quant_q4_0 = {32, 8, false, false, 8 * sizeof(block_q4_0), 8, q4_0_load32, q4_0_scales};
static const quant quant_q4_k = {32, 0, true, false, sizeof(block_q4_k), 8, q4_k_load32, k_scales};
static const quant quant_q5_k = {32, 0, true, false, sizeof(block_q5_k), 4, q5_k_load32, k_scales};
static const quant quant_q6_k = {16, 32, false, false, sizeof(block_q6_k), 2, q6_k_load32, q6_k_scales};

#endif
