/* heap.c: see heap.h. */
#include "heap.h"

#include <stdlib.h>

enum { FIRST_CAPACITY = 4 };

bool heap_reserve(heap *h, uint32_t count) {
    if (count <= h->capacity) return true;
    uint32_t wanted = h->capacity == 0 ? FIRST_CAPACITY : h->capacity;
    while (wanted < count) wanted *= 2;
    heap_node **items = realloc((void *)h->items, wanted * sizeof(heap_node *));
    if (items == NULL) return false;
    h->items = items;
    h->capacity = wanted;
    return true;
}

void heap_free(heap *h) {
    free((void *)h->items);
    h->items = NULL;
    h->count = h->capacity = 0;
}

static void put(heap *h, uint32_t index, heap_node *node) {
    h->items[index] = node;
    node->place = index + 1;
}

static void rise(heap *h, uint32_t index) {
    heap_node *node = h->items[index];
    while (index > 0 && h->before(node, h->items[(index - 1) / 2])) {
        put(h, index, h->items[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    put(h, index, node);
}

static void sink(heap *h, uint32_t index) {
    heap_node *node = h->items[index];
    for (uint32_t child; (child = 2 * index + 1) < h->count; index = child) {
        if (child + 1 < h->count && h->before(h->items[child + 1], h->items[child])) child++;
        if (!h->before(h->items[child], node)) break;
        put(h, index, h->items[child]);
    }
    put(h, index, node);
}

void heap_add(heap *h, heap_node *node) {
    h->items[h->count] = node;
    rise(h, h->count++);
}

void heap_moved(heap *h, heap_node *node) {
    if (node->place == 0) return;
    rise(h, node->place - 1);
    sink(h, node->place - 1);
}

void heap_remove(heap *h, heap_node *node) {
    if (node->place == 0) return;
    uint32_t index = node->place - 1;
    heap_node *last = h->items[--h->count];
    node->place = 0;
    if (last == node) return;
    put(h, index, last);
    heap_moved(h, last);
}
