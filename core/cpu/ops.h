/* ops.h: the op table every instruction set fills. ops_portable.c is the reference: plain C, one obvious loop per op.
 * ops_avx2.c and ops_avx512.c override what they do faster and inherit the rest (dispatch.c).
 *
 * All functions are pure, reentrant, single-threaded and work on a range, so that the executor can split an op over threads:
 * they never allocate. Activations are f32, row-major; a row is one token. */
#ifndef REALM_CPU_OPS_H
#define REALM_CPU_OPS_H

#include "../base.h"
#include "../blocks.h"

/* out (n_rows, n_out) = x (n_rows, k) @ w (n_out, k)^T, w in the file's block layout, one kernel per block type.
 * x is first prepared into the form the kernel wants (e.g. int8 blocks with scales); one prepared activation serves several
 * weights of types with the same `prepare` function. */

/* out[r * out_stride + o] for all r < n_rows and o in [out0, out1). w is the whole tensor; rows of w are row_bytes apart.
 * The portable kernels compute each (r, o) alone, in an order that depends on k only: bit-equal for any batch. */
typedef void cpu_matmul_run(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, uint32_t out0,
                            uint32_t out1, float *out, size_t out_stride);

typedef struct cpu_matmul {
    /* Bytes of the prepared form of n_rows rows of k elements (64-byte aligned buffers are passed). */
    size_t (*prepared_size)(uint32_t n_rows, uint32_t k);
    /* Prepares rows [row0, row1) of x (n_rows, k; row stride x_stride floats) into `prepared`. */
    void (*prepare)(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared);
    cpu_matmul_run *run;
    /* Smallest sensible multiple of outputs a thread should be given. */
    uint32_t out_tile;
} cpu_matmul;

/* One attention job: queries of consecutive positions of one session against its paged KV, for one query head group. */
#define CPU_KV_PAGE REALM_KV_PAGE /* positions in a page */

typedef struct cpu_attention {
    const float *q;        /* (n_rows, n_head * head_dim), row stride q_stride floats */
    float *out;            /* same shape and stride rules: out_stride */
    size_t q_stride, out_stride;
    uint32_t n_rows;       /* rows of this segment */
    uint32_t pos0;         /* position of row 0; row r sees positions [first(r), pos0 + r] */
    uint32_t n_head, n_head_kv, head_dim;
    uint32_t window;       /* sliding window: row at p sees (p - window, p]; 0: all */
    float scale;           /* multiplies q . k */
    float softcap;         /* cap * tanh(score / cap) before the softmax; 0: off */
    uint32_t kv_type;      /* REALM_KV_F16 or REALM_KV_F32 */
    uint32_t rounded;      /* not 0: kernels may round q, k, v and weights as they round the activations of quantized products */
    /* pages[i] holds positions [i * CPU_KV_PAGE, ...) of this layer: K as (n_head_kv, CPU_KV_PAGE, head_dim), then V the same. */
    const void *const *pages;
} cpu_attention;

typedef struct cpu_ops {
    const char *name; /* "portable", "avx2", "avxvnni", "avx512", "amx", "neon-dotprod", "neon-i8mm", "simd128", "relaxed" */
    cpu_matmul matmul[BLOCK_TYPE_LIMIT]; /* by ggml type; run == NULL where not computable */
    /* One row of a weight, k elements -> f32. By ggml type. */
    void (*dequantize[BLOCK_TYPE_LIMIT])(const void *row, uint32_t k, float *out);
    /* out[i] = x[i] / sqrt(mean(x^2) + eps) * w[i], rows [row0, row1) of width n. out may be x. */
    void (*rmsnorm)(const float *x, const float *w, float eps, uint32_t n, uint32_t row0, uint32_t row1, float *out);
    /* Rotates the first 2 * half dims of each of n_head heads in place. cos_sin (n_rows, half, 2).
     * neox: pairs (i, i + half); else pairs (2i, 2i + 1). */
    void (*rope)(float *x, size_t x_stride, const float *cos_sin, uint32_t n_head, uint32_t head_dim, uint32_t half, bool neox,
                 uint32_t row0, uint32_t row1);
    /* g[i] = silu(g[i]) * u[i]; g[i] = gelu_tanh(g[i]) * u[i]; x[i] += y[i]; x[i] *= s; x[i] = cap * tanh(x[i] / cap) */
    void (*silu_mul)(float *g, const float *u, size_t n);
    void (*gelu_mul)(float *g, const float *u, size_t n);
    void (*add)(float *x, const float *y, size_t n);
    void (*scale)(float *x, float s, size_t n);
    void (*softcap)(float *x, float cap, size_t n);
    /* x (rows, n) += b (n,) */
    void (*add_bias)(float *x, const float *b, uint32_t n, uint32_t row0, uint32_t row1);
    /* Writes one position's K (or V) row, (n_head_kv * head_dim) f32, into slot [0, CPU_KV_PAGE) of a page part
     * (n_head_kv, CPU_KV_PAGE, head_dim) of the given kv type (round to nearest even for f16). */
    void (*kv_store)(void *part, uint32_t kv_type, uint32_t slot, const float *row, uint32_t n_head_kv, uint32_t head_dim);
    /* Flash-style: one pass over KV with a running maximum and sum; query heads [head0, head1), rows [row0, row1) of the job.
     * scratch holds at least cpu_attention_scratch floats. */
    void (*attention)(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch);
    /* Dot-free helpers for scores: max and sum of exp(x - max) of a row. */
    void (*softmax_stats)(const float *x, uint32_t n, float *max, float *sum);
    /* matmul[].run for weights that were packed (packing.h), of the same prepared activations; NULL where packing gains nothing.
     * out0 is a multiple of CPU_PACK_ROWS, and so is out1 where it is not the tensor's end. */
    cpu_matmul_run *run_packed[BLOCK_TYPE_LIMIT];
} cpu_ops;

/* Floats of scratch an attention call needs. */
size_t cpu_attention_scratch(uint32_t head_dim);

/* Fills *ops for a mask of REALM_CPU_... (0: all the machine has). Unsupported bits are ignored. */
void cpu_ops_init(cpu_ops *ops, uint32_t features);
/* Mask of what this machine can run, as processor and operating system say. */
uint32_t cpu_detect(void);

/* Each file's filler; dispatch.c calls them in order of strength. */
void cpu_fill_portable(cpu_ops *ops);
void cpu_fill_avx2(cpu_ops *ops);
void cpu_fill_avxvnni(cpu_ops *ops);
void cpu_fill_avx512(cpu_ops *ops);
void cpu_fill_amx(cpu_ops *ops);
void cpu_fill_neon(cpu_ops *ops);
void cpu_fill_i8mm(cpu_ops *ops);
void cpu_fill_simd128(cpu_ops *ops);
void cpu_fill_relaxed(cpu_ops *ops);

float cpu_f16_to_f32(uint16_t h);
uint16_t cpu_f32_to_f16(float f); /* round to nearest even */
float cpu_bf16_to_f32(uint16_t h);

#endif
