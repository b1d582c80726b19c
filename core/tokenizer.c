/* tokenizer.c: what both tokenizer families share: loading the vocabulary, finding special tokens in the input, decoding.
 * The families' own rules are in tokenizer_spm.c and tokenizer_bpe.c, the merge loop in tokenizer_merge.c. Behaviour follows
 * llama.cpp where files leave it open (defaults, end-of-generation texts), except that control tokens never come out of
 * plain text, duplicate texts are allowed (the lowest id wins) and what a file says wrongly is an error. */
#include <math.h>
#include <stdlib.h>

#include "tokenizer_impl.h"

#define VOCAB_CAP (4u << 20)
#define TEXT_CAP (1u << 30)    /* bytes of one encode call: symbol indexes are 32 bits */
#define SPECIAL_TEXT_CAP 256u  /* longer tokens are not searched in the input: keeps the search linear */

/* ---- vocabulary ---- */

static realm_status fail(realm_error *err, const char *problem) {
    return base_fail(err, REALM_E_INVALID_TOKENIZER, "tokenizer: %s", problem);
}

/* Finds an array of one of two element types; *out stays NULL when the key is absent. */
static realm_status find_array(const gguf *file, const char *key, uint32_t type, uint32_t or_type, const gguf_value **out,
                               realm_error *err) {
    const gguf_value *value = gguf_find(file, key);
    *out = value;
    if (value == NULL) return REALM_OK;
    if (value->type == GGUF_ARRAY && (value->element_type == type || value->element_type == or_type)) return REALM_OK;
    return base_fail(err, REALM_E_INVALID_TOKENIZER, "tokenizer: '%s' must be an array of another type", key);
}

static realm_status find_family(tokenizer *tok, const gguf *file, realm_error *err) {
    static const tokenizer_family *const families[] = {&tokenizer_spm, &tokenizer_bpe};
    gguf_string model = {0};
    realm_status status = gguf_read_string(file, "tokenizer.ggml.model", &model, err);
    if (status != REALM_OK) return status;
    if (model.data == NULL) return fail(err, "the file has none (no 'tokenizer.ggml.model')");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (!gguf_string_is(model, families[i]->model)) continue;
        tok->family = families[i];
        return families[i]->configure(tok, file, err);
    }
    return base_fail(err, REALM_E_UNSUPPORTED_TOKENIZER, "tokenizer model '%.*s'; 'llama' and 'gpt2' can be read",
                     (int)(model.size < 64 ? model.size : 64), model.data);
}

static realm_status read_kinds(tokenizer *tok, const gguf *file, realm_error *err) {
    const gguf_value *kinds;
    realm_status status = find_array(file, "tokenizer.ggml.token_type", GGUF_I32, GGUF_U32, &kinds, err);
    if (status != REALM_OK) return status;
    if (kinds != NULL && kinds->count != tok->count) return fail(err, "'token_type' and 'tokens' differ in length");
    for (uint32_t id = 0; id < tok->count; id++) {
        int64_t kind = kinds ? gguf_array_int(kinds, id) : TOKEN_NORMAL;
        tok->tokens[id].kind = kind >= TOKEN_NORMAL && kind <= TOKEN_BYTE ? (uint8_t)kind : TOKEN_UNDEFINED;
    }
    return REALM_OK;
}

static realm_status read_scores(tokenizer *tok, const gguf *file, realm_error *err) {
    const gguf_value *scores;
    realm_status status = find_array(file, "tokenizer.ggml.scores", GGUF_F32, GGUF_F32, &scores, err);
    if (status != REALM_OK || scores == NULL) return status;
    if (scores->count != tok->count) return fail(err, "'scores' and 'tokens' differ in length");
    for (uint32_t id = 0; id < tok->count; id++) {
        tok->tokens[id].score = (float)gguf_array_float(scores, id);
        if (isnan(tok->tokens[id].score)) return base_fail(err, REALM_E_INVALID_TOKENIZER, "tokenizer: score %u is NaN", id);
    }
    return REALM_OK;
}

/* Points the tokens at the file's own texts; make_texts turns them into the decoded form. */
static realm_status read_tokens(tokenizer *tok, const gguf *file, const gguf_value **texts, realm_error *err) {
    realm_status status = find_array(file, "tokenizer.ggml.tokens", GGUF_STRING, GGUF_STRING, texts, err);
    if (status != REALM_OK) return status;
    if (*texts == NULL || (*texts)->count == 0) return fail(err, "'tokenizer.ggml.tokens' is missing or empty");
    if ((*texts)->count > VOCAB_CAP) return fail(err, "more than 4194304 tokens");
    tok->count = (uint32_t)(*texts)->count;
    tok->tokens = calloc(tok->count, sizeof *tok->tokens);
    if (tok->tokens == NULL) return base_fail_memory(err, "the vocabulary", tok->count * sizeof *tok->tokens);
    const uint8_t *at = (*texts)->data;
    for (uint32_t id = 0; id < tok->count; id++) {
        gguf_string text = gguf_next_string(&at);
        tok->tokens[id].text = text.data;
        tok->tokens[id].size = (uint32_t)text.size; /* strings are capped far below by gguf.c */
    }
    status = read_kinds(tok, file, err);
    return status == REALM_OK ? read_scores(tok, file, err) : status;
}

static realm_status make_texts(tokenizer *tok, const gguf_value *texts, realm_error *err) {
    uint64_t total = 1;
    for (uint32_t id = 0; id < tok->count; id++) total += tok->tokens[id].size;
    tok->text = total <= SIZE_MAX ? malloc((size_t)total) : NULL;
    if (tok->text == NULL) return base_fail_memory(err, "the vocabulary's text", total);
    char *out = tok->text;
    const uint8_t *at = texts->data;
    for (uint32_t id = 0; id < tok->count; id++) {
        token *t = &tok->tokens[id];
        t->is_mergeable = false;
        t->size = tok->family->make_text(t, gguf_next_string(&at), out);
        t->text = out;
        out += t->size;
    }
    return REALM_OK;
}

/* ---- end of generation ---- */

/* Texts that end a generation wherever they appear, as files seldom list them. The first `turn_ends` also name the
 * end-of-turn token where the file does not, in this order. */
static const char *const end_texts[] = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>", "_<EOT>", "[EOT]",
    "<\xef\xbd\x9c\x65nd\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>", /* <|end of sentence|> in wide characters */
    "<end_of_utterance>",
    "</s>", "<|eom_id|>", "[EOS]", "<eos>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>",
    "<reponame>", "<|file_sep|>",
};
enum { end_text_count = sizeof end_texts / sizeof *end_texts, turn_ends = 11 };

/* Index into end_texts, end_text_count when it is none of them. */
static unsigned end_text_of(const token *t) {
    unsigned i = 0;
    while (i < end_text_count && (strlen(end_texts[i]) != t->size || memcmp(end_texts[i], t->text, t->size) != 0)) i++;
    return i;
}

/* Runs on the file's own texts. A token that ends generations is a control token whatever the file calls it. */
static void mark_ends(tokenizer *tok) {
    unsigned best = turn_ends;
    for (uint32_t id = 0; id < tok->count; id++) {
        token *t = &tok->tokens[id];
        unsigned which = t->size >= 4 ? end_text_of(t) : end_text_count;
        if (which == end_text_count) continue;
        t->is_end = true;
        t->kind = TOKEN_CONTROL;
        if (which < best && tok->eot == TOKENIZER_NONE) best = which;
    }
    for (uint32_t id = 0; best < turn_ends && tok->eot == TOKENIZER_NONE; id++) {
        if (tok->tokens[id].is_end && end_text_of(&tok->tokens[id]) == best) tok->eot = id;
    }
}

/* An id outside the vocabulary (files write 0xFFFFFFFF for "none") names no token. */
static realm_status read_id(const tokenizer *tok, const gguf *file, const char *key, uint32_t *id, realm_error *err) {
    realm_status status = REALM_OK;
    const gguf_value *value = gguf_find(file, key);
    bool is_negative = value != NULL && (value->type == GGUF_I32 || value->type == GGUF_I64) && gguf_array_int(value, 0) < 0;
    if (is_negative) *id = TOKENIZER_NONE;
    else status = gguf_read_u32(file, key, id, err);
    if (*id >= tok->count) *id = TOKENIZER_NONE;
    return status;
}

static realm_status read_special_ids(tokenizer *tok, const gguf *file, realm_error *err) {
    static const char *const other_ends[] = {"eom", "fim_pad", "fim_rep", "fim_sep"};
    realm_status status = read_id(tok, file, "tokenizer.ggml.bos_token_id", &tok->bos, err);
    if (status == REALM_OK) status = read_id(tok, file, "tokenizer.ggml.eos_token_id", &tok->eos, err);
    if (status == REALM_OK) status = read_id(tok, file, "tokenizer.ggml.eot_token_id", &tok->eot, err);
    if (status == REALM_OK) status = read_id(tok, file, "tokenizer.ggml.unknown_token_id", &tok->unk, err);
    if (status == REALM_OK) mark_ends(tok);
    for (size_t i = 0; status == REALM_OK && i < sizeof other_ends / sizeof *other_ends; i++) {
        char key[64] = "tokenizer.ggml.";
        uint32_t id = TOKENIZER_NONE;
        memcpy(key + 15, other_ends[i], strlen(other_ends[i]) + 1);
        memcpy(key + strlen(key), "_token_id", 10);
        status = read_id(tok, file, key, &id, err);
        if (id != TOKENIZER_NONE) tok->tokens[id].is_end = true;
    }
    if (tok->eos != TOKENIZER_NONE) tok->tokens[tok->eos].is_end = true;
    if (tok->eot != TOKENIZER_NONE) tok->tokens[tok->eot].is_end = true;
    return status;
}

/* The file may ask for a token it does not name: an error when it asks itself, nothing when only the family's default does. */
static realm_status read_switch(const gguf *file, const char *key, uint32_t id, bool *on, realm_error *err) {
    realm_status status = gguf_read_bool(file, key, on, err);
    if (status != REALM_OK || !*on || id != TOKENIZER_NONE) return status;
    if (gguf_find(file, key) == NULL) {
        *on = false;
        return REALM_OK;
    }
    return base_fail(err, REALM_E_INVALID_TOKENIZER, "tokenizer: '%s' is true, but there is no such token", key);
}

/* ---- indexes ---- */

static uint64_t slot_of(const tokenizer *tok, const char *text, size_t size) {
    uint64_t slot = base_hash(text, size, tok->hash_seed) & (tok->slot_count - 1);
    while (tok->slots[slot] != 0) {
        const token *t = &tok->tokens[tok->slots[slot] - 1];
        if (t->size == size && memcmp(t->text, text, size) == 0) break;
        slot = (slot + 1) & (tok->slot_count - 1);
    }
    return slot;
}

uint32_t tokenizer_lookup(const tokenizer *tok, const char *text, size_t size) {
    if (size == 0 || size > tok->longest) return TOKENIZER_NONE;
    return tok->slots[slot_of(tok, text, size)] - 1; /* 0 - 1 is TOKENIZER_NONE */
}

static realm_status index_texts(tokenizer *tok, realm_error *err) {
    tok->slot_count = 8;
    while (tok->slot_count < (uint64_t)tok->count * 2) tok->slot_count *= 2;
    tok->slots = calloc((size_t)tok->slot_count, sizeof *tok->slots);
    if (tok->slots == NULL) return base_fail_memory(err, "the token index", tok->slot_count * sizeof *tok->slots);
    for (uint32_t id = 0; id < tok->count; id++) {
        const token *t = &tok->tokens[id];
        if (!t->is_mergeable || t->size == 0) continue;
        uint64_t slot = slot_of(tok, t->text, t->size);
        if (tok->slots[slot] == 0) tok->slots[slot] = id + 1;
        if (t->size > tok->longest) tok->longest = t->size;
    }
    return REALM_OK;
}

static void index_bytes(tokenizer *tok) {
    for (unsigned byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        tok->byte_ids[byte] = tokenizer_lookup(tok, &c, 1);
    }
    for (uint32_t id = tok->count; id-- > 0;) { /* downwards: the lowest id wins; byte tokens come before plain ones */
        const token *t = &tok->tokens[id];
        if (t->kind == TOKEN_BYTE && t->size == 1) tok->byte_ids[(uint8_t)t->text[0]] = id;
    }
}

static bool is_searched(const token *t) {
    bool is_special = t->kind == TOKEN_CONTROL || t->kind == TOKEN_USER || t->kind == TOKEN_UNKNOWN;
    return is_special && t->size > 0 && t->size <= SPECIAL_TEXT_CAP;
}

/* Text order, then id. Heap sort: in place, n log n, no recursion, no context lost as with qsort. */
static bool special_before(const tokenizer *tok, uint32_t a, uint32_t b) {
    const token *x = &tok->tokens[a], *y = &tok->tokens[b];
    int order = memcmp(x->text, y->text, x->size < y->size ? x->size : y->size);
    if (order != 0) return order < 0;
    return x->size != y->size ? x->size < y->size : a < b;
}

static void sift_down(const tokenizer *tok, uint32_t *ids, uint32_t at, uint32_t count) {
    for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && special_before(tok, ids[child], ids[child + 1])) child++;
        if (!special_before(tok, ids[at], ids[child])) return;
        uint32_t moved = ids[at];
        ids[at] = ids[child];
        ids[child] = moved;
    }
}

static void sort_specials(const tokenizer *tok, uint32_t *ids, uint32_t count) {
    for (uint32_t at = count / 2; at-- > 0;) sift_down(tok, ids, at, count);
    for (uint32_t end = count; end-- > 1;) {
        uint32_t largest = ids[0];
        ids[0] = ids[end];
        ids[end] = largest;
        sift_down(tok, ids, 0, end);
    }
}

static realm_status index_specials(tokenizer *tok, realm_error *err) {
    for (uint32_t id = 0; id < tok->count; id++) tok->special_count += is_searched(&tok->tokens[id]);
    tok->specials = malloc(((size_t)tok->special_count + 1) * sizeof *tok->specials);
    if (tok->specials == NULL) return base_fail_memory(err, "special tokens", tok->special_count * sizeof *tok->specials);
    uint32_t count = 0;
    for (uint32_t id = 0; id < tok->count; id++) {
        if (!is_searched(&tok->tokens[id])) continue;
        tok->specials[count++] = id;
        tok->special_begins[(uint8_t)tok->tokens[id].text[0]] = true;
    }
    sort_specials(tok, tok->specials, count);
    return REALM_OK;
}

/* ---- creation ---- */

static realm_status load(tokenizer *tok, const gguf *file, realm_error *err) {
    const gguf_value *texts = NULL;
    realm_status status = find_family(tok, file, err);
    if (status == REALM_OK) status = read_tokens(tok, file, &texts, err);
    if (status == REALM_OK) status = read_special_ids(tok, file, err);
    if (status == REALM_OK) status = read_switch(file, "tokenizer.ggml.add_bos_token", tok->bos, &tok->add_bos, err);
    if (status == REALM_OK) status = read_switch(file, "tokenizer.ggml.add_eos_token", tok->eos, &tok->add_eos, err);
    if (status == REALM_OK) status = make_texts(tok, texts, err);
    if (status == REALM_OK) status = index_texts(tok, err);
    if (status != REALM_OK) return status;
    index_bytes(tok);
    status = index_specials(tok, err);
    return status == REALM_OK ? tok->family->finish(tok, file, err) : status;
}

realm_status tokenizer_create(const gguf *file, tokenizer **out, realm_error *err) {
    *out = NULL;
    tokenizer *tok = calloc(1, sizeof *tok);
    if (tok == NULL) return base_fail_memory(err, "the tokenizer", sizeof *tok);
    tok->bos = tok->eos = tok->eot = tok->unk = TOKENIZER_NONE;
    tok->hash_seed = (uint64_t)(uintptr_t)tok * 0x9e3779b97f4a7c15u;
    realm_status status = load(tok, file, err);
    if (status != REALM_OK) {
        tokenizer_destroy(tok);
        return status;
    }
    *out = tok;
    return REALM_OK;
}

void tokenizer_destroy(tokenizer *tok) {
    if (tok == NULL) return;
    free(tok->tokens);
    free(tok->text);
    free(tok->slots);
    free(tok->specials);
    free(tok->junctions);
    free(tok->merges);
    free(tok);
}

uint32_t tokenizer_vocab_size(const tokenizer *tok) { return tok->count; }
uint32_t tokenizer_bos(const tokenizer *tok) { return tok->bos; }
uint32_t tokenizer_eos(const tokenizer *tok) { return tok->eos; }
uint32_t tokenizer_eot(const tokenizer *tok) { return tok->eot; }
bool tokenizer_add_bos(const tokenizer *tok) { return tok->add_bos; }
bool tokenizer_add_eos(const tokenizer *tok) { return tok->add_eos; }
bool tokenizer_is_end(const tokenizer *tok, uint32_t id) { return id < tok->count && tok->tokens[id].is_end; }

/* ---- encoding ---- */

/* The first special in [low, high) whose byte at `depth` is at least `byte`; all of them share the bytes before. */
static uint32_t special_bound(const tokenizer *tok, uint32_t low, uint32_t high, uint32_t depth, unsigned byte) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const token *t = &tok->tokens[tok->specials[middle]];
        if (t->size <= depth || (uint8_t)t->text[depth] < byte) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The longest special at the start of text, TOKENIZER_NONE when there is none. User-defined tokens are always found, control
 * and unknown ones only when asked for. */
static uint32_t special_at(const tokenizer *tok, const char *text, size_t size, bool parse_special) {
    uint32_t found = TOKENIZER_NONE, low = 0, high = tok->special_count;
    for (uint32_t depth = 0; depth < size && low < high; depth++) {
        unsigned byte = (uint8_t)text[depth];
        low = special_bound(tok, low, high, depth, byte);
        high = special_bound(tok, low, high, depth, byte + 1);
        if (low == high) break;
        uint32_t id = tok->specials[low]; /* a text that ends here sorts before its extensions */
        const token *t = &tok->tokens[id];
        if (t->size == depth + 1 && (parse_special || t->kind == TOKEN_USER)) found = id;
    }
    return found;
}

/* Position of the next special from pos on (size when there is none) and its id. */
static size_t next_special(const tokenizer *tok, const char *text, size_t size, size_t pos, bool parse_special, uint32_t *id) {
    *id = TOKENIZER_NONE;
    for (; pos < size; pos++) {
        if (!tok->special_begins[(uint8_t)text[pos]]) continue;
        *id = special_at(tok, text + pos, size - pos, parse_special);
        if (*id != TOKENIZER_NONE) return pos;
    }
    return size;
}

static realm_status encode_text(encoder *e, const char *text, size_t size, bool parse_special) {
    realm_status status = REALM_OK;
    for (size_t pos = 0; status == REALM_OK && pos < size;) {
        uint32_t id;
        size_t end = next_special(e->tok, text, size, pos, parse_special, &id);
        if (end > pos) status = e->tok->family->encode(e, text + pos, end - pos);
        pos = end;
        if (id == TOKENIZER_NONE || status != REALM_OK) continue;
        encoder_emit(e, id);
        pos += e->tok->tokens[id].size;
    }
    return status;
}

realm_status tokenizer_encode(const tokenizer *tok, const char *text, size_t size, uint32_t flags, uint32_t *ids, size_t cap,
                              size_t *count, realm_error *err) {
    *count = 0;
    if (size > TEXT_CAP) return base_fail(err, REALM_E_LIMIT_EXCEEDED, "a text of more than 1 GiB cannot be encoded at once");
    encoder e = {.tok = tok, .err = err, .ids = ids, .cap = cap};
    bool add_special = (flags & REALM_ENCODE_ADD_SPECIAL) != 0;
    if (add_special && tok->add_bos) encoder_emit(&e, tok->bos);
    realm_status status = encode_text(&e, text, size, (flags & REALM_ENCODE_PARSE_SPECIAL) != 0);
    if (add_special && tok->add_eos) encoder_emit(&e, tok->eos);
    free(e.symbols);
    free(e.heap);
    if (status == REALM_OK) *count = e.count;
    return status;
}

/* ---- decoding ---- */

static bool is_hidden(const token *t) { return t->kind != TOKEN_NORMAL && t->kind != TOKEN_USER && t->kind != TOKEN_BYTE; }

/* Concatenates the tokens' texts; writes what fits and returns the full size. The ids were checked. */
static size_t concatenate(const tokenizer *tok, const uint32_t *ids, size_t count, uint32_t flags, char *out, size_t cap) {
    bool at_start = (flags & REALM_DECODE_TEXT_START) != 0 && tok->add_space_prefix;
    size_t total = 0;
    for (size_t i = 0; i < count; i++) {
        const token *t = &tok->tokens[ids[i]];
        if (t->size == 0 || (is_hidden(t) && !(flags & REALM_DECODE_SPECIAL))) continue;
        uint32_t skip = at_start && t->text[0] == ' ';
        at_start = false;
        size_t size = t->size - skip, room = total < cap ? cap - total : 0;
        if (room > 0) memcpy(out + total, t->text + skip, size < room ? size : room);
        total += size;
    }
    return total;
}

/* ---- cleaning: some BPE files want the spaces before punctuation and contractions removed from a decoded text ---- */

static bool is_punctuation(const char *p, size_t left) { (void)left; return *p == '?' || *p == '!' || *p == '.' || *p == ','; }

static bool is_short_form(const char *p, size_t left) {
    if (*p != '\'' || left < 2) return false;
    if (p[1] == 's' || p[1] == 'm') return true;
    return left > 2 && (p[1] == 'r' || p[1] == 'v') && p[2] == 'e';
}

static size_t drop_spaces_before(char *text, size_t size, bool (*goes_with_word)(const char *p, size_t left)) {
    size_t kept = 0;
    for (size_t i = 0; i < size; i++) {
        if (i > 0 && text[i - 1] == ' ' && goes_with_word(text + i, size - i)) kept--;
        text[kept++] = text[i]; /* kept <= i: text[i - 1] is still what it was */
    }
    return kept;
}

static size_t close_lone_apostrophes(char *text, size_t size) { /* " ' " -> "'" */
    size_t kept = 0;
    char before = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        bool is_lone = c == '\'' && before == ' ' && i + 1 < size && text[i + 1] == ' ';
        if (is_lone) kept--;
        text[kept++] = c;
        before = c;
        i += is_lone;
    }
    return kept;
}

static size_t clean_spaces(char *text, size_t size) {
    size = drop_spaces_before(text, size, is_punctuation);
    size = close_lone_apostrophes(text, size);
    return drop_spaces_before(text, size, is_short_form);
}

static realm_status decode_clean(const tokenizer *tok, const uint32_t *ids, size_t count, uint32_t flags, char *out, size_t cap,
                                 size_t *size, realm_error *err) {
    size_t full = concatenate(tok, ids, count, flags, NULL, 0);
    char *text = malloc(full + 1);
    if (text == NULL) return base_fail_memory(err, "decoded text", full);
    concatenate(tok, ids, count, flags, text, full);
    *size = clean_spaces(text, full);
    if (cap > 0) memcpy(out, text, *size < cap ? *size : cap);
    free(text);
    return REALM_OK;
}

realm_status tokenizer_decode(const tokenizer *tok, const uint32_t *ids, size_t count, uint32_t flags, char *out, size_t cap,
                              size_t *size, realm_error *err) {
    *size = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < tok->count) continue;
        return base_fail(err, REALM_E_INVALID_ARGUMENT, "token id %u is outside the vocabulary of %u", ids[i], tok->count);
    }
    /* Cleaning looks at neighbours across tokens, so it belongs to whole texts, not to pieces of a stream. */
    if (tok->clean_spaces && (flags & REALM_DECODE_TEXT_START)) return decode_clean(tok, ids, count, flags, out, cap, size, err);
    *size = concatenate(tok, ids, count, flags, out, cap);
    return REALM_OK;
}
