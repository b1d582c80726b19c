/* platform_wasm.c: platform.h inside a WebAssembly module: no files, a clock that the host imports, threads that the host brings.
 *
 * Memory: pages (weights, KV, activations) are regions of 4 KiB units cut from what memory.grow gives; freed ones are joined and
 * used again, because a WebAssembly memory never shrinks. Everything else is libc's malloc, which is not thread-safe here: it
 * belongs to the thread that drives the core, and what the pool's workers run never allocates.
 *
 * Threads exist in builds with shared memory only. The host makes a seat for each worker beforehand, and the worker sits
 * down in it and waits; starting a thread hands a function to a worker that waits already, so nothing needs an event loop. */
#include "platform.h"

#include <stdatomic.h>
#include <stdlib.h>

#define WASM_EXPORT(name) __attribute__((export_name(#name)))
#define WASM_PAGE 65536u
#define WASM_MOST_PAGES 65535u /* a byte more than the last address must still be a number of 32 bits */
#define NS_PER_MS 1000000.0

/* Milliseconds of a monotonic clock. */
__attribute__((import_module("realm"), import_name("now_ms"))) double host_now_ms(void);

uint64_t platform_now_ns(void) { return (uint64_t)(host_now_ms() * NS_PER_MS); }
uint64_t platform_memory_bytes(void) { return (uint64_t)WASM_MOST_PAGES * WASM_PAGE; }

/* ---- no files ---- */

realm_status platform_map_file(const char *path, platform_mapping *out, realm_error *err) {
    *out = (platform_mapping){0};
    return base_fail(err, REALM_E_IO, "cannot read '%s': WebAssembly has no files; pass the model's bytes", path);
}

void platform_unmap(platform_mapping *map) { *map = (platform_mapping){0}; }

void platform_prefetch(const platform_mapping *map, uint64_t offset, uint64_t size) {
    (void)map;
    (void)offset;
    (void)size;
}

void platform_read_often(platform_mapping *map, uint64_t offset, uint64_t size) {
    (void)map;
    (void)offset;
    (void)size;
}

/* ---- pages ---- */

#define UNIT 4096u

/* A free region; the record stands in its own first bytes. */
typedef struct region {
    uint32_t size;
    struct region *next; /* by address; neighbours never touch */
} region;

static region *free_regions; /* a module's instance has one memory, and one driving thread */

static uint32_t address_of(const void *p) { return (uint32_t)(uintptr_t)p; }

static void join_next(region *r) {
    if (r->next == NULL || address_of(r) + r->size != address_of(r->next)) return;
    r->size += r->next->size;
    r->next = r->next->next;
}

static void give_region(void *p, uint32_t size) {
    region *r = p, **link = &free_regions, *before = NULL;
    while (*link != NULL && address_of(*link) < address_of(p)) {
        before = *link;
        link = &before->next;
    }
    *r = (region){size, *link};
    *link = r;
    join_next(r);
    if (before != NULL) join_next(before);
}

/* The tightest fit, so that a model's large region is not nibbled at. */
static void *take_region(uint32_t size) {
    region **best = NULL;
    for (region **link = &free_regions; *link != NULL; link = &(*link)->next) {
        if ((*link)->size >= size && (best == NULL || (*link)->size < (*best)->size)) best = link;
    }
    if (best == NULL) return NULL;
    region *found = *best, *rest = found->next;
    if (found->size > size) {
        rest = (region *)(void *)((char *)found + size);
        *rest = (region){found->size - size, found->next};
    }
    *best = rest;
    return found;
}

/* Bytes at the end of the memory that are free already. */
static uint32_t free_tail(uint32_t end) {
    for (const region *r = free_regions; r != NULL; r = r->next) {
        if (r->next == NULL && address_of(r) + r->size == end) return r->size;
    }
    return 0;
}

static bool grow_for(uint32_t size, uint32_t end) {
    uint32_t missing = size - free_tail(end), pages = missing / WASM_PAGE + (missing % WASM_PAGE != 0);
    if (pages > WASM_MOST_PAGES - end / WASM_PAGE || __builtin_wasm_memory_grow(0, pages) == SIZE_MAX) return false;
    give_region((void *)(uintptr_t)end, pages * WASM_PAGE);
    return true;
}

void *platform_alloc_pages(uint64_t bytes) {
    if (bytes == 0 || bytes > platform_memory_bytes()) return NULL;
    uint32_t size = (uint32_t)((bytes + UNIT - 1) / UNIT * UNIT), end = (uint32_t)__builtin_wasm_memory_size(0) * WASM_PAGE;
    char *p = take_region(size);
    if (p == NULL && grow_for(size, end)) p = take_region(size);
    if (p == NULL) return NULL;
    uint32_t used = end + sizeof(region) - address_of(p); /* behind the old end there is only the record that grow_for gave */
    return memset(p, 0, size < used ? size : used);
}

void platform_free_pages(void *p, uint64_t bytes) {
    if (p != NULL) give_region(p, (uint32_t)((bytes + UNIT - 1) / UNIT * UNIT));
}

/* memory of WebAssembly never shrinks. */
void platform_trim_pages(void *p, uint64_t bytes) {
    (void)p;
    (void)bytes;
}

void *platform_alloc_aligned(size_t bytes) {
    return bytes > SIZE_MAX - 64 ? NULL : aligned_alloc(64, (bytes + 64) & ~(size_t)63); /* at least 64 */
}
void platform_free_aligned(void *p) { free(p); }

/* ---- what the host allocates ---- */

/* For arguments and results of calls; 0 when there is no memory. */
WASM_EXPORT(realm_wasm_alloc) void *wasm_alloc(uint32_t bytes) { return aligned_alloc(16, (bytes + 16) & ~15u); }
WASM_EXPORT(realm_wasm_free) void wasm_free(void *p) { free(p); }

#if defined(__wasm_atomics__)

/* ---- waiting ---- */

/* False on timeout. Never inlined: in code of V8's baseline compiler (11.3, Node 20) a function's locals may be lost over the wait
 * instruction, so that a lock taken again after a wait was the one at address 0. */
__attribute__((noinline)) static bool futex_wait(atomic_uint *at, uint32_t seen, uint64_t timeout_ns) {
    int64_t timeout = timeout_ns > INT64_MAX ? -1 : (int64_t)timeout_ns; /* -1: for ever */
    return __builtin_wasm_memory_atomic_wait32((int *)(void *)at, (int)seen, timeout) != 2;
}

static void futex_wake(atomic_uint *at, uint32_t count) { (void)__builtin_wasm_memory_atomic_notify((int *)(void *)at, count); }

struct platform_mutex {
    atomic_uint state; /* 0: free, 1: held, 2: held and somebody may wait */
};

platform_mutex *platform_mutex_create(void) { return calloc(1, sizeof(platform_mutex)); }
void platform_mutex_destroy(platform_mutex *m) { free(m); }

void platform_lock(platform_mutex *m) {
    uint32_t free_state = 0;
    if (atomic_compare_exchange_strong(&m->state, &free_state, 1)) return;
    while (atomic_exchange(&m->state, 2) != 0) (void)futex_wait(&m->state, 2, UINT64_MAX);
}

void platform_unlock(platform_mutex *m) {
    if (atomic_exchange(&m->state, 0) == 2) futex_wake(&m->state, 1);
}

struct platform_cond {
    atomic_uint signals;
};

platform_cond *platform_cond_create(void) { return calloc(1, sizeof(platform_cond)); }
void platform_cond_destroy(platform_cond *c) { free(c); }

bool platform_cond_wait(platform_cond *c, platform_mutex *m, uint64_t timeout_ns) {
    uint32_t seen = atomic_load(&c->signals); /* a signal after this line makes the wait return at once */
    platform_unlock(m);
    bool woken = futex_wait(&c->signals, seen, timeout_ns);
    platform_lock(m);
    return woken;
}

void platform_cond_signal(platform_cond *c) {
    atomic_fetch_add(&c->signals, 1);
    futex_wake(&c->signals, 1);
}

void platform_cond_broadcast(platform_cond *c) {
    atomic_fetch_add(&c->signals, 1);
    futex_wake(&c->signals, UINT32_MAX);
}

/* ---- threads ---- */

enum { SEAT_EMPTY, SEAT_WAITING, SEAT_RUNNING, SEAT_LEAVING };
#define SEAT_STACK 262144u

/* Where a worker of the host works: its stack, its thread-local block, and what it runs. */
struct platform_thread {
    atomic_uint state;
    void (*run)(void *);
    void *arg;
    platform_thread *next;
    char *stack_end, *tls;
};

static platform_thread *seats; /* starting a thread names no place: those of the instance's memory */

static size_t rounded(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

/* A seat for one worker, NULL when there is no memory. It lives as long as the memory. */
WASM_EXPORT(realm_wasm_seat_create) platform_thread *wasm_seat_create(void) {
    size_t tls = rounded(__builtin_wasm_tls_size() + 1, 64), bytes = rounded(sizeof(platform_thread), 64) + tls + SEAT_STACK;
    platform_thread *seat = platform_alloc_pages(bytes);
    if (seat == NULL) return NULL;
    seat->tls = (char *)seat + rounded(sizeof *seat, 64);
    seat->stack_end = seat->tls + tls + SEAT_STACK;
    seat->next = seats;
    seats = seat;
    return seat;
}

/* What a worker's instance needs before it may run C: its __stack_pointer, and the argument of __wasm_init_tls. */
WASM_EXPORT(realm_wasm_seat_stack) char *wasm_seat_stack(const platform_thread *seat) { return seat->stack_end; }
WASM_EXPORT(realm_wasm_seat_tls) char *wasm_seat_tls(const platform_thread *seat) { return seat->tls; }

/* The worker's whole life: runs what it is given until it is told to leave. */
WASM_EXPORT(realm_wasm_seat_serve) void wasm_seat_serve(platform_thread *seat) {
    uint32_t empty = SEAT_EMPTY;
    if (!atomic_compare_exchange_strong(&seat->state, &empty, SEAT_WAITING)) return;
    for (;;) {
        uint32_t state = atomic_load(&seat->state);
        if (state == SEAT_LEAVING) return;
        if (state != SEAT_RUNNING) {
            (void)futex_wait(&seat->state, state, UINT64_MAX);
            continue;
        }
        seat->run(seat->arg);
        atomic_store(&seat->state, SEAT_WAITING);
        futex_wake(&seat->state, 1);
    }
}

/* 1 when a worker waits in the seat. */
WASM_EXPORT(realm_wasm_seat_ready) uint32_t wasm_seat_ready(const platform_thread *seat) {
    return atomic_load(&seat->state) == SEAT_WAITING;
}

/* The worker returns from serve, now or as soon as it comes. Not while it runs something. */
WASM_EXPORT(realm_wasm_seat_leave) void wasm_seat_leave(platform_thread *seat) {
    atomic_store(&seat->state, SEAT_LEAVING);
    futex_wake(&seat->state, 1);
}

platform_thread *platform_thread_start(const char *name, void (*run)(void *), void *arg) {
    (void)name;
    platform_thread *seat = seats;
    while (seat != NULL && !wasm_seat_ready(seat)) seat = seat->next;
    if (seat == NULL) return NULL;
    seat->run = run;
    seat->arg = arg;
    atomic_store(&seat->state, SEAT_RUNNING);
    futex_wake(&seat->state, 1);
    return seat;
}

void platform_thread_join(platform_thread *t) {
    if (t == NULL) return;
    for (uint32_t state; (state = atomic_load(&t->state)) == SEAT_RUNNING;) (void)futex_wait(&t->state, state, UINT64_MAX);
}

uint32_t platform_processor_count(void) {
    uint32_t count = 1;
    for (const platform_thread *seat = seats; seat != NULL; seat = seat->next) count += wasm_seat_ready(seat);
    return count;
}

#else

/* ---- one thread: nobody to wait for ---- */

struct platform_mutex {
    char unused;
};
struct platform_cond {
    char unused;
};

platform_mutex *platform_mutex_create(void) { return calloc(1, sizeof(platform_mutex)); }
void platform_mutex_destroy(platform_mutex *m) { free(m); }
void platform_lock(platform_mutex *m) { (void)m; }
void platform_unlock(platform_mutex *m) { (void)m; }

platform_cond *platform_cond_create(void) { return calloc(1, sizeof(platform_cond)); }
void platform_cond_destroy(platform_cond *c) { free(c); }
void platform_cond_signal(platform_cond *c) { (void)c; }
void platform_cond_broadcast(platform_cond *c) { (void)c; }

bool platform_cond_wait(platform_cond *c, platform_mutex *m, uint64_t timeout_ns) {
    (void)c;
    (void)m;
    (void)timeout_ns;
    return false;
}

platform_thread *platform_thread_start(const char *name, void (*run)(void *), void *arg) {
    (void)name;
    (void)run;
    (void)arg;
    return NULL;
}

void platform_thread_join(platform_thread *t) { (void)t; }
uint32_t platform_processor_count(void) { return 1; }

#endif

void platform_pause(void) {}
void platform_thread_wake_soon(void) {}
