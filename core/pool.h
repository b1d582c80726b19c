/* pool.h: the compute threads of a runtime. One caller at a time hands out a numbered set of tasks; the caller works too.
 * Workers spin briefly for the next set (an op follows the last one within microseconds) and then sleep. */
#ifndef REALM_POOL_H
#define REALM_POOL_H

#include "platform/platform.h"

typedef struct pool pool;

/* threads counts the caller: threads - 1 workers are started. NULL when they cannot be. */
pool *pool_create(uint32_t threads);
void pool_destroy(pool *p);
uint32_t pool_threads(const pool *p);
/* Runs task(arg, i, worker) for all i < count, each once, in any order, on any worker in [0, threads); returns when all are done. */
void pool_run(pool *p, void (*task)(void *arg, uint32_t index, uint32_t worker), void *arg, uint32_t count);

#endif
