/* Bytes of weights: what a checkpoint's headers say a load will take, and what a step reads of loaded ones. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/cpu/pack.h"
#include "engine/weights.h"
#include "engine/weights_bind.h"

static bool is_routed_expert(const char *name)
{
    return strstr(name, ".ffn.experts.") != NULL;
}

static bool is_table(const char *name)
{
    return strstr(name, ".engram.embed.") != NULL;
}

/* Bytes that the binder keeps of its own for one tensor: vectors and Engram's q and k are widened to F32, float
 * matrices at an address that floats may not have are copied. */
static uint64_t owned_bytes(const em_bind_slot *slot)
{
    const em_st_tensor *t = slot->t;
    size_t size = t->dtype == EM_ST_F32 ? 4 : t->dtype == EM_ST_BF16 ? 2 : 0;
    if (!size)
        return 0;
    if (t->n_dims == 1 || strstr(slot->name, ".engram.q_weight") || strstr(slot->name, ".engram.k_weight"))
        return t->bytes / size * sizeof(float);
    return (uintptr_t)t->data % size ? t->bytes : 0;
}

/* Bytes of a tensor in the order of the kernels; 0 for what is no matrix of a product. */
static uint64_t packed_bytes(em_binder *b, const em_bind_slot *slot)
{
    const em_st_tensor *t = slot->t, *scale = NULL;
    const char *end = strrchr(slot->name, '.');
    char name[512];
    bool fp8 = t->dtype == EM_ST_F8_E4M3, is_float = t->dtype == EM_ST_F32 || t->dtype == EM_ST_BF16;
    if (t->n_dims != 2 || !end || strcmp(end, ".scale") == 0 || strcmp(slot->name, "embed.weight") == 0 ||
        strstr(slot->name, ".engram.q_weight") || strstr(slot->name, ".engram.k_weight"))
        return 0;
    if (is_float)
        return em_packed_bytes(t->dtype == EM_ST_F32 ? EM_DTYPE_F32 : EM_DTYPE_BF16, t->shape[0], t->shape[1], 0);
    if (!fp8)
        return em_packed_bytes(EM_DTYPE_FP4, t->shape[0], t->dtype == EM_ST_F4 ? t->shape[1] : 2 * t->shape[1], 1);
    snprintf(name, sizeof(name), "%.*s.scale", (int)(end - slot->name), slot->name);
    scale = em_bind_find(b, name);
    int64_t n_scales = scale && scale->n_dims == 2 && scale->shape[0] > 0 ? scale->shape[0] : 1;
    int64_t tile = em_bind_tile_size(t->shape[0], n_scales, b->cfg->fp8_block_rows, 1);
    return em_packed_bytes(EM_DTYPE_FP8, t->shape[0], t->shape[1], tile ? (int32_t)tile : 1);
}

int em_weights_measure(const em_model_config *cfg, const em_st_set *set, em_weights_sizes *ret_sizes, em_error *err)
{
    em_binder b;
    int r = em_binder_init(&b, cfg, set, err);
    if (r < 0)
        return r;
    em_weights_sizes s = {.owned = (uint64_t)cfg->n_layers *
                                   (sizeof(em_layer_weights) + (uint64_t)cfg->n_experts * sizeof(em_expert_weights))};
    for (size_t i = 0; i < b.n_slots; i++) {
        const em_bind_slot *slot = &b.slots[i];
        if (em_bind_is_foreign(slot->name))
            continue;
        if (is_table(slot->name)) {
            s.tables += slot->t->bytes;
            if (strstr(slot->name, ".weight"))
                s.table_dtype = slot->t->dtype == EM_ST_F32    ? EM_DTYPE_F32
                                : slot->t->dtype == EM_ST_BF16 ? EM_DTYPE_BF16
                                                               : EM_DTYPE_FP8;
        } else {
            s.mapped += slot->t->bytes;
            s.experts += is_routed_expert(slot->name) ? slot->t->bytes : 0;
            s.packed += packed_bytes(&b, slot);
            s.embed += strcmp(slot->name, "embed.weight") == 0 ? slot->t->bytes : 0;
            s.owned += owned_bytes(slot);
        }
    }
    em_binder_done(&b);
    *ret_sizes = s;
    return 0;
}

/* --- one step -------------------------------------------------------------------------------------------------- */

static int64_t matrix_bytes(const em_matrix *w)
{
    int64_t scales = w->scale ? (w->rows + w->scale_rows - 1) / w->scale_rows * w->scale_stride : 0;
    return w->rows * (int64_t)em_matrix_row_bytes(w) + scales;
}

static int64_t expert_bytes(const em_expert_weights *e)
{
    return matrix_bytes(&e->w1) + matrix_bytes(&e->w2) + matrix_bytes(&e->w3);
}

static void each_expert_matrix(em_expert_weights *e, void (*fn)(void *ctx, em_matrix *m), void *ctx)
{
    fn(ctx, &e->w1);
    fn(ctx, &e->w3);
    fn(ctx, &e->w2);
}

/* All but the experts. */
static void each_dense_matrix(em_layer_weights *lw, void (*fn)(void *ctx, em_matrix *m), void *ctx)
{
    em_matrix *dense[] = {
        &lw->hc_attn.fn, &lw->wq_a,       &lw->wkv,      &lw->comp_wkv, &lw->comp_wgate, &lw->index_weights_proj,
        &lw->wq_b,       &lw->index_wq_b, &lw->index_wk, &lw->wo_a,     &lw->wo_b,       &lw->hc_ffn.fn,
        &lw->router};
    for (size_t i = 0; i < sizeof(dense) / sizeof(*dense); i++)
        if (dense[i]->rows)
            fn(ctx, dense[i]);
}

void em_weights_each_matrix(const em_model_config *cfg, em_weights *w, void (*fn)(void *ctx, em_matrix *m), void *ctx)
{
    for (int32_t l = 0; l < cfg->n_layers; l++) {
        em_layer_weights *lw = &w->layers[l];
        if (lw->engram)
            fn(ctx, &w->engram[cfg->role[l].engram_idx].wkv);
        each_dense_matrix(lw, fn, ctx);
        for (int32_t e = 0; e < cfg->n_experts; e++)
            each_expert_matrix(&lw->experts[e], fn, ctx);
        each_expert_matrix(&lw->shared, fn, ctx);
    }
    fn(ctx, &w->head);
}

static void add_bytes(void *ctx, em_matrix *m)
{
    *(int64_t *)ctx += matrix_bytes(m);
}

void em_weights_step_bytes(const em_model_config *cfg, const em_weights *w, int64_t *ret_fixed, int64_t *ret_expert)
{
    int64_t n = matrix_bytes(&w->head);
    for (int32_t l = 0; l < cfg->n_layers; l++) {
        em_layer_weights lw = w->layers[l];
        each_dense_matrix(&lw, add_bytes, &n);
        n += expert_bytes(&lw.shared);
        n += lw.engram ? matrix_bytes(&lw.engram->wkv) : 0;
    }
    *ret_fixed = n;
    *ret_expert = expert_bytes(&w->layers[0].experts[0]);
}
