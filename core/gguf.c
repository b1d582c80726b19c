/* gguf.c: reads and checks a GGUF v2/v3 file's header, metadata and tensor directory (interface: gguf.h).
 * Every byte is read through one cursor that carries the bounds; lengths are compared with what remains before anything is
 * added, multiplied or allocated, so a lying file costs at most a few times its own size. Gaps between tensors and any
 * order of offsets are allowed (writers pad), overlap and misalignment are not. JSON output is in gguf_describe.c. */
#include "gguf.h"

#include <math.h>
#include <stdlib.h>

#include "blocks.h"

/* Caps on what a file may claim; each is far above real files. */
#define KEY_CAP 65535u                         /* the format's own limit for keys */
#define TENSOR_NAME_CAP 63u                    /* ggml keeps names in 64 bytes */
#define STRING_CAP (16u << 20)                 /* chat templates are some KiB */
#define ARRAY_CAP (64u << 20)                  /* vocabularies are some hundred thousand */
#define DIMS_CAP 4u
#define ALIGNMENT_CAP (1u << 20)
#define DEFAULT_ALIGNMENT 32u
#define VALUE_MIN_BYTES (8u + 1 + 4 + 1)       /* key length, key, type, value: bounds the count before allocating */
#define TENSOR_MIN_BYTES (8u + 1 + 4 + 8 + 4 + 8)

struct gguf {
    const uint8_t *bytes;
    uint64_t size;
    uint32_t version;
    uint32_t part_count;
    uint64_t alignment;
    uint64_t hash_seed;
    gguf_value *values;
    uint64_t value_count;
    uint32_t *value_slots; /* open addressing: index + 1, 0 is empty */
    uint64_t value_slot_count;
    gguf_tensor *tensors;
    uint64_t tensor_count;
    uint32_t *tensor_slots;
    uint64_t tensor_slot_count;
};

/* ---- cursor ---- */

typedef struct cursor {
    const uint8_t *bytes;
    uint64_t size, pos;
    uint64_t file_size; /* at least size: of the whole file, where only its head is here */
    uint64_t needed;    /* leading bytes that reading on takes; 0 while nothing was missing */
    gguf_string within; /* key or tensor being read, for messages */
    realm_error *err;
} cursor;

typedef struct printable {
    char text[72];
} printable;

/* A name from the file as short ASCII, so that messages stay one readable line. */
static printable printable_of(gguf_string s) {
    printable out;
    uint64_t n = s.size < 64 ? s.size : 64;
    for (uint64_t i = 0; i < n; i++) out.text[i] = s.data[i] >= 0x20 && s.data[i] < 0x7f ? s.data[i] : '?';
    memcpy(out.text + n, s.size > n ? "..." : "", s.size > n ? 4 : 1);
    return out;
}

static realm_status fail_at(cursor *c, uint64_t pos, const char *kind, gguf_string name, const char *problem) {
    return base_fail(c->err, REALM_E_INVALID_GGUF, "%s '%s' at byte %llu: %s", kind, printable_of(name).text,
                     (unsigned long long)pos, problem);
}

/* Whether count entries of at least `each` bytes may follow: they lie in the file, and so far as they are here. */
static bool cursor_holds(cursor *c, uint64_t count, uint64_t each) {
    if (count > (c->file_size - c->pos) / each) return false;
    if (count <= (c->size - c->pos) / each) return true;
    c->needed = c->pos + count * each;
    return false;
}

/* Takes n bytes, or fails saying what was being read. */
static const uint8_t *cursor_take(cursor *c, uint64_t n, const char *what) {
    if (!cursor_holds(c, n, 1)) {
        base_fail(c->err, REALM_E_INVALID_GGUF, "the file ends inside %s '%s' at byte %llu: %llu bytes needed, %llu left", what,
                  printable_of(c->within).text, (unsigned long long)c->pos, (unsigned long long)n,
                  (unsigned long long)(c->size - c->pos));
        return NULL;
    }
    const uint8_t *p = c->bytes + c->pos;
    c->pos += n;
    return p;
}

static bool cursor_u32(cursor *c, uint32_t *out, const char *what) {
    const uint8_t *p = cursor_take(c, 4, what);
    if (p) *out = base_u32(p);
    return p != NULL;
}

static bool cursor_u64(cursor *c, uint64_t *out, const char *what) {
    const uint8_t *p = cursor_take(c, 8, what);
    if (p) *out = base_u64(p);
    return p != NULL;
}

static bool cursor_string(cursor *c, uint64_t cap, gguf_string *out, const char *what) {
    uint64_t start = c->pos, size;
    if (!cursor_u64(c, &size, what)) return false;
    if (size > cap) {
        base_fail(c->err, REALM_E_INVALID_GGUF, "%s '%s' at byte %llu is %llu bytes long, at most %llu are allowed", what,
                  printable_of(c->within).text, (unsigned long long)start, (unsigned long long)size, (unsigned long long)cap);
        return false;
    }
    const uint8_t *p = cursor_take(c, size, what);
    *out = (gguf_string){.data = (const char *)p, .size = size};
    return p != NULL;
}

/* ---- names ---- */

/* True for well-formed UTF-8 without NUL bytes. */
static bool is_clean_utf8(gguf_string s) {
    const uint8_t *p = (const uint8_t *)s.data, *end = p + s.size;
    while (p < end) {
        if (*p == 0) return false;
        unsigned extra = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : (*p & 0xf0) == 0xe0 ? 2 : *p >= 0xf0 && *p < 0xf5 ? 3 : 4;
        if (extra == 4 || extra >= (uint64_t)(end - p)) return false;
        uint32_t code = extra == 0 ? *p : *p & (0x3fu >> extra);
        for (unsigned i = 1; i <= extra; i++) {
            if ((p[i] & 0xc0) != 0x80) return false;
            code = code << 6 | (p[i] & 0x3f);
        }
        bool overlong = (extra == 2 && code < 0x800) || (extra == 3 && code < 0x10000);
        if (overlong || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
        p += extra + 1;
    }
    return true;
}

/* ---- name index ---- */

typedef gguf_string (*name_at)(const gguf *file, uint64_t index);

static gguf_string key_at(const gguf *file, uint64_t i) { return file->values[i].key; }
static gguf_string tensor_name_at(const gguf *file, uint64_t i) { return file->tensors[i].name; }

/* The slot that holds `name`, or the empty one where it belongs. slot_count is a power of two above the entry count. */
static uint64_t slot_of(const gguf *file, const uint32_t *slots, uint64_t slot_count, name_at at, const char *name,
                        uint64_t size) {
    uint64_t slot = base_hash(name, (size_t)size, file->hash_seed) & (slot_count - 1);
    while (slots[slot] != 0) {
        gguf_string have = at(file, slots[slot] - 1);
        if (have.size == size && memcmp(have.data, name, (size_t)size) == 0) break;
        slot = (slot + 1) & (slot_count - 1);
    }
    return slot;
}

static realm_status slots_create(uint64_t entries, uint32_t **slots, uint64_t *slot_count, realm_error *err) {
    *slot_count = 8;
    while (*slot_count < entries * 2) *slot_count *= 2;
    *slots = calloc((size_t)*slot_count, sizeof **slots);
    return *slots ? REALM_OK : base_fail_memory(err, "the name index", *slot_count * sizeof **slots);
}

/* ---- metadata ---- */

/* Bytes of one scalar; 0 for strings, arrays and unknown types. */
static uint64_t scalar_bytes(uint32_t type) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

static realm_status check_bools(cursor *c, const gguf_value *value) {
    for (uint64_t i = 0; i < value->count; i++) {
        if (value->data[i] > 1) {
            return fail_at(c, (uint64_t)(value->data + i - c->bytes), "key", value->key, "a bool is neither 0 nor 1");
        }
    }
    return REALM_OK;
}

/* Walks the strings of an array so that gguf_next_string needs no checks. */
static realm_status skip_strings(cursor *c, gguf_value *value) {
    value->data = c->bytes + c->pos;
    for (uint64_t i = 0; i < value->count; i++) {
        gguf_string s;
        if (!cursor_string(c, STRING_CAP, &s, "a string of an array")) return REALM_E_INVALID_GGUF;
    }
    return REALM_OK;
}

static realm_status read_elements(cursor *c, gguf_value *value, uint32_t type) {
    uint64_t start = c->pos, each = scalar_bytes(type), bytes;
    if (type == GGUF_STRING) return skip_strings(c, value);
    if (each == 0) return fail_at(c, start, "key", value->key, "unknown value type");
    if (!base_mul(value->count, each, &bytes)) return fail_at(c, start, "key", value->key, "array too large");
    value->data = cursor_take(c, bytes, "a metadata value");
    if (value->data == NULL) return REALM_E_INVALID_GGUF;
    return type == GGUF_BOOL ? check_bools(c, value) : REALM_OK;
}

static realm_status read_array(cursor *c, gguf_value *value) {
    uint64_t start = c->pos;
    if (!cursor_u32(c, &value->element_type, "an array's element type")) return REALM_E_INVALID_GGUF;
    if (!cursor_u64(c, &value->count, "an array's length")) return REALM_E_INVALID_GGUF;
    if (value->element_type == GGUF_ARRAY) return fail_at(c, start, "key", value->key, "arrays of arrays are not allowed");
    if (value->count > ARRAY_CAP) return fail_at(c, start, "key", value->key, "the array has too many elements");
    uint64_t least = value->element_type == GGUF_STRING ? 8 : scalar_bytes(value->element_type);
    if (least != 0 && !cursor_holds(c, value->count, least)) {
        return fail_at(c, start, "key", value->key, "the array is longer than the file");
    }
    return read_elements(c, value, value->element_type);
}

static realm_status read_value(cursor *c, gguf_value *value) {
    uint64_t start = c->pos;
    *value = (gguf_value){.count = 1};
    c->within = (gguf_string){0};
    if (!cursor_string(c, KEY_CAP, &value->key, "a metadata key")) return REALM_E_INVALID_GGUF;
    if (value->key.size == 0) return fail_at(c, start, "key", value->key, "a key must not be empty");
    if (!is_clean_utf8(value->key)) return fail_at(c, start, "key", value->key, "not valid UTF-8, or holds a NUL");
    c->within = value->key;
    if (!cursor_u32(c, &value->type, "a value type")) return REALM_E_INVALID_GGUF;
    if (value->type == GGUF_ARRAY) return read_array(c, value);
    if (value->type != GGUF_STRING) return read_elements(c, value, value->type);
    gguf_string s;
    value->data = c->bytes + c->pos;
    return cursor_string(c, STRING_CAP, &s, "a string value") ? REALM_OK : REALM_E_INVALID_GGUF;
}

static realm_status read_values(gguf *file, cursor *c) {
    if (!cursor_holds(c, file->value_count, VALUE_MIN_BYTES) || file->value_count > UINT32_MAX - 1) {
        return base_fail(c->err, REALM_E_INVALID_GGUF, "the header claims %llu metadata keys, more than the file can hold",
                         (unsigned long long)file->value_count);
    }
    file->values = calloc((size_t)file->value_count + 1, sizeof *file->values);
    if (file->values == NULL) return base_fail_memory(c->err, "metadata", file->value_count * sizeof *file->values);
    realm_status status = slots_create(file->value_count, &file->value_slots, &file->value_slot_count, c->err);
    for (uint64_t i = 0; status == REALM_OK && i < file->value_count; i++) {
        uint64_t start = c->pos;
        gguf_string key;
        status = read_value(c, &file->values[i]);
        if (status != REALM_OK) break;
        key = file->values[i].key;
        uint64_t slot = slot_of(file, file->value_slots, file->value_slot_count, key_at, key.data, key.size);
        if (file->value_slots[slot] != 0) status = fail_at(c, start, "key", key, "appears twice");
        file->value_slots[slot] = (uint32_t)i + 1;
    }
    return status;
}

static realm_status read_alignment(gguf *file, cursor *c) {
    const gguf_value *value = gguf_find(file, "general.alignment");
    file->alignment = DEFAULT_ALIGNMENT;
    if (value == NULL) return REALM_OK;
    uint64_t at = (uint64_t)(value->data - c->bytes);
    if (value->type != GGUF_U32) return fail_at(c, at, "key", value->key, "must be a u32");
    file->alignment = base_u32(value->data);
    bool power_of_two = file->alignment != 0 && (file->alignment & (file->alignment - 1)) == 0;
    if (!power_of_two || file->alignment < 8 || file->alignment > ALIGNMENT_CAP) {
        return fail_at(c, at, "key", value->key, "must be a power of two from 8 to 1048576");
    }
    return REALM_OK;
}

/* ---- tensors ---- */

/* Fills tensor->bytes from its shape and type; types blocks.h does not know keep 0 and can only be inspected. */
static realm_status size_tensor(cursor *c, uint64_t at, gguf_tensor *t) {
    uint64_t elements = 1;
    for (uint32_t d = 0; d < t->n_dims; d++) {
        if (t->dims[d] == 0 || t->dims[d] > INT64_MAX) return fail_at(c, at, "tensor", t->name, "a dimension is 0 or too large");
        if (!base_mul(elements, t->dims[d], &elements) || elements > INT64_MAX) {
            return fail_at(c, at, "tensor", t->name, "has too many elements");
        }
    }
    const block_type *block = block_type_of(t->type);
    if (block == NULL) return REALM_OK;
    if (t->dims[0] % block->elements != 0) {
        return base_fail(c->err, REALM_E_INVALID_GGUF, "tensor '%s' at byte %llu: a row of %llu is not a multiple of %s's %u",
                         printable_of(t->name).text, (unsigned long long)at, (unsigned long long)t->dims[0], block->name,
                         block->elements);
    }
    if (!base_mul(elements / block->elements, block->bytes, &t->bytes)) {
        return fail_at(c, at, "tensor", t->name, "is too large");
    }
    return REALM_OK;
}

static realm_status read_tensor(cursor *c, gguf_tensor *t) {
    uint64_t at = c->pos;
    *t = (gguf_tensor){.dims = {1, 1, 1, 1}};
    c->within = (gguf_string){0};
    if (!cursor_string(c, TENSOR_NAME_CAP, &t->name, "a tensor name")) return REALM_E_INVALID_GGUF;
    if (t->name.size == 0) return fail_at(c, at, "tensor", t->name, "a name must not be empty");
    if (!is_clean_utf8(t->name)) return fail_at(c, at, "tensor", t->name, "not valid UTF-8, or holds a NUL");
    c->within = t->name;
    if (!cursor_u32(c, &t->n_dims, "a tensor's dimension count")) return REALM_E_INVALID_GGUF;
    if (t->n_dims < 1 || t->n_dims > DIMS_CAP) return fail_at(c, at, "tensor", t->name, "must have 1 to 4 dimensions");
    for (uint32_t d = 0; d < t->n_dims; d++) {
        if (!cursor_u64(c, &t->dims[d], "a tensor's dimensions")) return REALM_E_INVALID_GGUF;
    }
    if (!cursor_u32(c, &t->type, "a tensor's type")) return REALM_E_INVALID_GGUF;
    if (!cursor_u64(c, &t->offset, "a tensor's offset")) return REALM_E_INVALID_GGUF;
    return size_tensor(c, at, t);
}

static realm_status read_tensors(gguf *file, cursor *c) {
    if (!cursor_holds(c, file->tensor_count, TENSOR_MIN_BYTES) || file->tensor_count > UINT32_MAX - 1) {
        return base_fail(c->err, REALM_E_INVALID_GGUF, "the header claims %llu tensors, more than the file can hold",
                         (unsigned long long)file->tensor_count);
    }
    file->tensors = calloc((size_t)file->tensor_count + 1, sizeof *file->tensors);
    if (file->tensors == NULL) return base_fail_memory(c->err, "tensors", file->tensor_count * sizeof *file->tensors);
    realm_status status = slots_create(file->tensor_count, &file->tensor_slots, &file->tensor_slot_count, c->err);
    for (uint64_t i = 0; status == REALM_OK && i < file->tensor_count; i++) {
        uint64_t start = c->pos;
        status = read_tensor(c, &file->tensors[i]);
        if (status != REALM_OK) break;
        gguf_string name = file->tensors[i].name;
        uint64_t slot = slot_of(file, file->tensor_slots, file->tensor_slot_count, tensor_name_at, name.data, name.size);
        if (file->tensor_slots[slot] != 0) status = fail_at(c, start, "tensor", name, "appears twice");
        file->tensor_slots[slot] = (uint32_t)i + 1;
    }
    return status;
}

/* Turns offsets from the data section into offsets from the file's start and checks that the data lies inside the file. */
static realm_status place_tensor(cursor *c, uint64_t data_start, uint64_t alignment, gguf_tensor *t) {
    if (t->offset % alignment != 0) return fail_at(c, t->offset, "tensor", t->name, "its data offset is not aligned");
    if (!base_add(data_start, t->offset, &t->offset) || t->offset > c->file_size || t->bytes > c->file_size - t->offset) {
        return base_fail(c->err, REALM_E_INVALID_GGUF, "tensor '%s': its data (%llu bytes at %llu) ends after the file (%llu)",
                         printable_of(t->name).text, (unsigned long long)t->bytes, (unsigned long long)t->offset,
                         (unsigned long long)c->file_size);
    }
    if (t->offset <= c->size && t->bytes <= c->size - t->offset) t->data = c->bytes + t->offset;
    return REALM_OK;
}

static int compare_offsets(const void *a, const void *b) {
    const gguf_tensor *x = *(const gguf_tensor *const *)a, *y = *(const gguf_tensor *const *)b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty ranges first: they cannot overlap what follows */
}

static realm_status check_overlap(const gguf *file, cursor *c) {
    const gguf_tensor **order = malloc(((size_t)file->tensor_count + 1) * sizeof *order);
    if (order == NULL) return base_fail_memory(c->err, "the tensor order", file->tensor_count * sizeof *order);
    for (uint64_t i = 0; i < file->tensor_count; i++) order[i] = &file->tensors[i];
    qsort(order, (size_t)file->tensor_count, sizeof *order, compare_offsets);
    realm_status status = REALM_OK;
    for (uint64_t i = 1; status == REALM_OK && i < file->tensor_count; i++) {
        if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset) {
            status = fail_at(c, order[i]->offset, "tensor", order[i]->name, "its data overlaps another tensor's");
        }
    }
    free(order);
    return status;
}

static realm_status place_tensors(gguf *file, cursor *c) {
    if (file->tensor_count == 0) return REALM_OK; /* vocabulary-only files end without padding */
    uint64_t slack = c->pos % file->alignment;
    uint64_t data_start = slack ? c->pos + (file->alignment - slack) : c->pos; /* pos <= size: far from wrapping */
    for (uint64_t i = 0; i < file->tensor_count; i++) {
        realm_status status = place_tensor(c, data_start, file->alignment, &file->tensors[i]);
        if (status != REALM_OK) return status;
    }
    return check_overlap(file, c);
}

/* ---- opening ---- */

static realm_status read_version(gguf *file, cursor *c) {
    uint32_t version;
    const uint8_t *magic = cursor_take(c, 4, "the magic number");
    if (magic == NULL) return REALM_E_INVALID_GGUF;
    if (memcmp(magic, "GGUF", 4) != 0) {
        return base_fail(c->err, REALM_E_INVALID_GGUF, "not a GGUF file: it does not begin with 'GGUF'");
    }
    if (!cursor_u32(c, &version, "the version")) return REALM_E_INVALID_GGUF;
    if (version != 0 && (version & 0xffff) == 0) {
        return base_fail(c->err, REALM_E_UNSUPPORTED_GGUF, "the file is big-endian; only little-endian files can be read");
    }
    if (version != 2 && version != 3) {
        return base_fail(c->err, REALM_E_UNSUPPORTED_GGUF, "GGUF version %u; versions 2 and 3 can be read", version);
    }
    file->version = version;
    return REALM_OK;
}

static realm_status read_file(gguf *file, cursor *c) {
    realm_status status = read_version(file, c);
    if (status != REALM_OK) return status;
    if (!cursor_u64(c, &file->tensor_count, "the header")) return REALM_E_INVALID_GGUF;
    if (!cursor_u64(c, &file->value_count, "the header")) return REALM_E_INVALID_GGUF;
    status = read_values(file, c);
    if (status == REALM_OK) status = read_alignment(file, c);
    if (status == REALM_OK) status = read_tensors(file, c);
    if (status == REALM_OK) status = place_tensors(file, c);
    return status;
}

realm_status gguf_open_head(const uint8_t *bytes, uint64_t size, uint64_t file_size, gguf **out, uint64_t *needed, realm_error *err) {
    *out = NULL;
    *needed = 0;
    gguf *file = calloc(1, sizeof *file);
    if (file == NULL) return base_fail_memory(err, "the file's directory", sizeof *file);
    file->bytes = bytes;
    file->size = file_size;
    file->part_count = 1;
    file->hash_seed = (uint64_t)(uintptr_t)file * 0x9e3779b97f4a7c15u; /* address-space randomness is what the core has */
    cursor c = {.bytes = bytes, .size = size, .file_size = file_size, .err = err};
    realm_status status = read_file(file, &c);
    if (status != REALM_OK) {
        *needed = c.needed;
        gguf_close(file);
        return status;
    }
    *out = file;
    return REALM_OK;
}

realm_status gguf_open(const uint8_t *bytes, uint64_t size, gguf **out, realm_error *err) {
    uint64_t needed;
    return gguf_open_head(bytes, size, size, out, &needed, err);
}

void gguf_close(gguf *file) {
    if (file == NULL) return;
    free(file->values);
    free(file->value_slots);
    free(file->tensors);
    free(file->tensor_slots);
    free(file);
}

/* ---- models in several files: llama.cpp's gguf-split writes split.no, split.count, split.tensors.count into each ---- */

static realm_status check_part(const gguf *part, uint32_t count, uint32_t *number, uint32_t *tensors, realm_error *err) {
    uint32_t parts = 1;
    realm_status status = gguf_read_u32(part, "split.count", &parts, err);
    if (status == REALM_OK) status = gguf_read_u32(part, "split.no", number, err);
    if (status == REALM_OK) status = gguf_read_u32(part, "split.tensors.count", tensors, err);
    if (status != REALM_OK) return status;
    if (parts != count) {
        return base_fail(err, REALM_E_INVALID_MODEL, "%u files were given, but one belongs to a model of %u (split.count)", count, parts);
    }
    if (*number >= count) return base_fail(err, REALM_E_INVALID_MODEL, "split.no is %u in a model of %u files", *number, count);
    return REALM_OK;
}

/* Sorts the parts by number; each must be there once, and they must agree. */
static realm_status order_parts(gguf **parts, uint32_t count, const uint64_t *bases, gguf **order, realm_error *err) {
    uint64_t total = 0;
    uint32_t claimed = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t number = UINT32_MAX, tensors = claimed;
        realm_status status = check_part(parts[i], count, &number, &tensors, err);
        if (status != REALM_OK) return status;
        if (order[number] != NULL) return base_fail(err, REALM_E_INVALID_MODEL, "two of the files are part %u (split.no)", number);
        if (i > 0 && tensors != claimed) return base_fail(err, REALM_E_INVALID_MODEL, "the files disagree on split.tensors.count");
        order[number] = parts[i];
        for (uint64_t t = 0; t < parts[i]->tensor_count; t++) parts[i]->tensors[t].offset += bases[i];
        total += parts[i]->tensor_count;
        claimed = tensors;
    }
    if (claimed != UINT32_MAX && claimed != total) {
        return base_fail(err, REALM_E_INVALID_MODEL, "the files hold %llu tensors together, split.tensors.count says %u",
                         (unsigned long long)total, claimed);
    }
    return REALM_OK;
}

static realm_status check_architecture(const gguf *first, const gguf *part, realm_error *err) {
    gguf_string a = {NULL, 0}, b = {NULL, 0};
    realm_status status = gguf_read_string(first, "general.architecture", &a, err);
    if (status == REALM_OK) status = gguf_read_string(part, "general.architecture", &b, err);
    if (status != REALM_OK || b.data == NULL) return status;
    if (a.data != NULL && a.size == b.size && memcmp(a.data, b.data, (size_t)a.size) == 0) return REALM_OK;
    return base_fail(err, REALM_E_INVALID_MODEL, "the files are of different models: general.architecture differs");
}

static realm_status add_tensor(gguf *file, const gguf_tensor *t, realm_error *err) {
    uint64_t slot = slot_of(file, file->tensor_slots, file->tensor_slot_count, tensor_name_at, t->name.data, t->name.size);
    if (file->tensor_slots[slot] != 0) {
        return base_fail(err, REALM_E_INVALID_MODEL, "tensor '%s' is in two of the files", printable_of(t->name).text);
    }
    file->tensors[file->tensor_count++] = *t;
    file->tensor_slots[slot] = (uint32_t)file->tensor_count;
    return REALM_OK;
}

/* The directory of order[0] grows to that of all. */
static realm_status collect_tensors(gguf **order, uint32_t count, realm_error *err) {
    gguf *first = order[0];
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++) total += order[i]->tensor_count;
    if (total > UINT32_MAX - 1) return base_fail(err, REALM_E_INVALID_MODEL, "the files hold too many tensors");
    gguf_tensor *own = first->tensors;
    uint64_t own_count = first->tensor_count;
    free(first->tensor_slots);
    first->tensor_slots = NULL;
    first->tensor_count = 0;
    first->tensors = calloc((size_t)total + 1, sizeof *first->tensors);
    realm_status status = first->tensors == NULL ? base_fail_memory(err, "tensors", total * sizeof *own)
                                                 : slots_create(total, &first->tensor_slots, &first->tensor_slot_count, err);
    for (uint64_t t = 0; status == REALM_OK && t < own_count; t++) status = add_tensor(first, &own[t], err);
    free(own);
    for (uint32_t i = 1; status == REALM_OK && i < count; i++) {
        status = check_architecture(first, order[i], err);
        for (uint64_t t = 0; status == REALM_OK && t < order[i]->tensor_count; t++) status = add_tensor(first, &order[i]->tensors[t], err);
    }
    return status;
}

realm_status gguf_merge(gguf **parts, const uint64_t *bases, uint32_t count, gguf **out, realm_error *err) {
    *out = NULL;
    gguf **order = calloc(count, sizeof *order);
    realm_status status = order == NULL ? base_fail_memory(err, "the model's parts", count * sizeof *order)
                                        : order_parts(parts, count, bases, order, err);
    if (status == REALM_OK) status = collect_tensors(order, count, err);
    if (status == REALM_OK) {
        *out = order[0];
        (*out)->part_count = count;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (parts[i] != *out) gguf_close(parts[i]);
    }
    free(order);
    return status;
}

uint32_t gguf_part_count(const gguf *file) { return file->part_count; }

void gguf_place(gguf *file, const uint8_t *memory) {
    for (uint64_t i = 0; i < file->tensor_count; i++) file->tensors[i].data = memory + file->tensors[i].offset;
}

void gguf_supply(gguf *file, const gguf_tensor *tensor, const uint8_t *data) { file->tensors[tensor - file->tensors].data = data; }
void gguf_mark_packed(gguf *file, uint64_t index) { file->tensors[index].packed = true; }

/* ---- lookups ---- */

uint32_t gguf_version(const gguf *file) { return file->version; }
uint64_t gguf_value_count(const gguf *file) { return file->value_count; }
const gguf_value *gguf_value_at(const gguf *file, uint64_t index) { return &file->values[index]; }
uint64_t gguf_tensor_count(const gguf *file) { return file->tensor_count; }
const gguf_tensor *gguf_tensor_at(const gguf *file, uint64_t index) { return &file->tensors[index]; }

const gguf_value *gguf_find(const gguf *file, const char *key) {
    uint64_t slot = slot_of(file, file->value_slots, file->value_slot_count, key_at, key, strlen(key));
    return file->value_slots[slot] ? &file->values[file->value_slots[slot] - 1] : NULL;
}

const gguf_tensor *gguf_find_tensor_n(const gguf *file, const char *name, size_t size) {
    uint64_t slot = slot_of(file, file->tensor_slots, file->tensor_slot_count, tensor_name_at, name, size);
    return file->tensor_slots[slot] ? &file->tensors[file->tensor_slots[slot] - 1] : NULL;
}

const gguf_tensor *gguf_find_tensor(const gguf *file, const char *name) {
    return gguf_find_tensor_n(file, name, strlen(name));
}

/* ---- typed reads ---- */

static realm_status fail_value(const gguf_value *value, const char *expected, realm_error *err) {
    return base_fail(err, REALM_E_INVALID_MODEL, "metadata '%s' must be %s", printable_of(value->key).text, expected);
}

static bool is_integer(uint32_t type) { return type != GGUF_F32 && type != GGUF_F64 && type != GGUF_BOOL && scalar_bytes(type); }

realm_status gguf_read_u32(const gguf *file, const char *key, uint32_t *out, realm_error *err) {
    const gguf_value *value = gguf_find(file, key);
    if (value == NULL) return REALM_OK;
    if (!is_integer(value->type)) return fail_value(value, "an integer", err);
    int64_t number = gguf_array_int(value, 0); /* a u64 too large becomes INT64_MAX: refused like any other */
    if (number < 0 || number > UINT32_MAX) return fail_value(value, "an integer from 0 to 4294967295", err);
    *out = (uint32_t)number;
    return REALM_OK;
}

realm_status gguf_read_f32(const gguf *file, const char *key, float *out, realm_error *err) {
    const gguf_value *value = gguf_find(file, key);
    if (value == NULL) return REALM_OK;
    if (value->type != GGUF_F32 && value->type != GGUF_F64 && !is_integer(value->type)) {
        return fail_value(value, "a number", err);
    }
    double number = gguf_array_float(value, 0);
    if (!(fabs(number) <= 3.4028234e38)) return fail_value(value, "a finite number", err); /* FLT_MAX; false for NaN */
    *out = (float)number;
    return REALM_OK;
}

realm_status gguf_read_bool(const gguf *file, const char *key, bool *out, realm_error *err) {
    const gguf_value *value = gguf_find(file, key);
    if (value == NULL) return REALM_OK;
    if (value->type != GGUF_BOOL) return fail_value(value, "a bool", err);
    *out = value->data[0] != 0;
    return REALM_OK;
}

realm_status gguf_read_string(const gguf *file, const char *key, gguf_string *out, realm_error *err) {
    const gguf_value *value = gguf_find(file, key);
    if (value == NULL) return REALM_OK;
    if (value->type != GGUF_STRING) return fail_value(value, "a string", err);
    const uint8_t *at = value->data;
    *out = gguf_next_string(&at);
    return REALM_OK;
}

bool gguf_string_is(gguf_string s, const char *text) {
    return s.data != NULL && s.size == strlen(text) && memcmp(s.data, text, (size_t)s.size) == 0;
}

gguf_string gguf_next_string(const uint8_t **at) {
    gguf_string s = {.data = (const char *)*at + 8, .size = base_u64(*at)};
    *at += 8 + s.size;
    return s;
}

/* ---- array elements ---- */

static uint32_t element_type(const gguf_value *value) { return value->type == GGUF_ARRAY ? value->element_type : value->type; }

static int64_t int_of_float(double number) { /* out-of-range casts are undefined: clamp */
    if (!(number > -9.2e18)) return number == number ? INT64_MIN : 0;
    return number < 9.2e18 ? (int64_t)number : INT64_MAX;
}

static double float_at(uint32_t type, const uint8_t *p) {
    if (type == GGUF_F32) return (double)base_f32(p);
    double number;
    memcpy(&number, p, sizeof number);
    return number;
}

int64_t gguf_array_int(const gguf_value *value, uint64_t i) {
    uint32_t type = element_type(value);
    const uint8_t *p = value->data + i * scalar_bytes(type);
    switch (type) {
    case GGUF_U8: case GGUF_BOOL: return *p;
    case GGUF_I8: return (int8_t)*p;
    case GGUF_U16: return base_u16(p);
    case GGUF_I16: return (int16_t)base_u16(p);
    case GGUF_U32: return base_u32(p);
    case GGUF_I32: return (int32_t)base_u32(p);
    case GGUF_U64: return base_u64(p) > INT64_MAX ? INT64_MAX : (int64_t)base_u64(p);
    case GGUF_I64: return (int64_t)base_u64(p);
    case GGUF_F32: case GGUF_F64: return int_of_float(float_at(type, p));
    default: return 0;
    }
}

double gguf_array_float(const gguf_value *value, uint64_t i) {
    uint32_t type = element_type(value);
    if (type == GGUF_F32 || type == GGUF_F64) return float_at(type, value->data + i * scalar_bytes(type));
    if (type == GGUF_U64) return (double)base_u64(value->data + i * 8);
    return (double)gguf_array_int(value, i);
}
