/* The plan of a step: rules by hand, then a simulator that drives random arrivals, cancels and endings. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/scheduler.h"
#include "tests/support/fixtures.h"

/* --- by hand ------------------------------------------------------------------------------------------------ */

static em_plan plan_of(const em_sched_seq *seqs, int32_t n, em_sched_budget budget, em_sched_run *runs)
{
    em_plan plan = {.runs = runs};
    em_scheduler_plan(seqs, n, &budget, &plan);
    return plan;
}

START_TEST(decodes_first_then_prefill_in_order)
{
    const em_sched_seq seqs[] = {
        {.running = true, .draws = true, .pos = 0, .goal = 100},
        {.running = true, .draws = true, .pos = 57, .goal = 58},
        {.running = true, .draws = true, .pos = 0, .goal = 5},
        {.running = true, .draws = true, .pos = 9, .goal = 10},
    };
    em_sched_run runs[4];
    em_plan p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 32, .n_logits = 32}, runs);
    ck_assert_int_eq(p.n_runs, 3);
    ck_assert_int_eq(runs[0].seq_idx, 1);
    ck_assert_int_eq(runs[1].seq_idx, 3);
    ck_assert_int_eq(runs[2].seq_idx, 0);
    ck_assert_int_eq(runs[2].n_tokens, 30);
    ck_assert_int_eq(runs[2].n_logits, 0);
    ck_assert_int_eq(p.n_tokens, 32);
    ck_assert_int_eq(p.n_logits, 2);

    p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 200, .n_logits = 32}, runs);
    ck_assert_int_eq(p.n_runs, 4);
    ck_assert_int_eq(runs[2].n_tokens, 100);
    ck_assert_int_eq(runs[2].n_logits, 1);
    ck_assert_int_eq(runs[3].n_tokens, 5);
    ck_assert_int_eq(p.n_tokens, 107);
}
END_TEST

START_TEST(nobody_overtakes_at_the_door)
{
    const em_sched_seq seqs[] = {
        {.running = true, .draws = true, .pos = 3, .goal = 4},
        {.draws = true, .goal = 4, .n_blocks = 2},
        {.draws = true, .goal = 4, .n_blocks = 9}, /* does not fit */
        {.draws = true, .goal = 4, .n_blocks = 1}, /* would */
    };
    em_sched_run runs[4];
    em_plan p =
        plan_of(seqs, 4, (em_sched_budget){.n_tokens = 64, .n_logits = 8, .free_slots = 3, .free_blocks = 10}, runs);
    ck_assert_int_eq(p.n_admit, 1);
    ck_assert_int_eq(p.n_runs, 2);
    p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 64, .n_logits = 8, .free_slots = 0, .free_blocks = 100}, runs);
    ck_assert_int_eq(p.n_admit, 0);
    p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 64, .n_logits = 8, .free_slots = 3, .free_blocks = 12}, runs);
    ck_assert_int_eq(p.n_admit, 3);
    ck_assert_int_eq(p.n_runs, 4);
}
END_TEST

START_TEST(rows_of_logits_are_bounded)
{
    const em_sched_seq seqs[] = {
        {.running = true, .draws = true, .scores = true, .pos = 0, .goal = 50},
        {.running = true, .draws = true, .pos = 7, .goal = 8},
        {.running = true, .draws = true, .pos = 0, .goal = 6},
        {.running = true, .draws = true, .pos = 0, .goal = 30},
    };
    em_sched_run runs[4];
    em_plan p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 64, .n_logits = 10}, runs);
    ck_assert_int_eq(p.n_logits, 10);
    ck_assert_int_eq(runs[0].seq_idx, 1);
    ck_assert_int_eq(runs[1].seq_idx, 0); /* the scored prompt takes what rows are left */
    ck_assert_int_eq(runs[1].n_tokens, 9);
    ck_assert_int_eq(runs[1].n_logits, 9);
    ck_assert_int_eq(runs[2].n_tokens, 5); /* no row left: all but the last position */
    ck_assert_int_eq(runs[2].n_logits, 0);
    ck_assert_int_eq(runs[3].n_tokens, 29);
}
END_TEST

START_TEST(nothing_to_do)
{
    em_plan p =
        plan_of(NULL, 0, (em_sched_budget){.n_tokens = 8, .n_logits = 8, .free_slots = 4, .free_blocks = 4}, NULL);
    ck_assert_int_eq(p.n_runs, 0);
    ck_assert_int_eq(p.n_admit, 0);
    ck_assert_int_eq(p.n_tokens, 0);
}
END_TEST

/* --- the simulator ------------------------------------------------------------------------------------------ */

enum { MAX_SEQS = 32, MAX_LIVE = 400 };

typedef struct sim_seq {
    em_sched_seq sched;
    int32_t n_prompt, n_left; /* tokens still to draw */
    int64_t arrived;          /* number of its arrival */
    int64_t waited;           /* steps since it was let in without a token */
} sim_seq;

typedef struct sim {
    unsigned long long seed;
    uint64_t n_draws;
    em_sched_budget budget; /* free_* are what is free now */
    sim_seq seq[MAX_LIVE];  /* running ones first, in order of arrival */
    int32_t n_seqs, n_running;
    int64_t n_arrived, n_ended, last_admitted;
} sim;

static uint32_t sim_rand(sim *m, uint32_t n)
{
    return (uint32_t)(em_rng_u64(m->seed, 0, m->n_draws++, 0) % n);
}

static void sim_arrive(sim *m, int32_t n_blocks_max)
{
    if (m->n_seqs == MAX_LIVE)
        return;
    int32_t n_prompt = 1 + (int32_t)sim_rand(m, sim_rand(m, 10) ? 20 : 300);
    bool scores = sim_rand(m, 5) == 0;
    int32_t n_new = (int32_t)sim_rand(m, 12);
    if (!n_new && (!scores || n_prompt == 1))
        n_new = 1;
    m->seq[m->n_seqs++] = (sim_seq){
        .sched = {.draws = n_new > 0,
                  .scores = scores && n_prompt > 1,
                  .goal = n_new ? n_prompt : n_prompt - 1,
                  .n_blocks = 1 + (int32_t)sim_rand(m, (uint32_t)n_blocks_max)},
        .n_prompt = n_prompt,
        .n_left = n_new,
        .arrived = m->n_arrived++,
    };
}

static void sim_end(sim *m, int32_t i)
{
    if (i < m->n_running) {
        m->budget.free_slots++;
        m->budget.free_blocks += m->seq[i].sched.n_blocks;
        m->n_running--;
    }
    m->n_seqs--;
    memmove(&m->seq[i], &m->seq[i + 1], (size_t)(m->n_seqs - i) * sizeof(m->seq[0]));
    m->n_ended++;
}

static void sim_admit(sim *m, int32_t n_admit)
{
    for (int32_t k = 0; k < n_admit; k++) {
        sim_seq *q = &m->seq[m->n_running++];
        ck_assert(!q->sched.running);
        ck_assert_int_gt(q->arrived, m->last_admitted); /* in order */
        m->last_admitted = q->arrived;
        q->sched.running = true;
        m->budget.free_slots--;
        m->budget.free_blocks -= q->sched.n_blocks;
    }
    ck_assert_int_ge(m->budget.free_slots, 0);
    ck_assert_int_ge(m->budget.free_blocks, 0);
    /* whoever stands first at the door now does not fit */
    ck_assert(m->n_running == m->n_seqs || m->budget.free_slots == 0 ||
              m->seq[m->n_running].sched.n_blocks > m->budget.free_blocks);
}

/* Checks one run and moves its sequence on; true: it has ended. */
static bool sim_advance(sim_seq *q, const em_sched_run *run)
{
    em_sched_seq *d = &q->sched;
    ck_assert_int_ge(run->n_tokens, 1);
    ck_assert_int_le(d->pos + run->n_tokens, d->goal);
    bool reached = d->pos + run->n_tokens == d->goal;
    ck_assert_int_eq(run->n_logits, d->scores ? run->n_tokens : d->draws && reached);
    d->pos += run->n_tokens;
    q->waited = 0;
    if (d->pos >= q->n_prompt - 1)
        d->scores = false;
    if (!reached)
        return false;
    d->goal++;
    return !d->draws || --q->n_left == 0;
}

/* One step; every promise of the header is checked. */
static void sim_step(sim *m)
{
    static em_sched_seq sched[MAX_LIVE];
    static em_sched_run runs[MAX_LIVE], again_runs[MAX_LIVE];
    for (int32_t i = 0; i < m->n_seqs; i++)
        sched[i] = m->seq[i].sched;
    em_plan p = {.runs = runs}, again = {.runs = again_runs};
    em_scheduler_plan(sched, m->n_seqs, &m->budget, &p);
    em_scheduler_plan(sched, m->n_seqs, &m->budget, &again);
    ck_assert_int_eq(p.n_runs, again.n_runs);
    ck_assert_int_eq(p.n_admit, again.n_admit);
    ck_assert_mem_eq(runs, again_runs, (size_t)p.n_runs * sizeof(runs[0]));
    sim_admit(m, p.n_admit);

    int32_t n_tokens = 0, n_logits = 0;
    bool done[MAX_LIVE] = {false};
    for (int32_t i = 0; i < m->n_running; i++)
        m->seq[i].waited++;
    int32_t first_prefill = -1;
    bool was_decode[MAX_LIVE];
    for (int32_t i = 0; i < m->n_running; i++) {
        was_decode[i] = m->seq[i].sched.goal - m->seq[i].sched.pos == 1;
        if (!was_decode[i] && first_prefill < 0)
            first_prefill = i;
    }
    for (int32_t k = 0; k < p.n_runs; k++) {
        sim_seq *q = &m->seq[runs[k].seq_idx];
        ck_assert_int_lt(runs[k].seq_idx, m->n_running);
        ck_assert_int_eq(q->waited > 0, 1); /* each at most once */
        done[runs[k].seq_idx] = sim_advance(q, &runs[k]);
        n_tokens += runs[k].n_tokens;
        n_logits += runs[k].n_logits;
    }
    ck_assert_int_eq(n_tokens, p.n_tokens);
    ck_assert_int_eq(n_logits, p.n_logits);
    ck_assert_int_le(n_tokens, m->budget.n_tokens);
    ck_assert_int_le(n_logits, m->budget.n_logits);
    for (int32_t i = 0; i < m->n_running; i++)
        ck_assert_msg(m->seq[i].waited == 0 || (!was_decode[i] && i != first_prefill), "sequence %d of %d starves", i,
                      m->n_running);
    for (int32_t i = m->n_running - 1; i >= 0; i--) {
        if (done[i])
            sim_end(m, i);
    }
}

START_TEST(random_traffic)
{
    static sim m;
    unsigned long long seed = test_seed(4) + (unsigned)_i;
    const int32_t n_blocks = 60;
    m = (sim){.seed = seed, .last_admitted = -1};
    int32_t n_slots = 1 + (int32_t)sim_rand(&m, MAX_SEQS);
    m.budget = (em_sched_budget){
        .n_tokens = n_slots + (int32_t)sim_rand(&m, 64),
        .n_logits = n_slots + (int32_t)sim_rand(&m, 8),
        .free_slots = n_slots,
        .free_blocks = n_blocks,
    };
    while (m.n_arrived < 5000) {
        for (uint32_t k = sim_rand(&m, 4); k > 0; k--)
            sim_arrive(&m, n_blocks);
        if (m.n_seqs && sim_rand(&m, 4) == 0)
            sim_end(&m, (int32_t)sim_rand(&m, (uint32_t)m.n_seqs)); /* cancelled, wherever it is */
        sim_step(&m);
    }
    int64_t n_steps = 0;
    for (; m.n_seqs; n_steps++) {
        sim_step(&m);
        ck_assert_int_lt(n_steps, 400 * 400); /* everyone gets through */
    }
    ck_assert_int_eq(m.n_ended, m.n_arrived);
    ck_assert_int_eq(m.budget.free_slots, n_slots);
    ck_assert_int_eq(m.budget.free_blocks, n_blocks);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("scheduler");
    TCase *t = tcase_create("plan");
    tcase_add_test(t, decodes_first_then_prefill_in_order);
    tcase_add_test(t, nobody_overtakes_at_the_door);
    tcase_add_test(t, rows_of_logits_are_bounded);
    tcase_add_test(t, nothing_to_do);
    tcase_add_loop_test(t, random_traffic, 0, 10);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
