/* tokenizer_merge.c: the merge loop of both tokenizer families, and the encoder's output.
 * Symbols form a linked list over the piece's bytes; candidates wait in a binary heap ordered by priority, then position.
 * A candidate is out of date when its two symbols no longer add up to its size. O(n log n) for a piece of n bytes, in
 * 48 n bytes of memory, without recursion. */
#include <stdlib.h>

#include "tokenizer_impl.h"

void encoder_emit(encoder *e, uint32_t id) {
    if (e->count < e->cap) e->ids[e->count] = id;
    e->count++;
    e->last_unknown = false;
}

realm_status encoder_emit_bytes(encoder *e, const char *text, size_t size) {
    bool has_all = true;
    for (size_t i = 0; i < size; i++) has_all = has_all && e->tok->byte_ids[(uint8_t)text[i]] != TOKENIZER_NONE;
    if (has_all) {
        for (size_t i = 0; i < size; i++) encoder_emit(e, e->tok->byte_ids[(uint8_t)text[i]]);
        return REALM_OK;
    }
    if (e->tok->unk == TOKENIZER_NONE) {
        return base_fail(e->err, REALM_E_INVALID_ARGUMENT,
                         "the text holds a character (first byte 0x%02x) the model's vocabulary has no token for", (uint8_t)*text);
    }
    if (!e->last_unknown) encoder_emit(e, e->tok->unk); /* one for a run of unknown characters, as SentencePiece does */
    e->last_unknown = true;
    return REALM_OK;
}

realm_status encoder_reserve(encoder *e, size_t size) {
    if (size <= e->piece_cap) return REALM_OK;
    size_t cap = size < 256 ? 256 : size;
    free(e->symbols);
    free(e->heap);
    e->piece_cap = 0;
    bool fits = cap <= SIZE_MAX / (2 * sizeof *e->heap);
    e->symbols = fits ? malloc(cap * sizeof *e->symbols) : NULL;
    e->heap = fits ? malloc(2 * cap * sizeof *e->heap) : NULL; /* n - 1 merges: each takes one candidate, adds two at most */
    if (e->symbols == NULL || e->heap == NULL) {
        return base_fail_memory(e->err, "encoding", (uint64_t)cap * (sizeof *e->symbols + 2 * sizeof *e->heap));
    }
    e->piece_cap = cap;
    return REALM_OK;
}

/* ---- heap ---- */

static void heap_push(encoder *e, merge_candidate candidate) {
    size_t at = e->heap_count++;
    while (at > 0 && candidate.key < e->heap[(at - 1) / 2].key) {
        e->heap[at] = e->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    e->heap[at] = candidate;
}

static merge_candidate heap_pop(encoder *e) {
    merge_candidate top = e->heap[0], last = e->heap[--e->heap_count];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < e->heap_count) {
        if (child + 1 < e->heap_count && e->heap[child + 1].key < e->heap[child].key) child++;
        if (last.key <= e->heap[child].key) break;
        e->heap[at] = e->heap[child];
        at = child;
    }
    e->heap[at] = last;
    return top;
}

/* ---- merging ---- */

static void consider(encoder *e, const char *text, uint32_t left, merge_lookup lookup) {
    if (left == TOKENIZER_NONE || e->symbols[left].next == TOKENIZER_NONE) return;
    const merge_symbol *a = &e->symbols[left], *b = &e->symbols[a->next];
    uint32_t priority, id;
    if (!lookup(e->tok, text, a, b, left, &priority, &id)) return;
    heap_push(e, (merge_candidate){.key = (uint64_t)priority << 32 | left, .size = a->size + b->size, .id = id});
}

static void apply(encoder *e, const char *text, merge_candidate best, merge_lookup lookup) {
    uint32_t at = (uint32_t)best.key;
    merge_symbol *left = &e->symbols[at];
    if (left->size == 0 || left->next == TOKENIZER_NONE) return;
    merge_symbol *right = &e->symbols[left->next];
    if (left->size + right->size != best.size) return;
    left->size = best.size;
    left->id = best.id;
    left->next = right->next;
    right->size = 0;
    if (left->next != TOKENIZER_NONE) e->symbols[left->next].prev = at;
    consider(e, text, left->prev, lookup);
    consider(e, text, at, lookup);
}

realm_status encoder_merge(encoder *e, const char *text, merge_lookup lookup) {
    e->heap_count = 0;
    for (uint32_t at = 0; at != TOKENIZER_NONE; at = e->symbols[at].next) consider(e, text, at, lookup);
    while (e->heap_count > 0) apply(e, text, heap_pop(e), lookup);
    realm_status status = REALM_OK;
    for (uint32_t at = 0; status == REALM_OK && at != TOKENIZER_NONE; at = e->symbols[at].next) {
        if (e->symbols[at].id != TOKENIZER_NONE) encoder_emit(e, e->symbols[at].id);
        else status = encoder_emit_bytes(e, text + at, e->symbols[at].size);
    }
    return status;
}
