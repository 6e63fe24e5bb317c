/* The mixture of experts (spec 4.10): router, grouping by expert, SwiGLU experts, combination in ascending expert order.
 * The shared expert is one more expert that every token chooses with weight 1. */
#include "engine/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Rows [row, row_end) of one expert's matrices for entries [entry, entry + n). */
struct em_moe_item {
    int32_t expert, entry, n;
    int32_t row, row_end;
};

#define EM_MOE_TILE 64 /* output rows of one item */

typedef struct moe_call {
    em_cpu *c;
    const em_layer_weights *lw;
} moe_call;

static float router_score(const em_model_config *cfg, float z)
{
    if (cfg->scoring == EM_SCORE_SIGMOID)
        return 1.0f / (1.0f + expf(-z));
    return sqrtf(z > 20.0f ? z : log1pf(expf(z))); /* sqrt of softplus, linear above 20 */
}

static void softmax(float *z, int32_t n)
{
    float max = z[0], sum = 0.0f;
    for (int32_t i = 1; i < n; i++)
        max = z[i] > max ? z[i] : max;
    for (int32_t i = 0; i < n; i++)
        sum += z[i] = expf(z[i] - max);
    for (int32_t i = 0; i < n; i++)
        z[i] /= sum;
}

/* Router logits -> chosen experts and weights of one token. The bias steers the choice only. */
static void route_item(void *ctx, int64_t token, int worker)
{
    const moe_call *call = ctx;
    em_cpu *c = call->c;
    const em_model_config *cfg = c->cfg;
    int32_t E = cfg->n_experts, k = cfg->n_experts_per_tok;
    float *p = c->router + token * E, *biased = c->scratch[worker];
    for (int32_t e = 0; e < E; e++)
        p[e] /= cfg->gate_temp;
    if (cfg->scoring == EM_SCORE_SOFTMAX)
        softmax(p, E);
    else
        for (int32_t e = 0; e < E; e++)
            p[e] = router_score(cfg, p[e]);
    for (int32_t e = 0; e < E; e++)
        biased[e] = p[e] + call->lw->router_bias[e];
    int32_t *id = c->expert_id + token * k;
    float *weight = c->expert_w + token * k, sum = 0.0f;
    em_topk_sorted(biased, E, k, id);
    for (int32_t i = 0; i < k; i++)
        sum += weight[i] = p[id[i]];
    for (int32_t i = 0; i < k; i++) {
        if (cfg->norm_topk_prob && k > 1)
            weight[i] /= sum + 1e-20f;
        weight[i] *= cfg->routed_scaling_factor;
    }
}

/* Counting sort of (token, expert) pairs by expert, tokens ascending inside; the shared expert's pairs come last. */
static void group_by_expert(em_cpu *c)
{
    int32_t E = c->cfg->n_experts, k = c->cfg->n_experts_per_tok, T = c->n_tokens, *begin = c->expert_begin;
    memset(begin, 0, (size_t)(E + 2) * sizeof *begin);
    for (int32_t i = 0; i < T * k; i++)
        begin[c->expert_id[i] + 1]++;
    begin[E + 1] = T;
    for (int32_t e = 1; e <= E; e++)
        c->base.experts_read += begin[e] > 0;
    for (int32_t e = 0; e <= E; e++)
        begin[e + 1] += begin[e];
    for (int32_t t = 0; t < T; t++) {
        for (int32_t i = 0; i < k; i++) {
            int32_t e = c->expert_id[t * k + i];
            c->entry[begin[e]++] = (em_moe_entry){t, e, c->expert_w[t * k + i]};
        }
        c->entry[begin[E]++] = (em_moe_entry){t, E, 1.0f};
    }
    for (int32_t e = E + 1; e > 0; e--) /* each begin has moved to its end, which is where the next one starts */
        begin[e] = begin[e - 1];
    begin[0] = 0;
    int32_t *filled = c->entry_fill;
    memset(filled, 0, (size_t)T * sizeof *filled);
    for (int32_t i = 0; i < T * (k + 1); i++) {
        int32_t t = c->entry[i].token;
        c->entry_of[t * (k + 1) + filled[t]++] = i;
    }
}

static void gather_item(void *ctx, int64_t i, int worker)
{
    em_cpu *c = ((const moe_call *)ctx)->c;
    size_t H = (size_t)c->cfg->hidden_size;
    memcpy(c->moe_x + (size_t)i * H, c->x + (size_t)c->entry[i].token * H, H * sizeof(float));
}

static const em_expert_weights *expert_of(const moe_call *call, int32_t e)
{
    return e == call->c->cfg->n_experts ? &call->lw->shared : &call->lw->experts[e];
}

/* Work list of one product: every expert that has tokens, its tokens in blocks, its rows in tiles. */
static int64_t list_items(em_cpu *c, int32_t n_out)
{
    int64_t n = 0;
    for (int32_t e = 0; e <= c->cfg->n_experts; e++) {
        for (int32_t row = 0; row < n_out && c->expert_begin[e] < c->expert_begin[e + 1]; row += EM_MOE_TILE) {
            int32_t row_end = row + EM_MOE_TILE < n_out ? row + EM_MOE_TILE : n_out;
            for (int32_t i = c->expert_begin[e]; i < c->expert_begin[e + 1]; i += EM_TOKEN_BLOCK) {
                int32_t left = c->expert_begin[e + 1] - i;
                c->moe_item[n++] =
                    (struct em_moe_item){e, i, left < EM_TOKEN_BLOCK ? left : EM_TOKEN_BLOCK, row, row_end};
            }
        }
    }
    return n;
}

/* Gate and up rows of a tile, then SwiGLU on it. The routing weight goes in before w2 (it matters once activations are
 * quantised; spec 8.4 item 31). */
static void up_item(void *ctx, int64_t i, int worker)
{
    const moe_call *call = ctx;
    em_cpu *c = call->c;
    const struct em_moe_item *it = &c->moe_item[i];
    const em_expert_weights *ew = expert_of(call, it->expert);
    int64_t H = c->cfg->hidden_size, inter = c->cfg->moe_inter;
    bool shared = it->expert == c->cfg->n_experts; /* its entries are all tokens in order: no gathering */
    const float *x = shared ? c->x + (int64_t)c->entry[it->entry].token * H : c->moe_x + it->entry * H;
    float *g = c->moe_g + it->entry * inter, *u = c->moe_u + it->entry * inter;
    c->k.gemm[ew->w1.dtype](&ew->w1, it->row, it->row_end, x, H, it->n, g, inter);
    c->k.gemm[ew->w3.dtype](&ew->w3, it->row, it->row_end, x, H, it->n, u, inter);
    for (int32_t m = 0; m < it->n; m++) {
        float *gm = g + m * inter + it->row, *um = u + m * inter + it->row;
        c->k.swiglu(gm, gm, um, c->cfg->swiglu_limit, c->entry[it->entry + m].weight, it->row_end - it->row);
    }
}

static void down_item(void *ctx, int64_t i, int worker)
{
    const moe_call *call = ctx;
    em_cpu *c = call->c;
    const struct em_moe_item *it = &c->moe_item[i];
    const em_matrix *w2 = &expert_of(call, it->expert)->w2;
    int64_t H = c->cfg->hidden_size, inter = c->cfg->moe_inter;
    c->k.gemm[w2->dtype](w2, it->row, it->row_end, c->moe_g + it->entry * inter, inter, it->n, c->moe_y + it->entry * H,
                         H);
}

static void combine_item(void *ctx, int64_t token, int worker)
{
    em_cpu *c = ((const moe_call *)ctx)->c;
    int64_t H = c->cfg->hidden_size, n = c->cfg->n_experts_per_tok + 1;
    const int32_t *entry = c->entry_of + token * n;
    float *y = c->y + token * H;
    memcpy(y, c->moe_y + entry[0] * H, (size_t)H * sizeof(float));
    for (int64_t i = 1; i < n; i++)
        c->k.axpy(y, 1.0f, c->moe_y + entry[i] * H, H);
}

void em_cpu_moe(em_backend *be, int32_t layer)
{
    em_cpu *c = (em_cpu *)be;
    moe_call call = {c, &c->w->layers[layer]};
    em_linear_job job = em_cpu_job(c, &call.lw->router, c->x, c->cfg->hidden_size, c->router);
    em_cpu_linear(c, &job, 1);
    em_pool_run(c->pool, route_item, &call, c->n_tokens);
    group_by_expert(c);
    em_pool_run(c->pool, gather_item, &call, (int64_t)c->n_tokens * c->cfg->n_experts_per_tok);
    em_pool_run(c->pool, up_item, &call, list_items(c, c->cfg->moe_inter));
    em_pool_run(c->pool, down_item, &call, list_items(c, c->cfg->hidden_size));
    em_pool_run(c->pool, combine_item, &call, c->n_tokens);
}
