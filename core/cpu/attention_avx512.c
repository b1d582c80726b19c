/* attention_avx512.c: attention over KV pages for AVX-512.
 *
 * The queries (row, head) that share a KV head are taken in tiles of up to QUERIES, and pages in blocks of BLOCK_PAGES. A
 * block's K (turned over) and V are widened once per tile, so that products are a matrix's: eight queries by two vectors of positions
 * or dims stay in registers. Few queries work on the pages as they are; a single row goes through attention_row.h, or
 * attention_shared_avx512.c where many of its heads share a KV head. The running maximum and sum of the softmax work as in
 * attention_portable.c, once per block. */
#include "avx512.h"

#include <math.h>

#define FEW_QUERIES 4 /* below this, turning K over costs more than adding up dot products */
#define QUERIES ATTENTION_QUERIES
#define BLOCK_PAGES ATTENTION_BLOCK_PAGES
#define BLOCK (BLOCK_PAGES * CPU_KV_PAGE) /* positions */
#define GROUP 8                           /* queries whose sums stay in registers */

typedef struct tile {
    const cpu_attention *job;
    uint32_t head_kv, head0, heads; /* query heads [head0, head0 + heads) share head_kv */
    uint32_t row0, rows;
    uint32_t queries;  /* rows * heads; query i is row i / heads, head i % heads */
    size_t width;      /* head_dim padded to whole vectors */
    float *q, *sum;    /* (queries, width): scaled queries, weighted sums of V */
    float *scores;     /* (queries, BLOCK): scores, then weights of the block at hand */
    float *totals;     /* (queries, 16): sums of weights, by lane */
    float *most;       /* (queries,) */
    float *shrink;     /* (queries,) what the sums so far are multiplied by */
    float *k, *v;      /* (width, BLOCK) and (BLOCK, width): the block at hand */
} tile;

typedef struct block { /* positions [base, base + count), of which others are written in later steps */
    uint32_t page0, pages, base, count;
} block;

/* ---- K and V of a block ---- */

/* Dims [d, d + 16) of a position. */
AVX512_INLINE __m512 load_kv(const void *vectors, bool f16, size_t head_dim, size_t position, size_t d) {
    const __mmask16 mask = avx512_mask(head_dim - d);
    const size_t at = position * head_dim + d;
    if (f16) return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)vectors + at));
    return _mm512_maskz_loadu_ps(mask, (const float *)vectors + at);
}

/* K and V of a page of the tile's head. */
AVX512_INLINE const uint8_t *page_k(const tile *t, uint32_t page, bool f16, const uint8_t **v) {
    const size_t head_bytes = (size_t)CPU_KV_PAGE * t->job->head_dim * (f16 ? 2 : 4);
    const uint8_t *k = (const uint8_t *)t->job->pages[page] + t->head_kv * head_bytes;
    *v = k + t->job->n_head_kv * head_bytes;
    return k;
}

AVX512_INLINE void widen_block(const tile *t, const block *b, bool f16) {
    const size_t head_dim = t->job->head_dim;
    for (uint32_t i = 0; i < b->pages; i++) {
        const uint8_t *v, *k = page_k(t, b->page0 + i, f16, &v);
        for (size_t d = 0; d < head_dim; d += 16) {
            __m512 dims[16];
            CPU_UNROLL for (int p = 0; p < 16; p++) dims[p] = load_kv(k, f16, head_dim, (size_t)p, d);
            avx512_transpose((__m512i *)dims);
            CPU_UNROLL for (int p = 0; p < 16; p++) _mm512_storeu_ps(t->k + (d + (size_t)p) * BLOCK + 16 * i, dims[p]);
        }
        for (uint32_t p = 0; p < CPU_KV_PAGE && 16 * i + p < b->count; p++)
            for (size_t d = 0; d < head_dim; d += 16) _mm512_storeu_ps(t->v + (16 * i + p) * t->width + d, load_kv(v, f16, head_dim, p, d));
    }
}

/* ---- products of many queries ---- */

/* Scores of GROUP queries and `vectors` pages from `page` on. */
AVX512_INLINE void score_group(const tile *t, uint32_t query, uint32_t page, uint32_t vectors) {
    const float *q = t->q + query * t->width, *k = t->k + 16 * page;
    __m512 sums[GROUP][2];
    CPU_UNROLL for (int i = 0; i < GROUP; i++) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
    CPU_ROLLED for (size_t d = 0; d < t->width; d++) {
        const __m512 k0 = _mm512_loadu_ps(k + d * BLOCK), k1 = vectors > 1 ? _mm512_loadu_ps(k + d * BLOCK + 16) : k0;
        CPU_UNROLL for (int i = 0; i < GROUP; i++) {
            const __m512 one = _mm512_set1_ps(q[(size_t)i * t->width + d]);
            sums[i][0] = _mm512_fmadd_ps(one, k0, sums[i][0]);
            if (vectors > 1) sums[i][1] = _mm512_fmadd_ps(one, k1, sums[i][1]);
        }
    }
    CPU_UNROLL for (uint32_t i = 0; i < GROUP; i++)
        CPU_UNROLL for (uint32_t j = 0; j < vectors; j++) _mm512_storeu_ps(t->scores + (query + i) * BLOCK + 16 * (page + j), sums[i][j]);
}

/* sum = sum * shrink + weights . v for GROUP queries and `vectors` times 16 dims from d on. */
AVX512_INLINE void value_group(const tile *t, const block *b, uint32_t query, size_t d, uint32_t vectors) {
    const float *weights = t->scores + query * BLOCK;
    float *sum = t->sum + query * t->width + d;
    __m512 sums[GROUP][2];
    CPU_UNROLL for (uint32_t i = 0; i < GROUP; i++) {
        const __m512 shrink = _mm512_set1_ps(t->shrink[query + i]);
        CPU_UNROLL for (uint32_t j = 0; j < vectors; j++) sums[i][j] = _mm512_mul_ps(_mm512_loadu_ps(sum + i * t->width + 16 * j), shrink);
    }
    CPU_ROLLED for (size_t p = 0; p < b->count; p++) {
        const float *v = t->v + p * t->width + d;
        const __m512 v0 = _mm512_loadu_ps(v), v1 = vectors > 1 ? _mm512_loadu_ps(v + 16) : v0;
        CPU_UNROLL for (int i = 0; i < GROUP; i++) {
            const __m512 weight = _mm512_set1_ps(weights[(size_t)i * BLOCK + p]);
            sums[i][0] = _mm512_fmadd_ps(weight, v0, sums[i][0]);
            if (vectors > 1) sums[i][1] = _mm512_fmadd_ps(weight, v1, sums[i][1]);
        }
    }
    CPU_UNROLL for (int i = 0; i < GROUP; i++)
        CPU_UNROLL for (uint32_t j = 0; j < vectors; j++) _mm512_storeu_ps(sum + (size_t)i * t->width + 16 * j, sums[i][j]);
}

/* The last group may reach past the tile's queries, into rows that nobody reads. */
static void score_many(const tile *t, const block *b) {
    for (uint32_t query = 0; query < t->queries; query += GROUP) {
        uint32_t page = 0;
        for (; page + 2 <= b->pages; page += 2) score_group(t, query, page, 2);
        if (page < b->pages) score_group(t, query, page, 1);
    }
}

static void value_many(const tile *t, const block *b) {
    for (uint32_t query = 0; query < t->queries; query += GROUP) {
        size_t d = 0;
        for (; d + 32 <= t->width; d += 32) value_group(t, b, query, d, 2);
        if (d < t->width) value_group(t, b, query, d, 1);
    }
}

/* ---- products of few queries ---- */

/* A sum vector per position, all turned over and added at the end. */
AVX512_INLINE void score_few(const tile *t, const block *b, bool f16) {
    for (uint32_t page = 0; page < b->pages; page++) {
        const uint8_t *v, *k = page_k(t, b->page0 + page, f16, &v);
        for (uint32_t i = 0; i < t->queries; i++) {
            __m512 sums[16];
            for (int p = 0; p < 16; p++) sums[p] = _mm512_setzero_ps();
            for (size_t d = 0; d < t->job->head_dim; d += 16) {
                const __m512 q = _mm512_loadu_ps(t->q + i * t->width + d);
                CPU_UNROLL for (size_t p = 0; p < 16; p++) sums[p] = _mm512_fmadd_ps(load_kv(k, f16, t->job->head_dim, p, d), q, sums[p]);
            }
            avx512_transpose((__m512i *)sums);
            for (int step = 8; step; step /= 2)
                for (int p = 0; p < step; p++) sums[p] = _mm512_add_ps(sums[p], sums[p + step]);
            _mm512_storeu_ps(t->scores + i * BLOCK + 16 * page, sums[0]);
        }
    }
}

AVX512_INLINE void value_few(const tile *t, const block *b, bool f16) {
    for (uint32_t page = 0; page < b->pages; page++) {
        const uint8_t *v;
        (void)page_k(t, b->page0 + page, f16, &v);
        const uint32_t left = b->count - 16 * page, count = left < CPU_KV_PAGE ? left : CPU_KV_PAGE;
        for (uint32_t i = 0; i < t->queries; i++) {
            const float *weights = t->scores + i * BLOCK + 16 * page;
            const __m512 shrink = _mm512_set1_ps(page == 0 ? t->shrink[i] : 1.0f);
            for (size_t d = 0; d < t->job->head_dim; d += 16) {
                float *sum = t->sum + i * t->width + d;
                __m512 sums[2] = {_mm512_mul_ps(_mm512_loadu_ps(sum), shrink), _mm512_setzero_ps()};
                for (uint32_t p = 0; p < count; p++)
                    sums[p & 1] = _mm512_fmadd_ps(_mm512_set1_ps(weights[p]), load_kv(v, f16, t->job->head_dim, p, d), sums[p & 1]);
                _mm512_storeu_ps(sum, _mm512_add_ps(sums[0], sums[1]));
            }
        }
    }
}

/* ---- softmax ---- */

/* Lanes of the 16 positions from `base` on that a query at `position` sees. */
AVX512_INLINE __mmask16 visible(uint32_t base, uint32_t position, uint32_t window) {
    __mmask16 mask = position >= base ? avx512_mask((size_t)position - base + 1) : 0;
    if (window && position >= window && position - window + 1 > base) mask &= (__mmask16)~avx512_mask(position - window + 1 - base);
    return mask;
}

/* Largest score of a query in the block, after the soft cap; -inf where it sees none. */
AVX512_INLINE float find_most(const tile *t, uint32_t i, const block *b) {
    const cpu_attention *job = t->job;
    const __m512 cap = _mm512_set1_ps(job->softcap);
    __m512 top = _mm512_set1_ps(-INFINITY);
    for (uint32_t page = 0; page < b->pages; page++) {
        float *scores = t->scores + i * BLOCK + 16 * page;
        __m512 s = _mm512_loadu_ps(scores);
        if (job->softcap != 0) {
            s = _mm512_mul_ps(avx512_tanh(_mm512_div_ps(s, cap)), cap);
            _mm512_storeu_ps(scores, s);
        }
        top = _mm512_mask_max_ps(top, visible(b->base + 16 * page, job->pos0 + t->row0 + i / t->heads, job->window), top, s);
    }
    return _mm512_reduce_max_ps(top);
}

/* The maxima so far take the block's in, and sums learn by how much to shrink: for 16 queries at a time, without branches. */
AVX512_INLINE void raise_most(const tile *t, const float *block_most) {
    for (uint32_t i = 0; i < t->queries; i += 16) {
        const __m512 old = _mm512_loadu_ps(t->most + i), most = _mm512_max_ps(_mm512_loadu_ps(block_most + i), old);
        const __mmask16 raised = _mm512_cmp_ps_mask(most, old, _CMP_GT_OQ);
        _mm512_storeu_ps(t->most + i, most);
        _mm512_storeu_ps(t->shrink + i, _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), raised, avx512_exp(_mm512_sub_ps(old, most))));
    }
}

/* Scores of a query become weights exp(score - most). */
AVX512_INLINE void weigh(const tile *t, uint32_t i, const block *b) {
    const cpu_attention *job = t->job;
    const __m512 most = _mm512_set1_ps(t->most[i]);
    __m512 total = _mm512_mul_ps(_mm512_loadu_ps(t->totals + 16 * i), _mm512_set1_ps(t->shrink[i]));
    for (uint32_t page = 0; page < b->pages; page++) {
        float *scores = t->scores + i * BLOCK + 16 * page;
        const __mmask16 seen = visible(b->base + 16 * page, job->pos0 + t->row0 + i / t->heads, job->window);
        const __m512 weights = _mm512_maskz_mov_ps(seen, avx512_exp(_mm512_sub_ps(_mm512_loadu_ps(scores), most)));
        _mm512_storeu_ps(scores, weights);
        total = _mm512_add_ps(total, weights);
    }
    _mm512_storeu_ps(t->totals + 16 * i, total);
}

AVX512_INLINE void weigh_block(const tile *t, const block *b) {
    float block_most[QUERIES];
    for (uint32_t i = t->queries; i < (t->queries + 15) / 16 * 16; i++) block_most[i] = 0.0f;
    for (uint32_t i = 0; i < t->queries; i++) block_most[i] = find_most(t, i, b);
    raise_most(t, block_most);
    for (uint32_t i = 0; i < t->queries; i++) weigh(t, i, b);
}

AVX512_INLINE void attend_block(const tile *t, const block *b, bool f16) {
    const bool many = t->queries >= FEW_QUERIES;
    if (many) widen_block(t, b, f16);
    if (many) score_many(t, b);
    else score_few(t, b, f16);
    weigh_block(t, b);
    if (many) value_many(t, b);
    else value_few(t, b, f16);
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
            _mm512_mask_storeu_ps(out + d, avx512_mask(job->head_dim - d),
                                  _mm512_mul_ps(_mm512_loadu_ps(t->sum + i * t->width + d), inverse));
    }
}

static void place_scratch(tile *t, float *scratch) {
    t->width = ((size_t)t->job->head_dim + 15) / 16 * 16;
    t->q = scratch;
    t->sum = t->q + QUERIES * t->width;
    t->scores = t->sum + QUERIES * t->width;
    t->totals = t->scores + QUERIES * BLOCK;
    t->most = t->totals + QUERIES * 16;
    t->shrink = t->most + QUERIES;
    t->k = t->shrink + QUERIES;
    t->v = t->k + t->width * BLOCK;
}

static void attend_tile(tile *t, float *scratch) {
    const cpu_attention *job = t->job;
    t->queries = t->rows * t->heads;
    place_scratch(t, scratch);
    load_queries(t);
    const uint32_t first = job->pos0 + t->row0, last = first + t->rows - 1;
    const uint32_t start = job->window && first >= job->window ? first - job->window + 1 : 0;
    for (uint32_t page = start / CPU_KV_PAGE; page <= last / CPU_KV_PAGE; page += BLOCK_PAGES) {
        const uint32_t left = last / CPU_KV_PAGE + 1 - page, base = page * CPU_KV_PAGE;
        block b = {.page0 = page, .pages = left < BLOCK_PAGES ? left : BLOCK_PAGES, .base = base};
        b.count = last - base + 1 < b.pages * CPU_KV_PAGE ? last - base + 1 : b.pages * CPU_KV_PAGE;
        if (job->kv_type == REALM_KV_F16) attend_block(t, &b, true);
        else attend_block(t, &b, false);
    }
    store_results(t);
}

#include "attention_tiles.h"

/* ---- one row ---- */

#define vec_get _mm512_loadu_ps
#define vec_put _mm512_storeu_ps
#define vec_half(x) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(x)))
#define ROW_VECTORS 4

/* Pairs of vectors become one of both's sums, four times. */
AVX512_INLINE __m512 vec_sums(__m512 v[16]) {
    __m512 s[8], t[4], u[2];
    CPU_UNROLL for (int i = 0; i < 8; i++) s[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[i], v[8 + i]), _mm512_unpackhi_ps(v[i], v[8 + i]));
    CPU_UNROLL for (int i = 0; i < 4; i++) t[i] = _mm512_add_ps(_mm512_unpacklo_ps(s[i], s[4 + i]), _mm512_unpackhi_ps(s[i], s[4 + i]));
    /* t[i], 128-bit lane L: parts of the sums of v[i], v[i + 4], v[i + 8], v[i + 12] in the order i, i + 4, i + 8, i + 12 */
    for (int i = 0; i < 4; i += 2) u[i / 2] = _mm512_add_ps(_mm512_shuffle_f32x4(t[i], t[i + 1], 0x88), _mm512_shuffle_f32x4(t[i], t[i + 1], 0xdd));
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_f32x4(u[0], u[1], 0x88), _mm512_shuffle_f32x4(u[0], u[1], 0xdd));
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_ps(order, sums);
}

AVX512_INLINE __m512 vec_seen(__m512 v, __m512 other, uint32_t base, uint32_t first, uint32_t last) {
    __mmask16 mask = last >= base ? avx512_mask((size_t)last - base + 1) : 0;
    if (first > base) mask &= (__mmask16)~avx512_mask(first - base);
    return _mm512_mask_mov_ps(other, mask, v);
}

#include "attention_row.h"

void cpu_attention_avx512(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1,
                          float *scratch) {
    const bool alone = row1 - row0 == 1 && job->head_dim % VEC_LANES == 0;
    if (alone && job->n_head / job->n_head_kv < FEW_QUERIES) attend_row(job, row0, head0, head1, scratch);
    else if (alone) cpu_attention_shared_avx512(job, row0, head0, head1, scratch);
    else attend_tiles(job, row0, row1, head0, head1, scratch);
}
