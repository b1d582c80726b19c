/* plan_decoder.c: the ops of a pre-norm decoder with rotary attention and a gated feed-forward, the frame that llama, qwen2
 * and gemma2 share. Biases appear where the file has them. Shapes: E embedding, H head_count * head_dim, F feed-forward. */
#include "plan.h"

/* dst = src @ w^T (+ bias); w is "<name>.weight" (rows, cols). */
static void emit_linear(plan_builder *b, int layer, const char *name, uint32_t rows, uint32_t cols, uint16_t dst, uint16_t src) {
    char full[64];
    size_t n = strlen(name);
    memcpy(full, name, n);
    memcpy(full + n, ".weight", 8);
    uint32_t weight = plan_weight(b, layer, full, rows, cols, false);
    plan_emit(b, (plan_op){.kind = REALM_OP_MATMUL, .layer = (uint16_t)layer, .dst = dst, .src = src, .weight = weight, .width = rows});
}

static void emit_bias(plan_builder *b, int layer, const char *name, uint32_t width, uint16_t dst) {
    uint32_t weight = plan_weight(b, layer, name, 1, width, true);
    if (weight == REALM_NONE) return;
    plan_emit(b, (plan_op){.kind = REALM_OP_BIAS, .layer = (uint16_t)layer, .dst = dst, .weight = weight, .width = width});
}

static void emit_norm(plan_builder *b, int layer, const char *name, uint16_t dst, uint16_t src) {
    uint32_t width = b->plan->embedding_length;
    uint32_t weight = plan_weight(b, layer, name, 1, width, false);
    plan_emit(b, (plan_op){.kind = REALM_OP_RMSNORM, .layer = layer < 0 ? REALM_LAYER_HEAD : (uint16_t)layer, .dst = dst, .src = src,
                           .weight = weight, .width = width, .f0 = b->norm_eps});
}

static void emit_add(plan_builder *b, int layer) {
    plan_emit(b, (plan_op){.kind = REALM_OP_ADD, .layer = (uint16_t)layer, .dst = REALM_SLOT_X, .src = REALM_SLOT_H, .weight = REALM_NONE,
                           .width = b->plan->embedding_length});
}

static void emit_rope(plan_builder *b, int layer, uint16_t slot, uint32_t heads) {
    plan_emit(b, (plan_op){.kind = REALM_OP_ROPE, .layer = (uint16_t)layer, .dst = slot, .n_head = (uint16_t)heads, .weight = REALM_NONE,
                           .width = heads * b->plan->head_dim});
}

/* h = norm(x); q, k, v = h Wq, h Wk, h Wv; rope; a = attention(q, K, V); x += [norm](a Wo) */
static void emit_attention(plan_builder *b, const plan_decoder *d, int layer) {
    const plan *p = b->plan;
    uint32_t embd = p->embedding_length, q = p->head_count * p->head_dim, kv = p->head_count_kv * p->head_dim;
    bool slides = d->window > 0 && layer % (int)d->window_every == 0;
    emit_norm(b, layer, "attn_norm.weight", REALM_SLOT_H, REALM_SLOT_X);
    emit_linear(b, layer, "attn_q", q, embd, REALM_SLOT_Q, REALM_SLOT_H);
    emit_linear(b, layer, "attn_k", kv, embd, REALM_SLOT_K, REALM_SLOT_H);
    emit_linear(b, layer, "attn_v", kv, embd, REALM_SLOT_V, REALM_SLOT_H);
    emit_bias(b, layer, "attn_q.bias", q, REALM_SLOT_Q);
    emit_bias(b, layer, "attn_k.bias", kv, REALM_SLOT_K);
    emit_bias(b, layer, "attn_v.bias", kv, REALM_SLOT_V);
    emit_rope(b, layer, REALM_SLOT_Q, p->head_count);
    emit_rope(b, layer, REALM_SLOT_K, p->head_count_kv);
    plan_emit(b, (plan_op){.kind = REALM_OP_KV_STORE, .layer = (uint16_t)layer, .dst = REALM_SLOT_K, .src = REALM_SLOT_K,
                           .src2 = REALM_SLOT_V, .weight = REALM_NONE, .width = kv});
    plan_emit(b, (plan_op){.kind = REALM_OP_ATTENTION, .layer = (uint16_t)layer, .dst = REALM_SLOT_A, .src = REALM_SLOT_Q,
                           .n_head = (uint16_t)p->head_count, .weight = REALM_NONE, .width = q,
                           .window = slides ? d->window : 0, .f0 = d->attention_scale, .f1 = d->attention_softcap});
    emit_linear(b, layer, "attn_output", embd, q, REALM_SLOT_H, REALM_SLOT_A);
    emit_bias(b, layer, "attn_output.bias", embd, REALM_SLOT_H);
    if (d->post_norms) emit_norm(b, layer, "post_attention_norm.weight", REALM_SLOT_H, REALM_SLOT_H);
    emit_add(b, layer);
}

/* h = norm(x); x += [norm]((act(h Wg) * (h Wu)) Wd) */
static void emit_feed_forward(plan_builder *b, const plan_decoder *d, int layer) {
    uint32_t embd = b->plan->embedding_length, ff = b->plan->feed_forward_length;
    emit_norm(b, layer, "ffn_norm.weight", REALM_SLOT_H, REALM_SLOT_X);
    emit_linear(b, layer, "ffn_gate", ff, embd, REALM_SLOT_G, REALM_SLOT_H);
    emit_linear(b, layer, "ffn_up", ff, embd, REALM_SLOT_U, REALM_SLOT_H);
    emit_bias(b, layer, "ffn_gate.bias", ff, REALM_SLOT_G);
    emit_bias(b, layer, "ffn_up.bias", ff, REALM_SLOT_U);
    plan_emit(b, (plan_op){.kind = d->gelu ? REALM_OP_GELU_MUL : REALM_OP_SILU_MUL, .layer = (uint16_t)layer, .dst = REALM_SLOT_G,
                           .src = REALM_SLOT_U, .weight = REALM_NONE, .width = ff});
    emit_linear(b, layer, "ffn_down", embd, ff, REALM_SLOT_H, REALM_SLOT_G);
    emit_bias(b, layer, "ffn_down.bias", embd, REALM_SLOT_H);
    if (d->post_norms) emit_norm(b, layer, "post_ffw_norm.weight", REALM_SLOT_H, REALM_SLOT_H);
    emit_add(b, layer);
}

/* The output matrix, or the embedding again where the two are tied. */
static void emit_head(plan_builder *b, const plan_decoder *d, uint32_t embedding) {
    const plan *p = b->plan;
    uint32_t embd = p->embedding_length, vocab = p->vocab_size;
    plan_emit(b, (plan_op){.kind = REALM_OP_GATHER, .layer = REALM_LAYER_HEAD, .dst = REALM_SLOT_Y, .src = REALM_SLOT_X, .weight = REALM_NONE,
                           .width = embd});
    emit_norm(b, -1, "output_norm.weight", REALM_SLOT_Y, REALM_SLOT_Y);
    uint32_t output = plan_weight(b, -1, "output.weight", vocab, embd, true);
    plan_emit(b, (plan_op){.kind = REALM_OP_MATMUL, .layer = REALM_LAYER_HEAD, .dst = REALM_SLOT_LOGITS, .src = REALM_SLOT_Y,
                           .weight = output == REALM_NONE ? embedding : output, .width = vocab});
    if (d->final_softcap > 0.0f) {
        plan_emit(b, (plan_op){.kind = REALM_OP_SOFTCAP, .layer = REALM_LAYER_HEAD, .dst = REALM_SLOT_LOGITS, .src = REALM_SLOT_LOGITS,
                               .weight = REALM_NONE, .width = vocab, .f0 = d->final_softcap});
    }
}

void plan_emit_decoder(plan_builder *b, const plan_decoder *d) {
    const plan *p = b->plan;
    uint32_t embd = p->embedding_length;
    uint32_t embedding = plan_weight(b, -1, "token_embd.weight", p->vocab_size, embd, false);
    plan_emit(b, (plan_op){.kind = REALM_OP_EMBED, .dst = REALM_SLOT_X, .weight = embedding, .width = embd});
    if (d->embedding_scale != 1.0f) {
        plan_emit(b, (plan_op){.kind = REALM_OP_SCALE, .dst = REALM_SLOT_X, .src = REALM_SLOT_X, .weight = REALM_NONE, .width = embd,
                               .f0 = d->embedding_scale});
    }
    for (int layer = 0; layer < (int)p->layer_count && b->status == REALM_OK; layer++) {
        emit_attention(b, d, layer);
        emit_feed_forward(b, d, layer);
    }
    emit_head(b, d, embedding);
}
