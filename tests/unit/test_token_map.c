/* The normaliser chain step by step, the rules of the class map on a small vocabulary, and the chain over all of
 * Unicode by its hash. The golden maps are part of the test named `tokenizer`. */
#include <stdlib.h>

#include "engine/base/utf8.h"
#include "engine/token_map.h"
#include "engine/token_normalize.h"
#include "tests/support/tiny_tokenizer.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

START_TEST(chain)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"", ""},
        {"Hello", "hello"},
        {" The", "the"},
        {"é", "e"},
        {"É", "e"},
        {"ﬁ", "fi"},
        {"İ", "i"},
        {"ı", "ı"},
        {"ẞ", "ß"},
        {"ΑΣ", "ασ"}, /* no final sigma: context does not count */
        {"Ｆｕｌｌ", "full"},
        {"①", "1"},
        {"한", "\u1112\u1161\u11ab"},
        {"\u0301", ""},     /* a bare mark */
        {"क\u093fष", "कष"}, /* a spacing mark goes, too */
        {"a\u20dd", "a"},   /* an enclosing mark */
        {" ", " "},
        {"   \t\r\n", " "}, /* one run, one space, kept */
        {" \u00a0 ", " "},  /* three plain spaces after the first step */
        {"\u2003", " "},    /* becomes a plain space by compatibility */
        {"\u1680", ""},     /* stays as it is, and is stripped */
        {"  a  b  ", "a b"},
        {"\ue000", " "},
        {"a\ue000b", "a b"},
        {" \ue000 ", " "},
        {"\u1cf2", ""},               /* a mark until Unicode 12 */
        {"\U00010d24", "\U00010d24"}, /* a mark since Unicode 11 */
        {"\u32ff", "\u32ff"},         /* decomposes since Unicode 12 */
        {"\u1c89", "\u1c8a"},         /* lower case since Unicode 16 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        em_buf out = {0};
        const char *want = cases[i].want;
        ck_assert_int_eq(em_token_normalize((const uint8_t *)cases[i].text, strlen(cases[i].text), &out), 0);
        const char *got = out.data ? out.data : "";
        ck_assert_msg(out.len == strlen(want) && memcmp(got, want, out.len) == 0, "\"%s\" gives \"%s\", not \"%s\"",
                      cases[i].text, got, want);
        em_buf_done(&out);
    }
}
END_TEST

/* FNV-1a-64 over the normal form of every scalar value, a byte FF behind each; the value is what the normalizers of
 * Hugging Face tokenizers 0.23.3 (NFKC, NFD, StripAccents, Lowercase, Replace, Strip, as spec 5.2) give. */
START_TEST(chain_over_all_of_unicode)
{
    uint64_t h = 0xcbf29ce484222325u;
    em_buf out = {0};
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        uint8_t text[4];
        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        em_buf_clear(&out);
        int r = em_token_normalize(text, (size_t)em_utf8_encode(cp, text), &out);
        h += (uint64_t)(r != 0);
        for (size_t i = 0; i < out.len; i++)
            h = (h ^ (uint8_t)out.data[i]) * 0x100000001b3u;
        h = (h ^ 0xff) * 0x100000001b3u;
    }
    em_buf_done(&out);
    ck_assert_uint_eq(h, 0x982dc364ee01908du);
}
END_TEST

START_TEST(rules_of_the_map)
{
    em_buf json = {0};
    em_tokenizer *tok = NULL;
    em_token_map map;
    em_error err = {0};
    tiny_write(&(tiny_tokenizer){.vocab = ",\"the\":256,\"ĠThe\":257,\"ĠĠ\":258,\"Ã©\":259,\"ÌĢ\":260,\"ÌģĠ\":261,"
                                          "\"Ã¦\":262,\"ï¿½\":263",
                                 .added = "{\"id\":265,\"content\":\"<THE>\"},{\"id\":266,\"content\":\"<the>\"}"},
               &json);
    ck_assert_msg(em_tokenizer_parse(json.data, json.len, NULL, 0, "tokenizer.json", &tok, &err) == 0, "%s", err.text);
    ck_assert_int_eq(em_token_map_build(tok, &map, &err), 0);
    const int32_t *c = map.class_of;
    ck_assert_int_eq(map.n_ids, 267);
    ck_assert_int_eq(c[0], 0);        /* in order of appearance */
    ck_assert_int_eq(c['A'], c['a']); /* case */
    ck_assert_int_eq(c[256], c[257]); /* " The" */
    ck_assert_int_eq(c[258], c[' ']); /* spaces are one space */
    ck_assert_int_eq(c['\n'], c[' ']);
    ck_assert_int_eq(c[259], c['e']); /* e acute */
    ck_assert_int_ne(c[260], c[' ']); /* a bare mark normalises to nothing and keeps its own text */
    ck_assert_int_ne(c[261], c[260]);
    ck_assert_int_eq(c[261], c[' ']);  /* a mark and a space: only the space is left */
    ck_assert_int_eq(c[262], c[0xe6]); /* the text "æ" and the lone byte E6, whose letter is "æ" */
    ck_assert_int_ne(c[263], c[262]);  /* U+FFFD as text: the raw string is the key */
    ck_assert_int_eq(c[265], c[266]);  /* added tokens are normalised like others */
    int32_t top = 0;
    for (int32_t i = 0; i < map.n_ids; i++) {
        ck_assert_int_le(c[i], top); /* no class is skipped */
        top += c[i] == top;
    }
    ck_assert_int_eq(map.n_classes, top);
    em_token_map_done(&map);
    em_token_map_done(&map); /* a zeroed one is fine */
    em_tokenizer_free(tok);
    em_buf_done(&json);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("token-map");
    TCase *c = tcase_create("token-map");
    tcase_set_timeout(c, 120); /* seconds, also when started by hand */
    tcase_add_test(c, chain);
    tcase_add_test(c, chain_over_all_of_unicode);
    tcase_add_test(c, rules_of_the_map);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
