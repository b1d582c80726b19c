/* attention_simd128.c: attention over KV pages for WebAssembly.
 *
 * The queries (row, head) that share a KV head are taken in tiles of up to QUERIES; a page's K, turned over, and then its V are
 * widened once per tile into a buffer of floats. Scores and weighted sums are then both products of a few rows with a
 * matrix, 16 columns at a time. The running maximum and sum of the softmax work as in attention_portable.c. */
#include "simd128.h"

#include <math.h>

#define QUERIES 24 /* two vectors each, and 16 in the page's buffer: what cpu_attention_scratch has room for */
#define TILE 3     /* queries in registers: 3 x 16 sums */
_Static_assert(QUERIES * 2 + CPU_KV_PAGE <= ATTENTION_QUERIES * 2, "scratch");

typedef struct tile {
    const cpu_attention *job;
    uint32_t head_kv, head0, heads; /* query heads [head0, head0 + heads) share head_kv */
    uint32_t row0, rows;
    uint32_t queries;  /* rows * heads; query i is row i / heads, head i % heads */
    size_t width;      /* head_dim padded to 16 */
    float *q, *sum;    /* (queries, width): scaled queries, weighted sums of V */
    float *page;       /* K (width, 16) turned over, then V (16, width) of the page at hand */
    float *scores;     /* (queries, 16): scores, then weights of the page */
    float *totals;     /* (queries, 4): sums of weights, by lane */
    float *most;       /* (queries,) */
    float *shrink;     /* (queries,) what the sums so far are multiplied by */
} tile;

/* ---- one page ---- */

/* Dims [d, d + 4) of a position, zeros past the last. */
SIMD_INLINE v128_t load_kv(const void *vectors, bool f16, size_t head_dim, size_t position, size_t d) {
    const size_t at = position * head_dim + d, n = head_dim - d;
    if (!f16) return simd_load((const float *)vectors + at, n);
    const uint16_t *halves = (const uint16_t *)vectors + at;
    if (n >= 4) return simd_from_halves(wasm_i32x4_load16x4(halves));
    uint16_t some[4] = {0};
    for (size_t i = 0; i < n; i++) some[i] = halves[i];
    return simd_from_halves(wasm_i32x4_load16x4(some));
}

/* r[i] lane j <-> r[j] lane i */
SIMD_INLINE void transpose(v128_t r[4]) {
    const v128_t a = wasm_i32x4_shuffle(r[0], r[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(r[0], r[1], 2, 6, 3, 7);
    const v128_t c = wasm_i32x4_shuffle(r[2], r[3], 0, 4, 1, 5), d = wasm_i32x4_shuffle(r[2], r[3], 2, 6, 3, 7);
    r[0] = wasm_i64x2_shuffle(a, c, 0, 2);
    r[1] = wasm_i64x2_shuffle(a, c, 1, 3);
    r[2] = wasm_i64x2_shuffle(b, d, 0, 2);
    r[3] = wasm_i64x2_shuffle(b, d, 1, 3);
}

SIMD_INLINE void load_keys(const tile *t, const void *k, bool f16) {
    for (size_t d = 0; d < t->job->head_dim; d += 4) {
        for (size_t p = 0; p < CPU_KV_PAGE; p += 4) {
            v128_t r[4];
            for (size_t i = 0; i < 4; i++) r[i] = load_kv(k, f16, t->job->head_dim, p + i, d);
            transpose(r);
            for (size_t i = 0; i < 4; i++) wasm_v128_store(t->page + (d + i) * CPU_KV_PAGE + p, r[i]);
        }
    }
}

SIMD_INLINE void load_values(const tile *t, const void *v, bool f16, uint32_t count) {
    for (size_t p = 0; p < count; p++) {
        float *to = t->page + p * t->width;
        for (size_t d = 0; d < t->job->head_dim; d += 4) wasm_v128_store(to + d, load_kv(v, f16, t->job->head_dim, p, d));
        for (size_t d = ((size_t)t->job->head_dim + 3) / 4 * 4; d < t->width; d += 4) wasm_v128_store(to + d, wasm_f32x4_splat(0));
    }
}

/* sums (rows, 16) += a (rows, n) @ b (n, 16 columns) */
SIMD_INLINE void multiply(const float *a, size_t a_stride, const float *b, size_t b_stride, size_t n, uint32_t rows, v128_t sums[TILE][4]) {
    for (size_t i = 0; i < n; i++, b += b_stride) {
        v128_t columns[4];
        for (int c = 0; c < 4; c++) columns[c] = wasm_v128_load(b + 4 * c);
        for (uint32_t r = 0; r < rows; r++) {
            const v128_t v = wasm_v128_load32_splat(a + r * a_stride + i);
            for (int c = 0; c < 4; c++) sums[r][c] = simd_madd(v, columns[c], sums[r][c]);
        }
    }
}

/* Scores of queries [i, i + rows): q . k for the positions of the page. */
SIMD_INLINE void score(const tile *t, uint32_t i, uint32_t rows) {
    v128_t sums[TILE][4];
    for (uint32_t r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++) sums[r][c] = wasm_f32x4_splat(0);
    multiply(t->q + i * t->width, t->width, t->page, CPU_KV_PAGE, t->job->head_dim, rows, sums);
    for (uint32_t r = 0; r < rows; r++)
        for (int c = 0; c < 4; c++) wasm_v128_store(t->scores + (i + r) * CPU_KV_PAGE + 4 * c, sums[r][c]);
}

/* sum = sum * shrink + weights . v for queries [i, i + rows) over the first `count` positions; the others were never written. */
SIMD_INLINE void add_values(const tile *t, uint32_t i, uint32_t rows, uint32_t count) {
    for (size_t d = 0; d < t->width; d += 16) {
        v128_t sums[TILE][4];
        for (uint32_t r = 0; r < rows; r++) {
            const v128_t shrink = wasm_v128_load32_splat(t->shrink + i + r);
            for (int c = 0; c < 4; c++) sums[r][c] = wasm_f32x4_mul(wasm_v128_load(t->sum + (i + r) * t->width + d + 4 * c), shrink);
        }
        multiply(t->scores + i * CPU_KV_PAGE, CPU_KV_PAGE, t->page + d, t->width, count, rows, sums);
        for (uint32_t r = 0; r < rows; r++)
            for (int c = 0; c < 4; c++) wasm_v128_store(t->sum + (i + r) * t->width + d + 4 * c, sums[r][c]);
    }
}

/* Lanes of the positions [base, base + 4) that lie in [first, last]; positions fit in 31 bits. */
SIMD_INLINE v128_t visible(uint32_t base, uint32_t first, uint32_t last) {
    const v128_t at = wasm_i32x4_add(wasm_i32x4_splat((int)base), wasm_i32x4_make(0, 1, 2, 3));
    return wasm_v128_and(wasm_i32x4_ge(at, wasm_i32x4_splat((int)first)), wasm_i32x4_le(at, wasm_i32x4_splat((int)last)));
}

/* Scores of one query become weights exp(score - most); its sums learn by how much to shrink. */
SIMD_INLINE void weigh(const tile *t, uint32_t i, uint32_t base) {
    const cpu_attention *job = t->job;
    const uint32_t last = job->pos0 + t->row0 + i / t->heads;
    const uint32_t first = job->window && last >= job->window ? last - job->window + 1 : 0;
    float *scores = t->scores + i * CPU_KV_PAGE;
    v128_t s[4], seen[4], page_lanes = wasm_f32x4_splat(-INFINITY);
    for (uint32_t c = 0; c < 4; c++) {
        s[c] = wasm_v128_load(scores + 4 * c);
        seen[c] = visible(base + 4 * c, first, last);
        if (job->softcap != 0) {
            const v128_t cap = wasm_f32x4_splat(job->softcap);
            s[c] = wasm_f32x4_mul(simd_tanh(wasm_f32x4_div(s[c], cap)), cap);
        }
        page_lanes = wasm_f32x4_pmax(page_lanes, wasm_v128_bitselect(s[c], wasm_f32x4_splat(-INFINITY), seen[c]));
    }
    const float old = t->most[i], page_most = simd_max(page_lanes);
    t->shrink[i] = 1.0f;
    if (page_most > old) {
        t->most[i] = page_most;
        t->shrink[i] = wasm_f32x4_extract_lane(simd_exp(wasm_f32x4_splat(old - page_most)), 0);
    }
    v128_t total = wasm_f32x4_mul(wasm_v128_load(t->totals + 4 * i), wasm_f32x4_splat(t->shrink[i]));
    for (uint32_t c = 0; c < 4; c++) {
        const v128_t weights = wasm_v128_and(seen[c], simd_exp(wasm_f32x4_sub(s[c], wasm_f32x4_splat(t->most[i]))));
        wasm_v128_store(scores + 4 * c, weights);
        total = wasm_f32x4_add(total, weights);
    }
    wasm_v128_store(t->totals + 4 * i, total);
}

SIMD_INLINE void attend_page(const tile *t, uint32_t page, bool f16) {
    const cpu_attention *job = t->job;
    const uint32_t base = page * CPU_KV_PAGE, written = job->pos0 + t->row0 + t->rows - base;
    const uint32_t count = written < CPU_KV_PAGE ? written : CPU_KV_PAGE;
    const size_t element = f16 ? 2 : 4, head_bytes = (size_t)CPU_KV_PAGE * job->head_dim * element;
    const uint8_t *k = (const uint8_t *)job->pages[page] + t->head_kv * head_bytes, *v = k + job->n_head_kv * head_bytes;
    uint32_t i;
    load_keys(t, k, f16);
    for (i = 0; i + TILE <= t->queries; i += TILE) score(t, i, TILE);
    for (; i < t->queries; i++) score(t, i, 1);
    for (i = 0; i < t->queries; i++) weigh(t, i, base);
    load_values(t, v, f16, count);
    for (i = 0; i + TILE <= t->queries; i += TILE) add_values(t, i, TILE, count);
    for (; i < t->queries; i++) add_values(t, i, 1, count);
}

/* ---- a tile of queries ---- */

static void load_queries(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t i = 0; i < t->queries; i++) {
        const float *q = job->q + (t->row0 + i / t->heads) * job->q_stride + (size_t)(t->head0 + i % t->heads) * job->head_dim;
        for (size_t d = 0; d < t->width; d += 4) {
            const v128_t v = d < job->head_dim ? simd_load(q + d, job->head_dim - d) : wasm_f32x4_splat(0);
            wasm_v128_store(t->q + i * t->width + d, wasm_f32x4_mul(v, wasm_f32x4_splat(job->scale)));
            wasm_v128_store(t->sum + i * t->width + d, wasm_f32x4_splat(0));
        }
        wasm_v128_store(t->totals + 4 * i, wasm_f32x4_splat(0));
        t->most[i] = -INFINITY;
    }
}

static void store_results(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t i = 0; i < t->queries; i++) {
        float *out = job->out + (t->row0 + i / t->heads) * job->out_stride + (size_t)(t->head0 + i % t->heads) * job->head_dim;
        const v128_t inverse = wasm_f32x4_splat(1.0f / simd_sum(wasm_v128_load(t->totals + 4 * i)));
        for (size_t d = 0; d < job->head_dim; d += 4)
            simd_store(out + d, job->head_dim - d, wasm_f32x4_mul(wasm_v128_load(t->sum + i * t->width + d), inverse));
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

#ifdef CPU_RELAXED
void cpu_attention_relaxed(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch) {
#else
void cpu_attention_simd128(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch) {
#endif
    attend_tiles(job, row0, row1, head0, head1, scratch);
}
