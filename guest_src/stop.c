/* stop.c: stop strings across token borders; see stop.h. */
#include "stop.h"

#include "support.h"
#include "utf8.h"

/* ---- reading the request's list ---- */

/* The next string of the list at *position; false when the list is malformed there. */
static bool next_string(const uint8_t *encoded, size_t size, size_t *position, const uint8_t **text, size_t *text_size) {
    if (size - *position < 4) return false;
    const uint8_t *at = encoded + *position;
    uint32_t length = at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
    if (length > size - *position - 4 || length == 0 || length > STOP_MAX_SIZE) return false;
    *text = at + 4;
    *text_size = length;
    *position += 4 + (size_t)length;
    return utf8_valid(*text, length);
}

static bool measure(const uint8_t *encoded, size_t size, uint32_t *count, size_t *bytes) {
    size_t position = 0;
    *count = 0;
    *bytes = 0;
    while (position < size) {
        const uint8_t *text;
        size_t text_size;
        if (*count == STOP_MAX_COUNT || !next_string(encoded, size, &position, &text, &text_size)) return false;
        *count += 1;
        *bytes += text_size;
    }
    return true;
}

static void find_borders(stop_string *stop) {
    uint16_t border = 0;
    stop->borders[0] = 0;
    for (uint16_t i = 1; i < stop->size; i++) {
        while (border && stop->text[i] != stop->text[border]) border = stop->borders[border - 1];
        if (stop->text[i] == stop->text[border]) border++;
        stop->borders[i] = border;
    }
}

stop_status stop_open(stop_set *set, const uint8_t *encoded, size_t size) {
    uint32_t count;
    size_t bytes;
    *set = (stop_set){0};
    if (!measure(encoded, size, &count, &bytes)) return STOP_INVALID;
    if (count == 0) return STOP_OK;
    /* one block: the strings' records, their border tables, their texts, the held text */
    set->strings = memory_alloc(count * sizeof(stop_string) + bytes * sizeof(uint16_t) + bytes + STOP_MAX_SIZE);
    if (!set->strings) return STOP_NO_MEMORY;
    uint16_t *borders = (uint16_t *)(set->strings + count);
    uint8_t *texts = (uint8_t *)(borders + bytes);
    set->held = texts + bytes;
    for (size_t position = 0; position < size; set->count++) {
        const uint8_t *text;
        size_t text_size;
        next_string(encoded, size, &position, &text, &text_size);
        bytes_copy(texts, text, text_size);
        set->strings[set->count] = (stop_string){.text = texts, .borders = borders, .size = (uint16_t)text_size};
        find_borders(&set->strings[set->count]);
        texts += text_size;
        borders += text_size;
    }
    return STOP_OK;
}

void stop_close(stop_set *set) {
    memory_free(set->strings);
    *set = (stop_set){0};
}

/* ---- searching ---- */

/* Moves one string's state on by a byte; true when the string is complete. */
static bool advance(stop_string *stop, uint8_t byte) {
    while (stop->matched && stop->text[stop->matched] != byte) stop->matched = stop->borders[stop->matched - 1];
    if (stop->text[stop->matched] == byte) stop->matched++;
    return stop->matched == stop->size;
}

/* Moves all states on; returns the size of the longest string now complete, or 0. *partial: the longest beginning of a
 * stop string that the text now ends with. */
static size_t advance_all(stop_set *set, uint8_t byte, size_t *partial) {
    size_t complete = 0;
    *partial = 0;
    for (uint32_t i = 0; i < set->count; i++) {
        stop_string *stop = &set->strings[i];
        if (advance(stop, byte) && stop->size > complete) complete = stop->size;
        if (stop->matched > *partial) *partial = stop->matched;
    }
    return complete;
}

size_t stop_room(const stop_set *set, size_t size) {
    return set->held_size + size;
}

bool stop_push(stop_set *set, const uint8_t *text, size_t size, uint8_t *out, size_t *written) {
    size_t held = set->held_size;
    size_t partial = held;
    bytes_copy(out, set->held, held);
    bytes_copy(out + held, text, size);
    for (size_t i = 0; i < size; i++) {
        size_t complete = advance_all(set, text[i], &partial);
        if (complete) {
            set->held_size = 0;
            *written = held + i + 1 - complete;
            return true;
        }
    }
    *written = held + size - partial;
    set->held_size = (uint32_t)partial;
    bytes_copy(set->held, out + *written, partial);
    return false;
}

size_t stop_finish(stop_set *set, uint8_t *out) {
    size_t size = set->held_size;
    bytes_copy(out, set->held, size);
    set->held_size = 0;
    return size;
}
