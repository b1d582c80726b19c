/* utf8.h: bytes of tokens -> whole UTF-8 characters (utf8.c).
 *
 * A character may be spread over tokens and tokens may hold any bytes. The text that comes out is always valid: an
 * unfinished character is held back, and each ill-formed part becomes U+FFFD (one for each maximal subpart, as the
 * Unicode standard recommends and as Python and browsers do), so the result does not depend on how bytes are cut.
 */
#ifndef UTF8_H
#define UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct utf8 { /* all zero: nothing held */
    uint8_t held[4]; /* the bytes of an unfinished character */
    uint8_t count;
    uint8_t missing;   /* how many it still needs */
    uint8_t low, high; /* the range of its next byte */
} utf8;

/* How many bytes utf8_push may write for `size` bytes: each may end what was held and become U+FFFD itself. */
size_t utf8_room(size_t size);
/* Adds bytes; writes the characters that are complete to `out` and returns their size. */
size_t utf8_push(utf8 *state, const uint8_t *bytes, size_t size, uint8_t *out);
/* Ends the text: an unfinished character becomes U+FFFD. */
size_t utf8_finish(utf8 *state, uint8_t *out);
/* Whether these bytes are valid UTF-8 as a whole. */
bool utf8_valid(const uint8_t *bytes, size_t size);

#endif
