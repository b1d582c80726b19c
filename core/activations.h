/* activations.h: the memory a step's numbers live in: the slots of a plan's ops, and what is prepared for products. It all lies together
 * and takes the room that the step's rows need: a step of one row touches few pages, and those that only a prompt needed can be
 * given back to the system. */
#ifndef REALM_ACTIVATIONS_H
#define REALM_ACTIVATIONS_H

#include "cpu/ops.h"
#include "plan.h"
#include "platform/platform.h"

typedef struct activations {
    float *slots[REALM_SLOT_COUNT]; /* (rows, slot_width); (outs, slot_width) of gathered ones */
    void *prepared;                 /* for the largest of the plan's products */
    const plan *plan;
    const cpu_ops *ops;
    uint32_t rows, outs;            /* of the running step */
    uint8_t *memory;
    uint64_t reserved;              /* bytes: for the largest step there may be */
    uint64_t used, touched;         /* by the running step; by any since pages were given back */
    uint32_t small_steps;           /* in a row, that used far less than was touched */
} activations;

/* False when there is no memory for so many rows and wanted logits. */
bool activations_create(activations *a, const plan *p, const cpu_ops *ops, uint32_t max_rows, uint32_t max_outs);
void activations_destroy(activations *a);
/* Makes room for a step; what was there is lost. */
void activations_place(activations *a, uint32_t rows, uint32_t outs);
/* Gives back what a step of one row would not use; only between steps. */
void activations_trim(activations *a);

#endif
