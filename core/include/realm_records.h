/* realm_records.h: the records through which the core and an external executor (WebGPU, CUDA) understand each other: a model's
 * plan and the batches to run it on. Fixed width, little-endian, naturally aligned, no pointers: memory of the core is named by
 * u64 addresses (in WebAssembly: offsets in its memory). Declared only here; `realm_build gen` makes the readers for TypeScript
 * and Python from this file. */
#ifndef REALM_RECORDS_H
#define REALM_RECORDS_H

#include <stdint.h>

#ifdef __cplusplus
#define REALM_RECORD_SIZE(type, size) static_assert(sizeof(type) == (size), #type " is a wire record")
#else
#define REALM_RECORD_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " is a wire record")
#endif

#define REALM_KV_PAGE 16         /* positions in a KV page */
#define REALM_NONE 4294967295u   /* no weight; no source page */
#define REALM_LAYER_HEAD 65535u  /* op.layer of what comes after the last layer; the embedding counts as layer 0 */

/* ---- the plan: a header, then ops, tensors and rope frequencies at the offsets it names ------------------------------- */

typedef enum realm_op_kind {
    REALM_OP_EMBED = 0,     /* dst = rows of `weight` at the batch's token ids */
    REALM_OP_RMSNORM = 1,   /* dst = rmsnorm(src) * weight, eps = f0 */
    REALM_OP_MATMUL = 2,    /* dst = src @ weight^T */
    REALM_OP_BIAS = 3,      /* dst += weight */
    REALM_OP_ROPE = 4,      /* rotates dst in place, n_head heads */
    REALM_OP_KV_STORE = 5,  /* src -> K, src2 -> V of `layer` at the rows' positions */
    REALM_OP_ATTENTION = 6, /* dst = attention(src = Q, KV of `layer`); f0 scale, f1 softcap (0: none), window (0: all) */
    REALM_OP_SILU_MUL = 7,  /* dst = silu(dst) * src */
    REALM_OP_GELU_MUL = 8,  /* dst = gelu_tanh(dst) * src */
    REALM_OP_ADD = 9,       /* dst += src */
    REALM_OP_SCALE = 10,    /* dst *= f0 */
    REALM_OP_GATHER = 11,   /* dst = the rows of src whose logits are wanted; later ops work on those rows */
    REALM_OP_SOFTCAP = 12,  /* dst = f0 * tanh(dst / f0) */
} realm_op_kind;

typedef enum realm_slot { /* buffers: (rows, slot_width) f32 each */
    REALM_SLOT_X = 0,       /* residual stream */
    REALM_SLOT_H = 1,       /* normed input, block output */
    REALM_SLOT_Q = 2,
    REALM_SLOT_K = 3,
    REALM_SLOT_V = 4,
    REALM_SLOT_A = 5,       /* attention output */
    REALM_SLOT_G = 6,       /* feed-forward: gate */
    REALM_SLOT_U = 7,       /* feed-forward: up */
    REALM_SLOT_Y = 8,       /* gathered rows, embedding wide */
    REALM_SLOT_LOGITS = 9,  /* gathered rows, vocabulary wide */
    REALM_SLOT_COUNT = 10,
} realm_slot;

typedef struct realm_plan_op {
    uint16_t kind;    /* realm_op_kind */
    uint16_t layer;
    uint16_t dst, src, src2; /* realm_slot */
    uint16_t n_head;
    uint32_t weight;  /* index of a tensor, or REALM_NONE */
    uint32_t width;   /* of dst's rows */
    uint32_t window;
    float f0, f1;
} realm_plan_op;
REALM_RECORD_SIZE(realm_plan_op, 32);

typedef struct realm_plan_tensor {
    uint64_t offset;    /* of the first row in the model's bytes; the shards of a split model lie one after the other */
    uint64_t row_bytes;
    uint32_t rows, cols;
    uint32_t type;      /* ggml type id */
    uint32_t directory; /* index in the file's tensor directory */
} realm_plan_tensor;
REALM_RECORD_SIZE(realm_plan_tensor, 32);

typedef struct realm_plan_header {
    uint64_t model;     /* as in realm_batch */
    uint64_t file_size; /* of the model's bytes, all shards */
    uint32_t op_count, op_offset;           /* realm_plan_op[] */
    uint32_t tensor_count, tensor_offset;   /* realm_plan_tensor[] */
    uint32_t rope_half, rope_offset;        /* f32[]: radians per position of each rotated pair of a head */
    uint32_t rope_neox;                     /* pairs are (i, i + half) instead of (2i, 2i + 1) */
    uint32_t layer_count, embedding_length, feed_forward_length, vocab_size;
    uint32_t head_count, head_count_kv, head_dim;
    uint32_t context_length;                /* most tokens of a session */
    uint32_t kv_type;                       /* REALM_KV_...: of sessions that do not ask for another */
    uint32_t max_rows;                      /* of a batch; as many may want logits */
    uint32_t max_pages_f16, max_pages_f32;  /* bound of page numbers by KV type, from the runtime's kv_bytes */
    uint32_t slot_width[10];
    uint32_t reserved;
} realm_plan_header;
REALM_RECORD_SIZE(realm_plan_header, 136);

/* ---- a batch: consecutive rows of several sessions through a range of layers -------------------------------------------- */

/* Consecutive rows of one session. */
typedef struct realm_batch_segment {
    uint32_t row0, n_rows;
    uint32_t pos0;           /* position of the first row: row r is at pos0 + r - row0 and sees the positions up to its own */
    uint32_t kv_type;
    uint32_t page0, n_pages; /* its part of the batch's page table: pages of positions [0, pos0 + n_rows) */
    uint64_t hidden;         /* f32 (n_rows, embedding): the residual stream, read before a slice that does not begin with layer
                              * 0 and written after one that does not end with the last; else 0 */
} realm_batch_segment;
REALM_RECORD_SIZE(realm_batch_segment, 32);

/* To be done in order, before anything else of the batch, in every layer's K and V. */
typedef struct realm_page_op {
    uint32_t kv_type;
    uint32_t source;      /* page to copy, or REALM_NONE: fill with zeros */
    uint32_t destination;
    uint32_t reserved;
} realm_page_op;
REALM_RECORD_SIZE(realm_page_op, 16);

typedef struct realm_batch {
    uint64_t id;             /* never the same twice */
    uint64_t model;
    uint32_t n_rows, n_segments, n_out, n_pages, n_page_ops;
    uint32_t layer_first, layer_count; /* the embedding comes with layer 0, the head with the last where n_out > 0 */
    uint32_t kv_type;        /* of all its sessions */
    uint32_t pool_pages_f16, pool_pages_f32; /* page numbers of the model are below, page operations included */
    uint64_t tokens;         /* u32 (n_rows,) */
    uint64_t positions;      /* u32 (n_rows,) */
    uint64_t kv_slots;       /* u32 (n_rows,): page * REALM_KV_PAGE + slot inside, where the row's K and V go */
    uint64_t row_segments;   /* u32 (n_rows,): index of the row's segment */
    uint64_t out_rows;       /* u32 (n_out,): rows whose logits are wanted, ascending */
    uint64_t segments;       /* realm_batch_segment (n_segments,) */
    uint64_t pages;          /* u32 (n_pages,) */
    uint64_t page_ops;       /* realm_page_op (n_page_ops,) */
    uint64_t logits;         /* f32 (n_out, vocabulary), for the executor to write */
} realm_batch;
REALM_RECORD_SIZE(realm_batch, 128);

#endif
