/* OpenAI's error object: {"error": {"message", "type", "param", "code"}}, all four keys always there. */
#ifndef EM_API_ERROR_H
#define EM_API_ERROR_H

#include <stdbool.h>

#include "engine/base/buf.h"

typedef struct em_api_error {
    int status;        /* HTTP */
    const char *type;  /* static: "invalid_request_error", "server_error", ... */
    const char *code;  /* static: "out_of_range", "model_not_found", ...; NULL: null */
    char param[160];   /* field or path ("prompt[3]"); empty: null */
    char message[640]; /* names the parameter, says what was expected and what came */
    int retry_after_s; /* > 0: Retry-After header */
} em_api_error;

/* Fills err and returns -EINVAL. param may be NULL. type follows from status: 4xx invalid_request_error (429:
 * rate_limit_error), else server_error. */
int em_api_error_set(em_api_error *err, int status, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Appends the JSON object. */
int em_api_error_json(const em_api_error *err, em_buf *out);

#endif
