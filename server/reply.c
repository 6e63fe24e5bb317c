#include <stdio.h>
#include <stdlib.h>

#include "server/cors.h"
#include "server/http.h"

enum MHD_Result em_reply_queue(em_exchange *x, int status, struct MHD_Response *response)
{
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "X-Request-Id", x->id);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    em_cors_add_headers(x, response);
    enum MHD_Result r = MHD_queue_response(x->conn, (unsigned)status, response);
    MHD_destroy_response(response);
    if (r == MHD_YES)
        x->status = status;
    return r;
}

static struct MHD_Response *text_response(em_buf *body, const char *content_type)
{
    struct MHD_Response *response = NULL;
    if (!body->failed && body->data)
        response = MHD_create_response_from_buffer(body->len, body->data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        em_buf_done(body);
        return NULL;
    }
    *body = (em_buf){0}; /* the text is the response's now */
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    return response;
}

enum MHD_Result em_reply_json(em_exchange *x, int status, em_buf *body)
{
    struct MHD_Response *response = text_response(body, "application/json");
    return response ? em_reply_queue(x, status, response) : em_reply_oom(x);
}

enum MHD_Result em_reply_text(em_exchange *x, const char *content_type, em_buf *body)
{
    struct MHD_Response *response = text_response(body, content_type);
    return response ? em_reply_queue(x, 200, response) : em_reply_oom(x);
}

enum MHD_Result em_reply_error(em_exchange *x, const em_api_error *err)
{
    char seconds[16];
    em_buf body = {0};
    em_api_error_json(err, &body);
    struct MHD_Response *response = text_response(&body, "application/json");
    if (!response)
        return em_reply_oom(x);
    if (err->retry_after_s > 0) {
        snprintf(seconds, sizeof(seconds), "%d", err->retry_after_s);
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    const char *allow = err->status == 405 ? em_route_allow(x->path) : NULL;
    if (allow)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
    if (err->status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (err->status == 500)
        MHD_add_response_header(response, "X-Should-Retry", "false"); /* the same request would fail again */
    return em_reply_queue(x, err->status, response);
}

enum MHD_Result em_reply_oom(em_exchange *x)
{
    static const char text[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,"
                               "\"code\":\"out_of_memory\"}}";
    struct MHD_Response *response =
        MHD_create_response_from_buffer(sizeof(text) - 1, (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
    if (response)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    return em_reply_queue(x, 500, response);
}
