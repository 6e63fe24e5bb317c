/* An accepted request and its sequences: one token stream for each choice.
 *
 * A live request is made by the submitting thread, handed over by request_queue, and belongs to the step thread from
 * then on; only `cancelled`, `stops` and `stopped` are touched by others. Sequences know tokens and text; they know nothing of batches,
 * scheduling or sinks. */
#ifndef EM_ENGINE_SEQUENCE_H
#define EM_ENGINE_SEQUENCE_H

#include <stdatomic.h>

#include "engine/detok.h"
#include "engine/engine.h"
#include "engine/grammar_compiler.h"
#include "engine/guide.h"
#include "engine/kv_cache.h"
#include "engine/latency.h"
#include "engine/tokenizer.h"

typedef enum em_seq_state {
    EM_SEQ_WAITING,  /* not let in yet, or put back: no slot and no blocks */
    EM_SEQ_RUNNING,  /* takes part in steps */
    EM_SEQ_FINISHED, /* its final event is made; holds nothing */
} em_seq_state;

/* A generated token whose text is not released yet. */
typedef struct em_held_token {
    int32_t id;
    bool has_text; /* it brought bytes */
    bool has_logprob;
    float logprob;
    int32_t text_offset; /* characters of generated text before it */
    int32_t n_top;
} em_held_token;

typedef struct em_seq {
    struct em_live *live;
    struct em_seq *prev, *next; /* in a line of the wait queue */
    struct em_client *client;   /* whom its work is charged to */
    bool queued;                /* stands in the wait queue */
    bool parked;                /* waits for a sibling's prompt instead */
    bool charged;               /* its prompt is charged to its client */
    atomic_bool stopped;        /* set by any thread: it is to end, its receiver has all the text it wants */
    uint64_t serial;            /* order of arrival over the engine's life; names the sequence in a prepared batch */
    int32_t choice;             /* prompt * n + sample */
    em_seq_state state;

    /* tokens: the prompt, then what was generated */
    const em_prompt *prompt; /* the request's */
    int32_t *ids;            /* [n_prompt + max_new] */
    int32_t n_ids;
    int32_t max_new; /* tokens to generate at most */
    int32_t pos;     /* positions computed; never above n_ids */
    em_seq_kv kv;
    em_insight_shape shape; /* of insight */
    bool started;           /* has its buffers; it may have lost slot and blocks since */
    int32_t n_known_blocks; /* of its blocks, from the first: known to the prefix cache */
    int32_t cached_tokens;  /* of the prompt, not computed for this sequence */
    int32_t n_counted;      /* prompt tokens that are in the statistics */
    em_moments moments;

    em_guide *guide; /* NULL: the answer may be anything */

    /* what Engram did, with em_request.engram: of positions insight_from .. n_prompt + max_new - 1 */
    void *insight_memory;
    em_insight insight;
    int32_t insight_from;

    /* the prompt's report, until its event is made */
    em_event_token *scores;    /* [n_prompt] or NULL */
    em_top_logprob *score_top; /* [n_prompt, n_top] */
    bool scores_told;          /* not to be made again, should the prompt be computed again */

    /* generated text */
    em_detok *detok;          /* NULL: the model has no tokenizer */
    em_held_token *held;      /* [cap_held], the first n_held of them wait for their text */
    em_top_logprob *held_top; /* [cap_held, n_top] */
    em_event_token *out;      /* [cap_held] scratch for the event */
    int32_t n_held, cap_held;
    int32_t n_out; /* of the held ones, from the first: already in an event */
    bool cut;      /* a stop string ended the text */

    em_finish finish; /* NONE while tokens may follow */
    em_event *spare;  /* the final event, should memory run out */
} em_seq;

/* Somebody with sequences that wait or run. What it was served while it had none is forgotten: it begins again where
 * the least served one stands, so that rest saves up no claim. */
typedef struct em_client {
    struct em_client *next;
    char name[EM_REQUEST_CLIENT_MAX + 1];
    uint64_t served; /* tokens computed for it, prompts' and answers' */
    int32_t n_seqs;  /* its sequences that have not ended */
} em_client;

typedef struct em_live {
    uint64_t id;
    em_request *request;
    em_sink sink;
    em_grammar_order *order;        /* of the request's grammar; NULL: it has none */
    bool compiling;                 /* its choices wait for the order */
    em_client *fresh_client;        /* should its client not be known yet */
    int32_t n_seqs, n_open;         /* choices; those not finished */
    int32_t n_waiting;              /* choices not let in yet */
    bool any_failed, any_cancelled; /* how its choices ended so far */
    atomic_bool cancelled;          /* set by any thread, read at the start of a step */
    atomic_bool stops;              /* likewise: some choice has `stopped` set */

    struct em_live *next;                  /* request_queue: arrivals */
    struct em_live *bucket_next;           /* request_queue: requests by id */
    struct em_live *prev_live, *next_live; /* step thread: all live requests */
    struct em_live *next_output;           /* step thread: requests with events of this step */
    em_event *out_head, *out_tail;         /* events of this step */

    em_seq seqs[]; /* [n_seqs] */
} em_live;

/* Facts about the model that sequences need. */
typedef struct em_seq_rules {
    const em_tokenizer *tok; /* NULL: none */
    int32_t vocab_size, max_len;
    int32_t eos_id; /* -1: none */
    em_insight_shape insight;
} em_seq_rules;

/* Takes the request over on success. The request must have passed em_request_check. -ENOMEM. */
int em_live_new(em_request *r, em_sink sink, const em_seq_rules *rules, em_live **ret_live);
em_live *em_live_free(em_live *live); /* with its request, sequences and unsent events; NULL is fine; returns NULL */

/* Gets its buffers, once; state, slot and blocks are the caller's business. -ENOMEM. */
int em_seq_start(em_seq *seq, const em_seq_rules *rules);
/* -> FINISHED: frees buffers; the caller has closed kv. */
void em_seq_done(em_seq *seq);

/* Positions to compute with the tokens known now; 0 when nothing is to be computed at all. */
int32_t em_seq_goal(const em_seq *seq);
/* Something is told about the prompt itself, so that all of it must be computed for this sequence. */
bool em_seq_reports_prompt(const em_seq *seq);
/* Where a run of these positions leaves what Engram did: for how many tokens at its end, and at what place. */
void em_seq_insight_of(const em_seq *seq, int32_t pos, int32_t n_tokens, int32_t *ret_n, em_insight *ret_insight);

/* A token is drawn from the logits of position goal - 1. */
bool em_seq_draws(const em_seq *seq);
/* Logits are wanted at every position up to the last but one of the prompt. */
bool em_seq_scores(const em_seq *seq);

/* Stores what the logits of position p - 1 say about prompt token p (1 .. n_prompt - 1); top as em_sampler_logprobs
 * gave it. */
void em_seq_put_score(em_seq *seq, int32_t p, float logprob, const em_top_logprob *top, int32_t n_top);
/* All that is to be told about the prompt is known and its event is not made yet. */
bool em_seq_scored(const em_seq *seq);
/* Fills the EM_EVENT_PROMPT draft; it borrows from seq until em_seq_drop_scores. */
void em_seq_score_draft(const em_seq *seq, em_event *ret_draft);
void em_seq_drop_scores(em_seq *seq);

/* A generated token, as sampled. */
typedef struct em_draw {
    int32_t id;
    bool has_logprob;
    float logprob;
    int32_t n_top;
    em_top_logprob top[EM_MAX_LOGPROBS];
} em_draw;

/* Appends a token: feeds its text, sets finish when the answer is complete; with a grammar that is when nothing may
 * follow, and an answer that is complete when its tokens run out ends with STOP. -ENOMEM. */
int em_seq_push(em_seq *seq, const em_draw *draw, const em_seq_rules *rules);
/* Ends the text (held parts are released) and sets finish; a stop string that completes only here turns LENGTH into
 * STOP. -ENOMEM: the very end of the text is lost. */
int em_seq_end(em_seq *seq, em_finish finish);
/* Fills the EM_EVENT_TEXT draft with what is released now; false: there is nothing to tell. It borrows from seq until
 * the next call; the tokens in it are taken out. Where Engram is asked about, nothing is told while the newest token is
 * not computed itself, unless the sequence has failed. */
bool em_seq_text_draft(em_seq *seq, em_event *ret_draft);

#endif
