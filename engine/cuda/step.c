/* The beginning and the end of a step, and copies of state between steps. */
#include "engine/cuda/cuda.h"

#include <errno.h>
#include <string.h>

#define MIN_REACH 256 /* positions: the smallest bucket of a graph */

bool em_cuda_active(const em_cuda *c)
{
    return c->status == 0 && c->mode != EM_CUDA_REPLAY;
}

static int32_t pow2_from(int32_t n, int32_t least)
{
    int32_t p = least;
    while (p < n)
        p *= 2;
    return p;
}

/* --- the batch, flattened --------------------------------------------------------------------------------------- */

static void add_run(em_cuda *c, int32_t s, const em_batch_seq *run, int32_t *token, int32_t *logit)
{
    c->host.run_start[s] = *token;
    c->host.run_pos[s] = run->pos;
    c->host.run_len[s] = run->n_tokens;
    c->host.slot[s] = run->kv->slot;
    int32_t blocks = (run->pos + run->n_tokens + c->shape.block_tokens - 1) / c->shape.block_tokens;
    memcpy(c->host.block_table + s * c->block_stride, run->kv->block_table, (size_t)blocks * sizeof(int32_t));
    for (int32_t i = 0; i < run->n_tokens; i++, (*token)++) {
        c->host.token[*token] = run->tokens[run->pos + i];
        c->host.pos[*token] = run->pos + i;
        c->host.seq_of[*token] = s;
        if (run->n_tokens - i <= run->n_logits)
            c->host.logit[(*logit)++] = *token;
    }
    c->reach = run->pos + run->n_tokens > c->reach ? run->pos + run->n_tokens : c->reach;
}

/* A run of one token that nobody waits for: the slot and the block behind all others are its own. */
static void add_padding(em_cuda *c, int32_t s)
{
    c->host.run_start[s] = s;
    c->host.run_pos[s] = 0;
    c->host.run_len[s] = 1;
    c->host.slot[s] = c->shape.n_slots + c->shape.n_snapshots;
    c->host.block_table[s * c->block_stride] = c->plan.n_blocks;
    c->host.token[s] = 0;
    c->host.pos[s] = 0;
    c->host.seq_of[s] = s;
}

static void flatten(em_cuda *c, const em_batch *batch)
{
    int32_t token = 0, logit = 0;
    c->reach = 0;
    for (int32_t s = 0; s < batch->n_seqs; s++)
        add_run(c, s, &batch->seqs[s], &token, &logit);
    c->n_logits = logit;
    c->step.n_tokens = token;
    c->step.n_seqs = batch->n_seqs;
    c->n_decode = batch->n_tokens == batch->n_seqs ? batch->n_seqs : 0;
    if (c->n_decode > c->cap_runs)
        c->n_decode = 0;
}

/* Rounds a decode step up to its bucket. */
static void pad(em_cuda *c)
{
    int32_t runs = pow2_from(c->n_decode, 1), reach = pow2_from(c->reach, MIN_REACH);
    for (int32_t s = c->n_decode; s < runs; s++)
        add_padding(c, s);
    for (int32_t i = c->n_logits; i < runs; i++)
        c->host.logit[i] = 0;
    c->n_logits = runs;
    c->step.n_tokens = c->step.n_seqs = runs;
    c->reach = reach < c->shape.max_len ? reach : c->shape.max_len;
}

static void send(em_cuda *c)
{
    size_t row = sizeof(int32_t),
           blocks = ((size_t)c->reach + (size_t)c->shape.block_tokens - 1) / (size_t)c->shape.block_tokens;
    size_t stride = (size_t)c->block_stride * row;
    if (em_cuda_ok(c, cudaMemcpyAsync(c->dev_step, c->host_step, c->step_bytes, cudaMemcpyHostToDevice, c->stream),
                   "sending the step"))
        em_cuda_ok(c,
                   cudaMemcpy2DAsync(c->dev.block_table, stride, c->host.block_table, stride, blocks * row,
                                     (size_t)c->step.n_seqs, cudaMemcpyHostToDevice, c->stream),
                   "sending block tables");
}

static void rope_tables(em_cuda *c)
{
    em_cuda_rope_table_args a = {.step = c->step,
                                 .freq_main = c->freq_main,
                                 .freq_comp = c->freq_comp,
                                 .cos_main = c->cos_main,
                                 .sin_main = c->sin_main,
                                 .cos_comp = c->cos_comp,
                                 .sin_comp = c->sin_comp,
                                 .n_pairs = c->cfg->rope_dim / 2};
    if (em_cuda_active(c))
        em_cuda_ok(c, em_cuda_rope_table(c->stream, &a), "rotary tables");
}

/* What the last step left: a graph half recorded, or work in flight after a failure. */
static void clean_up(em_cuda *c)
{
    if (c->capturing)
        em_cuda_graph_abandon(c);
    if (c->batch) {
        cudaStreamSynchronize(c->side);
        cudaStreamSynchronize(c->stream);
    }
    cudaGetLastError();
}

int em_cuda_begin(em_backend *be, const em_batch *batch, em_error *err)
{
    em_cuda *c = (em_cuda *)be;
    if (batch->n_tokens < 1 || batch->n_tokens > c->shape.max_batch_tokens || batch->n_seqs > c->shape.n_slots)
        return em_error_set(err, -EINVAL,
                            "a step of %d tokens from %d sequences exceeds the %d tokens or %d sequences planned",
                            batch->n_tokens, batch->n_seqs, c->shape.max_batch_tokens, c->shape.n_slots);
    clean_up(c);
    c->status = 0;
    if (c->copy_failed) {
        c->copy_failed = false;
        return em_error_set(err, -EIO, "%s", c->fault.text);
    }
    c->batch = batch;
    c->n_steps++;
    c->mode = EM_CUDA_PLAIN;
    flatten(c, batch);
    bool graph = c->n_decode > 0 && !c->no_graphs;
    if (graph)
        pad(c);
    send(c);
    if (graph && c->status == 0)
        em_cuda_graph_begin(c, c->step.n_seqs, c->reach);
    rope_tables(c);
    return 0;
}

/* --- the head --------------------------------------------------------------------------------------------------- */

/* Counters travel with the results. */
static bool wait(em_cuda *c)
{
    bool ok = em_cuda_ok(c,
                         cudaMemcpyAsync(c->host_experts_read, c->experts_read, sizeof(uint64_t),
                                         cudaMemcpyDeviceToHost, c->stream),
                         "fetching counters") &&
              em_cuda_ok(c, cudaStreamSynchronize(c->stream), "computing the step");
    if (ok)
        c->base.experts_read = *c->host_experts_read;
    return ok;
}

static bool fetch_logits(em_cuda *c, float *to, int32_t n)
{
    size_t bytes = (size_t)n * (size_t)c->cfg->vocab_size * sizeof(float);
    if (bytes && !em_cuda_ok(c, cudaMemcpyAsync(c->host_logits, c->logits, bytes, cudaMemcpyDeviceToHost, c->stream),
                             "fetching logits"))
        return false;
    if (!wait(c))
        return false;
    if (bytes)
        memcpy(to, c->host_logits, bytes);
    return true;
}

static void plain_head(em_cuda *c, float *logits)
{
    int32_t n_logits = c->n_logits;
    bool ok = c->status == 0;
    for (int32_t i = 0; ok && i < n_logits; i += c->logit_rows) {
        int32_t n = n_logits - i < c->logit_rows ? n_logits - i : c->logit_rows;
        em_cuda_head_rows(c, i, n);
        ok = c->status == 0 && fetch_logits(c, logits + (int64_t)i * c->cfg->vocab_size, n);
    }
    if (ok && n_logits == 0)
        wait(c);
}

static void graph_head(em_cuda *c, float *logits)
{
    if (em_cuda_active(c))
        em_cuda_head_rows(c, 0, c->n_logits);
    if (c->status == 0)
        em_cuda_graph_launch(c);
    if (c->status == 0)
        fetch_logits(c, logits, c->batch->n_logits);
}

int em_cuda_finish(em_backend *be, float *logits, em_error *err)
{
    em_cuda *c = (em_cuda *)be;
    if (c->mode == EM_CUDA_PLAIN)
        plain_head(c, logits);
    else
        graph_head(c, logits);
    int status = c->status;
    if (status < 0) {
        clean_up(c);
        em_error_set(err, status, "%s", c->fault.text);
    }
    c->status = 0;
    c->batch = NULL;
    c->mode = EM_CUDA_PLAIN;
    return status;
}

/* --- state ------------------------------------------------------------------------------------------------------ */

static void copy_state(em_cuda *c, uint8_t *base, size_t bytes, int32_t from, int32_t to, const char *what)
{
    if (!em_cuda_ok(c,
                    cudaMemcpyAsync(base + (size_t)to * bytes, base + (size_t)from * bytes, bytes,
                                    cudaMemcpyDeviceToDevice, c->stream),
                    what))
        c->copy_failed = true;
}

void em_cuda_copy_slot(em_backend *be, int32_t from, int32_t to)
{
    em_cuda *c = (em_cuda *)be;
    copy_state(c, c->state.slots, c->layout.slot_bytes, from, to, "copying the state of a sequence");
}

void em_cuda_copy_block(em_backend *be, int32_t from, int32_t to)
{
    em_cuda *c = (em_cuda *)be;
    copy_state(c, c->state.blocks, c->layout.block_bytes, from, to, "copying a KV block");
}
