/* gguf.h: a GGUF v2/v3 file's bytes -> a checked directory of metadata and tensors.
 * Everything points into the caller's bytes, which must outlive the gguf. All sizes were checked in 64 bits when gguf_open
 * returned REALM_OK: values, strings and tensor data lie inside the file. Format: ggml's docs/gguf.md. */
#ifndef REALM_GGUF_H
#define REALM_GGUF_H

#include "base.h"

typedef struct gguf gguf;

typedef enum gguf_value_type {
    GGUF_U8 = 0, GGUF_I8 = 1, GGUF_U16 = 2, GGUF_I16 = 3, GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7,
    GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_U64 = 10, GGUF_I64 = 11, GGUF_F64 = 12,
} gguf_value_type;

typedef struct gguf_string {
    const char *data; /* not NUL-terminated */
    uint64_t size;
} gguf_string;

typedef struct gguf_value {
    gguf_string key;
    uint32_t type;         /* gguf_value_type */
    uint32_t element_type; /* of an array */
    uint64_t count;        /* elements of an array, 1 otherwise */
    const uint8_t *data;   /* first element as stored (little-endian, unaligned) */
} gguf_value;

typedef struct gguf_tensor {
    gguf_string name;
    uint32_t type;       /* ggml type id, see blocks.h; may be one the core cannot compute with */
    uint32_t n_dims;     /* 1..4 */
    uint64_t dims[4];    /* dims[0] is the row length; unused ones are 1 */
    uint64_t offset;     /* of the data, from the start of the file */
    uint64_t bytes;      /* of the data; 0 when the type's block size is unknown to blocks.h */
    const uint8_t *data; /* NULL where only the file's head was given and it lies beyond */
    bool packed;         /* data is no longer as in the file: cpu/packing.h */
} gguf_tensor;

/* Parses and checks. On failure nothing is left allocated and *out is NULL. */
realm_status gguf_open(const uint8_t *bytes, uint64_t size, gguf **out, realm_error *err);
/* The same over the leading `size` bytes of a file of file_size bytes. Where they do not hold the whole directory the call fails
 * and *needed says how many bytes it takes at least; otherwise *needed is 0. */
realm_status gguf_open_head(const uint8_t *bytes, uint64_t size, uint64_t file_size, gguf **out, uint64_t *needed, realm_error *err);
/* The parts of a split model, in any order, become one directory: the metadata of part 0, the tensors of all with their offsets moved
 * by bases. Takes the parts over in every case. */
realm_status gguf_merge(gguf **parts, const uint64_t *bases, uint32_t count, gguf **out, realm_error *err);
void gguf_close(gguf *file);
/* Files it was merged from. */
uint32_t gguf_part_count(const gguf *file);
/* Lets all tensors' data point into `memory`, which has or will have the whole file. */
void gguf_place(gguf *file, const uint8_t *memory);
/* Lets one tensor's data point elsewhere. */
void gguf_supply(gguf *file, const gguf_tensor *tensor, const uint8_t *data);
void gguf_mark_packed(gguf *file, uint64_t index);

uint32_t gguf_version(const gguf *file);
uint64_t gguf_value_count(const gguf *file);
const gguf_value *gguf_value_at(const gguf *file, uint64_t index);
const gguf_value *gguf_find(const gguf *file, const char *key); /* NULL when absent; O(1) */
uint64_t gguf_tensor_count(const gguf *file);
const gguf_tensor *gguf_tensor_at(const gguf *file, uint64_t index);
const gguf_tensor *gguf_find_tensor(const gguf *file, const char *name); /* NULL when absent; O(1) */
const gguf_tensor *gguf_find_tensor_n(const gguf *file, const char *name, size_t size);

/* Typed reads. Integers of any width are accepted where they fit. An absent key leaves *out as it is and returns REALM_OK;
 * a wrong type or range is REALM_E_INVALID_MODEL naming the key. */
realm_status gguf_read_u32(const gguf *file, const char *key, uint32_t *out, realm_error *err);
realm_status gguf_read_f32(const gguf *file, const char *key, float *out, realm_error *err); /* must be finite */
realm_status gguf_read_bool(const gguf *file, const char *key, bool *out, realm_error *err);
realm_status gguf_read_string(const gguf *file, const char *key, gguf_string *out, realm_error *err);
bool gguf_string_is(gguf_string s, const char *text);

/* Walks an array of strings: *cursor starts as value->data; call at most value->count times. */
gguf_string gguf_next_string(const uint8_t **cursor);
/* Element i of an integer, bool or float array, converted. i < value->count. */
int64_t gguf_array_int(const gguf_value *value, uint64_t i);
double gguf_array_float(const gguf_value *value, uint64_t i);

/* JSON of metadata (arrays longer than 16 elements shortened to their length and head) and tensors. Returns the full size,
 * writes at most cap bytes. */
size_t gguf_describe(const gguf *file, char *out, size_t cap);

#endif
