/* heap.h: a binary heap of nodes that live inside other structures and know their place, so that any of them can be taken out or
 * moved in O(log n). Room is reserved beforehand: adding never fails. */
#ifndef REALM_HEAP_H
#define REALM_HEAP_H

#include "base.h"

typedef struct heap_node {
    uint32_t place; /* index + 1; 0: in no heap */
} heap_node;

typedef struct heap {
    heap_node **items;
    uint32_t count, capacity;
    bool (*before)(const heap_node *a, const heap_node *b); /* a strict order without ties, so that the heap is deterministic */
} heap;

/* The structure around a node. */
#define HEAP_OWNER(node, type, member) ((type *)(void *)((char *)(node) - offsetof(type, member)))

bool heap_reserve(heap *h, uint32_t count); /* false: out of memory */
void heap_free(heap *h);
void heap_add(heap *h, heap_node *node);
void heap_remove(heap *h, heap_node *node); /* nothing where it is in no heap */
void heap_moved(heap *h, heap_node *node);  /* after its order changed; nothing where it is in no heap */
static inline heap_node *heap_first(const heap *h) { return h->count > 0 ? h->items[0] : NULL; }

#endif
