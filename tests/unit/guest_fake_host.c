/* guest_fake_host.c: see guest_fake_host.h. */
#include "guest_fake_host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../guest_src/support.h"

enum { HANDLES = 4096, LAYERS = 5, REQUESTS = 4096, ERRORS = REALM_ERROR_CODE_INTERNAL + 1, ODD = 240 };

typedef enum kind { FREE, SESSION, TICKET } kind;

typedef struct object {
    kind kind;
    uint32_t session;  /* of a ticket */
    uint32_t tokens;   /* generate: may still be yielded */
    bool generates, ended, failed, busy;
} object;

typedef struct output { /* of one request */
    uint32_t handle;
    uint8_t *text, *stops;
    size_t size, stops_size;
} output;

uint8_t (*fake_byte)(void);
static object objects[HANDLES]; /* by handle % HANDLES */
static uint32_t last_handle;
static output outputs[REQUESTS];

void fake_check(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "guest broke the contract: %s\n", what);
    abort();
}

void *fake_guest_memory(size_t size) {
    return scratch_alloc(size);
}

/* ---- handles ---- */

static uint32_t new_handle(kind what) {
    do last_handle++;
    while (last_handle == 0 || objects[last_handle % HANDLES].kind != FREE);
    objects[last_handle % HANDLES] = (object){.kind = what};
    return last_handle;
}

static object *find(uint32_t handle, kind what) {
    object *found = &objects[handle % HANDLES];
    fake_check(handle != 0 && found->kind == what, what == SESSION ? "a session that is not open" : "a ticket that is not open");
    return found;
}

uint32_t fake_open_handles(void) {
    uint32_t count = 0;
    for (size_t i = 0; i < HANDLES; i++) count += objects[i].kind != FREE;
    return count;
}

/* Whether this call is to fail, and how. */
static bool fails(uint8_t *error) {
    uint8_t byte = fake_byte();
    if (byte < ODD) return false;
    *error = fake_byte() % ERRORS;
    return true;
}

/* ---- models and sessions ---- */

void realm_import_model_info(uint32_t model, realm_result_model_properties *result) {
    (void)model;
    memset(result, 0, sizeof *result);
    if (fails(&result->error)) {
        result->is_error = 1;
    } else {
        result->ok = (realm_model_properties){.vocab_size = 256, .context_length = 4096, .layer_count = LAYERS};
    }
}

void realm_import_encode(uint32_t model, const uint8_t *text, size_t size, uint32_t add_special, uint32_t parse_special,
                         realm_result_list_u32 *result) {
    (void)model;
    (void)parse_special;
    memset(result, 0, sizeof *result);
    size_t count = size + add_special;
    uint32_t *ids = fake_guest_memory(count * sizeof *ids);
    if (fails(&result->error) || !ids) {
        if (!ids) result->error = REALM_ERROR_CODE_OUT_OF_MEMORY;
        result->is_error = 1;
        return;
    }
    for (size_t i = 0; i < count; i++) ids[i] = i < size ? text[i] : 1; /* reads all of the text */
    result->ok = (realm_list_u32){ids, count};
}

void realm_import_decode(uint32_t model, const uint32_t *tokens, size_t count, uint32_t special, uint32_t text_start,
                         realm_result_list_u8 *result) {
    (void)model;
    (void)special;
    (void)text_start;
    memset(result, 0, sizeof *result);
    fake_check(count == 1 && tokens[0] < 256, "decode of something that was not sampled");
    uint8_t length = fake_byte();
    size_t size = length == 255 ? 3000 : length % 8;
    uint8_t *text = fake_guest_memory(size);
    if (fails(&result->error) || !text) {
        if (!text) result->error = REALM_ERROR_CODE_OUT_OF_MEMORY;
        result->is_error = 1;
        return;
    }
    for (size_t i = 0; i < size; i++) text[i] = fake_byte();
    result->ok = (realm_list_u8){text, size};
}

static void give(realm_result_u32 *result, uint32_t value, uint8_t error) {
    memset(result, 0, sizeof *result);
    if (value) {
        result->ok = value;
    } else {
        result->is_error = 1;
        result->error = error;
    }
}

void realm_import_session_open(uint32_t model, realm_result_u32 *result) {
    (void)model;
    uint8_t error = 0;
    give(result, fails(&error) ? 0 : new_handle(SESSION), error);
}

void realm_import_session_close(uint32_t session) {
    object *closed = find(session, SESSION);
    fake_check(!closed->busy, "a session closed before its ticket was dropped");
    closed->kind = FREE;
}

void realm_import_session_rewind(uint32_t session, uint32_t position, realm_result_u32 *result) {
    uint8_t error = 0;
    fake_check(!find(session, SESSION)->busy, "rewind of a busy session");
    give(result, fails(&error) ? 0 : position + 1, error);
}

/* ---- work ---- */

static object *submit(uint32_t session, const uint32_t *tokens, size_t count, realm_result_u32 *result) {
    object *where = find(session, SESSION);
    uint32_t sum = 0;
    uint8_t error = 0;
    for (size_t i = 0; i < count; i++) sum += tokens[i]; /* reads all of them */
    fake_check(!where->busy, "work on a busy session");
    fake_check(sum < UINT32_MAX, "tokens");
    uint32_t handle = fails(&error) ? 0 : new_handle(TICKET);
    give(result, handle, error);
    if (!handle) return NULL;
    where->busy = true;
    objects[handle % HANDLES].session = session;
    return &objects[handle % HANDLES];
}

void realm_import_forward(uint32_t session, const uint32_t *tokens, size_t count, realm_result_u32 *result) {
    fake_check(count > 0, "forward without tokens");
    submit(session, tokens, count, result);
}

void realm_import_score(uint32_t session, const uint32_t *tokens, size_t count, realm_result_u32 *result) {
    fake_check(count > 0, "score without tokens");
    submit(session, tokens, count, result);
}

void realm_import_forward_layers(uint32_t session, uint32_t first, uint32_t layers, const uint32_t *tokens, size_t count,
                                 realm_result_u32 *result) {
    fake_check(layers > 0 && first < LAYERS && layers <= LAYERS - first, "layers that do not exist");
    fake_check((first == 0) == (count > 0), "tokens with the first slice only");
    submit(session, tokens, count, result);
}

void realm_import_generate(uint32_t session, const uint32_t *tokens, size_t count, float temperature, uint32_t top_k,
                           float top_p, float min_p, float repetition, float frequency, float presence, uint32_t window,
                           uint64_t seed, uint32_t ignore_end, const realm_bias *biases, size_t bias_count,
                           uint32_t max_tokens, realm_result_u32 *result) {
    (void)temperature, (void)top_k, (void)top_p, (void)min_p, (void)repetition, (void)frequency, (void)presence;
    (void)window, (void)seed, (void)ignore_end;
    for (size_t i = 0; i < bias_count; i++) fake_check(biases[i].token < 256, "a bias that was not given");
    fake_check(count > 0 && max_tokens > 0, "generate without tokens");
    object *ticket = submit(session, tokens, count, result);
    if (!ticket) return;
    ticket->generates = true;
    ticket->tokens = max_tokens;
}

static realm_token draw(void) {
    uint8_t byte = fake_byte();
    return (realm_token){.id = byte, .is_end = byte == 0, .logprob = -1.0f};
}

void realm_import_sample(uint32_t session, float temperature, uint32_t top_k, float top_p, float min_p, float repetition,
                         float frequency, float presence, uint32_t window, uint64_t seed, uint32_t ignore_end,
                         const realm_bias *biases, size_t bias_count, realm_result_token *result) {
    (void)temperature, (void)top_k, (void)top_p, (void)min_p, (void)repetition, (void)frequency, (void)presence;
    (void)window, (void)seed, (void)ignore_end;
    for (size_t i = 0; i < bias_count; i++) fake_check(biases[i].token < 256, "a bias that was not given");
    fake_check(!find(session, SESSION)->busy, "sample from a busy session");
    memset(result, 0, sizeof *result);
    if (fails(&result->error)) {
        result->is_error = 1;
    } else {
        result->ok = draw();
    }
}

/* ---- tickets ---- */

static void end_ticket(object *ticket, bool failed) {
    if (ticket->ended) return;
    ticket->ended = true;
    ticket->failed = failed;
    find(ticket->session, SESSION)->busy = false;
}

uint32_t realm_import_ticket_ready(uint32_t handle) {
    object *ticket = find(handle, TICKET);
    uint8_t byte = ticket->ended ? 0 : fake_byte();
    if (byte >= ODD) end_ticket(ticket, true);
    if (ticket->ended) return ticket->failed ? REALM_TICKET_STATE_FAILED : REALM_TICKET_STATE_READY;
    if (byte >= 200) return REALM_TICKET_STATE_PENDING;
    if (ticket->generates && byte >= 50) return REALM_TICKET_STATE_PROGRESS;
    end_ticket(ticket, false);
    return REALM_TICKET_STATE_READY;
}

uint32_t realm_import_ticket_error(uint32_t handle) {
    fake_check(find(handle, TICKET)->failed, "the error of a ticket that did not fail");
    return fake_byte() % ERRORS;
}

void realm_import_ticket_tokens(uint32_t handle, realm_result_list_token *result) {
    object *ticket = find(handle, TICKET);
    memset(result, 0, sizeof *result);
    uint32_t count = fake_byte() % 10;
    if (count > ticket->tokens) count = ticket->tokens;
    realm_token *tokens = fake_guest_memory(count * sizeof *tokens);
    if (fails(&result->error) || !tokens) {
        if (!tokens) result->error = REALM_ERROR_CODE_OUT_OF_MEMORY;
        result->is_error = 1;
        return;
    }
    for (uint32_t i = 0; i < count; i++) tokens[i] = draw();
    ticket->tokens -= count;
    result->ok = (realm_list_token){tokens, count};
}

void realm_import_ticket_scores(uint32_t handle, realm_result_list_f32 *result) {
    find(handle, TICKET);
    memset(result, 0, sizeof *result);
    result->is_error = fails(&result->error);
}

void realm_import_ticket_cancel(uint32_t handle) {
    end_ticket(find(handle, TICKET), true);
}

void realm_import_ticket_drop(uint32_t handle) {
    object *ticket = find(handle, TICKET);
    end_ticket(ticket, true);
    ticket->kind = FREE;
}

/* ---- text ---- */

static output *output_of(uint32_t handle) {
    output *found = &outputs[handle % REQUESTS];
    if (found->handle != handle) {
        fake_forget(handle);
        found->handle = handle;
    }
    return found;
}

void fake_forget(uint32_t handle) {
    output *old = &outputs[handle % REQUESTS];
    free(old->text);
    free(old->stops);
    *old = (output){0};
}

void fake_expect_stops(uint32_t handle, const uint8_t *encoded, size_t size) {
    output *out = output_of(handle);
    out->stops = malloc(size + 1);
    out->stops_size = size;
    if (out->stops && size) memcpy(out->stops, encoded, size);
}

/* Whole characters only, by the first byte's own count; ranges are the business of test_guest_wasm.py. */
static bool whole_characters(const uint8_t *text, size_t size) {
    for (size_t i = 0; i < size;) {
        size_t length = text[i] < 0x80 ? 1 : text[i] < 0xC2 ? 0 : text[i] < 0xE0 ? 2 : text[i] < 0xF0 ? 3 : text[i] < 0xF5 ? 4 : 0;
        if (length == 0 || length > size - i) return false;
        for (size_t k = 1; k < length; k++)
            if ((text[i + k] & 0xC0) != 0x80) return false;
        i += length;
    }
    return true;
}

static bool contains(const uint8_t *text, size_t size, const uint8_t *part, size_t part_size) {
    for (size_t i = 0; part_size <= size && i <= size - part_size; i++)
        if (memcmp(text + i, part, part_size) == 0) return true;
    return false;
}

static void check_no_stop(const output *out) {
    for (size_t at = 0; at + 4 <= out->stops_size;) {
        uint32_t size;
        memcpy(&size, out->stops + at, 4);
        fake_check(!contains(out->text, out->size, out->stops + at + 4, size), "a stop string was shown");
        at += 4 + (size_t)size;
    }
}

void realm_import_emit(uint32_t request, const uint8_t *text, size_t size) {
    output *out = output_of(request);
    fake_check(size > 0 && whole_characters(text, size), "text that is not whole UTF-8");
    uint8_t *grown = realloc(out->text, out->size + size);
    fake_check(grown != NULL, "memory of the test");
    memcpy(grown + out->size, text, size);
    out->text = grown;
    out->size += size;
    check_no_stop(out);
}
