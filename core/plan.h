/* plan.h: a model as data. GGUF metadata and tensor directory -> one flat array of op records over numbered buffer slots.
 * Executors (CPU here, GPUs elsewhere) are loops over these records; an architecture is written once, in its plan_*.c.
 * Records are fixed-width little-endian with no pointers, so that any host can walk them. */
#ifndef REALM_PLAN_H
#define REALM_PLAN_H

#include "gguf.h"

typedef realm_plan_op plan_op;         /* declared in realm_records.h, where executors of every host find them */
typedef realm_plan_tensor plan_tensor;

typedef struct plan {
    plan_op *ops;
    plan_tensor *tensors;
    uint32_t op_count, op_capacity;
    uint32_t tensor_count, tensor_capacity;
    uint32_t slot_width[REALM_SLOT_COUNT];
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
 * Returns its index in plan.tensors; REALM_NONE when absent and optional, or after a failure. */
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
