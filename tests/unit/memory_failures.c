/* memory_failures.c: a runtime's whole life (loading, passes of every kind, host tensors, the layer store) with the nth
 * allocation failing, for n = 1, 2, ... until nothing fails any more. Every failure must be a typed error, and nothing may stay
 * allocated. Linked with --wrap for each allocating function. Usage: memory_failures MODEL.gguf; prints how many were failed. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "realm.h"

enum { TOKENS = 20, STEPS_MAX = 10000 };

/* ---- allocations that fail: the nth since a life began ---- */

static unsigned long allocations, failing;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
int __real_posix_memalign(void **out, size_t alignment, size_t size);
void *__real_mmap(void *address, size_t size, int protection, int flags, int file, long offset);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
int __wrap_posix_memalign(void **out, size_t alignment, size_t size);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, long offset);

static int fails(void) {
    if (++allocations != failing) return 0;
    errno = ENOMEM;
    return 1;
}
void *__wrap_malloc(size_t size) { return fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { return fails() ? NULL : __real_calloc(count, size); }
void *__wrap_realloc(void *p, size_t size) { return fails() ? NULL : __real_realloc(p, size); }
void *__wrap_aligned_alloc(size_t alignment, size_t size) { return fails() ? NULL : __real_aligned_alloc(alignment, size); }
int __wrap_posix_memalign(void **out, size_t alignment, size_t size) {
    return fails() ? ENOMEM : __real_posix_memalign(out, alignment, size);
}
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int file, long offset) {
    return fails() ? MAP_FAILED : __real_mmap(address, size, protection, flags, file, offset);
}

/* ---- one life ---- */

typedef struct life {
    realm_runtime *rt;
    realm_model *model;
    realm_context *ctx;
    uint32_t granted, session;
    uint32_t tokens[TOKENS];
    unsigned failures;
    realm_error err;
} life;

static void expect(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "allocation %lu: %s\n", failing, what);
    exit(1);
}

/* True when the call succeeded; a failure must be that of memory, or of what could not be had for lack of it. */
static int ok(life *l, realm_status status) {
    if (status == REALM_OK) return 1;
    l->failures++;
    expect(l->err.code == (int32_t)status && l->err.message[0] != '\0', "an error without its code or message");
    int typed = status == REALM_E_OUT_OF_MEMORY || status == REALM_E_LIMIT_EXCEEDED || status == REALM_E_IO;
    if (!typed) fprintf(stderr, "%s: %s\n", realm_status_name(status), l->err.message);
    expect(typed, "another error than one of memory");
    return 0;
}

static int finish(life *l, uint32_t ticket) {
    uint32_t state = REALM_TICKET_PENDING, busy;
    for (int steps = 0; state < REALM_TICKET_READY; steps++) {
        expect(steps < STEPS_MAX, "the work never ends");
        expect(realm_runtime_step(l->rt, 0, 0, &busy, &l->err) == REALM_OK, "a step fails");
        expect(realm_ticket_get_state(l->ctx, ticket, &state, &l->err) == REALM_OK, "an open ticket has no state");
    }
    return ok(l, state == REALM_TICKET_READY ? REALM_OK : realm_ticket_error(l->ctx, ticket, &l->err));
}

static int start(life *l, const char *path) {
    realm_runtime_options options = {.threads = 1, .features = REALM_CPU_PORTABLE, .no_driver = 1, .batch_rows = 8, .kv_bytes = 1 << 20};
    realm_model_options model = {.prefetch = 1};
    realm_loader *loader = NULL;
    float progress = 0;
    if (!ok(l, realm_runtime_create(&options, &l->rt, &l->err))) return 0;
    if (!ok(l, realm_loader_begin(l->rt, path, &model, &loader, &l->err))) return 0;
    while (progress < 1) {
        if (ok(l, realm_loader_step(loader, &progress, &l->err))) continue;
        realm_loader_abandon(loader);
        return 0;
    }
    return ok(l, realm_loader_finish(loader, &l->model, &l->err));
}

static int open_session(life *l) {
    realm_limits limits = {.tensor_bytes = 1 << 20};
    return ok(l, realm_context_create(l->rt, 1, 1, &limits, &l->ctx, &l->err)) &&
           ok(l, realm_context_grant(l->ctx, l->model, &l->granted, &l->err)) &&
           ok(l, realm_session_open(l->ctx, l->granted, NULL, &l->session, &l->err));
}

/* Passes go on after a failed one: the session must still be usable. */
static void compute(life *l) {
    uint32_t ticket;
    realm_token token;
    uint32_t biased = 3;
    float bias = 1;
    realm_sampling params = {.temperature = 1, .top_p = 0.9f, .repetition_penalty = 1.1f, .ignore_end = 1, .bias_count = 1,
                             .bias_ids = &biased, .bias_values = &bias};
    if (ok(l, realm_forward(l->ctx, l->session, l->tokens, TOKENS, &ticket, &l->err)) && finish(l, ticket)) {
        (void)ok(l, realm_sample(l->ctx, l->session, &params, &token, &l->err));
    }
    if (ok(l, realm_generate(l->ctx, l->session, l->tokens, 2, &params, 80, &ticket, &l->err))) (void)finish(l, ticket);
    if (ok(l, realm_score(l->ctx, l->session, l->tokens, 5, &ticket, &l->err))) (void)finish(l, ticket);
    (void)ok(l, realm_session_rewind(l->ctx, l->session, 0, &l->err));
    if (ok(l, realm_forward_layers(l->ctx, l->session, 0, 2, l->tokens, 3, &ticket, &l->err))) (void)finish(l, ticket);
}

static void use_tensors(life *l) {
    uint32_t weight, product = 0, ticket;
    static const char name[] = "blk.0.attn_q.weight";
    if (!ok(l, realm_tensor_weight(l->ctx, l->granted, name, sizeof name - 1, &weight, &l->err))) return;
    if (ok(l, realm_matmul_transposed(l->ctx, weight, weight, &ticket, &l->err)) && finish(l, ticket)) {
        (void)ok(l, realm_ticket_tensor(l->ctx, ticket, &product, &l->err));
    }
    if (product == 0 || !ok(l, realm_store_layer(l->ctx, 7, product, &l->err))) return;
    if (ok(l, realm_load_layer(l->ctx, 7, &ticket, &l->err)) && finish(l, ticket)) {
        (void)ok(l, realm_ticket_tensor(l->ctx, ticket, &product, &l->err));
    }
}

static unsigned live(const char *path) {
    life l = {0};
    for (uint32_t i = 0; i < TOKENS; i++) l.tokens[i] = 3 + i;
    if (start(&l, path) && open_session(&l)) {
        compute(&l);
        use_tensors(&l);
    }
    realm_context_destroy(l.ctx);
    realm_model_close(l.model);
    realm_runtime_destroy(l.rt);
    return l.failures;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    for (failing = 1;; failing++) {
        allocations = 0;
        unsigned failures = live(argv[1]);
        if (allocations < failing) {
            expect(failures == 0, "a failure where nothing failed");
            break;
        }
    }
    printf("%lu\n", failing - 1);
    return 0;
}
