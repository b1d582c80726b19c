/* avx512_quants.h: the quantized block types as the AVX-512 and AMX kernels see them. A `quant` says how 64 weights of a type
 * become unsigned bytes in order, and how a group of 16 sub-blocks gives 16 scales; the kernels' loops serve all types. */
#ifndef REALM_CPU_AVX512_QUANTS_H
#define REALM_CPU_AVX512_QUANTS_H

#include "avx512.h"

#define GROUP 16 /* sub-blocks whose scales fit one vector */

typedef struct quant {
    uint32_t sub;         /* elements that share a scale: 16 or 32 */
    uint32_t offset;      /* the bytes load64 gives are weight + offset */
    bool has_min;         /* weight = scale * u - min instead */
    uint32_t group_bytes; /* GROUP sub-blocks in the file */
    /* Weights [64 * piece, 64 * piece + 64) of a group; with `half` only 32 of them exist, the rest are zero bytes. */
    __m512i (*load64)(const uint8_t *group, uint32_t piece, bool half);
    /* Scales (and mins) of the first `count` sub-blocks of a group; zero beyond. */
    void (*scales)(const uint8_t *group, uint32_t count, __m512 *scale, __m512 *min);
} quant;

/* ---- activations ---- */

AVX512_INLINE __m128i avx512_to_int8(__m512 x, float inverse) {
    return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(inverse))));
}

AVX512_INLINE int32_t avx512_sum_bytes(__m128i bytes) {
    __m128i sums = _mm_dpbusd_epi32(_mm_setzero_si128(), _mm_set1_epi8(1), bytes);
    sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0xb1)));
}

/* 32 activations as int8 times the scale returned, and the sums of each half. */
AVX512_INLINE float avx512_int8_block(__m512 x0, __m512 x1, __m128i bytes[2], int32_t sums[2]) {
    const float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
    const bool is_zero = most < 1e-30f; /* else 127 / most could overflow */
    const float inverse = is_zero ? 0.0f : 127.0f / most;
    bytes[0] = avx512_to_int8(x0, inverse);
    bytes[1] = avx512_to_int8(x1, inverse);
    sums[0] = avx512_sum_bytes(bytes[0]);
    sums[1] = avx512_sum_bytes(bytes[1]);
    if (_mm512_cmp_ps_mask(x0, x1, _CMP_UNORD_Q)) return __builtin_nanf(""); /* a NaN goes on into the result */
    return is_zero ? 0.0f : most / 127.0f;
}

/* ---- the types ---- */

/* Half-precision scales of up to 16 small blocks, which open with them. */
AVX512_INLINE __m512 block_scales(const uint8_t *group, uint32_t count, int block_bytes) {
    __m512i at = _mm512_mullo_epi32(avx512_iota(), _mm512_set1_epi32(block_bytes));
    __m512i first = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), avx512_mask(count), at, group, 1);
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(first));
}

AVX512_INLINE void q8_0_scales(const uint8_t *group, uint32_t count, __m512 *scale, __m512 *min) {
    *scale = block_scales(group, count, sizeof(block_q8_0));
    *min = _mm512_setzero_ps();
}

AVX512_INLINE __m512i q8_0_load64(const uint8_t *group, uint32_t piece, bool half) {
    const block_q8_0 *block = (const block_q8_0 *)group + 2 * piece;
    __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)block[0].qs));
    v = half ? _mm512_zextsi256_si512(_mm512_castsi512_si256(v))
             : _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)block[1].qs), 1);
    return _mm512_xor_si512(v, _mm512_set1_epi8((char)0x80));
}

AVX512_INLINE void q4_0_scales(const uint8_t *group, uint32_t count, __m512 *scale, __m512 *min) {
    *scale = block_scales(group, count, sizeof(block_q4_0));
    *min = _mm512_setzero_ps();
}

/* 16 bytes to 32 nibbles: the low ones, then the high ones. */
AVX512_INLINE __m256i q4_0_nibbles(const block_q4_0 *block) {
    __m128i v = _mm_loadu_si128((const __m128i *)block->qs);
    return _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16(v, 4), v), _mm256_set1_epi8(15));
}

AVX512_INLINE __m512i q4_0_load64(const uint8_t *group, uint32_t piece, bool half) {
    const block_q4_0 *block = (const block_q4_0 *)group + 2 * piece;
    __m512i v = _mm512_zextsi256_si512(q4_0_nibbles(block));
    return half ? v : _mm512_inserti64x4(v, q4_0_nibbles(block + 1), 1);
}

/* The 6-bit scales and mins of a Q4_K or Q5_K block as eight bytes each. */
AVX512_INLINE void k_scale_bytes(const uint8_t *packed, uint64_t *scales, uint64_t *mins) {
    uint32_t a = base_u32(packed), b = base_u32(packed + 4), c = base_u32(packed + 8);
    uint32_t scales_high = (c & 0x0f0f0f0fu) | (a >> 2 & 0x30303030u), mins_high = (c >> 4 & 0x0f0f0f0fu) | (b >> 2 & 0x30303030u);
    *scales = (a & 0x3f3f3f3fu) | (uint64_t)scales_high << 32;
    *mins = (b & 0x3f3f3f3fu) | (uint64_t)mins_high << 32;
}

/* Q4_K and Q5_K: a group is two blocks, each opening with d, dmin and the packed scales. */
AVX512_INLINE void k_scales(const uint8_t *group, uint32_t count, size_t block_bytes, __m512 *scale, __m512 *min) {
    uint64_t scales[2] = {0}, mins[2] = {0};
    uint32_t d[2] = {0};
    for (uint32_t b = 0; b < (count > 8 ? 2 : 1); b++) {
        d[b] = base_u32(group + b * block_bytes);
        k_scale_bytes(group + b * block_bytes + 4, &scales[b], &mins[b]);
    }
    __m512 both = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_set_epi32(0, 0, (int)d[1], (int)d[0]))); /* d, dmin, d, dmin */
    const __m512i pick = _mm512_slli_epi32(_mm512_srli_epi32(avx512_iota(), 3), 1);                 /* 0 x 8, 2 x 8 */
    __m512i s = _mm512_cvtepu8_epi32(_mm_set_epi64x((long long)scales[1], (long long)scales[0]));
    __m512i m = _mm512_cvtepu8_epi32(_mm_set_epi64x((long long)mins[1], (long long)mins[0]));
    *scale = _mm512_mul_ps(_mm512_cvtepi32_ps(s), _mm512_permutexvar_ps(pick, both));
    *min = _mm512_mul_ps(_mm512_cvtepi32_ps(m), _mm512_permutexvar_ps(_mm512_add_epi32(pick, _mm512_set1_epi32(1)), both));
}

AVX512_INLINE void q4_k_scales(const uint8_t *group, uint32_t count, __m512 *scale, __m512 *min) {
    k_scales(group, count, sizeof(block_q4_k), scale, min);
}

/* 32 bytes to 64 nibbles: the low ones, then the high ones. */
AVX512_INLINE __m512i nibbles64(const uint8_t *qs) {
    const __m512i shift = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(4), 1);
    __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)qs));
    return _mm512_and_si512(_mm512_srlv_epi32(twice, shift), _mm512_set1_epi8(15));
}

AVX512_INLINE __m512i q4_k_load64(const uint8_t *group, uint32_t piece, bool half) {
    (void)half;
    const block_q4_k *block = (const block_q4_k *)group + piece / 4;
    return nibbles64(block->qs + 32 * (piece % 4));
}

AVX512_INLINE void q5_k_scales(const uint8_t *group, uint32_t count, __m512 *scale, __m512 *min) {
    k_scales(group, count, sizeof(block_q5_k), scale, min);
}

AVX512_INLINE __m512i q5_k_load64(const uint8_t *group, uint32_t piece, bool half) {
    (void)half;
    const block_q5_k *block = (const block_q5_k *)group + piece / 4;
    __m512i fifth = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)block->qh));
    uint8_t bit = (uint8_t)(1u << (2 * (piece % 4))); /* of the first 32 weights; the others have the next bit */
    __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8((char)bit), _mm256_set1_epi8((char)(bit << 1)), 1);
    __m512i low = nibbles64(block->qs + 32 * (piece % 4));
    return _mm512_mask_add_epi8(low, _mm512_test_epi8_mask(fifth, bits), low, _mm512_set1_epi8(16));
}

AVX512_INLINE void q6_k_scales(const uint8_t *group, uint32_t count, __m512 *scale, __m512 *min) {
    (void)count;
    const block_q6_k *block = (const block_q6_k *)group;
    __m512 s = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)block->scales)));
    *scale = _mm512_mul_ps(s, _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(block->d))));
    *min = _mm512_setzero_ps();
}

AVX512_INLINE __m512i q6_k_load64(const uint8_t *group, uint32_t piece, bool half) {
    (void)half;
    const block_q6_k *block = (const block_q6_k *)group;
    __m512i low = _mm512_loadu_si512(block->ql + 64 * (piece / 2));
    __m512i high = _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(block->qh + 32 * (piece / 2))));
    /* The pairs of bits wanted stand at 0 and 2 (even pieces) or 4 and 6 (odd ones) and go to 4. */
    const __m512i up = _mm512_inserti64x4(_mm512_set1_epi32(4), _mm256_set1_epi32(2), 1);
    const __m512i down = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(2), 1);
    low = piece & 1 ? _mm512_srli_epi16(low, 4) : low;
    high = piece & 1 ? _mm512_srlv_epi32(high, down) : _mm512_sllv_epi32(high, up);
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i merged = _mm512_ternarylogic_epi32(nibble, low, high, 0xca); /* nibble ? low : high */
    return _mm512_and_si512(merged, _mm512_set1_epi8(63));
}

static const quant quant_q8_0 = {32, 128, false, GROUP * sizeof(block_q8_0), q8_0_load64, q8_0_scales};
static const quant quant_q4_0 = {32, 8, false, GROUP * sizeof(block_q4_0), q4_0_load64, q4_0_scales};
static const quant quant_q4_k = {32, 0, true, 2 * sizeof(block_q4_k), q4_k_load64, q4_k_scales};
static const quant quant_q5_k = {32, 0, true, 2 * sizeof(block_q5_k), q5_k_load64, q5_k_scales};
static const quant quant_q6_k = {16, 32, false, sizeof(block_q6_k), q6_k_load64, q6_k_scales};

#endif
