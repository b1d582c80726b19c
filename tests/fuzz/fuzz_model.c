/* fuzz_model.c: any bytes as a model: loading, and when that succeeds a few passes of every kind over whatever weights there
 * are, with the portable kernels and no driver thread. Failures must be typed, work must end, and nothing may stay behind.
 * The mutator lies in the file's fields as fuzz_gguf's does, and poisons stretches of the weights with NaN and infinities. */
#include <stdio.h>
#include <stdlib.h>

#include "../../core/include/realm.h"
#include "gguf_mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

enum { STEPS_MAX = 2000, STEP_BUDGET = 20000, TOKENS = 5, KV_BYTES = 8 << 20 };

/* ---- what must hold ---- */

static void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz_model: %s\n", what);
    abort();
}

static bool succeeded(realm_status status, const realm_error *err) {
    if (status == REALM_OK) return true;
    expect(err->code == (int32_t)status, "the error's code is not the status");
    expect(err->message[0] != '\0' && strchr(err->message, '\n') == NULL, "the message is not one line");
    expect(status != REALM_E_INTERNAL, "an internal error");
    return false;
}

typedef struct world {
    realm_runtime *rt;
    realm_context *ctx;
    realm_model *model;
    uint32_t granted, session, vocab;
    realm_error err;
} world;

/* Steps until the ticket ended; true when it is ready. */
static bool finish(world *w, uint32_t ticket) {
    uint32_t state = REALM_TICKET_PENDING, busy;
    for (int steps = 0; state < REALM_TICKET_READY; steps++) {
        expect(steps < STEPS_MAX, "the work never ends");
        expect(realm_runtime_step(w->rt, 0, STEP_BUDGET, &busy, &w->err) == REALM_OK, "a step fails");
        expect(realm_ticket_get_state(w->ctx, ticket, &state, &w->err) == REALM_OK, "an open ticket has no state");
    }
    if (state == REALM_TICKET_FAILED) succeeded(realm_ticket_error(w->ctx, ticket, &w->err), &w->err);
    return state == REALM_TICKET_READY;
}

static void done(world *w, uint32_t ticket) {
    (void)finish(w, ticket);
    expect(realm_ticket_drop(w->ctx, ticket, &w->err) == REALM_OK, "a ticket cannot be dropped");
}

/* ---- the passes ---- */

static realm_sampling sampling(float temperature) {
    return (realm_sampling){.temperature = temperature, .top_k = 3, .top_p = 0.9f, .min_p = 0.01f, .repetition_penalty = 1.1f, .seed = 7};
}

static void forward_and_sample(world *w, const uint32_t *tokens, uint32_t count) {
    uint32_t ticket;
    realm_token token;
    realm_sampling greedy = sampling(0), warm = sampling(1);
    if (!succeeded(realm_forward(w->ctx, w->session, tokens, count, &ticket, &w->err), &w->err)) return;
    if (finish(w, ticket)) {
        if (succeeded(realm_sample(w->ctx, w->session, &greedy, &token, &w->err), &w->err)) expect(token.id < w->vocab, "no such token");
        if (succeeded(realm_sample(w->ctx, w->session, &warm, &token, &w->err), &w->err)) expect(token.id < w->vocab, "no such token");
    }
    expect(realm_ticket_drop(w->ctx, ticket, &w->err) == REALM_OK, "a ticket cannot be dropped");
}

static void generate(world *w, const uint32_t *tokens, uint32_t count) {
    uint32_t ticket, made;
    realm_token out[TOKENS];
    realm_sampling warm = sampling(1);
    if (!succeeded(realm_generate(w->ctx, w->session, tokens, count, &warm, TOKENS, &ticket, &w->err), &w->err)) return;
    (void)finish(w, ticket);
    expect(realm_ticket_tokens(w->ctx, ticket, out, TOKENS, &made, &w->err) == REALM_OK && made <= TOKENS, "too many tokens");
    for (uint32_t i = 0; i < made; i++) expect(out[i].id < w->vocab, "no such token");
    expect(realm_ticket_drop(w->ctx, ticket, &w->err) == REALM_OK, "a ticket cannot be dropped");
}

static void pass_by_layers(world *w, const uint32_t *tokens, uint32_t count, uint32_t layers) {
    for (uint32_t layer = 0; layer < layers; layer++) {
        uint32_t ticket, given = layer == 0 ? count : 0;
        if (!succeeded(realm_forward_layers(w->ctx, w->session, layer, 1, tokens, given, &ticket, &w->err), &w->err)) return;
        done(w, ticket);
    }
}

static void multiply_weight(world *w, const char *name) {
    uint32_t weight, product, ticket;
    if (!succeeded(realm_tensor_weight(w->ctx, w->granted, name, strlen(name), &weight, &w->err), &w->err)) return;
    if (succeeded(realm_matmul_transposed(w->ctx, weight, weight, &ticket, &w->err), &w->err)) {
        if (finish(w, ticket)) (void)realm_ticket_tensor(w->ctx, ticket, &product, &w->err);
    }
}

static void use_session(world *w, const realm_model_info *info) {
    uint32_t tokens[TOKENS], ticket;
    for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = (i * 5 + 1) % info->vocab_size;
    forward_and_sample(w, tokens, TOKENS);
    generate(w, tokens, 2);
    if (succeeded(realm_score(w->ctx, w->session, tokens, 3, &ticket, &w->err), &w->err)) done(w, ticket);
    (void)succeeded(realm_session_rewind(w->ctx, w->session, 1, &w->err), &w->err);
    pass_by_layers(w, tokens, 2, info->layer_count);
}

static void use_model(world *w) {
    realm_model_info info;
    realm_limits limits = {.tensor_bytes = 1 << 20};
    realm_session_options options = {.kv_type = REALM_KV_F32};
    realm_model_get_info(w->model, &info);
    w->vocab = info.vocab_size;
    expect(realm_context_create(w->rt, 1, 1, &limits, &w->ctx, &w->err) == REALM_OK, "no context");
    expect(realm_context_grant(w->ctx, w->model, &w->granted, &w->err) == REALM_OK, "not granted");
    for (options.kv_type = REALM_KV_F16; options.kv_type <= REALM_KV_F32; options.kv_type++) {
        if (!succeeded(realm_session_open(w->ctx, w->granted, &options, &w->session, &w->err), &w->err)) continue;
        use_session(w, &info);
    }
    multiply_weight(w, "token_embd.weight");
    multiply_weight(w, "output_norm.weight");
    realm_context_destroy(w->ctx);
}

static bool load(world *w, const uint8_t *bytes, size_t size) {
    realm_loader *loader;
    float progress = 0;
    if (!succeeded(realm_loader_begin_bytes(w->rt, bytes, size, NULL, &loader, &w->err), &w->err)) return false;
    for (int steps = 0; progress < 1; steps++) {
        expect(steps < 10, "loading never ends");
        if (!succeeded(realm_loader_step(loader, &progress, &w->err), &w->err)) {
            realm_loader_abandon(loader);
            return false;
        }
    }
    expect(realm_loader_finish(loader, &w->model, &w->err) == REALM_OK, "a loaded model is not handed out");
    return true;
}

static realm_runtime *make_runtime(void) {
    realm_runtime_options options = {.threads = 1, .features = REALM_CPU_PORTABLE, .no_driver = 1, .batch_rows = 4, .kv_bytes = KV_BYTES};
    realm_runtime *rt = NULL;
    expect(realm_runtime_create(&options, &rt, NULL) == REALM_OK, "no runtime");
    return rt;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static realm_runtime *rt; /* one for all inputs, so that what an input leaves behind is seen */
    if (rt == NULL) rt = make_runtime();
    world w = {.rt = rt};
    realm_runtime_stats stats;
    uint8_t *bytes = malloc(size + 1); /* a model's bytes are aligned */
    if (bytes == NULL) return 0;
    memcpy(bytes, data, size);
    if (load(&w, bytes, size)) {
        use_model(&w);
        realm_model_close(w.model);
    }
    free(bytes);
    realm_runtime_get_stats(rt, &stats);
    expect(stats.kv_bytes_used == 0, "KV pages stay behind");
    return 0;
}

/* ---- the mutator ---- */

/* A stretch of the data section becomes a bit pattern that f16 or f32 read as something nasty. */
static size_t poison(const layout *l, uint8_t *data, size_t size) {
    static const uint8_t patterns[][4] = {{0xff, 0xff, 0xff, 0xff}, {0, 0x7c, 0, 0x7c}, {0, 0xfc, 0, 0xfc}, {0, 0, 0x80, 0x7f},
                                          {0, 0, 0x80, 0xff}, {0xff, 0xff, 0x7f, 0x7f}, {1, 0, 0, 0}, {0, 0, 0, 0}};
    if (l->pos >= size) return size;
    const uint8_t *pattern = patterns[below(sizeof patterns / sizeof *patterns)];
    size_t start = l->pos + below(size - l->pos), count = below(3) == 0 ? below(size - start) : below(64);
    for (size_t i = start; i < size && i < start + count; i++) data[i] = pattern[i & 3];
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    static layout l; /* large; the harness has one thread */
    random_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    size_t choice = below(16);
    walk_file(&l, data, size);
    if (choice < 8 && l.field_count > 0) return lie_in_a_field(&l, data, size);
    if (choice < 9 && l.entry_count > 1) return move_an_entry(&l, data, size, max_size);
    if (choice < 14) return poison(&l, data, size);
    return LLVMFuzzerMutate(data, size, max_size);
}
