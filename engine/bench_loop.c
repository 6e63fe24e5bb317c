/* What planning a step costs: the real step loop with as many requests at once as the largest batch. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/bench_run.h"
#include "engine/engine_open.h"

#define PROMPT_TOKENS 16
#define ANSWER_TOKENS 64

/* How many requests have not ended; the step thread counts down. */
typedef struct counter {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t left;
} counter;

static void on_event(void *ctx, em_event *ev)
{
    counter *c = ctx;
    bool last = ev->last;
    em_event_free(ev);
    if (!last)
        return;
    pthread_mutex_lock(&c->lock);
    c->left--;
    pthread_cond_signal(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static em_request *make_request(em_bench_run *b)
{
    em_request *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->prompts = calloc(1, sizeof(*r->prompts));
    r->n_prompts = r->n = 1;
    int32_t *ids = r->prompts ? malloc(PROMPT_TOKENS * sizeof(*ids)) : NULL;
    if (!ids)
        return em_request_free(r);
    for (int32_t i = 0; i < PROMPT_TOKENS; i++)
        ids[i] = em_bench_token(b);
    r->prompts[0] = (em_prompt){.ids = ids, .n_ids = PROMPT_TOKENS};
    r->max_tokens = ANSWER_TOKENS;
    r->ignore_eos = true;
    r->logprobs = -1;
    r->sampling.top_p = 1;
    return r;
}

/* Until all have ended, or the time of a figure is up and those that are left are cancelled. */
static void wait_for(counter *c, em_engine *e, const uint64_t *ids, int32_t n, uint64_t limit_ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(limit_ns / 1000000000 + 1);
    pthread_mutex_lock(&c->lock);
    while (c->left > 0 && pthread_cond_timedwait(&c->changed, &c->lock, &until) == 0)
        ;
    bool late = c->left > 0;
    pthread_mutex_unlock(&c->lock);
    for (int32_t i = 0; late && i < n; i++)
        em_engine_cancel(e, ids[i]);
    pthread_mutex_lock(&c->lock);
    while (c->left > 0)
        pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static int run_requests(em_bench_run *b, em_engine *e, em_request **requests, int32_t n, em_error *err)
{
    counter c = {.lock = PTHREAD_MUTEX_INITIALIZER, .left = n};
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&c.changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    em_sink sink = {.on_event = on_event, .ctx = &c};
    uint64_t *ids = calloc((size_t)n, sizeof(*ids));
    int r = ids ? 0 : em_error_set(err, -ENOMEM, "out of memory"), sent = 0;
    while (sent < n && r == 0 && (r = em_engine_submit(e, requests[sent], sink, &ids[sent], err)) == 0)
        requests[sent++] = NULL; /* the engine's */
    pthread_mutex_lock(&c.lock);
    c.left -= n - sent;
    pthread_mutex_unlock(&c.lock);
    wait_for(&c, e, ids, sent, b->opts->point_ns);
    pthread_mutex_destroy(&c.lock);
    pthread_cond_destroy(&c.changed);
    free(ids);
    return r;
}

int em_bench_loop(em_bench_run *b, em_bench_result *result, em_error *err)
{
    em_engine_opts opts = *b->opts->engine;
    em_engine *e = NULL;
    int32_t n = opts.max_seqs, made = 0;
    em_request **requests = calloc((size_t)n, sizeof(*requests));
    while (requests && made < n && (requests[made] = make_request(b)))
        made++;
    int r = made == n ? 0 : em_error_set(err, -ENOMEM, "out of memory");
    opts.max_queue = n;
    if (r == 0) {
        em_model *model = b->model;
        b->model = NULL;
        b->cfg = NULL;
        r = em_engine_over(model, &opts, &e, err);
    }
    if (r == 0)
        r = run_requests(b, e, requests, n, err);
    if (r == 0) {
        em_engine_stats *stats = malloc(sizeof(*stats));
        if (stats)
            em_engine_get_stats(e, stats);
        result->has_server = stats && em_histogram_total(&stats->latencies.schedule) > 0;
        if (result->has_server) {
            result->schedule_us_p50 = em_histogram_quantile(&stats->latencies.schedule, 0.50) * 1e6;
            result->schedule_us_p99 = em_histogram_quantile(&stats->latencies.schedule, 0.99) * 1e6;
        }
        free(stats);
    }
    em_engine_close(e);
    for (int32_t i = 0; requests && i < n; i++)
        em_request_free(requests[i]);
    free(requests);
    return r;
}
