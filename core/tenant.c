/* tenant.c: see tenant.h. Accounts hang in a hash table; one whose contexts have ended is kept for a while, so that closing and
 * coming back is no way around a rate, and forgotten when many others have ended after it. */
#include "tenant.h"

#include <stdlib.h>

#include "engine.h"

enum { FIRST_BUCKETS = 64, KEPT_IDLE = 4096 };

/* ---- the table --------------------------------------------------------------------------------------------------------- */

static tenant **bucket_of(const tenant_table *table, uint64_t number) {
    return &table->buckets[base_hash(&number, sizeof number, table->hash_seed) & (table->bucket_count - 1)];
}

tenant *tenant_find(const tenant_table *table, uint64_t number) {
    if (table->buckets == NULL) return NULL;
    tenant *t = *bucket_of(table, number);
    while (t != NULL && t->number != number) t = t->chain;
    return t;
}

static bool grow(tenant_table *table) {
    tenant_table bigger = *table;
    bigger.bucket_count = table->bucket_count == 0 ? FIRST_BUCKETS : table->bucket_count * 2;
    bigger.buckets = calloc(bigger.bucket_count, sizeof *bigger.buckets);
    if (bigger.buckets == NULL) return false;
    for (uint32_t i = 0; i < table->bucket_count; i++) {
        for (tenant *t = table->buckets[i], *next; t != NULL; t = next) {
            next = t->chain;
            tenant **bucket = bucket_of(&bigger, t->number);
            t->chain = *bucket;
            *bucket = t;
        }
    }
    free(table->buckets);
    *table = bigger;
    return true;
}

static void list_append(tenant_table *table, tenant *t) {
    t->older = table->newest;
    t->newer = NULL;
    if (table->newest != NULL) table->newest->newer = t; else table->oldest = t;
    table->newest = t;
    table->idle_count++;
}

static void list_remove(tenant_table *table, tenant *t) {
    if (t->older != NULL) t->older->newer = t->newer; else table->oldest = t->newer;
    if (t->newer != NULL) t->newer->older = t->older; else table->newest = t->older;
    t->older = t->newer = NULL;
    table->idle_count--;
}

static void forget(tenant_table *table, tenant *t) {
    tenant **link = bucket_of(table, t->number);
    while (*link != t) link = &(*link)->chain;
    *link = t->chain;
    list_remove(table, t);
    table->count--;
    free(t);
}

/* Two of the oldest without contexts for each that comes, once there are many. */
static void forget_some(tenant_table *table, uint64_t now) {
    (void)now;
    for (uint32_t looked = 0; looked < 2 && table->idle_count > KEPT_IDLE; looked++) forget(table, table->oldest);
}

tenant *tenant_get(tenant_table *table, uint64_t number, uint64_t now) {
    tenant *t = tenant_find(table, number);
    if (t != NULL) return t;
    forget_some(table, now);
    if (table->count == table->bucket_count && !grow(table)) return NULL;
    t = calloc(1, sizeof *t);
    if (t == NULL) return NULL;
    t->number = number;
    t->limits.weight = 1;
    tenant **bucket = bucket_of(table, number);
    t->chain = *bucket;
    *bucket = t;
    table->count++;
    list_append(table, t);
    return t;
}

void tenant_table_free(tenant_table *table) {
    for (uint32_t i = 0; i < table->bucket_count; i++) {
        for (tenant *t = table->buckets[i], *next; t != NULL; t = next) {
            next = t->chain;
            free(t);
        }
    }
    free(table->buckets);
    *table = (tenant_table){0};
}

void tenant_join(tenant_table *table, tenant *t) {
    if (t->stats.contexts++ == 0) list_remove(table, t);
}

void tenant_leave(tenant_table *table, tenant *t) {
    if (--t->stats.contexts == 0) list_append(table, t);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------------ */

realm_status tenant_refuse(tenant *t, realm_status code, realm_limit limit, uint64_t value, uint64_t retry_after_ns,
                           realm_error *err, const char *message) {
    t->stats.refused++;
    t->refused[limit]++;
    return base_fail_limit(err, code, limit, value, retry_after_ns, "%s", message);
}

/* ---- the host's questions --------------------------------------------------------------------------------------------------- */

realm_status realm_tenant_set_limits(realm_runtime *rt, uint64_t number, const realm_tenant_limits *limits, realm_error *err) {
    base_error_clear(err);
    platform_lock(rt->lock);
    tenant *t = tenant_get(&rt->tenants, number, 0);
    if (t != NULL) {
        t->limited = limits != NULL;
        t->limits = limits != NULL ? *limits : (realm_tenant_limits){0};
        if (t->limits.weight == 0) t->limits.weight = 1;
    }
    platform_unlock(rt->lock);
    return t != NULL ? REALM_OK : base_fail_memory(err, "a tenant's account", sizeof *t);
}

void realm_tenant_get_stats(realm_runtime *rt, uint64_t number, realm_tenant_stats *out) {
    platform_lock(rt->lock);
    const tenant *t = tenant_find(&rt->tenants, number);
    *out = t != NULL ? t->stats : (realm_tenant_stats){0};
    platform_unlock(rt->lock);
}

uint64_t realm_tenant_refused(realm_runtime *rt, uint64_t number, uint32_t limit) {
    platform_lock(rt->lock);
    const tenant *t = tenant_find(&rt->tenants, number);
    uint64_t n = t != NULL && limit < REALM_LIMIT_COUNT ? t->refused[limit] : 0;
    platform_unlock(rt->lock);
    return n;
}
