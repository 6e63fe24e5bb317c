/* Answers bound to a grammar, step by step: always valid, always within their tokens, whatever the model says and whoever
 * shares the batch. The model's logits are noise, a function of the sequence. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/grammar/grammar.h"
#include "tests/support/fixtures.h"
#include "tests/support/loop_rig.h"

enum { VOCAB = 6144, MAX_LEN = 160, N_BLOCKS = 120, BLOCK_TOKENS = 8, EOS = 1 };

static stub_model stub;

static em_grammar_source *source(em_grammar_kind kind, const char *text, const char *after)
{
    em_grammar_source *s = em_grammar_source_new(kind, text, strlen(text), after, strlen(after));
    ck_assert_ptr_nonnull(s);
    return s;
}

static const char list_schema[] =
    "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"array\","
    "\"items\":{\"type\":\"integer\"}}},\"required\":[\"a\",\"b\"]}";

static em_request *ask(int32_t which, int32_t max_tokens, em_grammar_source *s)
{
    int32_t ids[12];
    for (int32_t i = 0; i < 12; i++)
        ids[i] = 300 + which * 12 + i;
    em_request *r = rig_request(ids, 12, max_tokens);
    r->sampling = (em_sampling){.temperature = 1.5f, .top_p = 1, .seed = (uint64_t)which};
    r->grammar = s;
    return r;
}

static void setup(void)
{
    stub = (stub_model){.tokenizer_dir = bundled_model_dir(),
                        .vocab_size = VOCAB,
                        .max_len = MAX_LEN,
                        .eos_id = EOS,
                        .n_blocks = N_BLOCKS,
                        .block_tokens = BLOCK_TOKENS,
                        .logits = rig_hash_logits,
                        .ctx = &stub};
}

/* The text is one that the grammar allows, from its beginning to its end. */
static void check_valid(const em_grammar_source *s, const choice_result *got)
{
    em_grammar *g;
    em_grammar_state *st;
    em_error err = {.text = ""};
    ck_assert_msg(em_grammar_compile(s, NULL, NULL, &g, &err) == 0, "%s", err.text);
    ck_assert_int_eq(em_grammar_state_new(g, 0, &st), 0);
    ck_assert_msg(em_grammar_state_accept_bytes(st, got->text, got->text_len) == 0, "not valid: %s", got->text);
    ck_assert_msg(em_grammar_state_is_complete(st), "not complete: %s", got->text);
    em_grammar_state_free(st);
    em_grammar_unref(g);
}

static const struct {
    em_grammar_kind kind;
    const char *text, *after;
    int32_t shortest; /* tokens, about: fewer than these cannot do */
} forms[] = {
    {EM_GRAMMAR_JSON_SCHEMA, list_schema, "", 8},
    {EM_GRAMMAR_JSON_SCHEMA, list_schema, "</think>", 8},
    {EM_GRAMMAR_JSON_OBJECT, "", "", 1},
    {EM_GRAMMAR_REGEX, "([a-z]{3,9} )+[0-9]{2}", "", 2},
    {EM_GRAMMAR_REGEX, ".*", "", 1},
    {EM_GRAMMAR_CHOICE, "[\"alpha\",\"beta\\u00e9\"]", "</think>", 2},
    {EM_GRAMMAR_EBNF, "root ::= \"(\" root \")\" | [0-9]+ | %without \"ab\" \"ab\"", "", 1},
};

/* Every budget from the shortest answer on ends validly within it; below it the request is refused. */
START_TEST(every_budget_is_kept)
{
    em_engine *e = rig_open(&stub, 4, 32, 64);
    int32_t n_kept = 0, n_refused = 0;
    for (int32_t budget = forms[_i].shortest; budget < 48; budget++) {
        em_grammar_source *s = source(forms[_i].kind, forms[_i].text, forms[_i].after);
        collector *c = rig_run(e, ask(budget, budget, s));
        const choice_result *got = collector_choice(c, 0);
        em_grammar_source *again = source(forms[_i].kind, forms[_i].text, forms[_i].after);
        if (got->finish == EM_FINISH_ERROR) {
            ck_assert_msg(strstr(got->error, "raise max_tokens"), "%s", got->error);
            ck_assert_int_eq(n_kept, 0); /* more tokens cannot make it worse */
            n_refused++;
        } else {
            ck_assert_int_eq(got->finish, EM_FINISH_STOP);
            ck_assert_int_le(got->n_tokens, budget);
            check_valid(again, got);
            n_kept++;
        }
        free(again);
        collector_free(c);
    }
    ck_assert_int_gt(n_kept, 20);
    ck_assert_int_lt(n_refused, 28);
    em_engine_close(e);
}
END_TEST

/* Samples of one prompt fork at its end and go their own ways; batching and being put back change nothing. */
START_TEST(batch_and_preemption_change_nothing)
{
    enum { N = 6 };
    collector *alone[N], *c[N];
    em_engine *e = rig_open(&stub, 1, 32, N);
    for (int32_t i = 0; i < N; i++) {
        em_request *r = ask(i, 70, source(EM_GRAMMAR_JSON_SCHEMA, list_schema, i % 2 ? "</think>" : ""));
        r->n = 2;
        alone[i] = rig_run(e, r);
    }
    em_engine_close(e);
    stub_model small = stub;
    small.n_blocks = 24;
    e = rig_open(&small, 6, 32, N);
    for (int32_t i = 0; i < N; i++) {
        em_request *r = ask(i, 70, source(EM_GRAMMAR_JSON_SCHEMA, list_schema, i % 2 ? "</think>" : ""));
        r->n = 2;
        c[i] = collector_new(2);
        rig_submit(e, r, c[i]);
    }
    for (int32_t i = 0; i < N; i++) {
        collector_wait(c[i]);
        for (int32_t k = 0; k < 2; k++)
            ck_assert_msg(choice_results_equal(collector_choice(c[i], k), collector_choice(alone[i], k)), "request %d",
                          i);
        ck_assert_str_ne(collector_choice(c[i], 0)->text, collector_choice(c[i], 1)->text);
        collector_free(c[i]);
        collector_free(alone[i]);
    }
    em_engine_stats stats;
    rig_wait_idle(e);
    em_engine_get_stats(e, &stats);
    ck_assert_uint_gt(stats.preemptions, 0);
    ck_assert_uint_eq(stats.grammars_asked, N);
    ck_assert_uint_eq(stats.grammars_compiled, 2); /* equal ones are shared */
    ck_assert_uint_eq(stats.grammars_found, N - 2);
    em_engine_close(e);
}
END_TEST

static void check_text(em_engine *e, em_request *r, const char *text, em_finish finish)
{
    collector *c = rig_run(e, r);
    ck_assert_str_eq(collector_choice(c, 0)->text, text);
    ck_assert_int_eq(collector_choice(c, 0)->finish, finish);
    collector_free(c);
}

static em_request *ban_all(em_request *r, const int32_t *ids, int32_t n)
{
    r->stop_ids = malloc((size_t)n * sizeof(*ids));
    memcpy(r->stop_ids, ids, (size_t)n * sizeof(*ids));
    r->n_stop_ids = n;
    r->min_tokens = 40;
    return r;
}

/* Bans that leave nothing: the completion comes; an end that is put off comes where the text is over. */
START_TEST(bans_cannot_break_it)
{
    em_engine *e = rig_open(&stub, 2, 32, 8);
    int32_t ids[64], n = 0;
    for (int32_t id = 0; id < VOCAB && n < 64; id++) {
        size_t len;
        const uint8_t *bytes = em_engine_token_bytes(e, id, &len);
        if (len && bytes[0] == 'x' && !em_engine_token_is_special(e, id))
            ids[n++] = id;
    }
    ck_assert_int_gt(n, 0);
    check_text(e, ban_all(ask(0, 40, source(EM_GRAMMAR_REGEX, "x!", "")), ids, n), "x!", EM_FINISH_STOP);
    check_text(e, ban_all(ask(1, 40, source(EM_GRAMMAR_REGEX, "x*", "")), ids, n), "", EM_FINISH_STOP);
    em_request *r = ask(2, 9, source(EM_GRAMMAR_REGEX, "[ab]*", ""));
    r->ignore_eos = true;
    collector *c = rig_run(e, r);
    ck_assert_int_eq(collector_choice(c, 0)->n_tokens, 9); /* EOS never came */
    ck_assert_int_eq(collector_choice(c, 0)->finish, EM_FINISH_STOP);
    collector_free(c);
    em_engine_close(e);
}
END_TEST

/* What the logits say of a token is what they say without a grammar, and others of the batch see nothing of it. */
START_TEST(logprobs_and_neighbours_are_untouched)
{
    em_engine *e = rig_open(&stub, 4, 32, 8);
    em_request *plain = ask(5, 6, NULL), *with = ask(5, 6, source(EM_GRAMMAR_REGEX, "zq[0-9]{4}", ""));
    plain->logprobs = with->logprobs = 3;
    collector *alone = rig_run(e, plain), *bound = collector_new(1), *beside = collector_new(1);
    em_request *again = ask(5, 6, NULL);
    again->logprobs = 3;
    rig_submit(e, with, bound);
    rig_submit(e, again, beside);
    collector_wait(bound);
    collector_wait(beside);
    ck_assert(choice_results_equal(collector_choice(alone, 0), collector_choice(beside, 0)));
    const em_event_token *a = &collector_choice(alone, 0)->tokens[0], *b = &collector_choice(bound, 0)->tokens[0];
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(a->top[i].id, b->top[i].id);
        ck_assert(a->top[i].logprob == b->top[i].logprob);
    }
    collector_free(alone);
    collector_free(bound);
    collector_free(beside);
    em_engine_close(e);
}
END_TEST

static void count_events(void *ctx, const em_event *ev)
{
    int *n = ctx;
    n[0] += ev->kind == EM_EVENT_READY;
    n[1] += ev->refused;
}

START_TEST(refused_before_anything_is_generated)
{
    em_engine *e = rig_open(&stub, 2, 32, 8);
    int n[2] = {0, 0};
    em_request *r = ask(0, 20, source(EM_GRAMMAR_REGEX, "a(", ""));
    r->n = 3;
    collector *c = collector_new(3);
    collector_on_event(c, count_events, n);
    rig_submit(e, r, c);
    collector_wait(c);
    for (int k = 0; k < 3; k++) {
        ck_assert_int_eq(collector_choice(c, k)->finish, EM_FINISH_ERROR);
        ck_assert_int_eq(collector_choice(c, k)->n_tokens, 0);
        ck_assert_str_ne(collector_choice(c, k)->error, "");
    }
    ck_assert_int_eq(n[0], 0);
    ck_assert_int_eq(n[1], 3);
    collector_free(c);
    c = collector_new(1);
    collector_on_event(c, count_events, n);
    rig_submit(e, ask(0, 20, source(EM_GRAMMAR_REGEX, "a", "")), c);
    collector_wait(c);
    ck_assert_int_eq(n[0], 1);
    collector_free(c);
    em_engine_close(e);
}
END_TEST

/* A source that takes long, so that others wait behind it. */
static em_grammar_source *slow_source(int which)
{
    char text[64];
    snprintf(text, sizeof(text), "((a|b)*a(a|b){12}%d|[a-z]{1,900}){1,30}", which);
    return source(EM_GRAMMAR_REGEX, text, "");
}

/* Cancelled or late while the compiler is busy: it ends at once, and nobody is left waiting at close. */
START_TEST(waiting_for_the_compiler_can_end)
{
    em_engine *e = rig_open(&stub, 2, 32, 64);
    collector *slow[4], *late = collector_new(1), *plain = collector_new(1);
    uint64_t ids[4];
    for (int i = 0; i < 4; i++) {
        slow[i] = collector_new(1);
        ids[i] = rig_submit(e, ask(i, 40, slow_source(i)), slow[i]);
    }
    em_request *r = ask(9, 10, source(EM_GRAMMAR_REGEX, "ab", ""));
    r->deadline_ns = 1;
    rig_submit(e, r, late);
    rig_submit(e, ask(8, 5, NULL), plain); /* nobody else waits for a compiler */
    collector_wait(plain);
    collector_wait(late);
    ck_assert(collector_choice(late, 0)->finish == EM_FINISH_TIMEOUT ||
              collector_choice(late, 0)->finish == EM_FINISH_STOP);
    for (int i = 0; i < 4; i++)
        em_engine_cancel(e, ids[i]);
    for (int i = 0; i < 4; i++) {
        collector_wait(slow[i]);
        collector_free(slow[i]);
    }
    collector_free(late);
    collector_free(plain);
    em_engine_close(e);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop-grammar");
    TCase *t = tcase_create("grammar");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, every_budget_is_kept, 0, sizeof(forms) / sizeof(forms[0]));
    tcase_add_test(t, batch_and_preemption_change_nothing);
    tcase_add_test(t, bans_cannot_break_it);
    tcase_add_test(t, logprobs_and_neighbours_are_untouched);
    tcase_add_test(t, refused_before_anything_is_generated);
    tcase_add_test(t, waiting_for_the_compiler_can_end);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
