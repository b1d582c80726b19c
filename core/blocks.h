/* blocks.h: the one definition of each quantized block: layout, size, elements. Layouts follow ggml's file format. */
#ifndef REALM_BLOCKS_H
#define REALM_BLOCKS_H

#include "base.h"

enum { /* ggml type ids the core can compute with */
    BLOCK_F32 = 0, BLOCK_F16 = 1, BLOCK_Q4_0 = 2, BLOCK_Q8_0 = 8, BLOCK_Q4_K = 12, BLOCK_Q5_K = 13, BLOCK_Q6_K = 14,
    BLOCK_BF16 = 30,
    BLOCK_TYPE_LIMIT = 64, /* ids are below this; kernel tables are indexed by them */
};

typedef struct block_type {
    const char *name;        /* "Q4_K" */
    uint32_t elements;       /* per block; a row is a multiple of it */
    uint32_t bytes;          /* per block */
    bool computable;         /* the core has kernels for it */
} block_type;

/* NULL for an id ggml does not define (or removed). */
const block_type *block_type_of(uint32_t ggml_type);

#define BLOCK_QK 32   /* elements of the simple blocks */
#define BLOCK_QK_K 256 /* elements of the K blocks */

typedef struct block_q4_0 { uint16_t d; uint8_t qs[16]; } block_q4_0;
typedef struct block_q8_0 { uint16_t d; int8_t qs[32]; } block_q8_0;
typedef struct block_q4_k { uint16_t d, dmin; uint8_t scales[12]; uint8_t qs[128]; } block_q4_k;
typedef struct block_q5_k { uint16_t d, dmin; uint8_t scales[12]; uint8_t qh[32]; uint8_t qs[128]; } block_q5_k;
typedef struct block_q6_k { uint8_t ql[128]; uint8_t qh[64]; int8_t scales[16]; uint16_t d; } block_q6_k;
_Static_assert(sizeof(block_q4_0) == 18, "q4_0");
_Static_assert(sizeof(block_q8_0) == 34, "q8_0");
_Static_assert(sizeof(block_q4_k) == 144, "q4_k");
_Static_assert(sizeof(block_q5_k) == 176, "q5_k");
_Static_assert(sizeof(block_q6_k) == 210, "q6_k");

#endif
