/* Decode steps of many sequences at one position of a context. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/bench_run.h"
#include "engine/cpu/read_rate.h"

#define COMPUTED_TOKENS 512 /* of a context; the rest repeats their state */

/* Sequences that stand at the same position of contexts of their own. */
typedef struct crowd {
    em_bench_run *b;
    em_kv_cache *kv;
    int32_t context;
    int32_t first, pos; /* steps compute positions first .. context - 1, again and again */
    int32_t n, cap;
    em_seq_kv *seq;    /* [cap] */
    int32_t **ids;     /* [cap][context] */
    em_batch_seq *run; /* [cap] */
} crowd;

/* --- contexts --------------------------------------------------------------------------------------------------- */

/* Computes positions [0, end) of the first sequence, in steps as long as they may be. */
static int compute(crowd *c, int32_t end, em_error *err)
{
    int32_t most = em_model_max_batch_tokens(c->b->model);
    for (int32_t pos = 0; pos < end;) {
        int32_t n = end - pos < most ? end - pos : most;
        em_batch_seq run = {.kv = &c->seq[0], .tokens = c->ids[0], .pos = pos, .n_tokens = n};
        em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = n};
        int r = em_model_forward(c->b->model, &batch, NULL, c->b->logits, err);
        if (r < 0)
            return r;
        pos += n;
    }
    return 0;
}

/* One more sequence with ids and room for its whole context. -EAGAIN: there is no room. */
static int add_seq(crowd *c)
{
    int32_t *ids = malloc((size_t)c->context * sizeof(*ids));
    if (!ids)
        return -ENOMEM;
    int r = em_seq_kv_open(c->kv, &c->seq[c->n]);
    if (r == 0 && (r = em_seq_kv_reserve(c->kv, &c->seq[c->n], c->context)) < 0)
        em_seq_kv_close(c->kv, &c->seq[c->n]);
    if (r < 0) {
        free(ids);
        return r;
    }
    for (int32_t i = 0; i < c->context; i++)
        ids[i] = em_bench_token(c->b);
    c->ids[c->n++] = ids;
    return 0;
}

/* The state of the computed blocks, again and again, and the same windows. */
static void copy_state(crowd *c, int32_t to, int32_t n_computed)
{
    em_model *m = c->b->model;
    const em_seq_kv *from = &c->seq[0], *kv = &c->seq[to];
    if (n_computed == 0)
        return;
    for (int32_t i = to ? 0 : n_computed; i < kv->n_blocks; i++)
        em_model_copy_block(m, from->block_table[i % n_computed], kv->block_table[i]);
    if (to)
        em_model_copy_slot(m, from->slot, kv->slot);
}

static void crowd_done(crowd *c)
{
    for (int32_t i = 0; i < c->n; i++) {
        em_seq_kv_close(c->kv, &c->seq[i]);
        free(c->ids[i]);
    }
    free(c->seq);
    free(c->ids);
    free(c->run);
}

/* As many sequences at this context as there is room for, up to cap. */
static int crowd_init(crowd *c, em_bench_run *b, int32_t context, int32_t cap, em_error *err)
{
    em_kv_cache *kv = em_model_kv_cache(b->model);
    int32_t block = em_kv_cache_block_tokens(kv), first = (context - 1) / block * block;
    if (context - first < block && first >= block)
        first -= block; /* room for groups of every size to begin and end */
    int32_t window = (b->cfg->window + block - 1) / block * block;
    int32_t computed = window > COMPUTED_TOKENS ? window : (COMPUTED_TOKENS + block - 1) / block * block;
    computed = computed < first ? computed : first;
    *c = (crowd){.b = b, .kv = kv, .context = context, .first = first, .pos = first, .cap = cap};
    c->seq = calloc((size_t)cap, sizeof(*c->seq));
    c->ids = calloc((size_t)cap, sizeof(*c->ids));
    c->run = calloc((size_t)cap, sizeof(*c->run));
    int r = c->seq && c->ids && c->run ? add_seq(c) : -ENOMEM;
    if (r == 0)
        r = compute(c, computed, err);
    else if (r != -EAGAIN)
        em_error_set(err, r, "not enough memory for sequences of %d tokens", context);
    if (r < 0) {
        crowd_done(c);
        return r;
    }
    while (c->n < cap && add_seq(c) == 0)
        ;
    for (int32_t i = 0; i < c->n; i++)
        copy_state(c, i, computed / block);
    return 0;
}

/* --- steps ------------------------------------------------------------------------------------------------------ */

typedef struct step_cost {
    uint64_t ns;        /* of whole steps */
    uint64_t sample_ns; /* of drawing tokens */
} step_cost;

/* A decode step of the first n sequences, with tokens drawn as a server would. */
static int step(crowd *c, int32_t n, step_cost *cost, em_error *err)
{
    em_bench_run *b = c->b;
    em_sampling how = {.temperature = 0, .top_p = 1};
    for (int32_t i = 0; i < n; i++) {
        c->ids[i][c->pos] = em_bench_token(b);
        c->run[i] = (em_batch_seq){.kv = &c->seq[i], .tokens = c->ids[i], .pos = c->pos, .n_tokens = 1, .n_logits = 1};
    }
    em_batch batch = {.seqs = c->run, .n_seqs = n, .n_tokens = n, .n_logits = n};
    em_step_times before, after;
    em_model_get_times(b->model, &before);
    uint64_t start_ns = em_now_ns();
    int r = em_model_forward(b->model, &batch, NULL, b->logits, err);
    uint64_t forward_ns = em_now_ns();
    for (int32_t i = 0; i < n && r == 0; i++) {
        int32_t id;
        r = em_sampler_pick(b->sampler, b->logits + (int64_t)i * b->cfg->vocab_size, &how, 0, (uint64_t)c->pos, &id);
        if (r < 0)
            em_error_set(err, r, "the model's output is not a number: the checkpoint or the machine is faulty");
    }
    uint64_t end_ns = em_now_ns();
    em_model_get_times(b->model, &after);
    em_bench_add_sample(&b->waits, (double)(after.wait - before.wait) / 1e3);
    cost->ns += end_ns - start_ns;
    cost->sample_ns += end_ns - forward_ns;
    c->pos = c->pos + 1 < c->context ? c->pos + 1 : c->first;
    return r;
}

/* Parts of a step, from the clocks' readings before and after n_steps. */
static void split_time(const em_step_times *a, const em_step_times *z, const step_cost *cost, double n_steps,
                       em_bench_decode *point)
{
    double ms = 1e-6 / n_steps, lookup = (double)(z->ask - a->ask + z->wait - a->wait);
    em_bench_ms *part = &point->ms;
    part->engram = (lookup + (double)(z->engram - a->engram)) * ms;
    part->attention = (double)(z->attention - a->attention) * ms;
    part->moe = (double)(z->moe - a->moe) * ms;
    part->dense = (double)(z->dense - a->dense) * ms;
    part->head = (double)(z->head - a->head) * ms;
    part->other = (double)cost->ns * ms - part->engram - part->attention - part->moe - part->dense - part->head;
    point->engram_fraction = lookup / (double)cost->ns;
}

static int measure(crowd *c, int32_t n, em_bench_decode *ret_point, em_error *err)
{
    em_bench_run *b = c->b;
    double read[EM_BENCH_ROUNDS], rate[EM_BENCH_ROUNDS];
    em_bench_decode point = {.batch = n, .context = c->context};
    step_cost cost = {0};
    em_step_times before, after;
    int64_t fixed, expert, n_steps = 0;
    int kept = b->waits.n, r = step(c, n, &cost, err); /* warms up */
    b->waits.n = kept;
    cost = (step_cost){0};
    em_model_get_times(b->model, &before);
    for (int round = 0; round < EM_BENCH_ROUNDS && r == 0; round++) {
        read[round] = em_bench_read_once(b);
        uint64_t round_ns = cost.ns;
        int64_t steps = 0;
        for (; r == 0 && (steps == 0 || cost.ns - round_ns < b->opts->point_ns / EM_BENCH_ROUNDS); steps++)
            r = step(c, n, &cost, err);
        rate[round] = (double)steps * n * 1e9 / (double)(cost.ns - round_ns);
        n_steps += steps;
    }
    if (r < 0)
        return r;
    em_model_get_times(b->model, &after);
    split_time(&before, &after, &cost, (double)n_steps, &point);
    em_model_step_bytes(b->model, &fixed, &expert);
    double experts = (double)(after.experts_read - before.experts_read) / (double)n_steps;
    point.bytes_per_token = ((double)fixed + experts * (double)expert) / n;
    point.tok_s = em_median(rate, EM_BENCH_ROUNDS);
    point.fraction_of_read = point.bytes_per_token * point.tok_s / em_median(read, EM_BENCH_ROUNDS);
    *ret_point = point;
    return 0;
}

static int measure_context(em_bench_run *b, int32_t context, em_bench_result *result, em_error *err)
{
    const em_bench_opts *o = b->opts;
    int32_t most = 0;
    crowd c;
    for (int32_t i = 0; i < o->n_batches; i++)
        most = o->batch[i] > most ? o->batch[i] : most;
    int r = context <= em_model_max_len(b->model) ? crowd_init(&c, b, context, most, err) : -EAGAIN;
    if (r == -EAGAIN) {
        result->n_skipped += o->n_batches;
        em_bench_progress(b, "decode", o->n_batches);
        return 0;
    }
    if (r < 0)
        return r;
    for (int32_t i = 0; i < o->n_batches && r == 0; i++) {
        if (o->batch[i] > c.n)
            result->n_skipped++;
        else if ((r = measure(&c, o->batch[i], &result->decode[result->n_decode], err)) == 0)
            result->n_decode++;
        em_bench_progress(b, "decode", 1);
    }
    crowd_done(&c);
    return r;
}

int em_bench_decode_all(em_bench_run *b, em_bench_result *result, em_error *err)
{
    int r = 0;
    for (int32_t i = 0; i < b->opts->n_contexts && r == 0; i++)
        r = measure_context(b, b->opts->context[i], result, err);
    if (r == 0) {
        result->wait_us_p50 = em_bench_percentile(&b->waits, 0.50);
        result->wait_us_p99 = em_bench_percentile(&b->waits, 0.99);
    }
    return r;
}
