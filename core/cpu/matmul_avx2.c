/* matmul_avx2.c: quantized weights times int8 activations (int8_rows.h) with u8 x s8 multiply-adds, for few rows.
 *
 * A weight type is described by a `quant`: how 32 weights are multiplied with 32 int8 activations into 8 integer sums, and
 * how a group of 256 weights gives its scales. Many rows go through floats (matmul_float_avx2.c): without VNNI instructions
 * integer products are no faster, and activations need not be rounded. */
#include "avx2.h"
#include "int8_rows.h"

#define GROUP_K 256
#define DECODE_ROWS 4       /* up to this many rows are rounded to int8 */
#define PREFETCH_BYTES 2048 /* how far ahead of use weights are asked for */

typedef struct quant {
    uint32_t sub;         /* elements that share a scale: 16 or 32 */
    uint32_t offset;      /* load32 gives weight + offset as unsigned bytes; 0: signed or with mins */
    bool has_min;         /* weight = scale * u - min */
    bool is_signed;       /* load32 gives signed bytes */
    uint32_t group_bytes; /* GROUP_K weights in the file */
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

static const quant quant_q8_0 = {32, 0, false, true, 8 * sizeof(block_q8_0), q8_0_load32, q8_0_scales};
static const quant quant_q4_0 = {32, 8, false, false, 8 * sizeof(block_q4_0), q4_0_load32, q4_0_scales};
static const quant quant_q4_k = {32, 0, true, false, sizeof(block_q4_k), q4_k_load32, k_scales};
static const quant quant_q5_k = {32, 0, true, false, sizeof(block_q5_k), q5_k_load32, k_scales};
static const quant quant_q6_k = {16, 32, false, false, sizeof(block_q6_k), q6_k_load32, q6_k_scales};

/* ---- preparing activations ---- */

/* Enough for either form. */
static size_t prepared_size(uint32_t n_rows, uint32_t k) {
    size_t as_int8 = int8_prepared_size(n_rows < DECODE_ROWS ? n_rows : DECODE_ROWS, k), as_f32 = (size_t)n_rows * k * sizeof(float);
    return as_int8 > as_f32 ? as_int8 : as_f32;
}

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

/* int8 rows for few rows, plain f32 ones for many. */
static void prepare(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared) {
    for (size_t r = row0; r < row1; r++) {
        if (n_rows > DECODE_ROWS) {
            memcpy((float *)prepared + r * k, x + r * x_stride, (size_t)k * sizeof *x);
        } else {
            int8_row row = int8_row_at(prepared, k, r);
            prepare_int8(x + r * x_stride, &row, k);
        }
    }
}

/* ---- few rows ---- */

/* Eight sums of four products each. The 16-bit sums in between cannot saturate: |w| <= 128, |q| <= 127, two products. */
AVX2_INLINE __m256i dot32(const quant *t, __m256i w, __m256i q) {
    __m256i words = t->is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)) : _mm256_maddubs_epi16(w, q);
    return _mm256_madd_epi16(words, _mm256_set1_epi16(1));
}

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

/* One or two rows need two sums each, or every addition would wait for the one before. */
#define SUM_OF(piece, m_count) ((m_count) <= 2 ? (piece) & 1 : 0)

/* acc[m] += 32 weights . x[m] */
AVX2_INLINE void decode_piece(const quant *t, const uint8_t *w, uint32_t p, size_t group, const int8_row *x, const float s[][16],
                              uint32_t m_count, __m256 acc[][2]) {
    const __m256i v = t->load32(w, p);
    CPU_UNROLL for (uint32_t m = 0; m < m_count; m++) {
        __m256i q = _mm256_loadu_si256((const __m256i *)(x[m].q + GROUP_K * group + 32 * p));
        __m256 by = t->sub == 32 ? _mm256_broadcast_ss(&s[m][p])
                                 : _mm256_set_m128(_mm_broadcast_ss(&s[m][2 * p + 1]), _mm_broadcast_ss(&s[m][2 * p]));
        __m256 *sum = &acc[m][SUM_OF(p, m_count)];
        *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot32(t, v, q)), by, *sum);
    }
}

/* acc[m] += the group's part of w . x[m]; `full`: all GROUP_K weights exist. */
AVX2_INLINE void decode_group(const quant *t, const uint8_t *w, bool full, uint32_t count, size_t group, const int8_row *x,
                              uint32_t m_count, __m256 acc[][2]) {
    __m256 scale[2], min;
    _Alignas(32) float s[DECODE_ROWS][16];
    t->scales(w, count, scale, &min);
    CPU_UNROLL for (uint32_t m = 0; m < m_count; m++)
        acc[m][0] = _mm256_add_ps(acc[m][0], group_scales(t, &x[m], group, scale, min, s[m]));
    if (full) {
        CPU_UNROLL for (uint32_t p = 0; p < GROUP_K / 32; p++) decode_piece(t, w, p, group, x, s, m_count, acc);
        return;
    }
    for (uint32_t p = 0; p < count * t->sub / 32; p++) decode_piece(t, w, p, group, x, s, m_count, acc);
}

AVX2_INLINE void decode_output(const quant *t, const uint8_t *w, uint32_t k, const int8_row *x, uint32_t m_count, float *out,
                               size_t out_stride) {
    __m256 acc[DECODE_ROWS][2];
    for (uint32_t m = 0; m < m_count; m++) acc[m][0] = acc[m][1] = _mm256_setzero_ps();
    size_t group = 0;
    for (; (group + 1) * GROUP_K <= k; group++, w += t->group_bytes) {
        for (uint32_t i = 0; i < t->group_bytes; i += 64) _mm_prefetch((const char *)w + PREFETCH_BYTES + i, _MM_HINT_T0);
        decode_group(t, w, true, GROUP_K / t->sub, group, x, m_count, acc);
    }
    if (k % GROUP_K) decode_group(t, w, false, k % GROUP_K / t->sub, group, x, m_count, acc);
    for (uint32_t m = 0; m < m_count; m++) out[m * out_stride] = avx2_sum(_mm256_add_ps(acc[m][0], acc[m][1]));
}

AVX2_INLINE void decode_rows(const quant *t, const uint8_t *w, size_t row_bytes, const void *prepared, uint32_t m_count, uint32_t k,
                             uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    int8_row x[DECODE_ROWS];
    for (uint32_t m = 0; m < m_count; m++) x[m] = int8_row_at(prepared, k, m);
    for (size_t o = out0; o < out1; o++) decode_output(t, w + o * row_bytes, k, x, m_count, out + o, out_stride);
}

/* ---- the table ---- */

AVX2_INLINE void matmul(const quant *t, uint32_t type, const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows,
                        uint32_t k, uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    switch (n_rows) {
    case 0: break;
    case 1: decode_rows(t, w, row_bytes, prepared, 1, k, out0, out1, out, out_stride); break;
    case 2: decode_rows(t, w, row_bytes, prepared, 2, k, out0, out1, out, out_stride); break;
    case 3: decode_rows(t, w, row_bytes, prepared, 3, k, out0, out1, out, out_stride); break;
    case 4: decode_rows(t, w, row_bytes, prepared, 4, k, out0, out1, out, out_stride); break;
    default: cpu_matmul_float_avx2(type, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); break;
    }
}

#define DEFINE_MATMUL(suffix, type) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(&quant_##suffix, type, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(q8_0, BLOCK_Q8_0)
DEFINE_MATMUL(q4_0, BLOCK_Q4_0)
DEFINE_MATMUL(q4_k, BLOCK_Q4_K)
DEFINE_MATMUL(q5_k, BLOCK_Q5_K)
DEFINE_MATMUL(q6_k, BLOCK_Q6_K)

#define DEFINE_MATMUL_FLOAT(suffix, type) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        cpu_matmul_float_avx2(type, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL_FLOAT(f32, BLOCK_F32)
DEFINE_MATMUL_FLOAT(f16, BLOCK_F16)
DEFINE_MATMUL_FLOAT(bf16, BLOCK_BF16)

void cpu_fill_matmul_avx2(cpu_ops *ops) {
    ops->matmul[BLOCK_Q8_0] = (cpu_matmul){prepared_size, prepare, matmul_q8_0, 16};
    ops->matmul[BLOCK_Q4_0] = (cpu_matmul){prepared_size, prepare, matmul_q4_0, 16};
    ops->matmul[BLOCK_Q4_K] = (cpu_matmul){prepared_size, prepare, matmul_q4_k, 16};
    ops->matmul[BLOCK_Q5_K] = (cpu_matmul){prepared_size, prepare, matmul_q5_k, 16};
    ops->matmul[BLOCK_Q6_K] = (cpu_matmul){prepared_size, prepare, matmul_q6_k, 16};
    ops->matmul[BLOCK_F32].run = matmul_f32; /* prepared: the portable f32 rows */
    ops->matmul[BLOCK_F16].run = matmul_f16;
    ops->matmul[BLOCK_BF16].run = matmul_bf16;
    ops->matmul[BLOCK_F32].out_tile = ops->matmul[BLOCK_F16].out_tile = ops->matmul[BLOCK_BF16].out_tile = 16;
}
