/* shim.h: the native half of the Python host, between wasmtime, the guests and the core.
 *
 * The guest's imports run here as C (imports.c lowers them by the canonical ABI onto realm.h), and so does the loop that waits
 * for completed tickets and polls the guests they belong to (pump.c): Python sees finished requests and streamed text, never a
 * token step. Nothing links to wasmtime: its C functions come as addresses, from the library Python has already loaded.
 *
 * Two ways lead into a guest. Native: wasmtime's unchecked calls, whose layouts Python verifies at start. Public: `call`, a
 * function of the host that uses wasmtime's public Python interface; then imports come in through shim_import.
 *
 * A driver and its guests are used by one thread at a time (the pump), but for shim_guest_create and shim_guest_bind, which run
 * in the thread that makes the realm. While a guest is in a C call no other thread may touch it.
 */
#ifndef REALM_SHIM_H
#define REALM_SHIM_H

#include "realm.h"

/* wasmtime_val_raw_t: 16 bytes, the value in the first ones, little-endian. */
typedef union shim_value {
    int32_t i32;
    uint32_t u32;
    int64_t i64;
    uint64_t u64;
    float f32;
    uint64_t whole[2];
} shim_value;

/* Addresses of wasmtime's C interface; pointers to its objects are void. */
typedef struct shim_wasmtime {
    void *(*func_call_unchecked)(void *context, const void *func, shim_value *values, size_t count, void **trap);
    void *(*caller_context)(void *caller);
    void *(*context_get_data)(void *context);
    void (*context_set_data)(void *context, void *data);
    void (*context_set_epoch_deadline)(void *context, uint64_t ticks);
    uint8_t *(*memory_data)(void *context, const void *memory);
    size_t (*memory_data_size)(void *context, const void *memory);
    void *(*trap_new)(const char *message, size_t size);
    int8_t (*trap_code)(const void *trap, uint8_t *code);
    void (*trap_message)(const void *trap, void *out);
    void (*trap_delete)(void *trap);
    void (*error_message)(const void *error, void *out);
    void (*error_delete)(void *error);
    void (*byte_vec_delete)(void *bytes);
    uint64_t trap_interrupt; /* trap codes */
    uint64_t trap_unreachable;
} shim_wasmtime;

/* The guest's exports the shim calls. */
enum { SHIM_REALLOC, SHIM_START, SHIM_POLL, SHIM_OUTCOME, SHIM_CANCEL, SHIM_RELEASE, SHIM_POST_OUTCOME, SHIM_FUNCTIONS };

enum { SHIM_OBJECT_SIZE = 32 }; /* room for a wasmtime_func_t or wasmtime_memory_t; Python checks that it is enough */

typedef struct shim_driver shim_driver;
typedef struct shim_guest shim_guest;

/* The public way into a guest: calls export `function`, writes its result to values[0], and tells where the guest's memory is
 * now by shim_guest_set_memory. Returns REALM_OK or why the guest failed. */
typedef int32_t (*shim_public_call)(uint64_t tag, uint32_t function, shim_value *values, uint32_t count);

REALM_API realm_status shim_driver_create(realm_runtime *rt, shim_driver **out);
/* Before the first guest: how guests are entered. Either api or call is given; neither is copied, both outlive the driver. */
REALM_API void shim_driver_connect(shim_driver *driver, const shim_wasmtime *api, shim_public_call call);
/* After all its guests. */
REALM_API void shim_driver_destroy(shim_driver *driver);

typedef struct shim_guest_options {
    uint64_t tag;           /* low half: an index chosen by the host, unique among living guests and small; high half: a serial */
    uint64_t tenant;
    realm_limits limits;
    uint64_t epoch_ticks;   /* how long one call into the guest may run */
    uint64_t memory_bytes;  /* the store's limit, to tell why a guest failed */
    uint64_t text_bytes;    /* most text not yet taken, over all requests */
} shim_guest_options;

REALM_API realm_status shim_guest_create(shim_driver *driver, const shim_guest_options *options, shim_guest **out,
                                         realm_error *err);
/* Before instantiation: lets the imports of this store find the guest. Public way: context is NULL. */
REALM_API void shim_guest_attach(shim_guest *guest, void *context);
/* After instantiation: the exported memory and the SHIM_FUNCTIONS functions, SHIM_OBJECT_SIZE bytes each; present has a bit for each
 * function there is. */
REALM_API void shim_guest_bind(shim_guest *guest, const uint8_t *memory, const uint8_t *functions, uint32_t present);
REALM_API void shim_guest_set_memory(shim_guest *guest, uint8_t *base, uint64_t size);
/* Around a call into the guest that the host makes itself: one deadline holds for it and for all that it calls in turn. */
REALM_API void shim_guest_enter(shim_guest *guest);
/* Returns why an allocation inside that call failed, or REALM_OK. */
REALM_API realm_status shim_guest_leave(shim_guest *guest);
REALM_API realm_context *shim_guest_context(shim_guest *guest);
/* Cancels all and frees the context. The caller deletes the store afterwards. */
REALM_API void shim_guest_destroy(shim_guest *guest);
/* The one readable line of the guest's last failure, and its status. */
REALM_API realm_status shim_guest_failure(shim_guest *guest, realm_error *out);
/* 1 once a call into the guest has trapped: it is never entered again. */
REALM_API int32_t shim_guest_is_dead(shim_guest *guest);

typedef struct shim_request {
    uint32_t model;
    uint32_t add_special;
    uint32_t parse_special;
    uint32_t max_tokens;
    uint32_t mode;
    uint32_t streaming; /* 1: SHIM_OUTPUT events tell of new text */
    uint32_t priority;  /* of the sessions the guest opens for this request */
    uint32_t reserved;
    uint64_t deadline_ns; /* from the start; 0: none */
    uint32_t keep_drawn; /* 1: tokens drawn for the request are kept for shim_take_drawn */
    uint32_t keep_likeliest; /* so many of the likeliest tokens are kept behind each; then only those that the guest samples */
    const char *prompt;
    uint64_t prompt_size;
    const char *stops;
    uint64_t stops_size;
    const char *extra;
    uint64_t extra_size;
    realm_sampling params;
} shim_request;

/* Starts a request in the guest; its first poll happens at once in the next shim_pump. */
REALM_API realm_status shim_start(shim_guest *guest, const shim_request *request, uint32_t *handle, realm_error *err);
/* Asks the guest to end a request; it ends with an event as usual. */
REALM_API realm_status shim_cancel(shim_guest *guest, uint32_t handle, realm_error *err);
/* Moves out the text emitted since the last call. Returns the size there was, writes at most cap. Text beyond cap stays. */
REALM_API size_t shim_take_text(shim_guest *guest, uint32_t handle, char *out, size_t cap);

/* Moves out the tokens drawn since the last call, with their log probabilities. Returns how many there were, writes at most cap. */
REALM_API uint32_t shim_take_drawn(shim_guest *guest, uint32_t handle, realm_token *out, uint32_t cap);

typedef struct shim_outcome {
    uint32_t finish;
    uint32_t error;         /* a realm_status */
    const char *message;    /* what the host said with that error, "" when it said nothing; valid as the tokens are */
    uint32_t limit;         /* the rest as in realm_error, where the message says more than the code */
    uint32_t prompt_tokens;
    uint64_t limit_value;
    uint64_t retry_after_ns;
    uint32_t token_count;
    const uint32_t *tokens; /* valid until the request is released */
    const char *extra;
    uint64_t extra_size;
    uint64_t first_ns;      /* from the start to the first emitted text, 0 when there was none */
    uint64_t total_ns;      /* from the start to the end */
    realm_ticket_work work; /* what the engine did for the request, all its tickets together */
} shim_outcome;

REALM_API realm_status shim_get_outcome(shim_guest *guest, uint32_t handle, shim_outcome *out, realm_error *err);
REALM_API void shim_release(shim_guest *guest, uint32_t handle);
/* Text of the guest's log import: a level digit, the text, a newline, repeated. As shim_take_text. */
REALM_API size_t shim_take_log(shim_guest *guest, char *out, size_t cap);

enum shim_event_kind {
    SHIM_OUTPUT = 1, /* new text of a streaming request */
    SHIM_DONE = 2,   /* ask for the outcome */
    SHIM_FAILED = 3, /* the guest refused or stalled; code says why. The guest lives on */
    SHIM_DEAD = 4,   /* the guest trapped or ran out of time or memory: all its requests failed, throw it away */
    SHIM_TICKET = 5, /* a ticket of a context that is no guest's; request is the ticket, code its state */
};

typedef struct shim_event {
    uint64_t tag;
    uint32_t kind;
    uint32_t request;
    int32_t code;
    uint32_t has_log; /* 1: the guest has written to its log */
} shim_event;

/* Waits for completed tickets, polls their guests, and returns as soon as there is something to tell, after timeout_ns, or
 * after shim_wake. Returns how many events were written. */
REALM_API uint32_t shim_pump(shim_driver *driver, uint64_t timeout_ns, shim_event *out, uint32_t cap);
/* Makes shim_pump return soon, however busy it is. From any thread. */
REALM_API void shim_wake(shim_driver *driver);

/* ---- imports: how Python defines them in a wasmtime linker ---- */

typedef struct shim_import_info {
    const char *name;       /* in the module shim_import_module() */
    const char *parameters; /* one letter each: i i32, l i64, f f32 */
    uint32_t has_result;    /* 1: returns an i32 */
} shim_import_info;

/* The module of all imports, and the name of export SHIM_REALLOC ... SHIM_POST_OUTCOME. */
REALM_API const char *shim_import_module(void);
REALM_API const char *shim_export_name(uint32_t function);
REALM_API uint32_t shim_import_count(void);
REALM_API const shim_import_info *shim_import_at(uint32_t index);
typedef struct shim_binding {
    const shim_wasmtime *api;
    uint64_t index;
} shim_binding;
/* A wasmtime_func_unchecked_callback_t for every import; env is a shim_binding that outlives the linker. */
REALM_API void *shim_callback(void *env, void *caller, shim_value *values, size_t count);
/* The public way: runs import `index`. Returns NULL, or why the guest has to trap. */
REALM_API const char *shim_import(shim_guest *guest, uint32_t index, shim_value *values);
/* A wasmtime_func_unchecked_callback_t (i32, i64, f32) -> i32 by which Python checks the unchecked calls at start. */
REALM_API void *shim_probe(void *env, void *caller, shim_value *values, size_t count);

#endif
