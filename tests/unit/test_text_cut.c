/* A text tokenised in parts gives the ids of the whole. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/tokenizer.h"
#include "tests/support/fixtures.h"

static em_tokenizer *tok;

static void load(void)
{
    em_error err;
    char path[512];
    ck_assert_msg(em_tokenizer_load(fixture_path(path, sizeof(path), "tokenizer"), &tok, &err) == 0, "%s", err.text);
}

static void unload(void)
{
    tok = em_tokenizer_free(tok);
}

/* Text of everything that a pattern could hold on to across a cut. */
static size_t make_text(char *text, size_t cap, uint64_t seed)
{
    static const char *const parts[] = {
        "\n", "\r",  "\r\n",   "\n\n",   " ",      "  ",     "\t", "word", "A",  "z",      "123", "4",
        ".",  "!?",  "\u00e9", "\u4e2d", "\u3042", "\u0301", "\n", "x",    "\n", "\u00a0", "<",   "<\uff5cUser\uff5c>",
        "'s", "\n Y"};
    size_t len = 0;
    for (uint64_t i = 0;; i++) {
        const char *part = parts[em_rng_u64(seed, 0, i, 0) % (sizeof(parts) / sizeof(*parts))];
        if (len + strlen(part) >= cap)
            return len;
        memcpy(text + len, part, strlen(part));
        len += strlen(part);
    }
}

START_TEST(parts_are_the_whole)
{
    enum { CAP = 400 };
    uint64_t seed = test_seed(1);
    int n_cuts = 0;
    for (uint64_t round = 0; round < 400; round++) {
        char text[CAP];
        em_ids whole = {0}, parts = {0};
        size_t len = make_text(text, CAP, seed + round), at = 0;
        ck_assert_int_eq(em_tokenizer_encode(tok, text, len, true, 0, &whole), 0);
        /* what has been read grows, as a file does */
        for (size_t seen = 0; seen < len;) {
            seen += 1 + em_rng_u64(seed, 1, round, (uint32_t)seen) % 60;
            seen = seen < len ? seen : len;
            size_t n = seen == len ? len - at : em_tokenizer_cut(tok, text + at, seen - at);
            ck_assert_uint_le(n, seen - at);
            n_cuts += n > 0;
            ck_assert_int_eq(em_tokenizer_encode(tok, text + at, n, true, 0, &parts), 0);
            at += n;
        }
        ck_assert_uint_eq(whole.n, parts.n);
        ck_assert_msg(memcmp(whole.id, parts.id, whole.n * sizeof(*whole.id)) == 0, "round %d", (int)round);
        em_ids_done(&whole);
        em_ids_done(&parts);
    }
    ck_assert_int_gt(n_cuts, 1000);
}
END_TEST

START_TEST(places)
{
    static const struct {
        const char *text;
        size_t cut;
    } cases[] = {{"", 0},          {"a", 0},     {"\na", 1},     {"a\nb", 2},   {"a\nb\nc", 4},
                 {"a\nb\n", 2},    {"a\n b", 0}, {"a\n\nb", 3},  {"a\r\nb", 3}, {"a\n1", 0},
                 {"a\n\u00e9", 0}, {"a b c", 0}, {"x\ny z.", 2}, {"\n", 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        ck_assert_uint_eq(em_tokenizer_cut(tok, cases[i].text, strlen(cases[i].text)), cases[i].cut);
}
END_TEST

/* A token that holds a line break may lie across any place. */
START_TEST(added_token_with_a_break)
{
    char path[512], *text;
    size_t len;
    em_error err;
    em_tokenizer *other;
    /* the small file, with one added token spelled otherwise */
    FILE *f = fopen(fixture_path(path, sizeof(path), "tokenizer/small/tokenizer.json"), "re");
    ck_assert_ptr_nonnull(f);
    text = malloc(1 << 20);
    len = fread(text, 1, (1 << 20) - 1, f);
    text[len] = '\0';
    fclose(f);
    int n_changed = 0;
    for (char *at = text; (at = strstr(at, "\"<think>\"")); n_changed++)
        memcpy(at + 1, "\\nthink", 7);
    ck_assert_int_gt(n_changed, 0);
    ck_assert_msg(em_tokenizer_parse(text, len, NULL, 0, "changed", &other, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(em_tokenizer_cut(other, "a\nb", 3), 0);
    em_tokenizer_free(other);
    free(text);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("text_cut");
    TCase *t = tcase_create("text_cut");
    tcase_add_unchecked_fixture(t, load, unload);
    tcase_add_test(t, parts_are_the_whole);
    tcase_add_test(t, places);
    tcase_add_test(t, added_token_with_a_break);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
