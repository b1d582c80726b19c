/* addon_values.c: JavaScript values to C and back, and the table of handles of an environment.
 *
 * A handle is a number: the entry's index in its low 24 bits, above them a generation that changes whenever the entry is
 * used again.
 */
#include <stdlib.h>
#include <string.h>

#include "addon.h"

enum { INDEX_BITS = 24, MAX_OBJECTS = 1 << INDEX_BITS };

/* ---- arguments ---- */

bool call_begin(call *c, napi_env env, napi_callback_info info) {
    void *data = NULL;
    c->env = env;
    c->count = ADDON_MAX_ARGUMENTS;
    if (napi_get_cb_info(env, info, &c->count, c->values, NULL, NULL) != napi_ok) return false;
    if (napi_get_instance_data(env, &data) != napi_ok || !data) return false;
    c->self = data;
    return true;
}

uint32_t call_u32(const call *c, size_t index) {
    uint32_t value = 0;
    if (index < c->count) (void)napi_get_value_uint32(c->env, c->values[index], &value);
    return value;
}

double call_number(const call *c, size_t index) {
    double value = 0;
    if (index < c->count) (void)napi_get_value_double(c->env, c->values[index], &value);
    return value;
}

uint64_t call_u64(const call *c, size_t index) {
    uint64_t value = 0;
    bool lossless;
    if (index < c->count) (void)napi_get_value_bigint_uint64(c->env, c->values[index], &value, &lossless);
    return value;
}

const void *call_array(const call *c, size_t index, napi_typedarray_type type, size_t *count) {
    static const uint64_t nothing = 0;
    napi_typedarray_type found;
    void *data = NULL;
    bool is_array = false;
    *count = 0;
    if (index < c->count) (void)napi_is_typedarray(c->env, c->values[index], &is_array);
    if (!is_array || napi_get_typedarray_info(c->env, c->values[index], &found, count, &data, NULL, NULL) != napi_ok ||
        found != type) {
        addon_throw(c->env, REALM_E_INVALID_ARGUMENT, "an argument is not the typed array it must be");
        return NULL;
    }
    return data ? data : &nothing;
}

char *call_string(const call *c, size_t index) {
    size_t size = 0;
    if (index >= c->count || napi_get_value_string_utf8(c->env, c->values[index], NULL, 0, &size) != napi_ok) {
        addon_throw(c->env, REALM_E_INVALID_ARGUMENT, "an argument is not the string it must be");
        return NULL;
    }
    char *text = malloc(size + 1);
    if (!text) {
        addon_throw(c->env, REALM_E_OUT_OF_MEMORY, "no memory for a string");
        return NULL;
    }
    (void)napi_get_value_string_utf8(c->env, c->values[index], text, size + 1, &size);
    return text;
}

/* ---- results ---- */

napi_value addon_throw(napi_env env, realm_status status, const char *message) {
    (void)napi_throw_error(env, realm_status_name(status), message);
    return NULL;
}

napi_value addon_throw_error(napi_env env, const realm_error *err) {
    return addon_throw(env, (realm_status)err->code, err->message);
}

napi_value addon_number(napi_env env, double value) {
    napi_value made = NULL;
    (void)napi_create_double(env, value, &made);
    return made;
}

napi_value addon_status(napi_env env, realm_status status) { return addon_number(env, -(double)status); }

static size_t element_size(napi_typedarray_type type) {
    if (type == napi_uint8_array) return 1;
    return type == napi_float64_array || type == napi_biguint64_array ? 8 : 4;
}

napi_value addon_array(napi_env env, napi_typedarray_type type, const void *data, size_t count, void **out) {
    napi_value buffer, array = NULL;
    void *bytes = NULL;
    size_t size = count * element_size(type);
    if (napi_create_arraybuffer(env, size, &bytes, &buffer) != napi_ok) return NULL;
    if (data && size) memcpy(bytes, data, size);
    if (out) *out = bytes;
    (void)napi_create_typedarray(env, type, count, buffer, 0, &array);
    return array;
}

napi_value addon_text(napi_env env, const char *data, size_t size) {
    napi_value made = NULL;
    (void)napi_create_string_utf8(env, data, size, &made);
    return made;
}

void addon_set(napi_env env, napi_value target, const char *name, napi_value value) {
    if (value) (void)napi_set_named_property(env, target, name, value);
}

void addon_set_number(napi_env env, napi_value target, const char *name, double value) {
    addon_set(env, target, name, addon_number(env, value));
}

/* ---- handles ---- */

static bool grow(addon_env *self) {
    if (self->object_count < self->object_cap) return true;
    uint32_t cap = self->object_cap ? self->object_cap * 2 : 64;
    if (cap > MAX_OBJECTS) return false;
    object *moved = realloc(self->objects, cap * sizeof *moved);
    if (!moved) return false;
    self->objects = moved;
    self->object_cap = cap;
    return true;
}

double addon_put(addon_env *self, object_kind kind, void *pointer) {
    uint32_t index = self->free_hint;
    while (index < self->object_count && self->objects[index].kind != OBJECT_FREE) index++;
    if (index == self->object_count) {
        if (!grow(self)) return 0;
        self->objects[self->object_count++] = (object){OBJECT_FREE, 0, NULL};
    }
    object *entry = &self->objects[index];
    *entry = (object){kind, entry->generation + 1, pointer};
    self->free_hint = index + 1;
    return (double)((uint64_t)(entry->generation & 0xfffffff) << INDEX_BITS | index);
}

static object *entry_of(const call *c, size_t index, object_kind kind) {
    double number = call_number(c, index);
    if (!(number >= 0 && number < 9007199254740992.0)) return NULL;
    uint64_t handle = (uint64_t)number;
    uint32_t at = (uint32_t)(handle & (MAX_OBJECTS - 1));
    if (at >= c->self->object_count) return NULL;
    object *entry = &c->self->objects[at];
    return entry->kind == kind && (entry->generation & 0xfffffff) == handle >> INDEX_BITS ? entry : NULL;
}

void *addon_find(const call *c, size_t index, object_kind kind) {
    const object *entry = entry_of(c, index, kind);
    return entry ? entry->pointer : NULL;
}

void *addon_remove(const call *c, size_t index, object_kind kind) {
    object *entry = entry_of(c, index, kind);
    if (!entry) return NULL;
    uint32_t at = (uint32_t)(entry - c->self->objects);
    if (at < c->self->free_hint) c->self->free_hint = at;
    entry->kind = OBJECT_FREE;
    return entry->pointer;
}
