/* engine.c: sessions, the rows of the next step as schedule.c chooses them, and what their results mean. */
#include "engine.h"

#include <math.h>
#include <stdlib.h>

enum {
    EXPRESS_ROWS = 64,
    SCORED_CHUNK = 64, /* rows of a step whose logits are all wanted, to bound the logits buffer that is touched */
};

#define FAKE_LOGIT 10.0f /* of the favourite; the others have 0 */

/* ---- life ------------------------------------------------------------------------------------------------------------------ */

static bool collect_end_tokens(engine *e) {
    uint32_t vocab = tokenizer_vocab_size(e->tok);
    for (uint32_t pass = 0; pass < 2; pass++) { /* count, then fill */
        uint32_t n = 0;
        for (uint32_t id = 0; id < vocab; id++) {
            if (!tokenizer_is_end(e->tok, id)) continue;
            if (pass == 1) e->end_tokens[n] = id;
            n++;
        }
        e->end_count = n;
        if (pass == 0 && (e->end_tokens = malloc((n + 1) * sizeof *e->end_tokens)) == NULL) return false;
    }
    return true;
}

static bool is_external(const engine *e) { return e->rt->options.executor == REALM_EXECUTOR_EXTERNAL; }

static bool allocate_batch(engine *e) {
    batch *b = &e->batch;
    b->tokens = malloc(e->max_rows * sizeof *b->tokens);
    b->positions = malloc(e->max_rows * sizeof *b->positions);
    b->out_rows = malloc(e->max_rows * sizeof *b->out_rows);
    b->segments = malloc(e->max_rows * sizeof *b->segments);
    e->parts = malloc(e->max_rows * sizeof *e->parts);
    return b->tokens && b->positions && b->out_rows && b->segments && e->parts;
}

static void free_batch(engine *e) {
    base_free_wiped(e->batch.tokens, e->max_rows * sizeof *e->batch.tokens);
    free(e->batch.positions);
    free(e->batch.out_rows);
    free(e->batch.segments);
    free(e->parts);
}

static bool allocate(engine *e) {
    const plan *p = e->plan;
    e->fake_logits = calloc(p->vocab_size, sizeof *e->fake_logits);
    for (uint32_t type = 0; type < 2; type++) {
        e->kv[type] = kv_create(&e->rt->kv, type, p->layer_count, p->head_count_kv, p->head_dim, is_external(e));
    }
    return allocate_batch(e) && e->fake_logits && e->kv[0] && e->kv[1] && collect_end_tokens(e);
}

static realm_status create_express(engine *e, const uint8_t *weights, realm_error *err) {
    engine *x = e->express = calloc(1, sizeof *x);
    if (x == NULL) return base_fail_memory(err, "the engine", sizeof *x);
    *x = (engine){.rt = e->rt, .main = e, .plan = e->plan, .tok = e->tok, .end_tokens = e->end_tokens, .end_count = e->end_count, .fake_logits = e->fake_logits,
                  .max_rows = e->max_rows < EXPRESS_ROWS ? e->max_rows : EXPRESS_ROWS};
    if (!allocate_batch(x)) return base_fail_memory(err, "batch records", x->max_rows);
    if (e->executor == NULL) return REALM_OK;
    return executor_create(e->plan, weights, &e->rt->ops, e->rt->pool, x->max_rows, x->max_rows, &x->executor, err);
}

static void destroy_express(engine *x) {
    if (x == NULL) return;
    executor_destroy(x->executor);
    free_batch(x);
    free(x);
}

realm_status engine_create(realm_runtime *rt, const plan *p, const tokenizer *tok, const uint8_t *weights, engine **out,
                           realm_error *err) {
    *out = NULL;
    engine *e = calloc(1, sizeof *e);
    if (e == NULL) return base_fail_memory(err, "the engine", sizeof *e);
    *e = (engine){.rt = rt, .plan = p, .tok = tok, .max_rows = rt->options.batch_rows};
    schedule_init(e);
    realm_status status = allocate(e) ? REALM_OK : base_fail_memory(err, "batch records", e->max_rows);
    if (status == REALM_OK && rt->options.executor == REALM_EXECUTOR_CPU) {
        status = executor_create(p, weights, &rt->ops, rt->pool, e->max_rows, e->max_rows, &e->executor, err);
    }
    if (status == REALM_OK && is_external(e)) status = external_create(e, err);
    else if (status == REALM_OK) status = create_express(e, weights, err);
    if (status != REALM_OK) {
        engine_destroy(e);
        return status;
    }
    *out = e;
    return REALM_OK;
}

void engine_drop_pages(engine *e) {
    prefix_drop_all(e);
    for (uint32_t type = 0; type < 2; type++) {
        kv_destroy(e->kv[type]);
        e->kv[type] = NULL;
    }
}

void engine_destroy(engine *e) {
    if (e == NULL) return;
    destroy_express(e->express);
    executor_destroy(e->executor);
    external_destroy(e->external);
    engine_drop_pages(e);
    schedule_free(e);
    free_batch(e);
    free(e->fake_logits);
    free(e->end_tokens);
    free(e);
}

/* ---- sessions ------------------------------------------------------------------------------------------------------------------- */

static bool join(session *s, uint64_t deadline_ns) {
    if (!schedule_open(s)) return false;
    if (tenant_open_session(s, deadline_ns)) return true;
    schedule_close(s);
    return false;
}

session *session_create(engine *e, realm_context *ctx, const realm_session_options *options, uint32_t default_kv_type) {
    session *s = calloc(1, sizeof *s);
    if (s == NULL) return NULL;
    uint32_t kv_type = options == NULL || options->kv_type == REALM_KV_MODEL ? default_kv_type : options->kv_type;
    *s = (session){.engine = e, .ctx = ctx, .owner = ctx->owner, .kv = e->kv[kv_type == REALM_KV_F32],
                   .no_prefix = (options != NULL && options->no_prefix) || ctx->tenant == KV_PUBLIC};
    s->priority = options == NULL ? 0 : options->priority;
    if (!join(s, options == NULL ? 0 : options->deadline_ns)) {
        free(s);
        return NULL;
    }
    s->owner->users++;
    return s;
}

static void release_pages(session *s, uint32_t keep) {
    while (s->page_count > keep) kv_release(s->pages[--s->page_count]);
    if (s->registered > keep) s->registered = keep;
}

static void free_hidden(session *s) {
    base_free_wiped(s->hidden, s->hidden_rows * (size_t)s->engine->plan->embedding_length * sizeof *s->hidden);
    s->hidden = NULL;
    s->hidden_rows = 0;
}

static void session_free(session *s) {
    release_pages(s, 0);
    free(s->pages);
    base_free_wiped(s->tokens, s->token_capacity * sizeof *s->tokens);
    base_free_wiped(s->logits, s->logits == NULL ? 0 : s->engine->plan->vocab_size * sizeof *s->logits);
    free_hidden(s);
    kv_owner_put(&s->engine->rt->kv, s->owner);
    free(s);
}

/* Tokens given but not computed are forgotten. */
static void drop_uncomputed(session *s) {
    if (s->ctx != NULL) context_hold(s->ctx, -(int64_t)(s->submitted - s->done));
    s->submitted = s->done;
    s->slice_count = s->slice_next = s->slice_cursor = 0;
    free_hidden(s); /* it is as long as the prompt was, and counts against no limit */
}

/* It has no work any more: out of the line. */
static void rest(session *s) {
    schedule_remove(s);
    tenant_pause(s);
    s->active = NULL;
}

void session_abort(session *s) {
    rest(s);
    s->logits_valid = false;
    if (!s->in_step) drop_uncomputed(s);
}

void session_destroy(session *s) {
    session_abort(s);
    tenant_close_session(s);
    schedule_close(s);
    context_hold(s->ctx, -(int64_t)s->submitted);
    s->ctx = NULL;
    if (!s->in_step) session_free(s);
}

realm_status session_rewind(session *s, uint32_t position, realm_error *err) {
    s->kv_lost = s->kv_lost && position > 0;
    if (position == 0) tenant_end(s);
    if (position == s->done && s->slice_next == 0) return REALM_OK;
    uint32_t inside = position % CPU_KV_PAGE, pages = (position + CPU_KV_PAGE - 1) / CPU_KV_PAGE;
    if (inside != 0) { /* the page will be written again: nobody else may see it */
        kv_page *page = kv_make_private(s->kv, s->pages[pages - 1], s->owner);
        if (page == NULL) return base_fail(err, REALM_E_LIMIT_EXCEEDED, "the KV budget is used up: close sessions or raise kv_bytes");
        s->pages[pages - 1] = page;
        if (s->registered >= pages) s->registered = pages - 1;
    }
    release_pages(s, pages);
    drop_uncomputed(s);
    context_hold(s->ctx, -(int64_t)(s->done - position));
    s->done = s->submitted = position;
    s->logits_valid = false;
    return REALM_OK;
}

uint32_t session_room(const session *s) {
    uint32_t own = s->ctx->account->limits.context_length, length = s->context_length;
    if (own != 0 && own < length) length = own;
    return s->submitted < length ? length - s->submitted : 0;
}

/* Pages that were published, or that another session of this tenant has already computed, for the tokens that come next. One
 * token is always left to compute, because its logits are wanted. */
static void reuse_prefix(session *s) {
    if (s->no_prefix || s->done % CPU_KV_PAGE != 0 || s->registered * CPU_KV_PAGE != s->done) return;
    release_pages(s, s->done / CPU_KV_PAGE); /* pages a cancelled step had begun */
    while (s->submitted - s->done > CPU_KV_PAGE && s->page_count < s->page_capacity) {
        const kv_page *parent = s->page_count == 0 ? NULL : s->pages[s->page_count - 1];
        kv_page *page = kv_find(s->kv, parent, KV_PUBLIC, s->tokens + s->done);
        if (page == NULL) page = kv_find(s->kv, parent, s->ctx->tenant, s->tokens + s->done);
        if (page == NULL) return;
        s->pages[s->page_count++] = page;
        s->registered = s->page_count;
        s->done += CPU_KV_PAGE;
        s->engine->rt->stats.prefix_hits += CPU_KV_PAGE;
    }
}

static bool reserve_tokens(session *s, uint32_t total) {
    if (total > s->token_capacity) {
        uint32_t wanted = total < 64 ? 64 : total + total / 2;
        uint32_t *bigger = base_grow_wiped(s->tokens, s->token_capacity * sizeof *bigger, wanted * sizeof *bigger);
        if (bigger == NULL) return false;
        s->tokens = bigger;
        s->token_capacity = wanted;
    }
    uint32_t pages = (total + CPU_KV_PAGE - 1) / CPU_KV_PAGE;
    if (pages > s->page_capacity) {
        uint32_t wanted = pages + pages / 2;
        kv_page **bigger = realloc(s->pages, wanted * sizeof *bigger);
        if (bigger == NULL) return false;
        s->pages = bigger;
        s->page_capacity = wanted;
    }
    return true;
}

realm_status session_submit(session *s, ticket *t, const uint32_t *tokens, uint32_t count, realm_error *err) {
    uint32_t vocab = s->engine->plan->vocab_size;
    if (!reserve_tokens(s, s->submitted + count)) return base_fail_memory(err, "the session's tokens", count);
    if (s->logits == NULL && (s->logits = calloc(vocab, sizeof(float))) == NULL) {
        return base_fail_memory(err, "the session's logits", vocab * sizeof(float));
    }
    if (count > 0) memcpy(s->tokens + s->submitted, tokens, count * sizeof *tokens);
    s->submitted += count;
    context_hold(s->ctx, count);
    s->logits_valid = false;
    s->active = t;
    t->submitted_ns = s->engine->rt->now_ns;
    t->decodes = count == 1 && s->done > 0;
    bool whole = t->kind == TICKET_FORWARD || t->kind == TICKET_GENERATE;
    if (whole && s->slice_count == 0) reuse_prefix(s);
    s->turn = ++s->engine->rt->turn_serial;
    if (tenant_begin(s)) schedule_add(s);
    return REALM_OK;
}

/* ---- the next batch --------------------------------------------------------------------------------------------------------------- */

static bool wants_all_logits(const session *s) { return s->active->kind == TICKET_SCORE || s->active->kind == TICKET_LOGITS; }

/* Pages the session's tenant may hold before its cached ones give way, so that its cache never exceeds its limit. */
static uint64_t most_pages(const session *s) {
    uint64_t shared = s->ctx->account->limits.kv_tokens, positions = shared != 0 ? shared : s->ctx->limits.kv_tokens;
    return positions / CPU_KV_PAGE + (positions % CPU_KV_PAGE != 0);
}

static bool acquire_pages(session *s, uint32_t positions) {
    uint32_t pages = (positions + CPU_KV_PAGE - 1) / CPU_KV_PAGE;
    while (s->page_count < pages) {
        kv_page *page = kv_acquire(s->kv, s->owner, most_pages(s));
        if (page == NULL) return false;
        s->pages[s->page_count++] = page;
    }
    return true;
}

static void add_rows(engine *e, session *s, uint32_t rows) {
    batch *b = &e->batch;
    uint32_t pos0 = s->done + s->slice_cursor, row0 = b->n_rows;
    step_part *part = &e->parts[b->n_segments];
    *part = (step_part){.session = s, .ticket = s->active, .rows = rows, .out0 = b->n_out};
    b->segments[b->n_segments++] = (batch_segment){
        .row0 = row0, .n_rows = rows, .pos0 = pos0, .kv = s->kv, .pages = s->pages,
        .hidden = s->slice_count == 0 ? NULL : s->hidden + (size_t)s->slice_cursor * e->plan->embedding_length};
    for (uint32_t i = 0; i < rows; i++) {
        b->tokens[row0 + i] = s->tokens[pos0 + i];
        b->positions[row0 + i] = pos0 + i;
        bool last = pos0 + i + 1 == s->submitted;
        if (last || wants_all_logits(s)) b->out_rows[b->n_out++] = row0 + i;
    }
    b->n_rows += rows;
    part->outs = b->n_out - part->out0;
    part->completes = pos0 + rows == s->submitted;
    if (part->ticket->work.steps == 0) part->ticket->work.queued_ns = e->rt->now_ns - part->ticket->submitted_ns;
    s->in_step = true;
    s->active->in_step = true;
}

uint32_t engine_take(engine *e, session *s, uint32_t limit) {
    uint32_t rows = session_pending(s), left = e->max_rows - e->batch.n_rows;
    if (wants_all_logits(s) && rows > SCORED_CHUNK) rows = SCORED_CHUNK;
    if (rows > limit) rows = limit;
    if (rows > left) rows = left;
    if (!acquire_pages(s, s->done + s->slice_cursor + rows)) {
        ticket *t = s->active;
        session_abort(s);
        release_pages(s, (s->done + CPU_KV_PAGE - 1) / CPU_KV_PAGE); /* what it found is of use to others */
        tenant_refuse(s->ctx->account, REALM_E_LIMIT_EXCEEDED, REALM_LIMIT_KV_BYTES, e->rt->kv.limit, 0, &t->error,
                      "the KV budget is used up: close sessions, or raise kv_bytes");
        ticket_finish(t, REALM_TICKET_FAILED);
        return 0;
    }
    add_rows(e, s, rows);
    return rows;
}

/* Empties the batch; its layers are those of the session that comes first. */
static void begin_batch(engine *e, const session *lead) {
    batch *b = &e->batch;
    b->n_rows = b->n_segments = b->n_out = 0;
    e->begun = false;
    e->spent_ns = 0;
    base_error_clear(&e->failure);
    b->layer_first = lead->slice_count == 0 ? 0 : lead->slice_first;
    b->layer_count = lead->slice_count == 0 ? e->plan->layer_count : lead->slice_count;
}

bool engine_next_batch(engine *e) {
    const session *first = schedule_lead(e);
    if (first == NULL) return false;
    session lead = *first; /* a copy: taking may fail, and somebody may free it */
    begin_batch(e, &lead);
    schedule_choose(e, &lead);
    return e->batch.n_rows > 0;
}

bool engine_next_express(engine *e) {
    engine *x = e->express;
    const session *first = schedule_lead_stream(e);
    if (first == NULL) return false;
    session lead = *first;
    x->lost = e->lost;
    begin_batch(x, &lead);
    schedule_choose_streams(e, &lead);
    return x->batch.n_rows > 0;
}

/* ---- computing: no lock held --------------------------------------------------------------------------------------------------------- */

/* Without a forward pass every row prefers one token that depends on its own token and position. */
static uint32_t fake_choice(const engine *e, uint32_t row) {
    return (e->batch.tokens[row] * 31u + e->batch.positions[row] * 7u + 3u) % e->plan->vocab_size;
}

static float log_probability(const engine *e, const float *logits, uint32_t token) {
    float max = 0.0f, sum = 0.0f;
    e->rt->ops.softmax_stats(logits, e->plan->vocab_size, &max, &sum);
    return logits[token] - max - logf(sum);
}

/* Leaves the token's logit where its log probability will be: see settle. */
static void draw(engine *e, step_part *part, const float *logits, uint32_t worker) {
    session *s = part->session;
    const ticket *t = part->ticket;
    bool ban = t->params.ignore_end != 0;
    sample_token_knowing(logits, e->plan->vocab_size, 0.0, s->tokens, s->submitted, &t->params, s->samples,
                         ban ? e->end_tokens : NULL, ban ? e->end_count : 0, &e->rt->scratch[worker], &part->sampled.id,
                         &part->sampled.logprob, &part->error);
    part->sampled.is_end = tokenizer_is_end(e->tok, part->sampled.id);
}

static void score_row(engine *e, step_part *part, const float *logits, uint32_t out) {
    ticket *t = part->ticket;
    const session *s = part->session;
    uint32_t position = e->batch.positions[e->batch.out_rows[out]];
    if (position + 1 >= s->submitted) return;
    t->scores[position + 1 - t->first_position] = log_probability(e, logits, s->tokens[position + 1]);
}

/* For sampling: copied here, on all threads, rather than with the lock held. */
static void keep_logits(const engine *e, const step_part *part, const float *logits) {
    session *s = part->session;
    memcpy(s->logits, logits, e->plan->vocab_size * sizeof *logits);
}

/* Whether a token is drawn from the part's last row of logits: now, or later by a guest. */
static bool is_drawn_from(const step_part *part) { return part->completes && part->outs > 0; }

/* What a part wants of one row of logits and can have without the lock. */
static void use_row(engine *e, step_part *part, const float *logits, uint32_t out, uint32_t worker) {
    bool last = part->completes && out + 1 == part->out0 + part->outs;
    if (last && part->ticket->kind != TICKET_GENERATE) keep_logits(e, part, logits);
    if (part->ticket->kind == TICKET_GENERATE) draw(e, part, logits, worker);
    if (part->ticket->kind == TICKET_SCORE) score_row(e, part, logits, out);
}

/* Of the i-th wanted row. */
static const float *logits_of(const engine *e, uint32_t i) {
    if (e->external != NULL) return e->external->logits + (size_t)i * e->plan->vocab_size;
    return executor_logits(e->executor, i);
}

static void use_logits(engine *e, step_part *part, uint32_t worker) {
    for (uint32_t out = part->out0; out < part->out0 + part->outs; out++) use_row(e, part, logits_of(e, out), out, worker);
}

static void weigh_logits(const engine *e, step_part *part) {
    if (is_drawn_from(part)) part->log_total = sample_log_total(logits_of(e, part->out0 + part->outs - 1), e->plan->vocab_size);
}

static void settle(step_part *part) {
    if (!is_drawn_from(part)) return;
    if (part->ticket->kind == TICKET_GENERATE) part->sampled.logprob = (float)((double)part->sampled.logprob - part->log_total);
    else part->session->log_total = part->log_total;
}

static void use_fake_logits(engine *e, step_part *part) {
    for (uint32_t out = part->out0; out < part->out0 + part->outs; out++) {
        float *favourite = &e->fake_logits[fake_choice(e, e->batch.out_rows[out])];
        *favourite = FAKE_LOGIT;
        use_row(e, part, e->fake_logits, out, 0);
        part->log_total = sample_log_total(e->fake_logits, e->plan->vocab_size);
        *favourite = 0.0f;
    }
}

/* Two tasks for each part, of about the same length: a session that decodes alone leaves no thread idle meanwhile. */
static void use_logits_task(void *arg, uint32_t index, uint32_t worker) {
    engine *e = arg;
    uint32_t i = index / 2;
    if (index % 2 == 0) weigh_logits(e, &e->parts[i]);
    else use_logits(e, &e->parts[i], e->batch.n_segments <= e->rt->threads ? i : worker);
}

static bool is_lost(const engine *e) { return e->lost != NULL && atomic_load(e->lost); }

bool engine_compute(engine *e, uint64_t budget) {
    if (is_lost(e)) return true;
    if (e->executor != NULL) {
        if (!e->begun && !executor_begin(e->executor, &e->batch)) {
            base_fail(&e->failure, REALM_E_OUT_OF_MEMORY, "out of memory: the step's page table");
        }
        e->begun = true;
        if (e->failure.code == REALM_OK && !executor_run(e->executor, budget, &e->rt->abort_step)) return false;
    }
    if (e->failure.code == REALM_OK && !atomic_load(&e->rt->abort_step)) engine_use_logits(e);
    return true;
}

/* Memory for drawing, made here because workers must not allocate: one for each part, or for each worker when they are fewer. */
static bool reserve_scratch(engine *e) {
    for (uint32_t i = 0; i < e->batch.n_segments && i < e->rt->threads; i++) {
        if (sample_scratch_reserve(&e->rt->scratch[i], e->plan->vocab_size, NULL) != REALM_OK) return false;
    }
    return true;
}

void engine_use_logits(engine *e) {
    bool real = e->executor != NULL || e->external != NULL;
    if (real && reserve_scratch(e)) {
        pool_run(e->rt->pool, use_logits_task, e, 2 * e->batch.n_segments);
    } else {
        for (uint32_t i = 0; i < e->batch.n_segments; i++) {
            if (!real) {
                use_fake_logits(e, &e->parts[i]);
                continue;
            }
            weigh_logits(e, &e->parts[i]);
            use_logits(e, &e->parts[i], 0); /* each part that draws fails by itself */
        }
    }
    for (uint32_t i = 0; i < e->batch.n_segments; i++) settle(&e->parts[i]);
}

bool engine_wanted(const engine *e) {
    for (uint32_t i = 0; i < e->batch.n_segments; i++) {
        const step_part *part = &e->parts[i];
        if (part->session->ctx != NULL && part->session->active == part->ticket) return true;
    }
    return false;
}

/* ---- completing: lock held --------------------------------------------------------------------------------------------------------------- */

static void register_pages(session *s) {
    while (!s->no_prefix && (s->registered + 1) * CPU_KV_PAGE <= s->done) {
        const kv_page *parent = s->registered == 0 ? NULL : s->pages[s->registered - 1];
        if (parent != NULL && parent->serial == 0) return; /* an equal page of another session leads there */
        kv_register(s->kv, s->pages[s->registered], parent, s->ctx->tenant, s->tokens + s->registered * CPU_KV_PAGE);
        s->registered++;
    }
}

static void copy_logits(engine *e, uint32_t out, float *to) {
    size_t bytes = e->plan->vocab_size * sizeof(float);
    if (e->executor != NULL || e->external != NULL) {
        memcpy(to, logits_of(e, out), bytes);
    } else {
        memset(to, 0, bytes);
        to[fake_choice(e, e->batch.out_rows[out])] = FAKE_LOGIT;
    }
}

/* A generation may not go on: the limit of the realm or its tenant leaves no position. */
static bool kv_used_up(const session *s, realm_error *err) {
    realm_context *ctx = s->ctx;
    uint64_t own = ctx->limits.kv_tokens, shared = ctx->account->limits.kv_tokens, limit = 0;
    if (own != 0 && ctx->kv_tokens >= own) limit = own;
    else if (shared != 0 && ctx->account->stats.kv_tokens >= shared) limit = shared;
    if (limit == 0) return false;
    context_refuse(ctx, REALM_LIMIT_KV_TOKENS, limit, err, "the limit of %llu KV tokens is used up", (unsigned long long)limit);
    return true;
}

/* generate: keeps the drawn token and goes on with it, or ends. */
static void advance_generate(const step_part *part) {
    session *s = part->session;
    ticket *t = part->ticket;
    if (part->error.code != REALM_OK) {
        session_abort(s);
        ticket_fail(t, (realm_status)part->error.code, part->error.message);
        return;
    }
    s->samples++;
    s->ctx->account->stats.tokens_generated++;
    t->tokens[t->produced++] = part->sampled;
    bool full = session_room(s) == 0;
    if (part->sampled.is_end || t->produced == t->max_tokens || full) {
        session_abort(s);
        ticket_finish(t, REALM_TICKET_READY);
    } else if (kv_used_up(s, &t->error)) {
        session_abort(s);
        ticket_finish(t, REALM_TICKET_FAILED);
    } else if (!reserve_tokens(s, s->submitted + 1)) {
        session_abort(s);
        ticket_fail(t, REALM_E_OUT_OF_MEMORY, "out of memory: the session's tokens");
    } else {
        s->tokens[s->submitted++] = part->sampled.id;
        context_hold(s->ctx, 1);
        ticket_progress(t);
    }
}

static void finish_session(const step_part *part) {
    session *s = part->session;
    ticket *t = part->ticket;
    if (t->kind == TICKET_GENERATE) {
        advance_generate(part);
        return;
    }
    rest(s);
    s->logits_valid = true;
    ticket_finish(t, REALM_TICKET_READY);
}

/* A chunk of a slice of layers: the tokens count as computed when the last layer has seen them all. */
static void advance_slice(engine *e, const step_part *part) {
    session *s = part->session;
    s->slice_cursor += part->rows;
    if (session_pending(s) > 0) return;
    s->slice_cursor = 0;
    s->slice_next = s->slice_first + s->slice_count;
    s->slice_count = 0;
    if (s->slice_next == e->plan->layer_count) {
        s->slice_next = 0;
        s->done = s->submitted;
        free_hidden(s);
        finish_session(part);
        return;
    }
    ticket *t = part->ticket;
    rest(s);
    ticket_finish(t, REALM_TICKET_READY);
}

static void advance(engine *e, const step_part *part) {
    session *s = part->session;
    ticket *t = part->ticket;
    if (s->slice_count != 0) {
        advance_slice(e, part);
        return;
    }
    if (t->kind == TICKET_LOGITS) {
        uint32_t vocab = e->plan->vocab_size, first = s->done - t->first_position;
        for (uint32_t i = 0; i < part->outs; i++) copy_logits(e, part->out0 + i, t->logits_out + (size_t)(first + i) * vocab);
    }
    s->done += part->rows;
    register_pages(s);
    if (s->done == s->submitted) finish_session(part);
}

/* Of the step that has just ended. */
static void count_work(const engine *e, const step_part *part) {
    ticket *t = part->ticket;
    realm_ticket_work *w = &t->work;
    w->steps++;
    w->rows += part->rows;
    w->step_ns += e->rt->last_step_ns;
    uint64_t since = e->rt->now_ns - t->submitted_ns - w->queued_ns;
    if (t->decodes) w->decode_ns = since - w->prefill_ns;
    else w->prefill_ns = since;
    if (part->completes) t->decodes = true;
}

void engine_complete(engine *e) {
    for (uint32_t i = 0; i < e->batch.n_segments; i++) {
        const step_part *part = &e->parts[i];
        session *s = part->session;
        ticket *t = part->ticket;
        s->in_step = t->in_step = false;
        count_work(e, part);
        bool wanted = s->ctx != NULL && s->active == t;
        if (wanted && e->failure.code != REALM_OK) {
            session_abort(s);
            ticket_fail(t, (realm_status)e->failure.code, e->failure.message);
        } else if (wanted && is_lost(e)) {
            session_abort(s);
            ticket_fail(t, REALM_E_IO, MODEL_LOST);
        } else if (wanted && !atomic_load(&e->rt->abort_step)) {
            advance(e, part);
        }
        if (s->ctx == NULL) session_free(s);
        else if (!wanted) drop_uncomputed(s);
        else if (s->active != NULL) schedule_add(s);
        if (t->ctx == NULL) ticket_free(t);
        else if (t->session == NULL) ticket_free_biases(t); /* it has ended */
    }
    e->batch.n_segments = 0;
}

/* ---- a lost device: lock held ------------------------------------------------------------------------------------------------------------ */

static void lose_session(session *s, realm_status code, const char *message) {
    ticket *t = s->active;
    session_abort(s);
    tenant_end(s);
    if (t != NULL) ticket_fail(t, code, message);
    release_pages(s, 0);
    context_hold(s->ctx, -(int64_t)s->done);
    s->kv_lost = s->kv_lost || s->done > 0;
    s->done = s->submitted = 0;
}

void engine_lose_pages(engine *e, realm_status code, const char *message) {
    for (realm_context *ctx = e->rt->contexts; ctx != NULL; ctx = ctx->next) {
        for (uint32_t slot = 0; slot < ctx->sessions.capacity; slot++) {
            session *s = handle_at(&ctx->sessions, slot);
            if (s != NULL && s->engine == e) lose_session(s, code, message);
        }
    }
    prefix_drop_all(e);
    for (uint32_t type = 0; type < 2; type++) {
        kv_forget(e->kv[type]);
        kv_forget_page_ops(e->kv[type]);
    }
}
