/* guest_fake_host.h: the guest's imports natively, for tests and fuzzing (guest_fake_host.c).
 *
 * Everything the host answers (tokens, their bytes, states of tickets, errors) is drawn from a stream of bytes that the
 * test gives; a stream of zeros lets every request end well. The host checks what it is asked: handles it gave out
 * and that are open, no work on a busy session, text that is whole UTF-8 and holds no stop string. A breach aborts.
 */
#ifndef GUEST_FAKE_HOST_H
#define GUEST_FAKE_HOST_H

#include "../../guest_src/realm_abi.h"

/* The next byte of the stream; set before the first call into the guest. */
extern uint8_t (*fake_byte)(void);

/* Stop strings of request number `handle`, as in the request, to be checked against its text; copied. */
void fake_expect_stops(uint32_t handle, const uint8_t *encoded, size_t size);
/* Forgets the text and stop strings of a request. */
void fake_forget(uint32_t handle);
/* Sessions and tickets that are open. */
uint32_t fake_open_handles(void);

void fake_check(int condition, const char *what);
/* A list of the host's for the guest: `size` bytes by its own allocator; NULL when that has no more. */
void *fake_guest_memory(size_t size);

#endif
