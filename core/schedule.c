/* schedule.c: see schedule.h. There are two kinds of work. *Streams* are the sessions that decode of tenants that stream a little:
 * they take short steps of their own. The *rest* are prompts and the streams of crowds, of tenants with many requests at once: large
 * steps, because those are cheap, computed in slices. Between two slices the streams have their steps: the rest runs for a
 * third of what a step of the streams takes (if the tenants' weights are equal), then the streams run again. So nobody has to know what
 * a row of a prompt costs, and what one tenant submits never doubles the time between another's tokens.
 *
 * An executor outside the core cannot be interrupted. There streams and rest share a step, and the rest's rows follow from the
 * times of the steps before. */
#include "schedule.h"

#include <math.h>
#include <stdlib.h>

#include "engine.h"

#define TAG_SCALE 65536u
enum {
    CROWD = 2,                  /* requests at once make a tenant a crowd where there are more, for a mean weight */
    STREAM_SLACK = 16,          /* tokens a stream may be ahead of prompts where there are more tenants than rows */
    REST_ROWS = 128,            /* of a step that others wait for: larger ones are hardly cheaper */
    FIRST_CHUNK = 64,           /* of the rest beside streams where steps cannot be interrupted; and the fewest */
    LEAST_CHUNK = 8,
};
#define SHARE_STRETCH 0.35      /* how much of what the others' shares allow is used: times vary, and caches are cold after a slice */
#define ALONE_STRETCH 3.0       /* of a tenant's streams by its own prompts */
#define LOOKS 4                 /* at the streams in a slice */
#define LOOK_MIN_NS 50e3
#define LOOK_MAX_NS 1e6
#define REST_STEP_NS 200e6      /* a step of the rest that cannot be interrupted, and beside which others wait */
#define MORE_STREAMS 4          /* so much shorter is a slice while others stream that found no room in the step before */
#define RATE 0.1                /* of learning */
#define CHUNK_GROWTH 1.25

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

static flow *first_decoders(const heap *h) {
    heap_node *first = heap_first(h);
    return first == NULL ? NULL : HEAP_OWNER(first, flow, decoders_place);
}

static flow *first_prompts(const line *l) {
    heap_node *first = heap_first(&l->prompts);
    return first == NULL ? NULL : HEAP_OWNER(first, flow, prompts_place);
}

static flow *earlier(flow *a, flow *b) {
    if (a == NULL || b == NULL) return a != NULL ? a : b;
    return tenant_before(b->tenant, a->tenant) ? b : a;
}

static flow *first_rest(const line *l) { return earlier(first_decoders(&l->crowds), first_prompts(l)); }
static flow *first_flow(const line *l) { return earlier(first_decoders(&l->streams), first_rest(l)); }

/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

void schedule_init(engine *e) {
    const plan *p = e->plan;
    double heads = (double)p->head_count * p->head_dim, kv_heads = (double)p->head_count_kv * p->head_dim;
    double row = (double)p->layer_count * p->embedding_length * (2 * heads + 2 * kv_heads + 3.0 * p->feed_forward_length);
    e->line = (line){.streams = {.before = decoders_before}, .crowds = {.before = decoders_before},
                     .prompts = {.before = prompts_before}, .row_products = row, .chunk = FIRST_CHUNK};
    e->line.tag_cost = row < 1048576 ? 1 : (uint64_t)(row / 1048576);
}

void schedule_free(engine *e) {
    heap_free(&e->line.streams);
    heap_free(&e->line.crowds);
    heap_free(&e->line.prompts);
}

static flow *find_flow(const tenant *t, const engine *e) {
    flow *f = t->flows;
    while (f != NULL && f->engine != e) f = f->next;
    return f;
}

static flow *make_flow(tenant *t, engine *e) {
    line *l = &e->line;
    bool fits = heap_reserve(&l->streams, l->flows + 1) && heap_reserve(&l->crowds, l->flows + 1);
    if (!fits || !heap_reserve(&l->prompts, l->flows + 1)) return NULL;
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

/* ---- who is in line -------------------------------------------------------------------------------------------------------------- */

static void set_member(heap *h, heap_node *place, bool wanted) {
    if (wanted && place->place == 0) heap_add(h, place);
    if (!wanted) heap_remove(h, place);
}

static heap *decoders_of(flow *f) { return f->crowd ? &f->engine->line.crowds : &f->engine->line.streams; }

/* Whether it has more requests than a tenant of its weight streams with beside the others. */
static bool is_crowd(const flow *f) {
    const line *l = &f->engine->line;
    return l->busy > 1 && f->requests * l->weight > CROWD * (uint64_t)f->tenant->limits.weight * l->busy;
}

/* A flow stands in the line of its engine while it has work and its tenant is not throttled. */
static void stand(flow *f) {
    bool crowd = is_crowd(f), throttled = f->tenant->throttled;
    if (crowd != f->crowd) heap_remove(decoders_of(f), &f->decoders_place);
    f->crowd = crowd;
    set_member(decoders_of(f), &f->decoders_place, f->decoders.count > 0 && !throttled);
    set_member(&f->engine->line.prompts, &f->prompts_place, f->prompts.count > 0 && !throttled);
}

static void reorder(tenant *t) {
    for (flow *f = t->flows; f != NULL; f = f->next) {
        heap_moved(decoders_of(f), &f->decoders_place);
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

void schedule_request(session *s, bool begins) {
    flow *f = s->flow;
    line *l = &f->engine->line;
    if (begins ? f->requests++ == 0 : --f->requests == 0) {
        l->weight += begins ? (uint64_t)f->tenant->limits.weight : -(uint64_t)f->tenant->limits.weight;
        l->busy += begins ? 1 : -1;
    }
    stand(f);
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

static bool is_interruptible(const engine *e) { return e->express != NULL; }

bool schedule_has_work(const engine *e) { return first_flow(&e->line) != NULL; }

engine *schedule_next_engine(const realm_runtime *rt) {
    engine *best = NULL;
    for (engine *e = rt->engines; e != NULL; e = e->next) {
        if (!schedule_has_work(e)) continue;
        if (best == NULL || tenant_before(first_flow(&e->line)->tenant, first_flow(&best->line)->tenant)) best = e;
    }
    return best;
}

engine *schedule_next_streams(const realm_runtime *rt) {
    engine *best = NULL;
    for (engine *e = rt->engines; e != NULL; e = e->next) {
        const flow *f = first_decoders(&e->line.streams);
        if (f == NULL || !is_interruptible(e)) continue;
        if (best == NULL || tenant_before(f->tenant, first_decoders(&best->line.streams)->tenant)) best = e;
    }
    return best;
}

static uint64_t tag_of(const tenant *t, const engine *e, uint32_t rows) {
    return rows * e->line.tag_cost * TAG_SCALE / t->limits.weight;
}

/* Where there are more tenants than rows, those that wait with prompts must not fall behind. */
static bool is_ahead(const engine *e, const flow *f) {
    const line *l = &e->line;
    const flow *p = first_prompts(l);
    uint32_t rows = is_interruptible(e) ? e->express->max_rows : e->max_rows;
    if (p == NULL || l->weight <= (uint64_t)f->tenant->limits.weight * rows) return false;
    return (int64_t)(f->tenant->tag - p->tenant->tag) > (int64_t)tag_of(f->tenant, e, STREAM_SLACK);
}

/* The nearest look at them tells so. */
bool schedule_streams_due(const engine *e) {
    const realm_runtime *rt = e->rt;
    const flow *f = first_decoders(&e->line.streams);
    return f != NULL && rt->apart_ns + rt->slice_ns / (2 * LOOKS) >= rt->slice_ns && !is_ahead(e, f);
}

/* Whether its next step is of the rest alone. */
static bool goes_apart(const engine *e) { return is_interruptible(e) && first_rest(&e->line) != NULL && !schedule_streams_due(e); }

session *schedule_lead(const engine *e) {
    const line *l = &e->line;
    flow *s = first_decoders(&l->streams), *d = first_decoders(&l->crowds), *rest = first_rest(l);
    bool streams = is_interruptible(e) ? !goes_apart(e) : earlier(s, rest) == s;
    const flow *f = streams ? s : rest;
    if (f == NULL) return NULL;
    return HEAP_OWNER(heap_first(streams || rest == d ? &f->decoders : &f->prompts), session, place);
}

session *schedule_lead_stream(const engine *e) {
    const flow *f = first_decoders(&e->line.streams);
    return f == NULL ? NULL : HEAP_OWNER(heap_first(&f->decoders), session, place);
}

/* ---- what steps take ------------------------------------------------------------------------------------------------------------------ */

/* A single slow step, of whatever reason, counts as half as long again as usual. */
static double learn(double known, double found) {
    return known == 0.0 ? found : known + RATE * (fmin(fmax(found, 0.5 * known), 1.5 * known) - known);
}

void schedule_observe(engine *e, uint64_t took_ns) {
    line *l = e->main != NULL ? &e->main->line : &e->line;
    const taken *t = &e->line.taken;
    if (t->rest == 0) {
        l->streams_ns = learn(l->streams_ns, (double)took_ns);
    } else if (is_interruptible(e)) {
        if (l->product_ns == 0.0) l->product_ns = (double)(took_ns + 1) / (t->rest * l->row_products); /* it was not sliced */
    } else if (t->rest == l->chunk) {
        double right = l->chunk * fmin(fmax(t->bears_ns / (double)(took_ns + 1), 0.5), CHUNK_GROWTH) + 0.5;
        l->chunk = (uint32_t)fmin(fmax(right, LEAST_CHUNK), e->max_rows);
    }
}

void schedule_observe_slice(engine *e, uint64_t budget, uint64_t took_ns) {
    e->line.product_ns = learn(e->line.product_ns, (double)took_ns / (double)budget);
}

uint64_t schedule_look(const engine *e) {
    const line *l = &e->line;
    if (!is_interruptible(e) || l->taken.rest == 0) return 0;
    double look_ns = fmin(fmax((double)e->rt->slice_ns / LOOKS, LOOK_MIN_NS), LOOK_MAX_NS);
    return 1 + (uint64_t)(l->product_ns == 0.0 ? l->row_products : look_ns / l->product_ns);
}

/* ---- choosing ------------------------------------------------------------------------------------------------------------------------- */

typedef struct choice {
    engine *e, *into;      /* whose line, and whose batch: itself or its express */
    const session *lead;
    uint64_t step;
    uint64_t met, heaviest; /* weights of the tenants whose streams were met: all together, and the largest */
    uint64_t last_tag;     /* the largest that was served */
    session *aside;        /* do not fit the batch: linked by idle_next, which nobody with work uses */
} choice;

static uint32_t room(const choice *c) { return c->into->max_rows - c->into->batch.n_rows; }

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

/* Rows of the flow's first session, at most `most`; 0 when it had none that fit or found no memory. */
static uint32_t take(choice *c, flow *f, bool decoding, uint32_t most) {
    session *s = first_fitting(c, f, decoding);
    uint32_t rows = 0;
    if (s != NULL) {
        leave_line(s);
        rows = engine_take(c->into, s, most);
    }
    if (rows > 0) charge(c, s, rows);
    stand(f);
    return rows;
}

static void meet(choice *c, flow *f) {
    uint64_t weight = f->tenant->limits.weight;
    if (f->step == c->step) return;
    f->step = c->step;
    c->met += weight;
    if (weight > c->heaviest) c->heaviest = weight;
}

static void choose_streams(choice *c) {
    line *l = &c->e->line;
    bool shared = !is_interruptible(c->e) && first_rest(l) != NULL;
    uint32_t kept = shared ? (c->into->max_rows + 3) / 4 : 0; /* of a full step */
    for (flow *f; room(c) > kept && (f = first_decoders(&l->streams)) != NULL && !is_ahead(c->e, f);) {
        meet(c, f);
        c->into->line.taken.streams += take(c, f, true, 1);
    }
}

/* How long the rest may run beside the streams that were met: as the shares of the others say. A tenant slows itself down more. */
static double slice_of(const choice *c) {
    const line *l = &c->e->line;
    if (l->busy <= 1) return ALONE_STRETCH * l->streams_ns;
    double others = l->weight > c->met ? (double)(l->weight - c->met) / (double)c->heaviest : 1.0;
    return SHARE_STRETCH * others * l->streams_ns;
}

/* How many rows of the rest. */
static uint32_t chunk_of(choice *c) {
    const line *l = &c->e->line;
    const realm_runtime *rt = c->e->rt;
    bool streams = c->met > 0 || l->streams.count > 0 || rt->paused > 0;
    if (!streams && l->busy <= 1) return c->e->max_rows;
    if (is_interruptible(c->e)) return REST_ROWS;
    c->e->line.taken.bears_ns = streams && l->streams_ns > 0.0 ? fmin(l->streams_ns + slice_of(c), REST_STEP_NS) : REST_STEP_NS;
    return l->chunk;
}

/* Of one tenant, streams come first, but a part is left for its prompts. */
static bool streams_first(const flow *d, const flow *p, uint32_t taken, uint32_t most) {
    return d->tenant == p->tenant ? 4 * (taken + 1) <= 3 * most : !tenant_before(p->tenant, d->tenant);
}

static void choose_rest(choice *c) {
    const line *l = &c->e->line;
    uint32_t most = chunk_of(c), taken = 0;
    if (most > room(c)) most = room(c);
    while (taken < most) {
        flow *d = first_decoders(&l->crowds), *p = first_prompts(l);
        if (d == NULL && p == NULL) break;
        bool stream = d != NULL && (p == NULL || streams_first(d, p, taken, most));
        taken += take(c, stream ? d : p, stream, stream ? 1 : most - taken);
    }
    c->e->line.taken.rest = taken;
}

static void put_back(choice *c) {
    for (session *s = c->aside, *next; s != NULL; s = next) {
        next = s->idle_next;
        s->idle_next = NULL;
        join_line(s);
        stand(s->flow);
    }
}

/* Where newcomers begin: beside the first of those that were left waiting, or where nobody was, behind all that were served. */
static void move_on(choice *c) {
    realm_runtime *rt = c->e->rt;
    const flow *first = first_flow(&c->e->line);
    uint64_t tag = first != NULL ? first->tenant->tag : c->last_tag;
    if ((int64_t)(tag - rt->tag) > 0) rt->tag = tag;
}

static void choose(engine *e, engine *into, const session *lead, bool streams, bool rest) {
    realm_runtime *rt = e->rt;
    choice c = {.e = e, .into = into, .lead = lead, .step = ++rt->choice_serial, .last_tag = rt->tag, .heaviest = 1};
    into->line.taken = (taken){0};
    if (streams) choose_streams(&c);
    if (rest) choose_rest(&c);
    put_back(&c);
    move_on(&c);
    if (into->line.taken.streams == 0 || into->line.taken.rest > 0) return;
    double slice_ns = fmin(slice_of(&c), REST_STEP_NS);
    rt->slice_ns = (uint64_t)(e->line.streams.count > 0 ? slice_ns / MORE_STREAMS : slice_ns);
}

void schedule_choose(engine *e, const session *lead) {
    bool apart = goes_apart(e);
    choose(e, e, lead, !apart, apart || !is_interruptible(e));
}

void schedule_choose_streams(engine *e, const session *lead) { choose(e, e->express, lead, true, false); }
