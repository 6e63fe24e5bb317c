#include "api/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "api/json_out.h"
#include "engine/base/utf8.h"

/* A cut in the middle of a character must not leave half of it. */
static void cut_at_character(char *s)
{
    size_t len = strlen(s), p = 0;
    while (p < len) {
        uint32_t cp;
        int n = em_utf8_decode((const uint8_t *)s + p, len - p, &cp);
        if (n == 0)
            break;
        p += n > 0 ? (size_t)n : (size_t)-n;
    }
    s[p] = '\0';
}

static const char *type_of_status(int status)
{
    if (status == 429)
        return "rate_limit_error";
    return status >= 400 && status < 500 ? "invalid_request_error" : "server_error";
}

int em_api_error_set(em_api_error *err, int status, const char *code, const char *param, const char *fmt, ...)
{
    if (!err)
        return -EINVAL;
    memset(err, 0, sizeof *err);
    err->status = status;
    err->type = type_of_status(status);
    err->code = code;
    if (param) {
        snprintf(err->param, sizeof err->param, "%s", param);
        cut_at_character(err->param);
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    cut_at_character(err->message);
    return -EINVAL;
}

int em_api_error_json(const em_api_error *err, em_buf *out)
{
    em_buf_puts(out, "{\"error\":{\"message\":");
    em_json_text(out, err->message, strlen(err->message));
    em_buf_puts(out, ",\"type\":");
    const char *type = err->type ? err->type : type_of_status(err->status);
    em_json_text(out, type, strlen(type));
    em_buf_puts(out, ",\"param\":");
    em_json_text_or_null(out, err->param[0] ? err->param : NULL);
    em_buf_puts(out, ",\"code\":");
    em_json_text_or_null(out, err->code);
    em_buf_puts(out, "}}");
    return out->failed ? -ENOMEM : 0;
}
