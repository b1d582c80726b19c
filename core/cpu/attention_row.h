/* attention_row.h: attention of a single row, as decoding asks for, written once for vectors of any width. It waits for memory: each
 * page's K and V are read once, where they lie, by all query heads of the task one after the other, so that memory is walked in runs
 * of many heads, and what the next block needs is asked for one block ahead. An attention_<set>.c includes it once, after having told
 *
 *   vec, VEC_LANES                       a vector of VEC_LANES floats
 *   vec_get(x), vec_put(x, v)            whole vectors
 *   vec_half(x)                          VEC_LANES halves as floats
 *   vec_all(f), vec_add, vec_sub, vec_mul, vec_div, vec_madd(a, b, c) = a b + c, vec_max, vec_exp, vec_tanh
 *   vec_top(v)                           maximum of the lanes
 *   vec_sums(v[VEC_LANES])               lane i: the sum of v[i]'s lanes
 *   vec_seen(v, other, base, first, last)  lanes i with first <= base + i <= last of v, the others of `other`
 *   ROW_VECTORS                          of a head's dims, whose sums stay in registers
 *
 * The running maximum and sum of the softmax work as in attention_portable.c, once per block. */
#define ROW_HEADS ATTENTION_QUERIES /* query heads at a time */
#define ROW_BLOCK (2 * CPU_KV_PAGE) /* positions */
#define CACHE_LINE 64

typedef struct row {
    const cpu_attention *job;
    uint32_t head0, heads, shared; /* query heads [head0, head0 + heads); so many share a KV head */
    uint32_t first, last;          /* visible positions */
    float *q, *sum;                /* (heads, head_dim): scaled queries, weighted sums of V */
    float *totals;                 /* (heads, VEC_LANES): sums of weights, by lane */
    float *most;                   /* (heads,) */
} row;

/* K and V of a KV head in a page. */
CPU_INLINE const uint8_t *row_page(const row *t, uint32_t page, uint32_t head_kv, bool f16, const uint8_t **v) {
    const size_t head_bytes = (size_t)CPU_KV_PAGE * t->job->head_dim * (f16 ? 2 : 4);
    const uint8_t *k = (const uint8_t *)t->job->pages[page] + head_kv * head_bytes;
    *v = k + t->job->n_head_kv * head_bytes;
    return k;
}

CPU_INLINE vec row_get(const uint8_t *vectors, bool f16, size_t at) {
    return f16 ? vec_half((const uint16_t *)(const void *)vectors + at) : vec_get((const float *)(const void *)vectors + at);
}

/* Asks for the bytes of `ahead` that lie as those about to be read do: few at a time, or the wait for them would be here. */
CPU_INLINE void row_prefetch(const uint8_t *ahead, size_t from, size_t bytes) {
    CPU_UNROLL for (size_t i = 0; i < bytes; i += CACHE_LINE) __builtin_prefetch(ahead + from + i, 0, 2);
}

/* A sum vector per position, VEC_LANES of which are turned over and added at once. */
CPU_INLINE void row_score(const float *q, const uint8_t *k, const uint8_t *ahead, bool f16, size_t head_dim, float scores[CPU_KV_PAGE]) {
    const size_t step = (size_t)VEC_LANES * VEC_LANES * (f16 ? 2 : 4);
    for (size_t p = 0; p < CPU_KV_PAGE; p += VEC_LANES) {
        vec sums[VEC_LANES];
        CPU_UNROLL for (size_t i = 0; i < VEC_LANES; i++) sums[i] = vec_all(0.0f);
        CPU_ROLLED for (size_t d = 0; d < head_dim; d += VEC_LANES) {
            const vec one = vec_get(q + d);
            row_prefetch(ahead, (p * head_dim / VEC_LANES + d) / VEC_LANES * step, step);
            CPU_UNROLL for (size_t i = 0; i < VEC_LANES; i++) sums[i] = vec_madd(row_get(k, f16, (p + i) * head_dim + d), one, sums[i]);
        }
        vec_put(scores + p, vec_sums(sums));
    }
}

/* Scores become weights exp(score - most); returns what the sums so far are multiplied by. */
CPU_INLINE float row_weigh(const row *t, uint32_t i, uint32_t base, float scores[ROW_BLOCK]) {
    const float cap = t->job->softcap;
    vec s[ROW_BLOCK / VEC_LANES], tops = vec_all(-INFINITY);
    for (uint32_t j = 0; j < ROW_BLOCK / VEC_LANES; j++) {
        s[j] = vec_get(scores + VEC_LANES * j);
        if (cap != 0) s[j] = vec_mul(vec_tanh(vec_div(s[j], vec_all(cap))), vec_all(cap));
        s[j] = vec_seen(s[j], vec_all(-INFINITY), base + VEC_LANES * j, t->first, t->last); /* what was never written may be anything */
        tops = vec_max(s[j], tops);
    }
    const float old = t->most[i], top = vec_top(tops), most = top > old ? top : old;
    float shrinks[VEC_LANES];
    vec_put(shrinks, vec_exp(vec_all(old - most)));
    vec total = vec_mul(vec_get(t->totals + VEC_LANES * i), vec_all(shrinks[0]));
    for (uint32_t j = 0; j < ROW_BLOCK / VEC_LANES; j++) {
        s[j] = vec_exp(vec_sub(s[j], vec_all(most)));
        vec_put(scores + VEC_LANES * j, s[j]);
        total = vec_add(total, s[j]);
    }
    vec_put(t->totals + VEC_LANES * i, total);
    t->most[i] = most;
    return shrinks[0];
}

/* sum = sum * shrink + weights . v over `count` positions of a page, for `vectors` vectors of dims. */
CPU_INLINE void row_values(const float *weights, const uint8_t *v, const uint8_t *ahead, bool f16, size_t head_dim, uint32_t count,
                           float shrink, size_t d, size_t vectors, float *sum) {
    const size_t step = 2 * vectors * VEC_LANES * (f16 ? 2 : 4);
    vec even[ROW_VECTORS], odd[ROW_VECTORS];
    CPU_UNROLL for (size_t j = 0; j < vectors; j++) {
        even[j] = vec_mul(vec_get(sum + d + VEC_LANES * j), vec_all(shrink));
        odd[j] = vec_all(0.0f);
    }
    uint32_t p = 0;
    CPU_ROLLED for (; p + 2 <= count; p += 2) {
        row_prefetch(ahead, (d / (vectors * VEC_LANES) * CPU_KV_PAGE + p) / 2 * step, step);
        const vec w0 = vec_all(weights[p]), w1 = vec_all(weights[p + 1]);
        CPU_UNROLL for (size_t j = 0; j < vectors; j++) {
            even[j] = vec_madd(row_get(v, f16, p * head_dim + d + VEC_LANES * j), w0, even[j]);
            odd[j] = vec_madd(row_get(v, f16, (p + 1) * head_dim + d + VEC_LANES * j), w1, odd[j]);
        }
    }
    CPU_UNROLL for (size_t j = 0; p < count && j < vectors; j++)
        even[j] = vec_madd(row_get(v, f16, p * head_dim + d + VEC_LANES * j), vec_all(weights[p]), even[j]);
    CPU_UNROLL for (size_t j = 0; j < vectors; j++) vec_put(sum + d + VEC_LANES * j, vec_add(even[j], odd[j]));
}

typedef struct unit { /* what is worked on at once: up to ROW_BLOCK positions of a KV head */
    uint32_t page, pages, head_kv;
    const uint8_t *k[ROW_BLOCK / CPU_KV_PAGE], *v[ROW_BLOCK / CPU_KV_PAGE];
} unit;

CPU_INLINE unit row_unit(const row *t, uint32_t page, uint32_t head_kv, bool f16) {
    const uint32_t left = t->last / CPU_KV_PAGE + 1 - page, most = ROW_BLOCK / CPU_KV_PAGE;
    unit u = {.page = page, .pages = left < most ? left : most, .head_kv = head_kv};
    for (uint32_t j = 0; j < most; j++) u.k[j] = row_page(t, page + (j < u.pages ? j : 0), head_kv, f16, &u.v[j]);
    return u;
}

CPU_INLINE void row_query(const row *t, uint32_t i, const unit *u, const unit *next, bool f16) {
    const size_t head_dim = t->job->head_dim;
    const uint32_t base = u->page * CPU_KV_PAGE;
    float scores[ROW_BLOCK], *sum = t->sum + i * head_dim;
    for (uint32_t j = 0; j < u->pages; j++) row_score(t->q + i * head_dim, u->k[j], next->k[j], f16, head_dim, scores + CPU_KV_PAGE * j);
    for (uint32_t p = u->pages * CPU_KV_PAGE; p < ROW_BLOCK; p++) scores[p] = 0.0f; /* past the last page: not seen */
    float shrink = row_weigh(t, i, base, scores);
    for (uint32_t j = 0; j < u->pages; j++, shrink = 1.0f) {
        const uint32_t left = t->last - base + 1 - CPU_KV_PAGE * j, count = left < CPU_KV_PAGE ? left : CPU_KV_PAGE;
        const float *weights = scores + CPU_KV_PAGE * j;
        size_t d = 0;
        for (; d + ROW_VECTORS * VEC_LANES <= head_dim; d += ROW_VECTORS * VEC_LANES)
            row_values(weights, u->v[j], next->v[j], f16, head_dim, count, shrink, d, ROW_VECTORS, sum);
        for (; d < head_dim; d += VEC_LANES) row_values(weights, u->v[j], next->v[j], f16, head_dim, count, shrink, d, 1, sum);
    }
}

CPU_INLINE void row_attend(const row *t, bool f16) {
    const uint32_t end = t->last / CPU_KV_PAGE + 1, start = t->first / CPU_KV_PAGE, head_kv0 = t->head0 / t->shared;
    const uint32_t head_kv1 = (t->head0 + t->heads - 1) / t->shared;
    unit now = row_unit(t, start, head_kv0, f16);
    while (now.page < end) {
        const bool turn = now.head_kv == head_kv1;
        const uint32_t page = turn ? now.page + now.pages : now.page;
        const unit next = page < end ? row_unit(t, page, turn ? head_kv0 : now.head_kv + 1, f16) : now;
        for (uint32_t i = 0; i < t->heads; i++) 
            if ((t->head0 + i) / t->shared == now.head_kv) row_query(t, i, &now, &next, f16);
        if (page >= end) break;
        now = next;
    }
}

static void row_begin(const row *t, const float *q) {
    const size_t n = (size_t)t->heads * t->job->head_dim;
    for (size_t i = 0; i < n; i += VEC_LANES) {
        vec_put(t->q + i, vec_mul(vec_get(q + i), vec_all(t->job->scale)));
        vec_put(t->sum + i, vec_all(0.0f));
    }
    for (uint32_t i = 0; i < t->heads; i++) {
        vec_put(t->totals + VEC_LANES * i, vec_all(0.0f));
        t->most[i] = -INFINITY;
    }
}

static void row_end(const row *t, float *out) {
    for (uint32_t i = 0; i < t->heads; i++) {
        float total = 0.0f;
        for (uint32_t j = 0; j < VEC_LANES; j++) total += t->totals[VEC_LANES * i + j];
        const vec inverse = vec_all(1.0f / total);
        for (size_t d = i * t->job->head_dim; d < (i + 1) * (size_t)t->job->head_dim; d += VEC_LANES)
            vec_put(out + d, vec_mul(vec_get(t->sum + d), inverse));
    }
}

/* Query heads [head0, head1) of one row; head_dim is a multiple of VEC_LANES. */
static void attend_row(const cpu_attention *job, uint32_t index, uint32_t head0, uint32_t head1, float *scratch) {
    const uint32_t last = job->pos0 + index;
    row t = {.job = job, .shared = job->n_head / job->n_head_kv, .last = last,
             .first = job->window && last >= job->window ? last - job->window + 1 : 0, .q = scratch};
    t.sum = t.q + (size_t)ROW_HEADS * job->head_dim;
    t.totals = t.sum + (size_t)ROW_HEADS * job->head_dim;
    t.most = t.totals + ROW_HEADS * VEC_LANES;
    for (t.head0 = head0; t.head0 < head1; t.head0 += t.heads) {
        t.heads = head1 - t.head0 < ROW_HEADS ? head1 - t.head0 : ROW_HEADS;
        const size_t at = (size_t)t.head0 * job->head_dim;
        row_begin(&t, job->q + index * job->q_stride + at);
        if (job->kv_type == REALM_KV_F16) row_attend(&t, true);
        else row_attend(&t, false);
        row_end(&t, job->out + index * job->out_stride + at);
    }
}
