/* What answers of all endpoints that generate have in common: the head of every object, how a request fails, the usage,
 * the frame of a stream. Failures of memory stay in em_buf.failed. */
#ifndef EM_API_ANSWER_H
#define EM_API_ANSWER_H

#include "api/completion_request.h"
#include "api/sse.h"
#include "engine/engine.h"

typedef struct em_answer {
    em_buf head; /* {"id":...,"choices":[ of every object */
    bool include_usage;
    bool continuous_usage; /* with include_usage: every event of a stream tells that of its choice so far */
    em_time_limit limit;   /* for the words when it is passed */
    em_finish failure;     /* NONE, CANCEL, TIMEOUT, ERROR: the gravest of all choices */
    char why[512];
    bool complete; /* nothing more will be taken */
} em_answer;

typedef struct em_usage {
    int64_t prompt, completion, cached;
    int64_t reasoning; /* -1: not told */
} em_usage;

/* -ENOMEM. include_usage, continuous_usage and limit are the caller's to set. */
int em_answer_init(em_answer *a, const char *object, const char *id, int64_t created, const char *model,
                   const char *fingerprint);
void em_answer_done(em_answer *a);

bool em_finish_is_failure(em_finish f);
void em_answer_take_failure(em_answer *a, const em_event *ev);
/* 0 when a whole answer may be written; else -EINVAL with err filled: it failed or is not complete. */
int em_answer_check(const em_answer *a, em_api_error *err);

void em_usage_json(const em_usage *u, em_buf *out); /* "usage":{...} */

/* One event of a stream: begin, the choice, end. more: members behind the choices, beginning with a comma; u: of the
 * choice so far, written where every event tells it. */
void em_answer_chunk_begin(const em_answer *a, em_buf *out);
void em_answer_chunk_end(const em_answer *a, const em_buf *more, const em_usage *u, em_buf *out);
/* What comes last: the usage where asked for, or the error; [DONE]. Nothing after a cancel. */
void em_answer_stream_end(const em_answer *a, const em_usage *u, em_buf *out);

/* ,"token_ids":[items] */
void em_token_ids_json(const em_buf *items, em_buf *out);

#endif
