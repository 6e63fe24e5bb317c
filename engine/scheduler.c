/* Who is let in next, and the plan of one step. */
#include "engine/scheduler.h"

#include <stddef.h>

static int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static int32_t max_i32(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* --- order -------------------------------------------------------------------------------------------------- */

/* a goes first. */
static bool precedes(const em_sched_head *a, const em_sched_head *b)
{
    if (a->priority != b->priority)
        return a->priority < b->priority;
    return a->served != b->served ? a->served < b->served : a->serial < b->serial;
}

/* a is put back before b. Without what clients got, which changes from step to step: nobody is thrown to and fro. */
static bool yields(const em_sched_head *a, const em_sched_head *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->serial > b->serial;
}

int32_t em_scheduler_next(const em_sched_head *heads, int32_t n_heads, uint64_t n_admitted)
{
    bool oldest_first = n_admitted % EM_SCHED_FAIR_TURN == EM_SCHED_FAIR_TURN - 1;
    int32_t best = n_heads ? 0 : -1;
    for (int32_t i = 1; i < n_heads; i++) {
        if (oldest_first ? heads[i].serial < heads[best].serial : precedes(&heads[i], &heads[best]))
            best = i;
    }
    return best;
}

/* Shell sort: few, mostly sorted, no recursion and no memory. */
static void sort_by_rank(const em_sched_seq *seqs, int32_t *order, int32_t n)
{
    static const int32_t gaps[] = {701, 301, 132, 57, 23, 10, 4, 1};
    for (size_t g = 0; g < sizeof(gaps) / sizeof(gaps[0]); g++) {
        for (int32_t i = gaps[g]; i < n; i++) {
            int32_t moved = order[i], at = i;
            for (; at >= gaps[g] && precedes(&seqs[moved].rank, &seqs[order[at - gaps[g]]].rank); at -= gaps[g])
                order[at] = order[at - gaps[g]];
            order[at] = moved;
        }
    }
}

/* --- blocks ------------------------------------------------------------------------------------------------- */

/* Takes out of `order`, the n sequences that stay, whoever must go. Returns how many are left. */
static int32_t put_back(const em_sched_seq *seqs, int32_t n, int32_t free_blocks, em_plan *plan)
{
    int64_t missing = -(int64_t)free_blocks;
    for (int32_t i = 0; i < n; i++)
        missing += seqs[i].n_blocks;
    while (missing > 0 && n > 1) {
        int32_t worst = 0;
        for (int32_t i = 1; i < n; i++) {
            if (yields(&seqs[plan->order[i]].rank, &seqs[plan->order[worst]].rank))
                worst = i;
        }
        int32_t idx = plan->order[worst];
        missing -= (int64_t)seqs[idx].n_blocks + seqs[idx].n_freed;
        plan->put_back[plan->n_put_back++] = idx;
        n--;
        for (int32_t i = worst; i < n; i++)
            plan->order[i] = plan->order[i + 1];
    }
    return n;
}

/* --- runs --------------------------------------------------------------------------------------------------- */

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

/* Plans as many positions of a sequence as are left of these tokens and rows, perhaps none. */
static void add_run(const em_sched_seq *seqs, int32_t idx, int32_t tokens_left, int32_t rows_left, em_plan *plan)
{
    const em_sched_seq *seq = &seqs[idx];
    int32_t n = min_i32(seq->stop - seq->pos, tokens_left);
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

/* Prefill in order, with a share kept for the oldest until its turn comes. */
static void add_prefills(const em_sched_seq *seqs, int32_t n_prefills, const em_sched_budget *budget, em_plan *plan)
{
    int32_t oldest = n_prefills ? plan->order[0] : -1;
    for (int32_t i = 1; i < n_prefills; i++) {
        if (seqs[plan->order[i]].rank.serial < seqs[oldest].rank.serial)
            oldest = plan->order[i];
    }
    int32_t kept = max_i32((budget->n_tokens - plan->n_tokens) / EM_SCHED_OLDEST_SHARE, 1), kept_rows = 1;
    sort_by_rank(seqs, plan->order, n_prefills);
    for (int32_t i = 0; i < n_prefills && plan->n_tokens < budget->n_tokens; i++) {
        int32_t idx = plan->order[i];
        if (idx == oldest)
            kept = kept_rows = 0;
        add_run(seqs, idx, budget->n_tokens - plan->n_tokens - kept, budget->n_logits - plan->n_logits - kept_rows,
                plan);
    }
}

void em_scheduler_plan(const em_sched_seq *seqs, int32_t n_seqs, const em_sched_budget *budget, em_plan *ret_plan)
{
    *ret_plan = (em_plan){.runs = ret_plan->runs, .put_back = ret_plan->put_back, .order = ret_plan->order};
    for (int32_t i = 0; i < n_seqs; i++)
        ret_plan->order[i] = i;
    int32_t n_left = put_back(seqs, n_seqs, budget->free_blocks, ret_plan), n_prefills = 0;
    for (int32_t i = 0; i < n_left; i++) {
        int32_t idx = ret_plan->order[i];
        if (is_decode(&seqs[idx]))
            add_run(seqs, idx, budget->n_tokens - ret_plan->n_tokens, budget->n_logits - ret_plan->n_logits, ret_plan);
        else
            ret_plan->order[n_prefills++] = idx;
    }
    add_prefills(seqs, n_prefills, budget, ret_plan);
}
