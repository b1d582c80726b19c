/* attention_shared_avx512.c: attention of a single row where several query heads share a KV head, for AVX-512.
 *
 * Eight query heads by two dims fill a vector: a position's K, two dims at a time, is multiplied with all eight at once, and the
 * softmax of eight heads needs no sums or maxima across lanes. Scores, and later weights, lie as (pairs of positions, 16): lane
 * SCORE_LANE(position, head). V is read where it lies. Fewer heads than eight are filled up with zeros. */
#include "avx512.h"

#include <math.h>

#define HEADS 8
#define BLOCK_PAGES 2
#define BLOCK (BLOCK_PAGES * CPU_KV_PAGE) /* positions */
#define CACHE_LINE 64
#define SCORE_LANE(position, head) ((head) / 2 * 4 + (position) % 2 * 2 + (head) % 2)

typedef struct group {
    const cpu_attention *job;
    uint32_t head_kv, head0, heads; /* query heads [head0, head0 + heads) share head_kv */
    uint32_t first, last;           /* visible positions */
    float *q;                       /* (head_dim / 2, HEADS, 2): scaled queries */
    float *k;                       /* (CPU_KV_PAGE, head_dim): of the page at hand */
    float *sum;                     /* (HEADS, head_dim): weighted sums of V */
    float *scores;                  /* (BLOCK / 2, 16): scores, then weights of the block at hand */
    float *most, *total;            /* (16,): by lane; the two lanes of a head have the same maximum */
} group;

typedef struct block { /* up to BLOCK positions from `base` on, and where the next block's lie */
    uint32_t base, pages;
    const uint8_t *k[BLOCK_PAGES], *v[BLOCK_PAGES], *next_k[BLOCK_PAGES], *next_v[BLOCK_PAGES];
} block;

/* Dims [at, at + 16) of a page. */
AVX512_INLINE __m512 load_kv(const uint8_t *vectors, bool f16, size_t at) {
    const void *from = vectors + at * (f16 ? 2 : 4);
    return f16 ? _mm512_cvtph_ps(_mm256_loadu_si256(from)) : _mm512_loadu_ps(from);
}

/* ---- scores ---- */

/* The page's K as floats. */
AVX512_INLINE void widen_k(const group *g, const uint8_t *k, bool f16) {
    const size_t n = (size_t)CPU_KV_PAGE * g->job->head_dim;
    for (size_t i = 0; i < n; i += 16) _mm512_storeu_ps(g->k + i, load_kv(k, f16, i));
}

/* The next block's K is asked for meanwhile, a line or two at a time: a page has as many as a head has pairs of dims. */
AVX512_INLINE void score_page(const group *g, const uint8_t *next, bool f16, float *scores) {
    const size_t head_dim = g->job->head_dim;
    __m512 sums[CPU_KV_PAGE];
    CPU_UNROLL for (int p = 0; p < CPU_KV_PAGE; p++) sums[p] = _mm512_setzero_ps();
    CPU_ROLLED for (size_t d = 0; d < head_dim; d += 2) {
        const __m512 q = _mm512_loadu_ps(g->q + d * HEADS);
        for (size_t i = 0; i < (f16 ? 1 : 2); i++) __builtin_prefetch(next + (d / 2 * (f16 ? 1 : 2) + i) * CACHE_LINE, 0, 2);
        CPU_UNROLL for (size_t p = 0; p < CPU_KV_PAGE; p++) {
            __m128d pair;
            memcpy(&pair, g->k + p * head_dim + d, 8);
            sums[p] = _mm512_fmadd_ps(_mm512_castpd_ps(_mm512_broadcastsd_pd(pair)), q, sums[p]);
        }
    }
    CPU_UNROLL for (int p = 0; p < CPU_KV_PAGE; p += 2) {
        const __m512 even = _mm512_shuffle_ps(sums[p], sums[p + 1], 0x88), odd = _mm512_shuffle_ps(sums[p], sums[p + 1], 0xdd);
        _mm512_storeu_ps(scores + 8 * p, _mm512_add_ps(even, odd));
    }
}

/* ---- softmax ---- */

AVX512_INLINE void cap_scores(const group *g, uint32_t pairs) {
    const __m512 cap = _mm512_set1_ps(g->job->softcap);
    for (uint32_t i = 0; i < pairs; i++) {
        const __m512 s = _mm512_div_ps(_mm512_loadu_ps(g->scores + 16 * i), cap);
        _mm512_storeu_ps(g->scores + 16 * i, _mm512_mul_ps(avx512_tanh(s), cap));
    }
}

/* Scores of positions that are not seen: what was never written may be anything. */
AVX512_INLINE void hide_scores(const group *g, const block *b, uint32_t pairs) {
    if (b->base >= g->first && b->base + 2 * pairs - 1 <= g->last) return;
    for (uint32_t i = 0; i < pairs; i++) {
        const uint32_t even = b->base + 2 * i, odd = even + 1;
        const uint32_t seen = (even >= g->first && even <= g->last ? 0x3333u : 0) | (odd >= g->first && odd <= g->last ? 0xccccu : 0);
        _mm512_storeu_ps(g->scores + 16 * i, _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), (__mmask16)seen, g->scores + 16 * i));
    }
}

/* The maxima so far take the block's in, and the sums so far shrink where one was raised. */
AVX512_INLINE __m512 raise_most(const group *g, uint32_t pairs) {
    __m512 tops[2] = {_mm512_loadu_ps(g->scores), _mm512_loadu_ps(g->scores + 16)};
    for (uint32_t i = 2; i < pairs; i++) tops[i % 2] = _mm512_max_ps(tops[i % 2], _mm512_loadu_ps(g->scores + 16 * i));
    const __m512 top = _mm512_max_ps(tops[0], tops[1]), old = _mm512_loadu_ps(g->most);
    const __m512 most = _mm512_max_ps(old, _mm512_max_ps(top, _mm512_shuffle_ps(top, top, 0x4e)));
    if (_mm512_cmp_ps_mask(most, old, _CMP_NEQ_UQ) == 0) return most;
    const __m512 shrink = avx512_exp(_mm512_sub_ps(old, most));
    float shrinks[16];
    _mm512_storeu_ps(shrinks, shrink);
    _mm512_storeu_ps(g->total, _mm512_mul_ps(_mm512_loadu_ps(g->total), shrink));
    _mm512_storeu_ps(g->most, most);
    for (uint32_t h = 0; h < HEADS; h++) {
        float *sum = g->sum + h * g->job->head_dim;
        const __m512 factor = _mm512_set1_ps(shrinks[SCORE_LANE(0, h)]);
        for (size_t d = 0; d < g->job->head_dim; d += 16) _mm512_storeu_ps(sum + d, _mm512_mul_ps(_mm512_loadu_ps(sum + d), factor));
    }
    return most;
}

/* Scores become weights exp(score - most). */
AVX512_INLINE void weigh(const group *g, uint32_t pairs) {
    const __m512 most = raise_most(g, pairs);
    __m512 total = _mm512_loadu_ps(g->total);
    for (uint32_t i = 0; i < pairs; i++) {
        const __m512 weights = avx512_exp(_mm512_sub_ps(_mm512_loadu_ps(g->scores + 16 * i), most));
        _mm512_storeu_ps(g->scores + 16 * i, weights);
        total = _mm512_add_ps(total, weights);
    }
    _mm512_storeu_ps(g->total, total);
}

/* ---- values ---- */

/* sum += weights . v for all heads and `vectors` times 16 dims from d on. */
AVX512_INLINE void add_values(const group *g, const float *weights, const uint8_t *v, const uint8_t *next, bool f16, uint32_t count,
                              size_t d, uint32_t vectors) {
    const size_t head_dim = g->job->head_dim;
    __m512 sums[HEADS][2];
    CPU_UNROLL for (size_t h = 0; h < HEADS; h++)
        CPU_UNROLL for (size_t j = 0; j < vectors; j++) sums[h][j] = _mm512_loadu_ps(g->sum + h * head_dim + d + 16 * j);
    CPU_ROLLED for (uint32_t p = 0; p < count; p++) {
        const size_t at = p * head_dim + d;
        const __m512 v0 = load_kv(v, f16, at), v1 = vectors > 1 ? load_kv(v, f16, at + 16) : v0;
        __builtin_prefetch(next + at * (f16 ? 2 : 4), 0, 2);
        if (!f16 && vectors > 1) __builtin_prefetch(next + (at + 16) * 4, 0, 2);
        CPU_UNROLL for (uint32_t h = 0; h < HEADS; h++) {
            const __m512 weight = _mm512_set1_ps(weights[p / 2 * 16 + SCORE_LANE(p, h)]);
            sums[h][0] = _mm512_fmadd_ps(weight, v0, sums[h][0]);
            if (vectors > 1) sums[h][1] = _mm512_fmadd_ps(weight, v1, sums[h][1]);
        }
    }
    CPU_UNROLL for (size_t h = 0; h < HEADS; h++)
        CPU_UNROLL for (size_t j = 0; j < vectors; j++) _mm512_storeu_ps(g->sum + h * head_dim + d + 16 * j, sums[h][j]);
}

AVX512_INLINE void attend_block(const group *g, const block *b, bool f16) {
    const uint32_t pairs = b->pages * CPU_KV_PAGE / 2;
    for (uint32_t i = 0; i < b->pages; i++) {
        widen_k(g, b->k[i], f16);
        score_page(g, b->next_k[i], f16, g->scores + i * CPU_KV_PAGE / 2 * 16);
    }
    if (g->job->softcap != 0) cap_scores(g, pairs);
    hide_scores(g, b, pairs);
    weigh(g, pairs);
    for (uint32_t i = 0; i < b->pages; i++) {
        const uint32_t left = g->last - b->base + 1 - CPU_KV_PAGE * i, count = left < CPU_KV_PAGE ? left : CPU_KV_PAGE;
        const float *weights = g->scores + i * CPU_KV_PAGE / 2 * 16;
        size_t d = 0;
        for (; d + 32 <= g->job->head_dim; d += 32) add_values(g, weights, b->v[i], b->next_v[i], f16, count, d, 2);
        if (d < g->job->head_dim) add_values(g, weights, b->v[i], b->next_v[i], f16, count, d, 1);
    }
}

/* ---- a row ---- */

AVX512_INLINE const uint8_t *page_k(const group *g, uint32_t page, bool f16) {
    return (const uint8_t *)g->job->pages[page] + g->head_kv * (size_t)CPU_KV_PAGE * g->job->head_dim * (f16 ? 2 : 4);
}

AVX512_INLINE void attend_blocks(const group *g, bool f16) {
    const uint32_t end = g->last / CPU_KV_PAGE + 1;
    const size_t part = (size_t)CPU_KV_PAGE * g->job->head_dim * g->job->n_head_kv * (f16 ? 2 : 4);
    for (uint32_t page = g->first / CPU_KV_PAGE; page < end; page += BLOCK_PAGES) {
        block b = {.base = page * CPU_KV_PAGE, .pages = end - page < BLOCK_PAGES ? end - page : BLOCK_PAGES};
        for (uint32_t i = 0; i < b.pages; i++) {
            b.k[i] = page_k(g, page + i, f16);
            b.v[i] = b.k[i] + part;
            b.next_k[i] = page + i + BLOCK_PAGES < end ? page_k(g, page + i + BLOCK_PAGES, f16) : b.k[i];
            b.next_v[i] = b.next_k[i] + part;
        }
        attend_block(g, &b, f16);
    }
}

static void load_queries(const group *g, const float *q) {
    const size_t head_dim = g->job->head_dim;
    for (size_t d = 0; d < head_dim; d++)
        for (size_t h = 0; h < HEADS; h++) g->q[d / 2 * 16 + 2 * h + d % 2] = h < g->heads ? q[h * head_dim + d] * g->job->scale : 0.0f;
    for (size_t i = 0; i < HEADS * head_dim; i += 16) _mm512_storeu_ps(g->sum + i, _mm512_setzero_ps());
    _mm512_storeu_ps(g->most, _mm512_set1_ps(-INFINITY));
    _mm512_storeu_ps(g->total, _mm512_setzero_ps());
}

static void store_results(const group *g, float *out) {
    const size_t head_dim = g->job->head_dim;
    for (uint32_t h = 0; h < g->heads; h++) {
        const __m512 inverse = _mm512_set1_ps(1.0f / (g->total[SCORE_LANE(0, h)] + g->total[SCORE_LANE(1, h)]));
        for (size_t d = h * head_dim; d < (h + 1) * head_dim; d += 16)
            _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(g->sum + d), inverse));
    }
}

/* Query heads [head0, head1) of one row; head_dim is a multiple of 16. */
void cpu_attention_shared_avx512(const cpu_attention *job, uint32_t row, uint32_t head0, uint32_t head1, float *scratch) {
    const uint32_t shared = job->n_head / job->n_head_kv, last = job->pos0 + row;
    group g = {.job = job, .last = last, .first = job->window && last >= job->window ? last - job->window + 1 : 0, .q = scratch};
    g.sum = g.q + (size_t)HEADS * job->head_dim;
    g.k = g.sum + (size_t)HEADS * job->head_dim;
    g.scores = g.k + (size_t)CPU_KV_PAGE * job->head_dim;
    g.most = g.scores + BLOCK / 2 * 16;
    g.total = g.most + 16;
    for (g.head0 = head0; g.head0 < head1; g.head0 += g.heads) {
        const uint32_t left = shared - g.head0 % shared, most = left < HEADS ? left : HEADS;
        g.heads = head1 - g.head0 < most ? head1 - g.head0 : most;
        g.head_kv = g.head0 / shared;
        const size_t at = (size_t)g.head0 * job->head_dim;
        load_queries(&g, job->q + row * job->q_stride + at);
        if (job->kv_type == REALM_KV_F16) attend_blocks(&g, true);
        else attend_blocks(&g, false);
        store_results(&g, job->out + row * job->out_stride + at);
    }
}
