/* Who is let in, and what the next step computes: pure functions of the sequences, what is free, and the budget. No
 * clock, no I/O, no tensors; the same inputs give the same plan.
 *
 * Letting in. Lower priorities first; within a priority the client that got the fewest tokens; within a client first
 * come first served. Every EM_SCHED_FAIR_TURN-th time the one that came first of all is taken, so that neither
 * priorities nor clients can hold anybody off for ever: whoever waits is let in after at most EM_SCHED_FAIR_TURN
 * admissions for each one that came before. When the next one does not fit, nobody is let in: nobody overtakes.
 *
 * Steps. Every running sequence with a single position left to compute (a decode step) gets it in every step. What is
 * left of the budget goes to prefill, in the order above, cut into chunks.
 *
 * Bounds, given budgets of at least one token and one logits row per running sequence:
 *   decode:  a sequence that decodes is in every step, and no step is longer than n_tokens, so prefill delays its
 *            tokens by no more than the time of one full batch each;
 *   prefill: decodes leave at least n_tokens - n_running + 1 >= 1 tokens in every step. The oldest prefill gets a
 *            share of them, at least 1 / EM_SCHED_OLDEST_SHARE, in every step; the first in order gets what it can use
 *            of the rest.
 *
 * When the blocks do not suffice for the decodes, running sequences are put back: always the one of the highest
 * priority number that came last. The first in that order is never put back, so there is always progress. */
#ifndef EM_ENGINE_SCHEDULER_H
#define EM_ENGINE_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#define EM_SCHED_FAIR_TURN 16
#define EM_SCHED_OLDEST_SHARE 8

/* The first of those that wait with one priority for one client. */
typedef struct em_sched_head {
    int32_t priority;
    uint64_t served; /* tokens its client got */
    uint64_t serial; /* order of arrival; unique */
} em_sched_head;

/* Which of the heads is let in next, or -1. n_admitted: how many were let in before. */
int32_t em_scheduler_next(const em_sched_head *heads, int32_t n_heads, uint64_t n_admitted);

/* What the plan needs to know of one running sequence. */
typedef struct em_sched_seq {
    em_sched_head rank;
    bool draws;       /* a token is drawn from the logits of position goal - 1 */
    bool scores;      /* logits are wanted at every position */
    int32_t pos;      /* positions computed */
    int32_t goal;     /* positions to compute with what is known now, > pos */
    int32_t stop;     /* no run goes beyond: pos < stop <= goal */
    int32_t n_blocks; /* blocks to take before its next position */
    int32_t n_freed;  /* blocks that come free when it is put back */
} em_sched_seq;

/* What a step may use. */
typedef struct em_sched_budget {
    int32_t n_tokens; /* in one batch */
    int32_t n_logits; /* rows of logits in one batch */
    int32_t free_blocks;
} em_sched_budget;

/* Positions pos .. pos + n_tokens - 1 of one sequence, logits for the last n_logits of them. */
typedef struct em_sched_run {
    int32_t seq_idx;
    int32_t n_tokens; /* >= 1 */
    int32_t n_logits;
} em_sched_run;

/* Arrays are the caller's, with room for one entry per sequence. */
typedef struct em_plan {
    em_sched_run *runs;
    int32_t n_runs, n_tokens, n_logits;
    int32_t *put_back; /* sequences that lose slot and blocks before the step, in this order; they have no run */
    int32_t n_put_back;
    int32_t *order; /* scratch */
} em_plan;

void em_scheduler_plan(const em_sched_seq *seqs, int32_t n_seqs, const em_sched_budget *budget, em_plan *ret_plan);

#endif
