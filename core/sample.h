/* sample.h: logits -> one token. Pure functions of (logits, history, parameters, seed, index): the same token on every host.
 * Order: bias, penalties, then greedy or temperature, top-k, top-p, min-p, one draw. Randomness is counter-based
 * (seed, index), so no generator state is kept. */
#ifndef REALM_SAMPLE_H
#define REALM_SAMPLE_H

#include "base.h"

/* Scratch that sampling needs, reused between calls; grows on demand. Zero-initialise. */
typedef struct sample_scratch {
    void *memory;
    size_t bytes;
} sample_scratch;
void sample_scratch_free(sample_scratch *scratch);
/* Makes it large enough beforehand, so that sample_token does not allocate. */
realm_status sample_scratch_reserve(sample_scratch *scratch, uint32_t vocab_size, realm_error *err);

/* Checks every field's range; the message names the field, what was given and what is allowed. */
realm_status sample_check(const realm_sampling *params, uint32_t vocab_size, realm_error *err);

/* logits (vocab_size,), unmodified on return. history: the session's tokens, oldest first. index: how many samples this
 * session has drawn before. banned: ids that may not be drawn (end tokens with ignore_end), may be NULL.
 * *logprob is the log softmax of the unmodified logits at the chosen token. */
realm_status sample_token(const float *logits, uint32_t vocab_size, const uint32_t *history, uint32_t history_count,
                          const realm_sampling *params, uint64_t index, const uint32_t *banned, uint32_t banned_count,
                          sample_scratch *scratch, uint32_t *token, float *logprob, realm_error *err);

/* log(sum(exp(logits))), of which the log softmax is made; NaN counts as -inf. Does not depend on the parameters, so that it can be
 * computed by another thread before. */
double sample_log_total(const float *logits, uint32_t vocab_size);
realm_status sample_token_knowing(const float *logits, uint32_t vocab_size, double log_total, const uint32_t *history,
                                  uint32_t history_count, const realm_sampling *params, uint64_t index, const uint32_t *banned,
                                  uint32_t banned_count, sample_scratch *scratch, uint32_t *token, float *logprob,
                                  realm_error *err);

/* The count <= vocab_size largest logits with their log softmax (is_end is 0): the largest first, of equal ones the lower id.
 * NaN counts as -inf. For small counts: the time is vocab_size * count at worst. */
void sample_likeliest(const float *logits, uint32_t vocab_size, double log_total, realm_token *out, uint32_t count);

#endif
