/* pool.c: a fork-join thread pool. A set of tasks is published in one word; workers enter it by counting themselves in there, and
 * all threads draw task numbers from `next` until they run out. The caller then closes the set and waits for those who entered, so
 * that the next set cannot overtake them. A worker that the system has not let run in time never enters and holds nobody up:
 * where processors are shared, the others do its part. */
#include "pool.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { /* a turn takes 10-50 ns */
    SPIN_TURNS = 4000,   /* of a worker: longer than the gap between two ops */
    LEAVE_TURNS = 20000, /* of the caller: longer than a task of a prompt's op, shorter than a scheduler's slice */
};

/* The word of a set: its number, whether it is closed, and how many workers have entered. */
#define SET_NEXT ((uint64_t)1 << 32)
#define SET_CLOSED ((uint64_t)1 << 31)

static uint32_t set_number(uint64_t set) { return (uint32_t)(set >> 32); }
static uint32_t set_entered(uint64_t set) { return (uint32_t)(set & (SET_CLOSED - 1)); }

typedef struct pool_worker {
    pool *owner;
    platform_thread *thread;
    uint32_t index;
} pool_worker;

struct pool {
    void (*task)(void *arg, uint32_t index, uint32_t worker);
    void *arg;
    uint32_t count, threads;
    _Alignas(64) atomic_uint next;         /* task to draw */
    _Alignas(64) atomic_uint_fast64_t set; /* the set under way, or the last one */
    _Alignas(64) atomic_uint left;         /* workers that entered it and are done */
    _Alignas(64) atomic_uint sleepers;
    atomic_bool caller_sleeps;
    atomic_bool stop;
    platform_mutex *mutex;
    platform_cond *wake; /* workers: there is another set */
    platform_cond *done; /* the caller: a worker has left */
    pool_worker workers[]; /* (threads - 1,) */
};

static void draw_tasks(pool *p, uint32_t worker) {
    for (;;) {
        uint32_t index = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (index >= p->count) return;
        p->task(p->arg, index, worker);
    }
}

/* Waits until there is another set than number `seen`: a short spin, then sleep. */
static uint32_t wait_for_set(pool *p, uint32_t seen) {
    uint32_t number = seen;
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        if ((number = set_number(atomic_load_explicit(&p->set, memory_order_acquire))) != seen) return number;
        platform_pause();
    }
    platform_lock(p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while ((number = set_number(atomic_load(&p->set))) == seen) platform_cond_wait(p->wake, p->mutex, UINT64_MAX);
    atomic_fetch_sub(&p->sleepers, 1);
    platform_unlock(p->mutex);
    return number;
}

/* False when it is closed already. */
static bool enter_set(pool *p, uint32_t number) {
    uint64_t set = atomic_load_explicit(&p->set, memory_order_acquire);
    while (set_number(set) == number && (set & SET_CLOSED) == 0) {
        if (atomic_compare_exchange_weak_explicit(&p->set, &set, set + 1, memory_order_acquire, memory_order_acquire)) return true;
    }
    return false;
}

static void leave_set(pool *p) {
    atomic_fetch_add(&p->left, 1);
    if (!atomic_load(&p->caller_sleeps)) return;
    platform_lock(p->mutex); /* a caller between its check and its wait holds the mutex: it cannot miss this */
    platform_cond_signal(p->done);
    platform_unlock(p->mutex);
}

static void worker_main(void *arg) {
    pool_worker *w = arg;
    pool *p = w->owner;
    platform_thread_wake_soon(); /* it sleeps while the caller has lost its processor, and should be there when it is back */
    for (uint32_t seen = 0;;) {
        seen = wait_for_set(p, seen);
        if (atomic_load(&p->stop)) return;
        if (!enter_set(p, seen)) continue;
        draw_tasks(p, w->index);
        leave_set(p);
    }
}

static void publish(pool *p) {
    uint64_t number = atomic_load_explicit(&p->set, memory_order_relaxed) & ~(SET_NEXT - 1);
    atomic_store(&p->set, number + SET_NEXT);
    if (atomic_load(&p->sleepers) == 0) return;
    platform_lock(p->mutex); /* a worker between its check and its wait holds the mutex: it cannot miss this */
    platform_cond_broadcast(p->wake);
    platform_unlock(p->mutex);
}

/* Waits for the workers in the set: a short spin, then sleep, as one of them may have lost its processor in the middle of a task. */
static void close_set(pool *p) {
    uint32_t entered = set_entered(atomic_fetch_or(&p->set, SET_CLOSED));
    for (int turn = 0; turn < LEAVE_TURNS; turn++) {
        if (atomic_load_explicit(&p->left, memory_order_acquire) == entered) return;
        platform_pause();
    }
    platform_lock(p->mutex);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->left) != entered) platform_cond_wait(p->done, p->mutex, UINT64_MAX);
    atomic_store(&p->caller_sleeps, false);
    platform_unlock(p->mutex);
}

static void stop_workers(pool *p, uint32_t started) {
    atomic_store(&p->stop, true);
    publish(p);
    for (uint32_t i = 0; i < started; i++) platform_thread_join(p->workers[i].thread);
}

static void free_pool(pool *p) {
    if (p->done != NULL) platform_cond_destroy(p->done);
    if (p->wake != NULL) platform_cond_destroy(p->wake);
    if (p->mutex != NULL) platform_mutex_destroy(p->mutex);
    platform_free_aligned(p);
}

pool *pool_create(uint32_t threads) {
    if (threads == 0) threads = 1;
    size_t bytes = sizeof(pool) + (threads - 1) * sizeof(pool_worker);
    pool *p = platform_alloc_aligned(bytes);
    if (p == NULL) return NULL;
    memset(p, 0, bytes);
    p->threads = threads;
    p->mutex = platform_mutex_create();
    p->wake = platform_cond_create();
    p->done = platform_cond_create();
    if (p->mutex == NULL || p->wake == NULL || p->done == NULL) {
        free_pool(p);
        return NULL;
    }
    for (uint32_t i = 0; i + 1 < threads; i++) {
        p->workers[i] = (pool_worker){.owner = p, .index = i + 1};
        p->workers[i].thread = platform_thread_start("realm-compute", worker_main, &p->workers[i]);
        if (p->workers[i].thread == NULL) {
            stop_workers(p, i);
            free_pool(p);
            return NULL;
        }
    }
    return p;
}

void pool_destroy(pool *p) {
    if (p == NULL) return;
    stop_workers(p, p->threads - 1);
    free_pool(p);
}

uint32_t pool_threads(const pool *p) { return p->threads; }

void pool_run(pool *p, void (*task)(void *arg, uint32_t index, uint32_t worker), void *arg, uint32_t count) {
    if (p->threads == 1 || count <= 1) {
        for (uint32_t i = 0; i < count; i++) task(arg, i, 0);
        return;
    }
    p->task = task;
    p->arg = arg;
    p->count = count;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->left, 0, memory_order_relaxed);
    publish(p);
    draw_tasks(p, 0);
    close_set(p);
}
