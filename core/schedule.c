/* schedule.c: see schedule.h. A step is filled in two rounds. First those that decode one token: every tenant that streams gets a
 * row, and more up to its share of the step's time. Then what is left goes to the smallest tag: further decoders, and prompts in
 * chunks. The step's time is bounded by what its streams can bear: a stream may be slowed by others as its share says, so that
 * of two equal tenants a flood of one never doubles the time between the other's tokens. */
#include "schedule.h"

#include <math.h>
#include <stdlib.h>

#include "engine.h"

#define TAG_SCALE 65536u
enum {
    FIRST_CHUNK = 8,            /* rows of prompts in the first step beside a stream */
    STREAM_SLACK = 16,          /* tokens a stream may be ahead of prompts where there are more tenants than rows */
    PROMPT_ROWS_UNKNOWN = 64,   /* of prompts beside decoders, before any step was measured */
    PROMPT_ROWS_ALONE = 64,     /* of prompts at least, where nobody decodes */
};
#define PROMPT_STEP_NS 200e6    /* a step of prompts beside which others wait */
#define ALONE_STRETCH 4.0       /* of a tenant's streams by its own prompts */
#define SHARE_STRETCH 0.6      /* how much of what the others' shares allow is used: times vary */
#define CALM_TOLERANCE 1.1      /* between what the same stream bears in one step and the next */
#define CALM_NS 50000000u       /* streams that wait for their host are expected back for this long */
#define ROWS_IN_BASE 8.0        /* a step's own cost in rows, before more is known */
#define RATE_SLOWER 0.5
#define RATE_FASTER 0.3
#define RATE_SINGLE 0.1
#define COST_UNITS 3.0         /* scale of units in learning */
#define ATTENTION_COST 2.0      /* of a product in attention, beside one with weights */

/* ---- orders ----------------------------------------------------------------------------------------------------------------- */

bool session_before(const session *a, const session *b) {
    if (a->priority != b->priority) return a->priority > b->priority;
    uint64_t left = a->deadline_ns == 0 ? UINT64_MAX : a->deadline.due, right = b->deadline_ns == 0 ? UINT64_MAX : b->deadline.due;
    return left != right ? left < right : a->turn < b->turn;
}

static bool place_before(const heap_node *a, const heap_node *b) {
    return session_before(HEAP_OWNER(a, const session, place), HEAP_OWNER(b, const session, place));
}

/* Tags are compared by their difference: they may wrap around. */
static bool tenant_before(const tenant *a, const tenant *b) {
    if (a->tag != b->tag) return (int64_t)(a->tag - b->tag) < 0;
    return a->turn != b->turn ? a->turn < b->turn : a->number < b->number;
}

static bool decoders_before(const heap_node *a, const heap_node *b) {
    return tenant_before(HEAP_OWNER(a, const flow, decoders_place)->tenant, HEAP_OWNER(b, const flow, decoders_place)->tenant);
}

static bool prompts_before(const heap_node *a, const heap_node *b) {
    return tenant_before(HEAP_OWNER(a, const flow, prompts_place)->tenant, HEAP_OWNER(b, const flow, prompts_place)->tenant);
}

static flow *first_decoders(const line *l) {
    heap_node *first = heap_first(&l->decoders);
    return first == NULL ? NULL : HEAP_OWNER(first, flow, decoders_place);
}

static flow *first_prompts(const line *l) {
    heap_node *first = heap_first(&l->prompts);
    return first == NULL ? NULL : HEAP_OWNER(first, flow, prompts_place);
}

static flow *first_flow(const line *l) {
    flow *d = first_decoders(l), *p = first_prompts(l);
    if (d == NULL || p == NULL) return d != NULL ? d : p;
    return tenant_before(p->tenant, d->tenant) ? p : d;
}

/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

/* What rows cost beside each other, by their products; how long those take is learned. */
void schedule_init(engine *e) {
    const plan *p = e->plan;
    double heads = (double)p->head_count * p->head_dim, kv_heads = (double)p->head_count_kv * p->head_dim;
    double row = (double)p->layer_count * p->embedding_length * (2 * heads + 2 * kv_heads + 3.0 * p->feed_forward_length);
    e->line = (line){.decoders = {.before = decoders_before}, .prompts = {.before = prompts_before},
                     .cost = {.head_units = (double)p->vocab_size * p->embedding_length / row,
                              .position_units = ATTENTION_COST * 2 * heads * p->layer_count / row}};
    e->line.tag_cost = row < 1048576 ? 1 : (uint64_t)(row / 1048576);
}

void schedule_free(engine *e) {
    heap_free(&e->line.decoders);
    heap_free(&e->line.prompts);
}

static flow *find_flow(const tenant *t, const engine *e) {
    flow *f = t->flows;
    while (f != NULL && f->engine != e) f = f->next;
    return f;
}

static flow *make_flow(tenant *t, engine *e) {
    line *l = &e->line;
    if (!heap_reserve(&l->decoders, l->flows + 1) || !heap_reserve(&l->prompts, l->flows + 1)) return NULL;
    flow *f = calloc(1, sizeof *f);
    if (f == NULL) return NULL;
    *f = (flow){.engine = e, .tenant = t, .next = t->flows, .decoders = {.before = place_before}, .prompts = {.before = place_before}};
    t->flows = f;
    l->flows++;
    return f;
}

static void drop_flow(flow *f) {
    flow **link = &f->tenant->flows;
    while (*link != f) link = &(*link)->next;
    *link = f->next;
    f->engine->line.flows--;
    heap_free(&f->decoders);
    heap_free(&f->prompts);
    free(f);
}

bool schedule_open(session *s) {
    flow *f = find_flow(s->ctx->account, s->engine);
    if (f == NULL && (f = make_flow(s->ctx->account, s->engine)) == NULL) return false;
    if (!heap_reserve(&f->decoders, f->sessions + 1) || !heap_reserve(&f->prompts, f->sessions + 1)) {
        if (f->sessions == 0) drop_flow(f);
        return false;
    }
    f->sessions++;
    s->flow = f;
    return true;
}

void schedule_close(session *s) {
    schedule_remove(s);
    if (--s->flow->sessions == 0) drop_flow(s->flow);
    s->flow = NULL;
}

void schedule_request(session *s, bool begins) {
    flow *f = s->flow;
    uint32_t weight = f->tenant->limits.weight;
    if (begins && f->requests++ == 0) f->engine->line.weight += weight;
    if (!begins && --f->requests == 0) f->engine->line.weight -= weight;
}

/* ---- who is in line -------------------------------------------------------------------------------------------------------------- */

static void set_member(heap *h, heap_node *place, bool wanted) {
    if (wanted && place->place == 0) heap_add(h, place);
    if (!wanted) heap_remove(h, place);
}

/* A flow stands in the line of its engine while it has work and its tenant is not throttled. */
static void stand(flow *f) {
    line *l = &f->engine->line;
    set_member(&l->decoders, &f->decoders_place, f->decoders.count > 0 && !f->tenant->throttled && !f->through);
    set_member(&l->prompts, &f->prompts_place, f->prompts.count > 0 && !f->tenant->throttled);
}

static void reorder(tenant *t) {
    for (flow *f = t->flows; f != NULL; f = f->next) {
        heap_moved(&f->engine->line.decoders, &f->decoders_place);
        heap_moved(&f->engine->line.prompts, &f->prompts_place);
    }
}

/* Who comes into an empty place begins where the others are: having asked for little is no claim on the past. */
static void catch_up(flow *f) {
    const realm_runtime *rt = f->engine->rt;
    tenant *t = f->tenant;
    if (f->decoders.count + f->prompts.count > 0 || (int64_t)(rt->tag - t->tag) <= 0) return;
    t->tag = rt->tag;
    reorder(t);
}

void schedule_refresh(tenant *t) {
    for (flow *f = t->flows; f != NULL; f = f->next) stand(f);
}

void schedule_reweigh(tenant *t, uint32_t weight) {
    for (flow *f = t->flows; f != NULL; f = f->next) {
        if (f->requests > 0) f->engine->line.weight += (uint64_t)weight - t->limits.weight;
    }
    t->limits.weight = weight;
}

static void join_line(session *s) {
    heap_add(s->decoding ? &s->flow->decoders : &s->flow->prompts, &s->place);
    s->queued = true;
}

static void leave_line(session *s) {
    heap_remove(s->decoding ? &s->flow->decoders : &s->flow->prompts, &s->place);
    s->queued = false;
}

void schedule_add(session *s) {
    flow *f = s->flow;
    catch_up(f);
    s->decoding = session_pending(s) == 1;
    if (s->decoding) s->turn = ++s->engine->rt->turn_serial; /* in turn; prompts stay where they came */
    join_line(s);
    stand(f);
}

void schedule_remove(session *s) {
    if (!s->queued) return;
    leave_line(s);
    stand(s->flow);
}

bool schedule_has_work(const engine *e) { return e->line.decoders.count > 0 || e->line.prompts.count > 0; }

engine *schedule_next_engine(const realm_runtime *rt) {
    engine *best = NULL;
    for (engine *e = rt->engines; e != NULL; e = e->next) {
        if (!schedule_has_work(e)) continue;
        if (best == NULL || tenant_before(first_flow(&e->line)->tenant, first_flow(&best->line)->tenant)) best = e;
    }
    return best;
}

session *schedule_lead(const engine *e) {
    const flow *f = first_flow(&e->line);
    if (f == NULL) return NULL;
    heap_node *first = heap_first(first_decoders(&e->line) == f ? &f->decoders : &f->prompts);
    return HEAP_OWNER(first, session, place);
}

/* ---- what a step costs --------------------------------------------------------------------------------------------------------------- */

/* What others may add to is measured by itself: the bias above must not stretch it. */
static void observe_streams(engine *e, double took) {
    step_cost *c = &e->line.cost;
    double single = took - c->row_ns * (1.0 + c->head_units) * (e->batch.n_rows - 1);
    if (c->single_ns == 0.0) c->single_ns = fmax(single, 0.5 * took / e->batch.n_rows);
    single = fmin(fmax(single, 0.5 * c->single_ns), 1.5 * c->single_ns);
    c->single_ns += RATE_SINGLE * (single - c->single_ns);
}

/* Normalised least mean squares on (1, units), quicker to believe that steps are slow than that they are fast: too short a step
 * costs a little, too long a one is felt. One slow step, of whatever reason, counts as twice what was expected at most. */
void schedule_observe(engine *e, uint64_t took_ns) {
    step_cost *c = &e->line.cost;
    double x = e->line.units / COST_UNITS, took = (double)took_ns;
    e->rt->calm_spent_ns = e->line.calms ? 0.0 : e->rt->calm_spent_ns + took;
    if (c->row_ns == 0.0) {
        c->row_ns = took / (ROWS_IN_BASE + e->line.units);
        c->base_ns = ROWS_IN_BASE * c->row_ns;
        return;
    }
    double expected = c->base_ns + c->row_ns * e->line.units, miss = fmin(took - expected, expected);
    double gain = (miss > 0 ? RATE_SLOWER : RATE_FASTER) * miss / (1.0 + x * x);
    c->base_ns = fmax(took * 1e-3, c->base_ns + gain);
    c->row_ns = fmax(took * 1e-6, c->row_ns + gain * x / COST_UNITS);
    if (!e->line.prompted) observe_streams(e, took);
}

/* ---- choosing ------------------------------------------------------------------------------------------------------------------------- */

typedef struct choice {
    engine *e;
    const session *lead;
    uint64_t step;
    double limit_ns;   /* the streams met, and those expected back, bear no longer step */
    double fresh_ns;   /* the same of the streams met, */
    double alone_ns;   /* and what the one that bears least takes alone */
    uint64_t last_tag; /* the largest that was served */
    session *aside;    /* do not fit the batch: linked by idle_next, which nobody with work uses */
    flow *flows;       /* whose further decoders find no time */
} choice;

static uint32_t room(const choice *c) { return c->e->max_rows - c->e->batch.n_rows; }

static double spent_ns(const choice *c) { return c->e->line.cost.base_ns + c->e->line.cost.row_ns * c->e->line.units; }

/* Sessions of one batch run the same layers and, where the pages are elsewhere, on one pool. */
static bool fits(const choice *c, const session *s) {
    bool same_slice = s->slice_first == c->lead->slice_first && s->slice_count == c->lead->slice_count;
    return same_slice && (s->kv == c->lead->kv || c->e->external == NULL);
}

static session *first_fitting(choice *c, const flow *f, bool decoding) {
    const heap *h = decoding ? &f->decoders : &f->prompts;
    for (heap_node *first; (first = heap_first(h)) != NULL;) {
        session *s = HEAP_OWNER(first, session, place);
        if (fits(c, s)) return s;
        leave_line(s);
        s->idle_next = c->aside;
        c->aside = s;
    }
    return NULL;
}

static uint64_t tag_of(const tenant *t, const engine *e, uint32_t rows) {
    return rows * e->line.tag_cost * TAG_SCALE / t->limits.weight;
}

static void charge(choice *c, session *s, uint32_t rows) {
    engine *e = c->e;
    tenant *t = s->flow->tenant;
    uint64_t tag = tag_of(t, e, rows);
    if (s->slice_count != 0) tag = tag * s->slice_count / e->plan->layer_count;
    if ((int64_t)(t->tag - c->last_tag) > 0) c->last_tag = t->tag;
    t->tag += tag + 1;
    t->turn = ++e->rt->turn_serial;
    reorder(t);
    if (rows > 1 || s->samples == 0) t->stats.tokens_prompt += rows;
    if (s->unserved) t->stats.waited_ns += e->rt->now_ns - s->arrived_ns;
    s->unserved = false;
    tenant_pay(e->rt, t, rows);
}

/* Of `rows` more of a session, the first at this position. */
static double units_of(const line *l, uint32_t position, uint32_t rows, uint32_t outs) {
    return rows * (1.0 + l->cost.position_units * (position + rows / 2.0)) + outs * l->cost.head_units;
}

/* Rows of the flow's first session, at most `most`; 0 when it had none that fit or found no memory. */
static uint32_t take(choice *c, flow *f, bool decoding, uint32_t most) {
    session *s = first_fitting(c, f, decoding);
    uint32_t rows = 0;
    if (s != NULL) {
        leave_line(s);
        rows = engine_take(c->e, s, most);
    }
    if (rows > 0) {
        if (!decoding) c->e->line.prompted = true;
        const batch *b = &c->e->batch;
        c->e->line.units += units_of(&c->e->line, b->segments[b->n_segments - 1].pos0, rows, c->e->parts[b->n_segments - 1].outs);
        charge(c, s, rows);
    }
    stand(f);
    return rows;
}

static bool is_calm(const realm_runtime *rt) { return rt->paused > 0 && rt->now_ns < rt->calm_until; }

/* The first time a step comes to a tenant that streams: how long may the step be? As long as the tenant's own streams would take
 * alone, stretched by what the others' shares are beside its own. */
static void meet(choice *c, flow *f) {
    const line *l = &c->e->line;
    f->step = c->step;
    f->taken = 0;
    double others = (double)l->weight / f->tenant->limits.weight - 1.0;
    double stretch = others <= 0.0 ? ALONE_STRETCH : 1.0 + SHARE_STRETCH * others;
    double single = l->cost.single_ns > 0.0 ? l->cost.single_ns : l->cost.base_ns + l->cost.row_ns;
    double alone = single + l->cost.row_ns * (1.0 + l->cost.head_units) * (f->decoders.count - 1);
    if (alone * stretch >= c->fresh_ns) return;
    c->fresh_ns = alone * stretch;
    c->alone_ns = alone;
    bool awaited = is_calm(c->e->rt) && c->fresh_ns <= c->e->rt->calm_limit_ns * CALM_TOLERANCE;
    if (awaited) c->limit_ns = fmax(alone, c->fresh_ns - c->e->rt->calm_spent_ns);
    else c->limit_ns = fmin(c->limit_ns, c->fresh_ns);
}

/* How many of a tenant's streams go before everything else: all when it is alone, else its share of the step's rows. Where that
 * is less than one, the tenants that wait with prompts must not fall behind. */
static uint32_t allowance(const choice *c, const flow *f) {
    const line *l = &c->e->line;
    uint32_t weight = f->tenant->limits.weight;
    if (l->weight <= weight || l->cost.row_ns == 0.0) return UINT32_MAX;
    double rows = fmin((c->limit_ns - l->cost.base_ns) / (l->cost.row_ns * (1.0 + l->cost.head_units)), c->e->max_rows);
    double share = rows * weight / (double)l->weight;
    if (share >= 1.0) return (uint32_t)share;
    const flow *p = first_prompts(l);
    uint64_t slack = tag_of(f->tenant, c->e, STREAM_SLACK);
    return p != NULL && (int64_t)(f->tenant->tag - p->tenant->tag) > (int64_t)slack ? 0 : 1;
}

static void set_aside(flow **list, flow *f) {
    f->through = true;
    f->aside = *list;
    *list = f;
    stand(f);
}

static void return_all(flow *f) {
    for (; f != NULL; f = f->aside) {
        f->through = false;
        stand(f);
    }
}

static void choose_decoders(choice *c) {
    line *l = &c->e->line;
    flow *done = NULL;
    uint32_t kept = l->prompts.count > 0 ? (c->e->max_rows + 3) / 4 : 0; /* of a full step, for who waits with a prompt */
    for (flow *f; room(c) > kept && (f = first_decoders(l)) != NULL;) {
        if (f->step != c->step) meet(c, f);
        if (f->taken < allowance(c, f)) {
            f->taken += take(c, f, true, 1);
            continue;
        }
        set_aside(&done, f);
    }
    return_all(done);
}

/* How many rows of the first prompt fit into what is left of the step's time. */
static uint32_t prompt_rows(const choice *c, const flow *f, double limit_ns) {
    const line *l = &c->e->line;
    const session *s = HEAP_OWNER(heap_first(&f->prompts), session, place);
    if (l->cost.row_ns == 0.0) return 0;
    double each = l->cost.row_ns * units_of(l, s->done + s->slice_cursor, 1, 0), left = limit_ns - spent_ns(c);
    if (left >= each * room(c)) return room(c);
    return left <= 0.0 ? 0 : (uint32_t)(left / each);
}

/* The end of a step's time for prompts; *least of their rows are taken all the same, so that all come forward. */
static double prompt_limit(const choice *c, uint32_t *least) {
    const line *l = &c->e->line;
    const flow *f = first_prompts(l);
    *least = 1;
    if (l->cost.row_ns == 0.0) {
        *least = c->e->batch.n_rows > 0 ? PROMPT_ROWS_UNKNOWN : c->e->max_rows;
        return 0.0;
    }
    if (c->limit_ns < INFINITY) return fmin(c->limit_ns, fmax(PROMPT_STEP_NS, 1.5 * spent_ns(c)));
    *least = PROMPT_ROWS_ALONE;
    return f != NULL && l->weight > f->tenant->limits.weight ? PROMPT_STEP_NS : INFINITY;
}

/* Beside streams the chunk grows step by step: where the next prompt's rows are dearer than expected, one step tells. */
static uint32_t chunk_limit(const choice *c) {
    const line *l = &c->e->line;
    if (c->limit_ns == INFINITY || l->cost.row_ns == 0.0) return c->e->max_rows;
    uint32_t rows = l->chunk == 0 ? FIRST_CHUNK : l->chunk + l->chunk / 4 + 1, streams = c->e->batch.n_rows;
    return rows > streams ? rows : streams;
}

/* Of one tenant, streams come first; but every other step brings one of its prompts forward, however few rows there are. */
static bool streams_first(const choice *c, const flow *d, const flow *p, uint32_t prompts) {
    if (d->tenant == p->tenant) return prompts > 0 || c->step % 2 == 0;
    return !tenant_before(p->tenant, d->tenant);
}

static void choose_rest(choice *c) {
    line *l = &c->e->line;
    uint32_t least, prompts = 0, chunk = chunk_limit(c);
    double limit_ns = prompt_limit(c, &least);
    while (room(c) > 0) {
        flow *d = first_decoders(l), *p = first_prompts(l);
        if (d != NULL && (p == NULL || streams_first(c, d, p, prompts))) {
            if (c->e->batch.n_rows > 0 && spent_ns(c) + l->cost.row_ns > c->limit_ns) {
                set_aside(&c->flows, d); /* no time for more of them */
                continue;
            }
            take(c, d, true, 1);
            continue;
        }
        uint32_t most = p == NULL ? 0 : prompt_rows(c, p, limit_ns);
        if (p != NULL && most < least) most = least;
        if (most > chunk - prompts) most = chunk - prompts;
        if (most == 0) break;
        uint32_t taken = take(c, p, false, most);
        least = taken < least ? least - taken : 0;
        prompts += taken;
    }
    l->chunk = c->limit_ns == INFINITY ? 0 : prompts > 0 ? prompts : l->chunk;
}

static void put_back(choice *c) {
    for (session *s = c->aside, *next; s != NULL; s = next) {
        next = s->idle_next;
        s->idle_next = NULL;
        join_line(s);
        stand(s->flow);
    }
    return_all(c->flows);
}

/* Where newcomers begin: beside the first of those that were left waiting, or where nobody was, behind all that were served. */
static void move_on(choice *c) {
    realm_runtime *rt = c->e->rt;
    const flow *first = first_flow(&c->e->line);
    uint64_t tag = first != NULL ? first->tenant->tag : c->last_tag;
    if ((int64_t)(tag - rt->tag) > 0) rt->tag = tag;
}

/* The tightest bound among streams is remembered while they are away: between two tokens their hosts have the word. */
static void remember_calm(choice *c) {
    realm_runtime *rt = c->e->rt;
    c->e->line.calms = c->fresh_ns < INFINITY && (!is_calm(rt) || c->fresh_ns <= rt->calm_limit_ns * CALM_TOLERANCE);
    if (!c->e->line.calms) return;
    rt->calm_limit_ns = c->fresh_ns;
    rt->calm_alone_ns = c->alone_ns;
    rt->calm_until = rt->now_ns + CALM_NS + 4 * rt->last_step_ns;
}

void schedule_choose(engine *e, const session *lead) {
    realm_runtime *rt = e->rt;
    choice c = {.e = e, .lead = lead, .step = ++rt->choice_serial, .fresh_ns = INFINITY, .last_tag = rt->tag,
                .limit_ns = INFINITY};
    if (is_calm(rt)) c.limit_ns = fmax(0.0, rt->calm_limit_ns - rt->calm_alone_ns - rt->calm_spent_ns);
    e->line.units = 0.0;
    e->line.prompted = false;
    choose_decoders(&c);
    choose_rest(&c);
    put_back(&c);
    move_on(&c);
    remember_calm(&c);
}
