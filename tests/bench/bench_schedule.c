/* What planning costs: running sequences, most of them decoding, some amid their prompts, and a long waiting line. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "engine/scheduler.h"

enum { MAX_SEQS = 1024, N_LINES = 64, N_STEPS = 20000 };

static em_sched_seq seqs[MAX_SEQS];
static em_sched_run runs[MAX_SEQS];
static int32_t put_back[MAX_SEQS], order[MAX_SEQS];
static em_sched_head heads[N_LINES];
static uint64_t ns[N_STEPS];

static uint32_t pick(int step, int i, uint32_t n)
{
    return (uint32_t)(em_rng_u64(1, (uint32_t)step, (uint64_t)i, 0) % n);
}

static void describe(int step, int32_t n, uint32_t prefills_percent)
{
    for (int i = 0; i < n; i++) {
        bool prefill = pick(step, i, 100) < prefills_percent;
        int32_t pos = (int32_t)pick(step, 5000 + i, 4000), goal = pos + (prefill ? 1 + (int32_t)pick(step, i, 900) : 1);
        seqs[i] = (em_sched_seq){
            .rank = {.priority = i % 3, .served = pick(step, 9000 + i, 100000), .serial = (uint64_t)(i * 7919 % n)},
            .draws = true,
            .pos = pos,
            .goal = goal,
            .stop = goal,
            .n_blocks = pos % 64 == 0,
            .n_freed = pos / 64,
        };
    }
    for (int i = 0; i < N_LINES; i++)
        heads[i] = (em_sched_head){i % 2, pick(step, 20000 + i, 100000), (uint64_t)i};
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void measure(int32_t n, uint32_t prefills_percent, int32_t free_blocks)
{
    em_plan plan = {.runs = runs, .put_back = put_back, .order = order};
    em_sched_budget budget = {.n_tokens = n + 1024, .n_logits = n + 64, .free_blocks = free_blocks};
    int64_t sum = 0;
    for (int step = 0; step < N_STEPS; step++) {
        describe(step, n, prefills_percent);
        uint64_t start = em_now_ns();
        sum += em_scheduler_next(heads, N_LINES, (uint64_t)step);
        em_scheduler_plan(seqs, n, &budget, &plan);
        ns[step] = em_now_ns() - start;
        sum += plan.n_runs;
    }
    qsort(ns, N_STEPS, sizeof(ns[0]), by_size);
    printf("%5d running, %3u %% prefill, %4d blocks free: %7.2f us p50 %7.2f us p99 (%lld)\n", n, prefills_percent,
           free_blocks, (double)ns[N_STEPS / 2] * 1e-3, (double)ns[N_STEPS / 100 * 99] * 1e-3, (long long)sum);
}

int main(void)
{
    measure(256, 5, 1000);
    measure(256, 100, 1000);
    measure(256, 5, 0);
    measure(1024, 20, 1000);
    return 0;
}
