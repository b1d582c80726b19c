/* bench_ops.c: where a step's time goes, op by op, beside this machine's read bandwidth measured in the same run.
 *   bench_ops MODEL [THREADS] [MASK of REALM_CPU_...] [json]      prints a table for each kind of step, or one JSON object
 * The steps are an engine's own: a prompt of 512 tokens, one sequence that decodes, eight that decode together, and one that decodes
 * deep in its context, where the model's is that long. What lies between the last op of a step and the first of the next (sampling,
 * scheduling, completions) is the row "between". */
#include "bench.h"
#include "engine.h"

enum { MAX_PROMPT = 4096, PROMPT = 512, PROMPTS = 3, SHORT_PROMPT = 32, DECODED = 48, TOGETHER = 8, EVENTS = 64, GROUPS = 16, STEPS = BENCH_MAX_VALUES };
static const uint64_t BANDWIDTH_BYTES = (uint64_t)512 << 20;

typedef struct group { /* ops of one kind over all layers */
    const char *name;
    double seconds[STEPS]; /* by step; what counts is their median */
    double bytes, flops;   /* of all steps */
} group;

typedef struct profile {
    realm_runtime *rt;
    realm_model *model;
    group groups[GROUPS];
    uint32_t group_count, steps;
    double last; /* when the op before ended */
    uint64_t tenant;
    uint32_t min_rows, max_rows; /* of the steps that count */
} profile;

/* ---- what an op is ------------------------------------------------------------------------------------------------------- */

static const char *matmul_name(const plan_op *op) {
    switch (op->dst) {
    case REALM_SLOT_Q: return "q, k, v";
    case REALM_SLOT_G: return "gate, up";
    case REALM_SLOT_LOGITS: return "output";
    default: return op->src == REALM_SLOT_A ? "attention out" : "down";
    }
}

static const char *op_name(const plan_op *op) {
    switch ((realm_op_kind)op->kind) {
    case REALM_OP_MATMUL: return matmul_name(op);
    case REALM_OP_ATTENTION: return "attention";
    case REALM_OP_RMSNORM: return "norm";
    case REALM_OP_BIAS: case REALM_OP_ROPE: return "rope, kv store";
    case REALM_OP_SILU_MUL: case REALM_OP_GELU_MUL: return "activation";
    case REALM_OP_ADD: return "residual, norm";
    default: return "others";
    }
}

static group *find_group(profile *p, const char *name) {
    for (uint32_t i = 0; i < p->group_count; i++) {
        if (strcmp(p->groups[i].name, name) == 0) return &p->groups[i];
    }
    p->groups[p->group_count] = (group){.name = name};
    return &p->groups[p->group_count++];
}

/* Bytes of weights or KV that the op has to read, and its multiplications and additions. */
static void count_work(const profile *p, const plan_op *op, uint32_t count, group *g) {
    const plan *plan = p->model->plan;
    const batch *b = &p->model->engine->batch;
    uint32_t rows = op->layer == REALM_LAYER_HEAD ? b->n_out : b->n_rows;
    for (uint32_t i = 0; op->kind == REALM_OP_MATMUL && i < count; i++) {
        const plan_tensor *w = &plan->tensors[op[i].weight];
        g->bytes += (double)w->rows * (double)w->row_bytes;
        g->flops += 2.0 * w->rows * w->cols * rows;
    }
    for (uint32_t i = 0; op->kind == REALM_OP_ATTENTION && i < b->n_segments; i++) {
        const batch_segment *s = &b->segments[i];
        double seen = 0.5 * s->n_rows * (2.0 * s->pos0 + s->n_rows + 1.0);
        g->bytes += 2.0 * 2.0 * (s->pos0 + s->n_rows) * plan->head_count_kv * plan->head_dim;
        g->flops += 4.0 * seen * plan->head_count * plan->head_dim;
    }
}

static void observe(void *arg, const plan_op *op, uint32_t count) {
    profile *p = arg;
    double now = seconds();
    const batch *b = &p->model->engine->batch;
    if (b->n_rows >= p->min_rows && b->n_rows <= p->max_rows) {
        group *g = find_group(p, op->kind == REALM_OP_EMBED ? "between" : op_name(op));
        if (op->kind == REALM_OP_EMBED) p->steps++;
        if (p->steps > 0 && p->steps <= STEPS) g->seconds[p->steps - 1] += now - p->last;
        count_work(p, op, count, g);
    }
    p->last = now;
}

/* ---- requests ---------------------------------------------------------------------------------------------------------------- */

static realm_context *submit(profile *p, uint32_t index, uint32_t prompt, uint32_t made) {
    uint32_t handle, session, ticket, tokens[MAX_PROMPT];
    realm_error err = {0};
    realm_context *ctx;
    realm_sampling greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f, .ignore_end = 1};
    for (uint32_t i = 0; i < prompt; i++) tokens[i] = 300 + (i * 7919 + index * 131) % 30000;
    expect(realm_context_create(p->rt, index, ++p->tenant, NULL, &ctx, &err), &err);
    expect(realm_context_grant(ctx, p->model, &handle, &err), &err);
    expect(realm_session_open(ctx, handle, NULL, &session, &err), &err);
    expect(realm_generate(ctx, session, tokens, prompt, &greedy, made, &ticket, &err), &err);
    return ctx;
}

static void wait_for_all(profile *p, uint32_t open) {
    realm_completion events[EVENTS];
    while (open > 0) {
        uint32_t n = realm_runtime_wait(p->rt, events, EVENTS, UINT64_MAX);
        for (uint32_t i = 0; i < n; i++) {
            if (events[i].state == REALM_TICKET_FAILED) expect(REALM_E_INTERNAL, &(realm_error){.message = "a request failed"});
            if (events[i].state == REALM_TICKET_READY) open--;
        }
    }
}

static void begin(profile *p, uint32_t min_rows, uint32_t max_rows) {
    p->group_count = p->steps = 0;
    p->min_rows = min_rows;
    p->max_rows = max_rows;
    p->last = seconds();
}

/* Profiles the steps of [min_rows, max_rows] rows that `generations` requests make. */
static void measure(profile *p, uint32_t generations, uint32_t prompt, uint32_t made, uint32_t min_rows, uint32_t max_rows) {
    realm_context *contexts[TOGETHER];
    begin(p, min_rows, max_rows);
    for (uint32_t i = 0; i < generations; i++) contexts[i] = submit(p, i, prompt, made);
    wait_for_all(p, generations);
    for (uint32_t i = 0; i < generations; i++) realm_context_destroy(contexts[i]);
}

static void measure_prompts(profile *p) {
    begin(p, PROMPT, PROMPT);
    for (uint32_t i = 0; i < PROMPTS; i++) {
        realm_context *ctx = submit(p, i, PROMPT, 1);
        wait_for_all(p, 1);
        realm_context_destroy(ctx);
    }
}

/* ---- tables --------------------------------------------------------------------------------------------------------------------- */

static void print_row(const char *name, double ms, double total_ms, double bytes, double flops, double limit) {
    printf("  %-14s %9.3f ms %5.1f %%", name, ms, 100.0 * ms / total_ms);
    if (flops > 0.0) printf(" %8.1f MB %7.2f GB/s %8.1f GFLOP/s %5.1f %% of bandwidth", bytes * 1e-6, bytes / ms * 1e-6, flops / ms * 1e-6,
                            100.0 * bytes / (ms * 1e-3) / limit);
    printf("\n");
}

static double median_ms(const group *g, uint32_t steps) { return median_of(g->seconds, steps) * 1e3; }

static void print_table(const profile *p, const char *title, uint32_t rows, double limit) {
    double ms = 0.0, bytes = 0.0, flops = 0.0;
    for (uint32_t i = 0; i < p->group_count; i++) {
        ms += median_ms(&p->groups[i], p->steps);
        bytes += p->groups[i].bytes / p->steps;
        flops += p->groups[i].flops / p->steps;
    }
    printf("%s: %u steps of %u rows, %.1f tokens/s\n", title, p->steps, rows, rows / ms * 1e3);
    for (uint32_t i = 0; i < p->group_count; i++) {
        const group *g = &p->groups[i];
        print_row(g->name, median_ms(g, p->steps), ms, g->bytes / p->steps, g->flops / p->steps, limit);
    }
    print_row("step", ms, ms, bytes, flops, limit);
}

/* Of a step: seconds, bytes and operations of each kind of op. */
static void print_json(const profile *p, const char *title, uint32_t rows, double limit) {
    (void)limit;
    printf(", \"%s\": {\"rows\": %u, \"steps\": %u, \"ops\": {", title, rows, p->steps);
    for (uint32_t i = 0; i < p->group_count; i++) {
        const group *g = &p->groups[i];
        printf("%s\"%s\": {\"seconds\": %.9f, \"bytes\": %.0f, \"flops\": %.0f}", i == 0 ? "" : ", ", g->name,
               median_ms(g, p->steps) * 1e-3, g->bytes / p->steps, g->flops / p->steps);
    }
    printf("}}");
}

/* One sequence that decodes after prompts of several lengths. */
static void measure_deep(profile *p, void (*print)(const profile *, const char *, uint32_t, double), double limit) {
    static const uint32_t depths[] = {1024, MAX_PROMPT};
    for (uint32_t i = 0; i < sizeof depths / sizeof *depths; i++) {
        char title[64];
        if (depths[i] + DECODED > p->model->context_length) continue;
        measure(p, 1, depths[i], DECODED, 1, 1);
        snprintf(title, sizeof title, "one decodes after %u", depths[i]);
        print(p, title, 1, limit);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: bench_ops MODEL [THREADS] [MASK] [json]\n"), 2;
    profile p = {0};
    realm_error err = {0};
    realm_runtime_options options = {.threads = argc > 2 ? (uint32_t)atoi(argv[2]) : 0, .features = argc > 3 ? (uint32_t)atoi(argv[3]) : 0};
    expect(realm_runtime_create(&options, &p.rt, &err), &err);
    p.model = load_model(p.rt, argv[1]);
    bool json = argc > 4 && strcmp(argv[4], "json") == 0;
    void (*print)(const profile *, const char *, uint32_t, double) = json ? print_json : print_table;
    executor_observe(p.model->engine->executor, observe, &p);
    double limit = realm_bench_read_bandwidth(p.rt, BANDWIDTH_BYTES, 8);
    printf(json ? "{\"model\": \"%s\", \"kernels\": \"%s\", \"threads\": %u, \"bandwidth\": %.4g" : "%s, %s, %u threads, %.4g bytes/s\n",
           argv[1], realm_runtime_kernels(p.rt), realm_runtime_threads(p.rt), limit);
    measure(&p, 1, PROMPT, 1, UINT32_MAX, 0); /* warm: pages, buffers */
    measure_prompts(&p);
    print(&p, "prompt", PROMPT, limit);
    measure(&p, 1, SHORT_PROMPT, DECODED, 1, 1);
    print(&p, "one decodes", 1, limit);
    measure(&p, TOGETHER, SHORT_PROMPT, DECODED, TOGETHER, TOGETHER);
    print(&p, "eight decode", TOGETHER, limit);
    measure_deep(&p, print, limit);
    if (json) printf("}\n");
    realm_model_close(p.model);
    realm_runtime_destroy(p.rt);
    return 0;
}
