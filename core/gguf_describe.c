/* gguf_describe.c: a GGUF directory as JSON, for `inspect`.
 * Text from the file is hostile: control characters are escaped, invalid UTF-8 becomes U+FFFD, so that the result is always
 * valid JSON. Everything goes through one sink that counts all bytes and keeps those that fit. */
#include "gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "blocks.h"

#define ARRAY_HEAD 16 /* elements of a long array that are shown */

typedef struct sink {
    char *out;
    size_t cap, size;
} sink;

static void put(sink *s, const char *text, size_t size) {
    if (s->size < s->cap) memcpy(s->out + s->size, text, size < s->cap - s->size ? size : s->cap - s->size);
    s->size += size;
}

static void put_text(sink *s, const char *text) { put(s, text, strlen(text)); }

static void put_u64(sink *s, uint64_t number) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    put_text(s, text);
}

static void put_float(sink *s, double number, int digits) {
    char text[40];
    if (!isfinite(number)) { /* JSON has no such numbers */
        put_text(s, "null");
        return;
    }
    snprintf(text, sizeof text, "%.*g", digits, number);
    for (char *c = text; *c; c++) {
        if (*c == ',') *c = '.'; /* the host's locale must not leak into JSON */
    }
    put_text(s, text);
}

/* Length of the UTF-8 character at p, 0 when it is malformed. */
static size_t utf8_length(const uint8_t *p, size_t left) {
    size_t n = *p < 0x80 ? 1 : *p >= 0xc2 && *p < 0xe0 ? 2 : (*p & 0xf0) == 0xe0 ? 3 : *p >= 0xf0 && *p < 0xf5 ? 4 : 0;
    if (n == 0 || n > left) return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
    }
    bool overlong = (*p == 0xe0 && p[1] < 0xa0) || (*p == 0xf0 && p[1] < 0x90);
    bool surrogate = *p == 0xed && p[1] >= 0xa0, beyond = *p == 0xf4 && p[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : n;
}

static void put_escaped(sink *s, uint8_t c) {
    char text[8];
    snprintf(text, sizeof text, c == '"' || c == '\\' ? "\\%c" : "\\u%04x", c);
    put_text(s, text);
}

static void put_string(sink *s, gguf_string string) {
    const uint8_t *p = (const uint8_t *)string.data;
    size_t left = (size_t)string.size;
    put_text(s, "\"");
    while (left > 0) {
        size_t n = utf8_length(p, left);
        if (n == 0) put_text(s, "\xef\xbf\xbd");
        else if (*p < 0x20 || *p == 0x7f || *p == '"' || *p == '\\') put_escaped(s, *p);
        else put(s, (const char *)p, n);
        p += n ? n : 1;
        left -= n ? n : 1;
    }
    put_text(s, "\"");
}

static void put_number(sink *s, const gguf_value *value, uint32_t type, uint64_t i) {
    if (type == GGUF_BOOL) put_text(s, gguf_array_int(value, i) ? "true" : "false");
    else if (type == GGUF_F32) put_float(s, gguf_array_float(value, i), 9);
    else if (type == GGUF_F64) put_float(s, gguf_array_float(value, i), 17);
    else if (type == GGUF_U64) put_u64(s, base_u64(value->data + i * 8));
    else {
        int64_t number = gguf_array_int(value, i);
        if (number < 0) put_text(s, "-");
        put_u64(s, number < 0 ? 0 - (uint64_t)number : (uint64_t)number);
    }
}

static void put_elements(sink *s, const gguf_value *value, uint32_t type, uint64_t count) {
    const uint8_t *at = value->data;
    put_text(s, "[");
    for (uint64_t i = 0; i < count; i++) {
        if (i) put_text(s, ", ");
        if (type == GGUF_STRING) put_string(s, gguf_next_string(&at));
        else put_number(s, value, type, i);
    }
    put_text(s, "]");
}

static void put_value(sink *s, const gguf_value *value) {
    if (value->type == GGUF_STRING) {
        const uint8_t *at = value->data;
        put_string(s, gguf_next_string(&at));
    } else if (value->type != GGUF_ARRAY) {
        put_number(s, value, value->type, 0);
    } else if (value->count <= ARRAY_HEAD) {
        put_elements(s, value, value->element_type, value->count);
    } else {
        put_text(s, "{\"count\": ");
        put_u64(s, value->count);
        put_text(s, ", \"head\": ");
        put_elements(s, value, value->element_type, ARRAY_HEAD);
        put_text(s, "}");
    }
}

static void put_type(sink *s, uint32_t type) {
    const block_type *block = block_type_of(type);
    put_text(s, "\"");
    put_text(s, block ? block->name : "unknown type ");
    if (block == NULL) put_u64(s, type);
    put_text(s, "\"");
}

static void put_tensor(sink *s, const gguf_tensor *t) {
    put_text(s, "{\"name\": ");
    put_string(s, t->name);
    put_text(s, ", \"type\": ");
    put_type(s, t->type);
    put_text(s, ", \"shape\": [");
    for (uint32_t d = 0; d < t->n_dims; d++) {
        if (d) put_text(s, ", ");
        put_u64(s, t->dims[d]);
    }
    put_text(s, "], \"offset\": ");
    put_u64(s, t->offset);
    put_text(s, ", \"bytes\": ");
    put_u64(s, t->bytes);
    put_text(s, "}");
}

size_t gguf_describe(const gguf *file, char *out, size_t cap) {
    sink s = {.out = out, .cap = cap};
    put_text(&s, "{\"version\": ");
    put_u64(&s, gguf_version(file));
    put_text(&s, ", \"metadata\": {");
    for (uint64_t i = 0; i < gguf_value_count(file); i++) {
        if (i) put_text(&s, ", ");
        put_string(&s, gguf_value_at(file, i)->key);
        put_text(&s, ": ");
        put_value(&s, gguf_value_at(file, i));
    }
    put_text(&s, "}, \"tensors\": [");
    for (uint64_t i = 0; i < gguf_tensor_count(file); i++) {
        if (i) put_text(&s, ", ");
        put_tensor(&s, gguf_tensor_at(file, i));
    }
    put_text(&s, "]}");
    return s.size;
}
