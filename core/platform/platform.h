/* platform.h: the only door to the operating system: threads, file mapping, memory, processors, a clock.
 * One implementation per system: platform_posix.c, platform_windows.c, platform_wasm.c. */
#ifndef REALM_PLATFORM_H
#define REALM_PLATFORM_H

#include <stdatomic.h>

#include "../base.h"

typedef struct platform_mutex platform_mutex;
typedef struct platform_cond platform_cond;
typedef struct platform_thread platform_thread;

platform_mutex *platform_mutex_create(void); /* NULL when out of memory */
void platform_mutex_destroy(platform_mutex *m);
void platform_lock(platform_mutex *m);
void platform_unlock(platform_mutex *m);

platform_cond *platform_cond_create(void);
void platform_cond_destroy(platform_cond *c);
/* Waits with m held; false on timeout. timeout_ns UINT64_MAX: no timeout. */
bool platform_cond_wait(platform_cond *c, platform_mutex *m, uint64_t timeout_ns);
void platform_cond_signal(platform_cond *c);
void platform_cond_broadcast(platform_cond *c);

/* Starts a thread with a name shown by debuggers; NULL on failure. */
platform_thread *platform_thread_start(const char *name, void (*run)(void *), void *arg);
void platform_thread_join(platform_thread *t);
/* Asks for the calling thread to run soon after it wakes even where other processes keep the processor busy; what it gets of the
 * processor in all stays the same. Best effort. */
void platform_thread_wake_soon(void);
/* Asks the system to let this process use AMX tiles; once granted it stays so. */
bool platform_permit_tiles(void);
/* What 64-bit ARM processors may lack: a mask of PLATFORM_ARM_...; 0 on other processors. */
#define PLATFORM_ARM_DOTPROD 1u
#define PLATFORM_ARM_I8MM 2u
uint32_t platform_arm_features(void);
void platform_pause(void);  /* hint inside a spin loop */

uint64_t platform_now_ns(void);          /* monotonic */
uint32_t platform_processor_count(void); /* that this process may use: affinity and cgroup quota */
uint64_t platform_memory_bytes(void);    /* physical, or the cgroup's limit where that is lower */

/* A read-only shared mapping of a whole file. While it lasts the file may be cut short, or its disk fail: what can no longer be
 * read is then zeros, and *lost is set before anyone sees them. */
typedef struct platform_mapping {
    const uint8_t *data;
    uint64_t size;
    void *handle;            /* what the implementation needs to unmap it */
    const atomic_bool *lost; /* NULL where the system keeps mapped files whole */
    uint64_t often_until, often_from; /* where platform_read_often said so: whole huge pages before and from here on; 0, 0: nowhere */
} platform_mapping;
realm_status platform_map_file(const char *path, platform_mapping *out, realm_error *err);
void platform_unmap(platform_mapping *map);
/* Asks for [offset, offset + size) to be read ahead; may wait for the disk. Best effort. */
void platform_prefetch(const platform_mapping *map, uint64_t offset, uint64_t size);
/* All of the file will be read again and again, except [offset, offset + size): of that little, here and there, and what is not
 * read is not to take memory. Best effort; before platform_prefetch. */
void platform_read_often(platform_mapping *map, uint64_t offset, uint64_t size);

/* Page-aligned zeroed memory given back to the system when freed. NULL when there is none. */
void *platform_alloc_pages(uint64_t bytes);
void platform_free_pages(void *p, uint64_t bytes);
/* Gives back the whole pages in [p, p + bytes), which stay usable; what they held is lost. Best effort. */
void platform_trim_pages(void *p, uint64_t bytes);
void *platform_alloc_aligned(size_t bytes); /* 64-byte aligned, not zeroed */
void platform_free_aligned(void *p);

#endif
