/* One call of an endpoint that generates: from the body to the last byte. The step thread delivers events into the inbox; the HTTP thread turns
 * them into bytes and resumes the connection. Suspending, resuming and the question "is there anything to send" all
 * happen on the HTTP thread, so that no wake-up can be lost between them. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "server/http.h"

#define STREAM_BLOCK 4096 /* bytes libmicrohttpd sends at once where it does not chunk */
#define COMPACT_AT 65536  /* sent bytes at the front of a buffer that are worth a move */

/* --- the step thread's side ----------------------------------------------------------------------------------- */

/* Under the lock. True when the HTTP thread must be woken: only for the first job of a step. */
static bool put_ready(em_http *h, em_job *job)
{
    if (job->in_ready)
        return false;
    bool first = !h->inbox.ready;
    job->in_ready = true;
    job->next_ready = h->inbox.ready;
    h->inbox.ready = job;
    return first;
}

static size_t event_bytes(const em_event *ev)
{
    size_t n = sizeof(*ev) + ev->text_len;
    for (int32_t i = 0; i < ev->n_tokens; i++)
        n += sizeof(ev->tokens[i]) + (size_t)ev->tokens[i].n_top * sizeof(em_top_logprob);
    return n;
}

static void on_event(void *ctx, em_event *ev)
{
    em_job *job = ctx;
    em_http *h = job->http;
    size_t bytes = event_bytes(ev);
    bool wake = false;
    pthread_mutex_lock(&h->inbox.lock);
    if (!ev->last && job->events_bytes > (size_t)h->config->max_reply_bytes) {
        job->overflow = true;
        em_event_free(ev);
    } else {
        ev->next = NULL;
        *job->events_tail = ev;
        job->events_tail = &ev->next;
        job->events_bytes += bytes;
        if (ev->last)
            wake = put_ready(h, job); /* nothing comes after it: the job may be gone once the lock is open */
    }
    pthread_mutex_unlock(&h->inbox.lock);
    if (wake)
        em_http_wake(h);
}

static void on_step_end(void *ctx)
{
    em_job *job = ctx;
    em_http *h = job->http;
    pthread_mutex_lock(&h->inbox.lock);
    bool wake = put_ready(h, job);
    pthread_mutex_unlock(&h->inbox.lock);
    if (wake)
        em_http_wake(h);
}

/* --- suspend and resume -------------------------------------------------------------------------------------- */

static void suspend(em_job *job)
{
    job->suspended = true;
    job->http->n_suspended++;
    MHD_suspend_connection(job->exchange->conn);
}

static void resume(em_job *job)
{
    if (!job->suspended)
        return;
    job->suspended = false;
    job->http->n_suspended--;
    MHD_resume_connection(job->exchange->conn);
}

static bool has_news(const em_job *job)
{
    bool due = job->call.stream && !job->started && job->ready;
    return due || job->out_at < job->out.len || job->finished || job->cut || job->failure.status;
}

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    em_job *job = cls;
    size_t n = job->out.len - job->out_at;
    if (n == 0 && job->cut)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n == 0 && job->finished)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == 0) {
        suspend(job);
        return 0;
    }
    if (n > max)
        n = max;
    memcpy(buf, job->out.data + job->out_at, n);
    job->out_at += n;
    job->last_write_ns = em_now_ns();
    return (ssize_t)n;
}

static enum MHD_Result queue_stream(em_job *job)
{
    job->started = true;
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, job, NULL);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream; charset=utf-8");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no"); /* nginx would hold events back */
    return em_reply_queue(job->exchange, 200, response);
}

/* --- from the body to the engine ------------------------------------------------------------------------------ */

/* Takes the call over, also on failure. */
static em_job *job_new(em_exchange *x, em_call *call)
{
    em_job *job = calloc(1, sizeof(*job));
    if (!job || em_call_open(call, (int64_t)time(NULL)) < 0) {
        em_call_done(call);
        free(job);
        return NULL;
    }
    job->events_tail = &job->events;
    job->http = x->http;
    job->exchange = x;
    job->call = *call;
    job->last_write_ns = em_now_ns();
    return job;
}

static int submit(em_job *job, em_api_error *ret_err)
{
    em_http *h = job->http;
    em_error err = {0};
    em_sink sink = {.on_event = on_event, .on_step_end = on_step_end, .ctx = job};
    em_request *req = job->call.req;
    int32_t n = req->n, max_tokens = req->max_tokens;
    job->ready = !req->grammar;
    snprintf(req->id, sizeof(req->id), "%s", job->exchange->id);
    snprintf(req->client, sizeof(req->client), "%s", job->exchange->client);
    int r = em_engine_submit(em_service_engine(h->service), req, sink, &job->engine_id, &err);
    if (r == 0) {
        job->call.req = NULL; /* the engine's now */
        em_histogram_add(&h->counts.params_n, n);
        em_histogram_add(&h->counts.params_max_tokens, max_tokens);
        return 0;
    }
    if (r == -EBUSY) {
        h->counts.refused_busy++;
        em_api_error_set(ret_err, 429, "queue_full", NULL, "%" PRId64 " requests are waiting already; try again later",
                         h->config->max_queue);
        ret_err->retry_after_s = em_engine_retry_after_s(em_service_engine(h->service));
    } else if (r == -EAGAIN) {
        h->counts.refused_busy++;
        em_api_error_set(ret_err, 429, "queue_full", NULL, "%s", err.text);
        ret_err->retry_after_s = 1;
    } else if (r == -ESHUTDOWN) {
        em_api_error_set(ret_err, 503, "draining", NULL, "the server is shutting down; ask another one");
        ret_err->retry_after_s = 5;
    } else if (r == -E2BIG) {
        em_api_error_set(ret_err, 400, "context_length_exceeded", "prompt", "%s", err.text);
    } else if (r == -EINVAL) {
        em_api_error_set(ret_err, 400, "invalid_request", NULL, "%s", err.text);
    } else {
        em_api_error_set(ret_err, 500, "engine_failure", NULL, "%s", err.text[0] ? err.text : strerror(-r));
    }
    return r;
}

static void link_job(em_http *h, em_job *job)
{
    job->next = h->jobs;
    if (job->next)
        job->next->prev = job;
    h->jobs = job;
    h->n_jobs++;
}

static void unlink_job(em_http *h, em_job *job)
{
    if (job->prev)
        job->prev->next = job->next;
    else
        h->jobs = job->next;
    if (job->next)
        job->next->prev = job->prev;
    h->n_jobs--;
}

static void destroy(em_job *job)
{
    em_call_done(&job->call);
    em_buf_done(&job->out);
    free(job);
}

enum MHD_Result em_job_start(em_exchange *x)
{
    em_call call;
    em_api_error err = {0};
    const em_api_context *ctx = em_service_api(x->http->service);
    int r = em_call_parse(x->route->endpoint, em_exchange_body(x), x->body.len, ctx, &call, &err);
    em_exchange_drop_body(x);
    if (r < 0)
        return r == -EINVAL ? em_reply_error(x, &err) : em_reply_oom(x);
    em_job *job = job_new(x, &call);
    if (!job)
        return em_reply_oom(x);
    if (submit(job, &err) < 0) {
        destroy(job);
        return em_reply_error(x, &err);
    }
    x->job = job;
    link_job(x->http, job);
    em_exchange_watch(x);
    if (job->call.stream && job->ready)
        return queue_stream(job);
    suspend(job);
    return MHD_YES;
}

void em_job_free(em_job *job)
{
    if (!job)
        return;
    unlink_job(job->http, job);
    destroy(job);
}

/* --- endings ------------------------------------------------------------------------------------------------- */

static void cancel(em_job *job, const char *why)
{
    if (!job->end)
        job->end = why;
    if (!job->finished)
        em_engine_cancel(em_service_engine(job->http->service), job->engine_id);
}

static void drop_output(em_job *job)
{
    em_buf_done(&job->out);
    job->out = (em_buf){0};
    job->out_at = 0;
}

void em_job_client_gone(em_job *job)
{
    if (job->finished)
        return; /* what is left to send is sent, or fails by itself */
    if (!job->end)
        job->http->counts.clients_left++;
    cancel(job, "client_left");
    drop_output(job);
    job->cut = true;
    resume(job);
}

void em_job_abort(em_job *job, int status, const char *code, const char *message)
{
    if (job->finished || job->cut || job->failure.status)
        return;
    cancel(job, code);
    em_api_error_set(&job->failure, status, code, NULL, "%s", message);
    if (job->started) { /* the status has gone out long ago */
        em_buf_puts(&job->out, "data: ");
        em_api_error_json(&job->failure, &job->out);
        em_buf_puts(&job->out, "\n\n");
        job->cut = true;
    }
    resume(job);
}

/* Called again by libmicrohttpd after the resume of a request without a response: not streamed, or not yet. */
enum MHD_Result em_job_answer(em_exchange *x)
{
    em_job *job = x->job;
    em_api_error err = {0};
    em_buf body = {0};
    if (job->cut)
        return MHD_NO;
    if (job->failure.status)
        return em_reply_error(x, &job->failure);
    if (job->call.stream && job->ready)
        return queue_stream(job);
    if (!job->finished) {
        suspend(job);
        return MHD_YES;
    }
    int r = em_call_json(&job->call, &body, &err);
    if (r == 0)
        return em_reply_json(x, 200, &body);
    em_buf_done(&body);
    return r == -EINVAL ? em_reply_error(x, &err) : em_reply_oom(x);
}

/* --- from events to bytes ------------------------------------------------------------------------------------- */

static void count_tokens(em_job *job, const em_event *ev)
{
    static const char *const end[] = {NULL, "stop", "length", "cancelled", "timeout", "error"};
    if (ev->finish == EM_FINISH_NONE)
        return;
    job->completion_tokens += ev->completion_tokens;
    if (ev->choice % job->call.n == 0)
        job->prompt_tokens += ev->prompt_tokens;
    if (!job->end)
        job->end = end[ev->finish];
}

/* The endpoint has found the end of a choice: the engine need not go on with it. */
static void stop_choice(em_job *job, const em_event *ev)
{
    em_engine_stop_choice(em_service_engine(job->http->service), job->engine_id, ev->choice);
}

static void add_to_stream(em_job *job, const em_event *ev)
{
    size_t unread = job->out.len - job->out_at;
    if (unread > (size_t)job->http->config->max_output_bytes) {
        cancel(job, "slow_reader");
        drop_output(job);
        job->cut = true;
        return;
    }
    if (unread == 0) {
        em_buf_clear(&job->out);
        job->out_at = 0;
    } else if (job->out_at > COMPACT_AT) {
        em_buf_consume(&job->out, job->out_at);
        job->out_at = 0;
    }
    int r = em_call_stream(&job->call, ev, &job->out);
    if (r < 0 || job->out.failed) {
        cancel(job, "out_of_memory");
        job->cut = true;
    } else if (r > 0) {
        stop_choice(job, ev);
    }
}

static void add_to_reply(em_job *job, const em_event *ev)
{
    job->reply_bytes += event_bytes(ev);
    if (job->reply_bytes > (size_t)job->http->config->max_reply_bytes)
        em_job_abort(job, 400, "answer_too_large",
                     "the answer grew too large to be sent at once; ask for less, or use \"stream\": true");
    int r = job->failure.status ? 0 : em_call_add(&job->call, ev);
    if (r < 0)
        em_job_abort(job, 503, "out_of_memory", "out of memory");
    else if (r > 0)
        stop_choice(job, ev);
}

/* The form asked for cannot be kept to: no status is out yet. */
static void refuse(em_job *job, const em_event *ev)
{
    job->end = "refused";
    em_api_error_set(&job->failure, 400, "invalid_value", job->call.form_param, "%s", ev->error);
}

static void take_events(em_job *job)
{
    for (em_event *ev = job->taken; ev;) {
        em_event *next = ev->next;
        job->ready = true;
        if (ev->refused)
            refuse(job, ev);
        count_tokens(job, ev);
        if (ev->kind == EM_EVENT_TEXT)
            job->tokens_seen += ev->n_tokens;
        if (ev->last)
            job->finished = true;
        if (ev->kind != EM_EVENT_READY && !job->cut && !job->failure.status) {
            if (job->call.stream)
                add_to_stream(job, ev);
            else
                add_to_reply(job, ev);
        }
        em_event_free(ev);
        ev = next;
    }
    job->taken = NULL;
}

static em_job *take_inbox(em_http *h)
{
    em_job *taken = NULL;
    pthread_mutex_lock(&h->inbox.lock);
    for (em_job *job = h->inbox.ready; job; job = job->next_ready) {
        job->in_ready = false;
        job->taken = job->events;
        job->events = NULL;
        job->events_tail = &job->events;
        job->events_bytes = 0;
        job->next_taken = taken;
        taken = job;
    }
    h->inbox.ready = NULL;
    pthread_mutex_unlock(&h->inbox.lock);
    return taken;
}

void em_job_take_ready(em_http *h)
{
    for (em_job *job = take_inbox(h), *next; job; job = next) {
        next = job->next_taken;
        bool overflow = job->overflow; /* set once, before the news that brought us here */
        take_events(job);
        if (overflow)
            em_job_abort(job, 500, "overflow", "the server could not keep up with this answer");
        if (has_news(job))
            resume(job);
        if (job->finished)
            em_exchange_release(job->exchange);
    }
}

void em_job_keepalive(em_http *h, uint64_t now)
{
    for (em_job *job = h->jobs; job; job = job->next)
        if (job->started && job->suspended && now - job->last_write_ns >= h->config->keepalive_interval) {
            em_buf_puts(&job->out, ": keep-alive\n\n");
            resume(job);
        }
}
