/* The attention sublayer (spec 4.6 to 4.9) as launches: x -> y. */
#include "engine/cuda/cuda.h"

typedef struct layer_call {
    em_cuda *c;
    int32_t layer;
    const em_layer_weights *lw;
    const em_layer_role *role;
    em_cuda_rope rope;     /* of this layer's table */
    em_cuda_source source; /* of the layer's KV owner; ratio 0: window only */
} layer_call;

static em_cuda_source source_of(const em_cuda *c, int32_t source)
{
    if (source < 0)
        return (em_cuda_source){.ratio = 0};
    return (em_cuda_source){.comp_off = (int64_t)c->layout.comp_off[source],
                            .key_off = (int64_t)c->layout.key_off[source],
                            .open_off = (int64_t)c->layout.open_off[source],
                            .ratio = c->cfg->role[c->cfg->kv_source_layer[source]].ratio};
}

static em_cuda_rope rope_of(const em_cuda *c, bool compress)
{
    return (em_cuda_rope){.cos = compress ? c->cos_comp : c->cos_main,
                          .sin = compress ? c->sin_comp : c->sin_main,
                          .n_pairs = c->cfg->rope_dim / 2};
}

static bool products(em_cuda *c, const em_cuda_linear_job *jobs, int32_t n, const char *what)
{
    return em_cuda_ok(c, em_cuda_linear(c->stream, jobs, n, EM_CUDA_MATH_F32), what);
}

/* Everything that reads x, in one launch. */
static bool project_x(const layer_call *call)
{
    em_cuda *c = call->c;
    const em_layer_weights *lw = call->lw;
    int64_t H = c->cfg->hidden_size;
    em_cuda_linear_job jobs[EM_CUDA_MAX_JOBS];
    int32_t n = 0;
    jobs[n++] = em_cuda_job(c, &lw->wq_a, c->x, H, c->q_lat);
    jobs[n++] = em_cuda_job(c, &lw->wkv, c->x, H, c->kv);
    if (call->role->kv_source_idx >= 0) {
        jobs[n++] = em_cuda_job(c, &lw->comp_wkv, c->x, H, c->comp_kv);
        if (call->role->ratio > 1)
            jobs[n++] = em_cuda_job(c, &lw->comp_wgate, c->x, H, c->comp_gate);
    }
    if (call->role->is_index_source)
        jobs[n++] = em_cuda_job(c, &lw->index_weights_proj, c->x, H, c->index_w);
    return products(c, jobs, n, "the attention's first products");
}

static bool project_q(const layer_call *call)
{
    em_cuda *c = call->c;
    em_cuda_window_args window = {.state = c->state,
                                  .rope = call->rope,
                                  .kv = c->kv,
                                  .kv_norm = call->lw->kv_norm,
                                  .win = c->win,
                                  .q_lat = c->q_lat,
                                  .q_norm = call->lw->q_norm,
                                  .n_tokens = c->step.n_tokens,
                                  .q_rank = c->cfg->q_lora_rank,
                                  .norm_eps = c->cfg->norm_eps};
    if (!em_cuda_ok(c, em_cuda_window(c->stream, &window), "the window rows"))
        return false;
    em_cuda_linear_job jobs[2] = {em_cuda_job(c, &call->lw->wq_b, c->q_lat, c->cfg->q_lora_rank, c->q)};
    if (call->role->is_index_source)
        jobs[1] = em_cuda_job(c, &call->lw->index_wq_b, c->q_lat, c->cfg->q_lora_rank, c->index_q);
    return products(c, jobs, call->role->is_index_source ? 2 : 1, "the queries");
}

/* New compressed rows and index keys of a KV source. */
static bool compress(const layer_call *call)
{
    em_cuda *c = call->c;
    em_cuda_source source = source_of(c, call->role->kv_source_idx);
    em_cuda_compress_args a = {.step = c->step,
                               .state = c->state,
                               .source = source,
                               .comp_kv = c->comp_kv,
                               .comp_gate = c->comp_gate,
                               .comp_norm = call->lw->comp_norm,
                               .latent = c->latent,
                               .norm_eps = c->cfg->norm_eps};
    em_cuda_linear_job job = em_cuda_job(c, &call->lw->index_wk, c->latent, c->cfg->head_dim, c->index_key);
    em_cuda_comp_store_args store = {.step = c->step,
                                     .state = c->state,
                                     .source = source,
                                     .freq_comp = c->freq_comp,
                                     .comp_kv = c->comp_kv,
                                     .comp_gate = c->comp_gate,
                                     .index_k_norm = call->lw->index_k_norm,
                                     .latent = c->latent,
                                     .index_key = c->index_key,
                                     .n_pairs = c->cfg->rope_dim / 2,
                                     .norm_eps = c->cfg->norm_eps};
    return em_cuda_ok(c, em_cuda_compress(c->stream, &a), "compressing groups") &&
           products(c, &job, 1, "the index keys") &&
           em_cuda_ok(c, em_cuda_comp_store(c->stream, &store), "storing compressed rows");
}

/* Scores and choice of tokens first .. first + n - 1, of which none sees more than n_keys positions. */
static bool select_tile(const layer_call *call, int32_t first, int32_t n, int32_t n_keys)
{
    em_cuda *c = call->c;
    const em_model_config *cfg = c->cfg;
    int32_t size = cfg->candidate_block_size > 0 ? cfg->candidate_block_size : 1;
    em_cuda_index_scores_args scores = {.step = c->step,
                                        .state = c->state,
                                        .source = call->source,
                                        .index_q = c->index_q,
                                        .index_w = c->index_w,
                                        .scores = c->scores,
                                        .score_stride = n_keys,
                                        .token_begin = first,
                                        .n_rows = n,
                                        .n_keys = n_keys,
                                        .n_heads = cfg->index_n_heads};
    em_cuda_candidates_args cand = {.step = c->step,
                                    .scores = c->scores,
                                    .score_stride = n_keys,
                                    .block_score = c->block_score,
                                    .block_stride = (n_keys + size - 1) / size,
                                    .cand = c->cand,
                                    .cand_words = c->cand_words,
                                    .token_begin = first,
                                    .n_rows = n,
                                    .ratio = call->source.ratio,
                                    .block_size = size,
                                    .topk_blocks = cfg->candidate_topk_blocks};
    em_cuda_select_args select = {.step = c->step,
                                  .scores = c->scores,
                                  .score_stride = n_keys,
                                  .cand = call->role->uses_candidates ? c->cand : NULL,
                                  .cand_words = c->cand_words,
                                  .topk = c->topk,
                                  .topk_n = c->topk_n,
                                  .topk_stride = c->topk_cap,
                                  .token_begin = first,
                                  .n_rows = n,
                                  .ratio = call->source.ratio,
                                  .block_size = size,
                                  .k = c->topk_cap};
    return em_cuda_ok(c, em_cuda_index_scores(c->stream, &scores), "index scores") &&
           (!call->role->is_candidate_source ||
            em_cuda_ok(c, em_cuda_candidates(c->stream, &cand), "choosing candidate blocks")) &&
           em_cuda_ok(c, em_cuda_select(c->stream, &select), "choosing positions");
}

/* Positions that tokens up to `last` may see; a decode step counts for its bucket. */
static int32_t keys_of(const layer_call *call, int32_t first, int32_t n)
{
    const em_cuda *c = call->c;
    int32_t most = 0;
    for (int32_t t = first; c->mode == EM_CUDA_PLAIN && t < first + n; t++)
        most = c->host.pos[t] + 1 > most ? c->host.pos[t] + 1 : most;
    int32_t keys = (c->mode == EM_CUDA_PLAIN ? most : c->reach) / call->source.ratio;
    return keys > 1 ? keys : 1;
}

/* In tiles of tokens whose scores fit the buffer. */
static bool select_positions(const layer_call *call)
{
    em_cuda *c = call->c;
    em_cuda_index_query_args query = {.state = c->state,
                                      .rope = rope_of(c, true),
                                      .index_q = c->index_q,
                                      .n_tokens = c->step.n_tokens,
                                      .n_heads = c->cfg->index_n_heads};
    if (!em_cuda_ok(c, em_cuda_index_query(c->stream, &query), "the index queries"))
        return false;
    for (int32_t t = 0; t < c->step.n_tokens;) {
        int32_t n = c->step.n_tokens - t, keys = keys_of(call, t, n);
        while (n > 1 && (int64_t)n * keys > c->score_cap) {
            n = (n + 1) / 2;
            keys = keys_of(call, t, n);
        }
        if (!select_tile(call, t, n, keys))
            return false;
        t += n;
    }
    return true;
}

/* Scores and values; then the run's rows go into the rings, which attention has read. */
static bool attend(const layer_call *call)
{
    em_cuda *c = call->c;
    em_cuda_attend_args a = {.step = c->step,
                             .state = c->state,
                             .source = call->source,
                             .topk = c->topk,
                             .topk_n = c->topk_n,
                             .topk_stride = c->topk_cap,
                             .rope = call->rope,
                             .win = c->win,
                             .attn_sink = call->lw->attn_sink,
                             .q = c->q,
                             .part = c->attend_part,
                             .part_tokens = c->part_tokens,
                             .layer = call->layer,
                             .n_heads = c->cfg->n_heads};
    em_cuda_window_store_args store = {.step = c->step, .state = c->state, .win = c->win, .layer = call->layer};
    return em_cuda_ok(c, em_cuda_attend(c->stream, &a), "attention") &&
           em_cuda_ok(c, em_cuda_window_store(c->stream, &store), "storing window rows");
}

/* Grouped low-rank output: group g of wo_a sees only its own heads. */
static void project_out(const layer_call *call)
{
    em_cuda *c = call->c;
    const em_model_config *cfg = c->cfg;
    int64_t rank = cfg->o_lora_rank;
    em_cuda_linear_job low = em_cuda_job(c, &call->lw->wo_a, c->q, (int64_t)cfg->n_heads * cfg->head_dim, c->o_lat);
    low.rows_per_group = rank;
    em_cuda_linear_job high = em_cuda_job(c, &call->lw->wo_b, c->o_lat, cfg->o_groups * rank, c->y);
    if (products(c, &low, 1, "the attention's low-rank output"))
        products(c, &high, 1, "the attention's output");
}

void em_cuda_attention(em_backend *be, int32_t layer)
{
    em_cuda *c = (em_cuda *)be;
    if (!em_cuda_active(c))
        return;
    const em_layer_role *role = &c->cfg->role[layer];
    layer_call call = {.c = c,
                       .layer = layer,
                       .lw = &c->weights.layers[layer],
                       .role = role,
                       .rope = rope_of(c, role->ratio > 0),
                       .source = source_of(c, role->owner_source_idx)};
    bool ok = project_x(&call) && project_q(&call);
    if (ok && role->kv_source_idx >= 0)
        ok = compress(&call);
    if (ok && role->is_index_source)
        ok = select_positions(&call);
    if (ok && attend(&call))
        project_out(&call);
}
