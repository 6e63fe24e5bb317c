/* The tokenizer beyond its golden data: round trips, added tokens against a plain search, merges against the plain
 * algorithm, limits, time in proportion to length, broken and hostile files. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/rng.h"
#include "engine/token_map.h"
#include "engine/tokenizer.h"
#include "tests/support/fixtures.h"
#include "tests/support/golden_json.h"
#include "tests/support/tiny_tokenizer.h"
#include "tests/unit/tokenizer_golden.h"

/* The project's own golden data, whatever set the golden cases are asked to run. */
#define OWN_DIR EM_TESTS_GOLDEN_DIR "/tokenizer"

static uint64_t seed, draws;

static uint32_t rnd(uint32_t n)
{
    return (uint32_t)(em_rng_u64(seed, 0, draws++, 0) % n);
}

static void start_random(void)
{
    seed = test_seed(20);
    draws = 0;
}

static em_tokenizer *load_released(void)
{
    em_tokenizer *tok = NULL;
    em_error err = {0};
    ck_assert_msg(em_tokenizer_load(OWN_DIR, &tok, &err) == 0, "%s", err.text);
    return tok;
}

static int parse(const tiny_tokenizer *t, const char *config, em_tokenizer **ret_tok, em_error *err)
{
    em_buf json = {0};
    tiny_write(t, &json);
    int r =
        em_tokenizer_parse(json.data, json.len, config, config ? strlen(config) : 0, "tokenizer.json", ret_tok, err);
    em_buf_done(&json);
    return r;
}

static em_tokenizer *parse_ok(const tiny_tokenizer *t)
{
    em_tokenizer *tok = NULL;
    em_error err = {0};
    ck_assert_msg(parse(t, NULL, &tok, &err) == 0, "%s", err.text);
    return tok;
}

static void expect_bytes(const em_tokenizer *tok, const em_ids *ids, const char *text, size_t len)
{
    size_t at = 0;
    bool same = true; /* one check at the end: Check's own cost would be most of the time */
    for (size_t i = 0; same && i < ids->n; i++) {
        size_t n;
        const uint8_t *bytes = em_tokenizer_bytes(tok, ids->id[i], &n);
        same = at + n <= len && memcmp(bytes, text + at, n) == 0;
        at += n;
    }
    ck_assert(same && at == len);
}

static void expect_ids(const em_tokenizer *tok, const char *text, bool special, const int32_t *want, size_t n)
{
    em_ids ids = {0};
    ck_assert_int_eq(em_tokenizer_encode(tok, text, strlen(text), special, 0, &ids), 0);
    ck_assert_msg(ids.n == n, "\"%s\": %zu ids, not %zu", text, ids.n, n);
    for (size_t i = 0; i < n; i++)
        ck_assert_msg(ids.id[i] == want[i], "\"%s\": id number %zu is %d, not %d", text, i, ids.id[i], want[i]);
    em_ids_done(&ids);
}

#define EXPECT_IDS(tok, text, special, ...)                                                                            \
    expect_ids(tok, text, special, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4)

/* --- encoding ----------------------------------------------------------------------------------------------- */

static uint32_t random_cp(void)
{
    static const uint32_t tops[] = {0x80, 0x80, 0x80, 0x800, 0x3000, 0x10000, 0x110000};
    uint32_t cp = rnd(tops[rnd(7)]);
    return cp >= 0xd800 && cp < 0xe000 ? ' ' : cp;
}

static void random_text(em_buf *out)
{
    static const char *const bits[] = {"<｜User｜>", "<think>", "｜DSML｜", "  ", "\r\n", "123", "汉字", "ing", "<｜"};
    em_buf_clear(out);
    for (uint32_t n = rnd(200); n > 0; n--) {
        uint8_t c[4];
        if (rnd(8) == 0)
            em_buf_puts(out, bits[rnd(9)]);
        else
            em_buf_append(out, c, (size_t)em_utf8_encode(random_cp(), c));
    }
}

START_TEST(round_trip)
{
    start_random();
    em_tokenizer *tok = load_released();
    em_buf text = {0};
    for (int i = 0; i < 2000; i++) {
        random_text(&text);
        const char *s = text.data ? text.data : "";
        for (int special = 0; special < 2; special++) {
            em_ids ids = {0};
            ck_assert_int_eq(em_tokenizer_encode(tok, s, text.len, special, 0, &ids), 0);
            expect_bytes(tok, &ids, s, text.len);
            bool added = false;
            for (size_t k = 0; k < ids.n; k++)
                added |= em_tokenizer_is_added(tok, ids.id[k]);
            ck_assert(special || !added);
            em_ids_done(&ids);
        }
    }
    em_buf_done(&text);
    em_tokenizer_free(tok);
}
END_TEST

/* Bytes that are no UTF-8 are against the contract, but must neither crash nor hang nor lose a byte. */
START_TEST(ill_formed_text)
{
    start_random();
    em_tokenizer *tok = load_released();
    for (int i = 0; i < 2000; i++) {
        char text[64];
        size_t len = rnd(sizeof text);
        for (size_t k = 0; k < len; k++)
            text[k] = (char)(rnd(2) ? rnd(256) : 0x80 + rnd(128));
        em_ids ids = {0};
        ck_assert_int_eq(em_tokenizer_encode(tok, text, len, true, 0, &ids), 0);
        expect_bytes(tok, &ids, text, len);
        em_ids_done(&ids);
    }
    em_tokenizer_free(tok);
}
END_TEST

START_TEST(appends_and_limits)
{
    em_tokenizer *tok = load_released();
    em_ids ids = {0};
    ck_assert_int_eq(em_ids_push(&ids, 7), 0);
    ck_assert_int_eq(em_tokenizer_encode(tok, "", 0, true, 0, &ids), 0);
    ck_assert_uint_eq(ids.n, 1);
    ck_assert_int_eq(em_tokenizer_encode(tok, "Hello, world!", 13, true, 4, &ids), 0);
    ck_assert_uint_eq(ids.n, 5);
    ck_assert_int_eq(ids.id[0], 7);
    ck_assert_int_eq(ids.id[1], 19923);
    ck_assert_int_eq(em_tokenizer_encode(tok, "Hello, world!", 13, true, 3, &ids), -E2BIG);
    ck_assert_int_eq(em_tokenizer_encode(tok, "<think><think>", 14, true, 1, &ids), -E2BIG);
    ck_assert_uint_eq(ids.n, 5); /* untouched on failure */
    size_t len = 1 << 20;
    char *big = malloc(len);
    memset(big, 'x', len);
    ck_assert_int_eq(em_tokenizer_encode(tok, big, len, true, 10, &ids), -E2BIG);
    free(big);
    em_ids_done(&ids);
    em_tokenizer_free(tok);
}
END_TEST

/* The three levels of cutting and the rank order of merges, on a vocabulary small enough to see through. */
START_TEST(merge_order)
{
    em_tokenizer *tok =
        parse_ok(&(tiny_tokenizer){.vocab = ",\"bc\":300,\"ab\":301,\"abc\":302,\"aa\":303,\"aaa\":304,\"Ġa\":305",
                                   .merges = "\"b c\",[\"a\",\"b\"],\"a bc\",\"a a\",\"aa a\",\"Ġ a\""});
    EXPECT_IDS(tok, "abc", true, 302); /* bc first, then a + bc */
    EXPECT_IDS(tok, "abab", true, 301, 301);
    EXPECT_IDS(tok, "aaaaa", true, 303, 304); /* aa aa a: the left of equal ranks first, then aa + a */
    EXPECT_IDS(tok, "a b", true, 'a', ' ', 'b');
    EXPECT_IDS(tok, "  a", true, ' ', 305);      /* the last space belongs to the word */
    EXPECT_IDS(tok, "  1", true, ' ', ' ', '1'); /* the number is a piece of its own: the spaces end one */
    ck_assert_int_eq(em_tokenizer_size(tok), 306);
    size_t len;
    ck_assert_uint_eq((em_tokenizer_bytes(tok, 299, &len), len), 0); /* left out */
    ck_assert_str_eq(em_tokenizer_raw(tok, 305, &len), "Ġa");
    ck_assert_uint_eq((em_tokenizer_bytes(tok, 305, &len), len), 2);
    em_tokenizer_free(tok);
}
END_TEST

/* Is merge "left right"? */
static bool is_pair(const char *merge, const char *left, const char *right)
{
    size_t n = strlen(left);
    return strncmp(merge, left, n) == 0 && merge[n] == ' ' && strcmp(merge + n + 1, right) == 0;
}

/* The plain algorithm: among all neighbours the lowest rank, leftmost; O(n^2). */
static void plain_merge(const char *const *merges, int n_merges, char (*parts)[64], size_t *n)
{
    for (;;) {
        int best = n_merges;
        size_t at = 0;
        for (size_t i = 0; i + 1 < *n; i++)
            for (int m = 0; m < best; m++)
                if (is_pair(merges[m], parts[i], parts[i + 1])) {
                    best = m;
                    at = i;
                }
        if (best == n_merges)
            return;
        memcpy(parts[at] + strlen(parts[at]), parts[at + 1], strlen(parts[at + 1]) + 1);
        memmove(parts + at + 1, parts + at + 2, (*n - at - 2) * sizeof *parts);
        (*n)--;
    }
}

START_TEST(merges_against_plain_algorithm)
{
    start_random();
    static const char *const merges[] = {"a b",   "b a",   "ab a",   "a a", "aa b",
                                         "ab ab", "ba ba", "aab ab", "b b", "aa aa"};
    em_tokenizer *tok = parse_ok(&(tiny_tokenizer){
        .vocab = ",\"ab\":256,\"ba\":257,\"aba\":258,\"aa\":259,\"aab\":260,\"abab\":261,\"baba\":262,\"aabab\":263,"
                 "\"bb\":264,\"aaaa\":265",
        .merges = "\"a b\",\"b a\",\"ab a\",\"a a\",\"aa b\",\"ab ab\",\"ba ba\",\"aab ab\",\"b b\",\"aa aa\""});
    for (int round = 0; round < 3000; round++) {
        char text[41] = {0}, parts[40][64] = {{0}};
        size_t n = 1 + rnd(40), n_parts = n;
        for (size_t i = 0; i < n; i++)
            parts[i][0] = text[i] = (char)('a' + rnd(2));
        plain_merge(merges, 10, parts, &n_parts);
        em_ids ids = {0};
        ck_assert_int_eq(em_tokenizer_encode(tok, text, n, true, 0, &ids), 0);
        ck_assert_msg(ids.n == n_parts, "%s: %zu ids, not %zu", text, ids.n, n_parts);
        for (size_t i = 0; i < n_parts; i++) {
            size_t len;
            ck_assert_str_eq(em_tokenizer_raw(tok, ids.id[i], &len), parts[i]);
        }
        em_ids_done(&ids);
    }
    em_tokenizer_free(tok);
}
END_TEST

/* --- added tokens ------------------------------------------------------------------------------------------- */

#define ADDED(id, content, normalized)                                                                                 \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"             \
    "\"normalized\":" #normalized ",\"special\":true}"

START_TEST(added_tokens_longest_and_order)
{
    em_tokenizer *tok =
        parse_ok(&(tiny_tokenizer){.added = ADDED(300, "<a>", false) "," ADDED(301, "<a>>", false) "," ADDED(
                                       302, "a><", false) "," ADDED(303, "x<a", true) "," ADDED(304, "xx", true)});
    EXPECT_IDS(tok, "<a>", true, 300);
    EXPECT_IDS(tok, "<a>", false, '<', 'a', '>');
    EXPECT_IDS(tok, "<a>>", true, 301);      /* the longest of those that begin first */
    EXPECT_IDS(tok, "<a><", true, 300, '<'); /* 302 would begin later */
    EXPECT_IDS(tok, "a><a>", true, 302, 'a', '>');
    EXPECT_IDS(tok, "x<a>", true, 'x', 300); /* those that are not normalized go first */
    EXPECT_IDS(tok, "x<axxx", true, 303, 304, 'x');
    ck_assert_int_eq(em_tokenizer_special(tok, "xx"), 304);
    ck_assert_int_eq(em_tokenizer_special(tok, "x"), -1);
    ck_assert(em_tokenizer_is_added(tok, 304));
    ck_assert(!em_tokenizer_is_added(tok, 'x'));
    em_tokenizer_free(tok);
}
END_TEST

START_TEST(special_and_added_differ)
{
    em_tokenizer *tok = load_released();
    int32_t think = em_tokenizer_special(tok, "<think>"), bos = em_tokenizer_special(tok, "<｜begin▁of▁sentence｜>");
    ck_assert_int_eq(think, 128821);
    ck_assert_int_eq(bos, 0);
    ck_assert(em_tokenizer_is_added(tok, think));
    ck_assert(!em_tokenizer_is_special(tok, think));
    ck_assert(em_tokenizer_is_special(tok, bos));
    ck_assert(!em_tokenizer_is_special(tok, 19923));
    ck_assert_int_eq(em_tokenizer_bos(tok), 0);
    ck_assert(!em_tokenizer_add_bos(tok));
    em_tokenizer_free(tok);
}
END_TEST

/* Random spellings over two letters against a search that tries each place in turn. */
START_TEST(added_tokens_against_plain_search)
{
    start_random();
    for (int round = 0; round < 300; round++) {
        char spelling[6][6] = {{0}};
        em_buf added = {0};
        int n = 0;
        for (int k = 0; k < 6; k++) {
            char s[6] = {0};
            for (uint32_t i = 0, len = 1 + rnd(5); i < len; i++)
                s[i] = (char)('a' + rnd(2));
            bool known = false;
            for (int i = 0; i < n; i++)
                known |= strcmp(spelling[i], s) == 0;
            if (known || strlen(s) == 1) /* one letter is a byte token with an id of its own */
                continue;
            em_buf_printf(&added, "%s{\"id\":%d,\"content\":\"%s\",\"normalized\":false}", n ? "," : "", 256 + n, s);
            strcpy(spelling[n++], s);
        }
        em_tokenizer *tok = parse_ok(&(tiny_tokenizer){.added = added.data ? added.data : ""});
        char text[61] = {0};
        for (uint32_t i = 0, len = rnd(60); i < len; i++)
            text[i] = (char)('a' + rnd(2));
        int32_t want[60];
        size_t n_want = 0;
        for (size_t at = 0; text[at];) {
            int best = -1;
            for (int k = 0; k < n; k++)
                if (strncmp(text + at, spelling[k], strlen(spelling[k])) == 0 &&
                    (best < 0 || strlen(spelling[k]) > strlen(spelling[best])))
                    best = k;
            want[n_want++] = best < 0 ? text[at] : 256 + best;
            at += best < 0 ? 1 : strlen(spelling[best]);
        }
        expect_ids(tok, text, true, want, n_want);
        em_tokenizer_free(tok);
        em_buf_done(&added);
    }
}
END_TEST

/* --- time --------------------------------------------------------------------------------------------------- */

typedef void (*fill_fn)(char *text, size_t len);

static void fill_spaces(char *text, size_t len)
{
    memset(text, ' ', len);
}

static void fill_letter(char *text, size_t len)
{
    memset(text, 'a', len);
}

static void fill_letters(char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        text[i] = (char)('a' + rnd(26));
}

/* Beginnings of an added token, over and over. */
static void fill_almost_added(char *text, size_t len)
{
    static const char bit[] = "<|place_holder_mm_span_00";
    for (size_t i = 0; i < len; i++)
        text[i] = bit[i % (sizeof bit - 1)];
}

static void fill_line_ends(char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        text[i] = " \n\t\r"[rnd(4)];
}

static void fill_digits_and_spaces(char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        text[i] = rnd(3) ? ' ' : (char)('0' + rnd(10));
}

/* Seconds of processor time for one text, the best of three. */
static double encode_seconds(const em_tokenizer *tok, const char *text, size_t len)
{
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        em_ids ids = {0};
        clock_t begin = clock();
        ck_assert_int_eq(em_tokenizer_encode(tok, text, len, true, 0, &ids), 0);
        double t = (double)(clock() - begin) / CLOCKS_PER_SEC;
        best = t < best ? t : best;
        em_ids_done(&ids);
    }
    return best;
}

/* 16 times the text may take 16 times the time, some more for the cache; quadratic time would be 256 times. */
START_TEST(linear_time)
{
    start_random();
    static const fill_fn fills[] = {fill_spaces,       fill_letter,    fill_letters,
                                    fill_almost_added, fill_line_ends, fill_digits_and_spaces};
    em_tokenizer *tok = load_released();
    size_t len = 1 << 20;
    char *text = malloc(len);
    for (size_t i = 0; i < sizeof fills / sizeof *fills; i++) {
        fills[i](text, len);
        double one = encode_seconds(tok, text, len / 16), all = encode_seconds(tok, text, len);
        printf("text %zu: 64 KiB %.4f s, 1 MiB %.4f s\n", i, one, all);
        ck_assert_msg(all < 80 * (one + 0.0005), "text %zu: %f s and %f s", i, one, all);
    }
    free(text);
    em_tokenizer_free(tok);
}
END_TEST

START_TEST(load_time)
{
    clock_t begin = clock();
    em_tokenizer *tok = load_released();
    em_token_map map;
    ck_assert_int_eq(em_token_map_build(tok, &map, NULL), 0);
    double t = (double)(clock() - begin) / CLOCKS_PER_SEC;
    printf("tokenizer and map of %d ids: %.3f s\n", map.n_ids, t);
    ck_assert_msg(t < 2.0, "%f s", t);
    em_token_map_done(&map);
    em_tokenizer_free(tok);
}
END_TEST

/* --- threads ------------------------------------------------------------------------------------------------ */

static void *encode_many(void *arg)
{
    em_tokenizer *tok = arg;
    for (int i = 0; i < 200; i++)
        EXPECT_IDS(tok, "<｜User｜>你好<｜Assistant｜><think>推理</think>答案<｜end▁of▁sentence｜>", true, 128803,
                   30594, 128804, 128821, 36101, 128822, 7624, 1);
    return NULL;
}

START_TEST(many_threads)
{
    em_tokenizer *tok = load_released();
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, encode_many, tok), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    em_tokenizer_free(tok);
}
END_TEST

/* --- files -------------------------------------------------------------------------------------------------- */

static const struct bad_file {
    tiny_tokenizer t;
    const char *says; /* part of the sentence */
} bad_files[] = {
    /* not this family */
    {{.normalizer = "{\"type\":\"NFC\"}"}, "normalizer \"NFC\""},
    {{.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}"}, "normalizer \"Lowercase\""},
    {{.normalizer = "7"}, "normalizer must be an object"},
    {{.pre_tokenizer = "null"}, "pre_tokenizer must be an object"},
    {{.pre_tokenizer = TINY_BYTE_LEVEL}, "pre_tokenizer \"ByteLevel\""},
    {{.pre_tokenizer = TINY_SEQUENCE(TINY_CJK "," TINY_NUMBERS "," TINY_WORDS "," TINY_BYTE_LEVEL)}, "pattern \"[一"},
    {{.pre_tokenizer = TINY_SEQUENCE(TINY_NUMBERS "," TINY_CJK "," TINY_SPLIT("\\\\s+") "," TINY_BYTE_LEVEL)}, "\\s+"},
    {{.pre_tokenizer = TINY_SEQUENCE(TINY_NUMBERS "," TINY_CJK "," TINY_WORDS)}, "3 steps"},
    {{.pre_tokenizer = TINY_SEQUENCE(TINY_NUMBERS "," TINY_CJK "," TINY_WORDS "," TINY_BYTE_LEVEL "," TINY_BYTE_LEVEL)},
     "5 steps"},
    {{.pre_tokenizer = TINY_SEQUENCE("{\"type\":\"Digits\"}," TINY_CJK "," TINY_WORDS "," TINY_BYTE_LEVEL)},
     "\"Digits\""},
    {{.pre_tokenizer = TINY_SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"String\":\" \"}}")}, "pattern"},
    {{.pre_tokenizer =
          TINY_SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"},\"behavior\":\"Removed\"}")},
     "behavior \"Removed\""},
    {{.pre_tokenizer =
          TINY_SEQUENCE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"},\"behavior\":\"Isolated\","
                        "\"invert\":true}")},
     "invert"},
    {{.pre_tokenizer = TINY_SEQUENCE(TINY_NUMBERS "," TINY_CJK "," TINY_WORDS ",{\"type\":\"ByteLevel\","
                                                  "\"add_prefix_space\":true,\"use_regex\":false}")},
     "add_prefix_space"},
    {{.pre_tokenizer = TINY_SEQUENCE(TINY_NUMBERS "," TINY_CJK "," TINY_WORDS ",{\"type\":\"ByteLevel\","
                                                  "\"add_prefix_space\":false,\"use_regex\":true}")},
     "use_regex"},
    {{.post_processor = "{\"type\":\"BertProcessing\"}"}, "post_processor \"BertProcessing\""},
    {{.post_processor = "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\",\"type_id\":0}},"
                        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}"},
     "adds tokens"},
    {{.decoder = "{\"type\":\"Metaspace\"}"}, "decoder \"Metaspace\""},
    {{.decoder = "null"}, "decoder must be an object"},
    {{.model = ",\"dropout\":0.1"}, "model.dropout"},
    {{.model = ",\"byte_fallback\":true"}, "model.byte_fallback"},
    {{.model = ",\"ignore_merges\":true"}, "model.ignore_merges"},
    {{.model = ",\"continuing_subword_prefix\":\"##\""}, "model.continuing_subword_prefix"},
    {{.model = ",\"end_of_word_suffix\":\"</w>\""}, "model.end_of_word_suffix"},
    {{.model = ",\"type\":\"BPE\""}, "\"type\" twice"},
    {{.top = ",\"model\":{}"}, "\"model\" twice"},
    /* vocabulary */
    {{.skip_byte = 'A'}, "byte 0x41"},
    {{.vocab = ",\"ab\":-1"}, "\"ab\" needs an id"},
    {{.vocab = ",\"ab\":1000000000"}, "\"ab\" needs an id"},
    {{.vocab = ",\"ab\":99999999999999999999999"}, "\"ab\" needs an id"},
    {{.vocab = ",\"ab\":1.5"}, "\"ab\" needs an id"},
    {{.vocab = ",\"ab\":\"7\""}, "\"ab\" needs an id"},
    {{.vocab = ",\"ab\":[7]"}, "\"ab\" needs an id"},
    {{.vocab = ",\"ab\":65"}, "\"A\" and \"ab\" both have id 65"},
    {{.vocab = ",\"A\":300"}, "\"A\" twice"},
    /* merges */
    {{.merges = "7"}, "model.merges[0] must be"},
    {{.merges = "[\"a\"]"}, "model.merges[0] must be"},
    {{.merges = "[\"a\",\"b\",\"c\"]"}, "model.merges[0] must be"},
    {{.merges = "[\"a\",7]"}, "model.merges[0] must be"},
    {{.merges = "\"ab\""}, "one space"},
    {{.merges = "\"a b c\""}, "one space"},
    {{.merges = "\"a b\""}, "model.merges[0] makes a token that model.vocab lacks"},
    {{.merges = "\"zz b\""}, "begins with a token that model.vocab lacks"},
    {{.merges = "\"a zz\""}, "ends with a token that model.vocab lacks"},
    {{.merges = "\" a\"", .vocab = ",\"\":300"}, "empty side"},
    {{.merges = "\"a b\",\"a b\"", .vocab = ",\"ab\":300"}, "model.merges[1] repeats"},
    /* added tokens */
    {{.added = "7"}, "an added token must be an object"},
    {{.added = "{\"id\":300}"}, "needs a content"},
    {{.added = "{\"id\":300,\"content\":\"\"}"}, "needs a content"},
    {{.added = "{\"content\":\"<a>\"}"}, "\"<a>\" needs an id"},
    {{.added = "{\"id\":1000000000,\"content\":\"<a>\"}"}, "\"<a>\" needs an id"},
    {{.added = "{\"id\":65,\"content\":\"<a>\"}"}, "\"A\" and \"<a>\" both have id 65"},
    {{.added = "{\"id\":300,\"content\":\"A\"}"}, "\"A\" has id 65 in model.vocab and 300"},
    {{.added = "{\"id\":300,\"content\":\"<a>\"},{\"id\":300,\"content\":\"<b>\"}"}, "twice"},
    {{.added = "{\"id\":300,\"content\":\"<a>\"},{\"id\":301,\"content\":\"<a>\"}"}, "twice"},
    {{.added = "{\"id\":300,\"content\":\"<a>\",\"lstrip\":true}"}, "has lstrip"},
    {{.added = "{\"id\":300,\"content\":\"<a>\",\"rstrip\":true}"}, "has rstrip"},
    {{.added = "{\"id\":300,\"content\":\"<a>\",\"single_word\":true}"}, "has single_word"},
    {{.added = "{\"id\":300,\"content\":\"<a>\",\"special\":\"yes\"}"}, "special must be true or false"},
};

START_TEST(refused_files)
{
    const struct bad_file *bad = &bad_files[_i];
    em_tokenizer *tok = NULL;
    em_error err = {0};
    ck_assert_msg(parse(&bad->t, NULL, &tok, &err) < 0, "accepted; should say: %s", bad->says);
    ck_assert_ptr_null(tok);
    ck_assert_msg(strstr(err.text, bad->says), "says: %s\nshould say: %s", err.text, bad->says);
    ck_assert_msg(strstr(err.text, "tokenizer.json"), "%s", err.text);
}
END_TEST

START_TEST(harmless_variants)
{
    static const tiny_tokenizer good[] = {
        {0},
        {.normalizer = "{\"type\":\"Sequence\",\"normalizers\":[]}", .model = ",\"dropout\":null,\"unk_token\":null"},
        {.post_processor = "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}"},
        {.post_processor = "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}]}"},
        {.post_processor =
             "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}"},
        {.model = ",\"dropout\":0,\"continuing_subword_prefix\":\"\",\"fuse_unk\":false,\"byte_fallback\":false"},
        {.top = ",\"truncation\":null,\"padding\":null,\"whatever\":[{}]"},
        {.vocab = ",\"<s>\":256", .added = "{\"id\":256,\"content\":\"<s>\"}"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        em_tokenizer *tok = parse_ok(&good[i]);
        EXPECT_IDS(tok, "Ab", true, 'A', 'b');
        em_tokenizer_free(tok);
    }
}
END_TEST

START_TEST(bos_of_config)
{
    static const struct {
        const char *config;
        const char *says; /* NULL: accepted */
        int32_t bos;
        bool add;
    } cases[] = {
        {NULL, NULL, -1, false},
        {"{}", NULL, -1, false},
        {"{\"add_bos_token\":true,\"bos_token\":\"<s>\"}", NULL, 300, true},
        {"{\"add_bos_token\":false,\"bos_token\":{\"content\":\"<s>\",\"lstrip\":false}}", NULL, 300, false},
        {"{\"add_bos_token\":null,\"bos_token\":null}", NULL, -1, false},
        {"{\"bos_token\":\"<none>\"}", NULL, -1, false},
        {"{\"add_bos_token\":true}", "bos_token is no token", 0, false},
        {"{\"add_bos_token\":true,\"bos_token\":\"<none>\"}", "bos_token is no token", 0, false},
        {"{\"add_bos_token\":1}", "add_bos_token must be", 0, false},
        {"{\"bos_token\":7}", "bos_token must be", 0, false},
        {"{\"bos_token\":{\"content\":7}}", "bos_token must be", 0, false},
        {"[]", "must be an object", 0, false},
        {"{\"bos_token\":", "not valid JSON", 0, false},
        {"{} x", "not valid JSON", 0, false},
        {"", "not valid JSON", 0, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        em_tokenizer *tok = NULL;
        em_error err = {0};
        int r = parse(&(tiny_tokenizer){.added = "{\"id\":300,\"content\":\"<s>\"}"}, cases[i].config, &tok, &err);
        ck_assert_msg((r == 0) == !cases[i].says, "%s: %s", cases[i].config, err.text);
        if (r == 0) {
            ck_assert_int_eq(em_tokenizer_bos(tok), cases[i].bos);
            ck_assert_int_eq(em_tokenizer_add_bos(tok), cases[i].add);
        } else {
            ck_assert_msg(strstr(err.text, cases[i].says), "%s: %s", cases[i].config, err.text);
        }
        em_tokenizer_free(tok);
    }
}
END_TEST

START_TEST(folders)
{
    char dir[] = "/tmp/em-tokenizer-XXXXXX";
    em_tokenizer *tok = NULL;
    em_error err = {0};
    ck_assert_ptr_nonnull(mkdtemp(dir));
    ck_assert_int_eq(em_tokenizer_load(dir, &tok, &err), -ENOENT);
    ck_assert_msg(strstr(err.text, "tokenizer.json"), "%s", err.text);
    ck_assert_int_eq(rmdir(dir), 0);
    ck_assert_int_eq(em_tokenizer_load(bundled_model_dir(), &tok, &err), 0);
    ck_assert(em_tokenizer_add_bos(tok));
    ck_assert_int_eq(em_tokenizer_bos(tok), 0);
    ck_assert_ptr_null(em_tokenizer_free(tok));
    ck_assert_ptr_null(em_tokenizer_free(NULL));
}
END_TEST

/* A file cut or changed at random is accepted or refused with a sentence; what is accepted works. */
START_TEST(spoilt_files)
{
    start_random();
    golden_file f;
    ck_assert(golden_open(OWN_DIR "/small/tokenizer.json", &f));
    int accepted = 0;
    for (int round = 0; round < 400; round++) {
        size_t len = rnd(4) ? f.size : rnd((uint32_t)f.size);
        char *copy = malloc(len + 1); /* exactly as long as the file: a read behind it is found */
        memcpy(copy, f.data, len);
        for (uint32_t n = rnd(4); len > 0 && n > 0; n--)
            copy[rnd((uint32_t)len)] = rnd(2) ? (char)rnd(256) : "0123456789\"{}[],:"[rnd(17)];
        em_tokenizer *tok = NULL;
        em_error err = {0};
        int r = em_tokenizer_parse(copy, len, NULL, 0, "tokenizer.json", &tok, &err);
        free(copy);
        ck_assert_msg(r == 0 || err.text[0], "refused without a sentence");
        if (r == 0) {
            em_ids ids = {0};
            em_token_map map;
            ck_assert_int_eq(em_tokenizer_encode(tok, "Hello, world 12345 汉字", 24, true, 0, &ids), 0);
            ck_assert_int_eq(em_token_map_build(tok, &map, &err), 0);
            em_token_map_done(&map);
            em_ids_done(&ids);
            accepted++;
        }
        em_tokenizer_free(tok);
    }
    printf("accepted %d of 400\n", accepted);
    free(f.data);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tokenizer");
    TCase *c = tcase_create("encoding");
    tcase_set_timeout(c, 120); /* seconds, also when started by hand */
    tcase_add_test(c, round_trip);
    tcase_add_test(c, ill_formed_text);
    tcase_add_test(c, appends_and_limits);
    tcase_add_test(c, merge_order);
    tcase_add_test(c, merges_against_plain_algorithm);
    tcase_add_test(c, added_tokens_longest_and_order);
    tcase_add_test(c, special_and_added_differ);
    tcase_add_test(c, added_tokens_against_plain_search);
    tcase_add_test(c, linear_time);
    tcase_add_test(c, load_time);
    tcase_add_test(c, many_threads);
    TCase *files = tcase_create("files");
    tcase_set_timeout(files, 120);
    tcase_add_loop_test(files, refused_files, 0, (int)(sizeof bad_files / sizeof *bad_files));
    tcase_add_test(files, harmless_variants);
    tcase_add_test(files, bos_of_config);
    tcase_add_test(files, folders);
    tcase_add_test(files, spoilt_files);
    suite_add_tcase(s, c);
    suite_add_tcase(s, files);
    suite_add_tcase(s, tokenizer_golden_cases());
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
