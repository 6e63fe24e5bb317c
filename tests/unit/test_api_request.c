/* Bodies of /v1/completions -> em_completion, or an error that names the field. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "tests/support/api_check.h"
#include "tests/support/fake_engine.h"

static em_engine *engine;

static void setup(void)
{
    engine = fake_engine_new(NULL);
}

static void teardown(void)
{
    fake_engine_free(engine);
}

static em_completion *parse(const char *body)
{
    em_api_context ctx = api_context(engine);
    em_completion *c = NULL;
    em_api_error err = {0};
    int r = em_completion_parse(body, strlen(body), &ctx, &c, &err);
    ck_assert_msg(r == 0, "%s refused: %s", body, err.message);
    return c;
}

/* --- refused ------------------------------------------------------------------------------------------------ */

typedef struct bad_case {
    const char *body;
    const char *param; /* "" for null */
    const char *code;
} bad_case;

#define P "\"prompt\":\"a\","

static const bad_case bad[] = {
    /* not JSON, or not a body */
    {"", "", "invalid_json"},
    {" \r\n\t ", "", "invalid_json"},
    {"hello", "", "invalid_json"},
    {"[]", "", "invalid_json"},
    {"\"prompt\"", "", "invalid_json"},
    {"{", "", "invalid_json"},
    {"{\"prompt\":\"a", "prompt", "invalid_json"},
    {"{\"prompt\":\"a\"", "", "invalid_json"},
    {"{\"prompt\":\"a\",}", "", "invalid_json"},
    {"{\"prompt\":\"a\"}x", "", "invalid_json"},
    {"{\"prompt\":[300]}{\"prompt\":[300]}", "", "invalid_json"},
    {"{\"prompt\":\"a\" \"n\":1}", "", "invalid_json"},
    {"{'prompt':'a'}", "", "invalid_json"},
    {"\xef\xbb\xbf{\"prompt\":\"a\"}", "", "invalid_json"},
    {"{\"prompt\":\"a\\x41\"}", "prompt", "invalid_json"},
    {"{\"prompt\":\"\\ud800\"}", "prompt", "invalid_json"},
    {"{\"prompt\":\"\\ud83d\\u0041\"}", "prompt", "invalid_json"},
    {"{\"prompt\":\"a\nb\"}", "prompt", "invalid_json"},
    {"{\"prompt\":\"\xff\"}", "prompt", "invalid_json"},
    {"{\"prompt\":\"\xc0\xaf\"}", "prompt", "invalid_json"},
    {"{\"prompt\":\"\xed\xa0\x80\"}", "prompt", "invalid_json"},
    {"{\"prompt\":\"\xf4\x90\x80\x80\"}", "prompt", "invalid_json"},
    {"{" P "\"user\":\"\xff\"}", "user", "invalid_json"},
    {"{" P "\"temperature\":Infinity}", "temperature", "invalid_json"},
    {"{" P "\"temperature\":NaN}", "temperature", "invalid_json"},
    {"{" P "\"temperature\":0x1}", "", "invalid_json"},
    {"{" P "\"temperature\":1e}", "temperature", "invalid_json"},
    {"{" P "\"temperature\":.5}", "temperature", "invalid_json"},
    {"{" P "\"temperature\":01}", "temperature", "invalid_json"},
    {"{\"prompt\":\"a\\u0000b\"}", "prompt", "invalid_value"},
    {"{" P "\"stop\":\"x\\u0000\"}", "stop", "invalid_value"},
    {"{" P "\"metadata\":{\"a\":[\"\\u0000\"]}}", "metadata", "invalid_value"},
    {"{" P "\"metadata\":{\"\\u0000\":1}}", "metadata", "invalid_value"},
    {"{" P "\"a\\u0000\":1}", "", "invalid_value"},
    {"{" P "\"n\":1,\"n\":1}", "n", "duplicate_parameter"},
    {"{" P "\"n\":1,\"\\u006e\":1}", "n", "duplicate_parameter"},
    /* prompt */
    {"{}", "prompt", "missing_required_parameter"},
    {"{\"prompt\":null}", "prompt", "missing_required_parameter"},
    {"{\"prompt\":5}", "prompt", "invalid_type"},
    {"{\"prompt\":true}", "prompt", "invalid_type"},
    {"{\"prompt\":{}}", "prompt", "invalid_type"},
    {"{\"prompt\":[]}", "prompt", "invalid_value"},
    {"{\"prompt\":[[]]}", "prompt[0]", "invalid_value"},
    {"{\"prompt\":[[1],[]]}", "prompt[1]", "invalid_value"},
    {"{\"prompt\":[[\"a\"]]}", "prompt[0][0]", "invalid_type"},
    {"{\"prompt\":[[[1]]]}", "prompt[0][0]", "invalid_type"},
    {"{\"prompt\":[null]}", "prompt[0]", "invalid_type"},
    {"{\"prompt\":[true]}", "prompt[0]", "invalid_type"},
    {"{\"prompt\":[{}]}", "prompt[0]", "invalid_type"},
    {"{\"prompt\":[1,\"a\"]}", "prompt[1]", "invalid_type"},
    {"{\"prompt\":[\"a\",1]}", "prompt[1]", "invalid_type"},
    {"{\"prompt\":[\"a\",[1]]}", "prompt[1]", "invalid_type"},
    {"{\"prompt\":[[1],\"a\"]}", "prompt[1]", "invalid_type"},
    {"{\"prompt\":[[1],2]}", "prompt[1]", "invalid_type"},
    {"{\"prompt\":[1.5]}", "prompt[0]", "invalid_type"},
    {"{\"prompt\":[1,2,-1]}", "prompt[2]", "out_of_range"},
    {"{\"prompt\":[0,1,2,3,4,5,6,260]}", "prompt[7]", "out_of_range"},
    {"{\"prompt\":[[1],[2,260]]}", "prompt[1][1]", "out_of_range"},
    {"{\"prompt\":[4294967297]}", "prompt[0]", "out_of_range"},
    {"{\"prompt\":[18446744073709551617]}", "prompt[0]", "out_of_range"},
    {"{\"prompt\":[1e400]}", "prompt[0]", "out_of_range"},
    {"{\"prompt\":[\"\",\"a\",\"\",\"a\",\"\",\"a\",\"\",\"a\",\"a\"]}", "prompt", "out_of_range"},
    /* numbers */
    {"{" P "\"max_tokens\":-3}", "max_tokens", "out_of_range"},
    {"{" P "\"priority\":2147483648}", "priority", "out_of_range"},
    {"{" P "\"priority\":-2147483649}", "priority", "out_of_range"},
    {"{" P "\"priority\":\"high\"}", "priority", "invalid_type"},
    {"{" P "\"priority\":0.5}", "priority", "invalid_type"},
    {"{" P "\"timeout\":0}", "timeout", "out_of_range"},
    {"{" P "\"timeout\":-1}", "timeout", "out_of_range"},
    {"{" P "\"timeout\":2592001}", "timeout", "out_of_range"},
    {"{" P "\"timeout\":1e999}", "timeout", "out_of_range"},
    {"{" P "\"timeout\":\"x\"}", "timeout", "invalid_type"},
    {"{" P "\"cache_salt\":\"\"}", "cache_salt", "out_of_range"},
    {"{" P "\"cache_salt\":5}", "cache_salt", "invalid_type"},
    {"{" P "\"cache_salt\":\"a\\u0000b\"}", "cache_salt", "invalid_value"},
    {"{" P "\"max_tokens\":65}", "max_tokens", "out_of_range"},
    {"{" P "\"max_tokens\":18446744073709551616}", "max_tokens", "out_of_range"},
    {"{" P "\"max_tokens\":1e400}", "max_tokens", "out_of_range"},
    {"{" P "\"max_tokens\":1.5}", "max_tokens", "invalid_type"},
    {"{" P "\"max_tokens\":true}", "max_tokens", "invalid_type"},
    {"{" P "\"max_tokens\":\"5\"}", "max_tokens", "invalid_type"},
    {"{" P "\"max_tokens\":[5]}", "max_tokens", "invalid_type"},
    {"{" P "\"temperature\":2.01}", "temperature", "out_of_range"},
    {"{" P "\"temperature\":-0.1}", "temperature", "out_of_range"},
    {"{" P "\"temperature\":1e400}", "temperature", "out_of_range"},
    {"{" P "\"temperature\":\"hot\"}", "temperature", "invalid_type"},
    {"{" P "\"temperature\":false}", "temperature", "invalid_type"},
    {"{" P "\"top_p\":1.01}", "top_p", "out_of_range"},
    {"{" P "\"top_p\":-1e-9}", "top_p", "out_of_range"},
    {"{" P "\"top_k\":-2}", "top_k", "out_of_range"},
    {"{" P "\"top_k\":1.5}", "top_k", "invalid_type"},
    {"{" P "\"top_k\":\"5\"}", "top_k", "invalid_type"},
    {"{" P "\"top_k\":4294967296}", "top_k", "out_of_range"},
    {"{" P "\"seed\":9223372036854775808}", "seed", "out_of_range"},
    {"{" P "\"seed\":-9223372036854775809}", "seed", "out_of_range"},
    {"{" P "\"seed\":1.5}", "seed", "invalid_type"},
    {"{" P "\"seed\":\"1\"}", "seed", "invalid_type"},
    {"{" P "\"n\":0}", "n", "out_of_range"},
    {"{" P "\"n\":129}", "n", "out_of_range"},
    {"{" P "\"n\":\"1\"}", "n", "invalid_type"},
    {"{\"prompt\":[\"a\",\"b\",\"c\"],\"n\":100}", "n", "out_of_range"},
    {"{" P "\"logprobs\":-1}", "logprobs", "out_of_range"},
    {"{" P "\"logprobs\":21}", "logprobs", "out_of_range"},
    {"{" P "\"logprobs\":true}", "logprobs", "invalid_type"},
    /* booleans, stops, streams */
    {"{" P "\"echo\":1}", "echo", "invalid_type"},
    {"{" P "\"echo\":\"true\"}", "echo", "invalid_type"},
    {"{" P "\"stream\":0}", "stream", "invalid_type"},
    {"{" P "\"ignore_eos\":\"yes\"}", "ignore_eos", "invalid_type"},
    {"{" P "\"return_token_ids\":[]}", "return_token_ids", "invalid_type"},
    {"{" P "\"add_special_tokens\":{}}", "add_special_tokens", "invalid_type"},
    {"{" P "\"stop\":\"\"}", "stop", "invalid_value"},
    {"{" P "\"stop\":[]}", "stop", "out_of_range"},
    {"{" P "\"stop\":[\"a\",\"\"]}", "stop[1]", "invalid_value"},
    {"{" P "\"stop\":5}", "stop", "invalid_type"},
    {"{" P "\"stop\":{}}", "stop", "invalid_type"},
    {"{" P "\"stop\":[5]}", "stop[0]", "invalid_type"},
    {"{" P "\"stop\":[[\"a\"]]}", "stop[0]", "invalid_type"},
    {"{" P "\"stop\":\"123456789012345678901234567890123\"}", "stop", "out_of_range"},
    {"{" P "\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\","
     "\"h\"]}",
     "stop", "out_of_range"},
    {"{" P "\"stream_options\":{\"include_usage\":true}}", "stream_options", "invalid_value"},
    {"{" P "\"stream\":false,\"stream_options\":{}}", "stream_options", "invalid_value"},
    {"{" P "\"stream\":true,\"stream_options\":5}", "stream_options", "invalid_type"},
    {"{" P "\"stream\":true,\"stream_options\":[]}", "stream_options", "invalid_type"},
    {"{" P "\"stream\":true,\"stream_options\":{\"include_usage\":1}}", "stream_options.include_usage", "invalid_type"},
    {"{" P "\"stream\":true,\"stream_options\":{\"x\":1}}", "stream_options.x", "unknown_parameter"},
    {"{" P "\"stream\":true,\"stream_options\":{\"Include_Usage\":true}}", "stream_options.Include_Usage",
     "unknown_parameter"},
    {"{" P "\"stream\":true,\"stream_options\":{\"continuous_usage_stats\":\"yes\"}}",
     "stream_options.continuous_usage_stats", "invalid_type"},
    {"{" P "\"return_tokens_as_token_ids\":1}", "return_tokens_as_token_ids", "invalid_type"},
    /* known, but not here; unknown */
    {"{" P "\"model\":5}", "model", "invalid_type"},
    {"{" P "\"user\":5}", "user", "invalid_type"},
    {"{" P "\"store\":\"x\"}", "store", "invalid_type"},
    {"{" P "\"metadata\":[]}", "metadata", "invalid_type"},
    {"{" P "\"suffix\":\"x\"}", "suffix", "unsupported_parameter"},
    {"{" P "\"best_of\":2,\"stream\":true}", "best_of", "invalid_value"},
    {"{" P "\"best_of\":-1}", "best_of", "out_of_range"},
    {"{\"prompt\":[[1],[2],[3],[4],[5],[6],[7],[8]],\"best_of\":20,\"n\":0}", "n", "out_of_range"},
    {"{" P "\"best_of\":21}", "best_of", "out_of_range"},
    {"{" P "\"best_of\":1,\"n\":2}", "best_of", "out_of_range"},
    {"{" P "\"best_of\":\"2\"}", "best_of", "invalid_type"},
    {"{" P "\"presence_penalty\":2.5}", "presence_penalty", "out_of_range"},
    {"{" P "\"presence_penalty\":-2.5}", "presence_penalty", "out_of_range"},
    {"{" P "\"frequency_penalty\":\"0\"}", "frequency_penalty", "invalid_type"},
    {"{" P "\"repetition_penalty\":0}", "repetition_penalty", "out_of_range"},
    {"{" P "\"repetition_penalty\":2.5}", "repetition_penalty", "out_of_range"},
    {"{" P "\"min_p\":1.5}", "min_p", "out_of_range"},
    {"{" P "\"logit_bias\":[]}", "logit_bias", "invalid_type"},
    {"{" P "\"logit_bias\":{\"x\":1}}", "logit_bias", "invalid_value"},
    {"{" P "\"logit_bias\":{\"-1\":1}}", "logit_bias", "invalid_value"},
    {"{" P "\"logit_bias\":{\"99999999\":1}}", "logit_bias", "invalid_value"},
    {"{" P "\"logit_bias\":{\"5\":101}}", "logit_bias.5", "out_of_range"},
    {"{" P "\"logit_bias\":{\"5\":true}}", "logit_bias.5", "invalid_type"},
    {"{" P "\"stop_token_ids\":5}", "stop_token_ids", "invalid_type"},
    {"{" P "\"stop_token_ids\":[99999999]}", "stop_token_ids[0]", "out_of_range"},
    {"{" P "\"stop_token_ids\":[1,1.5]}", "stop_token_ids[1]", "invalid_type"},
    {"{" P "\"min_tokens\":-1}", "min_tokens", "out_of_range"},
    {"{" P "\"max_tokens\":2,\"min_tokens\":3}", "min_tokens", "out_of_range"},
    {"{" P "\"Max_Tokens\":3}", "Max_Tokens", "unknown_parameter"},
    {"{" P "\"messages\":[]}", "messages", "unknown_parameter"},
    {"{" P "\"\":null}", "", "unknown_parameter"},
    {"{" P "\"a_name_of_sixty_five_bytes_that_no_field_of_any_endpoint_could_have_\":1}", "", "unknown_parameter"},
};

START_TEST(refuses)
{
    em_api_context ctx = api_context(engine);
    const bad_case *b = &bad[_i];
    em_completion *c = (em_completion *)&ctx; /* must stay as it is */
    em_api_error err = {0};
    int r = em_completion_parse(b->body, strlen(b->body), &ctx, &c, &err);
    ck_assert_msg(r == -22, "accepted: %s", b->body);
    ck_assert_ptr_eq(c, &ctx);
    check_error(&err, 400, b->param, b->code, b->body);
    if (*b->param && !strchr(b->param, '.'))
        ck_assert_msg(strstr(err.message, b->param) != NULL, "message does not name %s: %s", b->param, err.message);
}
END_TEST

START_TEST(refuses_raw_nul)
{
    static const char body[] = "{\"prompt\":\"a\0b\"}";
    em_api_context ctx = api_context(engine);
    em_completion *c = NULL;
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_parse(body, sizeof body - 1, &ctx, &c, &err), -22);
    check_error(&err, 400, "prompt", "invalid_json", "raw NUL");
    static const char nul[] = "\0";
    ck_assert_int_eq(em_completion_parse(nul, 1, &ctx, &c, &err), -22);
    check_error(&err, 400, "", "invalid_json", "only a NUL");
}
END_TEST

START_TEST(messages_are_exact)
{
    em_api_context ctx = api_context(engine);
    em_completion *c = NULL;
    em_api_error err = {0};
    const char *body = "{\"prompt\":\"a\",\"max_tokens\":-3}";
    em_completion_parse(body, strlen(body), &ctx, &c, &err);
    ck_assert_str_eq(err.message, "max_tokens must be between 0 and 64, got -3");
    body = "{\"prompt\":[0,1,2,3,4,5,6,6144]}";
    em_completion_parse(body, strlen(body), &ctx, &c, &err);
    ck_assert_str_eq(err.message, "prompt[7] must be a token id between 0 and 259, got 6144");
    body = "{\"prompt\":\"a\",\"temperature\":\"1234567890123456789012345678901234567\xf0\x9f\x98\x80...\"}";
    em_completion_parse(body, strlen(body), &ctx, &c, &err);
    ck_assert_str_eq(err.message, "temperature must be a number, got \"1234567890123456789012345678901234567...\"");
}
END_TEST

START_TEST(depth_is_limited)
{
    em_api_context ctx = api_context(engine);
    char body[256] = "{\"prompt\":";
    memset(body + 10, '[', 64);
    memset(body + 74, ']', 64);
    strcpy(body + 138, "}");
    em_completion *c = NULL;
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_parse(body, strlen(body), &ctx, &c, &err), -22);
    check_error(&err, 400, "prompt", "invalid_json", "65 levels");
    ck_assert_ptr_nonnull(strstr(err.message, "too deeply"));
    memmove(body + 73, body + 74, strlen(body + 74) + 1); /* 64 levels: well-formed, but no prompt */
    body[strlen(body) - 2] = '}';
    body[strlen(body) - 1] = '\0';
    ck_assert_int_eq(em_completion_parse(body, strlen(body), &ctx, &c, &err), -22);
    check_error(&err, 400, "prompt[0][0]", "invalid_type", "64 levels");
}
END_TEST

START_TEST(fields_are_limited)
{
    em_api_context ctx = api_context(engine);
    ctx.ignore_unknown_fields = true;
    em_buf body = {0};
    em_buf_puts(&body, "{\"prompt\":\"a\"");
    for (int i = 0; i < 128; i++)
        em_buf_printf(&body, ",\"x%d\":0", i);
    em_buf_puts(&body, "}");
    em_completion *c = NULL;
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_parse(body.data, body.len, &ctx, &c, &err), -22);
    check_error(&err, 400, "", "invalid_value", "129 fields");
    em_buf_done(&body);
}
END_TEST

START_TEST(unknown_fields_may_pass)
{
    em_api_context ctx = api_context(engine);
    ctx.ignore_unknown_fields = true;
    const char *body = "{\"prompt\":\"a\",\"no_such\":{\"x\":[1]},\"stream\":true,\"stream_options\":{\"y\":1}}";
    em_completion *c = NULL;
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_parse(body, strlen(body), &ctx, &c, &err), 0);
    em_completion_free(c);
    body = "{\"prompt\":\"a\",\"suffix\":\"x\"}"; /* known ones are not ignored */
    ck_assert_int_eq(em_completion_parse(body, strlen(body), &ctx, &c, &err), -22);
}
END_TEST

START_TEST(unknown_model)
{
    em_api_context ctx = api_context(engine);
    em_completion *c = NULL;
    em_api_error err = {0};
    const char *body = "{\"prompt\":\"a\",\"model\":\"no-such-model\"}";
    ck_assert_int_eq(em_completion_parse(body, strlen(body), &ctx, &c, &err), -22);
    check_error(&err, 404, "model", "model_not_found", body);
}
END_TEST

/* A text or id list of n tokens is refused naming both numbers, or passes. */
static void check_length(const char *before, const char *unit, int n, const char *after, bool fits, const char *count)
{
    em_api_context ctx = api_context(engine);
    em_buf body = {0};
    em_buf_puts(&body, before);
    for (int i = 0; i < n; i++)
        em_buf_printf(&body, "%s%s", i && *unit == '1' ? "," : "", unit);
    em_buf_puts(&body, after);
    em_completion *c = NULL;
    em_api_error err = {0};
    int r = em_completion_parse(body.data, body.len, &ctx, &c, &err);
    ck_assert_int_eq(r, fits ? 0 : -22);
    if (!fits) {
        check_error(&err, 400, "prompt", "context_length_exceeded", after);
        ck_assert_ptr_nonnull(strstr(err.message, " 64 "));
        ck_assert_msg(strstr(err.message, count) != NULL, "%s", err.message);
    }
    em_completion_free(c);
    em_buf_done(&body);
}

START_TEST(prompt_length)
{
    check_length("{\"prompt\":[", "1", 63, "]}", true, "");
    check_length("{\"prompt\":[", "1", 64, "],\"max_tokens\":0}", false, " 64 tokens");
    check_length("{\"prompt\":[", "1", 5000, "]}", false, " 5000 tokens");
    check_length("{\"prompt\":[[1],[", "1", 70, "]]}", false, "prompt[1] has 70 tokens");
    check_length("{\"prompt\":\"", "a", 62, "\"}", true, "");
    check_length("{\"prompt\":\"", "a", 63, "\"}", false, " 64 tokens"); /* BOS counts */
    check_length("{\"prompt\":\"", "a", 63, "\",\"add_special_tokens\":false}", true, "");
    check_length("{\"prompt\":\"", "a", 4000, "\"}", false, " 4001 tokens");
    check_length("{\"prompt\":\"", "a", 9000, "\"}", false, "more than 4352 tokens");
}
END_TEST

/* --- accepted ----------------------------------------------------------------------------------------------- */

START_TEST(defaults)
{
    em_completion *c = parse("{\"prompt\":\"ab\"}");
    ck_assert(!c->stream && !c->include_usage && !c->echo && !c->return_token_ids);
    ck_assert_int_eq(c->logprobs, -1);
    ck_assert_int_eq(c->n, 1);
    ck_assert_str_eq(c->model, "pocket");
    const em_request *q = c->req;
    ck_assert_int_eq(q->n_prompts, 1);
    ck_assert_int_eq(q->n, 1);
    ck_assert_int_eq(q->max_tokens, 16);
    ck_assert(q->sampling.temperature == 1 && q->sampling.top_p == 1 && q->sampling.top_k == 0);
    ck_assert_int_eq(q->n_stops, 0);
    ck_assert_int_eq(q->logprobs, -1);
    ck_assert(!q->prompt_logprobs && !q->ignore_eos);
    ck_assert_uint_eq(q->deadline_ns, 0);
    ck_assert_int_eq(q->prompts[0].n_ids, 3);
    ck_assert_int_eq(q->prompts[0].ids[0], FAKE_BOS);
    ck_assert_int_eq(q->prompts[0].ids[2], 'b');
    ck_assert_int_eq(c->prompt_bos[0], 1);
    em_completion_free(c);
}
END_TEST

START_TEST(everything_given)
{
    em_completion *c = parse("{\"model\":\"alias \\\"two\\\"\",\"prompt\":[[1,2.0,3e1],[4]],\"max_tokens\":64,"
                             "\"temperature\":0.5,\"top_p\":0,\"top_k\":-1,\"seed\":-9223372036854775808,\"n\":3,"
                             "\"stop\":[\"x\",\"\\u00e9\"],\"echo\":true,\"logprobs\":0,\"stream\":true,"
                             "\"stream_options\":{\"include_usage\":true,\"include_obfuscation\":true,"
                             "\"continuous_usage_stats\":true},\"return_token_ids\":true,\"ignore_eos\":true,"
                             "\"return_tokens_as_token_ids\":true}");
    ck_assert(c->stream && c->include_usage && c->echo && c->return_token_ids && c->continuous_usage);
    ck_assert(c->tokens_as_ids);
    const em_request *q = c->req;
    ck_assert_int_eq(q->n_prompts, 2);
    ck_assert_int_eq(q->n, 3);
    ck_assert_int_eq(q->max_tokens, 64);
    ck_assert(q->sampling.temperature == 0.5f && q->sampling.top_p == 0 && q->sampling.top_k == -1);
    ck_assert_uint_eq(q->sampling.seed, UINT64_C(1) << 63);
    ck_assert_int_eq(q->prompts[0].n_ids, 3);
    ck_assert_int_eq(q->prompts[0].ids[1], 2);
    ck_assert_int_eq(q->prompts[0].ids[2], 30);
    ck_assert_int_eq(q->prompts[1].ids[0], 4);
    ck_assert_int_eq(q->n_stops, 2);
    ck_assert_str_eq(q->stops[1].text, "\xc3\xa9");
    ck_assert_uint_eq(q->stops[1].len, 2);
    ck_assert(q->ignore_eos && q->prompt_logprobs);
    ck_assert_int_eq(c->prompt_bos[0], 0);
    ck_assert_ptr_null(c->prompt_text[0]);
    em_completion_free(c);
}
END_TEST

START_TEST(null_means_absent)
{
    em_completion *c =
        parse("{\"model\":null,\"prompt\":\"a\",\"max_tokens\":null,\"temperature\":null,\"top_p\":null,"
              "\"top_k\":null,\"seed\":null,\"n\":null,\"best_of\":null,\"stop\":null,\"echo\":null,"
              "\"logprobs\":null,\"stream\":null,\"stream_options\":null,\"return_token_ids\":null,"
              "\"ignore_eos\":null,\"add_special_tokens\":null,\"user\":null,\"metadata\":null,"
              "\"suffix\":null,\"logit_bias\":null,\"presence_penalty\":null,\"structured_outputs\":null}");
    ck_assert_int_eq(c->req->max_tokens, 16);
    ck_assert_int_eq(c->prompt_bos[0], 1);
    ck_assert_int_eq(c->logprobs, -1);
    em_completion_free(c);
}
END_TEST

START_TEST(without_effect_and_neutral)
{
    em_completion *c = parse("{\"prompt\":\"a\",\"user\":\"u\",\"metadata\":{\"a\":\"b\"},\"store\":true,"
                             "\"service_tier\":\"auto\",\"safety_identifier\":\"s\",\"prompt_cache_key\":\"k\","
                             "\"presence_penalty\":0,\"frequency_penalty\":0.0,\"logit_bias\":{},\"min_p\":0,"
                             "\"repetition_penalty\":1.0,\"stop_token_ids\":[],\"return_tokens_as_token_ids\":false,"
                             "\"skip_special_tokens\":true,\"priority\":0,\"n\":2,\"best_of\":2}");
    em_completion_free(c);
    em_completion_free(parse("{\"prompt\":\"a\",\"best_of\":1}"));
    em_completion_free(parse("{\"prompt\":\"a\",\"best_of\":0}"));
    em_completion_free(parse("{\"prompt\":\"a\",\"best_of\":3,\"n\":3,\"stream\":true}"));
}
END_TEST

/* The engine draws best_of samples of each prompt and tells the log-probabilities that rank them. */
START_TEST(best_of_asks_for_more_samples)
{
    em_completion *c = parse("{\"prompt\":[[1],[2]],\"n\":2,\"best_of\":5,\"echo\":true}");
    ck_assert_int_eq(c->n, 2);
    ck_assert_int_eq(c->best_of, 5);
    ck_assert_int_eq(c->req->n, 5);
    ck_assert_int_eq(c->req->logprobs, 0);
    ck_assert(!c->req->prompt_logprobs);
    ck_assert_int_eq(c->logprobs, -1);
    em_completion_free(c);
    c = parse("{\"prompt\":[1],\"best_of\":20,\"logprobs\":3}");
    ck_assert_int_eq(c->req->n, 20);
    ck_assert_int_eq(c->req->logprobs, 3);
    em_completion_free(c);
    c = parse("{\"prompt\":[1],\"n\":4}");
    ck_assert_int_eq(c->best_of, 4);
    ck_assert_int_eq(c->req->logprobs, -1);
    em_completion_free(c);
}
END_TEST

/* Which limit a request runs under: its own, or the server's where that is less. */
START_TEST(time_limits)
{
    em_completion *c = parse("{\"prompt\":[1]}");
    ck_assert(c->limit.ns == 0 && !c->limit.own);
    em_completion_free(c);
    c = parse("{\"prompt\":[1],\"timeout\":1.5}");
    ck_assert(c->limit.ns == 1500000000 && c->limit.own);
    em_completion_free(c);
    em_api_context limited = api_context(engine);
    limited.timeout_ns = 1000000000;
    em_api_error err = {0};
    static const char body[] = "{\"prompt\":[1],\"timeout\":1.5}";
    ck_assert_int_eq(em_completion_parse(body, sizeof body - 1, &limited, &c, &err), 0);
    ck_assert(c->limit.ns == 1000000000 && !c->limit.own);
    em_completion_free(c);
}
END_TEST

START_TEST(seeds)
{
    em_completion *a = parse("{\"prompt\":\"a\"}"), *b = parse("{\"prompt\":\"a\",\"seed\":null}");
    ck_assert_uint_ne(a->req->sampling.seed, b->req->sampling.seed); /* drawn: 1 in 2^64 */
    em_completion_free(a);
    em_completion_free(b);
    a = parse("{\"prompt\":\"a\",\"seed\":9007199254740993}"); /* no double holds it */
    ck_assert_uint_eq(a->req->sampling.seed, UINT64_C(9007199254740993));
    em_completion_free(a);
    a = parse("{\"prompt\":\"a\",\"seed\":0,\"temperature\":1e-9}");
    ck_assert_uint_eq(a->req->sampling.seed, 0);
    ck_assert(a->req->sampling.temperature == 0); /* colder than a float can divide by */
    em_completion_free(a);
}
END_TEST

START_TEST(deadline)
{
    em_api_context ctx = api_context(engine);
    ctx.timeout_ns = 1000000000;
    em_completion *c = NULL;
    em_api_error err;
    uint64_t before = em_now_ns();
    ck_assert_int_eq(em_completion_parse("{\"prompt\":\"a\"}", 14, &ctx, &c, &err), 0);
    ck_assert_uint_ge(c->req->deadline_ns, before + ctx.timeout_ns);
    ck_assert_uint_le(c->req->deadline_ns, em_now_ns() + ctx.timeout_ns);
    em_completion_free(c);
}
END_TEST

/* The shorter one of what the client and what the server allows. */
START_TEST(deadline_of_the_client)
{
    static const struct {
        uint64_t server_ns;
        const char *timeout;
        uint64_t expect_ns;
    } cases[] = {{0, "2.5", 2500000000},
                 {0, "null", 0},
                 {UINT64_C(1000000000), "2.5", 1000000000},
                 {0, "1e-12", 1},
                 {UINT64_C(3000000000), "2.5", 2500000000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[64];
        em_api_context ctx = api_context(engine);
        em_completion *c = NULL;
        em_api_error err;
        ctx.timeout_ns = cases[i].server_ns;
        int len = snprintf(body, sizeof body, "{\"prompt\":\"a\",\"timeout\":%s}", cases[i].timeout);
        uint64_t before = em_now_ns();
        ck_assert_int_eq(em_completion_parse(body, (size_t)len, &ctx, &c, &err), 0);
        if (cases[i].expect_ns) {
            ck_assert_uint_ge(c->req->deadline_ns, before + cases[i].expect_ns);
            ck_assert_uint_le(c->req->deadline_ns, em_now_ns() + cases[i].expect_ns);
        } else {
            ck_assert_uint_eq(c->req->deadline_ns, 0);
        }
        em_completion_free(c);
    }
}
END_TEST

START_TEST(priority_and_salt)
{
    em_completion *c = parse("{\"prompt\":\"a\"}");
    ck_assert_int_eq(c->req->priority, 0);
    ck_assert_ptr_null(c->req->cache_salt);
    ck_assert_uint_eq(c->req->cache_salt_len, 0);
    em_completion_free(c);
    c = parse("{\"prompt\":\"a\",\"priority\":-2147483648,\"cache_salt\":\"t\\u00e9n\"}");
    ck_assert_int_eq(c->req->priority, INT32_MIN);
    ck_assert_uint_eq(c->req->cache_salt_len, 4);
    ck_assert_mem_eq(c->req->cache_salt, "t\xc3\xa9n", 4);
    em_completion_free(c);

    char body[400], salt[300];
    for (size_t len = 256; len <= 257; len++) { /* the limit, and one more */
        em_completion *parsed = NULL;
        em_api_error err = {0};
        em_api_context ctx = api_context(engine);
        memset(salt, 's', len);
        int n = snprintf(body, sizeof body, "{\"prompt\":\"a\",\"cache_salt\":\"%.*s\"}", (int)len, salt);
        int r = em_completion_parse(body, (size_t)n, &ctx, &parsed, &err);
        ck_assert_int_eq(r, len == 256 ? 0 : -EINVAL);
        if (r)
            check_error(&err, 400, "cache_salt", "out_of_range", "257 bytes of salt");
        em_completion_free(parsed);
    }
}
END_TEST

static void check_ids(const char *body, int bos, int n, const int32_t *ids)
{
    em_completion *c = parse(body);
    ck_assert_int_eq(c->prompt_bos[0], bos);
    ck_assert_int_eq(c->req->prompts[0].n_ids, n);
    ck_assert_int_eq(c->prompt_ids[0].n_ids, n);
    ck_assert_mem_eq(c->req->prompts[0].ids, ids, (size_t)n * sizeof *ids);
    ck_assert_mem_eq(c->prompt_ids[0].ids, ids, (size_t)n * sizeof *ids);
    em_completion_free(c);
}

START_TEST(bos_and_special_tokens)
{
    check_ids("{\"prompt\":\"\"}", 1, 1, (int32_t[]){FAKE_BOS});
    check_ids("{\"prompt\":\"\",\"add_special_tokens\":false}", 1, 1, (int32_t[]){FAKE_BOS});
    check_ids("{\"prompt\":\"<eos>\"}", 1, 2, (int32_t[]){FAKE_BOS, FAKE_EOS});
    check_ids("{\"add_special_tokens\":false,\"prompt\":\"<bos>x\"}", 0, 2, (int32_t[]){FAKE_BOS, 'x'});
    check_ids("{\"prompt\":[\"<sep>\"]}", 1, 2, (int32_t[]){FAKE_BOS, FAKE_SEP});
    check_ids("{\"prompt\":[256,257]}", 0, 2, (int32_t[]){FAKE_BOS, FAKE_EOS}); /* ids: untouched */
    check_ids("{\"prompt\":[65],\"add_special_tokens\":true}", 0, 1, (int32_t[]){65});
    check_ids("{\"prompt\":\"\\ud83d\\ude00\",\"add_special_tokens\":false}", 0, 4,
              (int32_t[]){0xf0, 0x9f, 0x98, 0x80});
}
END_TEST

/* A model as the released one (has a BOS, does not add it), one without BOS, one without tokenizer. */
START_TEST(other_models)
{
    em_engine_info info;
    em_engine_get_info(engine, &info);
    fake_engine_free(engine);
    info.add_bos = false;
    engine = fake_engine_new(&info);
    check_ids("{\"prompt\":\"x\"}", 0, 1, (int32_t[]){'x'});
    check_ids("{\"prompt\":\"\"}", 1, 1, (int32_t[]){FAKE_BOS});
    fake_engine_free(engine);
    info.bos_id = -1;
    info.add_bos = true;
    engine = fake_engine_new(&info);
    check_ids("{\"prompt\":\"x\"}", 0, 1, (int32_t[]){'x'});
    em_api_context ctx = api_context(engine);
    em_completion *c = NULL;
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_parse("{\"prompt\":\"\"}", 13, &ctx, &c, &err), -22);
    check_error(&err, 400, "prompt", "invalid_value", "empty, no BOS");
    fake_engine_free(engine);
    info.has_tokenizer = false;
    ctx.engine = engine = fake_engine_new(&info);
    check_ids("{\"prompt\":[7]}", 0, 1, (int32_t[]){7});
    ck_assert_int_eq(em_completion_parse("{\"prompt\":\"x\"}", 14, &ctx, &c, &err), -22);
    check_error(&err, 400, "prompt", "no_tokenizer", "text without tokenizer");
}
END_TEST

START_TEST(echo_keeps_the_text)
{
    em_completion *c = parse("{\"prompt\":[\"\\u00e9\",\"b\"],\"echo\":true}");
    ck_assert_str_eq(c->prompt_text[0], "\xc3\xa9");
    ck_assert_str_eq(c->prompt_text[1], "b");
    em_completion_free(c);
    ck_assert_ptr_null(em_completion_free(NULL));
}
END_TEST

START_TEST(fingerprint_is_stable)
{
    em_completion *a = parse("{\"prompt\":\"a\"}"), *b = parse("{\"prompt\":\"b\",\"n\":2}");
    ck_assert_str_eq(a->fingerprint, b->fingerprint);
    ck_assert_int_eq(strncmp(a->fingerprint, "e-", 2), 0);
    em_completion_free(a);
    em_completion_free(b);
}
END_TEST

START_TEST(a_million_ids)
{
    em_buf body = {0};
    em_buf_puts(&body, "{\"prompt\":[[1");
    for (int i = 0; i < 1000000; i++)
        em_buf_append(&body, ",1", 2);
    em_buf_puts(&body, "]]}");
    em_api_context ctx = api_context(engine);
    em_completion *c = NULL;
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_parse(body.data, body.len, &ctx, &c, &err), -22);
    check_error(&err, 400, "prompt[0]", "context_length_exceeded", "a million ids");
    ck_assert_ptr_nonnull(strstr(err.message, "1000001"));
    em_buf_done(&body);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("completion_request");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, refuses, 0, sizeof bad / sizeof *bad);
    tcase_add_test(t, refuses_raw_nul);
    tcase_add_test(t, messages_are_exact);
    tcase_add_test(t, depth_is_limited);
    tcase_add_test(t, fields_are_limited);
    tcase_add_test(t, unknown_fields_may_pass);
    tcase_add_test(t, unknown_model);
    tcase_add_test(t, prompt_length);
    tcase_add_test(t, defaults);
    tcase_add_test(t, everything_given);
    tcase_add_test(t, null_means_absent);
    tcase_add_test(t, without_effect_and_neutral);
    tcase_add_test(t, best_of_asks_for_more_samples);
    tcase_add_test(t, time_limits);
    tcase_add_test(t, seeds);
    tcase_add_test(t, deadline);
    tcase_add_test(t, deadline_of_the_client);
    tcase_add_test(t, priority_and_salt);
    tcase_add_test(t, bos_and_special_tokens);
    tcase_add_test(t, other_models);
    tcase_add_test(t, echo_keeps_the_text);
    tcase_add_test(t, fingerprint_is_stable);
    tcase_add_test(t, a_million_ids);
    Suite *s = suite_create("api-request");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
