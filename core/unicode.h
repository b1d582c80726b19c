/* unicode.h: UTF-8 decoding and the four character classes that pre-tokenizers tell apart. */
#ifndef REALM_UNICODE_H
#define REALM_UNICODE_H

#include "base.h"

typedef enum unicode_class {
    UNICODE_OTHER = 0,  /* everything else, malformed bytes included */
    UNICODE_LETTER = 1, /* \p{L} */
    UNICODE_NUMBER = 2, /* \p{N} */
    UNICODE_SPACE = 3,  /* \s: White_Space */
} unicode_class;

typedef struct unicode_range {
    uint32_t first, last;
    uint32_t kind; /* unicode_class */
} unicode_range;

#define UNICODE_MALFORMED UINT32_MAX

/* Decodes the character at p (left >= 1) and returns its length. A byte that begins no well-formed character counts as one
 * of length 1 with the code UNICODE_MALFORMED. */
size_t unicode_decode(const char *p, size_t left, uint32_t *code);
unicode_class unicode_class_of(uint32_t code);

#endif
