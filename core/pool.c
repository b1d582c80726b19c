/* pool.c: a fork-join thread pool. A set is published by bumping `generation`; threads draw task numbers from `next` until
 * they run out, and the caller waits until every worker has left the set (so that the next one cannot overtake it). */
#include "pool.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { SPIN_TURNS = 4000 }; /* about 20-50 us: longer than the gap between two ops, shorter than a scheduler's slice */

typedef struct pool_worker {
    pool *owner;
    platform_thread *thread;
    uint32_t index;
} pool_worker;

struct pool {
    void (*task)(void *arg, uint32_t index, uint32_t worker);
    void *arg;
    uint32_t count, threads;
    _Alignas(64) atomic_uint next;       /* task to draw */
    _Alignas(64) atomic_uint generation; /* sets published */
    _Alignas(64) atomic_uint busy;       /* workers that have not left the current set */
    _Alignas(64) atomic_uint sleepers;
    atomic_bool stop;
    platform_mutex *mutex;
    platform_cond *wake;
    pool_worker workers[]; /* (threads - 1,) */
};

static void draw_tasks(pool *p, uint32_t worker) {
    for (;;) {
        uint32_t index = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (index >= p->count) return;
        p->task(p->arg, index, worker);
    }
}

/* Waits until the generation differs from `seen`: a short spin, then sleep. */
static void wait_for_set(pool *p, uint32_t seen) {
    for (int turn = 0; turn < SPIN_TURNS; turn++) {
        if (atomic_load_explicit(&p->generation, memory_order_acquire) != seen) return;
        platform_pause();
    }
    platform_lock(p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->generation) == seen) platform_cond_wait(p->wake, p->mutex, UINT64_MAX);
    atomic_fetch_sub(&p->sleepers, 1);
    platform_unlock(p->mutex);
}

static void worker_main(void *arg) {
    pool_worker *w = arg;
    pool *p = w->owner;
    uint32_t seen = 0;
    for (;;) {
        wait_for_set(p, seen);
        seen++;
        if (atomic_load(&p->stop)) return;
        draw_tasks(p, w->index);
        atomic_fetch_sub_explicit(&p->busy, 1, memory_order_release);
    }
}

static void publish(pool *p) {
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers) == 0) return;
    platform_lock(p->mutex); /* a worker between its check and its wait holds the mutex: it cannot miss this */
    platform_cond_broadcast(p->wake);
    platform_unlock(p->mutex);
}

static void stop_workers(pool *p, uint32_t started) {
    atomic_store(&p->stop, true);
    publish(p);
    for (uint32_t i = 0; i < started; i++) platform_thread_join(p->workers[i].thread);
}

static void free_pool(pool *p) {
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
    if (p->mutex == NULL || p->wake == NULL) {
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
    atomic_store_explicit(&p->busy, p->threads - 1, memory_order_relaxed);
    publish(p);
    draw_tasks(p, 0);
    while (atomic_load_explicit(&p->busy, memory_order_acquire) != 0) platform_pause();
}
