/* The attention sublayer (spec 4.6, 4.8): x -> y. Every layer sees the last `window` tokens exactly; layers with
 * compression also see the positions their index owner selected, from their KV owner's compressed rows. */
#include "engine/cpu/cpu.h"

#include <math.h>
#include <string.h>

typedef struct layer_call {
    em_cpu *c;
    int32_t layer;
    const em_layer_weights *lw;
    const em_layer_role *role;
    const float *cos, *sin; /* [T, rope_dim / 2] of this layer's table */
} layer_call;

/* Everything that reads x, as one parallel region. */
static void project_x(const layer_call *call)
{
    em_cpu *c = call->c;
    const em_layer_weights *lw = call->lw;
    int64_t H = c->cfg->hidden_size;
    em_linear_job jobs[5];
    int n = 0;
    jobs[n++] = em_cpu_job(c, &lw->wq_a, c->x, H, c->q_lat);
    jobs[n++] = em_cpu_job(c, &lw->wkv, c->x, H, c->kv);
    if (call->role->kv_source_idx >= 0) {
        jobs[n++] = em_cpu_job(c, &lw->comp_wkv, c->x, H, c->comp_kv);
        if (call->role->ratio > 1)
            jobs[n++] = em_cpu_job(c, &lw->comp_wgate, c->x, H, c->comp_gate);
    }
    if (call->role->is_index_source)
        jobs[n++] = em_cpu_job(c, &lw->index_weights_proj, c->x, H, c->index_w);
    em_cpu_linear(c, jobs, n);
}

/* A window row also goes into the saved slots whose next position sees it. */
static void save_row(const layer_call *call, const em_batch_seq *run, int32_t pos, const uint8_t *row)
{
    em_cpu *c = call->c;
    for (int32_t i = 0; i < run->n_saves; i++) {
        const em_batch_save *save = &run->saves[i];
        if (pos < save->pos && save->pos - pos <= c->cfg->window)
            memcpy(em_cpu_ring_row(c, save->slot, call->layer, pos), row, c->state.at.window_row);
    }
}

/* Decodes the window rows before each run; their ring slots may be overwritten afterwards. */
static void history_item(void *ctx, int64_t seq, int worker)
{
    const layer_call *call = ctx;
    em_cpu *c = call->c;
    const em_batch_seq *run = &c->batch->seqs[seq];
    int64_t D = c->cfg->head_dim;
    for (int32_t i = 0; i < c->win_hist[seq]; i++) {
        int32_t pos = run->pos - c->win_hist[seq] + i;
        const uint8_t *row = em_cpu_ring_row(c, run->kv->slot, call->layer, pos);
        em_cpu_load_window(c, row, c->win + (c->win_off[seq] + i) * D);
        save_row(call, run, pos, row);
    }
}

/* One token's latent: norm, rotation, Q1; into the ring if it is among the run's last `window`, and decoded into win. */
static void window_item(void *ctx, int64_t token, int worker)
{
    const layer_call *call = ctx;
    em_cpu *c = call->c;
    const em_model_config *cfg = c->cfg;
    int32_t seq = c->seq_of[token], pairs = cfg->rope_dim / 2, i = (int32_t)token - c->run_start[seq];
    const em_batch_seq *run = &c->batch->seqs[seq];
    float *k = c->kv + token * cfg->head_dim;
    em_cpu_rmsnorm(c, k, k, call->lw->kv_norm, cfg->head_dim);
    em_rope_apply(k + cfg->head_dim - cfg->rope_dim, call->cos + token * pairs, call->sin + token * pairs, pairs,
                  false);
    bool keep = run->n_tokens - i <= cfg->window;
    uint8_t *row = keep ? em_cpu_ring_row(c, run->kv->slot, call->layer, c->pos[token]) : (uint8_t *)c->scratch[worker];
    em_cpu_store_window(c, row, k);
    em_cpu_load_window(c, row, c->win + (int64_t)(c->win_off[seq] + c->win_hist[seq] + i) * cfg->head_dim);
    save_row(call, run, c->pos[token], row);

    float *lat = c->q_lat + token * cfg->q_lora_rank;
    em_cpu_rmsnorm(c, lat, lat, call->lw->q_norm, cfg->q_lora_rank);
}

/* Queries from the normalised low-rank latent; the indexer's come from the same. */
static void project_q(const layer_call *call)
{
    em_cpu *c = call->c;
    em_linear_job jobs[2] = {em_cpu_job(c, &call->lw->wq_b, c->q_lat, c->cfg->q_lora_rank, c->q)};
    if (call->role->is_index_source)
        jobs[1] = em_cpu_job(c, &call->lw->index_wq_b, c->q_lat, c->cfg->q_lora_rank, c->index_q);
    em_cpu_linear(c, jobs, call->role->is_index_source ? 2 : 1);
}

static void rotate_heads(const layer_call *call, int64_t token, int32_t head, int32_t n_heads, bool inverse)
{
    const em_cpu *c = call->c;
    int32_t pairs = c->cfg->rope_dim / 2;
    int64_t D = c->cfg->head_dim;
    float *q = c->q + (token * c->cfg->n_heads + head) * D;
    for (int32_t h = 0; h < n_heads; h++)
        em_rope_apply(q + h * D + D - c->cfg->rope_dim, call->cos + token * pairs, call->sin + token * pairs, pairs,
                      inverse);
}

/* Softmax over scores and the sink, which only counts in the denominator; then the weighted sum of rows into o [D]. */
static void attend_head(const em_cpu *c, float *score, int32_t n_win, int32_t n_comp, const float *win,
                        const float *comp, float sink, float *o)
{
    int64_t D = c->cfg->head_dim, n = n_win + n_comp;
    float scale = 1.0f / sqrtf((float)D);
    for (int64_t i = 0; i < n; i++)
        score[i] *= scale;
    float max = c->k.max(score, n);
    max = sink > max ? sink : max;
    float total = c->k.exp_sum(score, max, n) + expf(sink - max);
    memset(o, 0, (size_t)D * sizeof(float));
    c->k.add_rows(o, score, win, n_win, D);
    c->k.add_rows(o, score + n_win, comp, n_comp, D);
    for (int64_t d = 0; d < D; d++)
        o[d] /= total;
}

/* Selected compressed rows of a token, decoded into this worker's scratch unless they are there from the last item. */
static const float *selected_rows(const layer_call *call, int64_t token, int worker)
{
    em_cpu *c = call->c;
    float *rows = c->scratch[worker];
    if (call->role->ratio == 0 || c->scratch_tag[worker] == token + 1)
        return rows;
    const em_seq_kv *kv = c->batch->seqs[c->seq_of[token]].kv;
    const int32_t *idx = c->topk + token * c->topk_cap;
    for (int32_t i = 0; i < c->topk_n[token]; i++)
        em_cpu_load_comp(c, em_cpu_comp_row(c, kv, call->role->owner_source_idx, idx[i]),
                         rows + (int64_t)i * c->cfg->head_dim);
    c->scratch_tag[worker] = token + 1;
    return rows;
}

/* One token, up to EM_HEAD_GROUP heads: scores, softmax, values, inverse rotation; the output replaces the query. */
static void attend_item(void *ctx, int64_t item, int worker)
{
    const layer_call *call = ctx;
    em_cpu *c = call->c;
    const em_model_config *cfg = c->cfg;
    int64_t D = cfg->head_dim, groups = (cfg->n_heads + EM_HEAD_GROUP - 1) / EM_HEAD_GROUP, token = item / groups;
    int32_t head = (int32_t)(item % groups) * EM_HEAD_GROUP, seq = c->seq_of[token];
    int32_t n_heads = cfg->n_heads - head < EM_HEAD_GROUP ? cfg->n_heads - head : EM_HEAD_GROUP;
    int32_t n_win = c->pos[token] + 1 < cfg->window ? c->pos[token] + 1 : cfg->window;
    int32_t n_comp = call->role->ratio ? c->topk_n[token] : 0;
    int64_t last = c->win_off[seq] + c->win_hist[seq] + token - c->run_start[seq];
    const float *win = c->win + (last - n_win + 1) * D;
    const float *comp = selected_rows(call, token, worker);
    float *score = c->scratch[worker] + (int64_t)c->topk_cap * D;
    float *q = c->q + (token * cfg->n_heads + head) * D;
    int64_t stride = n_win + n_comp;

    rotate_heads(call, token, head, n_heads, false);
    em_matrix view = {.dtype = EM_DTYPE_F32, .rows = n_win, .cols = D, .data = win};
    c->k.gemm_rows(&view, 0, n_win, q, D, n_heads, score, stride);
    if (n_comp) {
        view = (em_matrix){.dtype = EM_DTYPE_F32, .rows = n_comp, .cols = D, .data = comp};
        c->k.gemm_rows(&view, 0, n_comp, q, D, n_heads, score + n_win, stride);
    }
    for (int32_t h = 0; h < n_heads; h++)
        attend_head(c, score + h * stride, n_win, n_comp, win, comp, call->lw->attn_sink[head + h], q + h * D);
    rotate_heads(call, token, head, n_heads, true);
}

/* Grouped low-rank output: group g of wo_a sees only its own heads. */
static void project_out(const layer_call *call)
{
    em_cpu *c = call->c;
    const em_model_config *cfg = c->cfg;
    int64_t width = (int64_t)cfg->n_heads * cfg->head_dim, rank = cfg->o_lora_rank;
    for (int32_t g = 0; g < cfg->o_groups;) {
        em_linear_job jobs[EM_MAX_LINEAR_JOBS];
        int n = 0;
        for (; g < cfg->o_groups && n < EM_MAX_LINEAR_JOBS; g++, n++) {
            jobs[n] = em_cpu_job(c, &call->lw->wo_a, c->q + g * (width / cfg->o_groups), width, c->o_lat);
            jobs[n].row_begin = g * rank;
            jobs[n].row_end = (g + 1) * rank;
        }
        em_cpu_linear(c, jobs, n);
    }
    em_linear_job job = em_cpu_job(c, &call->lw->wo_b, c->o_lat, cfg->o_groups * rank, c->y);
    em_cpu_linear(c, &job, 1);
}

void em_cpu_attention(em_backend *be, int32_t layer)
{
    em_cpu *c = (em_cpu *)be;
    const em_layer_role *role = &c->cfg->role[layer];
    layer_call call = {c,
                       layer,
                       &c->w->layers[layer],
                       role,
                       role->ratio ? c->cos_comp : c->cos_main,
                       role->ratio ? c->sin_comp : c->sin_main};
    project_x(&call);
    em_pool_run(c->pool, history_item, &call, c->batch->n_seqs);
    em_pool_run(c->pool, window_item, &call, c->n_tokens);
    project_q(&call);
    if (role->kv_source_idx >= 0)
        em_cpu_compress(c, layer);
    if (role->is_index_source) {
        em_cpu_index_query(c, layer);
        em_cpu_select(c, layer);
    }
    memset(c->scratch_tag, 0, sizeof *c->scratch_tag * (size_t)em_pool_threads(c->pool));
    int64_t groups = (c->cfg->n_heads + EM_HEAD_GROUP - 1) / EM_HEAD_GROUP;
    em_pool_run(c->pool, attend_item, &call, c->n_tokens * groups);
    project_out(&call);
}
