/* plan_qwen2.c: Qwen 2 and 2.5 (arXiv 2407.10671): llama's frame with biases on q, k, v and half-split rotary pairs. */
#include <math.h>

#include "plan.h"

void plan_build_qwen2(plan_builder *b) {
    plan_decoder d = {.embedding_scale = 1.0f, .attention_scale = 1.0f / sqrtf((float)b->plan->head_dim), .window_every = 1};
    plan_emit_decoder(b, &d);
}
