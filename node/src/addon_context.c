/* addon_context.c: contexts (the host side of a realm), their sessions, work, tickets and tensors.
 *
 * These run for every token, so they return a number and throw nothing but for wrong types: a value or handle, or the negative of a
 * status. Lists come as typed arrays, often views of a guest's memory, and are read before the call returns. Sampling parameters
 * and records come and go in the layout of realm.wit.
 */
#include <stdlib.h>
#include <string.h>

#include "addon.h"

enum { SAMPLING_SIZE = 48, BIAS_SIZE = 8, TOKEN_SIZE = 12 }; /* canonical layouts */
enum { MAX_BIASES = 1u << 18 }; /* more than any vocabulary has tokens: a larger list only wastes memory */

typedef struct logits_room { /* where forwardLogits writes until its ticket ended */
    uint32_t ticket;
    size_t count;
    float *values;
    struct logits_room *next;
} logits_room;

struct addon_context {
    realm_context *ctx;
    uint64_t serial;
    addon_runtime *runtime;
    uint64_t tenant;
    realm_error refusal; /* of the last work that met a limit; code REALM_OK once it was told */
    logits_room *rooms;
};

/* ---- life ---- */

void addon_context_free(addon_context *context) {
    if (!context) return;
    realm_context_destroy(context->ctx);
    while (context->rooms) {
        logits_room *room = context->rooms;
        context->rooms = room->next;
        free(room->values);
        free(room);
    }
    addon_runtime_release(context->runtime);
    free(context);
}

/* What contextCreate and contextSetLimits are given. */
typedef struct limits {
    realm_limits own;
    realm_tenant_limits shared;
} limits;

static bool read_limits(const call *c, size_t index, limits *out) {
    size_t count;
    const double *v = call_array(c, index, napi_float64_array, &count);
    if (v && count != 10) addon_throw(c->env, REALM_E_INVALID_ARGUMENT, "ten limits are needed");
    if (!v || count != 10) return false;
    *out = (limits){
        .own = {.sessions = (uint32_t)v[0], .tickets = (uint32_t)v[1], .tensor_bytes = (uint64_t)v[2]},
        .shared = {.weight = (uint32_t)v[3], .concurrent_requests = (uint32_t)v[4], .queue_length = (uint32_t)v[5],
                   .context_length = (uint32_t)v[6], .kv_tokens = (uint64_t)v[7], .tokens_per_second = (uint64_t)v[8],
                   .tokens_per_minute = (uint64_t)v[9]},
    };
    return true;
}

static napi_value create(const call *c, addon_runtime *runtime, const realm_limits *limits) {
    realm_error err;
    addon_context *made = calloc(1, sizeof *made);
    if (!made) return addon_throw(c->env, REALM_E_OUT_OF_MEMORY, "no memory for a context");
    made->serial = (uint64_t)call_number(c, 1);
    if (realm_context_create(runtime->rt, addon_tag(c->self, made->serial), call_u64(c, 2), limits, &made->ctx, &err) != REALM_OK) {
        free(made);
        return addon_throw_error(c->env, &err);
    }
    made->runtime = runtime;
    made->tenant = call_u64(c, 2);
    addon_runtime_retain(runtime);
    double handle = addon_put(c->self, OBJECT_CONTEXT, made);
    if (handle != 0) return addon_number(c->env, handle);
    addon_context_free(made);
    return addon_throw(c->env, REALM_E_OUT_OF_MEMORY, "no memory for another context");
}

/* (runtime, serial, tenant, limits: sessions, tickets, tensorBytes; the tenant's: weight, concurrentRequests, queueLength,
 * contextLength, kvTokens, tokensPerSecond, tokensPerMinute; whether to set those) */
static napi_value context_create(napi_env env, napi_callback_info info) {
    call c;
    limits given;
    realm_error err;
    if (!call_begin(&c, env, info)) return NULL;
    addon_runtime *runtime = addon_find(&c, 0, OBJECT_RUNTIME);
    if (!runtime) return addon_throw(env, REALM_E_CLOSED, "this runtime was closed");
    if (!read_limits(&c, 3, &given)) return NULL;
    if (call_u32(&c, 4) && realm_tenant_set_limits(runtime->rt, call_u64(&c, 2), &given.shared, &err) != REALM_OK) {
        return addon_throw_error(env, &err);
    }
    return create(&c, runtime, &given.own);
}

static napi_value context_close(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = call_begin(&c, env, info) ? addon_remove(&c, 0, OBJECT_CONTEXT) : NULL;
    if (!context) return NULL;
    uint64_t serial = context->serial;
    addon_context_free(context);
    addon_env_forget(c.self, serial, 0);
    return NULL;
}

/* The context of the first argument; NULL when it was closed. */
static addon_context *context_of(call *c, napi_env env, napi_callback_info info) {
    return call_begin(c, env, info) ? addon_find(c, 0, OBJECT_CONTEXT) : NULL;
}

static napi_value closed(napi_env env) { return addon_status(env, REALM_E_CLOSED); }

/* (context, limits as contextCreate has them) */
static napi_value context_set_limits(napi_env env, napi_callback_info info) {
    call c;
    limits given;
    realm_error err;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    if (!read_limits(&c, 1, &given)) return NULL;
    realm_context_set_limits(context->ctx, &given.own);
    return addon_status(env, realm_tenant_set_limits(context->runtime->rt, context->tenant, &given.shared, &err));
}

/* Keeps what the core says about a limit: the guest is told a code only. */
static void remember(addon_context *context, const realm_error *err) {
    if (err->code == REALM_E_LIMIT_EXCEEDED || err->code == REALM_E_CONTEXT_FULL) context->refusal = *err;
}

/* (context) -> {status, message, limit, value, retryAfter in nanoseconds} of the last refusal, told once; undefined: none */
static napi_value context_refusal(napi_env env, napi_callback_info info) {
    call c;
    napi_value made;
    addon_context *context = context_of(&c, env, info);
    if (!context || context->refusal.code == REALM_OK || napi_create_object(env, &made) != napi_ok) return NULL;
    const realm_error *err = &context->refusal;
    const char *name = realm_limit_name(err->limit);
    addon_set_number(env, made, "status", err->code);
    addon_set(env, made, "message", addon_text(env, err->message, strlen(err->message)));
    addon_set(env, made, "limit", addon_text(env, name, strlen(name)));
    addon_set_number(env, made, "value", (double)err->limit_value);
    addon_set_number(env, made, "retryAfter", (double)err->retry_after_ns);
    context->refusal.code = REALM_OK;
    return made;
}

static napi_value handle_or_status(napi_env env, realm_status status, uint32_t handle) {
    return status == REALM_OK ? addon_number(env, handle) : addon_status(env, status);
}

/* The same for calls that may meet a limit. */
static napi_value handle_or_refusal(addon_context *context, napi_env env, const realm_error *err, uint32_t handle) {
    remember(context, err);
    return handle_or_status(env, (realm_status)err->code, handle);
}

/* (context, model) -> handle inside the context */
static napi_value context_grant(napi_env env, napi_callback_info info) {
    call c;
    uint32_t handle = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    const addon_model *model = addon_find(&c, 1, OBJECT_MODEL);
    if (!model) return closed(env);
    realm_status status = realm_context_grant(context->ctx, model->model, &handle, NULL);
    return handle_or_status(env, status, handle);
}

static napi_value context_revoke(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    return context ? addon_status(env, realm_context_revoke(context->ctx, call_u32(&c, 1), NULL)) : closed(env);
}

static napi_value open_tickets(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    return addon_number(env, context ? realm_context_open_tickets(context->ctx) : 0);
}

/* ---- sessions ---- */

/* (context, model, kvType, contextLength, noPrefix, priority, deadline in nanoseconds, 0: none) */
static napi_value session_open(napi_env env, napi_callback_info info) {
    call c;
    uint32_t session = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_session_options options = {.kv_type = call_u32(&c, 2), .context_length = call_u32(&c, 3), .no_prefix = call_u32(&c, 4)};
    options.priority = call_u32(&c, 5);
    options.deadline_ns = (uint64_t)call_number(&c, 6);
    realm_error err;
    (void)realm_session_open(context->ctx, call_u32(&c, 1), &options, &session, &err);
    return handle_or_refusal(context, env, &err, session);
}

/* (context, session) -> [prefix, tokens], or a status */
static napi_value session_publish(napi_env env, napi_callback_info info) {
    call c;
    uint32_t published[2] = {0, 0};
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_status status = realm_prefix_publish(context->ctx, call_u32(&c, 1), &published[0], &published[1], NULL);
    return status == REALM_OK ? addon_array(env, napi_uint32_array, published, 2, NULL) : addon_status(env, status);
}

static napi_value session_close(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    return context ? addon_status(env, realm_session_close(context->ctx, call_u32(&c, 1), NULL)) : closed(env);
}

static napi_value session_position(napi_env env, napi_callback_info info) {
    call c;
    uint32_t position = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_status status = realm_session_position(context->ctx, call_u32(&c, 1), &position, NULL);
    return handle_or_status(env, status, position);
}

static napi_value session_rewind(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    return addon_status(env, realm_session_rewind(context->ctx, call_u32(&c, 1), call_u32(&c, 2), NULL));
}

/* ---- work ---- */

/* (context, session, tokens) */
static napi_value forward(napi_env env, napi_callback_info info) {
    call c;
    size_t count;
    uint32_t ticket = 0;
    realm_error err;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    const uint32_t *tokens = call_array(&c, 2, napi_uint32_array, &count);
    if (!tokens) return NULL;
    (void)realm_forward(context->ctx, call_u32(&c, 1), tokens, (uint32_t)count, &ticket, &err);
    return handle_or_refusal(context, env, &err, ticket);
}

/* (context, session, first, count, tokens) */
static napi_value forward_layers(napi_env env, napi_callback_info info) {
    call c;
    size_t count;
    uint32_t ticket = 0;
    realm_error err;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    const uint32_t *tokens = call_array(&c, 4, napi_uint32_array, &count);
    if (!tokens) return NULL;
    (void)realm_forward_layers(context->ctx, call_u32(&c, 1), call_u32(&c, 2), call_u32(&c, 3), tokens, (uint32_t)count, &ticket,
                               &err);
    return handle_or_refusal(context, env, &err, ticket);
}

static napi_value score(napi_env env, napi_callback_info info) {
    call c;
    size_t count;
    uint32_t ticket = 0;
    realm_error err;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    const uint32_t *tokens = call_array(&c, 2, napi_uint32_array, &count);
    if (!tokens) return NULL;
    (void)realm_score(context->ctx, call_u32(&c, 1), tokens, (uint32_t)count, &ticket, &err);
    return handle_or_refusal(context, env, &err, ticket);
}

static logits_room *make_room(addon_context *context, size_t count) {
    logits_room *room = calloc(1, sizeof *room);
    float *values = room && count < SIZE_MAX / sizeof(float) ? calloc(count ? count : 1, sizeof *values) : NULL;
    if (!values) {
        free(room);
        return NULL;
    }
    *room = (logits_room){0, count, values, context->rooms};
    context->rooms = room;
    return room;
}

static void drop_room(addon_context *context, logits_room *room) {
    logits_room **at = &context->rooms;
    while (*at != room) at = &(*at)->next;
    *at = room->next;
    free(room->values);
    free(room);
}

/* (context, model inside the context, session, tokens): ticketLogits takes the values */
static napi_value forward_logits(napi_env env, napi_callback_info info) {
    call c;
    size_t count;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_model *model = realm_context_model(context->ctx, call_u32(&c, 1));
    if (!model) return addon_status(env, REALM_E_INVALID_HANDLE);
    const uint32_t *tokens = call_array(&c, 3, napi_uint32_array, &count);
    if (!tokens) return NULL;
    realm_model_info found;
    realm_model_get_info(model, &found);
    logits_room *room = make_room(context, count * found.vocab_size);
    if (!room) return addon_status(env, REALM_E_OUT_OF_MEMORY);
    realm_status status =
        realm_forward_logits(context->ctx, call_u32(&c, 2), tokens, (uint32_t)count, room->values, &room->ticket, NULL);
    uint32_t ticket = room->ticket;
    if (status != REALM_OK) drop_room(context, room);
    return handle_or_status(env, status, ticket);
}

static float read_float(const uint8_t *at) {
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t read_u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* The biases as the two arrays of realm_sampling, in *owned, which the caller frees. */
static realm_status read_biases(const uint8_t *pairs, size_t size, realm_sampling *out, void **owned) {
    size_t count = size / BIAS_SIZE;
    if (count == 0) return REALM_OK;
    if (count > MAX_BIASES) return REALM_E_LIMIT_EXCEEDED;
    uint32_t *ids = malloc(count * BIAS_SIZE);
    if (!ids) return REALM_E_OUT_OF_MEMORY;
    float *values = (float *)(void *)(ids + count);
    for (size_t i = 0; i < count; i++) {
        ids[i] = read_u32(pairs + BIAS_SIZE * i);
        values[i] = read_float(pairs + BIAS_SIZE * i + 4);
    }
    *owned = ids;
    out->bias_count = (uint32_t)count;
    out->bias_ids = ids;
    out->bias_values = values;
    return REALM_OK;
}

/* Record sampling and a list of records bias, from arguments `index` on. false: an exception was thrown. */
static bool read_sampling(const call *c, size_t index, realm_sampling *out, void **owned, realm_status *status) {
    size_t size, bias_size;
    *owned = NULL;
    const uint8_t *at = call_array(c, index, napi_uint8_array, &size);
    const uint8_t *pairs = at ? call_array(c, index + 1, napi_uint8_array, &bias_size) : NULL;
    if (!pairs) return false;
    *status = REALM_E_INVALID_ARGUMENT;
    if (size != SAMPLING_SIZE) return true;
    *out = (realm_sampling){
        .temperature = read_float(at), .top_k = read_u32(at + 4), .top_p = read_float(at + 8), .min_p = read_float(at + 12),
        .repetition_penalty = read_float(at + 16), .frequency_penalty = read_float(at + 20),
        .presence_penalty = read_float(at + 24), .penalty_window = read_u32(at + 28), .ignore_end = at[40] != 0,
    };
    memcpy(&out->seed, at + 32, sizeof out->seed);
    *status = read_biases(pairs, bias_size, out, owned);
    return true;
}

static void write_token(uint8_t *out, const realm_token *token) {
    uint32_t is_end = token->is_end ? 1 : 0;
    memcpy(out, &token->id, 4);
    memcpy(out + 4, &is_end, 4);
    memcpy(out + 8, &token->logprob, 4);
}

/* (context, session, sampling, biases, out: a token) */
static napi_value sample(napi_env env, napi_callback_info info) {
    call c;
    size_t size;
    void *owned;
    realm_status status;
    realm_sampling params;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    uint8_t *out = (uint8_t *)(uintptr_t)call_array(&c, 4, napi_uint8_array, &size);
    if (!out || !read_sampling(&c, 2, &params, &owned, &status)) return NULL;
    realm_token token = {0, 0, 0};
    if (size != TOKEN_SIZE) status = REALM_E_INVALID_ARGUMENT;
    if (status == REALM_OK) status = realm_sample(context->ctx, call_u32(&c, 1), &params, &token, NULL);
    if (status == REALM_OK) write_token(out, &token);
    free(owned);
    return addon_status(env, status);
}

/* (context, session, count) -> records token, the likeliest first */
static napi_value likeliest(napi_env env, napi_callback_info info) {
    call c;
    void *out = NULL;
    realm_token found[REALM_MOST_LIKELIEST];
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    uint32_t count = call_u32(&c, 2);
    realm_status status = count <= REALM_MOST_LIKELIEST ? realm_likeliest(context->ctx, call_u32(&c, 1), found, count, NULL)
                                                        : REALM_E_INVALID_ARGUMENT;
    if (status != REALM_OK) return addon_status(env, status);
    napi_value made = addon_array(env, napi_uint8_array, NULL, (size_t)count * TOKEN_SIZE, &out);
    for (uint32_t i = 0; made && i < count; i++) write_token((uint8_t *)out + (size_t)i * TOKEN_SIZE, &found[i]);
    return made;
}

/* (context, session, tokens, sampling, biases, maxTokens) */
static napi_value generate(napi_env env, napi_callback_info info) {
    call c;
    size_t count;
    void *owned;
    uint32_t ticket = 0;
    realm_status status;
    realm_sampling params;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    const uint32_t *tokens = call_array(&c, 2, napi_uint32_array, &count);
    if (!tokens || !read_sampling(&c, 3, &params, &owned, &status)) return NULL;
    if (status == REALM_OK) {
        realm_error err;
        status = realm_generate(context->ctx, call_u32(&c, 1), tokens, (uint32_t)count, &params, call_u32(&c, 5), &ticket, &err);
        remember(context, &err);
    }
    free(owned);
    return handle_or_status(env, status, ticket);
}

/* (context, milliseconds): how late tokens of its generations may be told */
static napi_value hold_progress(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    if (context) realm_context_hold_progress(context->ctx, (uint64_t)(call_number(&c, 1) * 1e6));
    return NULL;
}

/* ---- tickets ---- */

static napi_value ticket_state(napi_env env, napi_callback_info info) {
    call c;
    uint32_t state = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_status status = realm_ticket_get_state(context->ctx, call_u32(&c, 1), &state, NULL);
    return handle_or_status(env, status, state);
}

static napi_value ticket_error(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_error err;
    realm_status status = realm_ticket_error(context->ctx, call_u32(&c, 1), &err);
    remember(context, &err);
    return addon_status(env, status);
}

/* (context, ticket) -> records token */
static napi_value ticket_tokens(napi_env env, napi_callback_info info) {
    call c;
    void *out = NULL;
    uint32_t count = 0, ticket;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    ticket = call_u32(&c, 1);
    realm_status status = realm_ticket_tokens(context->ctx, ticket, NULL, 0, &count, NULL);
    if (status != REALM_OK) return addon_status(env, status);
    napi_value made = addon_array(env, napi_uint8_array, NULL, (size_t)count * TOKEN_SIZE, &out);
    for (uint32_t done = 0; made && done < count;) {
        realm_token chunk[64];
        uint32_t want = count - done < 64 ? count - done : 64, there = 0;
        status = realm_ticket_tokens(context->ctx, ticket, chunk, want, &there, NULL);
        if (status != REALM_OK || there < want) return addon_status(env, REALM_E_INTERNAL);
        for (uint32_t i = 0; i < want; i++) write_token((uint8_t *)out + (size_t)(done + i) * TOKEN_SIZE, &chunk[i]);
        done += want;
    }
    return made;
}

static napi_value ticket_scores(napi_env env, napi_callback_info info) {
    call c;
    void *out = NULL;
    uint32_t count = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    uint32_t ticket = call_u32(&c, 1);
    realm_status status = realm_ticket_scores(context->ctx, ticket, NULL, 0, &count, NULL);
    if (status != REALM_OK) return addon_status(env, status);
    napi_value made = addon_array(env, napi_float32_array, NULL, count, &out);
    if (made) status = realm_ticket_scores(context->ctx, ticket, out, count, &count, NULL);
    return status == REALM_OK ? made : addon_status(env, status);
}

/* (context, ticket of forwardLogits that has ended) -> floats */
static napi_value ticket_logits(napi_env env, napi_callback_info info) {
    call c;
    uint32_t state = REALM_TICKET_PENDING;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    uint32_t ticket = call_u32(&c, 1);
    logits_room *room = context->rooms;
    while (room && room->ticket != ticket) room = room->next;
    realm_status status = room ? realm_ticket_get_state(context->ctx, ticket, &state, NULL) : REALM_E_INVALID_HANDLE;
    if (status == REALM_OK && state == REALM_TICKET_PENDING) status = REALM_E_BUSY;
    if (status != REALM_OK) return addon_status(env, status);
    napi_value made = addon_array(env, napi_float32_array, room->values, room->count, NULL);
    drop_room(context, room);
    return made;
}

/* (context, ticket) -> queued, prefill, decode and step nanoseconds; steps, rows */
static napi_value ticket_work(napi_env env, napi_callback_info info) {
    call c;
    realm_ticket_work work;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_status status = realm_ticket_get_work(context->ctx, call_u32(&c, 1), &work, NULL);
    if (status != REALM_OK) return addon_status(env, status);
    const uint64_t record[] = {work.queued_ns, work.prefill_ns, work.decode_ns, work.step_ns, work.steps, work.rows};
    return addon_array(env, napi_biguint64_array, record, sizeof record / sizeof *record, NULL);
}

static napi_value ticket_tensor(napi_env env, napi_callback_info info) {
    call c;
    uint32_t tensor = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_status status = realm_ticket_tensor(context->ctx, call_u32(&c, 1), &tensor, NULL);
    return handle_or_status(env, status, tensor);
}

static napi_value ticket_cancel(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    return context ? addon_status(env, realm_ticket_cancel(context->ctx, call_u32(&c, 1), NULL)) : closed(env);
}

static napi_value ticket_drop(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    uint32_t ticket = call_u32(&c, 1);
    realm_status status = realm_ticket_drop(context->ctx, ticket, NULL);
    if (status == REALM_OK) addon_env_forget(c.self, context->serial, ticket);
    return addon_status(env, status);
}

/* ---- tensors and the layer store ---- */

/* (context, rows, cols, values); none: zeros */
static napi_value tensor_create(napi_env env, napi_callback_info info) {
    call c;
    size_t count;
    uint32_t tensor = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    const float *data = call_array(&c, 3, napi_float32_array, &count);
    if (!data) return NULL;
    uint32_t rows = call_u32(&c, 1), cols = call_u32(&c, 2);
    if (count != 0 && count != (uint64_t)rows * cols) return addon_status(env, REALM_E_INVALID_ARGUMENT);
    realm_status status = realm_tensor_create(context->ctx, rows, cols, count ? data : NULL, &tensor, NULL);
    return handle_or_status(env, status, tensor);
}

static napi_value tensor_weight(napi_env env, napi_callback_info info) {
    call c;
    uint32_t tensor = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    char *name = call_string(&c, 2);
    if (!name) return NULL;
    realm_status status = realm_tensor_weight(context->ctx, call_u32(&c, 1), name, strlen(name), &tensor, NULL);
    free(name);
    return handle_or_status(env, status, tensor);
}

static napi_value tensor_read(napi_env env, napi_callback_info info) {
    call c;
    void *out = NULL;
    size_t count = 0;
    uint32_t rows = 0, cols = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    uint32_t tensor = call_u32(&c, 1);
    realm_status status = realm_tensor_shape(context->ctx, tensor, &rows, &cols, NULL);
    if (status == REALM_OK && (uint64_t)rows * cols > UINT32_MAX / 4) status = REALM_E_LIMIT_EXCEEDED; /* larger than any guest */
    if (status != REALM_OK) return addon_status(env, status);
    napi_value made = addon_array(env, napi_float32_array, NULL, (size_t)rows * cols, &out);
    if (!made) return NULL;
    status = realm_tensor_read(context->ctx, tensor, out, (size_t)rows * cols, &count, NULL);
    return status == REALM_OK ? made : addon_status(env, status);
}

static napi_value tensor_drop(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    return context ? addon_status(env, realm_tensor_drop(context->ctx, call_u32(&c, 1), NULL)) : closed(env);
}

/* (context, a, b, transposed) */
static napi_value matmul(napi_env env, napi_callback_info info) {
    call c;
    uint32_t ticket = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    uint32_t a = call_u32(&c, 1), b = call_u32(&c, 2);
    realm_status status = call_u32(&c, 3) ? realm_matmul_transposed(context->ctx, a, b, &ticket, NULL)
                                          : realm_matmul(context->ctx, a, b, &ticket, NULL);
    return handle_or_status(env, status, ticket);
}

static napi_value store_layer(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    return addon_status(env, realm_store_layer(context->ctx, call_u64(&c, 1), call_u32(&c, 2), NULL));
}

static napi_value load_layer(napi_env env, napi_callback_info info) {
    call c;
    uint32_t ticket = 0;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_status status = realm_load_layer(context->ctx, call_u64(&c, 1), &ticket, NULL);
    return handle_or_status(env, status, ticket);
}

/* (context) -> layers, bytes, hits, misses, evictions */
static napi_value cache_stats(napi_env env, napi_callback_info info) {
    call c;
    addon_context *context = context_of(&c, env, info);
    if (!context) return closed(env);
    realm_cache_stats stats;
    memset(&stats, 0, sizeof stats);
    (void)realm_get_cache_stats(context->ctx, &stats, NULL);
    const uint64_t record[5] = {stats.layers, stats.bytes, stats.hits, stats.misses, stats.evictions};
    return addon_array(env, napi_biguint64_array, record, 5, NULL);
}

const addon_function ADDON_CONTEXT_FUNCTIONS[] = {
    {"contextCreate", context_create},
    {"contextClose", context_close},
    {"contextSetLimits", context_set_limits},
    {"contextRefusal", context_refusal},
    {"sessionPublish", session_publish},
    {"contextGrant", context_grant},
    {"contextRevoke", context_revoke},
    {"openTickets", open_tickets},
    {"sessionOpen", session_open},
    {"sessionClose", session_close},
    {"sessionPosition", session_position},
    {"sessionRewind", session_rewind},
    {"forward", forward},
    {"forwardLayers", forward_layers},
    {"score", score},
    {"forwardLogits", forward_logits},
    {"sample", sample},
    {"likeliest", likeliest},
    {"generate", generate},
    {"holdProgress", hold_progress},
    {"ticketState", ticket_state},
    {"ticketError", ticket_error},
    {"ticketTokens", ticket_tokens},
    {"ticketScores", ticket_scores},
    {"ticketLogits", ticket_logits},
    {"ticketWork", ticket_work},
    {"ticketTensor", ticket_tensor},
    {"ticketCancel", ticket_cancel},
    {"ticketDrop", ticket_drop},
    {"tensorCreate", tensor_create},
    {"tensorWeight", tensor_weight},
    {"tensorRead", tensor_read},
    {"tensorDrop", tensor_drop},
    {"matmul", matmul},
    {"storeLayer", store_layer},
    {"loadLayer", load_layer},
    {"cacheStats", cache_stats},
    {NULL, NULL},
};
