/* The tokens as two tries laid out flat, so that a mask is one pass over an array. Immutable.
 *
 * Plain tokens consist of whole UTF-8 characters that may stand in a JSON string as they are and end no line (neither
 * U+2028 nor U+2029), at most EM_VOCAB_PLAIN_CHARS of them: most of a vocabulary. Where an automaton takes all such characters alike, whole groups
 * of them are allowed at once; the others are looked at one by one. */
#ifndef EM_ENGINE_GRAMMAR_VOCAB_H
#define EM_ENGINE_GRAMMAR_VOCAB_H

#include "engine/grammar/grammar.h"

#define EM_VOCAB_PLAIN_CHARS 32

struct em_grammar_vocab {
    uint32_t n, n_words;       /* ids; words of a mask */
    uint32_t max_bytes;        /* of the longest token, at least 1 */
    uint32_t n_nodes, n_plain; /* nodes of both tries; the first n_plain are those of the plain tokens */
    uint8_t *byte;             /* [n_nodes] in preorder */
    uint8_t *depth;            /* [n_nodes] bytes in front of this one */
    uint32_t *end;             /* [n_nodes] one past the last node below */
    uint32_t *rank;  /* [n_nodes + 1] tokens of the nodes before; those of node i are order[rank[i] .. rank[i + 1]) */
    bool *whole;     /* [n_nodes] a plain token's node behind a whole character */
    uint32_t *order; /* [n text tokens] ids in the order of the nodes */
    uint64_t *plain_masks; /* [EM_VOCAB_PLAIN_CHARS + 1][n_words] plain tokens of at most that many characters */
    uint32_t *ends;        /* [n_ends] ids of end tokens */
    uint32_t n_ends;
    bool has_bytes;    /* each of the 256 is a token of its own */
    uint8_t *kind;     /* [n] em_grammar_token_kind; text tokens without usable bytes became NEVER */
    uint8_t *bytes;    /* of all tokens, one behind the other */
    uint32_t *byte_at; /* [n + 1] */
};

static inline const uint64_t *em_vocab_plain_mask(const em_grammar_vocab *v, uint32_t chars)
{
    return v->plain_masks + (size_t)chars * v->n_words;
}

#endif
