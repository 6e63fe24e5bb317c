/* What every test of api/ needs: a context, and checks that what was written is JSON. */
#ifndef EM_TESTS_API_CHECK_H
#define EM_TESTS_API_CHECK_H

#include <check.h>
#include <cjson/cJSON.h>
#include <string.h>

#include "api/completion_request.h"
#include "engine/base/json.h"

static const char *const api_model_names[] = {"pocket", "alias \"two\""};

static inline em_api_context api_context(const em_engine *engine)
{
    return (em_api_context){.engine = engine,
                            .model_names = api_model_names,
                            .n_model_names = 2,
                            .max_prompts = 8,
                            .max_choices = 256,
                            .max_n = 128,
                            .max_stops = 16,
                            .max_stop_bytes = 32,
                            .max_logit_bias = EM_MAX_LOGIT_BIAS,
                            .max_logprobs = 20,
                            .max_cache_salt_bytes = 256,
                            .max_depth = 64};
}

/* One strict JSON value and nothing else, by our own reader (cJSON would let much pass). */
static inline void check_json(const char *text, size_t len)
{
    em_json j;
    em_json_init(&j, text, len, 0);
    em_json_type t;
    while ((t = em_json_next(&j)) != EM_JSON_END)
        ck_assert_msg(t != EM_JSON_ERROR, "%s at %zu in: %.*s", em_json_error(&j), em_json_offset(&j), (int)len, text);
}

/* The error object has its four keys; param begins with the name (NULL: any; "": null). */
static inline void check_error(const em_api_error *err, int status, const char *param, const char *code,
                               const char *what)
{
    em_buf out = {0};
    ck_assert_int_eq(em_api_error_json(err, &out), 0);
    check_json(out.data, out.len);
    cJSON *tree = cJSON_Parse(out.data);
    const cJSON *e = cJSON_GetObjectItemCaseSensitive(tree, "error");
    const cJSON *message = cJSON_GetObjectItemCaseSensitive(e, "message");
    const cJSON *got_param = cJSON_GetObjectItemCaseSensitive(e, "param");
    const cJSON *got_code = cJSON_GetObjectItemCaseSensitive(e, "code");
    ck_assert_int_eq(cJSON_GetArraySize(e), 4);
    ck_assert_msg(cJSON_IsString(message) && *message->valuestring, "no message: %s", what);
    ck_assert_str_eq(cJSON_GetObjectItemCaseSensitive(e, "type")->valuestring,
                     status < 500 ? "invalid_request_error" : "server_error");
    ck_assert_msg(err->status == status, "status %d for %s: %s", err->status, what, out.data);
    if (param && !*param)
        ck_assert_msg(cJSON_IsNull(got_param), "param of %s: %s", what, out.data);
    else if (param)
        ck_assert_msg(cJSON_IsString(got_param) && !strncmp(got_param->valuestring, param, strlen(param)),
                      "param of %s: %s", what, out.data);
    ck_assert_msg(cJSON_IsString(got_code) && !strcmp(got_code->valuestring, code), "code of %s: %s", what, out.data);
    cJSON_Delete(tree);
    em_buf_done(&out);
}

#endif
