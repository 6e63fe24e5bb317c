/* Tools -> a grammar of calls: what it allows is what the parser reads back with valid arguments. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "api/call_grammar.h"
#include "api/chat_parse.h"
#include "engine/grammar/grammar.h"

#define BAR "\xef\xbd\x9c"
#define DSML BAR "DSML" BAR
#define CALL(name, body) "<" DSML " invoke name=\"" name "\">\n" body "</" DSML " invoke>\n"
#define TEXT(name, value) "<" DSML " parameter name=\"" name "\" string=\"true\">" value "</" DSML " parameter>\n"
#define JSON(name, value) "<" DSML " parameter name=\"" name "\" string=\"false\">" value "</" DSML " parameter>\n"
#define END "</" DSML " calls>"
#define BEGIN "<" DSML " calls>\n"

static const char tools[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":{\"type\":\"object\","
    "\"properties\":{"
    "\"city\":{\"type\":\"string\"},\"unit\":{\"enum\":[\"c\",\"f\"]},\"days\":{\"type\":\"integer\",\"minimum\":1},"
    "\"a/b~%\":{\"$ref\":\"#/$defs/d\"},\"maybe\":{\"type\":[\"string\",\"null\"]}},\"required\":[\"city\",\"days\"],"
    "\"$defs\":{\"d\":{\"type\":\"string\",\"maxLength\":30}}}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"none\",\"parameters\":{\"type\":\"object\",\"properties\":{},"
    "\"additionalProperties\":false}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"any\"}}]";

static em_grammar *grammar_of(const char *list, bool required, bool single)
{
    em_call_form form = {.tools = list, .len = strlen(list), .required = required, .single = single, .param = "tools"};
    em_api_error api_err = {0};
    em_error err = {.text = ""};
    em_buf text = {0};
    em_grammar *g = NULL;
    ck_assert_msg(em_call_grammar(&form, &text, &api_err) == 0, "%s", api_err.message);
    ck_assert_msg(em_grammar_compile_ebnf(text.data, text.len, NULL, NULL, &g, &err) == 0, "%s\n%s", err.text,
                  text.data);
    em_buf_done(&text);
    return g;
}

static bool allows(em_grammar *g, const char *text)
{
    em_grammar_state *s;
    ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
    bool yes = em_grammar_state_accept_bytes(s, text, strlen(text)) == 0 && em_grammar_state_is_complete(s);
    em_grammar_state_free(s);
    return yes;
}

static void put(void *ctx, em_chat_part part, int32_t call, const char *text, size_t len)
{
    em_buf_append(ctx, text, len);
}

/* Names and arguments as the parser of a bound answer gives them. */
static void check_read(const char *text, const char *want)
{
    em_chat_mode mode = {.stage = EM_STAGE_CONTENT, .tool_calls = true, .in_calls = true, .bound = true};
    em_chat_rules *rules;
    em_chat_parser *p;
    em_buf got = {0};
    ck_assert_int_eq(em_chat_rules_new(&mode, NULL, 0, &rules), 0);
    ck_assert_int_eq(em_chat_parser_new(rules, (em_chat_sink){put, &got}, &p), 0);
    ck_assert_int_eq(em_chat_parser_push(p, text, strlen(text)), 0);
    ck_assert_int_eq(em_chat_parser_finish(p), 0);
    ck_assert_str_eq(got.data, want);
    em_chat_parser_free(p);
    em_chat_rules_free(rules);
    em_buf_done(&got);
}

static const struct {
    const char *text, *read; /* NULL: not allowed */
} calls[] = {
    {CALL("f", TEXT("city", "Oslo \"x\"") JSON("days", "3")) END, "f{\"city\": \"Oslo \\\"x\\\"\", \"days\": 3}"},
    {CALL("f", TEXT("city", "") TEXT("unit", "c") JSON("days", "1") JSON("a/b~%", "\"</" DSML " parameter>\"")) END,
     "f{\"city\": \"\", \"unit\": \"c\", \"days\": 1, \"a/b~%\": \"</" DSML " parameter>\"}"},
    {CALL("f", TEXT("city", "a") JSON("days", "1") JSON("maybe", "null")) CALL("none", "\n") END,
     "f{\"city\": \"a\", \"days\": 1, \"maybe\": null}none{}"},
    {CALL("f", TEXT("city", "a") JSON("days", "1") TEXT("maybe", "null")) END,
     "f{\"city\": \"a\", \"days\": 1, \"maybe\": \"null\"}"},
    {CALL("any", "\n") END, "any{}"},
    {CALL("any", TEXT("x y", "1") JSON("z", "[{}]")) END, "any{\"x y\": \"1\", \"z\": [{}]}"},
    {END, NULL},
    {CALL("g", "\n") END, NULL},
    {CALL("f", TEXT("city", "a")) END, NULL},
    {CALL("f", JSON("days", "1") TEXT("city", "a")) END, NULL},
    {CALL("f", TEXT("city", "a") JSON("days", "0")) END, NULL},
    {CALL("f", TEXT("city", "a") TEXT("unit", "k") JSON("days", "1")) END, NULL},
    {CALL("f", TEXT("city", "a") JSON("days", "1") JSON("more", "1")) END, NULL},
    {CALL("none", TEXT("x", "1")) END, NULL},
    {CALL("any", "\n") END " ", NULL},
};

START_TEST(required_calls)
{
    em_grammar *g = grammar_of(tools, true, false);
    ck_assert_msg(allows(g, calls[_i].text) == (calls[_i].read != NULL), "%s", calls[_i].text);
    if (calls[_i].read)
        check_read(calls[_i].text, calls[_i].read);
    em_grammar_unref(g);
}
END_TEST

START_TEST(one_call_at_most)
{
    em_grammar *g = grammar_of(tools, true, true);
    ck_assert(allows(g, CALL("any", "\n") END));
    ck_assert(!allows(g, CALL("any", "\n") CALL("any", "\n") END));
    em_grammar_unref(g);
}
END_TEST

START_TEST(a_block_may_open)
{
    em_grammar *g = grammar_of(tools, false, false);
    ck_assert(em_call_any_strict(tools, strlen(tools)));
    ck_assert(allows(g, ""));
    ck_assert(allows(g, "Hm.</think>No. < " DSML));
    ck_assert(allows(g, "Hm.</think>\n\n" BEGIN CALL("f", TEXT("city", "a") JSON("days", "1")) END));
    ck_assert(!allows(g, "<" DSML));
    ck_assert(!allows(g, BEGIN CALL("f", TEXT("city", "a")) END));
    ck_assert(!allows(g, BEGIN CALL("f", TEXT("city", "a") JSON("days", "1")) END " and more"));
    ck_assert(allows(g, BEGIN CALL("none", TEXT("x", "1")) END)); /* it is not strict */
    em_grammar_unref(g);
}
END_TEST

static const struct {
    const char *tools, *why;
} cannot[] = {
    {"[{\"function\":{\"name\":\"a\\\"b\"}}]", "quote"},
    {"[{\"function\":{\"name\":\"a\",\"parameters\":{\"type\":\"object\",\"minProperties\":1}}}]", "minProperties"},
    {"[{\"function\":{\"name\":\"a\",\"parameters\":{\"type\":\"object\",\"required\":[\"x\"]}}}]", "required"},
    {"[{\"function\":{\"name\":\"a\",\"parameters\":{\"type\":\"object\",\"properties\":{\"x\\\" string=\\\"\":{}}}}}]",
     "written in a call"},
};

START_TEST(what_cannot_be_written)
{
    em_call_form form = {
        .tools = cannot[_i].tools, .len = strlen(cannot[_i].tools), .required = true, .param = "tool_choice"};
    em_api_error err = {0};
    em_buf text = {0};
    ck_assert_int_eq(em_call_grammar(&form, &text, &err), -22);
    ck_assert_msg(strstr(err.message, cannot[_i].why) != NULL, "%s", err.message);
    ck_assert_str_eq(err.param, "tool_choice");
    em_buf_done(&text);
}
END_TEST

/* A bound answer's content is what the model wrote: newlines in front and marks included. */
START_TEST(bound_content_is_as_it_stands)
{
    em_chat_mode mode = {.stage = EM_STAGE_REASONING, .json_output = true, .bound = true};
    em_chat_rules *rules;
    em_chat_parser *p;
    em_buf got = {0};
    static const char text[] = "\nHm\n</think>\n\"</think> <" DSML " ```\n";
    ck_assert_int_eq(em_chat_rules_new(&mode, NULL, 0, &rules), 0);
    ck_assert_int_eq(em_chat_parser_new(rules, (em_chat_sink){put, &got}, &p), 0);
    ck_assert_int_eq(em_chat_parser_push(p, text, strlen(text)), 0);
    ck_assert_int_eq(em_chat_parser_finish(p), 0);
    ck_assert_str_eq(got.data, "Hm\n\"</think> <" DSML " ```\n");
    em_chat_parser_free(p);
    em_chat_rules_free(rules);
    em_buf_done(&got);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("call-grammar");
    TCase *t = tcase_create("calls");
    tcase_add_loop_test(t, required_calls, 0, sizeof calls / sizeof *calls);
    tcase_add_test(t, one_call_at_most);
    tcase_add_test(t, a_block_may_open);
    tcase_add_loop_test(t, what_cannot_be_written, 0, sizeof cannot / sizeof *cannot);
    tcase_add_test(t, bound_content_is_as_it_stands);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
