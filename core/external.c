/* external.c: executors outside the core (GPUs): a model's plan as one block, and its batches as records (realm_records.h). The
 * engine chooses a batch as for the CPU; here it becomes arrays that stay as they are until the batch is finished. */
#include <stdlib.h>

#include "engine.h"

/* ---- the plan -------------------------------------------------------------------------------------------------------------------- */

static realm_plan_header plan_header(const realm_model *m) {
    const engine *e = m->engine;
    const plan *p = m->plan;
    realm_plan_header h = {
        .model = e->id, .file_size = m->size, .op_count = p->op_count, .tensor_count = p->tensor_count,
        .rope_half = p->rope_half, .rope_neox = p->rope_neox, .layer_count = p->layer_count,
        .embedding_length = p->embedding_length, .feed_forward_length = p->feed_forward_length, .vocab_size = p->vocab_size,
        .head_count = p->head_count, .head_count_kv = p->head_count_kv, .head_dim = p->head_dim,
        .context_length = m->context_length, .kv_type = m->options.kv_type, .max_rows = e->max_rows,
        .max_pages_f16 = kv_page_limit(e->kv[REALM_KV_F16]), .max_pages_f32 = kv_page_limit(e->kv[REALM_KV_F32])};
    h.op_offset = (uint32_t)sizeof h;
    h.tensor_offset = h.op_offset + p->op_count * (uint32_t)sizeof(plan_op);
    h.rope_offset = h.tensor_offset + p->tensor_count * (uint32_t)sizeof(plan_tensor);
    memcpy(h.slot_width, p->slot_width, sizeof h.slot_width);
    return h;
}

/* Copies what fits of one part of the block. */
static void put(char *out, size_t cap, size_t at, const void *data, size_t size) {
    if (at < cap) memcpy(out + at, data, size < cap - at ? size : cap - at);
}

size_t realm_model_plan(const realm_model *m, void *out, size_t cap) {
    if (m->engine == NULL) return 0;
    const plan *p = m->plan;
    realm_plan_header h = plan_header(m);
    put(out, cap, 0, &h, sizeof h);
    put(out, cap, h.op_offset, p->ops, p->op_count * sizeof *p->ops);
    put(out, cap, h.tensor_offset, p->tensors, p->tensor_count * sizeof *p->tensors);
    put(out, cap, h.rope_offset, p->rope_freqs, p->rope_half * sizeof *p->rope_freqs);
    return h.rope_offset + p->rope_half * sizeof *p->rope_freqs;
}

/* ---- a batch's arrays -------------------------------------------------------------------------------------------------------------- */

realm_status external_create(engine *e, realm_error *err) {
    external_batch *x = calloc(1, sizeof *x);
    if (x == NULL) return base_fail_memory(err, "the external batch", sizeof *x);
    e->external = x;
    x->kv_slots = malloc(e->max_rows * sizeof *x->kv_slots);
    x->row_segments = malloc(e->max_rows * sizeof *x->row_segments);
    x->segments = malloc(e->max_rows * sizeof *x->segments);
    bool made = x->kv_slots != NULL && x->row_segments != NULL && x->segments != NULL;
    return made ? REALM_OK : base_fail_memory(err, "the external batch", e->max_rows * sizeof *x->segments);
}

void external_destroy(external_batch *x) {
    if (x == NULL) return;
    free(x->kv_slots);
    free(x->row_segments);
    free(x->segments);
    free(x->pages);
    free(x->page_ops);
    base_free_wiped(x->logits, x->logits_bytes);
    free(x);
}

/* Room for the logits, zeroed: an executor that forgets a row must not answer with those of an earlier batch. */
static bool reserve_logits(external_batch *x, uint32_t rows, uint32_t vocab_size) {
    size_t row_bytes = vocab_size * sizeof *x->logits;
    if (rows > x->logits_rows) {
        base_free_wiped(x->logits, x->logits_bytes);
        x->logits_rows = 0;
        x->logits_bytes = 0;
        x->logits = malloc(rows * row_bytes);
        if (x->logits == NULL) return false;
        x->logits_rows = rows;
        x->logits_bytes = rows * row_bytes;
    }
    if (rows > 0) memset(x->logits, 0, rows * row_bytes);
    return true;
}

/* Room for `count` elements; what was there need not survive. */
static bool reserve(void **array, uint32_t *capacity, uint32_t count, size_t size) {
    if (count <= *capacity) return true;
    free(*array);
    *array = malloc((size_t)count * size);
    *capacity = *array == NULL ? 0 : count;
    return *array != NULL;
}

static uint32_t page_count(const batch_segment *s) { return (s->pos0 + s->n_rows + CPU_KV_PAGE - 1) / CPU_KV_PAGE; }

static bool reserve_arrays(engine *e, const realm_batch *b) {
    external_batch *x = e->external;
    void *pages = x->pages, *ops = x->page_ops;
    bool fits = reserve(&pages, &x->page_capacity, b->n_pages, sizeof *x->pages);
    fits = reserve(&ops, &x->op_capacity, b->n_page_ops, sizeof *x->page_ops) && fits;
    x->pages = pages;
    x->page_ops = ops;
    return reserve_logits(x, b->n_out, e->plan->vocab_size) && fits;
}

static uint64_t address(const void *p) { return (uint64_t)(uintptr_t)p; }

/* Counts are known first, because the arrays may have to grow. */
static realm_batch count_batch(engine *e) {
    const batch *work = &e->batch;
    realm_batch b = {.model = e->id, .n_rows = work->n_rows, .n_segments = work->n_segments, .n_out = work->n_out,
                     .layer_first = work->layer_first, .layer_count = work->layer_count,
                     .kv_type = kv_type_of(work->segments[0].kv),
                     .pool_pages_f16 = kv_pool_pages(e->kv[REALM_KV_F16]), .pool_pages_f32 = kv_pool_pages(e->kv[REALM_KV_F32])};
    for (uint32_t i = 0; i < work->n_segments; i++) b.n_pages += page_count(&work->segments[i]);
    for (uint32_t type = 0; type < 2; type++) {
        uint32_t n;
        kv_page_ops(e->kv[type], &n);
        b.n_page_ops += n;
    }
    return b;
}

static void fill_segment(external_batch *x, const batch_segment *s, uint32_t index, uint32_t page0) {
    uint32_t n = page_count(s);
    x->segments[index] = (realm_batch_segment){.row0 = s->row0, .n_rows = s->n_rows, .pos0 = s->pos0,
                                               .kv_type = kv_type_of(s->kv), .page0 = page0, .n_pages = n,
                                               .hidden = address(s->hidden)};
    for (uint32_t i = 0; i < n; i++) x->pages[page0 + i] = s->pages[i]->number;
    for (uint32_t i = 0; i < s->n_rows; i++) {
        uint32_t position = s->pos0 + i;
        x->kv_slots[s->row0 + i] = s->pages[position / CPU_KV_PAGE]->number * CPU_KV_PAGE + position % CPU_KV_PAGE;
        x->row_segments[s->row0 + i] = index;
    }
}

static void take_page_ops(engine *e) {
    uint32_t used = 0;
    for (uint32_t type = 0; type < 2; type++) {
        uint32_t n;
        const realm_page_op *ops = kv_page_ops(e->kv[type], &n);
        if (n > 0) memcpy(e->external->page_ops + used, ops, n * sizeof *ops);
        used += n;
        kv_forget_page_ops(e->kv[type]);
    }
}

static void fill_batch(engine *e, realm_batch *b) {
    external_batch *x = e->external;
    for (uint32_t i = 0, page0 = 0; i < e->batch.n_segments; i++) {
        fill_segment(x, &e->batch.segments[i], i, page0);
        page0 += x->segments[i].n_pages;
    }
    take_page_ops(e);
    b->tokens = address(e->batch.tokens);
    b->positions = address(e->batch.positions);
    b->out_rows = address(e->batch.out_rows);
    b->kv_slots = address(x->kv_slots);
    b->row_segments = address(x->row_segments);
    b->segments = address(x->segments);
    b->pages = address(x->pages);
    b->page_ops = address(x->page_ops);
    b->logits = address(x->logits);
}

/* ---- taking and finishing ------------------------------------------------------------------------------------------------------------ */

static bool take(realm_runtime *rt, realm_batch *out) {
    engine *e = rt->out == NULL ? runtime_next_turn(rt) : NULL;
    if (e == NULL) return false;
    *out = count_batch(e);
    if (!reserve_arrays(e, out)) {
        base_fail(&e->failure, REALM_E_OUT_OF_MEMORY, "out of memory: the batch's records and logits");
        engine_complete(e);
        return false;
    }
    fill_batch(e, out);
    out->id = ++rt->batch_serial;
    e->external->taken_ns = platform_now_ns();
    rt->out = e;
    return true;
}

realm_status realm_runtime_take_batch(realm_runtime *rt, realm_batch *out, uint32_t *some, realm_error *err) {
    base_error_clear(err);
    *some = 0;
    *out = (realm_batch){0};
    if (rt->options.executor != REALM_EXECUTOR_EXTERNAL) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "this runtime computes its batches itself: see REALM_EXECUTOR_EXTERNAL");
    }
    platform_lock(rt->lock);
    *some = take(rt, out);
    platform_unlock(rt->lock);
    return REALM_OK;
}

static bool is_out(const realm_runtime *rt, uint64_t batch) { return rt->out != NULL && rt->batch_serial == batch; }

uint32_t realm_runtime_batch_wanted(realm_runtime *rt, uint64_t batch) {
    platform_lock(rt->lock);
    uint32_t wanted = is_out(rt, batch) && engine_wanted(rt->out);
    platform_unlock(rt->lock);
    return wanted;
}

static void finish(realm_runtime *rt, realm_status failed, const char *message) {
    engine *e = rt->out;
    if (failed != REALM_OK) base_fail(&e->failure, failed, "%s", message == NULL ? "the batch failed" : message);
    platform_unlock(rt->lock); /* drawing takes long; until rt->out is cleared nobody else touches the batch */
    if (failed == REALM_OK && !atomic_load(&rt->abort_step)) engine_use_logits(e);
    platform_lock(rt->lock);
    runtime_finish_step(rt, e, platform_now_ns() - e->external->taken_ns);
    if (failed == REALM_E_DEVICE_LOST) engine_lose_pages(e, failed, e->failure.message);
    rt->out = NULL;
    platform_cond_broadcast(rt->done);
}

realm_status realm_runtime_finish_batch(realm_runtime *rt, uint64_t batch, realm_status failed, const char *message,
                                        realm_error *err) {
    base_error_clear(err);
    platform_lock(rt->lock);
    bool out = is_out(rt, batch);
    if (out) finish(rt, failed, message);
    realm_model *orphan = out ? rt->orphan : NULL;
    if (out) rt->orphan = NULL;
    platform_unlock(rt->lock);
    if (orphan != NULL) model_discard(orphan);
    return out ? REALM_OK : base_fail(err, REALM_E_INVALID_ARGUMENT, "batch %llu is not out", (unsigned long long)batch);
}
