/* bench_core.c: the core alone, driven through realm.h as a host would: what bench_node.py compares the Node SDK with.
 *   bench_core MODEL THREADS FIRST PREFILL DECODE PARALLEL      prints one JSON object
 * Times are of whole requests: submit, wait until the ticket ended. PARALLEL tokens by each of 8 generations at once. */
#include <stdio.h>
#include <stdlib.h>

#include "platform/platform.h"
#include "realm.h"

enum { MAX_PROMPT = 4096, GENERATIONS = 8, EVENTS = 64 };

typedef struct run {
    realm_runtime *rt;
    realm_model *model;
    uint64_t tenant; /* a new one for each request: no prefix is found */
} run;

typedef struct request {
    realm_context *ctx;
    uint32_t ticket;
    double first, end; /* seconds since the clock's start */
} request;

static double seconds(void) { return (double)platform_now_ns() * 1e-9; }

static void expect(realm_status status, const realm_error *err) {
    if (status == REALM_OK) return;
    fprintf(stderr, "bench_core: %s\n", err->message);
    exit(1);
}

static void load(run *r, const char *path) {
    realm_loader *loader;
    realm_error err = {0};
    realm_model_options options = {.prefetch = 1};
    expect(realm_loader_begin(r->rt, path, &options, &loader, &err), &err);
    for (float progress = 0.0f; progress < 1.0f;) expect(realm_loader_step(loader, &progress, &err), &err);
    expect(realm_loader_finish(loader, &r->model, &err), &err);
}

static void submit(run *r, request *q, uint32_t index, uint32_t prompt, uint32_t made) {
    static uint32_t tokens[MAX_PROMPT];
    uint32_t handle, session;
    realm_error err = {0};
    realm_sampling greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f, .ignore_end = 1};
    for (uint32_t i = 0; i < prompt; i++) tokens[i] = 300 + (i * 7919 + index * 131) % 30000;
    *q = (request){0};
    expect(realm_context_create(r->rt, index, ++r->tenant, NULL, &q->ctx, &err), &err);
    expect(realm_context_grant(q->ctx, r->model, &handle, &err), &err);
    expect(realm_session_open(q->ctx, handle, NULL, &session, &err), &err);
    expect(realm_generate(q->ctx, session, tokens, prompt, &greedy, made, &q->ticket, &err), &err);
}

static void wait_for_all(run *r, request *all, uint32_t count) {
    realm_completion events[EVENTS];
    for (uint32_t open = count; open > 0;) {
        uint32_t n = realm_runtime_wait(r->rt, events, EVENTS, UINT64_MAX);
        for (uint32_t i = 0; i < n; i++) {
            request *q = &all[events[i].tag];
            if (q->first == 0.0) q->first = seconds();
            if (events[i].state == REALM_TICKET_FAILED) expect(REALM_E_INTERNAL, &(realm_error){.message = "a request failed"});
            if (events[i].state != REALM_TICKET_READY || q->end != 0.0) continue;
            q->end = seconds();
            open--;
        }
    }
}

/* Seconds from the first submission to the last end; the first request's own times in *out. */
static double timed(run *r, uint32_t generations, uint32_t prompt, uint32_t made, request *out) {
    request all[GENERATIONS];
    double began = seconds(), end = 0.0;
    for (uint32_t i = 0; i < generations; i++) submit(r, &all[i], i, prompt, made);
    wait_for_all(r, all, generations);
    for (uint32_t i = 0; i < generations; i++) {
        if (all[i].end > end) end = all[i].end;
        realm_context_destroy(all[i].ctx);
    }
    *out = all[0];
    return end - began;
}

static double resident_bytes(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) return 0.0;
    if (fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    fclose(file);
    return (double)pages * 4096.0;
}

int main(int argc, char **argv) {
    if (argc != 7) return fprintf(stderr, "usage: bench_core MODEL THREADS FIRST PREFILL DECODE PARALLEL\n"), 2;
    uint32_t counts[5]; /* threads, first, prefill, decode, parallel */
    for (int i = 0; i < 5; i++) counts[i] = (uint32_t)strtoul(argv[i + 2], NULL, 10);
    if (counts[1] > MAX_PROMPT || counts[2] > MAX_PROMPT) return fprintf(stderr, "at most %d tokens of prompt\n", MAX_PROMPT), 2;
    run r = {0};
    request q;
    realm_error err = {0};
    realm_runtime_options options = {.threads = counts[0]};
    expect(realm_runtime_create(&options, &r.rt, &err), &err);
    double start = seconds();
    load(&r, argv[1]);
    double loaded = seconds() - start;
    timed(&r, 1, counts[2], 1, &q); /* warm: pages, threads, buffers */
    double prefill = counts[2] / timed(&r, 1, counts[2], 1, &q);
    timed(&r, 1, counts[1], counts[3] + 1, &q);
    double first = timed(&r, 1, counts[1], 1, &q);
    timed(&r, 1, counts[1], counts[3] + 1, &q);
    double decode = counts[3] / (q.end - q.first);
    timed(&r, GENERATIONS, counts[1], counts[4], &q);
    double parallel = GENERATIONS * (double)counts[4] / timed(&r, GENERATIONS, counts[1], counts[4], &q);
    printf("{\"load\": %.6f, \"first\": %.6f, \"prefill\": %.3f, \"decode\": %.3f, \"parallel\": %.3f, \"resident\": %.0f}\n",
           loaded, first, prefill, decode, parallel, resident_bytes());
    realm_model_close(r.model);
    realm_runtime_destroy(r.rt);
    return 0;
}
