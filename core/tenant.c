/* tenant.c: see tenant.h. Accounts hang in a hash table; one whose contexts have ended is kept for a while, so that closing and
 * coming back is no way around a rate, and forgotten when many others have ended after it. */
#include "tenant.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

enum { FIRST_BUCKETS = 64, KEPT_IDLE = 4096, FIRST_HELD_NS = 1000000000 };
#define SECOND_NS 1000000000u
#define MINUTE_NS (60 * (uint64_t)SECOND_NS)
#define PAUSE_NS SECOND_NS /* how long a request may be without work */
#define NEVER UINT64_MAX

/* ---- buckets of tokens: each is empty or full by when it will be full again, so that paying is adding time -------------------- */

/* The earliest time at which the bucket holds a token. */
static uint64_t token_at(uint64_t full, uint64_t limit, uint64_t window) {
    uint64_t at = full + window / (limit == 0 ? 1 : limit);
    return limit == 0 || at < window ? 0 : at - window;
}

static uint64_t ready_at(const tenant *t) {
    uint64_t second = token_at(t->second_full, t->limits.tokens_per_second, SECOND_NS);
    uint64_t minute = token_at(t->minute_full, t->limits.tokens_per_minute, MINUTE_NS);
    return second > minute ? second : minute;
}

static void pay(uint64_t *full, uint64_t now, uint32_t tokens, uint64_t limit, uint64_t window) {
    if (limit == 0) return;
    if (*full < now) *full = now;
    *full += tokens * window / limit;
}

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
    heap_remove(&table->timers, &t->timer.place);
    heap_free(&t->waiting);
    table->count--;
    table->timer_count--;
    free(t);
}

/* Two of the oldest without contexts for each that comes, once there are many; those that owe tokens are kept. */
static void forget_some(tenant_table *table, uint64_t now) {
    for (uint32_t looked = 0; looked < 2 && table->idle_count > KEPT_IDLE; looked++) {
        tenant *t = table->oldest;
        bool owes = t->second_full > now || t->minute_full > now;
        if (!owes) {
            forget(table, t);
            continue;
        }
        list_remove(table, t);
        list_append(table, t);
    }
}

static bool timer_before(const heap_node *a, const heap_node *b) {
    const timer *left = HEAP_OWNER(a, const timer, place), *right = HEAP_OWNER(b, const timer, place);
    return left->due != right->due ? left->due < right->due : left < right;
}

/* By priority, then deadline, then arrival. */
static bool waits_before(const heap_node *a, const heap_node *b) {
    return session_before(HEAP_OWNER(a, const session, place), HEAP_OWNER(b, const session, place));
}

void tenant_table_init(tenant_table *table, uint64_t hash_seed) {
    *table = (tenant_table){.hash_seed = hash_seed, .timers = {.before = timer_before}};
}

tenant *tenant_get(tenant_table *table, uint64_t number, uint64_t now) {
    tenant *t = tenant_find(table, number);
    if (t != NULL) return t;
    forget_some(table, now);
    if (table->count == table->bucket_count && !grow(table)) return NULL;
    if (!heap_reserve(&table->timers, table->timer_count + 1)) return NULL;
    t = calloc(1, sizeof *t);
    if (t == NULL) return NULL;
    *t = (tenant){.number = number, .limits = {.weight = 1}, .held_ns = FIRST_HELD_NS, .waiting = {.before = waits_before}};
    table->timer_count++;
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
            heap_free(&t->waiting);
            free(t);
        }
    }
    free(table->buckets);
    heap_free(&table->timers);
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

static realm_status refuse_rate(tenant *t, uint64_t now, realm_error *err) {
    bool second = token_at(t->second_full, t->limits.tokens_per_second, SECOND_NS) == ready_at(t);
    realm_limit limit = second ? REALM_LIMIT_TOKENS_PER_SECOND : REALM_LIMIT_TOKENS_PER_MINUTE;
    uint64_t value = second ? t->limits.tokens_per_second : t->limits.tokens_per_minute, wait = ready_at(t) - now;
    char message[REALM_ERROR_CAP];
    snprintf(message, sizeof message, "the tenant's limit of %llu tokens a %s is used up: try again in %.3f s",
             (unsigned long long)value, second ? "second" : "minute", (double)wait * 1e-9);
    return tenant_refuse(t, REALM_E_LIMIT_EXCEEDED, limit, value, wait, err, message);
}

static realm_status refuse_place(tenant *t, realm_error *err) {
    uint32_t places = t->limits.concurrent_requests, queue = t->limits.queue_length;
    uint64_t wait = t->held_ns / places * (t->waiting.count + 1);
    char message[REALM_ERROR_CAP];
    snprintf(message, sizeof message, "the tenant's %u concurrent requests are running and %u of %u wait: try again in %.3f s", places,
             t->waiting.count, queue, (double)wait * 1e-9);
    realm_limit limit = queue == 0 ? REALM_LIMIT_CONCURRENT_REQUESTS : REALM_LIMIT_QUEUE_LENGTH;
    return tenant_refuse(t, REALM_E_LIMIT_EXCEEDED, limit, queue == 0 ? places : queue, wait, err, message);
}

static realm_status refuse_deadline(const session *s, realm_error *err) {
    return tenant_refuse(s->ctx->account, REALM_E_LIMIT_EXCEEDED, REALM_LIMIT_DEADLINE, s->deadline_ns / 1000000, 0, err,
                         "the request's deadline has passed");
}

static bool has_place(const tenant *t) {
    return t->limits.concurrent_requests == 0 || t->stats.running < t->limits.concurrent_requests;
}

realm_status tenant_check(session *s, realm_error *err) {
    tenant *t = s->ctx->account;
    uint64_t now = s->engine->rt->now_ns;
    if (s->deadline_ns != 0 && now >= s->deadline.due) return refuse_deadline(s, err);
    if (s->requested) return REALM_OK;
    if (ready_at(t) > now) return refuse_rate(t, now, err);
    if (has_place(t) || t->waiting.count < t->limits.queue_length) return REALM_OK;
    return refuse_place(t, err);
}

/* ---- timers ---------------------------------------------------------------------------------------------------------------- */

static void set_timer(tenant_table *table, tenant *t) {
    uint64_t due = t->throttled ? ready_at(t) : NEVER;
    if (t->idle_first != NULL && t->idle_first->idle_since + PAUSE_NS < due) due = t->idle_first->idle_since + PAUSE_NS;
    if (t->timer.place.place != 0 && t->timer.due == due) return;
    heap_remove(&table->timers, &t->timer.place);
    t->timer.due = due;
    if (due != NEVER) heap_add(&table->timers, &t->timer.place);
}

uint64_t tenant_next_due(const tenant_table *table) {
    const heap_node *first = heap_first(&table->timers);
    return first == NULL ? NEVER : HEAP_OWNER(first, const timer, place)->due;
}

static void expire(session *s) {
    ticket *t = s->active;
    if (t != NULL) {
        session_abort(s);
        refuse_deadline(s, &t->error);
        ticket_finish(t, REALM_TICKET_FAILED);
    }
    tenant_end(s);
}

static void come_due(realm_runtime *rt, tenant *t) {
    if (t->throttled && ready_at(t) <= rt->now_ns) {
        t->throttled = false;
        schedule_refresh(t);
    }
    while (t->idle_first != NULL && t->idle_first->idle_since + PAUSE_NS <= rt->now_ns) tenant_end(t->idle_first);
    set_timer(&rt->tenants, t);
}

void tenant_advance(realm_runtime *rt) {
    while (tenant_next_due(&rt->tenants) <= rt->now_ns) {
        timer *first = HEAP_OWNER(heap_first(&rt->tenants.timers), timer, place);
        heap_remove(&rt->tenants.timers, &first->place);
        if (first->session != NULL) expire(first->session);
        else come_due(rt, HEAP_OWNER(first, tenant, timer));
    }
}

/* ---- requests --------------------------------------------------------------------------------------------------------------- */

bool tenant_open_session(session *s, uint64_t deadline_ns) {
    tenant *t = s->ctx->account;
    tenant_table *table = &s->engine->rt->tenants;
    if (!heap_reserve(&t->waiting, (uint32_t)t->stats.sessions + 1)) return false;
    if (deadline_ns != 0 && !heap_reserve(&table->timers, table->timer_count + 1)) return false;
    t->stats.sessions++;
    if (deadline_ns == 0) return true;
    table->timer_count++;
    s->deadline_ns = deadline_ns;
    s->deadline = (timer){.session = s, .due = s->engine->rt->now_ns + deadline_ns};
    if (s->deadline.due < deadline_ns) s->deadline.due = NEVER - 1;
    heap_add(&table->timers, &s->deadline.place);
    return true;
}

void tenant_close_session(session *s) {
    tenant_table *table = &s->engine->rt->tenants;
    tenant_end(s);
    s->ctx->account->stats.sessions--;
    if (s->deadline_ns == 0) return;
    heap_remove(&table->timers, &s->deadline.place);
    table->timer_count--;
}

static void idle_remove(tenant *t, session *s) {
    if (!s->paused) return;
    if (s->idle_prev != NULL) s->idle_prev->idle_next = s->idle_next; else t->idle_first = s->idle_next;
    if (s->idle_next != NULL) s->idle_next->idle_prev = s->idle_prev; else t->idle_last = s->idle_prev;
    s->idle_next = s->idle_prev = NULL;
    s->paused = false;
    s->engine->rt->paused--;
}

static void idle_append(tenant *t, session *s) {
    s->idle_prev = t->idle_last;
    s->idle_next = NULL;
    if (t->idle_last != NULL) t->idle_last->idle_next = s; else t->idle_first = s;
    t->idle_last = s;
    s->paused = true;
    s->engine->rt->paused++;
    s->idle_since = s->engine->rt->now_ns;
}

static void take_place(tenant *t, session *s) {
    s->requested = true;
    s->began_ns = s->engine->rt->now_ns;
    t->stats.running++;
    t->stats.requests++;
    schedule_request(s, true);
}

bool tenant_begin(session *s) {
    tenant *t = s->ctx->account;
    idle_remove(t, s);
    if (s->requested) return true;
    s->arrived_ns = s->engine->rt->now_ns;
    s->unserved = true;
    if (has_place(t)) {
        take_place(t, s);
        return true;
    }
    heap_add(&t->waiting, &s->place);
    s->waiting = true;
    t->stats.queued++;
    return false;
}

static void stop_waiting(tenant *t, session *s) {
    if (!s->waiting) return;
    heap_remove(&t->waiting, &s->place);
    s->waiting = false;
    t->stats.queued--;
}

/* Places that are free go to those that wait. */
static void promote(tenant *t) {
    while (t->waiting.count > 0 && has_place(t)) {
        session *s = HEAP_OWNER(heap_first(&t->waiting), session, place);
        stop_waiting(t, s);
        take_place(t, s);
        schedule_add(s);
        runtime_work_arrived(s->engine->rt);
    }
}

void tenant_pause(session *s) {
    tenant *t = s->ctx->account;
    stop_waiting(t, s);
    if (!s->requested || s->paused) return;
    idle_append(t, s);
    if (t->idle_first == s) set_timer(&s->engine->rt->tenants, t);
}

void tenant_end(session *s) {
    tenant *t = s->ctx->account;
    stop_waiting(t, s);
    idle_remove(t, s);
    if (!s->requested) return;
    uint64_t held = s->engine->rt->now_ns - s->began_ns;
    t->held_ns = t->held_ns / 4 * 3 + held / 4;
    s->requested = false;
    t->stats.running--;
    schedule_request(s, false);
    promote(t);
}

void tenant_pay(realm_runtime *rt, tenant *t, uint32_t tokens) {
    pay(&t->second_full, rt->now_ns, tokens, t->limits.tokens_per_second, SECOND_NS);
    pay(&t->minute_full, rt->now_ns, tokens, t->limits.tokens_per_minute, MINUTE_NS);
    if (t->throttled || ready_at(t) <= rt->now_ns) return;
    t->throttled = true;
    schedule_refresh(t);
    set_timer(&rt->tenants, t);
}

/* ---- what the host says and asks --------------------------------------------------------------------------------------------- */

/* Rates count from the change on where there was none before. */
static void change_limits(realm_runtime *rt, tenant *t, const realm_tenant_limits *limits) {
    realm_tenant_limits wanted = limits != NULL ? *limits : (realm_tenant_limits){0};
    uint32_t weight = wanted.weight == 0 ? 1 : wanted.weight > SCHEDULE_MAX_WEIGHT ? SCHEDULE_MAX_WEIGHT : wanted.weight;
    if (t->limits.tokens_per_second == 0) t->second_full = 0;
    if (t->limits.tokens_per_minute == 0) t->minute_full = 0;
    wanted.weight = t->limits.weight;
    t->limits = wanted;
    schedule_reweigh(t, weight);
    come_due(rt, t);
    promote(t);
}

realm_status realm_tenant_set_limits(realm_runtime *rt, uint64_t number, const realm_tenant_limits *limits, realm_error *err) {
    base_error_clear(err);
    platform_lock(rt->lock);
    runtime_tell_time(rt);
    tenant *t = tenant_get(&rt->tenants, number, rt->now_ns);
    if (t != NULL) change_limits(rt, t, limits);
    runtime_work_arrived(rt);
    platform_unlock(rt->lock);
    return t != NULL ? REALM_OK : base_fail_memory(err, "a tenant's account", sizeof *t);
}

void realm_tenant_get_stats(realm_runtime *rt, uint64_t number, realm_tenant_stats *out) {
    platform_lock(rt->lock);
    runtime_tell_time(rt);
    const tenant *t = tenant_find(&rt->tenants, number);
    *out = t != NULL ? t->stats : (realm_tenant_stats){0};
    uint64_t ready = t != NULL ? ready_at(t) : 0;
    out->retry_after_ns = ready > rt->now_ns ? ready - rt->now_ns : 0;
    platform_unlock(rt->lock);
}

uint64_t realm_tenant_refused(realm_runtime *rt, uint64_t number, uint32_t limit) {
    platform_lock(rt->lock);
    const tenant *t = tenant_find(&rt->tenants, number);
    uint64_t n = t != NULL && limit < REALM_LIMIT_COUNT ? t->refused[limit] : 0;
    platform_unlock(rt->lock);
    return n;
}
