/* plan.h: a model as data. GGUF metadata and tensor directory -> one flat array of op records over numbered buffer slots.
 * Executors (CPU here, GPUs elsewhere) are loops over these records; an architecture is written once, in its plan_*.c.
 * Records are fixed-width little-endian with no pointers, so that any host can walk them. */
#ifndef REALM_PLAN_H
#define REALM_PLAN_H

#include "gguf.h"

typedef enum plan_op_kind {
    PLAN_EMBED = 0,     /* dst = rows of `weight` at the batch's token ids */
    PLAN_RMSNORM = 1,   /* dst = rmsnorm(src) * weight, eps = f0 */
    PLAN_MATMUL = 2,    /* dst = src @ weight^T */
    PLAN_BIAS = 3,      /* dst += weight */
    PLAN_ROPE = 4,      /* rotates dst in place, n_head heads */
    PLAN_KV_STORE = 5,  /* src -> K, src2 -> V of `layer` at the rows' positions */
    PLAN_ATTENTION = 6, /* dst = attention(src = Q, KV of `layer`); f0 scale, f1 softcap, window */
    PLAN_SILU_MUL = 7,  /* dst = silu(dst) * src */
    PLAN_GELU_MUL = 8,  /* dst = gelu_tanh(dst) * src */
    PLAN_ADD = 9,       /* dst += src */
    PLAN_SCALE = 10,    /* dst *= f0 */
    PLAN_GATHER = 11,   /* dst = the rows of src whose logits are wanted; later ops work on those rows */
    PLAN_SOFTCAP = 12,  /* dst = f0 * tanh(dst / f0) */
} plan_op_kind;

enum { /* buffer slots: (rows, slot_width) f32 each */
    PLAN_SLOT_X,      /* residual stream */
    PLAN_SLOT_H,      /* normed input, block output */
    PLAN_SLOT_Q, PLAN_SLOT_K, PLAN_SLOT_V,
    PLAN_SLOT_A,      /* attention output */
    PLAN_SLOT_G, PLAN_SLOT_U, /* feed-forward */
    PLAN_SLOT_Y,      /* gathered rows, embedding wide */
    PLAN_SLOT_LOGITS, /* gathered rows, vocabulary wide */
    PLAN_SLOT_COUNT,
};

#define PLAN_NONE UINT32_MAX
#define PLAN_HEAD UINT16_MAX /* op.layer of what comes after the last layer; the embedding counts as layer 0 */

typedef struct plan_op {
    uint16_t kind;
    uint16_t layer;
    uint16_t dst, src, src2;
    uint16_t n_head;
    uint32_t weight; /* index into plan.tensors, or PLAN_NONE */
    uint32_t width;  /* of dst's rows */
    uint32_t window;
    float f0, f1;
} plan_op;
_Static_assert(sizeof(plan_op) == 32, "plan_op is a wire record");

typedef struct plan_tensor {
    uint64_t offset;    /* from the start of the file */
    uint64_t row_bytes;
    uint32_t rows, cols;
    uint32_t type;      /* ggml type id */
    uint32_t directory; /* index in the gguf's tensor directory */
} plan_tensor;
_Static_assert(sizeof(plan_tensor) == 32, "plan_tensor is a wire record");

typedef struct plan {
    plan_op *ops;
    plan_tensor *tensors;
    uint32_t op_count, op_capacity;
    uint32_t tensor_count, tensor_capacity;
    uint32_t slot_width[PLAN_SLOT_COUNT];
    uint32_t layer_count, embedding_length, feed_forward_length, vocab_size;
    uint32_t head_count, head_count_kv, head_dim;
    uint32_t context_length; /* the model's own */
    bool rope_neox;
    uint32_t rope_half;      /* pairs rotated per head */
    float *rope_freqs;       /* (rope_half,) radians per position */
} plan;

/* Builds the plan of a supported architecture or says which part does not fit (REALM_E_UNSUPPORTED_ARCHITECTURE,
 * REALM_E_UNSUPPORTED_TENSOR_TYPE, REALM_E_INVALID_MODEL, naming key or tensor). vocab_size is the tokenizer's. */
realm_status plan_create(const gguf *file, uint32_t vocab_size, plan **out, realm_error *err);
void plan_destroy(plan *p);

/* ---- for plan_*.c ----------------------------------------------------------------------------------------------- */

typedef struct plan_builder {
    plan *plan;
    const gguf *file;
    gguf_string arch;
    float norm_eps;
    float rope_base;
    bool *tensor_used; /* by directory index: tensors nobody used are refused, they would change the result */
    realm_error *err;
    realm_status status; /* first failure; builder calls do nothing afterwards */
} plan_builder;

/* A metadata value of "<arch>.<suffix>"; absent keys leave *out. */
void plan_key_u32(plan_builder *b, const char *suffix, uint32_t *out);
void plan_key_f32(plan_builder *b, const char *suffix, float *out);
void plan_fail(plan_builder *b, realm_status code, const char *message);

/* Weight "name" (layer < 0) or "blk.<layer>.<name>": a (rows, cols) matrix, or a vector when rows is 1 (then F32).
 * Returns its index in plan.tensors; PLAN_NONE when absent and optional, or after a failure. */
uint32_t plan_weight(plan_builder *b, int layer, const char *name, uint32_t rows, uint32_t cols, bool optional);

void plan_emit(plan_builder *b, plan_op op);

/* The shapes every decoder shares. */
typedef struct plan_decoder {
    bool gelu;              /* GeGLU instead of SwiGLU */
    bool post_norms;        /* norms after attention and feed-forward, before the residual adds */
    float embedding_scale;  /* 1: none */
    float attention_scale;
    float attention_softcap, final_softcap; /* 0: none */
    uint32_t window;        /* of layers where window_every says so; 0: none */
    uint32_t window_every;  /* layers l with l % window_every == 0 slide */
} plan_decoder;
/* Emits embedding, all layers and the output head of a pre-norm decoder with rotary attention. */
void plan_emit_decoder(plan_builder *b, const plan_decoder *d);

/* One per architecture file. */
void plan_build_llama(plan_builder *b);
void plan_build_qwen2(plan_builder *b);
void plan_build_gemma2(plan_builder *b);

#endif
