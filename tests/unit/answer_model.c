/* answer_model.c: a question to a model, from text to text, for machines without Python.
 * Usage: answer_model MODEL.gguf MASK PROMPT; MASK of REALM_CPU_..., 0: the best there is. Prints the kernels' name, then the
 * answer, drawn greedily. */
#include <string.h>

#include "run_model.h"

enum { MOST_TOKENS = 256, DRAWN = 32, STEPS_MAX = 100000 };

static void run(realm_runtime *rt) {
    realm_error err;
    uint32_t busy = 1;
    for (int steps = 0; busy; steps++) require(steps < STEPS_MAX ? realm_runtime_step(rt, 0, 0, &busy, &err) : REALM_E_TIMED_OUT, &err);
}

/* Returns how many ids were drawn. */
static uint32_t draw(realm_runtime *rt, realm_model *loaded, const uint32_t *prompt, size_t count, realm_token out[DRAWN]) {
    realm_error err;
    realm_context *ctx;
    uint32_t model, session, ticket, drawn;
    const realm_sampling params = {.top_p = 1, .repetition_penalty = 1};
    require(realm_context_create(rt, 1, 1, NULL, &ctx, &err), &err);
    require(realm_context_grant(ctx, loaded, &model, &err), &err);
    require(realm_session_open(ctx, model, NULL, &session, &err), &err);
    require(realm_generate(ctx, session, prompt, (uint32_t)count, &params, DRAWN, &ticket, &err), &err);
    run(rt);
    require(realm_ticket_tokens(ctx, ticket, out, DRAWN, &drawn, &err), &err);
    realm_context_destroy(ctx);
    return drawn;
}

int main(int argc, char **argv) {
    realm_error err;
    realm_runtime *rt;
    realm_token drawn[DRAWN];
    uint32_t prompt[MOST_TOKENS], ids[DRAWN];
    size_t count, size;
    char text[1024];
    if (argc != 4) return 2;
    realm_runtime_options options = {.threads = 2, .features = (uint32_t)strtoul(argv[2], NULL, 10), .no_driver = 1, .kv_bytes = 64 << 20};
    require(realm_runtime_create(&options, &rt, &err), &err);
    realm_model *model = load(rt, argv[1]);
    require(realm_model_encode(model, argv[3], strlen(argv[3]), REALM_ENCODE_PARSE_SPECIAL, prompt, MOST_TOKENS, &count, &err), &err);
    const uint32_t n = draw(rt, model, prompt, count < MOST_TOKENS ? count : MOST_TOKENS, drawn);
    for (uint32_t i = 0; i < n; i++) ids[i] = drawn[i].id;
    require(realm_model_decode(model, ids, n, 0, text, sizeof text, &size, &err), &err);
    printf("%s\n%.*s\n", realm_runtime_kernels(rt), (int)(size < sizeof text ? size : sizeof text), text);
    realm_model_close(model);
    realm_runtime_destroy(rt);
    return 0;
}
