/* The output head: collapse with the last site's pre, norm, product with the vocabulary (spec 4.2, 4.11), only for tokens
 * whose logits somebody wants. */
#include "engine/cpu/cpu.h"

#include <stdint.h>

/* Token whose logits are row i of the answer: the last n_logits of each run, runs in order. */
static int32_t token_of_logits(const em_cpu *c, int64_t i)
{
    int32_t seq = 0;
    while (i >= c->batch->seqs[seq].n_logits)
        i -= c->batch->seqs[seq++].n_logits;
    const em_batch_seq *run = &c->batch->seqs[seq];
    return c->run_start[seq] + run->n_tokens - run->n_logits + (int32_t)i;
}

static void last_item(void *ctx, int64_t i, int worker)
{
    em_cpu *c = ctx;
    float *h = c->last + i * c->cfg->hidden_size;
    em_cpu_collapse(c, token_of_logits(c, i), h);
    em_cpu_rmsnorm(c, h, h, c->w->norm, c->cfg->hidden_size);
}

int em_cpu_head(em_backend *be, float *logits, em_error *err)
{
    em_cpu *c = (em_cpu *)be;
    if (c->batch->n_logits == 0)
        return 0;
    em_pool_run(c->pool, last_item, c, c->batch->n_logits);
    em_linear_job job = em_cpu_job(c, &c->w->head, c->last, c->cfg->hidden_size, logits);
    job.n_rows = c->batch->n_logits;
    em_cpu_linear(c, &job, 1);
    return 0;
}
