/* attention_avx2.c: attention over KV pages for AVX2; the same scheme as attention_avx512.c with half pages of 8 positions. A single
 * row goes through attention_row.h.
 *
 * The queries (row, head) that share a KV head are taken in tiles of up to QUERIES; each page's K and V are read and
 * widened once per tile. The running maximum and sum of the softmax work as in attention_portable.c. */
#include "avx2.h"

#include <math.h>

#define QUERIES ATTENTION_QUERIES
#define HALVES 2 /* of a page, 8 positions each */

typedef struct tile {
    const cpu_attention *job;
    uint32_t head_kv, head0, heads; /* query heads [head0, head0 + heads) share head_kv */
    uint32_t row0, rows;
    uint32_t queries;  /* rows * heads; query i is row i / heads, head i % heads */
    size_t width;      /* head_dim padded to whole vectors */
    float *q, *sum;    /* (queries, width): scaled queries, weighted sums of V */
    float *scores;     /* (queries, 16): scores, then weights of the page at hand */
    float *totals;     /* (queries, 8): sums of weights, by lane */
    float *most;       /* (queries,) */
    float *shrink;     /* (queries,) what the sums so far are multiplied by */
} tile;

/* ---- one page ---- */

/* Dims [d, d + 8) of a position. */
AVX2_INLINE __m256 load_kv(const void *vectors, bool f16, size_t head_dim, size_t position, size_t d) {
    const size_t at = position * head_dim + d;
    if (f16) return _mm256_cvtph_ps(avx2_load16((const uint16_t *)vectors + at, head_dim - d));
    return avx2_load((const float *)vectors + at, head_dim - d);
}

/* scores = q . k: 8 dims x 8 positions of K are turned over once and used by every query. */
AVX2_INLINE void score_half(const tile *t, const void *k, bool f16, uint32_t half) {
    for (size_t d = 0; d < t->job->head_dim; d += 8) {
        __m256 dims[8];
        CPU_UNROLL for (size_t p = 0; p < 8; p++) dims[p] = load_kv(k, f16, t->job->head_dim, 8 * half + p, d);
        avx2_transpose(dims);
        for (uint32_t i = 0; i < t->queries; i++) {
            const float *q = t->q + i * t->width + d;
            float *scores = t->scores + 16 * i + 8 * half;
            __m256 sums[2] = {d ? _mm256_loadu_ps(scores) : _mm256_setzero_ps(), _mm256_setzero_ps()};
            CPU_UNROLL for (int j = 0; j < 8; j++) sums[j & 1] = _mm256_fmadd_ps(_mm256_broadcast_ss(q + j), dims[j], sums[j & 1]);
            _mm256_storeu_ps(scores, _mm256_add_ps(sums[0], sums[1]));
        }
    }
}

/* Lanes of the 8 positions from `base` on that lie in [first, last]. */
AVX2_INLINE __m256 visible(uint32_t base, uint32_t first, uint32_t last) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const int low = first > base ? (int)(first - base < 8 ? first - base : 8) : 0;
    const int high = last >= base ? (int)(last - base < 8 ? last - base : 8) : -1;
    __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(low), lane), _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(high)));
    return _mm256_castsi256_ps(_mm256_xor_si256(outside, _mm256_set1_epi32(-1)));
}

/* Scores of one query become weights exp(score - most); its sums learn by how much to shrink. */
AVX2_INLINE void weigh(const tile *t, uint32_t i, uint32_t base) {
    const cpu_attention *job = t->job;
    const uint32_t last = job->pos0 + t->row0 + i / t->heads;
    const uint32_t first = job->window && last >= job->window ? last - job->window + 1 : 0;
    float *scores = t->scores + 16 * i;
    __m256 s[HALVES], seen[HALVES], page_lanes = _mm256_set1_ps(-INFINITY);
    for (uint32_t h = 0; h < HALVES; h++) {
        s[h] = _mm256_loadu_ps(scores + 8 * h);
        seen[h] = visible(base + 8 * h, first, last);
        if (job->softcap != 0) {
            const __m256 cap = _mm256_set1_ps(job->softcap);
            s[h] = _mm256_mul_ps(avx2_tanh(_mm256_div_ps(s[h], cap)), cap);
        }
        page_lanes = _mm256_max_ps(page_lanes, _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), s[h], seen[h]));
    }
    const float old = t->most[i], page_most = avx2_max(page_lanes);
    t->shrink[i] = 1.0f;
    if (page_most > old) {
        t->most[i] = page_most;
        t->shrink[i] = _mm256_cvtss_f32(avx2_exp(_mm256_set1_ps(old - page_most)));
    }
    __m256 total = _mm256_mul_ps(_mm256_loadu_ps(t->totals + 8 * i), _mm256_set1_ps(t->shrink[i]));
    for (uint32_t h = 0; h < HALVES; h++) {
        __m256 weights = _mm256_and_ps(seen[h], avx2_exp(_mm256_sub_ps(s[h], _mm256_set1_ps(t->most[i]))));
        _mm256_storeu_ps(scores + 8 * h, weights);
        total = _mm256_add_ps(total, weights);
    }
    _mm256_storeu_ps(t->totals + 8 * i, total);
}

/* sum = sum * shrink + weights . v over half a page. Positions from `count` on were never written: they count as zeros. */
AVX2_INLINE void add_values(const tile *t, const void *v, bool f16, uint32_t half, uint32_t count) {
    for (size_t d = 0; d < t->job->head_dim; d += 8) {
        __m256 values[8];
        CPU_UNROLL for (uint32_t p = 0; p < 8; p++)
            values[p] = 8 * half + p < count ? load_kv(v, f16, t->job->head_dim, 8 * half + p, d) : _mm256_setzero_ps();
        for (uint32_t i = 0; i < t->queries; i++) {
            const float *weights = t->scores + 16 * i + 8 * half;
            float *sum = t->sum + i * t->width + d;
            const float shrink = half ? 1.0f : t->shrink[i];
            __m256 sums[2] = {_mm256_mul_ps(_mm256_loadu_ps(sum), _mm256_set1_ps(shrink)), _mm256_setzero_ps()};
            CPU_UNROLL for (int p = 0; p < 8; p++) sums[p & 1] = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + p), values[p], sums[p & 1]);
            _mm256_storeu_ps(sum, _mm256_add_ps(sums[0], sums[1]));
        }
    }
}

AVX2_INLINE void attend_page(const tile *t, uint32_t page, bool f16) {
    const cpu_attention *job = t->job;
    const uint32_t base = page * CPU_KV_PAGE, last = job->pos0 + t->row0 + t->rows - 1;
    const size_t element = f16 ? 2 : 4, head_bytes = (size_t)CPU_KV_PAGE * job->head_dim * element;
    const uint8_t *k = (const uint8_t *)job->pages[page] + t->head_kv * head_bytes, *v = k + job->n_head_kv * head_bytes;
    for (uint32_t h = 0; h < HALVES; h++) score_half(t, k, f16, h);
    for (uint32_t i = 0; i < t->queries; i++) weigh(t, i, base);
    for (uint32_t h = 0; h < HALVES; h++) add_values(t, v, f16, h, last - base + 1);
}

/* ---- a tile of queries ---- */

static void load_queries(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t i = 0; i < t->queries; i++) {
        const float *q = job->q + (t->row0 + i / t->heads) * job->q_stride + (size_t)(t->head0 + i % t->heads) * job->head_dim;
        for (size_t d = 0; d < t->width; d += 8) {
            __m256 v = avx2_load(q + d, job->head_dim - d);
            _mm256_storeu_ps(t->q + i * t->width + d, _mm256_mul_ps(v, _mm256_set1_ps(job->scale)));
            _mm256_storeu_ps(t->sum + i * t->width + d, _mm256_setzero_ps());
        }
        _mm256_storeu_ps(t->totals + 8 * i, _mm256_setzero_ps());
        t->most[i] = -INFINITY;
    }
}

static void store_results(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t i = 0; i < t->queries; i++) {
        float *out = job->out + (t->row0 + i / t->heads) * job->out_stride + (size_t)(t->head0 + i % t->heads) * job->head_dim;
        const __m256 inverse = _mm256_set1_ps(1.0f / avx2_sum(_mm256_loadu_ps(t->totals + 8 * i)));
        for (size_t d = 0; d < job->head_dim; d += 8)
            avx2_store(out + d, job->head_dim - d, _mm256_mul_ps(_mm256_loadu_ps(t->sum + i * t->width + d), inverse));
    }
}

static void attend_tile(tile *t, float *scratch) {
    const cpu_attention *job = t->job;
    t->queries = t->rows * t->heads;
    t->width = ((size_t)job->head_dim + 7) / 8 * 8;
    t->q = scratch;
    t->sum = t->q + QUERIES * t->width;
    t->scores = t->sum + QUERIES * t->width;
    t->totals = t->scores + QUERIES * 16;
    t->most = t->totals + QUERIES * 8;
    t->shrink = t->most + QUERIES;
    load_queries(t);
    const uint32_t first = job->pos0 + t->row0, last = first + t->rows - 1;
    const uint32_t start = job->window && first >= job->window ? first - job->window + 1 : 0;
    for (uint32_t page = start / CPU_KV_PAGE; page <= last / CPU_KV_PAGE; page++) {
        if (job->kv_type == REALM_KV_F16) attend_page(t, page, true);
        else attend_page(t, page, false);
    }
    store_results(t);
}

#include "attention_tiles.h"

/* ---- one row ---- */

#define vec_get _mm256_loadu_ps
#define vec_put _mm256_storeu_ps
#define vec_half(x) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(x)))
#define vec_seen(v, other, base, first, last) _mm256_blendv_ps(other, v, visible(base, first, last))
#define ROW_VECTORS 4

/* Neighbours are added three times; the halves of 128 bits last. */
AVX2_INLINE __m256 vec_sums(__m256 v[8]) {
    const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

#include "attention_row.h"

void cpu_attention_avx2(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch) {
    if (row1 - row0 == 1 && job->head_dim % VEC_LANES == 0) attend_row(job, row0, head0, head1, scratch);
    else attend_tiles(job, row0, row1, head0, head1, scratch);
}
