/* Orders for grammars: shared, refused, kept, given up. The compiling thread is held in on_done where a test needs it
 * busy. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/grammar_compiler.h"
#include "tests/support/grammar_vocab.h"

static em_grammar_vocab *vocab;
static em_grammar_compiler *compiler;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void on_done(void *ctx)
{
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

static void setup(void)
{
    vocab = grammar_vocab_bytes();
    ck_assert_ptr_nonnull(vocab);
    ck_assert_int_eq(em_grammar_compiler_new(vocab, on_done, NULL, &compiler), 0);
}

static void teardown(void)
{
    compiler = em_grammar_compiler_free(compiler);
    vocab = em_grammar_vocab_free(vocab);
}

static int ask(em_grammar_kind kind, const char *text, em_grammar_order **ret_order)
{
    em_grammar_source *s = em_grammar_source_new(kind, text, strlen(text), "", 0);
    int rc = em_grammar_compiler_ask(compiler, s, ret_order);
    free(s);
    return rc;
}

static em_grammar_order *must_ask(const char *regex)
{
    em_grammar_order *o = NULL;
    ck_assert_int_eq(ask(EM_GRAMMAR_REGEX, regex, &o), 0);
    return o;
}

static void wait_ready(const em_grammar_order *o)
{
    for (int i = 0; i < 20000 && !em_grammar_order_ready(o); i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    ck_assert(em_grammar_order_ready(o));
}

static em_grammar_stats stats_of(void)
{
    em_grammar_stats stats;
    em_grammar_compiler_get_stats(compiler, &stats);
    return stats;
}

START_TEST(equal_sources_share_one)
{
    em_grammar_order *a = must_ask("ab{3}"), *b = must_ask("ab{3}"), *c = must_ask("ab{4}");
    ck_assert_ptr_eq(a, b);
    ck_assert_ptr_ne(a, c);
    wait_ready(a);
    wait_ready(c);
    ck_assert_ptr_nonnull(em_grammar_order_get(a));
    ck_assert_uint_eq(em_grammar_order_shortest(a), 4);
    em_grammar_order_unref(a);
    em_grammar_order_unref(b);
    b = must_ask("ab{3}"); /* kept, though nobody held it */
    ck_assert(em_grammar_order_ready(b));
    em_grammar_order_unref(b);
    em_grammar_order_unref(c);
    em_grammar_stats stats = stats_of();
    ck_assert_uint_eq(stats.asked, 4);
    ck_assert_uint_eq(stats.found, 2);
    ck_assert_uint_eq(stats.compiled, 2);
    ck_assert_int_eq(stats.kept, 2);
    ck_assert_uint_gt(stats.kept_bytes, 0);
}
END_TEST

START_TEST(a_fault_is_a_sentence)
{
    em_grammar_order *o = must_ask("a(");
    wait_ready(o);
    ck_assert_ptr_null(em_grammar_order_get(o));
    ck_assert_str_ne(em_grammar_order_error(o), "");
    em_grammar_order_unref(o);
    ck_assert_int_eq(ask(EM_GRAMMAR_CHOICE, "[\"a\",1]", &o), 0);
    wait_ready(o);
    ck_assert_ptr_nonnull(strstr(em_grammar_order_error(o), "list of strings"));
    em_grammar_order_unref(o);
    ck_assert_uint_eq(stats_of().failed, 2);
}
END_TEST

START_TEST(the_queue_is_bounded)
{
    em_grammar_order *first, *o[EM_COMPILER_MAX_WAITING], *more;
    char text[32];
    pthread_mutex_lock(&gate);
    first = must_ask("first");
    wait_ready(first); /* now the thread stands at the gate */
    for (int i = 0; i < EM_COMPILER_MAX_WAITING; i++) {
        snprintf(text, sizeof(text), "a{%d}", i + 1);
        o[i] = must_ask(text);
    }
    ck_assert_int_eq(ask(EM_GRAMMAR_REGEX, "more", &more), -EBUSY);
    ck_assert_ptr_eq(must_ask("a{1}"), o[0]); /* one that waits already has room */
    em_grammar_order_unref(o[0]);
    em_grammar_order_unref(o[7]); /* nobody wants it any more: it goes */
    more = must_ask("more");
    pthread_mutex_unlock(&gate);
    wait_ready(more);
    ck_assert_uint_eq(stats_of().compiled, EM_COMPILER_MAX_WAITING + 1);
    for (int i = 0; i < EM_COMPILER_MAX_WAITING; i++)
        if (i != 7)
            em_grammar_order_unref(o[i]);
    em_grammar_order_unref(first);
    em_grammar_order_unref(more);
}
END_TEST

START_TEST(few_are_kept)
{
    char text[32];
    em_grammar_order *held = must_ask("held");
    for (int i = 0; i < 2 * EM_COMPILER_MAX_KEPT; i++) {
        snprintf(text, sizeof(text), "b{%d}", i + 1);
        em_grammar_order *o = must_ask(text);
        wait_ready(o);
        em_grammar_order_unref(o);
    }
    for (int i = 0; i < 20000 && stats_of().kept > EM_COMPILER_MAX_KEPT; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    ck_assert_int_le(stats_of().kept, EM_COMPILER_MAX_KEPT);
    ck_assert_int_gt(stats_of().kept, EM_COMPILER_MAX_KEPT / 2);
    em_grammar_order *again = must_ask("held"); /* the oldest, but somebody has it */
    ck_assert_ptr_eq(again, held);
    em_grammar_order_unref(again);
    em_grammar_order_unref(held);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("grammar-compiler");
    TCase *t = tcase_create("orders");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, equal_sources_share_one);
    tcase_add_test(t, a_fault_is_a_sentence);
    tcase_add_test(t, the_queue_is_bounded);
    tcase_add_test(t, few_are_kept);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
