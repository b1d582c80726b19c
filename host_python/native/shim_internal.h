/* shim_internal.h: what imports.c and pump.c share: the guest's state and access to its memory.
 *
 * Every pointer a guest names is checked in 64 bits against the memory's size of that moment; any call into the guest may move
 * the memory, so addresses are never kept across one.
 */
#ifndef REALM_SHIM_INTERNAL_H
#define REALM_SHIM_INTERNAL_H

#include <stdbool.h>

#include "shim.h"

typedef struct bytes { /* a growing buffer */
    char *data;
    size_t size, cap;
} bytes;

typedef struct slot { /* one request */
    uint32_t handle;
    bool active;     /* started and not ended: is polled */
    bool streaming;
    uint32_t idle_steps; /* output steps in a row without text */
    bool announced;  /* an OUTPUT event is out and its text not yet taken */
    uint64_t emitted; /* bytes since the start */
    uint64_t start_ns, first_ns, end_ns;
    realm_ticket_work work; /* of the tickets it has dropped */
    realm_session_options session; /* of the sessions opened for it; the deadline counted from the start */
    realm_error problem; /* the last failure of an import while it was polled */
    bytes text;
    uint32_t *tokens; /* (token_count,), of the outcome */
    uint32_t token_count;
    bool hurried;     /* counted in the guest's */
    bool keeps_drawn;
    uint32_t likeliest; /* kept behind each drawn token */
    realm_token *drawn; /* in polls of this request, not yet taken */
    uint32_t drawn_count, drawn_cap;
    char *extra; /* (extra_size,), of the outcome */
    uint32_t extra_size;
} slot;

struct shim_guest {
    shim_driver *driver;
    realm_context *ctx;
    shim_guest_options options;
    void *context; /* wasmtime_context_t, NULL on the public way */
    uint64_t memory[SHIM_OBJECT_SIZE / 8];
    uint64_t functions[SHIM_FUNCTIONS][SHIM_OBJECT_SIZE / 8];
    uint32_t present;
    uint8_t *public_base;
    uint64_t public_size;
    uint32_t depth;  /* nested calls into the guest */
    realm_status inner; /* why a call nested in the present one failed: then that is why the whole fails */
    bool starting;   /* inside start: the handle of emitted text is not yet known */
    bool dead;
    bool queued;     /* on the driver's list of guests to poll again */
    realm_error failure;
    realm_error problem; /* what the last import that could fail said, so that people read more than a code */
    const realm_session_options *session; /* of the request that is started or polled; NULL: of none */
    uint64_t session_start_ns;
    slot *slots;
    uint32_t slot_count, slot_cap;
    uint32_t first_slot; /* where its next turn begins */
    uint64_t text_held;
    uint64_t submissions; /* tickets the guest was given */
    uint32_t polled;      /* the request that is polled or cancelled; 0: none */
    uint32_t hurried;     /* running requests whose text somebody waits for, or whose stop strings may end them */
    bytes log;
};

typedef struct view { /* the guest's memory now */
    uint8_t *base;
    uint64_t size;
} view;

view shim_memory(shim_guest *guest);
/* Address of count elements of `size` bytes at ptr, or NULL when they do not lie inside the memory, aligned. */
void *shim_at(shim_guest *guest, uint32_t ptr, uint64_t count, uint32_t size, uint32_t align);
/* Room in the guest by its cabi_realloc; 0 on failure. Nothing is allocated for size 0 (the pointer is then the alignment). */
uint32_t shim_alloc(shim_guest *guest, uint64_t size, uint32_t align);

/* Of memory that held a tenant's text or tokens. */
void shim_free_wiped(void *data, size_t size);
/* The buffer wipes what it leaves behind when it grows. */
bool bytes_append(bytes *to, const void *data, size_t size);
size_t bytes_take(bytes *from, char *out, size_t cap);

slot *shim_slot(shim_guest *guest, uint32_t handle);
slot *shim_add_slot(shim_guest *guest, uint32_t handle);
/* Tokens the guest was just given belong to the request that is being polled, which may want to report them. */
void shim_keep_drawn(shim_guest *guest, const realm_token *tokens, uint32_t count);
void shim_keep_sampled(shim_guest *guest, uint32_t session, const realm_token *token);
/* The guest drops a ticket: what the engine did for it was done for the request that is being polled. */
void shim_keep_work(shim_guest *guest, uint32_t ticket);
uint64_t shim_now_ns(void);

#endif
