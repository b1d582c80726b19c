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
    uint64_t step;                   /* the last one that looked at it, */
    uint32_t taken;                  /* and how many of its decoders that took */
    bool through;                    /* the step takes no more of them now: */
    struct flow *aside;              /* in a list of such flows */
} flow;

/* What the steps of an engine cost, learned from their times: base_ns + row_ns * units. */
typedef struct step_cost {
    double base_ns, row_ns;
    double single_ns;                /* of a step of one stream, from steps without prompts */
    double head_units;               /* of a row whose logits are wanted, beside its own 1 */
    double position_units;           /* of one position a row attends to */
} step_cost;

/* An engine's part of the schedule. */
typedef struct line {
    heap decoders, prompts;          /* of flows */
    uint32_t flows;
    uint64_t weight;                 /* of the tenants with requests here */
    uint64_t tag_cost;               /* of one row, so that models of all sizes stand in one line */
    step_cost cost;
    double units;                    /* of the batch just chosen */
    bool prompted;                   /* it has rows of prompts */
    bool calms;                      /* it has the stream that bears least */
    uint32_t chunk;                  /* rows of prompts in the last step that streams bounded */
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
/* The session that comes first: its layers are what the step runs. */
struct session *schedule_lead(const struct engine *e);
/* Chooses the rows of a step beside the lead (a copy), and takes them by engine_take. */
void schedule_choose(struct engine *e, const struct session *lead);
/* The step took this long. */
void schedule_observe(struct engine *e, uint64_t took_ns);

#endif
