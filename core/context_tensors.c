/* context_tensors.c: host tensors and the layer store of a realm: handles and quota here, the mathematics in tensor.c. */
#include <stdlib.h>

#include "engine.h"

/* ---- quota ---------------------------------------------------------------------------------------------------------------------- */

static realm_status charge(realm_context *ctx, uint64_t bytes, realm_error *err) {
    uint64_t limit = ctx->limits.tensor_bytes, total;
    if (!base_add(ctx->tensor_bytes, bytes, &total) || (limit != 0 && total > limit)) {
        return context_refuse(ctx, REALM_LIMIT_TENSOR_BYTES, ctx->limits.tensor_bytes, err,
                              "%llu bytes of tensors do not fit the realm's limit of %llu", (unsigned long long)bytes,
                              (unsigned long long)ctx->limits.tensor_bytes);
    }
    ctx->tensor_bytes = total;
    return REALM_OK;
}

/* Gives a charged tensor its handle; on failure both are undone. */
static realm_status publish(realm_context *ctx, tensor *t, uint32_t *handle, realm_error *err) {
    *handle = handle_add(&ctx->tensors, t);
    if (*handle != 0) return REALM_OK;
    ctx->tensor_bytes -= tensor_bytes(t);
    tensor_release(t);
    return base_fail_memory(err, "a tensor handle", sizeof(void *));
}

static tensor *find_tensor(realm_context *ctx, uint32_t handle, realm_error *err) {
    tensor *t = handle_get(&ctx->tensors, handle);
    if (t == NULL) base_fail(err, REALM_E_INVALID_HANDLE, "tensor handle %u is not known", handle);
    return t;
}

/* ---- tensors --------------------------------------------------------------------------------------------------------------------- */

realm_status realm_tensor_create(realm_context *ctx, uint32_t rows, uint32_t cols, const float *data, uint32_t *handle,
                                 realm_error *err) {
    base_error_clear(err);
    *handle = 0;
    tensor *t = NULL;
    platform_lock(ctx->rt->lock);
    uint64_t bytes = tensor_owned_bytes(rows, cols);
    realm_status status = charge(ctx, bytes, err);
    if (status == REALM_OK) {
        status = tensor_create(rows, cols, data, &t, err);
        if (status != REALM_OK) ctx->tensor_bytes -= bytes;
        else status = publish(ctx, t, handle, err);
    }
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_tensor_weight(realm_context *ctx, uint32_t model, const char *name, size_t name_size, uint32_t *handle,
                                 realm_error *err) {
    base_error_clear(err);
    *handle = 0;
    realm_model *m = handle_get(&ctx->models, model);
    if (m == NULL) return base_fail(err, REALM_E_INVALID_HANDLE, "model handle %u was not granted", model);
    const gguf_tensor *w = gguf_find_tensor_n(m->file, name, name_size);
    if (w == NULL) {
        return base_fail(err, REALM_E_NOT_FOUND, "the model has no tensor \"%.*s\"", (int)(name_size < 64 ? name_size : 64), name);
    }
    if (w->dims[2] != 1 || w->dims[3] != 1 || w->dims[0] > UINT32_MAX || w->dims[1] > UINT32_MAX) {
        return base_fail(err, REALM_E_UNSUPPORTED, "tensor \"%.*s\" is not a matrix", (int)w->name.size, w->name.data);
    }
    if (w->data == NULL) {
        return base_fail(err, REALM_E_UNSUPPORTED, "tensor \"%.*s\" is not in the core's memory: the executor holds the weights",
                         (int)w->name.size, w->name.data);
    }
    tensor *t = NULL;
    realm_status status = tensor_view(w->type, w->packed, w->data, w->bytes, (uint32_t)w->dims[1], (uint32_t)w->dims[0], &t, err);
    if (status != REALM_OK) return status;
    platform_lock(ctx->rt->lock);
    status = charge(ctx, tensor_bytes(t), err);
    if (status == REALM_OK) status = publish(ctx, t, handle, err);
    else tensor_release(t);
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_tensor_shape(realm_context *ctx, uint32_t handle, uint32_t *rows, uint32_t *cols, realm_error *err) {
    base_error_clear(err);
    const tensor *t = find_tensor(ctx, handle, err);
    if (t == NULL) return REALM_E_INVALID_HANDLE;
    *rows = tensor_rows(t);
    *cols = tensor_cols(t);
    return REALM_OK;
}

realm_status realm_tensor_read(realm_context *ctx, uint32_t handle, float *out, size_t cap, size_t *count, realm_error *err) {
    base_error_clear(err);
    *count = 0;
    const tensor *t = find_tensor(ctx, handle, err);
    if (t == NULL) return REALM_E_INVALID_HANDLE;
    realm_status status = tensor_read(&ctx->rt->ops, t, out, cap, count, err);
    if (status != REALM_OK || !context_lost_a_model(ctx)) return status;
    return base_fail(err, REALM_E_IO, MODEL_LOST);
}

realm_status realm_tensor_drop(realm_context *ctx, uint32_t handle, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    tensor *t = find_tensor(ctx, handle, err);
    if (t != NULL) {
        handle_remove(&ctx->tensors, handle);
        ctx->tensor_bytes -= tensor_bytes(t);
        tensor_release(t);
    }
    platform_unlock(ctx->rt->lock);
    return t != NULL ? REALM_OK : REALM_E_INVALID_HANDLE;
}

/* ---- tickets that make tensors ------------------------------------------------------------------------------------------------------ */

static void queue_job(realm_runtime *rt, ticket *t) {
    if (rt->job_last != NULL) rt->job_last->job_next = t; else rt->job_first = t;
    rt->job_last = t;
    runtime_work_arrived(rt);
}

static realm_status begin_product(realm_context *ctx, uint32_t a, uint32_t b, bool transposed, uint32_t *handle, realm_error *err) {
    tensor *left = find_tensor(ctx, a, err), *right = find_tensor(ctx, b, err);
    if (left == NULL || right == NULL) return REALM_E_INVALID_HANDLE;
    uint32_t cols = transposed ? tensor_rows(right) : tensor_cols(right);
    uint64_t bytes = tensor_owned_bytes(tensor_rows(left), cols), scratch = tensor_product_scratch(&ctx->rt->ops, left, right, transposed);
    uint64_t total;
    if (!base_add(bytes, scratch, &total)) total = UINT64_MAX;
    tensor_product *job = NULL;
    ticket *t = NULL;
    realm_status status = charge(ctx, total, err);
    if (status != REALM_OK) return status;
    status = tensor_product_begin(&ctx->rt->ops, left, right, transposed, &job, err);
    if (status == REALM_OK) status = ticket_create(ctx, TICKET_TENSOR, &t, err);
    if (status != REALM_OK) {
        tensor_product_abandon(job);
        ctx->tensor_bytes -= total;
        return status;
    }
    t->job = job;
    t->reserved_bytes = total;
    *handle = t->handle;
    queue_job(ctx->rt, t);
    return REALM_OK;
}

static realm_status product(realm_context *ctx, uint32_t a, uint32_t b, bool transposed, uint32_t *handle, realm_error *err) {
    base_error_clear(err);
    *handle = 0;
    platform_lock(ctx->rt->lock);
    realm_status status = begin_product(ctx, a, b, transposed, handle, err);
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_matmul(realm_context *ctx, uint32_t a, uint32_t b, uint32_t *handle, realm_error *err) {
    return product(ctx, a, b, false, handle, err);
}

realm_status realm_matmul_transposed(realm_context *ctx, uint32_t a, uint32_t b, uint32_t *handle, realm_error *err) {
    return product(ctx, a, b, true, handle, err);
}

/* The result moves from the ticket to a handle once; later calls give the same handle. */
static realm_status take_result(realm_context *ctx, ticket *t, uint32_t *handle, realm_error *err) {
    if (t->kind != TICKET_TENSOR || t->state != REALM_TICKET_READY) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "the ticket has no tensor (yet)");
    }
    if (t->result != NULL) {
        tensor *result = t->result;
        t->result = NULL;
        ctx->tensor_bytes += tensor_bytes(result);
        ctx->tensor_bytes -= t->reserved_bytes;
        t->reserved_bytes = 0;
        realm_status status = publish(ctx, result, &t->result_handle, err);
        if (status != REALM_OK) return status;
    }
    *handle = t->result_handle;
    return *handle != 0 ? REALM_OK : base_fail(err, REALM_E_OUT_OF_MEMORY, "the ticket's tensor found no memory for its handle");
}

realm_status realm_ticket_tensor(realm_context *ctx, uint32_t handle, uint32_t *out, realm_error *err) {
    base_error_clear(err);
    *out = 0;
    platform_lock(ctx->rt->lock);
    ticket *t = handle_get(&ctx->tickets, handle);
    realm_status status = t == NULL ? base_fail(err, REALM_E_INVALID_HANDLE, "ticket %u is not known", handle)
                                    : take_result(ctx, t, out, err);
    platform_unlock(ctx->rt->lock);
    return status;
}

/* ---- layer store --------------------------------------------------------------------------------------------------------------------- */

/* Stored layers count against the same limit as tensors. */
static realm_status put_layer(realm_context *ctx, uint64_t address, tensor *t, realm_error *err) {
    realm_cache_stats before, after;
    realm_status status = ctx->store == NULL ? layer_store_create(ctx->limits.tensor_bytes, &ctx->store, err) : REALM_OK;
    if (status == REALM_OK) status = charge(ctx, layer_store_cost(t), err);
    if (status != REALM_OK) return status;
    layer_store_stats(ctx->store, &before);
    status = layer_store_put(ctx->store, address, t, err);
    layer_store_stats(ctx->store, &after);
    ctx->tensor_bytes = ctx->tensor_bytes - layer_store_cost(t) + after.bytes - before.bytes; /* what it replaced is given back */
    return status;
}

realm_status realm_store_layer(realm_context *ctx, uint64_t address, uint32_t handle, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    tensor *t = find_tensor(ctx, handle, err);
    realm_status status = t == NULL ? REALM_E_INVALID_HANDLE : put_layer(ctx, address, t, err);
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_load_layer(realm_context *ctx, uint64_t address, uint32_t *handle, realm_error *err) {
    base_error_clear(err);
    *handle = 0;
    platform_lock(ctx->rt->lock);
    ticket *t = NULL;
    realm_status status = ticket_create(ctx, TICKET_TENSOR, &t, err);
    if (status == REALM_OK && ctx->store == NULL) status = layer_store_create(ctx->limits.tensor_bytes, &ctx->store, err);
    if (t != NULL) {
        *handle = t->handle;
        if (status == REALM_OK) status = layer_store_get(ctx->store, address, &t->result, &t->error);
        if (status == REALM_OK) ticket_finish(t, REALM_TICKET_READY);
        else ticket_fail(t, status, "the layer could not be loaded");
        platform_cond_broadcast(ctx->rt->done);
        status = REALM_OK; /* the ticket tells */
    }
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_get_cache_stats(realm_context *ctx, realm_cache_stats *out, realm_error *err) {
    base_error_clear(err);
    *out = (realm_cache_stats){0};
    platform_lock(ctx->rt->lock);
    if (ctx->store != NULL) layer_store_stats(ctx->store, out);
    platform_unlock(ctx->rt->lock);
    return REALM_OK;
}
