/* Bytes of weights: what a checkpoint's headers say a load will take, and what a step reads of loaded ones. */
#include <errno.h>
#include <string.h>

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

void em_weights_step_bytes(const em_model_config *cfg, const em_weights *w, int64_t *ret_fixed, int64_t *ret_expert)
{
    int64_t n = matrix_bytes(&w->head);
    for (int32_t l = 0; l < cfg->n_layers; l++) {
        const em_layer_weights *lw = &w->layers[l];
        const em_matrix *dense[] = {&lw->hc_attn.fn,
                                    &lw->hc_ffn.fn,
                                    &lw->wq_a,
                                    &lw->wq_b,
                                    &lw->wkv,
                                    &lw->wo_a,
                                    &lw->wo_b,
                                    &lw->router,
                                    &lw->comp_wkv,
                                    &lw->comp_wgate,
                                    &lw->index_wk,
                                    &lw->index_wq_b,
                                    &lw->index_weights_proj};
        for (size_t i = 0; i < sizeof(dense) / sizeof(*dense); i++)
            n += matrix_bytes(dense[i]);
        n += expert_bytes(&lw->shared);
        n += lw->engram ? matrix_bytes(&lw->engram->wkv) : 0;
    }
    *ret_fixed = n;
    *ret_expert = expert_bytes(&w->layers[0].experts[0]);
}
