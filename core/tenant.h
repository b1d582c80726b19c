/* tenant.h: the account of each tenant: what all its contexts use together, and what they may. One table for each runtime.
 * The runtime's lock guards it; time is an argument. Which tenant is served next is schedule.h's. */
#ifndef REALM_TENANT_H
#define REALM_TENANT_H

#include "base.h"

typedef struct tenant {
    uint64_t number;
    struct tenant *chain;         /* of its bucket */
    struct tenant *older, *newer; /* among those without contexts */
    bool limited;                 /* by realm_tenant_set_limits: then the weight of a context does not count */
    realm_tenant_limits limits;
    realm_tenant_stats stats;     /* with what is there now */
    uint64_t refused[REALM_LIMIT_COUNT];
} tenant;

typedef struct tenant_table {
    tenant **buckets;             /* (bucket_count,) a power of two; NULL before the first tenant */
    uint32_t bucket_count, count;
    tenant *oldest, *newest;      /* tenants without contexts, by when the last one ended */
    uint32_t idle_count;
    uint64_t hash_seed;
} tenant_table;

/* The account, or NULL where there is none. */
tenant *tenant_find(const tenant_table *table, uint64_t number);
/* The same, made where there is none; NULL when out of memory. */
tenant *tenant_get(tenant_table *table, uint64_t number, uint64_t now);
void tenant_table_free(tenant_table *table);

/* A context came or ended. */
void tenant_join(tenant_table *table, tenant *t);
void tenant_leave(tenant_table *table, tenant *t);

/* Counts a failure for a limit and writes it down. */
realm_status tenant_refuse(tenant *t, realm_status code, realm_limit limit, uint64_t value, uint64_t retry_after_ns,
                           realm_error *err, const char *message);

#endif
