/* What the next step computes: a pure function of the sequences, what is free, and the budget. No clock, no I/O, no
 * tensors; the same inputs give the same plan.
 *
 * Rules. Waiting sequences are let in strictly in order, as long as a slot and the blocks for their whole length are
 * free: nobody overtakes, so nobody starves. Every running sequence with a single position left to compute (a decode
 * step) gets it in every step. What is left of the budget goes to prefill, first come first served, cut into chunks.
 * Bounds, given budgets of at least one token and one logits row per running sequence: a decode is in every step; the
 * oldest prefill advances in every step. */
#ifndef EM_ENGINE_SCHEDULER_H
#define EM_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

/* What the plan needs to know of one sequence. */
typedef struct em_sched_seq {
    bool running;     /* holds slot and blocks; all running ones stand before all waiting ones */
    bool draws;       /* a token is drawn from the logits of position goal - 1 */
    bool scores;      /* logits are wanted at every position */
    int32_t pos;      /* positions computed */
    int32_t goal;     /* positions to compute with what is known now, > pos */
    int32_t n_blocks; /* blocks to take when it is let in */
} em_sched_seq;

/* What a step may use. */
typedef struct em_sched_budget {
    int32_t n_tokens; /* in one batch */
    int32_t n_logits; /* rows of logits in one batch */
    int32_t free_slots, free_blocks;
} em_sched_budget;

/* Positions pos .. pos + n_tokens - 1 of one sequence, logits for the last n_logits of them. */
typedef struct em_sched_run {
    int32_t seq_idx;
    int32_t n_tokens; /* >= 1 */
    int32_t n_logits;
} em_sched_run;

typedef struct em_plan {
    int32_t n_admit; /* that many of the waiting sequences, from the first, are let in */
    int32_t n_runs, n_tokens, n_logits;
    em_sched_run *runs; /* room for one per sequence, the caller's */
} em_plan;

/* seqs: in order of arrival. ret_plan->runs is given by the caller; all else is written. */
void em_scheduler_plan(const em_sched_seq *seqs, int32_t n_seqs, const em_sched_budget *budget, em_plan *ret_plan);

#endif
