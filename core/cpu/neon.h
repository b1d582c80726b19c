/* neon.h: small vector helpers the NEON files share. Include only from *_neon.c and *_i8mm.c.
 * All of them may use the dot products of ARMv8.2 (dotprod); a *_i8mm.c file also the 8-bit matrix products of ARMv8.6. */
#ifndef REALM_CPU_NEON_H
#define REALM_CPU_NEON_H

#include <arm_neon.h>

#include "cpu_internal.h"

#define NEON_INLINE CPU_INLINE

void cpu_fill_matmul_neon(cpu_ops *ops);
void cpu_fill_matmul_float_neon(cpu_ops *ops);
void cpu_attention_neon(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch);
/* Activations as int8 rows (int8_rows.h), and their product with quantized weights. */
void cpu_prepare_neon(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1, void *prepared);
void cpu_matmul_neon(uint32_t type, const void *weights, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k,
                     uint32_t out0, uint32_t out1, float *out, size_t out_stride);

/* Up to n of 4 floats, zeros after them. */
NEON_INLINE float32x4_t neon_load(const float *x, size_t n) {
    if (n >= 4) return vld1q_f32(x);
    float some[4] = {0};
    for (size_t i = 0; i < n; i++) some[i] = x[i];
    return vld1q_f32(some);
}

NEON_INLINE void neon_store(float *x, size_t n, float32x4_t v) {
    if (n >= 4) {
        vst1q_f32(x, v);
        return;
    }
    float some[4];
    vst1q_f32(some, v);
    for (size_t i = 0; i < n; i++) x[i] = some[i];
}

/* Up to n of 4 16-bit numbers, zeros after them. */
NEON_INLINE uint16x4_t neon_load16(const void *x, size_t n) {
    uint16_t some[4] = {0};
    memcpy(some, x, n >= 4 ? 8 : 2 * n);
    return vld1_u16(some);
}

NEON_INLINE float32x4_t neon_from_halves(uint16x4_t h) {
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* 2^n for whole n in [-126, 127] */
NEON_INLINE float32x4_t neon_power_of_2(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

/* e^x within a few ulp; below -104 zero, above 88.8 infinite, NaN stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2; 2^n goes in two
 * steps, because it may lie outside the normal numbers. */
NEON_INLINE float32x4_t neon_exp(float32x4_t x) {
    x = vminq_f32(vmaxq_f32(x, vdupq_n_f32(-128.0f)), vdupq_n_f32(128.0f)); /* of a NaN both make a NaN */
    const int32x4_t whole = vcvtnq_s32_f32(vmulq_f32(x, vdupq_n_f32(1.44269504088896341f)));
    const float32x4_t n = vcvtq_f32_s32(whole);
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0.693145751953125f)); /* ln 2 in two parts */
    r = vfmsq_f32(r, n, vdupq_n_f32(1.42860677e-6f));
    float32x4_t p = vdupq_n_f32(1.0f / 5040);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 720), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 120), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 24), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f / 6), p, r);
    p = vfmaq_f32(vdupq_n_f32(0.5f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, r);
    const int32x4_t part = vshrq_n_s32(whole, 1);
    return vmulq_f32(vmulq_f32(p, neon_power_of_2(part)), neon_power_of_2(vsubq_s32(whole, part)));
}

/* tanh x with an absolute error below 2e-7: 1 - 2 / (e^2|x| + 1), with the sign of x. */
NEON_INLINE float32x4_t neon_tanh(float32x4_t x) {
    const float32x4_t one = vdupq_n_f32(1.0f), magnitude = vabsq_f32(x);
    const float32x4_t e = neon_exp(vaddq_f32(magnitude, magnitude));
    const float32x4_t t = vsubq_f32(one, vdivq_f32(vdupq_n_f32(2.0f), vaddq_f32(e, one)));
    return vbslq_f32(vdupq_n_u32(0x80000000u), x, t);
}

/* The first (second) 8 bytes of a, then those of b. */
NEON_INLINE int8x16_t neon_low_halves(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

NEON_INLINE int8x16_t neon_high_halves(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

#endif
