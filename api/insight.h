/* choices[].engram: what Engram did for each token of a choice, written token by token by one builder for whole answers
 * and for streams, so that the pieces of a stream add up to the whole.
 *
 * {"layers":[l], "orders":[o], "gate":[token][layer][stream], "share":[token][layer][order], "tier":[token][layer],
 *  "ngrams":[token][order][o strings]}. An n-gram is written as its tokens' texts in the form that the hash sees, the oldest
 * first and the token itself last; null where the look-back left the text. A token that was never computed (its
 * request failed first) has null for gates, shares and tiers. */
#ifndef EM_API_INSIGHT_H
#define EM_API_INSIGHT_H

#include "engine/base/buf.h"
#include "engine/engine.h"

#define EM_INSIGHT_MAX_ORDERS 16 /* more than any model the engine opens */

typedef struct em_insight_lists {        /* zero-initialise */
    em_buf gate, share, tier, ngrams;    /* JSON items with commas between */
    int32_t back[EM_INSIGHT_MAX_ORDERS]; /* ids of the tokens just before, the newest last */
    int32_t n_back;
    int64_t n;
} em_insight_lists;

/* ids that come before the first token: only the last few are looked at. */
void em_insight_lists_begin(em_insight_lists *l, const int32_t *ids, int32_t n_ids);
/* All tokens of an event; nothing where it tells nothing. */
void em_insight_lists_add(em_insight_lists *l, const em_engine *engine, const em_event *ev);
void em_insight_lists_json(const em_insight_lists *l, const em_engine *engine, em_buf *out);
void em_insight_lists_clear(em_insight_lists *l); /* memory and the tokens before are kept */
void em_insight_lists_done(em_insight_lists *l);

#endif
