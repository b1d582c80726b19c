/* context.c: the host side of one realm: its handles, its limits, its tickets. Every function checks the handle, then the limits,
 * then hands the work to engine.c. Host tensors are in context_tensors.c. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

enum { MOST_TICKETS = 1 << 14, MOST_SESSIONS = 1 << 14 }; /* of a realm without limits of its own: each takes memory of the host's */

/* ---- tickets -------------------------------------------------------------------------------------------------------------------- */

static bool is_open(const ticket *t) { return t->state == REALM_TICKET_PENDING || t->state == REALM_TICKET_PROGRESS; }

void ticket_free_biases(ticket *t) {
    base_free_wiped((void *)t->params.bias_ids, t->params.bias_count * sizeof *t->params.bias_ids);
    base_free_wiped((void *)t->params.bias_values, t->params.bias_count * sizeof *t->params.bias_values);
    t->params.bias_ids = NULL;
    t->params.bias_values = NULL;
    t->params.bias_count = 0;
}

void ticket_finish(ticket *t, uint32_t state) {
    if (t->ctx != NULL && is_open(t)) t->ctx->open_tickets--;
    t->state = state;
    t->session = NULL;
    if (!t->in_step) ticket_free_biases(t); /* else the step's end does: a guest may keep an ended ticket for long */
    if (t->ctx != NULL) runtime_push_event(t->ctx->rt, t);
}

void ticket_fail(ticket *t, realm_status code, const char *message) {
    base_fail(&t->error, code, "%s", message);
    ticket_finish(t, REALM_TICKET_FAILED);
}

void ticket_progress(ticket *t) {
    t->state = REALM_TICKET_PROGRESS;
    runtime_push_event(t->ctx->rt, t);
}

void ticket_free(ticket *t) {
    tensor_product_abandon(t->job);
    tensor_release(t->result);
    ticket_free_biases(t);
    base_free_wiped(t->tokens, t->max_tokens * sizeof *t->tokens);
    base_free_wiped(t->scores, t->scored * sizeof *t->scores);
    base_free_wiped(t, sizeof *t);
}

/* Stops the ticket's work; what a running step still uses stays until the step ends. */
static void cancel_work(ticket *t) {
    if (!is_open(t)) return;
    session *s = t->session;
    if (s != NULL) session_abort(s);
    ticket_fail(t, REALM_E_CANCELLED, "the work was cancelled");
}

static void drop_ticket(ticket *t) {
    realm_context *ctx = t->ctx;
    cancel_work(t);
    runtime_remove_event(ctx->rt, t);
    handle_remove(&ctx->tickets, t->handle);
    ctx->tensor_bytes -= t->reserved_bytes;
    t->ctx = NULL;
    if (t->job != NULL) return; /* the driver finds it unwanted */
    if (!t->in_step) ticket_free(t);
}

/* ---- life ------------------------------------------------------------------------------------------------------------------------- */

static void link_context(realm_context *ctx) {
    ctx->next = ctx->rt->contexts;
    if (ctx->next != NULL) ctx->next->prev = ctx;
    ctx->rt->contexts = ctx;
}

static bool join_tenant(realm_context *ctx, uint64_t number) {
    ctx->tenant = number;
    runtime_tell_time(ctx->rt);
    ctx->account = tenant_get(&ctx->rt->tenants, number, ctx->rt->now_ns);
    ctx->owner = ctx->account == NULL ? NULL : kv_owner_get(&ctx->rt->kv, number);
    if (ctx->owner == NULL) return false;
    tenant_join(&ctx->rt->tenants, ctx->account);
    return true;
}

realm_status realm_context_create(realm_runtime *rt, uint64_t tag, uint64_t tenant, const realm_limits *limits, realm_context **out,
                                  realm_error *err) {
    base_error_clear(err);
    *out = NULL;
    realm_context *ctx = calloc(1, sizeof *ctx);
    if (ctx == NULL) return base_fail_memory(err, "the context", sizeof *ctx);
    *ctx = (realm_context){.rt = rt, .tag = tag};
    if (limits != NULL) ctx->limits = *limits;
    platform_lock(rt->lock);
    bool joined = join_tenant(ctx, tenant);
    if (joined) link_context(ctx);
    platform_unlock(rt->lock);
    if (!joined) {
        free(ctx);
        return base_fail_memory(err, "the tenant's account", sizeof(struct tenant));
    }
    *out = ctx;
    return REALM_OK;
}

void realm_context_set_limits(realm_context *ctx, const realm_limits *limits) {
    platform_lock(ctx->rt->lock);
    ctx->limits = limits != NULL ? *limits : (realm_limits){0};
    platform_unlock(ctx->rt->lock);
}

static void unlink_context(realm_context *ctx) {
    if (ctx->prev != NULL) ctx->prev->next = ctx->next; else ctx->rt->contexts = ctx->next;
    if (ctx->next != NULL) ctx->next->prev = ctx->prev;
}

static void release_models(handle_table *t) {
    for (uint32_t slot = 0; slot < t->capacity; slot++) {
        realm_model *m = handle_at(t, slot);
        if (m != NULL) model_release(m);
    }
    handle_table_free(t);
}

void realm_context_destroy(realm_context *ctx) {
    if (ctx == NULL) return;
    platform_lock(ctx->rt->lock);
    unlink_context(ctx);
    for (uint32_t slot = 0; slot < ctx->tickets.capacity; slot++) {
        ticket *t = handle_at(&ctx->tickets, slot);
        if (t != NULL) drop_ticket(t);
    }
    for (uint32_t slot = 0; slot < ctx->sessions.capacity; slot++) {
        session *s = handle_at(&ctx->sessions, slot);
        if (s != NULL) session_destroy(s);
    }
    tenant_leave(&ctx->rt->tenants, ctx->account);
    for (uint32_t slot = 0; slot < ctx->tensors.capacity; slot++) tensor_release(handle_at(&ctx->tensors, slot));
    kv_owner_put(&ctx->rt->kv, ctx->owner);
    platform_unlock(ctx->rt->lock);
    handle_table_free(&ctx->tickets);
    handle_table_free(&ctx->sessions);
    handle_table_free(&ctx->tensors);
    layer_store_destroy(ctx->store);
    release_models(&ctx->models);
    release_models(&ctx->retired);
    sample_scratch_free(&ctx->scratch);
    free(ctx);
}

/* ---- models ------------------------------------------------------------------------------------------------------------------------ */

realm_status realm_context_grant(realm_context *ctx, realm_model *model, uint32_t *handle, realm_error *err) {
    base_error_clear(err);
    if (model->rt != ctx->rt) return base_fail(err, REALM_E_INVALID_ARGUMENT, "the model was loaded by another runtime");
    platform_lock(ctx->rt->lock);
    *handle = handle_add(&ctx->models, model);
    if (*handle != 0) model_retain(model);
    platform_unlock(ctx->rt->lock);
    return *handle != 0 ? REALM_OK : base_fail_memory(err, "a model handle", sizeof(void *));
}

static bool model_in_use(const realm_context *ctx, const realm_model *m) {
    for (uint32_t slot = 0; slot < ctx->sessions.capacity; slot++) {
        const session *s = handle_at(&ctx->sessions, slot);
        if (s != NULL && s->engine == m->engine) return true;
    }
    return false;
}

/* Whether something of the context may still point into a model's weights. */
static bool has_views(const realm_context *ctx) {
    if (ctx->tensors.count > 0 || ctx->store != NULL) return true;
    for (uint32_t slot = 0; slot < ctx->tickets.capacity; slot++) {
        const ticket *t = handle_at(&ctx->tickets, slot);
        if (t != NULL && t->kind == TICKET_TENSOR) return true;
    }
    return false;
}

realm_status realm_context_revoke(realm_context *ctx, uint32_t handle, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    realm_model *m = handle_get(&ctx->models, handle);
    realm_status status = REALM_OK;
    bool keep = false;
    if (m == NULL) status = base_fail(err, REALM_E_INVALID_HANDLE, "model handle %u was not granted", handle);
    else if (model_in_use(ctx, m)) status = base_fail(err, REALM_E_BUSY, "the model has open sessions: close them first");
    else {
        keep = has_views(ctx);
        if (keep && handle_add(&ctx->retired, m) == 0) status = base_fail_memory(err, "a revoked model", sizeof(void *));
        else handle_remove(&ctx->models, handle);
    }
    platform_unlock(ctx->rt->lock);
    if (status == REALM_OK && !keep) model_release(m);
    return status;
}

realm_model *realm_context_model(realm_context *ctx, uint32_t handle) { return handle_get(&ctx->models, handle); }

/* ---- limits ------------------------------------------------------------------------------------------------------------------------- */

void context_hold(realm_context *ctx, int64_t positions) {
    ctx->kv_tokens += (uint64_t)positions;
    ctx->account->stats.kv_tokens += (uint64_t)positions;
}

realm_status context_refuse(realm_context *ctx, realm_limit limit, uint64_t value, realm_error *err, const char *format, ...) {
    char message[REALM_ERROR_CAP];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return tenant_refuse(ctx->account, REALM_E_LIMIT_EXCEEDED, limit, value, 0, err, message);
}

/* ---- sessions ------------------------------------------------------------------------------------------------------------------------ */

static session *find_session(realm_context *ctx, uint32_t handle, realm_error *err) {
    session *s = handle_get(&ctx->sessions, handle);
    if (s == NULL) base_fail(err, REALM_E_INVALID_HANDLE, "session handle %u is not open", handle);
    return s;
}

static realm_status open_session(realm_context *ctx, uint32_t model, const realm_session_options *options, uint32_t *handle,
                                 realm_error *err) {
    realm_model *m = handle_get(&ctx->models, model);
    if (m == NULL) return base_fail(err, REALM_E_INVALID_HANDLE, "model handle %u was not granted", model);
    if (m->engine == NULL) return base_fail(err, REALM_E_NO_WEIGHTS, "the model was opened without weights");
    if (ctx->limits.sessions != 0 && ctx->sessions.count >= ctx->limits.sessions) {
        return context_refuse(ctx, REALM_LIMIT_SESSIONS, ctx->limits.sessions, err, "the realm may have %u sessions open at once",
                              ctx->limits.sessions);
    }
    if (ctx->sessions.count >= MOST_SESSIONS) {
        return context_refuse(ctx, REALM_LIMIT_SESSIONS, MOST_SESSIONS, err, "a realm has %d sessions at most: close some", MOST_SESSIONS);
    }
    uint32_t context = options == NULL || options->context_length == 0 ? m->context_length : options->context_length;
    if (context > m->context_length || (options != NULL && options->kv_type > REALM_KV_MODEL)) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "context_length must be at most %u and kv_type f16 or f32", m->context_length);
    }
    session *s = session_create(m->engine, ctx, options, m->options.kv_type);
    if (s == NULL) return base_fail_memory(err, "the session", sizeof *s);
    s->context_length = context;
    s->handle = *handle = handle_add(&ctx->sessions, s);
    if (*handle != 0) return REALM_OK;
    session_destroy(s);
    return base_fail_memory(err, "a session handle", sizeof(void *));
}

realm_status realm_session_open(realm_context *ctx, uint32_t model, const realm_session_options *options, uint32_t *session_out,
                                realm_error *err) {
    base_error_clear(err);
    *session_out = 0;
    platform_lock(ctx->rt->lock);
    runtime_tell_time(ctx->rt);
    realm_status status = open_session(ctx, model, options, session_out, err);
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_session_close(realm_context *ctx, uint32_t handle, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    session *s = find_session(ctx, handle, err);
    if (s != NULL) {
        if (s->active != NULL) cancel_work(s->active);
        handle_remove(&ctx->sessions, handle);
        session_destroy(s);
    }
    platform_unlock(ctx->rt->lock);
    return s != NULL ? REALM_OK : REALM_E_INVALID_HANDLE;
}

realm_status realm_session_position(realm_context *ctx, uint32_t handle, uint32_t *position, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    const session *s = find_session(ctx, handle, err);
    *position = s != NULL ? s->done : 0;
    platform_unlock(ctx->rt->lock);
    return s != NULL ? REALM_OK : REALM_E_INVALID_HANDLE;
}

static realm_status refuse_busy(const session *s, realm_error *err) {
    if (s->active == NULL && !s->in_step) return REALM_OK;
    return base_fail(err, REALM_E_BUSY, "the session has work in flight: wait for its ticket first");
}

static realm_status rewind_session(session *s, uint32_t position, realm_error *err) {
    realm_status status = refuse_busy(s, err);
    if (status != REALM_OK) return status;
    if (position > s->done) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "position %u is past the session's %u tokens", position, s->done);
    }
    return session_rewind(s, position, err);
}

realm_status realm_session_rewind(realm_context *ctx, uint32_t handle, uint32_t position, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    session *s = find_session(ctx, handle, err);
    realm_status status = s == NULL ? REALM_E_INVALID_HANDLE : rewind_session(s, position, err);
    platform_unlock(ctx->rt->lock);
    return status;
}

/* ---- submitting ------------------------------------------------------------------------------------------------------------------------ */

static realm_status refuse_length(const session *s, uint32_t count, realm_error *err) {
    uint32_t held = s->submitted, length = held + session_room(s);
    uint32_t own = s->ctx->account->limits.context_length;
    if (own == 0 || own >= s->context_length) {
        return base_fail(err, REALM_E_CONTEXT_FULL, "%u tokens do not fit: the session holds %u of %u", count, held, length);
    }
    char message[REALM_ERROR_CAP];
    snprintf(message, sizeof message, "%u tokens do not fit: the session holds %u of the tenant's limit of %u", count, held, own);
    return tenant_refuse(s->ctx->account, REALM_E_CONTEXT_FULL, REALM_LIMIT_CONTEXT_LENGTH, own, 0, err, message);
}

static bool has_room(uint64_t held, uint32_t count, uint64_t limit) { return limit == 0 || (held < limit && count <= limit - held); }

static realm_status check_tokens(const session *s, const uint32_t *tokens, uint32_t count, realm_error *err) {
    const realm_limits *limits = &s->ctx->limits;
    const realm_tenant_limits *shared = &s->ctx->account->limits;
    uint32_t vocab = s->engine->plan->vocab_size;
    if (count == 0) return base_fail(err, REALM_E_INVALID_ARGUMENT, "no tokens were given");
    if (count > session_room(s)) return refuse_length(s, count, err);
    if (!has_room(s->ctx->kv_tokens, count, limits->kv_tokens)) {
        return context_refuse(s->ctx, REALM_LIMIT_KV_TOKENS, limits->kv_tokens, err,
                              "%u tokens do not fit the realm's limit of %llu KV tokens", count, (unsigned long long)limits->kv_tokens);
    }
    if (!has_room(s->ctx->account->stats.kv_tokens, count, shared->kv_tokens)) {
        return context_refuse(s->ctx, REALM_LIMIT_KV_TOKENS, shared->kv_tokens, err,
                              "%u tokens do not fit the tenant's limit of %llu KV tokens", count, (unsigned long long)shared->kv_tokens);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (tokens[i] >= vocab) {
            return base_fail(err, REALM_E_INVALID_ARGUMENT, "token %u at index %u is outside the vocabulary of %u", tokens[i], i, vocab);
        }
    }
    return REALM_OK;
}

realm_status ticket_create(realm_context *ctx, uint32_t kind, ticket **out, realm_error *err) {
    *out = NULL;
    if (ctx->limits.tickets != 0 && ctx->open_tickets >= ctx->limits.tickets) {
        return context_refuse(ctx, REALM_LIMIT_TICKETS, ctx->limits.tickets, err, "the realm may have %u tickets in flight",
                              ctx->limits.tickets);
    }
    if (ctx->tickets.count >= MOST_TICKETS) {
        return context_refuse(ctx, REALM_LIMIT_TICKETS, MOST_TICKETS, err, "a realm holds %d tickets at most: drop those that have ended",
                              MOST_TICKETS);
    }
    ticket *t = calloc(1, sizeof *t);
    if (t == NULL) return base_fail_memory(err, "a ticket", sizeof *t);
    *t = (ticket){.ctx = ctx, .kind = kind};
    t->handle = handle_add(&ctx->tickets, t);
    if (t->handle == 0) {
        free(t);
        return base_fail_memory(err, "a ticket handle", sizeof(void *));
    }
    ctx->open_tickets++;
    *out = t;
    return REALM_OK;
}

static void discard_ticket(ticket *t) {
    t->ctx->open_tickets--;
    handle_remove(&t->ctx->tickets, t->handle);
    ticket_free(t);
}

/* A request before it becomes a ticket. */
typedef struct submission {
    uint32_t kind, session, count, max_tokens;
    const uint32_t *tokens;
    const realm_sampling *params;
    float *logits_out;
    uint32_t slice_first, slice_count;
} submission;

static bool copy_biases(ticket *t, const realm_sampling *params) {
    uint32_t n = params->bias_count;
    t->params = *params;
    t->params.bias_ids = NULL;
    t->params.bias_values = NULL;
    if (n == 0) return true;
    uint32_t *ids = malloc(n * sizeof *ids);
    float *values = malloc(n * sizeof *values);
    t->params.bias_ids = ids;
    t->params.bias_values = values;
    if (ids == NULL || values == NULL) return false;
    memcpy(ids, params->bias_ids, n * sizeof *ids);
    memcpy(values, params->bias_values, n * sizeof *values);
    return true;
}

/* Memory the ticket's results need, allocated before any work starts. */
static bool prepare_results(ticket *t, const submission *sub, session *s) {
    t->session = s;
    t->first_position = s->submitted;
    t->logits_out = sub->logits_out;
    if (sub->kind == TICKET_SCORE) {
        t->scored = sub->count;
        t->scores = malloc(sub->count * sizeof *t->scores);
        return t->scores != NULL;
    }
    if (sub->kind != TICKET_GENERATE) return true;
    uint32_t room = session_room(s) - sub->count + 1; /* the last token needs no KV */
    t->max_tokens = sub->max_tokens < room ? sub->max_tokens : room;
    t->tokens = malloc(t->max_tokens * sizeof *t->tokens);
    return t->tokens != NULL && copy_biases(t, sub->params);
}

/* The first of the scored tokens follows what the session already holds. */
static void score_first(ticket *t, const session *s, uint32_t token) {
    float max = 0.0f, sum = 0.0f;
    t->scores[0] = NAN;
    if (!s->logits_valid) return;
    s->engine->rt->ops.softmax_stats(s->logits, s->engine->plan->vocab_size, &max, &sum);
    t->scores[0] = s->logits[token] - max - logf(sum);
}

static realm_status check_slice(session *s, const submission *sub, realm_error *err) {
    uint32_t layers = s->engine->plan->layer_count;
    if (sub->slice_count == 0 || sub->slice_first >= layers || sub->slice_count > layers - sub->slice_first) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "layers [%u, +%u) are not in the model's %u", sub->slice_first,
                         sub->slice_count, layers);
    }
    if (sub->slice_first != s->slice_next || (sub->slice_first > 0) != (sub->count == 0)) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT,
                         "slices must follow each other: layer %u is next, and tokens come with layer 0 only", s->slice_next);
    }
    return REALM_OK;
}

/* Room for the residual stream of all tokens of the pass. */
static realm_status reserve_hidden(session *s, uint32_t rows, realm_error *err) {
    uint64_t bytes = (uint64_t)rows * s->engine->plan->embedding_length * sizeof(float);
    if (rows <= s->hidden_rows) return REALM_OK;
    size_t old = s->hidden_rows * s->engine->plan->embedding_length * sizeof(float);
    float *bigger = bytes <= SIZE_MAX ? base_grow_wiped(s->hidden, old, (size_t)bytes) : NULL;
    if (bigger == NULL) return base_fail_memory(err, "the residual stream", bytes);
    s->hidden = bigger;
    s->hidden_rows = rows;
    return REALM_OK;
}

static realm_status begin_slice(session *s, const submission *sub, realm_error *err) {
    realm_status status = sub->count == 0 ? REALM_OK : reserve_hidden(s, sub->count, err);
    if (status != REALM_OK) return status;
    s->no_prefix = true; /* pages of a split pass are not looked up, so they are not offered either */
    s->slice_first = sub->slice_first;
    s->slice_count = sub->slice_count;
    s->slice_cursor = 0;
    return REALM_OK;
}

static realm_status check_submission(session *s, const submission *sub, realm_error *err) {
    realm_status status = refuse_busy(s, err);
    if (status == REALM_OK && s->kv_lost) {
        status = base_fail(err, REALM_E_DEVICE_LOST, "the session's KV cache was lost with the device: rewind it to 0, or close it");
    }
    if (status == REALM_OK && sub->kind == TICKET_LAYERS) status = check_slice(s, sub, err);
    else if (status == REALM_OK && s->slice_next != 0) {
        status = base_fail(err, REALM_E_BUSY, "a pass split by layers is under way: finish it, or rewind the session");
    }
    if (status == REALM_OK && !(sub->kind == TICKET_LAYERS && sub->count == 0)) status = check_tokens(s, sub->tokens, sub->count, err);
    if (status == REALM_OK && sub->params != NULL) status = sample_check(sub->params, s->engine->plan->vocab_size, err);
    if (status == REALM_OK && sub->kind == TICKET_GENERATE && sub->max_tokens == 0) {
        status = base_fail(err, REALM_E_INVALID_ARGUMENT, "max_tokens must be at least 1");
    }
    return status;
}

static realm_status submit_locked(realm_context *ctx, const submission *sub, uint32_t *handle, realm_error *err) {
    session *s = find_session(ctx, sub->session, err);
    if (s == NULL) return REALM_E_INVALID_HANDLE;
    ticket *t = NULL;
    realm_status status = check_submission(s, sub, err);
    if (status == REALM_OK) status = tenant_check(s, err);
    if (status == REALM_OK) status = ticket_create(ctx, sub->kind, &t, err);
    if (status != REALM_OK) return status;
    if (!prepare_results(t, sub, s)) status = base_fail_memory(err, "the ticket's results", sub->count);
    if (status == REALM_OK && sub->kind == TICKET_LAYERS) status = begin_slice(s, sub, err);
    if (status == REALM_OK && sub->kind == TICKET_SCORE) score_first(t, s, sub->tokens[0]);
    if (status == REALM_OK) status = session_submit(s, t, sub->tokens, sub->count, err);
    if (status != REALM_OK) {
        s->slice_count = 0; /* what comes next is no slice */
        discard_ticket(t);
        return status;
    }
    *handle = t->handle;
    runtime_work_arrived(ctx->rt);
    return REALM_OK;
}

static realm_status submit(realm_context *ctx, const submission *sub, uint32_t *handle, realm_error *err) {
    base_error_clear(err);
    *handle = 0;
    platform_lock(ctx->rt->lock);
    runtime_tell_time(ctx->rt);
    realm_status status = submit_locked(ctx, sub, handle, err);
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_forward(realm_context *ctx, uint32_t session_handle, const uint32_t *tokens, uint32_t count, uint32_t *handle,
                           realm_error *err) {
    return submit(ctx, &(submission){.kind = TICKET_FORWARD, .session = session_handle, .tokens = tokens, .count = count}, handle, err);
}

realm_status realm_forward_layers(realm_context *ctx, uint32_t session_handle, uint32_t first, uint32_t count, const uint32_t *tokens,
                                  uint32_t count_tokens, uint32_t *handle, realm_error *err) {
    return submit(ctx, &(submission){.kind = TICKET_LAYERS, .session = session_handle, .tokens = tokens, .count = count_tokens,
                                     .slice_first = first, .slice_count = count}, handle, err);
}

realm_status realm_forward_logits(realm_context *ctx, uint32_t session_handle, const uint32_t *tokens, uint32_t count, float *out,
                                  uint32_t *handle, realm_error *err) {
    return submit(ctx, &(submission){.kind = TICKET_LOGITS, .session = session_handle, .tokens = tokens, .count = count, .logits_out = out},
                  handle, err);
}

realm_status realm_score(realm_context *ctx, uint32_t session_handle, const uint32_t *tokens, uint32_t count, uint32_t *handle,
                         realm_error *err) {
    return submit(ctx, &(submission){.kind = TICKET_SCORE, .session = session_handle, .tokens = tokens, .count = count}, handle, err);
}

realm_status realm_generate(realm_context *ctx, uint32_t session_handle, const uint32_t *tokens, uint32_t count,
                            const realm_sampling *params, uint32_t max_tokens, uint32_t *handle, realm_error *err) {
    return submit(ctx, &(submission){.kind = TICKET_GENERATE, .session = session_handle, .tokens = tokens, .count = count, .params = params,
                                     .max_tokens = max_tokens}, handle, err);
}

/* ---- sampling: in the caller's thread. No work is in flight for the session, so nobody else touches it. ------------------------------- */

/* With the lock held. */
static realm_status find_with_logits(realm_context *ctx, uint32_t handle, session **out, realm_error *err) {
    session *s = *out = find_session(ctx, handle, err);
    realm_status status = s == NULL ? REALM_E_INVALID_HANDLE : refuse_busy(s, err);
    if (status != REALM_OK || s->logits_valid) return status;
    return base_fail(err, REALM_E_INVALID_ARGUMENT, "the session has no logits: forward tokens and wait for the ticket first");
}

realm_status realm_sample(realm_context *ctx, uint32_t handle, const realm_sampling *params, realm_token *out, realm_error *err) {
    base_error_clear(err);
    *out = (realm_token){0};
    session *s;
    platform_lock(ctx->rt->lock);
    realm_status status = find_with_logits(ctx, handle, &s, err);
    if (status == REALM_OK) ctx->account->stats.tokens_generated++;
    platform_unlock(ctx->rt->lock);
    if (status != REALM_OK) return status;
    const engine *e = s->engine;
    status = sample_check(params, e->plan->vocab_size, err);
    if (status != REALM_OK) return status;
    bool ban = params->ignore_end != 0;
    status = sample_token_knowing(s->logits, e->plan->vocab_size, s->log_total, s->tokens, s->submitted, params, s->samples,
                                  ban ? e->end_tokens : NULL, ban ? e->end_count : 0, &ctx->scratch, &out->id, &out->logprob, err);
    if (status != REALM_OK) return status;
    s->samples++;
    out->is_end = tokenizer_is_end(e->tok, out->id);
    return REALM_OK;
}

realm_status realm_likeliest(realm_context *ctx, uint32_t handle, realm_token *out, uint32_t count, realm_error *err) {
    base_error_clear(err);
    session *s;
    platform_lock(ctx->rt->lock);
    realm_status status = find_with_logits(ctx, handle, &s, err);
    platform_unlock(ctx->rt->lock);
    if (status != REALM_OK) return status;
    const engine *e = s->engine;
    if (count > REALM_MOST_LIKELIEST || count > e->plan->vocab_size) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "count is %u, but must be at most %d and the vocabulary's %u", count,
                         REALM_MOST_LIKELIEST, e->plan->vocab_size);
    }
    sample_likeliest(s->logits, e->plan->vocab_size, s->log_total, out, count);
    for (uint32_t i = 0; i < count; i++) out[i].is_end = tokenizer_is_end(e->tok, out[i].id);
    return REALM_OK;
}

/* ---- asking tickets ----------------------------------------------------------------------------------------------------------------------- */

static ticket *find_ticket(realm_context *ctx, uint32_t handle, realm_error *err) {
    ticket *t = handle_get(&ctx->tickets, handle);
    if (t == NULL) base_fail(err, REALM_E_INVALID_HANDLE, "ticket %u is not known", handle);
    return t;
}

realm_status realm_ticket_get_state(realm_context *ctx, uint32_t handle, uint32_t *state, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    const ticket *t = find_ticket(ctx, handle, err);
    *state = t != NULL ? t->state : REALM_TICKET_FAILED;
    platform_unlock(ctx->rt->lock);
    return t != NULL ? REALM_OK : REALM_E_INVALID_HANDLE;
}

realm_status realm_ticket_error(realm_context *ctx, uint32_t handle, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    const ticket *t = find_ticket(ctx, handle, err);
    realm_status status = t == NULL ? REALM_E_INVALID_HANDLE : (realm_status)t->error.code;
    if (t != NULL && err != NULL) *err = t->error;
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_ticket_tokens(realm_context *ctx, uint32_t handle, realm_token *out, uint32_t cap, uint32_t *count,
                                 realm_error *err) {
    base_error_clear(err);
    *count = 0;
    platform_lock(ctx->rt->lock);
    ticket *t = find_ticket(ctx, handle, err);
    if (t != NULL) {
        *count = t->produced - t->taken;
        uint32_t n = *count < cap ? *count : cap;
        if (n > 0) memcpy(out, t->tokens + t->taken, n * sizeof *out);
        t->taken += n;
        if (t->state == REALM_TICKET_PROGRESS && t->taken == t->produced) t->state = REALM_TICKET_PENDING;
    }
    platform_unlock(ctx->rt->lock);
    return t != NULL ? REALM_OK : REALM_E_INVALID_HANDLE;
}

static realm_status read_scores(const ticket *t, float *out, uint32_t cap, uint32_t *count, realm_error *err) {
    if (t->kind != TICKET_SCORE || t->state != REALM_TICKET_READY) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "the ticket has no scores (yet)");
    }
    *count = t->scored;
    if (cap > 0) memcpy(out, t->scores, (t->scored < cap ? t->scored : cap) * sizeof *out);
    return REALM_OK;
}

realm_status realm_ticket_scores(realm_context *ctx, uint32_t handle, float *out, uint32_t cap, uint32_t *count, realm_error *err) {
    base_error_clear(err);
    *count = 0;
    platform_lock(ctx->rt->lock);
    const ticket *t = find_ticket(ctx, handle, err);
    realm_status status = t == NULL ? REALM_E_INVALID_HANDLE : read_scores(t, out, cap, count, err);
    platform_unlock(ctx->rt->lock);
    return status;
}

realm_status realm_ticket_get_work(realm_context *ctx, uint32_t handle, realm_ticket_work *out, realm_error *err) {
    base_error_clear(err);
    *out = (realm_ticket_work){0};
    platform_lock(ctx->rt->lock);
    const ticket *t = find_ticket(ctx, handle, err);
    if (t != NULL) *out = t->work;
    platform_unlock(ctx->rt->lock);
    return t != NULL ? REALM_OK : REALM_E_INVALID_HANDLE;
}

realm_status realm_ticket_cancel(realm_context *ctx, uint32_t handle, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    ticket *t = find_ticket(ctx, handle, err);
    if (t != NULL) {
        cancel_work(t);
        platform_cond_broadcast(ctx->rt->done);
    }
    platform_unlock(ctx->rt->lock);
    return t != NULL ? REALM_OK : REALM_E_INVALID_HANDLE;
}

realm_status realm_ticket_drop(realm_context *ctx, uint32_t handle, realm_error *err) {
    base_error_clear(err);
    platform_lock(ctx->rt->lock);
    ticket *t = find_ticket(ctx, handle, err);
    if (t != NULL) drop_ticket(t);
    platform_unlock(ctx->rt->lock);
    return t != NULL ? REALM_OK : REALM_E_INVALID_HANDLE;
}

uint32_t realm_context_open_tickets(realm_context *ctx) {
    platform_lock(ctx->rt->lock);
    uint32_t n = ctx->open_tickets;
    platform_unlock(ctx->rt->lock);
    return n;
}
