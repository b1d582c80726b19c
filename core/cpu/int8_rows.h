/* int8_rows.h: the prepared form of activations for the quantized kernels: int8 with a scale per 32 elements.
 *
 * x[i] ~ d[i / 32] * q[i], |q| <= 127. Weights are multiplied as unsigned bytes u = w + offset; what the offset adds is taken
 * back with sums over q, which are kept beside it. Every array of a row is padded with zeros (q to 64 elements, the others
 * to 16 entries), so that kernels load whole vectors. */
#ifndef REALM_CPU_INT8_ROWS_H
#define REALM_CPU_INT8_ROWS_H

#include "cpu_internal.h"

#define INT8_OFFSET 128 /* the sums are multiplied by minus this */

typedef struct int8_row {
    int8_t *q;
    float *d;       /* scale, per 32 */
    float *d_sum;   /* d * sum of q, per 32 */
    int32_t *sum32; /* -INT8_OFFSET * sum of q, per 32 */
    int32_t *sum16; /* the same per 16 */
} int8_row;

static inline size_t int8_q_bytes(uint32_t k) {
    return ((size_t)k + 63) / 64 * 64;
}

/* Entries of d, d_sum, sum32; sum16 has twice as many. */
static inline size_t int8_blocks(uint32_t k) {
    return ((size_t)k / 32 + 15) / 16 * 16;
}

static inline size_t int8_row_bytes(uint32_t k) {
    return int8_q_bytes(k) + int8_blocks(k) * 5 * 4;
}

static inline int8_row int8_row_at(const void *prepared, uint32_t k, size_t row) {
    uint8_t *p = (uint8_t *)(uintptr_t)prepared + row * int8_row_bytes(k);
    size_t n = int8_blocks(k);
    int8_row r = {.q = (int8_t *)p, .d = (float *)(p + int8_q_bytes(k))};
    r.d_sum = r.d + n;
    r.sum32 = (int32_t *)(r.d_sum + n);
    r.sum16 = r.sum32 + n;
    return r;
}

static inline size_t int8_prepared_size(uint32_t n_rows, uint32_t k) {
    return n_rows * int8_row_bytes(k);
}

#endif
