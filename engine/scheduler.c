/* The plan of one step. */
#include "engine/scheduler.h"

static int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static bool is_decode(const em_sched_seq *seq)
{
    return seq->goal - seq->pos == 1;
}

/* Logits rows that n_tokens more positions of a sequence bring. */
static int32_t logits_of(const em_sched_seq *seq, int32_t n_tokens)
{
    if (seq->scores)
        return n_tokens;
    return seq->draws && seq->pos + n_tokens == seq->goal ? 1 : 0;
}

/* Plans as many positions of a sequence as the budget still allows, perhaps none. */
static void add_run(const em_sched_seq *seqs, int32_t idx, const em_sched_budget *budget, em_plan *plan)
{
    const em_sched_seq *seq = &seqs[idx];
    int32_t rows_left = budget->n_logits - plan->n_logits;
    int32_t n = min_i32(seq->goal - seq->pos, budget->n_tokens - plan->n_tokens);
    if (seq->scores)
        n = min_i32(n, rows_left);
    else if (logits_of(seq, n) > rows_left)
        n--; /* all but the position that needs a row */
    if (n < 1)
        return;
    int32_t n_logits = logits_of(seq, n);
    plan->runs[plan->n_runs++] = (em_sched_run){.seq_idx = idx, .n_tokens = n, .n_logits = n_logits};
    plan->n_tokens += n;
    plan->n_logits += n_logits;
}

/* Counts the waiting sequences, from the first on, that fit into what is free. */
static int32_t count_admitted(const em_sched_seq *seqs, int32_t n_seqs, int32_t n_running,
                              const em_sched_budget *budget)
{
    int32_t blocks_left = budget->free_blocks, n = 0;
    while (n < budget->free_slots && n_running + n < n_seqs && seqs[n_running + n].n_blocks <= blocks_left) {
        blocks_left -= seqs[n_running + n].n_blocks;
        n++;
    }
    return n;
}

void em_scheduler_plan(const em_sched_seq *seqs, int32_t n_seqs, const em_sched_budget *budget, em_plan *ret_plan)
{
    *ret_plan = (em_plan){.runs = ret_plan->runs};
    int32_t n_running = 0;
    while (n_running < n_seqs && seqs[n_running].running)
        n_running++;
    ret_plan->n_admit = count_admitted(seqs, n_seqs, n_running, budget);
    int32_t n_planned = n_running + ret_plan->n_admit;

    for (int32_t i = 0; i < n_planned; i++) {
        if (is_decode(&seqs[i]))
            add_run(seqs, i, budget, ret_plan);
    }
    for (int32_t i = 0; i < n_planned; i++) {
        if (!is_decode(&seqs[i]))
            add_run(seqs, i, budget, ret_plan);
    }
}
