/* pack.c: packing a loaded model's weights in their place.
 *
 * Packed are weights that matmuls read, of types with kernels for it; also an embedding that is the output head as well. */
#include "pack.h"

#include "cpu/packing.h"

enum { TASKS_PER_THREAD = 4 };

typedef struct pack_job {
    uint32_t type, count, per_task; /* stripes */
    size_t row_bytes, stripe_bytes;
    uint8_t *stripes;
    uint8_t *scratch; /* a stripe for each thread */
} pack_job;

static void pack_task(void *arg, uint32_t index, uint32_t worker) {
    const pack_job *job = arg;
    uint8_t *out = job->scratch + worker * job->stripe_bytes;
    uint32_t first = index * job->per_task, end = first + job->per_task;
    if (end > job->count) end = job->count;
    for (uint32_t i = first; i < end; i++) {
        uint8_t *stripe = job->stripes + i * job->stripe_bytes;
        cpu_pack_stripe(job->type, stripe, job->row_bytes, out);
        memcpy(stripe, out, job->stripe_bytes);
    }
}

static size_t stripe_bytes(const plan_tensor *t) { return (size_t)t->row_bytes * CPU_PACK_ROWS; }

/* Each tensor of the file stands in the plan once. */
static bool is_wanted(const realm_model *m, const plan_tensor *t) {
    const plan *p = m->plan;
    bool multiplied = false;
    if (m->rt->ops.run_packed[t->type] == NULL || !cpu_can_pack(t->type) || t->rows < CPU_PACK_ROWS) return false;
    for (uint32_t i = 0; i < p->op_count; i++) {
        const plan_op *op = &p->ops[i];
        if (op->weight >= p->tensor_count || p->tensors[op->weight].directory != t->directory) continue;
        if (op->kind != REALM_OP_MATMUL && op->kind != REALM_OP_EMBED) return false;
        if (op->kind == REALM_OP_MATMUL) multiplied = true;
    }
    return multiplied;
}

/* Packs the next stripes of the tensor under way. Returns how many bytes they have. */
static uint64_t pack_stripes(packing *at, const realm_model *m, const plan_tensor *t, uint64_t budget) {
    pool *threads = m->rt->pool;
    uint32_t left = t->rows / CPU_PACK_ROWS - at->stripe, tasks = TASKS_PER_THREAD * pool_threads(threads);
    pack_job job = {.type = t->type, .row_bytes = (size_t)t->row_bytes, .stripe_bytes = stripe_bytes(t), .scratch = at->scratch};
    uint64_t fit = budget / job.stripe_bytes + 1;
    job.count = fit < left ? (uint32_t)fit : left;
    job.per_task = (job.count + tasks - 1) / tasks;
    job.stripes = (uint8_t *)m->pages + t->offset + at->stripe * job.stripe_bytes;
    pool_run(threads, pack_task, &job, (job.count + job.per_task - 1) / job.per_task);
    at->stripe += job.count;
    return (uint64_t)job.count * job.stripe_bytes;
}

/* A tensor that no memory can be had for stays as it is. */
static bool begin_tensor(packing *at, const realm_model *m) {
    const plan_tensor *t = &m->plan->tensors[at->tensor];
    if (!is_wanted(m, t)) return false;
    at->scratch = platform_alloc_aligned(stripe_bytes(t) * pool_threads(m->rt->pool));
    return at->scratch != NULL;
}

static void next_tensor(packing *at) {
    platform_free_aligned(at->scratch);
    *at = (packing){.tensor = at->tensor + 1};
}

/* The tensor under way, or some of it. Returns how many bytes were packed. */
static uint64_t pack_tensor(packing *at, realm_model *m, uint64_t budget) {
    const plan_tensor *t = &m->plan->tensors[at->tensor];
    if (at->scratch == NULL && !begin_tensor(at, m)) {
        next_tensor(at);
        return 0;
    }
    uint64_t bytes = pack_stripes(at, m, t, budget);
    if (at->stripe < t->rows / CPU_PACK_ROWS) return bytes;
    executor_mark_packed(m->engine->executor, at->tensor);
    executor_mark_packed(m->engine->express->executor, at->tensor);
    gguf_mark_packed(m->file, t->directory);
    next_tensor(at);
    return bytes;
}

/* The bytes are the core's own, and it computes with them itself. */
static bool may_pack(const realm_model *m) {
    return m->engine != NULL && m->engine->executor != NULL && m->pages != NULL && m->bytes == m->pages && m->size <= m->pages_bytes;
}

float pack_step(packing *at, realm_model *m, uint64_t budget) {
    if (!may_pack(m)) return 1.0f;
    uint32_t count = m->plan->tensor_count;
    for (uint64_t done = 0; at->tensor < count && done <= budget;) done += pack_tensor(at, m, budget - done);
    return (float)at->tensor / (float)count;
}

bool pack_is_under_way(const packing *at) { return at->scratch != NULL; }

void pack_abandon(packing *at) {
    platform_free_aligned(at->scratch);
    at->scratch = NULL;
}
