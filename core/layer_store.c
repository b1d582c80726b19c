/* layer_store.c: a hash table with linear probing from addresses to tensors, and its byte account.
 * Removal moves later entries of the run back, so there are no tombstones and lookups stay short for ever. */
#include "layer_store.h"

#include <stdlib.h>

#define SLOTS_MIN 16u
#define ENTRY_COST 64u /* bytes charged for a place in the table: two slots of up to 24 bytes at half load, and slack */

typedef struct slot {
    uint64_t address;
    tensor *held; /* NULL: free */
} slot;

struct layer_store {
    slot *slots;
    size_t capacity; /* a power of two; at most half of it is in use */
    uint64_t seed;
    realm_cache_stats stats;
};

realm_status layer_store_create(uint64_t limit_bytes, layer_store **out, realm_error *err) {
    *out = NULL;
    layer_store *store = calloc(1, sizeof *store);
    if (store == NULL) return base_fail_memory(err, "a layer store", sizeof *store);
    store->seed = (uint64_t)(uintptr_t)store; /* differs by process and store: guests cannot aim at one bucket */
    store->stats.limit_bytes = limit_bytes;
    *out = store;
    return REALM_OK;
}

void layer_store_destroy(layer_store *store) {
    if (store == NULL) return;
    for (size_t i = 0; i < store->capacity; i++) tensor_release(store->slots[i].held);
    free(store->slots);
    free(store);
}

uint64_t layer_store_cost(const tensor *t) { return tensor_bytes(t) + ENTRY_COST; }

void layer_store_stats(const layer_store *store, realm_cache_stats *out) { *out = store->stats; }

static size_t home_of(const layer_store *store, uint64_t address) {
    return (size_t)base_hash(&address, sizeof address, store->seed) & (store->capacity - 1);
}

/* The address's slot, or the free one where it would go. The table is never full. */
static slot *slot_of(const layer_store *store, uint64_t address) {
    size_t i = home_of(store, address);
    while (store->slots[i].held != NULL && store->slots[i].address != address) i = (i + 1) & (store->capacity - 1);
    return &store->slots[i];
}

static slot *find(const layer_store *store, uint64_t address) {
    if (store->capacity == 0) return NULL;
    slot *found = slot_of(store, address);
    return found->held != NULL ? found : NULL;
}

/* Makes room for one more entry. */
static realm_status grow(layer_store *store, realm_error *err) {
    if (store->stats.layers < store->capacity / 2) return REALM_OK;
    layer_store larger = *store;
    larger.capacity = store->capacity > 0 ? store->capacity * 2 : SLOTS_MIN;
    larger.slots = calloc(larger.capacity, sizeof *larger.slots);
    if (larger.slots == NULL) return base_fail_memory(err, "the layer store", larger.capacity * sizeof *larger.slots);
    for (size_t i = 0; i < store->capacity; i++) {
        if (store->slots[i].held != NULL) *slot_of(&larger, store->slots[i].address) = store->slots[i];
    }
    free(store->slots);
    *store = larger;
    return REALM_OK;
}

realm_status layer_store_put(layer_store *store, uint64_t address, tensor *t, realm_error *err) {
    slot *old = find(store, address);
    uint64_t before = store->stats.bytes - (old != NULL ? layer_store_cost(old->held) : 0), cost = layer_store_cost(t);
    uint64_t limit = store->stats.limit_bytes > 0 ? store->stats.limit_bytes : UINT64_MAX;
    if (before > limit || cost > limit - before) {
        return base_fail(err, REALM_E_LIMIT_EXCEEDED, "the layer store holds %llu of %llu bytes; %llu more do not fit",
                         (unsigned long long)store->stats.bytes, (unsigned long long)limit, (unsigned long long)cost);
    }
    realm_status status = old == NULL ? grow(store, err) : REALM_OK;
    if (status != REALM_OK) return status;
    slot *place = slot_of(store, address);
    tensor_share(t); /* before the release: it may be the same tensor */
    if (old == NULL) store->stats.layers++;
    else tensor_release(place->held);
    *place = (slot){address, t};
    store->stats.bytes = before + cost;
    return REALM_OK;
}

realm_status layer_store_get(layer_store *store, uint64_t address, tensor **out, realm_error *err) {
    slot *found = find(store, address);
    *out = NULL;
    if (found == NULL) {
        store->stats.misses++;
        return base_fail(err, REALM_E_NOT_FOUND, "no layer is stored at address 0x%llx", (unsigned long long)address);
    }
    store->stats.hits++;
    *out = tensor_share(found->held);
    return REALM_OK;
}

/* Fills the hole: an entry after it, up to the next free slot, moves back when the hole lies between its home and its place. */
static void close_hole(layer_store *store, size_t hole) {
    size_t mask = store->capacity - 1;
    for (size_t i = (hole + 1) & mask; store->slots[i].held != NULL; i = (i + 1) & mask) {
        size_t distance_home = (i - home_of(store, store->slots[i].address)) & mask, distance_hole = (i - hole) & mask;
        if (distance_home < distance_hole) continue;
        store->slots[hole] = store->slots[i];
        hole = i;
    }
    store->slots[hole] = (slot){0};
}

bool layer_store_remove(layer_store *store, uint64_t address) {
    slot *found = find(store, address);
    if (found == NULL) return false;
    store->stats.bytes -= layer_store_cost(found->held);
    store->stats.layers--;
    tensor_release(found->held);
    close_hole(store, (size_t)(found - store->slots));
    return true;
}
