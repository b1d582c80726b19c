/* worker_allocations.c: the pool's workers must never allocate: in WebAssembly libc's malloc belongs to one thread. Several realms
 * draw, score and prefill at once on four threads, and each allocation is checked for the thread it is made on.
 * Linked with --wrap for each allocating function. Usage: worker_allocations MODEL.gguf; prints how many tokens were drawn. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "run_model.h"

enum { REALMS = 8, TOKENS = 30, DRAWN = 24, STEPS_MAX = 100000 };

static pthread_t driving;
static atomic_uint strangers, checked;

static void check_thread(void) {
    checked++;
    if (!pthread_equal(pthread_self(), driving)) strangers++;
}

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t size);
int __real_posix_memalign(void **out, size_t alignment, size_t size);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *p, size_t size);
int __wrap_posix_memalign(void **out, size_t alignment, size_t size);
void __wrap_free(void *p);

void *__wrap_malloc(size_t size) { check_thread(); return __real_malloc(size); }
void *__wrap_calloc(size_t count, size_t size) { check_thread(); return __real_calloc(count, size); }
void *__wrap_realloc(void *p, size_t size) { check_thread(); return __real_realloc(p, size); }
void __wrap_free(void *p) { check_thread(); __real_free(p); }
int __wrap_posix_memalign(void **out, size_t alignment, size_t size) {
    check_thread();
    return __real_posix_memalign(out, alignment, size);
}

/* Steps in small slices until no context has work. */
static void run(realm_runtime *rt) {
    realm_error err;
    uint32_t busy = 1;
    realm_completion done[64];
    for (int steps = 0; busy; steps++) {
        require(steps < STEPS_MAX ? realm_runtime_step(rt, 0, 50000, &busy, &err) : REALM_E_TIMED_OUT, &err);
        (void)realm_runtime_wait(rt, done, 64, 0);
    }
}

static void submit(realm_context *ctx, uint32_t session, uint32_t kind, const uint32_t *tokens) {
    realm_error err;
    uint32_t ticket;
    realm_sampling params = {.temperature = 1, .top_k = kind == 1 ? 20 : 0, .top_p = 0.9f, .min_p = 0.01f,
                             .repetition_penalty = 1.1f, .ignore_end = 1, .seed = kind};
    if (kind % 4 == 3) require(realm_score(ctx, session, tokens, TOKENS, &ticket, &err), &err);
    else require(realm_generate(ctx, session, tokens, TOKENS, &params, DRAWN, &ticket, &err), &err);
}

static unsigned live(const char *path, uint32_t features) {
    realm_error err;
    realm_runtime *rt;
    realm_context *ctx[REALMS];
    uint32_t tokens[TOKENS], model, session, position, drawn = 0;
    realm_runtime_options options = {.threads = 4, .features = features, .no_driver = 1, .kv_bytes = 64 << 20};
    require(realm_runtime_create(&options, &rt, &err), &err);
    realm_model *loaded = load(rt, path);
    for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = 3 + i;
    for (uint32_t i = 0; i < REALMS; i++) {
        require(realm_context_create(rt, i, i, NULL, &ctx[i], &err), &err);
        require(realm_context_grant(ctx[i], loaded, &model, &err), &err);
        require(realm_session_open(ctx[i], model, NULL, &session, &err), &err);
        submit(ctx[i], session, i, tokens);
    }
    run(rt);
    for (uint32_t i = 0; i < REALMS; i++) {
        require(realm_session_position(ctx[i], session, &position, &err), &err);
        drawn += position > TOKENS ? position - TOKENS : 0;
        realm_context_destroy(ctx[i]);
    }
    realm_model_close(loaded);
    realm_runtime_destroy(rt);
    return drawn;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    driving = pthread_self();
    unsigned drawn = live(argv[1], 0) + live(argv[1], REALM_CPU_PORTABLE);
    if (strangers > 0) fprintf(stderr, "%u of %u allocations were made by workers\n", strangers, checked);
    printf("%u\n", drawn);
    return strangers > 0;
}
