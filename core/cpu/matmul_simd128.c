/* matmul_simd128.c: quantized weights times activations rounded to whole numbers, for WebAssembly.
 *
 * A weight type is described by a `quant` (simd128_quants.h). Each of up to FEW_ROWS rows is multiplied straight from the file's layout,
 * one output at a time. For more rows the weights of OUTPUTS outputs are first unfolded into a panel that stays in the first-level
 * cache. Packed weights (packing.h, simd128_packed.h), the rule, have OUTPUTS outputs side by side: both go faster, and few rows share
 * a pass.
 * matmul_relaxed.c compiles this file anew. */
#include "simd128_quants.h"

#define OUTPUTS 8
#define PANEL_K 512
#define TILE_ROWS 3 /* 3 x 8 sums in integers and in floats fill the registers */
_Static_assert(OUTPUTS == CPU_PACK_ROWS, "packed weights fill a panel");

/* ---- one row ---- */

/* Multiplies the weights' scales with the activations' into s; returns what offsets or mins add to the result. */
SIMD_INLINE v128_t group_scales(const quant *t, const group *x, const v128_t scale[4], const v128_t min[2], float s[16]) {
    const v128_t d[2] = {wasm_v128_load(x->d), wasm_v128_load(x->d + 4)};
    v128_t added = wasm_f32x4_splat(0), both[4];
    if (t->sub == 16) {
        for (int h = 0; h < 2; h++) {
            both[2 * h] = wasm_f32x4_mul(scale[2 * h], wasm_i32x4_shuffle(d[h], d[h], 0, 0, 1, 1));
            both[2 * h + 1] = wasm_f32x4_mul(scale[2 * h + 1], wasm_i32x4_shuffle(d[h], d[h], 2, 2, 3, 3));
        }
    } else {
        for (int h = 0; h < 2; h++) both[h] = wasm_f32x4_mul(scale[h], d[h]);
    }
    const int32_t *minus_sum = t->sub == 16 ? x->minus_sum16 : x->minus_sum32;
    for (uint32_t i = 0; i < GROUP_K / t->sub / 4; i++) {
        wasm_v128_store(s + 4 * i, both[i]);
        if (!t->offset_shift) continue;
        const v128_t sum = wasm_i32x4_shl(wasm_v128_load(minus_sum + 4 * i), t->offset_shift);
        added = simd_madd(both[i], wasm_f32x4_convert_i32x4(sum), added);
    }
    for (int h = 0; t->has_min && h < 2; h++) added = simd_nmadd(min[h], wasm_v128_load(x->d_sum + 4 * h), added);
    return added;
}

/* sum + 16 weights . 16 activations */
SIMD_INLINE v128_t dot16(const quant *t, v128_t bytes, const activation *x, v128_t sum) {
    v128_t w[VECTORS];
    spread(bytes, t->is_signed, w);
    for (int i = 0; i < VECTORS; i++) sum = multiply(wasm_v128_load(x + 4 * SPLAT * i), w[i], sum);
    return sum;
}

/* sum += 32 weights . x */
SIMD_INLINE v128_t one_piece(const quant *t, const uint8_t *w, uint32_t p, const group *x, const float s[16], v128_t sum) {
    v128_t bytes[2];
    t->load32(w, p, bytes);
    const activation *q = x->q + 32 * p;
    const v128_t zero = wasm_i32x4_splat(0);
    if (t->sub == 16) {
        const v128_t dot[2] = {dot16(t, bytes[0], q, zero), dot16(t, bytes[1], q + 16, zero)};
        sum = simd_madd(wasm_f32x4_convert_i32x4(dot[0]), wasm_v128_load32_splat(&s[2 * p]), sum);
        return simd_madd(wasm_f32x4_convert_i32x4(dot[1]), wasm_v128_load32_splat(&s[2 * p + 1]), sum);
    }
    const v128_t dot = dot16(t, bytes[1], q + 16, dot16(t, bytes[0], q, zero));
    return simd_madd(wasm_f32x4_convert_i32x4(dot), wasm_v128_load32_splat(&s[p]), sum);
}

/* acc + the first `count` sub-blocks of a group of w . x */
SIMD_INLINE v128_t one_group(const quant *t, const uint8_t *w, uint32_t count, const group *x, v128_t acc) {
    v128_t scale[4], min[2], sums[2]; /* two sums, or additions wait for each other */
    float s[16];
    SIMD_OPAQUE(w);
    t->scales(w, count, scale, min);
    sums[0] = acc;
    sums[1] = group_scales(t, x, scale, min, s);
    if (count == GROUP_K / t->sub) {
        CPU_UNROLL for (uint32_t p = 0; p < GROUP_K / 32; p++) sums[p & 1] = one_piece(t, w, p, x, s, sums[p & 1]);
    } else {
        for (uint32_t p = 0; p < count; p++) sums[p & 1] = one_piece(t, w, p, x, s, sums[p & 1]); /* only small blocks get here */
    }
    return wasm_f32x4_add(sums[0], sums[1]);
}

SIMD_INLINE void one_row(const quant *t, const uint8_t *w, size_t row_bytes, const group *prepared, uint32_t k, uint32_t n_out,
                         float *out) {
    for (uint32_t o = 0; o < n_out; o++, w += row_bytes) {
        v128_t acc = wasm_f32x4_splat(0);
        const group *x = prepared;
        const uint8_t *group_w = w;
        for (uint32_t g = 0; g < k / GROUP_K; g++, group_w += t->group_bytes, x++) acc = one_group(t, group_w, GROUP_K / t->sub, x, acc);
        if (t->is_small && k % GROUP_K) acc = one_group(t, group_w, k % GROUP_K / 32, x, acc);
        out[o] = simd_sum(acc);
    }
}

/* ---- many rows ---- */

/* The weights of OUTPUTS outputs, SPLAT elements of each output side by side, and their scales. */
typedef struct panel {
    _Alignas(16) activation w[PANEL_K / SPLAT][OUTPUTS][SPLAT];
    float scale[PANEL_K / 16][OUTPUTS];
    float min[PANEL_K / 32][OUTPUTS];
} panel;

SIMD_INLINE void panel_store16(const quant *t, v128_t bytes, activation to[][OUTPUTS][SPLAT]) {
    v128_t w[VECTORS];
    spread(bytes, t->is_signed, w);
    for (int i = 0; i < VECTORS; i++, to += 4) {
        wasm_v128_store32_lane(to[0], w[i], 0);
        wasm_v128_store32_lane(to[1], w[i], 1);
        wasm_v128_store32_lane(to[2], w[i], 2);
        wasm_v128_store32_lane(to[3], w[i], 3);
    }
}

/* The first `count` sub-blocks of a group of output o become elements from k0 on of the panel. */
SIMD_INLINE void panel_group(const quant *t, const uint8_t *w, uint32_t count, panel *p, uint32_t k0, uint32_t o) {
    v128_t scale[4], min[2];
    float s[16], m[8];
    t->scales(w, count, scale, min);
    for (uint32_t i = 0; i < GROUP_K / t->sub / 4; i++) wasm_v128_store(s + 4 * i, scale[i]);
    for (uint32_t i = 0; i < count; i++) p->scale[k0 / t->sub + i][o] = s[i];
    if (t->has_min) {
        for (uint32_t i = 0; i < 2; i++) wasm_v128_store(m + 4 * i, min[i]);
        for (uint32_t i = 0; i < count; i++) p->min[k0 / 32 + i][o] = m[i];
    }
    activation(*to)[OUTPUTS][SPLAT] = (activation(*)[OUTPUTS][SPLAT])p->w[k0 / SPLAT][o];
    for (uint32_t i = 0; i < count * t->sub / 32; i++, to += 32 / SPLAT) {
        v128_t bytes[2];
        t->load32(w, i, bytes);
        panel_store16(t, bytes[0], to);
        panel_store16(t, bytes[1], to + 16 / SPLAT);
    }
}

/* Elements [0, k) of OUTPUTS rows of weights; past the last output the last is repeated, computed and not stored. */
SIMD_INLINE void panel_fill(const quant *t, const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t k, panel *p) {
    for (uint32_t o = 0; o < OUTPUTS; o++) {
        const uint8_t *from = w + (o < n_out ? o : n_out - 1) * row_bytes;
        for (uint32_t k0 = 0; k0 < k; k0 += GROUP_K, from += t->group_bytes)
            panel_group(t, from, (k - k0 < GROUP_K ? k - k0 : GROUP_K) / t->sub, p, k0, o);
    }
}

/* sums[r] = 16 or 32 activations of row r . weights of each output; they start so that the weights' offset counts for nothing. */
SIMD_INLINE void panel_dot(const quant *t, activation (*w)[OUTPUTS][SPLAT], const activation *const q[], const int32_t *const minus_sum[],
                           uint32_t rows, v128_t sums[TILE_ROWS][2]) {
    for (uint32_t r = 0; r < rows; r++) {
        v128_t start = wasm_i32x4_splat(0);
        if (t->offset_shift) start = wasm_i32x4_shl(wasm_v128_load32_splat(minus_sum[r]), t->offset_shift);
        sums[r][0] = sums[r][1] = start;
    }
    CPU_UNROLL for (uint32_t i = 0; i < t->sub / SPLAT; i++) {
        const v128_t w0 = wasm_v128_load(w[i][0]), w1 = wasm_v128_load(w[i][4]);
        for (uint32_t r = 0; r < rows; r++) {
            const v128_t v = wasm_v128_load32_splat(q[r] + SPLAT * i);
            sums[r][0] = multiply(v, w0, sums[r][0]);
            sums[r][1] = multiply(v, w1, sums[r][1]);
            SIMD_STEP_DONE(sums[r][0], sums[r][1]);
        }
    }
}

/* acc[r] += block b of x[r] . the panel's weights from block at on */
SIMD_INLINE void panel_block(const quant *t, panel *p, uint32_t at, const group *const x[], uint32_t b, uint32_t rows,
                             v128_t acc[TILE_ROWS][2]) {
    v128_t sums[TILE_ROWS][2], part[TILE_ROWS][2];
    const activation *q[TILE_ROWS];
    const int32_t *minus_sum[TILE_ROWS];
    activation(*w)[OUTPUTS][SPLAT] = p->w + at * (32 / SPLAT);
    float(*scales)[OUTPUTS] = p->scale + at * (32 / t->sub);
    SIMD_OPAQUE(w);
    SIMD_OPAQUE(scales);
    for (uint32_t r = 0; r < rows; r++) {
        q[r] = x[r]->q + 32 * b;
        minus_sum[r] = t->sub == 16 ? x[r]->minus_sum16 + 2 * b : x[r]->minus_sum32 + b;
        SIMD_OPAQUE(q[r]);
    }
    for (uint32_t i = 0; i < 32 / t->sub; i++) {
        panel_dot(t, w + 16 / SPLAT * i, q, minus_sum, rows, sums);
        const v128_t scale[2] = {wasm_v128_load(scales[i]), wasm_v128_load(scales[i] + 4)};
        for (uint32_t r = 0; r < rows; r++) {
            for (int h = 0; h < 2; h++) {
                const v128_t dot = wasm_f32x4_convert_i32x4(sums[r][h]);
                part[r][h] = i ? simd_madd(dot, scale[h], part[r][h]) : wasm_f32x4_mul(dot, scale[h]);
            }
            q[r] += 16;
            minus_sum[r]++;
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        const v128_t d = wasm_v128_load32_splat(x[r]->d + b);
        for (int h = 0; h < 2; h++) acc[r][h] = simd_madd(part[r][h], d, acc[r][h]);
        if (t->has_min) {
            const v128_t d_sum = wasm_v128_load32_splat(x[r]->d_sum + b);
            for (int h = 0; h < 2; h++) acc[r][h] = simd_nmadd(wasm_v128_load(p->min[at] + 4 * h), d_sum, acc[r][h]);
        }
        SIMD_STEP_DONE(acc[r][0], acc[r][1]);
    }
}

/* out[r][o] = or += the panel's part; x: the rows' first group in the panel, `stride` groups apart. */
SIMD_INLINE void panel_rows(const quant *t, panel *p, uint32_t k, const group *first, size_t stride, uint32_t rows, uint32_t n_out,
                            bool add, float *out, size_t out_stride) {
    v128_t acc[TILE_ROWS][2];
    const group *x[TILE_ROWS];
    for (uint32_t r = 0; r < rows; r++) {
        acc[r][0] = acc[r][1] = wasm_f32x4_splat(0);
        x[r] = first + r * stride;
    }
    for (uint32_t at = 0; at < k / 32;) {
        for (uint32_t b = 0; b < GROUP_K / 32 && at < k / 32; b++, at++) panel_block(t, p, at, x, b, rows, acc);
        for (uint32_t r = 0; r < rows; r++) x[r]++;
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t h = 0; h < 2 && 4 * h < n_out; h++) {
            float *to = out + r * out_stride + 4 * h;
            simd_store(to, n_out - 4 * h, add ? wasm_f32x4_add(acc[r][h], simd_load(to, n_out - 4 * h)) : acc[r][h]);
        }
    }
}

/* All rows times elements [k0, k0 + n) of the panel's outputs. */
SIMD_INLINE void panel_multiply(const quant *t, panel *p, const group *prepared, uint32_t n_rows, uint32_t k, uint32_t k0, uint32_t n,
                                uint32_t n_out, float *out, size_t out_stride) {
    const size_t stride = groups_of(k);
    const group *x = prepared + k0 / GROUP_K;
    uint32_t r = 0;
    for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS)
        panel_rows(t, p, n, x + r * stride, stride, TILE_ROWS, n_out, k0 != 0, out + r * out_stride, out_stride);
    for (; r < n_rows; r++) panel_rows(t, p, n, x + r * stride, stride, 1, n_out, k0 != 0, out + r * out_stride, out_stride);
}

#include "simd128_packed.h"

/* ---- the table ---- */

/* The loops of one type: for weights in the file's layout, and for packed ones. */
typedef struct kernels {
    uint32_t group_bytes;
    void (*one)(const uint8_t *w, size_t row_bytes, const group *x, uint32_t k, uint32_t n_out, float *out);
    void (*packed[3])(const uint8_t *w, const group *x, uint32_t k, uint32_t n_out, float *out, size_t out_stride); /* of 1, 2, 4 rows */
    void (*fill)(const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t k, panel *p);
    void (*fill_packed)(const uint8_t *w, uint32_t k, panel *p);
    void (*multiply)(panel *p, const group *x, uint32_t n_rows, uint32_t k, uint32_t k0, uint32_t n, uint32_t n_out, float *out,
                     size_t out_stride);
} kernels;

/* One function for every loop: engines make better code of several small functions than of one large. */
#define NOT_INLINED static __attribute__((noinline)) void
#define DEFINE_FEW(suffix, rows) \
    NOT_INLINED packed##rows##_##suffix(const uint8_t *w, const group *x, uint32_t k, uint32_t n_out, float *out, size_t out_stride) { \
        packed_few(&packed_##suffix, w, x, rows, k, n_out, out, out_stride); \
    }
#define DEFINE_MATMUL(suffix, group_bytes) \
    DEFINE_FEW(suffix, 1) \
    DEFINE_FEW(suffix, 2) \
    DEFINE_FEW(suffix, 4) \
    NOT_INLINED one_##suffix(const uint8_t *w, size_t row_bytes, const group *x, uint32_t k, uint32_t n_out, float *out) { \
        one_row(&quant_##suffix, w, row_bytes, x, k, n_out, out); \
    } \
    NOT_INLINED fill_##suffix(const uint8_t *w, size_t row_bytes, uint32_t n_out, uint32_t k, panel *p) { \
        panel_fill(&quant_##suffix, w, row_bytes, n_out, k, p); \
    } \
    NOT_INLINED fill_packed_##suffix(const uint8_t *w, uint32_t k, panel *p) { packed_fill(&packed_##suffix, w, k, p); } \
    NOT_INLINED multiply_##suffix(panel *p, const group *x, uint32_t n_rows, uint32_t k, uint32_t k0, uint32_t n, uint32_t n_out, \
                                  float *out, size_t out_stride) { \
        panel_multiply(&quant_##suffix, p, x, n_rows, k, k0, n, n_out, out, out_stride); \
    } \
    static const kernels kernels_##suffix = {group_bytes, \
                                             one_##suffix, \
                                             {packed1_##suffix, packed2_##suffix, packed4_##suffix}, \
                                             fill_##suffix, fill_packed_##suffix, multiply_##suffix}; \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(&kernels_##suffix, false, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    } \
    static void matmul_packed_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                       uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(&kernels_##suffix, true, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }

/* Outputs [0, n_out) times up to FEW_ROWS rows; those after the last whole stripe are not packed. */
static void multiply_few(const kernels *f, bool packed, const uint8_t *w, size_t row_bytes, const group *x, uint32_t n_rows, uint32_t k,
                         uint32_t n_out, float *out, size_t out_stride) {
    const uint32_t whole = packed ? n_out / OUTPUTS * OUTPUTS : 0;
    for (uint32_t r = 0, n; whole > 0 && r < n_rows; r += n) {
        n = n_rows - r >= 4 ? 4 : n_rows - r >= 2 ? 2 : 1;
        f->packed[n / 2](w, x + r * groups_of(k), k, whole, out + r * out_stride, out_stride);
    }
    if (whole == n_out) return;
    for (uint32_t r = 0; r < n_rows; r++)
        f->one(w + whole * row_bytes, row_bytes, x + r * groups_of(k), k, n_out - whole, out + r * out_stride + whole);
}

static void matmul(const kernels *f, bool packed, const void *weights, size_t row_bytes, const group *x, uint32_t n_rows, uint32_t k,
                   uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    panel p;
    const uint8_t *w = (const uint8_t *)weights + out0 * row_bytes;
    if (n_rows == 0 || out0 >= out1) return;
    if (n_rows <= FEW_ROWS) {
        multiply_few(f, packed, w, row_bytes, x, n_rows, k, out1 - out0, out + out0, out_stride);
        return;
    }
    for (size_t o = out0; o < out1; o += OUTPUTS, w += OUTPUTS * row_bytes) {
        const uint32_t n_out = out1 - o < OUTPUTS ? (uint32_t)(out1 - o) : OUTPUTS;
        for (uint32_t k0 = 0; k0 < k; k0 += PANEL_K) {
            const uint32_t n = k - k0 < PANEL_K ? k - k0 : PANEL_K;
            const size_t at = k0 / GROUP_K * f->group_bytes;
            if (packed && n_out == OUTPUTS) f->fill_packed(w + OUTPUTS * at, n, &p);
            else f->fill(w + at, row_bytes, n_out, n, &p);
            f->multiply(&p, x, n_rows, k, k0, n, n_out, out + o, out_stride);
        }
    }
}

DEFINE_MATMUL(q8_0, 8 * sizeof(block_q8_0))
DEFINE_MATMUL(q4_0, 8 * sizeof(block_q4_0))
DEFINE_MATMUL(q4_k, sizeof(block_q4_k))
DEFINE_MATMUL(q5_k, sizeof(block_q5_k))
DEFINE_MATMUL(q6_k, sizeof(block_q6_k))

#define SET_MATMUL(ops, id, suffix) \
    ((ops)->matmul[id] = (cpu_matmul){prepared_size, prepare, matmul_##suffix, OUTPUTS}, (ops)->run_packed[id] = matmul_packed_##suffix)

static void fill_all_but_q8_0(cpu_ops *ops) {
    SET_MATMUL(ops, BLOCK_Q4_0, q4_0);
    SET_MATMUL(ops, BLOCK_Q4_K, q4_k);
    SET_MATMUL(ops, BLOCK_Q5_K, q5_k);
    SET_MATMUL(ops, BLOCK_Q6_K, q6_k);
}

#ifdef CPU_RELAXED

/* Bytes with the top bit set are beyond what relaxed products promise. Engines take them as unsigned or as signed numbers, or
 * let pairs of products overflow; Q8_0 has a form for each of the first two and stays with plain SIMD for the last. */
SIMD_INLINE void add_offset(v128_t bytes[2]) {
    bytes[0] = wasm_v128_xor(bytes[0], wasm_i8x16_splat((int8_t)0x80));
    bytes[1] = wasm_v128_xor(bytes[1], wasm_i8x16_splat((int8_t)0x80));
}

SIMD_INLINE void q8_0_load32_offset(const uint8_t *group, uint32_t piece, v128_t bytes[2]) {
    q8_0_load32(group, piece, bytes);
    add_offset(bytes);
}

SIMD_INLINE void packed_q8_0_load4_offset(const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t i, v128_t bytes[2]) {
    packed_q8_0_load4(w, half, quarter, i, bytes);
    add_offset(bytes);
}

static const quant quant_q8_0_offset = {32, 7, false, false, true, 8 * sizeof(block_q8_0), q8_0_load32_offset, q8_0_scales};
static const packed_quant packed_q8_0_offset = {&quant_q8_0_offset, NULL, packed_q8_0_load4_offset, packed_block_scales};
DEFINE_MATMUL(q8_0_offset, 8 * sizeof(block_q8_0))

/* 127 times four bytes 255 */
static int probe(void) {
    volatile int8_t x = 127, w = -1; /* volatile: the engine answers, not the compiler */
    return wasm_i32x4_extract_lane(multiply(wasm_i8x16_splat(x), wasm_i8x16_splat(w), wasm_i32x4_splat(0)), 0);
}

void cpu_fill_matmul_relaxed(cpu_ops *ops) {
    const int answer = probe();
    if (answer == 4 * 127 * 255) SET_MATMUL(ops, BLOCK_Q8_0, q8_0_offset);
    else if (answer == 4 * 127 * -1) SET_MATMUL(ops, BLOCK_Q8_0, q8_0);
    fill_all_but_q8_0(ops);
}

#else

void cpu_fill_matmul_simd128(cpu_ops *ops) {
    SET_MATMUL(ops, BLOCK_Q8_0, q8_0);
    fill_all_but_q8_0(ops);
}

#endif
