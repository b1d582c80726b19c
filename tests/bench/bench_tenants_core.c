/* bench_tenants_core.c: tenants that generate at once, by the core alone through realm.h: what bench_tenants.py compares hosts with.
 *   bench_tenants_core MODEL THREADS TENANTS TOKENS       plays a round for each line of input and prints it as JSON, a warm one first
 * Each tenant has a context and generates TOKENS tokens after a short prompt of its own; a round is timed from text to text. */
#include "../unit/run_model.h"
#include "platform/platform.h"

enum { MAX_TENANTS = 4096, MAX_PROMPT = 64, EVENTS = 256 };

typedef struct tenant_run {
    realm_context *ctx;
    uint32_t session, ticket;
    bool ended;
} tenant_run;

static void submit(realm_model *model, tenant_run *t, uint32_t index, uint32_t tokens) {
    char text[MAX_PROMPT];
    uint32_t ids[MAX_PROMPT];
    size_t count;
    realm_error err = {0};
    const realm_sampling greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f, .ignore_end = 1};
    int size = snprintf(text, sizeof text, "%u apples", index);
    require(realm_model_encode(model, text, (size_t)size, REALM_ENCODE_ADD_SPECIAL, ids, MAX_PROMPT, &count, &err), &err);
    require(realm_session_open(t->ctx, 1, NULL, &t->session, &err), &err);
    require(realm_generate(t->ctx, t->session, ids, (uint32_t)count, &greedy, tokens, &t->ticket, &err), &err);
    t->ended = false;
}

/* Text of the tokens that have come. */
static void take_text(const realm_model *model, const tenant_run *t) {
    realm_token tokens[EVENTS];
    char text[256];
    size_t size;
    realm_error err = {0};
    for (uint32_t count = EVENTS; count == EVENTS;) {
        require(realm_ticket_tokens(t->ctx, t->ticket, tokens, EVENTS, &count, &err), &err);
        for (uint32_t i = 0; i < count; i++) {
            require(realm_model_decode(model, &tokens[i].id, 1, 0, text, sizeof text, &size, &err), &err);
        }
    }
}

static void wait_for_all(realm_runtime *rt, const realm_model *model, tenant_run *all, uint32_t tenants) {
    realm_completion events[EVENTS];
    realm_error err = {0};
    for (uint32_t open = tenants; open > 0;) {
        uint32_t n = realm_runtime_wait(rt, events, EVENTS, UINT64_MAX);
        for (uint32_t i = 0; i < n; i++) {
            tenant_run *t = &all[events[i].tag];
            if (t->ended) continue;
            take_text(model, t);
            if (events[i].state == REALM_TICKET_FAILED) require(realm_ticket_error(t->ctx, t->ticket, &err), &err);
            if (events[i].state != REALM_TICKET_READY) continue;
            t->ended = true;
            open--;
        }
    }
}

/* All together; prints their tokens per second, and what the engine did for them. */
static void play(realm_runtime *rt, realm_model *model, tenant_run *all, uint32_t tenants, uint32_t tokens) {
    realm_error err = {0};
    realm_runtime_stats before, after;
    realm_runtime_get_stats(rt, &before);
    uint64_t start = platform_now_ns();
    for (uint32_t i = 0; i < tenants; i++) submit(model, &all[i], i, tokens);
    wait_for_all(rt, model, all, tenants);
    double took = (double)(platform_now_ns() - start) * 1e-9;
    for (uint32_t i = 0; i < tenants; i++) {
        require(realm_ticket_drop(all[i].ctx, all[i].ticket, &err), &err);
        require(realm_session_close(all[i].ctx, all[i].session, &err), &err);
    }
    realm_runtime_get_stats(rt, &after);
    printf("{\"rate\": %.2f, \"steps\": %llu, \"step_seconds\": %.4f}\n", (double)tenants * tokens / took,
           (unsigned long long)(after.steps - before.steps), (double)(after.step_ns - before.step_ns) * 1e-9);
    fflush(stdout);
}

int main(int argc, char **argv) {
    static tenant_run all[MAX_TENANTS];
    if (argc < 5) return fprintf(stderr, "usage: bench_tenants_core MODEL THREADS TENANTS TOKENS\n"), 2;
    uint32_t threads = (uint32_t)strtoul(argv[2], NULL, 10), tenants = (uint32_t)strtoul(argv[3], NULL, 10);
    uint32_t tokens = (uint32_t)strtoul(argv[4], NULL, 10);
    if (tenants < 1 || tenants > MAX_TENANTS) return fprintf(stderr, "1 to %d tenants\n", MAX_TENANTS), 2;
    realm_runtime *rt;
    realm_error err = {0};
    realm_runtime_options options = {.threads = threads};
    require(realm_runtime_create(&options, &rt, &err), &err);
    realm_model *model = load(rt, argv[1]);
    for (uint32_t i = 0; i < tenants; i++) {
        uint32_t handle; /* the first grant: 1 */
        require(realm_context_create(rt, i, i + 1, NULL, &all[i].ctx, &err), &err);
        require(realm_context_grant(all[i].ctx, model, &handle, &err), &err);
    }
    play(rt, model, all, tenants, tokens); /* warm: pages, threads, buffers */
    for (int c; (c = getchar()) != EOF;) {
        if (c == '\n') play(rt, model, all, tenants, tokens);
    }
    for (uint32_t i = 0; i < tenants; i++) realm_context_destroy(all[i].ctx);
    realm_model_close(model);
    realm_runtime_destroy(rt);
    return 0;
}
