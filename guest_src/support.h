/* support.h: what every guest shares (support.c): memory and bytes, without a libc.
 *
 * Two kinds of memory. The heap (memory_alloc, memory_free) holds what lives from one export to the next. Scratch
 * memory (scratch_alloc, and every list the host hands over, which comes through cabi_realloc) lives until
 * scratch_reset, which a guest calls at the end of each export: lists of parameters arrive before an export begins,
 * so resetting at its start would be too early. Freed memory is used again; a wasm memory itself never shrinks.
 * The lists of a report stay the request's, until it is released.
 */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <stddef.h>
#include <stdint.h>

/* Heap memory, aligned to 8; NULL when there is none. size 0 is allowed. */
void *memory_alloc(size_t size);
/* Like realloc of C: NULL leaves the old block as it is. */
void *memory_resize(void *block, size_t size);
void memory_free(void *block);
/* Bytes of heap blocks in use, for tests of leaks. */
size_t memory_used(void);

/* Scratch memory, aligned to 8; NULL when there is none. */
void *scratch_alloc(size_t size);
void scratch_reset(void);

void bytes_copy(void *to, const void *from, size_t size);

#ifndef __wasm__
/* Natively the heap is one region that the embedder of the guest gives before the first call. */
void memory_use_region(void *region, size_t size);
#endif

#endif
