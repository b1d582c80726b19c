/* addon.h: what the files of the Node addon share.
 *
 * An environment (the main thread or a worker) has its own `addon_env` with a table of handles; runtimes and loaded models belong
 * to the process and are counted (addon_process.c). JavaScript names objects by numbers of its environment's table, so a
 * number that is stale or foreign names nothing, and closing twice is harmless. Functions that are called for every token return
 * a number, negative for a failed status; all others throw an Error with a `code`.
 */
#ifndef REALM_ADDON_H
#define REALM_ADDON_H

#define NAPI_VERSION 8
#include <node_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "platform/platform.h"
#include "realm.h"

enum { ADDON_MAX_ARGUMENTS = 7 };

typedef struct addon_env addon_env;
typedef struct addon_runtime addon_runtime;
typedef struct addon_model addon_model;

/* ---- the process: addon_process.c ---- */

struct addon_runtime {
    realm_runtime *rt;
    realm_runtime_options options;
    uint32_t users;
    addon_runtime *next;
};

struct addon_model {
    realm_model *model;
    addon_runtime *runtime;
    char *key; /* which file under which options */
    uint32_t users;
    addon_model *next;
};

/* The runtime of these options, made when the process has none. Release it once. */
realm_status addon_runtime_acquire(const realm_runtime_options *options, addon_runtime **out, realm_error *err);
void addon_runtime_retain(addon_runtime *runtime);
void addon_runtime_release(addon_runtime *runtime);

/* The process's model under this key, or NULL. Release it once. */
addon_model *addon_model_find(addon_runtime *runtime, const char *key);
/* Takes over a loaded model; when another environment was faster, its model is handed out and this one closed. NULL: no memory. */
addon_model *addon_model_keep(addon_runtime *runtime, realm_model *model, const char *key);
void addon_model_retain(addon_model *model);
void addon_model_release(addon_model *model);

/* ---- environments ---- */

typedef enum object_kind { OBJECT_FREE, OBJECT_RUNTIME, OBJECT_LOADER, OBJECT_MODEL, OBJECT_CONTEXT } object_kind;

typedef struct object {
    object_kind kind;
    uint32_t generation;
    void *pointer;
} object;

typedef struct addon_event {
    uint64_t serial; /* of a context */
    uint32_t ticket;
} addon_event;

struct addon_env {
    napi_env env;
    napi_threadsafe_function post;
    uint32_t number;     /* in the high bits of the tags of its contexts */
    object *objects;
    uint32_t object_count, object_cap;
    uint32_t free_hint;  /* no free entry below */
    /* completions that JavaScript has not taken; under the process's lock */
    addon_event *queue;
    uint32_t queue_count, queue_cap;
    uint32_t unhandled;  /* posted, and JavaScript has not come back from them; one more while it is submitting */
    bool posted, lost;
    addon_env *next;
};

realm_status addon_env_join(addon_env *self); /* makes the environment known to the runtimes */
void addon_env_leave(addon_env *self);        /* after this no runtime touches it */
/* Takes the queue, and whether events were lost for want of memory. The caller frees it. */
addon_event *addon_env_take(addon_env *self, uint32_t *count, bool *lost);
/* Nobody is to hear of a context's ticket any more (0: of none of its tickets). */
void addon_env_forget(addon_env *self, uint64_t serial, uint32_t ticket);
/* JavaScript submits work that is to start together; addon_env_handled(self, 1) ends that. */
void addon_env_announce(addon_env *self);
/* Says that JavaScript has acted on `count` completions. */
void addon_env_handled(addon_env *self, uint32_t count);

#define ADDON_SERIAL_BITS 48
uint64_t addon_tag(const addon_env *self, uint64_t serial);

/* ---- values: addon_values.c ---- */

typedef struct call { /* one call from JavaScript */
    napi_env env;
    addon_env *self;
    size_t count;
    napi_value values[ADDON_MAX_ARGUMENTS];
} call;

bool call_begin(call *c, napi_env env, napi_callback_info info);
uint32_t call_u32(const call *c, size_t index); /* 0 when it is no number */
double call_number(const call *c, size_t index);
uint64_t call_u64(const call *c, size_t index); /* of a BigInt */
/* The elements of a typed array of this type; NULL and an exception when it is none. Never NULL for an empty one. */
const void *call_array(const call *c, size_t index, napi_typedarray_type type, size_t *count);
/* A string in memory of its own, or NULL and an exception. */
char *call_string(const call *c, size_t index);

napi_value addon_throw(napi_env env, realm_status status, const char *message);
napi_value addon_throw_error(napi_env env, const realm_error *err);
napi_value addon_number(napi_env env, double value);
napi_value addon_status(napi_env env, realm_status status); /* 0, or its negative */
/* A typed array with a copy of the elements; `data` may be NULL for zeros. */
napi_value addon_array(napi_env env, napi_typedarray_type type, const void *data, size_t count, void **out);
napi_value addon_text(napi_env env, const char *data, size_t size);
void addon_set(napi_env env, napi_value target, const char *name, napi_value value);
void addon_set_number(napi_env env, napi_value target, const char *name, double value);

/* Handles: a number for an object, and back. `find` returns NULL for one that was closed or is of another kind. */
double addon_put(addon_env *self, object_kind kind, void *pointer); /* 0: no memory */
void *addon_find(const call *c, size_t index, object_kind kind);
void *addon_remove(const call *c, size_t index, object_kind kind);

/* ---- what JavaScript can call ---- */

typedef struct addon_function {
    const char *name;
    napi_callback run;
} addon_function;

extern const addon_function ADDON_MODEL_FUNCTIONS[];   /* addon_model.c; ends with a NULL name */
extern const addon_function ADDON_CONTEXT_FUNCTIONS[]; /* addon_context.c */

typedef struct addon_loader addon_loader;
void addon_loader_free(addon_loader *loader);
typedef struct addon_context addon_context;
void addon_context_free(addon_context *context);

#endif
