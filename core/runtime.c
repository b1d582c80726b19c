/* runtime.c: one driver for all models of a process: takes turns between engines, runs host tensor work between steps, and hands
 * completions to the host. The host's thread waits in realm_runtime_wait; nothing here ever calls into the host. */
#include <stdlib.h>

#include "engine.h"

enum {
    DEFAULT_BATCH_ROWS = 512,
    MAX_BATCH_ROWS = 4096,
    MAX_THREADS = 256,
    TOLD_AT_ONCE = 64, /* completions */
};
#define TENSOR_BUDGET (64u << 20)    /* multiply-adds of host tensor work between two steps */
#define TENSOR_BUDGET_UNKNOWN (1u << 20) /* beside streams, before any were measured */
#define LINGER_MIN_NS 200000u        /* how long a step is held back for hosts that are still acting on the last one */
#define LINGER_MAX_NS 5000000u
#define LINGER_START_NS 10000000u    /* for requests that are to start together */
#define AWAKE_NS 40000u              /* the driver stays awake for so long: a host that comes back at once need not wake it */
#define TRIM_AFTER_NS 50000000u      /* of idleness: a conversation going on need not fault its pages in again */

/* ---- events: tickets that the host shall look at --------------------------------------------------------------------------------- */

/* Progress of a short step waits for that of the next ones: each call of the listener wakes a thread of the host's. */
static bool is_held_back(const realm_runtime *rt, const ticket *t) {
    const realm_context *ctx = t->ctx;
    bool early = t->state == REALM_TICKET_PROGRESS && t->produced > 1 && rt->last_step_ns < ctx->hold_ns;
    return early && platform_now_ns() - ctx->told_ns < ctx->hold_ns;
}

void runtime_push_event(realm_runtime *rt, ticket *t) {
    if (t->ctx == NULL) return;
    if (t->state != REALM_TICKET_PROGRESS && !t->event_ends) {
        t->event_ends = true;
        rt->events_ending++;
    }
    if (!is_held_back(rt, t)) rt->due = true;
    if (t->event_queued) return;
    t->event_queued = true;
    t->event_next = NULL;
    t->event_prev = rt->event_last;
    if (rt->event_last != NULL) rt->event_last->event_next = t; else rt->event_first = t;
    rt->event_last = t;
}

void runtime_remove_event(realm_runtime *rt, ticket *t) {
    if (!t->event_queued) return;
    if (t->event_prev != NULL) t->event_prev->event_next = t->event_next; else rt->event_first = t->event_next;
    if (t->event_next != NULL) t->event_next->event_prev = t->event_prev; else rt->event_last = t->event_prev;
    if (t->event_ends) rt->events_ending--;
    t->event_queued = t->event_ends = false;
    if (rt->event_first == NULL) rt->due = false;
}

/* With the lock held: there may be something for the driver to do. */
static void nudge(realm_runtime *rt) {
    atomic_fetch_add(&rt->nudges, 1);
    platform_cond_signal(rt->work);
}

/* A host that is still acting on completions will come back through realm_runtime_wait, which wakes the driver then: the
 * sessions that go on decoding are to step together. Should it not come back soon, the driver wakes by itself. */
void runtime_work_arrived(realm_runtime *rt) {
    if (rt->idle && (rt->unacknowledged == 0 || !rt->dozing)) nudge(rt);
}

/* Tickets that have only made progress go on without the host: nobody waits for what it does with their tokens. */
static bool host_is_acting(const realm_runtime *rt) { return rt->unacknowledged > 0 || rt->events_ending > 0; }

static void acknowledge(realm_runtime *rt) {
    rt->host_lags = false;
    if (rt->unacknowledged == 0) return;
    rt->unacknowledged = 0;
    rt->announced = false;
    nudge(rt);
}

void realm_runtime_acknowledge(realm_runtime *rt) {
    platform_lock(rt->lock);
    acknowledge(rt);
    platform_unlock(rt->lock);
}

void realm_runtime_announce(realm_runtime *rt) {
    platform_lock(rt->lock);
    rt->unacknowledged++;
    rt->announced = true;
    platform_unlock(rt->lock);
}

void realm_context_hold_progress(realm_context *ctx, uint64_t hold_ns) {
    platform_lock(ctx->rt->lock);
    ctx->hold_ns = hold_ns;
    platform_unlock(ctx->rt->lock);
}

static uint32_t take_events(realm_runtime *rt, realm_completion *out, uint32_t cap) {
    uint64_t now = platform_now_ns();
    uint32_t n = 0;
    while (n < cap && rt->event_first != NULL) {
        ticket *t = rt->event_first;
        if (t->event_ends) rt->unacknowledged++;
        t->ctx->told_ns = now;
        runtime_remove_event(rt, t);
        out[n++] = (realm_completion){.tag = t->ctx->tag, .ticket = t->handle, .state = t->state};
    }
    return n;
}

void realm_runtime_set_listener(realm_runtime *rt, realm_listener listener, void *arg) {
    platform_lock(rt->lock);
    rt->listener = listener;
    rt->listener_arg = arg;
    platform_unlock(rt->lock);
}

/* With the lock held, released for each call. */
static void tell_listener(realm_runtime *rt) {
    realm_completion done[TOLD_AT_ONCE];
    while (rt->event_first != NULL) {
        uint32_t n = take_events(rt, done, TOLD_AT_ONCE);
        platform_unlock(rt->lock);
        rt->listener(rt->listener_arg, done, n);
        platform_lock(rt->lock);
    }
}

/* With the lock held: all events that are queued, those that were held back too. */
static void tell_host(realm_runtime *rt) {
    if (rt->event_first == NULL) return;
    rt->due = true;
    if (rt->listener != NULL) tell_listener(rt);
    else platform_cond_broadcast(rt->done);
}

uint32_t realm_runtime_wait(realm_runtime *rt, realm_completion *out, uint32_t cap, uint64_t timeout_ns) {
    platform_lock(rt->lock);
    acknowledge(rt);
    uint64_t end = timeout_ns == UINT64_MAX ? UINT64_MAX : platform_now_ns() + timeout_ns;
    while (!rt->due && !rt->wake && !atomic_load(&rt->stop)) {
        uint64_t now = end == UINT64_MAX ? 0 : platform_now_ns();
        if (now >= end && end != UINT64_MAX) break;
        platform_cond_wait(rt->done, rt->lock, end == UINT64_MAX ? UINT64_MAX : end - now);
    }
    rt->wake = false;
    uint32_t n = rt->due ? take_events(rt, out, cap) : 0;
    platform_unlock(rt->lock);
    return n;
}

void realm_runtime_wake(realm_runtime *rt) {
    platform_lock(rt->lock);
    rt->wake = true;
    platform_cond_broadcast(rt->done);
    platform_unlock(rt->lock);
}

/* ---- time and turns ---------------------------------------------------------------------------------------------------------------------------- */

void runtime_tell_time(realm_runtime *rt) {
    if (!rt->options.host_clock) rt->now_ns = platform_now_ns();
}

/* The engine whose turn it is, with a batch. A choice may come to nothing where sessions fail: then the next one is asked. */
engine *runtime_next_turn(realm_runtime *rt) {
    runtime_tell_time(rt);
    tenant_advance(rt);
    for (engine *e; (e = schedule_next_engine(rt)) != NULL;) {
        if (engine_next_batch(e)) return e;
    }
    return NULL;
}

static bool has_work(const realm_runtime *rt) {
    if (rt->job_first != NULL) return true;
    for (const engine *e = rt->engines; e != NULL; e = e->next) {
        if (schedule_has_work(e)) return true;
    }
    return false;
}

/* What a step takes on a simulated clock. */
static uint64_t simulated_ns(const realm_runtime *rt, const engine *e) {
    uint64_t positions = 0;
    for (uint32_t i = 0; i < e->batch.n_segments; i++) positions += (uint64_t)e->batch.segments[i].n_rows * e->batch.segments[i].pos0;
    const realm_runtime_options *o = &rt->options;
    return o->fake_step_ns + o->fake_row_ns * e->batch.n_rows + o->fake_position_ns * positions;
}

static void spend(realm_runtime *rt, engine *e, uint64_t ns) {
    e->spent_ns += ns;
    rt->apart_ns += ns;
    rt->stats.step_ns += ns;
    if (rt->options.host_clock) rt->now_ns += ns;
}

void runtime_finish_step(realm_runtime *rt, engine *e, uint64_t took_ns) {
    if (rt->options.host_clock) took_ns = simulated_ns(rt, e) - e->spent_ns;
    spend(rt, e, took_ns);
    runtime_tell_time(rt);
    rt->stats.steps++;
    rt->stats.rows += e->batch.n_rows;
    rt->last_step_ns = e->spent_ns;
    if (e->line.taken.streams > 0) {
        rt->apart_ns = 0;
        rt->last_streams_ns = e->spent_ns;
    }
    schedule_observe(e, e->spent_ns);
    engine_complete(e);
}

/* ---- host tensor work ----------------------------------------------------------------------------------------------------------------- */

static void finish_job(realm_runtime *rt, ticket *t) {
    rt->job_first = t->job_next;
    if (rt->job_first == NULL) rt->job_last = NULL;
    t->in_step = false;
    if (t->ctx == NULL) {
        ticket_free(t);
        return;
    }
    t->result = tensor_product_finish(t->job);
    t->job = NULL;
    if (t->state != REALM_TICKET_PENDING) return;
    if (context_lost_a_model(t->ctx)) ticket_fail(t, REALM_E_IO, MODEL_LOST);
    else ticket_finish(t, REALM_TICKET_READY);
}

static bool is_wanted(const ticket *t) { return t->ctx != NULL && t->state == REALM_TICKET_PENDING; }

/* The first job of the tenant that was served longest ago comes to the front: a large product of one holds up nobody else's. */
static ticket *choose_job(realm_runtime *rt) {
    ticket **best = &rt->job_first, *before = NULL, *previous = NULL;
    for (ticket **link = best; *link != NULL; previous = *link, link = &(*link)->job_next) {
        bool sooner = !is_wanted(*link) || (*link)->ctx->account->job_turn < (*best)->ctx->account->job_turn;
        if (link != best && !sooner) continue;
        best = link;
        before = previous;
        if (!is_wanted(*link)) break; /* nothing to compute */
    }
    ticket *t = *best;
    if (t == NULL || before == NULL) return t;
    *best = t->job_next;
    if (rt->job_last == t) rt->job_last = before;
    t->job_next = rt->job_first;
    return rt->job_first = t;
}

/* One slice of a job; with the lock held, released while computing. */
static void run_job(realm_runtime *rt, uint64_t budget) {
    ticket *t = choose_job(rt);
    if (t == NULL) return;
    if (is_wanted(t)) { /* else its weights may be gone */
        t->ctx->account->job_turn = ++rt->turn_serial;
        t->in_step = rt->multiplying = true;
        platform_unlock(rt->lock);
        uint64_t start = platform_now_ns();
        bool complete = tensor_product_step(t->job, budget);
        uint64_t took = platform_now_ns() - start;
        platform_lock(rt->lock);
        rt->multiplying = false;
        if (!complete) rt->multiply_ns = (double)took / (double)budget;
        if (complete) {
            finish_job(rt, t);
            return;
        }
        if (is_wanted(t)) return;
    }
    rt->job_first = t->job_next;
    if (rt->job_first == NULL) rt->job_last = NULL;
    t->in_step = false;
    tensor_product_abandon(t->job);
    t->job = NULL;
    if (t->ctx == NULL) ticket_free(t);
}

/* ---- the driver ------------------------------------------------------------------------------------------------------------------------- */

/* Nanoseconds until something is due; UINT64_MAX: nothing will be. */
static uint64_t due_in(realm_runtime *rt) {
    uint64_t due = tenant_next_due(&rt->tenants);
    runtime_tell_time(rt);
    return due == UINT64_MAX ? due : due > rt->now_ns ? due - rt->now_ns : 0;
}

/* With the lock held, released meanwhile: waits awake for a nudge, for a moment, where the host has a processor of its own. */
static void stay_awake(realm_runtime *rt) {
    uint32_t seen = atomic_load(&rt->nudges);
    if (rt->alone) return;
    platform_unlock(rt->lock);
    for (uint64_t end = platform_now_ns() + AWAKE_NS; atomic_load(&rt->nudges) == seen && platform_now_ns() < end;) platform_pause();
    platform_lock(rt->lock);
}

static bool streams_wait(const realm_runtime *rt) { return rt->paused > 0 || schedule_next_streams(rt) != NULL; }

/* Multiply-adds of host tensors before the next step. Beside streams, what takes a quarter of a step: they shall not feel it. */
static uint64_t job_budget(const realm_runtime *rt) {
    if (!streams_wait(rt)) return TENSOR_BUDGET;
    double most = rt->multiply_ns == 0.0 ? TENSOR_BUDGET_UNKNOWN : (double)rt->last_streams_ns / 4 / rt->multiply_ns;
    return most >= TENSOR_BUDGET ? TENSOR_BUDGET : (uint64_t)most + 1;
}

/* How long the next step is held back for hosts: a quarter of a step. Where no stream would notice, what is announced to start
 * together may take longer: the first requests of a cold host do. */
static uint64_t patience(const realm_runtime *rt) {
    uint64_t wait = (streams_wait(rt) ? rt->last_streams_ns : rt->last_step_ns) / 4;
    if (wait < LINGER_MIN_NS) wait = LINGER_MIN_NS;
    if (rt->announced && !streams_wait(rt)) return LINGER_START_NS;
    return wait > LINGER_MAX_NS ? LINGER_MAX_NS : wait;
}

/* Gives hosts that are still acting on the last step a moment, so that realms that decode stay in one batch. A host that did not
 * make it is not waited for again until it has caught up. */
static void linger(realm_runtime *rt) {
    uint64_t end = platform_now_ns() + patience(rt);
    for (bool awake = true; host_is_acting(rt) && !rt->host_lags && !atomic_load(&rt->stop); awake = false) {
        uint64_t now = platform_now_ns();
        if (now >= end) rt->host_lags = true;
        else if (awake) stay_awake(rt);
        else platform_cond_wait(rt->work, rt->lock, end - now);
    }
}

/* What only steps need is given back to the system. */
static void trim_memory(realm_runtime *rt) {
    for (engine *e = rt->engines; e != NULL; e = e->next) {
        if (e->executor == NULL) continue;
        executor_trim(e->executor);
        executor_trim(e->express->executor);
    }
}

/* Or until something becomes due: a throttled tenant goes on, a deadline passes. */
static void wait_for_work(realm_runtime *rt) {
    if (!has_work(rt)) tell_host(rt); /* where nothing is computed, what was held back does not wait either */
    uint64_t trim_at = platform_now_ns() + TRIM_AFTER_NS; /* 0: done */
    rt->idle = true;
    bool awake = true;
    for (uint64_t due; !has_work(rt) && !atomic_load(&rt->stop) && (due = due_in(rt)) > 0; awake = false) {
        rt->dozing = host_is_acting(rt);
        uint64_t most = rt->dozing ? LINGER_MAX_NS : trim_at == 0 ? UINT64_MAX : TRIM_AFTER_NS;
        if (awake) stay_awake(rt);
        else platform_cond_wait(rt->work, rt->lock, due < most ? due : most);
        if (trim_at == 0 || platform_now_ns() < trim_at || has_work(rt)) continue;
        trim_memory(rt);
        trim_at = 0;
    }
    rt->idle = false;
}

/* A step without a forward pass takes its simulated time in slices, too. True: there is more of it. */
static bool spend_simulated_slice(realm_runtime *rt, engine *e, uint64_t budget) {
    if (!rt->options.host_clock || e->executor != NULL || budget == 0) return false;
    uint64_t ns = (uint64_t)((double)budget / e->line.row_products * (double)rt->options.fake_row_ns) + 1;
    if (e->spent_ns + ns >= simulated_ns(rt, e)) return false;
    spend(rt, e, ns);
    schedule_observe_slice(e, budget, ns);
    return true;
}

/* With the lock held, released while computing: a slice of a step, at most `limit` multiply-adds (0: as the schedule says). How
 * many were spent, at least 1; 0: the step is complete. */
static uint64_t compute_slice(realm_runtime *rt, engine *e, uint64_t limit) {
    uint64_t budget = schedule_look(e);
    if (e->spent_ns > 0 && !engine_wanted(e)) { /* cancelled meanwhile: not computed to its end */
        runtime_finish_step(rt, e, 0);
        return 0;
    }
    bool alone = schedule_next_streams(rt) == NULL; /* nobody comes before the host has its turn */
    if (limit != 0 && (budget == 0 || limit < budget || alone)) budget = limit;
    if (spend_simulated_slice(rt, e, budget)) return budget;
    platform_unlock(rt->lock);
    uint64_t start = platform_now_ns();
    bool complete = engine_compute(e, budget);
    uint64_t took = platform_now_ns() - start;
    platform_lock(rt->lock);
    if (complete) {
        runtime_finish_step(rt, e, took);
        return 0;
    }
    if (rt->options.host_clock) return budget;
    spend(rt, e, took);
    schedule_observe_slice(e, budget, took);
    return executor_spent(e->executor) + 1;
}

/* Between two slices: a step of streams that have waited long enough; NULL: none. */
static engine *due_streams(realm_runtime *rt) {
    engine *e = schedule_next_streams(rt);
    if (e == NULL || !schedule_streams_due(e)) return NULL;
    runtime_tell_time(rt);
    tenant_advance(rt);
    return engine_next_express(e) ? e->express : NULL;
}

static void drive_once(realm_runtime *rt) {
    run_job(rt, job_budget(rt));
    linger(rt);
    engine *e = runtime_next_turn(rt);
    if (e != NULL) {
        rt->stepping = true;
        while (compute_slice(rt, e, 0) > 0) {
            engine *express = due_streams(rt);
            if (express == NULL) continue;
            while (compute_slice(rt, express, 0) > 0) {}
            if (rt->due) tell_host(rt);
            run_job(rt, job_budget(rt));
        }
        rt->stepping = false;
    }
    if (rt->due || e == NULL) tell_host(rt);
}

static void driver_main(void *arg) {
    realm_runtime *rt = arg;
    platform_thread_wake_soon();
    platform_lock(rt->lock);
    for (;;) {
        wait_for_work(rt);
        if (atomic_load(&rt->stop)) break;
        drive_once(rt);
    }
    platform_unlock(rt->lock);
}

/* The step to go on with, where the host steps: the one under way, one of streams that it is held for, or a new one. */
static engine *take_turn(realm_runtime *rt) {
    if (rt->turn == NULL) rt->turn = runtime_next_turn(rt);
    else if (rt->held == NULL && schedule_look(rt->turn) != 0) {
        engine *express = due_streams(rt);
        rt->held = express == NULL ? NULL : rt->turn;
        if (express != NULL) rt->turn = express;
    }
    rt->stepping = rt->turn != NULL;
    return rt->turn;
}

void runtime_end_turn(realm_runtime *rt) {
    rt->turn = rt->held;
    rt->held = NULL;
    rt->stepping = rt->turn != NULL;
}

/* Until a step is complete, or the budget (0: no bound) is spent. */
static void step(realm_runtime *rt, uint64_t budget) {
    uint64_t spent = 0;
    for (engine *e; (budget == 0 || spent < budget) && (e = take_turn(rt)) != NULL;) {
        uint64_t slice = compute_slice(rt, e, budget == 0 ? 0 : budget - spent);
        spent += slice;
        if (slice > 0) continue;
        runtime_end_turn(rt);
        return;
    }
}

/* For hosts without a driver thread: begins a step, or goes on with the one under way. */
realm_status realm_runtime_step(realm_runtime *rt, uint64_t now_ns, uint64_t budget, uint32_t *busy, realm_error *err) {
    if (!rt->options.no_driver) return base_fail(err, REALM_E_INVALID_ARGUMENT, "this runtime has a driver thread: it steps itself");
    platform_lock(rt->lock);
    bool external = rt->options.executor == REALM_EXECUTOR_EXTERNAL;
    if (rt->options.host_clock && now_ns > rt->now_ns) rt->now_ns = now_ns;
    if (!rt->stepping) run_job(rt, budget != 0 && budget < TENSOR_BUDGET ? budget : TENSOR_BUDGET);
    if (!external) step(rt, budget);
    *busy = external ? rt->job_first != NULL : rt->stepping ? 2 : has_work(rt);
    platform_unlock(rt->lock);
    return REALM_OK;
}

/* ---- life ---------------------------------------------------------------------------------------------------------------------------------- */

static realm_status start(realm_runtime *rt, realm_error *err) {
    rt->lock = platform_mutex_create();
    rt->work = platform_cond_create();
    rt->done = platform_cond_create();
    rt->scratch = calloc(rt->threads, sizeof *rt->scratch);
    rt->pool = pool_create(rt->threads);
    if (rt->lock == NULL || rt->work == NULL || rt->done == NULL || rt->scratch == NULL || rt->pool == NULL) {
        return base_fail(err, REALM_E_OUT_OF_MEMORY, "could not start %u compute threads", rt->threads);
    }
    if (rt->options.no_driver) return REALM_OK;
    rt->driver = platform_thread_start("realm-driver", driver_main, rt);
    if (rt->driver == NULL) return base_fail(err, REALM_E_OUT_OF_MEMORY, "could not start the driver thread");
    return REALM_OK;
}

realm_status realm_runtime_create(const realm_runtime_options *options, realm_runtime **out, realm_error *err) {
    base_error_clear(err);
    *out = NULL;
    realm_runtime_options o = options == NULL ? (realm_runtime_options){0} : *options;
    if (o.batch_rows == 0) o.batch_rows = DEFAULT_BATCH_ROWS;
    if (o.kv_bytes == 0) o.kv_bytes = platform_memory_bytes() / 2;
    if (o.batch_rows > MAX_BATCH_ROWS) return base_fail(err, REALM_E_INVALID_ARGUMENT, "batch_rows must be at most %d", MAX_BATCH_ROWS);
    if (o.threads > MAX_THREADS) return base_fail(err, REALM_E_INVALID_ARGUMENT, "threads must be at most %d", MAX_THREADS);
    if (o.executor == REALM_EXECUTOR_EXTERNAL) o.no_driver = 1;
    if (o.host_clock && !o.no_driver) return base_fail(err, REALM_E_INVALID_ARGUMENT, "host_clock needs no_driver");
    if (o.executor > REALM_EXECUTOR_EXTERNAL) return base_fail(err, REALM_E_INVALID_ARGUMENT, "unknown executor %u", o.executor);
    if (o.features != 0 && (o.features & cpu_detect()) == 0) {
        return base_fail(err, REALM_E_BACKEND_UNAVAILABLE, "this processor has none of the instruction sets asked for (mask %u)",
                         o.features);
    }
    realm_runtime *rt = calloc(1, sizeof *rt);
    if (rt == NULL) return base_fail_memory(err, "the runtime", sizeof *rt);
    rt->options = o;
    rt->threads = o.threads != 0 ? o.threads : platform_processor_count();
    rt->kv.limit = o.kv_bytes;
    rt->alone = platform_processor_count() == 1;
    tenant_table_init(&rt->tenants, platform_now_ns());
    cpu_ops_init(&rt->ops, o.features);
    realm_status status = start(rt, err);
    if (status != REALM_OK) {
        realm_runtime_destroy(rt);
        return status;
    }
    *out = rt;
    return REALM_OK;
}

void realm_runtime_destroy(realm_runtime *rt) {
    if (rt == NULL) return;
    if (rt->lock != NULL) {
        platform_lock(rt->lock);
        atomic_store(&rt->stop, true);
        atomic_store(&rt->abort_step, true);
        if (rt->work != NULL) nudge(rt);
        if (rt->done != NULL) platform_cond_broadcast(rt->done);
        platform_unlock(rt->lock);
    }
    if (rt->driver != NULL) platform_thread_join(rt->driver);
    while (rt->contexts != NULL) realm_context_destroy(rt->contexts);
    if (rt->out != NULL) realm_runtime_finish_batch(rt, rt->batch_serial, REALM_E_CLOSED, "the runtime was destroyed", NULL);
    pool_destroy(rt->pool);
    tenant_table_free(&rt->tenants);
    for (uint32_t i = 0; rt->scratch != NULL && i < rt->threads; i++) sample_scratch_free(&rt->scratch[i]);
    free(rt->scratch);
    if (rt->done != NULL) platform_cond_destroy(rt->done);
    if (rt->work != NULL) platform_cond_destroy(rt->work);
    if (rt->lock != NULL) platform_mutex_destroy(rt->lock);
    free(rt);
}

uint64_t realm_runtime_next_due(realm_runtime *rt) {
    platform_lock(rt->lock);
    uint64_t due = due_in(rt);
    platform_unlock(rt->lock);
    return due;
}

const char *realm_runtime_kernels(const realm_runtime *rt) { return rt->ops.name; }
uint32_t realm_cpu_features(void) { return cpu_detect(); }
uint32_t realm_runtime_threads(const realm_runtime *rt) { return rt->threads; }

void realm_runtime_get_stats(realm_runtime *rt, realm_runtime_stats *out) {
    platform_lock(rt->lock);
    *out = rt->stats;
    out->kv_bytes_used = rt->kv.used;
    out->kv_bytes_limit = rt->kv.limit;
    platform_unlock(rt->lock);
}
