/* generate.h: one request of the standard guest, from prompt to report (generate.c). */
#ifndef GENERATE_H
#define GENERATE_H

#include "realm_abi.h"
#include "stop.h"
#include "utf8.h"

enum { GENERATE_MAX_BIASES = 1024 };

typedef struct generation {
    uint32_t handle;  /* the request's, for emit */
    uint32_t model;
    uint32_t session; /* 0: none open */
    uint32_t ticket;  /* 0: no work in flight */
    realm_mode mode;
    bool bare;    /* no prompt text: the generated text begins the whole text */
    bool emitted; /* text since the last poll */
    bool done;
    uint32_t max_tokens;
    realm_sampling params;
    realm_bias *biases; /* own copy, or NULL */
    size_t bias_count;

    uint32_t layer_count, next_layer; /* mode layers: what the next slice begins with */
    uint32_t *tokens;                 /* generated so far; grows */
    uint32_t token_count, token_room;
    utf8 characters;
    stop_set stops;

    uint32_t prompt_tokens;
    realm_finish finish;
    realm_error_code error;
} generation;

/* Checks a request and copies what outlives the call. False: *error says why, nothing is held. */
bool generation_open(generation *g, uint32_t handle, const realm_request *request, realm_error_code *error);
/* Encodes the prompt and submits the first work. Failures end the request; they are in its report. */
void generation_begin(generation *g, const realm_request *request);
/* Does what can be done now. */
void generation_poll(generation *g);
/* Ends it as cancelled unless it is done. */
void generation_cancel(generation *g);
/* Frees what it holds; cancels it first. */
void generation_close(generation *g);

#endif
