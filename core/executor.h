/* executor.h: the CPU executor: walks a plan's ops over one batch. The engine fills a batch, the executor computes it, the
 * engine takes the results; external.c hands the same batch to executors outside the core. */
#ifndef REALM_EXECUTOR_H
#define REALM_EXECUTOR_H

#include <stdatomic.h>

#include "cpu/ops.h"
#include "kv.h"
#include "plan.h"
#include "pool.h"

/* Consecutive rows of one session. */
typedef struct batch_segment {
    uint32_t row0, n_rows;
    uint32_t pos0;            /* position of the first row */
    const kv_cache *kv;
    kv_page *const *pages;    /* of positions [0, pos0 + n_rows) */
    float *hidden;            /* (n_rows, embedding) in and out for a slice of layers that is not the first or last */
} batch_segment;

typedef struct batch {
    uint32_t n_rows, n_segments, n_out;
    uint32_t layer_first, layer_count; /* the slice to run; the embedding comes with layer 0, the head with the last */
    uint32_t *tokens;         /* (n_rows,) */
    uint32_t *positions;      /* (n_rows,) */
    uint32_t *out_rows;       /* (n_out,) rows whose logits are wanted, ascending */
    batch_segment *segments;  /* (n_segments,) */
} batch;

typedef struct executor executor;

/* Rows are bounded by max_rows, wanted logits by max_out. weights is the file's first byte. The plan, ops, pool must outlive it. */
realm_status executor_create(const plan *p, const uint8_t *weights, const cpu_ops *ops, pool *threads, uint32_t max_rows,
                             uint32_t max_out, executor **out, realm_error *err);
void executor_destroy(executor *x);
/* The plan's tensor has been packed where it stands (cpu/packing.h): not while a batch is computed. */
void executor_mark_packed(executor *x, uint32_t tensor);
/* Gives memory that only large batches need back to the system; only between batches. */
void executor_trim(executor *x);
/* Calls `done` after each op that ran to its end (`count` consecutive matmuls run as one): for benchmarks. NULL: no more. */
typedef void (*executor_observer)(void *arg, const plan_op *op, uint32_t count);
void executor_observe(executor *x, executor_observer done, void *arg);

/* Starts a batch (false: out of memory for its page table); executor_run then computes until about `budget` multiply-adds are
 * spent (0: to the end), also inside a long op, or *stop becomes true. Returns true when the batch is complete (or stopped). */
bool executor_begin(executor *x, const batch *work);
bool executor_run(executor *x, uint64_t budget, const atomic_bool *stop);
/* Multiply-adds of the last executor_run: the smallest piece of an op may be more than the budget. */
uint64_t executor_spent(const executor *x);
/* Logits of the i-th wanted row of the batch, (vocab_size,). Valid until the next begin. */
const float *executor_logits(const executor *x, uint32_t i);

#endif
