/* attention_neon.c: attention over KV pages for NEON.
 *
 * The queries (row, head) that share a KV head are taken in tiles of up to QUERIES. A page is read where it lies when one tile of
 * registers serves all queries; else its K and then its V are first widened into a buffer of floats. Scores are dot products along the
 * head's dims, four queries with four positions at a time. The running maximum and sum of the softmax work as in
 * attention_portable.c. */
#include "neon.h"

#include <math.h>

#define QUERIES 24 /* two vectors each, and 16 in the page's buffer: what cpu_attention_scratch has room for */
#define TILE 4     /* queries in registers: 4 x 4 sums */
_Static_assert(QUERIES * 2 + CPU_KV_PAGE <= ATTENTION_QUERIES * 2, "scratch");

typedef struct tile {
    const cpu_attention *job;
    uint32_t head_kv, head0, heads; /* query heads [head0, head0 + heads) share head_kv */
    uint32_t row0, rows;
    uint32_t queries;  /* rows * heads; query i is row i / heads, head i % heads */
    size_t width;      /* head_dim padded to 16 */
    float *q, *sum;    /* (queries, width): scaled queries, weighted sums of V */
    float *page;       /* K, then V (16, width) of the page at hand, where it is not read in place */
    float *scores;     /* (queries, 16): scores, then weights of the page */
    float *totals;     /* (queries, 4): sums of weights, by lane */
    float *most;       /* (queries,) */
    float *shrink;     /* (queries,) what the sums so far are multiplied by */
} tile;

/* Where 16 vectors of a page are read from. */
typedef struct vectors {
    const void *data;
    size_t stride; /* elements from one position to the next */
} vectors;

/* ---- one page ---- */

/* Dims [d, d + 4) of a position. */
NEON_INLINE float32x4_t load4(const vectors *v, bool f16, size_t position, size_t d) {
    const size_t at = position * v->stride + d;
    return f16 ? neon_from_halves(vld1_u16((const uint16_t *)v->data + at)) : vld1q_f32((const float *)v->data + at);
}

/* The first `count` vectors of a page as floats, padded with zeros to the width. */
NEON_INLINE vectors widen(const tile *t, const void *from, bool f16, uint32_t count) {
    const size_t n = t->job->head_dim;
    for (size_t p = 0; p < count; p++) {
        for (size_t d = 0; d < t->width; d += 4) {
            float32x4_t v = vdupq_n_f32(0);
            if (d < n && f16) v = neon_from_halves(neon_load16((const uint16_t *)from + p * n + d, n - d));
            else if (d < n) v = neon_load((const float *)from + p * n + d, n - d);
            vst1q_f32(t->page + p * t->width + d, v);
        }
    }
    return (vectors){t->page, t->width};
}

/* Scores of queries [i, i + rows): q . k for the first `count` positions and up to three after them. */
NEON_INLINE void score(const tile *t, const vectors *k, bool f16, uint32_t i, uint32_t rows, uint32_t count) {
    for (size_t p = 0; p < count; p += 4) {
        float32x4_t sums[TILE][4];
        for (uint32_t r = 0; r < rows; r++) sums[r][0] = sums[r][1] = sums[r][2] = sums[r][3] = vdupq_n_f32(0);
        for (size_t d = 0; d < t->width; d += 4) {
            float32x4_t keys[4];
            for (size_t j = 0; j < 4; j++) keys[j] = load4(k, f16, p + j, d);
            for (uint32_t r = 0; r < rows; r++) {
                const float32x4_t q = vld1q_f32(t->q + (i + r) * t->width + d);
                for (size_t j = 0; j < 4; j++) sums[r][j] = vfmaq_f32(sums[r][j], q, keys[j]);
            }
        }
        for (uint32_t r = 0; r < rows; r++) {
            const float32x4_t low = vpaddq_f32(sums[r][0], sums[r][1]), high = vpaddq_f32(sums[r][2], sums[r][3]);
            vst1q_f32(t->scores + (i + r) * CPU_KV_PAGE + p, vpaddq_f32(low, high));
        }
    }
}

/* sum = sum * shrink + weights . v for queries [i, i + rows) over the first `count` positions; the others were never written. */
NEON_INLINE void add_values(const tile *t, const vectors *v, bool f16, uint32_t i, uint32_t rows, uint32_t count) {
    for (size_t d = 0; d < t->width; d += 16) {
        float32x4_t sums[TILE][4];
        for (uint32_t r = 0; r < rows; r++)
            for (size_t c = 0; c < 4; c++) sums[r][c] = vmulq_n_f32(vld1q_f32(t->sum + (i + r) * t->width + d + 4 * c), t->shrink[i + r]);
        for (size_t p = 0; p < count; p++) {
            float32x4_t values[4];
            for (size_t c = 0; c < 4; c++) values[c] = load4(v, f16, p, d + 4 * c);
            for (uint32_t r = 0; r < rows; r++) {
                const float weight = t->scores[(i + r) * CPU_KV_PAGE + p];
                for (size_t c = 0; c < 4; c++) sums[r][c] = vfmaq_n_f32(sums[r][c], values[c], weight);
            }
        }
        for (uint32_t r = 0; r < rows; r++)
            for (size_t c = 0; c < 4; c++) vst1q_f32(t->sum + (i + r) * t->width + d + 4 * c, sums[r][c]);
    }
}

/* Lanes of the positions [base, base + 4) that lie in [first, last]. */
NEON_INLINE uint32x4_t visible(uint32_t base, uint32_t first, uint32_t last) {
    static const uint32_t lanes[4] = {0, 1, 2, 3};
    const uint32x4_t at = vaddq_u32(vdupq_n_u32(base), vld1q_u32(lanes));
    return vandq_u32(vcgeq_u32(at, vdupq_n_u32(first)), vcleq_u32(at, vdupq_n_u32(last)));
}

/* Scores of one query become weights exp(score - most); its sums learn by how much to shrink. */
NEON_INLINE void weigh(const tile *t, uint32_t i, uint32_t base) {
    const cpu_attention *job = t->job;
    const uint32_t last = job->pos0 + t->row0 + i / t->heads;
    const uint32_t first = job->window && last >= job->window ? last - job->window + 1 : 0;
    float *scores = t->scores + i * CPU_KV_PAGE;
    uint32x4_t seen[4];
    float32x4_t s[4], page_lanes = vdupq_n_f32(-INFINITY);
    for (uint32_t c = 0; c < 4; c++) {
        s[c] = vld1q_f32(scores + 4 * c);
        seen[c] = visible(base + 4 * c, first, last);
        if (job->softcap != 0) s[c] = vmulq_n_f32(neon_tanh(vdivq_f32(s[c], vdupq_n_f32(job->softcap))), job->softcap);
        s[c] = vbslq_f32(seen[c], s[c], vdupq_n_f32(-INFINITY)); /* what lies where nothing was written may be anything */
        page_lanes = vmaxnmq_f32(page_lanes, s[c]);
    }
    const float old = t->most[i], page_most = vmaxnmvq_f32(page_lanes);
    t->shrink[i] = 1.0f;
    if (page_most > old) {
        t->most[i] = page_most;
        t->shrink[i] = vgetq_lane_f32(neon_exp(vdupq_n_f32(old - page_most)), 0);
    }
    float32x4_t total = vmulq_n_f32(vld1q_f32(t->totals + 4 * i), t->shrink[i]);
    for (uint32_t c = 0; c < 4; c++) {
        const float32x4_t e = neon_exp(vsubq_f32(s[c], vdupq_n_f32(t->most[i])));
        const float32x4_t weights = vreinterpretq_f32_u32(vandq_u32(seen[c], vreinterpretq_u32_f32(e)));
        vst1q_f32(scores + 4 * c, weights);
        total = vaddq_f32(total, weights);
    }
    vst1q_f32(t->totals + 4 * i, total);
}

NEON_INLINE void score_page(const tile *t, vectors k, bool f16, uint32_t count) {
    uint32_t i = 0;
    for (; i + TILE <= t->queries; i += TILE) score(t, &k, f16, i, TILE, count);
    for (; i < t->queries; i++) score(t, &k, f16, i, 1, count);
}

NEON_INLINE void add_page(const tile *t, vectors v, bool f16, uint32_t count) {
    uint32_t i = 0;
    for (; i + TILE <= t->queries; i += TILE) add_values(t, &v, f16, i, TILE, count);
    for (; i < t->queries; i++) add_values(t, &v, f16, i, 1, count);
}

NEON_INLINE void attend_page(const tile *t, uint32_t page, bool f16) {
    const cpu_attention *job = t->job;
    const uint32_t base = page * CPU_KV_PAGE, written = job->pos0 + t->row0 + t->rows - base;
    const uint32_t count = written < CPU_KV_PAGE ? written : CPU_KV_PAGE;
    const size_t element = f16 ? 2 : 4, head_bytes = (size_t)CPU_KV_PAGE * job->head_dim * element;
    const uint8_t *k = (const uint8_t *)job->pages[page] + t->head_kv * head_bytes, *v = k + job->n_head_kv * head_bytes;
    const bool in_place = t->width == job->head_dim && (!f16 || t->queries <= TILE);
    if (in_place) score_page(t, (vectors){k, job->head_dim}, f16, count);
    else score_page(t, widen(t, k, f16, CPU_KV_PAGE), false, count);
    for (uint32_t i = 0; i < t->queries; i++) weigh(t, i, base);
    if (in_place) add_page(t, (vectors){v, job->head_dim}, f16, count);
    else add_page(t, widen(t, v, f16, count), false, count);
}

/* ---- a tile of queries ---- */

static void load_queries(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t i = 0; i < t->queries; i++) {
        const float *q = job->q + (t->row0 + i / t->heads) * job->q_stride + (size_t)(t->head0 + i % t->heads) * job->head_dim;
        for (size_t d = 0; d < t->width; d += 4) {
            const float32x4_t v = d < job->head_dim ? neon_load(q + d, job->head_dim - d) : vdupq_n_f32(0);
            vst1q_f32(t->q + i * t->width + d, vmulq_n_f32(v, job->scale));
            vst1q_f32(t->sum + i * t->width + d, vdupq_n_f32(0));
        }
        vst1q_f32(t->totals + 4 * i, vdupq_n_f32(0));
        t->most[i] = -INFINITY;
    }
}

static void store_results(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t i = 0; i < t->queries; i++) {
        float *out = job->out + (t->row0 + i / t->heads) * job->out_stride + (size_t)(t->head0 + i % t->heads) * job->head_dim;
        const float inverse = 1.0f / vaddvq_f32(vld1q_f32(t->totals + 4 * i));
        for (size_t d = 0; d < job->head_dim; d += 4)
            neon_store(out + d, job->head_dim - d, vmulq_n_f32(vld1q_f32(t->sum + i * t->width + d), inverse));
    }
}

static void attend_tile(tile *t, float *scratch) {
    const cpu_attention *job = t->job;
    t->queries = t->rows * t->heads;
    t->width = ((size_t)job->head_dim + 15) / 16 * 16;
    t->q = scratch;
    t->sum = t->q + QUERIES * t->width;
    t->page = t->sum + QUERIES * t->width;
    t->scores = t->page + CPU_KV_PAGE * t->width;
    t->totals = t->scores + QUERIES * CPU_KV_PAGE;
    t->most = t->totals + QUERIES * 4;
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

void cpu_attention_neon(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch) {
    attend_tiles(job, row0, row1, head0, head1, scratch);
}
