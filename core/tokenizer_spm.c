/* tokenizer_spm.c: SentencePiece score-merge (tokenizer.ggml.model "llama": Llama 1-2, Mistral, Gemma, ...).
 * Characters merge into the token of the best score, leftmost first; characters without a token fall back to byte tokens.
 * Works in the decoded form, where "▁" is a space. Two neighbouring bytes that stand next to each other in no token can
 * never merge across, so the text is cut there and only the short stretches between are merged. */
#include <stdlib.h>

#include "tokenizer_impl.h"
#include "unicode.h"

#define JUNCTION_BYTES (65536 / 8)
static const char spm_space[] = "\xe2\x96\x81"; /* U+2581, how vocabularies write a space */

/* ---- loading ---- */

static realm_status spm_configure(tokenizer *tok, const gguf *file, realm_error *err) {
    tok->bos = 1; /* the family's defaults where the file is silent; ids outside the vocabulary become none */
    tok->eos = 2;
    tok->unk = 0;
    tok->add_bos = true;
    tok->add_space_prefix = true;
    return gguf_read_bool(file, "tokenizer.ggml.add_space_prefix", &tok->add_space_prefix, err);
}

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

/* The byte of "<0xAB>", -1 for other texts. */
static int byte_of(gguf_string text) {
    if (text.size != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static bool is_space_mark(const char *p, size_t left) { return left >= 3 && memcmp(p, spm_space, 3) == 0; }

/* Copies text with every "▁" as a space; returns the size. */
static size_t unescape(const char *text, size_t size, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < size;) {
        bool is_mark = is_space_mark(text + i, size - i);
        out[n++] = is_mark ? ' ' : text[i];
        i += is_mark ? 3 : 1;
    }
    return n;
}

static uint32_t spm_make_text(token *t, gguf_string text, char *out) {
    int byte = byte_of(text);
    bool is_special = t->kind == TOKEN_CONTROL || t->kind == TOKEN_USER || t->kind == TOKEN_UNKNOWN;
    if (byte >= 0 && !is_special) {
        t->kind = TOKEN_BYTE; /* also in files without token types */
        out[0] = (char)byte;
        return 1;
    }
    if (is_special) {
        memcpy(out, text.data, (size_t)text.size);
        t->is_mergeable = t->kind == TOKEN_USER && memchr(text.data, ' ', (size_t)text.size) == NULL;
        return (uint32_t)text.size;
    }
    t->is_mergeable = t->kind != TOKEN_BYTE && memchr(text.data, ' ', (size_t)text.size) == NULL; /* input spaces are "▁" */
    return (uint32_t)unescape(text.data, (size_t)text.size, out);
}

static bool may_join(const tokenizer *tok, char a, char b) {
    unsigned pair = (unsigned)(uint8_t)a << 8 | (uint8_t)b;
    return tok->junctions[pair >> 3] >> (pair & 7) & 1;
}

static realm_status spm_finish(tokenizer *tok, const gguf *file, realm_error *err) {
    if (gguf_find(file, "tokenizer.ggml.scores") == NULL) {
        return base_fail(err, REALM_E_INVALID_TOKENIZER, "tokenizer: 'tokenizer.ggml.scores' is missing");
    }
    tok->junctions = calloc(JUNCTION_BYTES, 1);
    if (tok->junctions == NULL) return base_fail_memory(err, "the junction table", JUNCTION_BYTES);
    for (uint32_t id = 0; id < tok->count; id++) {
        const token *t = &tok->tokens[id];
        for (uint32_t i = 1; t->is_mergeable && i < t->size; i++) {
            unsigned pair = (unsigned)(uint8_t)t->text[i - 1] << 8 | (uint8_t)t->text[i];
            tok->junctions[pair >> 3] |= (uint8_t)(1u << (pair & 7));
        }
    }
    return REALM_OK;
}

/* ---- encoding ---- */

/* A float as an integer that sorts the other way round: the best score first. */
static uint32_t priority_of(float score) {
    float value = score + 0.0f; /* -0 becomes +0: they are equal */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

static bool spm_lookup(const tokenizer *tok, const char *text, const merge_symbol *left, const merge_symbol *right,
                       uint32_t start, uint32_t *priority, uint32_t *id) {
    *id = tokenizer_lookup(tok, text + start, (size_t)left->size + right->size);
    if (*id == TOKENIZER_NONE) return false;
    *priority = priority_of(tok->tokens[*id].score);
    return true;
}

/* Merges one stretch in which every junction occurs in some token. */
static realm_status encode_stretch(encoder *e, const char *text, size_t size) {
    realm_status status = encoder_reserve(e, size);
    if (status != REALM_OK) return status;
    uint32_t prev = TOKENIZER_NONE, length;
    for (uint32_t at = 0; at < size; prev = at, at += length) {
        uint32_t code;
        length = (uint32_t)unicode_decode(text + at, size - at, &code);
        uint32_t next = at + length < size ? at + length : TOKENIZER_NONE;
        uint32_t id = tokenizer_lookup(e->tok, text + at, length);
        e->symbols[at] = (merge_symbol){.size = length, .prev = prev, .next = next, .id = id};
    }
    return encoder_merge(e, text, spm_lookup);
}

static size_t stretch_end(const tokenizer *tok, const char *text, size_t size, size_t pos) {
    uint32_t code;
    for (;;) {
        pos += unicode_decode(text + pos, size - pos, &code);
        if (pos == size || !may_join(tok, text[pos - 1], text[pos])) return pos;
    }
}

static realm_status spm_encode(encoder *e, const char *text, size_t size) {
    char *plain = malloc(size + 1);
    if (plain == NULL) return base_fail_memory(e->err, "encoding", size + 1);
    plain[0] = ' ';
    size_t prefix = e->tok->add_space_prefix;
    size_t total = prefix + unescape(text, size, plain + prefix);
    realm_status status = REALM_OK;
    for (size_t pos = 0; status == REALM_OK && pos < total;) {
        size_t end = stretch_end(e->tok, plain, total, pos);
        status = encode_stretch(e, plain + pos, end - pos);
        pos = end;
    }
    free(plain);
    return status;
}

const tokenizer_family tokenizer_spm = {
    .model = "llama", .configure = spm_configure, .make_text = spm_make_text, .finish = spm_finish, .encode = spm_encode,
};
