#include "tests/support/loop_rig.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/rng.h"

em_request *rig_request(const int32_t *ids, int32_t n_ids, int32_t max_tokens)
{
    em_request *r = calloc(1, sizeof(*r));
    r->prompts = calloc(1, sizeof(*r->prompts));
    r->n_prompts = 1;
    r->prompts[0].ids = malloc((size_t)n_ids * sizeof(*ids));
    memcpy(r->prompts[0].ids, ids, (size_t)n_ids * sizeof(*ids));
    r->prompts[0].n_ids = n_ids;
    r->n = 1;
    r->max_tokens = max_tokens;
    r->sampling = (em_sampling){.temperature = 0, .top_p = 1};
    r->logprobs = -1;
    return r;
}

void rig_add_stop(em_request *r, const char *text)
{
    r->stops = realloc(r->stops, (size_t)(r->n_stops + 1) * sizeof(*r->stops));
    r->stops[r->n_stops++] = (em_stop){.text = strdup(text), .len = strlen(text)};
}

uint64_t rig_submit(em_engine *e, em_request *r, collector *c)
{
    uint64_t id = 0;
    em_error err = {.text = ""};
    int rc = em_engine_submit(e, r, collector_sink(c), &id, &err);
    ck_assert_msg(rc == 0, "refused: %s", err.text);
    ck_assert_uint_ne(id, 0);
    return id;
}

collector *rig_run(em_engine *e, em_request *r)
{
    collector *c = collector_new(r->n * r->n_prompts);
    rig_submit(e, r, c);
    collector_wait(c);
    return c;
}

em_engine *rig_open_with(const stub_model *stub, em_engine_opts opts)
{
    stub_model_set(stub);
    opts.model_dir = "stub";
    em_engine *e = NULL;
    em_error err = {.text = ""};
    int rc = em_engine_open(&opts, &e, &err);
    ck_assert_msg(rc == 0, "open: %s", err.text);
    return e;
}

em_engine *rig_open(const stub_model *stub, int32_t max_seqs, int32_t max_batch_tokens, int32_t max_queue)
{
    return rig_open_with(
        stub, (em_engine_opts){.max_seqs = max_seqs, .max_batch_tokens = max_batch_tokens, .max_queue = max_queue});
}

void rig_hash_logits(void *ctx, const int32_t *tokens, int32_t n, float *row)
{
    const stub_model *stub = ctx;
    uint64_t h = 1;
    for (int32_t i = 0; i < n; i++)
        h = (h ^ (uint64_t)(uint32_t)tokens[i]) * UINT64_C(0x9e3779b97f4a7c15) + (h >> 29);
    for (int32_t v = 0; v < stub->vocab_size; v++)
        row[v] = (float)(6 * em_rng_uniform(h, (uint32_t)v, 0, 0));
}

/* --- gate --------------------------------------------------------------------------------------------------- */

void rig_gate_init(rig_gate *g)
{
    *g = (rig_gate){.allowed = 0};
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, NULL);
}

void rig_gate_done(rig_gate *g)
{
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
}

void rig_gate_allow(rig_gate *g, int64_t n_steps)
{
    pthread_mutex_lock(&g->lock);
    g->allowed += n_steps;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

void rig_gate_wait(rig_gate *g, int64_t n)
{
    pthread_mutex_lock(&g->lock);
    while (g->arrived < n)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

int rig_gate_pass(void *gate, const em_batch *batch)
{
    rig_gate *g = gate;
    pthread_mutex_lock(&g->lock);
    g->arrived++;
    pthread_cond_broadcast(&g->changed);
    while (g->allowed < 1)
        pthread_cond_wait(&g->changed, &g->lock);
    g->allowed--;
    int rc = g->fail;
    g->fail = 0;
    pthread_mutex_unlock(&g->lock);
    return rc;
}

void rig_wait_idle(em_engine *e)
{
    em_engine_stats stats;
    for (int i = 0; i < 10000; i++) {
        em_engine_get_stats(e, &stats);
        if (!stats.running && !stats.waiting && stats.kv_blocks == stats.kv_blocks_free)
            return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    ck_abort_msg("still %d running, %d waiting, %d of %d blocks free", stats.running, stats.waiting,
                 stats.kv_blocks_free, stats.kv_blocks);
}
