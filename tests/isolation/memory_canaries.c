/* memory_canaries.c: one tenant's data in memory that another may get. A tenant computes in every way there is; what it held (tokens,
 * logits, hidden rows, keys and values, biases, drawn tokens, scores, host tensors) is known byte for byte. Then
 * - each block that the core frees is searched for it first (malloc hands it to whoever asks next),
 * - each KV page that is handed out again is read.
 * Linked with --wrap for the freeing functions. Usage: memory_canaries MODEL.gguf; prints how many blocks were searched. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../core/engine.h"

enum { TOKENS = 90, FIRST = 20, BIASES = 8, SECRET = 32, SECRETS_MAX = 16, ROWS = 8, COLS = 64, STEPS_MAX = 10000 };

/* ---- secrets, and who still has them when memory is freed ---- */

typedef struct secret {
    const char *name;
    char bytes[SECRET];
} secret;

static secret secrets[SECRETS_MAX];
static unsigned secret_count, searched, leaks;

static void keep_secret(const char *name, const void *bytes) {
    secret *s = &secrets[secret_count++];
    s->name = name;
    memcpy(s->bytes, bytes, SECRET);
}

static void search(const char *block, size_t size) {
    searched++;
    for (size_t at = 0; at + SECRET <= size; at += 4) {
        for (unsigned i = 0; i < secret_count; i++) {
            if (memcmp(block + at, secrets[i].bytes, SECRET) != 0) continue;
            fprintf(stderr, "%s at byte %zu of a freed block of %zu\n", secrets[i].name, at, size);
            leaks++;
            return;
        }
    }
}

void __real_free(void *p);
void *__real_realloc(void *p, size_t size);
void __wrap_free(void *p);
void *__wrap_realloc(void *p, size_t size);

void __wrap_free(void *p) {
    if (p != NULL) search(p, malloc_usable_size(p));
    __real_free(p);
}

void *__wrap_realloc(void *p, size_t size) { /* may move, and leave the old block as it was */
    if (p != NULL) search(p, malloc_usable_size(p));
    return __real_realloc(p, size);
}

/* ---- a tenant at work ---- */

typedef struct world {
    realm_runtime *rt;
    realm_model *model;
    realm_context *ctx;
    uint32_t granted, tokens[TOKENS];
    realm_error err;
} world;

static void require(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static void ok(const world *w, realm_status status) {
    if (status != REALM_OK) fprintf(stderr, "%s: %s\n", realm_status_name(status), w->err.message);
    require(status == REALM_OK, "a call failed");
}

static void finish(world *w, uint32_t ticket) {
    uint32_t state = REALM_TICKET_PENDING, busy;
    for (int steps = 0; state < REALM_TICKET_READY; steps++) {
        require(steps < STEPS_MAX, "the work never ends");
        ok(w, realm_runtime_step(w->rt, 0, 0, &busy, &w->err));
        ok(w, realm_ticket_get_state(w->ctx, ticket, &state, &w->err));
    }
    ok(w, realm_ticket_error(w->ctx, ticket, &w->err));
}

static void start(world *w, const char *path) {
    realm_runtime_options options = {.threads = 1, .features = REALM_CPU_PORTABLE, .no_driver = 1, .kv_bytes = 1 << 20};
    realm_loader *loader;
    ok(w, realm_runtime_create(&options, &w->rt, &w->err));
    ok(w, realm_loader_begin(w->rt, path, NULL, &loader, &w->err));
    for (float progress = 0; progress < 1;) ok(w, realm_loader_step(loader, &progress, &w->err));
    ok(w, realm_loader_finish(loader, &w->model, &w->err));
}

static void enter(world *w, uint64_t tenant) {
    ok(w, realm_context_create(w->rt, 1, tenant, NULL, &w->ctx, &w->err));
    ok(w, realm_context_grant(w->ctx, w->model, &w->granted, &w->err));
}

static uint32_t open_session(world *w) {
    uint32_t handle;
    ok(w, realm_session_open(w->ctx, w->granted, NULL, &handle, &w->err));
    return handle;
}

static session *session_of(const world *w, uint32_t handle) { return handle_get(&w->ctx->sessions, handle); }

/* In two pieces, so that the session's arrays grow. */
static uint32_t forward(world *w) {
    uint32_t handle = open_session(w), ticket;
    ok(w, realm_forward(w->ctx, handle, w->tokens, FIRST, &ticket, &w->err));
    finish(w, ticket);
    ok(w, realm_forward(w->ctx, handle, w->tokens + FIRST, TOKENS - FIRST, &ticket, &w->err));
    finish(w, ticket);
    const session *s = session_of(w, handle);
    keep_secret("logits", s->logits);
    keep_secret("keys and values", s->pages[0]->data);
    return handle;
}

static void draw(world *w, uint32_t handle) {
    uint32_t ids[BIASES], ticket, count;
    float values[BIASES];
    realm_token drawn[8], one;
    for (uint32_t i = 0; i < BIASES; i++) {
        ids[i] = 11 + 13 * i;
        values[i] = -1.25f - (float)i;
    }
    realm_sampling params = {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1.1f, .ignore_end = 1, .seed = 5,
                             .bias_count = BIASES, .bias_ids = ids, .bias_values = values};
    keep_secret("bias ids", ids);
    keep_secret("bias values", values);
    ok(w, realm_sample(w->ctx, handle, &params, &one, &w->err));
    keep_secret("the sampler's scratch", w->ctx->scratch.memory);
    ok(w, realm_generate(w->ctx, open_session(w), w->tokens, FIRST, &params, 8, &ticket, &w->err));
    finish(w, ticket);
    ok(w, realm_ticket_tokens(w->ctx, ticket, drawn, 8, &count, &w->err));
    keep_secret("drawn tokens", drawn);
}

static void score(world *w) {
    uint32_t ticket, count;
    float scores[TOKENS];
    ok(w, realm_score(w->ctx, open_session(w), w->tokens, TOKENS, &ticket, &w->err));
    finish(w, ticket);
    ok(w, realm_ticket_scores(w->ctx, ticket, scores, TOKENS, &count, &w->err));
    keep_secret("scores", scores + 1);
}

/* One pass in slices of layers, then a longer one: the rows between them grow. */
static void slice(world *w) {
    uint32_t handle = open_session(w), ticket, layers = w->model->plan->layer_count;
    ok(w, realm_forward_layers(w->ctx, handle, 0, 1, w->tokens, FIRST, &ticket, &w->err));
    finish(w, ticket);
    keep_secret("hidden rows", session_of(w, handle)->hidden);
    ok(w, realm_forward_layers(w->ctx, handle, 1, layers - 1, NULL, 0, &ticket, &w->err));
    finish(w, ticket);
    ok(w, realm_forward_layers(w->ctx, handle, 0, 1, w->tokens + FIRST, TOKENS - FIRST, &ticket, &w->err));
    finish(w, ticket);
    keep_secret("more hidden rows", session_of(w, handle)->hidden);
}

static void multiply(world *w) {
    float data[ROWS * COLS], result[ROWS * ROWS];
    uint32_t a, ticket, product;
    size_t count;
    for (uint32_t i = 0; i < ROWS * COLS; i++) data[i] = 0.37f + 0.001f * (float)i;
    ok(w, realm_tensor_create(w->ctx, ROWS, COLS, data, &a, &w->err));
    keep_secret("a tensor", data);
    ok(w, realm_matmul_transposed(w->ctx, a, a, &ticket, &w->err)); /* f32: the prepared rows are the tensor's */
    finish(w, ticket);
    ok(w, realm_ticket_tensor(w->ctx, ticket, &product, &w->err));
    ok(w, realm_tensor_read(w->ctx, product, result, ROWS * ROWS, &count, &w->err));
    keep_secret("a product", result);
    ok(w, realm_store_layer(w->ctx, 7, product, &w->err));
}

/* ---- pages that change hands ---- */

/* Every page of the budget, as another tenant gets them. */
static void read_all_pages(world *w) {
    kv_cache *kv = w->model->engine->kv[REALM_KV_F16];
    uint32_t count = 0;
    kv_page *taken = NULL;
    for (kv_page *page; (page = kv_acquire(kv, w->ctx->owner, 0)) != NULL; count++) {
        const char *bytes = page->data;
        for (uint64_t i = 0; i < kv_page_bytes(kv); i++) require(bytes[i] == 0, "a page that was handed out is not empty");
        for (uint32_t i = 0; i < CPU_KV_PAGE; i++) require(page->tokens[i] == 0, "a page that was handed out has tokens");
        page->next = taken;
        taken = page;
    }
    require(count == w->rt->kv.limit / kv_page_bytes(kv), "not all pages could be had");
    while (taken != NULL) {
        kv_page *next = taken->next;
        taken->next = NULL;
        kv_release(taken);
        taken = next;
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    world w = {0};
    start(&w, argv[1]);
    uint32_t seed = 99;
    for (uint32_t i = 0; i < TOKENS; i++) w.tokens[i] = 3 + (seed = seed * 1664525u + 1013904223u) / 65536 % 250;
    keep_secret("tokens", w.tokens);
    keep_secret("later tokens", w.tokens + 2 * CPU_KV_PAGE);
    enter(&w, 1);
    draw(&w, forward(&w));
    score(&w);
    slice(&w);
    multiply(&w);
    realm_context_destroy(w.ctx);
    enter(&w, 2);
    read_all_pages(&w);
    realm_context_destroy(w.ctx);
    realm_model_close(w.model);
    realm_runtime_destroy(w.rt);
    printf("%u\n", searched);
    return leaks > 0;
}
