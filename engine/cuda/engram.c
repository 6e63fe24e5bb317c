/* Engram layers: rows on their way to the device, then keys, value, gate (spec 5.5).
 *
 * Rows come in one of two ways. Where the tables lie in page-locked memory, a decode step's rows are read from there by
 * the device itself, on the second stream, from the moment the row ids are known; the layer waits for that stream. In
 * all other cases the service has gathered them side by side, and one copy brings them. */
#include "engine/cuda/cuda.h"

#include <string.h>

static size_t n_rows(const em_cuda *c, int32_t tokens)
{
    return (size_t)tokens * (size_t)c->n_cols;
}

void em_cuda_table(em_backend *be, int32_t table_idx, const em_engram_table *table)
{
    em_cuda *c = (em_cuda *)be;
    em_cuda_rows *r = &c->rows[table_idx];
    bool readable = em_cuda_is_pinned(c, table->codes) && (!table->scales || em_cuda_is_pinned(c, table->scales));
    r->codes = readable ? table->codes : NULL;
    r->scales = readable ? table->scales : NULL;
}

/* Copies what a decode step needs into memory whose address graphs know; padding tokens repeat the last one. */
static void keep(const em_cuda *c, void *to, const void *from, int32_t tokens, size_t row_bytes)
{
    size_t bytes = n_rows(c, 1) * row_bytes;
    memcpy(to, from, (size_t)tokens * bytes);
    for (int32_t t = tokens; t < c->step.n_tokens; t++)
        memcpy((uint8_t *)to + (size_t)t * bytes, (const uint8_t *)from + (size_t)(tokens - 1) * bytes, bytes);
}

/* The second stream begins where the first one stands. */
static bool fork_side(em_cuda *c)
{
    return em_cuda_ok(c, cudaEventRecord(c->fork, c->stream), "an event") &&
           em_cuda_ok(c, cudaStreamWaitEvent(c->side, c->fork, 0), "waiting for an event");
}

bool em_cuda_expect(em_backend *be, int32_t table_idx, const em_engram_rows *rows)
{
    em_cuda *c = (em_cuda *)be;
    em_cuda_rows *r = &c->rows[table_idx];
    r->fetched = r->codes && c->n_decode > 0;
    if (!r->fetched)
        return false;
    keep(c, r->host_ids, rows->row_id, rows->n_tokens, sizeof(int64_t));
    if (!em_cuda_active(c))
        return true;
    em_cuda_engram_rows_args a = {.dtype = c->weights.engram[table_idx].dtype,
                                  .codes = r->codes,
                                  .scales = r->scales,
                                  .row_id = r->ids,
                                  .out = r->ahead,
                                  .n_tokens = c->step.n_tokens,
                                  .n_cols = c->n_cols,
                                  .head_dim = c->cfg->engram_head_dim};
    if (fork_side(c) &&
        em_cuda_ok(c,
                   cudaMemcpyAsync(r->ids, r->host_ids, n_rows(c, c->step.n_tokens) * sizeof(int64_t),
                                   cudaMemcpyHostToDevice, c->side),
                   "sending row ids") &&
        em_cuda_ok(c, em_cuda_engram_rows(c->side, &a), "fetching Engram rows"))
        em_cuda_ok(c, cudaEventRecord(r->ready, c->side), "an event");
    return true;
}

/* Gathered rows -> engram_in. A decode step keeps them first, because a graph knows no ticket. */
static bool bring_rows(em_cuda *c, int32_t table_idx, const em_engram_rows *rows)
{
    em_cuda_rows *r = &c->rows[table_idx];
    const uint8_t *codes = rows->codes, *scales = rows->scales;
    if (c->n_decode > 0) {
        keep(c, r->host_codes, rows->codes, rows->n_tokens, r->row_bytes);
        if (scales)
            keep(c, r->host_scales, rows->scales, rows->n_tokens, r->scale_bytes);
        codes = r->host_codes;
        scales = scales ? r->host_scales : NULL;
    }
    if (!em_cuda_active(c))
        return false;
    size_t n = n_rows(c, c->step.n_tokens);
    em_cuda_engram_rows_args a = {.dtype = c->weights.engram[table_idx].dtype,
                                  .codes = c->row_codes,
                                  .scales = scales ? c->row_scales : NULL,
                                  .out = c->engram_in,
                                  .n_tokens = c->step.n_tokens,
                                  .n_cols = c->n_cols,
                                  .head_dim = c->cfg->engram_head_dim};
    return em_cuda_ok(c, cudaMemcpyAsync(c->row_codes, codes, n * r->row_bytes, cudaMemcpyHostToDevice, c->stream),
                      "sending Engram rows") &&
           (!scales ||
            em_cuda_ok(c, cudaMemcpyAsync(c->row_scales, scales, n * r->scale_bytes, cudaMemcpyHostToDevice, c->stream),
                       "sending Engram scales")) &&
           em_cuda_ok(c, em_cuda_engram_rows(c->stream, &a), "widening Engram rows");
}

void em_cuda_engram(em_backend *be, int32_t layer, const em_engram_rows *rows)
{
    em_cuda *c = (em_cuda *)be;
    int32_t table_idx = c->cfg->role[layer].engram_idx;
    em_cuda_rows *r = &c->rows[table_idx];
    const em_engram_weights *w = c->weights.layers[layer].engram;
    const float *in = rows ? c->engram_in : r->ahead;
    bool there = rows ? bring_rows(c, table_idx, rows)
                      : em_cuda_active(c) &&
                            em_cuda_ok(c, cudaStreamWaitEvent(c->stream, r->ready, 0), "waiting for Engram rows");
    if (!there)
        return;
    em_cuda_linear_job job = em_cuda_job(c, &w->wkv, in, w->wkv.cols, c->engram_kv);
    em_cuda_engram_gate_args gate = {.kv = c->engram_kv,
                                     .qk_weight = w->qk_weight,
                                     .streams = c->streams,
                                     .gate = c->engram_gate,
                                     .n_tokens = c->step.n_tokens,
                                     .hc = c->cfg->hc_mult,
                                     .hidden = c->cfg->hidden_size,
                                     .norm_eps = c->cfg->norm_eps};
    if (em_cuda_ok(c, em_cuda_linear(c->stream, &job, 1, EM_CUDA_MATH_F32), "Engram's products"))
        em_cuda_ok(c, em_cuda_engram_gate(c->stream, &gate), "Engram's gate");
}
