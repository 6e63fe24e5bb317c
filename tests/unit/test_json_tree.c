/* JSON trees: numbers as Python writes them, order and equal keys, limits. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/json_tree.h"
#include "tests/support/fixtures.h"
#include "tests/unit/python_numbers.h"

START_TEST(numbers_as_python_writes_them)
{
    em_buf out = {0};
    for (size_t i = 0; i < sizeof python_numbers / sizeof *python_numbers; i++) {
        em_buf_clear(&out);
        em_python_number(python_numbers[i].source, strlen(python_numbers[i].source), &out);
        ck_assert_str_eq(out.data, python_numbers[i].python);
    }
    em_buf_done(&out);
}
END_TEST

/* Any bit pattern reads back as the same double, and no shorter text of the same form does. */
START_TEST(numbers_read_back)
{
    srandom((unsigned)test_seed(7));
    em_buf out = {0};
    for (int i = 0; i < 20000; i++) {
        union {
            uint64_t bits;
            double value;
        } u = {.bits = (uint64_t)random() << 42 ^ (uint64_t)random() << 21 ^ (uint64_t)random()};
        char source[40];
        if ((u.bits >> 52 & 0x7ff) == 0x7ff)
            continue;
        snprintf(source, sizeof source, "%.17e", u.value);
        em_buf_clear(&out);
        em_python_number(source, strlen(source), &out);
        ck_assert_msg(strtod(out.data, NULL) == u.value, "%s became %s", source, out.data);
        ck_assert_uint_le(out.len, 25);
    }
    em_buf_done(&out);
}
END_TEST

/* Writes text in both styles, "spaced\ncompact"; or the name of the error. */
static const char *rewritten(const char *text, unsigned depth, size_t left)
{
    static char s[8192];
    em_arena a = {0};
    em_node *root = NULL;
    int e = em_tree_parse(&a, text, strlen(text), depth, &left, &root);
    if (e) {
        ck_assert_ptr_null(root);
        snprintf(s, sizeof s, "%s", strerrorname_np(-e));
    } else {
        em_buf out = {0};
        em_node_write(root, EM_JSON_SPACED, &out);
        em_buf_puts(&out, "\n");
        em_node_write(root, EM_JSON_COMPACT, &out);
        ck_assert(!out.failed && out.len < sizeof s);
        memcpy(s, out.data, out.len + 1);
        em_buf_done(&out);
    }
    em_arena_done(&a);
    return s;
}

static const struct {
    const char *in, *out;
} rewrites[] = {
    {"{}", "{}\n{}"},
    {" [ ] ", "[]\n[]"},
    {"{\"b\":1,\"a\":[true,false,null,\"x\"]}",
     "{\"b\": 1, \"a\": [true, false, null, \"x\"]}\n{\"b\":1,\"a\":[true,false,null,\"x\"]}"},
    {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}\n{\"a\":3,\"b\":2}"},
    {"{\"a\":1,\"\\u0061\":{\"x\":[]},\"b\":2,\"a\":[4],\"b\":0}", "{\"a\": [4], \"b\": 0}\n{\"a\":[4],\"b\":0}"},
    {"\"\\u0000\\u001f\\u007f\\u00e9\\ud83d\\ude00\\/\\b\\f\\n\\r\\t\\\\\\\"\"",
     "\"\\u0000\\u001f\x7f\xc3\xa9\xf0\x9f\x98\x80/\\b\\f\\n\\r\\t\\\\\\\"\"\n"
     "\"\\u0000\\u001f\x7f\xc3\xa9\xf0\x9f\x98\x80/\\b\\f\\n\\r\\t\\\\\\\"\""},
    {"{\"\\u0000a\":1e2}", "{\"\\u0000a\": 100.0}\n{\"\\u0000a\":100.0}"},
    {"1e400", "ERANGE"},
    {"[-1e999]", "ERANGE"},
    {"1e-400", "0.0\n0.0"},
    {"", "EINVAL"},
    {"{\"a\":1,", "EINVAL"},
    {"{\"a\":1}{}", "EINVAL"},
    {"[NaN]", "EINVAL"},
    {"\"\\ud800\"", "EINVAL"},
    {"\"a\nb\"", "EINVAL"},
    {"{\"a\"", "EINVAL"},
    {"]", "EINVAL"},
    {"[[[[[[[[[]]]]]]]]]", "EINVAL"}, /* 9 deep */
    {"[[[[[[[[]]]]]]]]", "[[[[[[[[]]]]]]]]\n[[[[[[[[]]]]]]]]"},
    {"[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]", "E2BIG"},
};

START_TEST(rewriting)
{
    ck_assert_str_eq(rewritten(rewrites[_i].in, 8, 20), rewrites[_i].out);
}
END_TEST

START_TEST(many_equal_keys)
{
    em_buf text = {0}, want = {0};
    em_buf_puts(&text, "{");
    for (int i = 0; i < 300; i++)
        em_buf_printf(&text, "%s\"k%d\":%d", i ? "," : "", i % 100, i);
    em_buf_puts(&text, "}");
    em_buf_puts(&want, "{");
    for (int i = 0; i < 100; i++)
        em_buf_printf(&want, "%s\"k%d\":%d", i ? "," : "", i, 200 + i);
    em_buf_puts(&want, "}");
    const char *got = strchr(rewritten(text.data, 0, 1000), '\n');
    ck_assert_ptr_nonnull(got);
    ck_assert_str_eq(got + 1, want.data);
    em_buf_done(&text);
    em_buf_done(&want);
}
END_TEST

START_TEST(members)
{
    const char *text = "{\"a\":\"x\",\"n\":null,\"l\":[1,2,3]}";
    em_arena a = {0};
    em_node *root = NULL;
    size_t left = 100;
    ck_assert_int_eq(em_tree_parse(&a, text, strlen(text), 0, &left, &root), 0);
    ck_assert_uint_eq(left, 100 - 7);
    ck_assert(em_node_is(em_node_member(root, "a"), "x"));
    ck_assert(!em_node_is(em_node_member(root, "a"), "xy"));
    ck_assert_ptr_null(em_node_member(root, "n"));
    ck_assert_ptr_null(em_node_member(root, "none"));
    ck_assert_ptr_null(em_node_member(NULL, "a"));
    ck_assert_ptr_null(em_node_member(em_node_member(root, "l"), "a"));
    ck_assert_uint_eq(em_node_count(em_node_member(root, "l")), 3);
    em_arena_done(&a);
}
END_TEST

START_TEST(arena_blocks)
{
    em_arena a = {0};
    for (size_t n = 1; n < 40000; n = n * 2 + 1) {
        unsigned char *p = em_arena_alloc(&a, n);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq((uintptr_t)p % _Alignof(max_align_t), 0);
        for (size_t i = 0; i < n; i++)
            ck_assert_int_eq(p[i], 0);
        memset(p, 0xa5, n);
    }
    ck_assert_ptr_null(em_arena_alloc(&a, SIZE_MAX));
    em_arena_done(&a);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("tree");
    tcase_add_test(t, numbers_as_python_writes_them);
    tcase_add_test(t, numbers_read_back);
    tcase_add_loop_test(t, rewriting, 0, sizeof rewrites / sizeof *rewrites);
    tcase_add_test(t, many_equal_keys);
    tcase_add_test(t, members);
    tcase_add_test(t, arena_blocks);
    Suite *s = suite_create("json-tree");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
