/* Vocabularies for tests of constrained decoding: of a tokenizer, or of the 256 bytes. The end token is one more id. */
#ifndef EM_TESTS_GRAMMAR_VOCAB_H
#define EM_TESTS_GRAMMAR_VOCAB_H

#include <stdio.h>
#include <stdlib.h>

#include "engine/grammar/grammar.h"
#include "engine/tokenizer.h"

/* Of a loaded tokenizer: added tokens never come, but for `end`, which ends the answer. NULL on a fault. */
static inline em_grammar_vocab *grammar_vocab_of(const em_tokenizer *tok, uint32_t n, uint32_t end)
{
    em_grammar_token *tokens = calloc(n, sizeof(*tokens));
    em_grammar_vocab *v = NULL;
    for (uint32_t id = 0; tokens && id < n; id++) {
        size_t len = 0;
        tokens[id].kind = EM_GRAMMAR_TOKEN_NEVER;
        if (id == end) {
            tokens[id].kind = EM_GRAMMAR_TOKEN_END;
        } else if (id < (uint32_t)em_tokenizer_size(tok) && !em_tokenizer_is_added(tok, (int32_t)id)) {
            tokens[id].bytes = em_tokenizer_bytes(tok, (int32_t)id, &len);
            tokens[id].n_bytes = (uint32_t)len;
            tokens[id].kind = EM_GRAMMAR_TOKEN_TEXT;
        }
    }
    if (!tokens || em_grammar_vocab_new(tokens, n, &v))
        v = NULL;
    free(tokens);
    return v;
}

/* Ids 0..255 are the bytes, 256 ends. */
static inline em_grammar_vocab *grammar_vocab_bytes(void)
{
    static uint8_t bytes[256];
    em_grammar_token tokens[257];
    em_grammar_vocab *v = NULL;
    for (int i = 0; i < 256; i++) {
        bytes[i] = (uint8_t)i;
        tokens[i] = (em_grammar_token){&bytes[i], 1, EM_GRAMMAR_TOKEN_TEXT};
    }
    tokens[256] = (em_grammar_token){NULL, 0, EM_GRAMMAR_TOKEN_END};
    return em_grammar_vocab_new(tokens, 257, &v) ? NULL : v;
}

static inline bool grammar_mask_has(const uint64_t *mask, uint32_t id)
{
    return mask[id / 64] >> (id % 64) & 1;
}

/* The k-th allowed id; UINT32_MAX: fewer are allowed. */
static inline uint32_t grammar_mask_nth(const uint64_t *mask, uint32_t n_words, uint32_t k)
{
    for (uint32_t w = 0; w < n_words; w++) {
        uint32_t n = (uint32_t)__builtin_popcountll(mask[w]);
        if (k >= n) {
            k -= n;
            continue;
        }
        uint64_t bits = mask[w];
        while (k--)
            bits &= bits - 1;
        return w * 64 + (uint32_t)__builtin_ctzll(bits);
    }
    return UINT32_MAX;
}

static inline uint32_t grammar_mask_count(const uint64_t *mask, uint32_t n_words)
{
    uint32_t n = 0;
    for (uint32_t w = 0; w < n_words; w++)
        n += (uint32_t)__builtin_popcountll(mask[w]);
    return n;
}

#endif
