/* attention_avx512.c: attention over KV pages for AVX-512.
 *
 * The queries (row, head) that share a KV head are taken in tiles of up to ATTENTION_QUERIES; each page's K and V are read and
 * widened once per tile. A page's 16 positions are the lanes of a score vector. The running maximum and sum of the softmax
 * work as in attention_portable.c. */
#include "avx512.h"

#include <math.h>

#define FEW_QUERIES 4 /* below this, turning a page of K over costs more than adding up dot products */

typedef struct tile {
    const cpu_attention *job;
    uint32_t head_kv, head0, heads; /* query heads [head0, head0 + heads) share head_kv */
    uint32_t row0, rows;
    uint32_t queries;  /* rows * heads; query i is row i / heads, head i % heads */
    size_t width;      /* head_dim padded to whole vectors */
    float *q, *sum;    /* (queries, width): scaled queries, weighted sums of V */
    float *scores;     /* (queries, 16): scores, then weights of the page at hand */
    float *totals;     /* (queries, 16): sums of weights, by lane */
    float *most;       /* (queries,) */
    float *shrink;     /* (queries,) what the sums so far are multiplied by */
} tile;

/* ---- one page ---- */

/* Dims [d, d + 16) of a position. */
AVX512_INLINE __m512 load_kv(const void *vectors, bool f16, size_t head_dim, size_t position, size_t d) {
    const __mmask16 mask = avx512_mask(head_dim - d);
    const size_t at = position * head_dim + d;
    if (f16) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)vectors + at));
    return _mm512_maskz_loadu_ps(mask, (const float *)vectors + at);
}

/* scores = q . k for few queries: a sum vector per position, all turned over and added at the end. */
AVX512_INLINE void scores_few(const tile *t, const void *k, bool f16) {
    for (uint32_t i = 0; i < t->queries; i++) {
        __m512 sums[16];
        for (int p = 0; p < 16; p++) sums[p] = _mm512_setzero_ps();
        for (size_t d = 0; d < t->job->head_dim; d += 16) {
            const __m512 q = _mm512_loadu_ps(t->q + i * t->width + d);
            CPU_UNROLL for (int p = 0; p < 16; p++) sums[p] = _mm512_fmadd_ps(load_kv(k, f16, t->job->head_dim, (size_t)p, d), q, sums[p]);
        }
        avx512_transpose((__m512i *)sums);
        for (int step = 8; step; step /= 2)
            for (int p = 0; p < step; p++) sums[p] = _mm512_add_ps(sums[p], sums[p + step]);
        _mm512_storeu_ps(t->scores + 16 * i, sums[0]);
    }
}

/* The same for many: 16 dims x 16 positions of K are turned over once and used by every query. */
AVX512_INLINE void scores_many(const tile *t, const void *k, bool f16) {
    for (size_t d = 0; d < t->job->head_dim; d += 16) {
        __m512 dims[16];
        CPU_UNROLL for (int p = 0; p < 16; p++) dims[p] = load_kv(k, f16, t->job->head_dim, (size_t)p, d);
        avx512_transpose((__m512i *)dims);
        for (uint32_t i = 0; i < t->queries; i++) {
            const float *q = t->q + i * t->width + d;
            __m512 sums[2] = {d ? _mm512_loadu_ps(t->scores + 16 * i) : _mm512_setzero_ps(), _mm512_setzero_ps()};
            CPU_UNROLL for (int j = 0; j < 16; j++) sums[j & 1] = _mm512_fmadd_ps(_mm512_set1_ps(q[j]), dims[j], sums[j & 1]);
            _mm512_storeu_ps(t->scores + 16 * i, _mm512_add_ps(sums[0], sums[1]));
        }
    }
}

/* Lanes of the page at `base` that a query at `position` sees. */
AVX512_INLINE __mmask16 visible(uint32_t base, uint32_t position, uint32_t window) {
    __mmask16 mask = position >= base ? avx512_mask((size_t)position - base + 1) : 0;
    if (window && position >= window && position - window + 1 > base) mask &= (__mmask16)~avx512_mask(position - window + 1 - base);
    return mask;
}

/* Scores of one query become weights exp(score - most); its sums learn by how much to shrink. */
AVX512_INLINE void weigh(const tile *t, uint32_t i, uint32_t base) {
    const cpu_attention *job = t->job;
    const __mmask16 seen = visible(base, job->pos0 + t->row0 + i / t->heads, job->window);
    __m512 s = _mm512_loadu_ps(t->scores + 16 * i);
    if (job->softcap != 0) {
        const __m512 cap = _mm512_set1_ps(job->softcap);
        s = _mm512_mul_ps(avx512_tanh(_mm512_div_ps(s, cap)), cap);
    }
    const float old = t->most[i], page_most = seen ? _mm512_mask_reduce_max_ps(seen, s) : -INFINITY;
    t->shrink[i] = 1.0f;
    if (page_most > old) {
        t->most[i] = page_most;
        t->shrink[i] = _mm512_cvtss_f32(avx512_exp(_mm512_set1_ps(old - page_most)));
    }
    __m512 weights = _mm512_maskz_mov_ps(seen, avx512_exp(_mm512_sub_ps(s, _mm512_set1_ps(t->most[i]))));
    _mm512_storeu_ps(t->scores + 16 * i, weights);
    _mm512_storeu_ps(t->totals + 16 * i, _mm512_fmadd_ps(_mm512_loadu_ps(t->totals + 16 * i), _mm512_set1_ps(t->shrink[i]), weights));
}

/* sum = sum * shrink + weights . v. Positions from `count` on were never written: they count as zeros. */
AVX512_INLINE void add_values(const tile *t, const void *v, bool f16, uint32_t count) {
    for (size_t d = 0; d < t->job->head_dim; d += 16) {
        __m512 values[16];
        CPU_UNROLL for (uint32_t p = 0; p < 16; p++)
            values[p] = p < count ? load_kv(v, f16, t->job->head_dim, p, d) : _mm512_setzero_ps();
        for (uint32_t i = 0; i < t->queries; i++) {
            const float *weights = t->scores + 16 * i;
            float *sum = t->sum + i * t->width + d;
            __m512 sums[2] = {_mm512_mul_ps(_mm512_loadu_ps(sum), _mm512_set1_ps(t->shrink[i])), _mm512_setzero_ps()};
            CPU_UNROLL for (int p = 0; p < 16; p++) sums[p & 1] = _mm512_fmadd_ps(_mm512_set1_ps(weights[p]), values[p], sums[p & 1]);
            _mm512_storeu_ps(sum, _mm512_add_ps(sums[0], sums[1]));
        }
    }
}

AVX512_INLINE void attend_page(const tile *t, uint32_t page, bool f16) {
    const cpu_attention *job = t->job;
    const uint32_t base = page * CPU_KV_PAGE, last = job->pos0 + t->row0 + t->rows - 1;
    const size_t element = f16 ? 2 : 4, head_bytes = (size_t)CPU_KV_PAGE * job->head_dim * element;
    const uint8_t *k = (const uint8_t *)job->pages[page] + t->head_kv * head_bytes, *v = k + job->n_head_kv * head_bytes;
    if (t->queries < FEW_QUERIES) scores_few(t, k, f16);
    else scores_many(t, k, f16);
    for (uint32_t i = 0; i < t->queries; i++) weigh(t, i, base);
    add_values(t, v, f16, last - base + 1 < CPU_KV_PAGE ? last - base + 1 : CPU_KV_PAGE);
}

/* ---- a tile of queries ---- */

static void load_queries(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t i = 0; i < t->queries; i++) {
        const float *q = job->q + (t->row0 + i / t->heads) * job->q_stride + (size_t)(t->head0 + i % t->heads) * job->head_dim;
        for (size_t d = 0; d < t->width; d += 16) {
            __m512 v = _mm512_maskz_loadu_ps(d < job->head_dim ? avx512_mask(job->head_dim - d) : 0, q + d);
            _mm512_storeu_ps(t->q + i * t->width + d, _mm512_mul_ps(v, _mm512_set1_ps(job->scale)));
            _mm512_storeu_ps(t->sum + i * t->width + d, _mm512_setzero_ps());
        }
        _mm512_storeu_ps(t->totals + 16 * i, _mm512_setzero_ps());
        t->most[i] = -INFINITY;
    }
}

static void store_results(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t i = 0; i < t->queries; i++) {
        float *out = job->out + (t->row0 + i / t->heads) * job->out_stride + (size_t)(t->head0 + i % t->heads) * job->head_dim;
        const __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_loadu_ps(t->totals + 16 * i)));
        for (size_t d = 0; d < job->head_dim; d += 16)
            _mm512_mask_storeu_ps(out + d, avx512_mask(job->head_dim - d), _mm512_mul_ps(_mm512_loadu_ps(t->sum + i * t->width + d), inverse));
    }
}

static void attend_tile(tile *t, float *scratch) {
    const cpu_attention *job = t->job;
    t->queries = t->rows * t->heads;
    t->width = ((size_t)job->head_dim + 15) / 16 * 16;
    t->q = scratch;
    t->sum = t->q + ATTENTION_QUERIES * t->width;
    t->scores = t->sum + ATTENTION_QUERIES * t->width;
    t->totals = t->scores + ATTENTION_QUERIES * 16;
    t->most = t->totals + ATTENTION_QUERIES * 16;
    t->shrink = t->most + ATTENTION_QUERIES;
    load_queries(t);
    const uint32_t first = job->pos0 + t->row0, last = first + t->rows - 1;
    const uint32_t start = job->window && first >= job->window ? first - job->window + 1 : 0;
    for (uint32_t page = start / CPU_KV_PAGE; page <= last / CPU_KV_PAGE; page++) {
        if (job->kv_type == REALM_KV_F16) attend_page(t, page, true);
        else attend_page(t, page, false);
    }
    store_results(t);
}

void cpu_attention_avx512(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1,
                          float *scratch) {
    const uint32_t shared = job->n_head / job->n_head_kv; /* query heads of a KV head */
    for (uint32_t head = head0; head < head1;) {
        uint32_t heads = shared - head % shared;
        if (heads > head1 - head) heads = head1 - head;
        if (heads > ATTENTION_QUERIES) heads = ATTENTION_QUERIES;
        const uint32_t most_rows = ATTENTION_QUERIES / heads;
        for (uint32_t row = row0; row < row1; row += most_rows) {
            const uint32_t rows = row1 - row < most_rows ? row1 - row : most_rows;
            attend_tile(&(tile){.job = job, .head_kv = head / shared, .head0 = head, .heads = heads, .row0 = row, .rows = rows}, scratch);
        }
        head += heads;
    }
}
