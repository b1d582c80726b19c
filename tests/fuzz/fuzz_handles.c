/* fuzz_handles.c: forged handles. The input is a program for two realms of different tenants: each step calls a function of realm.h
 * with a handle that is the realm's own, one that was closed, a number that is another realm's, or any number. A table of what is open
 * says what must happen: a handle that the realm does not hold is invalid-handle, and nothing else. A third realm is in the
 * middle of a generation all the while; its tokens must be those it gives alone. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../core/include/realm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MODEL "tests/vectors/model-llama3.gguf"
enum { REALMS = 2, OPEN_MAX = 24, TOKENS = 6, DRAWN = 8, STEPS_MAX = 5000, STEP_BUDGET = 20000, PROGRAM_MAX = 300 };

typedef enum kind { MODELS, SESSIONS, TICKETS, TENSORS, KINDS } kind;

/* What a realm holds of one kind, and what it held. */
typedef struct holdings {
    uint32_t open[OPEN_MAX], closed[OPEN_MAX];
    unsigned open_count, closed_count;
} holdings;

typedef struct tenant_realm {
    realm_context *ctx;
    holdings held[KINDS];
} tenant_realm;

static realm_runtime *rt;
static realm_model *model;
static tenant_realm realms[REALMS];
static realm_error err;

static void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz_handles: %s: %s\n", what, err.message);
    abort();
}

/* ---- the input ---- */

static const uint8_t *input;
static size_t left;

static uint8_t byte(void) {
    if (left == 0) return 0;
    left--;
    return *input++;
}

static uint32_t number(void) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) value = value << 8 | byte();
    return value;
}

/* ---- handles ---- */

static bool is_open(const tenant_realm *r, kind k, uint32_t handle) {
    for (unsigned i = 0; i < r->held[k].open_count; i++) {
        if (r->held[k].open[i] == handle) return true;
    }
    return false;
}

static void opened(tenant_realm *r, kind k, uint32_t handle) {
    holdings *h = &r->held[k];
    if (is_open(r, k, handle)) return; /* a ticket's tensor may be asked for twice */
    expect(handle != 0, "a new handle is 0");
    h->open[h->open_count++] = handle;
}

static void closed(tenant_realm *r, kind k, uint32_t handle) {
    holdings *h = &r->held[k];
    unsigned i = 0;
    while (h->open[i] != handle) i++;
    h->open[i] = h->open[--h->open_count];
    h->closed[h->closed_count++ % OPEN_MAX] = handle;
}

static uint32_t any_of(const uint32_t *handles, unsigned count) { return count == 0 ? 0 : handles[byte() % count]; }

static uint32_t handle_for(const tenant_realm *r, kind k) {
    const tenant_realm *other = &realms[r == &realms[0]];
    kind another = byte() % KINDS;
    unsigned were = r->held[k].closed_count < OPEN_MAX ? r->held[k].closed_count : OPEN_MAX;
    switch (byte() % 8) {
    case 0: return number();
    case 1: return any_of(other->held[k].open, other->held[k].open_count);
    case 2: return any_of(r->held[k].closed, were);
    case 3: return any_of(r->held[another].open, r->held[another].open_count);
    case 4: return (1u + byte() % 4) | (uint32_t)(byte() % 3) << 20;
    default: return any_of(r->held[k].open, r->held[k].open_count);
    }
}

/* The verdict on a call that names a handle: false where it failed. */
static bool judge(const tenant_realm *r, kind k, uint32_t handle, realm_status status) {
    bool open = is_open(r, k, handle);
    expect(status == REALM_OK || err.code == (int32_t)status, "the error's code is not the status");
    expect(open || status == REALM_E_INVALID_HANDLE, "a handle the realm does not hold is not refused");
    expect(!open || status != REALM_E_INVALID_HANDLE, "a handle the realm holds is refused");
    return status == REALM_OK;
}

static bool has_room(const tenant_realm *r, kind k) { return r->held[k].open_count < OPEN_MAX; }

/* ---- calls ---- */

static const realm_sampling GREEDY = {.top_p = 1, .repetition_penalty = 1, .ignore_end = 1};

static void submit(tenant_realm *r) {
    uint32_t session = handle_for(r, SESSIONS), ticket = 0, tokens[TOKENS], count = 1 + byte() % TOKENS;
    for (uint32_t i = 0; i < count; i++) tokens[i] = 3 + byte();
    realm_status status = REALM_OK;
    switch (byte() % 4) {
    case 0: status = realm_forward(r->ctx, session, tokens, count, &ticket, &err); break;
    case 1: status = realm_score(r->ctx, session, tokens, count, &ticket, &err); break;
    case 2: status = realm_generate(r->ctx, session, tokens, count, &GREEDY, 3, &ticket, &err); break;
    default: status = realm_forward_layers(r->ctx, session, byte() % 3, 1, tokens, count, &ticket, &err);
    }
    if (judge(r, SESSIONS, session, status)) opened(r, TICKETS, ticket);
}

static void use_session(tenant_realm *r) {
    uint32_t session = handle_for(r, SESSIONS), position;
    realm_token token;
    switch (byte() % 5) {
    case 0: judge(r, SESSIONS, session, realm_session_position(r->ctx, session, &position, &err)); break;
    case 1: judge(r, SESSIONS, session, realm_session_rewind(r->ctx, session, byte() % 8, &err)); break;
    case 2: judge(r, SESSIONS, session, realm_sample(r->ctx, session, &GREEDY, &token, &err)); break;
    case 3: judge(r, SESSIONS, session, realm_likeliest(r->ctx, session, &token, 1, &err)); break;
    default: if (judge(r, SESSIONS, session, realm_session_close(r->ctx, session, &err))) closed(r, SESSIONS, session);
    }
}

static void use_ticket(tenant_realm *r) {
    uint32_t ticket = handle_for(r, TICKETS), state, count, tensor;
    realm_token tokens[TOKENS];
    float scores[TOKENS];
    realm_status status = REALM_OK;
    switch (byte() % 7) {
    case 0: judge(r, TICKETS, ticket, realm_ticket_get_state(r->ctx, ticket, &state, &err)); break;
    case 1: judge(r, TICKETS, ticket, realm_ticket_tokens(r->ctx, ticket, tokens, TOKENS, &count, &err)); break;
    case 2: judge(r, TICKETS, ticket, realm_ticket_scores(r->ctx, ticket, scores, TOKENS, &count, &err)); break;
    case 3: judge(r, TICKETS, ticket, realm_ticket_cancel(r->ctx, ticket, &err)); break;
    case 4: expect((realm_ticket_error(r->ctx, ticket, &err) == REALM_E_INVALID_HANDLE) != is_open(r, TICKETS, ticket), "ticket-error"); break;
    case 5: if (judge(r, TICKETS, ticket, realm_ticket_drop(r->ctx, ticket, &err))) closed(r, TICKETS, ticket); break;
    default:
        status = has_room(r, TENSORS) ? realm_ticket_tensor(r->ctx, ticket, &tensor, &err) : REALM_OK;
        if (has_room(r, TENSORS) && judge(r, TICKETS, ticket, status)) opened(r, TENSORS, tensor);
    }
}

static void multiply(tenant_realm *r) {
    uint32_t a = handle_for(r, TENSORS), b = handle_for(r, TENSORS), ticket;
    realm_status status = byte() % 2 ? realm_matmul(r->ctx, a, b, &ticket, &err) : realm_matmul_transposed(r->ctx, a, b, &ticket, &err);
    bool both = is_open(r, TENSORS, a) && is_open(r, TENSORS, b);
    expect(both == (status != REALM_E_INVALID_HANDLE), "a product of tensors the realm does not hold");
    if (status == REALM_OK) opened(r, TICKETS, ticket);
}

static void use_tensor(tenant_realm *r) {
    uint32_t tensor = handle_for(r, TENSORS), rows, cols, ticket;
    float data[4] = {1, 2, 3, 4};
    size_t count;
    switch (byte() % 6) {
    case 0: judge(r, TENSORS, tensor, realm_tensor_read(r->ctx, tensor, data, 4, &count, &err)); break;
    case 1: judge(r, TENSORS, tensor, realm_tensor_shape(r->ctx, tensor, &rows, &cols, &err)); break;
    case 2: judge(r, TENSORS, tensor, realm_store_layer(r->ctx, byte() % 4, tensor, &err)); break;
    case 3: if (judge(r, TENSORS, tensor, realm_tensor_drop(r->ctx, tensor, &err))) closed(r, TENSORS, tensor); break;
    case 4: if (realm_tensor_create(r->ctx, 2, 2, data, &tensor, &err) == REALM_OK) opened(r, TENSORS, tensor); break;
    default: if (realm_load_layer(r->ctx, byte() % 4, &ticket, &err) == REALM_OK) opened(r, TICKETS, ticket);
    }
}

static void use_model(tenant_realm *r) {
    static const char name[] = "blk.0.attn_q.weight";
    uint32_t granted = handle_for(r, MODELS), made;
    if (byte() % 2) {
        if (judge(r, MODELS, granted, realm_session_open(r->ctx, granted, NULL, &made, &err))) opened(r, SESSIONS, made);
    } else if (judge(r, MODELS, granted, realm_tensor_weight(r->ctx, granted, name, sizeof name - 1, &made, &err))) {
        opened(r, TENSORS, made);
    }
}

static void call(tenant_realm *r) {
    uint32_t busy;
    if (!has_room(r, SESSIONS) || !has_room(r, TENSORS) || !has_room(r, TICKETS)) return;
    switch (byte() % 8) {
    case 0: case 1: submit(r); break;
    case 2: use_session(r); break;
    case 3: use_ticket(r); break;
    case 4: multiply(r); break;
    case 5: use_tensor(r); break;
    case 6: use_model(r); break;
    default: expect(realm_runtime_step(rt, 0, STEP_BUDGET, &busy, &err) == REALM_OK, "a step fails");
    }
}

/* ---- the realm that nobody may disturb ---- */

static realm_context *enter(uint64_t tenant, uint32_t *granted) {
    static const realm_limits limits = {.tensor_bytes = 1 << 20};
    realm_context *ctx;
    expect(realm_context_create(rt, tenant, tenant, &limits, &ctx, &err) == REALM_OK, "no context");
    expect(realm_context_grant(ctx, model, granted, &err) == REALM_OK, "not granted");
    return ctx;
}

static uint32_t begin_victim(realm_context **ctx) {
    static const uint32_t prompt[] = {11, 22, 33, 44, 55};
    uint32_t granted, session, ticket;
    *ctx = enter(9, &granted);
    expect(realm_session_open(*ctx, granted, NULL, &session, &err) == REALM_OK, "no session");
    expect(realm_generate(*ctx, session, prompt, 5, &GREEDY, DRAWN, &ticket, &err) == REALM_OK, "no generation");
    return ticket;
}

static void end_victim(realm_context *ctx, uint32_t ticket, realm_token out[DRAWN]) {
    uint32_t state = REALM_TICKET_PENDING, busy, count;
    for (int steps = 0; state < REALM_TICKET_READY; steps++) {
        expect(steps < STEPS_MAX, "the undisturbed realm never ends");
        expect(realm_runtime_step(rt, 0, STEP_BUDGET, &busy, &err) == REALM_OK, "a step fails");
        expect(realm_ticket_get_state(ctx, ticket, &state, &err) == REALM_OK, "the undisturbed realm lost its ticket");
    }
    expect(state == REALM_TICKET_READY, "the undisturbed realm's work failed");
    expect(realm_ticket_tokens(ctx, ticket, out, DRAWN, &count, &err) == REALM_OK && count == DRAWN, "it lost tokens");
    realm_context_destroy(ctx);
}

/* ---- life ---- */

static realm_token alone[DRAWN];

static void start(void) {
    realm_runtime_options options = {.threads = 1, .features = REALM_CPU_PORTABLE, .no_driver = 1, .batch_rows = 8, .kv_bytes = 1 << 20};
    realm_loader *loader;
    realm_context *ctx;
    float progress = 0;
    expect(realm_runtime_create(&options, &rt, &err) == REALM_OK, "no runtime");
    expect(realm_loader_begin(rt, MODEL, NULL, &loader, &err) == REALM_OK, "run this in the project's folder");
    while (progress < 1) expect(realm_loader_step(loader, &progress, &err) == REALM_OK, "the model does not load");
    expect(realm_loader_finish(loader, &model, &err) == REALM_OK, "no model");
    uint32_t ticket = begin_victim(&ctx);
    end_victim(ctx, ticket, alone);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    realm_context *victim;
    realm_token made[DRAWN];
    if (rt == NULL) start();
    input = data;
    left = size;
    memset(realms, 0, sizeof realms);
    for (uint32_t i = 0; i < REALMS; i++) {
        uint32_t granted;
        realms[i].ctx = enter(1 + i, &granted);
        opened(&realms[i], MODELS, granted);
    }
    uint32_t ticket = begin_victim(&victim);
    for (int calls = 0; left > 0 && calls < PROGRAM_MAX; calls++) call(&realms[byte() % REALMS]);
    for (uint32_t i = 0; i < REALMS; i++) realm_context_destroy(realms[i].ctx);
    end_victim(victim, ticket, made);
    expect(memcmp(made, alone, sizeof made) == 0, "the undisturbed realm's tokens depend on the others");
    return 0;
}
