/* Embedding, hyper-connections, mixture of experts, head: a few launches each, in the order of the specification. */
#include "engine/cuda/cuda.h"

em_cuda_linear_job em_cuda_job(const em_cuda *c, const em_matrix *w, const float *x, int64_t x_stride, float *y)
{
    return (em_cuda_linear_job){.w = *w,
                                .row_end = w->rows,
                                .rows_per_group = w->rows,
                                .x = x,
                                .x_stride = x_stride,
                                .y = y,
                                .y_stride = w->rows,
                                .n_rows = c->step.n_tokens};
}

void em_cuda_embed_stage(em_backend *be)
{
    em_cuda *c = (em_cuda *)be;
    if (!em_cuda_active(c))
        return;
    em_cuda_embed_args a = {
        .step = c->step, .embed = c->weights.embed, .streams = c->streams, .pre = c->pre, .hc = c->cfg->hc_mult};
    em_cuda_ok(c, em_cuda_embed(c->stream, &a), "the embedding");
}

/* --- hyper-connections ------------------------------------------------------------------------------------------ */

void em_cuda_hc_pre_stage(em_backend *be, int32_t layer, em_site site)
{
    em_cuda *c = (em_cuda *)be;
    if (!em_cuda_active(c))
        return;
    const em_layer_weights *lw = &c->weights.layers[layer];
    const em_hc_weights *hc = site == EM_SITE_ATTN ? &lw->hc_attn : &lw->hc_ffn;
    em_cuda_hc_mix_args mix = {
        .fn = hc->fn, .streams = c->streams, .part = c->part, .part_sq = c->part_sq, .n_tokens = c->step.n_tokens};
    em_cuda_hc_pre_args pre = {.part = c->part,
                               .part_sq = c->part_sq,
                               .streams = c->streams,
                               .base = hc->base,
                               .scale = hc->scale,
                               .norm = site == EM_SITE_ATTN ? lw->attn_norm : lw->ffn_norm,
                               .pre = c->pre,
                               .post = c->post,
                               .comb = c->comb,
                               .x = c->x,
                               .n_tokens = c->step.n_tokens,
                               .hc = c->cfg->hc_mult,
                               .hidden = c->cfg->hidden_size,
                               .sinkhorn_iters = c->cfg->hc_sinkhorn_iters,
                               .hc_eps = c->cfg->hc_eps,
                               .norm_eps = c->cfg->norm_eps};
    if (em_cuda_ok(c, em_cuda_hc_mix(c->stream, &mix), "mixing streams"))
        em_cuda_ok(c, em_cuda_hc_pre(c->stream, &pre), "collapsing streams");
}

void em_cuda_hc_post_stage(em_backend *be, int32_t layer, em_site site)
{
    em_cuda *c = (em_cuda *)be;
    if (!em_cuda_active(c))
        return;
    em_cuda_hc_post_args a = {.streams = c->streams,
                              .y = c->y,
                              .post = c->post,
                              .comb = c->comb,
                              .n_tokens = c->step.n_tokens,
                              .hc = c->cfg->hc_mult,
                              .hidden = c->cfg->hidden_size};
    em_cuda_ok(c, em_cuda_hc_post(c->stream, &a), "expanding streams");
}

/* --- mixture of experts ----------------------------------------------------------------------------------------- */

static em_cuda_scoring scoring(const em_model_config *cfg)
{
    return cfg->scoring == EM_SCORE_SIGMOID   ? EM_CUDA_SIGMOID
           : cfg->scoring == EM_SCORE_SOFTMAX ? EM_CUDA_SOFTMAX
                                              : EM_CUDA_SQRTSOFTPLUS;
}

/* Router, choice and the work list of the products: all on the device. */
static bool route(em_cuda *c, int32_t layer)
{
    const em_model_config *cfg = c->cfg;
    const em_layer_weights *lw = &c->weights.layers[layer];
    em_cuda_linear_job job = em_cuda_job(c, &lw->router, c->x, cfg->hidden_size, c->router);
    em_cuda_route_args r = {.router = c->router,
                            .bias = lw->router_bias,
                            .expert_id = c->expert_id,
                            .expert_w = c->expert_w,
                            .n_tokens = c->step.n_tokens,
                            .n_experts = cfg->n_experts,
                            .k = cfg->n_experts_per_tok,
                            .scoring = scoring(cfg),
                            .norm_topk_prob = cfg->norm_topk_prob,
                            .gate_temp = cfg->gate_temp,
                            .scaling = cfg->routed_scaling_factor};
    em_cuda_dispatch_args d = {.expert_id = c->expert_id,
                               .expert_w = c->expert_w,
                               .entry = c->entry,
                               .entry_of = c->entry_of,
                               .expert_begin = c->expert_begin,
                               .item = c->item,
                               .n_items = c->n_items,
                               .experts_read = c->experts_read,
                               .n_tokens = c->step.n_tokens,
                               .n_experts = cfg->n_experts,
                               .k = cfg->n_experts_per_tok};
    return em_cuda_ok(c, em_cuda_linear(c->stream, &job, 1, EM_CUDA_MATH_F32), "the router") &&
           em_cuda_ok(c, em_cuda_route(c->stream, &r), "choosing experts") &&
           em_cuda_ok(c, em_cuda_dispatch(c->stream, &d), "grouping by expert");
}

void em_cuda_moe(em_backend *be, int32_t layer)
{
    em_cuda *c = (em_cuda *)be;
    if (!em_cuda_active(c) || !route(c, layer))
        return;
    em_cuda_moe_args a = {.expert = c->expert_table[layer],
                          .entry = c->entry,
                          .item = c->item,
                          .n_items = c->n_items,
                          .entry_of = c->entry_of,
                          .x = c->x,
                          .act = c->act,
                          .part = c->moe_part,
                          .y = c->y,
                          .n_tokens = c->step.n_tokens,
                          .n_experts = c->cfg->n_experts,
                          .k = c->cfg->n_experts_per_tok,
                          .hidden = c->cfg->hidden_size,
                          .inter = c->cfg->moe_inter,
                          .swiglu_limit = c->cfg->swiglu_limit,
                          .math = EM_CUDA_MATH_F32};
    if (em_cuda_ok(c, em_cuda_expert_up(c->stream, &a), "the experts' first products") &&
        em_cuda_ok(c, em_cuda_expert_down(c->stream, &a), "the experts' second products"))
        em_cuda_ok(c, em_cuda_combine(c->stream, &a), "adding experts");
}

/* --- head ------------------------------------------------------------------------------------------------------- */

void em_cuda_head_rows(em_cuda *c, int32_t first, int32_t n)
{
    em_cuda_head_args a = {.streams = c->streams,
                           .pre = c->pre,
                           .index = c->dev.logit + first,
                           .norm = c->weights.norm,
                           .last = c->last,
                           .n_logits = n,
                           .hc = c->cfg->hc_mult,
                           .hidden = c->cfg->hidden_size,
                           .norm_eps = c->cfg->norm_eps};
    em_cuda_linear_job job = em_cuda_job(c, &c->weights.head, c->last, c->cfg->hidden_size, c->logits);
    job.n_rows = n;
    if (em_cuda_ok(c, em_cuda_head(c->stream, &a), "the head's input"))
        em_cuda_ok(c, em_cuda_linear(c->stream, &job, 1, EM_CUDA_MATH_F32), "the head");
}
