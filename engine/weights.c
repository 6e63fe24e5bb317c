/* The tensors of the text model, place by place (spec 2.1): all that config.json implies, and nothing else. */
#include "engine/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/weights_bind.h"

#define MAX_NAME 256

#define LAYER_NAME(buf, layer, rest) snprintf(buf, sizeof(buf), "layers.%d.%s", layer, rest)

static int layer_floats(em_binder *b, int32_t layer, const char *rest, int64_t rows, int64_t cols, const float **ret)
{
    char name[MAX_NAME];
    float *out;
    LAYER_NAME(name, layer, rest);
    int r = em_bind_floats(b, name, rows, cols, &out);
    if (r == 0)
        *ret = out;
    return r;
}

static int layer_matrix(em_binder *b, int32_t layer, const char *rest, em_bind_kind kind, int64_t rows, int64_t cols,
                        em_matrix *ret)
{
    char name[MAX_NAME];
    LAYER_NAME(name, layer, rest);
    return em_bind_matrix(b, name, kind, rows, cols, ret);
}

/* One vector or matrix of a layer and where it goes. */
typedef struct place {
    const char *name;
    em_bind_kind kind; /* of a matrix */
    int64_t rows, cols;
    const float **floats; /* a vector: cols is 0 */
    em_matrix *matrix;
} place;

static int bind_places(em_binder *b, int32_t layer, const place *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int r = p[i].floats ? layer_floats(b, layer, p[i].name, p[i].rows, p[i].cols, p[i].floats)
                            : layer_matrix(b, layer, p[i].name, p[i].kind, p[i].rows, p[i].cols, p[i].matrix);
        if (r < 0)
            return r;
    }
    return 0;
}

/* One row, one line. */
/* clang-format off */
#define VECTOR(name, n, dst) {name, EM_BIND_FLOAT, n, 0, dst, NULL}
#define MATRIX(name, kind, rows, cols, dst) {name, EM_BIND_##kind, rows, cols, NULL, dst}
/* clang-format on */
#define BIND(b, layer, places) bind_places(b, layer, places, sizeof(places) / sizeof(*(places)))

static int bind_hc(em_binder *b, int32_t layer, const char *site, em_hc_weights *hc)
{
    const em_model_config *c = b->cfg;
    int64_t hc_mult = c->hc_mult, n_mix = (2 + hc_mult) * hc_mult;
    char fn[MAX_NAME], base[64], scale[64];
    snprintf(fn, sizeof(fn), "layers.%d.hc_%s_fn", layer, site);
    snprintf(base, sizeof(base), "hc_%s_base", site);
    snprintf(scale, sizeof(scale), "hc_%s_scale", site);
    int r = em_bind_float_matrix(b, fn, n_mix, hc_mult * c->hidden_size, &hc->fn);
    const place places[] = {VECTOR(base, n_mix, &hc->base), VECTOR(scale, 3, &hc->scale)};
    return r < 0 ? r : BIND(b, layer, places);
}

static int bind_attention(em_binder *b, int32_t layer, em_layer_weights *w)
{
    const em_model_config *c = b->cfg;
    int64_t heads = (int64_t)c->n_heads * c->head_dim, out = (int64_t)c->o_groups * c->o_lora_rank;
    const place places[] = {
        VECTOR("attn_norm.weight", c->hidden_size, &w->attn_norm),
        VECTOR("attn.q_norm.weight", c->q_lora_rank, &w->q_norm),
        VECTOR("attn.kv_norm.weight", c->head_dim, &w->kv_norm),
        VECTOR("attn.attn_sink", c->n_heads, &w->attn_sink),
        MATRIX("attn.wq_a", LINEAR, c->q_lora_rank, c->hidden_size, &w->wq_a),
        MATRIX("attn.wq_b", LINEAR, heads, c->q_lora_rank, &w->wq_b),
        MATRIX("attn.wkv", LINEAR, c->head_dim, c->hidden_size, &w->wkv),
        MATRIX("attn.wo_a", LINEAR, out, heads / c->o_groups, &w->wo_a),
        MATRIX("attn.wo_b", LINEAR, c->hidden_size, out, &w->wo_b),
    };
    return BIND(b, layer, places);
}

/* What only sources of compressed KV and of a top-k have. */
static int bind_sources(em_binder *b, int32_t layer, em_layer_weights *w)
{
    const em_model_config *c = b->cfg;
    const em_layer_role *role = &c->role[layer];
    const place kv[] = {
        MATRIX("attn.compressor.wkv", FLOAT, c->head_dim, c->hidden_size, &w->comp_wkv),
        VECTOR("attn.compressor.norm.weight", c->head_dim, &w->comp_norm),
        MATRIX("attn.indexer.wk", FLOAT, c->index_head_dim, c->head_dim, &w->index_wk),
        VECTOR("attn.indexer.k_norm.weight", c->index_head_dim, &w->index_k_norm),
    };
    const place gate[] = {MATRIX("attn.compressor.wgate", FLOAT, c->head_dim, c->hidden_size, &w->comp_wgate)};
    const place index[] = {
        MATRIX("attn.indexer.wq_b", LINEAR, (int64_t)c->index_n_heads * c->index_head_dim, c->q_lora_rank,
               &w->index_wq_b),
        MATRIX("attn.indexer.weights_proj", FLOAT, c->index_n_heads, c->hidden_size, &w->index_weights_proj),
    };
    int r = role->kv_source_idx >= 0 ? BIND(b, layer, kv) : 0;
    if (r == 0 && role->kv_source_idx >= 0 && role->ratio > 1) /* one token to a group needs no gate */
        r = BIND(b, layer, gate);
    if (r == 0 && role->is_index_source)
        r = BIND(b, layer, index);
    return r;
}

static int bind_expert(em_binder *b, int32_t layer, const char *prefix, em_bind_kind kind, em_expert_weights *e)
{
    const em_model_config *c = b->cfg;
    char w1[64], w2[64], w3[64];
    snprintf(w1, sizeof(w1), "%s.w1", prefix);
    snprintf(w2, sizeof(w2), "%s.w2", prefix);
    snprintf(w3, sizeof(w3), "%s.w3", prefix);
    const place places[] = {
        {w1, kind, c->moe_inter, c->hidden_size, NULL, &e->w1},
        {w2, kind, c->hidden_size, c->moe_inter, NULL, &e->w2},
        {w3, kind, c->moe_inter, c->hidden_size, NULL, &e->w3},
    };
    return BIND(b, layer, places);
}

static int bind_moe(em_binder *b, int32_t layer, em_layer_weights *w)
{
    const em_model_config *c = b->cfg;
    const float *bias_vl; /* steers image tokens, which we refuse; a checkpoint without it is still no V4.1 model */
    const place places[] = {
        VECTOR("ffn_norm.weight", c->hidden_size, &w->ffn_norm),
        MATRIX("ffn.gate", FLOAT, c->n_experts, c->hidden_size, &w->router),
        VECTOR("ffn.gate.bias", c->n_experts, &w->router_bias),
        VECTOR("ffn.gate.bias_vl", c->n_experts, &bias_vl),
    };
    int r = BIND(b, layer, places);
    if (r == 0)
        r = bind_expert(b, layer, "ffn.shared_experts", EM_BIND_LINEAR, &w->shared);
    if (r < 0)
        return r;
    w->experts = em_weights_arena_alloc(&b->arena, (size_t)c->n_experts * sizeof(*w->experts));
    if (!w->experts)
        return em_error_set(b->err, -ENOMEM, "out of memory for the list of experts");
    for (int32_t e = 0; e < c->n_experts && r == 0; e++) {
        char prefix[48];
        snprintf(prefix, sizeof(prefix), "ffn.experts.%d", e);
        r = bind_expert(b, layer, prefix, EM_BIND_EXPERT, &w->experts[e]);
    }
    return r;
}

/* --- Engram --------------------------------------------------------------------------------------------------- */

static int bind_table(em_binder *b, int32_t layer, int64_t n_rows, em_engram_weights *g)
{
    char name[MAX_NAME], scale_name[MAX_NAME];
    int64_t dim = b->cfg->engram_head_dim;
    LAYER_NAME(name, layer, "engram.embed.weight");
    LAYER_NAME(scale_name, layer, "engram.embed.scale");
    const em_st_tensor *t = em_bind_find(b, name);
    if (!t)
        return em_error_set(b->err, -EINVAL, "the checkpoint lacks tensor %s, which a model of its config.json has",
                            name);
    const char *path = em_st_path(b->set, t->file_idx);
    int r = em_bind_check_shape(b, t, 2, (int64_t[]){n_rows, dim});
    if (r < 0)
        return r;
    if (t->dtype != EM_ST_F8_E4M3 && t->dtype != EM_ST_BF16 && t->dtype != EM_ST_F32)
        return em_error_set(b->err, -EINVAL, "%s: tensor %s has dtype %s; F8_E4M3, BF16 or F32 is expected", path,
                            t->name, em_st_dtype_name(t->dtype));
    /* A float table may bring scales that are all ones and unused (spec 2.3): of zero width below 32 columns. */
    const em_st_tensor *s = em_bind_find(b, scale_name);
    if (!s && t->dtype == EM_ST_F8_E4M3)
        return em_error_set(b->err, -EINVAL, "%s: tensor %s is stored as F8_E4M3 but its scale %s is missing", path,
                            t->name, scale_name);
    if (s && (r = em_bind_check_shape(b, s, 2, (int64_t[]){n_rows, dim / 32})) < 0)
        return r;
    if (t->dtype == EM_ST_F8_E4M3 && dim % 32)
        return em_error_set(
            b->err, -EINVAL,
            "%s: tensor %s is stored as F8_E4M3, which needs an engram_head_dim that is a multiple of 32", path,
            t->name);
    if (t->dtype == EM_ST_F8_E4M3 && s->dtype != EM_ST_F8_E8M0 && s->dtype != EM_ST_U8)
        return em_error_set(b->err, -EINVAL, "%s: tensor %s has dtype %s; F8_E8M0 or U8 is expected",
                            em_st_path(b->set, s->file_idx), s->name, em_st_dtype_name(s->dtype));
    g->dtype = t->dtype == EM_ST_F8_E4M3 ? EM_DTYPE_FP8 : t->dtype == EM_ST_BF16 ? EM_DTYPE_BF16 : EM_DTYPE_F32;
    g->n_rows = n_rows;
    g->rows = t;
    g->scales = t->dtype == EM_ST_F8_E4M3 ? s : NULL;
    return 0;
}

static int bind_engram(em_binder *b, int32_t layer, em_engram_weights *g)
{
    const em_model_config *c = b->cfg;
    int64_t width = (int64_t)(c->engram_max_order - 1) * c->engram_n_heads * c->engram_head_dim;
    float *q, *k;
    char q_name[MAX_NAME], k_name[MAX_NAME];
    LAYER_NAME(q_name, layer, "engram.q_weight");
    LAYER_NAME(k_name, layer, "engram.k_weight");
    int r = layer_matrix(b, layer, "engram.wkv", EM_BIND_LINEAR, (int64_t)(c->hc_mult + 1) * c->hidden_size, width,
                         &g->wkv);
    if (r == 0)
        r = em_bind_floats(b, q_name, c->hc_mult, c->hidden_size, &q);
    if (r == 0)
        r = em_bind_floats(b, k_name, c->hc_mult, c->hidden_size, &k);
    if (r < 0)
        return r;
    for (int64_t i = 0; i < (int64_t)c->hc_mult * c->hidden_size; i++)
        q[i] *= k[i]; /* the gate only ever uses the product */
    g->qk_weight = q;
    return 0;
}

static int bind_engrams(em_binder *b, em_weights *w)
{
    const em_model_config *c = b->cfg;
    for (int32_t i = 0; i < c->n_engram_layers; i++) {
        em_engram_weights *g = &w->engram[i];
        int32_t layer = c->engram_layer[i];
        int r = bind_engram(b, layer, g);
        uint64_t before = b->bytes;
        if (r == 0)
            r = bind_table(b, layer, c->engram_rows[i], g);
        if (r < 0)
            return r;
        w->table_bytes += b->bytes - before;
        b->bytes = before;
        if (g->dtype != w->engram[0].dtype)
            return em_error_set(b->err, -EINVAL, "%s and %s have different dtypes; all Engram tables must share one",
                                g->rows->name, w->engram[0].rows->name);
        w->layers[layer].engram = g;
    }
    return 0;
}

/* --- all ------------------------------------------------------------------------------------------------------ */

static int bind_layer(em_binder *b, int32_t layer, em_layer_weights *w)
{
    int r = bind_attention(b, layer, w);
    if (r == 0)
        r = bind_hc(b, layer, "attn", &w->hc_attn);
    if (r == 0)
        r = bind_hc(b, layer, "ffn", &w->hc_ffn);
    if (r == 0)
        r = bind_sources(b, layer, w);
    return r < 0 ? r : bind_moe(b, layer, w);
}

static int bind_all(em_binder *b, em_weights *w)
{
    const em_model_config *c = b->cfg;
    float *norm = NULL;
    int r = em_bind_matrix(b, "embed", EM_BIND_FLOAT, c->vocab_size, c->hidden_size, &w->embed);
    if (r == 0)
        r = em_bind_matrix(b, "head", EM_BIND_FLOAT, c->vocab_size, c->hidden_size, &w->head);
    if (r == 0)
        r = em_bind_floats(b, "norm.weight", c->hidden_size, 0, &norm);
    w->norm = norm;
    for (int32_t i = 0; i < c->n_layers && r == 0; i++)
        r = bind_layer(b, i, &w->layers[i]);
    if (r == 0)
        r = bind_engrams(b, w);
    return r < 0 ? r : em_bind_check_left_over(b);
}

int em_weights_load(const em_model_config *cfg, const em_st_set *set, em_weights **ret_weights, em_error *err)
{
    em_weights *w = calloc(1, sizeof(*w));
    em_layer_weights *layers = calloc((size_t)cfg->n_layers, sizeof(*layers));
    em_binder b;
    if (!w || !layers) {
        free(w);
        free(layers);
        return em_error_set(err, -ENOMEM, "out of memory for the list of layers");
    }
    w->layers = layers;
    int r = em_binder_init(&b, cfg, set, err);
    if (r == 0) {
        r = bind_all(&b, w);
        w->owned = b.arena;
        w->bytes = b.bytes;
        em_binder_done(&b);
    }
    if (r < 0) {
        em_weights_free(w);
        return r;
    }
    *ret_weights = w;
    return 0;
}

em_weights *em_weights_free(em_weights *w)
{
    if (!w)
        return NULL;
    em_weights_arena_free(w->owned);
    free(w->layers);
    free(w);
    return NULL;
}

void em_weights_forget(const em_weights *w, const void *data, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)data + page - 1) & ~(page - 1), end = ((uintptr_t)data + bytes) & ~(page - 1);
    if (begin < end && !em_weights_arena_holds(w->owned, data))
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}
