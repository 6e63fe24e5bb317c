/* What every endpoint that generates has in common, for a server that treats them alike: how a body becomes a request,
 * and how events become an answer. An endpoint is one table of functions; a call is one request to it.
 *
 *     em_call call;
 *     em_call_parse(&em_completion_endpoint, body, len, ctx, &call, &err);
 *     em_call_open(&call, time(NULL));   submit call.req and set it to NULL
 *     for each event: em_call_stream(&call, ev, &out), or em_call_add(&call, ev) and at last em_call_json(&call, ...)
 *     em_call_done(&call);
 *
 * Pure on memory; one thread at a time. */
#ifndef EM_API_REPLY_H
#define EM_API_REPLY_H

#include "api/completion_request.h"
#include "engine/base/buf.h"

typedef struct em_call {
    const struct em_endpoint *endpoint;
    em_request *req; /* set to NULL when the engine has taken it */
    bool stream;
    int32_t n;              /* samples of each prompt, as req->n */
    const char *form_param; /* static: the field that asked for the form of req->grammar; NULL: none did */
    void *parsed;           /* the endpoint's own: what was asked, and the answer being made */
    void *reply;
} em_call;

typedef struct em_endpoint {
    const char *id_prefix; /* "cmpl-" */

    /* Fills every field but reply. -EINVAL with err filled; the call needs no done then. */
    int (*parse)(const char *body, size_t len, const em_api_context *ctx, em_call *call, em_api_error *err);
    /* Makes call->reply. id and created are what the answer says; -ENOMEM. */
    int (*open)(em_call *call, const char *id, int64_t created);

    /* Not streamed: takes in events one by one (the event stays the caller's), then renders when the one with `last` has
     * been added. A failed request renders as -EINVAL with err filled: EM_FINISH_ERROR 500, _TIMEOUT 504, _CANCEL 499.
     * 1 instead of 0 from add or stream: the endpoint has found the end of the event's choice in its text, so the server
     * stops that choice; what the engine still tells of it is passed on and changes nothing. */
    int (*add)(em_call *call, const em_event *ev);
    int (*json)(em_call *call, em_buf *out, em_api_error *err);

    /* Streamed: appends the SSE bytes of one event, none when it has nothing to say; the one with `last` also brings the
     * usage event where asked for, an error event where the request failed, and [DONE]. Nothing after a cancel. */
    int (*stream)(em_call *call, const em_event *ev, em_buf *out);

    void (*done)(em_call *call); /* frees parsed and reply, not req; after a parse that went well */
} em_endpoint;

extern const em_endpoint em_completion_endpoint; /* POST /v1/completions */

int em_call_parse(const em_endpoint *endpoint, const char *body, size_t len, const em_api_context *ctx,
                  em_call *ret_call, em_api_error *err);
/* Draws the id of the answer. */
int em_call_open(em_call *call, int64_t created);
int em_call_add(em_call *call, const em_event *ev);
int em_call_json(em_call *call, em_buf *out, em_api_error *err);
int em_call_stream(em_call *call, const em_event *ev, em_buf *out);
void em_call_done(em_call *call); /* frees req, too; a zeroed call is fine */

#endif
