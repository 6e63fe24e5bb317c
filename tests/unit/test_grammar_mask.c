/* Masks against brute force: for every id, the bit is set exactly if accepting the token succeeds; with the bytes, the
 * bundled model's tokenizer and the released one. And what walks through grammars rest on: taking back, copies,
 * completions. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

#include "engine/base/buf.h"
#include "engine/base/json.h"
#include "engine/base/rng.h"
#include "tests/support/fixtures.h"
#include "tests/support/grammar_vocab.h"
#include "tests/unit/grammar_cases.h"

typedef enum which_vocab { BYTES, POCKET, RELEASED, N_VOCABS } which_vocab;

static em_tokenizer *toks[N_VOCABS];
static em_grammar_vocab *vocabs[N_VOCABS];
static unsigned long long seed;

static void open_vocabs(void)
{
    char path[4096];
    ck_assert_int_eq(em_tokenizer_load(bundled_model_dir(), &toks[POCKET], NULL), 0);
    ck_assert_int_eq(em_tokenizer_load(fixture_path(path, sizeof(path), "tokenizer"), &toks[RELEASED], NULL), 0);
    vocabs[BYTES] = grammar_vocab_bytes();
    for (int i = POCKET; i < N_VOCABS; i++)
        vocabs[i] = grammar_vocab_of(toks[i], (uint32_t)em_tokenizer_size(toks[i]), 0);
    for (int i = 0; i < N_VOCABS; i++)
        ck_assert_ptr_nonnull(vocabs[i]);
}

static void close_vocabs(void)
{
    for (int i = 0; i < N_VOCABS; i++) {
        em_grammar_vocab_free(vocabs[i]);
        em_tokenizer_free(toks[i]);
    }
}

static uint32_t end_of(which_vocab v)
{
    return v == BYTES ? 256 : 0;
}

static uint32_t words_of(which_vocab v)
{
    return (em_grammar_vocab_size(vocabs[v]) + 63) / 64;
}

static em_grammar *compiled(const grammar_case *c, const em_grammar_limits *limits, which_vocab v)
{
    em_grammar *g = NULL;
    em_error err = {0};
    ck_assert_msg(!grammar_compile(c, limits, vocabs[v], &g, &err), "%s: %s", c->source, err.text);
    return g;
}

static uint64_t *new_mask(which_vocab v)
{
    uint64_t *mask = calloc(words_of(v), sizeof(*mask));
    ck_assert_ptr_nonnull(mask);
    return mask;
}

/* The mask of a state that can take one step back, against accepting every token. */
static void check_mask(em_grammar_state *s, uint64_t *mask, which_vocab v, const char *what)
{
    uint32_t n = em_grammar_vocab_size(vocabs[v]);
    ck_assert_int_eq(em_grammar_state_fill_mask(s, mask), 0);
    for (uint32_t id = 0; id < n; id++) {
        bool ok = !em_grammar_state_accept_token(s, id);
        if (ok)
            ck_assert_int_eq(em_grammar_state_rollback(s, 1), 0);
        if (ok != grammar_mask_has(mask, id)) {
            size_t len = 1;
            uint8_t byte = (uint8_t)id;
            const uint8_t *bytes = v == BYTES ? &byte : em_tokenizer_bytes(toks[v], (int32_t)id, &len);
            ck_abort_msg("%s: token %u \"%.*s\" is %s, its bit says %s", what, id, (int)len, (const char *)bytes,
                         ok ? "accepted" : "refused", ok ? "no" : "yes");
        }
    }
    for (uint32_t id = n; id < words_of(v) * 64; id++)
        ck_assert(!grammar_mask_has(mask, id));
    ck_assert(em_grammar_state_is_complete(s) == grammar_mask_has(mask, end_of(v)));
    ck_assert(em_grammar_state_is_final(s) ==
              (grammar_mask_count(mask, words_of(v)) == 1 && em_grammar_state_is_complete(s)));
    ck_assert_uint_gt(grammar_mask_count(mask, words_of(v)), 0);
}

static uint32_t draw(const uint64_t *mask, which_vocab v, uint32_t walk, uint32_t step)
{
    uint32_t n = grammar_mask_count(mask, words_of(v));
    return grammar_mask_nth(mask, words_of(v), (uint32_t)(em_rng_u64(seed, walk, step, 0) % n));
}

/* Walks with the mask of every `every`th state checked. */
static void check_walks(const grammar_case *c, which_vocab v, int walks, int steps, int every)
{
    em_grammar *g = compiled(c, NULL, v);
    uint64_t *mask = new_mask(v);
    for (int w = 0; w < walks; w++) {
        em_grammar_state *s;
        ck_assert_int_eq(em_grammar_state_new(g, 1, &s), 0);
        for (int i = 0; i < steps; i++) {
            if ((i + w) % every == 0)
                check_mask(s, mask, v, c->source);
            else
                ck_assert_int_eq(em_grammar_state_fill_mask(s, mask), 0);
            uint32_t id = draw(mask, v, (uint32_t)w, (uint32_t)i);
            ck_assert_int_eq(em_grammar_state_accept_token(s, id), 0);
            if (id == end_of(v))
                break;
        }
        em_grammar_state_free(s);
    }
    free(mask);
    em_grammar_unref(g);
}

START_TEST(masks_of_bytes)
{
    check_walks(&grammar_cases[_i], BYTES, 6, 40, 1);
}
END_TEST

START_TEST(masks_of_the_bundled_tokenizer)
{
    check_walks(&grammar_cases[_i], POCKET, 3, 12, 1);
}
END_TEST

START_TEST(masks_of_the_released_tokenizer)
{
    check_walks(&grammar_cases[_i], RELEASED, 2, 6, 3);
}
END_TEST

/* Texts that lead to states which random walks rarely see. */
static const struct {
    int kind;
    const char *source, *text;
} places[] = {
    {SCHEMA, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":40}", "\"ab"},
    {SCHEMA, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":40}", "\"0123456789012345678901234567890123456"},
    {SCHEMA, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":40}", "\"\\u00"},
    {SCHEMA, "{\"type\":\"string\",\"minLength\":3,\"maxLength\":40}",
     "\"0123456789012345678901234567890123456\xe7\x8c"},
    {SCHEMA, "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":2}}", "[\"a"},
    {SCHEMA, "{}", "{\"a\":[[{\"b\":[\""},
    {SCHEMA, "{}", "[{\"a\":1"},
    {SCHEMA, "{}", "{\"a\":{\"b\":{\"c\":{\"d\":tr"},
    {SCHEMA, TREE, "{\"v\":1,\"l\":{\"v\":1,\"l\":{\"v\":1,\"l\":null"},
    {REGEX, "(.*a){2}.{3}", "xxa"},
    {REGEX, "[a-z ]{1,100}(, [a-z ]{1,100})*", "some words"},
    {REGEX, "(.*a.*b.*c.*d.*e.*f.*g.*h.*i.*j.*){3}", "abcde"},
};

START_TEST(masks_at_places)
{
    grammar_case c = {(grammar_kind)places[_i].kind, places[_i].source, {0}, {0}};
    for (int v = BYTES; v < N_VOCABS; v++) {
        em_grammar *g = compiled(&c, NULL, (which_vocab)v);
        em_grammar_state *s;
        uint64_t *mask = new_mask((which_vocab)v);
        ck_assert_int_eq(em_grammar_state_new(g, 1, &s), 0);
        ck_assert_int_eq(em_grammar_state_accept_bytes(s, places[_i].text, strlen(places[_i].text)), 0);
        check_mask(s, mask, (which_vocab)v, places[_i].text);
        free(mask);
        em_grammar_state_free(s);
        em_grammar_unref(g);
    }
}
END_TEST

/* Near the limit of the stack fewer tokens are allowed than further up. */
START_TEST(masks_near_the_limit_of_the_stack)
{
    grammar_case any = {SCHEMA, "{}", {0}, {0}};
    for (uint32_t limit = 8; limit < 12; limit++) {
        em_grammar_limits l = em_grammar_default_limits;
        l.stack = limit;
        em_grammar *g = compiled(&any, &l, POCKET);
        em_grammar_state *s;
        uint64_t *mask = new_mask(POCKET);
        ck_assert_int_eq(em_grammar_state_new(g, 1, &s), 0);
        const char *open;
        int depth = 0;
        do {
            check_mask(s, mask, POCKET, "[");
            open = depth++ % 2 ? "{\"a\":" : "[";
        } while (!em_grammar_state_accept_bytes(s, open, strlen(open)));
        for (uint32_t ids[64], n; !em_grammar_state_is_complete(s);) {
            ck_assert_int_eq(em_grammar_state_completion(s, ids, 64, &n), 0);
            ck_assert_int_eq(em_grammar_state_accept_token(s, ids[0]), 0);
            check_mask(s, mask, POCKET, "]");
        }
        free(mask);
        em_grammar_state_free(s);
        em_grammar_unref(g);
    }
}
END_TEST

/* A cache that holds next to nothing changes no mask. */
START_TEST(masks_without_room_to_keep_them)
{
    em_grammar_limits l = em_grammar_default_limits;
    l.cache_bytes = 20000;
    for (int k = 0; k < N_GRAMMAR_CASES; k += 3) {
        const grammar_case *c = &grammar_cases[k];
        em_grammar *large = compiled(c, NULL, POCKET), *small = compiled(c, &l, POCKET);
        uint64_t *a = new_mask(POCKET), *b = new_mask(POCKET);
        em_grammar_state *s, *t;
        em_grammar_info info;
        ck_assert(!em_grammar_state_new(large, 0, &s) && !em_grammar_state_new(small, 0, &t));
        for (uint32_t i = 0, id; i < 30; i++) {
            ck_assert(!em_grammar_state_fill_mask(s, a) && !em_grammar_state_fill_mask(t, b));
            ck_assert_mem_eq(a, b, words_of(POCKET) * sizeof(*a));
            id = draw(a, POCKET, (uint32_t)k, i);
            ck_assert(!em_grammar_state_accept_token(s, id) && !em_grammar_state_accept_token(t, id));
            if (id == end_of(POCKET))
                break;
        }
        em_grammar_get_info(small, &info);
        ck_assert_uint_lt(info.mask_bytes, 200000);
        em_grammar_state_free(s);
        em_grammar_state_free(t);
        em_grammar_unref(large);
        em_grammar_unref(small);
        free(a);
        free(b);
    }
}
END_TEST

START_TEST(masks_that_cost_too_much)
{
    em_grammar_limits l = em_grammar_default_limits;
    grammar_case c = {SCHEMA, "{}", {0}, {0}};
    em_grammar *g = NULL;
    em_error err = {0};
    l.mask_steps = 50;
    ck_assert_int_eq(grammar_compile(&c, &l, vocabs[POCKET], &g, &err), -E2BIG);
    ck_assert_ptr_null(g);
    ck_assert_ptr_nonnull(strstr(err.text, "50 steps"));
}
END_TEST

/* --- ways back ---------------------------------------------------------------------------------------------- */

static void same_state(em_grammar_state *s, em_grammar_state *t, uint64_t *a, uint64_t *b)
{
    ck_assert(!em_grammar_state_fill_mask(s, a) && !em_grammar_state_fill_mask(t, b));
    ck_assert_mem_eq(a, b, words_of(POCKET) * sizeof(*a));
    ck_assert(em_grammar_state_is_complete(s) == em_grammar_state_is_complete(t));
    ck_assert_uint_eq(em_grammar_state_min_bytes(s), em_grammar_state_min_bytes(t));
}

/* A state that goes back and forth is the same as one that went straight there; so is a copy of it. */
START_TEST(back_and_forth)
{
    enum { DEPTH = 5, STEPS = 60 };
    em_grammar *g = compiled(&grammar_cases[_i], NULL, POCKET);
    uint64_t *a = new_mask(POCKET), *b = new_mask(POCKET);
    uint32_t ids[STEPS + 1], n = 0, kept = 0;
    em_grammar_state *s;
    ck_assert_int_eq(em_grammar_state_new(g, DEPTH, &s), 0);
    for (uint32_t i = 0; i < STEPS; i++) {
        uint64_t r = em_rng_u64(seed, 77, i, 1);
        uint32_t back = (uint32_t)(r % (DEPTH + 2));
        if (r >> 60 < 6 || (n && ids[n - 1] == end_of(POCKET))) {
            bool may = back <= kept;
            ck_assert_int_eq(em_grammar_state_rollback(s, back), may ? 0 : -EINVAL);
            n -= may ? back : 0;
            kept -= may ? back : 0;
        } else {
            ck_assert_int_eq(em_grammar_state_fill_mask(s, a), 0);
            ids[n] = draw(a, POCKET, (uint32_t)_i, i);
            ck_assert_int_eq(em_grammar_state_accept_token(s, ids[n++]), 0);
            kept += kept < DEPTH;
        }
        em_grammar_state *straight, *copy;
        ck_assert_int_eq(em_grammar_state_new(g, 0, &straight), 0);
        for (uint32_t k = 0; k < n; k++)
            ck_assert_int_eq(em_grammar_state_accept_token(straight, ids[k]), 0);
        same_state(s, straight, a, b);
        ck_assert_int_eq(em_grammar_state_copy(s, &copy), 0);
        same_state(copy, straight, a, b);
        em_grammar_state_free(straight);
        em_grammar_state_free(s);
        s = copy; /* with its history */
    }
    em_grammar_state_free(s);
    em_grammar_unref(g);
    free(a);
    free(b);
}
END_TEST

/* Accepting what is not allowed leaves a state as it was. */
START_TEST(refusals_change_nothing)
{
    grammar_case c = {SCHEMA, "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", {0}, {0}};
    em_grammar *g = compiled(&c, NULL, POCKET);
    em_grammar_state *s;
    ck_assert_int_eq(em_grammar_state_new(g, 2, &s), 0);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "[1", 2), 0);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, ",2,x", 4), -EINVAL);
    ck_assert_int_eq(em_grammar_state_accept_token(s, 0), -EINVAL);
    ck_assert_int_eq(em_grammar_state_accept_token(s, 1u << 30), -EINVAL);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "7]", 2), 0);
    ck_assert(em_grammar_state_is_complete(s) && em_grammar_state_is_final(s));
    ck_assert_int_eq(em_grammar_state_accept_token(s, 0), 0);
    ck_assert(em_grammar_state_is_final(s));
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, " ", 1), -EINVAL);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "", 0), -EINVAL);
    ck_assert_int_eq(em_grammar_state_rollback(s, 3), -EINVAL);
    ck_assert_int_eq(em_grammar_state_rollback(s, 2), 0);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "]", 1), 0);
    em_grammar_state_free(s);
    em_grammar_unref(g);
}
END_TEST

/* A long text of changing nesting: frames that are not needed any more go. */
START_TEST(long_texts)
{
    grammar_case c = {SCHEMA, "{}", {0}, {0}};
    em_grammar *g = compiled(&c, NULL, BYTES);
    em_grammar_state *s;
    ck_assert_int_eq(em_grammar_state_new(g, 3, &s), 0);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "[0", 2), 0);
    for (uint32_t i = 0; i < 3000; i++) {
        uint64_t bits = em_rng_u64(seed, 5, i, 0);
        ck_assert_int_eq(em_grammar_state_accept_bytes(s, ",", 1), 0);
        for (int d = 0; d < 40; d++)
            ck_assert_int_eq(em_grammar_state_accept_bytes(s, bits >> d & 1 ? "[" : "{\"\":", bits >> d & 1 ? 1 : 4),
                             0);
        ck_assert_int_eq(em_grammar_state_accept_bytes(s, "1", 1), 0);
        for (int d = 40; d-- > 0;)
            ck_assert_int_eq(em_grammar_state_accept_bytes(s, bits >> d & 1 ? "]" : "}", 1), 0);
        ck_assert_int_eq(em_grammar_state_rollback(s, i % 4), 0);
        for (int d = (int)(i % 4); d-- > 0;)
            ck_assert_int_eq(em_grammar_state_accept_bytes(s, bits >> d & 1 ? "]" : "}", 1), 0);
    }
    ck_assert_uint_eq(em_grammar_state_min_bytes(s), 1);
    ck_assert_int_eq(em_grammar_state_accept_bytes(s, "]", 1), 0);
    ck_assert(em_grammar_state_is_final(s));
    em_grammar_state_free(s);
    em_grammar_unref(g);
}
END_TEST

/* --- completions -------------------------------------------------------------------------------------------- */

/* Where a byte leads is at most one nearer to the end, and one of them is: so min_bytes is the least there is. */
static void check_least(em_grammar_state *s, const uint64_t *mask)
{
    uint32_t here = em_grammar_state_min_bytes(s), least = UINT32_MAX;
    ck_assert(em_grammar_state_is_complete(s) == (here == 0));
    for (uint32_t id = 0; id < 256; id++) {
        if (!grammar_mask_has(mask, id))
            continue;
        ck_assert_int_eq(em_grammar_state_accept_token(s, id), 0);
        uint32_t there = em_grammar_state_min_bytes(s);
        ck_assert_int_eq(em_grammar_state_rollback(s, 1), 0);
        ck_assert_uint_ge(there + 1, here);
        least = there < least ? there : least;
    }
    if (here)
        ck_assert_uint_eq(least + 1, here);
}

START_TEST(the_least_bytes)
{
    em_grammar *g = compiled(&grammar_cases[_i], NULL, BYTES);
    uint64_t mask[5];
    for (uint32_t w = 0; w < 4; w++) {
        em_grammar_state *s;
        ck_assert_int_eq(em_grammar_state_new(g, 1, &s), 0);
        for (uint32_t i = 0, id; i < 40; i++) {
            ck_assert_int_eq(em_grammar_state_fill_mask(s, mask), 0);
            check_least(s, mask);
            id = draw(mask, BYTES, w, i);
            ck_assert_int_eq(em_grammar_state_accept_token(s, id), 0);
            if (id == end_of(BYTES))
                break;
        }
        em_grammar_state_free(s);
    }
    em_grammar_unref(g);
}
END_TEST

static void check_json(const em_buf *text)
{
    em_json j;
    em_json_type type;
    em_json_init(&j, text->data, text->len, 0);
    while ((type = em_json_next(&j)) != EM_JSON_END)
        ck_assert_msg(type != EM_JSON_ERROR, "%s: %s", text->data, em_json_error(&j));
}

/* From any place the completion completes; of JSON the whole is JSON. */
START_TEST(completions_complete)
{
    const grammar_case *c = &grammar_cases[_i];
    for (int v = BYTES; v <= POCKET; v++) {
        em_grammar *g = compiled(c, NULL, (which_vocab)v);
        uint64_t *mask = new_mask((which_vocab)v);
        for (uint32_t w = 0; w < 12; w++) {
            em_grammar_state *s;
            em_buf text = {0};
            uint32_t ids[512], n = 0, bytes = 0, k;
            ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
            for (uint32_t i = 0; i < w * 2; i++) {
                ck_assert_int_eq(em_grammar_state_fill_mask(s, mask), 0);
                ids[0] = draw(mask, (which_vocab)v, w, i);
                if (ids[0] == end_of((which_vocab)v))
                    break;
                ck_assert_int_eq(em_grammar_state_accept_token(s, ids[0]), 0);
                size_t len = 1;
                uint8_t byte = (uint8_t)ids[0];
                const uint8_t *p = v == BYTES ? &byte : em_tokenizer_bytes(toks[v], (int32_t)ids[0], &len);
                em_buf_append(&text, p, len);
            }
            uint32_t least = em_grammar_state_min_bytes(s);
            ck_assert_int_eq(em_grammar_state_completion(s, ids, 512, &n), 0);
            ck_assert(n <= least && (n > 0) == (least > 0));
            if (n)
                ck_assert_int_eq(em_grammar_state_completion(s, ids, n - 1, &k), -ENOSPC);
            for (uint32_t i = 0; i < n; i++) {
                size_t len = 1;
                uint8_t byte = (uint8_t)ids[i];
                const uint8_t *p = v == BYTES ? &byte : em_tokenizer_bytes(toks[v], (int32_t)ids[i], &len);
                ck_assert_int_eq(em_grammar_state_accept_token(s, ids[i]), 0);
                em_buf_append(&text, p, len);
                bytes += (uint32_t)len;
            }
            ck_assert(em_grammar_state_is_complete(s));
            ck_assert_uint_eq(bytes, least);
            if (c->kind == SCHEMA || c->kind == OBJECT)
                check_json(&text);
            em_buf_done(&text);
            em_grammar_state_free(s);
        }
        free(mask);
        em_grammar_unref(g);
    }
}
END_TEST

/* --- vocabularies and threads ------------------------------------------------------------------------------- */

START_TEST(odd_vocabularies)
{
    const uint8_t long_text[300] = {0};
    const em_grammar_token tokens[] = {
        {(const uint8_t *)"a", 1, EM_GRAMMAR_TOKEN_TEXT},      {(const uint8_t *)"a", 1, EM_GRAMMAR_TOKEN_TEXT},
        {(const uint8_t *)"a", 1, EM_GRAMMAR_TOKEN_NEVER},     {NULL, 0, EM_GRAMMAR_TOKEN_TEXT},
        {long_text, sizeof(long_text), EM_GRAMMAR_TOKEN_TEXT}, {NULL, 0, EM_GRAMMAR_TOKEN_END},
        {(const uint8_t *)"x", 1, EM_GRAMMAR_TOKEN_END},       {(const uint8_t *)"aa", 2, EM_GRAMMAR_TOKEN_TEXT},
    };
    em_grammar_vocab *v = NULL;
    ck_assert_int_eq(em_grammar_vocab_new(tokens, 0, &v), -EINVAL);
    ck_assert_int_eq(em_grammar_vocab_new(tokens, 8, &v), 0);
    em_grammar *g;
    em_grammar_state *s;
    uint64_t mask;
    uint32_t id, n;
    ck_assert_int_eq(em_grammar_compile_regex("a{1,2}", 6, NULL, v, &g, NULL), 0);
    ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
    em_grammar_unref(g); /* the state keeps it */
    ck_assert(!em_grammar_state_fill_mask(s, &mask) && mask == 0x83);
    ck_assert_int_eq(em_grammar_state_accept_token(s, 1), 0);
    ck_assert(!em_grammar_state_fill_mask(s, &mask) && mask == 0x63);
    ck_assert_int_eq(em_grammar_state_accept_token(s, 6), 0);
    ck_assert(!em_grammar_state_fill_mask(s, &mask) && mask == 0);
    em_grammar_state_free(s);
    ck_assert_int_eq(em_grammar_compile_regex("b|ac", 4, NULL, v, &g, NULL), 0);
    ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
    ck_assert_int_eq(em_grammar_state_completion(s, &id, 1, &n), -EINVAL); /* no token spells it */
    ck_assert(!em_grammar_state_fill_mask(s, &mask) && mask == 0x03);
    em_grammar_state_free(s);
    em_grammar_unref(g);
    ck_assert_int_eq(em_grammar_compile_regex("a", 1, NULL, NULL, &g, NULL), 0);
    ck_assert_int_eq(em_grammar_state_new(g, 5000, &s), -EINVAL);
    ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
    ck_assert_int_eq(em_grammar_state_fill_mask(s, &mask), -EINVAL);
    ck_assert_int_eq(em_grammar_state_accept_token(s, 0), -EINVAL);
    em_grammar_state_free(s);
    em_grammar_unref(g);
    em_grammar_vocab_free(v);
    ck_assert_ptr_null(em_grammar_vocab_free(NULL));
    ck_assert_ptr_null(em_grammar_unref(NULL));
    ck_assert_ptr_null(em_grammar_state_free(NULL));
}
END_TEST

static void *walk_thread(void *arg)
{
    em_grammar *g = arg;
    uint64_t *mask = new_mask(POCKET);
    for (uint32_t w = 0; w < 20; w++) {
        em_grammar_state *s;
        ck_assert_int_eq(em_grammar_state_new(g, 0, &s), 0);
        for (uint32_t i = 0; i < 60 && !em_grammar_state_is_final(s); i++) {
            ck_assert_int_eq(em_grammar_state_fill_mask(s, mask), 0);
            ck_assert_int_eq(em_grammar_state_accept_token(s, draw(mask, POCKET, w, i)), 0);
        }
        em_grammar_state_free(s);
    }
    free(mask);
    em_grammar_unref(g);
    return NULL;
}

START_TEST(threads_share_a_grammar)
{
    em_grammar_limits l = em_grammar_default_limits;
    grammar_case c = {SCHEMA, "{}", {0}, {0}};
    pthread_t threads[3];
    l.cache_bytes = 100000; /* so that parts come and go */
    em_grammar *g = compiled(&c, &l, POCKET);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, walk_thread, em_grammar_ref(g)), 0);
    em_grammar_unref(g);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}
END_TEST

int main(void)
{
    seed = test_seed(1);
    Suite *suite = suite_create("grammar-mask");
    TCase *tc = tcase_create("grammar-mask");
    tcase_add_unchecked_fixture(tc, open_vocabs, close_vocabs);
    tcase_add_loop_test(tc, masks_of_bytes, 0, N_GRAMMAR_CASES);
    tcase_add_loop_test(tc, masks_of_the_bundled_tokenizer, 0, N_GRAMMAR_CASES);
    tcase_add_loop_test(tc, masks_of_the_released_tokenizer, 0, N_GRAMMAR_CASES);
    tcase_add_loop_test(tc, masks_at_places, 0, (int)(sizeof(places) / sizeof(places[0])));
    tcase_add_test(tc, masks_near_the_limit_of_the_stack);
    tcase_add_test(tc, masks_without_room_to_keep_them);
    tcase_add_test(tc, masks_that_cost_too_much);
    tcase_add_loop_test(tc, back_and_forth, 0, N_GRAMMAR_CASES);
    tcase_add_test(tc, refusals_change_nothing);
    tcase_add_test(tc, long_texts);
    tcase_add_loop_test(tc, the_least_bytes, 0, N_GRAMMAR_CASES);
    tcase_add_loop_test(tc, completions_complete, 0, N_GRAMMAR_CASES);
    tcase_add_test(tc, odd_vocabularies);
    tcase_add_test(tc, threads_share_a_grammar);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
