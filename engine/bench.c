/* The benchmark as a whole: opens a model that has room for all figures, measures one after the other. */
#include "engine/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/bench_run.h"
#include "engine/cpu/read_rate.h"
#include "engine/engine_open.h"
#include "engine/machine.h"
#include "engine/plan_count.h"

#define MAX_WAITS 65536
#define SEED 1

int32_t em_bench_token(em_bench_run *b)
{
    return (int32_t)(em_rng_u64(SEED, 0, b->draws++, 0) % (uint64_t)b->cfg->vocab_size);
}

void em_bench_add_sample(em_bench_samples *s, double v)
{
    if (s->n < s->cap)
        s->v[s->n++] = v;
}

double em_bench_percentile(em_bench_samples *s, double p)
{
    if (s->n == 0)
        return 0;
    em_median(s->v, s->n); /* sorts */
    int at = (int)(p * s->n);
    return s->v[at < s->n ? at : s->n - 1];
}

double em_bench_read_once(em_bench_run *b)
{
    double rate = em_read_rate_once(b->pool, b->read_data, b->opts->read_bytes);
    if (b->n_reads < b->cap_reads)
        b->read_rate[b->n_reads++] = rate;
    return rate;
}

void em_bench_progress(em_bench_run *b, const char *what, int32_t done)
{
    b->n_done += done;
    if (b->opts->on_progress)
        b->opts->on_progress(b->opts->progress_ctx, what, (double)b->n_done / b->n_points);
}

/* --- prefill ---------------------------------------------------------------------------------------------------- */

static int prefill_once(em_bench_run *b, int32_t *ids, int32_t n, double *ret_tok_s, em_error *err)
{
    em_kv_cache *cache = em_model_kv_cache(b->model);
    em_seq_kv kv = {.slot = -1};
    int32_t most = em_model_max_batch_tokens(b->model);
    for (int32_t i = 0; i < n; i++)
        ids[i] = em_bench_token(b);
    int r = em_seq_kv_open(cache, &kv);
    if (r == 0)
        r = em_seq_kv_reserve(cache, &kv, n);
    uint64_t start_ns = em_now_ns();
    for (int32_t pos = 0; r == 0 && pos < n;) {
        int32_t now = n - pos < most ? n - pos : most, logits = pos + now == n;
        em_batch_seq run = {.kv = &kv, .tokens = ids, .pos = pos, .n_tokens = now, .n_logits = logits};
        em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = now, .n_logits = logits};
        r = em_model_forward(b->model, &batch, NULL, b->logits, err);
        pos += now;
    }
    uint64_t ns = em_now_ns() - start_ns;
    em_seq_kv_close(cache, &kv);
    *ret_tok_s = (double)n * 1e9 / (double)(ns ? ns : 1);
    return r;
}

/* Fresh prompts until the time is up, at least one and at most five. */
static int prefill(em_bench_run *b, int32_t n, em_bench_result *result, em_error *err)
{
    int32_t *ids = malloc((size_t)n * sizeof(*ids));
    double rate[EM_BENCH_ROUNDS];
    int r = ids ? 0 : em_error_set(err, -ENOMEM, "not enough memory for a prompt of %d tokens", n), round = 0;
    uint64_t start_ns = em_now_ns();
    while (r == 0 && round < EM_BENCH_ROUNDS && (round == 0 || em_now_ns() - start_ns < b->opts->point_ns))
        r = prefill_once(b, ids, n, &rate[round++], err);
    free(ids);
    if (r == 0)
        result->prefill[result->n_prefill++] = (em_bench_prefill){.tokens = n, .tok_s = em_median(rate, round)};
    return r;
}

static int prefill_all(em_bench_run *b, em_bench_result *result, em_error *err)
{
    int r = 0;
    for (int32_t i = 0; i < b->opts->n_prompts && r == 0; i++) {
        int32_t n = b->opts->prompt[i];
        if (n > em_model_max_len(b->model))
            result->n_skipped++;
        else
            r = prefill(b, n, result, err);
        if (r == -EAGAIN) {
            result->n_skipped++;
            r = 0;
        }
        em_bench_progress(b, "prefill", 1);
    }
    return r;
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

static int check_sizes(const char *what, const int32_t *v, int32_t n, int32_t most, em_error *err)
{
    for (int32_t i = 0; i < n; i++)
        if (v[i] < 1 || v[i] > most)
            return em_error_set(err, -EINVAL, "a %s of %d is outside 1 .. %d", what, v[i], most);
    return 0;
}

static int check_opts(const em_bench_opts *o, em_error *err)
{
    int r = check_sizes("batch", o->batch, o->n_batches, 4096, err);
    if (r == 0)
        r = check_sizes("context", o->context, o->n_contexts, EM_BENCH_MAX_TOKENS, err);
    if (r == 0)
        r = check_sizes("prompt", o->prompt, o->n_prompts, EM_BENCH_MAX_TOKENS, err);
    if (r == 0 && o->read_bytes < 1 << 20)
        r = em_error_set(err, -EINVAL, "reading %llu bytes measures nothing: take at least 1 MiB",
                         (unsigned long long)o->read_bytes);
    return r;
}

static int32_t largest(const int32_t *v, int32_t n, int32_t most)
{
    int32_t max = 1;
    for (int32_t i = 0; i < n; i++)
        max = v[i] > max && v[i] <= most ? v[i] : max;
    return max;
}

/* KV blocks for the largest batch at the longest context, as far as half of what is free holds them. */
static int choose_kv_bytes(const em_bench_opts *o, const em_model_config *cfg, em_model_opts *mo, em_error *err)
{
    em_backend_shape shape;
    int r = em_model_shape(cfg, mo, &shape, err);
    if (r < 0)
        return r;
    int64_t context = largest(o->context, o->n_contexts, shape.max_len), tokens = context * mo->max_seqs;
    int64_t prompt = largest(o->prompt, o->n_prompts, shape.max_len);
    int64_t block = em_cpu_state_bytes(cfg, shape.block_tokens).block;
    int64_t least = ((context > prompt ? context : prompt) / shape.block_tokens + 1) * block;
    em_machine machine;
    em_machine_read(NULL, &machine);
    uint64_t room = machine.available < machine.cgroup_room ? machine.available : machine.cgroup_room;
    int64_t most = room && room / 2 < INT64_MAX ? (int64_t)(room / 2) : INT64_MAX;
    mo->kv_cache_bytes = (tokens / shape.block_tokens + mo->max_seqs) * block;
    mo->kv_cache_bytes = mo->kv_cache_bytes < most ? mo->kv_cache_bytes : most;
    mo->kv_cache_bytes = mo->kv_cache_bytes > least ? mo->kv_cache_bytes : least;
    return 0;
}

static int open_model(em_bench_run *b, em_engine_opts *engine, em_error *err)
{
    const em_bench_opts *o = b->opts;
    em_model_opts mo;
    em_model_config *cfg = malloc(sizeof(*cfg));
    if (!cfg)
        return em_error_set(err, -ENOMEM, "out of memory");
    engine->max_seqs = largest(o->batch, o->n_batches, INT32_MAX);
    if (engine->max_batch_tokens && engine->max_batch_tokens < engine->max_seqs)
        engine->max_batch_tokens = engine->max_seqs;
    int r = em_engine_model_opts(engine, &mo, err);
    if (r == 0)
        r = em_model_config_load(mo.dir, cfg, err);
    if (r == 0)
        r = choose_kv_bytes(o, cfg, &mo, err);
    if (r == 0)
        r = em_model_open(&mo, &b->model, err);
    engine->kv_cache_bytes = mo.kv_cache_bytes;
    free(cfg);
    return r;
}

static int open_run(em_bench_run *b, em_error *err)
{
    const em_bench_opts *o = b->opts;
    b->cfg = em_model_get_config(b->model);
    b->cap_reads = EM_BENCH_ROUNDS * (EM_BENCH_MAX_POINTS + 1);
    b->waits.cap = MAX_WAITS;
    b->logits = malloc((size_t)largest(o->batch, o->n_batches, INT32_MAX) * (size_t)b->cfg->vocab_size * sizeof(float));
    b->read_rate = malloc((size_t)b->cap_reads * sizeof(*b->read_rate));
    b->waits.v = malloc(MAX_WAITS * sizeof(*b->waits.v));
    b->read_data = em_huge_alloc(o->read_bytes);
    if (!b->read_data)
        return em_error_set(err, -ENOMEM,
                            "not enough memory to measure the read rate with %llu bytes; lower --read-bytes",
                            (unsigned long long)o->read_bytes);
    if (!b->logits || !b->read_rate || !b->waits.v || em_sampler_new(b->cfg->vocab_size, &b->sampler) < 0)
        return em_error_set(err, -ENOMEM, "not enough memory to measure");
    int r = em_pool_new(em_model_n_threads(b->model), &b->pool);
    return r < 0 ? em_error_set(err, r, "cannot start %d threads; lower --threads", em_model_n_threads(b->model)) : 0;
}

static void run_done(em_bench_run *b)
{
    em_pool_free(b->pool);
    em_sampler_free(b->sampler);
    em_model_close(b->model);
    free(b->logits);
    free(b->read_rate);
    free(b->waits.v);
    free(b->read_data);
}

static void describe(const em_bench_run *b, em_bench_result *result)
{
    em_machine machine;
    em_machine_read(NULL, &machine);
    memcpy(result->cpu, machine.cpu, sizeof(result->cpu));
    result->cores = em_model_n_threads(b->model);
    result->math = "f32";
    strncpy(result->device, em_model_backend_name(b->model), sizeof(result->device) - 1);
}

static int measure_all(em_bench_run *b, em_bench_result *result, em_error *err)
{
    int r = open_run(b, err);
    if (r < 0)
        return r;
    describe(b, result);
    for (int i = 0; i < EM_BENCH_ROUNDS; i++)
        em_bench_read_once(b);
    em_bench_progress(b, "prefill", 0);
    if ((r = prefill_all(b, result, err)) < 0 || (r = em_bench_decode_all(b, result, err)) < 0)
        return r;
    result->read_gbps = em_median(b->read_rate, b->n_reads) / 1e9;
    r = em_bench_gather(b, result, err);
    em_bench_progress(b, "step loop", 0);
    return r < 0 ? r : em_bench_loop(b, result, err);
}

int em_engine_bench(const em_bench_opts *opts, em_bench_result *ret_result, em_error *err)
{
    em_engine_opts engine = *opts->engine;
    em_bench_opts mine = *opts;
    mine.engine = &engine;
    em_bench_run b = {.opts = &mine, .n_points = mine.n_prompts + mine.n_batches * mine.n_contexts + 1};
    *ret_result = (em_bench_result){0};
    int r = check_opts(opts, err);
    if (r == 0)
        r = open_model(&b, &engine, err);
    if (r == 0)
        r = measure_all(&b, ret_result, err);
    if (r == 0)
        em_bench_progress(&b, "done", 1);
    run_done(&b);
    return r;
}
