/* tensor.c: host tensors and their products in slices. The arithmetic is the op table's (cpu/ops.h); here are shapes,
 * ownership and the cursor.
 *
 * A product walks blocks of ROW_BLOCK rows of `a`. Transposed, the form weights are stored in, it runs the matmul kernel of
 * b's type over ranges of outputs. Not transposed, it adds a[r, i] * b[i, :] to the block's rows for one i after another. */
#include "tensor.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "cpu/packing.h"
#include "platform/platform.h"

#define ROW_BLOCK 16u /* rows sharing one pass over b; fixed, so that slicing never changes a result */

struct tensor {
    atomic_uint references;
    uint32_t type; /* ggml type of data */
    bool packed;   /* stripes of its rows are (cpu/packing.h) */
    uint32_t rows, cols;
    size_t row_bytes;
    uint64_t bytes; /* owned: this record and `owned` */
    const void *data;
    float *owned; /* NULL in a view */
};

/* ---- tensors ---- */

static tensor *tensor_record(uint32_t type, uint32_t rows, uint32_t cols, size_t row_bytes, realm_error *err) {
    tensor *t = calloc(1, sizeof *t);
    if (t == NULL) {
        base_fail_memory(err, "a tensor", sizeof *t);
        return NULL;
    }
    atomic_init(&t->references, 1);
    t->type = type;
    t->rows = rows;
    t->cols = cols;
    t->row_bytes = row_bytes;
    t->bytes = sizeof *t;
    return t;
}

uint64_t tensor_owned_bytes(uint32_t rows, uint32_t cols) {
    uint64_t bytes;
    if (!base_mul((uint64_t)rows * cols, sizeof(float), &bytes)) return UINT64_MAX;
    return base_add(bytes, sizeof(tensor), &bytes) ? bytes : UINT64_MAX;
}

/* The data is left uninitialised. */
static realm_status tensor_allocate(uint32_t rows, uint32_t cols, tensor **out, realm_error *err) {
    *out = NULL;
    if (rows == 0 || cols == 0) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "a tensor of %u x %u: both sizes must be at least 1", rows, cols);
    }
    uint64_t bytes = tensor_owned_bytes(rows, cols);
    if (bytes > SIZE_MAX / 2) return base_fail_memory(err, "a tensor", bytes);
    tensor *t = tensor_record(BLOCK_F32, rows, cols, (size_t)cols * sizeof(float), err);
    if (t == NULL) return REALM_E_OUT_OF_MEMORY;
    t->owned = platform_alloc_aligned(t->row_bytes * rows);
    if (t->owned == NULL) {
        free(t);
        return base_fail_memory(err, "a tensor", bytes);
    }
    t->data = t->owned;
    t->bytes = bytes;
    *out = t;
    return REALM_OK;
}

realm_status tensor_create(uint32_t rows, uint32_t cols, const float *data, tensor **out, realm_error *err) {
    realm_status status = tensor_allocate(rows, cols, out, err);
    if (status != REALM_OK) return status;
    if (data != NULL) memcpy((*out)->owned, data, (*out)->row_bytes * rows);
    else memset((*out)->owned, 0, (*out)->row_bytes * rows);
    return REALM_OK;
}

realm_status tensor_view(uint32_t type, bool packed, const void *data, uint64_t data_bytes, uint32_t rows, uint32_t cols, tensor **out,
                         realm_error *err) {
    *out = NULL;
    const block_type *block = block_type_of(type);
    if (block == NULL || !block->computable) {
        return base_fail(err, REALM_E_UNSUPPORTED_TENSOR_TYPE, "unsupported tensor type %s (%u)",
                         block ? block->name : "unknown", type);
    }
    uint64_t row_bytes = (uint64_t)(cols / block->elements) * block->bytes, bytes;
    if (rows == 0 || cols == 0 || cols % block->elements != 0 || !base_mul(row_bytes, rows, &bytes) || bytes > data_bytes) {
        return base_fail(err, REALM_E_INVALID_MODEL, "a %s tensor of %u x %u does not fit %llu bytes", block->name, rows, cols,
                         (unsigned long long)data_bytes);
    }
    *out = tensor_record(type, rows, cols, (size_t)row_bytes, err);
    if (*out == NULL) return REALM_E_OUT_OF_MEMORY;
    (*out)->data = data;
    (*out)->packed = packed;
    return REALM_OK;
}

tensor *tensor_share(tensor *t) {
    atomic_fetch_add_explicit(&t->references, 1, memory_order_relaxed);
    return t;
}

void tensor_release(tensor *t) {
    if (t == NULL || atomic_fetch_sub_explicit(&t->references, 1, memory_order_acq_rel) != 1) return;
    if (t->owned != NULL) {
        base_wipe(t->owned, t->row_bytes * t->rows);
        platform_free_aligned(t->owned);
    }
    free(t);
}

uint32_t tensor_rows(const tensor *t) { return t->rows; }
uint32_t tensor_cols(const tensor *t) { return t->cols; }
uint64_t tensor_bytes(const tensor *t) { return t->bytes; }

/* ---- reading ---- */

static const uint8_t *tensor_row(const tensor *t, uint32_t row) { return (const uint8_t *)t->data + t->row_bytes * row; }

static bool row_is_packed(const tensor *t, uint32_t row) { return t->packed && row < t->rows / CPU_PACK_ROWS * CPU_PACK_ROWS; }

/* The first `count` elements of a row; blocks that are cut go through a buffer. */
static void read_row(const cpu_ops *ops, const tensor *t, uint32_t row, uint32_t count, float *out) {
    if (row_is_packed(t, row)) {
        const uint8_t *stripe = tensor_row(t, row / CPU_PACK_ROWS * CPU_PACK_ROWS);
        cpu_read_packed_row(ops->dequantize[t->type], t->type, stripe, row % CPU_PACK_ROWS, count, out);
        return;
    }
    const block_type *block = block_type_of(t->type);
    uint32_t whole = count - count % block->elements;
    const uint8_t *bytes = tensor_row(t, row);
    if (whole > 0) ops->dequantize[t->type](bytes, whole, out);
    if (whole == count) return;
    float last[BLOCK_QK_K];
    ops->dequantize[t->type](bytes + (size_t)(whole / block->elements) * block->bytes, block->elements, last);
    memcpy(out + whole, last, (count - whole) * sizeof(float));
}

realm_status tensor_read(const cpu_ops *ops, const tensor *t, float *out, size_t cap, size_t *count, realm_error *err) {
    uint64_t total = (uint64_t)t->rows * t->cols;
    if (total > SIZE_MAX) return base_fail(err, REALM_E_LIMIT_EXCEEDED, "the tensor is larger than this machine's memory");
    *count = (size_t)total;
    for (uint32_t row = 0; row < t->rows && cap > 0; row++) {
        uint32_t take = cap < t->cols ? (uint32_t)cap : t->cols;
        read_row(ops, t, row, take, out);
        out += take;
        cap -= take;
    }
    return REALM_OK;
}

/* ---- products ---- */

struct tensor_product {
    const cpu_ops *ops;
    tensor *a, *b, *out;
    bool transposed;
    uint32_t row0; /* first row of the block in work */
    uint32_t next; /* transposed: the next output; else the next row of b */
    float *a_rows; /* (ROW_BLOCK, k) f32, for an `a` that is a view: of another type, or unaligned; or NULL */
    float *b_row;  /* (n,) f32, for a `b` that is a view and not transposed; or NULL */
    void *prepared; /* transposed: the block's rows as b's kernel wants them */
};

static uint32_t rows_in_block(const tensor *a, uint32_t row0) { return a->rows - row0 < ROW_BLOCK ? a->rows - row0 : ROW_BLOCK; }

static realm_status check_shapes(const tensor *a, const tensor *b, bool transposed, realm_error *err) {
    uint32_t inner = transposed ? b->cols : b->rows;
    if (a->cols == inner) return REALM_OK;
    return base_fail(err, REALM_E_INVALID_ARGUMENT, "matmul of (%u, %u) and (%u, %u)%s: %u and %u must be equal", a->rows,
                     a->cols, b->rows, b->cols, transposed ? " transposed" : "", a->cols, inner);
}

/* Sizes of the three buffers of a job; 0: not needed. */
typedef struct product_sizes {
    size_t a_rows, b_row, prepared;
} product_sizes;

static product_sizes sizes_of(const cpu_ops *ops, const tensor *a, const tensor *b, bool transposed) {
    uint32_t rows = rows_in_block(a, 0);
    product_sizes sizes = {0};
    if (a->owned == NULL) sizes.a_rows = (size_t)rows * a->cols * sizeof(float);
    if (transposed) sizes.prepared = ops->matmul[b->type].prepared_size(rows, a->cols);
    else if (b->owned == NULL) sizes.b_row = (size_t)b->cols * sizeof(float);
    return sizes;
}

uint64_t tensor_product_scratch(const cpu_ops *ops, const tensor *a, const tensor *b, bool transposed) {
    product_sizes sizes = sizes_of(ops, a, b, transposed);
    return (uint64_t)sizes.a_rows + sizes.b_row + sizes.prepared;
}

static bool allocate(void *pointer_to_buffer, size_t bytes) {
    void *memory = NULL;
    if (bytes > 0 && (memory = platform_alloc_aligned(bytes)) == NULL) return false;
    memcpy(pointer_to_buffer, &memory, sizeof memory);
    return true;
}

realm_status tensor_product_begin(const cpu_ops *ops, tensor *a, tensor *b, bool transposed, tensor_product **out,
                                  realm_error *err) {
    *out = NULL;
    realm_status status = check_shapes(a, b, transposed, err);
    if (status != REALM_OK) return status;
    tensor_product *job = calloc(1, sizeof *job);
    if (job == NULL) return base_fail_memory(err, "a matmul", sizeof *job);
    job->ops = ops;
    job->a = tensor_share(a);
    job->b = tensor_share(b);
    job->transposed = transposed;
    product_sizes sizes = sizes_of(ops, a, b, transposed);
    status = tensor_allocate(a->rows, transposed ? b->rows : b->cols, &job->out, err);
    if (status == REALM_OK && !(allocate(&job->a_rows, sizes.a_rows) && allocate(&job->b_row, sizes.b_row) &&
                                allocate(&job->prepared, sizes.prepared))) {
        status = base_fail_memory(err, "a matmul", tensor_product_scratch(ops, a, b, transposed));
    }
    if (status != REALM_OK) tensor_product_abandon(job);
    else *out = job;
    return status;
}

static void free_aligned_wiped(void *p, size_t bytes) {
    if (p == NULL) return;
    base_wipe(p, bytes);
    platform_free_aligned(p);
}

void tensor_product_abandon(tensor_product *job) {
    if (job == NULL) return;
    product_sizes sizes = sizes_of(job->ops, job->a, job->b, job->transposed);
    free_aligned_wiped(job->a_rows, sizes.a_rows);
    free_aligned_wiped(job->b_row, sizes.b_row);
    free_aligned_wiped(job->prepared, sizes.prepared);
    tensor_release(job->a);
    tensor_release(job->b);
    tensor_release(job->out);
    free(job);
}

tensor *tensor_product_finish(tensor_product *job) {
    tensor *result = job->out;
    job->out = NULL;
    tensor_product_abandon(job);
    return result;
}

/* The block's rows of a as f32, (rows, k) without gaps. */
static const float *block_rows(tensor_product *job, uint32_t rows) {
    if (job->a_rows == NULL) return job->a->owned + (size_t)job->row0 * job->a->cols;
    if (job->next == 0) {
        for (uint32_t r = 0; r < rows; r++) {
            read_row(job->ops, job->a, job->row0 + r, job->a->cols, job->a_rows + (size_t)r * job->a->cols);
        }
    }
    return job->a_rows;
}

/* out (rows, n)[:, next..next+count] = a (rows, k) @ b (n, k)[next..next+count]^T. Returns count. */
static uint32_t slice_transposed(tensor_product *job, uint32_t rows, uint64_t budget) {
    const cpu_matmul *kernel = &job->ops->matmul[job->b->type];
    uint32_t k = job->a->cols, n = job->out->cols, tile = kernel->out_tile > 0 ? kernel->out_tile : 1;
    if (job->next == 0) kernel->prepare(block_rows(job, rows), k, rows, k, 0, rows, job->prepared);
    uint64_t tiles = budget / ((uint64_t)rows * k * tile) + 1;
    uint32_t left = n - job->next, count = tiles < left / tile ? (uint32_t)tiles * tile : left;
    cpu_matmul_run *run = job->b->packed ? job->ops->run_packed[job->b->type] : kernel->run;
    run(job->b->data, job->b->row_bytes, job->prepared, rows, k, job->next, job->next + count, job->out->owned + (size_t)job->row0 * n, n);
    return count;
}

/* Row i of b (k, n) as f32. */
static const float *b_row(tensor_product *job, uint32_t i) {
    if (job->b_row == NULL) return job->b->owned + (size_t)i * job->b->cols;
    read_row(job->ops, job->b, i, job->b->cols, job->b_row);
    return job->b_row;
}

/* out (rows, n) += a (rows, k)[:, next..next+count] @ b (k, n)[next..next+count]. Returns count. */
static uint32_t slice_plain(tensor_product *job, uint32_t rows, uint64_t budget) {
    uint32_t k = job->a->cols, n = job->out->cols, left = k - job->next;
    uint64_t wanted = budget / ((uint64_t)rows * n) + 1;
    uint32_t count = wanted < left ? (uint32_t)wanted : left;
    const float *a = block_rows(job, rows);
    float *out = job->out->owned + (size_t)job->row0 * n;
    if (job->next == 0) memset(out, 0, (size_t)rows * n * sizeof(float));
    for (uint32_t i = job->next; i < job->next + count; i++) {
        const float *b = b_row(job, i);
        for (uint32_t r = 0; r < rows; r++) {
            float factor = a[(size_t)r * k + i];
            for (uint32_t o = 0; o < n; o++) out[(size_t)r * n + o] += factor * b[o];
        }
    }
    return count;
}

bool tensor_product_step(tensor_product *job, uint64_t budget) {
    if (budget == 0 || budget > INT64_MAX) budget = INT64_MAX; /* the slices' sizes then cannot wrap */
    uint32_t n = job->out->cols, k = job->a->cols, width = job->transposed ? n : k;
    while (job->row0 < job->a->rows) {
        uint32_t rows = rows_in_block(job->a, job->row0);
        uint32_t count = job->transposed ? slice_transposed(job, rows, budget) : slice_plain(job, rows, budget);
        uint64_t spent = (uint64_t)rows * count * (job->transposed ? k : n);
        job->next += count;
        if (job->next == width) {
            job->next = 0;
            job->row0 += rows;
        }
        if (spent >= budget) break;
        budget -= spent;
    }
    return job->row0 == job->a->rows;
}
