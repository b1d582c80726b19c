/* imports.c: every import of realm.wit, lowered by the canonical ABI onto the functions of realm.h.
 *
 * A bad pointer traps (the guest broke the ABI); a bad value is an error the guest can handle. A result with a payload is
 * written to the guest's return area: a discriminant byte, then the payload at its alignment. Lists for the guest go into memory
 * from its own cabi_realloc, so all pointers into it are looked up again afterwards.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "realm_imports.h"
#include "shim_internal.h"

enum { ERROR_CODE_BASE = 1 };    /* error-code = realm_status - 1 */
enum { MAX_BIASES = 1u << 18 };  /* more than any vocabulary has tokens: a larger list only wastes memory */
enum { LOG_BYTES = 16 * 1024, LOG_LINE = 1024 };

static const char BAD_POINTER[] = "the guest passed a pointer outside its memory";
static const char BAD_ALLOCATION[] = "the guest's cabi_realloc gave no usable memory";

typedef struct token_record { /* record token */
    uint32_t id;
    uint32_t is_end;
    float logprob;
} token_record;
_Static_assert(sizeof(token_record) == REALM_TOKEN_SIZE, "canonical layout of record token");

typedef struct cache_record { /* record cache-info */
    uint64_t layers, bytes, hits, misses, evictions;
} cache_record;
_Static_assert(sizeof(cache_record) == REALM_CACHE_INFO_SIZE, "canonical layout of record cache-info");

/* ---- results ---- */

/* result<T, error-code> where T is `size` bytes (4-aligned): the payload starts at 4. */
static const char *put_result(shim_guest *guest, uint32_t ret, realm_status status, const void *value, uint32_t size) {
    uint8_t *out = shim_at(guest, ret, 1, 4 + size, 4);
    if (!out) return BAD_POINTER;
    if (status == REALM_OK) {
        out[0] = 0;
        memcpy(out + 4, value, size);
    } else {
        out[0] = 1;
        out[4] = (uint8_t)(status - ERROR_CODE_BASE);
    }
    return NULL;
}

static const char *put_u32(shim_guest *guest, uint32_t ret, realm_status status, uint32_t value) {
    return put_result(guest, ret, status, &value, sizeof value);
}

/* The same for a ticket: the guest has something to wait for now. */
static const char *put_ticket(shim_guest *guest, uint32_t ret, realm_status status, uint32_t ticket) {
    if (status == REALM_OK) guest->submissions++;
    return put_u32(guest, ret, status, ticket);
}

/* result<list<...>, error-code> of count elements already in the guest at ptr. */
static const char *put_list(shim_guest *guest, uint32_t ret, realm_status status, uint32_t ptr, uint64_t count) {
    uint32_t list[2] = {ptr, (uint32_t)count};
    return put_result(guest, ret, status, list, sizeof list);
}

/* The same for elements that lie in host memory: copied into the guest first. */
static const char *put_copied_list(shim_guest *guest, uint32_t ret, realm_status status, const void *data, uint64_t count,
                                   uint32_t size, uint32_t align) {
    if (status != REALM_OK) return put_list(guest, ret, status, 0, 0);
    uint32_t ptr = shim_alloc(guest, count * size, align);
    if (!ptr) return BAD_ALLOCATION;
    if (count) memcpy(shim_memory(guest).base + ptr, data, (size_t)(count * size));
    return put_list(guest, ret, REALM_OK, ptr, count);
}

/* ---- models ---- */

static const char *import_model_info(shim_guest *guest, shim_value *a) {
    realm_model *model = realm_context_model(guest->ctx, a[0].u32);
    if (!model) return put_result(guest, a[1].u32, REALM_E_INVALID_HANDLE, NULL, REALM_MODEL_PROPERTIES_SIZE);
    realm_model_info info;
    realm_model_get_info(model, &info);
    uint32_t record[6] = {info.vocab_size, info.context_length, info.layer_count, info.embedding_length, info.bos, info.eos};
    return put_result(guest, a[1].u32, REALM_OK, record, sizeof record);
}

/* (model, text, size, add-special, parse-special, ret) */
static const char *import_encode(shim_guest *guest, shim_value *a) {
    const char *text = shim_at(guest, a[1].u32, a[2].u32, 1, 1);
    if (!text) return BAD_POINTER;
    realm_model *model = realm_context_model(guest->ctx, a[0].u32);
    if (!model) return put_list(guest, a[5].u32, REALM_E_INVALID_HANDLE, 0, 0);
    uint32_t flags = (a[3].u32 ? REALM_ENCODE_ADD_SPECIAL : 0u) | (a[4].u32 ? REALM_ENCODE_PARSE_SPECIAL : 0u);
    size_t cap = (size_t)a[2].u32 + 8, count = 0; /* a token covers a byte or more, but for BOS, EOS and a leading space */
    uint32_t *ids = malloc(cap * sizeof *ids);
    if (!ids) return put_list(guest, a[5].u32, REALM_E_OUT_OF_MEMORY, 0, 0);
    realm_status status = realm_model_encode(model, text, a[2].u32, flags, ids, cap, &count, &guest->problem);
    if (status == REALM_OK && count > cap) status = REALM_E_INTERNAL;
    const char *trap = put_copied_list(guest, a[5].u32, status, ids, count, 4, 4);
    shim_free_wiped(ids, (count < cap ? count : cap) * sizeof *ids);
    return trap;
}

/* (model, tokens, count, special, text-start, ret) */
static const char *import_decode(shim_guest *guest, shim_value *a) {
    const uint32_t *tokens = shim_at(guest, a[1].u32, a[2].u32, 4, 4);
    if (!tokens) return BAD_POINTER;
    realm_model *model = realm_context_model(guest->ctx, a[0].u32);
    if (!model) return put_list(guest, a[5].u32, REALM_E_INVALID_HANDLE, 0, 0);
    uint32_t flags = (a[3].u32 ? REALM_DECODE_SPECIAL : 0u) | (a[4].u32 ? REALM_DECODE_TEXT_START : 0u);
    char small[512], *text = small;
    size_t size = 0;
    realm_status status = realm_model_decode(model, tokens, a[2].u32, flags, small, sizeof small, &size, &guest->problem);
    if (status == REALM_OK && size > sizeof small) {
        text = size <= shim_memory(guest).size ? malloc(size) : NULL;
        status = text ? realm_model_decode(model, tokens, a[2].u32, flags, text, size, &size, &guest->problem) : REALM_E_OUT_OF_MEMORY;
    }
    const char *trap = put_copied_list(guest, a[5].u32, status, text, size, 1, 1);
    if (text != small) shim_free_wiped(text, text ? size : 0);
    return trap;
}

/* ---- sessions ---- */

/* What the application said of the request in whose name the guest opens a session; what is left of its time. */
static realm_session_options request_options(const shim_guest *guest) {
    realm_session_options options = {.kv_type = REALM_KV_MODEL};
    if (!guest->session) return options;
    options.priority = guest->session->priority;
    if (!guest->session->deadline_ns) return options;
    uint64_t spent = shim_now_ns() - guest->session_start_ns;
    options.deadline_ns = spent < guest->session->deadline_ns ? guest->session->deadline_ns - spent : 1;
    return options;
}

static const char *import_session_open(shim_guest *guest, shim_value *a) {
    uint32_t session = 0;
    realm_session_options options = request_options(guest);
    realm_status status = realm_session_open(guest->ctx, a[0].u32, &options, &session, &guest->problem);
    return put_u32(guest, a[1].u32, status, session);
}

static const char *import_session_close(shim_guest *guest, shim_value *a) {
    (void)realm_session_close(guest->ctx, a[0].u32, NULL);
    return NULL;
}

static const char *import_session_position(shim_guest *guest, shim_value *a) {
    uint32_t position = 0;
    realm_status status = realm_session_position(guest->ctx, a[0].u32, &position, NULL);
    return put_u32(guest, a[1].u32, status, position);
}

static const char *import_session_rewind(shim_guest *guest, shim_value *a) {
    realm_status status = realm_session_rewind(guest->ctx, a[0].u32, a[1].u32, &guest->problem);
    return put_u32(guest, a[2].u32, status, a[1].u32);
}

/* ---- work ---- */

/* (session, tokens, count, ret) */
static const char *import_forward(shim_guest *guest, shim_value *a) {
    const uint32_t *tokens = shim_at(guest, a[1].u32, a[2].u32, 4, 4);
    if (!tokens) return BAD_POINTER;
    uint32_t ticket = 0;
    realm_status status = realm_forward(guest->ctx, a[0].u32, tokens, a[2].u32, &ticket, &guest->problem);
    return put_ticket(guest, a[3].u32, status, ticket);
}

/* (session, first, count, tokens, count-tokens, ret) */
static const char *import_forward_layers(shim_guest *guest, shim_value *a) {
    const uint32_t *tokens = shim_at(guest, a[3].u32, a[4].u32, 4, 4);
    if (!tokens) return BAD_POINTER;
    uint32_t ticket = 0;
    realm_status status =
        realm_forward_layers(guest->ctx, a[0].u32, a[1].u32, a[2].u32, tokens, a[4].u32, &ticket, &guest->problem);
    return put_ticket(guest, a[5].u32, status, ticket);
}

static const char *import_score(shim_guest *guest, shim_value *a) {
    const uint32_t *tokens = shim_at(guest, a[1].u32, a[2].u32, 4, 4);
    if (!tokens) return BAD_POINTER;
    uint32_t ticket = 0;
    realm_status status = realm_score(guest->ctx, a[0].u32, tokens, a[2].u32, &ticket, &guest->problem);
    return put_ticket(guest, a[3].u32, status, ticket);
}

/* The flat fields of `params: sampling` and `biases: list<bias>`, twelve values from a[0] on. The biases are split into the two
 * arrays of realm_sampling, in *owned, which the caller frees. */
static const char *get_sampling(shim_guest *guest, const shim_value *a, realm_sampling *out, void **owned,
                                realm_status *status) {
    *out = (realm_sampling){
        .temperature = a[0].f32, .top_k = a[1].u32, .top_p = a[2].f32, .min_p = a[3].f32, .repetition_penalty = a[4].f32,
        .frequency_penalty = a[5].f32, .presence_penalty = a[6].f32, .penalty_window = a[7].u32, .seed = a[8].u64,
        .ignore_end = a[9].u32 ? 1 : 0,
    };
    uint32_t count = a[11].u32;
    const uint32_t *pairs = shim_at(guest, a[10].u32, count, 8, 4);
    *owned = NULL;
    *status = REALM_OK;
    if (!pairs) return BAD_POINTER;
    if (count == 0) return NULL;
    if (count > MAX_BIASES) return *status = REALM_E_LIMIT_EXCEEDED, NULL;
    uint32_t *ids = malloc((size_t)count * 8);
    if (!ids) return *status = REALM_E_OUT_OF_MEMORY, NULL;
    uint32_t *values = ids + count;
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = pairs[2 * (size_t)i];
        values[i] = pairs[2 * (size_t)i + 1]; /* the bits of a float */
    }
    *owned = ids;
    out->bias_count = count;
    out->bias_ids = ids;
    out->bias_values = (const float *)(const void *)values;
    return NULL;
}

/* (session, params x10, biases, count, ret) */
static const char *import_sample(shim_guest *guest, shim_value *a) {
    realm_sampling params;
    realm_status status;
    void *owned;
    const char *trap = get_sampling(guest, a + 1, &params, &owned, &status);
    if (trap) return trap;
    realm_token token = {0, 0, 0};
    if (status == REALM_OK) status = realm_sample(guest->ctx, a[0].u32, &params, &token, &guest->problem);
    free(owned);
    if (status == REALM_OK) shim_keep_sampled(guest, a[0].u32, &token);
    token_record record = {token.id, token.is_end ? 1 : 0, token.logprob};
    return put_result(guest, a[13].u32, status, &record, sizeof record);
}

/* (session, tokens, count, params x10, biases, count, max-tokens, ret) */
static const char *import_generate(shim_guest *guest, shim_value *a) {
    const uint32_t *tokens = shim_at(guest, a[1].u32, a[2].u32, 4, 4);
    if (!tokens) return BAD_POINTER;
    realm_sampling params;
    realm_status status;
    void *owned;
    const char *trap = get_sampling(guest, a + 3, &params, &owned, &status);
    if (trap) return trap;
    uint32_t ticket = 0;
    if (status == REALM_OK) {
        status = realm_generate(guest->ctx, a[0].u32, tokens, a[2].u32, &params, a[15].u32, &ticket, &guest->problem);
    }
    free(owned);
    return put_ticket(guest, a[16].u32, status, ticket);
}

/* ---- tickets ---- */

/* ticket-state has the values of realm_ticket_state; a handle that is no ticket has failed. */
static const char *import_ticket_ready(shim_guest *guest, shim_value *a) {
    uint32_t state = REALM_TICKET_PENDING;
    if (realm_ticket_get_state(guest->ctx, a[0].u32, &state, NULL) != REALM_OK) state = REALM_TICKET_FAILED;
    a[0].whole[0] = state;
    return NULL;
}

static const char *import_ticket_error(shim_guest *guest, shim_value *a) {
    realm_status status = realm_ticket_error(guest->ctx, a[0].u32, &guest->problem);
    if (status == REALM_OK) status = REALM_E_INVALID_ARGUMENT; /* asked although nothing failed */
    a[0].whole[0] = (uint32_t)status - ERROR_CODE_BASE;
    return NULL;
}

/* Room first, then the tokens straight into it: tokens that come in between wait for the next call. */
static const char *import_ticket_tokens(shim_guest *guest, shim_value *a) {
    uint32_t count = 0, ticket = a[0].u32, ret = a[1].u32;
    realm_status status = realm_ticket_tokens(guest->ctx, ticket, NULL, 0, &count, NULL);
    if (status != REALM_OK) return put_list(guest, ret, status, 0, 0);
    uint32_t ptr = shim_alloc(guest, (uint64_t)count * sizeof(token_record), 4);
    if (!ptr) return BAD_ALLOCATION;
    uint8_t *out = shim_memory(guest).base + ptr;
    for (uint32_t done = 0; done < count;) {
        realm_token chunk[64];
        uint32_t want = count - done < 64 ? count - done : 64, there = 0;
        status = realm_ticket_tokens(guest->ctx, ticket, chunk, want, &there, NULL);
        if (status != REALM_OK || there < want) return put_list(guest, ret, REALM_E_INTERNAL, 0, 0);
        for (uint32_t i = 0; i < want; i++) {
            token_record record = {chunk[i].id, chunk[i].is_end ? 1 : 0, chunk[i].logprob};
            memcpy(out + (size_t)(done + i) * sizeof record, &record, sizeof record);
        }
        shim_keep_drawn(guest, chunk, want);
        done += want;
    }
    return put_list(guest, ret, REALM_OK, ptr, count);
}

static const char *import_ticket_scores(shim_guest *guest, shim_value *a) {
    uint32_t count = 0, there = 0, ticket = a[0].u32, ret = a[1].u32;
    realm_status status = realm_ticket_scores(guest->ctx, ticket, NULL, 0, &count, NULL);
    if (status != REALM_OK) return put_list(guest, ret, status, 0, 0);
    uint32_t ptr = shim_alloc(guest, (uint64_t)count * 4, 4);
    if (!ptr) return BAD_ALLOCATION;
    float *out = (float *)(void *)(shim_memory(guest).base + ptr);
    status = realm_ticket_scores(guest->ctx, ticket, out, count, &there, NULL);
    return put_list(guest, ret, status, ptr, count);
}

static const char *import_ticket_tensor(shim_guest *guest, shim_value *a) {
    uint32_t tensor = 0;
    realm_status status = realm_ticket_tensor(guest->ctx, a[0].u32, &tensor, &guest->problem);
    return put_u32(guest, a[1].u32, status, tensor);
}

static const char *import_ticket_cancel(shim_guest *guest, shim_value *a) {
    (void)realm_ticket_cancel(guest->ctx, a[0].u32, NULL);
    return NULL;
}

static const char *import_ticket_drop(shim_guest *guest, shim_value *a) {
    shim_keep_work(guest, a[0].u32);
    (void)realm_ticket_drop(guest->ctx, a[0].u32, NULL);
    return NULL;
}

/* ---- tensors and the layer store ---- */

/* (rows, cols, data, count, ret); an empty list makes zeros */
static const char *import_tensor_create(shim_guest *guest, shim_value *a) {
    const float *data = shim_at(guest, a[2].u32, a[3].u32, 4, 4);
    if (!data) return BAD_POINTER;
    uint64_t wanted = (uint64_t)a[0].u32 * a[1].u32;
    uint32_t tensor = 0;
    realm_status status = REALM_E_INVALID_ARGUMENT;
    if (a[3].u32 == 0 || a[3].u32 == wanted) {
        status = realm_tensor_create(guest->ctx, a[0].u32, a[1].u32, a[3].u32 ? data : NULL, &tensor, &guest->problem);
    }
    return put_u32(guest, a[4].u32, status, tensor);
}

static const char *import_tensor_weight(shim_guest *guest, shim_value *a) {
    const char *name = shim_at(guest, a[1].u32, a[2].u32, 1, 1);
    if (!name) return BAD_POINTER;
    uint32_t tensor = 0;
    realm_status status = realm_tensor_weight(guest->ctx, a[0].u32, name, a[2].u32, &tensor, &guest->problem);
    return put_u32(guest, a[3].u32, status, tensor);
}

static const char *import_tensor_read(shim_guest *guest, shim_value *a) {
    uint32_t rows = 0, cols = 0, tensor = a[0].u32, ret = a[1].u32;
    realm_status status = realm_tensor_shape(guest->ctx, tensor, &rows, &cols, NULL);
    uint64_t count = (uint64_t)rows * cols;
    if (status == REALM_OK && count > UINT32_MAX / 4) status = REALM_E_LIMIT_EXCEEDED; /* larger than any guest */
    if (status != REALM_OK) return put_list(guest, ret, status, 0, 0);
    uint32_t ptr = shim_alloc(guest, count * 4, 4);
    if (!ptr) return BAD_ALLOCATION;
    size_t there = 0;
    float *out = (float *)(void *)(shim_memory(guest).base + ptr);
    status = realm_tensor_read(guest->ctx, tensor, out, (size_t)count, &there, NULL);
    return put_list(guest, ret, status, ptr, count);
}

static const char *import_tensor_drop(shim_guest *guest, shim_value *a) {
    (void)realm_tensor_drop(guest->ctx, a[0].u32, NULL);
    return NULL;
}

static const char *import_matmul(shim_guest *guest, shim_value *a) {
    uint32_t ticket = 0;
    realm_status status = realm_matmul(guest->ctx, a[0].u32, a[1].u32, &ticket, &guest->problem);
    return put_ticket(guest, a[2].u32, status, ticket);
}

static const char *import_matmul_transposed(shim_guest *guest, shim_value *a) {
    uint32_t ticket = 0;
    realm_status status = realm_matmul_transposed(guest->ctx, a[0].u32, a[1].u32, &ticket, &guest->problem);
    return put_ticket(guest, a[2].u32, status, ticket);
}

static const char *import_store_layer(shim_guest *guest, shim_value *a) {
    realm_status status = realm_store_layer(guest->ctx, a[0].u64, a[1].u32, &guest->problem);
    return put_u32(guest, a[2].u32, status, a[1].u32);
}

static const char *import_load_layer(shim_guest *guest, shim_value *a) {
    uint32_t ticket = 0;
    realm_status status = realm_load_layer(guest->ctx, a[0].u64, &ticket, &guest->problem);
    return put_ticket(guest, a[1].u32, status, ticket);
}

static const char *import_cache_stats(shim_guest *guest, shim_value *a) {
    cache_record *out = shim_at(guest, a[0].u32, 1, sizeof *out, 8);
    if (!out) return BAD_POINTER;
    realm_cache_stats stats;
    memset(&stats, 0, sizeof stats);
    (void)realm_get_cache_stats(guest->ctx, &stats, NULL);
    cache_record record = {stats.layers, stats.bytes, stats.hits, stats.misses, stats.evictions};
    memcpy(out, &record, sizeof record);
    return NULL;
}

/* ---- text ---- */

/* Text for a request that is being started or runs; its buffer waits for Python to take it. */
static const char *import_emit(shim_guest *guest, shim_value *a) {
    uint32_t size = a[2].u32;
    const char *text = shim_at(guest, a[1].u32, size, 1, 1);
    if (!text) return BAD_POINTER;
    slot *to = shim_slot(guest, a[0].u32);
    if (!to && guest->starting) to = shim_add_slot(guest, a[0].u32);
    if (!to || !(to->active || guest->starting)) return "the guest emitted text for a request that does not run";
    if (size > guest->options.text_bytes - guest->text_held) return "the guest emitted more text than its limit";
    if (!bytes_append(&to->text, text, size)) return "no memory for the guest's text";
    guest->text_held += size;
    to->emitted += size;
    if (size && !to->first_ns) to->first_ns = shim_now_ns();
    return NULL;
}

/* Kept until Python asks; what does not fit is dropped, so that a chatty guest costs a fixed amount. One call is one line: a guest
 * that writes a line end, or what a terminal obeys, gets a space instead. */
static const char *import_log(shim_guest *guest, shim_value *a) {
    uint32_t size = a[2].u32;
    const char *text = shim_at(guest, a[1].u32, size, 1, 1);
    if (!text) return BAD_POINTER;
    if (size > LOG_LINE) size = LOG_LINE;
    if (guest->log.size + size + 2 > LOG_BYTES) return NULL;
    char line[1 + LOG_LINE + 1];
    line[0] = (char)('0' + (a[0].u32 > 3 ? 3 : a[0].u32));
    for (uint32_t i = 0; i < size; i++) line[1 + i] = (unsigned char)text[i] < ' ' || text[i] == 0x7f ? ' ' : text[i];
    line[1 + size] = '\n';
    (void)bytes_append(&guest->log, line, size + 2);
    return NULL;
}

/* ---- the table ---- */

typedef const char *(*import_function)(shim_guest *guest, shim_value *values);

static const import_function RUN[REALM_IMPORT_COUNT] = {
    [REALM_IMPORT_MODEL_INFO] = import_model_info,
    [REALM_IMPORT_ENCODE] = import_encode,
    [REALM_IMPORT_DECODE] = import_decode,
    [REALM_IMPORT_SESSION_OPEN] = import_session_open,
    [REALM_IMPORT_SESSION_CLOSE] = import_session_close,
    [REALM_IMPORT_SESSION_POSITION] = import_session_position,
    [REALM_IMPORT_SESSION_REWIND] = import_session_rewind,
    [REALM_IMPORT_FORWARD] = import_forward,
    [REALM_IMPORT_FORWARD_LAYERS] = import_forward_layers,
    [REALM_IMPORT_SCORE] = import_score,
    [REALM_IMPORT_SAMPLE] = import_sample,
    [REALM_IMPORT_GENERATE] = import_generate,
    [REALM_IMPORT_TICKET_READY] = import_ticket_ready,
    [REALM_IMPORT_TICKET_ERROR] = import_ticket_error,
    [REALM_IMPORT_TICKET_TOKENS] = import_ticket_tokens,
    [REALM_IMPORT_TICKET_SCORES] = import_ticket_scores,
    [REALM_IMPORT_TICKET_TENSOR] = import_ticket_tensor,
    [REALM_IMPORT_TICKET_CANCEL] = import_ticket_cancel,
    [REALM_IMPORT_TICKET_DROP] = import_ticket_drop,
    [REALM_IMPORT_TENSOR_CREATE] = import_tensor_create,
    [REALM_IMPORT_TENSOR_WEIGHT] = import_tensor_weight,
    [REALM_IMPORT_TENSOR_READ] = import_tensor_read,
    [REALM_IMPORT_TENSOR_DROP] = import_tensor_drop,
    [REALM_IMPORT_MATMUL] = import_matmul,
    [REALM_IMPORT_MATMUL_TRANSPOSED] = import_matmul_transposed,
    [REALM_IMPORT_STORE_LAYER] = import_store_layer,
    [REALM_IMPORT_LOAD_LAYER] = import_load_layer,
    [REALM_IMPORT_CACHE_STATS] = import_cache_stats,
    [REALM_IMPORT_EMIT] = import_emit,
    [REALM_IMPORT_LOG] = import_log,
};

#define INFO(NAME, name, parameters, results) {name, parameters, sizeof(results) > 1},
static const shim_import_info INFOS[REALM_IMPORT_COUNT] = {REALM_IMPORTS(INFO)};
#undef INFO

const char *shim_import_module(void) { return REALM_IMPORT_MODULE; }

uint32_t shim_import_count(void) { return REALM_IMPORT_COUNT; }

const shim_import_info *shim_import_at(uint32_t index) { return index < REALM_IMPORT_COUNT ? &INFOS[index] : NULL; }

const char *shim_import(shim_guest *guest, uint32_t index, shim_value *values) {
    if (guest->depth > 1) return "an import was called from inside cabi_realloc";
    if (index >= REALM_IMPORT_COUNT || !RUN[index]) return "this import is not there";
    return RUN[index](guest, values);
}

/* The guest is the data of the calling store. A failed import leaves its reason with the guest, where the pump finds it. */
void *shim_callback(void *env, void *caller, shim_value *values, size_t count) {
    const shim_binding *binding = env;
    const shim_wasmtime *api = binding->api;
    (void)count; /* checked by wasmtime against the type the import was defined with */
    shim_guest *guest = api->context_get_data(api->caller_context(caller));
    if (!guest) return api->trap_new("no guest behind this store", 26);
    const char *why = shim_import(guest, (uint32_t)binding->index, values);
    if (!why) return NULL;
    char message[160];
    int size = snprintf(message, sizeof message, "%s: %s", shim_import_at((uint32_t)binding->index)->name, why);
    return api->trap_new(message, (size_t)size);
}
