/* bench.c: this machine's read bandwidth, so that speeds can be stated as a share of the limit. */
#include <stdlib.h>

#include "engine.h"

typedef struct read_job {
    const uint64_t *words;
    uint64_t count;      /* words of all threads together */
    uint64_t *sums;      /* one per thread, 64 bytes apart: the reads must not be optimised away */
    uint32_t threads;
} read_job;

static void read_task(void *arg, uint32_t index, uint32_t worker) {
    read_job *job = arg;
    uint64_t share = job->count / job->threads, sum[8] = {0};
    const uint64_t *p = job->words + index * share, *end = p + share / 8 * 8;
    for (; p < end; p += 8) {
        for (int i = 0; i < 8; i++) sum[i] += p[i];
    }
    for (int i = 0; i < 8; i++) job->sums[worker * 8] += sum[i];
}

static double best_pass(realm_runtime *rt, read_job *job, uint32_t repeats) {
    double best = 0.0;
    for (uint32_t i = 0; i < repeats; i++) {
        uint64_t start = platform_now_ns();
        pool_run(rt->pool, read_task, job, job->threads);
        double seconds = (double)(platform_now_ns() - start) * 1e-9;
        double rate = seconds > 0.0 ? (double)(job->count * sizeof(uint64_t)) / seconds : 0.0;
        if (rate > best) best = rate;
    }
    return best;
}

double realm_bench_read_bandwidth(realm_runtime *rt, uint64_t bytes, uint32_t repeats) {
    uint64_t *memory = platform_alloc_pages(bytes);
    uint64_t *sums = calloc(rt->threads * 8, sizeof *sums);
    double best = 0.0;
    if (memory != NULL && sums != NULL) {
        memset(memory, 1, (size_t)bytes); /* fresh pages all map to one zero page */
        read_job job = {.words = memory, .count = bytes / sizeof *memory, .sums = sums, .threads = rt->threads};
        platform_lock(rt->lock); /* the pool has one caller at a time: no step may begin meanwhile */
        while (rt->stepping) {
            platform_unlock(rt->lock);
            platform_pause();
            platform_lock(rt->lock);
        }
        best = best_pass(rt, &job, repeats);
        platform_unlock(rt->lock);
    }
    if (memory != NULL) platform_free_pages(memory, bytes);
    free(sums);
    return best;
}
