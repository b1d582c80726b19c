/* tensor.h: host tensors: immutable matrices that guests name by handle, and their products.
 * A tensor owns f32 data or is a view of a weight in the file's block type; it knows nothing of contexts, handles or quotas.
 * Products are jobs with a cursor, so that the engine's driver can run them in slices between batches. */
#ifndef REALM_TENSOR_H
#define REALM_TENSOR_H

#include "base.h"
#include "cpu/ops.h"

typedef struct tensor tensor;

/* A (rows, cols) f32 tensor with a copy of data (row-major; NULL: zeros). Both sizes at least 1. The caller checks quotas
 * before: tensor_owned_bytes says what will be allocated (UINT64_MAX where that does not fit in 64 bits). */
realm_status tensor_create(uint32_t rows, uint32_t cols, const float *data, tensor **out, realm_error *err);
uint64_t tensor_owned_bytes(uint32_t rows, uint32_t cols);
/* A view of (rows, cols) in ggml type `type`, row after row, or `packed` (cpu/packing.h). data_bytes must hold them. The caller keeps
 * data alive as long as any reference to the view. */
realm_status tensor_view(uint32_t type, bool packed, const void *data, uint64_t data_bytes, uint32_t rows, uint32_t cols, tensor **out,
                         realm_error *err);

/* References may be taken and dropped on any thread; the last one frees. release(NULL) is allowed. */
tensor *tensor_share(tensor *t);
void tensor_release(tensor *t);

uint32_t tensor_rows(const tensor *t);
uint32_t tensor_cols(const tensor *t);
uint64_t tensor_bytes(const tensor *t); /* memory this tensor owns; of a view: without the weight */

/* Copies out as f32, row-major. *count gets rows * cols, at most cap are written. */
realm_status tensor_read(const cpu_ops *ops, const tensor *t, float *out, size_t cap, size_t *count, realm_error *err);

/* ---- products ---- */

typedef struct tensor_product tensor_product;

/* a (m, k) @ b (k, n), or with `transposed` a (m, k) @ b (n, k)^T -> (m, n). Any computable type on either side. The job keeps
 * references to a and b; ops must outlive it. Shapes that do not fit are invalid-argument. */
realm_status tensor_product_begin(const cpu_ops *ops, tensor *a, tensor *b, bool transposed, tensor_product **out,
                                  realm_error *err);
/* Memory a product needs besides its result's tensor_owned_bytes(m, n). */
uint64_t tensor_product_scratch(const cpu_ops *ops, const tensor *a, const tensor *b, bool transposed);
/* Computes about `budget` multiply-adds (0: all that is left), at least one slice. True when the product is complete. The
 * result does not depend on how it was sliced. */
bool tensor_product_step(tensor_product *job, uint64_t budget);
/* After step returned true: hands out the result (the caller's reference) and frees the job. */
tensor *tensor_product_finish(tensor_product *job);
/* Frees a job at any point. NULL is allowed. */
void tensor_product_abandon(tensor_product *job);

#endif
