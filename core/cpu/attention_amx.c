/* attention_amx.c: attention of many rows over f16 KV pages with AMX tiles of bf16.
 *
 * Everything is turned so that a lane is a query: scores are S (positions, 16) = K (positions, dims) @ Q^T (dims, 16), sums are
 * O (dims, 16) += V^T (dims, positions) @ P (positions, 16). So the softmax over positions runs down vectors, 16 queries side by
 * side, K is a tile as it stands, and only V is transposed, once for all queries of a tile. Q, K, V and the weights P are rounded to
 * bf16, as activations are before the products around this op; scores, sums and the softmax are float. Where that does not hold
 * (job->rounded) and for few rows, attention_avx512.c is called. */
#include "amx.h"

#define QUERIES CPU_ATTENTION_AMX_QUERIES
#define BLOCK CPU_ATTENTION_AMX_BLOCK /* positions whose K and V are turned into tiles at a time */
#define BLOCK_PAGES (BLOCK / CPU_KV_PAGE)
#define STEP 32          /* bf16 values in a row of a tile */
#define TILE_VALUES 512
#define LOG2E 1.44269504f
#define NEVER -1e30f     /* a score nobody has; finite, so that differences are numbers */

typedef struct tile {
    const cpu_attention *job;
    uint32_t head_kv, head0, heads; /* query heads [head0, head0 + heads) share head_kv */
    uint32_t row0, rows;
    uint32_t queries, groups; /* rows * heads; query i is row i / heads, head i % heads. Groups of 16 */
    size_t width;             /* head_dim padded to STEP */
    float *sum;               /* (groups, width, 16): weighted sums of V */
    float *most, *total;      /* (groups, 16): largest score in units of log 2; sum of weights */
    float *scores;            /* (2, BLOCK, 16): of this group and the next */
    uint16_t *q;              /* (groups, width / 32, 16, 16, 2): pairs of dims of scaled queries */
    uint16_t *weights;        /* (BLOCK / 32, 16, 16, 2): pairs of positions */
    uint16_t *k, *v;          /* (BLOCK, width), (width, BLOCK) */
} tile;

typedef struct block { /* positions [base, base + count), of which others are written in later steps */
    uint32_t page0, base, count;
} block;

AVX512_INLINE __m512i to_bf16(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

/* Lane i holds bf16 of low[i], then of high[i]. */
AVX512_INLINE __m512i to_pairs(__m512 low, __m512 high) {
    const __m512i order = _mm512_add_epi32(avx512_iota(), _mm512_slli_epi32(_mm512_add_epi32(avx512_iota(), _mm512_set1_epi32(16)), 16));
    return _mm512_permutexvar_epi16(order, to_bf16(low, high));
}

AVX512_INLINE __mmask16 lanes(size_t end, size_t from) { return from < end ? avx512_mask(end - from) : 0; }

/* 2^x for x <= 0 with a relative error below 3e-6, a thousandth of what bf16 takes. */
AVX512_INLINE __m512 exp2_coarse(__m512 x) {
    const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF); /* x - floor(x) */
    __m512 p = _mm512_set1_ps(0.013534168f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.05201146f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24144275f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69300383f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0000026f));
    return _mm512_scalef_ps(p, x); /* p * 2^floor(x) */
}

/* ---- K and V of a block ---- */

/* K of a position of the block; V follows part_bytes behind. */
AVX512_INLINE const uint16_t *block_k(const tile *t, const block *b, uint32_t position) {
    const uint16_t *page = t->job->pages[b->page0 + position / CPU_KV_PAGE];
    return page + ((size_t)t->head_kv * CPU_KV_PAGE + position % CPU_KV_PAGE) * t->job->head_dim;
}

AVX512_INLINE __m512 load_half(const uint16_t *from, __mmask16 mask) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from)); }

static void convert_k(const tile *t, const block *b) {
    for (size_t d = 0; d < t->width; d += STEP) {
        const __mmask16 low = lanes(t->job->head_dim, d), high = lanes(t->job->head_dim, d + 16);
        for (uint32_t p = 0; p < b->count; p++) {
            const uint16_t *k = block_k(t, b, p) + d;
            _mm512_storeu_si512(t->k + p * t->width + d, to_bf16(load_half(k, low), load_half(k + 16, high)));
        }
    }
}

/* Positions past the last become zeros: a weight of zero does not make up for what was never written. */
static void convert_v(const tile *t, const block *b) {
    const size_t part = (size_t)t->job->n_head_kv * CPU_KV_PAGE * t->job->head_dim;
    for (size_t d = 0; d < t->width; d += 16) {
        const __mmask16 mask = lanes(t->job->head_dim, d);
        for (uint32_t p0 = 0; p0 < b->count; p0 += STEP) {
            __m512i pairs[16];
            CPU_UNROLL for (uint32_t i = 0; i < 16; i++) {
                const uint32_t p = p0 + 2 * i;
                const __m512 low = p < b->count ? load_half(block_k(t, b, p) + part + d, mask) : _mm512_setzero_ps();
                const __m512 high = p + 1 < b->count ? load_half(block_k(t, b, p + 1) + part + d, mask) : _mm512_setzero_ps();
                pairs[i] = to_pairs(low, high);
            }
            avx512_transpose(pairs);
            CPU_UNROLL for (uint32_t i = 0; i < 16; i++) _mm512_storeu_si512(t->v + (d + i) * BLOCK + p0, pairs[i]);
        }
    }
}

/* ---- products: tiles 0 and 1 are results, 2 is shared, 3 and 4 are theirs ---- */

static void configure_tiles(void) {
    amx_config config = {.palette = 1};
    for (int i = 0; i < 5; i++) amx_shape(&config, i, 16, 64);
    amx_configure(&config);
}

/* scores (32 * steps, 16) = k . q */
AVX512_INLINE void score_group(const tile *t, uint32_t group, uint32_t steps, float *scores) {
    const uint16_t *q = t->q + group * t->width * 16;
    const size_t stride = t->width * sizeof *t->k;
    for (uint32_t s = 0; s < steps; s++) {
        const uint16_t *k = t->k + s * STEP * t->width;
        _tile_zero(0);
        _tile_zero(1);
        for (size_t d = 0; d < t->width; d += STEP) {
            _tile_loadd(2, q + d * 16, 64);
            _tile_loadd(3, k + d, stride);
            _tile_dpbf16ps(0, 3, 2);
            _tile_loadd(4, k + 16 * t->width + d, stride);
            _tile_dpbf16ps(1, 4, 2);
        }
        _tile_stored(0, scores + s * 512, 64);
        _tile_stored(1, scores + s * 512 + 256, 64);
    }
}

/* sum += v . weights */
AVX512_INLINE void value_group(const tile *t, uint32_t group, uint32_t steps) {
    for (size_t d = 0; d < t->width; d += 32) {
        float *sum = t->sum + (group * t->width + d) * 16;
        const uint16_t *v = t->v + d * BLOCK;
        _tile_loadd(0, sum, 64);
        _tile_loadd(1, sum + 256, 64);
        for (uint32_t s = 0; s < steps; s++) {
            _tile_loadd(2, t->weights + s * TILE_VALUES, 64);
            _tile_loadd(3, v + s * STEP, 2 * BLOCK);
            _tile_dpbf16ps(0, 3, 2);
            _tile_loadd(4, v + 16 * BLOCK + s * STEP, 2 * BLOCK);
            _tile_dpbf16ps(1, 4, 2);
        }
        _tile_stored(0, sum, 64);
        _tile_stored(1, sum + 256, 64);
    }
}

/* ---- softmax ---- */

AVX512_INLINE uint32_t query_position(const tile *t, uint32_t i) {
    return t->job->pos0 + t->row0 + (i < t->queries ? i : t->queries - 1) / t->heads;
}

/* Steps of the block that a query of the group sees something of. */
AVX512_INLINE uint32_t group_steps(const tile *t, const block *b, uint32_t group) {
    const uint32_t last = query_position(t, 16 * group + 15);
    if (group >= t->groups || last < b->base) return 0;
    const uint32_t seen = last - b->base + 1 < b->count ? last - b->base + 1 : b->count;
    return (seen + STEP - 1) / STEP;
}

static void cap_scores(const cpu_attention *job, uint32_t steps, float *scores) {
    const __m512 cap = _mm512_set1_ps(job->softcap), scale = _mm512_set1_ps(job->softcap * LOG2E);
    for (uint32_t p = 0; p < STEP * steps; p++) {
        const __m512 s = _mm512_div_ps(_mm512_loadu_ps(scores + 16 * p), cap);
        _mm512_storeu_ps(scores + 16 * p, _mm512_mul_ps(avx512_tanh(s), scale));
    }
}

/* Scores of positions that a query does not see, where some query does not see all. */
static void hide_scores(const tile *t, const block *b, uint32_t group, uint32_t steps, float *scores) {
    const uint32_t window = t->job->window, end = b->base + STEP * steps, last = query_position(t, 16 * group + 15);
    if (end <= query_position(t, 16 * group) + 1 && (window == 0 || last < b->base + window)) return;
    uint32_t positions[16];
    for (uint32_t i = 0; i < 16; i++) positions[i] = query_position(t, 16 * group + i);
    const __m512i at = _mm512_loadu_si512(positions);
    for (uint32_t p = 0; p < STEP * steps; p++, scores += 16) {
        const __m512i position = _mm512_set1_epi32((int)(b->base + p));
        __mmask16 seen = _mm512_cmpge_epu32_mask(at, position);
        if (window) seen &= _mm512_cmplt_epu32_mask(_mm512_sub_epi32(at, position), _mm512_set1_epi32((int)window));
        _mm512_storeu_ps(scores, _mm512_mask_loadu_ps(_mm512_set1_ps(NEVER), seen, scores));
    }
}

/* The largest scores so far take the block's in, and the sums so far shrink where one was raised. */
AVX512_INLINE __m512 raise_most(const tile *t, uint32_t group, uint32_t steps, const float *scores) {
    __m512 top[4];
    CPU_UNROLL for (int i = 0; i < 4; i++) top[i] = _mm512_loadu_ps(scores + 16 * i);
    for (uint32_t p = 4; p < STEP * steps; p += 4) {
        CPU_UNROLL for (uint32_t i = 0; i < 4; i++) top[i] = _mm512_max_ps(top[i], _mm512_loadu_ps(scores + 16 * (p + i)));
    }
    const __m512 old = _mm512_loadu_ps(t->most + 16 * group);
    const __m512 most = _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(_mm512_max_ps(top[2], top[3]), old));
    if (_mm512_cmp_ps_mask(most, old, _CMP_NEQ_UQ) == 0) return most;
    const __m512 shrink = exp2_coarse(_mm512_sub_ps(old, most));
    float *sum = t->sum + group * t->width * 16, *total = t->total + 16 * group;
    for (size_t d = 0; d < t->width; d++) _mm512_storeu_ps(sum + 16 * d, _mm512_mul_ps(_mm512_loadu_ps(sum + 16 * d), shrink));
    _mm512_storeu_ps(total, _mm512_mul_ps(_mm512_loadu_ps(total), shrink));
    _mm512_storeu_ps(t->most + 16 * group, most);
    return most;
}

/* Scores become weights 2^(score - most). */
AVX512_INLINE void weigh_group(const tile *t, uint32_t group, uint32_t steps, const float *scores) {
    const __m512 most = raise_most(t, group, steps, scores);
    __m512 totals[2] = {_mm512_loadu_ps(t->total + 16 * group), _mm512_setzero_ps()};
    CPU_ROLLED for (uint32_t p = 0; p < STEP * steps; p += 4) {
        CPU_UNROLL for (uint32_t i = 0; i < 4; i += 2) {
            const __m512 low = exp2_coarse(_mm512_sub_ps(_mm512_loadu_ps(scores + 16 * (p + i)), most));
            const __m512 high = exp2_coarse(_mm512_sub_ps(_mm512_loadu_ps(scores + 16 * (p + i + 1)), most));
            totals[i / 2] = _mm512_add_ps(totals[i / 2], _mm512_add_ps(low, high));
            _mm512_storeu_si512(t->weights + 16 * (p + i), to_pairs(low, high));
        }
    }
    _mm512_storeu_ps(t->total + 16 * group, _mm512_add_ps(totals[0], totals[1]));
}

/* The next group's scores are asked for before this one's are worked on, so that tiles and vectors are busy at once. */
static void attend_block(const tile *t, const block *b) {
    convert_k(t, b);
    convert_v(t, b);
    score_group(t, 0, group_steps(t, b, 0), t->scores);
    for (uint32_t group = 0; group < t->groups; group++) {
        const uint32_t steps = group_steps(t, b, group);
        float *scores = t->scores + group % 2 * BLOCK * 16;
        score_group(t, group + 1, group_steps(t, b, group + 1), t->scores + (group + 1) % 2 * BLOCK * 16);
        if (steps == 0) continue;
        if (t->job->softcap != 0) cap_scores(t->job, steps, scores);
        hide_scores(t, b, group, steps, scores);
        weigh_group(t, group, steps, scores);
        value_group(t, group, steps);
    }
}

/* ---- a tile of queries ---- */

AVX512_INLINE size_t query_at(const tile *t, uint32_t i, size_t stride) {
    return (t->row0 + i / t->heads) * stride + (size_t)(t->head0 + i % t->heads) * t->job->head_dim;
}

/* Scores come out in units of log 2, but before a soft cap. */
static void load_queries(const tile *t) {
    const cpu_attention *job = t->job;
    const __m512 scale = _mm512_set1_ps(job->softcap != 0 ? job->scale : job->scale * LOG2E);
    for (uint32_t group = 0; group < t->groups; group++) {
        for (size_t d = 0; d < t->width; d += STEP) {
            const __mmask16 low = lanes(job->head_dim, d), high = lanes(job->head_dim, d + 16);
            __m512i v[16];
            CPU_UNROLL for (uint32_t i = 0; i < 16; i++) {
                const uint32_t query = 16 * group + i < t->queries ? 16 * group + i : t->queries - 1;
                const float *q = job->q + query_at(t, query, job->q_stride) + d;
                v[i] = to_bf16(_mm512_mul_ps(_mm512_maskz_loadu_ps(low, q), scale), _mm512_mul_ps(_mm512_maskz_loadu_ps(high, q + 16), scale));
            }
            avx512_transpose(v);
            CPU_UNROLL for (uint32_t i = 0; i < 16; i++) _mm512_storeu_si512(t->q + (group * t->width + d) * 16 + 32 * i, v[i]);
        }
        _mm512_storeu_ps(t->most + 16 * group, _mm512_set1_ps(NEVER));
        _mm512_storeu_ps(t->total + 16 * group, _mm512_setzero_ps());
    }
    memset(t->sum, 0, t->groups * t->width * 16 * sizeof *t->sum);
}

static void store_results(const tile *t) {
    const cpu_attention *job = t->job;
    for (uint32_t group = 0; group < t->groups; group++) {
        const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_loadu_ps(t->total + 16 * group));
        for (size_t d = 0; d < job->head_dim; d += 16) {
            __m512i v[16];
            CPU_UNROLL for (uint32_t i = 0; i < 16; i++)
                v[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(t->sum + (group * t->width + d + i) * 16), inverse));
            avx512_transpose(v);
            for (uint32_t i = 0; i < 16 && 16 * group + i < t->queries; i++) {
                float *out = job->out + query_at(t, 16 * group + i, job->out_stride) + d;
                _mm512_mask_storeu_ps(out, lanes(job->head_dim, d), _mm512_castsi512_ps(v[i]));
            }
        }
    }
}

static void place_scratch(tile *t, float *scratch) {
    t->width = ((size_t)t->job->head_dim + STEP - 1) / STEP * STEP;
    t->sum = scratch;
    t->most = t->sum + QUERIES * t->width;
    t->total = t->most + QUERIES;
    t->scores = t->total + QUERIES;
    t->q = (uint16_t *)(t->scores + 2 * BLOCK * 16);
    t->weights = t->q + QUERIES * t->width;
    t->k = t->weights + BLOCK * 16;
    t->v = t->k + BLOCK * t->width;
}

static void attend_tile(tile *t, float *scratch) {
    const cpu_attention *job = t->job;
    t->queries = t->rows * t->heads;
    t->groups = (t->queries + 15) / 16;
    place_scratch(t, scratch);
    load_queries(t);
    const uint32_t first = job->pos0 + t->row0, last = first + t->rows - 1;
    const uint32_t start = job->window && first >= job->window ? first - job->window + 1 : 0;
    for (uint32_t page = start / CPU_KV_PAGE; page <= last / CPU_KV_PAGE; page += BLOCK_PAGES) {
        const uint32_t base = page * CPU_KV_PAGE, count = last - base + 1 < BLOCK ? last - base + 1 : BLOCK;
        attend_block(t, &(block){.page0 = page, .base = base, .count = count});
    }
    store_results(t);
}

#include "attention_tiles.h"

void cpu_attention_amx(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch) {
    if (!job->rounded || job->kv_type != REALM_KV_F16 || job->n_rows <= CPU_FEW_MAX) {
        cpu_attention_avx512(job, row0, row1, head0, head1, scratch);
        return;
    }
    configure_tiles();
    attend_tiles(job, row0, row1, head0, head1, scratch);
    _tile_release();
}
