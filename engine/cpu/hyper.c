/* Hyper-connections: the small per-token matrix that mixes the residual streams (spec 4.2, 4.3). Each site computes post
 * and comb for itself and pre for the next site, so `pre` is consumed before it is replaced. */
#include "engine/cpu/cpu.h"

#include <math.h>
#include <string.h>

static float sigmoid(float v)
{
    return 1.0f / (1.0f + expf(-v));
}

static void row_softmax(float *comb, int32_t hc, float eps)
{
    for (int32_t j = 0; j < hc; j++) {
        float *row = comb + (int64_t)j * hc, max = row[0], sum = 0.0f;
        for (int32_t k = 1; k < hc; k++)
            max = row[k] > max ? row[k] : max;
        for (int32_t k = 0; k < hc; k++)
            sum += row[k] = expf(row[k] - max);
        for (int32_t k = 0; k < hc; k++)
            row[k] = row[k] / sum + eps;
    }
}

/* Alternate column and row normalisation; ends with columns. */
static void normalize(float *comb, int32_t hc, int32_t iters, float eps)
{
    for (int32_t it = 0; it < iters; it++) {
        for (int32_t j = 0; j < hc && it > 0; j++) {
            float sum = 0.0f;
            for (int32_t k = 0; k < hc; k++)
                sum += comb[j * hc + k];
            for (int32_t k = 0; k < hc; k++)
                comb[j * hc + k] /= sum + eps;
        }
        for (int32_t k = 0; k < hc; k++) {
            float sum = 0.0f;
            for (int32_t j = 0; j < hc; j++)
                sum += comb[j * hc + k];
            for (int32_t j = 0; j < hc; j++)
                comb[j * hc + k] /= sum + eps;
        }
    }
}

typedef float vec4 __attribute__((vector_size(16)));

/* Each column over its sum. */
static void normalize_columns4(vec4 row[4], float eps)
{
    vec4 sum = ((row[0] + row[1]) + row[2]) + row[3] + eps;
    for (int j = 0; j < 4; j++)
        row[j] /= sum;
}

static void transpose4(vec4 row[4])
{
    float t[4][4];
    memcpy(t, row, sizeof(t));
    for (int j = 0; j < 4; j++)
        row[j] = (vec4){t[0][j], t[1][j], t[2][j], t[3][j]};
}

/* The same for four streams, which all released models have, four divisions at a time; the same bits. */
static void normalize4(float *comb, int32_t iters, float eps)
{
    vec4 row[4];
    memcpy(row, comb, sizeof(row));
    normalize_columns4(row, eps);
    for (int32_t it = 1; it < iters; it++) {
        transpose4(row);
        normalize_columns4(row, eps);
        transpose4(row);
        normalize_columns4(row, eps);
    }
    memcpy(comb, row, sizeof(row));
}

void em_hc_split(const em_model_config *cfg, const float *mix, const float *base, const float *scale, float *ret_pre,
                 float *ret_post, float *ret_comb)
{
    int32_t hc = cfg->hc_mult;
    for (int32_t j = 0; j < hc; j++) {
        ret_pre[j] = sigmoid(mix[j] * scale[0] + base[j]) + cfg->hc_eps;
        ret_post[j] = 2.0f * sigmoid(mix[hc + j] * scale[1] + base[hc + j]);
    }
    for (int32_t i = 0; i < hc * hc; i++)
        ret_comb[i] = mix[2 * hc + i] * scale[2] + base[2 * hc + i];
    row_softmax(ret_comb, hc, cfg->hc_eps);
    if (hc == 4 && cfg->hc_sinkhorn_iters > 0)
        normalize4(ret_comb, cfg->hc_sinkhorn_iters, cfg->hc_eps);
    else
        normalize(ret_comb, hc, cfg->hc_sinkhorn_iters, cfg->hc_eps);
}

/* Streams are mixed without fused operations, here and below: fused ones move values over the quantisers' rounding
 * boundaries in most rows of the golden data. */
void em_cpu_collapse(const em_cpu *c, int64_t token, float *out)
{
    int32_t hc = c->cfg->hc_mult;
    int64_t H = c->cfg->hidden_size;
    const float *streams = c->streams + token * hc * H, *pre = c->pre + token * hc;
    for (int64_t d = 0; d < H; d++)
        out[d] = pre[0] * streams[d];
    for (int32_t s = 1; s < hc; s++)
        for (int64_t d = 0; d < H; d++)
            out[d] += pre[s] * streams[s * H + d];
}

typedef struct site_call {
    em_cpu *c;
    const em_hc_weights *hc;
    const float *norm; /* [H] of the sublayer's input */
} site_call;

/* Raw products are in c->mix: finish one token. The norm is joint over all streams (spec 8.4 item 28). */
static void pre_item(void *ctx, int64_t token, int worker)
{
    const site_call *call = ctx;
    em_cpu *c = call->c;
    int32_t hc = c->cfg->hc_mult, n_mix = (2 + hc) * hc;
    int64_t H = c->cfg->hidden_size;
    const float *streams = c->streams + token * hc * H;
    float *mix = c->mix + token * n_mix, *x = c->x + token * H, *pre = c->pre + token * hc;

    float rho = 1.0f / sqrtf(c->k.sum_sq(streams, hc * H) / (float)(hc * H) + c->cfg->norm_eps);
    for (int32_t i = 0; i < n_mix; i++)
        mix[i] *= rho;
    em_cpu_collapse(c, token, x);
    em_cpu_rmsnorm(c, x, x, call->norm, H);
    em_hc_split(c->cfg, mix, call->hc->base, call->hc->scale, pre, c->post + token * hc, c->comb + token * hc * hc);
}

void em_cpu_hc_pre(em_backend *be, int32_t layer, em_site site)
{
    em_cpu *c = (em_cpu *)be;
    const em_layer_weights *lw = &c->w->layers[layer];
    site_call call = {c, site == EM_SITE_ATTN ? &lw->hc_attn : &lw->hc_ffn,
                      site == EM_SITE_ATTN ? lw->attn_norm : lw->ffn_norm};
    int64_t width = (int64_t)c->cfg->hc_mult * c->cfg->hidden_size;
    em_linear_job job = em_cpu_job(c, &call.hc->fn, c->streams, width, c->mix);
    em_cpu_linear(c, &job, 1);
    em_pool_run(c->pool, pre_item, &call, c->n_tokens);
}

/* X'[k] = post_k y + sum_j comb[j][k] X[j]: the first index of comb is the old stream; the j-sum comes first. */
static void post_item(void *ctx, int64_t token, int worker)
{
    em_cpu *c = ctx;
    int32_t hc = c->cfg->hc_mult;
    int64_t H = c->cfg->hidden_size;
    const float *old = c->streams + token * hc * H, *y = c->y + token * H;
    const float *post = c->post + token * hc, *comb = c->comb + token * hc * hc;
    float *next = c->streams2 + token * hc * H;
    for (int32_t k = 0; k < hc; k++) {
        float *out = next + k * H;
        for (int64_t d = 0; d < H; d++)
            out[d] = comb[k] * old[d];
        for (int32_t j = 1; j < hc; j++)
            for (int64_t d = 0; d < H; d++)
                out[d] += comb[j * hc + k] * old[j * H + d];
        for (int64_t d = 0; d < H; d++)
            out[d] = post[k] * y[d] + out[d];
    }
}

void em_cpu_hc_post(em_backend *be, int32_t layer, em_site site)
{
    em_cpu *c = (em_cpu *)be;
    em_cpu_each_token(c, post_item);
    float *swap = c->streams;
    c->streams = c->streams2;
    c->streams2 = swap;
}
