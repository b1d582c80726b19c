/* dequantize.h: what the bits of each quantized block mean, in plain C: the reference, and compiled anew where vector
 * instructions make the same loops fast. Each function turns k elements of a row (k a multiple of the block) into f32. */
#ifndef REALM_CPU_DEQUANTIZE_H
#define REALM_CPU_DEQUANTIZE_H

#include "cpu_internal.h"

/* w = d * (q - 8); the low nibbles are elements 0..15, the high ones 16..31. */
static inline void dequantize_q4_0(const void *row, uint32_t k, float *restrict out) {
    const block_q4_0 *block = row;
    for (uint32_t b = 0; b < k / BLOCK_QK; b++, block++, out += BLOCK_QK) {
        float d = cpu_f16_to_f32(block->d);
        for (int i = 0; i < 16; i++) {
            out[i] = d * (float)((block->qs[i] & 15) - 8);
            out[i + 16] = d * (float)((block->qs[i] >> 4) - 8);
        }
    }
}

/* w = d * q */
static inline void dequantize_q8_0(const void *row, uint32_t k, float *restrict out) {
    const block_q8_0 *block = row;
    for (uint32_t b = 0; b < k / BLOCK_QK; b++, block++, out += BLOCK_QK) {
        float d = cpu_f16_to_f32(block->d);
        for (int i = 0; i < BLOCK_QK; i++) out[i] = d * (float)block->qs[i];
    }
}

/* Scale and minimum of sub-block j of Q4_K and Q5_K: 6 bits each, packed into 12 bytes. */
static inline void k_scale_min(const uint8_t scales[12], int j, float *scale, float *min) {
    if (j < 4) {
        *scale = (float)(scales[j] & 63);
        *min = (float)(scales[j + 4] & 63);
    } else {
        *scale = (float)((scales[j + 4] & 15) | (scales[j - 4] >> 6) << 4);
        *min = (float)((scales[j + 4] >> 4) | (scales[j] >> 6) << 4);
    }
}

/* w = d * scale * q - dmin * min, scale and min per 32 elements; byte i of a group of 32 holds elements i and i + 32. */
static inline void dequantize_q4_k(const void *row, uint32_t k, float *restrict out) {
    const block_q4_k *block = row;
    for (uint32_t b = 0; b < k / BLOCK_QK_K; b++, block++) {
        float d = cpu_f16_to_f32(block->d), dmin = cpu_f16_to_f32(block->dmin);
        for (int j = 0; j < 8; j++, out += 32) {
            const uint8_t *qs = block->qs + 32 * (j / 2);
            float scale, min;
            k_scale_min(block->scales, j, &scale, &min);
            for (int i = 0; i < 32; i++) out[i] = d * scale * (float)(j & 1 ? qs[i] >> 4 : qs[i] & 15) - dmin * min;
        }
    }
}

/* As Q4_K with a fifth bit: bit j of qh[i] belongs to element i of sub-block j. */
static inline void dequantize_q5_k(const void *row, uint32_t k, float *restrict out) {
    const block_q5_k *block = row;
    for (uint32_t b = 0; b < k / BLOCK_QK_K; b++, block++) {
        float d = cpu_f16_to_f32(block->d), dmin = cpu_f16_to_f32(block->dmin);
        for (int j = 0; j < 8; j++, out += 32) {
            const uint8_t *qs = block->qs + 32 * (j / 2);
            float scale, min;
            k_scale_min(block->scales, j, &scale, &min);
            for (int i = 0; i < 32; i++) {
                int q = (j & 1 ? qs[i] >> 4 : qs[i] & 15) | (block->qh[i] >> j & 1) << 4;
                out[i] = d * scale * (float)q - dmin * min;
            }
        }
    }
}

/* w = d * scale * (q - 32), scale per 16 elements. Each half of 128 elements has 64 bytes of low nibbles (elements 0..63 in
 * the low, 64..127 in the high ones) and 32 bytes of upper pairs of bits (elements i, i + 32, i + 64, i + 96). */
static inline void dequantize_q6_k(const void *row, uint32_t k, float *restrict out) {
    const block_q6_k *block = row;
    for (uint32_t b = 0; b < k / BLOCK_QK_K; b++, block++) {
        for (int part = 0; part < 4; part++, out += part & 1 ? 16 : 112) { /* 16 elements of each quarter of a half */
            const uint8_t *ql = block->ql + 64 * (part / 2) + 16 * (part & 1), *qh = block->qh + 16 * part;
            float d = cpu_f16_to_f32(block->d), scales[4];
            for (int q = 0; q < 4; q++) scales[q] = d * (float)block->scales[8 * (part / 2) + 2 * q + (part & 1)];
            for (int i = 0; i < 16; i++) {
                out[i] = scales[0] * (float)(((ql[i] & 15) | (qh[i] & 3) << 4) - 32);
                out[i + 32] = scales[1] * (float)(((ql[i + 32] & 15) | (qh[i] >> 2 & 3) << 4) - 32);
                out[i + 64] = scales[2] * (float)(((ql[i] >> 4) | (qh[i] >> 4 & 3) << 4) - 32);
                out[i + 96] = scales[3] * (float)(((ql[i + 32] >> 4) | (qh[i] >> 6) << 4) - 32);
            }
        }
    }
}

#endif
