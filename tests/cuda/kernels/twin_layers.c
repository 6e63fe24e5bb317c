/* Stages beside attention: embedding, Engram, hyper-connections, experts, head. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/kernels/twin.h"

void twin_embed(twin *t)
{
    em_cpu *c = t->r.cpu;
    int64_t n = c->n_tokens, hc = c->cfg->hc_mult, width = hc * c->cfg->hidden_size;
    em_cuda_embed_args a = {.step = t->step,
                            .embed = t->r.weights->embed,
                            .streams = dev_floats(n * width),
                            .pre = dev_floats(n * hc),
                            .hc = (int32_t)hc};
    next_order();
    c->base.embed(&c->base);
    ck_assert_int_eq(em_cuda_embed(NULL, &a), 0);
    expect_bits(a.streams, c->streams, (size_t)(n * width) * 4, "embedding");
    expect_bits(a.pre, c->pre, (size_t)(n * hc) * 4, "first pre");
    dev_free(a.streams);
    dev_free(a.pre);
}

/* ---- Engram ---- */

/* Rows by id from the whole table must be the staged rows. */
static void compare_fetch(twin *t, const em_engram_weights *w, const em_engram_rows *rows, const float *want)
{
    em_cpu *c = t->r.cpu;
    int64_t n = (int64_t)c->n_tokens * rows->n_cols, dim = c->cfg->engram_head_dim;
    int64_t row_bytes = dim * (w->dtype == EM_DTYPE_FP8 ? 1 : w->dtype == EM_DTYPE_BF16 ? 2 : 4);
    em_cuda_engram_rows_args a = {.dtype = w->dtype,
                                  .codes = dev_copy(w->rows->data, (size_t)(w->n_rows * row_bytes)),
                                  .scales = w->scales && w->dtype == EM_DTYPE_FP8
                                                ? dev_copy(w->scales->data, (size_t)(w->n_rows * dim / 32))
                                                : NULL,
                                  .row_id = dev_copy(rows->row_id, (size_t)n * sizeof(int64_t)),
                                  .out = dev_floats(n * dim),
                                  .n_tokens = c->n_tokens,
                                  .n_cols = rows->n_cols,
                                  .head_dim = (int32_t)dim};
    ck_assert_int_eq(em_cuda_engram_rows(NULL, &a), 0);
    expect_bits(a.out, want, (size_t)(n * dim) * 4, "rows fetched from the table");
    dev_free((void *)a.codes);
    dev_free((void *)a.scales);
    dev_free((void *)a.row_id);
    dev_free(a.out);
}

static void compare_hash(twin *t, int32_t table, const em_engram_rows *rows)
{
    em_cpu *c = t->r.cpu;
    const em_engram_hash *h = em_engram_table_hash(t->r.engram, table);
    int32_t order = h->max_order, n_ids = t->r.map.n_ids;
    em_cuda_hash *dev = dev_alloc(sizeof *dev);
    dev->max_order = order;
    dev->n_heads = h->n_heads;
    dev->n_cols = h->n_cols;
    dev->pad_class = h->pad_class;
    memcpy(dev->multiplier, h->multiplier, sizeof h->multiplier);
    memcpy(dev->prime, h->prime, (size_t)h->n_cols * sizeof(int64_t));
    memcpy(dev->offset, h->offset, (size_t)h->n_cols * sizeof(int64_t));
    int32_t *ids = dev_alloc((size_t)c->n_tokens * (size_t)order * sizeof(int32_t));
    for (int32_t i = 0; i < c->n_tokens; i++)
        for (int32_t b = 0; b < order; b++)
            ids[i * order + b] = b <= c->pos[i] ? c->batch->seqs[c->seq_of[i]].tokens[c->pos[i] - b]
                                 : i % 2        ? -1
                                                : n_ids;
    em_cuda_engram_hash_args a = {.hash = dev,
                                  .class_of = dev_copy(t->r.map.class_of, (size_t)n_ids * sizeof(int32_t)),
                                  .ids = ids,
                                  .ids_stride = order,
                                  .row_id = dev_alloc((size_t)c->n_tokens * (size_t)h->n_cols * sizeof(int64_t)),
                                  .n_tokens = c->n_tokens,
                                  .n_cols = h->n_cols,
                                  .n_ids = n_ids};
    ck_assert_int_eq(em_cuda_engram_hash(NULL, &a), 0);
    expect_bits(a.row_id, rows->row_id, (size_t)c->n_tokens * (size_t)h->n_cols * sizeof(int64_t), "row ids");
    dev_free((void *)a.class_of);
    dev_free(a.row_id);
    dev_free(ids);
    dev_free(dev);
}

static void compare_staged(twin *t, const em_engram_weights *w, const em_engram_rows *rows)
{
    em_cpu *c = t->r.cpu;
    int64_t n = (int64_t)c->n_tokens * rows->n_cols, dim = c->cfg->engram_head_dim;
    int64_t row_bytes = dim * (w->dtype == EM_DTYPE_FP8 ? 1 : w->dtype == EM_DTYPE_BF16 ? 2 : 4);
    em_cuda_engram_rows_args a = {.dtype = w->dtype,
                                  .codes = dev_copy(rows->codes, (size_t)(n * row_bytes)),
                                  .scales = rows->scales ? dev_copy(rows->scales, (size_t)(n * dim / 32)) : NULL,
                                  .out = dev_floats(n * dim),
                                  .n_tokens = c->n_tokens,
                                  .n_cols = rows->n_cols,
                                  .head_dim = (int32_t)dim};
    ck_assert_int_eq(em_cuda_engram_rows(NULL, &a), 0);
    expect_bits(a.out, c->engram_in, (size_t)(n * dim) * 4, "staged rows");
    compare_fetch(t, w, rows, a.out);
    dev_free((void *)a.codes);
    dev_free((void *)a.scales);
    dev_free(a.out);
}

void twin_engram(twin *t, int32_t layer, const em_engram_rows *rows)
{
    em_cpu *c = t->r.cpu;
    const em_engram_weights *w = t->r.weights->layers[layer].engram;
    int64_t n = c->n_tokens, hc = c->cfg->hc_mult, H = c->cfg->hidden_size;
    float *streams = dev_copy_floats(c->streams, n * hc * H);
    next_order();
    c->base.engram(&c->base, layer, rows);
    compare_hash(t, c->cfg->role[layer].engram_idx, rows);
    compare_staged(t, w, rows);
    twin_linear(t, &w->wkv, c->engram_in, w->wkv.cols, c->engram_kv, n, "engram wkv");
    em_cuda_engram_gate_args a = {.kv = dev_copy_floats(c->engram_kv, n * (hc + 1) * H),
                                  .qk_weight = dev_copy_floats(w->qk_weight, hc * H),
                                  .streams = streams,
                                  .gate = dev_floats(n * hc),
                                  .n_tokens = (int32_t)n,
                                  .hc = (int32_t)hc,
                                  .hidden = (int32_t)H,
                                  .norm_eps = c->cfg->norm_eps};
    ck_assert_int_eq(em_cuda_engram_gate(NULL, &a), 0);
    expect_floats(a.gate, c->engram_gate, n * hc, 1e-5, "engram gate");
    expect_floats(streams, c->streams, n * hc * H, 1e-5, "streams after engram");
    dev_free((void *)a.kv);
    dev_free((void *)a.qk_weight);
    dev_free(a.gate);
    dev_free(streams);
}

/* ---- hyper-connections ---- */

void twin_hc_pre(twin *t, int32_t layer, em_site site)
{
    em_cpu *c = t->r.cpu;
    const em_layer_weights *lw = &t->r.weights->layers[layer];
    const em_hc_weights *hw = site == EM_SITE_ATTN ? &lw->hc_attn : &lw->hc_ffn;
    int64_t n = c->n_tokens, hc = c->cfg->hc_mult, H = c->cfg->hidden_size, width = hc * H, n_mix = (2 + hc) * hc;
    int64_t parts = (width + EM_CUDA_HC_COLS - 1) / EM_CUDA_HC_COLS;
    em_cuda_hc_mix_args mix = {.fn = hw->fn,
                               .streams = dev_copy_floats(c->streams, n * width),
                               .part = dev_floats(n * parts * n_mix),
                               .part_sq = dev_alloc((size_t)(n * parts) * sizeof(double)),
                               .n_tokens = (int32_t)n};
    em_cuda_hc_pre_args pre = {.part = mix.part,
                               .part_sq = mix.part_sq,
                               .streams = mix.streams,
                               .base = dev_copy_floats(hw->base, n_mix),
                               .scale = dev_copy_floats(hw->scale, 3),
                               .norm = dev_copy_floats(site == EM_SITE_ATTN ? lw->attn_norm : lw->ffn_norm, H),
                               .pre = dev_copy_floats(c->pre, n * hc),
                               .post = dev_floats(n * hc),
                               .comb = dev_floats(n * hc * hc),
                               .x = dev_floats(n * H),
                               .n_tokens = (int32_t)n,
                               .hc = (int32_t)hc,
                               .hidden = (int32_t)H,
                               .sinkhorn_iters = c->cfg->hc_sinkhorn_iters,
                               .hc_eps = c->cfg->hc_eps,
                               .norm_eps = c->cfg->norm_eps};
    next_order();
    c->base.hc_pre(&c->base, layer, site);
    ck_assert_int_eq(em_cuda_hc_mix(NULL, &mix), 0);
    ck_assert_int_eq(em_cuda_hc_pre(NULL, &pre), 0);
    expect_floats(pre.x, c->x, n * H, 1e-5, "sublayer input");
    expect_floats(pre.pre, c->pre, n * hc, 1e-5, "pre");
    expect_floats(pre.post, c->post, n * hc, 1e-5, "post");
    expect_floats(pre.comb, c->comb, n * hc * hc, 1e-5, "comb");
    const void *all[] = {mix.streams, mix.part, mix.part_sq, pre.base, pre.scale,
                         pre.norm,    pre.pre,  pre.post,    pre.comb, pre.x};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        dev_free((void *)all[i]);
}

void twin_hc_post(twin *t, int32_t layer, em_site site)
{
    em_cpu *c = t->r.cpu;
    int64_t n = c->n_tokens, hc = c->cfg->hc_mult, H = c->cfg->hidden_size;
    em_cuda_hc_post_args a = {.streams = dev_copy_floats(c->streams, n * hc * H),
                              .y = dev_copy_floats(c->y, n * H),
                              .post = dev_copy_floats(c->post, n * hc),
                              .comb = dev_copy_floats(c->comb, n * hc * hc),
                              .n_tokens = (int32_t)n,
                              .hc = (int32_t)hc,
                              .hidden = (int32_t)H};
    next_order();
    c->base.hc_post(&c->base, layer, site);
    ck_assert_int_eq(em_cuda_hc_post(NULL, &a), 0);
    expect_bits(a.streams, c->streams, (size_t)(n * hc * H) * 4, "expanded streams");
    dev_free(a.streams);
    dev_free((void *)a.y);
    dev_free((void *)a.post);
    dev_free((void *)a.comb);
}

/* ---- experts ---- */

static em_cuda_scoring scoring(const em_model_config *cfg)
{
    return cfg->scoring == EM_SCORE_SIGMOID   ? EM_CUDA_SIGMOID
           : cfg->scoring == EM_SCORE_SOFTMAX ? EM_CUDA_SOFTMAX
                                              : EM_CUDA_SQRTSOFTPLUS;
}

static void compare_route(twin *t, const em_layer_weights *lw)
{
    em_cpu *c = t->r.cpu;
    int64_t n = c->n_tokens, E = c->cfg->n_experts, k = c->cfg->n_experts_per_tok;
    float *scores = dev_copy_floats(c->router, n * E); /* the product below overwrites them with logits */
    twin_linear(t, &lw->router, c->x, c->cfg->hidden_size, c->router, n, "router");
    em_cuda_route_args a = {.router = dev_copy_floats(c->router, n * E),
                            .bias = dev_copy_floats(lw->router_bias, E),
                            .expert_id = dev_alloc((size_t)(n * k) * sizeof(int32_t)),
                            .expert_w = dev_floats(n * k),
                            .n_tokens = (int32_t)n,
                            .n_experts = (int32_t)E,
                            .k = (int32_t)k,
                            .scoring = scoring(c->cfg),
                            .norm_topk_prob = c->cfg->norm_topk_prob,
                            .gate_temp = c->cfg->gate_temp,
                            .scaling = c->cfg->routed_scaling_factor};
    ck_assert_int_eq(em_cuda_route(NULL, &a), 0);
    expect_floats(a.router, scores, n * E, 1e-6, "router scores");
    expect_bits(a.expert_id, c->expert_id, (size_t)(n * k) * 4, "chosen experts");
    expect_floats(a.expert_w, c->expert_w, n * k, 1e-6, "expert weights");
    const void *all[] = {scores, a.router, a.bias, a.expert_id, a.expert_w};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        dev_free((void *)all[i]);
}

typedef struct moe_buffers {
    em_cuda_dispatch_args d;
    em_cuda_moe_args a;
} moe_buffers;

static moe_buffers moe_open(twin *t, const em_layer_weights *lw)
{
    em_cpu *c = t->r.cpu;
    int64_t n = c->n_tokens, E = c->cfg->n_experts, k = c->cfg->n_experts_per_tok, H = c->cfg->hidden_size,
            inter = c->cfg->moe_inter;
    em_cuda_expert *table = dev_alloc((size_t)(E + 1) * sizeof *table);
    for (int64_t e = 0; e <= E; e++) {
        const em_expert_weights *w = e == E ? &lw->shared : &lw->experts[e];
        table[e] = (em_cuda_expert){w->w1, w->w3, w->w2};
    }
    moe_buffers b;
    b.d = (em_cuda_dispatch_args){.expert_id = dev_copy(c->expert_id, (size_t)(n * k) * 4),
                                  .expert_w = dev_copy(c->expert_w, (size_t)(n * k) * 4),
                                  .entry = dev_alloc((size_t)(n * (k + 1)) * sizeof(em_cuda_entry)),
                                  .entry_of = dev_alloc((size_t)(n * (k + 1)) * 4),
                                  .expert_begin = dev_alloc((size_t)(E + 2) * 4),
                                  .item = dev_alloc((size_t)em_cuda_item_cap(n, E, k) * sizeof(em_cuda_item)),
                                  .n_items = dev_alloc(4),
                                  .experts_read = dev_alloc(8),
                                  .n_tokens = (int32_t)n,
                                  .n_experts = (int32_t)E,
                                  .k = (int32_t)k};
    b.a = (em_cuda_moe_args){.expert = table,
                             .entry = b.d.entry,
                             .item = b.d.item,
                             .n_items = b.d.n_items,
                             .entry_of = b.d.entry_of,
                             .x = dev_copy_floats(c->x, n * H),
                             .act = dev_floats(n * (k + 1) * inter),
                             .part = dev_floats(n * (k + 1) * H),
                             .y = dev_floats(n * H),
                             .n_tokens = (int32_t)n,
                             .n_experts = (int32_t)E,
                             .k = (int32_t)k,
                             .hidden = (int32_t)H,
                             .inter = (int32_t)inter,
                             .swiglu_limit = c->cfg->swiglu_limit,
                             .math = EM_CUDA_MATH_F32};
    return b;
}

static void moe_close(moe_buffers *b)
{
    const void *all[] = {b->d.expert_id, b->d.expert_w,     b->d.entry,  b->d.entry_of, b->d.expert_begin, b->d.item,
                         b->d.n_items,   b->d.experts_read, b->a.expert, b->a.x,        b->a.act,          b->a.part,
                         b->a.y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        dev_free((void *)all[i]);
}

void twin_moe(twin *t, int32_t layer)
{
    em_cpu *c = t->r.cpu;
    const em_layer_weights *lw = &t->r.weights->layers[layer];
    int64_t n = c->n_tokens, E = c->cfg->n_experts, k = c->cfg->n_experts_per_tok, H = c->cfg->hidden_size,
            inter = c->cfg->moe_inter;
    uint64_t before = c->base.experts_read;
    next_order();
    c->base.moe(&c->base, layer);
    moe_buffers b = moe_open(t, lw);
    *b.d.experts_read = before;
    ck_assert_int_eq(em_cuda_dispatch(NULL, &b.d), 0);
    expect_bits(b.d.entry, c->entry, (size_t)(n * (k + 1)) * sizeof(em_cuda_entry), "pairs by expert");
    expect_bits(b.d.entry_of, c->entry_of, (size_t)(n * (k + 1)) * 4, "entries of tokens");
    expect_bits(b.d.expert_begin, c->expert_begin, (size_t)(E + 2) * 4, "where experts begin");
    ck_assert_uint_eq(*b.d.experts_read, c->base.experts_read);
    ck_assert_int_le(*b.d.n_items, em_cuda_item_cap(n, E, k));

    ck_assert_int_eq(em_cuda_expert_up(NULL, &b.a), 0);
    expect_floats(b.a.act, c->moe_g, n * (k + 1) * inter, 1e-5, "expert activations");
    memcpy(b.a.act, c->moe_g, (size_t)(n * (k + 1) * inter) * 4);
    ck_assert_int_eq(em_cuda_expert_down(NULL, &b.a), 0);
    expect_floats(b.a.part, c->moe_y, n * (k + 1) * H, 1e-5, "expert outputs");
    memcpy(b.a.part, c->moe_y, (size_t)(n * (k + 1) * H) * 4);
    ck_assert_int_eq(em_cuda_combine(NULL, &b.a), 0);
    expect_bits(b.a.y, c->y, (size_t)(n * H) * 4, "sum of experts");
    moe_close(&b);
    compare_route(t, lw);
}

/* ---- head ---- */

void twin_head(twin *t)
{
    em_cpu *c = t->r.cpu;
    int64_t n = c->batch->n_logits, hc = c->cfg->hc_mult, H = c->cfg->hidden_size, i = 0;
    float *logits = malloc((size_t)(n ? n : 1) * (size_t)c->cfg->vocab_size * sizeof *logits);
    int32_t *index = dev_alloc((size_t)n * sizeof(int32_t));
    for (int32_t s = 0; s < c->batch->n_seqs; s++)
        for (int32_t j = c->batch->seqs[s].n_tokens - c->batch->seqs[s].n_logits; j < c->batch->seqs[s].n_tokens; j++)
            index[i++] = c->run_start[s] + j;
    em_cuda_head_args a = {.streams = dev_copy_floats(c->streams, c->n_tokens * hc * H),
                           .pre = dev_copy_floats(c->pre, c->n_tokens * hc),
                           .index = index,
                           .norm = dev_copy_floats(t->r.weights->norm, H),
                           .last = dev_floats(n * H),
                           .n_logits = (int32_t)n,
                           .hc = (int32_t)hc,
                           .hidden = (int32_t)H,
                           .norm_eps = c->cfg->norm_eps};
    next_order();
    ck_assert_int_eq(c->base.head(&c->base, logits, NULL), 0);
    ck_assert_int_eq(em_cuda_head(NULL, &a), 0);
    expect_floats(a.last, c->last, n * H, 1e-6, "head input");
    if (n)
        twin_linear(t, &t->r.weights->head, c->last, H, logits, n, "logits");
    dev_free((void *)a.streams);
    dev_free((void *)a.pre);
    dev_free(index);
    dev_free((void *)a.norm);
    dev_free(a.last);
    free(logits);
}
