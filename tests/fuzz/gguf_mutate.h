/* gguf_mutate.h: lies about a GGUF file, for fuzz harnesses: walks a file as far as it makes sense and then lies in one field
 * (a count, a length, a type, a dimension, an offset, a number), or repeats or drops a metadata entry. For one thread. */
#ifndef REALM_GGUF_MUTATE_H
#define REALM_GGUF_MUTATE_H

#include "../../core/gguf.h"

static uint64_t random_state;

static uint64_t random_next(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static size_t below(size_t limit) { return limit ? (size_t)(random_next() % limit) : 0; }

enum { FIELD_CAP = 4096, ENTRY_CAP = 1024 };

typedef struct field {
    size_t pos;
    unsigned width;
} field;

typedef struct layout { /* where the fields of a file are, as far as it can be followed */
    const uint8_t *data;
    size_t size, pos;
    field fields[FIELD_CAP];
    size_t field_count;
    size_t entries[ENTRY_CAP]; /* where metadata entries begin */
    size_t entry_count;
} layout;

/* Notes a field and returns its value; false at the end. */
static bool walk(layout *l, unsigned width, uint64_t *value) {
    if (width > l->size - l->pos) return false;
    if (l->field_count < FIELD_CAP) l->fields[l->field_count++] = (field){l->pos, width};
    *value = width == 8 ? base_u64(l->data + l->pos) : width == 4 ? base_u32(l->data + l->pos) : l->data[l->pos];
    l->pos += width;
    return true;
}

static bool walk_string(layout *l) {
    uint64_t size;
    if (!walk(l, 8, &size) || size > l->size - l->pos) return false;
    l->pos += (size_t)size;
    return true;
}

static bool walk_elements(layout *l, uint64_t type, uint64_t count) {
    static const unsigned widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    if (type >= sizeof widths / sizeof *widths || type == GGUF_ARRAY) return false;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t ignored;
        if (type == GGUF_STRING ? !walk_string(l) : !walk(l, widths[type] == 2 ? 1 : widths[type], &ignored)) return false;
        if (widths[type] == 2 && l->pos++ >= l->size) return false;
    }
    return true;
}

static bool walk_entry(layout *l) {
    uint64_t type, count = 1;
    if (l->entry_count < ENTRY_CAP) l->entries[l->entry_count++] = l->pos;
    if (!walk_string(l) || !walk(l, 4, &type)) return false;
    if (type == GGUF_ARRAY && (!walk(l, 4, &type) || !walk(l, 8, &count))) return false;
    return walk_elements(l, type, count);
}

static bool walk_tensor(layout *l) {
    uint64_t dims, ignored;
    if (!walk_string(l) || !walk(l, 4, &dims)) return false;
    for (uint64_t i = 0; i < dims; i++) {
        if (!walk(l, 8, &ignored)) return false;
    }
    return walk(l, 4, &ignored) && walk(l, 8, &ignored);
}

static void walk_file(layout *l, const uint8_t *data, size_t size) {
    uint64_t version, tensors, values;
    *l = (layout){.data = data, .size = size, .pos = size < 4 ? size : 4};
    if (!walk(l, 4, &version) || !walk(l, 8, &tensors) || !walk(l, 8, &values)) return;
    for (uint64_t i = 0; i < values; i++) {
        if (!walk_entry(l)) return;
    }
    if (l->entry_count < ENTRY_CAP) l->entries[l->entry_count++] = l->pos; /* end of the last one */
    for (uint64_t i = 0; i < tensors; i++) {
        if (!walk_tensor(l)) return;
    }
}

static uint64_t interesting(uint64_t old) {
    static const uint64_t numbers[] = {
        0, 1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 31, 32, 63, 64, 255, 256, 65535, 1u << 20, 1u << 30, 1u << 31, UINT32_MAX,
        UINT64_C(1) << 32, UINT64_C(1) << 61, UINT64_C(1) << 63, INT64_MAX, UINT64_MAX, UINT64_MAX - 7, UINT64_C(0x7fffffffffffffc0),
        0x7fc00000, 0x7f800000, 0xbf800000, 1, 0x7f7fffff, /* as f32: NaN, Inf, -1, tiny, largest */
    };
    switch (below(5)) {
    case 0: return old + 1;
    case 1: return old - 1;
    case 2: return old * 2;
    case 3: return old ^ (UINT64_C(1) << below(64));
    default: return numbers[below(sizeof numbers / sizeof *numbers)];
    }
}

static size_t lie_in_a_field(const layout *l, uint8_t *data, size_t size) {
    field f = l->fields[below(l->field_count)];
    uint64_t old = 0;
    memcpy(&old, data + f.pos, f.width);
    old = interesting(old);
    memcpy(data + f.pos, &old, f.width);
    return size;
}

static void add_to_count(uint8_t *data, int64_t change) {
    uint64_t count = base_u64(data + 16) + (uint64_t)change;
    memcpy(data + 16, &count, sizeof count);
}

/* Repeats or drops a metadata entry and keeps the count right, so that what follows still parses. */
static size_t move_an_entry(const layout *l, uint8_t *data, size_t size, size_t max_size) {
    size_t which = below(l->entry_count - 1), start = l->entries[which], bytes = l->entries[which + 1] - start;
    if (below(2) == 0) {
        memmove(data + start, data + start + bytes, size - start - bytes);
        add_to_count(data, -1);
        return size - bytes;
    }
    if (bytes > max_size - size) return size;
    memmove(data + start + bytes, data + start, size - start);
    add_to_count(data, 1);
    if (below(2) && bytes > 9) data[start + 8] ^= 1; /* another key */
    return size + bytes;
}

#endif
