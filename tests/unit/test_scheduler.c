/* Who is let in and what a step computes: rules by hand, then a simulator that drives a million random arrivals, cancels
 * and endings. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/kv_cache.h"
#include "engine/scheduler.h"
#include "tests/support/fixtures.h"

/* --- by hand ------------------------------------------------------------------------------------------------ */

enum { HAND_MAX = 8 };

static em_sched_run runs[HAND_MAX];
static int32_t put_back[HAND_MAX], order[HAND_MAX];

static em_plan plan_of(const em_sched_seq *seqs, int32_t n, em_sched_budget budget)
{
    em_plan plan = {.runs = runs, .put_back = put_back, .order = order};
    em_scheduler_plan(seqs, n, &budget, &plan);
    return plan;
}

START_TEST(decodes_first_then_prefill_in_order)
{
    const em_sched_seq seqs[] = {
        {.rank.serial = 0, .draws = true, .pos = 0, .goal = 100, .stop = 100},
        {.rank.serial = 1, .draws = true, .pos = 57, .goal = 58, .stop = 58},
        {.rank.serial = 2, .draws = true, .pos = 0, .goal = 5, .stop = 5},
        {.rank.serial = 3, .draws = true, .pos = 9, .goal = 10, .stop = 10},
    };
    em_plan p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 32, .n_logits = 32});
    ck_assert_int_eq(p.n_runs, 3);
    ck_assert_int_eq(runs[0].seq_idx, 1);
    ck_assert_int_eq(runs[1].seq_idx, 3);
    ck_assert_int_eq(runs[2].seq_idx, 0);
    ck_assert_int_eq(runs[2].n_tokens, 30);
    ck_assert_int_eq(runs[2].n_logits, 0);
    ck_assert_int_eq(p.n_tokens, 32);
    ck_assert_int_eq(p.n_logits, 2);

    p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 200, .n_logits = 32});
    ck_assert_int_eq(p.n_runs, 4);
    ck_assert_int_eq(runs[2].n_tokens, 100);
    ck_assert_int_eq(runs[2].n_logits, 1);
    ck_assert_int_eq(runs[3].n_tokens, 5);
    ck_assert_int_eq(p.n_tokens, 107);
}
END_TEST

START_TEST(prefill_by_rank_with_a_share_for_the_oldest)
{
    const em_sched_seq seqs[] = {
        {.rank = {1, 0, 0}, .draws = true, .goal = 500, .stop = 500}, /* oldest, but of the second priority */
        {.rank = {0, 90, 1}, .draws = true, .goal = 500, .stop = 500},
        {.rank = {0, 10, 2}, .draws = true, .goal = 30, .stop = 30}, /* its client got the least */
        {.rank = {0, 90, 3}, .draws = true, .goal = 500, .stop = 64},
    };
    em_plan p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 160, .n_logits = 9});
    ck_assert_int_eq(p.n_runs, 3);
    ck_assert_int_eq(runs[0].seq_idx, 2);
    ck_assert_int_eq(runs[0].n_tokens, 30);
    ck_assert_int_eq(runs[1].seq_idx, 1);
    ck_assert_int_eq(runs[1].n_tokens, 110);
    ck_assert_int_eq(runs[2].seq_idx, 0);
    ck_assert_int_eq(runs[2].n_tokens, 20);
    p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 1000, .n_logits = 9});
    ck_assert_int_eq(p.n_runs, 4);
    ck_assert_int_eq(runs[2].seq_idx, 3);
    ck_assert_int_eq(runs[2].n_tokens, 64); /* no further than its stop */
    ck_assert_int_eq(runs[2].n_logits, 0);
}
END_TEST

START_TEST(rows_of_logits_are_bounded)
{
    const em_sched_seq seqs[] = {
        {.rank.serial = 0, .draws = true, .scores = true, .pos = 0, .goal = 50, .stop = 50},
        {.rank.serial = 1, .draws = true, .pos = 7, .goal = 8, .stop = 8},
        {.rank.serial = 2, .draws = true, .pos = 0, .goal = 6, .stop = 6},
        {.rank.serial = 3, .draws = true, .pos = 0, .goal = 30, .stop = 30},
    };
    em_plan p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 64, .n_logits = 10});
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

START_TEST(who_came_last_makes_room)
{
    const em_sched_seq seqs[] = {
        {.rank = {0, 0, 4}, .draws = true, .pos = 8, .goal = 9, .stop = 9, .n_blocks = 1, .n_freed = 2},
        {.rank = {2, 0, 1}, .draws = true, .pos = 8, .goal = 9, .stop = 9, .n_blocks = 1, .n_freed = 0},
        {.rank = {0, 0, 7}, .draws = true, .pos = 8, .goal = 9, .stop = 9, .n_blocks = 1, .n_freed = 1},
        {.rank = {0, 0, 2}, .draws = true, .pos = 8, .goal = 9, .stop = 9, .n_blocks = 1, .n_freed = 5},
    };
    em_plan p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 64, .n_logits = 10, .free_blocks = 4});
    ck_assert_int_eq(p.n_put_back, 0);
    ck_assert_int_eq(p.n_runs, 4);
    p = plan_of(seqs, 4, (em_sched_budget){.n_tokens = 64, .n_logits = 10, .free_blocks = 1});
    ck_assert_int_eq(p.n_put_back, 2);
    ck_assert_int_eq(put_back[0], 1); /* lowest priority */
    ck_assert_int_eq(put_back[1], 2); /* youngest */
    ck_assert_int_eq(p.n_runs, 2);
    p = plan_of(seqs, 1, (em_sched_budget){.n_tokens = 64, .n_logits = 10, .free_blocks = 0});
    ck_assert_int_eq(p.n_put_back, 0); /* the last one stays */
}
END_TEST

START_TEST(who_is_next)
{
    em_sched_head heads[] = {{1, 0, 0}, {0, 70, 1}, {0, 20, 9}, {0, 20, 5}, {-3, 500, 7}};
    ck_assert_int_eq(em_scheduler_next(heads, 5, 0), 4); /* priority */
    ck_assert_int_eq(em_scheduler_next(heads, 4, 0), 3); /* what clients got, then arrival */
    ck_assert_int_eq(em_scheduler_next(heads, 3, 0), 2);
    ck_assert_int_eq(em_scheduler_next(heads, 5, EM_SCHED_FAIR_TURN - 1), 0); /* the oldest of all */
    ck_assert_int_eq(em_scheduler_next(heads, 0, 0), -1);
}
END_TEST

START_TEST(nothing_to_do)
{
    em_plan p = plan_of(NULL, 0, (em_sched_budget){.n_tokens = 8, .n_logits = 8, .free_blocks = 4});
    ck_assert_int_eq(p.n_runs, 0);
    ck_assert_int_eq(p.n_put_back, 0);
    ck_assert_int_eq(p.n_tokens, 0);
}
END_TEST

/* --- the simulator ------------------------------------------------------------------------------------------ */

/* Plain tests, because an assertion of Check costs a system call. */
#define MUST(cond, ...)                                                                                                \
    do {                                                                                                               \
        if (!(cond))                                                                                                   \
            ck_abort_msg(__VA_ARGS__);                                                                                 \
    } while (0)

enum { MAX_SEQS = 48, MAX_LIVE = 400, N_CLIENTS = 4, N_PRIORITIES = 3, N_LINES = N_CLIENTS * N_PRIORITIES };
enum { BLOCK_TOKENS = 8, MAX_POSITIONS = 400 };

typedef struct sim_seq {
    uint64_t serial;
    int32_t line;                     /* priority * N_CLIENTS + client */
    int32_t n_prompt, n_known, n_end; /* tokens: of the prompt, known, known when it ends */
    int32_t pos, n_told;              /* n_told: scores made for so many positions */
    bool scores;
    em_seq_kv kv;
    int64_t n_admitted_before, n_ahead, n_put_back_before; /* when it began to wait */
    struct sim_seq *prev, *next;                           /* waiting: its line; free: the pool */
} sim_seq;

typedef struct sim {
    unsigned long long seed;
    uint64_t n_draws;
    em_kv_cache *kv;
    em_sched_budget budget;
    int32_t n_slots, n_blocks;
    sim_seq pool[MAX_LIVE], *unused;
    sim_seq *head[N_LINES], *tail[N_LINES];
    sim_seq *running[MAX_SEQS];
    int32_t n_running, n_waiting;
    uint64_t served[N_CLIENTS];
    int64_t n_arrived, n_ended, n_admitted, n_put_back, n_steps;
    int64_t n_done[N_PRIORITIES];
} sim;

static uint32_t sim_rand(sim *m, uint32_t n)
{
    return (uint32_t)(em_rng_u64(m->seed, 0, m->n_draws++, 0) % n);
}

static void line_push(sim *m, sim_seq *q)
{
    sim_seq *before = m->tail[q->line];
    while (before && before->serial > q->serial)
        before = before->prev;
    q->prev = before;
    q->next = before ? before->next : m->head[q->line];
    *(before ? &before->next : &m->head[q->line]) = q;
    *(q->next ? &q->next->prev : &m->tail[q->line]) = q;
    q->n_admitted_before = m->n_admitted;
    q->n_put_back_before = m->n_put_back;
    q->n_ahead = m->n_waiting++;
}

static void line_remove(sim *m, sim_seq *q)
{
    *(q->prev ? &q->prev->next : &m->head[q->line]) = q->next;
    *(q->next ? &q->next->prev : &m->tail[q->line]) = q->prev;
    m->n_waiting--;
}

static void sim_arrive(sim *m)
{
    sim_seq *q = m->unused;
    if (!q)
        return;
    m->unused = q->next;
    int32_t n_prompt = 1 + (int32_t)sim_rand(m, sim_rand(m, 20) ? 24 : 300),
            n_new = 1 + (int32_t)sim_rand(m, sim_rand(m, 10) ? 8 : 60);
    /* one client sends as much as all others */
    int32_t client = sim_rand(m, 2) ? 0 : (int32_t)sim_rand(m, N_CLIENTS);
    *q = (sim_seq){
        .serial = (uint64_t)m->n_arrived++,
        .line = (sim_rand(m, 8) ? 1 : (int32_t)sim_rand(m, N_PRIORITIES)) * N_CLIENTS + client,
        .n_prompt = n_prompt,
        .n_known = n_prompt,
        .n_end = n_prompt + n_new,
        .scores = sim_rand(m, 12) == 0,
        .kv.slot = -1,
    };
    line_push(m, q);
}

static void sim_end(sim *m, sim_seq *q)
{
    em_seq_kv_close(m->kv, &q->kv);
    q->next = m->unused;
    m->unused = q;
    m->n_ended++;
}

static void running_remove(sim *m, int32_t i)
{
    m->n_running--;
    memmove(&m->running[i], &m->running[i + 1], (size_t)(m->n_running - i) * sizeof(m->running[0]));
}

/* A random one leaves, wherever it is. */
static void sim_cancel(sim *m)
{
    if (m->n_running && sim_rand(m, 2)) {
        int32_t i = (int32_t)sim_rand(m, (uint32_t)m->n_running);
        sim_end(m, m->running[i]);
        running_remove(m, i);
        return;
    }
    sim_seq *q = m->tail[sim_rand(m, N_LINES)];
    if (q) {
        line_remove(m, q);
        sim_end(m, q);
    }
}

static em_sched_head rank_of(const sim *m, const sim_seq *q)
{
    return (em_sched_head){
        .priority = q->line / N_CLIENTS, .served = m->served[q->line % N_CLIENTS], .serial = q->serial};
}

static int32_t growth_of(const sim *m, const sim_seq *q, int32_t n_positions)
{
    return em_kv_cache_blocks_for(m->kv, n_positions) > q->kv.n_blocks;
}

static void admit_one(sim *m, sim_seq *q)
{
    int64_t n_overtaken = m->n_admitted - q->n_admitted_before;
    int64_t n_before = q->n_ahead + m->n_put_back - q->n_put_back_before + 1;
    MUST(n_overtaken <= EM_SCHED_FAIR_TURN * n_before, "sequence %llu waits for ever", (unsigned long long)q->serial);
    line_remove(m, q);
    int rc = em_seq_kv_open(m->kv, &q->kv);
    rc = rc ? rc : em_seq_kv_reserve(m->kv, &q->kv, q->n_known);
    MUST(rc == 0, "let in without room");
    if (q->n_known == q->n_prompt)
        m->served[q->line % N_CLIENTS] += (uint64_t)q->n_prompt;
    m->running[m->n_running++] = q;
    m->n_admitted++;
}

static void sim_admit(sim *m)
{
    int32_t growth = 0;
    for (int32_t i = 0; i < m->n_running; i++)
        growth += growth_of(m, m->running[i], m->running[i]->n_end - 1);
    while (em_kv_cache_free_slots(m->kv)) {
        em_sched_head heads[N_LINES];
        sim_seq *of[N_LINES];
        int32_t n = 0;
        for (int32_t l = 0; l < N_LINES; l++) {
            if (!m->head[l])
                continue;
            of[n] = m->head[l];
            heads[n++] = rank_of(m, m->head[l]);
        }
        int32_t best = em_scheduler_next(heads, n, (uint64_t)m->n_admitted);
        MUST((best < 0) == (n == 0), "nobody is next of %d", n);
        if (best < 0)
            return;
        int32_t room =
            of[best]->n_known + BLOCK_TOKENS < of[best]->n_end ? of[best]->n_known + BLOCK_TOKENS : of[best]->n_end - 1;
        if (em_kv_cache_blocks_for(m->kv, room) + growth > em_kv_cache_free_blocks(m->kv))
            return;
        admit_one(m, of[best]);
    }
}

static void describe(const sim *m, em_sched_seq *sched)
{
    for (int32_t i = 0; i < m->n_running; i++) {
        const sim_seq *q = m->running[i];
        int32_t cut = q->pos / 64 * 64 + 64;
        sched[i] = (em_sched_seq){
            .rank = rank_of(m, q),
            .draws = true,
            .scores = q->scores && q->n_told < q->n_prompt - 1 && q->pos < q->n_prompt - 1,
            .pos = q->pos,
            .goal = q->n_known,
            .stop = cut < q->n_known ? cut : q->n_known,
            .n_blocks = growth_of(m, q, q->pos + 1),
            .n_freed = q->kv.n_blocks,
        };
    }
}

/* The promises about whom a step leaves out. */
static void check_fair(const sim *m, const em_sched_seq *sched, const em_plan *p)
{
    int32_t n_run[MAX_SEQS] = {0}, n_decode = 0, first = 0, oldest = -1;
    bool back[MAX_SEQS] = {false};
    for (int32_t k = 0; k < p->n_put_back; k++)
        back[p->put_back[k]] = true;
    for (int32_t k = 0; k < p->n_runs; k++) {
        MUST(!n_run[p->runs[k].seq_idx] && !back[p->runs[k].seq_idx], "planned twice, or put back");
        n_run[p->runs[k].seq_idx] = p->runs[k].n_tokens;
    }
    for (int32_t i = 0; i < m->n_running; i++) {
        const em_sched_head *a = &sched[i].rank, *b = &sched[first].rank;
        if (a->priority < b->priority || (a->priority == b->priority && a->serial < b->serial))
            first = i;
        if (back[i])
            continue;
        bool decode = sched[i].goal - sched[i].pos == 1;
        n_decode += decode;
        MUST(!decode || n_run[i] == 1, "a decode is left out");
        if (!decode && (oldest < 0 || a->serial < sched[oldest].rank.serial))
            oldest = i;
    }
    MUST(!m->n_running || !back[first], "the first of all is put back");
    if (oldest < 0)
        return;
    int32_t share = (m->budget.n_tokens - n_decode) / EM_SCHED_OLDEST_SHARE;
    int32_t useful = sched[oldest].scores ? 1 : sched[oldest].stop - sched[oldest].pos;
    MUST(n_run[oldest] >= (share < 1        ? 1
                           : share < useful ? share
                                            : useful),
         "the oldest prefill gets %d of %d tokens", n_run[oldest], share);
}

/* Checks one run and moves its sequence on; true: it has ended. */
static bool advance(sim *m, sim_seq *q, const em_sched_seq *d, const em_sched_run *run)
{
    MUST(run->n_tokens >= 1 && d->pos + run->n_tokens <= d->stop, "a run of %d tokens", run->n_tokens);
    bool reached = d->pos + run->n_tokens == d->goal;
    MUST(run->n_logits == (d->scores ? run->n_tokens : reached), "%d rows of logits", run->n_logits);
    int rc = em_seq_kv_reserve(m->kv, &q->kv, d->pos + run->n_tokens);
    MUST(rc == 0, "planned without room");
    q->pos += run->n_tokens;
    q->n_told = q->pos > q->n_told ? q->pos : q->n_told;
    if (!reached)
        return false;
    m->served[q->line % N_CLIENTS]++;
    return ++q->n_known == q->n_end;
}

static void put_back_all(sim *m, const em_plan *p)
{
    sim_seq *victim[MAX_SEQS];
    for (int32_t k = 0; k < p->n_put_back; k++)
        victim[k] = m->running[p->put_back[k]];
    for (int32_t k = 0; k < p->n_put_back; k++) {
        em_seq_kv_close(m->kv, &victim[k]->kv);
        victim[k]->pos = 0;
        int32_t i = 0;
        while (m->running[i] != victim[k])
            i++;
        running_remove(m, i);
        m->n_put_back++;
        line_push(m, victim[k]);
    }
}

static void check_sums(const sim *m, const em_plan *p, const em_plan *again, int32_t growth)
{
    MUST(p->n_runs == again->n_runs && p->n_put_back == again->n_put_back, "two plans of the same inputs differ");
    MUST(memcmp(p->runs, again->runs, (size_t)p->n_runs * sizeof(p->runs[0])) == 0, "two plans differ");
    MUST(memcmp(p->put_back, again->put_back, (size_t)p->n_put_back * sizeof(int32_t)) == 0, "two plans differ");
    int32_t n_tokens = 0, n_logits = 0;
    for (int32_t k = 0; k < p->n_runs; k++) {
        n_tokens += p->runs[k].n_tokens;
        n_logits += p->runs[k].n_logits;
    }
    MUST(n_tokens == p->n_tokens && n_logits == p->n_logits, "sums are wrong");
    MUST(n_tokens <= m->budget.n_tokens && n_logits <= m->budget.n_logits, "over the budget");
    MUST(!p->n_put_back || growth > m->budget.free_blocks, "put back without need");
}

/* One step; every promise of the header is checked. */
static void sim_step(sim *m)
{
    static em_sched_seq sched[MAX_SEQS];
    static em_sched_run run[MAX_SEQS], run2[MAX_SEQS];
    static int32_t back[MAX_SEQS], back2[MAX_SEQS], scratch[MAX_SEQS];
    int32_t growth = 0;
    for (int32_t i = 0; i < m->n_running; i++)
        growth += growth_of(m, m->running[i], m->running[i]->pos + 1);
    if (growth <= em_kv_cache_free_blocks(m->kv))
        sim_admit(m);
    describe(m, sched);
    m->budget.free_blocks = em_kv_cache_free_blocks(m->kv);
    em_plan p = {.runs = run, .put_back = back, .order = scratch};
    em_plan again = {.runs = run2, .put_back = back2, .order = scratch};
    em_scheduler_plan(sched, m->n_running, &m->budget, &p);
    em_scheduler_plan(sched, m->n_running, &m->budget, &again);
    check_sums(m, &p, &again, growth);
    check_fair(m, sched, &p);
    MUST(p.n_runs || (!m->n_running && !m->n_waiting), "%d run, %d wait, and nothing is done", m->n_running,
         m->n_waiting);
    sim_seq *of[MAX_SEQS];
    memcpy(of, m->running, sizeof(of));
    put_back_all(m, &p);
    for (int32_t k = 0; k < p.n_runs; k++) {
        sim_seq *q = of[run[k].seq_idx];
        if (!advance(m, q, &sched[run[k].seq_idx], &run[k]))
            continue;
        m->n_done[q->line / N_CLIENTS]++;
        int32_t i = 0;
        while (m->running[i] != q)
            i++;
        running_remove(m, i);
        sim_end(m, q);
    }
    m->n_steps++;
}

enum { N_ARRIVALS = 250000 };

START_TEST(a_million_arrivals)
{
    static sim m;
    unsigned long long seed = test_seed(4) + (unsigned)_i;
    m = (sim){.seed = seed};
    m.n_slots = 4 + (int32_t)sim_rand(&m, MAX_SEQS - 4);
    m.n_blocks = MAX_POSITIONS / BLOCK_TOKENS + (_i == 0 ? 1000 : (int32_t)sim_rand(&m, 8)); /* plenty, or too few */
    m.budget = (em_sched_budget){
        .n_tokens = m.n_slots + (int32_t)sim_rand(&m, 200),
        .n_logits = m.n_slots + (int32_t)sim_rand(&m, 8),
    };
    ck_assert_int_eq(em_kv_cache_new(m.n_slots, m.n_blocks, BLOCK_TOKENS, &m.kv), 0);
    for (int32_t i = 0; i < MAX_LIVE; i++) {
        m.pool[i].next = m.unused;
        m.unused = &m.pool[i];
    }
    while (m.n_arrived < N_ARRIVALS) {
        for (uint32_t k = sim_rand(&m, 8); k > 0; k--)
            sim_arrive(&m);
        if (sim_rand(&m, 4) == 0)
            sim_cancel(&m);
        sim_step(&m);
    }
    for (int64_t n = 0; m.n_running || m.n_waiting; n++) {
        sim_step(&m);
        MUST(n < MAX_LIVE * MAX_POSITIONS, "some never get through");
    }
    ck_assert_int_eq(m.n_ended, m.n_arrived);
    ck_assert(_i == 0 ? m.n_put_back == 0 : m.n_put_back > 100);
    ck_assert_int_eq(em_kv_cache_free_slots(m.kv), m.n_slots);
    ck_assert_int_eq(em_kv_cache_free_blocks(m.kv), m.n_blocks);
    for (int32_t i = 0; i < N_PRIORITIES; i++)
        ck_assert_int_gt(m.n_done[i], 0);
    printf("%d slots, %d blocks, %d tokens: %lld steps, %lld put back\n", m.n_slots, m.n_blocks, m.budget.n_tokens,
           (long long)m.n_steps, (long long)m.n_put_back);
    em_kv_cache_free(m.kv);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("scheduler");
    TCase *t = tcase_create("plan");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, decodes_first_then_prefill_in_order);
    tcase_add_test(t, prefill_by_rank_with_a_share_for_the_oldest);
    tcase_add_test(t, rows_of_logits_are_bounded);
    tcase_add_test(t, who_came_last_makes_room);
    tcase_add_test(t, who_is_next);
    tcase_add_test(t, nothing_to_do);
    tcase_add_loop_test(t, a_million_arrivals, 0, 4);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
