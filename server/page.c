#include "server/page.h"

#include <stdint.h>
#include <string.h>

/* It runs its own scripts and talks to its own server: nothing else, and nobody may frame it. */
#define POLICY                                                                                                         \
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "   \
    "form-action 'none'; frame-ancestors 'none'"

static enum MHD_Result not_here(em_exchange *x)
{
    em_api_error err = {0};
    em_api_error_set(&err, 404, "not_found", NULL, "there is nothing at %.200s", x->path);
    return em_reply_error(x, &err);
}

static enum MHD_Result send_file(em_exchange *x, const em_page_file *file)
{
    const char *known = MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, MHD_HTTP_HEADER_IF_NONE_MATCH);
    bool same = known && strcmp(known, file->etag) == 0;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(same ? 0 : file->len, (void *)(uintptr_t)file->data, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, file->content_type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_ETAG, file->etag);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache"); /* ask whether it has changed */
    MHD_add_response_header(response, "Content-Security-Policy", POLICY);
    MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    return em_reply_queue(x, same ? 304 : 200, response);
}

enum MHD_Result em_page_root(em_exchange *x)
{
    return x->http->config->no_page ? not_here(x) : send_file(x, &em_page_files[0]);
}

enum MHD_Result em_page_part(em_exchange *x)
{
    for (size_t i = 0; i < em_page_n_files && !x->http->config->no_page; i++)
        if (strcmp(x->argument, em_page_files[i].name) == 0)
            return send_file(x, &em_page_files[i]);
    return not_here(x);
}
