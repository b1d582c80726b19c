/* ops_simd128.c: row and element-wise ops for WebAssembly's 128-bit vectors.
 * The matmuls stand in matmul_simd128.c and matmul_float_simd128.c, attention in attention_simd128.c. */
#include "simd128.h"

/* ---- what ops_vector.h is written with ---- */

typedef v128_t vec;
#define VEC_LANES 4
#define vec_load simd_load
#define vec_store simd_store
#define vec_all wasm_f32x4_splat
#define vec_add wasm_f32x4_add
#define vec_sub wasm_f32x4_sub
#define vec_mul wasm_f32x4_mul
#define vec_div wasm_f32x4_div
#define vec_madd simd_madd
#define vec_max wasm_f32x4_pmax
#define vec_exp simd_exp
#define vec_tanh simd_tanh
#define vec_sum simd_sum
#define vec_top simd_max

/* Pairs (i, i + half): 4 at a time, cosines and sines taken apart. */
static void rotate_halves(float *head, const float *cos_sin, size_t half) {
    for (size_t i = 0; i < half; i += 4) {
        const size_t n = half - i;
        const v128_t low = simd_load(cos_sin + 2 * i, 2 * n), high = n > 2 ? simd_load(cos_sin + 2 * i + 4, 2 * n - 4) : low;
        const v128_t c = wasm_i32x4_shuffle(low, high, 0, 2, 4, 6), s = wasm_i32x4_shuffle(low, high, 1, 3, 5, 7);
        const v128_t a = simd_load(head + i, n), b = simd_load(head + half + i, n);
        simd_store(head + i, n, simd_nmadd(b, s, wasm_f32x4_mul(a, c)));
        simd_store(head + half + i, n, simd_madd(a, s, wasm_f32x4_mul(b, c)));
    }
}

/* Pairs (2i, 2i + 1): 2 at a time, x and its swapped neighbours. */
static void rotate_neighbours(float *head, const float *cos_sin, size_t half) {
    const v128_t even_minus = wasm_i32x4_make((int)0x80000000u, 0, (int)0x80000000u, 0);
    for (size_t i = 0; i < 2 * half; i += 4) {
        const size_t n = 2 * half - i;
        const v128_t angles = simd_load(cos_sin + i, n), v = simd_load(head + i, n);
        const v128_t c = wasm_i32x4_shuffle(angles, angles, 0, 0, 2, 2), s = wasm_i32x4_shuffle(angles, angles, 1, 1, 3, 3);
        const v128_t swapped = wasm_v128_xor(wasm_i32x4_shuffle(v, v, 1, 0, 3, 2), even_minus);
        simd_store(head + i, n, simd_madd(swapped, s, wasm_f32x4_mul(v, c)));
    }
}

static void store_halves(uint16_t *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i += 4) {
        const v128_t h = simd_to_halves(simd_load(from + i, n - i)), words = wasm_u16x8_narrow_i32x4(h, h);
        if (n - i >= 4) {
            wasm_v128_store64_lane(to + i, words, 0);
            continue;
        }
        uint16_t some[8];
        wasm_v128_store(some, words);
        for (size_t j = 0; i + j < n; j++) to[i + j] = some[j];
    }
}

#include "ops_vector.h"

/* ---- the table ---- */

void cpu_fill_simd128(cpu_ops *ops) {
    cpu_fill_matmul_simd128(ops);
    cpu_fill_matmul_float_simd128(ops);
    ops->name = "simd128";
    fill_row_ops(ops);
    ops->attention = cpu_attention_simd128;
}
