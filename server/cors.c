#include "server/cors.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#define MAX_ASKED_HEADERS 1024 /* bytes of Access-Control-Request-Headers that are given back */
#define EXPOSED "X-Request-Id, Retry-After"
#define USUAL_HEADERS "Authorization, Content-Type, X-Api-Key, X-Request-Id"

static bool origin_ok(const char *s)
{
    const char *sep = strstr(s, "://");
    if (strcmp(s, "*") == 0 || strcmp(s, "null") == 0)
        return true;
    if (!sep || sep == s || !sep[3] || strpbrk(sep + 3, "/?#@"))
        return false;
    for (const char *p = s; *p; p++)
        if (*p <= ' ' || *p >= 0x7f || (*p >= 'A' && *p <= 'Z'))
            return false;
    return true;
}

int em_cors_check(const em_config *c, em_error *err)
{
    for (int i = 0; i < c->cors_origin.n; i++)
        if (!origin_ok(c->cors_origin.s[i]))
            return em_error_set(err, -EINVAL,
                                "--cors-origin: \"%.200s\" is no origin; write it like https://app.example:8443 (small "
                                "letters, no path), or *",
                                c->cors_origin.s[i]);
    return 0;
}

static const char *header(const em_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, name);
}

/* What Access-Control-Allow-Origin says; NULL: the origin is not allowed, or the request has none. */
static const char *allowed_origin(const em_exchange *x)
{
    const em_strings *allowed = &x->http->config->cors_origin;
    const char *origin = allowed->n ? header(x, "Origin") : NULL;
    for (int i = 0; origin && i < allowed->n; i++) {
        if (strcmp(allowed->s[i], "*") == 0)
            return "*";
        if (strcasecmp(allowed->s[i], origin) == 0)
            return allowed->s[i];
    }
    return NULL;
}

bool em_cors_is_preflight(const em_exchange *x)
{
    return strcmp(x->method, "OPTIONS") == 0 && header(x, "Access-Control-Request-Method") && allowed_origin(x);
}

/* Clients of OpenAI's send many headers of their own; a list of header names is harmless whatever it names. */
static const char *allowed_headers(const em_exchange *x)
{
    static const char list[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_, ";
    const char *asked = header(x, "Access-Control-Request-Headers");
    bool ok = asked && *asked && strlen(asked) <= MAX_ASKED_HEADERS && !asked[strspn(asked, list)];
    return ok ? asked : USUAL_HEADERS;
}

void em_cors_add_headers(const em_exchange *x, struct MHD_Response *response)
{
    const char *origin = allowed_origin(x);
    if (x->http->config->cors_origin.n)
        MHD_add_response_header(response, MHD_HTTP_HEADER_VARY, "Origin"); /* caches must not mix origins */
    if (!origin)
        return;
    MHD_add_response_header(response, "Access-Control-Allow-Origin", origin);
    MHD_add_response_header(response, "Access-Control-Expose-Headers", EXPOSED);
    if (!em_cors_is_preflight(x))
        return;
    MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, HEAD, POST");
    MHD_add_response_header(response, "Access-Control-Allow-Headers", allowed_headers(x));
    MHD_add_response_header(response, "Access-Control-Max-Age", "600");
}
