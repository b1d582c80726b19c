/* bench_core.c: the core alone, driven through realm.h as a host would: what bench_node.py compares the Node SDK with.
 *   bench_core MODEL THREADS FIRST PREFILL DECODE PARALLEL REPEATS [MASK of REALM_CPU_...]      prints one JSON object of medians
 * Times are of whole requests, from text to text: encode, submit, decode each token as it comes, until the ticket ended. PARALLEL
 * tokens by each of 8 generations at once, as whole requests ("parallel") and while all of them decode ("together").
 * Resident memory is told after DECODE tokens of one request, a while after a prompt of PREFILL tokens, at most until then, and in
 * the end. */
#include <stddef.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#endif

#include "bench.h"

enum { MAX_PROMPT = 4096, MAX_TEXT = 64 * MAX_PROMPT, MAX_REPEATS = 15, GENERATIONS = 8, EVENTS = 64 };
static const double SETTLE_SECONDS = 0.2;

typedef struct run {
    realm_runtime *rt;
    realm_model *model;
    uint64_t tenant; /* a new one for each request: no prefix is found */
    struct {
        double began, ended;  /* when the last of a set of requests had its first token, and when the first one ended; */
        uint32_t from, until; /* tokens that the set had made then */
    } together;
} run;

typedef struct request {
    realm_context *ctx;
    uint32_t ticket, prompt, made; /* tokens of the prompt; made so far */
    double first, end; /* seconds since the clock's start */
} request;

static uint32_t encode(const run *r, const char *text, size_t size, uint32_t tokens[MAX_PROMPT]) {
    size_t count;
    realm_error err = {0};
    expect(realm_model_encode(r->model, text, size, REALM_ENCODE_ADD_SPECIAL, tokens, MAX_PROMPT, &count, &err), &err);
    return (uint32_t)count;
}

/* A text of at most so many tokens, as peer_realm.mjs makes it. */
static size_t make_text(const run *r, uint32_t length, uint32_t index, char text[MAX_TEXT]) {
    static uint32_t tokens[MAX_PROMPT], found[MAX_PROMPT];
    size_t size = 0;
    realm_error err = {0};
    for (uint32_t i = 0; i < length; i++) tokens[i] = 300 + (i * 7919 + index * 131) % 30000;
    for (uint32_t count = length; count > 0; count--) {
        expect(realm_model_decode(r->model, tokens, count, 0, text, MAX_TEXT, &size, &err), &err);
        if (encode(r, text, size, found) <= length) break;
    }
    return size;
}

static void submit(run *r, request *q, uint32_t index, const char *text, size_t size, uint32_t made) {
    static uint32_t tokens[MAX_PROMPT];
    uint32_t handle, session;
    realm_error err = {0};
    realm_sampling greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f, .ignore_end = 1};
    uint32_t prompt = encode(r, text, size, tokens);
    *q = (request){.prompt = prompt};
    expect(realm_context_create(r->rt, index, ++r->tenant, NULL, &q->ctx, &err), &err);
    expect(realm_context_grant(q->ctx, r->model, &handle, &err), &err);
    expect(realm_session_open(q->ctx, handle, NULL, &session, &err), &err);
    expect(realm_generate(q->ctx, session, tokens, prompt, &greedy, made, &q->ticket, &err), &err);
}

/* Text of the tokens that have come. */
static void take_text(const run *r, request *q) {
    realm_token tokens[EVENTS];
    realm_error err = {0};
    for (uint32_t count = EVENTS; count == EVENTS;) {
        expect(realm_ticket_tokens(q->ctx, q->ticket, tokens, EVENTS, &count, &err), &err);
        q->made += count < EVENTS ? count : EVENTS;
        for (uint32_t i = 0; i < count && i < EVENTS; i++) {
            char text[256];
            size_t size;
            expect(realm_model_decode(r->model, &tokens[i].id, 1, 0, text, sizeof text, &size, &err), &err);
        }
    }
}

static uint32_t tokens_made(const request *all, uint32_t count) {
    uint32_t made = 0;
    for (uint32_t i = 0; i < count; i++) made += all[i].made;
    return made;
}

static void wait_for_all(run *r, request *all, uint32_t count) {
    realm_completion events[EVENTS];
    for (uint32_t open = count, silent = count; open > 0;) {
        uint32_t n = realm_runtime_wait(r->rt, events, EVENTS, UINT64_MAX);
        for (uint32_t i = 0; i < n; i++) {
            request *q = &all[events[i].tag];
            take_text(r, q);
            if (q->first == 0.0) {
                q->first = seconds();
                if (--silent == 0) {
                    r->together.began = q->first;
                    r->together.from = tokens_made(all, count);
                }
            }
            if (events[i].state == REALM_TICKET_FAILED) expect(REALM_E_INTERNAL, &(realm_error){.message = "a request failed"});
            if (events[i].state != REALM_TICKET_READY || q->end != 0.0) continue;
            q->end = seconds();
            if (open-- == count) {
                r->together.ended = q->end;
                r->together.until = tokens_made(all, count);
            }
        }
    }
}

/* Seconds from the first submission to the last end; the first request's own times in *out. */
static double timed(run *r, uint32_t generations, uint32_t prompt, uint32_t made, request *out) {
    static char texts[GENERATIONS][MAX_TEXT];
    size_t sizes[GENERATIONS];
    request all[GENERATIONS];
    for (uint32_t i = 0; i < generations; i++) sizes[i] = make_text(r, prompt, i, texts[i]);
    double began = seconds(), end = 0.0;
    for (uint32_t i = 0; i < generations; i++) submit(r, &all[i], i, texts[i], sizes[i], made);
    wait_for_all(r, all, generations);
    for (uint32_t i = 0; i < generations; i++) {
        if (all[i].end > end) end = all[i].end;
        realm_context_destroy(all[i].ctx);
    }
    *out = all[0];
    return end - began;
}

static double resident_bytes(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) return 0.0;
    if (fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    fclose(file);
    return (double)pages * 4096.0;
}

static double peak_bytes(void) {
#if defined(__unix__) || defined(__APPLE__)
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used) == 0) return (double)used.ru_maxrss * 1024.0;
#endif
    return 0.0;
}

typedef struct memory {
    double decoded, prompted, peak;
} memory;

typedef struct measured { /* of one repeat */
    double prefill, first, decode, parallel, together;
} measured;

static measured measure(run *r, const uint32_t counts[5]) {
    measured m;
    request q;
    double took = timed(r, 1, counts[2], 1, &q);
    m.prefill = q.prompt / took;
    m.first = timed(r, 1, counts[1], 1, &q);
    timed(r, 1, counts[1], counts[3] + 1, &q);
    m.decode = counts[3] / (q.end - q.first);
    m.parallel = GENERATIONS * (double)counts[4] / timed(r, GENERATIONS, counts[1], counts[4], &q);
    double while_all = r->together.ended - r->together.began; /* of tiny models the first ends before the last begins */
    m.together = while_all > 0 ? (r->together.until - r->together.from) / while_all : m.parallel;
    return m;
}

/* Of the field at `offset`. */
static double median(const measured *all, uint32_t count, size_t offset) {
    double values[MAX_REPEATS];
    for (uint32_t i = 0; i < count; i++) values[i] = *(const double *)(const void *)((const char *)&all[i] + offset);
    return median_of(values, count);
}

/* Requests of every kind, so that pages, threads and buffers are warm; and what they leave resident. */
static memory warm_up(run *r, const uint32_t counts[6]) {
    memory m;
    request q;
    timed(r, 1, counts[1], counts[3] + 1, &q);
    m.decoded = resident_bytes();
    timed(r, 1, counts[2], 1, &q);
    for (double end = seconds() + SETTLE_SECONDS; seconds() < end;) platform_pause(); /* idle buffers are given back meanwhile */
    m.prompted = resident_bytes();
    m.peak = peak_bytes();
    timed(r, GENERATIONS, counts[1], counts[4], &q);
    return m;
}

int main(int argc, char **argv) {
    if (argc < 8) return fprintf(stderr, "usage: bench_core MODEL THREADS FIRST PREFILL DECODE PARALLEL REPEATS [MASK]\n"), 2;
    uint32_t counts[6]; /* threads, first, prefill, decode, parallel, repeats */
    for (int i = 0; i < 6; i++) counts[i] = (uint32_t)strtoul(argv[i + 2], NULL, 10);
    if (counts[1] > MAX_PROMPT || counts[2] > MAX_PROMPT) return fprintf(stderr, "at most %d tokens of prompt\n", MAX_PROMPT), 2;
    if (counts[5] < 1 || counts[5] > MAX_REPEATS) return fprintf(stderr, "1 to %d repeats\n", MAX_REPEATS), 2;
    run r = {0};
    realm_error err = {0};
    realm_runtime_options options = {.threads = counts[0], .features = argc > 8 ? (uint32_t)strtoul(argv[8], NULL, 10) : 0};
    expect(realm_runtime_create(&options, &r.rt, &err), &err);
    double start = seconds();
    r.model = load_model(r.rt, argv[1]);
    double loaded = seconds() - start;
    memory m = warm_up(&r, counts);
    measured all[MAX_REPEATS];
    for (uint32_t i = 0; i < counts[5]; i++) all[i] = measure(&r, counts);
    printf("{\"kernels\": \"%s\", \"resident_decoded\": %.0f, \"resident_prompted\": %.0f, \"resident_peak\": %.0f, \"resident\": %.0f",
           realm_runtime_kernels(r.rt), m.decoded, m.prompted, m.peak, resident_bytes());
    printf(", \"load\": %.6f", loaded);
#define PRINT_MEDIAN(field) printf(", \"" #field "\": %.6f", median(all, counts[5], offsetof(measured, field)))
    PRINT_MEDIAN(first);
    PRINT_MEDIAN(prefill);
    PRINT_MEDIAN(decode);
    PRINT_MEDIAN(parallel);
    PRINT_MEDIAN(together);
    printf("}\n");
    realm_model_close(r.model);
    realm_runtime_destroy(r.rt);
    return 0;
}
