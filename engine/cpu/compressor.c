/* The compressor of a KV source (spec 4.7, 4.9): groups of `ratio` tokens -> one latent, its index key, and the stored
 * rows of both. Tokens of a group that is not complete yet wait in the sequence's slot. */
#include "engine/cpu/cpu.h"

#include <math.h>
#include <string.h>

typedef struct comp_call {
    em_cpu *c;
    const em_layer_weights *lw;
    int32_t source, ratio;
} comp_call;

/* Groups that this step completes, run by run, in order. */
static void list_groups(em_cpu *c, int32_t ratio)
{
    c->n_groups = 0;
    for (int32_t s = 0; s < c->batch->n_seqs; s++) {
        const em_batch_seq *run = &c->batch->seqs[s];
        for (int32_t j = run->pos / ratio; j < (run->pos + run->n_tokens) / ratio; j++) {
            c->group_seq[c->n_groups] = s;
            c->group_j[c->n_groups++] = j;
        }
    }
}

/* kv and gate rows of position p: in the step, or waiting in the slot. */
static void member_rows(const comp_call *call, int32_t seq, int32_t p, const float **ret_kv, const float **ret_gate)
{
    const em_cpu *c = call->c;
    const em_batch_seq *run = &c->batch->seqs[seq];
    int64_t D = c->cfg->head_dim;
    if (p >= run->pos) {
        int64_t token = c->run_start[seq] + p - run->pos;
        *ret_kv = c->comp_kv + token * D;
        *ret_gate = c->comp_gate + token * D;
        return;
    }
    const float *open = em_cpu_open_group(c, run->kv->slot, call->source);
    *ret_kv = open + p % call->ratio * D;
    *ret_gate = open + (call->ratio - 1 + p % call->ratio) * D;
}

/* Per channel: softmax of the gates over the group's tokens, weighted sum of kv. */
static void pool_group(const comp_call *call, int32_t seq, int32_t j, float *latent)
{
    int64_t D = call->c->cfg->head_dim;
    const float *kv[EM_MAX_RATIO], *gate[EM_MAX_RATIO];
    for (int32_t i = 0; i < call->ratio; i++)
        member_rows(call, seq, j * call->ratio + i, &kv[i], &gate[i]);
    if (call->ratio == 1) {
        memcpy(latent, kv[0], (size_t)D * sizeof(float));
        return;
    }
    for (int64_t d = 0; d < D; d++) {
        float max = gate[0][d], sum = 0.0f, acc = 0.0f;
        for (int32_t i = 1; i < call->ratio; i++)
            max = gate[i][d] > max ? gate[i][d] : max;
        for (int32_t i = 0; i < call->ratio; i++) {
            float e = expf(gate[i][d] - max);
            sum += e;
            acc += e * kv[i][d];
        }
        latent[d] = acc / sum;
    }
}

static void latent_item(void *ctx, int64_t g, int worker)
{
    const comp_call *call = ctx;
    em_cpu *c = call->c;
    float *latent = c->latent + g * c->cfg->head_dim;
    pool_group(call, c->group_seq[g], c->group_j[g], latent);
    em_cpu_rmsnorm(c, latent, latent, call->lw->comp_norm, c->cfg->head_dim);
}

/* The key comes from the latent before it is rotated and quantised (spec 8.4 item 19); both turn at the group's first
 * position. */
static void store_item(void *ctx, int64_t g, int worker)
{
    const comp_call *call = ctx;
    em_cpu *c = call->c;
    const em_model_config *cfg = c->cfg;
    const em_seq_kv *kv = c->batch->seqs[c->group_seq[g]].kv;
    int32_t j = c->group_j[g], pairs = cfg->rope_dim / 2;
    float *cos = c->scratch[worker], *sin = cos + pairs;
    float *key = c->index_key + g * cfg->index_head_dim, *latent = c->latent + g * cfg->head_dim;
    em_rope_table(c->freq_comp, pairs, (int64_t)j * call->ratio, cos, sin);

    em_cpu_rmsnorm(c, key, key, call->lw->index_k_norm, cfg->index_head_dim);
    em_rope_apply(key + cfg->index_head_dim - cfg->rope_dim, cos, sin, pairs, false);
    em_cpu_store_key(c, em_cpu_key_row(c, kv, call->source, j), key);
    em_rope_apply(latent + cfg->head_dim - cfg->rope_dim, cos, sin, pairs, false);
    em_cpu_store_comp(c, em_cpu_comp_row(c, kv, call->source, j), latent);
}

/* Tokens behind the last complete group wait for the next step. */
static void save_open(const comp_call *call)
{
    em_cpu *c = call->c;
    size_t row = (size_t)c->cfg->head_dim;
    for (int32_t s = 0; s < c->batch->n_seqs; s++) {
        const em_batch_seq *run = &c->batch->seqs[s];
        int32_t end = run->pos + run->n_tokens, first = end / call->ratio * call->ratio;
        float *open = em_cpu_open_group(c, run->kv->slot, call->source);
        for (int32_t p = first > run->pos ? first : run->pos; p < end; p++) {
            size_t token = (size_t)(c->run_start[s] + p - run->pos), i = (size_t)(p % call->ratio);
            memcpy(open + i * row, c->comp_kv + token * row, row * sizeof(float));
            memcpy(open + ((size_t)call->ratio - 1 + i) * row, c->comp_gate + token * row, row * sizeof(float));
        }
    }
}

void em_cpu_compress(em_cpu *c, int32_t layer)
{
    const em_layer_role *role = &c->cfg->role[layer];
    comp_call call = {c, &c->w->layers[layer], role->kv_source_idx, role->ratio};
    list_groups(c, call.ratio);
    em_pool_run(c->pool, latent_item, &call, c->n_groups);
    em_linear_job job = em_cpu_job(c, &call.lw->index_wk, c->latent, c->cfg->head_dim, c->index_key);
    job.n_rows = c->n_groups;
    em_cpu_linear(c, &job, 1);
    em_pool_run(c->pool, store_item, &call, c->n_groups);
    if (call.ratio > 1)
        save_open(&call);
}
