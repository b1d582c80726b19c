/* packing.h: weights of CPU_PACK_ROWS outputs side by side, for kernels that keep an output in each lane.
 *
 * Rows [8 i, 8 i + 8) of a tensor form a stripe, packed in its own place: block after block, and inside the 8 rows' blocks each
 * field in chunks, row after row. Bytes only move: a stripe is as large as its rows. Rows after the last whole stripe stay as they
 * are in the file. */
#ifndef REALM_CPU_PACKING_H
#define REALM_CPU_PACKING_H

#include "../blocks.h"

#define CPU_PACK_ROWS 8u

/* Whether weights of this ggml type have a packed form. */
bool cpu_can_pack(uint32_t type);
/* A stripe from 8 rows, which follow one another. out: as many bytes, elsewhere. */
void cpu_pack_stripe(uint32_t type, const uint8_t *rows, size_t row_bytes, uint8_t *out);
/* Block `block` of row `row` of a stripe, as it was in the file. */
void cpu_unpack_block(uint32_t type, const uint8_t *stripe, uint32_t row, uint32_t block, uint8_t *out);
/* The first `count` elements of row `row` of a stripe, by the type's dequantize. */
void cpu_read_packed_row(void (*dequantize)(const void *row, uint32_t k, float *out), uint32_t type, const uint8_t *stripe,
                         uint32_t row, uint32_t count, float *out);

#endif
