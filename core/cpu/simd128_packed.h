/* simd128_packed.h: the part of matmul_simd128.c for packed weights (packing.h). A vector holds 4 weights of each of 4 outputs, so sums
 * are never added up across lanes, and a scale is applied to 4 outputs at once: half the instructions of the file's layout.
 * Few rows are multiplied straight from the stripes; for more rows a panel is copied from one. */

/* ---- the types: weights and scales of 8 outputs ---- */

/* What a group of K blocks says of all its weights, outputs in lanes. Scales and mins: 4 sub-blocks' bytes a lane. */
typedef struct packed_head {
    v128_t d[2], dmin[2];
    v128_t scale[2][2], min[2][2]; /* by half of the group, by half of the outputs */
} packed_head;

typedef struct packed_quant {
    const quant *type;
    void (*head)(const uint8_t *w, packed_head *head); /* of K blocks: scales are to be multiplied by its d, mins by its dmin */
    /* Weights [4 i, 4 i + 4) of 8 outputs' piece (32 weights): number 4 half + quarter of the K blocks at w, or the small blocks. */
    void (*load4)(const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t i, v128_t bytes[2]);
    /* Scales (and mins) of sub-block `sub` of such a piece. */
    void (*scales)(const uint8_t *w, const packed_head *head, uint32_t half, uint32_t quarter, uint32_t sub, v128_t scale[2],
                   v128_t min[2]);
} packed_quant;

/* Eight halves as floats. */
SIMD_INLINE void packed_halves(const uint8_t *at, v128_t out[2]) {
    const v128_t h = wasm_v128_load(at);
    out[0] = simd_from_scales(wasm_i32x4_extend_low_i16x8(h));
    out[1] = simd_from_scales(wasm_i32x4_extend_high_i16x8(h));
}

SIMD_INLINE void load_pair(const uint8_t *at, v128_t v[2]) {
    v[0] = wasm_v128_load(at);
    v[1] = wasm_v128_load(at + 16);
}

SIMD_INLINE void load_nibbles(const uint8_t *at, bool high, v128_t v[2]) {
    load_pair(at, v);
    for (int h = 0; h < 2; h++) v[h] = high ? high_nibbles(v[h]) : wasm_v128_and(v[h], wasm_i8x16_splat(15));
}

/* Small blocks open with their scales. */
SIMD_INLINE void packed_block_scales(const uint8_t *w, const packed_head *head, uint32_t half, uint32_t quarter, uint32_t sub,
                                     v128_t scale[2], v128_t min[2]) {
    (void)head, (void)half, (void)quarter, (void)sub, (void)min;
    packed_halves(w, scale);
}

SIMD_INLINE void packed_q8_0_load4(const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t i, v128_t bytes[2]) {
    (void)half, (void)quarter;
    load_pair(w + 16 + 32 * i, bytes);
}

SIMD_INLINE void packed_q4_0_load4(const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t i, v128_t bytes[2]) {
    (void)half, (void)quarter;
    load_nibbles(w + 16 + 32 * (i & 3), i & 4, bytes);
}

/* Q4_K and Q5_K: three words of 6-bit scales and mins. */
SIMD_INLINE void packed_k_head(const uint8_t *w, packed_head *head) {
    const v128_t low6 = wasm_i8x16_splat(0x3f), low4 = wasm_i8x16_splat(0x0f), upper2 = wasm_i8x16_splat(0x30);
    packed_halves(w, head->d);
    packed_halves(w + 16, head->dmin);
    for (int h = 0; h < 2; h++) {
        const v128_t a = wasm_v128_load(w + 32 + 16 * h), b = wasm_v128_load(w + 64 + 16 * h), c = wasm_v128_load(w + 96 + 16 * h);
        head->scale[0][h] = wasm_v128_and(a, low6);
        head->min[0][h] = wasm_v128_and(b, low6);
        head->scale[1][h] = wasm_v128_or(wasm_v128_and(c, low4), wasm_v128_and(wasm_u32x4_shr(a, 2), upper2));
        head->min[1][h] = wasm_v128_or(wasm_v128_and(wasm_u32x4_shr(c, 4), low4), wasm_v128_and(wasm_u32x4_shr(b, 2), upper2));
    }
}

/* Byte i of each lane as a float. */
SIMD_INLINE v128_t byte_of_lanes(v128_t words, uint32_t i) {
    const v128_t moved = i == 0 ? words : wasm_u32x4_shr(words, 8 * i);
    return wasm_f32x4_convert_i32x4(i == 3 ? moved : wasm_v128_and(moved, wasm_i32x4_splat(0xff)));
}

SIMD_INLINE void packed_k_scales(const uint8_t *w, const packed_head *head, uint32_t half, uint32_t quarter, uint32_t sub,
                                 v128_t scale[2], v128_t min[2]) {
    (void)w, (void)sub;
    for (int h = 0; h < 2; h++) {
        scale[h] = byte_of_lanes(head->scale[half][h], quarter);
        min[h] = byte_of_lanes(head->min[half][h], quarter);
    }
}

SIMD_INLINE void packed_q4_k_load4(const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t i, v128_t bytes[2]) {
    load_nibbles(w + 128 + 512 * half + 256 * (quarter / 2) + 32 * i, quarter & 1, bytes);
}

SIMD_INLINE void packed_q5_k_load4(const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t i, v128_t bytes[2]) {
    const v128_t bit = wasm_i8x16_splat((int8_t)(1u << (4 * half + quarter)));
    load_nibbles(w + 384 + 512 * half + 256 * (quarter / 2) + 32 * i, quarter & 1, bytes);
    for (int h = 0; h < 2; h++) {
        const v128_t fifth = wasm_i8x16_eq(wasm_v128_and(wasm_v128_load(w + 128 + 32 * i + 16 * h), bit), bit);
        bytes[h] = wasm_v128_or(bytes[h], wasm_v128_and(fifth, wasm_i8x16_splat(16)));
    }
}

SIMD_INLINE void packed_q6_k_head(const uint8_t *w, packed_head *head) { packed_halves(w + 1664, head->d); }

SIMD_INLINE void packed_q6_k_load4(const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t i, v128_t bytes[2]) {
    load_nibbles(w + 512 * half + 256 * (quarter & 1) + 32 * i, quarter & 2, bytes);
    for (int h = 0; h < 2; h++) { /* as in q6_k_load32 */
        const v128_t v = wasm_v128_load(w + 1024 + 256 * half + 32 * i + 16 * h);
        const v128_t high = quarter == 3 ? wasm_u16x8_shr(v, 2) : wasm_i16x8_shl(v, 4 - 2 * quarter);
        bytes[h] = wasm_v128_or(bytes[h], wasm_v128_and(high, wasm_i8x16_splat(0x30)));
    }
}

SIMD_INLINE void packed_q6_k_scales(const uint8_t *w, const packed_head *head, uint32_t half, uint32_t quarter, uint32_t sub,
                                    v128_t scale[2], v128_t min[2]) {
    (void)head, (void)min;
    const v128_t words = wasm_i16x8_load8x8(w + 1536 + 64 * half + 16 * quarter + 8 * sub);
    scale[0] = wasm_f32x4_convert_i32x4(wasm_i32x4_extend_low_i16x8(words));
    scale[1] = wasm_f32x4_convert_i32x4(wasm_i32x4_extend_high_i16x8(words));
}

static const packed_quant packed_q8_0 = {&quant_q8_0, NULL, packed_q8_0_load4, packed_block_scales};
static const packed_quant packed_q4_0 = {&quant_q4_0, NULL, packed_q4_0_load4, packed_block_scales};
static const packed_quant packed_q4_k = {&quant_q4_k, packed_k_head, packed_q4_k_load4, packed_k_scales};
static const packed_quant packed_q5_k = {&quant_q5_k, packed_k_head, packed_q5_k_load4, packed_k_scales};
static const packed_quant packed_q6_k = {&quant_q6_k, packed_q6_k_head, packed_q6_k_load4, packed_q6_k_scales};

/* ---- few rows ---- */

/* sums[m] += weights [4 i, 4 i + 4) of a piece, 8 outputs' . q[m], the piece's activations */
SIMD_INLINE void packed_step(const packed_quant *t, const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t i,
                             const activation *const q[], uint32_t m_count, v128_t sums[FEW_ROWS][2]) {
    v128_t bytes[2], wide[2][VECTORS];
    t->load4(w, half, quarter, i, bytes);
    for (int h = 0; h < 2; h++) spread(bytes[h], t->type->is_signed, wide[h]);
    for (uint32_t m = 0; m < m_count; m++) {
        for (int v = 0; v < VECTORS; v++) {
            const v128_t few = wasm_v128_load32_splat(q[m] + 16 * (i / 4) + SPLAT * (i % 4) + 8 * v);
            for (int h = 0; h < 2; h++) sums[m][h] = multiply(few, wide[h][v], sums[m][h]);
        }
    }
    SIMD_STEP_DONE(sums[0][0], sums[0][1]);
}

/* sums[m] += sub-block `s` of a piece. Several rows are work enough to pay for a loop. */
SIMD_INLINE void packed_dot(const packed_quant *t, const uint8_t *w, uint32_t half, uint32_t quarter, uint32_t s,
                            const activation *const q[], uint32_t m_count, v128_t sums[FEW_ROWS][2]) {
    const uint32_t first = s * t->type->sub / 4, end = first + t->type->sub / 4;
    if (m_count == 1) {
        CPU_UNROLL for (uint32_t i = first; i < end; i++) packed_step(t, w, half, quarter, i, q, m_count, sums);
    } else {
        CPU_ROLLED for (uint32_t i = first; i < end; i++) packed_step(t, w, half, quarter, i, q, m_count, sums);
    }
}

/* What the products of a sub-block start with, so that the weights' offset counts for nothing. */
SIMD_INLINE v128_t packed_start(const quant *t, const group *x, uint32_t p, uint32_t s) {
    const int32_t *minus_sum = t->sub == 16 ? x->minus_sum16 + 2 * p + s : x->minus_sum32 + p;
    return t->offset_shift ? wasm_i32x4_shl(wasm_v128_load32_splat(minus_sum), t->offset_shift) : wasm_i32x4_splat(0);
}

/* acc[m] += 8 outputs' piece . piece p of x[m]; less[m] += what mins take away. Both without what the head says. */
SIMD_INLINE void packed_piece(const packed_quant *t, const uint8_t *w, const packed_head *head, uint32_t half, uint32_t quarter,
                              const group *const x[], uint32_t p, uint32_t m_count, v128_t acc[FEW_ROWS][2], v128_t less[FEW_ROWS][2]) {
    v128_t sums[FEW_ROWS][2], part[FEW_ROWS][2], scale[2], min[2];
    const activation *q[FEW_ROWS];
    for (uint32_t m = 0; m < m_count; m++) q[m] = x[m]->q + 32 * p;
    for (uint32_t s = 0; s < 32 / t->type->sub; s++) {
        for (uint32_t m = 0; m < m_count; m++) sums[m][0] = sums[m][1] = packed_start(t->type, x[m], p, s);
        packed_dot(t, w, half, quarter, s, q, m_count, sums);
        t->scales(w, head, half, quarter, s, scale, min);
        for (uint32_t m = 0; m < m_count; m++) {
            for (int h = 0; h < 2; h++) {
                const v128_t dot = wasm_f32x4_convert_i32x4(sums[m][h]);
                part[m][h] = s ? simd_madd(dot, scale[h], part[m][h]) : wasm_f32x4_mul(dot, scale[h]);
            }
        }
    }
    for (uint32_t m = 0; m < m_count; m++) {
        const v128_t d = wasm_v128_load32_splat(x[m]->d + p), d_sum = wasm_v128_load32_splat(x[m]->d_sum + p);
        for (int h = 0; h < 2; h++) {
            acc[m][h] = simd_madd(part[m][h], d, acc[m][h]);
            if (t->type->has_min) less[m][h] = simd_madd(min[h], d_sum, less[m][h]);
        }
        SIMD_STEP_DONE(acc[m][0], acc[m][1]);
    }
}

/* acc[m] += a stripe's K blocks . x[m] */
SIMD_INLINE void packed_k_blocks(const packed_quant *t, const uint8_t *w, const group *const x[], uint32_t m_count,
                                 v128_t acc[FEW_ROWS][2]) {
    packed_head head;
    v128_t part[FEW_ROWS][2], less[FEW_ROWS][2];
    t->head(w, &head);
    for (uint32_t m = 0; m < m_count; m++)
        for (int h = 0; h < 2; h++) part[m][h] = less[m][h] = wasm_f32x4_splat(0);
    for (uint32_t half = 0; half < 2; half++) {
        CPU_UNROLL for (uint32_t quarter = 0; quarter < 4; quarter++)
            packed_piece(t, w, &head, half, quarter, x, 4 * half + quarter, m_count, part, less);
    }
    for (uint32_t m = 0; m < m_count; m++)
        for (int h = 0; h < 2; h++) {
            acc[m][h] = simd_madd(part[m][h], head.d[h], acc[m][h]);
            if (t->type->has_min) acc[m][h] = simd_nmadd(less[m][h], head.dmin[h], acc[m][h]);
        }
}

/* n_out: a multiple of OUTPUTS */
SIMD_INLINE void packed_few(const packed_quant *t, const uint8_t *w, const group *prepared, uint32_t m_count, uint32_t k, uint32_t n_out,
                            float *out, size_t out_stride) {
    for (uint32_t o = 0; o < n_out; o += OUTPUTS) {
        v128_t acc[FEW_ROWS][2];
        const group *x[FEW_ROWS];
        for (uint32_t m = 0; m < m_count; m++) {
            acc[m][0] = acc[m][1] = wasm_f32x4_splat(0);
            x[m] = prepared + m * groups_of(k);
        }
        for (uint32_t left = k / 32; left > 0;) {
            const uint32_t pieces = left < GROUP_K / 32 ? left : GROUP_K / 32;
            left -= pieces;
            if (t->type->is_small) {
                for (uint32_t p = 0; p < pieces; p++, w += OUTPUTS * t->type->group_bytes / 8)
                    packed_piece(t, w, NULL, 0, 0, x, p, m_count, acc, NULL);
            } else {
                packed_k_blocks(t, w, x, m_count, acc);
                w += OUTPUTS * t->type->group_bytes;
            }
            for (uint32_t m = 0; m < m_count; m++) x[m]++;
        }
        for (uint32_t m = 0; m < m_count; m++)
            for (int h = 0; h < 2; h++) wasm_v128_store(out + m * out_stride + o + 4 * h, acc[m][h]);
    }
}

/* ---- many rows ---- */

/* Block `at` of the panel from a piece. */
SIMD_INLINE void packed_fill_piece(const packed_quant *t, const uint8_t *w, const packed_head *head, uint32_t half, uint32_t quarter,
                                   panel *to, uint32_t at) {
    const uint32_t subs = 32 / t->type->sub;
    for (uint32_t s = 0; s < subs; s++) {
        v128_t scale[2], min[2];
        t->scales(w, head, half, quarter, s, scale, min);
        for (int h = 0; h < 2; h++) {
            wasm_v128_store(to->scale[at * subs + s] + 4 * h, t->type->is_small ? scale[h] : wasm_f32x4_mul(scale[h], head->d[h]));
            if (t->type->has_min) wasm_v128_store(to->min[at] + 4 * h, wasm_f32x4_mul(min[h], head->dmin[h]));
        }
    }
    CPU_ROLLED for (uint32_t i = 0; i < 8; i++) {
        v128_t bytes[2], wide[VECTORS];
        t->load4(w, half, quarter, i, bytes);
        for (int h = 0; h < 2; h++) {
            spread(bytes[h], t->type->is_signed, wide);
            for (uint32_t v = 0; v < VECTORS; v++)
                wasm_v128_store(to->w[at * (32 / SPLAT) + i / 4 * (16 / SPLAT) + 4 * v + i % 4][4 * h], wide[v]);
        }
    }
}

/* Elements [0, k) of a stripe's rows. */
SIMD_INLINE void packed_fill(const packed_quant *t, const uint8_t *w, uint32_t k, panel *p) {
    for (uint32_t at = 0; at < k / 32;) {
        packed_head head;
        if (t->type->is_small) {
            packed_fill_piece(t, w, NULL, 0, 0, p, at++);
            w += OUTPUTS * t->type->group_bytes / 8;
            continue;
        }
        t->head(w, &head);
        for (uint32_t half = 0; half < 2; half++) {
            CPU_UNROLL for (uint32_t quarter = 0; quarter < 4; quarter++) packed_fill_piece(t, w, &head, half, quarter, p, at++);
        }
        w += OUTPUTS * t->type->group_bytes;
    }
}
