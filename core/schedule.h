/* schedule.h: which rows are computed next. Work is kept by *flow*, the sessions of one tenant in one engine: those that decode one
 * token, and those with more rows (prompts). Tenants are served by start-time fair queueing: each has a tag that grows by what was
 * computed for it over its weight, and the smallest tag comes first, over all engines. Guarded by the runtime's lock. */
#ifndef REALM_SCHEDULE_H
#define REALM_SCHEDULE_H

#include "heap.h"
#include "tenant.h"

struct engine;
struct realm_runtime;
struct session;

enum { SCHEDULE_MAX_WEIGHT = 10000 };

typedef struct flow {
    struct engine *engine;
    tenant *tenant;
    struct flow *next;               /* of the tenant */
    uint32_t sessions, requests;     /* open; requests that hold a place */
    heap decoders, prompts;          /* of sessions with work that are not in a step */
    heap_node decoders_place, prompts_place; /* in the engine's heaps of flows */
    bool crowd;                      /* its decoders are in the heap of crowds */
    uint64_t step;                   /* the last one that looked at it */
} flow;

/* What a step was filled with. */
typedef struct taken {
    uint32_t streams, rest;          /* rows */
    double bears_ns;                 /* how long it may take, where it cannot be interrupted */
} taken;

/* An engine's part of the schedule. */
typedef struct line {
    heap streams, crowds, prompts;   /* of flows: decoders, of many requests or not, and prompts */
    uint32_t flows, busy;            /* all; with requests */
    uint64_t weight;                 /* of the tenants with requests here */
    uint64_t tag_cost;               /* of one row, so that models of all sizes stand in one line */
    double row_products;             /* multiply-adds of one row */
    double streams_ns, product_ns;   /* what a step of streams takes, and a multiply-add of the rest; 0: not known yet */
    uint32_t chunk;                  /* rows of the rest beside streams, where steps cannot be interrupted */
    taken taken;                     /* an express has its own; the other fields are those of its engine */
} line;

void schedule_init(struct engine *e);
void schedule_free(struct engine *e);
/* A session came (false: no memory) or ended. */
bool schedule_open(struct session *s);
void schedule_close(struct session *s);

/* Its request got its place, or lost it: its tenant counts among those that share the engine. */
void schedule_request(struct session *s, bool begins);
/* The session has rows to compute and is in no step; or none any more. */
void schedule_add(struct session *s);
void schedule_remove(struct session *s);
/* The tenant's throttling or weight has changed. */
void schedule_refresh(tenant *t);
void schedule_reweigh(tenant *t, uint32_t weight);

bool schedule_has_work(const struct engine *e);
/* The engine whose turn it is; NULL: nobody has work. */
struct engine *schedule_next_engine(const struct realm_runtime *rt);
/* The engine whose streams come first, of those whose steps can be interrupted for them; NULL: nobody streams there. */
struct engine *schedule_next_streams(const struct realm_runtime *rt);
/* Whether streams of the engine have waited long enough for the rest. */
bool schedule_streams_due(const struct engine *e);
/* The session that comes first, of all or of the streams: its layers are what the step runs. */
struct session *schedule_lead(const struct engine *e);
struct session *schedule_lead_stream(const struct engine *e);
/* Chooses the rows of a step beside the lead (a copy), and takes them by engine_take. */
void schedule_choose(struct engine *e, const struct session *lead);
/* The same of a step of streams, for e->express, between the slices of another. */
void schedule_choose_streams(struct engine *e, const struct session *lead);
/* How much of the step to compute before looking for streams, in multiply-adds; 0: all, it is not to be interrupted. */
uint64_t schedule_look(const struct engine *e);
/* The step took this long; or so much of one, and it goes on. */
void schedule_observe(struct engine *e, uint64_t took_ns);
void schedule_observe_slice(struct engine *e, uint64_t budget, uint64_t took_ns);

#endif
