/* plan_gemma2.c: Gemma 2 (arXiv 2408.00118): GeGLU, norms before and after each block, soft-capped scores and logits,
 * embeddings scaled by sqrt(width), every other layer slides. The file stores norms with the 1 already added. */
#include <math.h>

#include "plan.h"

enum { LAYERS_OF_27B = 46 }; /* the one size whose queries are scaled by width / heads instead of head_dim */

void plan_build_gemma2(plan_builder *b) {
    const plan *p = b->plan;
    plan_decoder d = {.gelu = true, .post_norms = true, .embedding_scale = sqrtf((float)p->embedding_length),
                      .attention_softcap = 50.0f, .final_softcap = 30.0f, .window = 4096, .window_every = 2};
    plan_key_f32(b, "attn_logit_softcapping", &d.attention_softcap);
    plan_key_f32(b, "final_logit_softcapping", &d.final_softcap);
    plan_key_u32(b, "attention.sliding_window", &d.window);
    if (d.attention_softcap < 0.0f || d.final_softcap < 0.0f) {
        plan_fail(b, REALM_E_INVALID_MODEL, "attn_logit_softcapping and final_logit_softcapping must not be negative");
    }
    uint32_t query = p->layer_count == LAYERS_OF_27B ? p->embedding_length / p->head_count : p->head_dim;
    d.attention_scale = 1.0f / sqrtf((float)query);
    plan_emit_decoder(b, &d);
}
