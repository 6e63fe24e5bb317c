/* The test `chat-prompt`: bodies of chat requests -> prompt text, ids, how the answer is parsed and constrained, as the
 * vendor's library has them; rejections as 400 with a param, except where we differ on purpose. */
#include <check.h>
#include <stdlib.h>

#include "api/chat_request.h"
#include "api/json_tree.h"
#include "tests/support/chat_golden.h"
#include "tests/support/tokenizer_engine.h"

#define MAX_LEN 393216 /* the most tokens that the vendor lets a client ask for */

static em_engine *engine;
static em_api_context ctx;

static void setup(void)
{
    static const char *const names[] = {"DeepSeek-V4.1-Flash", "DeepSeek-V4-Pro"};
    char dir[2048];
    engine = tokenizer_engine_new(fixture_path(dir, sizeof dir, "tokenizer"), MAX_LEN);
    ctx = (em_api_context){.engine = engine,
                           .model_names = names,
                           .n_model_names = 2,
                           .max_prompts = 1,
                           .max_choices = 128,
                           .max_n = 128,
                           .max_stops = 16,
                           .max_stop_bytes = 1024,
                           .max_logit_bias = EM_MAX_LOGIT_BIAS,
                           .max_logprobs = 20,
                           .max_depth = 128,
                           .default_thinking = true};
}

static void teardown(void)
{
    tokenizer_engine_free(engine);
}

/* --- the case's body ---------------------------------------------------------------------------------------- */

/* Source text of the member `request`, or the text in `body`; caller frees. */
static char *body_of(const char *line, size_t len, size_t *ret_len)
{
    em_json j;
    if (golden_find(line, len, "body", &j))
        return golden_text(&j, ret_len);
    ck_assert(golden_find(line, len, "request", &j));
    const char *from = j.p - 1;
    ck_assert_int_eq(em_json_skip(&j), 0);
    *ret_len = (size_t)(j.p - from);
    return strndup(from, *ret_len);
}

/* --- what the prompt must be -------------------------------------------------------------------------------- */

static void check_text(const char *line, size_t len, const char *body, size_t body_len, const char *where)
{
    em_body *read = malloc(sizeof *read);
    em_chat_prompt prompt = {0};
    em_api_error err = {0};
    em_json j;
    size_t want_len;
    ck_assert_ptr_nonnull(read);
    ck_assert_int_eq(em_body_read(read, body, body_len, 128, &err), 0);
    ck_assert_msg(em_chat_read_prompt(read, &ctx, &prompt, &err) == 0, "%s: %s", where, err.message);
    bool hex = golden_find(line, len, "prompt_hex", &j);
    char *want = golden_member_text(line, len, hex ? "prompt_hex" : "prompt", &want_len);
    if (hex)
        want_len = golden_unhex(want, want_len);
    ck_assert_msg(prompt.text.len == want_len && !memcmp(prompt.text.data, want, want_len),
                  "%s: prompt is\n%s\nnot\n%s", where, prompt.text.data, want);
    free(want);
    free(read);
    em_chat_prompt_done(&prompt);
}

static void check_ids(const char *line, size_t len, const em_chat *c, const char *where)
{
    em_json j;
    size_t n;
    ck_assert(golden_find(line, len, "ids", &j));
    int32_t *want = golden_ids(j, &n);
    ck_assert_msg((size_t)c->prompt.n_ids == n, "%s: %d ids, not %zu", where, (int)c->prompt.n_ids, n);
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(c->prompt.ids[i] == want[i], "%s: id %zu is %d, not %d", where, i, (int)c->prompt.ids[i],
                      (int)want[i]);
    ck_assert_int_eq(c->req->prompts[0].n_ids, c->prompt.n_ids);
    ck_assert_mem_eq(c->req->prompts[0].ids, want, n * sizeof *want);
    free(want);
}

static em_node *parse_tree(em_arena *a, const char *text, size_t len)
{
    em_node *root = NULL;
    size_t values = 1000000;
    ck_assert_int_eq(em_tree_parse(a, text, len, 0, &values, &root), 0);
    return root;
}

static bool is_true(const em_node *object, const char *key)
{
    const em_node *n = em_node_member(object, key);
    ck_assert_ptr_nonnull(n);
    return n->type == EM_JSON_TRUE;
}

static void check_mode(const em_node *want, const em_chat *c, const char *where)
{
    static const char *const stages[] = {"reasoning", "reasoning_continuation", "content", "content_continuation"};
    ck_assert_msg(em_node_is(em_node_member(want, "stage"), stages[c->mode.stage]), "%s: stage", where);
    ck_assert_msg(c->mode.tool_calls == is_true(want, "parse_tool_calls"), "%s: parse_tool_calls", where);
    ck_assert_msg(c->mode.in_calls == is_true(want, "starts_in_tool_calls"), "%s: starts_in_tool_calls", where);
    ck_assert_msg(c->mode.json_output == is_true(want, "parse_json_output"), "%s: parse_json_output", where);
    const em_node *stop = em_node_member(want, "stop");
    ck_assert_msg((size_t)c->n_stops == em_node_count(stop), "%s: stop", where);
    int i = 0;
    for (const em_node *s = stop->child; s; s = s->next, i++)
        ck_assert_msg(c->stops[i].len == s->len && !memcmp(c->stops[i].text, s->text, s->len), "%s: stop", where);
}

/* Both texts say the same: the vendor writes 1e-7 where Python, and we, write 1e-07. */
static void check_schema(em_arena *a, const em_node *want, const em_constraint *got, const char *where)
{
    if (got->kind == EM_CONSTRAINT_REGEX || want->len == 0 || got->len == 0) {
        ck_assert_msg(got->len == want->len && !memcmp(got->text, want->text, want->len), "%s: constraint %s", where,
                      got->text);
        return;
    }
    em_buf x = {0}, y = {0};
    em_node_write(parse_tree(a, want->text, want->len), EM_JSON_COMPACT, &x);
    em_node_write(parse_tree(a, got->text, got->len), EM_JSON_COMPACT, &y);
    ck_assert_msg(!strcmp(x.data, y.data), "%s: constraint is %s, not %s", where, y.data, x.data);
    em_buf_done(&x);
    em_buf_done(&y);
}

static void check_rule(em_arena *a, const em_node *want, const em_constraint *got, const char *where)
{
    static const char *const kinds[] = {[EM_CONSTRAINT_JSON] = "json",
                                        [EM_CONSTRAINT_REGEX] = "regex",
                                        [EM_CONSTRAINT_CALL] = "tool_call",
                                        [EM_CONSTRAINT_CALL_REQUIRED] = "tool_call_required"};
    if (!want) {
        ck_assert_msg(got->kind == EM_CONSTRAINT_NONE, "%s: a constraint where there is none", where);
        return;
    }
    ck_assert_msg(kinds[got->kind] && em_node_is(em_node_member(want, "kind"), kinds[got->kind]), "%s: constraint",
                  where);
    check_schema(a, em_node_member(want, "schema"), got, where);
}

static void check_accepted(const char *line, size_t len, const char *body, size_t body_len, const char *where)
{
    em_chat *c = NULL;
    em_api_error err = {0};
    em_arena a = {0};
    ck_assert_msg(em_chat_parse(body, body_len, &ctx, &c, &err) == 0, "%s: refused: %s", where, err.message);
    check_text(line, len, body, body_len, where);
    check_ids(line, len, c, where);
    const em_node *root = parse_tree(&a, line, len);
    check_mode(em_node_member(root, "parse"), c, where);
    check_rule(&a, em_node_member(root, "constraint"), &c->rule, where);
    em_arena_done(&a);
    em_chat_free(c);
}

/* --- rejections --------------------------------------------------------------------------------------------- */

static double number_of(const em_node *request, const char *key, double dflt)
{
    const em_node *n = em_node_member(request, key);
    return n && n->type == EM_JSON_NUMBER ? strtod(n->text, NULL) : dflt;
}

static bool has_empty_parameters(const em_node *request)
{
    const em_node *tools = em_node_member(request, "tools");
    for (const em_node *t = tools ? tools->child : NULL; t; t = t->next) {
        const em_node *parameters = em_node_member(em_node_member(t, "function"), "parameters");
        if (parameters && parameters->type == EM_JSON_OBJECT && !parameters->child)
            return true;
    }
    return false;
}

/* The differences that the README of the data lists. */
static bool accepted_on_purpose(const char *error, const em_node *request)
{
    bool asked = em_node_member(request, "thinking") || em_node_member(request, "reasoning_effort");
    if (strstr(error, "missing field `model`") || strstr(error, "unknown variant `developer`"))
        return true;
    if (strstr(error, "Thinking mode does not support this tool_choice"))
        return !asked;
    if (strstr(error, "got 'type: null'"))
        return has_empty_parameters(request);
    if (strstr(error, "expected u64"))
        return number_of(request, "seed", 0) < 0;
    if (strstr(error, "Invalid max_tokens"))
        return number_of(request, "max_tokens", 1) == 0;
    if (strstr(error, "Invalid top_p"))
        return number_of(request, "top_p", 1) == 0;
    return strstr(error, "Invalid n value") && number_of(request, "n", 1) >= 1;
}

static void check_rejected(const char *line, size_t len, const char *body, size_t body_len, const char *where)
{
    em_chat *c = NULL;
    em_api_error err = {0};
    em_json j;
    em_arena a = {0};
    size_t n;
    char *error = golden_member_text(line, len, "error", &n);
    bool is_json = golden_find(line, len, "request", &j);
    const em_node *request = is_json ? parse_tree(&a, body, body_len) : NULL;
    int r = em_chat_parse(body, body_len, &ctx, &c, &err);
    if (request && accepted_on_purpose(error, request)) {
        ck_assert_msg(r == 0, "%s: refused: %s", where, err.message);
        ck_assert_msg(c->mode.stage == EM_STAGE_CONTENT || !c->mode.in_calls, "%s: thinks before a call", where);
    } else {
        bool model = strstr(error, "supported API model names") != NULL;
        ck_assert_msg(r == -22 && !c, "%s: accepted", where);
        ck_assert_msg(err.status == (model ? 404 : 400), "%s: status %d", where, err.status);
        ck_assert_msg(err.message[0] && err.code, "%s: says nothing", where);
        ck_assert_msg(err.param[0] || !is_json, "%s: no param: %s", where, err.message);
    }
    em_chat_free(c);
    em_arena_done(&a);
    free(error);
}

static void check_line(const char *line, size_t len, const char *where)
{
    em_json j;
    size_t body_len;
    char *body = body_of(line, len, &body_len);
    if (golden_find(line, len, "status", &j))
        check_rejected(line, len, body, body_len, where);
    else
        check_accepted(line, len, body, body_len, where);
    free(body);
}

START_TEST(golden_prompts)
{
    chat_golden_lines(false, check_line);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("golden");
    tcase_set_timeout(t, 300);
    tcase_add_unchecked_fixture(t, setup, teardown);
    tcase_add_test(t, golden_prompts);
    Suite *s = suite_create("chat-prompt");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
