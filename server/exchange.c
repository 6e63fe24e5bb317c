/* One request: its header is judged first, then its body collected (or dropped), then its route answers. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/random.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "server/cors.h"
#include "server/http.h"
#include "server/uri.h"

/* A refused body is read and dropped up to this many bytes beyond the limit: a client that does not look for an answer
 * before it has sent everything would otherwise see a broken pipe instead of our sentence. */
#define DISCARD_BYTES (64u << 20)

/* --- the header ---------------------------------------------------------------------------------------------- */

typedef struct framing {
    int n_host, n_length, n_encoding;
    const char *host, *length, *encoding;
    bool expect, http_1_1;
} framing;

static enum MHD_Result note_header(void *cls, enum MHD_ValueKind kind, const char *key, const char *value)
{
    framing *f = cls;
    if (strcasecmp(key, MHD_HTTP_HEADER_HOST) == 0) {
        f->host = value ? value : "";
        f->n_host++;
    } else if (strcasecmp(key, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0) {
        f->length = value ? value : "";
        f->n_length++;
    } else if (strcasecmp(key, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0) {
        f->encoding = value ? value : "";
        f->n_encoding++;
    } else if (strcasecmp(key, MHD_HTTP_HEADER_EXPECT) == 0) {
        f->expect = true;
    }
    return MHD_YES;
}

/* Two programs that read the same bytes differently are how requests are smuggled past a proxy: anything unclear about
 * where a request goes or ends is refused, and the connection ends with it. */
static bool framing_unclear(const framing *f)
{
    return f->n_host > 1 || (f->http_1_1 && f->n_host == 0) || f->n_length > 1 || f->n_encoding > 1 ||
           (f->n_length && f->n_encoding) || (f->n_encoding && strcasecmp(f->encoding, "chunked") != 0) ||
           (f->n_length && (!*f->length || f->length[strspn(f->length, "0123456789")]));
}

static uint64_t content_length(const framing *f)
{
    return f->n_length ? strtoull(f->length, NULL, 10) : 0; /* UINT64_MAX when it overflows: too large, too */
}

static void refuse_body(em_exchange *x)
{
    em_api_error_set(&x->refusal, 413, "body_too_large", NULL, "the body is larger than %" PRId64 " bytes",
                     x->http->config->max_body_bytes);
}

static size_t header_size(struct MHD_Connection *conn)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    return info ? info->header_size : 0;
}

static bool is_probe(const char *path)
{
    return strcmp(path, "/health") == 0 || strcmp(path, "/ready") == 0;
}

/* Fills x->client, or the refusal. */
static void check_key(em_exchange *x)
{
    const em_keys *keys = x->http->keys;
    const char *bearer = em_keys_bearer(MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, "Authorization"));
    const char *key = bearer ? bearer : MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, "X-Api-Key");
    const char *name = keys && key ? em_keys_find(keys, key) : NULL;
    if (name)
        snprintf(x->client, sizeof(x->client), "%s", name);
    else if (keys && !em_route_is_open(x) && !em_cors_is_preflight(x))
        em_api_error_set(&x->refusal, 401, "invalid_api_key", NULL, "%s; send `Authorization: Bearer KEY`",
                         key ? "this API key is not known" : "an API key is needed");
}

/* Fills x->refusal or x->route. */
static void judge(em_exchange *x, const char *url, const framing *f)
{
    const em_config *c = x->http->config;
    int r = em_uri_path(url, x->path, sizeof(x->path));
    if (framing_unclear(f))
        em_api_error_set(
            &x->refusal, 400, "bad_framing", NULL,
            "Host, Content-Length and Transfer-Encoding must say once and clearly where the request goes and ends");
    else if (header_size(x->conn) > (size_t)c->max_header_bytes)
        em_api_error_set(&x->refusal, 431, "header_too_large", NULL, "the header is larger than %" PRId64 " bytes",
                         c->max_header_bytes);
    else if (r == -ENOSPC)
        em_api_error_set(&x->refusal, 414, "path_too_long", NULL, "the path is longer than %zu bytes",
                         sizeof(x->path) - 1);
    else if (r < 0)
        em_api_error_set(&x->refusal, 400, "bad_path", NULL, "the path is malformed, or holds a blank or a NUL");
    else if (!em_host_allowed(c, x->http->loopback, f->host))
        em_api_error_set(&x->refusal, 403, "host_not_allowed", NULL,
                         "this Host header is not served here; --allowed-host adds names");
    else if (x->http->n_peers > c->max_connections && !is_probe(x->path))
        em_api_error_set(&x->refusal, 429, "too_many_connections", NULL, "more than %" PRId64 " connections are open",
                         c->max_connections);
    else if (em_peer_one_too_many(x->http, x->peer) && !is_probe(x->path))
        em_api_error_set(&x->refusal, 429, "too_many_connections", NULL,
                         "more than %" PRId64 " connections are open from this address",
                         c->max_connections_per_address);
    else
        check_key(x);
    if (!x->refusal.status)
        em_route_find(x);
    if (x->refusal.status == 429)
        x->refusal.retry_after_s = 1;
    if (!x->refusal.status && content_length(f) > (uint64_t)c->max_body_bytes)
        refuse_body(x);
}

/* Refusals that do not wait for the body; libmicrohttpd closes the connection behind them. */
static bool answer_at_once(const em_exchange *x, const framing *f)
{
    if (!x->refusal.status)
        return false;
    return f->expect || framing_unclear(f) ||
           content_length(f) > (uint64_t)x->http->config->max_body_bytes + DISCARD_BYTES;
}

/* One system call for many ids: it would be a quarter of those that a plain GET takes. */
static uint64_t random_bits(em_http *h)
{
    if (h->n_random == 0) {
        if (getrandom(h->random, sizeof(h->random), 0) != (ssize_t)sizeof(h->random))
            return em_now_ns() ^ (uint64_t)(uintptr_t)h;
        h->n_random = EM_RANDOM_WORDS;
    }
    return h->random[--h->n_random];
}

static void choose_id(em_exchange *x)
{
    const char *given = MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, "X-Request-Id");
    if (given && em_request_id_ok(given))
        snprintf(x->id, sizeof(x->id), "%s", given);
    else
        snprintf(x->id, sizeof(x->id), "req-%016" PRIx64, random_bits(x->http));
}

static enum MHD_Result begin(em_http *h, struct MHD_Connection *conn, const char *url, const char *method,
                             const char *version, void **con_cls)
{
    framing f = {.http_1_1 = strcmp(version, MHD_HTTP_VERSION_1_0) != 0};
    em_peer *peer = em_peer_of(conn);
    em_exchange *x = peer ? calloc(1, sizeof(*x)) : NULL;
    if (!x)
        return MHD_NO; /* out of memory: the connection is closed */
    *con_cls = x;
    h->n_exchanges++;
    x->http = h;
    x->conn = conn;
    x->peer = peer;
    x->start_ns = em_now_ns();
    snprintf(x->method, sizeof(x->method), "%s", method);
    choose_id(x);
    MHD_get_connection_values(conn, MHD_HEADER_KIND, note_header, &f);
    judge(x, url, &f);
    peer->deadline_ns = f.n_length || f.n_encoding ? x->start_ns + h->config->body_timeout : 0;
    if (peer->deadline_ns) /* libmicrohttpd misses an end that comes together with a part of the body */
        em_exchange_watch(x);
    return answer_at_once(x, &f) ? em_reply_error(x, &x->refusal) : MHD_YES;
}

/* --- the body ------------------------------------------------------------------------------------------------ */

const char *em_exchange_body(const em_exchange *x)
{
    return x->body.data ? x->body.data : "";
}

void em_exchange_drop_body(em_exchange *x)
{
    x->http->body_bytes -= x->body.len;
    em_buf_done(&x->body);
    x->body = (em_buf){0};
}

static void store_body(em_exchange *x, const char *data, size_t size)
{
    const em_config *c = x->http->config;
    if (x->http->body_bytes + size > (size_t)c->max_total_body_bytes) {
        em_api_error_set(&x->refusal, 503, "overloaded", NULL, "too many large requests are being received; try again");
        x->refusal.retry_after_s = 1;
    } else if (em_buf_append(&x->body, data, size) < 0) {
        em_api_error_set(&x->refusal, 503, "out_of_memory", NULL, "out of memory");
    } else {
        x->http->body_bytes += size;
    }
}

static enum MHD_Result take_body(em_exchange *x, const char *data, size_t *size)
{
    uint64_t limit = (uint64_t)x->http->config->max_body_bytes;
    x->body_seen += *size;
    if (!x->refusal.status && x->body_seen > limit)
        refuse_body(x);
    else if (!x->refusal.status && x->route->post)
        store_body(x, data, *size);
    if (x->refusal.status)
        em_exchange_drop_body(x);
    *size = 0;
    return x->body_seen > limit + DISCARD_BYTES ? MHD_NO : MHD_YES;
}

enum MHD_Result em_exchange_handle(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
                                   const char *version, const char *upload_data, size_t *upload_data_size,
                                   void **con_cls)
{
    em_exchange *x = *con_cls;
    if (!x)
        return begin(cls, conn, url, method, version, con_cls);
    if (*upload_data_size)
        return take_body(x, upload_data, upload_data_size);
    x->peer->deadline_ns = 0;
    if (x->job)
        return em_job_answer(x);
    return x->refusal.status ? em_reply_error(x, &x->refusal) : x->route->handle(x);
}

/* --- a client that leaves ------------------------------------------------------------------------------------- */

void em_exchange_watch(em_exchange *x)
{
    struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLONESHOT, .data.ptr = x};
    int op = x->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    x->watched = epoll_ctl(x->http->watch_fd, op, x->peer->fd, &ev) == 0;
}

void em_exchange_unwatch(em_exchange *x)
{
    if (x->watched)
        epoll_ctl(x->http->watch_fd, EPOLL_CTL_DEL, x->peer->fd, NULL);
    x->watched = false;
}

/* --- the end ------------------------------------------------------------------------------------------------- */

static void access_line(const em_exchange *x)
{
    double ms = (double)(em_now_ns() - x->start_ns) / 1e6;
    const em_job *job = x->job;
    int status = x->status ? x->status : 499; /* the client left before an answer */
    const char *by = x->client[0] ? " client=" : "";
    if (job)
        em_log(EM_LOG_INFO, x->id,
               "%s %.200s %d prompt_tokens=%" PRId64 " completion_tokens=%" PRId64 " end=%s%s%s %.1f ms", x->method,
               x->path, status, job->prompt_tokens, job->completion_tokens, job->end ? job->end : "done", by, x->client,
               ms);
    else
        em_log(EM_LOG_INFO, x->id, "%s %.200s %d%s%s %.1f ms", x->method, x->path, status, by, x->client, ms);
}

void em_exchange_release(em_exchange *x)
{
    if (x->conn || (x->job && !x->job->finished))
        return;
    em_http_counts_answer(&x->http->counts, em_route_index(x), x->method, x->status ? x->status : 499);
    access_line(x);
    em_exchange_drop_body(x);
    em_job_free(x->job);
    x->http->n_exchanges--;
    free(x);
}

void em_exchange_completed(void *cls, struct MHD_Connection *conn, void **con_cls, enum MHD_RequestTerminationCode why)
{
    em_exchange *x = *con_cls;
    if (!x)
        return;
    *con_cls = NULL;
    em_exchange_unwatch(x);
    /* the next request of this connection: libmicrohttpd minds the silence before it, we the time for its header */
    x->peer->deadline_ns = em_now_ns() + x->http->config->idle_timeout + x->http->config->header_timeout;
    x->peer = NULL;
    x->conn = NULL;
    em_exchange_drop_body(x);
    if (x->job)
        em_job_client_gone(x->job);
    em_exchange_release(x);
}
