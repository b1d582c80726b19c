/* stress_engine.c: threads that open, feed, cancel and close realms against one model as fast as they can, to be run under
 * ThreadSanitizer and AddressSanitizer. Usage: stress_engine MODEL.gguf ROUNDS. Exit status 0: nothing was wrong. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "realm.h"

enum { THREADS = 4, TOKENS = 40 };

typedef struct worker {
    realm_runtime *rt;
    realm_model *model;
    uint32_t seed, rounds;
    int failed;
} worker;

static uint32_t next_random(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static realm_sampling greedy(void) {
    return (realm_sampling){.top_p = 1.0f, .repetition_penalty = 1.0f, .ignore_end = 1};
}

/* One realm's short life; returns 0 when every answer was one of the allowed ones. */
static int live(worker *w, uint32_t tenant) {
    realm_context *ctx = NULL;
    realm_error err = {0};
    uint32_t model = 0, session = 0, ticket = 0, state = 0, count = 0, tokens[TOKENS];
    realm_sampling params = greedy();
    if (realm_context_create(w->rt, w->seed, tenant, NULL, &ctx, &err) != REALM_OK) return 1;
    if (realm_context_grant(ctx, w->model, &model, &err) != REALM_OK) return 2;
    if (realm_session_open(ctx, model, NULL, &session, &err) != REALM_OK) return 3;
    for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = 3 + next_random(&w->seed) % 5;
    uint32_t n = 1 + next_random(&w->seed) % TOKENS, how = next_random(&w->seed) % 4;
    realm_status status = how == 0 ? realm_forward(ctx, session, tokens, n, &ticket, &err)
                        : how == 1 ? realm_score(ctx, session, tokens, n, &ticket, &err)
                                   : realm_generate(ctx, session, tokens, n, &params, 8, &ticket, &err);
    if (status != REALM_OK) return 4;
    for (uint32_t turn = 0; turn < next_random(&w->seed) % 400; turn++) {
        if (realm_ticket_get_state(ctx, ticket, &state, &err) != REALM_OK) return 5;
        if (state == REALM_TICKET_READY || state == REALM_TICKET_FAILED) break;
    }
    if (state == REALM_TICKET_READY && how == 0) {
        realm_token token;
        if (realm_sample(ctx, session, &params, &token, &err) != REALM_OK) return 6;
    }
    realm_token drawn[8];
    if (realm_ticket_tokens(ctx, ticket, drawn, 8, &count, &err) != REALM_OK) return 7;
    if (next_random(&w->seed) % 2) realm_ticket_cancel(ctx, ticket, &err);
    if (next_random(&w->seed) % 2) realm_session_close(ctx, session, &err);
    realm_context_destroy(ctx);
    return 0;
}

static void *run(void *arg) {
    worker *w = arg;
    for (uint32_t i = 0; i < w->rounds && w->failed == 0; i++) w->failed = live(w, i % 3);
    return NULL;
}

static realm_model *load(realm_runtime *rt, const char *path) {
    realm_loader *loader = NULL;
    realm_model *model = NULL;
    realm_error err = {0};
    float progress = 0.0f;
    if (realm_loader_begin(rt, path, NULL, &loader, &err) != REALM_OK) return NULL;
    while (progress < 1.0f) {
        if (realm_loader_step(loader, &progress, &err) != REALM_OK) return NULL;
    }
    return realm_loader_finish(loader, &model, &err) == REALM_OK ? model : NULL;
}

int main(int argc, char **argv) {
    realm_runtime *rt = NULL;
    realm_error err = {0};
    realm_runtime_options options = {.threads = 2, .kv_bytes = 4u << 20};
    pthread_t threads[THREADS];
    worker workers[THREADS];
    if (argc != 3 || realm_runtime_create(&options, &rt, &err) != REALM_OK) return 100;
    realm_model *model = load(rt, argv[1]);
    if (model == NULL) return 101;
    for (uint32_t i = 0; i < THREADS; i++) {
        workers[i] = (worker){.rt = rt, .model = model, .seed = i + 1, .rounds = (uint32_t)atoi(argv[2])};
        pthread_create(&threads[i], NULL, run, &workers[i]);
    }
    int failed = 0;
    realm_completion events[16];
    for (uint32_t i = 0; i < 50; i++) realm_runtime_wait(rt, events, 16, 1000000);
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        if (workers[i].failed) fprintf(stderr, "worker %u failed at %d\n", i, workers[i].failed);
        failed |= workers[i].failed;
    }
    realm_model_close(model);
    realm_runtime_destroy(rt);
    return failed;
}
