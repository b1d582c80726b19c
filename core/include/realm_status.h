/* Generated from guest_src/realm.wit by realm_build gen; do not edit. */
#ifndef REALM_STATUS_H
#define REALM_STATUS_H

/* Stable codes of every failure, the same in every host. */
typedef enum realm_status {
    REALM_OK = 0,
    REALM_E_INVALID_ARGUMENT = 1, /* A value is outside its allowed range. */
    REALM_E_INVALID_HANDLE = 2, /* A handle that was never given to this realm, or is closed. */
    REALM_E_OUT_OF_MEMORY = 3, /* Memory could not be allocated. */
    REALM_E_NOT_FOUND = 4, /* The file does not exist. */
    REALM_E_IO = 5, /* The file exists but cannot be read or mapped. */
    REALM_E_INVALID_GGUF = 6, /* The bytes are not a well-formed GGUF file. */
    REALM_E_UNSUPPORTED_GGUF = 7, /* A GGUF version other than 2 and 3, or a byte order this build cannot read. */
    REALM_E_UNSUPPORTED_TENSOR_TYPE = 8, /* A tensor of a block type the core cannot compute with. */
    REALM_E_UNSUPPORTED_ARCHITECTURE = 9, /* An architecture no plan is known for. */
    REALM_E_UNSUPPORTED_TOKENIZER = 10, /* A tokenizer or pre-tokenizer the core does not know. */
    REALM_E_INVALID_MODEL = 11, /* Metadata and tensors do not fit each other. */
    REALM_E_INVALID_TOKENIZER = 12, /* The tokenizer's metadata is inconsistent. */
    REALM_E_NO_WEIGHTS = 13, /* The file holds only a vocabulary. */
    REALM_E_CONTEXT_FULL = 14, /* The session's context length is used up. */
    REALM_E_LIMIT_EXCEEDED = 15, /* A limit of the realm or of the runtime would be exceeded. */
    REALM_E_BUSY = 16, /* The session already has work in flight. */
    REALM_E_CANCELLED = 17, /* The work was cancelled. */
    REALM_E_CLOSED = 18, /* The object was closed. */
    REALM_E_STALLED = 19, /* The guest waits for nothing: pending with no open ticket. */
    REALM_E_TIMED_OUT = 20, /* A time limit ran out. */
    REALM_E_GUEST_TRAP = 21, /* The guest trapped. */
    REALM_E_GUEST_MEMORY = 22, /* The guest asked for more memory than it may have. */
    REALM_E_GUEST_INVALID = 23, /* The module does not implement the interface. */
    REALM_E_BACKEND_UNAVAILABLE = 24, /* This machine or build does not have the backend that was asked for. */
    REALM_E_TEMPLATE_ERROR = 25, /* The chat template is missing, broken or over its limits. */
    REALM_E_UNSUPPORTED = 26, /* Not possible with this model or build. */
    REALM_E_INTERNAL = 27, /* A fault of Realm itself: please report it. */
    REALM_E_DEVICE_LOST = 28, /* The device that computes (a GPU) was lost, and all it held: load the model again. */
} realm_status;

#define REALM_STATUS_COUNT 29
/* Kebab-case names by code. */
#define REALM_STATUS_NAMES { "ok", "invalid-argument", "invalid-handle", "out-of-memory", "not-found", "io", "invalid-gguf", "unsupported-gguf", "unsupported-tensor-type", "unsupported-architecture", "unsupported-tokenizer", "invalid-model", "invalid-tokenizer", "no-weights", "context-full", "limit-exceeded", "busy", "cancelled", "closed", "stalled", "timed-out", "guest-trap", "guest-memory", "guest-invalid", "backend-unavailable", "template-error", "unsupported", "internal", "device-lost" }

#endif
