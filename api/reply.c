#include "api/reply.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/random.h>

#include "api/completion_reply.h"
#include "engine/base/clock.h"

int em_call_parse(const em_endpoint *endpoint, const char *body, size_t len, const em_api_context *ctx,
                  em_call *ret_call, em_api_error *err)
{
    em_call call = {.endpoint = endpoint};
    int r = endpoint->parse(body, len, ctx, &call, err);
    if (r == 0)
        *ret_call = call;
    return r;
}

int em_call_open(em_call *call, int64_t created)
{
    char id[48];
    uint64_t bits[2] = {em_now_ns(), (uint64_t)(uintptr_t)call};
    if (getrandom(bits, 12, 0) != 12)
        bits[1] ^= bits[0];
    snprintf(id, sizeof(id), "%s%016" PRIx64 "%08" PRIx32, call->endpoint->id_prefix, bits[0], (uint32_t)bits[1]);
    return call->endpoint->open(call, id, created);
}

int em_call_add(em_call *call, const em_event *ev)
{
    return call->endpoint->add(call, ev);
}

int em_call_json(em_call *call, em_buf *out, em_api_error *err)
{
    return call->endpoint->json(call, out, err);
}

int em_call_stream(em_call *call, const em_event *ev, em_buf *out)
{
    return call->endpoint->stream(call, ev, out);
}

void em_call_done(em_call *call)
{
    em_request_free(call->req);
    if (call->endpoint)
        call->endpoint->done(call);
    *call = (em_call){0};
}

/* --- POST /v1/completions ------------------------------------------------------------------------------------ */

static int parse(const char *body, size_t len, const em_api_context *ctx, em_call *call, em_api_error *err)
{
    em_completion *c;
    int r = em_completion_parse(body, len, ctx, &c, err);
    if (r < 0)
        return r;
    call->req = c->req;
    c->req = NULL;
    call->stream = c->stream;
    call->n = c->best_of;
    call->form_param = c->form_param;
    call->parsed = c;
    return 0;
}

static int open_reply(em_call *call, const char *id, int64_t created)
{
    em_completion_reply *reply;
    int r = em_completion_reply_new(call->parsed, id, created, &reply);
    if (r == 0)
        call->reply = reply;
    return r;
}

static int add(em_call *call, const em_event *ev)
{
    return em_completion_reply_add(call->reply, ev);
}

static int json(em_call *call, em_buf *out, em_api_error *err)
{
    return em_completion_reply_json(call->reply, out, err);
}

static int stream(em_call *call, const em_event *ev, em_buf *out)
{
    return em_completion_reply_stream(call->reply, ev, out);
}

static void done(em_call *call)
{
    em_completion_reply_free(call->reply);
    em_completion_free(call->parsed);
}

const em_endpoint em_completion_endpoint = {"cmpl-", parse, open_reply, add, json, stream, done};
