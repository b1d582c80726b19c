/* ops_vector.h: the row and element-wise ops, written once for vectors of any width; ops_<set>.c include it once each, after having
 * told what a vector is:
 *
 *   vec, VEC_LANES                          a vector of VEC_LANES floats
 *   vec_load(x, n), vec_store(x, n, v)      up to n lanes; zeros are loaded after them, nothing outside is touched
 *   vec_all(f), vec_add, vec_sub, vec_mul, vec_div, vec_madd(a, b, c) = a b + c, vec_max, vec_exp, vec_tanh
 *   vec_sum(v), vec_top(v)                  sum and maximum of the lanes
 *   rotate_halves, rotate_neighbours        rope of one head for the two orders of pairs: (i, i + half), (2i, 2i + 1)
 *   store_halves(to, from, n)               n floats as halves
 */
#include <math.h>

#define VEC_SUM_LENGTH 1024 /* sums of so many elements are floats, their sum is a double */

/* ---- rows ---- */

static double sum_of_squares(const float *x, size_t n) {
    double total = 0;
    for (size_t start = 0; start < n; start += VEC_SUM_LENGTH) {
        const size_t end = n - start < VEC_SUM_LENGTH ? n : start + VEC_SUM_LENGTH;
        vec sums[2] = {vec_all(0.0f), vec_all(0.0f)};
        for (size_t i = start; i < end; i += VEC_LANES) {
            const vec v = vec_load(x + i, end - i);
            sums[i / VEC_LANES & 1] = vec_madd(v, v, sums[i / VEC_LANES & 1]);
        }
        total += (double)vec_sum(vec_add(sums[0], sums[1]));
    }
    return total;
}

static void rmsnorm(const float *x, const float *w, float eps, uint32_t n, uint32_t row0, uint32_t row1, float *out) {
    for (size_t r = row0; r < row1; r++) {
        const float *from = x + r * n;
        const vec scale = vec_all((float)(1.0 / sqrt(sum_of_squares(from, n) / n + (double)eps)));
        for (size_t i = 0; i < n; i += VEC_LANES) {
            const vec v = vec_mul(vec_load(from + i, n - i), scale);
            vec_store(out + r * n + i, n - i, vec_mul(v, vec_load(w + i, n - i)));
        }
    }
}

static void rope(float *x, size_t x_stride, const float *cos_sin, uint32_t n_head, uint32_t head_dim, uint32_t half, bool neox,
                 uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) {
        for (size_t h = 0; h < n_head; h++) {
            float *head = x + r * x_stride + h * head_dim;
            if (neox) rotate_halves(head, cos_sin + r * half * 2, half);
            else rotate_neighbours(head, cos_sin + r * half * 2, half);
        }
    }
}

static void kv_store(void *part, uint32_t kv_type, uint32_t slot, const float *row, uint32_t n_head_kv, uint32_t head_dim) {
    for (size_t h = 0; h < n_head_kv; h++, row += head_dim) {
        const size_t at = (h * CPU_KV_PAGE + slot) * head_dim;
        if (kv_type == REALM_KV_F32) memcpy((float *)part + at, row, (size_t)head_dim * sizeof *row);
        else store_halves((uint16_t *)part + at, row, head_dim);
    }
}

/* ---- elements ---- */

/* x[i] = expression of a = x[i] and b = y[i] */
#define ELEMENTWISE(x, y, n, expression) \
    for (size_t i = 0; i < (n); i += VEC_LANES) { \
        const vec a = vec_load((x) + i, (n) - i), b = vec_load((y) + i, (n) - i); \
        vec_store((x) + i, (n) - i, expression); \
    }

/* x * sigmoid(s) */
CPU_INLINE vec times_sigmoid(vec x, vec s) {
    return vec_div(x, vec_add(vec_all(1.0f), vec_exp(vec_sub(vec_all(0.0f), s))));
}

/* 0.5 x (1 + tanh t) = x sigmoid(2 t), t = sqrt(2 / pi) (x + 0.044715 x^3) */
CPU_INLINE vec gelu(vec x) {
    const vec factor = vec_madd(vec_mul(x, x), vec_all(0.044715f), vec_all(1.0f));
    return times_sigmoid(x, vec_mul(vec_mul(x, vec_all(2.0f * 0.79788456080286535588f)), factor));
}

static void silu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, vec_mul(times_sigmoid(a, a), b))
}

static void gelu_mul(float *g, const float *u, size_t n) {
    ELEMENTWISE(g, u, n, vec_mul(gelu(a), b))
}

static void add(float *x, const float *y, size_t n) {
    ELEMENTWISE(x, y, n, vec_add(a, b))
}

static void scale(float *x, float s, size_t n) {
    for (size_t i = 0; i < n; i += VEC_LANES) vec_store(x + i, n - i, vec_mul(vec_load(x + i, n - i), vec_all(s)));
}

static void softcap(float *x, float cap, size_t n) {
    for (size_t i = 0; i < n; i += VEC_LANES) {
        const vec t = vec_tanh(vec_div(vec_load(x + i, n - i), vec_all(cap)));
        vec_store(x + i, n - i, vec_mul(t, vec_all(cap)));
    }
}

static void add_bias(float *x, const float *b, uint32_t n, uint32_t row0, uint32_t row1) {
    for (size_t r = row0; r < row1; r++) add(x + r * n, b, n);
}

static void softmax_stats(const float *x, uint32_t n, float *max, float *sum) {
    const size_t whole = n - n % VEC_LANES;
    vec tops = vec_all(-INFINITY);
    for (size_t i = 0; i < whole; i += VEC_LANES) tops = vec_max(tops, vec_load(x + i, VEC_LANES));
    float most = vec_top(tops);
    for (size_t i = whole; i < n; i++) most = x[i] > most ? x[i] : most;
    double total = 0;
    for (size_t start = 0; start < whole; start += VEC_SUM_LENGTH) {
        const size_t end = whole - start < VEC_SUM_LENGTH ? whole : start + VEC_SUM_LENGTH;
        vec part = vec_all(0.0f);
        for (size_t i = start; i < end; i += VEC_LANES) part = vec_add(part, vec_exp(vec_sub(vec_load(x + i, VEC_LANES), vec_all(most))));
        total += (double)vec_sum(part);
    }
    for (size_t i = whole; i < n; i++) total += (double)expf(x[i] - most);
    *max = most;
    *sum = (float)total;
}

/* ---- the table ---- */

static void fill_row_ops(cpu_ops *ops) {
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
}
