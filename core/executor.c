/* executor.c: one loop over the plan's ops; each op is cut into tasks for the thread pool. Neighbours are fused: consecutive matmuls
 * of the same input run as one set of tasks (Q, K, V; gate and up), and their input is prepared once per kernel; consecutive ops
 * that work row by row (rope and KV store; residual and norm) run over a few rows at a time, which stay in the cache. */
#include "executor.h"

#include <math.h>
#include <stdlib.h>

#include "activations.h"
#include "cpu/packing.h"

enum {
    MAX_FUSED = 4,          /* matmuls in one set of tasks */
    TASKS_PER_THREAD = 4,   /* finer than the thread count, so that a slow core does not hold up the rest; */
    MOST_TASKS = 12,        /* so many where a task still has TASK_BYTES of weights: starting one costs a microsecond */
    TASK_BYTES = 1 << 19,
    FEW_ROWS = 16,          /* fewer than these wait for weights, not for their products */
    SERIAL_WORK = 1 << 14,  /* elements below which an elementwise op is not worth waking threads for */
    ROWS_AT_ONCE = 8,       /* rows that one op after the other works on */
};

/* Rows [row0, row1) of a segment, whose page pointers start at pages[page0]. */
typedef struct row_block {
    uint32_t segment, row0, row1, page0;
} row_block;

struct executor {
    const plan *plan;
    const uint8_t *weights;
    const cpu_ops *ops;
    pool *pool;
    bool rounded;           /* products of the layers round their activations: attention may do so too */
    activations memory;
    bool *packed;           /* by tensor of the plan: its weights are */
    float *cos_sin;         /* (max_rows, rope_half, 2) of the running batch */
    float *scratch;         /* attention scratch, one per thread */
    size_t scratch_floats;
    const void **pages;     /* page pointers of one attention op, all segments */
    uint32_t pages_capacity;
    row_block *blocks;      /* attention's tasks of the running batch, before the split by heads */
    uint32_t block_count, blocks_capacity;
    const batch *work;
    uint32_t cursor;        /* next op */
    uint32_t task;          /* next task of the op under way; 0: none was run */
    uint64_t spent;         /* multiply-adds of the last run */
    uint64_t slice;         /* multiply-adds that a round of its tasks may take, fixed when it begins; 0: no bound */
    uint32_t rows;          /* rows later ops work on: all, or the gathered ones */
    executor_observer observer;
    void *observer_arg;
};

/* ---- life ---------------------------------------------------------------------------------------------------------------- */

/* Whether every product in the layers is with quantized weights. */
static bool layers_are_quantized(const plan *p) {
    for (uint32_t i = 0; i < p->op_count; i++) {
        const plan_op *op = &p->ops[i];
        if (op->kind != REALM_OP_MATMUL || op->layer == REALM_LAYER_HEAD) continue;
        if (block_type_of(p->tensors[op->weight].type)->elements == 1) return false;
    }
    return true;
}

static bool allocate_buffers(executor *x, uint32_t max_rows, uint32_t max_out) {
    x->scratch_floats = (cpu_attention_scratch(x->plan->head_dim) + 15) & ~(size_t)15;
    x->scratch = platform_alloc_aligned(x->scratch_floats * pool_threads(x->pool) * sizeof(float));
    x->cos_sin = malloc((size_t)max_rows * x->plan->rope_half * 2 * sizeof(float));
    x->packed = calloc(x->plan->tensor_count, sizeof *x->packed);
    bool fits = activations_create(&x->memory, x->plan, x->ops, max_rows, max_out);
    return fits && x->scratch != NULL && x->cos_sin != NULL && x->packed != NULL;
}

realm_status executor_create(const plan *p, const uint8_t *weights, const cpu_ops *ops, pool *threads, uint32_t max_rows,
                             uint32_t max_out, executor **out, realm_error *err) {
    *out = NULL;
    executor *x = calloc(1, sizeof *x);
    if (x == NULL) return base_fail_memory(err, "the executor", sizeof *x);
    *x = (executor){.plan = p, .weights = weights, .ops = ops, .pool = threads,
                    .rounded = layers_are_quantized(p)};
    if (!allocate_buffers(x, max_rows, max_out)) {
        executor_destroy(x);
        return base_fail_memory(err, "activation buffers", (uint64_t)max_rows * p->embedding_length * sizeof(float));
    }
    *out = x;
    return REALM_OK;
}

void executor_destroy(executor *x) {
    if (x == NULL) return;
    activations_destroy(&x->memory);
    if (x->scratch != NULL) {
        base_wipe(x->scratch, x->scratch_floats * pool_threads(x->pool) * sizeof(float));
        platform_free_aligned(x->scratch);
    }
    free(x->cos_sin);
    free(x->packed);
    free((void *)x->pages);
    free(x->blocks);
    free(x);
}

void executor_mark_packed(executor *x, uint32_t tensor) { x->packed[tensor] = true; }
void executor_trim(executor *x) { activations_trim(&x->memory); }

void executor_observe(executor *x, executor_observer done, void *arg) {
    x->observer = done;
    x->observer_arg = arg;
}

/* ---- slices: an op may be left after any round of its tasks and taken up again -------------------------------------------- */

typedef struct task_range {
    void (*run)(void *job, uint32_t index, uint32_t worker);
    void *job;
    uint32_t first;
} task_range;

static void range_task(void *arg, uint32_t index, uint32_t worker) {
    const task_range *range = arg;
    range->run(range->job, range->first + index, worker);
}

/* Runs the next of an op's `count` tasks, of `work` multiply-adds in all, as many as the allowance has room for. */
static uint64_t run_tasks(executor *x, void (*run)(void *, uint32_t, uint32_t), void *job, uint32_t count, uint64_t work,
                          uint64_t allowance) {
    uint32_t left = count - x->task, n = left;
    if (allowance < work) {
        uint64_t fit = count * allowance / work, least = pool_threads(x->pool);
        if (fit < least) fit = least;
        if (fit < left) n = (uint32_t)fit;
    }
    task_range range = {run, job, x->task};
    pool_run(x->pool, range_task, &range, n);
    x->task = n < left ? x->task + n : 0;
    return count == 0 ? 0 : work / count * n;
}

/* What one task may cost, so that a round of them stays within the slice. */
static uint64_t task_limit(const executor *x) { return x->slice == 0 ? UINT64_MAX : x->slice / pool_threads(x->pool) + 1; }

/* ---- matmul ------------------------------------------------------------------------------------------------------------- */

typedef struct matmul_part {
    const cpu_matmul *kernel;
    cpu_matmul_run *run;
    const plan_tensor *weight;
    float *out;
    uint32_t out_width;
    uint32_t first_task, out_per_task;
} matmul_part;

typedef struct matmul_job {
    executor *x;
    const cpu_matmul *kernel; /* whose prepare made x->memory.prepared */
    const float *src;
    uint32_t src_width, rows, rows_per_task;
    uint32_t parts;
    matmul_part part[MAX_FUSED];
} matmul_job;

static void prepare_task(void *arg, uint32_t index, uint32_t worker) {
    matmul_job *job = arg;
    (void)worker;
    uint32_t row0 = index * job->rows_per_task, row1 = row0 + job->rows_per_task;
    if (row1 > job->rows) row1 = job->rows;
    job->kernel->prepare(job->src, job->src_width, job->rows, job->src_width, row0, row1, job->x->memory.prepared);
}

static void matmul_task(void *arg, uint32_t index, uint32_t worker) {
    matmul_job *job = arg;
    (void)worker;
    uint32_t i = job->parts - 1;
    while (index < job->part[i].first_task) i--;
    const matmul_part *part = &job->part[i];
    uint32_t out0 = (index - part->first_task) * part->out_per_task, out1 = out0 + part->out_per_task;
    if (out1 > part->out_width) out1 = part->out_width;
    part->run(job->x->weights + part->weight->offset, (size_t)part->weight->row_bytes, job->x->memory.prepared, job->rows, job->src_width,
              out0, out1, part->out, part->out_width);
}

/* Ops from `op` on that read the same input through the same preparation, up to `end`. */
static uint32_t count_fusable(const executor *x, const plan_op *op, const plan_op *end) {
    const plan *p = x->plan;
    uint32_t n = 1;
    while (n < MAX_FUSED && op + n < end && op[n].kind == REALM_OP_MATMUL && op[n].src == op->src && op[n].layer == op->layer &&
           x->ops->matmul[p->tensors[op[n].weight].type].prepare == x->ops->matmul[p->tensors[op->weight].type].prepare) {
        n++;
    }
    return n;
}

static uint32_t round_up(uint32_t n, uint32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* Tasks per thread for a set of products with so many bytes of weights. Prompts gain nothing from more of them. */
static uint64_t tasks_per_thread(const executor *x, uint64_t bytes) {
    if (x->rows >= FEW_ROWS) return TASKS_PER_THREAD;
    uint64_t tasks = bytes / TASK_BYTES / pool_threads(x->pool);
    return tasks < TASKS_PER_THREAD ? TASKS_PER_THREAD : tasks > MOST_TASKS ? MOST_TASKS : tasks;
}

/* Outputs a task takes of `total`: so many that each thread has about per_thread tasks, in multiples of the kernel's tile. */
static uint32_t split_outputs(const executor *x, const matmul_part *part, uint64_t total, uint64_t per_thread) {
    uint32_t tile = part->kernel->out_tile == 0 ? 1 : part->kernel->out_tile;
    uint64_t most = task_limit(x) / ((uint64_t)part->weight->cols * x->rows) + 1;
    if (most < part->out_width) return round_up((uint32_t)most, tile);
    if (pool_threads(x->pool) == 1) return round_up(part->out_width, tile);
    uint64_t tasks = pool_threads(x->pool) * per_thread, wanted = (total + tasks - 1) / tasks;
    return round_up((uint32_t)wanted, tile);
}

static uint64_t run_matmuls(executor *x, const plan_op *op, uint32_t count, uint64_t allowance) {
    const plan *p = x->plan;
    const plan_tensor *first = &p->tensors[op->weight];
    matmul_job job = {.x = x, .kernel = &x->ops->matmul[first->type], .src = x->memory.slots[op->src], .src_width = first->cols,
                      .rows = x->rows, .parts = count};
    uint64_t total = 0, bytes = 0;
    uint32_t tasks = 0;
    for (uint32_t i = 0; i < count; i++) {
        total += p->tensors[op[i].weight].rows;
        bytes += p->tensors[op[i].weight].rows * p->tensors[op[i].weight].row_bytes;
    }
    const uint64_t per_thread = tasks_per_thread(x, bytes);
    for (uint32_t i = 0; i < count; i++) {
        matmul_part *part = &job.part[i];
        const plan_tensor *w = &p->tensors[op[i].weight];
        const cpu_matmul *kernel = &x->ops->matmul[w->type];
        *part = (matmul_part){.kernel = kernel, .run = x->packed[op[i].weight] ? x->ops->run_packed[w->type] : kernel->run,
                              .weight = w, .out = x->memory.slots[op[i].dst], .out_width = w->rows, .first_task = tasks};
        part->out_per_task = split_outputs(x, part, total, per_thread);
        tasks += (w->rows + part->out_per_task - 1) / part->out_per_task;
    }
    uint32_t threads = pool_threads(x->pool);
    job.rows_per_task = x->rows < FEW_ROWS ? x->rows : (x->rows + threads - 1) / threads;
    if (x->task == 0) pool_run(x->pool, prepare_task, &job, (x->rows + job.rows_per_task - 1) / job.rows_per_task);
    return run_tasks(x, matmul_task, &job, tasks, total * first->cols * x->rows, allowance);
}

/* ---- attention --------------------------------------------------------------------------------------------------------- */

typedef struct attention_job {
    executor *x;
    cpu_attention base;
    uint32_t head_groups; /* tasks per part of a row block */
    uint32_t heads_per_group; /* query heads; whole KV heads of them */
    uint32_t parts, rows_per_part; /* of a row block */
} attention_job;

enum {
    ATTENTION_ROWS = 64,    /* rows of a task: enough to reuse a KV page, few enough to balance */
    DECODE_TASKS_PER_THREAD = 2, /* where all decode: longer runs of memory are worth more than balance */
};

static uint32_t segment_pages(const batch_segment *s) { return (s->pos0 + s->n_rows + CPU_KV_PAGE - 1) / CPU_KV_PAGE; }

static void attention_task(void *arg, uint32_t index, uint32_t worker) {
    attention_job *job = arg;
    executor *x = job->x;
    const row_block *block = &x->blocks[index / job->head_groups / job->parts];
    uint32_t row0 = block->row0 + index / job->head_groups % job->parts * job->rows_per_part, row1 = row0 + job->rows_per_part;
    if (row0 >= block->row1) return;
    if (row1 > block->row1) row1 = block->row1;
    const batch_segment *s = &x->work->segments[block->segment];
    cpu_attention a = job->base;
    a.q += s->row0 * a.q_stride;
    a.out += s->row0 * a.out_stride;
    a.n_rows = s->n_rows;
    a.pos0 = s->pos0;
    a.kv_type = kv_type_of(s->kv);
    a.pages = x->pages + block->page0;
    uint32_t head0 = index % job->head_groups * job->heads_per_group, left = a.n_head - head0;
    uint32_t heads = left < job->heads_per_group ? left : job->heads_per_group;
    x->ops->attention(&a, row0, row1, head0, head0 + heads, x->scratch + worker * x->scratch_floats);
}

static void find_pages(executor *x, const plan_op *op) {
    uint32_t used = 0;
    for (uint32_t i = 0; i < x->work->n_segments; i++) {
        const batch_segment *s = &x->work->segments[i];
        uint32_t n = segment_pages(s);
        for (uint32_t k = 0; k < n; k++) x->pages[used + k] = (const char *)s->pages[k]->data + kv_layer_offset(s->kv, op->layer);
        used += n;
    }
}

static uint64_t longest_context(const executor *x) {
    uint64_t longest = 0;
    for (uint32_t i = 0; i < x->work->n_segments; i++) {
        uint64_t length = x->work->segments[i].pos0 + x->work->segments[i].n_rows;
        if (length > longest) longest = length;
    }
    return longest;
}

/* A task takes one KV head, or several where each sequence has a row only and they fit a slice. Fewer rows where the context is so
 * long that a whole block would take more than a slice. */
static void split_blocks(const executor *x, attention_job *job) {
    const plan *p = x->plan;
    uint32_t shared = p->head_count / p->head_count_kv, together = 1;
    uint64_t fit = task_limit(x) / (longest_context(x) * shared * p->head_dim * 2);
    if (x->work->n_rows == x->work->n_segments) {
        uint64_t tasks = (uint64_t)pool_threads(x->pool) * DECODE_TASKS_PER_THREAD;
        uint64_t wanted = (uint64_t)x->work->n_segments * p->head_count_kv / tasks;
        if (wanted > fit) wanted = fit;
        if (wanted > p->head_count_kv) wanted = p->head_count_kv;
        if (wanted > together) together = (uint32_t)wanted;
    }
    job->heads_per_group = together * shared;
    job->head_groups = (p->head_count_kv + together - 1) / together;
    job->rows_per_part = fit < ATTENTION_ROWS ? (uint32_t)fit + 1 : ATTENTION_ROWS;
    job->parts = (ATTENTION_ROWS + job->rows_per_part - 1) / job->rows_per_part;
}

static uint64_t run_attention(executor *x, const plan_op *op, uint64_t allowance) {
    const plan *p = x->plan;
    uint64_t work = 0;
    for (uint32_t i = 0; i < x->work->n_segments; i++) {
        const batch_segment *s = &x->work->segments[i];
        work += (uint64_t)s->n_rows * (s->pos0 + s->n_rows);
    }
    if (x->task == 0) find_pages(x, op);
    attention_job job = {.x = x};
    job.base = (cpu_attention){.q = x->memory.slots[op->src], .out = x->memory.slots[op->dst], .q_stride = op->width, .out_stride = op->width,
                               .n_head = p->head_count, .n_head_kv = p->head_count_kv, .head_dim = p->head_dim,
                               .window = op->window, .scale = op->f0, .softcap = op->f1,
                               .rounded = x->rounded};
    split_blocks(x, &job);
    return run_tasks(x, attention_task, &job, x->block_count * job.parts * job.head_groups, work * 2 * op->width, allowance);
}

static bool in_slice(const executor *x, const plan_op *op) {
    uint32_t end = x->work->layer_first + x->work->layer_count;
    if (op->layer == REALM_LAYER_HEAD) return end == x->plan->layer_count && x->work->n_out > 0;
    return op->layer >= x->work->layer_first && op->layer < end;
}

/* ---- elementwise ops: rows are cut into blocks -------------------------------------------------------------------------- */

typedef struct rows_job {
    executor *x;
    const plan_op *ops;
    uint32_t count;
    uint32_t rows, rows_per_task;
} rows_job;

static const float *vector(const executor *x, uint32_t weight) {
    return (const float *)(const void *)(x->weights + x->plan->tensors[weight].offset);
}

static void embed_rows(executor *x, const plan_op *op, uint32_t row0, uint32_t row1) {
    const plan_tensor *w = &x->plan->tensors[op->weight];
    uint32_t packed_rows = x->packed[op->weight] ? w->rows / CPU_PACK_ROWS * CPU_PACK_ROWS : 0;
    for (uint32_t r = row0; r < row1; r++) {
        uint32_t token = x->work->tokens[r], in_stripe = token < packed_rows ? token % CPU_PACK_ROWS : 0;
        const uint8_t *row = x->weights + w->offset + (token - in_stripe) * w->row_bytes; /* the stripe's, of a packed one */
        float *out = x->memory.slots[op->dst] + (size_t)r * op->width;
        if (token < packed_rows) cpu_read_packed_row(x->ops->dequantize[w->type], w->type, row, in_stripe, w->cols, out);
        else x->ops->dequantize[w->type](row, w->cols, out);
    }
}

static void store_kv_rows(executor *x, const plan_op *op, uint32_t row0, uint32_t row1) {
    const plan *p = x->plan;
    const batch_segment *s = x->work->segments;
    for (uint32_t r = row0; r < row1; r++) {
        while (r >= s->row0 + s->n_rows) s++;
        uint32_t pos = x->work->positions[r], slot = pos % CPU_KV_PAGE;
        char *k = (char *)s->pages[pos / CPU_KV_PAGE]->data + kv_layer_offset(s->kv, op->layer);
        uint32_t type = kv_type_of(s->kv);
        x->ops->kv_store(k, type, slot, x->memory.slots[op->src] + (size_t)r * op->width, p->head_count_kv, p->head_dim);
        x->ops->kv_store(k + kv_part_bytes(s->kv), type, slot, x->memory.slots[op->src2] + (size_t)r * op->width, p->head_count_kv,
                         p->head_dim);
    }
}

static void gather_rows(executor *x, const plan_op *op, uint32_t row0, uint32_t row1) {
    for (uint32_t r = row0; r < row1; r++) {
        memcpy(x->memory.slots[op->dst] + (size_t)r * op->width, x->memory.slots[op->src] + (size_t)x->work->out_rows[r] * op->width,
               op->width * sizeof(float));
    }
}

static void rows_op(executor *x, const plan_op *op, uint32_t row0, uint32_t row1) {
    const cpu_ops *ops = x->ops;
    const plan *p = x->plan;
    float *dst = x->memory.slots[op->dst] + (size_t)row0 * op->width;
    const float *src = x->memory.slots[op->src] + (size_t)row0 * op->width;
    size_t n = (size_t)(row1 - row0) * op->width;
    switch ((realm_op_kind)op->kind) {
    case REALM_OP_EMBED: embed_rows(x, op, row0, row1); break;
    case REALM_OP_RMSNORM:
        ops->rmsnorm(x->memory.slots[op->src], vector(x, op->weight), op->f0, op->width, row0, row1, x->memory.slots[op->dst]);
        break;
    case REALM_OP_BIAS: ops->add_bias(x->memory.slots[op->dst], vector(x, op->weight), op->width, row0, row1); break;
    case REALM_OP_ROPE:
        ops->rope(x->memory.slots[op->dst], op->width, x->cos_sin, op->n_head, p->head_dim, p->rope_half, p->rope_neox, row0, row1);
        break;
    case REALM_OP_KV_STORE: store_kv_rows(x, op, row0, row1); break;
    case REALM_OP_SILU_MUL: ops->silu_mul(dst, src, n); break;
    case REALM_OP_GELU_MUL: ops->gelu_mul(dst, src, n); break;
    case REALM_OP_ADD: ops->add(dst, src, n); break;
    case REALM_OP_SCALE: ops->scale(dst, op->f0, n); break;
    case REALM_OP_GATHER: gather_rows(x, op, row0, row1); break;
    case REALM_OP_SOFTCAP: ops->softcap(dst, op->f0, n); break;
    case REALM_OP_MATMUL: case REALM_OP_ATTENTION: break; /* not row ops */
    }
}

static void rows_task(void *arg, uint32_t index, uint32_t worker) {
    rows_job *job = arg;
    (void)worker;
    uint32_t row = index * job->rows_per_task, end = row + job->rows_per_task;
    if (end > job->rows) end = job->rows;
    for (; row < end; row += ROWS_AT_ONCE) {
        uint32_t row1 = row + ROWS_AT_ONCE < end ? row + ROWS_AT_ONCE : end;
        for (uint32_t i = 0; i < job->count; i++) rows_op(job->x, &job->ops[i], row, row1);
    }
}

/* Ops from `op` on, up to `end`, that work on the same rows one by one. */
static uint32_t count_row_ops(const executor *x, const plan_op *op, const plan_op *end) {
    uint32_t n = 1;
    if (op->kind == REALM_OP_GATHER) return n;
    while (op + n < end && op[n].kind != REALM_OP_MATMUL && op[n].kind != REALM_OP_ATTENTION && op[n].kind != REALM_OP_GATHER &&
           in_slice(x, op + n)) {
        n++;
    }
    return n;
}

static uint64_t run_rows(executor *x, const plan_op *ops, uint32_t count) {
    uint32_t rows = ops->kind == REALM_OP_GATHER ? x->work->n_out : x->rows, tasks = pool_threads(x->pool) * TASKS_PER_THREAD;
    uint64_t work = 0;
    for (uint32_t i = 0; i < count; i++) work += (uint64_t)rows * ops[i].width;
    if (rows == 0) return 0;
    rows_job job = {.x = x, .ops = ops, .count = count, .rows = rows};
    job.rows_per_task = work < SERIAL_WORK ? rows : (rows + tasks - 1) / tasks;
    pool_run(x->pool, rows_task, &job, (rows + job.rows_per_task - 1) / job.rows_per_task);
    return work;
}

/* ---- the loop ------------------------------------------------------------------------------------------------------------ */

/* cos and sin of position * frequency for each row; in double, because float angles lose digits at long contexts. */
static void fill_cos_sin(executor *x) {
    uint32_t half = x->plan->rope_half;
    for (uint32_t r = 0; r < x->work->n_rows; r++) {
        float *row = x->cos_sin + (size_t)r * half * 2;
        for (uint32_t i = 0; i < half; i++) {
            double angle = (double)x->work->positions[r] * (double)x->plan->rope_freqs[i];
            row[2 * i] = (float)cos(angle);
            row[2 * i + 1] = (float)sin(angle);
        }
    }
}

/* Slices of layers hand the residual stream from one run to the next. */
static void copy_hidden(executor *x, bool in) {
    size_t width = x->plan->embedding_length;
    for (uint32_t i = 0; i < x->work->n_segments; i++) {
        const batch_segment *s = &x->work->segments[i];
        float *rows = x->memory.slots[REALM_SLOT_X] + s->row0 * width;
        if (s->hidden == NULL) continue;
        if (in) memcpy(rows, s->hidden, s->n_rows * width * sizeof(float));
        else memcpy(s->hidden, rows, s->n_rows * width * sizeof(float));
    }
}

static bool reserve(void **array, uint32_t *capacity, uint32_t need, size_t size) {
    if (need <= *capacity) return true;
    void *bigger = realloc(*array, (size_t)need * 2 * size);
    if (bigger == NULL) return false;
    *array = bigger;
    *capacity = need * 2;
    return true;
}

/* Cuts the segments into attention's row blocks and makes room for their page pointers. */
static bool cut_blocks(executor *x) {
    uint32_t pages = 0, blocks = 0;
    for (uint32_t i = 0; i < x->work->n_segments; i++) {
        pages += segment_pages(&x->work->segments[i]);
        blocks += (x->work->segments[i].n_rows + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
    }
    void *page_array = (void *)x->pages, *block_array = x->blocks;
    bool fits = reserve(&page_array, &x->pages_capacity, pages, sizeof *x->pages);
    x->pages = page_array;
    fits = fits && reserve(&block_array, &x->blocks_capacity, blocks, sizeof *x->blocks);
    x->blocks = block_array;
    if (!fits) return false;
    x->block_count = 0;
    pages = 0;
    for (uint32_t i = 0; i < x->work->n_segments; i++) {
        const batch_segment *s = &x->work->segments[i];
        for (uint32_t row = 0; row < s->n_rows; row += ATTENTION_ROWS) {
            uint32_t end = row + ATTENTION_ROWS < s->n_rows ? row + ATTENTION_ROWS : s->n_rows;
            x->blocks[x->block_count++] = (row_block){.segment = i, .row0 = row, .row1 = end, .page0 = pages};
        }
        pages += segment_pages(s);
    }
    return true;
}

bool executor_begin(executor *x, const batch *work) {
    x->work = work;
    x->cursor = x->task = 0;
    x->rows = work->n_rows;
    if (!cut_blocks(x)) return false;
    activations_place(&x->memory, work->n_rows, work->n_out);
    fill_cos_sin(x);
    if (work->layer_first > 0) copy_hidden(x, true);
    return true;
}

/* Runs the next op, or as much of it as the allowance has room for. */
static uint64_t run_op(executor *x, uint64_t allowance) {
    const plan_op *op = &x->plan->ops[x->cursor], *end = x->plan->ops + x->plan->op_count;
    uint32_t count = 1;
    uint64_t work = 0;
    if (in_slice(x, op)) {
        if (op->kind == REALM_OP_MATMUL) {
            count = count_fusable(x, op, end);
            work = run_matmuls(x, op, count, allowance);
        } else if (op->kind == REALM_OP_ATTENTION) {
            work = run_attention(x, op, allowance);
        } else {
            count = count_row_ops(x, op, end);
            work = run_rows(x, op, count);
        }
        if (op->kind == REALM_OP_GATHER) x->rows = x->work->n_out;
    }
    if (x->task == 0) {
        x->cursor += count;
        if (x->observer != NULL) x->observer(x->observer_arg, op, count);
    }
    return work;
}

uint64_t executor_spent(const executor *x) { return x->spent; }

bool executor_run(executor *x, uint64_t budget, const atomic_bool *stop) {
    x->spent = 0;
    while (x->cursor < x->plan->op_count) {
        if (atomic_load_explicit(stop, memory_order_relaxed)) return true;
        if (x->task == 0) x->slice = budget;
        x->spent += run_op(x, budget == 0 ? UINT64_MAX : budget - x->spent);
        if (budget != 0 && x->spent >= budget && x->cursor < x->plan->op_count) return false;
    }
    if (x->work->layer_first + x->work->layer_count < x->plan->layer_count) copy_hidden(x, false);
    return true;
}

const float *executor_logits(const executor *x, uint32_t i) {
    return x->memory.slots[REALM_SLOT_LOGITS] + (size_t)i * x->plan->slot_width[REALM_SLOT_LOGITS];
}
