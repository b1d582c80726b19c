/* ops_portable.c: the reference kernels: plain C, no assumption about the processor, one obvious loop per op.
 *
 * Every output element is computed alone, by additions in an order that depends on the length of the sum only, and the file
 * is compiled without contraction of a * b + c: a result is the same bit for bit in any batch, split over any threads.
 * Sums run in LANES independent partial sums (element i goes to lane i % LANES), which compilers turn into SIMD.
 * Attention stands in attention_portable.c. */
#include "dequantize.h"

#include <math.h>

#define LANES 8
#define CHUNK BLOCK_QK_K /* weights dequantized at a time: a multiple of every block */
#define ROW_TILE 8       /* rows of x that share a dequantized chunk */

/* ---- half precision ---- */

static float float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float cpu_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h & 0x7c00u, mantissa = h & 0x3ffu;
    uint32_t magnitude;
    if (exponent == 0) magnitude = bits_of_float((float)mantissa * 0x1p-24f); /* zero and subnormals */
    else if (exponent == 0x7c00u) magnitude = 0x7f800000u | mantissa << 13;    /* infinity and NaN */
    else magnitude = ((uint32_t)(h & 0x7fffu) << 13) + ((127u - 15u) << 23);
    return float_of_bits(sign | magnitude);
}

uint16_t cpu_f32_to_f16(float f) {
    uint32_t bits = bits_of_float(f), sign = bits >> 16 & 0x8000u, a = bits & 0x7fffffffu;
    uint32_t magnitude;
    if (a > 0x7f800000u) magnitude = 0x7e00u | (a >> 13 & 0x3ffu); /* NaN stays NaN, made quiet */
    else if (a >= bits_of_float(65520.0f)) magnitude = 0x7c00u;    /* what rounds past the largest half is infinite */
    else if (a < bits_of_float(0x1p-14f)) magnitude = bits_of_float(float_of_bits(a) + 0.5f) - bits_of_float(0.5f);
    else magnitude = (a + 0xfffu + (a >> 13 & 1u) - ((127u - 15u) << 23)) >> 13;
    return (uint16_t)(sign | magnitude);
}

float cpu_bf16_to_f32(uint16_t h) {
    return float_of_bits((uint32_t)h << 16);
}

/* ---- dequantization of the plain types; the blocks' stands in dequantize.h ---- */

static void dequantize_f32(const void *row, uint32_t k, float *out) {
    memcpy(out, row, (size_t)k * sizeof *out);
}

static void dequantize_f16(const void *row, uint32_t k, float *out) {
    const uint8_t *p = row;
    for (uint32_t i = 0; i < k; i++) out[i] = cpu_f16_to_f32(base_u16(p + 2 * (size_t)i));
}

static void dequantize_bf16(const void *row, uint32_t k, float *out) {
    const uint8_t *p = row;
    for (uint32_t i = 0; i < k; i++) out[i] = cpu_bf16_to_f32(base_u16(p + 2 * (size_t)i));
}

/* ---- matmul ---- */

typedef void dequantize_fn(const void *row, uint32_t k, float *out);

static size_t prepared_size_f32(uint32_t n_rows, uint32_t k) {
    return (size_t)n_rows * k * sizeof(float);
}

/* Prepared: (n_rows, k) f32 without gaps. */
static void prepare_f32(const float *x, size_t x_stride, uint32_t n_rows, uint32_t k, uint32_t row0, uint32_t row1,
                        void *prepared) {
    (void)n_rows;
    float *out = prepared;
    for (size_t r = row0; r < row1; r++) memcpy(out + r * k, x + r * x_stride, (size_t)k * sizeof *out);
}

/* lanes[i % LANES] += w[i] * x[i] */
static void dot_lanes(const float *w, const float *x, uint32_t n, float lanes[LANES]) {
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t j = 0; j < LANES; j++) lanes[j] += w[i + j] * x[i + j];
    for (uint32_t j = 0; i + j < n; j++) lanes[j] += w[i + j] * x[i + j];
}

static float sum_lanes(const float lanes[LANES]) {
    float a = lanes[0] + lanes[4], b = lanes[1] + lanes[5], c = lanes[2] + lanes[6], d = lanes[3] + lanes[7];
    return (a + c) + (b + d);
}

/* One output of up to ROW_TILE rows: dequantize a chunk of the weight row, let every row use it, go on. */
static void matmul_tile(dequantize_fn *dequantize, const uint8_t *w_row, size_t chunk_bytes, const float *x, uint32_t n_rows,
                        uint32_t k, float *out, size_t out_stride) {
    float lanes[ROW_TILE][LANES] = {{0}}, chunk[CHUNK];
    for (uint32_t k0 = 0; k0 < k; k0 += CHUNK, w_row += chunk_bytes) {
        uint32_t n = k - k0 < CHUNK ? k - k0 : CHUNK;
        dequantize(w_row, n, chunk);
        for (uint32_t r = 0; r < n_rows; r++) dot_lanes(chunk, x + (size_t)r * k + k0, n, lanes[r]);
    }
    for (uint32_t r = 0; r < n_rows; r++) out[r * out_stride] = sum_lanes(lanes[r]);
}

static void matmul(uint32_t type, dequantize_fn *dequantize, const void *w, size_t row_bytes, const void *prepared,
                   uint32_t n_rows, uint32_t k, uint32_t out0, uint32_t out1, float *out, size_t out_stride) {
    const block_type *block = block_type_of(type);
    size_t chunk_bytes = (size_t)CHUNK / block->elements * block->bytes;
    for (size_t o = out0; o < out1; o++) {
        for (uint32_t r = 0; r < n_rows; r += ROW_TILE) {
            uint32_t rows = n_rows - r < ROW_TILE ? n_rows - r : ROW_TILE;
            matmul_tile(dequantize, (const uint8_t *)w + o * row_bytes, chunk_bytes, (const float *)prepared + (size_t)r * k,
                        rows, k, out + r * out_stride + o, out_stride);
        }
    }
}

#define DEFINE_MATMUL(suffix, type) \
    static void matmul_##suffix(const void *w, size_t row_bytes, const void *prepared, uint32_t n_rows, uint32_t k, \
                                uint32_t out0, uint32_t out1, float *out, size_t out_stride) { \
        matmul(type, dequantize_##suffix, w, row_bytes, prepared, n_rows, k, out0, out1, out, out_stride); \
    }
DEFINE_MATMUL(f32, BLOCK_F32)
DEFINE_MATMUL(f16, BLOCK_F16)
DEFINE_MATMUL(bf16, BLOCK_BF16)
DEFINE_MATMUL(q4_0, BLOCK_Q4_0)
DEFINE_MATMUL(q8_0, BLOCK_Q8_0)
DEFINE_MATMUL(q4_k, BLOCK_Q4_K)
DEFINE_MATMUL(q5_k, BLOCK_Q5_K)
DEFINE_MATMUL(q6_k, BLOCK_Q6_K)

/* ---- row and element-wise ops ---- */

static void rmsnorm(const float *x, const float *w, float eps, uint32_t n, uint32_t row0, uint32_t row1, float *out) {
    for (size_t r = row0; r < row1; r++) {
        const float *from = x + r * n;
        float *to = out + r * n;
        double squares = 0; /* of floats, exact in double: cannot overflow */
        for (uint32_t i = 0; i < n; i++) squares += (double)from[i] * from[i];
        float scale = (float)(1.0 / sqrt(squares / n + eps));
        for (uint32_t i = 0; i < n; i++) to[i] = from[i] * scale * w[i];
    }
}

static void rotate(float *a, float *b, const float *cos_sin) {
    float x = *a, y = *b;
    *a = x * cos_sin[0] - y * cos_sin[1];
    *b = x * cos_sin[1] + y * cos_sin[0];
}

static void rope(float *x, size_t x_stride, const float *cos_sin, uint32_t n_head, uint32_t head_dim, uint32_t half, bool neox,
                 uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) {
        const float *angles = cos_sin + r * half * 2;
        for (size_t h = 0; h < n_head; h++) {
            float *head = x + r * x_stride + h * head_dim;
            for (size_t i = 0; i < half; i++) {
                if (neox) rotate(head + i, head + i + half, angles + 2 * i);
                else rotate(head + 2 * i, head + 2 * i + 1, angles + 2 * i);
            }
        }
    }
}

static void silu_mul(float *g, const float *u, size_t n) {
    for (size_t i = 0; i < n; i++) g[i] = g[i] / (1.0f + expf(-g[i])) * u[i];
}

static void gelu_mul(float *g, const float *u, size_t n) {
    const float sqrt_2_over_pi = 0.79788456080286535588f;
    for (size_t i = 0; i < n; i++) {
        float x = g[i], inner = sqrt_2_over_pi * x * (1.0f + 0.044715f * x * x);
        g[i] = 0.5f * x * (1.0f + tanhf(inner)) * u[i];
    }
}

static void add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

static void scale(float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] *= s;
}

static void softcap(float *x, float cap, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = cap * tanhf(x[i] / cap);
}

static void add_bias(float *x, const float *b, uint32_t n, uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) add(x + r * n, b, n);
}

static void softmax_stats(const float *x, uint32_t n, float *max, float *sum) {
    float most = -INFINITY;
    for (uint32_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    double total = 0;
    for (uint32_t i = 0; i < n; i++) total += expf(x[i] - most);
    *max = most;
    *sum = (float)total;
}

static void kv_store(void *part, uint32_t kv_type, uint32_t slot, const float *row, uint32_t n_head_kv, uint32_t head_dim) {
    for (size_t h = 0; h < n_head_kv; h++, row += head_dim) {
        size_t at = (h * CPU_KV_PAGE + slot) * head_dim;
        if (kv_type == REALM_KV_F32) memcpy((float *)part + at, row, (size_t)head_dim * sizeof *row);
        else for (uint32_t i = 0; i < head_dim; i++) ((uint16_t *)part)[at + i] = cpu_f32_to_f16(row[i]);
    }
}

/* ---- the table ---- */

void cpu_fill_portable(cpu_ops *ops) {
#define FILL(suffix, type) \
    ops->matmul[type] = (cpu_matmul){prepared_size_f32, prepare_f32, matmul_##suffix, 1}; \
    ops->dequantize[type] = dequantize_##suffix
    FILL(f32, BLOCK_F32);
    FILL(f16, BLOCK_F16);
    FILL(bf16, BLOCK_BF16);
    FILL(q4_0, BLOCK_Q4_0);
    FILL(q8_0, BLOCK_Q8_0);
    FILL(q4_k, BLOCK_Q4_K);
    FILL(q5_k, BLOCK_Q5_K);
    FILL(q6_k, BLOCK_Q6_K);
#undef FILL
    ops->name = "portable";
    ops->rmsnorm = rmsnorm;
    ops->rope = rope;
    ops->silu_mul = silu_mul;
    ops->gelu_mul = gelu_mul;
    ops->add = add;
    ops->scale = scale;
    ops->softcap = softcap;
    ops->add_bias = add_bias;
    ops->kv_store = kv_store;
    ops->softmax_stats = softmax_stats;
    ops->attention = cpu_attention_portable;
}
