/* orchestrator.c: the standard guest's exports and its table of requests; generate.c does the work.
 *
 * A handle names a slot and how often the slot was used before, so a released handle stays invalid.
 */
#include "generate.h"
#include "support.h"

enum { SLOT_BITS = 6, SLOTS = 1 << SLOT_BITS, SERIALS = 1 << (32 - SLOT_BITS) };

typedef struct slot {
    generation *request; /* NULL: free */
    uint32_t serial;     /* 1 to SERIALS - 1, so that no handle is 0 */
} slot;

static slot slots[SLOTS];

static slot *find_slot(uint32_t handle) {
    slot *found = &slots[handle % SLOTS];
    return found->request && found->serial == handle >> SLOT_BITS ? found : NULL;
}

static generation *find_request(uint32_t handle) {
    slot *found = find_slot(handle);
    return found ? found->request : NULL;
}

static slot *free_slot(void) {
    for (uint32_t i = 0; i < SLOTS; i++)
        if (!slots[i].request) return &slots[i];
    return NULL;
}

/* Starts a request in a free slot; 0 and *error when it cannot. */
static uint32_t start(const realm_request *request, realm_error_code *error) {
    slot *place = free_slot();
    *error = REALM_ERROR_CODE_LIMIT_EXCEEDED;
    if (!place) return 0;
    generation *g = memory_alloc(sizeof *g);
    *error = REALM_ERROR_CODE_OUT_OF_MEMORY;
    if (!g) return 0;
    uint32_t serial = place->serial % (SERIALS - 1) + 1;
    uint32_t handle = serial << SLOT_BITS | (uint32_t)(place - slots);
    if (!generation_open(g, handle, request, error)) {
        memory_free(g);
        return 0;
    }
    *place = (slot){.request = g, .serial = serial};
    generation_begin(g, request);
    return handle;
}

realm_result_u32 *realm_guest_start(realm_request *request) {
    static realm_result_u32 result;
    realm_error_code error;
    uint32_t handle = start(request, &error);
    result = (realm_result_u32){.is_error = handle == 0};
    if (handle) {
        result.ok = handle;
    } else {
        result.error = error;
    }
    scratch_reset();
    return &result;
}

static realm_step step_of(generation *g) {
    bool emitted = g->emitted;
    g->emitted = false;
    if (g->done) return REALM_STEP_DONE;
    return emitted ? REALM_STEP_OUTPUT : REALM_STEP_PENDING;
}

realm_result_step *realm_guest_poll(uint32_t request) {
    static realm_result_step result;
    generation *g = find_request(request);
    result = (realm_result_step){.is_error = !g, .error = REALM_ERROR_CODE_INVALID_HANDLE};
    if (g) {
        generation_poll(g);
        result.ok = step_of(g);
    }
    scratch_reset();
    return &result;
}

realm_result_report *realm_guest_outcome(uint32_t request) {
    static realm_result_report result;
    generation *g = find_request(request);
    result = (realm_result_report){.is_error = !g || !g->done};
    if (!result.is_error) {
        result.ok = (realm_report){.finish = g->finish, .error = g->error, .prompt_tokens = g->prompt_tokens};
        result.ok.tokens = (realm_list_u32){g->tokens, g->token_count};
    } else {
        result.error = g ? REALM_ERROR_CODE_BUSY : REALM_ERROR_CODE_INVALID_HANDLE;
    }
    return &result;
}

void realm_guest_cancel(uint32_t request) {
    generation *g = find_request(request);
    if (g) generation_cancel(g);
    scratch_reset();
}

void realm_guest_release(uint32_t request) {
    slot *place = find_slot(request);
    if (place) {
        generation_close(place->request);
        memory_free(place->request);
        place->request = NULL;
    }
    scratch_reset();
}
