/* base.h: what every core file stands on: errors, checked 64-bit arithmetic, little-endian reads.
 * Nothing here allocates except where the name says so. */
#ifndef REALM_BASE_H
#define REALM_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "realm.h"

#if defined(__GNUC__)
#define BASE_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define BASE_PRINTF(fmt, args)
#endif

/* Fills *err (if not NULL and not filled before: the first error wins) and returns code. */
realm_status base_fail(realm_error *err, realm_status code, const char *format, ...) BASE_PRINTF(3, 4);
/* The same for a limit: code is limit-exceeded or context-full. */
realm_status base_fail_limit(realm_error *err, realm_status code, realm_limit limit, uint64_t value, uint64_t retry_after_ns,
                             const char *format, ...) BASE_PRINTF(6, 7);
/* The usual "out of memory" failure, naming what was to be allocated. */
realm_status base_fail_memory(realm_error *err, const char *what, uint64_t bytes);
void base_error_clear(realm_error *err);

/* Each returns false instead of wrapping. */
static inline bool base_add(uint64_t a, uint64_t b, uint64_t *out) {
    *out = a + b;
    return *out >= a;
}
static inline bool base_mul(uint64_t a, uint64_t b, uint64_t *out) {
    *out = a * b;
    return a == 0 || *out / a == b;
}

static inline uint16_t base_u16(const void *p) { uint16_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint32_t base_u32(const void *p) { uint32_t v; memcpy(&v, p, sizeof v); return v; }
static inline uint64_t base_u64(const void *p) { uint64_t v; memcpy(&v, p, sizeof v); return v; }
static inline float base_f32(const void *p) { float v; memcpy(&v, p, sizeof v); return v; }

/* Memory that held a tenant's data: overwritten, which no optimizer leaves out; overwritten and freed; moved to a larger block
 * (NULL when out of memory, the old one kept), the old one overwritten and the rest zeroed. */
void base_wipe(void *p, size_t bytes);
void base_free_wiped(void *p, size_t bytes);
void *base_grow_wiped(void *p, size_t old_bytes, size_t bytes);

/* 64-bit mix for hash tables; seeded so that hostile keys cannot choose their buckets. */
uint64_t base_hash(const void *data, size_t size, uint64_t seed);

#endif
