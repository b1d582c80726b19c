// sources: guest_src/*.c tests/unit/guest_fake_host.c
/* test_guest_native.c: the guest under the sanitizers: its allocator, thousands of requests, memory that runs out. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../guest_src/support.h"
#include "guest_fake_host.h"

static _Alignas(16) unsigned char region[1 << 18];
static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t limit) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % limit;
}

/* ---- the allocator ---- */

typedef struct held {
    unsigned char *memory;
    size_t size;
    unsigned char mark;
} held;

static void check_marks(const held *block) {
    for (size_t i = 0; i < block->size; i++) fake_check(block->memory[i] == block->mark, "blocks overlap");
}

static void replace(held *block) {
    size_t size = random_below(8) ? random_below(200) : random_below(4000);
    if (block->memory && random_below(2)) {
        size_t kept = size < block->size ? size : block->size;
        block->memory = memory_resize(block->memory, size);
        fake_check(block->memory != NULL, "memory_resize");
        block->size = kept;
        check_marks(block);
    } else {
        memory_free(block->memory);
        block->memory = memory_alloc(size);
    }
    fake_check(block->memory && (uintptr_t)block->memory % 8 == 0, "memory_alloc");
    block->size = size;
    block->mark = (unsigned char)random_below(256);
    memset(block->memory, block->mark, size);
}

static void test_allocator(void) {
    static held blocks[50];
    memory_use_region(region, sizeof region);
    for (int i = 0; i < 200000; i++) {
        held *block = &blocks[random_below(50)];
        if (block->memory) check_marks(block);
        replace(block);
    }
    for (int i = 0; i < 50; i++) memory_free(blocks[i].memory);
    fake_check(memory_used() == 0, "bytes in use after all was freed");
    void *whole = memory_alloc(sizeof region - 64);
    fake_check(whole != NULL, "freed neighbours are joined");
    memory_free(whole);
    fake_check(memory_alloc(sizeof region) == NULL && memory_alloc(SIZE_MAX) == NULL, "more than there is");
}

/* ---- requests ---- */

static uint8_t random_byte(void) {
    return (uint8_t)random_below(256);
}

static void *scratch_copy(const void *data, size_t size) {
    void *memory = fake_guest_memory(size);
    if (memory && size) memcpy(memory, data, size);
    return memory;
}

/* Starts a request of random shape; 0 when it was refused. */
static uint32_t start_random(size_t prompt_size) {
    static const uint8_t stops[] = {2, 0, 0, 0, 'a', 'b', 1, 0, 0, 0, 'z', 3, 0, 0, 0, 0xE2, 0x82, 0xAC};
    static const realm_bias biases[3] = {{1, 0.5f}, {2, -1.0f}, {3, 2.0f}};
    static uint8_t prompt[3000];
    realm_request *request = scratch_copy(&(realm_request){0}, sizeof *request);
    if (!request) return 0;
    size_t stops_size = random_below(2) ? sizeof stops : 0;
    request->mode = (realm_mode)random_below(3);
    request->max_tokens = random_below(200);
    request->add_special = true;
    request->prompt = (realm_list_u8){scratch_copy(prompt, prompt_size), prompt_size};
    request->stops = (realm_list_u8){scratch_copy(stops, stops_size), stops_size};
    request->biases = (realm_list_bias){scratch_copy(biases, sizeof biases), 3};
    if (!request->prompt.ptr || !request->stops.ptr || !request->biases.ptr) {
        scratch_reset();
        return 0;
    }
    realm_result_u32 result = *realm_guest_start(request);
    if (result.is_error) {
        fake_check(result.error == REALM_ERROR_CODE_OUT_OF_MEMORY, "a good request is refused");
        return 0;
    }
    fake_expect_stops(result.ok, stops, stops_size);
    return result.ok;
}

/* Checks the end of a request and releases it; true when memory ran out. */
static bool finish(uint32_t handle) {
    realm_result_report outcome = *realm_guest_outcome(handle);
    fake_check(!outcome.is_error && outcome.ok.finish <= REALM_FINISH_FAILED, "an outcome");
    fake_check(outcome.ok.tokens.len <= 200, "more tokens than asked for");
    bool exhausted = outcome.ok.finish == REALM_FINISH_FAILED && outcome.ok.error == REALM_ERROR_CODE_OUT_OF_MEMORY;
    realm_guest_post_outcome(NULL);
    realm_guest_release(handle);
    fake_forget(handle);
    fake_check(realm_guest_poll(handle)->is_error, "a released handle is invalid");
    return exhausted;
}

/* Moves one of the running requests on, or ends it in one of the ways requests end. */
static void touch(uint32_t *handle) {
    if (*handle == 0) {
        *handle = start_random(random_below(3000));
        fake_check(*handle != 0, "no memory left for a request");
        return;
    }
    if (random_below(100) == 0) realm_guest_cancel(*handle);
    if (random_below(200) == 0) {
        realm_guest_release(*handle);
        fake_forget(*handle);
        *handle = 0;
        return;
    }
    realm_result_step step = *realm_guest_poll(*handle);
    fake_check(!step.is_error, "poll of a running request");
    if (step.ok != REALM_STEP_DONE) return;
    finish(*handle);
    *handle = 0;
}

static void test_memory_is_used_again(void) {
    uint32_t running[6] = {0};
    uint32_t ended = 0;
    memory_use_region(region, sizeof region); /* 256 KiB for all 10,000 requests */
    fake_byte = random_byte;
    while (ended < 10000) {
        uint32_t *handle = &running[random_below(6)];
        bool was = *handle != 0;
        touch(handle);
        ended += was && *handle == 0;
    }
    for (int i = 0; i < 6; i++) {
        realm_guest_release(running[i]);
        fake_forget(running[i]);
    }
    fake_check(memory_used() == 0 && fake_open_handles() == 0, "something is held after all requests");
}

/* Every size of memory: whatever allocation fails, the request ends or is refused, and nothing is held. */
static void test_memory_runs_out(void) {
    uint32_t refused = 0, exhausted = 0;
    fake_byte = random_byte;
    for (size_t size = 256; size < 16000; size += 8) {
        memory_use_region(region, size);
        uint32_t handle = start_random(500);
        refused += handle == 0;
        while (handle && realm_guest_poll(handle)->ok != REALM_STEP_DONE) continue;
        if (handle) exhausted += finish(handle);
        fake_check(memory_used() == 0 && fake_open_handles() == 0, "something is held");
    }
    fake_check(refused > 0 && exhausted > 0, "memory did not run out");
}

int main(void) {
    test_allocator();
    test_memory_is_used_again();
    test_memory_runs_out();
    puts("guest: allocator, 10000 requests, memory that runs out");
    return 0;
}
