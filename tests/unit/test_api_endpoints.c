/* /tokenize, /detokenize, /v1/models, /version and the error object. */
#include <check.h>
#include <stdlib.h>

#include "api/models_reply.h"
#include "api/tokenize.h"
#include "tests/support/api_check.h"
#include "tests/support/fake_engine.h"

static em_engine *engine;
static em_api_context ctx;
static em_buf out;

static void setup(void)
{
    engine = fake_engine_new(NULL);
    ctx = api_context(engine);
}

static void teardown(void)
{
    fake_engine_free(engine);
    em_buf_done(&out);
}

static const struct {
    bool detokenize;
    const char *body, *reply;
} good[] = {
    {false, "{\"prompt\":\"ab\"}", "{\"tokens\":[256,97,98],\"count\":3,\"max_model_len\":64}"},
    {false, "{\"prompt\":\"<eos>\"}", "{\"tokens\":[256,257],\"count\":2,\"max_model_len\":64}"},
    {false, "{\"prompt\":\"<eos>\",\"add_special_tokens\":false}",
     "{\"tokens\":[257],\"count\":1,\"max_model_len\":64}"},
    {false, "{\"prompt\":\"\"}", "{\"tokens\":[256],\"count\":1,\"max_model_len\":64}"},
    {false, "{\"prompt\":\"\",\"add_special_tokens\":false}", "{\"tokens\":[],\"count\":0,\"max_model_len\":64}"},
    {false, "{\"prompt\":\"\\u00e9\",\"model\":\"pocket\",\"add_special_tokens\":null}",
     "{\"tokens\":[256,195,169],\"count\":3,\"max_model_len\":64}"},
    {true, "{\"tokens\":[97,98]}", "{\"prompt\":\"ab\"}"},
    {true, "{\"tokens\":[]}", "{\"prompt\":\"\"}"},
    {true, "{\"tokens\":[256,195,169,34,257]}", "{\"prompt\":\"<bos>\xc3\xa9\\\"<eos>\"}"},
    {true, "{\"tokens\":[97,240,159,98,195],\"model\":\"pocket\"}",
     "{\"prompt\":\"a\xef\xbf\xbd"
     "b\xef\xbf\xbd\"}"},
    {true, "{\"tokens\":[97.0,9.8e1]}", "{\"prompt\":\"ab\"}"},
};

START_TEST(answers)
{
    em_api_error err = {0};
    const char *b = good[_i].body;
    int r = (good[_i].detokenize ? em_api_detokenize : em_api_tokenize)(b, strlen(b), &ctx, &out, &err);
    ck_assert_msg(r == 0, "%s: %s", b, err.message);
    check_json(out.data, out.len);
    ck_assert_str_eq(out.data, good[_i].reply);
}
END_TEST

static const struct {
    bool detokenize;
    const char *body;
    int status;
    const char *param, *code;
} bad[] = {
    {false, "", 400, "", "invalid_json"},
    {false, "hello", 400, "", "invalid_json"},
    {false, "{}", 400, "prompt", "missing_required_parameter"},
    {false, "{\"prompt\":null}", 400, "prompt", "missing_required_parameter"},
    {false, "{\"prompt\":5}", 400, "prompt", "invalid_type"},
    {false, "{\"prompt\":[1]}", 400, "prompt", "invalid_type"},
    {false, "{\"prompt\":\"a\",\"add_special_tokens\":\"yes\"}", 400, "add_special_tokens", "invalid_type"},
    {false, "{\"prompt\":\"a\",\"x\":1}", 400, "x", "unknown_parameter"},
    {false, "{\"prompt\":\"a\",\"model\":\"b\"}", 404, "model", "model_not_found"},
    {false, "{\"messages\":\"Hi\"}", 400, "messages", "invalid_type"},
    {false, "{\"prompt\":\"\\u0000\"}", 400, "prompt", "invalid_value"},
    {true, "{}", 400, "tokens", "missing_required_parameter"},
    {true, "{\"tokens\":\"a\"}", 400, "tokens", "invalid_type"},
    {true, "{\"tokens\":[1.5]}", 400, "tokens[0]", "invalid_type"},
    {true, "{\"tokens\":[[1]]}", 400, "tokens[0]", "invalid_type"},
    {true, "{\"tokens\":[1,260]}", 400, "tokens[1]", "out_of_range"},
    {true, "{\"tokens\":[-1]}", 400, "tokens[0]", "out_of_range"},
    {true, "{\"tokens\":[4294967297]}", 400, "tokens[0]", "out_of_range"},
    {true, "{\"tokens\":[1],\"prompt\":\"a\"}", 400, "prompt", "unknown_parameter"},
};

START_TEST(refuses)
{
    em_api_error err = {0};
    const char *b = bad[_i].body;
    int r = (bad[_i].detokenize ? em_api_detokenize : em_api_tokenize)(b, strlen(b), &ctx, &out, &err);
    ck_assert_msg(r == -22, "accepted: %s", b);
    ck_assert_uint_eq(out.len, 0);
    check_error(&err, bad[_i].status, bad[_i].param, bad[_i].code, b);
}
END_TEST

/* A long text is no error here: learning its length is what the endpoint is for. */
START_TEST(longer_than_the_context)
{
    em_buf body = {0};
    em_buf_puts(&body, "{\"prompt\":\"");
    for (int i = 0; i < 10000; i++)
        em_buf_append(&body, "a", 1);
    em_buf_puts(&body, "\"}");
    em_api_error err = {0};
    ck_assert_int_eq(em_api_tokenize(body.data, body.len, &ctx, &out, &err), 0);
    ck_assert_ptr_nonnull(strstr(out.data, "],\"count\":10001,"));
    em_buf_done(&body);
}
END_TEST

START_TEST(no_tokenizer)
{
    em_engine_info info;
    em_engine_get_info(engine, &info);
    info.has_tokenizer = false;
    fake_engine_free(engine);
    ctx.engine = engine = fake_engine_new(&info);
    em_api_error err = {0};
    ck_assert_int_eq(em_api_tokenize("{\"prompt\":\"a\"}", 14, &ctx, &out, &err), -22);
    check_error(&err, 400, "prompt", "no_tokenizer", "tokenize");
    ck_assert_int_eq(em_api_detokenize("{\"tokens\":[1]}", 14, &ctx, &out, &err), -22);
    check_error(&err, 400, "tokens", "no_tokenizer", "detokenize");
    ck_assert_int_eq(em_api_tokenizer_info(&ctx, &out, &err), -22);
    check_error(&err, 404, "", "no_tokenizer", "tokenizer_info");
}
END_TEST

START_TEST(tokenizer_info)
{
    em_api_error err = {0};
    ck_assert_int_eq(em_api_tokenizer_info(&ctx, &out, &err), 0);
    check_json(out.data, out.len);
    ck_assert_str_eq(out.data, "{\"tokenizer_class\":\"engramd\",\"bos_token\":\"<bos>\",\"bos_token_id\":256,"
                               "\"eos_token\":\"<eos>\",\"eos_token_id\":257,\"add_bos_token\":true,"
                               "\"vocab_size\":260,\"model_max_length\":64,\"chat_template\":null}");
    em_engine_info info;
    em_engine_get_info(engine, &info);
    info.bos_id = -1;
    fake_engine_free(engine);
    ctx.engine = engine = fake_engine_new(&info);
    em_buf_clear(&out);
    ck_assert_int_eq(em_api_tokenizer_info(&ctx, &out, &err), 0);
    ck_assert_ptr_nonnull(strstr(out.data, "\"bos_token\":null,\"bos_token_id\":null,"));
}
END_TEST

#define MODEL(id)                                                                                                      \
    "{\"id\":" id                                                                                                      \
    ",\"object\":\"model\",\"created\":5,\"owned_by\":\"engramd\",\"root\":\"pocket\",\"max_model_len\":64}"

START_TEST(models)
{
    ck_assert_int_eq(em_api_models(&ctx, 5, &out), 0);
    check_json(out.data, out.len);
    ck_assert_str_eq(out.data,
                     "{\"object\":\"list\",\"data\":[" MODEL("\"pocket\"") "," MODEL("\"alias \\\"two\\\"\"") "]}");
    em_buf_clear(&out);
    em_api_error err = {0};
    ck_assert_int_eq(em_api_model(&ctx, "alias \"two\"", 5, &out, &err), 0);
    ck_assert_str_eq(out.data, MODEL("\"alias \\\"two\\\"\""));
    ck_assert_int_eq(em_api_model(&ctx, "Pocket", 5, &out, &err), -22);
    check_error(&err, 404, "model", "model_not_found", "case matters");
    ck_assert_int_eq(em_api_model(&ctx, "\xff\"\n", 5, &out, &err), -22);
    check_error(&err, 404, "model", "model_not_found", "broken UTF-8 from a path");
}
END_TEST

START_TEST(version)
{
    ck_assert_int_eq(em_api_version(&out), 0);
    check_json(out.data, out.len);
    ck_assert_int_eq(strncmp(out.data, "{\"version\":\"", 12), 0);
}
END_TEST

START_TEST(error_object)
{
    em_api_error err = {0};
    ck_assert_int_eq(em_api_error_set(&err, 429, "queue_full", NULL, "busy"), -22);
    em_api_error_json(&err, &out);
    ck_assert_str_eq(out.data, "{\"error\":{\"message\":\"busy\",\"type\":\"rate_limit_error\",\"param\":null,"
                               "\"code\":\"queue_full\"}}");
    em_buf_clear(&out);
    em_api_error_set(&err, 500, NULL, "a\"b", "%s", "x");
    em_api_error_json(&err, &out);
    ck_assert_str_eq(out.data,
                     "{\"error\":{\"message\":\"x\",\"type\":\"server_error\",\"param\":\"a\\\"b\",\"code\":null}}");
    ck_assert_int_eq(em_api_error_set(NULL, 400, "x", NULL, "y"), -22);
}
END_TEST

/* A text too long for its place is cut between characters. */
START_TEST(error_text_is_cut)
{
    char text[2000];
    for (size_t i = 0; i < 1998; i += 3)
        memcpy(text + i, "\xe2\x82\xac", 3);
    text[1998] = '\0';
    em_api_error err = {0};
    em_api_error_set(&err, 400, "x", text, "%s", text);
    ck_assert_uint_eq(strlen(err.message), (sizeof err.message - 1) / 3 * 3);
    ck_assert_uint_eq(strlen(err.param), (sizeof err.param - 1) / 3 * 3);
    em_api_error_json(&err, &out);
    check_json(out.data, out.len);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("endpoints");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, answers, 0, sizeof good / sizeof *good);
    tcase_add_loop_test(t, refuses, 0, sizeof bad / sizeof *bad);
    tcase_add_test(t, longer_than_the_context);
    tcase_add_test(t, no_tokenizer);
    tcase_add_test(t, tokenizer_info);
    tcase_add_test(t, models);
    tcase_add_test(t, version);
    tcase_add_test(t, error_object);
    tcase_add_test(t, error_text_is_cut);
    Suite *s = suite_create("api-endpoints");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
