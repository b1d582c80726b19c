/* support.c: the guest's allocator and byte helpers.
 *
 * The heap is a list of free blocks sorted by address, searched first-fit; neighbours are joined when freed, so memory
 * that requests gave back serves the next ones and the module grows only while more is in use than ever before.
 * Scratch memory is a small fixed buffer that a pointer moves through; what does not fit goes to the heap and is
 * linked, to be freed by the reset.
 */
#include "support.h"

#include <stdbool.h>

#include "realm_abi.h"

enum {
    ALIGN = 8,
    SCRATCH_SIZE = 2048,       /* holds what a token step needs: one decoded token, its text */
    PAGE_SIZE = 65536,         /* of WebAssembly */
    SMALLEST_SPLIT = 32,       /* a smaller rest stays with its block */
};

typedef struct block { /* in front of each block, free or not; its size includes this header */
    size_t size;
    struct block *next; /* of a free block: the next free one; of a scratch block: the one before it */
} block;

static const size_t HEADER = (sizeof(block) + ALIGN - 1) / ALIGN * ALIGN;
static const size_t LARGEST = SIZE_MAX / 4; /* so that sums of sizes cannot wrap */

static block *free_list;  /* by address */
static size_t heap_used;
static uintptr_t heap_end; /* 0 before the first growth */

/* ---- where the heap comes from ---- */

#ifdef __wasm__
extern unsigned char __heap_base; /* by the linker: the first byte behind data and stack */

/* Takes at least `size` more bytes behind heap_end; false when the memory cannot grow. */
static bool heap_grow(size_t size, uintptr_t *start, uintptr_t *end) {
    uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE_SIZE;
    *start = heap_end ? heap_end : ((uintptr_t)&__heap_base + ALIGN - 1) / ALIGN * ALIGN;
    if (*start < have && size <= have - *start) {
        *end = have; /* only the first time: the pages the module begins with */
        return true;
    }
    size_t pages = (size - (have - *start) + PAGE_SIZE - 1) / PAGE_SIZE;
    if (__builtin_wasm_memory_grow(0, pages) == (size_t)-1) return false;
    *end = have + pages * PAGE_SIZE;
    return true;
}
#else
static uintptr_t region_start, region_end;

void memory_use_region(void *region, size_t size) {
    region_start = ((uintptr_t)region + ALIGN - 1) / ALIGN * ALIGN;
    region_end = ((uintptr_t)region + size) / ALIGN * ALIGN;
    heap_end = 0;
    heap_used = 0;
    free_list = NULL;
}

static bool heap_grow(size_t size, uintptr_t *start, uintptr_t *end) {
    *start = heap_end ? heap_end : region_start;
    size_t room = region_end - *start;
    if (size > room || room < HEADER) return false;
    size_t step = (size + PAGE_SIZE - 1) / PAGE_SIZE * PAGE_SIZE;
    *end = *start + (step < room ? step : room);
    return true;
}
#endif

/* ---- the heap ---- */

/* Puts a block into the free list and joins it with free neighbours. */
static void heap_insert(block *added) {
    block *before = NULL;
    block *after = free_list;
    while (after && after < added) {
        before = after;
        after = after->next;
    }
    added->next = after;
    if (after && (uintptr_t)added + added->size == (uintptr_t)after) {
        added->size += after->size;
        added->next = after->next;
    }
    if (!before) {
        free_list = added;
    } else if ((uintptr_t)before + before->size == (uintptr_t)added) {
        before->size += added->size;
        before->next = added->next;
    } else {
        before->next = added;
    }
}

/* The size of the free block at the very end of the heap, which growth adds to. */
static size_t heap_tail(void) {
    block *last = free_list;
    while (last && last->next) last = last->next;
    return last && (uintptr_t)last + last->size == heap_end ? last->size : 0;
}

/* Grows the heap so that its last free block has `size` bytes or more. */
static bool heap_extend(size_t size) {
    uintptr_t start, end;
    if (!heap_grow(size - heap_tail(), &start, &end)) return false;
    block *added = (block *)start;
    added->size = end - start;
    heap_end = end;
    heap_insert(added);
    return true;
}

/* Takes a block of `size` bytes (header included) out of the free list; NULL when none is large enough. */
static block *heap_take(size_t size) {
    for (block **link = &free_list; *link; link = &(*link)->next) {
        block *found = *link;
        if (found->size < size) continue;
        if (found->size - size >= SMALLEST_SPLIT) {
            block *rest = (block *)((uintptr_t)found + size);
            rest->size = found->size - size;
            rest->next = found->next;
            *link = rest;
            found->size = size;
        } else {
            *link = found->next;
        }
        return found;
    }
    return NULL;
}

void *memory_alloc(size_t size) {
    if (size > LARGEST) return NULL;
    size_t whole = HEADER + (size + ALIGN - 1) / ALIGN * ALIGN;
    block *found = heap_take(whole);
    if (!found && heap_extend(whole)) found = heap_take(whole);
    if (!found) return NULL;
    heap_used += found->size;
    return (void *)((uintptr_t)found + HEADER);
}

static block *block_of(void *memory) {
    return (block *)((uintptr_t)memory - HEADER);
}

void memory_free(void *memory) {
    if (!memory) return;
    heap_used -= block_of(memory)->size;
    heap_insert(block_of(memory));
}

void *memory_resize(void *memory, size_t size) {
    size_t old = memory ? block_of(memory)->size - HEADER : 0;
    if (memory && size <= old) return memory;
    void *moved = memory_alloc(size);
    if (!moved) return NULL;
    if (memory) bytes_copy(moved, memory, old);
    memory_free(memory);
    return moved;
}

size_t memory_used(void) {
    return heap_used;
}

/* ---- scratch memory ---- */

static _Alignas(ALIGN) unsigned char scratch[SCRATCH_SIZE];
static size_t scratch_used;
static block *scratch_blocks; /* the latest first */

void *scratch_alloc(size_t size) {
    if (size > LARGEST) return NULL;
    size = (size + ALIGN - 1) / ALIGN * ALIGN;
    if (size <= SCRATCH_SIZE - scratch_used) {
        void *memory = scratch + scratch_used;
        scratch_used += size;
        return memory;
    }
    void *memory = memory_alloc(size);
    if (!memory) return NULL;
    block_of(memory)->next = scratch_blocks;
    scratch_blocks = block_of(memory);
    return memory;
}

void scratch_reset(void) {
    scratch_used = 0;
    while (scratch_blocks) {
        block *before = scratch_blocks->next;
        memory_free((void *)((uintptr_t)scratch_blocks + HEADER));
        scratch_blocks = before;
    }
}

/* No type of the interface is aligned to more than 8, so `align` needs no attention. */
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t new_size) {
    (void)align;
    void *memory = scratch_alloc(new_size);
    if (!memory) __builtin_trap(); /* the ABI knows no failure */
    if (old) bytes_copy(memory, old, old_size < new_size ? old_size : new_size);
    return memory;
}

/* A report's lists belong to the request in every guest here, so nothing is to be freed when the host has read it. */
void realm_guest_post_outcome(realm_result_report *result) {
    (void)result;
}

/* ---- bytes: a builtin, which is one instruction in WebAssembly ---- */

void bytes_copy(void *to, const void *from, size_t size) {
    if (size) __builtin_memcpy(to, from, size);
}
