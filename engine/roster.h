/* The step thread's requests: who is live, who waits, who runs; how they end, and the events they give. Only the step
 * thread touches it. */
#ifndef EM_ENGINE_ROSTER_H
#define EM_ENGINE_ROSTER_H

#include "engine/latency.h"
#include "engine/request_queue.h"
#include "engine/seq_store.h"
#include "engine/sequence.h"
#include "engine/wait_queue.h"

typedef struct em_roster {
    em_seq_store store;
    em_seq_rules rules;

    em_live *lives;            /* accepted and not ended, in no order */
    uint64_t next_deadline_ns; /* no deadline lies before; UINT64_MAX: there is none */

    em_wait_queue wait;
    int32_t n_waiting; /* in the wait queue or parked */
    em_seq **running;  /* [max_seqs] in order of admission */
    int32_t n_running, max_seqs;
    uint64_t next_serial;

    em_live *out_head, *out_tail; /* requests with events to deliver */

    /* since the roster was made, but n_left: since the owner set it to 0 */
    uint64_t n_ok, n_cancelled, n_failed; /* requests, by how they ended */
    uint64_t n_put_back;                  /* sequences that lost slot and blocks */
    uint64_t finished[EM_FINISH_REASONS]; /* sequences */
    em_latencies latencies;
    int32_t n_left; /* requests that have no waiting choice any more, less those that have one again */
} em_roster;

/* share: prompts may share computed state. -ENOMEM. */
int em_roster_init(em_roster *ro, em_model *model, const em_seq_rules *rules, int32_t max_seqs, bool share);
void em_roster_done(em_roster *ro); /* everything must have ended and been delivered */

/* A new request: its choices wait in order, first for its grammar if that is not ready. Those with nothing to compute
 * end at once. */
void em_roster_accept(em_roster *ro, em_live *live);
/* Requests whose grammar has become ready: their choices wait as others do, or the request is refused. Returns how many
 * requests that were. */
int32_t em_roster_take_compiled(em_roster *ro);
/* Ends what was cancelled or stopped (look_at_flags) and what is past its deadline; returns how many sequences ended. */
int32_t em_roster_end_due(em_roster *ro, bool look_at_flags, uint64_t now_ns);
/* Ends all there is. */
void em_roster_end_all(em_roster *ro);

/* Who is next to be let in, and how many free blocks that takes; NULL: nobody. */
em_seq *em_roster_next(em_roster *ro, int32_t *ret_n_blocks);
/* The sequence em_roster_next gave gets buffers, a slot and blocks for its known tokens, and runs. When memory runs out
 * it ends with an error; returns false then. */
bool em_roster_admit(em_roster *ro, em_seq *seq);
/* A sequence that runs loses slot and blocks; it waits again, in its old place, and will compute its tokens again. */
void em_roster_put_back(em_roster *ro, em_seq *seq);
/* One more choice of the same prompt, which `seq` has just computed, runs with a copy of its state; NULL: no more, those
 * without room wait in the queue now. */
em_seq *em_roster_fork(em_roster *ro, em_seq *seq);

/* Makes the events that are due for a sequence; one with a finish leaves the roster and returns slot and blocks. */
void em_roster_tell(em_roster *ro, em_seq *seq);
/* Ends a sequence with EM_FINISH_ERROR and the sentence. */
void em_roster_fail(em_roster *ro, em_seq *seq, const char *error);

/* Hands the events of this step to their sinks and frees requests that have ended. */
void em_roster_deliver(em_roster *ro, em_request_queue *queue);

#endif
