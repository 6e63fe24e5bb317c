/* What must hold of a grammar made of anything: for the fuzz targets of constrained decoding. */
#ifndef EM_TESTS_GRAMMAR_FUZZ_H
#define EM_TESTS_GRAMMAR_FUZZ_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/json.h"
#include "engine/base/rng.h"
#include "tests/support/grammar_vocab.h"

static inline void fuzz_must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

/* Tokens of the fuzzed vocabulary above the 256 bytes: some span structure, characters and escapes. Behind them is one
 * that ends. */
static const char *const fuzz_texts[] = {"{\"",  "\":",   "\",\"",        "\"}",      "\":\"",    "[[",       "]]",
                                         "}]",   "true",  "null",         "123",      "abc",      "  ",       ", ",
                                         "\\\"", "\\u00", "\xe7\x8c\xab", "\xe7\x8c", "\xf0\x9f", "\xab\"",   "a.b",
                                         "-1",   "0.5e",  "xyzxyzxyz",    "((",       "))",       "aaaaaaaa", "\n\n"};
enum { FUZZ_TEXTS = sizeof(fuzz_texts) / sizeof(fuzz_texts[0]), FUZZ_END = 256 + FUZZ_TEXTS };

/* The bytes of a token that is not the end. */
static inline const char *fuzz_token(uint32_t id, size_t *ret_len)
{
    static char bytes[256];
    if (id >= 256) {
        *ret_len = strlen(fuzz_texts[id - 256]);
        return fuzz_texts[id - 256];
    }
    bytes[id] = (char)id;
    *ret_len = 1;
    return &bytes[id];
}

static inline em_grammar_vocab *fuzz_vocab(void)
{
    em_grammar_token tokens[FUZZ_END + 1] = {0};
    em_grammar_vocab *v = NULL;
    for (uint32_t id = 0; id < FUZZ_END; id++) {
        size_t len;
        tokens[id].bytes = (const uint8_t *)fuzz_token(id, &len);
        tokens[id].n_bytes = (uint32_t)len;
        tokens[id].kind = EM_GRAMMAR_TOKEN_TEXT;
    }
    tokens[FUZZ_END].kind = EM_GRAMMAR_TOKEN_END;
    fuzz_must(!em_grammar_vocab_new(tokens, FUZZ_END + 1, &v), "no vocabulary");
    return v;
}

/* Limits under which one input takes milliseconds. */
static inline em_grammar_limits fuzz_limits(void)
{
    em_grammar_limits l = em_grammar_default_limits;
    l.nodes = 20000;
    l.nfa_states = 20000;
    l.states = 5000;
    l.steps = 1000000;
    l.readings = 64;
    l.mask_steps = 50000;
    l.cache_bytes = 1 << 20;
    l.stack = 40;
    return l;
}

/* From a state that cannot be taken back: the completion, and that it completes. */
static inline void fuzz_complete(em_grammar_state *s)
{
    static uint32_t ids[65536];
    uint32_t n = 0, least = em_grammar_state_min_bytes(s);
    int rc = em_grammar_state_completion(s, ids, 65536, &n);
    fuzz_must(!rc || least > 65536, "no completion");
    for (uint32_t i = 0; i < n && !rc && n < 2000; i++) {
        int taken = em_grammar_state_accept_token(s, ids[i]);
        if (taken == -E2BIG)
            return;
        fuzz_must(!taken, "a completion was refused");
    }
    fuzz_must(rc || n >= 2000 || em_grammar_state_is_complete(s), "a completion does not complete");
}

/* A random walk: the bit of every tried token tells whether it is accepted, no mask is empty, and the end is near. */
static inline void fuzz_walk(em_grammar *g, uint64_t seed)
{
    uint64_t mask[8];
    em_grammar_state *s;
    int rc = em_grammar_state_new(g, 1, &s);
    fuzz_must(!rc || rc == -E2BIG, "no state");
    if (rc)
        return;
    for (uint32_t i = 0; i < 24; i++) {
        rc = em_grammar_state_fill_mask(s, mask);
        if (rc == -E2BIG)
            break;
        fuzz_must(!rc, "a mask failed");
        uint32_t n = grammar_mask_count(mask, (FUZZ_END + 64) / 64);
        fuzz_must(n > 0, "a mask is empty");
        uint32_t any = (uint32_t)(em_rng_u64(seed, 1, i, 0) % (FUZZ_END + 1));
        rc = em_grammar_state_accept_token(s, any);
        fuzz_must(rc == -E2BIG || !rc == grammar_mask_has(mask, any), "a bit is wrong");
        if (!rc)
            fuzz_must(!em_grammar_state_rollback(s, 1), "no way back");
        uint32_t id = grammar_mask_nth(mask, (FUZZ_END + 64) / 64, (uint32_t)(em_rng_u64(seed, 2, i, 0) % n));
        rc = em_grammar_state_accept_token(s, id);
        fuzz_must(!rc || rc == -E2BIG, "an allowed token was refused");
        if (rc || id == FUZZ_END)
            break;
    }
    fuzz_complete(s);
    em_grammar_state_free(s);
}

/* A seed out of the input, and a copy of its exact size, so that a read behind it is seen. */
static inline char *fuzz_copy(const uint8_t *data, size_t size, uint64_t *ret_seed)
{
    uint64_t seed = 14695981039346656037u;
    char *text = malloc(size + !size);
    fuzz_must(text != NULL, "out of memory");
    for (size_t i = 0; i < size; i++) {
        seed = (seed ^ data[i]) * 1099511628211u;
        text[i] = (char)data[i];
    }
    *ret_seed = seed;
    return text;
}

typedef int (*fuzz_compile)(const char *text, size_t len, const em_grammar_limits *limits,
                            const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err);

/* One input of a target. */
static inline int fuzz_grammar(fuzz_compile compile, const uint8_t *data, size_t size)
{
    static em_grammar_vocab *vocab;
    if (!vocab)
        vocab = fuzz_vocab();
    em_grammar_limits limits = fuzz_limits();
    em_grammar *g = NULL;
    em_error err = {0};
    uint64_t seed;
    char *text = fuzz_copy(data, size, &seed);
    int rc = compile(text, size, &limits, vocab, &g, &err);
    free(text);
    if (rc)
        fuzz_must((rc == -EINVAL || rc == -E2BIG) && err.text[0] && !g, "a refusal without a sentence");
    else
        fuzz_walk(g, seed);
    em_grammar_unref(g);
    return 0;
}

#endif
