/* The Engram layer: rows -> keys and a value -> a gate per stream -> added to the streams (spec 5.5). */
#include "engine/cpu/cpu.h"
#include "engine/formats.h"

#include <math.h>
#include <string.h>

typedef struct engram_call {
    em_cpu *c;
    const em_engram_weights *w;
    const em_engram_rows *rows;
    int32_t order; /* insight: index of the order looked at now */
} engram_call;

/* Packed rows of one token, side by side, -> F32. */
static void widen(const engram_call *call, int64_t token, float *out)
{
    const em_cpu *c = call->c;
    int64_t n = (int64_t)call->rows->n_cols * c->cfg->engram_head_dim;
    switch (call->w->dtype) {
    case EM_DTYPE_FP8:
        c->k.dec_e4m3_b32(call->rows->codes + token * n, call->rows->scales + token * (n / 32), n, out);
        return;
    case EM_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t v;
            memcpy(&v, call->rows->codes + (token * n + i) * 2, 2);
            out[i] = em_bf16_to_f32(v);
        }
        return;
    default: memcpy(out, call->rows->codes + token * n * 4, (size_t)n * 4);
    }
}

static void widen_item(void *ctx, int64_t token, int worker)
{
    const engram_call *call = ctx;
    widen(call, token, call->c->engram_in + token * call->w->wkv.cols);
}

/* Gate of one stream: norms are per stream here, and weight-free but for the product of the two weight vectors. */
static float gate(const em_cpu *c, const float *x, const float *qk, const float *key, float *weighted)
{
    int64_t H = c->cfg->hidden_size;
    for (int64_t d = 0; d < H; d++)
        weighted[d] = x[d] * qk[d];
    float rho = 1.0f / sqrtf(c->k.sum_sq(x, H) / (float)H + c->cfg->norm_eps);
    rho *= 1.0f / sqrtf(c->k.sum_sq(key, H) / (float)H + c->cfg->norm_eps);
    float delta = c->k.dot(weighted, key, H) * rho / sqrtf((float)H);
    float root = copysignf(sqrtf(fmaxf(fabsf(delta), 1e-6f)), delta); /* +0 opens the gate a little: not sign() */
    return 1.0f / (1.0f + expf(-root));
}

static void gate_item(void *ctx, int64_t token, int worker)
{
    const engram_call *call = ctx;
    em_cpu *c = call->c;
    int32_t hc = c->cfg->hc_mult;
    int64_t H = c->cfg->hidden_size;
    const float *kv = c->engram_kv + token * (hc + 1) * H, *value = kv + hc * H;
    for (int32_t s = 0; s < hc; s++) {
        float *x = c->streams + (token * hc + s) * H;
        float g = gate(c, x, call->w->qk_weight + s * H, kv + s * H, c->scratch[worker]);
        c->engram_gate[token * hc + s] = g;
        c->k.axpy(x, g, value, H);
    }
}

void em_cpu_engram(em_backend *be, int32_t layer, const em_engram_rows *rows)
{
    em_cpu *c = (em_cpu *)be;
    engram_call call = {c, c->w->layers[layer].engram, rows, 0};
    memset(c->scratch_tag, 0, sizeof *c->scratch_tag * (size_t)em_pool_threads(c->pool));
    em_pool_run(c->pool, widen_item, &call, c->n_tokens);
    em_linear_job job = em_cpu_job(c, &call.w->wkv, c->engram_in, call.w->wkv.cols, c->engram_kv);
    em_cpu_linear(c, &job, 1);
    em_pool_run(c->pool, gate_item, &call, c->n_tokens);
}

/* --- insight: asked for by few, so it computes again what the stage above has done for the value ------------------- */

/* Input of the g-th token that is told of, with the rows of one order alone. */
static void widen_order_item(void *ctx, int64_t g, int worker)
{
    const engram_call *call = ctx;
    em_cpu *c = call->c;
    int64_t cols = call->w->wkv.cols, width = (int64_t)c->cfg->engram_n_heads * c->cfg->engram_head_dim;
    float *in = c->engram_in + g * cols;
    widen(call, c->insight_token[g], in);
    memset(in, 0, (size_t)(call->order * width) * sizeof *in);
    memset(in + (call->order + 1) * width, 0, (size_t)(cols - (call->order + 1) * width) * sizeof *in);
}

static void norm_item(void *ctx, int64_t g, int worker)
{
    const engram_call *call = ctx;
    em_cpu *c = call->c;
    int64_t H = c->cfg->hidden_size;
    c->insight_share[g][call->order] =
        sqrtf(c->k.sum_sq(c->engram_kv + g * call->w->wkv.rows + c->cfg->hc_mult * H, H));
}

/* Norms -> shares. */
static void normalise(float *share, int32_t n)
{
    float sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += share[i];
    for (int32_t i = 0; i < n && sum > 0; i++)
        share[i] /= sum;
}

/* Copies the gates and lists the tokens; returns how many. */
static int32_t list_insight(em_cpu *c, int32_t layer)
{
    const em_model_config *cfg = c->cfg;
    int32_t table = cfg->role[layer].engram_idx, n = 0, hc = cfg->hc_mult, n_orders = cfg->engram_max_order - 1;
    for (int32_t s = 0; s < c->batch->n_seqs; s++) {
        const em_batch_seq *run = &c->batch->seqs[s];
        int32_t first = c->run_start[s] + run->n_tokens - run->n_insight;
        for (int32_t i = 0; i < run->n_insight; i++) {
            int64_t at = (int64_t)i * cfg->n_engram_layers + table;
            memcpy(run->insight.gate + at * hc, c->engram_gate + (int64_t)(first + i) * hc, (size_t)hc * sizeof(float));
            c->insight_token[n] = first + i;
            c->insight_share[n++] = run->insight.share + at * n_orders;
        }
    }
    return n;
}

void em_cpu_insight(em_backend *be, int32_t layer, const em_engram_rows *rows)
{
    em_cpu *c = (em_cpu *)be;
    engram_call call = {c, c->w->layers[layer].engram, rows, 0};
    int32_t n = list_insight(c, layer), n_orders = c->cfg->engram_max_order - 1;
    em_linear_job job = em_cpu_job(c, &call.w->wkv, c->engram_in, call.w->wkv.cols, c->engram_kv);
    job.row_begin = c->cfg->hc_mult * (int64_t)c->cfg->hidden_size; /* the value's rows */
    job.n_rows = n;
    for (; call.order < n_orders; call.order++) {
        em_pool_run(c->pool, widen_order_item, &call, n);
        em_cpu_linear(c, &job, 1);
        em_pool_run(c->pool, norm_item, &call, n);
    }
    for (int32_t i = 0; i < n; i++)
        normalise(c->insight_share[i], n_orders);
}
