/* attention_portable.c: the reference attention: one query vector at a time, one pass over its KV pages.
 *
 * Flash style: with m the largest score seen and s the sum of exp(score - m), a page whose largest score exceeds m first
 * scales the sums so far by exp(m_old - m_new). A query's order of additions depends on its own position and window only. */
#include "cpu_internal.h"

#include <math.h>

#ifdef CPU_X86_64
/* Sums and queries of bf16, K and V of bf16; maxima and totals; scores of two groups and weights of one. */
static size_t amx_scratch(size_t head_dim) {
    size_t padded = (head_dim + 31) / 32 * 32, queries = CPU_ATTENTION_AMX_QUERIES, block = CPU_ATTENTION_AMX_BLOCK;
    return padded * (queries + queries / 2 + block) + 2 * queries + block * 16 * 2 + block * 16 / 2;
}
#else
static size_t amx_scratch(size_t head_dim) { return 0 * head_dim; }
#endif

size_t cpu_attention_scratch(uint32_t head_dim) {
    size_t padded = ((size_t)head_dim + 15) / 16 * 16, block = ATTENTION_BLOCK_PAGES * CPU_KV_PAGE;
    size_t per_query = 2 * padded + block + CPU_KV_PAGE + 2; /* two vectors, scores, sums by lane, two numbers */
    size_t most = ATTENTION_QUERIES * per_query + 2 * block * padded; /* and the K and V of a block */
    return amx_scratch(head_dim) > most ? amx_scratch(head_dim) : most;
}

/* First position a query at `position` sees. */
static uint32_t first_visible(uint32_t position, uint32_t window) {
    return window && position >= window ? position - window + 1 : 0;
}

/* One position's vector of one KV head as f32: in place for f32 pages, else converted into scratch. */
static const float *page_vector(const cpu_attention *job, uint32_t position, uint32_t head_kv, bool is_v, float *scratch) {
    const void *page = job->pages[position / CPU_KV_PAGE];
    size_t part = (size_t)job->n_head_kv * CPU_KV_PAGE * job->head_dim;
    size_t at = (is_v ? part : 0) + ((size_t)head_kv * CPU_KV_PAGE + position % CPU_KV_PAGE) * job->head_dim;
    if (job->kv_type == REALM_KV_F32) return (const float *)page + at;
    const uint16_t *half = (const uint16_t *)page + at;
    for (uint32_t i = 0; i < job->head_dim; i++) scratch[i] = cpu_f16_to_f32(half[i]);
    return scratch;
}

static float score(const cpu_attention *job, const float *q, const float *k) {
    float lanes[8] = {0};
    for (uint32_t i = 0; i < job->head_dim; i++) lanes[i % 8] += q[i] * k[i];
    float dot = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    float scaled = dot * job->scale;
    return job->softcap != 0 ? job->softcap * tanhf(scaled / job->softcap) : scaled;
}

static void attend(const cpu_attention *job, uint32_t row, uint32_t head, float *scratch) {
    uint32_t n = job->head_dim, head_kv = head / (job->n_head / job->n_head_kv), last = job->pos0 + row;
    const float *q = job->q + row * job->q_stride + (size_t)head * n;
    float *out = job->out + row * job->out_stride + (size_t)head * n, *sum = scratch + n;
    float most = -INFINITY, total = 0, scores[CPU_KV_PAGE];
    memset(sum, 0, n * sizeof *sum);
    for (uint32_t p = first_visible(last, job->window); p <= last;) {
        uint32_t count = CPU_KV_PAGE - p % CPU_KV_PAGE;
        if (count > last - p + 1) count = last - p + 1;
        float page_most = most;
        for (uint32_t i = 0; i < count; i++) {
            scores[i] = score(job, q, page_vector(job, p + i, head_kv, false, scratch));
            page_most = scores[i] > page_most ? scores[i] : page_most;
        }
        float shrink = most == page_most ? 1.0f : expf(most - page_most);
        most = page_most;
        total *= shrink;
        for (uint32_t d = 0; d < n; d++) sum[d] *= shrink;
        for (uint32_t i = 0; i < count; i++) {
            const float *v = page_vector(job, p + i, head_kv, true, scratch);
            float weight = expf(scores[i] - most);
            total += weight;
            for (uint32_t d = 0; d < n; d++) sum[d] += weight * v[d];
        }
        p += count;
    }
    for (uint32_t d = 0; d < n; d++) out[d] = sum[d] / total;
}

void cpu_attention_portable(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1,
                            float *scratch) {
    for (uint32_t row = row0; row < row1; row++)
        for (uint32_t head = head0; head < head1; head++) attend(job, row, head, scratch);
}
