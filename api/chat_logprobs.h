/* The logprobs object of a chat: one entry for each token, in two lists, of reasoning and of what follows. An entry waits
 * until no stop string can take its text back, and it is known to which list it belongs. */
#ifndef EM_API_CHAT_LOGPROBS_H
#define EM_API_CHAT_LOGPROBS_H

#include "api/chat_parse.h"
#include "engine/base/buf.h"

typedef struct em_chat_logprobs {     /* zero-initialise, but for as_ids */
    bool as_ids;                      /* tokens are told as "token_id:N" */
    em_buf reasoning, content;        /* settled, JSON items with commas between */
    em_buf waiting;                   /* entries in order, without commas */
    struct em_waiting_entry *entries; /* [n] of waiting */
    size_t n, cap;
    bool failed;
} em_chat_logprobs;

void em_chat_logprobs_add(em_chat_logprobs *l, const em_engine *engine, const em_event_token *tok);
/* all: the choice has ended, nothing waits any longer. */
void em_chat_logprobs_settle(em_chat_logprobs *l, const em_chat_position *at, bool all);
bool em_chat_logprobs_pending(const em_chat_logprobs *l); /* settled and not cleared */
/* {"content":[...],"refusal":null}; reasons: also "reasoning_content". */
void em_chat_logprobs_json(const em_chat_logprobs *l, bool reasons, em_buf *out);
void em_chat_logprobs_clear(em_chat_logprobs *l); /* what is settled was written */
void em_chat_logprobs_done(em_chat_logprobs *l);

#endif
