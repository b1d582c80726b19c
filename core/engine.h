/* engine.h: the structures behind realm.h's handles, shared by runtime.c (driver, completions), model.c (loading), context.c
 * (handles, tickets) and engine.c (sessions, batches). One lock, the runtime's, guards them all; it is never held while a
 * batch is computed. What a running step still needs (`in_step`) is freed when the step ends. External executors take their
 * batches through external.c. */
#ifndef REALM_ENGINE_H
#define REALM_ENGINE_H

#include "executor.h"
#include "layer_store.h"
#include "sample.h"
#include "schedule.h"
#include "tenant.h"
#include "tensor.h"
#include "tokenizer.h"

typedef struct session session;
typedef struct ticket ticket;
typedef struct engine engine;

/* ---- handles: u32 capabilities with a generation, so that a stale one is never somebody else's ---------------------------- */

typedef struct handle_table {
    void **items;
    uint16_t *generations;
    uint32_t capacity, free_head; /* free slots are linked through items */
    uint32_t count;
} handle_table;

uint32_t handle_add(handle_table *t, void *item); /* 0: out of memory or table full */
void *handle_get(const handle_table *t, uint32_t handle);
void handle_remove(handle_table *t, uint32_t handle);
void *handle_at(const handle_table *t, uint32_t slot); /* NULL where the slot is free */
void handle_table_free(handle_table *t);

/* ---- tickets ---------------------------------------------------------------------------------------------------------------- */

typedef enum ticket_kind {
    TICKET_FORWARD, TICKET_LAYERS, TICKET_LOGITS, TICKET_SCORE, TICKET_GENERATE, TICKET_TENSOR,
} ticket_kind;

struct ticket {
    realm_context *ctx;      /* NULL once dropped while a step still used it */
    session *session;        /* NULL for tensor work, or when the session is gone */
    uint32_t handle, kind, state;
    bool in_step, event_queued;
    bool event_ends;         /* the queued event is the ticket's end */
    ticket *event_next, *event_prev;
    realm_error error;
    realm_ticket_work work;
    uint64_t submitted_ns;
    bool decodes;            /* all the tokens it was given are computed, or it was given one more of many */
    /* generate */
    realm_sampling params;   /* with own copies of the biases */
    uint32_t max_tokens, produced, taken, tokens_capacity;
    realm_token *tokens;     /* (produced,) */
    /* score and logits */
    uint32_t first_position, scored;
    float *scores;           /* (scored,) */
    float *logits_out;       /* the host's (count, vocab_size) */
    /* tensor work */
    tensor_product *job;     /* NULL: the result is there already */
    tensor *result;
    uint64_t reserved_bytes; /* charged to the context until the result is a tensor of its own */
    uint32_t result_handle;
    ticket *job_next;
};

/* ---- sessions and engines ------------------------------------------------------------------------------------------------- */

struct session {
    engine *engine;
    realm_context *ctx;      /* NULL: closed while a step still used it */
    kv_owner *owner;
    uint32_t handle;
    kv_cache *kv;
    kv_page **pages;
    uint32_t page_count, page_capacity;
    uint32_t registered;     /* leading pages that are findable by others */
    uint32_t *tokens;
    uint32_t token_capacity;
    uint32_t done;           /* tokens whose KV is there */
    uint32_t submitted;      /* tokens given */
    uint32_t context_length;
    bool in_step, no_prefix, logits_valid;
    bool kv_lost;            /* its KV went with the device: only rewinding to 0 helps */
    float *logits;           /* (vocab_size,) after the last token */
    double log_total;        /* log(sum(exp(logits))) */
    uint64_t samples;        /* drawn so far */
    ticket *active;
    float *hidden;           /* (hidden_rows, embedding): residual stream between slices of layers */
    uint32_t hidden_rows;
    uint32_t slice_first, slice_count; /* layers of the running slice; slice_count 0: whole passes */
    uint32_t slice_next;     /* layer the next slice must begin with */
    uint32_t slice_cursor;   /* rows of the slice already computed */
    /* its place in line: schedule.c */
    flow *flow;
    heap_node place;         /* among its flow's work, or its tenant's waiting requests */
    bool queued, decoding;   /* in a heap of its flow, and which */
    uint32_t priority;
    uint64_t turn;           /* later ones come after */
    /* its request: tenant.c */
    bool requested, waiting; /* holds a place of the tenant; waits for one */
    bool paused, unserved;   /* holds it without work; no row was computed yet */
    uint64_t arrived_ns, began_ns, idle_since;
    session *idle_next, *idle_prev;
    uint64_t deadline_ns;    /* as the host gave it; 0: none */
    timer deadline;
};

/* What one step did to one session. */
typedef struct step_part {
    session *session;
    ticket *ticket;          /* that was active when the step began; kept alive until the step ends */
    uint32_t rows;
    uint32_t out0, outs;     /* its range in the batch's out_rows */
    bool completes;          /* its last row is the last of the submitted tokens */
    realm_token sampled;     /* generate: the token drawn after the last row */
    double log_total;        /* log(sum(exp(logits))) of the last row */
    realm_error error;
} step_part;

/* What an external executor reads of the batch that is out; arrays of engine.max_rows where not said otherwise. */
typedef struct external_batch {
    uint32_t *kv_slots, *row_segments;
    realm_batch_segment *segments;
    uint32_t *pages;         /* (page_capacity,) */
    uint32_t page_capacity;
    realm_page_op *page_ops; /* (op_capacity,) */
    uint32_t op_capacity;
    float *logits;           /* (logits_rows, vocab_size) */
    uint32_t logits_rows;
    size_t logits_bytes;
    uint64_t taken_ns;
} external_batch;

/* A published prefix: pages of one element type that every tenant's sessions find. */
typedef struct public_prefix {
    uint32_t id, page_count;
    kv_cache *kv;
    kv_page **pages;         /* (page_count,) */
    struct public_prefix *next;
} public_prefix;

struct engine {
    realm_runtime *rt;
    engine *next;            /* runtime's list */
    uint64_t id;             /* never the same twice in a runtime */
    const plan *plan;
    const tokenizer *tok;
    executor *executor;      /* NULL with the fake and the external executor */
    external_batch *external; /* NULL with the others */
    kv_cache *kv[2];         /* by REALM_KV_... */
    line line;               /* who has work, in the order of their turns */
    public_prefix *prefixes;
    uint32_t prefix_serial;
    uint32_t max_rows;
    batch batch;
    step_part *parts;        /* (batch.n_segments,) */
    float *fake_logits;      /* (vocab_size,) all zero */
    uint32_t *end_tokens;    /* (end_count,) */
    uint32_t end_count;
    const atomic_bool *lost; /* the model's file can no longer be read; NULL: it stays */
    bool begun;              /* the batch is in the executor */
    uint64_t spent_ns;       /* on the batch, so far */
    engine *main;            /* of an express: the engine whose streams it computes; else NULL */
    engine *express;         /* a batch and an executor for streams between the slices of a long step; NULL: it is not interrupted */
    realm_error failure;     /* why it could not be computed */
};

realm_status engine_create(realm_runtime *rt, const plan *p, const tokenizer *tok, const uint8_t *weights, engine **out,
                           realm_error *err);
void engine_destroy(engine *e);    /* no sessions may be left */
void engine_drop_pages(engine *e); /* with the lock held, before: the KV budget belongs to all engines */

/* With the lock held: fills e->batch with the next step's work; false when there is none. */
bool engine_next_batch(engine *e);
/* With the lock held, while another step is under way: the same of streams alone, in e->express. */
bool engine_next_express(engine *e);
/* While that goes on: adds at most `limit` rows of a session that has left the line. How many; 0: it found no KV pages and failed. */
uint32_t engine_take(engine *e, session *s, uint32_t limit);
/* Without the lock: computes it (true: complete), then draws the tokens generate wants. */
bool engine_compute(engine *e, uint64_t budget);
/* Without the lock, of a batch computed elsewhere: only draws the tokens. */
void engine_use_logits(engine *e);
/* With the lock held: whether anybody still waits for results of the batch. */
bool engine_wanted(const engine *e);
/* With the lock held: takes the results over into sessions and tickets, or lets the tickets fail with e->failure. */
void engine_complete(engine *e);
/* With the lock held, no batch out: the contents of all KV pages are gone. Open work fails, sessions have to begin again. */
void engine_lose_pages(engine *e, realm_status code, const char *message);

/* external.c: the arrays an external executor reads, of a batch the engine has just chosen. */
realm_status external_create(engine *e, realm_error *err);
void external_destroy(external_batch *x);

/* prefix.c, with the lock held: every published prefix of the engine is gone; its pages' contents may be, too. */
void prefix_drop_all(engine *e);

/* Sessions, with the lock held. */
session *session_create(engine *e, realm_context *ctx, const realm_session_options *options, uint32_t default_kv_type);
void session_destroy(session *s); /* at once, or when the running step ends */
realm_status session_rewind(session *s, uint32_t position, realm_error *err);
/* Rows the session still has to compute in its running slice, or in whole passes. */
static inline uint32_t session_pending(const session *s) { return s->submitted - s->done - s->slice_cursor; }
/* The order inside a tenant: priority, deadline, turn. */
bool session_before(const session *a, const session *b);
/* Positions that are left, under the tenant's limit of today. */
uint32_t session_room(const session *s);
/* Appends tokens and queues the session for ticket t. The caller has checked limits. */
realm_status session_submit(session *s, ticket *t, const uint32_t *tokens, uint32_t count, realm_error *err);
/* Takes the session out of the queue and forgets tokens that were not computed. */
void session_abort(session *s);

/* ---- runtime -------------------------------------------------------------------------------------------------------------------- */

struct realm_runtime {
    realm_runtime_options options;
    cpu_ops ops;
    uint32_t threads;
    pool *pool;
    kv_budget kv;
    platform_mutex *lock;
    platform_cond *work;     /* the driver waits for work, or for the host's acknowledgement */
    platform_cond *done;     /* the host waits for completions */
    platform_thread *driver;
    atomic_bool stop, abort_step;
    atomic_uint nudges;      /* of the driver */
    bool wake, idle, stepping;
    bool alone;              /* one processor: a driver that waits awake would keep the host from it */
    bool dozing;             /* idle, but not for long */
    bool multiplying;        /* the driver computes a host tensor */
    double multiply_ns;      /* what a multiply-add of the last slice of one took; 0: none was measured */
    engine *engines;
    engine *turn, *held;     /* where the host steps: whose batch is computed, and whose waits for that */
    engine *out;             /* whose batch an external executor has */
    realm_model *orphan;     /* model of that engine, closed meanwhile: freed when the batch is finished */
    uint64_t engine_serial, batch_serial;
    realm_context *contexts;
    tenant_table tenants;
    ticket *event_first, *event_last;
    ticket *job_first, *job_last;
    uint32_t events_ending;  /* queued events of tickets that have ended */
    realm_listener listener; /* NULL: the host waits */
    void *listener_arg;
    bool due;                /* an event is queued that is not, or no longer, held back */
    bool host_lags;          /* it was waited for in vain, and has not acknowledged since */
    bool announced;          /* some of these are submissions that the host is to end soon */
    uint32_t unacknowledged; /* those taken by a wait that the host has not come back from */
    uint64_t last_step_ns;
    uint64_t last_streams_ns; /* of the last step with streams */
    uint64_t now_ns;         /* the time of what happens now: runtime_tell_time */
    uint64_t tag, turn_serial, choice_serial; /* schedule.c */
    uint32_t paused;         /* sessions with a request and without work: nobody else is expected back */
    uint64_t slice_ns;       /* how long the rest may run after a step of streams, */
    uint64_t apart_ns;       /* and how long it did */
    sample_scratch *scratch; /* one per thread */
    realm_runtime_stats stats;
};

/* With the lock held. */
void runtime_tell_time(realm_runtime *rt); /* before anything that depends on the time */
void runtime_push_event(realm_runtime *rt, ticket *t);
void runtime_remove_event(realm_runtime *rt, ticket *t);
void runtime_work_arrived(realm_runtime *rt);
engine *runtime_next_turn(realm_runtime *rt); /* the engine that is served next, its batch chosen; NULL: no work */
void runtime_finish_step(realm_runtime *rt, engine *e, uint64_t took_ns); /* its last slice took so long */
void runtime_end_turn(realm_runtime *rt); /* the step under way is over: the one that was held for it goes on */

/* ---- contexts -------------------------------------------------------------------------------------------------------------------- */

struct realm_context {
    realm_runtime *rt;
    realm_context *next, *prev;
    uint64_t tag, tenant;
    kv_owner *owner;         /* the tenant's KV memory */
    tenant *account;         /* and its limits */
    realm_limits limits;
    uint64_t hold_ns, told_ns; /* progress is told together, this long after it was told last */
    handle_table models, sessions, tickets, tensors;
    uint32_t open_tickets;
    uint64_t kv_tokens;      /* submitted tokens of all sessions: see context_hold */
    uint64_t tensor_bytes;   /* owned by its tensors and layer store, and reserved for products under way */
    layer_store *store;      /* made when first used */
    handle_table retired;    /* revoked models that views may still point into */
    sample_scratch scratch;
};

/* With the lock held: KV positions came or went; the tenant's account has them too. */
void context_hold(realm_context *ctx, int64_t positions);
/* With the lock held: a limit of the context or its tenant, written down and counted. */
realm_status context_refuse(realm_context *ctx, realm_limit limit, uint64_t value, realm_error *err, const char *format, ...)
    BASE_PRINTF(5, 6);
/* With the lock held: an open ticket under a new handle, within the context's limit. */
realm_status ticket_create(realm_context *ctx, uint32_t kind, ticket **out, realm_error *err);
/* With the lock held: moves a ticket to a final state (or announces progress) and queues its event. */
void ticket_finish(ticket *t, uint32_t state);
void ticket_fail(ticket *t, realm_status code, const char *message);
void ticket_progress(ticket *t);
void ticket_free_biases(ticket *t); /* no step uses them any more */
void ticket_free(ticket *t);

/* ---- models ------------------------------------------------------------------------------------------------------------------------ */

struct realm_model {
    realm_runtime *rt;
    uint32_t references;     /* guarded by the runtime's lock */
    realm_model_options options;
    platform_mapping mapping;
    bool mapped;
    const uint8_t *bytes;    /* NULL where only the directories are here */
    uint64_t size;
    uint8_t *supplied;       /* a small tensor the host gave */
    void *pages;             /* of the host's, given to the model */
    uint64_t pages_bytes;
    gguf *file;
    uint64_t parameter_count, weight_bytes; /* of the directory's tensors */
    tokenizer *tokenizer;
    plan *plan;
    engine *engine;
    uint32_t context_length;
};

/* What work on a model fails with when its file went while it was mapped. */
#define MODEL_LOST "the model's file was cut short or became unreadable while in use: restore it, and load it again"
bool model_is_lost(const realm_model *m);
/* Tensors may be views of any model the context was granted, also of those revoked since. */
bool context_lost_a_model(const realm_context *ctx);
void model_retain(realm_model *m);  /* lock held */
void model_release(realm_model *m); /* lock not held */
void model_discard(realm_model *m); /* lock not held: frees one nobody refers to any more */

#endif
