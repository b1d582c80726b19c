/* tenant.h: the account of each tenant: what all its contexts use together, and what they may. One table for each runtime.
 * Guarded by the runtime's lock; time is the runtime's now_ns, never a clock. Which tenant is served next is schedule.h's.
 *
 * A request is a session from its first work until it is closed, rewound to 0, or had no work for a second. It holds one of the
 * tenant's places meanwhile; requests that find none wait in line. A tenant that has used up its tokens is throttled: requests
 * that begin are refused, those that run wait. */
#ifndef REALM_TENANT_H
#define REALM_TENANT_H

#include "heap.h"

struct realm_runtime;
struct session;
struct flow;

typedef struct timer { /* something to do once `due` has come: a tenant's, or a session's deadline */
    heap_node place;
    uint64_t due;
    struct session *session; /* NULL: a tenant's */
} timer;

typedef struct tenant {
    uint64_t number;
    struct tenant *chain;         /* of its bucket */
    struct tenant *older, *newer; /* among those without contexts */
    bool throttled;               /* its flows are not in the engines' heaps */
    realm_tenant_limits limits;
    realm_tenant_stats stats;     /* with what is there now */
    uint64_t refused[REALM_LIMIT_COUNT];
    uint64_t second_full, minute_full; /* when either bucket of tokens is full again; tokens are paid in time */
    heap waiting;                 /* sessions whose request has no place yet */
    struct session *idle_first, *idle_last; /* requests that hold a place without work, longest first */
    uint64_t held_ns;             /* how long a request holds its place, smoothed */
    timer timer;
    struct flow *flows;           /* its work by engine */
    uint64_t tag, turn;           /* its place in line, and the last time it was served: schedule.c */
    uint64_t job_turn;            /* the last time a product of its host tensors was: runtime.c */
} tenant;

typedef struct tenant_table {
    tenant **buckets;             /* (bucket_count,) a power of two; NULL before the first tenant */
    uint32_t bucket_count, count;
    tenant *oldest, *newest;      /* tenants without contexts, by when the last one ended */
    uint32_t idle_count;
    uint64_t hash_seed;
    heap timers;
    uint32_t timer_count;         /* that may be in the heap at once */
} tenant_table;

void tenant_table_init(tenant_table *table, uint64_t hash_seed);
void tenant_table_free(tenant_table *table);
/* The account, or NULL where there is none. */
tenant *tenant_find(const tenant_table *table, uint64_t number);
/* The same, made where there is none; NULL when out of memory. */
tenant *tenant_get(tenant_table *table, uint64_t number, uint64_t now);

/* A context came or ended. */
void tenant_join(tenant_table *table, tenant *t);
void tenant_leave(tenant_table *table, tenant *t);

/* A session came or ended; false when there is no memory for its places in line. */
bool tenant_open_session(struct session *s, uint64_t deadline_ns);
void tenant_close_session(struct session *s);

/* Whether the session may begin, or go on with, a request now. */
realm_status tenant_check(struct session *s, realm_error *err);
/* It has work: true when its request has a place, else it waits for one and is handed to schedule_add later. */
bool tenant_begin(struct session *s);
/* It has no work any more; its request keeps the place for a second. */
void tenant_pause(struct session *s);
/* Its request is over. */
void tenant_end(struct session *s);

/* Pays for computed tokens; throttles a tenant that cannot. */
void tenant_pay(struct realm_runtime *rt, tenant *t, uint32_t tokens);
/* Counts a failure for a limit and writes it down. */
realm_status tenant_refuse(tenant *t, realm_status code, realm_limit limit, uint64_t value, uint64_t retry_after_ns,
                           realm_error *err, const char *message);

/* Does what has become due; the time of the next thing, UINT64_MAX: there is none. */
void tenant_advance(struct realm_runtime *rt);
uint64_t tenant_next_due(const tenant_table *table);

#endif
