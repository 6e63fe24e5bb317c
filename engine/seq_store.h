/* The computed state of sequences: slots and KV blocks, and what of it is shared. Opens a sequence at the deepest known
 * prefix, makes known what it computes, saves its slot at block boundaries, forks it for further samples.
 *
 * Nothing here changes a bit of any answer: a snapshot resumes exactly where it was taken, and shared blocks are full
 * and never written again. Only the step thread touches it, between steps. */
#ifndef EM_ENGINE_SEQ_STORE_H
#define EM_ENGINE_SEQ_STORE_H

#include "engine/model.h"
#include "engine/prefix_cache.h"
#include "engine/sequence.h"

/* Prompts are saved at their last boundary and at every `spacing` tokens: a block, doubled while the prompt has more
 * than EM_SNAPSHOT_PARTS of them, to EM_SNAPSHOT_TOKENS at most. So a prompt that leaves a known one somewhere computes
 * again no more than 1/64 of it; and spacings are multiples of each other, so that prompts of any length meet. */
#define EM_SNAPSHOT_PARTS 64
#define EM_SNAPSHOT_TOKENS 512

typedef struct em_seq_store {
    em_model *model;
    em_kv_cache *kv;
    em_prefix_cache *prefix; /* NULL: nothing is shared */
    int32_t max_seqs;
    int32_t block_tokens;
    bool saves_inside;                    /* the backend saves at any boundary of a run; else only at its end */
    uint64_t prefix_queries, prefix_hits; /* prompt tokens asked for and found */
} em_seq_store;

/* share: keep prefixes and resume from them. -ENOMEM. */
int em_seq_store_init(em_seq_store *st, em_model *model, int32_t max_seqs, bool share);
void em_seq_store_done(em_seq_store *st);

/* May its prompt's state serve its siblings, or earlier ones serve it? No when every prompt position is scored. */
bool em_seq_store_shares(const em_seq_store *st, const em_seq *seq);

/* Free blocks that must be there to let the sequence in: for its known tokens and some more, but never more than for
 * the n_positions it can reach. */
int32_t em_seq_store_need(const em_seq_store *st, const em_seq *seq, int32_t n_positions);
/* Takes a slot and the blocks of its known tokens, as many as possible from known prefixes; sets seq->pos. On failure
 * everything is given back. -EAGAIN, -ENOMEM. */
int em_seq_store_open(em_seq_store *st, em_seq *seq);
/* Gives `to` the state of `from`, whose prompt is the same and just computed. -EAGAIN: no room; -ENOMEM. */
int em_seq_store_fork(em_seq_store *st, const em_seq *from, em_seq *to);
void em_seq_store_close(em_seq_store *st, em_seq *seq);

/* The position where the next run should end at the latest, so that the slot can be saved there. */
int32_t em_seq_store_stop(const em_seq_store *st, const em_seq *seq);

/* The saves that a run of n_tokens from seq->pos on should make; their snapshots are taken. Returns how many, at most
 * cap and at most n_tokens / block_tokens + 1. */
int32_t em_seq_store_plan_saves(em_seq_store *st, const em_seq *seq, int32_t n_tokens, em_batch_save *saves,
                                int32_t cap);
/* After the run, seq->pos moved on: makes full blocks known, and the saves places to resume. */
void em_seq_store_advance(em_seq_store *st, em_seq *seq, const em_batch_save *saves, int32_t n_saves);
/* The run failed: its saves hold nothing. */
void em_seq_store_drop_saves(em_seq_store *st, const em_batch_save *saves, int32_t n_saves);

#endif
