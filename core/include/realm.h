/* realm.h: the whole public API of the Realm core.
 *
 * A host embeds the core through this header alone. The layers, top to bottom:
 *   runtime   thread pool, completion queue, the turn-taking between models      core/runtime.c
 *   tenant    what the contexts of one user may use together, their fair share   core/tenant.c
 *   model     one GGUF file: tokenizer, plan, engine; shared by every context    core/model.c
 *   context   the host side of one realm: granted models, sessions, tickets      core/context.c
 *   session   one sequence of tokens with its KV cache                           core/engine.c
 *   ticket    one submitted piece of work; completes later, never blocks
 *
 * Conventions
 * - Fallible functions return realm_status and fill *err (may be NULL) with a code and one readable line.
 * - Handles inside a context (models, sessions, tickets, tensors) are u32 capabilities, never pointers; 0 is no handle.
 * - Buffers out: "returns the full size, writes at most cap".
 * - Functions on one context may be called from any thread, by one thread at a time. Different contexts are independent.
 * - Strings are UTF-8 with an explicit length unless said otherwise; paths are NUL-terminated UTF-8.
 */
#ifndef REALM_H
#define REALM_H

#include <stddef.h>
#include <stdint.h>

#include "realm_records.h" /* what external executors read: plans and batches */
#include "realm_status.h"  /* generated from guest_src/realm.wit: realm_status, REALM_OK, REALM_E_... */

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define REALM_API __declspec(dllexport)
#elif defined(__GNUC__)
#define REALM_API __attribute__((visibility("default")))
#else
#define REALM_API
#endif

#define REALM_ABI_VERSION 1u
#define REALM_ERROR_CAP 256

typedef struct realm_error {
    int32_t code;                  /* a realm_status; REALM_OK while nothing failed */
    char message[REALM_ERROR_CAP]; /* NUL-terminated, one line, says what to do where that is known */
    uint32_t limit;                /* a realm_limit: which one would be exceeded, where the code is about one */
    uint64_t limit_value;          /* what it is set to */
    uint64_t retry_after_ns;       /* when to try again, counted from now; 0: not known, or waiting does not help */
} realm_error;

/* What may be limited. The name of each is that of the setting in every host ("tokens_per_second"). */
typedef enum realm_limit {
    REALM_LIMIT_NONE = 0,
    REALM_LIMIT_SESSIONS = 1,
    REALM_LIMIT_TICKETS = 2,
    REALM_LIMIT_TENSOR_BYTES = 3,
    REALM_LIMIT_KV_TOKENS = 4,
    REALM_LIMIT_CONTEXT_LENGTH = 5,
    REALM_LIMIT_CONCURRENT_REQUESTS = 6,
    REALM_LIMIT_QUEUE_LENGTH = 7,
    REALM_LIMIT_TOKENS_PER_SECOND = 8,
    REALM_LIMIT_TOKENS_PER_MINUTE = 9,
    REALM_LIMIT_DEADLINE = 10,  /* in milliseconds */
    REALM_LIMIT_KV_BYTES = 11,  /* the runtime's */
} realm_limit;
#define REALM_LIMIT_COUNT 12
/* Static string; "" for REALM_LIMIT_NONE and what is no limit. */
REALM_API const char *realm_limit_name(uint32_t limit);

/* Version of this ABI (REALM_ABI_VERSION of the library) and the stable kebab-case name of a status ("invalid-gguf"). */
REALM_API uint32_t realm_abi_version(void);
REALM_API const char *realm_status_name(realm_status status);

/* ---- runtime ------------------------------------------------------------------------------------------------- */

typedef struct realm_runtime realm_runtime;

enum { /* realm_runtime_options.features: instruction sets the kernels may use; 0 means all the machine has */
    REALM_CPU_PORTABLE = 1u << 0,
    REALM_CPU_AVX2 = 1u << 1,   /* with FMA and F16C */
    REALM_CPU_AVX512 = 1u << 2, /* F, BW, VL, DQ and VNNI */
    REALM_CPU_AMX = 1u << 3,    /* tiles of bf16, where AVX-512 is allowed too */
    REALM_CPU_AVXVNNI = 1u << 4, /* dot products of bytes for processors with AVX2 and without AVX-512: needs AVX2 */
    REALM_CPU_NEON_DOTPROD = 1u << 8, /* arm64: dot products of bytes (ARMv8.2) */
    REALM_CPU_NEON_I8MM = 1u << 9,    /* and matrix products of bytes (ARMv8.6): needs the one before */
    REALM_CPU_SIMD128 = 1u << 16, /* WebAssembly: 128-bit vectors */
    REALM_CPU_RELAXED = 1u << 17, /* and relaxed SIMD: needs the one before */
};

enum { /* realm_runtime_options.executor: who computes the batches */
    REALM_EXECUTOR_CPU = 0,
    REALM_EXECUTOR_FAKE = 1,     /* no forward pass, logits are a fixed cheap function (tests, overhead) */
    REALM_EXECUTOR_EXTERNAL = 2, /* the host, through realm_runtime_take_batch; there is no driver thread then */
};

typedef struct realm_runtime_options {
    uint32_t threads;     /* compute threads, the driver included; 0: the processors this process may use */
    uint32_t features;    /* mask of REALM_CPU_...; 0: the best there is */
    uint32_t executor;    /* REALM_EXECUTOR_... */
    uint32_t no_driver;   /* 1: no driver thread; the host calls realm_runtime_step itself */
    uint32_t batch_rows;  /* most token rows computed in one step; 0: 512 */
    uint32_t host_clock;  /* 1: time is what realm_runtime_step was last told, and what steps took since (simulations); needs no_driver */
    uint64_t kv_bytes;    /* hard budget for the KV pages of all models; 0: half of physical memory */
    /* with host_clock, what a step takes, each of its rows, and each position before a row, as far as the schedule knows */
    uint64_t fake_step_ns, fake_row_ns, fake_position_ns;
} realm_runtime_options;

/* Creates a runtime and, unless no_driver, starts its driver thread. */
REALM_API realm_status realm_runtime_create(const realm_runtime_options *options, realm_runtime **out, realm_error *err);
/* Stops the driver and frees everything. Contexts and models must be closed before; what is left is closed here. */
REALM_API void realm_runtime_destroy(realm_runtime *rt);
/* The kernels in use: "portable", "avx2", "avxvnni", "avx512", "amx", "neon-dotprod", "neon-i8mm", ... Static string. */
REALM_API const char *realm_runtime_kernels(const realm_runtime *rt);
/* Mask of REALM_CPU_... this machine can run. */
REALM_API uint32_t realm_cpu_features(void);
REALM_API uint32_t realm_runtime_threads(const realm_runtime *rt);

typedef struct realm_completion {
    uint64_t tag;     /* the context's tag */
    uint32_t ticket;
    uint32_t state;   /* realm_ticket_state at the time of the event */
} realm_completion;

/* Takes up to cap completions (tickets that made progress or ended), waiting at most timeout_ns (UINT64_MAX: for ever) when
 * there are none. Returns how many; 0 on timeout, wake or shutdown. Calling it also tells the engine that the host has
 * acted on all completions taken before: the engine waits for that (a little) so that decoding realms step together. */
REALM_API uint32_t realm_runtime_wait(realm_runtime *rt, realm_completion *out, uint32_t cap, uint64_t timeout_ns);
/* Instead of waiting, a host may give a function for the driver's thread to call with every completion, no lock held, up to 64 at
 * a time; it must be quick. The host says with acknowledge that it has acted on all of them. Set it before work is submitted. */
typedef void (*realm_listener)(void *arg, const realm_completion *done, uint32_t count);
REALM_API void realm_runtime_set_listener(realm_runtime *rt, realm_listener listener, void *arg);
REALM_API void realm_runtime_acknowledge(realm_runtime *rt);
/* The host is about to submit work of several realms that shall start together; it says with acknowledge when that is done. */
REALM_API void realm_runtime_announce(realm_runtime *rt);
/* Makes a waiting realm_runtime_wait return 0. */
REALM_API void realm_runtime_wake(realm_runtime *rt);
/* For no_driver hosts: runs at most one slice of work of about `budget` (in multiply-adds; 0: a whole step).
 * *busy is 0 when there is nothing more to do, 2 when the slice ended inside a step, else 1. With an external executor only
 * products of host tensors run here. now_ns is only looked at with host_clock. */
REALM_API realm_status realm_runtime_step(realm_runtime *rt, uint64_t now_ns, uint64_t budget, uint32_t *busy, realm_error *err);
/* For hosts that step themselves: nanoseconds until work that waits for its time (a rate, a deadline) wants a step, though
 * nothing is busy now; UINT64_MAX: none does. */
REALM_API uint64_t realm_runtime_next_due(realm_runtime *rt);

/* ---- external executor ----
 * The host takes a batch, computes it wherever it likes and finishes it; one batch is out at a time. KV pages are numbers here:
 * their contents live with the executor, in a pool for each model and KV type, (n_head_kv, REALM_KV_PAGE, head_dim) elements for
 * the K and as many for the V of each layer. What the records point to stays valid until the batch is finished, also when its
 * contexts and models are closed meanwhile. */

/* The next batch. *some is 0 when there is none: no work, or a batch is out already. */
REALM_API realm_status realm_runtime_take_batch(realm_runtime *rt, realm_batch *out, uint32_t *some, realm_error *err);
/* Whether anybody still waits for results of the batch that is out. One that nobody wants may be finished at once, with
 * REALM_E_CANCELLED. */
REALM_API uint32_t realm_runtime_batch_wanted(realm_runtime *rt, uint64_t batch);
/* The batch that is out was computed (failed REALM_OK; its logits and hidden rows are written), or failed: then its tickets end
 * with this code and message. REALM_E_DEVICE_LOST also says that nothing is left of the model's KV pages: every session of
 * the model has to be rewound to 0 or closed. After any other failure the page operations count as carried out. */
REALM_API realm_status realm_runtime_finish_batch(realm_runtime *rt, uint64_t batch, realm_status failed, const char *message,
                                                  realm_error *err);

typedef struct realm_runtime_stats {
    uint64_t steps;          /* batches executed */
    uint64_t rows;           /* token rows computed in them */
    uint64_t step_ns;        /* time spent executing */
    uint64_t prefix_hits;    /* tokens not computed because their pages were found */
    uint64_t kv_bytes_used;
    uint64_t kv_bytes_limit;
    uint64_t reserved[4];
} realm_runtime_stats;
REALM_API void realm_runtime_get_stats(realm_runtime *rt, realm_runtime_stats *out);

/* ---- model --------------------------------------------------------------------------------------------------- */

typedef struct realm_model realm_model;
typedef struct realm_loader realm_loader;

enum { REALM_LOAD_FULL = 0, REALM_LOAD_VOCAB = 1, REALM_LOAD_HEADER = 2 };
enum { REALM_KV_F16 = 0, REALM_KV_F32 = 1, REALM_KV_MODEL = 2 }; /* the last one: of sessions, what the model was loaded with */

typedef struct realm_model_options {
    uint32_t mode;           /* REALM_LOAD_...: weights too, tokenizer only, or metadata only */
    uint32_t context_length; /* most tokens in one session; 0: the model's own, capped at 131072 */
    uint32_t kv_type;        /* REALM_KV_...: default of new sessions */
    uint32_t prefetch;       /* 1: ask the system to read the weights ahead while loading */
} realm_model_options;

/* Loading goes in steps so that the host can show progress and stop between them. begin maps the file; each step does a
 * bounded piece and reports progress in [0, 1]; finish hands out the model. abandon frees all, at any point. */
REALM_API realm_status realm_loader_begin(realm_runtime *rt, const char *path, const realm_model_options *options,
                                          realm_loader **out, realm_error *err);
/* The same over bytes, aligned to 8, that the caller keeps alive until the model is closed. */
REALM_API realm_status realm_loader_begin_bytes(realm_runtime *rt, const void *data, uint64_t size,
                                                const realm_model_options *options, realm_loader **out, realm_error *err);
/* Zeroed memory for such bytes, aligned to 4096; NULL when there is none. */
REALM_API void *realm_pages_alloc(uint64_t bytes);
REALM_API void realm_pages_free(void *pages, uint64_t bytes);
/* Those pages belong to the model from now on: they are freed with it, or when the loader is abandoned. */
REALM_API void realm_loader_own_pages(realm_loader *loader, void *pages, uint64_t bytes);

/* One file of a model. */
typedef struct realm_shard {
    const void *data;   /* its leading bytes, aligned to 8 and kept by the caller until the model is closed */
    uint64_t size;      /* how many: header, metadata and tensor directory at least */
    uint64_t file_size; /* of the whole file */
    uint64_t base;      /* out: where the file begins in the model's bytes, in which plan tensors have their offsets */
    uint64_t needed;    /* out: 0, or the directory was cut off and at least this many leading bytes are needed */
} realm_shard;
/* A model from the directories of its files (one, or all files of a split GGUF in any order), for executors that hold the
 * weights themselves. Fails with invalid-gguf, and `needed` set, when a directory is not complete in the bytes given: read more,
 * then begin again. In the model's bytes each file begins at the next multiple of 4096 after the one before. */
REALM_API realm_status realm_loader_begin_header(realm_runtime *rt, realm_shard *shards, uint32_t count,
                                                 const realm_model_options *options, realm_loader **out, realm_error *err);
/* The same for the CPU executor: shards[0].data is memory for all the model's bytes, each file's at its base; what follows the
 * directories may arrive any time before the first work is submitted. */
REALM_API realm_status realm_loader_begin_shards(realm_runtime *rt, realm_shard *shards, uint32_t count,
                                                 const realm_model_options *options, realm_loader **out, realm_error *err);
/* Small tensors the plan itself needs (rope factors): *size is 0, or says which of the model's bytes to give before the next step,
 * with realm_loader_supply, which copies them. */
REALM_API void realm_loader_wants(const realm_loader *loader, uint64_t *offset, uint64_t *size);
REALM_API realm_status realm_loader_supply(realm_loader *loader, const void *data, uint64_t size, realm_error *err);
REALM_API realm_status realm_loader_step(realm_loader *loader, float *progress, realm_error *err);
/* After progress reached 1 and all bytes arrived, where the pages are the model's own: weights whose kernels gain by it are
 * rearranged in their place, about `budget` bytes a call, until progress is 1. Optional; once begun it must come to its end. */
REALM_API realm_status realm_loader_pack(realm_loader *loader, uint64_t budget, float *progress, realm_error *err);
/* After progress reached 1. Frees the loader in every case. */
REALM_API realm_status realm_loader_finish(realm_loader *loader, realm_model **out, realm_error *err);
REALM_API void realm_loader_abandon(realm_loader *loader);

/* Drops the caller's reference; contexts that were granted the model keep it alive until they end. */
REALM_API void realm_model_close(realm_model *model);

typedef struct realm_model_info {
    uint32_t vocab_size;      /* tokens */
    uint32_t context_length;  /* tokens one session may hold */
    uint32_t embedding_length;
    uint32_t layer_count;
    uint32_t head_count;
    uint32_t head_count_kv;
    uint32_t bos, eos, eot;   /* token ids, UINT32_MAX when there is none */
    uint32_t add_bos, add_eos;
    uint32_t has_weights;
    uint64_t parameter_count;
    uint64_t weight_bytes;    /* tensor data in the file */
    uint64_t kv_bytes_per_token;
} realm_model_info;
REALM_API void realm_model_get_info(const realm_model *model, realm_model_info *out);
/* JSON text of architecture, metadata (long arrays shortened) and tensors. Returns the full size. */
REALM_API size_t realm_model_describe(const realm_model *model, char *out, size_t cap);
/* The plan as one block: realm_plan_header and what it points to. Returns the full size; 0 without weights. */
REALM_API size_t realm_model_plan(const realm_model *model, void *out, size_t cap);
/* A metadata string by key: pointer into the file's bytes, not NUL-terminated; returns 0 when absent or no string. */
REALM_API int realm_model_string(const realm_model *model, const char *key, const char **data, size_t *size);

enum { /* flags of encode */
    REALM_ENCODE_ADD_SPECIAL = 1u << 0,   /* BOS/EOS as the model's metadata asks */
    REALM_ENCODE_PARSE_SPECIAL = 1u << 1, /* control tokens written as text become their ids */
};
enum { /* flags of decode */
    REALM_DECODE_SPECIAL = 1u << 0,     /* write control tokens as text instead of nothing */
    /* ids are a text from its start, not a piece of a stream: undo the space the tokenizer put before it, and drop spaces
     * before punctuation where the model's family does (GPT-2, Llama 3) */
    REALM_DECODE_TEXT_START = 1u << 1,
};
/* text (size bytes, any bytes: invalid UTF-8 is treated bytewise) -> ids. *count gets the full number, cap are written. */
REALM_API realm_status realm_model_encode(const realm_model *model, const char *text, size_t size, uint32_t flags,
                                          uint32_t *ids, size_t cap, size_t *count, realm_error *err);
/* ids -> bytes (may end inside a UTF-8 character). *size gets the full size, at most cap are written. */
REALM_API realm_status realm_model_decode(const realm_model *model, const uint32_t *ids, size_t count, uint32_t flags,
                                          char *out, size_t cap, size_t *size, realm_error *err);

/* ---- context: the host side of one realm ---------------------------------------------------------------------- */

typedef struct realm_context realm_context;

typedef struct realm_limits { /* 0: no limit of its own (the runtime's and the model's still hold) */
    uint32_t sessions;       /* open at once */
    uint32_t tickets;        /* in flight at once */
    uint64_t kv_tokens;      /* KV positions held by all sessions together */
    uint64_t tensor_bytes;   /* host tensors and layer store */
    uint64_t reserved;
} realm_limits;

/* tag comes back in every completion. Contexts of one tenant share prefixes, limits and their place in line, others never; those
 * of tenant 0 have no prefix cache. */
REALM_API realm_status realm_context_create(realm_runtime *rt, uint64_t tag, uint64_t tenant, const realm_limits *limits,
                                            realm_context **out, realm_error *err);
/* Other limits from now on; what is held beyond them stays. NULL: none. */
REALM_API void realm_context_set_limits(realm_context *ctx, const realm_limits *limits);
/* Cancels what runs, frees sessions, tickets and tensors. The rows of a running step are dropped when it ends. */
REALM_API void realm_context_destroy(realm_context *ctx);
/* The tokens of a context's generations may be told up to hold_ns late, those of several steps together, because each time the
 * host's thread wakes up it competes with those that compute. A generation's first token and its end are told at once. */
REALM_API void realm_context_hold_progress(realm_context *ctx, uint64_t hold_ns);
/* Lets the realm use a model; *handle names it inside the context (1, 2, ...). */
REALM_API realm_status realm_context_grant(realm_context *ctx, realm_model *model, uint32_t *handle, realm_error *err);
REALM_API realm_status realm_context_revoke(realm_context *ctx, uint32_t handle, realm_error *err);
/* The model behind a granted handle, or NULL. Borrowed. */
REALM_API realm_model *realm_context_model(realm_context *ctx, uint32_t handle);

typedef struct realm_session_options {
    uint32_t kv_type;        /* REALM_KV_... */
    uint32_t context_length; /* 0: the model's */
    uint32_t no_prefix;      /* 1: neither use nor feed the prefix cache */
    uint32_t priority;       /* inside the tenant, higher first */
    uint64_t deadline_ns;    /* counted from the opening: what is not done by then fails, limit-exceeded. 0: none */
} realm_session_options;

REALM_API realm_status realm_session_open(realm_context *ctx, uint32_t model, const realm_session_options *options,
                                          uint32_t *session, realm_error *err);
REALM_API realm_status realm_session_close(realm_context *ctx, uint32_t session, realm_error *err);
/* Tokens in the session's KV (submitted work included once it has completed). */
REALM_API realm_status realm_session_position(realm_context *ctx, uint32_t session, uint32_t *position, realm_error *err);
/* Forgets all tokens from `position` on. Refused (busy) while work is in flight. */
REALM_API realm_status realm_session_rewind(realm_context *ctx, uint32_t session, uint32_t position, realm_error *err);

/* ---- public prefixes: for hosts; no guest can reach them ----
 * Publishes the whole pages (REALM_KV_PAGE tokens) of what a session holds: sessions of every tenant, of the same model and
 * element type, that begin with the same tokens find them computed, until they are unpublished. What follows stays private.
 * The session must be idle and opened with no_prefix; it may be closed afterwards. *prefix names the publication in its model,
 * *tokens says how many tokens are shared. The pages count against no tenant's limits as memory; positions of a session count
 * against its own, found or not. Publishing the same again shares the pages. Losing the device unpublishes all. */
REALM_API realm_status realm_prefix_publish(realm_context *ctx, uint32_t session, uint32_t *prefix, uint32_t *tokens,
                                            realm_error *err);
/* Sessions that use the pages keep them. An unknown number is not-found. */
REALM_API realm_status realm_prefix_unpublish(realm_model *model, uint32_t prefix, realm_error *err);

/* ---- tenants: what all contexts of one tenant use together (core/tenant.c, core/schedule.c) ----------------------- */

/* A *request* is a session from its first work until it is closed, rewound to 0, or has had no work for a second. Limits are
 * asked when a request begins, so a guest that submits token by token is never refused in the middle; what is over a rate then
 * waits instead. */
typedef struct realm_tenant_limits { /* 0: no limit */
    uint32_t weight;             /* share of computed tokens where there is more work than fits, 1 when 0 */
    uint32_t concurrent_requests; /* requests that compute at once */
    uint32_t queue_length;       /* requests that wait beyond those; 0: none may, where concurrent_requests is set */
    uint32_t context_length;     /* most positions of a session */
    uint64_t kv_tokens;          /* KV positions of all sessions together */
    uint64_t tokens_per_second;  /* computed, prompt and generated; as much may come at once */
    uint64_t tokens_per_minute;
    uint64_t reserved[2];
} realm_tenant_limits;

/* At any time, before or while the tenant has contexts; NULL: none any more. A tenant that has no context and owes nothing may
 * be forgotten once thousands of others have come after it, so give the limits again with a new first context. */
REALM_API realm_status realm_tenant_set_limits(realm_runtime *rt, uint64_t tenant, const realm_tenant_limits *limits,
                                               realm_error *err);

typedef struct realm_tenant_stats {
    uint64_t contexts, sessions;
    uint64_t running, queued;    /* requests now */
    uint64_t kv_tokens;          /* now */
    uint64_t requests;           /* begun since the tenant came */
    uint64_t tokens_prompt;      /* computed in prompts; found prefixes are not */
    uint64_t tokens_generated;   /* drawn */
    uint64_t waited_ns;          /* of all requests, from their first work until its first row was computed */
    uint64_t retry_after_ns;     /* until the rates allow new work again; 0: now */
    uint64_t refused;            /* work that failed for a limit */
    uint64_t reserved[4];
} realm_tenant_stats;
/* All zero for a tenant nobody knows. */
REALM_API void realm_tenant_get_stats(realm_runtime *rt, uint64_t tenant, realm_tenant_stats *out);
/* How much of `refused` was for this realm_limit. */
REALM_API uint64_t realm_tenant_refused(realm_runtime *rt, uint64_t tenant, uint32_t limit);

typedef enum realm_ticket_state {
    REALM_TICKET_PENDING = 0,
    REALM_TICKET_PROGRESS = 1, /* generate: new tokens can be taken, more will come */
    REALM_TICKET_READY = 2,
    REALM_TICKET_FAILED = 3,   /* realm_ticket_error says why; cancelled is one reason */
} realm_ticket_state;

typedef struct realm_sampling {
    float temperature;        /* 0: greedy; else > 0 */
    uint32_t top_k;           /* 0: off */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off */
    float repetition_penalty; /* > 0; 1: off */
    float frequency_penalty;  /* [-2, 2]; 0: off */
    float presence_penalty;   /* [-2, 2]; 0: off */
    uint32_t penalty_window;  /* last tokens looked at; 0: 64 */
    uint64_t seed;
    uint32_t bias_count;      /* logit biases: ids and values below */
    uint32_t ignore_end;      /* 1: end tokens neither stop nor are sampled */
    const uint32_t *bias_ids; /* (bias_count,) */
    const float *bias_values; /* (bias_count,) added to the logits; -inf bans a token */
} realm_sampling;

typedef struct realm_token {
    uint32_t id;
    uint32_t is_end;  /* 1: an end-of-generation token of the model */
    float logprob;    /* natural log of the token's probability under the unmodified logits */
} realm_token;

/* Submits tokens after the session's position; when ready, the logits after the last token can be sampled. */
REALM_API realm_status realm_forward(realm_context *ctx, uint32_t session, const uint32_t *tokens, uint32_t count,
                                     uint32_t *ticket, realm_error *err);
/* Runs layers [first, first + count) for `tokens`; slices must follow each other from 0 to the last layer, tokens are given
 * with the first slice (later slices pass count_tokens 0). After the last slice the logits can be sampled. */
REALM_API realm_status realm_forward_layers(realm_context *ctx, uint32_t session, uint32_t first, uint32_t count,
                                            const uint32_t *tokens, uint32_t count_tokens, uint32_t *ticket,
                                            realm_error *err);
/* Like forward, and writes the logits of every given token to out (count, vocab_size) f32 before the ticket is ready.
 * Host only; out must stay valid until the ticket ended. */
REALM_API realm_status realm_forward_logits(realm_context *ctx, uint32_t session, const uint32_t *tokens, uint32_t count,
                                            float *out, uint32_t *ticket, realm_error *err);
/* Like forward, and the ticket yields count scores: the log probability of each token given all before it
 * (of the first one: given the session's last logits; NAN in an empty session). Take them with realm_ticket_scores. */
REALM_API realm_status realm_score(realm_context *ctx, uint32_t session, const uint32_t *tokens, uint32_t count,
                                   uint32_t *ticket, realm_error *err);
/* Samples from the session's logits; the history for penalties is the session's tokens. The n-th sample of a session with
 * the same seed and logits is the same on every host. Runs in the caller's thread. */
REALM_API realm_status realm_sample(realm_context *ctx, uint32_t session, const realm_sampling *params, realm_token *out,
                                    realm_error *err);
/* The likeliest tokens under the session's unmodified logits, as those stand before or after realm_sample: exactly `count` of them, the
 * likeliest first, of equal ones the lower id. Refused above REALM_MOST_LIKELIEST or the vocabulary's size. Changes nothing. */
#define REALM_MOST_LIKELIEST 32
REALM_API realm_status realm_likeliest(realm_context *ctx, uint32_t session, realm_token *out, uint32_t count, realm_error *err);
/* The whole loop in the engine: forward, sample, repeat until an end token or max_tokens. Tokens are taken with
 * realm_ticket_tokens while the state is PROGRESS or READY. */
REALM_API realm_status realm_generate(realm_context *ctx, uint32_t session, const uint32_t *tokens, uint32_t count,
                                      const realm_sampling *params, uint32_t max_tokens, uint32_t *ticket, realm_error *err);

REALM_API realm_status realm_ticket_get_state(realm_context *ctx, uint32_t ticket, uint32_t *state, realm_error *err);
/* Why a failed ticket failed: returns the code and fills err with it. REALM_OK when it did not fail. */
REALM_API realm_status realm_ticket_error(realm_context *ctx, uint32_t ticket, realm_error *err);
/* Takes the tokens generated since the last call. *count gets how many there are, at most cap are taken. */
REALM_API realm_status realm_ticket_tokens(realm_context *ctx, uint32_t ticket, realm_token *out, uint32_t cap,
                                           uint32_t *count, realm_error *err);
REALM_API realm_status realm_ticket_scores(realm_context *ctx, uint32_t ticket, float *out, uint32_t cap, uint32_t *count,
                                           realm_error *err);
/* What the engine did for a ticket so far. The times follow each other and cover the ticket from its submission to the end of
 * its last step; all are 0 for tensor work. */
typedef struct realm_ticket_work {
    uint64_t queued_ns;      /* until the first step that computed for it began: places, rates, the schedule */
    uint64_t prefill_ns;     /* from there until the last of the tokens it was given was computed; of more than one */
    uint64_t decode_ns;      /* the rest */
    uint64_t step_ns;        /* of all that, steps that computed rows of it: beside others' rows, and waits between steps are not in it */
    uint64_t steps, rows;    /* the latter its own */
    uint64_t reserved[2];
} realm_ticket_work;
REALM_API realm_status realm_ticket_get_work(realm_context *ctx, uint32_t ticket, realm_ticket_work *out, realm_error *err);
/* The tensor a matmul or load-layer ticket made. */
REALM_API realm_status realm_ticket_tensor(realm_context *ctx, uint32_t ticket, uint32_t *tensor, realm_error *err);
/* Resolves the ticket at once as failed(cancelled). */
REALM_API realm_status realm_ticket_cancel(realm_context *ctx, uint32_t ticket, realm_error *err);
/* Forgets a ticket (cancelling it when still open). */
REALM_API realm_status realm_ticket_drop(realm_context *ctx, uint32_t ticket, realm_error *err);
/* Number of tickets still open (pending or progress) in this context. */
REALM_API uint32_t realm_context_open_tickets(realm_context *ctx);

/* ---- host tensors and the layer store (core/tensor.c, core/layer_store.c) -------------------------------------- */

/* A (rows, cols) f32 tensor with a copy of data (row-major; NULL: zeros). */
REALM_API realm_status realm_tensor_create(realm_context *ctx, uint32_t rows, uint32_t cols, const float *data,
                                           uint32_t *tensor, realm_error *err);
/* A view of a 1-d or 2-d weight of a granted model, in the file's own type. rows = outputs, cols = inputs. */
REALM_API realm_status realm_tensor_weight(realm_context *ctx, uint32_t model, const char *name, size_t name_size,
                                           uint32_t *tensor, realm_error *err);
REALM_API realm_status realm_tensor_shape(realm_context *ctx, uint32_t tensor, uint32_t *rows, uint32_t *cols,
                                          realm_error *err);
/* Copies out as f32, row-major. *count gets rows * cols, at most cap are written. */
REALM_API realm_status realm_tensor_read(realm_context *ctx, uint32_t tensor, float *out, size_t cap, size_t *count,
                                         realm_error *err);
REALM_API realm_status realm_tensor_drop(realm_context *ctx, uint32_t tensor, realm_error *err);
/* a (m, k) @ b (k, n) -> (m, n), by ticket. */
REALM_API realm_status realm_matmul(realm_context *ctx, uint32_t a, uint32_t b, uint32_t *ticket, realm_error *err);
/* a (m, k) @ b (n, k)^T -> (m, n), by ticket: the form weights are stored in. */
REALM_API realm_status realm_matmul_transposed(realm_context *ctx, uint32_t a, uint32_t b, uint32_t *ticket, realm_error *err);

typedef struct realm_cache_stats {
    uint64_t layers;      /* stored */
    uint64_t bytes;       /* held */
    uint64_t limit_bytes; /* 0: only the context's tensor_bytes */
    uint64_t hits, misses, evictions;
} realm_cache_stats;
/* Keeps a copy of a tensor under a 64-bit address of the layer store. */
REALM_API realm_status realm_store_layer(realm_context *ctx, uint64_t address, uint32_t tensor, realm_error *err);
/* Brings a stored layer back as a tensor, by ticket; unknown addresses fail with not-found. */
REALM_API realm_status realm_load_layer(realm_context *ctx, uint64_t address, uint32_t *ticket, realm_error *err);
REALM_API realm_status realm_get_cache_stats(realm_context *ctx, realm_cache_stats *out, realm_error *err);

/* ---- bench ----------------------------------------------------------------------------------------------------- */

/* Read bandwidth of `bytes` of memory with the runtime's threads, best of `repeats`, in bytes per second. */
REALM_API double realm_bench_read_bandwidth(realm_runtime *rt, uint64_t bytes, uint32_t repeats);

#ifdef __cplusplus
}
#endif
#endif
