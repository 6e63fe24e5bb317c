/* The golden HTTP cases as far as api/ alone decides them: status, param and code of every POST with a body. What the
 * sockets and the model add is checked by the tests of the server. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/body.h"
#include "api/chat_request.h"
#include "api/fields.h"
#include "api/tokenize.h"
#include "tests/support/api_check.h"
#include "tests/support/fake_engine.h"
#include "tests/support/fixtures.h"

static em_engine *engine;
static em_api_context ctx;

static void setup(void)
{
    /* the bundled model, as the cases assume it */
    engine = fake_engine_new(&(em_engine_info){.vocab_size = 6144,
                                               .max_len = 4096,
                                               .bos_id = 0,
                                               .eos_id = 1,
                                               .has_tokenizer = true,
                                               .add_bos = true,
                                               .backend = "fake"});
    static const char *const names[] = {"$MODEL"};
    ctx = api_context(engine);
    ctx.model_names = names;
    ctx.n_model_names = 1;
}

static void teardown(void)
{
    fake_engine_free(engine);
}

static char *string_field(const em_body *line, const char *name, size_t *ret_len)
{
    const em_field *f = em_body_find(line, name);
    if (!f || f->type != EM_JSON_STRING)
        return NULL;
    em_json j;
    em_api_error err;
    char *s = NULL;
    em_field_open(f, &j);
    ck_assert_int_eq(em_value_string(&j, name, &s, ret_len, &err), 0);
    return s;
}

/* The request's body as bytes; NULL when the case has none of this kind. */
static char *body_of(const em_body *line, size_t *ret_len)
{
    const em_field *f = em_body_find(line, "body");
    if (em_body_find(line, "generate"))
        return NULL;
    if (f) {
        *ret_len = f->len;
        return strndup(f->text, f->len);
    }
    char *s = string_field(line, "raw", ret_len);
    if (s || !(s = string_field(line, "raw_hex", ret_len)))
        return s;
    for (size_t i = 0; i < *ret_len / 2; i++) {
        unsigned byte = 0;
        ck_assert_int_eq(sscanf(s + 2 * i, "%2x", &byte), 1);
        s[i] = (char)byte;
    }
    *ret_len /= 2;
    return s;
}

static bool is_chat(const char *path)
{
    return !strcmp(path, "/v1/chat/completions");
}

/* HTTP status that api/ gives; the error when there is one. */
static int status_of(const char *path, const char *body, size_t len, em_api_error *err)
{
    em_buf out = {0};
    em_completion *c = NULL;
    em_chat *chat = NULL;
    int r;
    if (!strcmp(path, "/tokenize"))
        r = em_api_tokenize(body, len, &ctx, &out, err);
    else if (!strcmp(path, "/detokenize"))
        r = em_api_detokenize(body, len, &ctx, &out, err);
    else if (is_chat(path))
        r = em_chat_parse(body, len, &ctx, &chat, err);
    else
        r = em_completion_parse(body, len, &ctx, &c, err);
    em_completion_free(c);
    em_chat_free(chat);
    em_buf_done(&out);
    return r ? err->status : 200;
}

static bool allowed(const cJSON *want, int status)
{
    const cJSON *item;
    if (!cJSON_IsArray(want))
        return want->valueint == status;
    cJSON_ArrayForEach(item, want) if (item->valueint == status) return true;
    return false;
}

/* One key of the error that the case wants: absent, a text, null or a list of texts. For param a longer path counts. */
static bool key_holds(const cJSON *want, const char *got, bool path)
{
    const cJSON *item;
    if (!want || (cJSON_IsNull(want) && !got))
        return true;
    if (cJSON_IsString(want))
        return got &&
               (path ? !strncmp(got, want->valuestring, strlen(want->valuestring)) : !strcmp(got, want->valuestring));
    cJSON_ArrayForEach(item, want) if (key_holds(item, got, path)) return true;
    return false;
}

static int check_case(const char *text, size_t len)
{
    static em_body line;
    em_api_error err = {0};
    ck_assert_int_eq(em_body_read(&line, text, len, 0, &err), 0);
    size_t n, n_group;
    char *name = string_field(&line, "name", &n), *path = string_field(&line, "path", &n);
    char *needs = string_field(&line, "needs", &n), *method = string_field(&line, "method", &n);
    char *body = body_of(&line, &n);
    char *group = string_field(&line, "group", &n_group);
    bool ours = !strcmp(path, "/v1/completions") || !strcmp(path, "/tokenize") || !strcmp(path, "/detokenize");
    ours = ours && !strcmp(needs, "main");
    ours = ours || (is_chat(path) && strcmp(group, "structured") != 0); /* those are the grammar compiler's */
    int done = 0;
    if (body && ours && !strcmp(method, "POST")) {
        cJSON *tree = cJSON_ParseWithLength(text, len);
        const cJSON *error = cJSON_GetObjectItemCaseSensitive(tree, "error");
        int status = status_of(path, body, n, &err);
        ck_assert_msg(allowed(cJSON_GetObjectItemCaseSensitive(tree, "status"), status), "%s: status %d (%s)", name,
                      status, err.message);
        if (status >= 400 && error) {
            const char *param = err.param[0] ? err.param : NULL;
            ck_assert_msg(key_holds(cJSON_GetObjectItemCaseSensitive(error, "type"), err.type, false), "%s", name);
            ck_assert_msg(key_holds(cJSON_GetObjectItemCaseSensitive(error, "code"), err.code, false), "%s", name);
            ck_assert_msg(key_holds(cJSON_GetObjectItemCaseSensitive(error, "param"), param, true), "%s: %s", name,
                          err.param);
        }
        cJSON_Delete(tree);
        done = 1;
    }
    free(name);
    free(path);
    free(needs);
    free(group);
    free(method);
    free(body);
    return done;
}

START_TEST(golden_cases)
{
    char path[1024], *line = NULL;
    FILE *f = fopen(fixture_path(path, sizeof path, "http/cases.jsonl"), "r");
    ck_assert_msg(f != NULL, "no %s", path);
    size_t cap = 0;
    int n = 0;
    for (ssize_t len; (len = getline(&line, &cap, f)) > 0;)
        n += check_case(line, (size_t)len);
    free(line);
    fclose(f);
    printf("%d cases\n", n);
    ck_assert_int_ge(n, 100);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("cases");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, golden_cases);
    Suite *s = suite_create("api-cases");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
