/* The JSON reader: grammar, strings, numbers, limits, and random mutations that must never read outside the text. */
#include <check.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "tests/support/fixtures.h"

/* Reads the whole text; true when well-formed. The text lies at the end of an exact allocation, so that a sanitizer
 * sees any read beyond it. */
static bool accepts_n(const char *text, size_t len, unsigned depth, const char **ret_error, size_t *ret_offset)
{
    char *copy = malloc(len ? len : 1);
    memcpy(copy, text, len);
    em_json j;
    em_json_init(&j, copy, len, depth);
    em_json_type t;
    size_t steps = 0;
    while ((t = em_json_next(&j)) > EM_JSON_END)
        ck_assert_uint_le(++steps, 2 * len + 2);
    ck_assert_int_eq(em_json_next(&j), t); /* end and error stay */
    if (ret_error)
        *ret_error = t == EM_JSON_ERROR ? em_json_error(&j) : NULL;
    if (ret_offset)
        *ret_offset = em_json_offset(&j);
    free(copy);
    return t == EM_JSON_END;
}

static bool accepts(const char *text)
{
    return accepts_n(text, strlen(text), 0, NULL, NULL);
}

static const char *const good[] = {
    "0",
    "-0",
    "1",
    "-12",
    "1.5",
    "1e5",
    "1E+5",
    "1.25e-7",
    "true",
    "false",
    "null",
    "\"\"",
    "\"a\"",
    "[]",
    "{}",
    " \t\r\n[ ] \n",
    "[1]",
    "[1,2]",
    "[[],[[]]]",
    "{\"a\":1}",
    "{\"a\":{\"b\":[true,null]},\"c\":\"d\"}",
    "{ \"a\" : 1 , \"b\" : 2 }",
    "\"\\u0041\\n\\/\\b\\f\\r\\t\\\\\\\"\"",
    "\"\\ud83d\\ude00\"",
    "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"",
    "\"\x7f\"",
    "{\"\":0}",
    "{\"a\":1,\"a\":2}",
    "123456789012345678901234567890",
    "1e999999999999999999",
};

START_TEST(good_texts)
{
    ck_assert_msg(accepts(good[_i]), "refused: %s", good[_i]);
}
END_TEST

static const char *const bad[] = {
    "",
    " ",
    "01",
    "-",
    "+1",
    ".5",
    "1.",
    "1e",
    "1e+",
    "0x1",
    "1.e5",
    "NaN",
    "Infinity",
    "-Infinity",
    "tru",
    "True",
    "nul",
    "\"",
    "\"a",
    "\"\\",
    "\"\\x\"",
    "\"\\u12\"",
    "\"\\u12g4\"",
    "\"\\ud800\"",
    "\"\\udc00\"",
    "\"\\ud800\\u0041\"",
    "\"\\ud800\\ud800\"",
    "\"\n\"",
    "\"\t\"",
    "\"\xff\"",
    "\"\xc0\x80\"",
    "\"\xed\xa0\x80\"",
    "\"\xf4\x90\x80\x80\"",
    "\"\xe2\x82\"",
    "\xef\xbb\xbf{}",
    "[",
    "]",
    "{",
    "}",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[1 2]",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\":1,}",
    "{a:1}",
    "{'a':1}",
    "{\"a\" 1}",
    "{\"a\":1 \"b\":2}",
    "{1:2}",
    "{\"a\":}",
    "[}",
    "{]",
    "[1}",
    "{\"a\":1]",
    "1 2",
    "{} {}",
    "[] x",
    "1,",
    "//c\n1",
    "[1,2]]",
    "nullx",
    ("\xc2\xa0"
     "1"),
    "\v1",
};

START_TEST(bad_texts)
{
    ck_assert_msg(!accepts(bad[_i]), "accepted: %s", bad[_i]);
}
END_TEST

START_TEST(nul_bytes_are_refused)
{
    ck_assert(!accepts_n("1\0", 2, 0, NULL, NULL));
    ck_assert(!accepts_n("\"a\0b\"", 5, 0, NULL, NULL));
    ck_assert(!accepts_n("\"\\\0\"", 4, 0, NULL, NULL));
    ck_assert(!accepts_n("\0", 1, 0, NULL, NULL));
}
END_TEST

START_TEST(errors_say_where)
{
    const char *error;
    size_t offset;
    ck_assert(!accepts_n("[1, x]", 6, 0, &error, &offset));
    ck_assert_str_eq(error, "expected a value");
    ck_assert_uint_eq(offset, 4);
    ck_assert(!accepts_n("{\"a\" 1}", 7, 0, &error, &offset));
    ck_assert_str_eq(error, "expected a colon");
    ck_assert_uint_eq(offset, 5);
}
END_TEST

START_TEST(depth_is_bounded)
{
    char text[2 * EM_JSON_MAX_DEPTH + 2];
    for (unsigned n = 1; n <= EM_JSON_MAX_DEPTH + 1; n++) {
        memset(text, '[', n);
        memset(text + n, ']', n);
        ck_assert_int_eq(accepts_n(text, 2 * n, 0, NULL, NULL), n <= EM_JSON_MAX_DEPTH);
        ck_assert_int_eq(accepts_n(text, 2 * n, 3, NULL, NULL), n <= 3);
    }
    size_t big = 1 << 20; /* a megabyte of brackets: refused at once, no recursion */
    char *open = malloc(big);
    memset(open, '[', big);
    ck_assert(!accepts_n(open, big, 0, NULL, NULL));
    free(open);
}
END_TEST

START_TEST(tokens_come_in_order)
{
    static const char text[] = "{\"a\":[1,\"x\",true,false,null,{}],\"b\\u0041\":-2.5}";
    static const em_json_type want[] = {
        EM_JSON_OBJECT,    EM_JSON_KEY,   EM_JSON_ARRAY,  EM_JSON_NUMBER,     EM_JSON_STRING,
        EM_JSON_TRUE,      EM_JSON_FALSE, EM_JSON_NULL,   EM_JSON_OBJECT,     EM_JSON_OBJECT_END,
        EM_JSON_ARRAY_END, EM_JSON_KEY,   EM_JSON_NUMBER, EM_JSON_OBJECT_END, EM_JSON_END,
    };
    em_json j;
    em_json_init(&j, text, strlen(text), 0);
    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
        ck_assert_int_eq(em_json_next(&j), want[i]);
        ck_assert_int_eq(j.type, want[i]);
        if (i == 11)
            ck_assert(em_json_is(&j, "bA") && !em_json_is(&j, "b") && !em_json_is(&j, "bAA"));
        if (i == 12)
            ck_assert(j.raw_len == 4 && memcmp(j.raw, "-2.5", 4) == 0);
    }
}
END_TEST

START_TEST(skip_leaves_the_reader_behind_the_value)
{
    static const char text[] = "{\"a\":{\"x\":[1,{\"y\":2}]},\"b\":3,\"c\":[4],\"d\":5}";
    em_json j;
    em_json_init(&j, text, strlen(text), 0);
    ck_assert_int_eq(em_json_next(&j), EM_JSON_OBJECT);
    ck_assert_int_eq(em_json_next(&j), EM_JSON_KEY);
    ck_assert_int_eq(em_json_skip(&j), 0); /* key with an object */
    ck_assert_int_eq(em_json_next(&j), EM_JSON_KEY);
    ck_assert(em_json_is(&j, "b"));
    ck_assert_int_eq(em_json_skip(&j), 0); /* key with a scalar */
    ck_assert_int_eq(em_json_skip(&j), 0); /* a scalar: nothing */
    ck_assert_int_eq(em_json_next(&j), EM_JSON_KEY);
    ck_assert_int_eq(em_json_next(&j), EM_JSON_ARRAY);
    ck_assert_int_eq(em_json_skip(&j), 0); /* open array */
    ck_assert_int_eq(em_json_next(&j), EM_JSON_KEY);
    ck_assert(em_json_is(&j, "d"));
    em_json_init(&j, "[[1,2", 5, 0);
    em_json_next(&j);
    ck_assert_int_eq(em_json_skip(&j), -EINVAL);
}
END_TEST

static void one(em_json *j, const char *text)
{
    em_json_init(j, text, strlen(text), 0);
    em_json_next(j);
}

START_TEST(strings_unescape)
{
    em_json j;
    char buf[32];
    size_t len;
    one(&j, "\"a\\u00e9\\ud83d\\ude00\\n\"");
    ck_assert(j.escaped && !j.has_nul);
    ck_assert_int_eq(em_json_string(&j, buf, sizeof(buf), &len), 0);
    ck_assert_str_eq(buf, "a\xc3\xa9\xf0\x9f\x98\x80\n");
    ck_assert_uint_eq(len, 8);
    for (size_t cap = 0; cap <= 8; cap++)
        ck_assert_int_eq(em_json_string(&j, buf, cap, NULL), -ENOSPC);
    ck_assert_int_eq(em_json_string(&j, buf, 9, NULL), 0);
    ck_assert(em_json_is(&j, "a\xc3\xa9\xf0\x9f\x98\x80\n") && !em_json_is(&j, "a\xc3"));
    one(&j, "\"x\\u0000y\"");
    ck_assert(j.has_nul);
    ck_assert_int_eq(em_json_string(&j, buf, sizeof(buf), &len), 0);
    ck_assert(len == 3 && memcmp(buf, "x\0y", 4) == 0);
    ck_assert(!em_json_is(&j, "x")); /* a NUL inside never ends the comparison early */
    one(&j, "\"plain\"");
    ck_assert(!j.escaped && em_json_is(&j, "plain") && !em_json_is(&j, "plai") && !em_json_is(&j, "plainx"));
    ck_assert_int_eq(em_json_string(&j, buf, 5, NULL), -ENOSPC);
    one(&j, "17");
    ck_assert_int_eq(em_json_string(&j, buf, sizeof(buf), NULL), -EINVAL);
    ck_assert(!em_json_is(&j, "17"));
}
END_TEST

START_TEST(integers_are_exact)
{
    static const struct {
        const char *text;
        int r;
        int64_t v;
    } t[] = {
        {"0", 0, 0},
        {"-0", 0, 0},
        {"0.000", 0, 0},
        {"0e99999999999999999999", 0, 0},
        {"7", 0, 7},
        {"2.0", 0, 2},
        {"1e3", 0, 1000},
        {"-1.5e1", 0, -15},
        {"1.25e2", 0, 125},
        {"1200e-2", 0, 12},
        {"1.2", -EINVAL, 0},
        {"1e-1", -EINVAL, 0},
        {"123e-2", -EINVAL, 0},
        {"1e-99999999999999999999", -EINVAL, 0},
        {"9223372036854775807", 0, INT64_MAX},
        {"9223372036854775808", -ERANGE, 0},
        {"-9223372036854775808", 0, INT64_MIN},
        {"-9223372036854775809", -ERANGE, 0},
        {"9223372036854775807.0", 0, INT64_MAX},
        {"922337203685477580.7e1", 0, INT64_MAX},
        {"1e18", 0, 1000000000000000000},
        {"1e19", -ERANGE, 0},
        {"1e99999999999999999999", -ERANGE, 0},
        {"18446744073709551617", -ERANGE, 0},
        {"9007199254740993", 0, 9007199254740993},
        {"10000000000000000000000e-5", 0, 100000000000000000},
    };
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        em_json j;
        one(&j, t[i].text);
        int64_t v = 4711;
        ck_assert_msg(em_json_i64(&j, &v) == t[i].r, "%s", t[i].text);
        ck_assert_msg(v == (t[i].r ? 4711 : t[i].v), "%s", t[i].text);
    }
    em_json j;
    int64_t v;
    one(&j, "\"1\"");
    ck_assert_int_eq(em_json_i64(&j, &v), -EINVAL);
}
END_TEST

START_TEST(doubles_are_correctly_rounded)
{
    static const struct {
        const char *text;
        double v;
    } t[] = {
        {"0", 0},
        {"-0.0", -0.0},
        {"0.1", 0.1},
        {"1e23", 1e23},
        {"9007199254740993", 9007199254740992.0},
        {"1e-20", 1e-20},
        {"2.2250738585072011e-308", 2.2250738585072011e-308},
        {"4.9e-324", 4.9406564584124654e-324},
        {"1e-400", 0},
        {"1.7976931348623157e308", 1.7976931348623157e308},
        {"6.02E+23", 6.02e23},
    };
    em_json j;
    double v;
    setlocale(LC_ALL, "de_DE.UTF-8"); /* where a comma separates decimals, if the machine has it */
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        one(&j, t[i].text);
        ck_assert_int_eq(em_json_f64(&j, &v), 0);
        ck_assert_msg(memcmp(&v, &t[i].v, sizeof(v)) == 0, "%s gave %.17g", t[i].text, v);
    }
    one(&j, "1e309");
    ck_assert_int_eq(em_json_f64(&j, &v), -ERANGE);
    one(&j, "true");
    ck_assert_int_eq(em_json_f64(&j, &v), -EINVAL);
    setlocale(LC_ALL, "C");
}
END_TEST

START_TEST(long_numbers_round_like_short_ones)
{
    /* 1 + 2^-53 is the tie between 1 and its neighbour; a digit far behind decides */
    static const char tie[] = "1.00000000000000011102230246251565404236316680908203125";
    enum { N = 5000 };
    char text[N + 1];
    em_json j;
    double v;
    memset(text, '0', N);
    text[N] = '\0';
    memcpy(text, tie, strlen(tie));
    one(&j, text);
    ck_assert_int_eq(em_json_f64(&j, &v), 0);
    ck_assert(v == 1.0);
    text[N - 1] = '1';
    one(&j, text);
    ck_assert_int_eq(em_json_f64(&j, &v), 0);
    ck_assert(v == 1.0 + 0x1p-52);
    memset(text, '9', N);
    one(&j, text);
    ck_assert_int_eq(em_json_f64(&j, &v), -ERANGE);
    memcpy(text + N - 6, "e-4990", 6); /* 4994 nines, times 10^-4990 */
    one(&j, text);
    ck_assert_int_eq(em_json_f64(&j, &v), 0);
    ck_assert(v == 10000.0);
    memset(text, '0', N);
    text[1] = '.';
    one(&j, text);
    ck_assert_int_eq(em_json_f64(&j, &v), 0);
    ck_assert(v == 0.0);
}
END_TEST

START_TEST(mutations_never_break_the_reader)
{
    uint64_t s = test_seed(20240917);
    static const char base[] =
        "{\"k\":[1,-2.5e3,\"\\u00e9\\ud83d\\ude00\xc3\xa9\",{\"n\":null,\"t\":true}],\"e\":[[],{}],\"f\":false}";
    static const char alphabet[] = "{}[]\",:\\u0e1-.tfn \n\xc3\xed\xff";
    for (int round = 0; round < 60000; round++) {
        char text[sizeof(base)];
        memcpy(text, base, sizeof(base));
        size_t len = sizeof(base) - 1;
        for (int k = 0; k < 3; k++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            text[(s >> 33) % len] = alphabet[(s >> 48) % (sizeof(alphabet) - 1)];
        }
        if (s & 1 << 20)
            len = (s >> 21) % len;
        em_json j;
        char *copy = malloc(len ? len : 1), *out = malloc(len + 1);
        memcpy(copy, text, len);
        em_json_init(&j, copy, len, 0);
        em_json_type t;
        while ((t = em_json_next(&j)) > EM_JSON_END) {
            int64_t i;
            double d;
            if (t == EM_JSON_STRING || t == EM_JSON_KEY)
                ck_assert_int_eq(em_json_string(&j, out, j.raw_len + 1, NULL), 0);
            if (t == EM_JSON_NUMBER && em_json_i64(&j, &i) == 0)
                ck_assert(em_json_f64(&j, &d) == 0 && d == (double)i);
        }
        free(out);
        free(copy);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("json");
    TCase *c = tcase_create("json");
    tcase_add_loop_test(c, good_texts, 0, (int)(sizeof(good) / sizeof(*good)));
    tcase_add_loop_test(c, bad_texts, 0, (int)(sizeof(bad) / sizeof(*bad)));
    tcase_add_test(c, nul_bytes_are_refused);
    tcase_add_test(c, errors_say_where);
    tcase_add_test(c, depth_is_bounded);
    tcase_add_test(c, tokens_come_in_order);
    tcase_add_test(c, skip_leaves_the_reader_behind_the_value);
    tcase_add_test(c, strings_unescape);
    tcase_add_test(c, integers_are_exact);
    tcase_add_test(c, doubles_are_correctly_rounded);
    tcase_add_test(c, long_numbers_round_like_short_ones);
    tcase_add_test(c, mutations_never_break_the_reader);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
