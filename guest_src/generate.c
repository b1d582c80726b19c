/* generate.c: the step loop of one request as a state machine that never blocks.
 *
 * A running request has exactly one ticket open. A poll asks for its state, handles what it yielded (a token becomes
 * text, see accept) and submits the next work. The three modes differ only in what is submitted and taken:
 *   granular   forward, then sample here
 *   layers     the same, with the forward pass in slices of layers
 *   whole      generate: the host samples, the ticket yields tokens
 * so the same settings give the same tokens, text and end in each.
 */
#include "generate.h"

#include "support.h"

enum { SLICES = 3, FIRST_TOKEN_ROOM = 32 };

/* ---- opening and closing ---- */

static bool copy_biases(generation *g, const realm_list_bias *biases) {
    if (biases->len == 0) return true;
    g->biases = memory_alloc(biases->len * sizeof(realm_bias));
    if (!g->biases) return false;
    bytes_copy(g->biases, biases->ptr, biases->len * sizeof(realm_bias));
    g->bias_count = biases->len;
    return true;
}

bool generation_open(generation *g, uint32_t handle, const realm_request *request, realm_error_code *error) {
    *g = (generation){
        .handle = handle, .model = request->model, .mode = request->mode, .params = request->params};
    g->bare = request->prompt.len == 0;
    g->max_tokens = request->max_tokens;
    *error = REALM_ERROR_CODE_INVALID_ARGUMENT;
    if (request->mode > REALM_MODE_LAYERS || request->biases.len > GENERATE_MAX_BIASES) return false;
    stop_status stops = stop_open(&g->stops, request->stops.ptr, request->stops.len);
    if (stops == STOP_INVALID) return false;
    *error = REALM_ERROR_CODE_OUT_OF_MEMORY;
    if (stops == STOP_OK && copy_biases(g, &request->biases)) return true;
    generation_close(g);
    return false;
}

static void free_work(generation *g) {
    if (g->ticket) realm_host_ticket_drop(g->ticket); /* cancels it when it is still open */
    if (g->session) realm_host_session_close(g->session);
    g->ticket = 0;
    g->session = 0;
}

void generation_close(generation *g) {
    free_work(g);
    stop_close(&g->stops);
    memory_free(g->biases);
    memory_free(g->tokens);
    *g = (generation){.done = true};
}

/* ---- text ---- */

static void emit(generation *g, const uint8_t *text, size_t size) {
    if (size == 0) return;
    realm_host_emit(g->handle, text, size);
    g->emitted = true;
}

/* Shows what was held back. True when even that completed a stop string (its last character was cut short). */
static bool flush_text(generation *g) {
    static uint8_t out[STOP_MAX_SIZE + 3];
    uint8_t last[3];
    size_t written;
    bool stopped = stop_push(&g->stops, last, utf8_finish(&g->characters, last), out, &written);
    emit(g, out, written);
    if (!stopped) emit(g, out, stop_finish(&g->stops, out));
    return stopped;
}

/* ---- ends ---- */

static void finish(generation *g, realm_finish reason) {
    if (reason != REALM_FINISH_STOP && flush_text(g) && (reason == REALM_FINISH_END || reason == REALM_FINISH_LENGTH))
        reason = REALM_FINISH_STOP;
    free_work(g);
    g->finish = reason;
    g->done = true;
}

/* Ends by an error. A context that fills up is a failure only before the first token: then the prompt was too long. */
static void fail(generation *g, realm_error_code error) {
    if (error == REALM_ERROR_CODE_CONTEXT_FULL && g->token_count > 0) {
        finish(g, REALM_FINISH_LENGTH);
    } else if (error == REALM_ERROR_CODE_CANCELLED) {
        finish(g, REALM_FINISH_CANCELLED);
    } else {
        g->error = error;
        finish(g, REALM_FINISH_FAILED);
    }
}

/* ---- one token ---- */

static bool remember(generation *g, uint32_t token) {
    if (g->token_count == g->token_room) {
        size_t room = g->token_room ? 2 * (size_t)g->token_room : FIRST_TOKEN_ROOM;
        uint32_t *moved = room <= UINT32_MAX / sizeof(uint32_t) ? memory_resize(g->tokens, room * sizeof(uint32_t)) : NULL;
        if (!moved) return false;
        g->tokens = moved;
        g->token_room = (uint32_t)room;
    }
    g->tokens[g->token_count++] = token;
    return true;
}

/* Bytes of a token -> characters -> text before any stop string. False when that ended the request. */
static bool show(generation *g, const uint8_t *bytes, size_t size) {
    uint8_t *text = scratch_alloc(utf8_room(size));
    size_t text_size = text ? utf8_push(&g->characters, bytes, size, text) : 0;
    uint8_t *out = text ? scratch_alloc(stop_room(&g->stops, text_size)) : NULL;
    if (!out) {
        fail(g, REALM_ERROR_CODE_OUT_OF_MEMORY);
        return false;
    }
    size_t written;
    bool stopped = stop_push(&g->stops, text, text_size, out, &written);
    emit(g, out, written);
    if (stopped) finish(g, REALM_FINISH_STOP);
    return !stopped;
}

/* Takes a sampled token into the text. False when the request is done with it. */
static bool accept(generation *g, const realm_token *token) {
    if (token->is_end && !g->params.ignore_end) {
        finish(g, REALM_FINISH_END);
        return false;
    }
    if (!remember(g, token->id)) {
        fail(g, REALM_ERROR_CODE_OUT_OF_MEMORY);
        return false;
    }
    bool text_start = g->bare && g->token_count == 1;
    realm_result_list_u8 piece = realm_host_decode(g->model, &token->id, 1, false, text_start);
    if (piece.is_error) {
        fail(g, piece.error);
        return false;
    }
    if (!show(g, piece.ok.ptr, piece.ok.len)) return false;
    if (g->token_count < g->max_tokens) return true;
    finish(g, REALM_FINISH_LENGTH);
    return false;
}

/* ---- submitting work ---- */

static realm_result_u32 submit_slice(generation *g, const uint32_t *tokens, size_t count) {
    uint32_t first = g->next_layer;
    uint32_t layers = g->layer_count / SLICES + (g->layer_count % SLICES != 0);
    if (layers > g->layer_count - first) layers = g->layer_count - first;
    g->next_layer = first + layers;
    return realm_host_forward_layers(g->session, first, layers, tokens, count);
}

static realm_result_u32 submit_tokens(generation *g, const uint32_t *tokens, size_t count) {
    switch (g->mode) {
    case REALM_MODE_WHOLE:
        return realm_host_generate(g->session, tokens, count, &g->params, g->biases, g->bias_count, g->max_tokens);
    case REALM_MODE_LAYERS:
        g->next_layer = 0;
        return submit_slice(g, tokens, count);
    default:
        return realm_host_forward(g->session, tokens, count);
    }
}

static void expect_ticket(generation *g, realm_result_u32 submitted) {
    if (submitted.is_error) {
        fail(g, submitted.error);
    } else {
        g->ticket = submitted.ok;
    }
}

/* Opens the session the request runs in. */
static bool open_session(generation *g) {
    if (g->mode == REALM_MODE_LAYERS) {
        realm_result_model_properties info = realm_host_model_info(g->model);
        g->layer_count = info.is_error ? 0 : info.ok.layer_count;
        if (g->layer_count == 0) {
            fail(g, info.is_error ? info.error : REALM_ERROR_CODE_INVALID_MODEL);
            return false;
        }
    }
    realm_result_u32 session = realm_host_session_open(g->model);
    if (session.is_error) {
        fail(g, session.error);
        return false;
    }
    g->session = session.ok;
    return true;
}

void generation_begin(generation *g, const realm_request *request) {
    realm_result_list_u32 prompt = realm_host_encode(g->model, request->prompt.ptr, request->prompt.len,
                                                     request->add_special, request->parse_special);
    if (prompt.is_error) {
        fail(g, prompt.error);
        return;
    }
    g->prompt_tokens = (uint32_t)prompt.ok.len;
    if (g->max_tokens == 0) {
        finish(g, REALM_FINISH_LENGTH);
    } else if (prompt.ok.len == 0) {
        fail(g, REALM_ERROR_CODE_INVALID_ARGUMENT); /* nothing to continue, not even a begin token */
    } else if (open_session(g)) {
        expect_ticket(g, submit_tokens(g, prompt.ok.ptr, prompt.ok.len));
    }
}

/* ---- what tickets yield ---- */

static void take_tokens(generation *g) {
    realm_result_list_token taken = realm_host_ticket_tokens(g->ticket);
    if (taken.is_error) {
        fail(g, taken.error);
        return;
    }
    for (size_t i = 0; i < taken.ok.len; i++)
        if (!accept(g, &taken.ok.ptr[i])) return;
}

/* generate is through: normally its last token has ended the request; else the host had no room for more. */
static void whole_ready(generation *g) {
    take_tokens(g);
    if (!g->done) finish(g, REALM_FINISH_LENGTH);
}

static void forward_ready(generation *g) {
    realm_host_ticket_drop(g->ticket);
    g->ticket = 0;
    if (g->next_layer < g->layer_count) {
        expect_ticket(g, submit_slice(g, NULL, 0));
        return;
    }
    realm_result_token drawn = realm_host_sample(g->session, &g->params, g->biases, g->bias_count);
    if (drawn.is_error) {
        fail(g, drawn.error);
    } else if (accept(g, &drawn.ok)) {
        expect_ticket(g, submit_tokens(g, &drawn.ok.id, 1));
    }
}

static void ticket_failed(generation *g) {
    if (g->mode == REALM_MODE_WHOLE) { /* tokens that came before the failure count */
        realm_result_list_token taken = realm_host_ticket_tokens(g->ticket);
        for (size_t i = 0; !taken.is_error && i < taken.ok.len; i++)
            if (!accept(g, &taken.ok.ptr[i])) return;
    }
    fail(g, (realm_error_code)realm_host_ticket_error(g->ticket)); /* asked last: the host keeps the words of the last failure */
}

void generation_poll(generation *g) {
    if (g->done) return;
    bool whole = g->mode == REALM_MODE_WHOLE;
    switch (realm_host_ticket_ready(g->ticket)) {
    case REALM_TICKET_STATE_PENDING:
        break;
    case REALM_TICKET_STATE_PROGRESS:
        if (whole) take_tokens(g);
        break;
    case REALM_TICKET_STATE_READY:
        if (whole) {
            whole_ready(g);
        } else {
            forward_ready(g);
        }
        break;
    default:
        ticket_failed(g);
    }
}

void generation_cancel(generation *g) {
    if (!g->done) finish(g, REALM_FINISH_CANCELLED);
}
