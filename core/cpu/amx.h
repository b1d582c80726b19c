/* amx.h: tile configuration, and what the AMX files share: matmul_amx.c (many rows, bf16), matmul_few_amx.c (few rows, int8),
 * attention_amx.c (many rows, bf16). */
#ifndef REALM_CPU_AMX_H
#define REALM_CPU_AMX_H

#include "avx512.h"

#define CPU_FEW_MIN 3 /* rows from which tiles of int8 beat the AVX-512 decode loop; two rows wait for memory either way */
#define CPU_FEW_MAX 16

typedef struct amx_config { /* what ldtilecfg reads */
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_config;
_Static_assert(sizeof(amx_config) == 64, "defined by the processor");

AVX512_INLINE void amx_shape(amx_config *config, int tile, uint8_t rows, uint16_t row_bytes) {
    config->rows[tile] = rows;
    config->row_bytes[tile] = row_bytes;
}

/* The configuration belongs to the thread. */
AVX512_INLINE void amx_configure(const amx_config *config) {
    __asm__ volatile("" ::: "memory"); /* compilers have dropped stores that only ldtilecfg reads */
    _tile_loadconfig(config);
}

void cpu_attention_amx(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch);

/* matmul_few_amx.c: activations of up to 16 rows, and the products with them. */
size_t cpu_few_prepared_size(uint32_t k);
void cpu_few_prepare(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared);
#define CPU_DECLARE_FEW(suffix) \
    void cpu_matmul_few_##suffix##_amx(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                       uint32_t out0, uint32_t out1, float *out, size_t out_stride)
CPU_DECLARE_FEW(q8_0);
CPU_DECLARE_FEW(q4_0);
CPU_DECLARE_FEW(q4_k);
CPU_DECLARE_FEW(q5_k);
CPU_DECLARE_FEW(q6_k);

#endif
