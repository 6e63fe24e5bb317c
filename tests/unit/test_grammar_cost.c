/* What the worst sources cost to compile: processor time of the thread, so that others on the machine do not count. Each
 * is refused or compiled within a bound that says what docs/structured_output.md promises. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/buf.h"
#include "tests/support/grammar_vocab.h"

/* Seconds. Debug and sanitizer builds do the same steps several times slower. */
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define MAX_CPU_S 1.5
#else
#define MAX_CPU_S 25.0
#endif

typedef struct hostile {
    const char *name;
    em_grammar_kind kind;
    const char *head, *unit, *tail; /* head, the unit `n` times with %d its number, tail */
    int n;
    bool compiles;
} hostile;

#define R EM_GRAMMAR_REGEX
#define J EM_GRAMMAR_JSON_SCHEMA
#define E EM_GRAMMAR_EBNF
#define OBJECT "{\"type\":\"object\",\"properties\":{"

static const hostile worst[] = {
    {"optional pairs", R, "(a?b?){4096}", "", "", 0, false},
    {"optional in optional", R, "((((a?b?){0,16}c?){0,16}d?){0,16}e?){0,8}", "", "", 0, false},
    {"characters in groups", R, "(((.?\\d?){0,10}[^a]?){0,10}\\w?){0,10}", "", "", 0, false},
    {"explodes when merged", R, "[ab]*a[ab]{20}", "", "", 0, true},
    {"alternatives of loops", R, "(", "[a-z]*%d|", "z)*", 3000, false},
    {"alternatives of counts", R, "(", "[a-z]{0,30}x[a-z]*%d|", "z)*", 2500, false},
    {"long words", R, "(a|ab|abc|abcd|abcde){0,3000}(a|b|c|d|e){0,900}", "", "", 0, true},
    {"thousands of properties", J, OBJECT, "\"p%d\":{\"type\":\"string\"},", "\"z\":{}},\"required\":[\"z\"]}", 3500,
     false},
    {"thousand properties", J, OBJECT, "\"p%d\":{\"type\":\"string\"},", "\"z\":{}},\"required\":[\"z\"]}", 1000, true},
    {"a large enum", J, "{\"enum\":[", "\"value number %d\",", "1]}", 19999, true},
    {"a pattern of words", J, "{\"type\":\"string\",\"maxLength\":60,\"pattern\":\"^(", "w%d|", "z)+$\"}", 6000, false},
    {"patterns side by side", J, "{\"anyOf\":[", "{\"type\":\"string\",\"pattern\":\"x%dy.*z\"},", "{}]}", 600, false},
    {"a long string", J, "{\"type\":\"string\",\"minLength\":1000000}", "", "", 0, true},
    {"rules that may be empty", E, "root ::= r19999\nr0 ::= \"\"\n", "r%2$d ::= r%1$d | \"(\" r%2$d \")\"\n", "", 19999,
     false},
};

static double cpu_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static em_buf text_of(const hostile *h)
{
    em_buf b = {0};
    em_buf_puts(&b, h->head);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    for (int i = 0; i < h->n; i++)
        em_buf_printf(&b, h->unit, i, i + 1);
#pragma GCC diagnostic pop
    em_buf_puts(&b, h->tail);
    ck_assert(!b.failed);
    return b;
}

START_TEST(the_worst_stay_within_bounds)
{
    const hostile *h = &worst[_i];
    em_grammar_vocab *vocab = grammar_vocab_bytes();
    em_grammar *g = NULL;
    em_error err = {.text = ""};
    em_buf text = text_of(h);
    em_grammar_source *source = em_grammar_source_new(h->kind, text.data, text.len, "", 0);
    double start = cpu_s();
    int rc = em_grammar_compile(source, NULL, vocab, &g, &err);
    double took = cpu_s() - start;
    printf("%-26s %6.3f s: %s\n", h->name, took, rc ? err.text : "compiled");
    ck_assert_msg(rc == (h->compiles ? 0 : -E2BIG), "%s: %s", h->name, err.text);
    ck_assert_msg(took < MAX_CPU_S, "%s: %.3f s", h->name, took);
    em_grammar_unref(g);
    free(source);
    em_buf_done(&text);
    em_grammar_vocab_free(vocab);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("grammar-cost");
    TCase *t = tcase_create("hostile");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, the_worst_stay_within_bounds, 0, sizeof worst / sizeof *worst);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
