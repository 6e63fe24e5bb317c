/* One sequence's way through its grammar: which token may come next, whether the answer still ends within its budget,
 * and the completion once it must. A function of the grammar and the answer's tokens, so that batching, preemption and
 * shared prefixes cannot change it. Belongs to the step thread. */
#ifndef EM_ENGINE_GUIDE_H
#define EM_ENGINE_GUIDE_H

#include "engine/grammar/grammar.h"
#include "engine/logits.h"

typedef struct em_guide em_guide;

/* At the beginning of the answer; holds a reference to the grammar. -ENOMEM. */
int em_guide_new(em_grammar *g, em_guide **ret_guide);
em_guide *em_guide_free(em_guide *g); /* NULL is fine; returns NULL */

/* What stands at a place before a token is drawn. */
typedef enum em_guide_next {
    EM_GUIDE_DRAW,   /* one of the mask's tokens is to be drawn */
    EM_GUIDE_FORCED, /* *ret_id comes, whatever the logits say */
    EM_GUIDE_OVER,   /* the answer is complete, and nothing allowed can follow */
} em_guide_next;

/* mask: [(vocab + 63) / 64] words, filled for DRAW: what the grammar allows, less the banned ids. left: tokens that may
 * still come, at least 1. Where the bans leave nothing, the shortest completion comes. -E2BIG: the grammar is too
 * ambiguous here; -ENOSPC: nothing is left, nor room for the completion; -ENOMEM. */
int em_guide_next_token(em_guide *g, uint64_t *mask, const em_logit_bans *bans, int32_t left, em_guide_next *ret_next,
                        int32_t *ret_id);

/* Goes on by a token that was drawn from the mask, unless the answer could not be completed within the budget behind
 * it: then *id becomes the first token of the shortest completion from here, the rest of which is forced. Returns
 * EM_GUIDE_OVER when there is no such token, since the answer is complete, else EM_GUIDE_DRAW. Errors as above. */
int em_guide_take(em_guide *g, int32_t left, int32_t *id, em_guide_next *ret_next);

bool em_guide_completing(const em_guide *g); /* the last token was one of a completion, which comes whole */
bool em_guide_complete(const em_guide *g);   /* the answer may end here */
bool em_guide_final(const em_guide *g);      /* it must */

#endif
