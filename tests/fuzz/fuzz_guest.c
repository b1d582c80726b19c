// sources: guest_src/orchestrator.c guest_src/generate.c guest_src/stop.c guest_src/utf8.c tests/unit/guest_fake_host.c
/* fuzz_guest.c: hostile requests, and a host whose every answer comes from the input, against the standard guest.
 *
 * The input is a program: each step starts, polls, asks, cancels or releases a request; the rest of the bytes are what the
 * host answers (see guest_fake_host.h, which also checks the guest's calls). The guest's allocator is replaced by malloc,
 * so that the sanitizer sees every overrun, and any allocation may fail. At the end nothing may be held.
 */
#include <stdlib.h>
#include <string.h>

#include "../../guest_src/support.h"
#include "../unit/guest_fake_host.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RUNNING = 8, POLLS = 2000 };

static const uint8_t *input;
static size_t input_size, input_at;

static uint8_t input_byte(void) {
    return input_at < input_size ? input[input_at++] : 0;
}

static uint32_t input_u32(void) {
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) value = value << 8 | input_byte();
    return value;
}

/* ---- the guest's memory, by malloc ---- */

static size_t blocks_used;
static uint32_t allocations_left; /* before one fails; 0: none does */

static bool allocation_fails(void) {
    return allocations_left && --allocations_left == 0;
}

void *memory_alloc(size_t size) {
    void *memory = allocation_fails() ? NULL : malloc(size ? size : 1);
    blocks_used += memory != NULL;
    return memory;
}

void *memory_resize(void *memory, size_t size) {
    if (!memory) return memory_alloc(size);
    return allocation_fails() ? NULL : realloc(memory, size ? size : 1);
}

void memory_free(void *memory) {
    blocks_used -= memory != NULL;
    free(memory);
}

static void *scratch[4096];
static size_t scratch_count;

void *scratch_alloc(size_t size) {
    if (scratch_count == sizeof scratch / sizeof *scratch) scratch_reset();
    void *memory = allocation_fails() ? NULL : malloc(size ? size : 1);
    if (memory) scratch[scratch_count++] = memory;
    return memory;
}

void scratch_reset(void) {
    while (scratch_count) free(scratch[--scratch_count]);
}

void bytes_copy(void *to, const void *from, size_t size) {
    if (size) memcpy(to, from, size);
}

/* ---- requests ---- */

static uint8_t *input_bytes(size_t size) {
    uint8_t *bytes = scratch_alloc(size);
    for (size_t i = 0; bytes && i < size; i++) bytes[i] = input_byte();
    return bytes;
}

/* Stop strings as they should be, of few letters so that they are met; or any bytes. */
static realm_list_u8 input_stops(void) {
    uint8_t shape = input_byte();
    if (shape >= 128) {
        size_t size = shape % 64;
        return (realm_list_u8){input_bytes(size), size};
    }
    size_t count = shape % 5, size = 0;
    uint8_t *encoded = scratch_alloc(count * 8);
    for (size_t i = 0; encoded && i < count; i++) {
        uint8_t length = 1 + input_byte() % 4;
        memcpy(encoded + size, (const uint8_t[4]){length}, 4);
        for (uint8_t k = 0; k < length; k++) encoded[size + 4 + k] = 'a' + input_byte() % 2;
        size += 4 + (size_t)length;
    }
    return (realm_list_u8){encoded, size};
}

static realm_list_bias input_biases(void) {
    size_t count = input_byte();
    if (count == 255) count = 2000;
    realm_bias *biases = scratch_alloc(count * sizeof *biases);
    for (size_t i = 0; biases && i < count; i++) biases[i] = (realm_bias){.token = (uint32_t)(i % 256), .value = 1.0f};
    return (realm_list_bias){biases, count};
}

static uint32_t start(void) {
    realm_request *request = scratch_alloc(sizeof *request);
    if (!request) return 0;
    memset(request, 0, sizeof *request);
    uint8_t shape = input_byte();
    request->mode = shape % 4; /* 3 does not exist */
    request->add_special = (shape & 4) != 0;
    request->params.ignore_end = (shape & 8) != 0;
    request->max_tokens = shape & 16 ? input_u32() : input_byte();
    size_t prompt_size = shape & 32 ? input_byte() : 3;
    request->prompt = (realm_list_u8){input_bytes(prompt_size), prompt_size};
    request->stops = input_stops();
    request->biases = input_biases();
    bool whole = request->prompt.ptr && request->stops.ptr && request->biases.ptr;
    size_t stops_size = request->stops.len;
    uint8_t *stops = whole ? malloc(stops_size + 1) : NULL; /* the guest frees its own */
    if (!stops) {
        scratch_reset();
        return 0;
    }
    if (stops_size) memcpy(stops, request->stops.ptr, stops_size);
    realm_result_u32 result = *realm_guest_start(request);
    fake_check(!result.is_error || result.error <= REALM_ERROR_CODE_INTERNAL, "an error code");
    if (!result.is_error) fake_expect_stops(result.ok, stops, stops_size);
    free(stops);
    return result.is_error ? 0 : result.ok;
}

static void check_outcome(uint32_t handle) {
    realm_result_report outcome = *realm_guest_outcome(handle);
    uint32_t sum = 0;
    if (outcome.is_error) return;
    fake_check(outcome.ok.finish <= REALM_FINISH_FAILED, "a finish that does not exist");
    for (size_t i = 0; i < outcome.ok.tokens.len; i++) sum += outcome.ok.tokens.ptr[i] < 256;
    fake_check(sum == outcome.ok.tokens.len, "tokens that were not sampled");
}

static void release(uint32_t *handle) {
    realm_guest_release(*handle);
    fake_forget(*handle);
    *handle = 0;
}

static void step(uint32_t *handle) {
    switch (input_byte() % 16) {
    case 0:
        realm_guest_cancel(*handle);
        break;
    case 1:
        check_outcome(*handle);
        break;
    case 2:
        release(handle);
        break;
    case 3:
        realm_guest_poll(input_u32());
        break;
    default:
        if (*handle == 0) *handle = start();
        else realm_guest_poll(*handle);
    }
}

/* The input is used up: zeros let what still runs end (a request that ignores end tokens is cancelled). */
static void end(uint32_t *handle) {
    for (int i = 0; *handle && i < POLLS; i++)
        if (realm_guest_poll(*handle)->ok == REALM_STEP_DONE) break;
    realm_guest_cancel(*handle);
    fake_check(realm_guest_poll(*handle)->ok == REALM_STEP_DONE, "a cancelled request is done");
    check_outcome(*handle);
    release(handle);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t running[RUNNING] = {0};
    input = data;
    input_size = size;
    input_at = 0;
    fake_byte = input_byte;
    allocations_left = input_byte();
    while (input_at < input_size) step(&running[input_byte() % RUNNING]);
    allocations_left = 0;
    for (int i = 0; i < RUNNING; i++)
        if (running[i]) end(&running[i]);
    fake_check(blocks_used == 0 && scratch_count == 0, "memory is held");
    fake_check(fake_open_handles() == 0, "a session or ticket is held");
    return 0;
}
