/* pretokenize.c: scanners equal to the regular expressions of byte-level BPE tokenizers.
 *   gpt2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   digits  the same between single \p{N}, each of which is a piece of its own
 *   llama3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   qwen2   the same with \p{N} instead of \p{N}{1,3}
 * Every character has one of four classes, so each alternative is a run of one class with at most one character before it;
 * a run of white space is looked at a second time at most. */
#include "pretokenize.h"

#include "unicode.h"

typedef struct scan {
    const char *text;
    size_t size;
} scan;

static unicode_class class_at(scan s, size_t pos, size_t *length) {
    uint32_t code;
    *length = unicode_decode(s.text + pos, s.size - pos, &code);
    return unicode_class_of(code);
}

/* End of the run of `class` at pos; pos itself when there is none. */
static size_t run_end(scan s, size_t pos, unicode_class class) {
    size_t length;
    while (pos < s.size && class_at(s, pos, &length) == class) pos += length;
    return pos;
}

static bool is_newline(char c) { return c == '\r' || c == '\n'; }

/* ---- contractions ---- */

static bool letters_at(scan s, size_t pos, const char *letters, bool any_case) {
    for (; *letters; letters++, pos++) {
        if (pos >= s.size) return false;
        char c = s.text[pos];
        if (any_case && c >= 'A' && c <= 'Z') c = (char)(c + ('a' - 'A'));
        if (c != *letters) return false;
    }
    return true;
}

/* Bytes of the contraction at pos ('s, 'll, ...), 0 when there is none. */
static size_t contraction(scan s, size_t pos, bool any_case) {
    static const char *const endings[] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (s.text[pos] != '\'') return 0;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        if (letters_at(s, pos + 1, endings[i], any_case)) return 1 + strlen(endings[i]);
    }
    return 0;
}

/* ---- white space ---- */

/* \s+(?!\S)|\s+ : the whole run at the end of the text, else all but its last character, which goes with what follows. */
static size_t space_end(scan s, size_t pos, bool number_ends_text) {
    size_t end = pos, last = pos, length = 0;
    while (end < s.size && class_at(s, end, &length) == UNICODE_SPACE) {
        last = end;
        end += length;
    }
    bool at_end = end == s.size || (number_ends_text && class_at(s, end, &length) == UNICODE_NUMBER);
    return at_end || last == pos ? end : last;
}

/* \s*[\r\n]+ : up to the last line break of the run; pos when it has none. */
static size_t newline_end(scan s, size_t pos) {
    size_t end = pos, length;
    for (size_t at = pos; at < s.size && class_at(s, at, &length) == UNICODE_SPACE; at += length) {
        if (is_newline(s.text[at])) end = at + 1;
    }
    return end;
}

/* ---- GPT-2 and its variant with single digits ---- */

static size_t next_simple(scan s, size_t pos, bool single_digits) {
    size_t length, short_form = contraction(s, pos, false);
    if (short_form) return pos + short_form;
    unicode_class class = class_at(s, pos, &length);
    if (class == UNICODE_NUMBER && single_digits) return pos + length;
    if (class != UNICODE_SPACE) return run_end(s, pos, class);
    if (s.text[pos] == ' ' && pos + 1 < s.size) {
        class = class_at(s, pos + 1, &length);
        bool apart = class == UNICODE_SPACE || (single_digits && class == UNICODE_NUMBER);
        if (!apart) return run_end(s, pos + 1, class);
    }
    return space_end(s, pos, single_digits);
}

static size_t next_gpt2(const char *text, size_t size, size_t pos) { return next_simple((scan){text, size}, pos, false); }
static size_t next_digits(const char *text, size_t size, size_t pos) { return next_simple((scan){text, size}, pos, true); }

/* ---- Llama 3 and Qwen 2 ---- */

/* [^\r\n\p{L}\p{N}]?\p{L}+ ; pos when it does not match. */
static size_t word_end(scan s, size_t pos, unicode_class class, size_t length) {
    if (class == UNICODE_LETTER) return run_end(s, pos, UNICODE_LETTER);
    if (class == UNICODE_NUMBER || is_newline(s.text[pos])) return pos;
    size_t end = run_end(s, pos + length, UNICODE_LETTER);
    return end > pos + length ? end : pos;
}

static size_t number_end(scan s, size_t pos, unsigned most) {
    size_t length;
    for (unsigned n = 0; n < most && pos < s.size && class_at(s, pos, &length) == UNICODE_NUMBER; n++) pos += length;
    return pos;
}

/* " "?[^\s\p{L}\p{N}]+[\r\n]* ; pos when it does not match. */
static size_t symbols_end(scan s, size_t pos) {
    size_t start = s.text[pos] == ' ' ? pos + 1 : pos, end = run_end(s, start, UNICODE_OTHER);
    if (end == start) return pos;
    while (end < s.size && is_newline(s.text[end])) end++;
    return end;
}

static size_t next_modern(scan s, size_t pos, unsigned digits) {
    size_t length, end, short_form = contraction(s, pos, true);
    if (short_form) return pos + short_form;
    unicode_class class = class_at(s, pos, &length);
    if ((end = word_end(s, pos, class, length)) > pos) return end;
    if (class == UNICODE_NUMBER) return number_end(s, pos, digits);
    if ((end = symbols_end(s, pos)) > pos) return end;
    if ((end = newline_end(s, pos)) > pos) return end;
    return space_end(s, pos, false);
}

static size_t next_llama3(const char *text, size_t size, size_t pos) { return next_modern((scan){text, size}, pos, 3); }
static size_t next_qwen2(const char *text, size_t size, size_t pos) { return next_modern((scan){text, size}, pos, 1); }

/* ---- names ---- */

static const pretokenizer pretokenizers[] = {
    /* name, scanner, ignore_merges, add_bos, clean_spaces */
    {"gpt-2", next_gpt2, false, false, true},
    {"phi-2", next_gpt2, false, false, true},
    {"mpt", next_gpt2, false, false, true},
    {"olmo", next_gpt2, false, false, true},
    {"jais", next_gpt2, false, false, true},
    {"exaone4", next_gpt2, false, false, true},
    {"trillion", next_gpt2, false, false, false},
    {"granite-docling", next_gpt2, false, false, false},
    {"smollm", next_digits, false, false, false},
    {"command-r", next_digits, false, false, false},
    {"starcoder", next_digits, false, false, true},
    {"refact", next_digits, false, false, true},
    {"codeshell", next_digits, false, false, true},
    {"exaone", next_digits, false, false, true},
    {"minerva-7b", next_digits, false, false, true},
    {"llama-bpe", next_llama3, true, true, true},
    {"llama3", next_llama3, true, true, true},
    {"llama-v3", next_llama3, true, true, true},
    {"falcon3", next_llama3, true, true, true},
    {"lfm2", next_llama3, true, true, true},
    {"dbrx", next_llama3, false, false, true},
    {"smaug-bpe", next_llama3, false, false, true},
    {"qwen2", next_qwen2, false, false, false},
    {"deepseek-r1-qwen", next_qwen2, false, false, false},
    {"hunyuan", next_qwen2, false, false, false},
    {"megrez", next_qwen2, false, false, true},
    {"stablelm2", next_qwen2, false, false, true},
};

const pretokenizer *pretokenize_find(const char *name, size_t size) {
    for (size_t i = 0; i < sizeof pretokenizers / sizeof *pretokenizers; i++) {
        const char *have = pretokenizers[i].name;
        if (strlen(have) == size && memcmp(have, name, size) == 0) return &pretokenizers[i];
    }
    return NULL;
}
