/* activations.c: see activations.h. */
#include "activations.h"

enum {
    ALIGNMENT = 64,
    SLACK = 64,             /* behind every array: vectors may be read past its end */
    SMALL_STEPS = 32,       /* so many that need little, and a prompt is not likely to follow at once */
};
static const uint64_t KEPT_BYTES = (uint64_t)2 << 20; /* a large page: what is smaller is not worth a fault */

static uint64_t padded(uint64_t bytes) { return (bytes + SLACK + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static bool is_gathered(uint32_t slot) { return slot == REALM_SLOT_Y || slot == REALM_SLOT_LOGITS; }

/* Products of the head have as many rows as there are wanted logits, and fewer rows may be prepared otherwise. */
static uint64_t prepared_bytes(const activations *a, uint32_t rows, uint32_t outs) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < a->plan->op_count; i++) {
        const plan_op *op = &a->plan->ops[i];
        if (op->kind != REALM_OP_MATMUL) continue;
        const plan_tensor *w = &a->plan->tensors[op->weight];
        uint64_t size = a->ops->matmul[w->type].prepared_size(rows, w->cols);
        uint64_t of_head = op->layer == REALM_LAYER_HEAD ? a->ops->matmul[w->type].prepared_size(outs, w->cols) : 0;
        if (size > most) most = size;
        if (of_head > most) most = of_head;
    }
    return most;
}

/* Puts slots [first, end) behind each other from `at` on; returns where they end. */
static uint64_t place_slots(activations *a, uint32_t first, uint32_t end, uint64_t at) {
    for (uint32_t slot = first; slot < end; slot++) {
        a->slots[slot] = a->memory == NULL ? NULL : (float *)(void *)(a->memory + at);
        at += padded((uint64_t)(is_gathered(slot) ? a->outs : a->rows) * a->plan->slot_width[slot] * sizeof(float));
    }
    return at;
}

/* Returns the bytes of all. What attention works with is done with when the feed-forward begins: both take the same room. The
 * logits come last: a prompt wants few, and the pages behind them stay untouched. */
static uint64_t lay_out(activations *a, uint32_t rows, uint32_t outs) {
    a->rows = rows;
    a->outs = outs;
    a->prepared = a->memory;
    uint64_t shared = place_slots(a, REALM_SLOT_X, REALM_SLOT_Q, padded(prepared_bytes(a, rows, outs)));
    uint64_t attention = place_slots(a, REALM_SLOT_Q, REALM_SLOT_G, shared);
    uint64_t feed_forward = place_slots(a, REALM_SLOT_G, REALM_SLOT_Y, shared);
    return place_slots(a, REALM_SLOT_Y, REALM_SLOT_COUNT, attention > feed_forward ? attention : feed_forward);
}

bool activations_create(activations *a, const plan *p, const cpu_ops *ops, uint32_t max_rows, uint32_t max_outs) {
    *a = (activations){.plan = p, .ops = ops};
    a->reserved = lay_out(a, max_rows, max_outs);
    a->memory = platform_alloc_pages(a->reserved);
    if (a->memory == NULL) return false;
    lay_out(a, max_rows, max_outs);
    return true;
}

void activations_destroy(activations *a) {
    if (a->memory != NULL) platform_free_pages(a->memory, a->reserved);
    *a = (activations){0};
}

void activations_place(activations *a, uint32_t rows, uint32_t outs) {
    if (rows != a->rows || outs != a->outs || a->used == 0) a->used = lay_out(a, rows, outs);
    if (a->used > a->touched) a->touched = a->used;
    a->small_steps = a->used < a->touched / 4 ? a->small_steps + 1 : 0;
    if (a->small_steps == SMALL_STEPS) activations_trim(a);
}

void activations_trim(activations *a) {
    a->small_steps = 0;
    if (a->touched <= KEPT_BYTES) return;
    platform_trim_pages(a->memory + KEPT_BYTES, a->touched - KEPT_BYTES);
    a->touched = KEPT_BYTES;
}
