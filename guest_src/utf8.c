/* utf8.c: a byte-at-a-time UTF-8 decoder that repairs; see utf8.h. The ranges are table 3-7 of the Unicode standard. */
#include "utf8.h"

static const uint8_t REPLACEMENT[3] = {0xEF, 0xBF, 0xBD};

size_t utf8_room(size_t size) {
    return 3 * size + sizeof REPLACEMENT;
}

static size_t put(uint8_t *out, const uint8_t *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) out[i] = bytes[i];
    return size;
}

/* Begins a character of more than one byte; false when no character begins with this byte. */
static bool begin(utf8 *state, uint8_t byte) {
    if (byte < 0xC2 || byte > 0xF4) return false;
    state->missing = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    state->low = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;  /* no overlong forms */
    state->high = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF; /* no surrogates, nothing above U+10FFFF */
    state->held[0] = byte;
    state->count = 1;
    return true;
}

/* Takes the next byte of the held character; false when it does not belong there. */
static bool extend(utf8 *state, uint8_t byte) {
    if (byte < state->low || byte > state->high) return false;
    state->held[state->count++] = byte;
    state->missing--;
    state->low = 0x80;
    state->high = 0xBF;
    return true;
}

static size_t push_byte(utf8 *state, uint8_t byte, uint8_t *out) {
    size_t written = 0;
    if (state->count) {
        if (extend(state, byte)) {
            if (state->missing) return 0;
            written = put(out, state->held, state->count);
            state->count = 0;
            return written;
        }
        written = utf8_finish(state, out); /* cut short: the byte begins something new */
    }
    if (byte < 0x80) return written + put(out + written, &byte, 1);
    if (begin(state, byte)) return written;
    return written + put(out + written, REPLACEMENT, sizeof REPLACEMENT);
}

size_t utf8_push(utf8 *state, const uint8_t *bytes, size_t size, uint8_t *out) {
    size_t written = 0;
    for (size_t i = 0; i < size; i++) written += push_byte(state, bytes[i], out + written);
    return written;
}

size_t utf8_finish(utf8 *state, uint8_t *out) {
    if (!state->count) return 0;
    state->count = 0;
    return put(out, REPLACEMENT, sizeof REPLACEMENT);
}

bool utf8_valid(const uint8_t *bytes, size_t size) {
    utf8 state = {0};
    for (size_t i = 0; i < size; i++) {
        if (state.count) {
            if (!extend(&state, bytes[i])) return false;
            if (!state.missing) state.count = 0;
        } else if (bytes[i] >= 0x80 && !begin(&state, bytes[i])) {
            return false;
        }
    }
    return state.count == 0;
}
