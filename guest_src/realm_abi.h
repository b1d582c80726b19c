/* Generated from guest_src/realm.wit by realm_build gen; do not edit.
 *
 * The interface as a guest written in C sees it. A guest defines the realm_guest_... functions and
 * cabi_realloc, and calls the realm_host_... functions. Lists that those return come from cabi_realloc and
 * belong to the guest.
 * Outside WebAssembly the imports are ordinary functions, for tests with a fake host.
 */
#ifndef REALM_ABI_H
#define REALM_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __wasm__
#define REALM_IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define REALM_EXPORT(name) __attribute__((export_name(name)))
#define REALM_LAYOUT(condition) _Static_assert(condition, "canonical ABI layout")
#else
#define REALM_IMPORT(module, name)
#define REALM_EXPORT(name)
#define REALM_LAYOUT(condition) _Static_assert(1, "native layout")
#endif

/* Stable codes of every failure, the same in every host. In C: REALM_E_<NAME> = index + 1, REALM_OK = 0. */
typedef uint8_t realm_error_code;
enum {
    /* A value is outside its allowed range. */
    REALM_ERROR_CODE_INVALID_ARGUMENT = 0,
    /* A handle that was never given to this realm, or is closed. */
    REALM_ERROR_CODE_INVALID_HANDLE = 1,
    /* Memory could not be allocated. */
    REALM_ERROR_CODE_OUT_OF_MEMORY = 2,
    /* The file does not exist. */
    REALM_ERROR_CODE_NOT_FOUND = 3,
    /* The file exists but cannot be read or mapped. */
    REALM_ERROR_CODE_IO = 4,
    /* The bytes are not a well-formed GGUF file. */
    REALM_ERROR_CODE_INVALID_GGUF = 5,
    /* A GGUF version other than 2 and 3, or a byte order this build cannot read. */
    REALM_ERROR_CODE_UNSUPPORTED_GGUF = 6,
    /* A tensor of a block type the core cannot compute with. */
    REALM_ERROR_CODE_UNSUPPORTED_TENSOR_TYPE = 7,
    /* An architecture no plan is known for. */
    REALM_ERROR_CODE_UNSUPPORTED_ARCHITECTURE = 8,
    /* A tokenizer or pre-tokenizer the core does not know. */
    REALM_ERROR_CODE_UNSUPPORTED_TOKENIZER = 9,
    /* Metadata and tensors do not fit each other. */
    REALM_ERROR_CODE_INVALID_MODEL = 10,
    /* The tokenizer's metadata is inconsistent. */
    REALM_ERROR_CODE_INVALID_TOKENIZER = 11,
    /* The file holds only a vocabulary. */
    REALM_ERROR_CODE_NO_WEIGHTS = 12,
    /* The session's context length is used up. */
    REALM_ERROR_CODE_CONTEXT_FULL = 13,
    /* A limit of the realm or of the runtime would be exceeded. */
    REALM_ERROR_CODE_LIMIT_EXCEEDED = 14,
    /* The session already has work in flight. */
    REALM_ERROR_CODE_BUSY = 15,
    /* The work was cancelled. */
    REALM_ERROR_CODE_CANCELLED = 16,
    /* The object was closed. */
    REALM_ERROR_CODE_CLOSED = 17,
    /* The guest waits for nothing: pending with no open ticket. */
    REALM_ERROR_CODE_STALLED = 18,
    /* A time limit ran out. */
    REALM_ERROR_CODE_TIMED_OUT = 19,
    /* The guest trapped. */
    REALM_ERROR_CODE_GUEST_TRAP = 20,
    /* The guest asked for more memory than it may have. */
    REALM_ERROR_CODE_GUEST_MEMORY = 21,
    /* The module does not implement the interface. */
    REALM_ERROR_CODE_GUEST_INVALID = 22,
    /* This machine or build does not have the backend that was asked for. */
    REALM_ERROR_CODE_BACKEND_UNAVAILABLE = 23,
    /* The chat template is missing, broken or over its limits. */
    REALM_ERROR_CODE_TEMPLATE_ERROR = 24,
    /* Not possible with this model or build. */
    REALM_ERROR_CODE_UNSUPPORTED = 25,
    /* A fault of Realm itself: please report it. */
    REALM_ERROR_CODE_INTERNAL = 26,
    /* The device that computes (a GPU) was lost, and all it held: load the model again. */
    REALM_ERROR_CODE_DEVICE_LOST = 27,
};

typedef struct realm_model_properties {
    uint32_t vocab_size;
    uint32_t context_length;
    uint32_t layer_count;
    uint32_t embedding_length;
    /* Token ids; 0xffffffff when the model has none. */
    uint32_t bos;
    uint32_t eos;
} realm_model_properties;
REALM_LAYOUT(offsetof(realm_model_properties, vocab_size) == 0);
REALM_LAYOUT(offsetof(realm_model_properties, context_length) == 4);
REALM_LAYOUT(offsetof(realm_model_properties, layer_count) == 8);
REALM_LAYOUT(offsetof(realm_model_properties, embedding_length) == 12);
REALM_LAYOUT(offsetof(realm_model_properties, bos) == 16);
REALM_LAYOUT(offsetof(realm_model_properties, eos) == 20);
REALM_LAYOUT(sizeof(realm_model_properties) == 24);

/* How a token is drawn. 0 or 1 switches a filter off as said at each. */
typedef struct realm_sampling {
    /* 0: greedy. */
    float temperature;
    /* 0: off. */
    uint32_t top_k;
    /* 1: off. */
    float top_p;
    /* 0: off. */
    float min_p;
    /* 1: off. */
    float repetition_penalty;
    /* 0: off. */
    float frequency_penalty;
    /* 0: off. */
    float presence_penalty;
    /* How many of the last tokens the penalties look at; 0: 64. */
    uint32_t penalty_window;
    uint64_t seed;
    /* End tokens neither stop nor are drawn. */
    bool ignore_end;
} realm_sampling;
REALM_LAYOUT(offsetof(realm_sampling, temperature) == 0);
REALM_LAYOUT(offsetof(realm_sampling, top_k) == 4);
REALM_LAYOUT(offsetof(realm_sampling, top_p) == 8);
REALM_LAYOUT(offsetof(realm_sampling, min_p) == 12);
REALM_LAYOUT(offsetof(realm_sampling, repetition_penalty) == 16);
REALM_LAYOUT(offsetof(realm_sampling, frequency_penalty) == 20);
REALM_LAYOUT(offsetof(realm_sampling, presence_penalty) == 24);
REALM_LAYOUT(offsetof(realm_sampling, penalty_window) == 28);
REALM_LAYOUT(offsetof(realm_sampling, seed) == 32);
REALM_LAYOUT(offsetof(realm_sampling, ignore_end) == 40);
REALM_LAYOUT(sizeof(realm_sampling) == 48);

typedef struct realm_bias {
    uint32_t token;
    float value;
} realm_bias;
REALM_LAYOUT(offsetof(realm_bias, token) == 0);
REALM_LAYOUT(offsetof(realm_bias, value) == 4);
REALM_LAYOUT(sizeof(realm_bias) == 8);

typedef struct realm_token {
    uint32_t id;
    bool is_end;
    /* Natural log of its probability under the unmodified logits. */
    float logprob;
} realm_token;
REALM_LAYOUT(offsetof(realm_token, id) == 0);
REALM_LAYOUT(offsetof(realm_token, is_end) == 4);
REALM_LAYOUT(offsetof(realm_token, logprob) == 8);
REALM_LAYOUT(sizeof(realm_token) == 12);

typedef uint8_t realm_ticket_state;
enum {
    REALM_TICKET_STATE_PENDING = 0,
    /* generate only: tokens can be taken, more will come. */
    REALM_TICKET_STATE_PROGRESS = 1,
    REALM_TICKET_STATE_READY = 2,
    REALM_TICKET_STATE_FAILED = 3,
};

typedef struct realm_cache_info {
    uint64_t layers;
    uint64_t bytes;
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;
} realm_cache_info;
REALM_LAYOUT(offsetof(realm_cache_info, layers) == 0);
REALM_LAYOUT(offsetof(realm_cache_info, bytes) == 8);
REALM_LAYOUT(offsetof(realm_cache_info, hits) == 16);
REALM_LAYOUT(offsetof(realm_cache_info, misses) == 24);
REALM_LAYOUT(offsetof(realm_cache_info, evictions) == 32);
REALM_LAYOUT(sizeof(realm_cache_info) == 40);

typedef uint8_t realm_mode;
enum {
    /* encode, forward, sample, decode as separate imports. */
    REALM_MODE_GRANULAR = 0,
    /* one generate import. */
    REALM_MODE_WHOLE = 1,
    /* granular, with the forward pass split into layer slices by forward-layers. */
    REALM_MODE_LAYERS = 2,
};

typedef struct realm_list_u8 { uint8_t *ptr; size_t len; } realm_list_u8;

typedef struct realm_list_bias { realm_bias *ptr; size_t len; } realm_list_bias;

typedef struct realm_request {
    uint32_t model;
    /* The rendered prompt (chat templates are rendered by the host, which marks them with parse-special). */
    realm_list_u8 prompt;
    bool add_special;
    bool parse_special;
    /* Stop strings, each preceded by its length as u32 little-endian. */
    realm_list_u8 stops;
    uint32_t max_tokens;
    realm_mode mode;
    realm_sampling params;
    realm_list_bias biases;
    /* An own guest's parameters, opaque to the host. */
    realm_list_u8 extra;
} realm_request;
REALM_LAYOUT(offsetof(realm_request, model) == 0);
REALM_LAYOUT(offsetof(realm_request, prompt) == 4);
REALM_LAYOUT(offsetof(realm_request, add_special) == 12);
REALM_LAYOUT(offsetof(realm_request, parse_special) == 13);
REALM_LAYOUT(offsetof(realm_request, stops) == 16);
REALM_LAYOUT(offsetof(realm_request, max_tokens) == 24);
REALM_LAYOUT(offsetof(realm_request, mode) == 28);
REALM_LAYOUT(offsetof(realm_request, params) == 32);
REALM_LAYOUT(offsetof(realm_request, biases) == 80);
REALM_LAYOUT(offsetof(realm_request, extra) == 88);
REALM_LAYOUT(sizeof(realm_request) == 96);

typedef uint8_t realm_step;
enum {
    REALM_STEP_PENDING = 0,
    REALM_STEP_OUTPUT = 1,
    REALM_STEP_DONE = 2,
};

typedef uint8_t realm_finish;
enum {
    REALM_FINISH_END = 0,
    REALM_FINISH_STOP = 1,
    REALM_FINISH_LENGTH = 2,
    REALM_FINISH_CANCELLED = 3,
    REALM_FINISH_FAILED = 4,
};

typedef struct realm_list_u32 { uint32_t *ptr; size_t len; } realm_list_u32;

typedef struct realm_report {
    realm_finish finish;
    /* Why, when finish is failed. */
    realm_error_code error;
    uint32_t prompt_tokens;
    /* The generated tokens, without an end token; with a stop string, up to the token that completed it. */
    realm_list_u32 tokens;
    /* An own guest's result, opaque to the host. */
    realm_list_u8 extra;
} realm_report;
REALM_LAYOUT(offsetof(realm_report, finish) == 0);
REALM_LAYOUT(offsetof(realm_report, error) == 1);
REALM_LAYOUT(offsetof(realm_report, prompt_tokens) == 4);
REALM_LAYOUT(offsetof(realm_report, tokens) == 8);
REALM_LAYOUT(offsetof(realm_report, extra) == 16);
REALM_LAYOUT(sizeof(realm_report) == 24);

typedef struct realm_list_token { realm_token *ptr; size_t len; } realm_list_token;

typedef struct realm_list_f32 { float *ptr; size_t len; } realm_list_f32;

typedef struct realm_result_model_properties {
    uint8_t is_error;
    union { realm_model_properties ok; realm_error_code error; };
} realm_result_model_properties;
REALM_LAYOUT(offsetof(realm_result_model_properties, ok) == 4);
REALM_LAYOUT(sizeof(realm_result_model_properties) == 28);

typedef struct realm_result_list_u32 {
    uint8_t is_error;
    union { realm_list_u32 ok; realm_error_code error; };
} realm_result_list_u32;
REALM_LAYOUT(offsetof(realm_result_list_u32, ok) == 4);
REALM_LAYOUT(sizeof(realm_result_list_u32) == 12);

typedef struct realm_result_list_u8 {
    uint8_t is_error;
    union { realm_list_u8 ok; realm_error_code error; };
} realm_result_list_u8;
REALM_LAYOUT(offsetof(realm_result_list_u8, ok) == 4);
REALM_LAYOUT(sizeof(realm_result_list_u8) == 12);

typedef struct realm_result_u32 {
    uint8_t is_error;
    union { uint32_t ok; realm_error_code error; };
} realm_result_u32;
REALM_LAYOUT(offsetof(realm_result_u32, ok) == 4);
REALM_LAYOUT(sizeof(realm_result_u32) == 8);

typedef struct realm_result_token {
    uint8_t is_error;
    union { realm_token ok; realm_error_code error; };
} realm_result_token;
REALM_LAYOUT(offsetof(realm_result_token, ok) == 4);
REALM_LAYOUT(sizeof(realm_result_token) == 16);

typedef struct realm_result_list_token {
    uint8_t is_error;
    union { realm_list_token ok; realm_error_code error; };
} realm_result_list_token;
REALM_LAYOUT(offsetof(realm_result_list_token, ok) == 4);
REALM_LAYOUT(sizeof(realm_result_list_token) == 12);

typedef struct realm_result_list_f32 {
    uint8_t is_error;
    union { realm_list_f32 ok; realm_error_code error; };
} realm_result_list_f32;
REALM_LAYOUT(offsetof(realm_result_list_f32, ok) == 4);
REALM_LAYOUT(sizeof(realm_result_list_f32) == 12);

typedef struct realm_result_step {
    uint8_t is_error;
    union { realm_step ok; realm_error_code error; };
} realm_result_step;
REALM_LAYOUT(offsetof(realm_result_step, ok) == 1);
REALM_LAYOUT(sizeof(realm_result_step) == 2);

typedef struct realm_result_report {
    uint8_t is_error;
    union { realm_report ok; realm_error_code error; };
} realm_result_report;
REALM_LAYOUT(offsetof(realm_result_report, ok) == 4);
REALM_LAYOUT(sizeof(realm_result_report) == 28);

/* ---- imports: realm:orchestrator/host@0.1.0 ---- */

REALM_IMPORT("realm:orchestrator/host@0.1.0", "model-info")
extern void realm_import_model_info(uint32_t model, realm_result_model_properties *result);
/* The n-th model granted to this realm is handle n (1, 2, ...). */
static inline realm_result_model_properties realm_host_model_info(uint32_t model) {
    realm_result_model_properties result;
    realm_import_model_info(model, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "encode")
extern void realm_import_encode(uint32_t model, const uint8_t *text, size_t text_len, uint32_t add_special,
    uint32_t parse_special, realm_result_list_u32 *result);
/* Text -> token ids. Special tokens written in the text are only parsed when asked. */
static inline realm_result_list_u32 realm_host_encode(uint32_t model, const uint8_t *text, size_t text_len,
    bool add_special, bool parse_special) {
    realm_result_list_u32 result;
    realm_import_encode(model, text, text_len, add_special, parse_special, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "decode")
extern void realm_import_decode(uint32_t model, const uint32_t *tokens, size_t tokens_len, uint32_t special,
    uint32_t text_start, realm_result_list_u8 *result);
/* Token ids -> bytes, which may end inside a UTF-8 character. text-start undoes the space some tokenizers put
 * first. */
static inline realm_result_list_u8 realm_host_decode(uint32_t model, const uint32_t *tokens, size_t tokens_len,
    bool special, bool text_start) {
    realm_result_list_u8 result;
    realm_import_decode(model, tokens, tokens_len, special, text_start, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "session-open")
extern void realm_import_session_open(uint32_t model, realm_result_u32 *result);
static inline realm_result_u32 realm_host_session_open(uint32_t model) {
    realm_result_u32 result;
    realm_import_session_open(model, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "session-close")
extern void realm_import_session_close(uint32_t session);
static inline void realm_host_session_close(uint32_t session) {
    realm_import_session_close(session);
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "session-position")
extern void realm_import_session_position(uint32_t session, realm_result_u32 *result);
static inline realm_result_u32 realm_host_session_position(uint32_t session) {
    realm_result_u32 result;
    realm_import_session_position(session, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "session-rewind")
extern void realm_import_session_rewind(uint32_t session, uint32_t position, realm_result_u32 *result);
static inline realm_result_u32 realm_host_session_rewind(uint32_t session, uint32_t position) {
    realm_result_u32 result;
    realm_import_session_rewind(session, position, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "forward")
extern void realm_import_forward(uint32_t session, const uint32_t *tokens, size_t tokens_len,
    realm_result_u32 *result);
/* Submits tokens; returns a ticket. When it is ready the logits after the last token can be sampled. */
static inline realm_result_u32 realm_host_forward(uint32_t session, const uint32_t *tokens, size_t tokens_len) {
    realm_result_u32 result;
    realm_import_forward(session, tokens, tokens_len, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "forward-layers")
extern void realm_import_forward_layers(uint32_t session, uint32_t first, uint32_t count, const uint32_t *tokens,
    size_t tokens_len, realm_result_u32 *result);
/* The same for layers [first, first + count); tokens only with the first slice. */
static inline realm_result_u32 realm_host_forward_layers(uint32_t session, uint32_t first, uint32_t count,
    const uint32_t *tokens, size_t tokens_len) {
    realm_result_u32 result;
    realm_import_forward_layers(session, first, count, tokens, tokens_len, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "score")
extern void realm_import_score(uint32_t session, const uint32_t *tokens, size_t tokens_len, realm_result_u32 *result);
/* Like forward; the ticket yields the log probability of each token given those before it. */
static inline realm_result_u32 realm_host_score(uint32_t session, const uint32_t *tokens, size_t tokens_len) {
    realm_result_u32 result;
    realm_import_score(session, tokens, tokens_len, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "sample")
extern void realm_import_sample(uint32_t session, float params_temperature, uint32_t params_top_k, float params_top_p,
    float params_min_p, float params_repetition_penalty, float params_frequency_penalty,
    float params_presence_penalty, uint32_t params_penalty_window, uint64_t params_seed, uint32_t params_ignore_end,
    const realm_bias *biases, size_t biases_len, realm_result_token *result);
static inline realm_result_token realm_host_sample(uint32_t session, const realm_sampling *params,
    const realm_bias *biases, size_t biases_len) {
    realm_result_token result;
    realm_import_sample(session, params->temperature, params->top_k, params->top_p, params->min_p,
        params->repetition_penalty, params->frequency_penalty, params->presence_penalty, params->penalty_window,
        params->seed, params->ignore_end, biases, biases_len, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "generate")
extern void realm_import_generate(uint32_t session, const uint32_t *tokens, size_t tokens_len,
    float params_temperature, uint32_t params_top_k, float params_top_p, float params_min_p,
    float params_repetition_penalty, float params_frequency_penalty, float params_presence_penalty,
    uint32_t params_penalty_window, uint64_t params_seed, uint32_t params_ignore_end, const realm_bias *biases,
    size_t biases_len, uint32_t max_tokens, realm_result_u32 *result);
/* The whole loop in one call; the ticket yields tokens as they come. An end token that ends it is yielded too, as
 * the last
 * one. When the context is full the ticket is ready with fewer tokens than asked for. */
static inline realm_result_u32 realm_host_generate(uint32_t session, const uint32_t *tokens, size_t tokens_len,
    const realm_sampling *params, const realm_bias *biases, size_t biases_len, uint32_t max_tokens) {
    realm_result_u32 result;
    realm_import_generate(session, tokens, tokens_len, params->temperature, params->top_k, params->top_p,
        params->min_p, params->repetition_penalty, params->frequency_penalty, params->presence_penalty,
        params->penalty_window, params->seed, params->ignore_end, biases, biases_len, max_tokens, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "ticket-ready")
extern uint32_t realm_import_ticket_ready(uint32_t ticket);
static inline realm_ticket_state realm_host_ticket_ready(uint32_t ticket) {
    return (realm_ticket_state)realm_import_ticket_ready(ticket);
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "ticket-error")
extern uint32_t realm_import_ticket_error(uint32_t ticket);
static inline realm_error_code realm_host_ticket_error(uint32_t ticket) {
    return (realm_error_code)realm_import_ticket_error(ticket);
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "ticket-tokens")
extern void realm_import_ticket_tokens(uint32_t ticket, realm_result_list_token *result);
static inline realm_result_list_token realm_host_ticket_tokens(uint32_t ticket) {
    realm_result_list_token result;
    realm_import_ticket_tokens(ticket, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "ticket-scores")
extern void realm_import_ticket_scores(uint32_t ticket, realm_result_list_f32 *result);
static inline realm_result_list_f32 realm_host_ticket_scores(uint32_t ticket) {
    realm_result_list_f32 result;
    realm_import_ticket_scores(ticket, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "ticket-tensor")
extern void realm_import_ticket_tensor(uint32_t ticket, realm_result_u32 *result);
static inline realm_result_u32 realm_host_ticket_tensor(uint32_t ticket) {
    realm_result_u32 result;
    realm_import_ticket_tensor(ticket, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "ticket-cancel")
extern void realm_import_ticket_cancel(uint32_t ticket);
static inline void realm_host_ticket_cancel(uint32_t ticket) {
    realm_import_ticket_cancel(ticket);
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "ticket-drop")
extern void realm_import_ticket_drop(uint32_t ticket);
static inline void realm_host_ticket_drop(uint32_t ticket) {
    realm_import_ticket_drop(ticket);
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "tensor-create")
extern void realm_import_tensor_create(uint32_t rows, uint32_t cols, const float *data, size_t data_len,
    realm_result_u32 *result);
/* Host tensors: f32, row-major, charged to the realm's limits. */
static inline realm_result_u32 realm_host_tensor_create(uint32_t rows, uint32_t cols, const float *data,
    size_t data_len) {
    realm_result_u32 result;
    realm_import_tensor_create(rows, cols, data, data_len, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "tensor-weight")
extern void realm_import_tensor_weight(uint32_t model, const char *name, size_t name_len, realm_result_u32 *result);
static inline realm_result_u32 realm_host_tensor_weight(uint32_t model, const char *name, size_t name_len) {
    realm_result_u32 result;
    realm_import_tensor_weight(model, name, name_len, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "tensor-read")
extern void realm_import_tensor_read(uint32_t tensor, realm_result_list_f32 *result);
static inline realm_result_list_f32 realm_host_tensor_read(uint32_t tensor) {
    realm_result_list_f32 result;
    realm_import_tensor_read(tensor, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "tensor-drop")
extern void realm_import_tensor_drop(uint32_t tensor);
static inline void realm_host_tensor_drop(uint32_t tensor) {
    realm_import_tensor_drop(tensor);
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "matmul")
extern void realm_import_matmul(uint32_t a, uint32_t b, realm_result_u32 *result);
/* a (m, k) @ b (k, n), by ticket. */
static inline realm_result_u32 realm_host_matmul(uint32_t a, uint32_t b) {
    realm_result_u32 result;
    realm_import_matmul(a, b, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "matmul-transposed")
extern void realm_import_matmul_transposed(uint32_t a, uint32_t b, realm_result_u32 *result);
/* a (m, k) @ b (n, k) transposed, by ticket. */
static inline realm_result_u32 realm_host_matmul_transposed(uint32_t a, uint32_t b) {
    realm_result_u32 result;
    realm_import_matmul_transposed(a, b, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "store-layer")
extern void realm_import_store_layer(uint64_t address, uint32_t tensor, realm_result_u32 *result);
/* Keeps a copy of a tensor under a 64-bit address. */
static inline realm_result_u32 realm_host_store_layer(uint64_t address, uint32_t tensor) {
    realm_result_u32 result;
    realm_import_store_layer(address, tensor, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "load-layer")
extern void realm_import_load_layer(uint64_t address, realm_result_u32 *result);
/* Brings it back, by ticket. */
static inline realm_result_u32 realm_host_load_layer(uint64_t address) {
    realm_result_u32 result;
    realm_import_load_layer(address, &result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "cache-stats")
extern void realm_import_cache_stats(realm_cache_info *result);
static inline realm_cache_info realm_host_cache_stats(void) {
    realm_cache_info result;
    realm_import_cache_stats(&result);
    return result;
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "emit")
extern void realm_import_emit(uint32_t request, const uint8_t *text, size_t text_len);
/* Text of a running request for the application; always whole UTF-8 characters. */
static inline void realm_host_emit(uint32_t request, const uint8_t *text, size_t text_len) {
    realm_import_emit(request, text, text_len);
}

REALM_IMPORT("realm:orchestrator/host@0.1.0", "log")
extern void realm_import_log(uint32_t level, const char *text, size_t text_len);
/* level: 0 debug, 1 info, 2 warning, 3 error. */
static inline void realm_host_log(uint32_t level, const char *text, size_t text_len) {
    realm_import_log(level, text, text_len);
}

/* ---- exports: realm:orchestrator/guest@0.1.0 ---- */

/* Returns the handle of a running request, to be polled at once. Fails only for what is wrong with the request
 * itself
 * (invalid-argument, limit-exceeded, out-of-memory); failures of the work are in the report. */
REALM_EXPORT("realm:orchestrator/guest@0.1.0#start")
realm_result_u32 *realm_guest_start(realm_request *request);

/* pending: wait for a ticket. output: the same, and text was emitted since the last poll. done: ask outcome. */
REALM_EXPORT("realm:orchestrator/guest@0.1.0#poll")
realm_result_step *realm_guest_poll(uint32_t request);

/* The report of a request that is done; busy while it runs. */
REALM_EXPORT("realm:orchestrator/guest@0.1.0#outcome")
realm_result_report *realm_guest_outcome(uint32_t request);
/* Called when the host has read the result above. */
REALM_EXPORT("cabi_post_realm:orchestrator/guest@0.1.0#outcome")
void realm_guest_post_outcome(realm_result_report *result);

/* Ends a running request as cancelled; the text so far stands. */
REALM_EXPORT("realm:orchestrator/guest@0.1.0#cancel")
void realm_guest_cancel(uint32_t request);

/* Forgets the request (cancelling it when it still runs) and frees what it held. */
REALM_EXPORT("realm:orchestrator/guest@0.1.0#release")
void realm_guest_release(uint32_t request);

/* Where the host puts lists it gives to the guest. Traps when there is no memory. */
REALM_EXPORT("cabi_realloc")
void *cabi_realloc(void *old, size_t old_size, size_t align, size_t new_size);

#endif
