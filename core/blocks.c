/* blocks.c: the directory of ggml's tensor types: names and sizes, so that any file's tensor directory can be checked.
 * Only the types marked computable have kernels; the others are known by size and refused by name. */
#include "blocks.h"

#define COMPUTED(id, type_name, n, size) [id] = {type_name, n, size, true}
#define KNOWN(id, type_name, n, size) [id] = {type_name, n, size, false}

/* By ggml type id. Gaps are ids ggml never defined or has removed. */
static const block_type types[BLOCK_TYPE_LIMIT] = {
    COMPUTED(BLOCK_F32, "F32", 1, 4),
    COMPUTED(BLOCK_F16, "F16", 1, 2),
    COMPUTED(BLOCK_Q4_0, "Q4_0", 32, 18),
    KNOWN(3, "Q4_1", 32, 20),
    KNOWN(6, "Q5_0", 32, 22),
    KNOWN(7, "Q5_1", 32, 24),
    COMPUTED(BLOCK_Q8_0, "Q8_0", 32, 34),
    KNOWN(9, "Q8_1", 32, 36),
    KNOWN(10, "Q2_K", 256, 84),
    KNOWN(11, "Q3_K", 256, 110),
    COMPUTED(BLOCK_Q4_K, "Q4_K", 256, 144),
    COMPUTED(BLOCK_Q5_K, "Q5_K", 256, 176),
    COMPUTED(BLOCK_Q6_K, "Q6_K", 256, 210),
    KNOWN(15, "Q8_K", 256, 292),
    KNOWN(16, "IQ2_XXS", 256, 66),
    KNOWN(17, "IQ2_XS", 256, 74),
    KNOWN(18, "IQ3_XXS", 256, 98),
    KNOWN(19, "IQ1_S", 256, 50),
    KNOWN(20, "IQ4_NL", 32, 18),
    KNOWN(21, "IQ3_S", 256, 110),
    KNOWN(22, "IQ2_S", 256, 82),
    KNOWN(23, "IQ4_XS", 256, 136),
    KNOWN(24, "I8", 1, 1),
    KNOWN(25, "I16", 1, 2),
    KNOWN(26, "I32", 1, 4),
    KNOWN(27, "I64", 1, 8),
    KNOWN(28, "F64", 1, 8),
    KNOWN(29, "IQ1_M", 256, 56),
    COMPUTED(BLOCK_BF16, "BF16", 1, 2),
    KNOWN(34, "TQ1_0", 256, 54),
    KNOWN(35, "TQ2_0", 256, 66),
    KNOWN(39, "MXFP4", 32, 17),
    KNOWN(40, "NVFP4", 64, 36),
    KNOWN(41, "Q1_0", 128, 18),
};

const block_type *block_type_of(uint32_t ggml_type) {
    return ggml_type < BLOCK_TYPE_LIMIT && types[ggml_type].name ? &types[ggml_type] : NULL;
}
