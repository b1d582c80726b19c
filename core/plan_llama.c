/* plan_llama.c: Llama 1-3, TinyLlama, Mistral, SmolLM (arXiv 2302.13971): SwiGLU, RMSNorm, interleaved rotary pairs. */
#include <math.h>

#include "plan.h"

void plan_build_llama(plan_builder *b) {
    plan_decoder d = {.embedding_scale = 1.0f, .attention_scale = 1.0f / sqrtf((float)b->plan->head_dim), .window_every = 1};
    plan_emit_decoder(b, &d);
}
