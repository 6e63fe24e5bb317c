/* Masks of the places of one automaton, kept. One thread at a time (grammar.c has the lock).
 *
 * A mask is put together from parts. The first part has the tokens that stay inside the rule of a reading; it depends
 * on the reading's state alone. Tokens that leave the rule are cut off there (the part's exits), and the next part has
 * what becomes of them in the state that the stack returns to; and so on downwards, as a rule for a step or two. So
 * parts are shared by all stacks that look alike at their top. */
#ifndef EM_ENGINE_GRAMMAR_MASKS_H
#define EM_ENGINE_GRAMMAR_MASKS_H

#include "engine/grammar/walker.h"

typedef struct em_mask_key {
    uint32_t above; /* part that the exits are of; UINT32_MAX: none, this is a first part */
    uint32_t state;
    uint32_t need, rem; /* of a first part: no more than a token can use up */
    uint32_t slack;     /* stack left, where that could matter; else EM_READINGS_NO_LIMIT */
} em_mask_key;

typedef struct em_mask_part {
    em_mask_key key;
    uint32_t plain; /* all plain tokens of so many characters are allowed */
    uint32_t n_ids;
    uint32_t *ids;   /* [n_ids], or NULL: */
    uint64_t *words; /* [vocab's n_words] */
    uint32_t *exits; /* [n_exits] nodes */
    uint32_t n_exits;
    uint32_t reach; /* stack above the place that the tokens need */
} em_mask_part;

typedef struct em_masks {
    const em_automaton *a;
    const em_grammar_vocab *vocab;
    em_walker walker;
    em_mask_part *parts;
    uint32_t n, cap;
    em_gr_index index;
    uint64_t bytes, max_bytes;
    uint64_t max_steps; /* of one part */
} em_masks;

int em_masks_init(em_masks *m, const em_automaton *a, const em_grammar_vocab *vocab, const em_grammar_limits *lim);
void em_masks_done(em_masks *m); /* a zeroed one is fine */

/* Adds the tokens that one reading allows to `mask`. -E2BIG: too many steps or readings; -ENOMEM. */
int em_masks_add(em_masks *m, const em_stacks *stacks, em_reading r, uint64_t *mask);

/* Computes parts that are likely to be wanted, as long as it takes no more than a fraction of a second. */
int em_masks_prepare(em_masks *m);

#endif
