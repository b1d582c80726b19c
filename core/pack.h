/* pack.h: the weights of a model whose pages the core owns take their packed form (cpu/packing.h), in bounded steps. */
#ifndef REALM_PACK_H
#define REALM_PACK_H

#include "engine.h"

/* How far a model's packing is: tensors of the plan, stripes of the tensor under way. */
typedef struct packing {
    uint32_t tensor, stripe;
    uint8_t *scratch; /* while a tensor is under way: a stripe for each thread */
} packing;

/* Packs about `budget` bytes on the runtime's threads, at least a stripe; returns the share that is done, 1 at the end. Nobody
 * computes with the model yet. */
float pack_step(packing *at, realm_model *m, uint64_t budget);
bool pack_is_under_way(const packing *at); /* the weights are of no use */
void pack_abandon(packing *at);

#endif
