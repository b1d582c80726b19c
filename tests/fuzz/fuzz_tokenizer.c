/* fuzz_tokenizer.c: any text through tokenizers of both families, checking what must hold for every text.
 * The first byte picks the vocabulary and the flags, the rest is the text. The vocabularies are tiny GGUF files written here
 * once: full byte coverage or none, merges, scores, special and user-defined tokens. */
// sources: core/base.c core/blocks.c core/gguf.c core/gguf_describe.c core/unicode.c core/pretokenize.c core/tokenizer*.c
#include <stdio.h>
#include <stdlib.h>

#include "../../core/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "fuzz_tokenizer: %s\n", what);
    abort();
}

/* ---- the vocabularies ---- */

typedef struct writer {
    uint8_t bytes[65536];
    size_t size;
    uint64_t values;
} writer;

static void put(writer *w, const void *bytes, size_t count) {
    expect(count <= sizeof w->bytes - w->size, "the vocabulary does not fit");
    memcpy(w->bytes + w->size, bytes, count);
    w->size += count;
}

static void put_u32(writer *w, uint32_t number) { put(w, &number, sizeof number); }
static void put_u64(writer *w, uint64_t number) { put(w, &number, sizeof number); }

static void put_string(writer *w, const char *text) {
    put_u64(w, strlen(text));
    put(w, text, strlen(text));
}

static void put_key(writer *w, const char *key, uint32_t type) {
    w->values++;
    put_string(w, key);
    put_u32(w, type);
}

static void put_array(writer *w, const char *key, uint32_t type, uint64_t count) {
    put_key(w, key, GGUF_ARRAY);
    put_u32(w, type);
    put_u64(w, count);
}

static void put_begin(writer *w, const char *model) {
    memset(w, 0, sizeof *w);
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, 0);
    put_u64(w, 0); /* the count of values, set at the end */
    put_key(w, "tokenizer.ggml.model", GGUF_STRING);
    put_string(w, model);
}

/* The printable stand-in of a byte, in UTF-8. */
static void byte_symbol(unsigned byte, char out[4]) {
    bool is_plain = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    unsigned code = is_plain ? byte : byte <= 0x20 ? 0x100 + byte : byte == 0xad ? 0x143 : 0x121 + byte - 0x7f;
    if (code < 0x80) snprintf(out, 4, "%c", (char)code);
    else snprintf(out, 4, "%c%c", (char)(0xc0 | code >> 6), (char)(0x80 | (code & 0x3f)));
}

static const char *const bpe_words[] = {"he", "ll", "hell", "\xc4\xa0\xc4\xa0", "\xc4\xa0t", "th", "aa", "aaaa", "\xc3\x83\xc2\xa9"};
static const char *const bpe_merges[] = {"h e", "l l", "he ll", "\xc4\xa0 \xc4\xa0", "\xc4\xa0 t", "t h", "a a", "aa aa",
                                         "\xc3\x83 \xc2\xa9", "x missing"};
static const char *const specials[] = {"<s>", "</s>", "<|im_end|>", "<u>", "<us>"}; /* the last two are user-defined */
#define COUNT(array) (sizeof(array) / sizeof *(array))

static void put_kinds(writer *w, size_t plain, uint32_t plain_kind, size_t words) {
    put_array(w, "tokenizer.ggml.token_type", GGUF_I32, plain + words + COUNT(specials));
    for (size_t i = 0; i < plain; i++) put_u32(w, plain_kind);
    for (size_t i = 0; i < words; i++) put_u32(w, 1);
    for (size_t i = 0; i < COUNT(specials); i++) put_u32(w, i < 3 ? 3 : 4);
}

static void write_bpe(writer *w, const char *pre) {
    put_begin(w, "gpt2");
    put_key(w, "tokenizer.ggml.pre", GGUF_STRING);
    put_string(w, pre);
    put_array(w, "tokenizer.ggml.tokens", GGUF_STRING, 256 + COUNT(bpe_words) + COUNT(specials));
    for (unsigned byte = 0; byte < 256; byte++) {
        char symbol[4];
        byte_symbol(byte, symbol);
        put_string(w, symbol);
    }
    for (size_t i = 0; i < COUNT(bpe_words); i++) put_string(w, bpe_words[i]);
    for (size_t i = 0; i < COUNT(specials); i++) put_string(w, specials[i]);
    put_kinds(w, 256, 1, COUNT(bpe_words));
    put_array(w, "tokenizer.ggml.merges", GGUF_STRING, COUNT(bpe_merges));
    for (size_t i = 0; i < COUNT(bpe_merges); i++) put_string(w, bpe_merges[i]);
}

static const char *const spm_words[] = {"\xe2\x96\x81", "a", "b", "ab", "aa", "aaa", "\xe2\x96\x81" "a", "\xe2\x96\x81\xe2\x96\x81",
                                        "\xc3\xa9", "a\xe2\x96\x81" "b", "t", "th", "the", "\xe2\x96\x81the"};

/* Without byte tokens, unknown characters become <unk>; unk_id is then the first token. */
static void write_spm(writer *w, bool has_bytes) {
    size_t bytes = has_bytes ? 256 : 1;
    put_begin(w, "llama");
    put_array(w, "tokenizer.ggml.tokens", GGUF_STRING, bytes + COUNT(spm_words) + COUNT(specials));
    for (unsigned byte = 0; byte < bytes; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        put_string(w, has_bytes ? text : "<unk>");
    }
    for (size_t i = 0; i < COUNT(spm_words); i++) put_string(w, spm_words[i]);
    for (size_t i = 0; i < COUNT(specials); i++) put_string(w, specials[i]);
    put_kinds(w, bytes, has_bytes ? 6 : 2, COUNT(spm_words));
    put_array(w, "tokenizer.ggml.scores", GGUF_F32, bytes + COUNT(spm_words) + COUNT(specials));
    for (size_t i = 0; i < bytes + COUNT(spm_words) + COUNT(specials); i++) {
        float score = (float)((i * 7) % 11);
        put(w, &score, sizeof score);
    }
}

static tokenizer *finish(writer *w) {
    gguf *file;
    tokenizer *tok;
    realm_error err = {0};
    memcpy(w->bytes + 16, &w->values, sizeof w->values);
    expect(gguf_open(w->bytes, w->size, &file, &err) == REALM_OK, err.message);
    expect(tokenizer_create(file, &tok, &err) == REALM_OK, err.message);
    gguf_close(file);
    return tok;
}

enum { KINDS = 6, LOSSLESS = 5 }; /* all but the last can write every text */

static tokenizer *tokenizer_of(unsigned kind) {
    static const char *const pres[] = {"gpt-2", "llama-bpe", "qwen2", "smollm"};
    static tokenizer *made[KINDS]; /* lives as long as the process */
    static writer w;
    if (made[kind] == NULL) {
        if (kind < 4) write_bpe(&w, pres[kind]);
        else write_spm(&w, kind == 4);
        made[kind] = finish(&w);
    }
    return made[kind];
}

/* ---- what must hold ---- */

/* "▁" reads as a space in a SentencePiece vocabulary, so that text comes back with spaces. */
static size_t expected_text(const char *text, size_t size, bool is_spm, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        bool is_mark = is_spm && size - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        out[n++] = is_mark ? ' ' : text[i];
        i += is_mark ? 2 : 0;
    }
    return n;
}

static void check_round_trip(const tokenizer *tok, const uint32_t *ids, size_t count, const char *text, size_t size, bool is_spm) {
    char *expected = malloc(size + 1), *decoded = malloc(size + 2);
    size_t expected_size = expected_text(text, size, is_spm, expected), decoded_size;
    uint32_t flags = is_spm ? REALM_DECODE_TEXT_START : 0;
    expect(tokenizer_decode(tok, ids, count, flags, decoded, size + 2, &decoded_size, NULL) == REALM_OK, "decode failed");
    expect(decoded_size == expected_size && memcmp(decoded, expected, decoded_size) == 0, "the text does not come back");
    free(expected);
    free(decoded);
}

static bool holds_user_token(const char *text, size_t size) {
    for (size_t i = 0; i + 3 <= size; i++) {
        if (memcmp(text + i, "<u>", 3) == 0 || (i + 4 <= size && memcmp(text + i, "<us>", 4) == 0)) return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    unsigned kind = data[0] % KINDS, flags = data[0] / KINDS % 4;
    const tokenizer *tok = tokenizer_of(kind);
    const char *text = (const char *)data + 1;
    size_t text_size = size - 1, count, again;
    uint32_t *ids = malloc((text_size + 8) * sizeof *ids);
    realm_error err = {0};
    expect(tokenizer_encode(tok, text, text_size, flags, ids, text_size + 8, &count, &err) == REALM_OK, err.message);
    expect(count <= text_size + 3, "more ids than bytes, a prefix, BOS and EOS");
    expect(tokenizer_encode(tok, text, text_size, flags, NULL, 0, &again, &err) == REALM_OK && again == count, "count differs");
    for (size_t i = 0; i < count; i++) expect(ids[i] < tokenizer_vocab_size(tok), "an id outside the vocabulary");
    bool is_spm = kind >= 4, has_user_token = is_spm && holds_user_token(text, text_size); /* spaces are added after those */
    if (kind < LOSSLESS && flags == 0 && !has_user_token) check_round_trip(tok, ids, count, text, text_size, is_spm);
    free(ids);
    return 0;
}
