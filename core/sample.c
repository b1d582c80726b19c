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
 * Equal x are ranked by id, the lower first. NaN counts as -inf. So what 5 to 7 keep is always a prefix of one ranking,
 * found without sorting, and each step is a pass over the candidates, by id, that sets the weights of what it drops to 0.
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
#define CHUNK 64    /* logits under one maximum, see gather */

typedef struct work { /* the scratch memory, cut up; each (vocab_size,) */
    float *x;         /* the logits, sanitised, then adjusted by steps 1 to 3; from step 4 on the candidates' */
    union {
        uint32_t *counts; /* step 2 */
        float *maxima;    /* gather */
        float *weights;   /* of the candidates */
    };
    uint32_t *ids; /* of the candidates, ascending */
    uint32_t candidates;
} work;

static realm_status work_open(sample_scratch *scratch, uint32_t n, work *out, realm_error *err);
static void copy_sanitised(const float *logits, uint32_t n, float *x);
static void add_biases(float *x, const realm_sampling *params);
static void penalise(float *x, uint32_t n, const uint32_t *history, uint32_t history_count, const realm_sampling *params,
                     uint32_t *counts);
static float largest(const float *x, uint32_t n);
static uint32_t first_of(const float *x, float value);
static void gather(work *w, uint32_t n, uint32_t top_k);
static void filter(const work *w, float max, const realm_sampling *params);
static uint32_t draw(const work *w, double random);
static double random_unit(uint64_t seed, uint64_t index);

realm_status sample_token(const float *logits, uint32_t vocab_size, const uint32_t *history, uint32_t history_count,
                          const realm_sampling *params, uint64_t index, const uint32_t *banned, uint32_t banned_count,
                          sample_scratch *scratch, uint32_t *token, float *logprob, realm_error *err) {
    return sample_token_knowing(logits, vocab_size, sample_log_total(logits, vocab_size), history, history_count, params, index,
                                banned, banned_count, scratch, token, logprob, err);
}

realm_status sample_token_knowing(const float *logits, uint32_t vocab_size, double log_total, const uint32_t *history,
                                  uint32_t history_count, const realm_sampling *params, uint64_t index, const uint32_t *banned,
                                  uint32_t banned_count, sample_scratch *scratch, uint32_t *token, float *logprob,
                                  realm_error *err) {
    work w = {0};
    realm_status status = work_open(scratch, vocab_size, &w, err);
    if (status != REALM_OK) return status;
    copy_sanitised(logits, vocab_size, w.x);
    float max = largest(w.x, vocab_size);
    if (max == -INFINITY) return base_fail(err, REALM_E_INVALID_MODEL, "the model gave no finite logit to sample from");

    add_biases(w.x, params);
    penalise(w.x, vocab_size, history, history_count, params, w.counts);
    for (uint32_t i = 0; i < banned_count; i++) {
        if (banned[i] < vocab_size) w.x[banned[i]] = -INFINITY;
    }
    max = largest(w.x, vocab_size);
    if (max == -INFINITY) return base_fail(err, REALM_E_INVALID_ARGUMENT, "every token is banned: nothing can be sampled");

    if (params->temperature == 0.0f) {
        *token = first_of(w.x, max);
    } else {
        gather(&w, vocab_size, params->top_k);
        filter(&w, max, params);
        *token = draw(&w, random_unit(params->seed, index));
    }
    float chosen = logits[*token] > FLT_MAX ? FLT_MAX : logits[*token]; /* NaN and -inf are never chosen */
    *logprob = (float)((double)chosen - log_total);
    return REALM_OK;
}

static float sane(float logit) { return logit != logit ? -INFINITY : logit > FLT_MAX ? FLT_MAX : logit; }

void sample_likeliest(const float *logits, uint32_t vocab_size, double log_total, realm_token *out, uint32_t count) {
    uint32_t there = 0;
    for (uint32_t id = 0; id < vocab_size && count > 0; id++) {
        float logit = sane(logits[id]);
        if (there == count && !(logit > out[count - 1].logprob)) continue;
        uint32_t at = there < count ? there++ : count - 1;
        for (; at > 0 && logit > out[at - 1].logprob; at--) out[at] = out[at - 1];
        out[at] = (realm_token){.id = id, .logprob = logit};
    }
    for (uint32_t i = 0; i < there; i++) out[i].logprob = (float)((double)out[i].logprob - log_total);
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
    base_free_wiped(scratch->memory, scratch->bytes);
    *scratch = (sample_scratch){0};
}

realm_status sample_scratch_reserve(sample_scratch *scratch, uint32_t vocab_size, realm_error *err) {
    uint64_t needed = (uint64_t)vocab_size * (2 * sizeof(float) + sizeof(uint32_t));
    if (needed > SIZE_MAX) return base_fail_memory(err, "sampling", needed);
    if (scratch->bytes >= needed) return REALM_OK;
    sample_scratch_free(scratch);
    scratch->memory = malloc((size_t)needed);
    if (scratch->memory == NULL) return base_fail_memory(err, "sampling", needed);
    scratch->bytes = (size_t)needed;
    return REALM_OK;
}

static realm_status work_open(sample_scratch *scratch, uint32_t n, work *out, realm_error *err) {
    realm_status status = sample_scratch_reserve(scratch, n, err);
    if (status != REALM_OK) return status;
    out->x = scratch->memory;
    out->weights = out->x + n;
    out->ids = (uint32_t *)(void *)(out->weights + n);
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
    uint32_t shifted_bits, power_bits; /* unsigned: logits that are no numbers come through here, too */
    memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    power_bits = (shifted_bits - 0x4b400000u + 127u) << 23; /* 0x4b400000: the bits of `round` */
    float power;
    memcpy(&power, &power_bits, sizeof power);
    return y < -87.0f ? 0.0f : e * power;
}

/* In SUM_LANES interleaved partial sums. */
static double sum_of(const float *weights, uint32_t n) {
    double lanes[SUM_LANES] = {0}, sum = 0;
    uint32_t whole = n - n % SUM_LANES;
    for (uint32_t i = 0; i < whole; i += SUM_LANES) {
        for (uint32_t lane = 0; lane < SUM_LANES; lane++) lanes[lane] += (double)weights[i + lane];
    }
    for (uint32_t lane = 0; lane < SUM_LANES; lane++) sum += lanes[lane];
    for (uint32_t i = whole; i < n; i++) sum += (double)weights[i];
    return sum;
}

/* out[i] = exp((x[i] - max) * sharpness) */
static void weigh(const float *restrict x, uint32_t n, float max, float sharpness, float *restrict out) {
    for (uint32_t i = 0; i < n; i++) out[i] = exp_weight((x[i] - max) * sharpness);
}

/* ---- steps 1 to 3 ---- */

/* NaN -> -inf; +inf -> the largest float, so that differences stay defined. */
static void copy_sanitised(const float *restrict logits, uint32_t n, float *restrict x) {
    for (uint32_t i = 0; i < n; i++) {
        float v = logits[i] > FLT_MAX ? FLT_MAX : logits[i];
        x[i] = v >= -FLT_MAX ? v : -INFINITY;
    }
}

static float largest(const float *x, uint32_t n) {
    float lanes[SUM_LANES], max = -INFINITY;
    uint32_t whole = n - n % SUM_LANES;
    for (uint32_t lane = 0; lane < SUM_LANES; lane++) lanes[lane] = -INFINITY;
    for (uint32_t i = 0; i < whole; i += SUM_LANES) {
        for (uint32_t lane = 0; lane < SUM_LANES; lane++) lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    }
    for (uint32_t lane = 0; lane < SUM_LANES; lane++) max = lanes[lane] > max ? lanes[lane] : max;
    for (uint32_t i = whole; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* In blocks, so that no array of weights is needed. */
double sample_log_total(const float *logits, uint32_t n) {
    enum { BLOCK = 256 };
    float block[BLOCK], max = -INFINITY;
    double sum = 0;
    for (uint32_t i = 0; i < n; i += BLOCK) {
        uint32_t count = n - i < BLOCK ? n - i : BLOCK;
        copy_sanitised(logits + i, count, block);
        float most = largest(block, count);
        if (most > max) max = most;
    }
    for (uint32_t i = 0; i < n; i += BLOCK) {
        float weights[BLOCK];
        uint32_t count = n - i < BLOCK ? n - i : BLOCK;
        copy_sanitised(logits + i, count, block);
        weigh(block, count, max, 1.0f, weights);
        sum += sum_of(weights, count);
    }
    return (double)max + log(sum);
}

static uint32_t first_of(const float *x, float value) {
    uint32_t i = 0;
    while (x[i] != value) i++; /* value came from x */
    return i;
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

/* Unsigned integers in the order of the floats; both zeros are one. */
static inline uint32_t order_key(float x) {
    float v = x + 0.0f;
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* The key at which the prefix of the ranking that holds *enough ends; *enough becomes what is still to come from those of that
 * key. Each x counts its weight (none: it is not there), or 1 where weights is NULL. Radix selection: the keys' bits from the
 * top in three rounds; each sums into bins what agrees with the bits known so far and walks the bins from the highest. Linear,
 * whatever the logits are. */
static uint32_t find_cut(const float *x, const float *weights, uint32_t n, double *enough) {
    static const uint32_t shifts[] = {21, 10, 0}, last_bins[] = {2047, 2047, 1023};
    uint32_t known = 0, mask = 0;
    for (uint32_t round = 0; round < 3; round++) {
        double bins[2048] = {0};
        for (uint32_t i = 0; i < n; i++) {
            uint32_t key = order_key(x[i]);
            if ((key & mask) == known) bins[(key >> shifts[round]) & last_bins[round]] += weights ? (double)weights[i] : 1.0;
        }
        uint32_t bin = last_bins[round], lowest = bin;
        for (; bin > 0 && bins[bin] < *enough; bin--) {
            if (bins[bin] > 0) lowest = bin;
            *enough -= bins[bin];
        }
        if (bins[bin] == 0) { /* there is less than enough: all stays, to the last key in use */
            bin = lowest;
            *enough = INFINITY;
        }
        known |= bin << shifts[round];
        mask |= last_bins[round] << shifts[round];
    }
    return known;
}

/* Moves the candidates to the front of w->x: all that are not banned or, for top-k, those that can be among the k largest.
 * Each of the k chunks with the largest maxima has an x of at least the k-th maximum: what is smaller ranks behind k others. */
static void gather(work *w, uint32_t n, uint32_t top_k) {
    uint32_t chunks = n / CHUNK, least = order_key(-FLT_MAX);
    if (top_k == 0 || top_k > chunks) chunks = 0;
    for (uint32_t c = 0; c < chunks; c++) w->maxima[c] = largest(w->x + c * CHUNK, CHUNK);
    double enough = top_k;
    uint32_t bound = chunks > 0 ? find_cut(w->maxima, NULL, chunks, &enough) : 0;
    if (bound > least) least = bound;
    w->candidates = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i % CHUNK == 0 && i / CHUNK < chunks && order_key(w->maxima[i / CHUNK]) < least) {
            i += CHUNK - 1;
            continue;
        }
        if (order_key(w->x[i]) < least) continue;
        w->ids[w->candidates] = i;
        w->x[w->candidates++] = w->x[i];
    }
}

/* Keeps the shortest prefix of the ranking that holds `enough` weight, or `enough` candidates. */
static void keep_first(const work *w, bool by_weight, double enough) {
    uint32_t cut = find_cut(w->x, by_weight ? w->weights : NULL, w->candidates, &enough);
    for (uint32_t i = 0; i < w->candidates; i++) {
        uint32_t key = order_key(w->x[i]);
        bool tied = key == cut && enough > 0;
        if (tied) enough -= by_weight ? (double)w->weights[i] : 1.0;
        w->weights[i] = key > cut || tied ? w->weights[i] : 0.0f;
    }
}

static void filter(const work *w, float max, const realm_sampling *params) {
    float sharpness = 1.0f / params->temperature;
    if (!(sharpness < FLT_MAX)) sharpness = FLT_MAX; /* 0 * inf would be NaN */
    weigh(w->x, w->candidates, max, sharpness, w->weights);
    if (params->top_k > 0) keep_first(w, false, params->top_k);
    if (params->top_p < 1) keep_first(w, true, (double)params->top_p * sum_of(w->weights, w->candidates));
    if (params->min_p > 0) { /* the largest weighs exp(0) = 1 */
        for (uint32_t i = 0; i < w->candidates; i++) {
            w->weights[i] = w->weights[i] < params->min_p ? 0.0f : w->weights[i];
        }
    }
}

static uint32_t draw(const work *w, double random) {
    double target = random * sum_of(w->weights, w->candidates), walked = 0;
    uint32_t last = 0; /* rounding may leave the target beyond the sum: then the last that has any weight */
    for (uint32_t i = 0; i < w->candidates && walked <= target; i++) {
        if (w->weights[i] == 0) continue;
        walked += (double)w->weights[i];
        last = i;
    }
    return w->ids[last];
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
