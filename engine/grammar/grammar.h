/* Constrained decoding: which tokens may come next so that the text ends as a valid answer.
 *
 * A grammar is compiled from a JSON Schema, a regular expression, a list of choices or an EBNF text into an automaton
 * over bytes with a stack (docs/structured_output.md has the languages). Bytes, because tokens cut characters and span
 * structure as they like; so it works for every tokenizer.
 *
 * Ownership and threads. A vocabulary is made once for a tokenizer, never changes, and must outlive its grammars. A
 * grammar never changes after compiling and is counted: compile it on any thread (it may take some hundred
 * milliseconds: not on the step thread), share it with ref and unref. Its masks are cached behind a lock of its own, so
 * every function may be called by any thread. A state is the place of one sequence in a grammar; it holds a reference
 * to the grammar and belongs to one thread at a time.
 *
 * Promise. From every state that can be reached the text can be completed: a mask is never empty unless the text is
 * complete. A bit of the mask is set exactly if accepting that token succeeds. Results depend on nothing but the
 * grammar, the vocabulary and the accepted text; caches only make them faster.
 *
 * Errors. Sources that are malformed, that need what is not supported or that pass a limit are -EINVAL or -E2BIG with one
 * sentence that names it. -ENOMEM anywhere. */
#ifndef EM_ENGINE_GRAMMAR_GRAMMAR_H
#define EM_ENGINE_GRAMMAR_GRAMMAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/grammar/source.h"

/* --- vocabulary --------------------------------------------------------------------------------------------- */

typedef enum em_grammar_token_kind {
    EM_GRAMMAR_TOKEN_TEXT,  /* stands for its bytes */
    EM_GRAMMAR_TOKEN_NEVER, /* never allowed: control tokens, gaps in the ids */
    EM_GRAMMAR_TOKEN_END,   /* ends the answer: allowed exactly where the text may end */
} em_grammar_token_kind;

typedef struct em_grammar_token {
    const uint8_t *bytes; /* of a text token, 1..EM_GRAMMAR_MAX_TOKEN_BYTES; read only while the vocabulary is made */
    uint32_t n_bytes;     /* 0 or too many: as EM_GRAMMAR_TOKEN_NEVER */
    em_grammar_token_kind kind;
} em_grammar_token;

#define EM_GRAMMAR_MAX_TOKEN_BYTES 254
#define EM_GRAMMAR_MAX_VOCAB (1u << 24)

typedef struct em_grammar_vocab em_grammar_vocab;

/* n: ids of a row of logits, at least 1; ids the tokenizer does not know are EM_GRAMMAR_TOKEN_NEVER. -EINVAL, -ENOMEM. */
int em_grammar_vocab_new(const em_grammar_token *tokens, uint32_t n, em_grammar_vocab **ret_vocab);
em_grammar_vocab *em_grammar_vocab_free(em_grammar_vocab *v); /* NULL is fine; returns NULL */
uint32_t em_grammar_vocab_size(const em_grammar_vocab *v);
bool em_grammar_vocab_has_bytes(const em_grammar_vocab *v); /* each of the 256 is a token of its own */

/* --- grammars ----------------------------------------------------------------------------------------------- */

/* What a source may cost. Every limit has its own sentence; what passes one is refused with -E2BIG. */
typedef struct em_grammar_limits {
    uint32_t source_bytes;  /* of the schema, regular expression, choices or EBNF text */
    uint32_t nesting;       /* brackets open at a time in the source; at most 120 */
    uint32_t nodes;         /* values of a schema, or expressions made of a source */
    uint32_t choices;       /* entries of all enums, or choices */
    uint32_t repeat;        /* largest n or m of {n,m}; largest minItems and maxItems */
    uint32_t string_length; /* largest minLength; above it maxLength counts as none */
    uint32_t nfa_states;    /* places in all rules together, before alternatives are merged */
    uint32_t states;        /* of the automaton, afterwards */
    uint64_t steps;         /* of the compiler */
    uint32_t stack;      /* brackets and rules open at a time in an answer: deeper ones are not offered; at most 1000 */
    uint32_t readings;   /* ways to read the same text at a time; at most 4096 */
    uint64_t mask_steps; /* of computing one mask */
    uint64_t cache_bytes; /* of masks kept for one grammar; the cache starts anew when it is full */
} em_grammar_limits;

extern const em_grammar_limits em_grammar_default_limits;

typedef struct em_grammar em_grammar;

/* All of them: limits NULL for the defaults; vocab may be NULL (bytes alone: no tokens, no masks). Texts are UTF-8. With
 * a vocabulary the masks that are likely to be wanted are computed here. */
int em_grammar_compile_json_schema(const char *schema, size_t len, const em_grammar_limits *limits,
                                   const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err);
/* Any JSON object. */
int em_grammar_compile_json_object(const em_grammar_limits *limits, const em_grammar_vocab *vocab,
                                   em_grammar **ret_grammar, em_error *err);
/* The whole text matches. */
int em_grammar_compile_regex(const char *regex, size_t len, const em_grammar_limits *limits,
                             const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err);
/* One of the texts, literally; n >= 1, none empty. */
int em_grammar_compile_choice(const char *const *choices, const size_t *lens, size_t n, const em_grammar_limits *limits,
                              const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err);
int em_grammar_compile_ebnf(const char *text, size_t len, const em_grammar_limits *limits,
                            const em_grammar_vocab *vocab, em_grammar **ret_grammar, em_error *err);
/* Of any kind, behind its mark where the source has one. */
int em_grammar_compile(const em_grammar_source *source, const em_grammar_limits *limits, const em_grammar_vocab *vocab,
                       em_grammar **ret_grammar, em_error *err);

em_grammar *em_grammar_ref(em_grammar *g);
em_grammar *em_grammar_unref(em_grammar *g); /* NULL is fine; returns NULL */

const em_grammar_vocab *em_grammar_get_vocab(const em_grammar *g); /* NULL: compiled without */

/* What it holds, for logs and tests. */
typedef struct em_grammar_info {
    uint32_t n_states; /* of the automaton */
    uint32_t n_rules;
    uint32_t n_masks;     /* in the cache now */
    uint64_t mask_bytes;  /* of the cache now */
    uint64_t table_bytes; /* of the automaton */
} em_grammar_info;
void em_grammar_get_info(em_grammar *g, em_grammar_info *ret_info);

/* --- one sequence ------------------------------------------------------------------------------------------- */

typedef struct em_grammar_state em_grammar_state;

/* At the beginning of the text. max_rollback: how many accepts can be taken back, 0..4096. */
int em_grammar_state_new(em_grammar *g, uint32_t max_rollback, em_grammar_state **ret_state);
em_grammar_state *em_grammar_state_free(em_grammar_state *s);                       /* NULL is fine; returns NULL */
int em_grammar_state_copy(const em_grammar_state *s, em_grammar_state **ret_state); /* history included */

/* Goes on by bytes, or by a token's bytes. -EINVAL: not allowed here; -E2BIG: more than limits.readings ways to read it.
 * Then the state is as before. An end token is accepted where the text may end; after it nothing is. */
int em_grammar_state_accept_bytes(em_grammar_state *s, const void *bytes, size_t len);
int em_grammar_state_accept_token(em_grammar_state *s, uint32_t id);
/* Takes back the last n accepts. -EINVAL: more than were made or are kept. */
int em_grammar_state_rollback(em_grammar_state *s, uint32_t n);

bool em_grammar_state_is_complete(const em_grammar_state *s); /* the text may end here */
bool em_grammar_state_is_final(const em_grammar_state *s);    /* it must: nothing may follow */

/* Sets bit i % 64 of mask[i / 64] for the allowed ids and clears all others; (vocab size + 63) / 64 words. -E2BIG: the
 * grammar is so ambiguous that the mask costs more than limits.mask_steps. -EINVAL without a vocabulary. */
int em_grammar_state_fill_mask(em_grammar_state *s, uint64_t *mask);

/* Bytes of a shortest text that completes the answer from here; 0 when it is complete. UINT32_MAX: that many or more. */
uint32_t em_grammar_state_min_bytes(const em_grammar_state *s);

/* The fewest tokens that write a shortest completion (of those with fewest bytes, one is fixed); the end token is not
 * counted. ret_ids has room for cap ids; -ENOSPC when it takes more, -EINVAL without a vocabulary or when the
 * vocabulary cannot spell it.
 *
 * How to keep to a budget of b tokens that has room for the completion now: take the sampled token if after it the
 * completion takes b - 1 tokens or fewer (min_bytes <= b - 1 is enough where every byte is a token); else emit the
 * completion from the state before it, whole. */
int em_grammar_state_completion(const em_grammar_state *s, uint32_t *ret_ids, uint32_t cap, uint32_t *ret_n);

#endif
