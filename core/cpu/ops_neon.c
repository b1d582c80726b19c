/* ops_neon.c: row and element-wise ops for NEON.
 * The matmuls stand in matmul_neon.c, matmul_i8mm.c and matmul_float_neon.c, attention in attention_neon.c. */
#include "neon.h"

/* ---- what ops_vector.h is written with ---- */

typedef float32x4_t vec;
#define VEC_LANES 4
#define vec_load neon_load
#define vec_store neon_store
#define vec_all vdupq_n_f32
#define vec_add vaddq_f32
#define vec_sub vsubq_f32
#define vec_mul vmulq_f32
#define vec_div vdivq_f32
#define vec_max vmaxnmq_f32
#define vec_exp neon_exp
#define vec_tanh neon_tanh
#define vec_sum vaddvq_f32
#define vec_top vmaxnmvq_f32

NEON_INLINE float32x4_t vec_madd(float32x4_t a, float32x4_t b, float32x4_t c) { return vfmaq_f32(c, a, b); }

/* Pairs (i, i + half): 4 at a time, cosines and sines taken apart. */
static void rotate_halves(float *head, const float *cos_sin, size_t half) {
    for (size_t i = 0; i < half; i += 4) {
        const size_t n = half - i;
        const float32x4_t low = neon_load(cos_sin + 2 * i, 2 * n), high = n > 2 ? neon_load(cos_sin + 2 * i + 4, 2 * n - 4) : low;
        const float32x4_t c = vuzp1q_f32(low, high), s = vuzp2q_f32(low, high);
        const float32x4_t a = neon_load(head + i, n), b = neon_load(head + half + i, n);
        neon_store(head + i, n, vfmsq_f32(vmulq_f32(a, c), b, s));
        neon_store(head + half + i, n, vfmaq_f32(vmulq_f32(b, c), a, s));
    }
}

/* Pairs (2i, 2i + 1): 2 at a time, x and its swapped neighbours. */
static void rotate_neighbours(float *head, const float *cos_sin, size_t half) {
    const uint32x4_t even_minus = vreinterpretq_u32_u64(vdupq_n_u64(0x80000000u));
    for (size_t i = 0; i < 2 * half; i += 4) {
        const size_t n = 2 * half - i;
        const float32x4_t angles = neon_load(cos_sin + i, n), v = neon_load(head + i, n);
        const float32x4_t c = vtrn1q_f32(angles, angles), s = vtrn2q_f32(angles, angles);
        const float32x4_t swapped = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(vrev64q_f32(v)), even_minus));
        neon_store(head + i, n, vfmaq_f32(vmulq_f32(v, c), swapped, s));
    }
}

static void store_halves(uint16_t *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i += 4) {
        const uint16x4_t h = vreinterpret_u16_f16(vcvt_f16_f32(neon_load(from + i, n - i)));
        uint16_t some[4];
        vst1_u16(some, h);
        memcpy(to + i, some, n - i >= 4 ? 8 : 2 * (n - i));
    }
}

#include "ops_vector.h"

/* ---- the table ---- */

void cpu_fill_neon(cpu_ops *ops) {
    cpu_fill_matmul_neon(ops);
    cpu_fill_matmul_float_neon(ops);
    ops->name = "neon-dotprod";
    fill_row_ops(ops);
    ops->attention = cpu_attention_neon;
}
