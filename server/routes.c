/* Which path is what, and the answers that need no engine step. */
#include <errno.h>
#include <string.h>

#include "api/chat_reply.h"
#include "api/models_reply.h"
#include "api/tokenize.h"
#include "server/http.h"
#include "server/page.h"
#include "server/prometheus.h"

static enum MHD_Result health(em_exchange *x)
{
    static const char *const word[] = {"loading", "ok", "draining", "failed"};
    em_service *s = x->http->service;
    em_buf body = {0};
    uint64_t age_ns;
    bool alive = em_service_alive(s, &age_ns);
    double age = (double)age_ns / 1e9;
    if (!alive) {
        em_api_error err = {0};
        em_api_error_set(&err, 503, "stalled", NULL, "the step thread has not moved for %.1f seconds", age);
        return em_reply_error(x, &err);
    }
    em_buf_printf(&body, "{\"status\":\"%s\",\"heartbeat_age_seconds\":%.3f}", word[em_service_get_state(s)], age);
    return em_reply_json(x, 200, &body);
}

/* {"status": ..., "phase": ..., "progress": ..., "error": {...}}: for people, probes and OpenAI clients alike. */
static enum MHD_Result not_ready(em_exchange *x, const char *status, const char *code)
{
    char phase[96];
    double fraction;
    em_api_error err = {0};
    em_buf body = {0}, error = {0};
    em_service_progress(x->http->service, phase, sizeof(phase), &fraction);
    em_api_error_set(&err, 503, code, NULL, "the server is not ready: it is %s", status);
    em_api_error_json(&err, &error);
    em_buf_printf(&body, "{\"status\":\"%s\",\"phase\":", status);
    em_buf_json_string(&body, phase, strlen(phase));
    em_buf_printf(&body, ",\"progress\":%.3f,", fraction);
    if (error.len > 1)
        em_buf_append(&body, error.data + 1, error.len - 1); /* its object goes on where ours is still open */
    else
        body.failed = true;
    em_buf_done(&error);
    return em_reply_json(x, 503, &body);
}

static enum MHD_Result ready(em_exchange *x)
{
    em_buf body = {0};
    uint64_t age_ns;
    switch (em_service_get_state(x->http->service)) {
    case EM_SERVICE_LOADING: return not_ready(x, "loading", "loading");
    case EM_SERVICE_DRAINING: return not_ready(x, "draining", "draining");
    case EM_SERVICE_FAILED: return not_ready(x, "failed", "failed");
    case EM_SERVICE_READY: break;
    }
    if (!em_service_alive(x->http->service, &age_ns))
        return not_ready(x, "stalled", "stalled");
    em_buf_puts(&body, "{\"status\":\"ready\"}");
    return em_reply_json(x, 200, &body);
}

static enum MHD_Result version(em_exchange *x)
{
    em_buf body = {0};
    em_api_version(&body);
    return em_reply_json(x, 200, &body);
}

static enum MHD_Result metrics(em_exchange *x)
{
    em_buf body = {0};
    em_metrics_write(x->http, &body);
    return em_reply_text(x, EM_PROMETHEUS_CONTENT_TYPE, &body);
}

static enum MHD_Result models(em_exchange *x)
{
    em_buf body = {0};
    em_service *s = x->http->service;
    em_api_models(em_service_api(s), em_service_created(s), &body);
    return em_reply_json(x, 200, &body);
}

/* Common end of the pure functions of api/: r is what they returned. */
static enum MHD_Result answer(em_exchange *x, int r, em_buf *body, const em_api_error *err)
{
    if (r == 0)
        return em_reply_json(x, 200, body);
    em_buf_done(body);
    return r == -EINVAL ? em_reply_error(x, err) : em_reply_oom(x);
}

static enum MHD_Result model(em_exchange *x)
{
    em_buf body = {0};
    em_api_error err = {0};
    em_service *s = x->http->service;
    int r = em_api_model(em_service_api(s), x->argument, em_service_created(s), &body, &err);
    return answer(x, r, &body, &err);
}

static enum MHD_Result tokenize(em_exchange *x)
{
    em_buf body = {0};
    em_api_error err = {0};
    int r = em_api_tokenize(em_exchange_body(x), x->body.len, em_service_api(x->http->service), &body, &err);
    return answer(x, r, &body, &err);
}

static enum MHD_Result detokenize(em_exchange *x)
{
    em_buf body = {0};
    em_api_error err = {0};
    int r = em_api_detokenize(em_exchange_body(x), x->body.len, em_service_api(x->http->service), &body, &err);
    return answer(x, r, &body, &err);
}

static enum MHD_Result tokenizer_info(em_exchange *x)
{
    em_buf body = {0};
    em_api_error err = {0};
    int r = em_api_tokenizer_info(em_service_api(x->http->service), &body, &err);
    return answer(x, r, &body, &err);
}

/* clang-format off */
static const em_route routes[] = {
    {"/", .open = true, .handle = em_page_root},
    {"/page/", .prefix = true, .open = true, .handle = em_page_part},
    {"/health", .open = true, .handle = health},
    {"/ready", .open = true, .handle = ready},
    {"/metrics", .handle = metrics},
    {"/version", .handle = version},
    {"/v1/models", .needs_engine = true, .handle = models},
    {"/v1/models/", .prefix = true, .needs_engine = true, .handle = model},
    {"/v1/completions", .post = true, .needs_engine = true, .handle = em_job_start, .endpoint = &em_completion_endpoint},
    {"/v1/chat/completions", .post = true, .needs_engine = true, .handle = em_job_start, .endpoint = &em_chat_endpoint},
    {"/tokenize", .post = true, .needs_engine = true, .handle = tokenize},
    {"/detokenize", .post = true, .needs_engine = true, .handle = detokenize},
    {"/tokenizer_info", .needs_engine = true, .handle = tokenizer_info},
};
/* clang-format on */
#define N_ROUTES (sizeof(routes) / sizeof(routes[0]))
_Static_assert(N_ROUTES < EM_METRICS_HANDLERS, "the last handler is for requests without a route");

static const em_route *find_path(const char *path)
{
    for (size_t i = 0; i < N_ROUTES; i++) {
        const em_route *r = &routes[i];
        size_t len = strlen(r->path);
        if (r->prefix ? strncmp(path, r->path, len) == 0 && path[len] : strcmp(path, r->path) == 0)
            return r;
    }
    return NULL;
}

bool em_route_is_open(const em_exchange *x)
{
    const em_route *r = find_path(x->path);
    return r && (r->open || (x->http->config->public_metrics && strcmp(r->path, "/metrics") == 0));
}

int em_route_index(const em_exchange *x)
{
    const em_route *r = find_path(x->path);
    return r ? (int)(r - routes) : EM_METRICS_HANDLERS - 1;
}

const char *em_route_name(int index)
{
    return (size_t)index < N_ROUTES ? routes[index].path : "none";
}

const char *em_route_allow(const char *path)
{
    if (strcmp(path, "*") == 0)
        return "GET, HEAD, POST, OPTIONS";
    const em_route *r = find_path(path);
    return !r ? NULL : r->post ? "POST, OPTIONS" : "GET, HEAD, OPTIONS";
}

static enum MHD_Result options(em_exchange *x)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, em_route_allow(x->path));
    return em_reply_queue(x, 204, response);
}

static const em_route options_route = {"*", .handle = options};

void em_route_find(em_exchange *x)
{
    em_service_state state = em_service_get_state(x->http->service);
    if (strcmp(x->method, "OPTIONS") == 0 && em_route_allow(x->path)) {
        x->route = &options_route;
        return;
    }
    const em_route *r = find_path(x->path);
    bool fits = r && (r->post ? strcmp(x->method, "POST") == 0
                              : strcmp(x->method, "GET") == 0 || strcmp(x->method, "HEAD") == 0);
    if (!r) {
        em_api_error_set(&x->refusal, 404, "not_found", NULL, "there is nothing at %.200s", x->path);
    } else if (!fits) {
        em_api_error_set(&x->refusal, 405, "method_not_allowed", NULL, "%s answers %s, not %s", r->path,
                         em_route_allow(x->path), x->method);
    } else if (r->needs_engine && state == EM_SERVICE_LOADING) {
        em_api_error_set(&x->refusal, 503, "loading", NULL, "the model is being loaded; /ready tells how far it is");
        x->refusal.retry_after_s = 5;
    } else if (r->needs_engine && state != EM_SERVICE_READY) {
        em_api_error_set(&x->refusal, 503, "draining", NULL, "the server is shutting down; ask another one");
        x->refusal.retry_after_s = 5;
    } else {
        x->route = r;
        x->argument = x->path + strlen(r->path);
    }
}
