/* What a request is answered: text, stop strings, EOS, lengths, logprobs. The model is a script. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/fixtures.h"
#include "tests/support/loop_rig.h"

/* A prompt is [script, length of the prompt, anything ...]; behind it come the script's tokens, then `end`. */
enum { VOCAB = 6144, MAX_LEN = 64, MAX_ANSWER = 64, BLOCK_TOKENS = 8 };

typedef struct script {
    int32_t n;
    int32_t id[MAX_ANSWER];
} script;

static em_tokenizer *tok;
static int32_t byte_id[256], eos_id, other_special;
static script scripts[4];
static stub_model stub;
static em_engine *engine;

static float script_logit(int32_t next, int32_t v)
{
    return v == next ? 5.0f : 0.25f * (float)(v % 7);
}

static void script_logits(void *ctx, const int32_t *tokens, int32_t n, float *row)
{
    const script *s = &scripts[tokens[0] % 4];
    int32_t at = n - (n > 1 ? tokens[1] : 2);
    int32_t next = at >= 0 && at < s->n ? s->id[at] : eos_id;
    for (int32_t v = 0; v < VOCAB; v++)
        row[v] = script_logit(next, v);
}

/* One token per byte. */
static void say(int which, const char *bytes)
{
    scripts[which].n = 0;
    for (const char *p = bytes; *p; p++)
        scripts[which].id[scripts[which].n++] = byte_id[(uint8_t)*p];
}

static void say_id(int which, int32_t id)
{
    scripts[which].id[scripts[which].n++] = id;
}

static em_request *ask(int which, int32_t n_prompt, int32_t max_tokens)
{
    int32_t ids[MAX_LEN + 1];
    for (int32_t i = 0; i < n_prompt; i++)
        ids[i] = 100 + i;
    ids[0] = which;
    if (n_prompt > 1)
        ids[1] = n_prompt;
    return rig_request(ids, n_prompt, max_tokens);
}

static void setup(void)
{
    em_error err;
    ck_assert_msg(em_tokenizer_load(bundled_model_dir(), &tok, &err) == 0, "%s", err.text);
    memset(byte_id, -1, sizeof(byte_id));
    eos_id = other_special = -1;
    for (int32_t id = em_tokenizer_size(tok) - 1; id >= 0; id--) {
        size_t len;
        const uint8_t *bytes = em_tokenizer_bytes(tok, id, &len);
        if (em_tokenizer_is_special(tok, id)) {
            other_special = eos_id;
            eos_id = id;
        } else if (len == 1) {
            byte_id[bytes[0]] = id;
        }
    }
    ck_assert_int_ge(other_special, 0);
    stub = (stub_model){.tokenizer_dir = bundled_model_dir(),
                        .vocab_size = VOCAB,
                        .max_len = MAX_LEN,
                        .eos_id = eos_id,
                        .n_blocks = 64,
                        .block_tokens = BLOCK_TOKENS,
                        .logits = script_logits};
    engine = rig_open(&stub, 4, 16, 100);
}

static void teardown(void)
{
    engine = em_engine_close(engine);
    tok = em_tokenizer_free(tok);
}

static void check_answer(collector *c, const char *text, em_finish finish, int32_t n_tokens)
{
    const choice_result *r = collector_choice(c, 0);
    ck_assert_str_eq(r->text, text);
    ck_assert_uint_eq(r->text_len, strlen(text));
    ck_assert_int_eq(r->finish, finish);
    ck_assert_int_eq(r->completion_tokens, n_tokens);
    ck_assert_int_eq(r->n_tokens, n_tokens);
}

/* --- stop strings ------------------------------------------------------------------------------------------- */

START_TEST(stop_over_token_borders)
{
    say(0, "Hello world");
    em_request *r = ask(0, 3, 30);
    r->logprobs = 0;
    rig_add_stop(r, "zzz");
    rig_add_stop(r, "wor");
    collector *c = rig_run(engine, r);
    check_answer(c, "Hello ", EM_FINISH_STOP, 9);
    const choice_result *a = collector_choice(c, 0);
    for (int i = 0; i < 9; i++) {
        ck_assert_int_eq(a->tokens[i].visible, i < 6);
        ck_assert(a->tokens[i].has_logprob);
        if (i < 6)
            ck_assert_int_eq(a->tokens[i].text_offset, i);
    }
    ck_assert_int_eq(a->n_events, 7); /* six characters one by one, then the finish with the hidden tokens */
    collector_free(c);
}
END_TEST

START_TEST(stop_inside_a_token)
{
    em_ids ids = {0};
    ck_assert_int_eq(em_tokenizer_encode(tok, " Paris", 6, false, 0, &ids), 0);
    say(0, "x");
    for (size_t i = 0; i < ids.n; i++)
        say_id(0, ids.id[i]);
    size_t len;
    em_tokenizer_bytes(tok, ids.id[0], &len);
    ck_assert_uint_ge(len, 3); /* " Pa" and more is one token */
    em_request *r = ask(0, 2, 30);
    rig_add_stop(r, "a");
    collector *c = rig_run(engine, r);
    check_answer(c, "x P", EM_FINISH_STOP, 2);
    ck_assert(collector_choice(c, 0)->tokens[1].visible); /* it begins before the cut */
    collector_free(c);
    em_ids_done(&ids);
}
END_TEST

START_TEST(a_beginning_that_does_not_go_on_is_text)
{
    say(0, "ab abc abd");
    em_request *r = ask(0, 2, 30);
    rig_add_stop(r, "abcd");
    collector *c = rig_run(engine, r);
    check_answer(c, "ab abc abd", EM_FINISH_STOP, 11); /* EOS behind it */
    collector_free(c);

    r = ask(0, 2, 2); /* held back at the end of the budget: released then */
    rig_add_stop(r, "abcd");
    c = rig_run(engine, r);
    check_answer(c, "ab", EM_FINISH_LENGTH, 2);
    ck_assert_int_eq(collector_choice(c, 0)->n_events, 1);
    collector_free(c);
}
END_TEST

START_TEST(stop_with_the_last_token)
{
    say(0, "abcdef");
    em_request *r = ask(0, 2, 4);
    rig_add_stop(r, "cd");
    collector *c = rig_run(engine, r);
    check_answer(c, "ab", EM_FINISH_STOP, 4);
    collector_free(c);
}
END_TEST

/* --- EOS and special tokens --------------------------------------------------------------------------------- */

START_TEST(eos_ends_and_counts)
{
    say(0, "Hi");
    em_request *r = ask(0, 4, 30);
    r->logprobs = 2;
    collector *c = rig_run(engine, r);
    check_answer(c, "Hi", EM_FINISH_STOP, 3);
    const em_event_token *t = &collector_choice(c, 0)->tokens[2];
    ck_assert_int_eq(t->id, eos_id);
    ck_assert(t->visible && t->has_logprob);
    ck_assert_int_eq(t->text_offset, 2);
    ck_assert_int_eq(t->top[0].id, eos_id);
    ck_assert_mem_eq(&t->top[0].logprob, &t->logprob, sizeof(float));
    ck_assert_int_eq(collector_choice(c, 0)->prompt_tokens, 4);
    collector_free(c);
}
END_TEST

START_TEST(ignore_eos_goes_on)
{
    say(0, "a");
    say_id(0, eos_id);
    say_id(0, byte_id['b']);
    em_request *r = ask(0, 2, 5);
    r->ignore_eos = true;
    collector *c = rig_run(engine, r);
    check_answer(c, "ab", EM_FINISH_LENGTH, 5);
    ck_assert_int_eq(collector_choice(c, 0)->tokens[2].text_offset, 1);
    collector_free(c);
}
END_TEST

START_TEST(special_tokens_have_no_text)
{
    say(0, "a");
    say_id(0, other_special);
    say_id(0, VOCAB - 1); /* perhaps beyond the tokenizer: then it has no text either */
    say_id(0, byte_id['b']);
    collector *c = rig_run(engine, ask(0, 2, 4));
    const choice_result *a = collector_choice(c, 0);
    ck_assert_int_eq(a->n_tokens, 4);
    ck_assert_int_eq(a->tokens[1].id, other_special);
    ck_assert_int_eq(a->text[0], 'a');
    ck_assert_int_eq(a->text[a->text_len - 1], 'b');
    ck_assert_ptr_null(strstr(a->text, "<"));
    collector_free(c);
}
END_TEST

/* --- characters --------------------------------------------------------------------------------------------- */

static void one_event_per_character(void *ctx, const em_event *ev)
{
    int *n_multi = ctx;
    *n_multi += ev->n_tokens > 1;
    if (ev->finish == EM_FINISH_NONE)
        ck_assert_uint_gt(ev->text_len, 0);
}

START_TEST(characters_are_never_cut)
{
    say(0, "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z"); /* a, e acute, euro, a face, z */
    em_request *r = ask(0, 2, 11);
    collector *c = collector_new(1);
    int n_multi = 0;
    collector_on_event(c, one_event_per_character, &n_multi);
    rig_submit(engine, r, c);
    collector_wait(c);
    check_answer(c, "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z", EM_FINISH_LENGTH, 11);
    ck_assert_int_eq(n_multi, 3);
    static const int offset[] = {0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4};
    for (int i = 0; i < 11; i++)
        ck_assert_int_eq(collector_choice(c, 0)->tokens[i].text_offset, offset[i]);
    collector_free(c);
}
END_TEST

START_TEST(an_unfinished_character_becomes_one_mark)
{
    say(0, "a\xe2\x82");
    collector *c = rig_run(engine, ask(0, 2, 3));
    check_answer(c, "a\xef\xbf\xbd", EM_FINISH_LENGTH, 3);
    collector_free(c);
    c = rig_run(engine, ask(0, 2, 30)); /* EOS cuts it */
    check_answer(c, "a\xef\xbf\xbd", EM_FINISH_STOP, 4);
    collector_free(c);
}
END_TEST

/* --- lengths ------------------------------------------------------------------------------------------------ */

START_TEST(max_tokens_zero_computes_nothing)
{
    say(0, "never");
    collector *c = rig_run(engine, ask(0, 20, 0));
    check_answer(c, "", EM_FINISH_LENGTH, 0);
    ck_assert_int_eq(collector_choice(c, 0)->prompt_tokens, 20);
    ck_assert_int_eq(stub_model_counts().n_steps, 0);
    collector_free(c);
}
END_TEST

START_TEST(the_models_length_ends_an_answer)
{
    scripts[0].n = 0;
    for (int i = 0; i < MAX_ANSWER; i++)
        say_id(0, byte_id['x']);
    collector *c = rig_run(engine, ask(0, 50, 1000));
    ck_assert_int_eq(collector_choice(c, 0)->finish, EM_FINISH_LENGTH);
    ck_assert_int_eq(collector_choice(c, 0)->completion_tokens, MAX_LEN - 50);
    collector_free(c);
    c = rig_run(engine, ask(0, MAX_LEN - 1, INT32_MAX));
    ck_assert_int_eq(collector_choice(c, 0)->completion_tokens, 1);
    collector_free(c);
    c = rig_run(engine, ask(0, MAX_LEN, 5)); /* no room for a token */
    check_answer(c, "", EM_FINISH_LENGTH, 0);
    collector_free(c);
}
END_TEST

/* --- scoring ------------------------------------------------------------------------------------------------ */

/* Independent of the sampler: log-softmax of the script's row in long doubles. */
static double true_logprob(const int32_t *tokens, int32_t n, int32_t id)
{
    static float row[VOCAB];
    script_logits(NULL, tokens, n, row);
    long double sum = 0;
    for (int32_t v = 0; v < VOCAB; v++)
        sum += expl(row[v]);
    return (double)(row[id] - logl(sum));
}

static void check_scores(const choice_result *a, const int32_t *ids, int32_t n, int32_t n_top)
{
    ck_assert_int_eq(a->n_prompt, n);
    for (int32_t i = 0; i < n; i++) {
        const em_event_token *t = &a->prompt[i];
        ck_assert_int_eq(t->id, ids[i]);
        ck_assert(t->visible);
        ck_assert_int_eq(t->has_logprob, i > 0);
        ck_assert_int_eq(t->n_top, i > 0 ? n_top : 0);
        if (!i)
            continue;
        ck_assert_double_eq_tol(t->logprob, true_logprob(ids, i, ids[i]), 1e-5);
        for (int32_t k = 0; k < n_top; k++) {
            ck_assert_double_eq_tol(t->top[k].logprob, true_logprob(ids, i, t->top[k].id), 1e-5);
            ck_assert(k == 0 || t->top[k].logprob <= t->top[k - 1].logprob);
        }
    }
}

START_TEST(scores_a_prompt)
{
    static const int32_t lengths[] = {1, 2, 3, 15, 16, 17, 33, MAX_LEN};
    say(0, "ok");
    for (size_t k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++) {
        int32_t n = lengths[k];
        em_request *r = ask(0, n, 0);
        r->logprobs = 3;
        r->prompt_logprobs = true;
        int32_t ids[MAX_LEN];
        memcpy(ids, r->prompts[0].ids, (size_t)n * sizeof(*ids));
        int32_t n_before = stub_model_counts().n_tokens;
        collector *c = rig_run(engine, r);
        check_answer(c, "", EM_FINISH_LENGTH, 0);
        check_scores(collector_choice(c, 0), ids, n, 3);
        ck_assert_int_eq(stub_model_counts().n_tokens - n_before, n - 1); /* nothing is computed that nobody reads */
        collector_free(c);
    }
    ck_assert_int_le(stub_model_counts().max_tokens, 16);
}
END_TEST

START_TEST(scores_and_goes_on)
{
    say(0, "ok");
    em_request *r = ask(0, 21, 30);
    r->logprobs = 0;
    r->prompt_logprobs = true;
    r->n = 3;
    int32_t ids[21];
    memcpy(ids, r->prompts[0].ids, sizeof(ids));
    collector *c = rig_run(engine, r);
    for (int i = 0; i < 3; i++) {
        const choice_result *a = collector_choice(c, i);
        check_scores(a, ids, 21, 0);
        ck_assert_str_eq(a->text, "ok");
        ck_assert_int_eq(a->n_tokens, 3);
        int32_t all[23];
        memcpy(all, ids, sizeof(ids));
        for (int k = 0; k < 2; k++)
            all[21 + k] = a->tokens[k].id;
        for (int k = 0; k < 3; k++)
            ck_assert_double_eq_tol(a->tokens[k].logprob, true_logprob(all, 21 + k, a->tokens[k].id), 1e-5);
    }
    collector_free(c);
}
END_TEST

START_TEST(several_prompts_and_samples)
{
    say(0, "zero");
    say(1, "one");
    say(2, "two");
    em_request *r = ask(0, 5, 30);
    r->prompts = realloc(r->prompts, 3 * sizeof(*r->prompts));
    r->n_prompts = 3;
    r->n = 2;
    for (int p = 1; p < 3; p++) {
        int32_t n = 5 + 20 * p;
        r->prompts[p] = (em_prompt){.ids = calloc((size_t)n, sizeof(int32_t)), .n_ids = n};
        r->prompts[p].ids[0] = p;
        r->prompts[p].ids[1] = n;
    }
    collector *c = rig_run(engine, r);
    static const char *want[] = {"zero", "zero", "one", "one", "two", "two"};
    for (int i = 0; i < 6; i++) {
        ck_assert_str_eq(collector_choice(c, i)->text, want[i]);
        ck_assert_int_eq(collector_choice(c, i)->prompt_tokens, 5 + 20 * (i / 2));
    }
    collector_free(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop-text");
    TCase *t = tcase_create("text");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, stop_over_token_borders);
    tcase_add_test(t, stop_inside_a_token);
    tcase_add_test(t, a_beginning_that_does_not_go_on_is_text);
    tcase_add_test(t, stop_with_the_last_token);
    tcase_add_test(t, eos_ends_and_counts);
    tcase_add_test(t, ignore_eos_goes_on);
    tcase_add_test(t, special_tokens_have_no_text);
    tcase_add_test(t, characters_are_never_cut);
    tcase_add_test(t, an_unfinished_character_becomes_one_mark);
    tcase_add_test(t, max_tokens_zero_computes_nothing);
    tcase_add_test(t, the_models_length_ends_an_answer);
    tcase_add_test(t, scores_a_prompt);
    tcase_add_test(t, scores_and_goes_on);
    tcase_add_test(t, several_prompts_and_samples);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
