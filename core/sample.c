/* sample.c: logits -> one token, in this order:
 *   1. bias        x += bias (-inf bans)
 *   2. penalties   for each distinct token of the last `penalty_window` of the history, seen c times there:
 *                  repetition r: x = x > 0 ? x / r : x * r      (CTRL, arXiv:1909.05858; the sign rule is llama.cpp's)
 *                  then x -= c * frequency + presence           (the OpenAI API's definition)
 *   3. bans        x = -inf for `banned`
 *   4. temperature 0: the largest x, done. Else every token weighs exp((x - max) / temperature)
 *   5. top-k       the k largest x
 *   6. top-p       the shortest run of the largest whose weights reach p of what top-k left (arXiv:1904.09751)
 *   7. min-p       of those, weights of at least min_p of the largest (arXiv:2407.01082)
 *   8. one draw
 * Equal x are ranked by id, the lower first. NaN counts as -inf. So what 5 to 7 keep is always a prefix of one ranking.
 *
 * The same token on every host: decisions use only IEEE + - * / and comparisons in a fixed order (built without
 * contraction), an exp made of them, and a counter for randomness; libm answers only for the reported logprob. */
#include "sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

_Static_assert(FLT_EVAL_METHOD == 0, "float arithmetic must be done in float");

#define PENALTY_WINDOW_DEFAULT 64u
#define SUM_LANES 8 /* partial sums: fixes the order of additions and lets compilers vectorise them */

typedef struct candidate {
    float x;
    uint32_t id;
} candidate;

typedef struct work { /* the scratch memory, cut up; each (vocab_size,) */
    float *x;         /* the logits, sanitised, then adjusted by steps 1 to 3 */
    union {
        uint32_t *counts; /* step 2 */
        float *weights;   /* steps 4 to 8 */
    };
    candidate *ranked; /* steps 5 to 8 */
} work;

static realm_status work_open(sample_scratch *scratch, uint32_t n, work *out, realm_error *err);
static float copy_sanitised(const float *logits, uint32_t n, float *x);
static double log_sum_exp(const float *x, uint32_t n, float max);
static void add_biases(float *x, const realm_sampling *params);
static void penalise(float *x, uint32_t n, const uint32_t *history, uint32_t history_count, const realm_sampling *params,
                     uint32_t *counts);
static uint32_t largest(const float *x, uint32_t n);
static uint32_t draw_any(const work *w, uint32_t n, float max, const realm_sampling *params, double random);
static uint32_t draw_ranked(const work *w, uint32_t n, float max, const realm_sampling *params, double random);
static double random_unit(uint64_t seed, uint64_t index);

realm_status sample_token(const float *logits, uint32_t vocab_size, const uint32_t *history, uint32_t history_count,
                          const realm_sampling *params, uint64_t index, const uint32_t *banned, uint32_t banned_count,
                          sample_scratch *scratch, uint32_t *token, float *logprob, realm_error *err) {
    work w;
    realm_status status = work_open(scratch, vocab_size, &w, err);
    if (status != REALM_OK) return status;
    float max = copy_sanitised(logits, vocab_size, w.x);
    if (max == -INFINITY) return base_fail(err, REALM_E_INVALID_MODEL, "the model gave no finite logit to sample from");
    double log_total = log_sum_exp(w.x, vocab_size, max);

    add_biases(w.x, params);
    penalise(w.x, vocab_size, history, history_count, params, w.counts);
    for (uint32_t i = 0; i < banned_count; i++) {
        if (banned[i] < vocab_size) w.x[banned[i]] = -INFINITY;
    }
    uint32_t best = largest(w.x, vocab_size);
    max = w.x[best];
    if (max == -INFINITY) return base_fail(err, REALM_E_INVALID_ARGUMENT, "every token is banned: nothing can be sampled");

    bool ranked = (params->top_k > 0 && params->top_k < vocab_size) || params->top_p < 1.0f;
    if (params->temperature == 0.0f) *token = best;
    else if (ranked) *token = draw_ranked(&w, vocab_size, max, params, random_unit(params->seed, index));
    else *token = draw_any(&w, vocab_size, max, params, random_unit(params->seed, index));
    float chosen = logits[*token] > FLT_MAX ? FLT_MAX : logits[*token]; /* NaN and -inf are never chosen */
    *logprob = (float)((double)chosen - log_total);
    return REALM_OK;
}

/* ---- parameters ---- */

static realm_status refuse(realm_error *err, const char *field, double given, const char *allowed) {
    return base_fail(err, REALM_E_INVALID_ARGUMENT, "%s is %g, but must be %s", field, given, allowed);
}

static realm_status check_biases(const realm_sampling *params, uint32_t vocab_size, realm_error *err) {
    if (params->bias_count > vocab_size) return refuse(err, "bias_count", params->bias_count, "at most the vocabulary's size");
    if (params->bias_count > 0 && (params->bias_ids == NULL || params->bias_values == NULL)) {
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "bias_count is %u, but bias_ids or bias_values is null",
                         params->bias_count);
    }
    for (uint32_t i = 0; i < params->bias_count; i++) {
        if (params->bias_ids[i] >= vocab_size) {
            return base_fail(err, REALM_E_INVALID_ARGUMENT, "bias_ids[%u] is %u, but the vocabulary has %u tokens", i,
                             params->bias_ids[i], vocab_size);
        }
        if (!(params->bias_values[i] <= FLT_MAX)) { /* NaN or +inf */
            return base_fail(err, REALM_E_INVALID_ARGUMENT, "bias_values[%u] is %g, but must be finite or -inf", i,
                             (double)params->bias_values[i]);
        }
    }
    return REALM_OK;
}

/* Conditions are written so that NaN fails them. */
realm_status sample_check(const realm_sampling *params, uint32_t vocab_size, realm_error *err) {
    const realm_sampling *p = params;
    if (vocab_size == 0) return refuse(err, "vocab_size", vocab_size, "at least 1");
    if (!(p->temperature >= 0 && p->temperature <= FLT_MAX)) {
        return refuse(err, "temperature", p->temperature, "0 (greedy) or a finite number above 0");
    }
    if (!(p->top_p > 0 && p->top_p <= 1)) return refuse(err, "top_p", p->top_p, "above 0 and at most 1 (1: off)");
    if (!(p->min_p >= 0 && p->min_p <= 1)) return refuse(err, "min_p", p->min_p, "from 0 (off) to 1");
    if (!(p->repetition_penalty > 0 && p->repetition_penalty <= FLT_MAX)) {
        return refuse(err, "repetition_penalty", p->repetition_penalty, "a finite number above 0 (1: off)");
    }
    if (!(p->frequency_penalty >= -2 && p->frequency_penalty <= 2)) {
        return refuse(err, "frequency_penalty", p->frequency_penalty, "from -2 to 2 (0: off)");
    }
    if (!(p->presence_penalty >= -2 && p->presence_penalty <= 2)) {
        return refuse(err, "presence_penalty", p->presence_penalty, "from -2 to 2 (0: off)");
    }
    return check_biases(params, vocab_size, err);
}

/* ---- scratch ---- */

void sample_scratch_free(sample_scratch *scratch) {
    free(scratch->memory);
    *scratch = (sample_scratch){0};
}

static realm_status work_open(sample_scratch *scratch, uint32_t n, work *out, realm_error *err) {
    uint64_t needed = (uint64_t)n * (2 * sizeof(float) + sizeof(candidate));
    if (needed > SIZE_MAX) return base_fail_memory(err, "sampling", needed);
    if (scratch->bytes < needed) {
        sample_scratch_free(scratch);
        scratch->memory = malloc((size_t)needed);
        if (scratch->memory == NULL) return base_fail_memory(err, "sampling", needed);
        scratch->bytes = (size_t)needed;
    }
    out->x = scratch->memory;
    out->weights = out->x + n;
    out->ranked = (candidate *)(void *)(out->weights + n);
    return REALM_OK;
}

/* ---- weights: exp from + - * / alone ---- */

/* e^y for y <= 0, relative error below 3e-7; 0 below -87, where float runs out of normal numbers.
 * y = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor series to r^7, 2^n by its exponent bits. */
static inline float exp_weight(float y) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    float clamped = y < -87.0f ? -87.0f : y;
    float shifted = clamped * 1.44269504f + round;
    float n = shifted - round;
    float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f; /* ln 2 in two parts, the first exact times n */
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    int32_t shifted_bits, power_bits;
    memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    power_bits = (shifted_bits - 0x4b400000 + 127) * (1 << 23); /* 0x4b400000: the bits of `round` */
    float power;
    memcpy(&power, &power_bits, sizeof power);
    return y < -87.0f ? 0.0f : e * power;
}

/* out[i] = exp((x[i] - max) / temperature), returns their sum. out may not be x. */
static double weigh(const float *restrict x, uint32_t n, float max, float temperature, float *restrict out) {
    double lanes[SUM_LANES] = {0};
    uint32_t whole = n - n % SUM_LANES;
    for (uint32_t i = 0; i < n; i++) out[i] = exp_weight((x[i] - max) / temperature);
    for (uint32_t i = 0; i < whole; i += SUM_LANES) {
        for (uint32_t lane = 0; lane < SUM_LANES; lane++) lanes[lane] += (double)out[i + lane];
    }
    double sum = 0;
    for (uint32_t lane = 0; lane < SUM_LANES; lane++) sum += lanes[lane];
    for (uint32_t i = whole; i < n; i++) sum += (double)out[i];
    return sum;
}

/* In blocks, so that no array of weights is needed. */
static double log_sum_exp(const float *x, uint32_t n, float max) {
    float block[256];
    double sum = 0;
    for (uint32_t i = 0; i < n; i += 256) sum += weigh(x + i, n - i < 256 ? n - i : 256, max, 1.0f, block);
    return (double)max + log(sum);
}

/* ---- steps 1 to 3 ---- */

/* NaN -> -inf; +inf -> the largest float, so that differences stay defined. Returns the maximum. */
static float copy_sanitised(const float *logits, uint32_t n, float *x) {
    float lanes[SUM_LANES];
    for (uint32_t lane = 0; lane < SUM_LANES; lane++) lanes[lane] = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        float v = logits[i] > FLT_MAX ? FLT_MAX : logits[i];
        x[i] = v >= -FLT_MAX ? v : -INFINITY;
    }
    uint32_t whole = n - n % SUM_LANES;
    for (uint32_t i = 0; i < whole; i += SUM_LANES) {
        for (uint32_t lane = 0; lane < SUM_LANES; lane++) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    }
    float max = -INFINITY;
    for (uint32_t lane = 0; lane < SUM_LANES; lane++) max = lanes[lane] > max ? lanes[lane] : max;
    for (uint32_t i = whole; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* Back to float: what overflows stays ordered and finite, -inf stays banned. */
static float narrow(double v) {
    if (v > FLT_MAX) return FLT_MAX;
    return v == -INFINITY ? -INFINITY : v < -FLT_MAX ? -FLT_MAX : (float)v;
}

static void add_biases(float *x, const realm_sampling *params) {
    for (uint32_t i = 0; i < params->bias_count; i++) {
        float *v = &x[params->bias_ids[i]];
        *v = narrow((double)*v + (double)params->bias_values[i]);
    }
}

static float penalised(float x, uint32_t count, const realm_sampling *params) {
    double v = x, repetition = params->repetition_penalty;
    v = v > 0 ? v / repetition : v * repetition;
    return narrow(v - (count * (double)params->frequency_penalty + (double)params->presence_penalty));
}

static void penalise(float *x, uint32_t n, const uint32_t *history, uint32_t history_count, const realm_sampling *params,
                     uint32_t *counts) {
    if (params->repetition_penalty == 1.0f && params->frequency_penalty == 0.0f && params->presence_penalty == 0.0f) return;
    uint32_t window = params->penalty_window > 0 ? params->penalty_window : PENALTY_WINDOW_DEFAULT;
    const uint32_t *end = history + history_count, *start = history_count > window ? end - window : history;
    /* counts is uninitialised and stays so but for the tokens seen: the cost depends on the window alone */
    for (const uint32_t *id = start; id < end; id++) if (*id < n) counts[*id] = 0;
    for (const uint32_t *id = start; id < end; id++) if (*id < n) counts[*id]++;
    for (const uint32_t *id = start; id < end; id++) {
        if (*id >= n || counts[*id] == 0) continue;
        x[*id] = penalised(x[*id], counts[*id], params);
        counts[*id] = 0;
    }
}

/* ---- steps 4 to 8 ---- */

static uint32_t largest(const float *x, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++) if (x[i] > x[best]) best = i;
    return best;
}

/* Steps 4, 7 and 8 where no ranking is needed: candidates are walked by id. */
static uint32_t draw_any(const work *w, uint32_t n, float max, const realm_sampling *params, double random) {
    float *weights = w->weights;
    double total = weigh(w->x, n, max, params->temperature, weights);
    if (params->min_p > 0) {
        total = 0;
        for (uint32_t i = 0; i < n; i++) {
            if (weights[i] < params->min_p) weights[i] = 0;
            total += (double)weights[i];
        }
    }
    double sum = 0, target = random * total;
    uint32_t last = 0; /* rounding may leave the target beyond the sum: then the last that has any weight */
    for (uint32_t i = 0; i < n; i++) {
        if (weights[i] == 0) continue;
        sum += (double)weights[i];
        last = i;
        if (sum > target) break;
    }
    return last;
}

static bool ranks_before(candidate a, candidate b) { return a.x > b.x || (a.x == b.x && a.id < b.id); }

/* Heap with the last of the ranking at the root. */
static void sift_down(candidate *heap, uint32_t count, uint32_t at) {
    candidate moved = heap[at];
    for (uint64_t child; (child = 2 * (uint64_t)at + 1) < count; at = (uint32_t)child) {
        if (child + 1 < count && ranks_before(heap[child], heap[child + 1])) child++;
        if (!ranks_before(moved, heap[child])) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static void heapify(candidate *heap, uint32_t count) {
    for (uint32_t i = count / 2; i-- > 0;) sift_down(heap, count, i);
}

/* The heap's entries, first of the ranking first: the worst goes to the end, again and again. */
static void sort_heap(candidate *heap, uint32_t count) {
    for (uint32_t left = count; left > 1; left--) {
        candidate worst = heap[0];
        heap[0] = heap[left - 1];
        heap[left - 1] = worst;
        sift_down(heap, left - 1, 0);
    }
}

/* The k first of the ranking, sorted. One pass with a heap of k: most tokens fail the comparison with its root. */
static uint32_t rank_top_k(const float *x, uint32_t n, uint32_t k, candidate *out) {
    for (uint32_t i = 0; i < k; i++) out[i] = (candidate){x[i], i};
    heapify(out, k);
    for (uint32_t i = k; i < n; i++) {
        if (!(x[i] > out[0].x)) continue; /* on equality the lower id, already inside, stays */
        out[0] = (candidate){x[i], i};
        sift_down(out, k, 0);
    }
    sort_heap(out, k);
    return k;
}

/* All tokens that can be among those reaching `top_p` of `total`, sorted: tokens lighter than (1 - p) * total / n weigh less
 * than (1 - p) * total together, so without them p is reached. Half of that bound leaves room for rounding. */
static uint32_t rank_heavy(const work *w, uint32_t n, double total, double top_p) {
    double least = 0.5 * (1.0 - top_p) * total / n;
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        if ((double)w->weights[i] >= least) w->ranked[count++] = (candidate){w->x[i], i};
    }
    heapify(w->ranked, count);
    sort_heap(w->ranked, count);
    return count;
}

/* Steps 4 to 8: candidates are walked from the largest down. */
static uint32_t draw_ranked(const work *w, uint32_t n, float max, const realm_sampling *params, double random) {
    uint32_t count;
    double total = 0;
    if (params->top_k > 0 && params->top_k < n) {
        count = rank_top_k(w->x, n, params->top_k, w->ranked);
    } else {
        total = weigh(w->x, n, max, params->temperature, w->weights);
        count = rank_heavy(w, n, total, params->top_p);
    }
    for (uint32_t i = 0; i < count; i++) w->weights[i] = exp_weight((w->ranked[i].x - max) / params->temperature);
    if (total == 0) {
        for (uint32_t i = 0; i < count; i++) total += (double)w->weights[i];
    }

    uint32_t kept = 0;
    double sum = 0, enough = (double)params->top_p * total;
    while (kept < count && (kept == 0 || (w->weights[kept] >= params->min_p && w->weights[kept] > 0))) {
        sum += (double)w->weights[kept++];
        if (params->top_p < 1.0f && sum >= enough) break;
    }
    double target = random * sum, walked = 0;
    for (uint32_t i = 0; i < kept; i++) {
        walked += (double)w->weights[i];
        if (walked > target) return w->ranked[i].id;
    }
    return w->ranked[kept - 1].id; /* random * sum was rounded up to sum */
}

/* ---- randomness ---- */

/* splitmix64's output function (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The index-th number of [0, 1) of a seed, in steps of 2^-53. The seed is mixed first, so that neighbouring seeds do not
 * give shifted copies of one sequence. */
static double random_unit(uint64_t seed, uint64_t index) {
    uint64_t bits = mix(mix(seed + 0x9e3779b97f4a7c15u) + (index + 1) * 0x9e3779b97f4a7c15u);
    return (double)(bits >> 11) * 0x1p-53;
}
