/* unicode.c: UTF-8 decoding and character classes by binary search in generated ranges. */
#include "unicode.h"

#include "unicode_tables.h"

size_t unicode_decode(const char *text, size_t left, uint32_t *code) {
    const uint8_t *p = (const uint8_t *)text;
    *code = p[0];
    if (p[0] < 0x80) return 1;
    size_t n = p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    *code = UNICODE_MALFORMED;
    if (n == 0 || n > left) return 1;
    uint32_t value = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 1;
        value = value << 6 | (p[i] & 0x3fu);
    }
    bool overlong = (n == 3 && value < 0x800) || (n == 4 && value < 0x10000);
    if (overlong || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return 1;
    *code = value;
    return n;
}

static unicode_class ascii_class(uint32_t code) {
    if ((code | 0x20) >= 'a' && (code | 0x20) <= 'z') return UNICODE_LETTER;
    if (code >= '0' && code <= '9') return UNICODE_NUMBER;
    return code == ' ' || (code >= 9 && code <= 13) ? UNICODE_SPACE : UNICODE_OTHER;
}

unicode_class unicode_class_of(uint32_t code) {
    if (code < 0x80) return ascii_class(code);
    size_t low = 0, high = sizeof unicode_ranges / sizeof *unicode_ranges;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (unicode_ranges[middle].last < code) low = middle + 1;
        else high = middle;
    }
    if (low == sizeof unicode_ranges / sizeof *unicode_ranges || code < unicode_ranges[low].first) return UNICODE_OTHER;
    return (unicode_class)unicode_ranges[low].kind;
}
