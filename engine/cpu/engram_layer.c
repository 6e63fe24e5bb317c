/* The Engram layer: rows -> keys and a value -> a gate per stream -> added to the streams (spec 5.5). */
#include "engine/cpu/cpu.h"
#include "engine/formats.h"

#include <math.h>
#include <string.h>

typedef struct engram_call {
    em_cpu *c;
    const em_engram_weights *w;
    const em_engram_rows *rows;
} engram_call;

/* Packed rows of one token, side by side, -> F32. */
static void widen_item(void *ctx, int64_t token, int worker)
{
    const engram_call *call = ctx;
    em_cpu *c = call->c;
    int64_t n = (int64_t)call->rows->n_cols * c->cfg->engram_head_dim;
    float *out = c->engram_in + token * n;
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
    engram_call call = {c, c->w->layers[layer].engram, rows};
    memset(c->scratch_tag, 0, sizeof *c->scratch_tag * (size_t)em_pool_threads(c->pool));
    em_pool_run(c->pool, widen_item, &call, c->n_tokens);
    em_linear_job job = em_cpu_job(c, &call.w->wkv, c->engram_in, call.w->wkv.cols, c->engram_kv);
    em_cpu_linear(c, &job, 1);
    em_pool_run(c->pool, gate_item, &call, c->n_tokens);
}
