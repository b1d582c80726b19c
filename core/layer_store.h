/* layer_store.h: 64-bit address -> stored tensor, under a hard byte budget.
 * Tensors are immutable, so storing one keeps a reference instead of a copy. One store belongs to one context; calls come
 * from one thread at a time. A put that does not fit is refused: nothing is evicted. */
#ifndef REALM_LAYER_STORE_H
#define REALM_LAYER_STORE_H

#include "base.h"
#include "tensor.h"

typedef struct layer_store layer_store;

/* limit_bytes 0: no limit of its own. */
realm_status layer_store_create(uint64_t limit_bytes, layer_store **out, realm_error *err);
void layer_store_destroy(layer_store *store); /* NULL is allowed */

/* Keeps a reference to t, replacing what was at the address. A full store refuses with limit-exceeded and stays as it was. */
realm_status layer_store_put(layer_store *store, uint64_t address, tensor *t, realm_error *err);
/* *out is a reference of the caller's. Unknown addresses are not-found and count as a miss. */
realm_status layer_store_get(layer_store *store, uint64_t address, tensor **out, realm_error *err);
bool layer_store_remove(layer_store *store, uint64_t address); /* false: there was none */

/* What a tensor counts in the store: what it owns and its place in the table. */
uint64_t layer_store_cost(const tensor *t);
void layer_store_stats(const layer_store *store, realm_cache_stats *out);

#endif
