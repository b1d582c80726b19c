/* plan.c: the architecture table and what all plans share: hyper-parameters, weights by name, rope frequencies, checks.
 * plan_decoder.c emits the ops; each plan_<architecture>.c only says what is special about it. */
#include "plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "blocks.h"

typedef struct architecture {
    const char *name;
    void (*build)(plan_builder *b);
    bool rope_neox;
} architecture;

static const architecture architectures[] = {
    {"llama", plan_build_llama, false},
    {"qwen2", plan_build_qwen2, true},
    {"gemma2", plan_build_gemma2, true},
};

/* Caps that no real model comes near; they bound memory and keep 32-bit products safe. */
enum { MAX_LAYERS = 1024, MAX_WIDTH = 1 << 20, MAX_HEADS = 4096, MAX_HEAD_DIM = 1024, MAX_CONTEXT = 1 << 24 };

/* ---- builder: failures, metadata ---------------------------------------------------------------------------------- */

void plan_fail(plan_builder *b, realm_status code, const char *message) {
    if (b->status == REALM_OK) b->status = base_fail(b->err, code, "%s", message);
}

static void key_name(const plan_builder *b, const char *suffix, char *out, size_t cap) {
    snprintf(out, cap, "%.*s.%s", (int)b->arch.size, b->arch.data, suffix);
}

void plan_key_u32(plan_builder *b, const char *suffix, uint32_t *out) {
    char key[160];
    if (b->status != REALM_OK) return;
    key_name(b, suffix, key, sizeof key);
    b->status = gguf_read_u32(b->file, key, out, b->err);
}

void plan_key_f32(plan_builder *b, const char *suffix, float *out) {
    char key[160];
    if (b->status != REALM_OK) return;
    key_name(b, suffix, key, sizeof key);
    b->status = gguf_read_f32(b->file, key, out, b->err);
}

/* A required size within [1, max]. */
static uint32_t key_size(plan_builder *b, const char *suffix, uint32_t fallback, uint32_t max) {
    uint32_t value = fallback;
    plan_key_u32(b, suffix, &value);
    if (b->status == REALM_OK && (value == 0 || value > max)) {
        b->status = base_fail(b->err, REALM_E_INVALID_MODEL, "metadata %.*s.%s is %s: it must be in [1, %u]", (int)b->arch.size,
                              b->arch.data, suffix, value == 0 ? "missing or 0" : "too large", max);
    }
    return value;
}

/* ---- weights ------------------------------------------------------------------------------------------------------- */

static realm_status check_weight(plan_builder *b, const gguf_tensor *t, uint32_t rows, uint32_t cols) {
    const block_type *type = block_type_of(t->type);
    int size = (int)t->name.size;
    if (type == NULL || !type->computable) {
        return base_fail(b->err, REALM_E_UNSUPPORTED_TENSOR_TYPE,
                         "unsupported tensor type %s (id %u) of tensor \"%.*s\": convert the file to Q8_0, Q4_K, Q5_K, Q6_K, "
                         "Q4_0, F16, BF16 or F32", type == NULL ? "unknown" : type->name, t->type, size, t->name.data);
    }
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1) {
        return base_fail(b->err, REALM_E_INVALID_MODEL,
                         "tensor \"%.*s\" has shape (%llu, %llu, %llu, %llu), the metadata asks for (%u, %u)", size, t->name.data,
                         (unsigned long long)t->dims[0], (unsigned long long)t->dims[1], (unsigned long long)t->dims[2],
                         (unsigned long long)t->dims[3], cols, rows);
    }
    if (rows == 1 && t->type != BLOCK_F32) {
        return base_fail(b->err, REALM_E_INVALID_MODEL, "tensor \"%.*s\" is %s: norms and biases must be F32", size,
                         t->name.data, type->name);
    }
    if ((t->offset & 3) != 0 && t->type == BLOCK_F32) {
        return base_fail(b->err, REALM_E_INVALID_MODEL, "tensor \"%.*s\" is not aligned to its elements", size, t->name.data);
    }
    return REALM_OK;
}

static uint32_t directory_index(const gguf *file, const gguf_tensor *t) {
    return (uint32_t)(t - gguf_tensor_at(file, 0));
}

/* Doubles an array of `size`-byte elements when `count` reached *capacity. */
static bool grow(void **array, uint32_t count, uint32_t *capacity, size_t size) {
    if (count < *capacity) return true;
    uint32_t wanted = *capacity == 0 ? 64 : *capacity * 2;
    void *bigger = realloc(*array, wanted * size);
    if (bigger == NULL) return false;
    *array = bigger;
    *capacity = wanted;
    return true;
}

uint32_t plan_weight(plan_builder *b, int layer, const char *name, uint32_t rows, uint32_t cols, bool optional) {
    char full[96];
    if (b->status != REALM_OK) return REALM_NONE;
    if (layer < 0) snprintf(full, sizeof full, "%s", name);
    else snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    const gguf_tensor *t = gguf_find_tensor(b->file, full);
    if (t == NULL) {
        if (!optional) b->status = base_fail(b->err, REALM_E_INVALID_MODEL, "tensor \"%s\" is missing", full);
        return REALM_NONE;
    }
    b->status = check_weight(b, t, rows, cols);
    if (b->status != REALM_OK) return REALM_NONE;
    plan *p = b->plan;
    void *tensors = p->tensors;
    if (!grow(&tensors, p->tensor_count, &p->tensor_capacity, sizeof(plan_tensor))) {
        b->status = base_fail_memory(b->err, "the plan's tensors", sizeof(plan_tensor));
        return REALM_NONE;
    }
    p->tensors = tensors;
    const block_type *type = block_type_of(t->type);
    uint32_t index = directory_index(b->file, t);
    b->tensor_used[index] = true;
    p->tensors[p->tensor_count] = (plan_tensor){
        .offset = t->offset, .row_bytes = (uint64_t)cols / type->elements * type->bytes, .rows = rows, .cols = cols,
        .type = t->type, .directory = index};
    return p->tensor_count++;
}

void plan_emit(plan_builder *b, plan_op op) {
    plan *p = b->plan;
    void *ops = p->ops;
    if (b->status != REALM_OK) return;
    if (!grow(&ops, p->op_count, &p->op_capacity, sizeof(plan_op))) {
        b->status = base_fail_memory(b->err, "the plan's ops", sizeof(plan_op));
        return;
    }
    p->ops = ops;
    if (op.width > p->slot_width[op.dst]) p->slot_width[op.dst] = op.width;
    p->ops[p->op_count++] = op;
}

/* ---- hyper-parameters ------------------------------------------------------------------------------------------------ */

static void read_heads(plan_builder *b) {
    plan *p = b->plan;
    p->head_count = key_size(b, "attention.head_count", 0, MAX_HEADS);
    p->head_count_kv = key_size(b, "attention.head_count_kv", p->head_count, MAX_HEADS);
    if (b->status != REALM_OK) return;
    if (p->head_count_kv > p->head_count || p->head_count % p->head_count_kv != 0) {
        b->status = base_fail(b->err, REALM_E_INVALID_MODEL, "%u heads cannot share %u key/value heads evenly", p->head_count,
                              p->head_count_kv);
        return;
    }
    uint32_t even = p->embedding_length / p->head_count;
    uint32_t key = 0, value = 0;
    plan_key_u32(b, "attention.key_length", &key);
    plan_key_u32(b, "attention.value_length", &value);
    if (b->status != REALM_OK) return;
    if (key == 0) key = even;
    if (value == 0) value = key;
    if (key != value || key == 0 || key > MAX_HEAD_DIM || key % 2 != 0) {
        b->status = base_fail(b->err, REALM_E_INVALID_MODEL,
                              "attention.key_length is %u, value_length %u: they must be equal, even and at most %d", key, value,
                              MAX_HEAD_DIM);
    }
    p->head_dim = key;
}

/* Llama 3 style frequency factors come as a tensor; linear scaling as metadata. Others change the result: refused. */
static float read_rope_scale(plan_builder *b) {
    gguf_string type = {"none", 4};
    float factor = 1.0f, old_linear = 1.0f;
    char key[160];
    key_name(b, "rope.scaling.type", key, sizeof key);
    if (b->status == REALM_OK) b->status = gguf_read_string(b->file, key, &type, b->err);
    plan_key_f32(b, "rope.scaling.factor", &factor);
    plan_key_f32(b, "rope.scale_linear", &old_linear);
    if (b->status != REALM_OK) return 1.0f;
    if (gguf_string_is(type, "none")) factor = old_linear;
    else if (!gguf_string_is(type, "linear")) {
        b->status = base_fail(b->err, REALM_E_UNSUPPORTED_ARCHITECTURE, "rope scaling \"%.*s\" is not supported",
                              (int)(type.size < 40 ? type.size : 40), type.data);
    }
    if (b->status == REALM_OK && !(factor > 0.0f)) plan_fail(b, REALM_E_INVALID_MODEL, "rope.scaling.factor and rope.scale_linear must be > 0");
    return factor;
}

/* freqs[i] = base^(-2i / rotated) / linear factor / rope_freqs[i]   (RoFormer, arXiv 2104.09864; factors: Llama 3.1) */
static void read_rope(plan_builder *b) {
    plan *p = b->plan;
    uint32_t rotated = p->head_dim;
    plan_key_u32(b, "rope.dimension_count", &rotated);
    plan_key_f32(b, "rope.freq_base", &b->rope_base);
    float linear = read_rope_scale(b);
    if (b->status != REALM_OK) return;
    if (rotated == 0 || rotated > p->head_dim || rotated % 2 != 0) {
        b->status = base_fail(b->err, REALM_E_INVALID_MODEL, "rope.dimension_count is %u: it must be even, > 0 and at most the head's %u", rotated,
                              p->head_dim);
        return;
    }
    if (!(b->rope_base > 0.0f)) {
        plan_fail(b, REALM_E_INVALID_MODEL, "rope.freq_base must be > 0");
        return;
    }
    p->rope_half = rotated / 2;
    p->rope_freqs = malloc(p->rope_half * sizeof(float));
    if (p->rope_freqs == NULL) {
        b->status = base_fail_memory(b->err, "rope frequencies", p->rope_half * sizeof(float));
        return;
    }
    uint32_t factors = plan_weight(b, -1, "rope_freqs.weight", 1, p->rope_half, true);
    if (b->status != REALM_OK) return;
    const uint8_t *stored = factors == REALM_NONE ? NULL : gguf_tensor_at(b->file, p->tensors[factors].directory)->data;
    for (uint32_t i = 0; i < p->rope_half; i++) {
        double factor = stored == NULL ? 1.0 : (double)base_f32(stored + 4 * i);
        p->rope_freqs[i] = (float)(pow((double)b->rope_base, -2.0 * i / rotated) / (double)linear / factor);
        if (!(factor > 0.0 && isfinite(factor) && isfinite(p->rope_freqs[i]))) {
            plan_fail(b, REALM_E_INVALID_MODEL, "tensor \"rope_freqs.weight\" or rope.freq_base gives no finite frequency > 0");
            return;
        }
    }
}

static void refuse_experts(plan_builder *b) {
    uint32_t experts = 0;
    plan_key_u32(b, "expert_count", &experts);
    if (experts > 0) plan_fail(b, REALM_E_UNSUPPORTED_ARCHITECTURE, "mixture-of-experts models (expert_count > 0) are not supported");
}

static void read_hyper_parameters(plan_builder *b, uint32_t vocab_size) {
    plan *p = b->plan;
    p->vocab_size = vocab_size;
    p->layer_count = key_size(b, "block_count", 0, MAX_LAYERS);
    p->embedding_length = key_size(b, "embedding_length", 0, MAX_WIDTH);
    p->feed_forward_length = key_size(b, "feed_forward_length", 0, MAX_WIDTH);
    p->context_length = key_size(b, "context_length", 2048, MAX_CONTEXT);
    refuse_experts(b);
    if (b->status == REALM_OK) read_heads(b);
    b->norm_eps = 1e-5f;
    b->rope_base = 10000.0f;
    plan_key_f32(b, "attention.layer_norm_rms_epsilon", &b->norm_eps);
    if (b->status == REALM_OK && !(b->norm_eps >= 0.0f && b->norm_eps < 1.0f)) {
        plan_fail(b, REALM_E_INVALID_MODEL, "attention.layer_norm_rms_epsilon must be in [0, 1)");
    }
    if (b->status == REALM_OK) read_rope(b);
}

/* ---- whole plans ------------------------------------------------------------------------------------------------------ */

static const architecture *find_architecture(gguf_string name) {
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (gguf_string_is(name, architectures[i].name)) return &architectures[i];
    }
    return NULL;
}

/* Precomputed tables some converters leave behind; they never change the result. */
static bool harmless(gguf_string name) {
    static const char *const endings[] = {".attn_rot_embd", ".rotary_emb.inv_freq", "rope_freqs.weight"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i]);
        if (name.size >= n && memcmp(name.data + name.size - n, endings[i], n) == 0) return true;
    }
    return false;
}

static void refuse_unused_tensors(plan_builder *b) {
    for (uint64_t i = 0; b->status == REALM_OK && i < gguf_tensor_count(b->file); i++) {
        gguf_string name = gguf_tensor_at(b->file, i)->name;
        if (!b->tensor_used[i] && !harmless(name)) {
            b->status = base_fail(b->err, REALM_E_INVALID_MODEL,
                                  "tensor \"%.*s\" is not part of a %.*s model: the result would be wrong without it",
                                  (int)name.size, name.data, (int)b->arch.size, b->arch.data);
        }
    }
}

static void build(plan_builder *b, const architecture *arch, uint32_t vocab_size) {
    b->plan->rope_neox = arch->rope_neox;
    read_hyper_parameters(b, vocab_size);
    if (b->status == REALM_OK) arch->build(b);
    refuse_unused_tensors(b);
}

/* A part of a split model lacks the other parts' tensors; saying so helps more than naming the first that is missing. */
static realm_status refuse_part(const gguf *file, realm_error *err) {
    uint32_t part = 0, parts = 1;
    realm_status status = gguf_read_u32(file, "split.no", &part, err);
    if (status == REALM_OK) status = gguf_read_u32(file, "split.count", &parts, err);
    if (status != REALM_OK || parts <= 1 || parts == gguf_part_count(file)) return status;
    return base_fail(err, REALM_E_UNSUPPORTED,
                     "the file is one of %u parts of a model (split.no %u): give all of them where the host takes several, or merge them "
                     "into one file", parts, part);
}

realm_status plan_create(const gguf *file, uint32_t vocab_size, plan **out, realm_error *err) {
    plan_builder b = {.file = file, .err = err};
    *out = NULL;
    realm_status status = gguf_read_string(file, "general.architecture", &b.arch, err);
    if (status != REALM_OK) return status;
    const architecture *arch = find_architecture(b.arch);
    if (arch == NULL) {
        return base_fail(err, REALM_E_UNSUPPORTED_ARCHITECTURE,
                         "unsupported architecture \"%.*s\": supported are llama, qwen2, gemma2",
                         (int)(b.arch.size < 60 ? b.arch.size : 60), b.arch.data == NULL ? "" : b.arch.data);
    }
    status = refuse_part(file, err);
    if (status != REALM_OK) return status;
    if (gguf_tensor_count(file) == 0) return base_fail(err, REALM_E_NO_WEIGHTS, "the file holds no tensors, only a vocabulary");
    b.plan = calloc(1, sizeof *b.plan);
    b.tensor_used = calloc((size_t)gguf_tensor_count(file), sizeof *b.tensor_used);
    if (b.plan == NULL || b.tensor_used == NULL) b.status = base_fail_memory(err, "the plan", gguf_tensor_count(file));
    else build(&b, arch, vocab_size);
    free(b.tensor_used);
    if (b.status != REALM_OK) {
        plan_destroy(b.plan);
        return b.status;
    }
    *out = b.plan;
    return REALM_OK;
}

void plan_destroy(plan *p) {
    if (p == NULL) return;
    free(p->ops);
    free(p->tensors);
    free(p->rope_freqs);
    free(p);
}
