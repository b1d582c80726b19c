/* stop.h: finds stop strings in text that comes in pieces (stop.c).
 *
 * The stop string that is complete first ends the text; of several complete at the same byte the longest. What might
 * still become a stop string is held back. One Knuth-Morris-Pratt state per stop string: linear in the text, and what is
 * held is never longer than the longest stop string.
 */
#ifndef STOP_H
#define STOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    STOP_MAX_COUNT = 64,
    STOP_MAX_SIZE = 1024, /* bytes of one; bounds what is held back, and the tables */
};

typedef struct stop_string {
    const uint8_t *text; /* in the set's own memory */
    uint16_t *borders;   /* [i]: length of the longest proper prefix of text[0..i] that also ends it */
    uint16_t size;
    uint16_t matched; /* bytes matched so far */
} stop_string;

typedef struct stop_set { /* all zero: no stop strings */
    stop_string *strings; /* the block that holds all of the set's memory, or NULL */
    uint32_t count;
    uint32_t held_size;
    uint8_t *held; /* the text held back: room for STOP_MAX_SIZE bytes */
} stop_set;

typedef enum stop_status { STOP_OK, STOP_INVALID, STOP_NO_MEMORY } stop_status;

/* Reads stop strings as the request has them: each preceded by its length as u32 little-endian. Invalid are empty, too
 * long, too many, or not UTF-8 (which could cut a character of the text in two). */
stop_status stop_open(stop_set *set, const uint8_t *encoded, size_t size);
void stop_close(stop_set *set);

/* How many bytes stop_push may write for `size` bytes. */
size_t stop_room(const stop_set *set, size_t size);
/* Adds text; writes what can be shown to `out`, its size to *written. True when a stop string was completed: the text ends
 * before it. */
bool stop_push(stop_set *set, const uint8_t *text, size_t size, uint8_t *out, size_t *written);
/* Ends the text without a stop string: writes what was held back. */
size_t stop_finish(stop_set *set, uint8_t *out);

#endif
