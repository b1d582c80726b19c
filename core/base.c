/* base.c: error records, memory that is wiped, hashing. */
#include "base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void write_message(realm_error *err, const char *format, va_list args) {
    vsnprintf(err->message, sizeof err->message, format, args);
    for (char *c = err->message; *c; c++) { /* names from files must not break the one-line promise */
        if ((unsigned char)*c < 0x20) *c = '?';
    }
}

realm_status base_fail(realm_error *err, realm_status code, const char *format, ...) {
    if (err == NULL || err->code != REALM_OK) return code;
    err->code = (int32_t)code;
    va_list args;
    va_start(args, format);
    write_message(err, format, args);
    va_end(args);
    return code;
}

realm_status base_fail_limit(realm_error *err, realm_status code, realm_limit limit, uint64_t value, uint64_t retry_after_ns,
                             const char *format, ...) {
    if (err == NULL || err->code != REALM_OK) return code;
    *err = (realm_error){.code = (int32_t)code, .limit = limit, .limit_value = value, .retry_after_ns = retry_after_ns};
    va_list args;
    va_start(args, format);
    write_message(err, format, args);
    va_end(args);
    return code;
}

realm_status base_fail_memory(realm_error *err, const char *what, uint64_t bytes) {
    return base_fail(err, REALM_E_OUT_OF_MEMORY, "out of memory: %s needs %llu bytes", what, (unsigned long long)bytes);
}

void base_error_clear(realm_error *err) {
    if (err != NULL) *err = (realm_error){0};
}

uint32_t realm_abi_version(void) { return REALM_ABI_VERSION; }

const char *realm_status_name(realm_status status) {
    static const char *const names[] = REALM_STATUS_NAMES;
    return (unsigned)status < REALM_STATUS_COUNT ? names[status] : "unknown";
}

void base_wipe(void *p, size_t bytes) {
    if (p == NULL) return;
    memset(p, 0, bytes);
#if defined(__GNUC__)
    __asm__ volatile("" : : "r"(p) : "memory"); /* somebody may still read it: the stores stay */
#endif
}

void base_free_wiped(void *p, size_t bytes) {
    base_wipe(p, bytes);
    free(p);
}

void *base_grow_wiped(void *p, size_t old_bytes, size_t bytes) {
    char *bigger = malloc(bytes);
    if (bigger == NULL) return NULL;
    if (old_bytes > 0) memcpy(bigger, p, old_bytes);
    memset(bigger + old_bytes, 0, bytes - old_bytes);
    base_free_wiped(p, old_bytes);
    return bigger;
}

const char *realm_limit_name(uint32_t limit) {
    static const char *const names[REALM_LIMIT_COUNT] = {
        "", "sessions", "tickets", "tensor_bytes", "kv_tokens", "context_length", "concurrent_requests", "queue_length",
        "tokens_per_second", "tokens_per_minute", "deadline", "kv_bytes",
    };
    return limit < REALM_LIMIT_COUNT ? names[limit] : "";
}

uint64_t base_hash(const void *data, size_t size, uint64_t seed) {
    const uint8_t *bytes = data;
    uint64_t hash = seed ^ (size * 0x9e3779b97f4a7c15u);
    while (size > 0) { /* eight bytes a round, multiply and fold */
        size_t take = size < 8 ? size : 8;
        uint64_t word = 0;
        memcpy(&word, bytes, take);
        hash = (hash ^ word) * 0xd6e8feb86659fd93u;
        hash ^= hash >> 32;
        bytes += take;
        size -= take;
    }
    hash *= 0xd6e8feb86659fd93u;
    return hash ^ (hash >> 29);
}
