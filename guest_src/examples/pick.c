/* pick.c: an own guest that picks the likeliest of several answers to a prompt.
 *
 * request.extra holds the answers, each preceded by its length as u32 little-endian. The report's extra holds the winner's
 * index as u32, then the log probability of each answer as f32. All of the prompt but its last token is computed once; each
 * answer is scored behind that token and the session rewound. To stay short it runs one request at a time.
 */
#include "../realm_abi.h"
#include "../support.h"

enum { MAX_ANSWERS = 256 };

static struct pick {
    uint32_t handle, model, session, ticket;
    bool started, done, scoring;
    uint32_t prompt_count, last_token; /* of the prompt */
    uint8_t *answers;                  /* copy of request.extra */
    size_t size, next;                 /* next: where the coming answer stands */
    uint32_t count;                    /* answers scored */
    struct { uint32_t winner; float scores[MAX_ANSWERS]; } result;
    realm_finish finish;
    realm_error_code error;
} pick;

static void end(realm_finish finish, realm_error_code error) {
    if (pick.ticket) realm_host_ticket_drop(pick.ticket);
    if (pick.session) realm_host_session_close(pick.session);
    memory_free(pick.answers);
    pick.ticket = pick.session = 0;
    pick.answers = NULL;
    pick.done = true;
    pick.finish = finish;
    pick.error = error;
}

static void wait_for(realm_result_u32 submitted) {
    if (submitted.is_error) end(REALM_FINISH_FAILED, submitted.error);
    if (!submitted.is_error) pick.ticket = submitted.ok;
}

/* Submits the scoring of the next answer, or ends when there is none left. */
static void score_next(void) {
    if (pick.next == pick.size) {
        end(REALM_FINISH_END, 0);
        return;
    }
    uint32_t length = 0;
    if (pick.size - pick.next >= 4) bytes_copy(&length, pick.answers + pick.next, 4);
    if (length == 0 || length > pick.size - pick.next - 4 || pick.count == MAX_ANSWERS) {
        end(REALM_FINISH_FAILED, REALM_ERROR_CODE_INVALID_ARGUMENT);
        return;
    }
    realm_result_list_u32 answer = realm_host_encode(pick.model, pick.answers + pick.next + 4, length, false, false);
    uint32_t *tokens = answer.is_error ? NULL : scratch_alloc((answer.ok.len + 1) * sizeof *tokens);
    if (!tokens) {
        end(REALM_FINISH_FAILED, answer.is_error ? answer.error : REALM_ERROR_CODE_OUT_OF_MEMORY);
        return;
    }
    tokens[0] = pick.last_token;
    bytes_copy(tokens + 1, answer.ok.ptr, answer.ok.len * sizeof *tokens);
    pick.next += 4 + (size_t)length;
    pick.scoring = true;
    wait_for(realm_host_score(pick.session, tokens, answer.ok.len + 1));
}

/* Adds up an answer; the first of its scores is that of the prompt's last token. */
static void take_scores(void) {
    realm_result_list_f32 scores = realm_host_ticket_scores(pick.ticket);
    realm_result_u32 rewound = realm_host_session_rewind(pick.session, pick.prompt_count - 1);
    if (scores.is_error || rewound.is_error) {
        end(REALM_FINISH_FAILED, scores.is_error ? scores.error : rewound.error);
        return;
    }
    float sum = 0;
    for (size_t i = 1; i < scores.ok.len; i++) sum += scores.ok.ptr[i];
    pick.result.scores[pick.count] = sum;
    if (sum > pick.result.scores[pick.result.winner]) pick.result.winner = pick.count;
    pick.count++;
}

static void begin(const realm_request *request) {
    realm_result_list_u32 prompt = realm_host_encode(pick.model, request->prompt.ptr, request->prompt.len,
                                                     request->add_special, request->parse_special);
    realm_result_u32 session = realm_host_session_open(pick.model);
    if (!session.is_error) pick.session = session.ok;
    pick.size = request->extra.len;
    pick.answers = memory_alloc(pick.size);
    if (prompt.is_error || session.is_error || !pick.answers || prompt.ok.len == 0 || pick.size == 0) {
        realm_error_code error = session.is_error ? session.error : REALM_ERROR_CODE_INVALID_ARGUMENT;
        end(REALM_FINISH_FAILED, prompt.is_error ? prompt.error : error);
        return;
    }
    bytes_copy(pick.answers, request->extra.ptr, pick.size);
    pick.prompt_count = (uint32_t)prompt.ok.len;
    pick.last_token = prompt.ok.ptr[prompt.ok.len - 1];
    if (prompt.ok.len == 1) score_next();
    else wait_for(realm_host_forward(pick.session, prompt.ok.ptr, prompt.ok.len - 1));
}

static void advance(void) {
    uint32_t ready = realm_host_ticket_ready(pick.ticket);
    if (ready == REALM_TICKET_STATE_FAILED) end(REALM_FINISH_FAILED, (realm_error_code)realm_host_ticket_error(pick.ticket));
    if (ready != REALM_TICKET_STATE_READY) return;
    if (pick.scoring) take_scores();
    if (pick.done) return;
    realm_host_ticket_drop(pick.ticket);
    pick.ticket = 0;
    score_next();
}

realm_result_u32 *realm_guest_start(realm_request *request) {
    static realm_result_u32 result;
    result = (realm_result_u32){.is_error = pick.started, .error = REALM_ERROR_CODE_BUSY};
    if (!pick.started) {
        pick = (struct pick){.handle = pick.handle + 1, .started = true, .model = request->model};
        begin(request);
        result.ok = pick.handle;
    }
    scratch_reset();
    return &result;
}

realm_result_step *realm_guest_poll(uint32_t request) {
    static realm_result_step result;
    bool known = pick.started && request == pick.handle;
    if (known && !pick.done) advance();
    result = (realm_result_step){.is_error = !known, .error = REALM_ERROR_CODE_INVALID_HANDLE};
    if (known) result.ok = pick.done ? REALM_STEP_DONE : REALM_STEP_PENDING;
    scratch_reset();
    return &result;
}

realm_result_report *realm_guest_outcome(uint32_t request) {
    static realm_result_report result;
    result = (realm_result_report){.is_error = !pick.done || request != pick.handle, .error = REALM_ERROR_CODE_INVALID_HANDLE};
    if (result.is_error) return &result;
    result.ok = (realm_report){.finish = pick.finish, .error = pick.error, .prompt_tokens = pick.prompt_count};
    result.ok.extra = (realm_list_u8){(uint8_t *)&pick.result, (1 + (size_t)pick.count) * 4};
    return &result;
}

void realm_guest_cancel(uint32_t request) {
    if (pick.started && request == pick.handle && !pick.done) end(REALM_FINISH_CANCELLED, 0);
}

void realm_guest_release(uint32_t request) {
    realm_guest_cancel(request);
    if (request == pick.handle) pick.started = pick.done = false;
}
