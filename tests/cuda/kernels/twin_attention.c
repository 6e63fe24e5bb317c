/* The attention sublayer, kernel by kernel. The CPU's stage runs first; its inputs in between are computed again with its
 * own products, so that each kernel starts from the CPU's bits. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/kernels/twin.h"

/* What the CPU's stage left. */
typedef struct outcome {
    float *q, *q_lat, *index_q, *y, *o_lat;
} outcome;

typedef struct attn {
    twin *t;
    em_cpu *c;
    const em_layer_weights *lw;
    const em_layer_role *role;
    int32_t layer;
    int64_t n, D, heads;
    outcome want;
    float *q_lat; /* not normalised */
    uint8_t *win; /* [T, window_row] */
    em_cuda_rope rope;
} attn;

static void run_cpu(attn *a)
{
    em_cpu *c = a->c;
    const em_model_config *cfg = c->cfg;
    a->q_lat = malloc((size_t)(a->n * cfg->q_lora_rank) * 4);
    twin_linear(a->t, &a->lw->wq_a, c->x, cfg->hidden_size, a->q_lat, a->n, "wq_a");
    c->base.attention(&c->base, a->layer);
    a->want.q = dev_copy_floats(c->q, a->n * a->heads * a->D);
    a->want.q_lat = dev_copy_floats(c->q_lat, a->n * cfg->q_lora_rank);
    a->want.y = dev_copy_floats(c->y, a->n * cfg->hidden_size);
    a->want.o_lat = dev_copy_floats(c->o_lat, a->n * cfg->o_groups * cfg->o_lora_rank);
    if (a->role->is_index_source)
        a->want.index_q = dev_copy_floats(c->index_q, a->n * cfg->index_n_heads * cfg->index_head_dim);
}

/* The latents' path into the step's window rows. */
static void compare_window(attn *a)
{
    em_cpu *c = a->c;
    const em_model_config *cfg = c->cfg;
    twin_linear(a->t, &a->lw->wkv, c->x, cfg->hidden_size, c->kv, a->n, "wkv");
    a->win = dev_alloc((size_t)a->n * (size_t)a->t->state.window_row);
    em_cuda_window_args w = {.state = a->t->state,
                             .rope = a->rope,
                             .kv = dev_copy_floats(c->kv, a->n * a->D),
                             .kv_norm = dev_copy_floats(a->lw->kv_norm, a->D),
                             .win = a->win,
                             .q_lat = dev_copy_floats(a->q_lat, a->n * cfg->q_lora_rank),
                             .q_norm = dev_copy_floats(a->lw->q_norm, cfg->q_lora_rank),
                             .n_tokens = (int32_t)a->n,
                             .q_rank = cfg->q_lora_rank,
                             .norm_eps = cfg->norm_eps};
    ck_assert_int_eq(em_cuda_window(NULL, &w), 0);
    expect_floats(w.q_lat, a->want.q_lat, a->n * cfg->q_lora_rank, 1e-6, "query latent");
    dev_free((void *)w.kv);
    dev_free((void *)w.kv_norm);
    dev_free(w.q_lat);
    dev_free((void *)w.q_norm);
}

/* ---- compressor ---- */

/* Row of the token that completes group g of the CPU's list. */
static int64_t token_of_group(const attn *a, int32_t g)
{
    int32_t s = a->c->group_seq[g], pos = (a->c->group_j[g] + 1) * a->role->ratio - 1;
    return a->c->run_start[s] + pos - a->c->batch->seqs[s].pos;
}

static void compare_compressor(attn *a)
{
    em_cpu *c = a->c;
    const em_model_config *cfg = c->cfg;
    int64_t I = cfg->index_head_dim;
    float *kv, *gate, *latent = dev_floats(a->n * a->D), *key = dev_floats(a->n * I);
    twin_linear(a->t, &a->lw->comp_wkv, c->x, cfg->hidden_size, c->comp_kv, a->n, "compressor wkv");
    if (a->role->ratio > 1)
        twin_linear(a->t, &a->lw->comp_wgate, c->x, cfg->hidden_size, c->comp_gate, a->n, "compressor wgate");
    kv = dev_copy_floats(c->comp_kv, a->n * a->D);
    gate = a->role->ratio > 1 ? dev_copy_floats(c->comp_gate, a->n * a->D) : NULL;
    em_cuda_compress_args p = {.step = a->t->step,
                               .state = a->t->state,
                               .source = twin_source(a->t, a->role->kv_source_idx),
                               .comp_kv = kv,
                               .comp_gate = gate,
                               .comp_norm = dev_copy_floats(a->lw->comp_norm, a->D),
                               .latent = latent,
                               .norm_eps = cfg->norm_eps};
    ck_assert_int_eq(em_cuda_compress(NULL, &p), 0);
    em_cuda_linear_job job = twin_job(a->t, &a->lw->index_wk, latent, a->D, key);
    ck_assert_int_eq(em_cuda_linear(NULL, &job, 1, EM_CUDA_MATH_F32), 0);
    em_cuda_comp_store_args s = {.step = a->t->step,
                                 .state = a->t->state,
                                 .source = p.source,
                                 .freq_comp = dev_copy_floats(c->freq_comp, cfg->rope_dim / 2),
                                 .comp_kv = kv,
                                 .comp_gate = gate,
                                 .index_k_norm = dev_copy_floats(a->lw->index_k_norm, I),
                                 .latent = latent,
                                 .index_key = key,
                                 .n_pairs = cfg->rope_dim / 2,
                                 .norm_eps = cfg->norm_eps};
    ck_assert_int_eq(em_cuda_comp_store(NULL, &s), 0);
    for (int32_t g = 0; g < c->n_groups; g++) {
        expect_floats(latent + token_of_group(a, g) * a->D, c->latent + g * a->D, a->D, 1e-5, "latent");
        expect_floats(key + token_of_group(a, g) * I, c->index_key + g * I, I, 1e-4, "index key");
    }
    const void *all[] = {kv, gate, latent, key, p.comp_norm, s.freq_comp, s.index_k_norm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        dev_free((void *)all[i]);
}

/* ---- indexer ---- */

static int32_t visible(const attn *a, int64_t token)
{
    return (a->c->pos[token] + 1) / a->role->ratio;
}

/* The CPU has dropped what is no candidate. A score is a sum of terms of either sign: what counts is the largest. */
static void compare_score_row(const attn *a, int64_t token, const float *got, int64_t stride)
{
    const float *want = a->c->scores + a->c->score_off[token];
    float top = 0;
    for (int32_t j = 0; j < visible(a, token); j++)
        top = want[j] > -INFINITY && fabsf(want[j]) > top ? fabsf(want[j]) : top;
    for (int32_t j = 0; j < visible(a, token); j++)
        ck_assert_msg(want[j] == -INFINITY || fabsf(got[j] - want[j]) <= 1e-4f * top + 1e-6f,
                      "index score %d of token %lld is %g, not %g", j, (long long)token, (double)got[j],
                      (double)want[j]);
    for (int64_t j = visible(a, token); j < stride; j++)
        ck_assert_msg(isnan(got[j]), "a score that nobody may see was written");
}

static float *compare_scores(attn *a, int64_t stride, const float *index_q, const float *index_w)
{
    em_cpu *c = a->c;
    float *scores = dev_floats(a->n * stride);
    em_cuda_index_scores_args s = {.step = a->t->step,
                                   .state = a->t->state,
                                   .source = twin_source(a->t, a->role->owner_source_idx),
                                   .index_q = index_q,
                                   .index_w = index_w,
                                   .score_stride = stride,
                                   .n_keys = (int32_t)stride,
                                   .n_heads = c->cfg->index_n_heads};
    /* two tiles */
    for (int64_t begin = 0, end = a->n / 2; begin < a->n; begin = end, end = a->n) {
        s.token_begin = (int32_t)begin;
        s.n_rows = (int32_t)(end - begin);
        s.scores = scores + begin * stride;
        ck_assert_int_eq(em_cuda_index_scores(NULL, &s), 0);
    }
    for (int64_t i = 0; i < a->n; i++)
        compare_score_row(a, i, scores + i * stride, stride);
    return scores;
}

/* The rule of selection, on the kernels' own scores. */
static void compare_topk(attn *a, const float *scores, int64_t stride, const uint64_t *cand)
{
    em_cpu *c = a->c;
    em_cuda_select_args s = {.step = a->t->step,
                             .scores = scores,
                             .score_stride = stride,
                             .cand = cand,
                             .cand_words = c->cand_words,
                             .topk = dev_alloc((size_t)(a->n * c->topk_cap) * 4),
                             .topk_n = dev_alloc((size_t)a->n * 4),
                             .topk_stride = c->topk_cap,
                             .n_rows = (int32_t)a->n,
                             .ratio = a->role->ratio,
                             .block_size = c->cfg->candidate_source_layer >= 0 ? c->cfg->candidate_block_size : 1,
                             .k = c->topk_cap};
    ck_assert_int_eq(em_cuda_select(NULL, &s), 0);
    for (int64_t i = 0; i < a->n; i++) {
        ck_assert_int_eq(s.topk_n[i], c->topk_n[i]);
        expect_bits(s.topk + i * c->topk_cap, c->topk + i * c->topk_cap, (size_t)c->topk_n[i] * 4, "selection");
    }
    dev_free(s.topk);
    dev_free(s.topk_n);
}

static void compare_candidates(attn *a, const float *scores, int64_t stride)
{
    em_cpu *c = a->c;
    int64_t size = c->cfg->candidate_block_size, blocks = (stride + size - 1) / size;
    em_cuda_candidates_args s = {.step = a->t->step,
                                 .scores = scores,
                                 .score_stride = stride,
                                 .block_score = dev_floats(a->n * blocks),
                                 .block_stride = blocks,
                                 .cand = dev_alloc((size_t)(a->n * c->cand_words) * 8),
                                 .cand_words = c->cand_words,
                                 .n_rows = (int32_t)a->n,
                                 .ratio = a->role->ratio,
                                 .block_size = (int32_t)size,
                                 .topk_blocks = c->cfg->candidate_topk_blocks};
    ck_assert_int_eq(em_cuda_candidates(NULL, &s), 0);
    expect_bits(s.cand, c->cand, (size_t)(a->n * c->cand_words) * 8, "candidate blocks");
    dev_free(s.block_score);
    dev_free(s.cand);
}

static void compare_indexer(attn *a)
{
    em_cpu *c = a->c;
    const em_model_config *cfg = c->cfg;
    int64_t width = (int64_t)cfg->index_n_heads * cfg->index_head_dim, stride = 1;
    twin_linear(a->t, &a->lw->index_weights_proj, c->x, cfg->hidden_size, c->index_w, a->n, "index weights");
    twin_linear(a->t, &a->lw->index_wq_b, c->q_lat, cfg->q_lora_rank, c->index_q, a->n, "index queries");
    em_cuda_index_query_args q = {.state = a->t->state,
                                  .rope = a->t->rope_comp,
                                  .index_q = dev_copy_floats(c->index_q, a->n * width),
                                  .n_tokens = (int32_t)a->n,
                                  .n_heads = cfg->index_n_heads};
    ck_assert_int_eq(em_cuda_index_query(NULL, &q), 0);
    expect_bits(q.index_q, a->want.index_q, (size_t)(a->n * width) * 4, "index queries on their grid");
    for (int64_t i = 0; i < a->n; i++)
        stride = visible(a, i) > stride ? visible(a, i) : stride;
    float *w = dev_copy_floats(c->index_w, a->n * cfg->index_n_heads);
    uint64_t *cand = a->role->uses_candidates ? dev_copy(c->cand, (size_t)(a->n * c->cand_words) * 8) : NULL;
    float *scores = compare_scores(a, stride, q.index_q, w);
    if (a->role->is_candidate_source)
        compare_candidates(a, scores, stride);
    compare_topk(a, scores, stride, cand);
    dev_free(q.index_q);
    dev_free(w);
    dev_free(cand);
    dev_free(scores);
}

/* ---- attention itself ---- */

static void compare_attend(attn *a)
{
    em_cpu *c = a->c;
    const em_model_config *cfg = c->cfg;
    twin_linear(a->t, &a->lw->wq_b, c->q_lat, cfg->q_lora_rank, c->q, a->n, "wq_b");
    em_cuda_attend_args s = {.step = a->t->step,
                             .state = a->t->state,
                             .source = twin_source(a->t, a->role->ratio ? a->role->owner_source_idx : -1),
                             .topk = dev_copy(c->topk, (size_t)(a->n * c->topk_cap) * 4),
                             .topk_n = dev_copy(c->topk_n, (size_t)a->n * 4),
                             .topk_stride = c->topk_cap,
                             .rope = a->rope,
                             .win = a->win,
                             .attn_sink = dev_copy_floats(a->lw->attn_sink, a->heads),
                             .q = dev_copy_floats(c->q, a->n * a->heads * a->D),
                             .layer = a->layer,
                             .n_heads = (int32_t)a->heads};
    float *whole = s.q;
    ck_assert_int_eq(em_cuda_attend(NULL, &s), 0);
    expect_floats(whole, a->want.q, a->n * a->heads * a->D, 1e-5, "attention");
    s.q = dev_copy_floats(c->q, a->n * a->heads * a->D);
    s.part =
        dev_floats(em_cuda_attend_part_floats(a->n, a->heads, a->D, cfg->window, a->role->ratio ? c->topk_cap : 0));
    s.part_tokens = (int32_t)a->n;
    ck_assert_int_eq(em_cuda_attend(NULL, &s), 0);
    expect_bits(s.q, whole, (size_t)(a->n * a->heads * a->D) * 4, "attention in parts");
    const void *all[] = {s.topk, s.topk_n, s.attn_sink, s.q, s.part, whole};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        dev_free((void *)all[i]);
}

static void compare_output(attn *a)
{
    const em_model_config *cfg = a->c->cfg;
    int64_t width = a->heads * a->D, rank = (int64_t)cfg->o_groups * cfg->o_lora_rank;
    float *o_lat = dev_floats(a->n * rank), *y = dev_floats(a->n * cfg->hidden_size);
    em_cuda_linear_job job = twin_job(a->t, &a->lw->wo_a, a->want.q, width, o_lat);
    job.rows_per_group = cfg->o_lora_rank;
    ck_assert_int_eq(em_cuda_linear(NULL, &job, 1, EM_CUDA_MATH_F32), 0);
    expect_floats(o_lat, a->want.o_lat, a->n * rank, 1e-5, "wo_a");
    job = twin_job(a->t, &a->lw->wo_b, a->want.o_lat, rank, y);
    ck_assert_int_eq(em_cuda_linear(NULL, &job, 1, EM_CUDA_MATH_F32), 0);
    expect_floats(y, a->want.y, a->n * cfg->hidden_size, 1e-5, "attention's output");
    dev_free(o_lat);
    dev_free(y);
}

static void attn_done(attn *a)
{
    free(a->q_lat);
    dev_free(a->want.q);
    dev_free(a->want.q_lat);
    dev_free(a->want.index_q);
    dev_free(a->want.o_lat);
    /* later stages read the CPU's own results */
    memcpy(a->c->y, a->want.y, (size_t)(a->n * a->c->cfg->hidden_size) * 4);
    dev_free(a->want.y);
    dev_free(a->win);
}

void twin_attention(twin *t, int32_t layer)
{
    em_cpu *c = t->r.cpu;
    attn a = {.t = t,
              .c = c,
              .lw = &t->r.weights->layers[layer],
              .role = &c->cfg->role[layer],
              .layer = layer,
              .n = c->n_tokens,
              .D = c->cfg->head_dim,
              .heads = c->cfg->n_heads,
              .rope = c->cfg->role[layer].ratio ? t->rope_comp : t->rope_main};
    next_order();
    twin_take_state(t);
    run_cpu(&a);
    compare_window(&a);
    if (a.role->kv_source_idx >= 0)
        compare_compressor(&a);
    if (a.role->is_index_source)
        compare_indexer(&a);
    compare_attend(&a);
    em_cuda_window_store_args s = {.step = t->step, .state = t->state, .win = a.win, .layer = layer};
    ck_assert_int_eq(em_cuda_window_store(NULL, &s), 0);
    twin_compare_state(t);
    compare_output(&a);
    attn_done(&a);
}
