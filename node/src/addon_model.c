/* addon_model.c: model files: loading in steps on the thread pool of Node, and questions about a loaded model.
 *
 * begin and each step are one piece of asynchronous work, so that neither a slow disk nor a large vocabulary holds up the event loop,
 * and JavaScript can show progress or stop between the steps.
 */
#include <stdlib.h>
#include <string.h>

#include "addon.h"

typedef enum loader_action { LOADER_BEGIN, LOADER_STEP } loader_action;

struct addon_loader {
    addon_runtime *runtime;
    realm_loader *loader; /* NULL before begin and after finish */
    char *path;
    realm_model_options options;
    bool busy;      /* a piece of work runs on the thread pool */
    bool abandoned; /* freed when that piece ends */
    /* the piece of work */
    addon_env *self;
    loader_action action;
    napi_async_work work;
    napi_deferred promise;
    realm_status status;
    realm_error err;
    float progress;
};

/* ---- loading ---- */

void addon_loader_free(addon_loader *loader) {
    if (!loader) return;
    if (loader->busy) {
        loader->abandoned = true;
        return;
    }
    realm_loader_abandon(loader->loader);
    addon_runtime_release(loader->runtime);
    free(loader->path);
    free(loader);
}

static void work_runs(napi_env env, void *data) {
    addon_loader *l = data;
    (void)env;
    if (l->action == LOADER_BEGIN) l->status = realm_loader_begin(l->runtime->rt, l->path, &l->options, &l->loader, &l->err);
    else l->status = realm_loader_step(l->loader, &l->progress, &l->err);
}

static napi_value error_value(napi_env env, const realm_error *err) {
    napi_value code = addon_text(env, realm_status_name((realm_status)err->code), NAPI_AUTO_LENGTH), made = NULL;
    (void)napi_create_error(env, code, addon_text(env, err->message, strlen(err->message)), &made);
    return made;
}

static void settle(napi_env env, addon_loader *l, napi_status done) {
    double value = l->progress;
    if (done != napi_ok) l->status = base_fail(&l->err, REALM_E_CANCELLED, "the loading was cancelled");
    if (l->status == REALM_OK && l->action == LOADER_BEGIN) {
        value = addon_put(l->self, OBJECT_LOADER, l);
        if (value == 0) l->status = base_fail(&l->err, REALM_E_OUT_OF_MEMORY, "no memory for another loader");
    }
    if (l->status == REALM_OK) (void)napi_resolve_deferred(env, l->promise, addon_number(env, value));
    else (void)napi_reject_deferred(env, l->promise, error_value(env, &l->err));
}

static void work_ended(napi_env env, napi_status done, void *data) {
    addon_loader *l = data;
    l->busy = false;
    (void)napi_delete_async_work(env, l->work);
    settle(env, l, done);
    if (l->abandoned || (l->action == LOADER_BEGIN && l->status != REALM_OK)) addon_loader_free(l);
}

static napi_value start_work(const call *c, addon_loader *l, loader_action action) {
    napi_value promise, name = addon_text(c->env, "realm.load", NAPI_AUTO_LENGTH);
    l->action = action;
    l->self = c->self;
    if (napi_create_promise(c->env, &l->promise, &promise) != napi_ok) return NULL;
    if (napi_create_async_work(c->env, NULL, name, work_runs, work_ended, l, &l->work) != napi_ok) return NULL;
    if (napi_queue_async_work(c->env, l->work) != napi_ok) {
        (void)napi_delete_async_work(c->env, l->work);
        return NULL;
    }
    l->busy = true;
    return promise;
}

/* (runtime, path, mode, contextLength, kvType) -> promise of a loader */
static napi_value loader_begin(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    addon_runtime *runtime = addon_find(&c, 0, OBJECT_RUNTIME);
    if (!runtime) return addon_throw(env, REALM_E_CLOSED, "this runtime was closed");
    char *path = call_string(&c, 1);
    if (!path) return NULL;
    addon_loader *l = calloc(1, sizeof *l);
    if (!l) {
        free(path);
        return addon_throw(env, REALM_E_OUT_OF_MEMORY, "no memory for a loader");
    }
    uint32_t mode = call_u32(&c, 2);
    l->path = path;
    l->runtime = runtime;
    l->options = (realm_model_options){mode, call_u32(&c, 3), call_u32(&c, 4), mode == REALM_LOAD_FULL};
    addon_runtime_retain(runtime);
    napi_value promise = start_work(&c, l, LOADER_BEGIN);
    if (!promise) addon_loader_free(l);
    return promise;
}

/* (loader) -> promise of the progress so far */
static napi_value loader_step(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    addon_loader *l = addon_find(&c, 0, OBJECT_LOADER);
    if (!l) return addon_throw(env, REALM_E_CLOSED, "this loader was closed");
    if (l->busy) return addon_throw(env, REALM_E_BUSY, "the loader is at work");
    return start_work(&c, l, LOADER_STEP);
}

static napi_value put_model(const call *c, addon_model *model) {
    double handle = addon_put(c->self, OBJECT_MODEL, model);
    if (handle != 0) return addon_number(c->env, handle);
    addon_model_release(model);
    return addon_throw(c->env, REALM_E_OUT_OF_MEMORY, "no memory for another model");
}

static addon_model *finish(addon_loader *l, const char *key, realm_error *err) {
    realm_model *model = NULL;
    realm_status status = realm_loader_finish(l->loader, &model, err);
    l->loader = NULL;
    if (status != REALM_OK) return NULL;
    addon_model *kept = addon_model_keep(l->runtime, model, key);
    if (kept) return kept;
    realm_model_close(model);
    (void)base_fail(err, REALM_E_OUT_OF_MEMORY, "no memory for another model");
    return NULL;
}

/* (loader, key) -> model; the loader is gone */
static napi_value loader_finish(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    addon_loader *l = addon_find(&c, 0, OBJECT_LOADER);
    if (!l) return addon_throw(env, REALM_E_CLOSED, "this loader was closed");
    if (l->busy) return addon_throw(env, REALM_E_BUSY, "the loader is at work");
    char *key = call_string(&c, 1);
    if (!key) return NULL;
    realm_error err;
    addon_model *model = finish(l, key, &err);
    free(key);
    (void)addon_remove(&c, 0, OBJECT_LOADER);
    addon_loader_free(l);
    return model ? put_model(&c, model) : addon_throw_error(env, &err);
}

static napi_value loader_abandon(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    addon_loader_free(addon_remove(&c, 0, OBJECT_LOADER));
    return NULL;
}

/* ---- models ---- */

/* (runtime, key) -> model, or 0 when the process has none */
static napi_value model_find(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    addon_runtime *runtime = addon_find(&c, 0, OBJECT_RUNTIME);
    if (!runtime) return addon_throw(env, REALM_E_CLOSED, "this runtime was closed");
    char *key = call_string(&c, 1);
    if (!key) return NULL;
    addon_model *found = addon_model_find(runtime, key);
    free(key);
    return found ? put_model(&c, found) : addon_number(env, 0);
}

/* (model) -> another handle on it */
static napi_value model_share(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    addon_model *model = addon_find(&c, 0, OBJECT_MODEL);
    if (!model) return addon_throw(env, REALM_E_CLOSED, "this model was closed; load it again");
    addon_model_retain(model);
    return put_model(&c, model);
}

static napi_value model_close(napi_env env, napi_callback_info info) {
    call c;
    if (!call_begin(&c, env, info)) return NULL;
    addon_model *model = addon_remove(&c, 0, OBJECT_MODEL);
    if (model) addon_model_release(model);
    return NULL;
}

/* (model, prefix) -> status */
static napi_value model_unpublish(napi_env env, napi_callback_info info) {
    call c;
    const addon_model *model = call_begin(&c, env, info) ? addon_find(&c, 0, OBJECT_MODEL) : NULL;
    if (!model) return addon_status(env, REALM_E_CLOSED);
    return addon_status(env, realm_prefix_unpublish(model->model, call_u32(&c, 1), NULL));
}

/* The model of the first argument; an exception when it was closed. */
static const realm_model *model_of(call *c, napi_env env, napi_callback_info info) {
    if (!call_begin(c, env, info)) return NULL;
    const addon_model *found = addon_find(c, 0, OBJECT_MODEL);
    if (found) return found->model;
    addon_throw(env, REALM_E_CLOSED, "this model was closed; load it again");
    return NULL;
}

static void set_token(napi_env env, napi_value target, const char *name, uint32_t token) {
    napi_value null;
    if (token != UINT32_MAX) addon_set_number(env, target, name, token);
    else if (napi_get_null(env, &null) == napi_ok) addon_set(env, target, name, null);
}

static void set_flag(napi_env env, napi_value target, const char *name, bool value) {
    napi_value made;
    if (napi_get_boolean(env, value, &made) == napi_ok) addon_set(env, target, name, made);
}

static napi_value model_info(napi_env env, napi_callback_info info) {
    call c;
    napi_value made;
    const realm_model *model = model_of(&c, env, info);
    if (!model || napi_create_object(env, &made) != napi_ok) return NULL;
    realm_model_info found;
    realm_model_get_info(model, &found);
    addon_set_number(env, made, "vocabSize", found.vocab_size);
    addon_set_number(env, made, "contextLength", found.context_length);
    addon_set_number(env, made, "embeddingLength", found.embedding_length);
    addon_set_number(env, made, "layerCount", found.layer_count);
    addon_set_number(env, made, "headCount", found.head_count);
    addon_set_number(env, made, "headCountKv", found.head_count_kv);
    set_token(env, made, "bos", found.bos);
    set_token(env, made, "eos", found.eos);
    set_token(env, made, "eot", found.eot);
    set_flag(env, made, "addBos", found.add_bos);
    set_flag(env, made, "addEos", found.add_eos);
    set_flag(env, made, "hasWeights", found.has_weights);
    addon_set_number(env, made, "parameterCount", (double)found.parameter_count);
    addon_set_number(env, made, "weightBytes", (double)found.weight_bytes);
    addon_set_number(env, made, "kvBytesPerToken", (double)found.kv_bytes_per_token);
    return made;
}

/* (model) -> bytes of JSON */
static napi_value model_describe(napi_env env, napi_callback_info info) {
    call c;
    void *out = NULL;
    const realm_model *model = model_of(&c, env, info);
    if (!model) return NULL;
    size_t size = realm_model_describe(model, NULL, 0);
    napi_value made = addon_array(env, napi_uint8_array, NULL, size, &out);
    if (made) (void)realm_model_describe(model, out, size);
    return made;
}

/* (model, key) -> bytes, or undefined */
static napi_value model_string(napi_env env, napi_callback_info info) {
    call c;
    const char *data;
    size_t size;
    const realm_model *model = model_of(&c, env, info);
    char *key = model ? call_string(&c, 1) : NULL;
    if (!key) return NULL;
    int found = realm_model_string(model, key, &data, &size);
    free(key);
    return found ? addon_array(env, napi_uint8_array, data, size, NULL) : NULL;
}

/* (model, bytes, flags) -> ids */
static napi_value model_encode(napi_env env, napi_callback_info info) {
    call c;
    size_t size, count = 0;
    realm_error err;
    const realm_model *model = model_of(&c, env, info);
    const char *text = model ? call_array(&c, 1, napi_uint8_array, &size) : NULL;
    if (!text) return NULL;
    size_t cap = size + 8; /* a token covers a byte or more, but for BOS, EOS and a leading space */
    uint32_t *ids = malloc(cap * sizeof *ids);
    if (!ids) return addon_throw(env, REALM_E_OUT_OF_MEMORY, "no memory for the tokens");
    realm_status status = realm_model_encode(model, text, size, call_u32(&c, 2), ids, cap, &count, &err);
    napi_value made = status == REALM_OK ? addon_array(env, napi_uint32_array, ids, count < cap ? count : cap, NULL)
                                         : addon_throw_error(env, &err);
    free(ids);
    return made;
}

/* (model, ids, flags) -> bytes */
static napi_value model_decode(napi_env env, napi_callback_info info) {
    call c;
    size_t count, size = 0;
    realm_error err;
    void *out = NULL;
    const realm_model *model = model_of(&c, env, info);
    const uint32_t *ids = model ? call_array(&c, 1, napi_uint32_array, &count) : NULL;
    if (!ids) return NULL;
    uint32_t flags = call_u32(&c, 2);
    if (realm_model_decode(model, ids, count, flags, NULL, 0, &size, &err) != REALM_OK) return addon_throw_error(env, &err);
    napi_value made = addon_array(env, napi_uint8_array, NULL, size, &out);
    if (made) (void)realm_model_decode(model, ids, count, flags, out, size, &size, &err);
    return made;
}

const addon_function ADDON_MODEL_FUNCTIONS[] = {
    {"loaderBegin", loader_begin},
    {"loaderStep", loader_step},
    {"loaderFinish", loader_finish},
    {"loaderAbandon", loader_abandon},
    {"modelFind", model_find},
    {"modelShare", model_share},
    {"modelClose", model_close},
    {"modelUnpublish", model_unpublish},
    {"modelInfo", model_info},
    {"modelDescribe", model_describe},
    {"modelString", model_string},
    {"modelEncode", model_encode},
    {"modelDecode", model_decode},
    {NULL, NULL},
};
