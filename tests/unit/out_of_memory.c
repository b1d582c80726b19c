/* out_of_memory.c: opens a file, makes its tokenizer, encodes and decodes, with the nth allocation failing, for n = 1, 2, ...
 * until nothing fails any more. Every failure must be the typed error and leave nothing allocated. Prints how many were made.
 * Everything is compiled with malloc, calloc and realloc renamed to the failing ones below. */
#include <stdio.h>
#include <stdlib.h>

#include "tokenizer.h"

#undef malloc
#undef calloc
#undef realloc
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *p, size_t size);
void *failing_malloc(size_t size);
void *failing_calloc(size_t count, size_t size);
void *failing_realloc(void *p, size_t size);

static unsigned long allocations, failing;

static int fails(void) { return ++allocations == failing; }
void *failing_malloc(size_t size) { return fails() ? NULL : malloc(size); }
void *failing_calloc(size_t count, size_t size) { return fails() ? NULL : calloc(count, size); }
void *failing_realloc(void *p, size_t size) { return fails() ? NULL : realloc(p, size); }

static void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "allocation %lu: %s\n", failing, what);
    exit(1);
}

static realm_status encode_and_decode(const tokenizer *tok, realm_error *err) {
    static const char text[] = "ab abc  \xc3\xa9 it 's <s> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    uint32_t ids[128];
    char out[256];
    size_t count, size;
    realm_status status = tokenizer_encode(tok, text, sizeof text - 1, 3, ids, 128, &count, err);
    if (status != REALM_OK) return status;
    return tokenizer_decode(tok, ids, count, REALM_DECODE_TEXT_START, out, sizeof out, &size, err);
}

/* REALM_OK also for a file without tokenizer, which is then only opened. */
static realm_status use(const uint8_t *bytes, size_t size, realm_error *err) {
    gguf *file;
    tokenizer *tok = NULL;
    realm_status status = gguf_open(bytes, size, &file, err);
    expect((status == REALM_OK) == (file != NULL), "a result with an error, or none without");
    if (status != REALM_OK) return status;
    if (gguf_find(file, "tokenizer.ggml.model") != NULL) status = tokenizer_create(file, &tok, err);
    gguf_close(file);
    if (tok != NULL) status = encode_and_decode(tok, err);
    tokenizer_destroy(tok);
    return status;
}

int main(int argc, char **argv) {
    static uint8_t bytes[1 << 16];
    FILE *stream = argc > 1 ? fopen(argv[1], "rb") : NULL;
    expect(stream != NULL, "no input file");
    size_t size = fread(bytes, 1, sizeof bytes, stream);
    fclose(stream);
    for (failing = 1;; failing++) {
        realm_error err = {0};
        allocations = 0;
        realm_status status = use(bytes, size, &err);
        if (allocations < failing) {
            expect(status == REALM_OK, err.message);
            break;
        }
        expect(status == REALM_E_OUT_OF_MEMORY && err.code == REALM_E_OUT_OF_MEMORY, "another error than out-of-memory");
    }
    printf("%lu\n", failing - 1);
    return 0;
}
