/* model.c: loading a GGUF file in bounded steps, and what can be asked of a model without a session. */
#include <stdlib.h>

#include "engine.h"
#include "pack.h"

#define SHARD_ALIGNMENT 4096u /* of each file in the model's bytes: keeps the alignment tensors have in their file */
#define MAX_SHARDS 1024u      /* real models have some dozens */
#define MAX_SUPPLIED (64u << 10) /* bytes of a tensor the plan itself reads */
#define DEFAULT_CONTEXT_CAP 131072u
#define BYTES_ALIGNMENT 8 /* the least a file aligns its tensors to */
#define NOT_LOADED "the model is not loaded yet: call realm_loader_step until progress is 1"
#define PREFETCH_SLICE (32u << 20) /* bytes asked for in one step */

struct realm_loader {
    realm_model *model;
    uint32_t stage;
    uint64_t prefetched;
    packing packing;
};

/* ---- life -------------------------------------------------------------------------------------------------------------------- */

static void unlink_engine(realm_runtime *rt, engine *e) {
    engine **link = &rt->engines;
    while (*link != NULL && *link != e) link = &(*link)->next;
    if (*link == e) *link = e->next;
}

/* What the driver computes just now may stand on the model: a step of its engine, or a product with one of its weights. */
static bool driver_may_use(const realm_runtime *rt, const engine *e) {
    bool batch = e != NULL && (e->batch.n_segments > 0 || (e->express != NULL && e->express->batch.n_segments > 0));
    bool step = rt->stepping && batch;
    return rt->driver != NULL && (step || rt->multiplying) && !atomic_load(&rt->stop);
}

/* A step that the host had begun and will not go on with. */
static void abandon_step(realm_runtime *rt, engine *e) {
    if (e == NULL || e->batch.n_segments == 0) return;
    if (rt->held == e) rt->held = NULL;
    if (rt->turn == e) runtime_end_turn(rt);
    engine_complete(e);
}

/* With the lock held: takes the model out of the runtime. Sessions of destroyed contexts may still be in the running step. */
static void withdraw(realm_model *m) {
    realm_runtime *rt = m->rt;
    engine *e = m->engine;
    if (e != NULL) unlink_engine(rt, e);
    while (driver_may_use(rt, e)) {
        platform_unlock(rt->lock);
        platform_pause();
        platform_lock(rt->lock);
    }
    if (e == NULL) return;
    abandon_step(rt, e->express);
    abandon_step(rt, e);
    engine_drop_pages(e);
}

void model_discard(realm_model *m) {
    platform_lock(m->rt->lock);
    withdraw(m);
    platform_unlock(m->rt->lock);
    engine_destroy(m->engine);
    plan_destroy(m->plan);
    tokenizer_destroy(m->tokenizer);
    gguf_close(m->file);
    free(m->supplied);
    if (m->mapped) platform_unmap(&m->mapping);
    platform_free_pages(m->pages, m->pages_bytes);
    free(m);
}

bool model_is_lost(const realm_model *m) { return m->mapped && m->mapping.lost != NULL && atomic_load(m->mapping.lost); }

static bool holds_a_lost_model(const handle_table *models) {
    for (uint32_t slot = 0; slot < models->capacity; slot++) {
        const realm_model *m = handle_at(models, slot);
        if (m != NULL && model_is_lost(m)) return true;
    }
    return false;
}

bool context_lost_a_model(const realm_context *ctx) { return holds_a_lost_model(&ctx->models) || holds_a_lost_model(&ctx->retired); }

void model_retain(realm_model *m) { m->references++; }

void model_release(realm_model *m) {
    realm_runtime *rt = m->rt;
    platform_lock(rt->lock);
    bool last = --m->references == 0;
    bool out = last && m->engine != NULL && rt->out == m->engine;
    if (out) { /* an executor still reads its records */
        unlink_engine(rt, m->engine);
        rt->orphan = m;
    }
    platform_unlock(rt->lock);
    if (last && !out) model_discard(m);
}

void realm_model_close(realm_model *model) {
    if (model != NULL) model_release(model);
}

/* ---- loading ------------------------------------------------------------------------------------------------------------------- */

static realm_status check_options(const realm_model_options *o, realm_error *err) {
    if (o->mode > REALM_LOAD_HEADER) return base_fail(err, REALM_E_INVALID_ARGUMENT, "unknown load mode %u", o->mode);
    if (o->kv_type > REALM_KV_F32) return base_fail(err, REALM_E_INVALID_ARGUMENT, "unknown KV type %u", o->kv_type);
    return REALM_OK;
}

static realm_status begin(realm_runtime *rt, const realm_model_options *options, realm_loader **out, realm_error *err) {
    realm_model_options o = options == NULL ? (realm_model_options){0} : *options;
    base_error_clear(err);
    *out = NULL;
    realm_status status = check_options(&o, err);
    if (status != REALM_OK) return status;
    realm_loader *loader = calloc(1, sizeof *loader);
    realm_model *model = calloc(1, sizeof *model);
    if (loader == NULL || model == NULL) {
        free(loader);
        free(model);
        return base_fail_memory(err, "the loader", sizeof *model);
    }
    *model = (realm_model){.rt = rt, .references = 1, .options = o};
    loader->model = model;
    *out = loader;
    return REALM_OK;
}

realm_status realm_loader_begin(realm_runtime *rt, const char *path, const realm_model_options *options, realm_loader **out,
                                realm_error *err) {
    realm_status status = begin(rt, options, out, err);
    if (status != REALM_OK) return status;
    realm_model *m = (*out)->model;
    status = platform_map_file(path, &m->mapping, err);
    if (status != REALM_OK) {
        realm_loader_abandon(*out);
        *out = NULL;
        return status;
    }
    m->mapped = true;
    m->bytes = m->mapping.data;
    m->size = m->mapping.size;
    return REALM_OK;
}

realm_status realm_loader_begin_bytes(realm_runtime *rt, const void *data, uint64_t size, const realm_model_options *options,
                                      realm_loader **out, realm_error *err) {
    realm_status status = begin(rt, options, out, err);
    if (status != REALM_OK) return status;
    if ((uintptr_t)data % BYTES_ALIGNMENT != 0) {
        realm_loader_abandon(*out);
        *out = NULL;
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "the model's bytes must be aligned to %d bytes", BYTES_ALIGNMENT);
    }
    (*out)->model->bytes = data;
    (*out)->model->size = size;
    return REALM_OK;
}

void *realm_pages_alloc(uint64_t bytes) { return platform_alloc_pages(bytes); }
void realm_pages_free(void *pages, uint64_t bytes) { platform_free_pages(pages, bytes); }

void realm_loader_own_pages(realm_loader *loader, void *pages, uint64_t bytes) {
    loader->model->pages = pages;
    loader->model->pages_bytes = bytes;
}

/* ---- loading from directories -------------------------------------------------------------------------------------------------- */

static realm_status place_shards(realm_shard *shards, uint32_t count, uint64_t *size, realm_error *err) {
    if (count == 0 || count > MAX_SHARDS) return base_fail(err, REALM_E_INVALID_ARGUMENT, "a model has 1 to %u files, not %u", MAX_SHARDS, count);
    uint64_t end = 0;
    for (uint32_t i = 0; i < count; i++) {
        realm_shard *s = &shards[i];
        if ((uintptr_t)s->data % BYTES_ALIGNMENT != 0 || s->size > s->file_size) {
            return base_fail(err, REALM_E_INVALID_ARGUMENT, "file %u: its bytes must be aligned to %d and not be more than its size", i,
                             BYTES_ALIGNMENT);
        }
        s->base = (end + SHARD_ALIGNMENT - 1) / SHARD_ALIGNMENT * SHARD_ALIGNMENT;
        if (s->file_size > INT64_MAX / 2 - s->base) return base_fail(err, REALM_E_INVALID_ARGUMENT, "the files are too large together");
        end = s->base + s->file_size;
    }
    *size = end;
    return REALM_OK;
}

static realm_status open_parts(realm_shard *shards, uint32_t count, gguf **parts, realm_error *err) {
    for (uint32_t i = 0; i < count; i++) {
        realm_status status = gguf_open_head(shards[i].data, shards[i].size, shards[i].file_size, &parts[i], &shards[i].needed, err);
        if (status != REALM_OK) return status;
    }
    return REALM_OK;
}

static realm_status open_shards(realm_shard *shards, uint32_t count, gguf **out, realm_error *err) {
    gguf **parts = calloc(count, sizeof *parts);
    uint64_t *bases = malloc(count * sizeof *bases);
    realm_status status = REALM_OK;
    if (parts == NULL || bases == NULL) status = base_fail_memory(err, "the model's parts", count * sizeof *bases);
    if (status == REALM_OK) status = open_parts(shards, count, parts, err);
    if (status == REALM_OK && count == 1) {
        *out = parts[0];
    } else if (status == REALM_OK) {
        for (uint32_t i = 0; i < count; i++) bases[i] = shards[i].base;
        status = gguf_merge(parts, bases, count, out, err);
    } else {
        for (uint32_t i = 0; parts != NULL && i < count; i++) gguf_close(parts[i]);
    }
    free(parts);
    free(bases);
    return status;
}

static realm_status begin_directories(realm_runtime *rt, realm_shard *shards, uint32_t count, const realm_model_options *options,
                                      bool in_memory, realm_loader **out, realm_error *err) {
    realm_status status = begin(rt, options, out, err);
    if (status != REALM_OK) return status;
    realm_model *m = (*out)->model;
    status = place_shards(shards, count, &m->size, err);
    if (status == REALM_OK) status = open_shards(shards, count, &m->file, err);
    if (status == REALM_OK && in_memory) m->bytes = shards[0].data;
    if (status == REALM_OK) return REALM_OK;
    realm_loader_abandon(*out);
    *out = NULL;
    return status;
}

realm_status realm_loader_begin_header(realm_runtime *rt, realm_shard *shards, uint32_t count, const realm_model_options *options,
                                       realm_loader **out, realm_error *err) {
    return begin_directories(rt, shards, count, options, false, out, err);
}

realm_status realm_loader_begin_shards(realm_runtime *rt, realm_shard *shards, uint32_t count, const realm_model_options *options,
                                       realm_loader **out, realm_error *err) {
    return begin_directories(rt, shards, count, options, true, out, err);
}

/* The one tensor whose values are in the plan. */
static const gguf_tensor *wanted_tensor(const realm_loader *l) {
    const gguf *file = l->model->file;
    if (file == NULL || l->model->options.mode != REALM_LOAD_FULL) return NULL;
    const gguf_tensor *t = gguf_find_tensor(file, "rope_freqs.weight");
    return t != NULL && t->data == NULL && t->bytes > 0 && t->bytes <= MAX_SUPPLIED ? t : NULL;
}

void realm_loader_wants(const realm_loader *loader, uint64_t *offset, uint64_t *size) {
    const gguf_tensor *t = wanted_tensor(loader);
    *offset = t == NULL ? 0 : t->offset;
    *size = t == NULL ? 0 : t->bytes;
}

realm_status realm_loader_supply(realm_loader *loader, const void *data, uint64_t size, realm_error *err) {
    base_error_clear(err);
    realm_model *m = loader->model;
    const gguf_tensor *t = wanted_tensor(loader);
    if (t == NULL || size != t->bytes) return base_fail(err, REALM_E_INVALID_ARGUMENT, "these bytes were not asked for");
    m->supplied = malloc((size_t)size);
    if (m->supplied == NULL) return base_fail_memory(err, "a small tensor", size);
    memcpy(m->supplied, data, (size_t)size);
    gguf_supply(m->file, t, m->supplied);
    return REALM_OK;
}

/* ---- the stages ------------------------------------------------------------------------------------------------------------------ */

static realm_status check_weights_are_there(const realm_loader *l, realm_error *err) {
    const realm_model *m = l->model;
    if (m->bytes == NULL && m->rt->options.executor == REALM_EXECUTOR_CPU) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "the CPU executor needs the weights in memory, not only the directory");
    }
    if (wanted_tensor(l) == NULL) return REALM_OK;
    return base_fail(err, REALM_E_INVALID_ARGUMENT, "the loader wants bytes of the model first: see realm_loader_wants");
}

static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* A token reads all weights, and one row of the embedding, unless that is the output matrix too. */
static void tell_use(realm_model *m) {
    const plan_op *embed = m->plan->ops, *end = embed + m->plan->op_count;
    const plan_tensor *w = &m->plan->tensors[embed->weight];
    uint64_t sparse = w->rows * w->row_bytes;
    for (const plan_op *op = embed + 1; op < end; op++) {
        if (op->kind == REALM_OP_MATMUL && op->weight == embed->weight) sparse = 0;
    }
    platform_read_often(&m->mapping, w->offset, sparse);
}

static realm_status load_engine(realm_loader *l, realm_error *err) {
    realm_model *m = l->model;
    realm_status status = check_weights_are_there(l, err);
    if (status == REALM_OK) status = plan_create(m->file, tokenizer_vocab_size(m->tokenizer), &m->plan, err);
    if (status != REALM_OK) return status;
    uint32_t own = smaller(m->plan->context_length, DEFAULT_CONTEXT_CAP);
    m->context_length = m->options.context_length == 0 ? own : m->options.context_length;
    if (m->context_length > m->plan->context_length) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "context_length %u is more than the model's %u", m->context_length,
                         m->plan->context_length);
    }
    status = engine_create(m->rt, m->plan, m->tokenizer, m->bytes, &m->engine, err);
    if (status != REALM_OK) return status;
    m->engine->lost = m->mapped ? m->mapping.lost : NULL;
    if (m->bytes != NULL) gguf_place(m->file, m->bytes);
    if (m->mapped) tell_use(m);
    platform_lock(m->rt->lock);
    m->engine->id = ++m->rt->engine_serial;
    m->engine->next = m->rt->engines;
    m->rt->engines = m->engine;
    platform_unlock(m->rt->lock);
    return REALM_OK;
}

/* Once: every request of every realm asks for the model's properties. */
static void count_weights(realm_model *m) {
    for (uint64_t i = 0; i < gguf_tensor_count(m->file); i++) {
        const gguf_tensor *t = gguf_tensor_at(m->file, i);
        m->parameter_count += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        m->weight_bytes += t->bytes;
    }
}

static realm_status open_directory(realm_model *m, realm_error *err) {
    realm_status status = m->file != NULL ? REALM_OK : gguf_open(m->bytes, m->size, &m->file, err);
    if (status == REALM_OK) count_weights(m);
    return status;
}

/* One stage a call; the last one repeats until all bytes were asked for. */
static realm_status load_stage(realm_loader *l, float *progress, realm_error *err) {
    realm_model *m = l->model;
    uint32_t mode = m->options.mode;
    switch (l->stage++) {
    case 0:
        *progress = mode == REALM_LOAD_HEADER ? 1.0f : 0.2f;
        return open_directory(m, err);
    case 1:
        *progress = mode == REALM_LOAD_VOCAB ? 1.0f : 0.6f;
        return tokenizer_create(m->file, &m->tokenizer, err);
    case 2:
        *progress = m->options.prefetch && m->mapped ? 0.7f : 1.0f;
        return load_engine(l, err);
    default:
        platform_prefetch(&m->mapping, l->prefetched, m->size - l->prefetched < PREFETCH_SLICE ? m->size - l->prefetched : PREFETCH_SLICE);
        l->prefetched += PREFETCH_SLICE;
        *progress = l->prefetched >= m->size ? 1.0f : 0.7f + 0.3f * (float)((double)l->prefetched / (double)m->size);
        return REALM_OK;
    }
}

static bool is_complete(const realm_loader *l) {
    const realm_model *m = l->model;
    if (m->options.mode == REALM_LOAD_HEADER) return l->stage >= 1;
    if (m->options.mode == REALM_LOAD_VOCAB) return l->stage >= 2;
    return l->stage >= 3 && (!m->options.prefetch || !m->mapped || l->prefetched >= m->size);
}

realm_status realm_loader_step(realm_loader *loader, float *progress, realm_error *err) {
    base_error_clear(err);
    *progress = 1.0f;
    if (is_complete(loader)) return REALM_OK;
    realm_status status = load_stage(loader, progress, err);
    if (!model_is_lost(loader->model)) return status;
    base_error_clear(err); /* what was wrong with the zeros */
    return base_fail(err, REALM_E_IO, MODEL_LOST);
}

realm_status realm_loader_pack(realm_loader *loader, uint64_t budget, float *progress, realm_error *err) {
    base_error_clear(err);
    *progress = 1.0f;
    if (!is_complete(loader)) return base_fail(err, REALM_E_INVALID_ARGUMENT, NOT_LOADED);
    *progress = pack_step(&loader->packing, loader->model, budget);
    return REALM_OK;
}

realm_status realm_loader_finish(realm_loader *loader, realm_model **out, realm_error *err) {
    base_error_clear(err);
    *out = NULL;
    if (pack_is_under_way(&loader->packing)) {
        realm_loader_abandon(loader);
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "the weights are half packed: call realm_loader_pack until progress is 1");
    }
    if (!is_complete(loader)) {
        realm_loader_abandon(loader);
        return base_fail(err, REALM_E_INVALID_ARGUMENT, NOT_LOADED);
    }
    *out = loader->model;
    free(loader);
    return REALM_OK;
}

void realm_loader_abandon(realm_loader *loader) {
    if (loader == NULL) return;
    pack_abandon(&loader->packing);
    model_release(loader->model);
    free(loader);
}

/* ---- questions --------------------------------------------------------------------------------------------------------------------- */

void realm_model_get_info(const realm_model *m, realm_model_info *out) {
    *out = (realm_model_info){.bos = UINT32_MAX, .eos = UINT32_MAX, .eot = UINT32_MAX, .parameter_count = m->parameter_count,
                              .weight_bytes = m->weight_bytes};
    if (m->tokenizer != NULL) {
        out->vocab_size = tokenizer_vocab_size(m->tokenizer);
        out->bos = tokenizer_bos(m->tokenizer);
        out->eos = tokenizer_eos(m->tokenizer);
        out->eot = tokenizer_eot(m->tokenizer);
        out->add_bos = tokenizer_add_bos(m->tokenizer);
        out->add_eos = tokenizer_add_eos(m->tokenizer);
    }
    if (m->plan != NULL) {
        const plan *p = m->plan;
        out->has_weights = 1;
        out->context_length = m->context_length;
        out->embedding_length = p->embedding_length;
        out->layer_count = p->layer_count;
        out->head_count = p->head_count;
        out->head_count_kv = p->head_count_kv;
        uint64_t element = m->options.kv_type == REALM_KV_F32 ? sizeof(float) : sizeof(uint16_t);
        out->kv_bytes_per_token = (uint64_t)p->layer_count * 2 * p->head_count_kv * p->head_dim * element;
    }
}

size_t realm_model_describe(const realm_model *m, char *out, size_t cap) { return gguf_describe(m->file, out, cap); }

int realm_model_string(const realm_model *m, const char *key, const char **data, size_t *size) {
    gguf_string s = {NULL, 0};
    if (gguf_read_string(m->file, key, &s, NULL) != REALM_OK || s.data == NULL) return 0;
    *data = s.data;
    *size = (size_t)s.size;
    return 1;
}

realm_status realm_model_encode(const realm_model *m, const char *text, size_t size, uint32_t flags, uint32_t *ids, size_t cap,
                                size_t *count, realm_error *err) {
    base_error_clear(err);
    if (m->tokenizer == NULL) return base_fail(err, REALM_E_UNSUPPORTED, "the model was opened without its tokenizer");
    return tokenizer_encode(m->tokenizer, text, size, flags, ids, cap, count, err);
}

realm_status realm_model_decode(const realm_model *m, const uint32_t *ids, size_t count, uint32_t flags, char *out, size_t cap,
                                size_t *size, realm_error *err) {
    base_error_clear(err);
    if (m->tokenizer == NULL) return base_fail(err, REALM_E_UNSUPPORTED, "the model was opened without its tokenizer");
    return tokenizer_decode(m->tokenizer, ids, count, flags, out, cap, size, err);
}
