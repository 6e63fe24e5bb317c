/* The test `chat-parse`: text of a model -> reasoning, content and calls, as the vendor's library has them, whatever the
 * cuts; and nothing is held back longer than needed. */
#include <check.h>
#include <stdlib.h>

#include "api/chat_parse.h"
#include "api/json_tree.h"
#include "tests/support/chat_golden.h"

/* --- what a parser gave out --------------------------------------------------------------------------------- */

#define MAX_CALLS 16

typedef struct parsed {
    em_buf reasoning, content;
    em_buf name[MAX_CALLS], arguments[MAX_CALLS];
    int32_t n_calls;
    bool stopped;
    em_chat_position where;
} parsed;

static void collect(void *ctx, em_chat_part part, int32_t call, const char *text, size_t len)
{
    parsed *out = ctx;
    em_json j;
    em_buf quoted = {0};
    em_buf_json_string(&quoted, text, len); /* complete UTF-8 only: our strict reader takes it */
    em_json_init(&j, quoted.data, quoted.len, 0);
    ck_assert_int_eq(em_json_next(&j), EM_JSON_STRING);
    em_buf_done(&quoted);
    switch (part) {
    case EM_PART_REASONING: em_buf_append(&out->reasoning, text, len); break;
    case EM_PART_CONTENT: em_buf_append(&out->content, text, len); break;
    case EM_PART_CALL_NAME:
        ck_assert_int_eq(call, out->n_calls);
        ck_assert_int_lt(call, MAX_CALLS);
        em_buf_append(&out->name[out->n_calls++], text, len);
        break;
    case EM_PART_CALL_ARGUMENTS:
        ck_assert_int_eq(call, out->n_calls - 1);
        ck_assert_uint_gt(len, 0);
        em_buf_append(&out->arguments[call], text, len);
        break;
    }
}

static void parsed_done(parsed *p)
{
    em_buf_done(&p->reasoning);
    em_buf_done(&p->content);
    for (int i = 0; i < MAX_CALLS; i++) {
        em_buf_done(&p->name[i]);
        em_buf_done(&p->arguments[i]);
    }
}

static const char *text_of(const em_buf *b)
{
    return b->data ? b->data : "";
}

static bool same(const em_buf *a, const em_buf *b)
{
    return a->len == b->len && !memcmp(text_of(a), text_of(b), a->len);
}

static bool same_parsed(const parsed *a, const parsed *b)
{
    bool equal = same(&a->reasoning, &b->reasoning) && same(&a->content, &b->content) && a->n_calls == b->n_calls &&
                 a->stopped == b->stopped && a->where.cut == b->where.cut &&
                 a->where.reasoning_end == b->where.reasoning_end;
    for (int32_t i = 0; equal && i < a->n_calls; i++)
        equal = same(&a->name[i], &b->name[i]) && same(&a->arguments[i], &b->arguments[i]);
    return equal;
}

/* next: where the chunk that begins at a position ends. */
typedef size_t (*cut_fn)(const char *text, size_t len, size_t at);

static void run(const em_chat_rules *rules, const char *text, size_t len, cut_fn next, parsed *out)
{
    em_chat_parser *p = NULL;
    *out = (parsed){0};
    ck_assert_int_eq(em_chat_parser_new(rules, (em_chat_sink){collect, out}, &p), 0);
    for (size_t at = 0, end; at < len; at = end) {
        end = next(text, len, at);
        int r = em_chat_parser_push(p, text + at, end - at);
        ck_assert_int_ge(r, 0);
        out->stopped = r;
    }
    ck_assert_int_eq(em_chat_parser_finish(p), 0);
    em_chat_parser_where(p, &out->where);
    em_chat_parser_free(p);
}

static size_t whole(const char *text, size_t len, size_t at)
{
    return len;
}

static size_t one_char(const char *text, size_t len, size_t at)
{
    for (at++; at < len && ((unsigned char)text[at] & 0xc0) == 0x80; at++)
        ;
    return at;
}

static size_t random_cut(const char *text, size_t len, size_t at)
{
    size_t most = random() % 4 ? 4 : 40;
    for (size_t n = 1 + (size_t)random() % most; n && at < len; n--)
        at = one_char(text, len, at);
    return at;
}

/* --- golden cases ------------------------------------------------------------------------------------------- */

typedef struct golden_case {
    em_arena arena;
    const em_node *root;
    em_chat_mode mode;
    em_stop stops[16];
    int32_t n_stops;
    em_buf text; /* all chunks */
} golden_case;

static bool flag(const em_node *object, const char *key)
{
    const em_node *n = em_node_member(object, key);
    return n && n->type == EM_JSON_TRUE;
}

static void open_case(golden_case *c, const char *line, size_t len)
{
    static const char *const stages[] = {"reasoning", "reasoning_continuation", "content", "content_continuation"};
    em_node *root = NULL;
    size_t values = 1000000;
    *c = (golden_case){0};
    ck_assert_int_eq(em_tree_parse(&c->arena, line, len, 0, &values, &root), 0);
    c->root = root;
    const em_node *mode = em_node_member(root, "mode"), *stop = em_node_member(mode, "stop");
    int stage = 0;
    while (stage < 4 && !em_node_is(em_node_member(mode, "stage"), stages[stage]))
        stage++;
    ck_assert_int_lt(stage, 4);
    c->mode = (em_chat_mode){.stage = (em_chat_stage)stage,
                             .tool_calls = flag(mode, "parse_tool_calls"),
                             .in_calls = flag(mode, "starts_in_tool_calls"),
                             .json_output = flag(mode, "parse_json_output")};
    for (const em_node *s = stop ? stop->child : NULL; s && c->n_stops < 16; s = s->next)
        c->stops[c->n_stops++] = (em_stop){(char *)s->text, s->len};
    for (const em_node *chunk = em_node_member(root, "chunks")->child; chunk; chunk = chunk->next)
        em_buf_append(&c->text, chunk->text, chunk->len);
}

static void close_case(golden_case *c)
{
    em_buf_done(&c->text);
    em_arena_done(&c->arena);
}

static const em_node *current_chunk;

static size_t given_cut(const char *text, size_t len, size_t at)
{
    size_t n = 0;
    while (current_chunk && !n) {
        n = current_chunk->len;
        current_chunk = current_chunk->next;
    }
    return n ? at + n : len;
}

static void expect(const em_node *want, const em_buf *got, const char *what, const char *where)
{
    ck_assert_ptr_nonnull(want);
    ck_assert_msg(want->len == got->len && !memcmp(want->text, text_of(got), got->len), "%s: %s is \"%s\", not \"%s\"",
                  where, what, text_of(got), want->text);
}

static void check_final(const golden_case *c, const parsed *got, const char *where)
{
    const em_node *final = em_node_member(c->root, "final");
    const em_node *calls = em_node_member(final, "tool_calls"), *finish = em_node_member(final, "finish_reason");
    expect(em_node_member(final, "reasoning_content"), &got->reasoning, "reasoning", where);
    expect(em_node_member(final, "content"), &got->content, "content", where);
    ck_assert_msg((size_t)got->n_calls == em_node_count(calls), "%s: %d calls", where, (int)got->n_calls);
    int32_t i = 0;
    for (const em_node *call = calls->child; call; call = call->next, i++) {
        expect(em_node_member(call, "name"), &got->name[i], "name", where);
        expect(em_node_member(call, "arguments"), &got->arguments[i], "arguments", where);
    }
    bool stop = em_node_is(em_node_member(c->root, "finish"), "stop") || got->stopped;
    ck_assert_msg(em_node_is(finish, "tool_calls") == (stop && got->n_calls > 0), "%s: finish_reason", where);
}

/* Every call's arguments are JSON where the vendor's are. */
static void check_validity(const golden_case *c, const parsed *got, const char *where)
{
    const em_node *valid = em_node_member(c->root, "arguments_valid_json");
    int32_t i = 0;
    for (const em_node *v = valid ? valid->child : NULL; v; v = v->next, i++) {
        em_arena a = {0};
        em_node *root = NULL;
        size_t values = 100000;
        int r = em_tree_parse(&a, text_of(&got->arguments[i]), got->arguments[i].len, 0, &values, &root);
        ck_assert_msg((r == 0) == (v->type == EM_JSON_TRUE), "%s: %s", where, text_of(&got->arguments[i]));
        em_arena_done(&a);
    }
}

static void check_line(const char *line, size_t len, const char *where)
{
    golden_case c;
    em_chat_rules *rules = NULL;
    parsed given, other;
    open_case(&c, line, len);
    ck_assert_int_eq(em_chat_rules_new(&c.mode, c.stops, c.n_stops, &rules), 0);
    current_chunk = em_node_member(c.root, "chunks")->child;
    run(rules, text_of(&c.text), c.text.len, given_cut, &given);
    check_final(&c, &given, where);
    check_validity(&c, &given, where);
    for (int i = 0; i < 42; i++) { /* ours does not depend on the cut even where the vendor's does */
        run(rules, text_of(&c.text), c.text.len, i == 0 ? whole : i == 1 ? one_char : random_cut, &other);
        ck_assert_msg(same_parsed(&given, &other), "%s: another cut (%d) gives content \"%s\"", where, i,
                      text_of(&other.content));
        parsed_done(&other);
    }
    parsed_done(&given);
    em_chat_rules_free(rules);
    close_case(&c);
}

START_TEST(golden_parsing)
{
    srandom((unsigned)test_seed(41));
    chat_golden_lines(true, check_line);
}
END_TEST

/* --- properties --------------------------------------------------------------------------------------------- */

#define BAR "\xef\xbd\x9c"
#define DSML BAR "DSML" BAR

static const char *const bits[] = {"<",
                                   "/",
                                   "think>",
                                   "</think>",
                                   "<" DSML,
                                   "</" DSML,
                                   " calls>",
                                   "tool_calls>",
                                   " invoke name=\"f\">",
                                   " parameter name=\"a b\" string=\"true\">",
                                   " parameter name=\"n\" string=\"false\">",
                                   " parameter>",
                                   " invoke>",
                                   "\n",
                                   "\n\n",
                                   "a",
                                   "ST",
                                   "OP",
                                   "\"",
                                   "\xc3\xa9",
                                   "{",
                                   "}",
                                   "```json\n",
                                   "\n```",
                                   "`",
                                   BAR,
                                   "DSML",
                                   " string=\"",
                                   "[1]"};

static void random_text(em_buf *text)
{
    for (int n = 1 + (int)random() % 30; n; n--)
        em_buf_puts(text, bits[(size_t)random() % (sizeof bits / sizeof *bits)]);
}

static em_chat_rules *random_rules(void)
{
    static char stop_a[] = "STOP", stop_b[] = "\n\n", stop_c[] = "a<";
    em_stop stops[] = {{stop_a, 4}, {stop_b, 2}, {stop_c, 2}};
    em_chat_mode mode = {.stage = (em_chat_stage)(random() % 4),
                         .tool_calls = random() % 4 > 0,
                         .in_calls = random() % 8 == 0,
                         .single_call = random() % 8 == 0,
                         .json_output = random() % 4 == 0};
    em_chat_rules *rules = NULL;
    mode.in_calls = mode.in_calls && mode.tool_calls;
    ck_assert_int_eq(em_chat_rules_new(&mode, stops, (int32_t)(random() % 4), &rules), 0);
    return rules;
}

START_TEST(cuts_do_not_matter)
{
    srandom((unsigned)test_seed(43));
    for (int i = 0; i < 4000; i++) {
        em_buf text = {0};
        parsed a, b;
        em_chat_rules *rules = random_rules();
        random_text(&text);
        run(rules, text.data, text.len, whole, &a);
        for (int k = 0; k < 4; k++) {
            run(rules, text.data, text.len, k ? random_cut : one_char, &b);
            ck_assert_msg(same_parsed(&a, &b), "cuts matter (round %d) in: %s", i, text.data);
            parsed_done(&b);
        }
        ck_assert_int_le(a.where.reasoning_end == INT64_MAX ? 0 : a.where.reasoning_end, a.where.chars);
        ck_assert_int_le(a.where.settled, a.where.chars);
        ck_assert_int_eq(a.stopped, a.where.cut != INT64_MAX);
        parsed_done(&a);
        em_buf_done(&text);
        em_chat_rules_free(rules);
    }
}
END_TEST

static const struct {
    const char *push, *reasoning, *content; /* given out by then, in all */
} prompt_steps[] = {
    {"I th", "I th", ""},
    {"ink", "I think", ""},
    {".\n", "I think.", ""}, /* may belong to the end mark */
    {"x<", "I think.\nx", ""},
    {"/b</thi", "I think.\nx</b", ""},
    {"nk>\n", "I think.\nx</b", ""},
    {"\nHi", "I think.\nx</b", "Hi"},
    {"\n", "I think.\nx</b", "Hi"},
    {"you S", "I think.\nx</b", "Hi\nyou "},
    {"TO", "I think.\nx</b", "Hi\nyou "},
    {"NE <", "I think.\nx</b", "Hi\nyou STONE "},
    {BAR "D", "I think.\nx</b", "Hi\nyou STONE "},
    {"X\n\n", "I think.\nx</b", "Hi\nyou STONE <" BAR "DX"},
    {"<" DSML, "I think.\nx</b", "Hi\nyou STONE <" BAR "DX"},
};

START_TEST(nothing_is_held_longer_than_needed)
{
    static char stop[] = "STOP";
    em_stop stops[] = {{stop, 4}};
    em_chat_mode mode = {.stage = EM_STAGE_REASONING, .tool_calls = true};
    em_chat_rules *rules = NULL;
    em_chat_parser *p = NULL;
    parsed out = {0};
    ck_assert_int_eq(em_chat_rules_new(&mode, stops, 1, &rules), 0);
    ck_assert_int_eq(em_chat_parser_new(rules, (em_chat_sink){collect, &out}, &p), 0);
    for (size_t i = 0; i < sizeof prompt_steps / sizeof *prompt_steps; i++) {
        ck_assert_int_eq(em_chat_parser_push(p, prompt_steps[i].push, strlen(prompt_steps[i].push)), 0);
        ck_assert_str_eq(text_of(&out.reasoning), prompt_steps[i].reasoning);
        ck_assert_str_eq(text_of(&out.content), prompt_steps[i].content);
    }
    em_chat_parser_free(p);
    em_chat_rules_free(rules);
    parsed_done(&out);
}
END_TEST

/* --- single cases ------------------------------------------------------------------------------------------- */

#define CALL(name) "<" DSML " invoke name=\"" name "\">\n"
#define PARAM(name, kind, value)                                                                                       \
    "<" DSML " parameter name=\"" name "\" string=\"" kind "\">" value "</" DSML " parameter>\n"
#define END "</" DSML " invoke>\n"

static const struct {
    const char *text, *stop;
    em_chat_mode mode;
    const char *content;
    int32_t n_calls;
    const char *arguments; /* of the first */
} cases[] = {
    {"<" DSML " calls>\n" CALL("f") END CALL("g") END "</" DSML " calls>",
     NULL,
     {.stage = EM_STAGE_CONTENT, .tool_calls = true},
     "",
     2,
     "{}"},
    {"<" DSML " calls>\n" CALL("f") END CALL("g") END "</" DSML " calls>",
     NULL,
     {.stage = EM_STAGE_CONTENT, .tool_calls = true, .single_call = true},
     "",
     1,
     "{}"},
    {"<" DSML " calls>\n" CALL("f") PARAM("a", "maybe", "x\"y") END,
     NULL,
     {.stage = EM_STAGE_CONTENT, .tool_calls = true},
     "",
     1,
     "{\"a\": \"x\\\"y\"}"},
    {"<" DSML " calls>\n" CALL("f") PARAM("q\"\\", "false", "1") END,
     NULL,
     {.stage = EM_STAGE_CONTENT, .tool_calls = true},
     "",
     1,
     "{\"q\\\"\\\\\": 1}"},
    {"x <" DSML CALL("f") PARAM("a", "true", "1") "</" DSML " calls>rest",
     NULL,
     {.stage = EM_STAGE_CONTENT, .tool_calls = true},
     "x ",
     1,
     "{\"a\": \"1\"}"},
    {"ab</think>cd", "bc", {.stage = EM_STAGE_CONTENT}, "abcd", 0, NULL},
    {"ab\n\n<" DSML " calls>" CALL("f") END, "<", {.stage = EM_STAGE_CONTENT, .tool_calls = true}, "ab\n\n", 0, NULL},
    {"{\"a\": 1}\n```\nbye", NULL, {.stage = EM_STAGE_CONTENT, .json_output = true}, "{\"a\": 1} ", 0, NULL},
    {"Well: ```json\n{}\n``` so", "o", {.stage = EM_STAGE_CONTENT, .json_output = true}, " {} ", 0, NULL},
    {"` no", NULL, {.stage = EM_STAGE_CONTENT, .json_output = true}, " ", 0, NULL},
};

START_TEST(single_cases)
{
    em_chat_rules *rules = NULL;
    em_stop stop = {(char *)cases[_i].stop, cases[_i].stop ? strlen(cases[_i].stop) : 0};
    parsed out;
    ck_assert_int_eq(em_chat_rules_new(&cases[_i].mode, &stop, cases[_i].stop ? 1 : 0, &rules), 0);
    run(rules, cases[_i].text, strlen(cases[_i].text), whole, &out);
    ck_assert_str_eq(text_of(&out.content), cases[_i].content);
    ck_assert_int_eq(out.n_calls, cases[_i].n_calls);
    if (cases[_i].arguments)
        ck_assert_str_eq(text_of(&out.arguments[0]), cases[_i].arguments);
    parsed_done(&out);
    em_chat_rules_free(rules);
}
END_TEST

START_TEST(positions)
{
    static char stop[] = "\xc3\xa9nd";
    em_stop stops[] = {{stop, 4}};
    em_chat_mode mode = {.stage = EM_STAGE_REASONING};
    em_chat_rules *rules = NULL;
    em_chat_parser *p = NULL;
    em_chat_position at;
    parsed out = {0};
    ck_assert_int_eq(em_chat_rules_new(&mode, stops, 1, &rules), 0);
    ck_assert_int_eq(em_chat_parser_new(rules, (em_chat_sink){collect, &out}, &p), 0);
    ck_assert_int_eq(em_chat_parser_push(p, "\xc3\xa9nd", 4), 0); /* reasoning: no stop */
    em_chat_parser_where(p, &at);
    ck_assert(at.chars == 3 && at.settled == 3 && at.reasoning_end == INT64_MAX && at.cut == INT64_MAX);
    ck_assert_int_eq(em_chat_parser_push(p, "</think>x\xc3\xa9n", 12), 0);
    em_chat_parser_where(p, &at);
    ck_assert(at.chars == 14 && at.settled == 12 && at.reasoning_end == 11);
    ck_assert_int_eq(em_chat_parser_push(p, "d never", 7), 1);
    em_chat_parser_where(p, &at);
    ck_assert(at.cut == 12 && at.n_calls == 0);
    ck_assert_int_eq(em_chat_parser_push(p, "more", 4), 1);
    ck_assert_str_eq(text_of(&out.content), "x");
    em_chat_parser_free(p);
    em_chat_rules_free(rules);
    parsed_done(&out);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("parse");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, golden_parsing);
    tcase_add_test(t, cuts_do_not_matter);
    tcase_add_test(t, nothing_is_held_longer_than_needed);
    tcase_add_loop_test(t, single_cases, 0, sizeof cases / sizeof *cases);
    tcase_add_test(t, positions);
    Suite *s = suite_create("chat-parse");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
