/* fuzz_gguf.c: any bytes as a GGUF file, through the reader, the JSON description and the tokenizer.
 * The mutator knows the format: it walks a file as far as it makes sense and then lies in one field (a count, a length, a
 * type, a dimension, an offset), repeats or drops a metadata entry, or writes a new small file; else it mutates blindly. */
// sources: core/base.c core/blocks.c core/gguf.c core/gguf_describe.c core/unicode.c core/pretokenize.c core/tokenizer*.c
#include <stdio.h>
#include <stdlib.h>

#include "../../core/tokenizer.h"
#include "gguf_mutate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* ---- what must hold ---- */

static void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz_gguf: %s\n", what);
    abort();
}

static void expect_error(realm_status status, const realm_error *err, const void *result) {
    expect(result == NULL, "a failed call left a result");
    expect(err->code == (int32_t)status, "the error's code is not the status");
    expect(err->message[0] != '\0' && strchr(err->message, '\n') == NULL, "the message is not one line");
}

static void check_tensors(const gguf *file, const uint8_t *data, size_t size) {
    for (uint64_t i = 0; i < gguf_tensor_count(file); i++) {
        const gguf_tensor *t = gguf_tensor_at(file, i);
        expect(t->offset <= size && t->bytes <= size - t->offset && t->data == data + t->offset, "a tensor leaves the file");
        expect(gguf_find_tensor_n(file, t->name.data, (size_t)t->name.size) == t, "a tensor cannot be found by its name");
        volatile uint8_t last = t->bytes ? t->data[t->bytes - 1] : 0;
        (void)last;
    }
}

static void read_everything(const gguf *file, const char *key) {
    uint32_t number = 0;
    float real = 0;
    bool flag = false;
    gguf_string string = {0};
    (void)gguf_read_u32(file, key, &number, NULL);
    if (gguf_read_f32(file, key, &real, NULL) == REALM_OK) expect(real - real == 0, "a float read is not finite");
    (void)gguf_read_bool(file, key, &flag, NULL);
    (void)gguf_read_string(file, key, &string, NULL);
}

static void check_values(const gguf *file) {
    for (uint64_t i = 0; i < gguf_value_count(file); i++) {
        const gguf_value *value = gguf_value_at(file, i);
        char key[256];
        if (value->key.size >= sizeof key) continue;
        memcpy(key, value->key.data, (size_t)value->key.size);
        key[value->key.size] = '\0';
        expect(gguf_find(file, key) == value, "a key cannot be found");
        read_everything(file, key);
    }
}

static void check_description(const gguf *file) {
    size_t size = gguf_describe(file, NULL, 0);
    char *text = malloc(size / 2 + 1);
    if (text == NULL) return;
    expect(gguf_describe(file, text, size / 2) == size, "the description changes its size");
    free(text);
}

static void check_tokenizer(const gguf *file) {
    static const char text[] = "Hello  world\n\xe2\x96\x81 12345 it's <s> \xff\xc3\xa9 \xe4\xbd\xa0 <|im_end|> aaaaaaaa";
    realm_error err = {0};
    tokenizer *tok;
    realm_status status = tokenizer_create(file, &tok, &err);
    if (status != REALM_OK) {
        expect_error(status, &err, tok);
        return;
    }
    uint32_t ids[256];
    char out[512];
    size_t count, size;
    status = tokenizer_encode(tok, text, sizeof text - 1, REALM_ENCODE_ADD_SPECIAL | REALM_ENCODE_PARSE_SPECIAL, ids, 256,
                              &count, &err);
    if (status != REALM_OK) expect_error(status, &err, NULL);
    for (size_t i = 0; i < count && i < 256; i++) expect(ids[i] < tokenizer_vocab_size(tok), "an id outside the vocabulary");
    status = tokenizer_decode(tok, ids, count < 256 ? count : 256, REALM_DECODE_SPECIAL | REALM_DECODE_TEXT_START, out,
                              sizeof out, &size, NULL);
    expect(status == REALM_OK, "the tokenizer's own ids do not decode");
    tokenizer_destroy(tok);
}

/* The head alone, in memory of just its size: complete with the same directory as the whole file, or short and says of how much. */
static void check_head(const uint8_t *data, size_t cut, size_t size) {
    realm_error err = {0};
    gguf *head = NULL;
    uint64_t needed = 0;
    uint8_t *copy = malloc(cut + 1);
    if (copy == NULL) return;
    memcpy(copy, data, cut);
    realm_status status = gguf_open_head(copy, cut, size, &head, &needed, &err);
    if (status != REALM_OK) expect_error(status, &err, head);
    expect(needed == 0 || (status != REALM_OK && needed > cut && needed <= size), "a head asks for what the file does not have");
    for (uint64_t i = 0; head != NULL && i < gguf_tensor_count(head); i++) {
        const gguf_tensor *t = gguf_tensor_at(head, i);
        expect(t->offset <= size && t->bytes <= size - t->offset, "a tensor of a head leaves the file");
        expect(t->data == NULL || (t->offset <= cut && t->bytes <= cut - t->offset), "a head has data it was not given");
    }
    gguf_close(head);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (size_t part = 0; part < 8; part++) check_head(data, size * part / 8, size);
    realm_error err = {0};
    gguf *file;
    realm_status status = gguf_open(data, size, &file, &err);
    if (status != REALM_OK) {
        expect_error(status, &err, file);
        return 0;
    }
    check_tensors(file, data, size);
    check_values(file);
    check_description(file);
    check_tokenizer(file);
    gguf_close(file);
    return 0;
}

/* ---- the mutator ---- */

static size_t put(uint8_t *data, size_t size, size_t max_size, const void *bytes, size_t count) {
    if (count > max_size - size) return size;
    memcpy(data + size, bytes, count);
    return size + count;
}

static size_t put_string(uint8_t *data, size_t size, size_t max_size, const char *text) {
    uint64_t length = strlen(text);
    size = put(data, size, max_size, &length, sizeof length);
    return put(data, size, max_size, text, (size_t)length);
}

/* A new file: entries of random types under keys the readers look for. */
static size_t generate(uint8_t *data, size_t max_size) {
    static const char *const keys[] = {
        "general.alignment", "general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
        "tokenizer.ggml.token_type", "tokenizer.ggml.merges", "tokenizer.ggml.pre", "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_space_prefix",
    };
    static const char *const texts[] = {"llama", "gpt2", "gpt-2", "llama-bpe", "qwen2", "smollm", "a", "b", "ab", "a b",
                                        "\xc4\xa0", "<0x41>", "\xe2\x96\x81", "</s>", "", "\xff", "<|im_end|>"};
    uint32_t version = 2 + (uint32_t)below(2);
    uint64_t tensors = 0, values = below(12), count;
    size_t size = put(data, 0, max_size, "GGUF", 4);
    size = put(data, size, max_size, &version, 4);
    size = put(data, size, max_size, &tensors, 8);
    size = put(data, size, max_size, &values, 8);
    for (uint64_t i = 0; i < values; i++) {
        uint32_t type = (uint32_t)below(13), element = type;
        size = put_string(data, size, max_size, keys[below(sizeof keys / sizeof *keys)]);
        if (i == 0) type = element = GGUF_STRING;
        size = put(data, size, max_size, &type, 4);
        count = type == GGUF_ARRAY ? below(20) : 1;
        if (type == GGUF_ARRAY) {
            element = below(3) ? GGUF_STRING : (uint32_t)below(13);
            size = put(data, size, max_size, &element, 4);
            size = put(data, size, max_size, &count, 8);
        }
        for (uint64_t k = 0; k < count; k++) {
            uint64_t number = below(300);
            if (element == GGUF_STRING) size = put_string(data, size, max_size, texts[below(sizeof texts / sizeof *texts)]);
            else size = put(data, size, max_size, &number, element < 2 || element == 7 ? 1 : element < 4 ? 2 : element < 8 ? 4 : 8);
        }
    }
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    static layout l; /* large; the harness has one thread */
    random_state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    size_t choice = below(16);
    if (choice == 0 && max_size > 64) return generate(data, max_size);
    walk_file(&l, data, size);
    if (choice < 10 && l.field_count > 0) return lie_in_a_field(&l, data, size);
    if (choice < 12 && l.entry_count > 1) return move_an_entry(&l, data, size, max_size);
    return LLVMFuzzerMutate(data, size, max_size);
}
