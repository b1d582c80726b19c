/* tokenizer_bpe.c: byte-level BPE (tokenizer.ggml.model "gpt2": GPT-2, Llama 3, Qwen, SmolLM, ...).
 * Text is cut by a pre-tokenizer; inside a piece, neighbouring tokens merge by rank. Vocabularies write bytes as printable
 * characters; tokens are turned back into bytes when loaded, so nothing is translated while encoding. Merges that name a
 * token the vocabulary lacks are ignored: they could only make a token that does not exist. */
#include <stdlib.h>

#include "tokenizer_impl.h"
#include "unicode.h"

/* ---- loading ---- */

static realm_status bpe_configure(tokenizer *tok, const gguf *file, realm_error *err) {
    gguf_string name = {0};
    realm_status status = gguf_read_string(file, "tokenizer.ggml.pre", &name, err);
    if (status != REALM_OK) return status;
    if (name.data == NULL) {
        return base_fail(err, REALM_E_UNSUPPORTED_TOKENIZER, "the file does not say which pre-tokenizer it needs "
                                                             "('tokenizer.ggml.pre'); convert it with a current converter");
    }
    tok->pre = pretokenize_find(name.data, (size_t)name.size);
    if (tok->pre == NULL) {
        return base_fail(err, REALM_E_UNSUPPORTED_TOKENIZER, "pre-tokenizer '%.*s' is not known",
                         (int)(name.size < 64 ? name.size : 64), name.data);
    }
    tok->add_bos = tok->pre->add_bos;
    tok->clean_spaces = tok->pre->clean_spaces;
    return REALM_OK;
}

/* The byte a vocabulary's character stands for, -1 for others. Printable Latin-1 stands for itself, the 68 other bytes for
 * U+0100 to U+0143 in order. */
static int byte_of_code(uint32_t code) {
    if ((code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xff && code != 0xad)) return (int)code;
    if (code < 0x100 || code > 0x143) return -1;
    uint32_t nth = code - 0x100;
    return (int)(nth < 33 ? nth : nth < 67 ? nth - 33 + 0x7f : 0xad);
}

/* Writes the bytes a byte-level text stands for (never more than it has); false when it is no such text. */
static bool decode_symbols(const char *text, size_t size, char *out, size_t *out_size) {
    *out_size = 0;
    for (size_t i = 0; i < size;) {
        uint32_t code;
        i += unicode_decode(text + i, size - i, &code);
        int byte = byte_of_code(code);
        if (byte < 0) return false;
        out[(*out_size)++] = (char)byte;
    }
    return true;
}

static uint32_t bpe_make_text(token *t, gguf_string text, char *out) {
    size_t size;
    bool is_plain = t->kind != TOKEN_CONTROL && t->kind != TOKEN_USER && t->kind != TOKEN_UNKNOWN;
    t->is_mergeable = is_plain && decode_symbols(text.data, (size_t)text.size, out, &size);
    if (t->is_mergeable) return (uint32_t)size;
    memcpy(out, text.data, (size_t)text.size);
    t->is_mergeable = t->kind == TOKEN_USER;
    return (uint32_t)text.size;
}

static uint64_t merge_slot(const tokenizer *tok, uint32_t left, uint32_t right) {
    uint64_t hash = (((uint64_t)left << 32 | right) ^ tok->hash_seed) * 0xd6e8feb86659fd93u;
    hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93u;
    uint64_t slot = (hash ^ hash >> 29) & (tok->merge_slot_count - 1);
    while (tok->merges[slot].left != TOKENIZER_NONE && (tok->merges[slot].left != left || tok->merges[slot].right != right)) {
        slot = (slot + 1) & (tok->merge_slot_count - 1);
    }
    return slot;
}

/* Adds "left right"; false when it has no space between two names. scratch takes as many bytes as the text. */
static bool add_merge(tokenizer *tok, gguf_string text, uint32_t rank, char *scratch) {
    const char *space = text.size > 2 ? memchr(text.data + 1, ' ', (size_t)text.size - 2) : NULL;
    if (space == NULL) return false;
    size_t left_chars = (size_t)(space - text.data), left_size, right_size;
    if (text.size > 4 * (uint64_t)tok->longest + 1) return true; /* names something longer than any token */
    if (!decode_symbols(text.data, left_chars, scratch, &left_size)) return true;
    if (!decode_symbols(space + 1, (size_t)text.size - left_chars - 1, scratch + left_size, &right_size)) return true;
    uint32_t left = tokenizer_lookup(tok, scratch, left_size);
    uint32_t right = tokenizer_lookup(tok, scratch + left_size, right_size);
    uint32_t merged = tokenizer_lookup(tok, scratch, left_size + right_size);
    if (left == TOKENIZER_NONE || right == TOKENIZER_NONE || merged == TOKENIZER_NONE) return true;
    bpe_merge *slot = &tok->merges[merge_slot(tok, left, right)];
    if (slot->left == TOKENIZER_NONE) *slot = (bpe_merge){.left = left, .right = right, .rank = rank, .merged = merged};
    return true;
}

static realm_status merges_create(tokenizer *tok, uint64_t count, realm_error *err) {
    tok->merge_slot_count = 8;
    while (tok->merge_slot_count * 3 < count * 4) tok->merge_slot_count *= 2;
    uint64_t bytes = tok->merge_slot_count * sizeof *tok->merges;
    tok->merges = bytes <= SIZE_MAX ? malloc((size_t)bytes) : NULL;
    if (tok->merges == NULL) return base_fail_memory(err, "the merge table", bytes);
    for (uint64_t i = 0; i < tok->merge_slot_count; i++) tok->merges[i].left = TOKENIZER_NONE;
    return REALM_OK;
}

static realm_status bpe_finish(tokenizer *tok, const gguf *file, realm_error *err) {
    const gguf_value *texts = gguf_find(file, "tokenizer.ggml.merges");
    if (texts == NULL || texts->type != GGUF_ARRAY || texts->element_type != GGUF_STRING) {
        return base_fail(err, REALM_E_INVALID_TOKENIZER, "tokenizer: 'tokenizer.ggml.merges' must be an array of strings");
    }
    realm_status status = merges_create(tok, texts->count, err);
    if (status != REALM_OK) return status;
    char *scratch = malloc(4 * (size_t)tok->longest + 2);
    if (scratch == NULL) return base_fail_memory(err, "merges", 4 * (uint64_t)tok->longest + 2);
    const uint8_t *at = texts->data;
    for (uint32_t rank = 0; status == REALM_OK && rank < texts->count; rank++) {
        if (add_merge(tok, gguf_next_string(&at), rank, scratch)) continue;
        status = base_fail(err, REALM_E_INVALID_TOKENIZER, "tokenizer: merge %u is not two names with a space between", rank);
    }
    free(scratch);
    return status;
}

/* ---- encoding ---- */

static bool bpe_lookup(const tokenizer *tok, const char *text, const merge_symbol *left, const merge_symbol *right,
                       uint32_t start, uint32_t *priority, uint32_t *id) {
    (void)text, (void)start;
    if (left->id == TOKENIZER_NONE || right->id == TOKENIZER_NONE) return false;
    const bpe_merge *found = &tok->merges[merge_slot(tok, left->id, right->id)];
    *priority = found->rank;
    *id = found->merged;
    return found->left != TOKENIZER_NONE;
}

static realm_status encode_piece(encoder *e, const char *text, size_t size) {
    uint32_t whole = size == 1 || e->tok->pre->ignore_merges ? tokenizer_lookup(e->tok, text, size) : TOKENIZER_NONE;
    if (whole != TOKENIZER_NONE) {
        encoder_emit(e, whole);
        return REALM_OK;
    }
    realm_status status = encoder_reserve(e, size);
    if (status != REALM_OK) return status;
    for (uint32_t i = 0; i < size; i++) {
        uint32_t next = i + 1 < size ? i + 1 : TOKENIZER_NONE;
        e->symbols[i] = (merge_symbol){.size = 1, .prev = i - 1, .next = next, .id = e->tok->byte_ids[(uint8_t)text[i]]};
    }
    return encoder_merge(e, text, bpe_lookup);
}

static realm_status bpe_encode(encoder *e, const char *text, size_t size) {
    realm_status status = REALM_OK;
    for (size_t pos = 0; status == REALM_OK && pos < size;) {
        size_t end = e->tok->pre->next(text, size, pos);
        status = encode_piece(e, text + pos, end - pos);
        pos = end;
    }
    return status;
}

const tokenizer_family tokenizer_bpe = {
    .model = "gpt2", .configure = bpe_configure, .make_text = bpe_make_text, .finish = bpe_finish, .encode = bpe_encode,
};
