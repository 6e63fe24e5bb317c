/* Bytes to released text: characters, replacement, stop strings, counts; against a plain model on random input. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "engine/base/buf.h"
#include "engine/base/rng.h"
#include "engine/base/utf8.h"
#include "engine/detok.h"
#include "tests/support/fixtures.h"

#include <check.h>

static uint64_t seed, draws;

static uint32_t rnd(uint32_t n)
{
    return (uint32_t)(em_rng_u64(seed, 1, draws++, 0) % n);
}

static em_stop stop_of(const char *text)
{
    return (em_stop){.text = (char *)(uintptr_t)text, .len = strlen(text)};
}

static em_detok *new_detok(const char *const *stops, int32_t n)
{
    em_stop list[16] = {{0}};
    em_detok *d = NULL;
    for (int32_t i = 0; i < n; i++)
        list[i] = stop_of(stops[i]);
    ck_assert_int_eq(em_detok_new(list, n, &d), 0);
    return d;
}

static int push(em_detok *d, const char *bytes)
{
    return em_detok_push(d, (const uint8_t *)bytes, strlen(bytes));
}

static void expect_take(em_detok *d, const char *want)
{
    size_t len;
    const char *got = em_detok_take(d, &len);
    ck_assert_msg(len == strlen(want) && memcmp(got, want, len) == 0, "\"%.*s\", not \"%s\"", (int)len, got, want);
}

/* --- one thing at a time ------------------------------------------------------------------------------------ */

START_TEST(characters)
{
    em_detok *d = new_detok(NULL, 0);
    ck_assert_int_eq(push(d, "a\xc3"), 0);
    ck_assert_int_eq(em_detok_chars(d), 1);
    expect_take(d, "a");
    ck_assert_int_eq(push(d, ""), 0);
    expect_take(d, "");
    ck_assert_int_eq(push(d, "\xa9\xe2\x82"), 0);
    expect_take(d, "é");
    ck_assert_int_eq(push(d, "z"), 0);
    expect_take(d, "\ufffdz"); /* one for the maximal part E2 82 */
    ck_assert_int_eq(push(d, "\xf0\x9f\x98"), 0);
    expect_take(d, "");
    ck_assert_int_eq(em_detok_finish(d), 0);
    expect_take(d, "\ufffd");
    ck_assert_int_eq(em_detok_chars(d), 5);
    ck_assert_int_eq(em_detok_released(d), 5);
    ck_assert_int_eq(push(d, "x"), 0); /* after the end: ignored */
    expect_take(d, "");
    ck_assert_ptr_null(em_detok_free(d));
    ck_assert_ptr_null(em_detok_free(NULL));
}
END_TEST

START_TEST(holds_beginnings_of_stops)
{
    em_detok *d = new_detok((const char *const[]){"\n\nUser:", "END"}, 2);
    ck_assert_int_eq(push(d, "one\n"), 0);
    expect_take(d, "one");
    ck_assert_int_eq(em_detok_chars(d), 4);
    ck_assert_int_eq(em_detok_released(d), 3);
    ck_assert_int_eq(push(d, "\n\n"), 0); /* three line ends: only the last two can begin it */
    expect_take(d, "\n");
    ck_assert_int_eq(push(d, "Us"), 0);
    expect_take(d, "");
    ck_assert_int_eq(push(d, "age EN"), 0);
    expect_take(d, "\n\nUsage ");
    ck_assert_int_eq(push(d, "D of it"), 1);
    expect_take(d, "");
    ck_assert_int_eq(em_detok_chars(d), 12);
    ck_assert_int_eq(em_detok_released(d), 12);
    ck_assert_int_eq(push(d, "more"), 1);
    ck_assert_int_eq(em_detok_finish(d), 1);
    expect_take(d, "");
    em_detok_free(d);
}
END_TEST

START_TEST(earliest_begin_wins)
{
    em_detok *d = new_detok((const char *const[]){"bc", "abcd"}, 2);
    ck_assert_int_eq(push(d, "xabc"), 0); /* bc is complete, but abcd began before it */
    expect_take(d, "x");
    ck_assert_int_eq(push(d, "d"), 1);
    expect_take(d, "");
    ck_assert_int_eq(em_detok_chars(d), 1);
    em_detok_free(d);

    d = new_detok((const char *const[]){"bc", "abcd"}, 2);
    ck_assert_int_eq(push(d, "xabce"), 1);
    expect_take(d, "xa");
    em_detok_free(d);

    d = new_detok((const char *const[]){"bc", "abcd"}, 2);
    ck_assert_int_eq(push(d, "xabc"), 0);
    ck_assert_int_eq(em_detok_finish(d), 1); /* the end settles it */
    expect_take(d, "xa");
    em_detok_free(d);

    d = new_detok((const char *const[]){"ab", "abc"}, 2);
    ck_assert_int_eq(push(d, "xab"), 1); /* the same beginning: nothing to wait for */
    expect_take(d, "x");
    em_detok_free(d);
}
END_TEST

START_TEST(stop_across_replacement_and_characters)
{
    em_detok *d = new_detok((const char *const[]){"\ufffd!"}, 1);
    ck_assert_int_eq(push(d, "a\xff"), 0);
    expect_take(d, "a");
    ck_assert_int_eq(push(d, "!"), 1);
    em_detok_free(d);
    d = new_detok((const char *const[]){"\ufffd"}, 1);
    ck_assert_int_eq(push(d, "a\xe2\x82"), 0);
    ck_assert_int_eq(em_detok_finish(d), 1); /* it completes only here */
    expect_take(d, "a");
    ck_assert_int_eq(em_detok_chars(d), 1);
    em_detok_free(d);
    d = new_detok((const char *const[]){"é"}, 1);
    ck_assert_int_eq(push(d, "ê\xc3"), 0);
    expect_take(d, "ê");
    ck_assert_int_eq(push(d, "\xa9"), 1);
    expect_take(d, "");
    em_detok_free(d);
}
END_TEST

START_TEST(refused_stops)
{
    em_detok *d = NULL;
    em_stop empty = stop_of(""), bad = stop_of("a\xc3");
    ck_assert_int_eq(em_detok_new(&empty, 1, &d), -EINVAL);
    ck_assert_int_eq(em_detok_new(&bad, 1, &d), -EINVAL);
    ck_assert_ptr_null(d);
}
END_TEST

/* --- a plain model ------------------------------------------------------------------------------------------ */

/* All of `bytes` as text; what may still become a character is left out unless last. */
static void decode_all(const uint8_t *bytes, size_t len, bool last, em_buf *out)
{
    em_buf_clear(out);
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        bool waits = len - i == 2 && bytes[i] == 0xed && bytes[i + 1] >= 0xa0 && bytes[i + 1] <= 0xbf;
        int n = em_utf8_decode(bytes + i, len - i, &cp);
        if (!last && (n == 0 || waits))
            return;
        if (n > 0)
            em_buf_append(out, bytes + i, (size_t)n);
        else
            em_buf_puts(out, EM_UTF8_REPLACEMENT);
        i += n > 0 ? (size_t)n : n < 0 ? (size_t)-n : len - i;
    }
}

/* What should be released of text, and whether it ends there: the first place where a stop string stands, or where
 * one could still stand once more text comes. */
static size_t model(const em_buf *text, char (*stops)[16], int n_stops, bool last, bool *ret_stopped)
{
    for (size_t at = 0; at < text->len; at++) {
        size_t left = text->len - at;
        bool whole = false, part = false;
        for (int k = 0; k < n_stops; k++) {
            size_t n = strlen(stops[k]);
            whole |= n <= left && memcmp(text->data + at, stops[k], n) == 0;
            part |= n > left && memcmp(text->data + at, stops[k], left) == 0;
        }
        if (whole || (part && !last)) {
            *ret_stopped = whole;
            return at;
        }
    }
    *ret_stopped = false;
    return text->len;
}

static size_t random_stops(char (*stops)[16])
{
    static const char *const bits[] = {"a", "b", "é", "ê", "\ufffd", "ab"};
    size_t n = rnd(5);
    for (size_t k = 0; k < n; k++) {
        stops[k][0] = '\0';
        for (uint32_t i = 0, len = 1 + rnd(4); i < len; i++)
            strcat(stops[k], bits[rnd(6)]);
    }
    return n;
}

static void random_bytes(uint8_t *bytes, size_t len)
{
    static const char pool[] = "aaabbb\xc3\xc3\xa9\xaa\xed\xa0\xe2\xf0";
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)pool[rnd(sizeof pool - 1)];
}

/* Pushes bytes in random cuts and compares with the model after each. */
static void run_against_model(em_detok *d, char (*stops)[16], size_t n_stops, const uint8_t *bytes, size_t len)
{
    em_buf text = {0}, got = {0};
    bool stopped = false;
    for (size_t at = 0; at <= len && !stopped;) {
        bool last = at == len;
        size_t n = last ? 0 : 1 + rnd(rnd(2) ? 2 : (uint32_t)(len - at)), took;
        n = n > len - at ? len - at : n;
        int r = last ? em_detok_finish(d) : em_detok_push(d, bytes + at, n);
        at += last ? 1 : n;
        decode_all(bytes, last ? len : at, last, &text);
        size_t want = model(&text, stops, (int)n_stops, last, &stopped);
        ck_assert_int_eq(r, stopped);
        ck_assert_int_eq(em_detok_released(d), (int64_t)em_utf8_count(text.data ? text.data : "", want));
        ck_assert_int_eq(em_detok_chars(d),
                         (int64_t)em_utf8_count(text.data ? text.data : "", stopped ? want : text.len));
        if (rnd(2) || last || stopped) { /* taken or left for later */
            const char *piece = em_detok_take(d, &took);
            em_buf_append(&got, piece, took);
            ck_assert(em_utf8_valid(piece, took));
            ck_assert_uint_eq(got.len, want);
            ck_assert(want == 0 || memcmp(got.data, text.data, want) == 0);
        }
    }
    em_buf_done(&text);
    em_buf_done(&got);
}

START_TEST(against_model)
{
    seed = test_seed(21);
    draws = 0;
    for (int round = 0; round < 20000; round++) {
        char stops[5][16];
        const char *list[5];
        uint8_t bytes[40];
        size_t n_stops = random_stops(stops), len = rnd(sizeof bytes);
        for (size_t k = 0; k < n_stops; k++)
            list[k] = stops[k];
        random_bytes(bytes, len);
        em_detok *d = new_detok(list, (int32_t)n_stops);
        run_against_model(d, stops, n_stops, bytes, len);
        em_detok_free(d);
    }
}
END_TEST

/* --- time --------------------------------------------------------------------------------------------------- */

/* Stop strings that are almost complete all the time: "aaa...ab" of 1 KiB and shorter, on a text of a's. */
static double seconds_for(size_t len, size_t piece)
{
    static char text[16][1025];
    const char *list[16];
    uint8_t bytes[64];
    memset(bytes, 'a', sizeof bytes);
    for (int i = 0; i < 16; i++) {
        memset(text[i], 'a', 1023 - (size_t)i);
        text[i][1023 - i] = (char)('b' + i);
        list[i] = text[i];
    }
    em_detok *d = new_detok(list, 16);
    int r = 0;
    clock_t begin = clock();
    for (size_t at = 0; at < len; at += piece) {
        size_t took;
        r |= em_detok_push(d, bytes, piece);
        em_detok_take(d, &took);
    }
    ck_assert_int_eq(r, 0);
    double t = (double)(clock() - begin) / CLOCKS_PER_SEC;
    ck_assert_int_eq(em_detok_chars(d), (int64_t)len);
    ck_assert_int_eq(em_detok_released(d), (int64_t)len - 1023);
    em_detok_free(d);
    return t;
}

START_TEST(linear_time)
{
    for (size_t piece = 1; piece <= 64; piece *= 64) {
        double one = 1e9, all = 1e9;
        for (int i = 0; i < 3; i++) {
            double t = seconds_for(1 << 16, piece), u = seconds_for(1 << 20, piece);
            one = t < one ? t : one;
            all = u < all ? u : all;
        }
        printf("pieces of %zu: 64 KiB %.4f s, 1 MiB %.4f s\n", piece, one, all);
        ck_assert_msg(all < 80 * (one + 0.0005), "%f s and %f s", one, all);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("detok");
    TCase *c = tcase_create("detok");
    tcase_set_timeout(c, 120); /* seconds, also when started by hand */
    tcase_add_test(c, characters);
    tcase_add_test(c, holds_beginnings_of_stops);
    tcase_add_test(c, earliest_begin_wins);
    tcase_add_test(c, stop_across_replacement_and_characters);
    tcase_add_test(c, refused_stops);
    tcase_add_test(c, against_model);
    tcase_add_test(c, linear_time);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
