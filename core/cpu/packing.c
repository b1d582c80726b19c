/* packing.c: the packed form of weights: which bytes of 8 rows' blocks stand where. */
#include "packing.h"

/* A part of a block that moves in chunks of `chunk` bytes. */
typedef struct field {
    uint16_t offset, size, chunk;
} field;

/* The fields of a type, to the one of size 0. Values of the same place in all rows come into one vector: scales of 2 bytes, 4
 * weights or packed scales, Q6_K's scales of a byte. */
static const field *fields_of(uint32_t type) {
    static const field q4_0[] = {{0, 2, 2}, {2, 16, 4}, {0, 0, 0}};
    static const field q8_0[] = {{0, 2, 2}, {2, 32, 4}, {0, 0, 0}};
    static const field q4_k[] = {{0, 4, 2}, {4, 12, 4}, {16, 128, 4}, {0, 0, 0}};
    static const field q5_k[] = {{0, 4, 2}, {4, 12, 4}, {16, 32, 4}, {48, 128, 4}, {0, 0, 0}};
    static const field q6_k[] = {{0, 128, 4}, {128, 64, 4}, {192, 16, 1}, {208, 2, 2}, {0, 0, 0}};
    switch (type) {
    case BLOCK_Q4_0: return q4_0;
    case BLOCK_Q8_0: return q8_0;
    case BLOCK_Q4_K: return q4_k;
    case BLOCK_Q5_K: return q5_k;
    case BLOCK_Q6_K: return q6_k;
    default: return NULL;
    }
}

bool cpu_can_pack(uint32_t type) { return fields_of(type) != NULL; }

static void pack_field(const field *f, const uint8_t *blocks, size_t row_bytes, uint8_t *out) {
    out += CPU_PACK_ROWS * f->offset;
    for (uint32_t at = f->offset; at < (uint32_t)f->offset + f->size; at += f->chunk) {
        for (uint32_t r = 0; r < CPU_PACK_ROWS; r++, out += f->chunk) {
            const uint8_t *from = blocks + r * row_bytes + at;
            if (f->chunk == 4) memcpy(out, from, 4); /* constant sizes become single moves */
            else if (f->chunk == 2) memcpy(out, from, 2);
            else *out = *from;
        }
    }
}

void cpu_pack_stripe(uint32_t type, const uint8_t *rows, size_t row_bytes, uint8_t *out) {
    const field *fields = fields_of(type);
    const uint32_t bytes = block_type_of(type)->bytes;
    for (size_t at = 0; at < row_bytes; at += bytes, out += CPU_PACK_ROWS * bytes) {
        for (const field *f = fields; f->size > 0; f++) pack_field(f, rows + at, row_bytes, out);
    }
}

static void unpack_field(const field *f, const uint8_t *stripe, uint32_t row, uint8_t *block) {
    const uint8_t *from = stripe + CPU_PACK_ROWS * f->offset + row * f->chunk;
    for (uint32_t at = 0; at < f->size; at += f->chunk, from += CPU_PACK_ROWS * f->chunk) memcpy(block + f->offset + at, from, f->chunk);
}

void cpu_unpack_block(uint32_t type, const uint8_t *stripe, uint32_t row, uint32_t block, uint8_t *out) {
    stripe += (size_t)block * CPU_PACK_ROWS * block_type_of(type)->bytes;
    for (const field *f = fields_of(type); f->size > 0; f++) unpack_field(f, stripe, row, out);
}

void cpu_read_packed_row(void (*dequantize)(const void *row, uint32_t k, float *out), uint32_t type, const uint8_t *stripe,
                         uint32_t row, uint32_t count, float *out) {
    _Alignas(8) uint8_t block[sizeof(block_q6_k)]; /* the largest */
    float elements[BLOCK_QK_K];
    const uint32_t per_block = block_type_of(type)->elements;
    for (uint32_t done = 0; done < count; done += per_block) {
        const uint32_t left = count - done;
        cpu_unpack_block(type, stripe, row, done / per_block, block);
        dequantize(block, per_block, elements);
        memcpy(out + done, elements, (left < per_block ? left : per_block) * sizeof(float));
    }
}
