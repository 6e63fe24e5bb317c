/* Log-probabilities of tokens. Of /v1/completions: four lists of equal length, written token by token by one builder for
 * whole answers and for streams, so that both say the same. Of chats: one object for each token. */
#ifndef EM_API_LOGPROBS_H
#define EM_API_LOGPROBS_H

#include "engine/base/buf.h"
#include "engine/engine.h"

typedef struct em_logprob_lists {        /* zero-initialise, but for as_ids */
    bool as_ids;                         /* tokens are told as "token_id:N", which is never ambiguous */
    em_buf tokens, values, top, offsets; /* JSON items with commas between */
    int64_t n;
} em_logprob_lists;

/* One more token; offset: characters of the choice's text before it. The map of alternatives always holds the token
 * itself; of tokens with the same string it keeps the most probable. */
void em_logprob_lists_add(em_logprob_lists *l, const em_engine *engine, const em_event_token *tok, int64_t offset);

void em_logprob_lists_json(const em_logprob_lists *l, em_buf *out);
void em_logprob_lists_clear(em_logprob_lists *l); /* memory and as_ids kept */
void em_logprob_lists_done(em_logprob_lists *l);

/* {"token","logprob","bytes","top_logprobs"} as chats have them; the alternatives are exactly those of the token.
 * as_ids: "token" is "token_id:N"; "bytes" are the token's own all the same. */
void em_logprob_entry_json(const em_engine *engine, const em_event_token *tok, bool as_ids, em_buf *out);

#endif
