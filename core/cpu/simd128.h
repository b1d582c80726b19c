/* simd128.h: small vector helpers the WebAssembly files share. Include only from *_simd128.c and *_relaxed.c.
 * A *_relaxed.c file is its *_simd128.c compiled once more with CPU_RELAXED: fused multiply-adds and int8 dot products. */
#ifndef REALM_CPU_SIMD128_H
#define REALM_CPU_SIMD128_H

#include <wasm_simd128.h>

#include "cpu_internal.h"

#define SIMD_INLINE CPU_INLINE

/* Stands between the steps of an unrolled loop. Without it the compiler orders a step's operations by the sum they belong to and
 * loads everything long before: more values at once than the engine has registers. */
#define SIMD_STEP_DONE(sum0, sum1) __asm__ volatile("" : "+r"(sum0), "+r"(sum1) : : "memory")
/* Keeps the compiler from computing with an address, so that constant distances from it stay in the load instructions. */
#define SIMD_OPAQUE(pointer) __asm__("" : "+r"(pointer))

void cpu_fill_matmul_simd128(cpu_ops *ops);
void cpu_fill_matmul_relaxed(cpu_ops *ops);
void cpu_fill_matmul_float_simd128(cpu_ops *ops);
void cpu_fill_matmul_float_relaxed(cpu_ops *ops);
void cpu_attention_simd128(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch);
void cpu_attention_relaxed(const cpu_attention *job, uint32_t row0, uint32_t row1, uint32_t head0, uint32_t head1, float *scratch);

/* a * b + c, rounded once or twice */
SIMD_INLINE v128_t simd_madd(v128_t a, v128_t b, v128_t c) {
#ifdef CPU_RELAXED
    return wasm_f32x4_relaxed_madd(a, b, c);
#else
    return wasm_f32x4_add(wasm_f32x4_mul(a, b), c);
#endif
}

/* c - a * b */
SIMD_INLINE v128_t simd_nmadd(v128_t a, v128_t b, v128_t c) {
#ifdef CPU_RELAXED
    return wasm_f32x4_relaxed_nmadd(a, b, c);
#else
    return wasm_f32x4_sub(c, wasm_f32x4_mul(a, b));
#endif
}

/* Up to n of 4 floats, zeros after them. */
SIMD_INLINE v128_t simd_load(const float *x, size_t n) {
    if (n >= 4) return wasm_v128_load(x);
    float some[4] = {0};
    for (size_t i = 0; i < n; i++) some[i] = x[i];
    return wasm_v128_load(some);
}

SIMD_INLINE void simd_store(float *x, size_t n, v128_t v) {
    if (n >= 4) {
        wasm_v128_store(x, v);
        return;
    }
    float some[4];
    wasm_v128_store(some, v);
    for (size_t i = 0; i < n; i++) x[i] = some[i];
}

SIMD_INLINE float simd_sum(v128_t v) {
    v = wasm_f32x4_add(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
    return wasm_f32x4_extract_lane(v, 0) + wasm_f32x4_extract_lane(v, 1);
}

SIMD_INLINE float simd_max(v128_t v) {
    v = wasm_f32x4_pmax(v, wasm_i32x4_shuffle(v, v, 2, 3, 0, 1));
    v = wasm_f32x4_pmax(v, wasm_i32x4_shuffle(v, v, 1, 0, 3, 2));
    return wasm_f32x4_extract_lane(v, 0);
}

/* Nearest whole numbers of floats below 2^22 in magnitude. */
SIMD_INLINE v128_t simd_round(v128_t x) {
    const v128_t magic = wasm_f32x4_splat(0x1.8p23f); /* a sum with it has no room for fractions */
    return wasm_i32x4_sub(wasm_f32x4_add(x, magic), magic);
}

/* Halves, sign-extended to 32 bits, as floats; infinities and NaN become finite: 65536 and more. A product moves the exponent: few
 * instructions, but subnormal numbers, right too, are slow on some processors. */
SIMD_INLINE v128_t simd_from_halves(v128_t h) {
    const v128_t bits = wasm_v128_and(wasm_i32x4_shl(h, 13), wasm_i32x4_splat((int)0x8fffffffu));
    return wasm_f32x4_mul(bits, wasm_f32x4_splat(0x1p112f));
}

/* The same for scales, which are often subnormal: a subnormal half's bits with the moved exponent mean 2^-15 (1 + m / 1024). */
SIMD_INLINE v128_t simd_from_scales(v128_t h) {
    const v128_t bits = wasm_v128_and(wasm_i32x4_shl(h, 13), wasm_i32x4_splat(0x0fffffff));
    const v128_t moved = wasm_i32x4_add(bits, wasm_i32x4_splat((127 - 15) << 23));
    const v128_t is_subnormal = wasm_i32x4_lt(bits, wasm_i32x4_splat(1 << 23));
    const v128_t value = wasm_f32x4_add(moved, wasm_v128_and(is_subnormal, wasm_f32x4_sub(moved, wasm_f32x4_splat(0x1p-14f))));
    return wasm_v128_or(value, wasm_v128_and(h, wasm_i32x4_splat((int)0x80000000u)));
}

/* Four floats as halves, rounded to nearest even, in the low 16 bits of each lane; cpu_f32_to_f16 four times. */
SIMD_INLINE v128_t simd_to_halves(v128_t f) {
    const v128_t a = wasm_f32x4_abs(f), sign = wasm_v128_and(wasm_u32x4_shr(f, 16), wasm_i32x4_splat(0x8000));
    const v128_t odd = wasm_v128_and(wasm_u32x4_shr(a, 13), wasm_i32x4_splat(1));
    v128_t h = wasm_u32x4_shr(wasm_i32x4_add(wasm_i32x4_add(a, odd), wasm_i32x4_splat(0xfff - ((127 - 15) << 23))), 13);
    const v128_t half = wasm_f32x4_splat(0.5f), small = wasm_i32x4_sub(wasm_f32x4_add(a, half), half);
    h = wasm_v128_bitselect(small, h, wasm_f32x4_lt(a, wasm_f32x4_splat(0x1p-14f)));
    h = wasm_v128_bitselect(wasm_i32x4_splat(0x7c00), h, wasm_f32x4_ge(a, wasm_f32x4_splat(65520.0f)));
    h = wasm_v128_bitselect(wasm_i32x4_splat(0x7e00), h, wasm_f32x4_ne(a, a));
    return wasm_v128_or(h, sign);
}

/* 2^n for whole n in [-126, 127] */
SIMD_INLINE v128_t simd_power_of_2(v128_t n) {
    return wasm_i32x4_shl(wasm_i32x4_add(n, wasm_i32x4_splat(127)), 23);
}

/* e^x within a few ulp; below -104 zero, above 88.8 infinite, NaN stays NaN. x = n ln 2 + r with |r| <= ln 2 / 2; 2^n goes in two
 * steps, because it may lie outside the normal numbers. */
SIMD_INLINE v128_t simd_exp(v128_t x) {
    x = wasm_f32x4_pmin(wasm_f32x4_pmax(x, wasm_f32x4_splat(-128.0f)), wasm_f32x4_splat(128.0f)); /* the first operand wins: NaN passes */
    const v128_t whole = simd_round(wasm_f32x4_mul(x, wasm_f32x4_splat(1.44269504088896341f))), n = wasm_f32x4_convert_i32x4(whole);
    v128_t r = simd_nmadd(n, wasm_f32x4_splat(0.693145751953125f), x); /* ln 2 in two parts */
    r = simd_nmadd(n, wasm_f32x4_splat(1.42860677e-6f), r);
    v128_t p = wasm_f32x4_splat(1.0f / 5040);
    p = simd_madd(p, r, wasm_f32x4_splat(1.0f / 720));
    p = simd_madd(p, r, wasm_f32x4_splat(1.0f / 120));
    p = simd_madd(p, r, wasm_f32x4_splat(1.0f / 24));
    p = simd_madd(p, r, wasm_f32x4_splat(1.0f / 6));
    p = simd_madd(p, r, wasm_f32x4_splat(0.5f));
    p = simd_madd(p, r, wasm_f32x4_splat(1.0f));
    p = simd_madd(p, r, wasm_f32x4_splat(1.0f));
    const v128_t part = wasm_i32x4_shr(whole, 1);
    return wasm_f32x4_mul(wasm_f32x4_mul(p, simd_power_of_2(part)), simd_power_of_2(wasm_i32x4_sub(whole, part)));
}

/* tanh x with an absolute error below 2e-7: 1 - 2 / (e^2|x| + 1), with the sign of x. */
SIMD_INLINE v128_t simd_tanh(v128_t x) {
    const v128_t one = wasm_f32x4_splat(1.0f), magnitude = wasm_f32x4_abs(x);
    const v128_t e = simd_exp(wasm_f32x4_add(magnitude, magnitude));
    const v128_t t = wasm_f32x4_sub(one, wasm_f32x4_div(wasm_f32x4_splat(2.0f), wasm_f32x4_add(e, one)));
    return wasm_v128_or(t, wasm_v128_and(x, wasm_f32x4_splat(-0.0f)));
}

#endif
