/* addon_process.c: what all environments of the process share: runtimes, loaded models, and the way completions go to JavaScript.
 *
 * A runtime's driver thread puts completions into the queues of their environments and posts one call for the whole queue. When
 * JavaScript has come back from all such calls, the runtimes are told that the host has acted, so that decoding realms step
 * together; the engine itself limits how long it waits for that.
 * One lock guards everything here; it is never held while JavaScript runs or a model is computed.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "addon.h"

#define SERIAL_MASK ((UINT64_C(1) << ADDON_SERIAL_BITS) - 1)

static _Atomic(platform_mutex *) process_lock;
static addon_runtime *runtimes;
static addon_model *models;
static addon_env *envs;
static uint32_t env_numbers;

static void lock(void) { platform_lock(atomic_load(&process_lock)); }
static void unlock(void) { platform_unlock(atomic_load(&process_lock)); }

/* Made by whichever environment is first, and kept for the life of the process. */
static bool prepare(void) {
    if (!atomic_load(&process_lock)) {
        platform_mutex *made = platform_mutex_create(), *none = NULL;
        if (made && !atomic_compare_exchange_strong(&process_lock, &none, made)) platform_mutex_destroy(made);
    }
    return atomic_load(&process_lock);
}

/* ---- completions ---- */

static bool reserve(addon_env *to) {
    if (to->queue_count < to->queue_cap) return true;
    uint32_t cap = to->queue_cap ? to->queue_cap * 2 : 64;
    addon_event *moved = realloc(to->queue, cap * sizeof *moved);
    if (!moved) return false;
    to->queue = moved;
    to->queue_cap = cap;
    return true;
}

static void post(const realm_completion *done) {
    uint32_t number = (uint32_t)(done->tag >> ADDON_SERIAL_BITS);
    addon_env *to = envs;
    while (to && to->number != number) to = to->next;
    if (!to) return;
    if (reserve(to)) {
        to->queue[to->queue_count++] = (addon_event){.serial = done->tag & SERIAL_MASK, .ticket = done->ticket};
        to->unhandled++;
    } else {
        to->lost = true;
    }
    if (!to->posted) to->posted = napi_call_threadsafe_function(to->post, NULL, napi_tsfn_nonblocking) == napi_ok;
}

static bool someone_acts(void) {
    for (const addon_env *at = envs; at; at = at->next) {
        if (at->unhandled > 0) return true;
    }
    return false;
}

/* Called by the driver's thread of a runtime. */
static void completions_came(void *argument, const realm_completion *done, uint32_t count) {
    const addon_runtime *runtime = argument;
    lock();
    for (uint32_t i = 0; i < count; i++) post(&done[i]);
    if (!someone_acts()) realm_runtime_acknowledge(runtime->rt); /* they were for environments that are gone */
    unlock();
}

addon_event *addon_env_take(addon_env *self, uint32_t *count, bool *lost) {
    lock();
    addon_event *taken = self->queue;
    *count = self->queue_count;
    *lost = self->lost;
    self->queue = NULL;
    self->queue_count = self->queue_cap = 0;
    self->posted = self->lost = false;
    unlock();
    return taken;
}

static void handled(addon_env *self, uint32_t count) {
    self->unhandled -= count < self->unhandled ? count : self->unhandled;
    if (someone_acts()) return;
    for (addon_runtime *at = runtimes; at; at = at->next) realm_runtime_acknowledge(at->rt);
}

void addon_env_handled(addon_env *self, uint32_t count) {
    lock();
    handled(self, count);
    unlock();
}

/* A request may end before its event was delivered: the engine must not wait for JavaScript to hear of it. */
void addon_env_forget(addon_env *self, uint64_t serial, uint32_t ticket) {
    lock();
    uint32_t kept = 0, count = self->queue_count;
    for (uint32_t i = 0; i < count; i++) {
        const addon_event *event = &self->queue[i];
        if (event->serial != serial || (ticket && event->ticket != ticket)) self->queue[kept++] = *event;
    }
    self->queue_count = kept;
    if (kept < count) handled(self, count - kept);
    unlock();
}

void addon_env_announce(addon_env *self) {
    lock();
    self->unhandled++;
    for (addon_runtime *at = runtimes; at; at = at->next) realm_runtime_announce(at->rt);
    unlock();
}

realm_status addon_env_join(addon_env *self) {
    if (!prepare()) return REALM_E_OUT_OF_MEMORY;
    lock();
    self->number = ++env_numbers & 0xffff;
    self->next = envs;
    envs = self;
    unlock();
    return REALM_OK;
}

void addon_env_leave(addon_env *self) {
    lock();
    addon_env **at = &envs;
    while (*at && *at != self) at = &(*at)->next;
    if (*at) *at = self->next;
    unlock();
}

uint64_t addon_tag(const addon_env *self, uint64_t serial) {
    return (uint64_t)self->number << ADDON_SERIAL_BITS | (serial & SERIAL_MASK);
}

/* ---- runtimes ---- */

static addon_runtime *find_runtime(const realm_runtime_options *options) {
    for (addon_runtime *at = runtimes; at; at = at->next) {
        if (!memcmp(&at->options, options, sizeof *options)) return at;
    }
    return NULL;
}

static void destroy_runtime(addon_runtime *runtime) {
    realm_runtime_destroy(runtime->rt);
    free(runtime);
}

static realm_status make_runtime(const realm_runtime_options *options, addon_runtime **out, realm_error *err) {
    addon_runtime *made = calloc(1, sizeof *made);
    if (!made) return base_fail(err, REALM_E_OUT_OF_MEMORY, "no memory for a runtime");
    realm_status status = realm_runtime_create(options, &made->rt, err);
    if (status != REALM_OK) {
        free(made);
        return status;
    }
    made->options = *options;
    made->users = 1;
    realm_runtime_set_listener(made->rt, completions_came, made);
    *out = made;
    return REALM_OK;
}

realm_status addon_runtime_acquire(const realm_runtime_options *options, addon_runtime **out, realm_error *err) {
    lock();
    realm_status status = REALM_OK;
    *out = find_runtime(options);
    if (*out) (*out)->users++;
    unlock();
    if (*out) return REALM_OK;
    addon_runtime *made = NULL;
    status = make_runtime(options, &made, err);
    if (status != REALM_OK) return status;
    lock();
    *out = find_runtime(options);
    if (*out) (*out)->users++; /* another environment was faster */
    else {
        made->next = runtimes;
        *out = runtimes = made;
        made = NULL;
    }
    unlock();
    if (made) destroy_runtime(made);
    return REALM_OK;
}

void addon_runtime_retain(addon_runtime *runtime) {
    lock();
    runtime->users++;
    unlock();
}

void addon_runtime_release(addon_runtime *runtime) {
    lock();
    bool last = --runtime->users == 0;
    addon_runtime **at = &runtimes;
    while (*at && *at != runtime) at = &(*at)->next;
    if (last && *at) *at = runtime->next;
    unlock();
    if (last) destroy_runtime(runtime);
}

/* ---- models ---- */

static addon_model *find_model(const addon_runtime *runtime, const char *key) {
    for (addon_model *at = models; at; at = at->next) {
        if (at->runtime == runtime && !strcmp(at->key, key)) return at;
    }
    return NULL;
}

addon_model *addon_model_find(addon_runtime *runtime, const char *key) {
    lock();
    addon_model *found = find_model(runtime, key);
    if (found) found->users++;
    unlock();
    return found;
}

static addon_model *make_model(addon_runtime *runtime, realm_model *model, const char *key) {
    addon_model *made = calloc(1, sizeof *made);
    size_t size = strlen(key) + 1;
    char *copy = made ? malloc(size) : NULL;
    if (!copy) {
        free(made);
        return NULL;
    }
    memcpy(copy, key, size);
    *made = (addon_model){.model = model, .runtime = runtime, .key = copy, .users = 1};
    return made;
}

addon_model *addon_model_keep(addon_runtime *runtime, realm_model *model, const char *key) {
    addon_model *made = make_model(runtime, model, key);
    if (!made) return NULL;
    lock();
    addon_model *first = find_model(runtime, key);
    if (first) first->users++;
    else {
        made->next = models;
        models = made;
        runtime->users++;
    }
    unlock();
    if (!first) return made;
    realm_model_close(model);
    free(made->key);
    free(made);
    return first;
}

void addon_model_retain(addon_model *model) {
    lock();
    model->users++;
    unlock();
}

void addon_model_release(addon_model *model) {
    lock();
    bool last = --model->users == 0;
    addon_model **at = &models;
    while (*at && *at != model) at = &(*at)->next;
    if (last && *at) *at = model->next;
    unlock();
    if (!last) return;
    realm_model_close(model->model);
    addon_runtime_release(model->runtime);
    free(model->key);
    free(model);
}
