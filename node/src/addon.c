/* addon.c: the Node addon: its functions' table, and the life of an environment.
 *
 * Completions reach JavaScript through one thread-safe function of the environment, which hands over everything that has come
 * in since; it keeps the event loop alive only while JavaScript asks for that.
 */
#include <stdlib.h>

#include "addon.h"

/* ---- completions ---- */

enum { TOLD_AT_ONCE = 32 }; /* completions of one call into JavaScript */

static void call_back(napi_env env, napi_value callback, const addon_event *events, uint32_t count) {
    napi_value receiver, result, serials[TOLD_AT_ONCE];
    for (uint32_t i = 0; i < count; i++) {
        serials[i] = addon_number(env, (double)events[i].serial);
        if (!serials[i]) return;
    }
    if (napi_get_undefined(env, &receiver) != napi_ok) return;
    (void)napi_call_function(env, receiver, callback, count, serials, &result);
}

static void deliver(napi_env env, napi_value callback, void *context, void *data) {
    addon_env *self = context;
    (void)data;
    if (!env || !callback) return; /* the environment is going down */
    uint32_t count;
    bool lost;
    addon_event *events = addon_env_take(self, &count, &lost);
    if (lost) call_back(env, callback, NULL, 0);
    for (uint32_t done = 0, part; !lost && done < count; done += part) {
        part = count - done < TOLD_AT_ONCE ? count - done : TOLD_AT_ONCE;
        call_back(env, callback, events + done, part);
    }
    free(events);
    addon_env_handled(self, count);
}

static void tear_down(void *argument);

/* (callback): called with the serials of contexts whose tickets moved; with none, when events were lost. The clean-up is registered after the thread-safe function,
 * so that it runs before that function goes. */
static napi_value listen(napi_env env, napi_callback_info info) {
    call c;
    napi_value name;
    if (!call_begin(&c, env, info)) return NULL;
    if (c.self->post) return addon_throw(env, REALM_E_BUSY, "a listener is there already");
    (void)napi_create_string_utf8(env, "realm", NAPI_AUTO_LENGTH, &name);
    napi_status made = napi_create_threadsafe_function(env, c.values[0], NULL, name, 0, 1, NULL, NULL, c.self, deliver, &c.self->post);
    if (made != napi_ok) return addon_throw(env, REALM_E_INVALID_ARGUMENT, "the listener must be a function");
    (void)napi_unref_threadsafe_function(env, c.self->post);
    if (addon_env_join(c.self) != REALM_OK || napi_add_env_cleanup_hook(env, tear_down, c.self) != napi_ok) {
        return addon_throw(env, REALM_E_OUT_OF_MEMORY, "no memory for the environment");
    }
    return NULL;
}

/* (wanted): whether the event loop stays alive for completions */
static napi_value keep_alive(napi_env env, napi_callback_info info) {
    call c;
    bool wanted = false;
    if (!call_begin(&c, env, info) || !c.self->post || c.count < 1) return NULL;
    (void)napi_get_value_bool(env, c.values[0], &wanted);
    if (wanted) (void)napi_ref_threadsafe_function(env, c.self->post);
    else (void)napi_unref_threadsafe_function(env, c.self->post);
    return NULL;
}

/* (begins): JavaScript begins, or has ended, submitting work that is to start together */
static napi_value submitting(napi_env env, napi_callback_info info) {
    call c;
    bool begins = false;
    if (!call_begin(&c, env, info) || !c.self->post || c.count < 1) return NULL;
    (void)napi_get_value_bool(env, c.values[0], &begins);
    if (begins) addon_env_announce(c.self);
    else addon_env_handled(c.self, 1);
    return NULL;
}

/* ---- runtimes ---- */

/* (threads, features, executor, batchRows, kvBytes) */
static napi_value runtime_open(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    if (!c.self->post) return addon_throw(env, REALM_E_INVALID_ARGUMENT, "listen must be called first");
    realm_runtime_options options = {
        .threads = call_u32(&c, 0), .features = call_u32(&c, 1), .executor = call_u32(&c, 2), .batch_rows = call_u32(&c, 3),
        .kv_bytes = (uint64_t)call_number(&c, 4),
    };
    realm_error err;
    addon_runtime *runtime;
    if (addon_runtime_acquire(&options, &runtime, &err) != REALM_OK) return addon_throw_error(env, &err);
    double handle = addon_put(c.self, OBJECT_RUNTIME, runtime);
    if (handle != 0) return addon_number(env, handle);
    addon_runtime_release(runtime);
    return addon_throw(env, REALM_E_OUT_OF_MEMORY, "no memory for another runtime");
}

static napi_value runtime_close(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    addon_runtime *runtime = addon_remove(&c, 0, OBJECT_RUNTIME);
    if (runtime) addon_runtime_release(runtime);
    return NULL;
}

/* The first argument of a call; NULL after an error was thrown. */
static const addon_runtime *runtime_of(call *c, napi_env env, napi_callback_info info) {
    if (!call_begin(c, env, info)) return NULL;
    const addon_runtime *runtime = addon_find(c, 0, OBJECT_RUNTIME);
    if (!runtime) (void)addon_throw(env, REALM_E_CLOSED, "this runtime was closed");
    return runtime;
}

static napi_value runtime_stats(napi_env env, napi_callback_info info) {
    call c;
    napi_value made;
    const addon_runtime *runtime = runtime_of(&c, env, info);
    if (!runtime) return NULL;
    if (napi_create_object(env, &made) != napi_ok) return NULL;
    realm_runtime_stats stats;
    realm_runtime_get_stats(runtime->rt, &stats);
    addon_set(env, made, "kernels", addon_text(env, realm_runtime_kernels(runtime->rt), NAPI_AUTO_LENGTH));
    addon_set_number(env, made, "threads", realm_runtime_threads(runtime->rt));
    addon_set_number(env, made, "steps", (double)stats.steps);
    addon_set_number(env, made, "rows", (double)stats.rows);
    addon_set_number(env, made, "stepNanoseconds", (double)stats.step_ns);
    addon_set_number(env, made, "prefixHits", (double)stats.prefix_hits);
    addon_set_number(env, made, "kvBytesUsed", (double)stats.kv_bytes_used);
    addon_set_number(env, made, "kvBytesLimit", (double)stats.kv_bytes_limit);
    return made;
}

/* Object of counts: refused work by the limit's name. */
static napi_value refusals(napi_env env, const addon_runtime *runtime, uint64_t tenant) {
    napi_value made;
    if (napi_create_object(env, &made) != napi_ok) return NULL;
    for (uint32_t kind = 1; *realm_limit_name(kind); kind++) {
        uint64_t count = realm_tenant_refused(runtime->rt, tenant, kind);
        if (count) addon_set_number(env, made, realm_limit_name(kind), (double)count);
    }
    return made;
}

/* (runtime, tenant) */
static napi_value tenant_stats(napi_env env, napi_callback_info info) {
    call c;
    napi_value made;
    const addon_runtime *runtime = runtime_of(&c, env, info);
    if (!runtime) return NULL;
    if (napi_create_object(env, &made) != napi_ok) return NULL;
    realm_tenant_stats stats;
    realm_tenant_get_stats(runtime->rt, call_u64(&c, 1), &stats);
    addon_set_number(env, made, "running", (double)stats.running);
    addon_set_number(env, made, "queued", (double)stats.queued);
    addon_set_number(env, made, "sessions", (double)stats.sessions);
    addon_set_number(env, made, "kvTokens", (double)stats.kv_tokens);
    addon_set_number(env, made, "requests", (double)stats.requests);
    addon_set_number(env, made, "tokensPrompt", (double)stats.tokens_prompt);
    addon_set_number(env, made, "tokensGenerated", (double)stats.tokens_generated);
    addon_set_number(env, made, "waitedNs", (double)stats.waited_ns);
    addon_set_number(env, made, "retryAfterNs", (double)stats.retry_after_ns);
    addon_set(env, made, "refused", refusals(env, runtime, call_u64(&c, 1)));
    return made;
}

/* (runtime, bytes, repeats) -> bytes per second; computes in this thread */
static napi_value read_bandwidth(napi_env env, napi_callback_info info) {
    call c;
    const addon_runtime *runtime = runtime_of(&c, env, info);
    if (!runtime) return NULL;
    return addon_number(env, realm_bench_read_bandwidth(runtime->rt, (uint64_t)call_number(&c, 1), call_u32(&c, 2)));
}

static const addon_function RUNTIME_FUNCTIONS[] = {
    {"listen", listen},
    {"keepAlive", keep_alive},
    {"submitting", submitting},
    {"runtimeOpen", runtime_open},
    {"runtimeClose", runtime_close},
    {"runtimeStats", runtime_stats},
    {"tenantStats", tenant_stats},
    {"readBandwidth", read_bandwidth},
    {NULL, NULL},
};

/* ---- the environment ---- */

static void free_object(const object *entry) {
    if (entry->kind == OBJECT_CONTEXT) addon_context_free(entry->pointer);
    else if (entry->kind == OBJECT_LOADER) addon_loader_free(entry->pointer);
    else if (entry->kind == OBJECT_MODEL) addon_model_release(entry->pointer);
    else if (entry->kind == OBJECT_RUNTIME) addon_runtime_release(entry->pointer);
}

/* Contexts first: work in flight ends before what it runs on goes. */
static void tear_down(void *argument) {
    addon_env *self = argument;
    if (self->post) {
        addon_env_leave(self);
        (void)napi_release_threadsafe_function(self->post, napi_tsfn_abort);
    }
    for (int kind = OBJECT_CONTEXT; kind > OBJECT_FREE; kind--) {
        for (uint32_t i = 0; i < self->object_count; i++) {
            if ((int)self->objects[i].kind == kind) free_object(&self->objects[i]);
        }
    }
    free(self->queue);
    free(self->objects);
    self->queue = NULL;
    self->objects = NULL;
    self->object_count = self->object_cap = 0;
}

static void forget(napi_env env, void *data, void *hint) {
    (void)env;
    (void)hint;
    free(data);
}

static bool define(napi_env env, napi_value exports, const addon_function *functions) {
    for (; functions->name; functions++) {
        napi_value made;
        if (napi_create_function(env, functions->name, NAPI_AUTO_LENGTH, functions->run, NULL, &made) != napi_ok) return false;
        if (napi_set_named_property(env, exports, functions->name, made) != napi_ok) return false;
    }
    return true;
}

NAPI_MODULE_INIT() {
    addon_env *self = calloc(1, sizeof *self);
    if (!self) return addon_throw(env, REALM_E_OUT_OF_MEMORY, "no memory for the environment");
    self->env = env;
    if (napi_set_instance_data(env, self, forget, NULL) != napi_ok) {
        free(self);
        return NULL;
    }
    bool defined = define(env, exports, RUNTIME_FUNCTIONS) && define(env, exports, ADDON_MODEL_FUNCTIONS) &&
                   define(env, exports, ADDON_CONTEXT_FUNCTIONS);
    addon_set_number(env, exports, "abiVersion", realm_abi_version());
    addon_set_number(env, exports, "cpuFeatures", realm_cpu_features());
    return defined ? exports : NULL;
}
