#include "api/answer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api/json_out.h"

int em_answer_init(em_answer *a, const char *object, const char *id, int64_t created, const char *model,
                   const char *fingerprint)
{
    em_buf *b = &a->head;
    *a = (em_answer){0};
    em_buf_puts(b, "{\"id\":");
    em_json_text(b, id, strlen(id));
    em_buf_printf(b, ",\"object\":\"%s\",\"created\":%" PRId64 ",\"model\":", object, created);
    em_json_text(b, model, strlen(model));
    em_buf_printf(b, ",\"system_fingerprint\":\"%s\",\"choices\":[", fingerprint);
    return b->failed ? -ENOMEM : 0;
}

void em_answer_done(em_answer *a)
{
    em_buf_done(&a->head);
}

bool em_finish_is_failure(em_finish f)
{
    return f == EM_FINISH_CANCEL || f == EM_FINISH_TIMEOUT || f == EM_FINISH_ERROR;
}

void em_answer_take_failure(em_answer *a, const em_event *ev)
{
    if (ev->finish <= a->failure)
        return; /* CANCEL < TIMEOUT < ERROR: an error is the cause when others were cancelled for it */
    a->failure = ev->finish;
    snprintf(a->why, sizeof a->why, "%s", ev->error ? ev->error : "");
}

static int timeout_error(const em_time_limit *limit, em_api_error *err)
{
    double seconds = (double)limit->ns / 1e9;
    if (limit->own)
        return em_api_error_set(err, 504, "timeout", "timeout",
                                "The request took longer than its own timeout of %g seconds", seconds);
    return em_api_error_set(err, 504, "timeout", NULL,
                            "The request took longer than the %g seconds that this server allows", seconds);
}

static int failure_error(const em_answer *a, em_api_error *err)
{
    switch (a->failure) {
    case EM_FINISH_CANCEL: return em_api_error_set(err, 499, "cancelled", NULL, "The request was cancelled");
    case EM_FINISH_TIMEOUT: return timeout_error(&a->limit, err);
    default: break;
    }
    return em_api_error_set(err, 500, "engine_failure", NULL, "%s",
                            a->why[0] ? a->why : "The engine failed on this request");
}

int em_answer_check(const em_answer *a, em_api_error *err)
{
    if (a->failure != EM_FINISH_NONE)
        return failure_error(a, err);
    if (!a->complete)
        return em_api_error_set(err, 500, "engine_failure", NULL, "The answer is not complete");
    return 0;
}

void em_usage_json(const em_usage *u, em_buf *out)
{
    em_buf_printf(out,
                  "\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"total_tokens\":%" PRId64
                  ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64 "}",
                  u->prompt, u->completion, u->prompt + u->completion, u->cached);
    if (u->reasoning >= 0)
        em_buf_printf(out, ",\"completion_tokens_details\":{\"reasoning_tokens\":%" PRId64 "}", u->reasoning);
    em_buf_puts(out, "}");
}

void em_answer_chunk_begin(const em_answer *a, em_buf *out)
{
    em_sse_begin(out);
    em_buf_append(out, a->head.data, a->head.len);
}

void em_answer_chunk_end(const em_answer *a, const em_buf *more, const em_usage *u, em_buf *out)
{
    em_buf_puts(out, "]");
    if (more && more->len)
        em_buf_append(out, more->data, more->len);
    if (a->include_usage && a->continuous_usage) {
        em_buf_puts(out, ",");
        em_usage_json(u, out);
    } else if (a->include_usage) {
        em_buf_puts(out, ",\"usage\":null");
    }
    em_buf_puts(out, "}");
    em_sse_end(out);
}

void em_answer_stream_end(const em_answer *a, const em_usage *u, em_buf *out)
{
    if (a->failure == EM_FINISH_CANCEL)
        return;
    if (a->failure != EM_FINISH_NONE) {
        em_api_error err;
        failure_error(a, &err);
        em_sse_error(out, &err);
    } else if (a->include_usage) {
        em_answer_chunk_begin(a, out);
        em_buf_puts(out, "],");
        em_usage_json(u, out);
        em_buf_puts(out, "}");
        em_sse_end(out);
    }
    em_sse_done(out);
}

void em_token_ids_json(const em_buf *items, em_buf *out)
{
    em_buf_puts(out, ",\"token_ids\":[");
    em_buf_append(out, items->data, items->len);
    em_buf_puts(out, "]");
    out->failed |= items->failed;
}
