/* em_event -> the JSON of /v1/completions, whole or streamed. One thread at a time. */
#ifndef EM_API_COMPLETION_REPLY_H
#define EM_API_COMPLETION_REPLY_H

#include <stdint.h>

#include "api/completion_request.h"

typedef struct em_completion_reply em_completion_reply;

/* c must outlive the reply. id: "cmpl-..."; created: Unix seconds. */
int em_completion_reply_new(const em_completion *c, const char *id, int64_t created, em_completion_reply **ret_reply);
em_completion_reply *em_completion_reply_free(em_completion_reply *r);

/* Not streamed: take in events one by one (the event stays the caller's), then render when the one with `last` has
 * been added. A failed request renders as -EINVAL with err filled instead: EM_FINISH_ERROR 500, _TIMEOUT 504, _CANCEL
 * 499 (for the log: that client has left; a server that cancels for reasons of its own says so itself). */
int em_completion_reply_add(em_completion_reply *r, const em_event *ev);
int em_completion_reply_json(em_completion_reply *r, em_buf *out, em_api_error *err);

/* Streamed: appends the SSE bytes of one event ("data: {...}\n\n", none when it has nothing to say); the one with
 * `last` also brings the usage event where asked for, an error event where the request failed, and "data: [DONE]\n\n".
 * After a cancel nothing more is written, not even [DONE]: a stream that just ends looks complete, so close the
 * connection hard if the client is still there. */
int em_completion_reply_stream(em_completion_reply *r, const em_event *ev, em_buf *out);

#endif
