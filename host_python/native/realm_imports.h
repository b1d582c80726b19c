/* Generated from guest_src/realm.wit by realm_build gen; do not edit.
 *
 * Core signatures have a letter for each value: i i32, l i64, f f32, d f64. A result of more than
 * one core value is written to the address in the last parameter (imports) or stands at the
 * address returned (exports).
 */
#ifndef REALM_IMPORTS_H
#define REALM_IMPORTS_H

#define REALM_IMPORT_MODULE "realm:orchestrator/host@0.1.0"

enum {
    REALM_IMPORT_MODEL_INFO = 0,
    REALM_IMPORT_ENCODE = 1,
    REALM_IMPORT_DECODE = 2,
    REALM_IMPORT_SESSION_OPEN = 3,
    REALM_IMPORT_SESSION_CLOSE = 4,
    REALM_IMPORT_SESSION_POSITION = 5,
    REALM_IMPORT_SESSION_REWIND = 6,
    REALM_IMPORT_FORWARD = 7,
    REALM_IMPORT_FORWARD_LAYERS = 8,
    REALM_IMPORT_SCORE = 9,
    REALM_IMPORT_SAMPLE = 10,
    REALM_IMPORT_GENERATE = 11,
    REALM_IMPORT_TICKET_READY = 12,
    REALM_IMPORT_TICKET_ERROR = 13,
    REALM_IMPORT_TICKET_TOKENS = 14,
    REALM_IMPORT_TICKET_SCORES = 15,
    REALM_IMPORT_TICKET_TENSOR = 16,
    REALM_IMPORT_TICKET_CANCEL = 17,
    REALM_IMPORT_TICKET_DROP = 18,
    REALM_IMPORT_TENSOR_CREATE = 19,
    REALM_IMPORT_TENSOR_WEIGHT = 20,
    REALM_IMPORT_TENSOR_READ = 21,
    REALM_IMPORT_TENSOR_DROP = 22,
    REALM_IMPORT_MATMUL = 23,
    REALM_IMPORT_MATMUL_TRANSPOSED = 24,
    REALM_IMPORT_STORE_LAYER = 25,
    REALM_IMPORT_LOAD_LAYER = 26,
    REALM_IMPORT_CACHE_STATS = 27,
    REALM_IMPORT_EMIT = 28,
    REALM_IMPORT_LOG = 29,
    REALM_IMPORT_COUNT = 30
};

/* X(NAME, name, core parameters, core results), in the order of the indices. */
#define REALM_IMPORTS(X) \
    X(MODEL_INFO, "model-info", "ii", "") \
    X(ENCODE, "encode", "iiiiii", "") \
    X(DECODE, "decode", "iiiiii", "") \
    X(SESSION_OPEN, "session-open", "ii", "") \
    X(SESSION_CLOSE, "session-close", "i", "") \
    X(SESSION_POSITION, "session-position", "ii", "") \
    X(SESSION_REWIND, "session-rewind", "iii", "") \
    X(FORWARD, "forward", "iiii", "") \
    X(FORWARD_LAYERS, "forward-layers", "iiiiii", "") \
    X(SCORE, "score", "iiii", "") \
    X(SAMPLE, "sample", "ififffffiliiii", "") \
    X(GENERATE, "generate", "iiififffffiliiiii", "") \
    X(TICKET_READY, "ticket-ready", "i", "i") \
    X(TICKET_ERROR, "ticket-error", "i", "i") \
    X(TICKET_TOKENS, "ticket-tokens", "ii", "") \
    X(TICKET_SCORES, "ticket-scores", "ii", "") \
    X(TICKET_TENSOR, "ticket-tensor", "ii", "") \
    X(TICKET_CANCEL, "ticket-cancel", "i", "") \
    X(TICKET_DROP, "ticket-drop", "i", "") \
    X(TENSOR_CREATE, "tensor-create", "iiiii", "") \
    X(TENSOR_WEIGHT, "tensor-weight", "iiii", "") \
    X(TENSOR_READ, "tensor-read", "ii", "") \
    X(TENSOR_DROP, "tensor-drop", "i", "") \
    X(MATMUL, "matmul", "iii", "") \
    X(MATMUL_TRANSPOSED, "matmul-transposed", "iii", "") \
    X(STORE_LAYER, "store-layer", "lii", "") \
    X(LOAD_LAYER, "load-layer", "li", "") \
    X(CACHE_STATS, "cache-stats", "i", "") \
    X(EMIT, "emit", "iii", "") \
    X(LOG, "log", "iii", "")

#define REALM_EXPORT_REALLOC "cabi_realloc"
#define REALM_EXPORT_START "realm:orchestrator/guest@0.1.0#start"
#define REALM_EXPORT_POLL "realm:orchestrator/guest@0.1.0#poll"
#define REALM_EXPORT_OUTCOME "realm:orchestrator/guest@0.1.0#outcome"
#define REALM_EXPORT_POST_OUTCOME "cabi_post_realm:orchestrator/guest@0.1.0#outcome"
#define REALM_EXPORT_CANCEL "realm:orchestrator/guest@0.1.0#cancel"
#define REALM_EXPORT_RELEASE "realm:orchestrator/guest@0.1.0#release"

/* Offsets and sizes in guest memory, by the canonical ABI. */
#define REALM_MODEL_PROPERTIES_VOCAB_SIZE 0
#define REALM_MODEL_PROPERTIES_CONTEXT_LENGTH 4
#define REALM_MODEL_PROPERTIES_LAYER_COUNT 8
#define REALM_MODEL_PROPERTIES_EMBEDDING_LENGTH 12
#define REALM_MODEL_PROPERTIES_BOS 16
#define REALM_MODEL_PROPERTIES_EOS 20
#define REALM_MODEL_PROPERTIES_SIZE 24
#define REALM_MODEL_PROPERTIES_ALIGN 4
#define REALM_SAMPLING_TEMPERATURE 0
#define REALM_SAMPLING_TOP_K 4
#define REALM_SAMPLING_TOP_P 8
#define REALM_SAMPLING_MIN_P 12
#define REALM_SAMPLING_REPETITION_PENALTY 16
#define REALM_SAMPLING_FREQUENCY_PENALTY 20
#define REALM_SAMPLING_PRESENCE_PENALTY 24
#define REALM_SAMPLING_PENALTY_WINDOW 28
#define REALM_SAMPLING_SEED 32
#define REALM_SAMPLING_IGNORE_END 40
#define REALM_SAMPLING_SIZE 48
#define REALM_SAMPLING_ALIGN 8
#define REALM_BIAS_TOKEN 0
#define REALM_BIAS_VALUE 4
#define REALM_BIAS_SIZE 8
#define REALM_BIAS_ALIGN 4
#define REALM_TOKEN_ID 0
#define REALM_TOKEN_IS_END 4
#define REALM_TOKEN_LOGPROB 8
#define REALM_TOKEN_SIZE 12
#define REALM_TOKEN_ALIGN 4
enum {
    REALM_WIRE_TICKET_STATE_PENDING = 0,
    REALM_WIRE_TICKET_STATE_PROGRESS = 1,
    REALM_WIRE_TICKET_STATE_READY = 2,
    REALM_WIRE_TICKET_STATE_FAILED = 3,
};
#define REALM_CACHE_INFO_LAYERS 0
#define REALM_CACHE_INFO_BYTES 8
#define REALM_CACHE_INFO_HITS 16
#define REALM_CACHE_INFO_MISSES 24
#define REALM_CACHE_INFO_EVICTIONS 32
#define REALM_CACHE_INFO_SIZE 40
#define REALM_CACHE_INFO_ALIGN 8
enum {
    REALM_WIRE_MODE_GRANULAR = 0,
    REALM_WIRE_MODE_WHOLE = 1,
    REALM_WIRE_MODE_LAYERS = 2,
};
#define REALM_REQUEST_MODEL 0
#define REALM_REQUEST_PROMPT 4
#define REALM_REQUEST_ADD_SPECIAL 12
#define REALM_REQUEST_PARSE_SPECIAL 13
#define REALM_REQUEST_STOPS 16
#define REALM_REQUEST_MAX_TOKENS 24
#define REALM_REQUEST_MODE 28
#define REALM_REQUEST_PARAMS 32
#define REALM_REQUEST_BIASES 80
#define REALM_REQUEST_EXTRA 88
#define REALM_REQUEST_SIZE 96
#define REALM_REQUEST_ALIGN 8
enum {
    REALM_WIRE_STEP_PENDING = 0,
    REALM_WIRE_STEP_OUTPUT = 1,
    REALM_WIRE_STEP_DONE = 2,
};
enum {
    REALM_WIRE_FINISH_END = 0,
    REALM_WIRE_FINISH_STOP = 1,
    REALM_WIRE_FINISH_LENGTH = 2,
    REALM_WIRE_FINISH_CANCELLED = 3,
    REALM_WIRE_FINISH_FAILED = 4,
};
#define REALM_REPORT_FINISH 0
#define REALM_REPORT_ERROR 1
#define REALM_REPORT_PROMPT_TOKENS 4
#define REALM_REPORT_TOKENS 8
#define REALM_REPORT_EXTRA 16
#define REALM_REPORT_SIZE 24
#define REALM_REPORT_ALIGN 4
#define REALM_RESULT_MODEL_PROPERTIES_VALUE 4 /* after is-error, a byte */
#define REALM_RESULT_MODEL_PROPERTIES_SIZE 28
#define REALM_RESULT_MODEL_PROPERTIES_ALIGN 4
#define REALM_RESULT_LIST_U32_VALUE 4 /* after is-error, a byte */
#define REALM_RESULT_LIST_U32_SIZE 12
#define REALM_RESULT_LIST_U32_ALIGN 4
#define REALM_RESULT_LIST_U8_VALUE 4 /* after is-error, a byte */
#define REALM_RESULT_LIST_U8_SIZE 12
#define REALM_RESULT_LIST_U8_ALIGN 4
#define REALM_RESULT_U32_VALUE 4 /* after is-error, a byte */
#define REALM_RESULT_U32_SIZE 8
#define REALM_RESULT_U32_ALIGN 4
#define REALM_RESULT_TOKEN_VALUE 4 /* after is-error, a byte */
#define REALM_RESULT_TOKEN_SIZE 16
#define REALM_RESULT_TOKEN_ALIGN 4
#define REALM_RESULT_LIST_TOKEN_VALUE 4 /* after is-error, a byte */
#define REALM_RESULT_LIST_TOKEN_SIZE 12
#define REALM_RESULT_LIST_TOKEN_ALIGN 4
#define REALM_RESULT_LIST_F32_VALUE 4 /* after is-error, a byte */
#define REALM_RESULT_LIST_F32_SIZE 12
#define REALM_RESULT_LIST_F32_ALIGN 4
#define REALM_RESULT_STEP_VALUE 1 /* after is-error, a byte */
#define REALM_RESULT_STEP_SIZE 2
#define REALM_RESULT_STEP_ALIGN 1
#define REALM_RESULT_REPORT_VALUE 4 /* after is-error, a byte */
#define REALM_RESULT_REPORT_SIZE 28
#define REALM_RESULT_REPORT_ALIGN 4

#endif
