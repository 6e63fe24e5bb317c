/* Bodies of /v1/chat/completions -> em_chat, or an error that names the field; /tokenize with messages. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/chat_reply.h"
#include "api/tokenize.h"
#include "tests/support/api_check.h"
#include "tests/support/fake_engine.h"

static em_engine *engine, *plain;

static void setup(void)
{
    engine = fake_engine_new(&(em_engine_info){.vocab_size = FAKE_CHAT_VOCAB,
                                               .max_len = 4096,
                                               .bos_id = FAKE_CHAT_BOS,
                                               .eos_id = FAKE_CHAT_EOS,
                                               .has_tokenizer = true,
                                               .backend = "fake"});
    plain = fake_engine_new(NULL);
}

static void teardown(void)
{
    fake_engine_free(engine);
    fake_engine_free(plain);
}

/* --- refused ------------------------------------------------------------------------------------------------ */

typedef struct bad_case {
    const char *body;
    const char *param; /* "" for null */
    const char *code;
} bad_case;

#define M "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]"
#define USER "{\"role\":\"user\",\"content\":\"a\"}"
#define CALLS(...) "{\"role\":\"assistant\",\"tool_calls\":[" __VA_ARGS__ "]}"
#define CALL(id) "{\"id\":\"" id "\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}"
#define RESULT(id) "{\"role\":\"tool\",\"tool_call_id\":\"" id "\",\"content\":\"r\"}"
#define MESSAGES(...) "{\"messages\":[" __VA_ARGS__ "]}" /* items joined with AND */
#define AND ","
#define TOOL(name, more) "{\"type\":\"function\",\"function\":{\"name\":\"" name "\"" more "}}"
#define WITH_TOOLS(...) "{" M ",\"tools\":[" __VA_ARGS__ "]}"
#define PARAMETERS(schema) WITH_TOOLS(TOOL("f", ",\"parameters\":" schema))

static const bad_case bad[] = {
    {"", "", "invalid_json"},
    {"[]", "", "invalid_json"},
    {"{" M, "", "invalid_json"},
    {"{" M ",\"model\":\"nope\"}", "model", "model_not_found"},
    {"{\"temperature\":9,\"model\":\"nope\"}", "model", "model_not_found"}, /* judged before everything else */
    {"{" M ",\"model\":5}", "model", "invalid_type"},
    {"{" M ",\"no_such\":1}", "no_such", "unknown_parameter"},
    {"{" M ",\"prompt\":\"x\"}", "prompt", "unknown_parameter"},
    {"{" M ",\"user\":\"\\u0000\"}", "user", "invalid_value"},
    /* messages */
    {"{}", "messages", "missing_required_parameter"},
    {"{\"messages\":null}", "messages", "missing_required_parameter"},
    {"{\"messages\":\"x\"}", "messages", "invalid_type"},
    {"{\"messages\":{}}", "messages", "invalid_type"},
    {"{\"messages\":[]}", "messages", "invalid_value"},
    {MESSAGES("5"), "messages[0]", "invalid_type"},
    {MESSAGES("{}"), "messages[0].role", "missing_required_parameter"},
    {MESSAGES("{\"role\":1}"), "messages[0].role", "invalid_type"},
    {MESSAGES("{\"role\":\"robot\",\"content\":\"x\"}"), "messages[0].role", "invalid_value"},
    {MESSAGES(USER AND "{\"role\":\"function\",\"content\":\"x\"}"), "messages[1].role", "invalid_value"},
    {MESSAGES("{\"role\":\"latest_reminder\",\"content\":\"x\"}"), "messages[0].role", "unsupported_content"},
    {MESSAGES("{\"role\":\"user\"}"), "messages[0].content", "missing_required_parameter"},
    {MESSAGES("{\"role\":\"user\",\"content\":null}"), "messages[0].content", "missing_required_parameter"},
    {MESSAGES("{\"role\":\"user\",\"content\":5}"), "messages[0].content", "invalid_type"},
    {MESSAGES("{\"role\":\"user\",\"content\":[\"x\"]}"), "messages[0].content[0]", "invalid_type"},
    {MESSAGES("{\"role\":\"user\",\"content\":[{}]}"), "messages[0].content[0].type", "missing_required_parameter"},
    {MESSAGES("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), "messages[0].content[0].text",
     "missing_required_parameter"},
    {MESSAGES("{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\"}]}"),
     "messages[0].content[1].type", "unsupported_content"},
    {MESSAGES("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}"), "messages[0].content[0].type",
     "unsupported_content"},
    {MESSAGES("{\"role\":\"user\",\"content\":\"x\",\"prefix\":true}"), "messages[0].prefix", "invalid_value"},
    {MESSAGES("{\"role\":\"assistant\",\"content\":\"x\",\"prefix\":true}" AND USER), "messages[0].prefix",
     "invalid_value"},
    {MESSAGES("{\"role\":\"assistant\",\"content\":\"x\",\"prefix\":1}"), "messages[0].prefix", "invalid_type"},
    {MESSAGES("{\"role\":\"assistant\"}"), "messages[0].content", "missing_required_parameter"},
    {MESSAGES("{\"role\":\"assistant\",\"content\":\"x\",\"reasoning\":[]}"), "messages[0].reasoning", "invalid_type"},
    {MESSAGES("{\"role\":\"assistant\",\"function_call\":{},\"content\":\"x\"}"), "messages[0].function_call",
     "unsupported_content"},
    /* calls and their results */
    {MESSAGES("{\"role\":\"assistant\",\"tool_calls\":{}}"), "messages[0].tool_calls", "invalid_type"},
    {MESSAGES(CALLS("")), "messages[0].tool_calls", "out_of_range"},
    {MESSAGES(CALLS("1")), "messages[0].tool_calls[0]", "invalid_type"},
    {MESSAGES(CALLS("{}")), "messages[0].tool_calls[0].id", "missing_required_parameter"},
    {MESSAGES(CALLS("{\"id\":\"1\",\"type\":\"web\"}")), "messages[0].tool_calls[0].type", "invalid_value"},
    {MESSAGES(CALLS("{\"id\":\"1\"}")), "messages[0].tool_calls[0].function", "missing_required_parameter"},
    {MESSAGES(CALLS("{\"id\":\"1\",\"function\":{}}")), "messages[0].tool_calls[0].function.name",
     "missing_required_parameter"},
    {MESSAGES(CALLS("{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":{}}}")),
     "messages[0].tool_calls[0].function.arguments", "invalid_type"},
    {MESSAGES(CALLS(CALL("1") AND CALL("1"))), "messages[0].tool_calls[1]", "invalid_value"},
    {MESSAGES(CALLS(CALL("1"))), "messages", "invalid_value"},
    {MESSAGES(CALLS(CALL("1") AND CALL("2")) AND RESULT("2")), "messages", "invalid_value"},
    {MESSAGES(CALLS(CALL("1")) AND RESULT("1") AND RESULT("1")), "messages", "invalid_value"},
    {MESSAGES(CALLS(CALL("1")) AND USER AND RESULT("1")), "messages", "invalid_value"},
    {MESSAGES(USER AND RESULT("1")), "messages[1].role", "invalid_value"},
    {MESSAGES(CALLS(CALL("1")) AND "{\"role\":\"tool\",\"content\":\"r\"}"), "messages[1].tool_call_id",
     "missing_required_parameter"},
    /* tools */
    {"{" M ",\"tools\":{}}", "tools", "invalid_type"},
    {WITH_TOOLS("1"), "tools[0]", "invalid_type"},
    {WITH_TOOLS("{}"), "tools[0].type", "missing_required_parameter"},
    {WITH_TOOLS("{\"type\":\"web\"}"), "tools[0].type", "invalid_value"},
    {WITH_TOOLS("{\"type\":\"function\"}"), "tools[0].function", "missing_required_parameter"},
    {WITH_TOOLS("{\"type\":\"function\",\"function\":{}}"), "tools[0].function.name", "missing_required_parameter"},
    {WITH_TOOLS(TOOL("", "")), "tools[0].function.name", "invalid_value"},
    {WITH_TOOLS(TOOL("f", "") AND TOOL("f", "")), "tools[1].function.name", "invalid_value"},
    {WITH_TOOLS(TOOL("f", ",\"description\":5")), "tools[0].function.description", "invalid_type"},
    {WITH_TOOLS(TOOL("f", ",\"strict\":1")), "tools[0].function.strict", "invalid_type"},
    {PARAMETERS("[1]"), "tools[0].function.parameters", "invalid_type"},
    {PARAMETERS("true"), "tools[0].function.parameters", "invalid_type"},
    {PARAMETERS("{\"type\":\"string\"}"), "tools[0].function.parameters.type", "invalid_value"},
    {PARAMETERS("{\"properties\":{}}"), "tools[0].function.parameters.type", "missing_required_parameter"},
    {PARAMETERS("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"strnig\"}}}"),
     "tools[0].function.parameters.properties.a.type", "invalid_value"},
    {PARAMETERS("{\"type\":\"object\",\"properties\":[]}"), "tools[0].function.parameters.properties", "invalid_type"},
    {PARAMETERS("{\"type\":\"object\",\"required\":\"a\"}"), "tools[0].function.parameters.required", "invalid_type"},
    {PARAMETERS("{\"type\":\"object\",\"properties\":{\"a\":{\"minLength\":-1}}}"),
     "tools[0].function.parameters.properties.a.minLength", "invalid_type"},
    {PARAMETERS("{\"type\":\"object\",\"properties\":{\"a\":{\"anyOf\":[]}}}"),
     "tools[0].function.parameters.properties.a.anyOf", "invalid_schema"},
    {PARAMETERS("{\"type\":\"object\",\"properties\":{\"a\":{\"maximum\":1e999}}}"), "tools", "out_of_range"},
    {"{" M ",\"tools\":[" TOOL("f", "") "],\"tool_choice\":\"any\"}", "tool_choice", "invalid_value"},
    {"{" M ",\"tools\":[" TOOL("f", "") "],\"tool_choice\":5}", "tool_choice", "invalid_type"},
    {"{" M ",\"tools\":[" TOOL("f", "") "],\"tool_choice\":{\"type\":\"allowed_tools\"}}", "tool_choice.type",
     "invalid_value"},
    {"{" M ",\"tools\":[" TOOL("f", "") "],\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}",
     "tool_choice.function.name", "invalid_value"},
    {"{" M ",\"tools\":[" TOOL("f", "") "],\"tool_choice\":\"required\",\"reasoning_effort\":\"low\"}", "tool_choice",
     "invalid_value"},
    {"{" M ",\"parallel_tool_calls\":1}", "parallel_tool_calls", "invalid_type"},
    {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"prefix\":true}],\"tools\":[" TOOL("f", "") "]}",
     "tools", "invalid_value"},
    /* thinking */
    {"{" M ",\"reasoning_effort\":50}", "reasoning_effort", "invalid_type"},
    {"{" M ",\"reasoning_effort\":\"extreme\"}", "reasoning_effort", "invalid_value"},
    {"{" M ",\"thinking\":true}", "thinking", "invalid_type"},
    {"{" M ",\"thinking\":{}}", "thinking.type", "missing_required_parameter"},
    {"{" M ",\"thinking\":{\"type\":\"maybe\"}}", "thinking.type", "invalid_value"},
    /* formats */
    {"{" M ",\"response_format\":\"json\"}", "response_format", "invalid_type"},
    {"{" M ",\"response_format\":{}}", "response_format.type", "missing_required_parameter"},
    {"{" M ",\"response_format\":{\"type\":\"xml\"}}", "response_format.type", "invalid_value"},
    {"{" M ",\"response_format\":{\"type\":\"json_schema\"}}", "response_format.json_schema",
     "missing_required_parameter"},
    {"{" M ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}", "response_format.json_schema.schema",
     "missing_required_parameter"},
    {"{" M ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"type\":\"x\"}}}}",
     "response_format.json_schema.schema.type", "invalid_value"},
    {"{" M ",\"response_format\":{\"type\":\"regex\"}}", "response_format.regex", "missing_required_parameter"},
    {"{" M ",\"structured_outputs\":5}", "structured_outputs", "invalid_type"},
    {"{" M ",\"structured_outputs\":{\"lark\":1}}", "structured_outputs.lark", "unsupported_parameter"},
    {"{" M ",\"structured_outputs\":{\"json\":{},\"regex\":\"a\"}}", "structured_outputs", "invalid_value"},
    {"{" M ",\"structured_outputs\":{\"json\":\"{\"}}", "structured_outputs.json", "invalid_schema"},
    {"{" M ",\"structured_outputs\":{\"json\":5}}", "structured_outputs.json", "invalid_type"},
    {"{" M ",\"structured_outputs\":{\"choice\":[]}}", "structured_outputs.choice", "invalid_type"},
    {"{" M ",\"structured_outputs\":{\"choice\":[\"a\",\"\"]}}", "structured_outputs.choice[1]", "invalid_type"},
    {"{" M ",\"structured_outputs\":{\"grammar\":1}}", "structured_outputs.grammar", "invalid_type"},
    {"{" M ",\"structured_outputs\":{\"json_object\":false}}", "structured_outputs.json_object", "invalid_type"},
    {"{" M ",\"structured_outputs\":{\"regex\":\"a\"},\"response_format\":{\"type\":\"json_object\"}}",
     "structured_outputs", "invalid_value"},
    /* sampling and the answer */
    {"{" M ",\"n\":0}", "n", "out_of_range"},
    {"{" M ",\"n\":129}", "n", "out_of_range"},
    {"{" M ",\"temperature\":2.1}", "temperature", "out_of_range"},
    {"{" M ",\"presence_penalty\":2.5}", "presence_penalty", "out_of_range"},
    {"{" M ",\"logprobs\":1}", "logprobs", "invalid_type"},
    {"{" M ",\"top_logprobs\":1}", "top_logprobs", "invalid_value"},
    {"{" M ",\"logprobs\":false,\"top_logprobs\":1}", "top_logprobs", "invalid_value"},
    {"{" M ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", "out_of_range"},
    {"{" M ",\"max_tokens\":-1}", "max_tokens", "out_of_range"},
    {"{" M ",\"max_completion_tokens\":4097}", "max_completion_tokens", "out_of_range"},
    {"{" M ",\"stop\":[\"a\",\"\"]}", "stop[1]", "invalid_value"},
    {"{" M ",\"stream_options\":{}}", "stream_options", "invalid_value"},
    {"{" M ",\"modalities\":[\"text\",\"audio\"]}", "modalities", "unsupported_parameter"},
    {"{" M ",\"functions\":[{}]}", "functions", "unsupported_parameter"},
    {"{" M ",\"echo\":true}", "echo", "unsupported_parameter"},
};

START_TEST(refused)
{
    em_api_context ctx = api_context(engine);
    em_chat *c = NULL;
    em_api_error err = {0};
    int r = em_chat_parse(bad[_i].body, strlen(bad[_i].body), &ctx, &c, &err);
    ck_assert_msg(r == -22 && !c, "accepted: %s", bad[_i].body);
    check_error(&err, strcmp(bad[_i].code, "model_not_found") ? 400 : 404, bad[_i].param, bad[_i].code, bad[_i].body);
}
END_TEST

/* --- accepted ----------------------------------------------------------------------------------------------- */

static em_chat *parse_with(const em_engine *with, bool thinks, const char *body)
{
    em_api_context ctx = api_context(with);
    em_chat *c = NULL;
    em_api_error err = {0};
    ctx.default_thinking = thinks;
    int r = em_chat_parse(body, strlen(body), &ctx, &c, &err);
    ck_assert_msg(r == 0, "%s refused: %s", body, err.message);
    return c;
}

static em_chat *parse(const char *body)
{
    return parse_with(engine, false, body);
}

START_TEST(defaults)
{
    em_chat *c = parse("{" M "}");
    ck_assert(!c->stream && !c->include_usage && !c->return_token_ids);
    ck_assert_int_eq(c->logprobs, -1);
    ck_assert_int_eq(c->n, 1);
    ck_assert_int_eq(c->req->max_tokens, 4096); /* what fits */
    ck_assert_int_eq(c->req->n_stops, 0);
    ck_assert_int_eq(c->req->n_prompts, 1);
    ck_assert_int_eq(c->mode.stage, EM_STAGE_CONTENT);
    ck_assert_int_eq(c->rule.kind, EM_CONSTRAINT_NONE);
    static const int32_t want[] = {FAKE_CHAT_BOS, FAKE_USER, 'a', FAKE_ASSISTANT, FAKE_THINK_END};
    ck_assert_int_eq(c->prompt.n_ids, 5);
    ck_assert_mem_eq(c->prompt.ids, want, sizeof want);
    em_chat_free(c);
}
END_TEST

START_TEST(everything_given)
{
    em_chat *c = parse("{\"model\":\"pocket\"," M ",\"max_tokens\":7,\"max_completion_tokens\":5,\"temperature\":0,"
                       "\"top_p\":0,\"top_k\":3,\"seed\":-1,\"n\":2,\"stop\":[\"x\",\"y\"],\"logprobs\":true,"
                       "\"top_logprobs\":20,\"stream\":true,\"stream_options\":{\"include_usage\":true},"
                       "\"return_token_ids\":true,\"ignore_eos\":true,\"modalities\":[\"text\"],\"functions\":[],"
                       "\"presence_penalty\":0,\"user\":\"u\",\"metadata\":{},\"tool_choice\":null,\"tools\":null}");
    ck_assert(c->stream && c->include_usage && c->return_token_ids);
    ck_assert_int_eq(c->req->max_tokens, 5);
    ck_assert_int_eq(c->req->n, 2);
    ck_assert_int_eq(c->req->logprobs, 20);
    ck_assert_int_eq(c->logprobs, 20);
    ck_assert_int_eq(c->req->n_stops, 0); /* the parser seeks them, in content */
    ck_assert_int_eq(c->n_stops, 2);
    ck_assert(c->req->ignore_eos && !c->req->prompt_logprobs);
    ck_assert_uint_eq(c->req->sampling.seed, UINT64_MAX);
    em_chat_free(c);
}
END_TEST

static const struct {
    const char *fields;
    bool dflt;
    em_chat_stage stage;
} thinking[] = {
    {"", false, EM_STAGE_CONTENT},
    {"", true, EM_STAGE_REASONING},
    {",\"reasoning_effort\":\"low\"", false, EM_STAGE_REASONING},
    {",\"reasoning_effort\":\"none\"", true, EM_STAGE_CONTENT},
    {",\"thinking\":{\"type\":\"disabled\"}", true, EM_STAGE_CONTENT},
    {",\"thinking\":{\"type\":\"enabled\"}", false, EM_STAGE_REASONING},
    {",\"thinking\":{\"type\":\"adaptive\"},\"reasoning_effort\":\"none\"", false, EM_STAGE_REASONING},
    {",\"thinking\":{\"type\":\"disabled\"},\"reasoning_effort\":\"max\"", true, EM_STAGE_CONTENT},
    {",\"tools\":[" TOOL("f", "") "],\"tool_choice\":\"required\"", true, EM_STAGE_CONTENT},
    {",\"tool_choice\":\"required\"", true, EM_STAGE_REASONING}, /* without tools it means nothing */
};

START_TEST(thinking_on_and_off)
{
    char body[512];
    snprintf(body, sizeof body, "{" M "%s}", thinking[_i].fields);
    em_chat *c = parse_with(engine, thinking[_i].dflt, body);
    ck_assert_int_eq(c->mode.stage, thinking[_i].stage);
    int32_t last = c->mode.in_calls ? '\n' : c->mode.stage == EM_STAGE_REASONING ? FAKE_THINK : FAKE_THINK_END;
    ck_assert_int_eq(c->prompt.ids[c->prompt.n_ids - 1], last);
    em_chat_free(c);
}
END_TEST

static const struct {
    const char *fields;
    em_constraint_kind kind;
    const char *text;
} rules[] = {
    {"\"response_format\":{\"type\":\"text\"}", EM_CONSTRAINT_NONE, ""},
    {"\"response_format\":{\"type\":\"json_object\"}", EM_CONSTRAINT_JSON, ""},
    {"\"structured_outputs\":{\"json_object\":true}", EM_CONSTRAINT_JSON, ""},
    {"\"structured_outputs\":{\"json\":{\"type\": \"array\"},\"regex\":null}", EM_CONSTRAINT_JSON,
     "{\"type\":\"array\"}"},
    {"\"structured_outputs\":{\"json\":\"{\\\"type\\\": \\\"null\\\"}\"}", EM_CONSTRAINT_JSON, "{\"type\":\"null\"}"},
    {"\"structured_outputs\":{\"regex\":\"a+\"}", EM_CONSTRAINT_REGEX, "a+"},
    {"\"structured_outputs\":{\"choice\":[\"a\", \"b\"]}", EM_CONSTRAINT_CHOICE, "[\"a\",\"b\"]"},
    {"\"structured_outputs\":{\"grammar\":\"root ::= x\"}", EM_CONSTRAINT_GRAMMAR, "root ::= x"},
    {"\"tools\":[" TOOL("f", "") "],\"tool_choice\":\"none\"", EM_CONSTRAINT_NONE, ""},
    {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"strict\":true,\"schema\":{\"type\":\"object\","
     "\"properties\":{\"default\":{\"type\":\"object\"},\"b\":{\"default\":{\"type\":\"object\"}}}}}}",
     EM_CONSTRAINT_JSON,
     "{\"type\":\"object\",\"properties\":{\"default\":{\"type\":\"object\",\"properties\":{},\"additionalProperties\":"
     "false,\"required\":[]},\"b\":{\"default\":{\"type\":\"object\"}}},\"additionalProperties\":false,\"required\":["
     "\"default\",\"b\"]}"},
};

START_TEST(what_the_answer_must_look_like)
{
    char body[1024];
    em_api_error err = {0};
    snprintf(body, sizeof body, "{" M ",%s}", rules[_i].fields);
    em_chat *c = parse(body);
    ck_assert_int_eq(c->rule.kind, rules[_i].kind);
    ck_assert_str_eq(c->rule.text, rules[_i].text);
    ck_assert_uint_eq(c->rule.len, strlen(rules[_i].text));
    ck_assert_int_eq(em_chat_bind(c, &err), 0);
    ck_assert_int_eq(c->req->grammar != NULL, c->rule.kind != EM_CONSTRAINT_NONE);
    em_chat_free(c);
}
END_TEST

START_TEST(nul_in_a_message)
{
    em_chat *c = parse("{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}");
    ck_assert_int_eq(c->prompt.n_ids, 7);
    ck_assert_int_eq(c->prompt.ids[3], 0);
    em_chat_free(c);
}
END_TEST

/* Marks that the caller spells stay text. */
START_TEST(marks_of_the_caller)
{
    em_chat *c = parse("{\"messages\":[{\"role\":\"user\",\"content\":\"</think>\"}]}");
    ck_assert_int_eq(c->prompt.n_ids, 4 + 8);
    ck_assert_int_eq(c->prompt.ids[2], '<');
    em_chat_free(c);
}
END_TEST

START_TEST(model_without_marks)
{
    em_chat *c = parse_with(plain, true, "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"}," USER "]}");
    static const char want[] = "System: s\n\nUser: a\n\nAssistant:";
    ck_assert_int_eq(c->prompt.n_ids, 1 + (int)strlen(want));
    ck_assert_int_eq(c->prompt.ids[0], FAKE_BOS);
    for (size_t i = 0; want[i]; i++)
        ck_assert_int_eq(c->prompt.ids[i + 1], want[i]);
    ck_assert_int_eq(c->mode.stage, EM_STAGE_CONTENT);
    em_chat_free(c);
    static const bad_case cannot[] = {
        {WITH_TOOLS(TOOL("f", "")), "tools", "unsupported_parameter"},
        {"{" M ",\"reasoning_effort\":\"low\"}", "reasoning_effort", "unsupported_parameter"},
        {"{" M ",\"thinking\":{\"type\":\"enabled\"}}", "thinking", "unsupported_parameter"},
        {MESSAGES(CALLS(CALL("1")) AND RESULT("1")), "messages[0].tool_calls", "unsupported_content"},
    };
    em_api_context ctx = api_context(plain);
    for (size_t i = 0; i < sizeof cannot / sizeof *cannot; i++) {
        em_api_error err = {0};
        ck_assert_int_eq(em_chat_parse(cannot[i].body, strlen(cannot[i].body), &ctx, &c, &err), -22);
        check_error(&err, 400, cannot[i].param, cannot[i].code, cannot[i].body);
    }
}
END_TEST

/* --- limits ------------------------------------------------------------------------------------------------- */

static void check_too_much(const em_buf *body, const char *param, const char *code)
{
    em_api_context ctx = api_context(engine);
    em_chat *c = NULL;
    em_api_error err = {0};
    ck_assert_int_eq(em_chat_parse(body->data, body->len, &ctx, &c, &err), -22);
    check_error(&err, 400, param, code, "too much");
}

START_TEST(limits)
{
    em_buf body = {0};
    em_buf_puts(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"");
    for (int i = 0; i < 5000; i++)
        em_buf_puts(&body, "a");
    em_buf_puts(&body, "\"}]}");
    check_too_much(&body, "messages", "context_length_exceeded");
    em_buf_clear(&body);
    em_buf_puts(&body, "{" M ",\"tools\":[");
    for (int i = 0; i <= EM_CHAT_MAX_TOOLS; i++)
        em_buf_printf(&body, "%s{}", i ? "," : "");
    em_buf_puts(&body, "]}");
    check_too_much(&body, "tools", "out_of_range");
    em_buf_clear(&body);
    em_buf_puts(&body, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[");
    for (int i = 0; i <= EM_CHAT_MAX_CALLS; i++)
        em_buf_printf(&body, "%s{}", i ? "," : "");
    em_buf_puts(&body, "]}]}");
    check_too_much(&body, "messages[0].tool_calls", "out_of_range");
    em_buf_clear(&body);
    em_buf_puts(&body, "{\"messages\":[");
    for (int i = 0; i <= EM_CHAT_MAX_VALUES; i++)
        em_buf_printf(&body, "%s0", i ? "," : "");
    em_buf_puts(&body, "]}");
    check_too_much(&body, "messages", "out_of_range");
    em_buf_done(&body);
}
END_TEST

/* --- bound answers ------------------------------------------------------------------------------------------ */

static const struct {
    const char *fields;
    em_grammar_kind kind;
    const char *text, *after, *param;
} bound[] = {
    {"\"response_format\":{\"type\":\"json_object\"}", EM_GRAMMAR_JSON_OBJECT, "", "", "response_format"},
    {"\"response_format\":{\"type\":\"regex\",\"regex\":\"a|b\"}", EM_GRAMMAR_REGEX, "a|b", "", "response_format"},
    {"\"structured_outputs\":{\"regex\":\"a\"},\"thinking\":{\"type\":\"enabled\"}", EM_GRAMMAR_REGEX, "a", "</think>",
     "structured_outputs"},
    {"\"structured_outputs\":{\"grammar\":\"root ::= x\"}", EM_GRAMMAR_EBNF, "root ::= x", "", "structured_outputs"},
    {"\"structured_outputs\":{\"choice\":[\"a\"]}", EM_GRAMMAR_CHOICE, "[\"a\"]", "", "structured_outputs"},
};

START_TEST(what_binds)
{
    char body[512];
    em_api_context ctx = api_context(engine);
    em_api_error err = {0};
    em_call call = {0};
    snprintf(body, sizeof body, "{" M ",%s}", bound[_i].fields);
    ck_assert_int_eq(em_call_parse(&em_chat_endpoint, body, strlen(body), &ctx, &call, &err), 0);
    const em_grammar_source *s = call.req->grammar;
    ck_assert_ptr_nonnull(s);
    ck_assert_int_eq(s->kind, bound[_i].kind);
    ck_assert_uint_eq(s->len, strlen(bound[_i].text));
    ck_assert_mem_eq(s->text, bound[_i].text, s->len);
    ck_assert_uint_eq(s->after_len, strlen(bound[_i].after));
    ck_assert_mem_eq(s->after, bound[_i].after, s->after_len);
    ck_assert_str_eq(call.form_param, bound[_i].param);
    em_call_done(&call);
}
END_TEST

/* --- /tokenize ---------------------------------------------------------------------------------------------- */

static void check_tokenize(const char *body, const char *want)
{
    em_api_context ctx = api_context(engine);
    em_buf out = {0};
    em_api_error err = {0};
    int r = em_api_tokenize(body, strlen(body), &ctx, &out, &err);
    ck_assert_msg(r == 0, "%s: %s", body, err.message);
    ck_assert_str_eq(out.data, want);
    em_buf_done(&out);
}

START_TEST(tokenizing_messages)
{
    static const char want[] = "{\"tokens\":[266,261,97,262,264],\"count\":5,\"max_model_len\":4096}";
    check_tokenize("{" M "}", want);
    check_tokenize("{" M ",\"model\":\"pocket\",\"stream\":true,\"temperature\":99,\"add_special_tokens\":false}",
                   want);
    static const bad_case cannot[] = {
        {"{" M ",\"prompt\":\"x\"}", "prompt", "invalid_value"},
        {"{" M ",\"no_such\":1}", "no_such", "unknown_parameter"},
        {"{" M ",\"model\":\"nope\"}", "model", "model_not_found"},
        {"{\"messages\":[]}", "messages", "invalid_value"},
        {"{\"messages\":[],\"tools\":5}", "messages", "invalid_value"},
    };
    em_api_context ctx = api_context(engine);
    for (size_t i = 0; i < sizeof cannot / sizeof *cannot; i++) {
        em_buf out = {0};
        em_api_error err = {0};
        ck_assert_int_eq(em_api_tokenize(cannot[i].body, strlen(cannot[i].body), &ctx, &out, &err), -22);
        check_error(&err, strcmp(cannot[i].code, "model_not_found") ? 400 : 404, cannot[i].param, cannot[i].code,
                    cannot[i].body);
        em_buf_done(&out);
    }
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("request");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, refused, 0, sizeof bad / sizeof *bad);
    tcase_add_test(t, defaults);
    tcase_add_test(t, everything_given);
    tcase_add_loop_test(t, thinking_on_and_off, 0, sizeof thinking / sizeof *thinking);
    tcase_add_loop_test(t, what_the_answer_must_look_like, 0, sizeof rules / sizeof *rules);
    tcase_add_test(t, nul_in_a_message);
    tcase_add_test(t, marks_of_the_caller);
    tcase_add_test(t, model_without_marks);
    tcase_add_test(t, limits);
    tcase_add_loop_test(t, what_binds, 0, sizeof bound / sizeof *bound);
    tcase_add_test(t, tokenizing_messages);
    Suite *s = suite_create("chat-request");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
