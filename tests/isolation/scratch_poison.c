// sources: core/[!e]*.c core/engine.c core/external.c core/cpu/*.c core/platform/platform_posix.c
/* scratch_poison.c: buffers that all tenants' batches go through (activations, prepared rows, attention's and the sampler's scratch)
 * are not wiped between batches: nothing of them may be read before the batch itself has written it. Here they are filled with
 * NaN before every batch, with each kind of kernel this machine has; tokens and their log probabilities must stay the same, bit for bit.
 * The executor's file is compiled into this one. Usage: scratch_poison MODEL.gguf; prints how many batches were poisoned. */
#include <stdio.h>

#define executor_begin executor_begin_clean
#include "../../core/executor.c"
#undef executor_begin
#include "../../core/engine.h"
#include "../unit/run_model.h"

enum { REALMS = 5, TOKENS = 60, DRAWN = 12, STEPS_MAX = 100000 };

static bool poisoning;
static unsigned poisoned;

bool executor_begin(executor *x, const batch *work) {
    if (poisoning) {
        poisoned++;
        memset(x->memory.memory, 0xff, (size_t)x->memory.reserved);
        memset(x->scratch, 0xff, x->scratch_floats * pool_threads(x->pool) * sizeof(float));
        memset(x->cos_sin, 0xff, (size_t)work->n_rows * x->plan->rope_half * 2 * sizeof(float));
    }
    return executor_begin_clean(x, work);
}

static void run(realm_runtime *rt) {
    realm_error err;
    uint32_t busy = 1;
    for (int steps = 0; busy; steps++) {
        for (uint32_t i = 0; poisoning && i < rt->threads; i++) {
            if (rt->scratch[i].memory != NULL) memset(rt->scratch[i].memory, 0xff, rt->scratch[i].bytes);
        }
        require(steps < STEPS_MAX ? realm_runtime_step(rt, 0, 0, &busy, &err) : REALM_E_TIMED_OUT, &err);
    }
}

/* Prompts of several lengths at once, drawn from in several ways. */
static void live(const char *path, uint32_t features, realm_token out[REALMS][DRAWN]) {
    realm_error err;
    realm_runtime *rt;
    realm_context *ctx[REALMS];
    uint32_t tokens[TOKENS], model, session[REALMS], ticket[REALMS], count;
    realm_runtime_options options = {.threads = 2, .features = features, .no_driver = 1, .batch_rows = 48, .kv_bytes = 16 << 20,
                                     .host_clock = 1, .fake_step_ns = 1000, .fake_row_ns = 100}; /* batches do not depend on the time */
    require(realm_runtime_create(&options, &rt, &err), &err);
    realm_model *loaded = load(rt, path);
    for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = 3 + i * 7 % 240;
    for (uint32_t i = 0; i < REALMS; i++) {
        realm_sampling params = {.temperature = (float)(i % 3), .top_k = i % 2 ? 20 : 0, .top_p = 0.9f, .repetition_penalty = 1.1f,
                                 .ignore_end = 1, .seed = i};
        require(realm_context_create(rt, i, i + 1, NULL, &ctx[i], &err), &err);
        require(realm_context_grant(ctx[i], loaded, &model, &err), &err);
        require(realm_session_open(ctx[i], model, NULL, &session[i], &err), &err);
        require(realm_generate(ctx[i], session[i], tokens + i, TOKENS - 11 * i - i, &params, DRAWN, &ticket[i], &err), &err);
    }
    run(rt);
    for (uint32_t i = 0; i < REALMS; i++) {
        require(realm_ticket_tokens(ctx[i], ticket[i], out[i], DRAWN, &count, &err), &err);
        require(count == DRAWN ? REALM_OK : REALM_E_INTERNAL, &err);
        realm_context_destroy(ctx[i]);
    }
    realm_model_close(loaded);
    realm_runtime_destroy(rt);
}

int main(int argc, char **argv) {
    static const uint32_t kinds[] = {REALM_CPU_PORTABLE, REALM_CPU_AVX2, REALM_CPU_AVX2 | REALM_CPU_AVXVNNI,
                                     REALM_CPU_AVX2 | REALM_CPU_AVX512, 0};
    if (argc < 2) return 2;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        realm_token clean[REALMS][DRAWN], dirty[REALMS][DRAWN];
        if ((realm_cpu_features() & kinds[k]) != kinds[k]) continue;
        poisoning = false;
        live(argv[1], kinds[k], clean);
        poisoning = true;
        live(argv[1], kinds[k], dirty);
        if (memcmp(clean, dirty, sizeof clean) == 0) continue;
        fprintf(stderr, "kernels %u read what they have not written\n", kinds[k]);
        return 1;
    }
    printf("%u\n", poisoned);
    return 0;
}
