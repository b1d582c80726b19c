/* handle.c: tables of u32 handles. A handle is slot + 1 in the low 20 bits and the slot's generation above, so that a handle
 * kept after closing does not name what took its place. Free slots form a list through the items themselves. */
#include <stdlib.h>

#include "engine.h"

enum { SLOT_BITS = 20, SLOT_MASK = (1 << SLOT_BITS) - 1, NO_SLOT = SLOT_MASK };

/* A free slot's item holds the next free slot, marked odd: real items are aligned pointers. */
static void *free_mark(uint32_t next) { return (void *)(uintptr_t)((uintptr_t)next << 1 | 1); }
static bool is_free(const void *item) { return ((uintptr_t)item & 1) != 0; }

static bool table_grow(handle_table *t) {
    uint32_t wanted = t->capacity == 0 ? 4 : t->capacity * 2;
    if (wanted > NO_SLOT) return false;
    void **items = realloc((void *)t->items, wanted * sizeof *items);
    if (items == NULL) return false;
    t->items = items;
    uint16_t *generations = realloc(t->generations, wanted * sizeof *generations);
    if (generations == NULL) return false;
    t->generations = generations;
    for (uint32_t slot = t->capacity; slot < wanted; slot++) {
        t->items[slot] = free_mark(slot + 1 < wanted ? slot + 1 : NO_SLOT);
        t->generations[slot] = 0;
    }
    t->free_head = t->capacity;
    t->capacity = wanted;
    return true;
}

uint32_t handle_add(handle_table *t, void *item) {
    if (t->count == t->capacity && !table_grow(t)) return 0;
    uint32_t slot = t->free_head;
    t->free_head = (uint32_t)((uintptr_t)t->items[slot] >> 1);
    t->items[slot] = item;
    t->count++;
    return (slot + 1) | (uint32_t)t->generations[slot] << SLOT_BITS;
}

void *handle_get(const handle_table *t, uint32_t handle) {
    uint32_t slot = (handle & SLOT_MASK) - 1;
    if ((handle & SLOT_MASK) == 0 || slot >= t->capacity) return NULL;
    if (is_free(t->items[slot]) || t->generations[slot] != handle >> SLOT_BITS) return NULL;
    return t->items[slot];
}

void handle_remove(handle_table *t, uint32_t handle) {
    if (handle_get(t, handle) == NULL) return;
    uint32_t slot = (handle & SLOT_MASK) - 1;
    t->items[slot] = free_mark(t->free_head);
    t->free_head = slot;
    t->generations[slot] = (uint16_t)((t->generations[slot] + 1) & 0xfff);
    t->count--;
}

void *handle_at(const handle_table *t, uint32_t slot) {
    return slot < t->capacity && !is_free(t->items[slot]) ? t->items[slot] : NULL;
}

void handle_table_free(handle_table *t) {
    free((void *)t->items);
    free(t->generations);
    *t = (handle_table){0};
}
