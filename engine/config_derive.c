/* Lists that a file left out, the rules of spec 1.5, and what each layer does (spec 1.4). */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "engine/config_raw.h"

#define RELEASED_LAYERS 40

static const int16_t released_kv_sources[] = {2, 8, 14, 20};
static const int16_t released_index_sources[] = {2, 8, 14, 20, 24, 28, 32, 36};

/* compress_ratios of the release: two window layers, 18 of ratio 2, 20 of ratio 1. */
static int64_t released_ratio(int32_t layer)
{
    return layer < 2 ? 0 : layer < 20 ? 2 : 1;
}

static void derive_ratios(em_config_raw *raw)
{
    int32_t n = raw->c.n_layers, n_two = n > 2 ? (n - 2 + 1) / 2 : 0;
    if (raw->ratios.n >= 0)
        return;
    raw->ratios.n = n;
    for (int32_t i = 0; i < n; i++)
        raw->ratios.v[i] = n == RELEASED_LAYERS ? released_ratio(i) : i < 2 ? 0 : i < 2 + n_two ? 2 : 1;
}

/* The release's lists fit when the ratios are a beginning of the release's and every source lies inside. (Shorter
 * beginnings, where transformers takes lists that point beyond the last layer, get derived lists.) */
static bool is_released_schedule(const em_config_raw *raw)
{
    int32_t n = raw->c.n_layers;
    if (n > RELEASED_LAYERS || n <= released_index_sources[7])
        return false;
    for (int32_t i = 0; i < n; i++)
        if (raw->ratios.v[i] != released_ratio(i))
            return false;
    return true;
}

static void fill_list(em_config_list *list, const int16_t *from, int32_t n)
{
    list->n = n;
    for (int32_t i = 0; i < n; i++)
        list->v[i] = from[i];
}

/* The first layer of every run of equal ratio above 0. */
static void first_of_runs(const em_config_raw *raw, em_config_list *list)
{
    list->n = 0;
    for (int32_t i = 0; i < raw->c.n_layers; i++)
        if (raw->ratios.v[i] > 0 && (i == 0 || raw->ratios.v[i] != raw->ratios.v[i - 1]))
            list->v[list->n++] = i;
}

static void derive_sources(em_config_raw *raw)
{
    bool released = is_released_schedule(raw);
    if (raw->kv_sources.n < 0 && released)
        fill_list(&raw->kv_sources, released_kv_sources, 4);
    else if (raw->kv_sources.n < 0)
        first_of_runs(raw, &raw->kv_sources);
    if (raw->index_sources.n < 0 && released)
        fill_list(&raw->index_sources, released_index_sources, 8);
    else if (raw->index_sources.n < 0)
        raw->index_sources = raw->kv_sources;
    if (!raw->has_candidate) {
        raw->c.candidate_source_layer = -1;
        for (int32_t i = 0; i < raw->kv_sources.n; i++)
            if (raw->kv_sources.v[i] > raw->c.candidate_source_layer)
                raw->c.candidate_source_layer = (int32_t)raw->kv_sources.v[i];
    }
}

/* List -> one mark per layer; refuses layers that do not exist and layers named twice. */
static int mark_layers(const em_config_list *list, const char *field, const char *name, int32_t n_layers, bool *mark,
                       em_error *err)
{
    for (int32_t i = 0; i < list->n; i++) {
        if (list->v[i] >= n_layers)
            return em_error_set(err, -EINVAL, "%s: %s names layer %lld, but there are %d layers", name, field,
                                (long long)list->v[i], n_layers);
        if (mark[list->v[i]])
            return em_error_set(err, -EINVAL, "%s: %s names layer %lld twice", name, field, (long long)list->v[i]);
        mark[list->v[i]] = true;
    }
    return 0;
}

static int check_sizes(const em_model_config *c, bool compressed, const char *name, em_error *err)
{
    if (c->rope_dim % 2 || c->rope_dim > c->head_dim)
        return em_error_set(err, -EINVAL, "%s: qk_rope_head_dim must be even and at most head_dim (%d), not %d", name,
                            c->head_dim, c->rope_dim);
    if (compressed && c->rope_dim > c->index_head_dim)
        return em_error_set(err, -EINVAL, "%s: qk_rope_head_dim (%d) must be at most index_head_dim (%d)", name,
                            c->rope_dim, c->index_head_dim);
    if (c->n_heads * c->head_dim % c->o_groups)
        return em_error_set(err, -EINVAL, "%s: num_attention_heads * head_dim (%d) must be a multiple of o_groups (%d)",
                            name, c->n_heads * c->head_dim, c->o_groups);
    if (c->n_experts_per_tok > c->n_experts)
        return em_error_set(err, -EINVAL, "%s: num_experts_per_tok (%d) must be at most n_routed_experts (%d)", name,
                            c->n_experts_per_tok, c->n_experts);
    const int32_t ids[] = {c->bos_id, c->eos_id, c->pad_id};
    static const char *const fields[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    for (int i = 0; i < 3; i++)
        if (ids[i] >= c->vocab_size)
            return em_error_set(err, -EINVAL, "%s: %s is %d, but vocab_size is %d", name, fields[i], ids[i],
                                c->vocab_size);
    return 0;
}

/* Which of the places for rotary parameters counts, and is it complete? */
static int settle_rope(em_config_raw *raw, const char *name, em_error *err)
{
    em_model_config *c = &raw->c;
    const em_model_config *from = NULL;
    const char *where = "rope_scaling";
    if (raw->has_rope_parameters) {
        from = &raw->yarn_parameters;
        where = "rope_parameters.compress";
        c->rope_theta = raw->main_theta > 0 ? raw->main_theta : c->rope_theta;
        c->compress_rope_theta = raw->compress_theta > 0 ? raw->compress_theta : c->compress_rope_theta;
    } else if (raw->has_rope_scaling) {
        from = &raw->yarn_flat;
    }
    if (from) {
        c->yarn = from->yarn;
        c->yarn_factor = from->yarn_factor;
        c->yarn_beta_fast = from->yarn_beta_fast;
        c->yarn_beta_slow = from->yarn_beta_slow;
        c->yarn_original_len = from->yarn_original_len;
    } else { /* the vendor's spelling: an original length above 0 means YaRN */
        c->yarn = c->yarn_original_len > 0;
        where = "the root";
    }
    if (c->yarn && c->yarn_factor <= 0)
        return em_error_set(err, -EINVAL, "%s: %s asks for YaRN but lacks %s", name, where,
                            from ? "factor" : "rope_factor");
    if (c->yarn && c->yarn_original_len <= 0)
        return em_error_set(err, -EINVAL, "%s: %s asks for YaRN but lacks original_max_position_embeddings", name,
                            where);
    if (c->yarn && c->compress_rope_theta <= 1)
        return em_error_set(err, -EINVAL, "%s: YaRN needs a compress_rope_theta above 1", name);
    if (raw->has_rope_parameters && raw->partial_rotary > 0 &&
        fabs(raw->partial_rotary * c->head_dim - c->rope_dim) >= 1)
        return em_error_set(err, -EINVAL, "%s: partial_rotary_factor %g of head_dim %d is not qk_rope_head_dim %d",
                            name, raw->partial_rotary, c->head_dim, c->rope_dim);
    return 0;
}

static int check_ratios(const em_config_raw *raw, const char *name, em_error *err)
{
    int32_t n = raw->c.n_layers;
    if (raw->ratios.n < n || raw->ratios.n > n + raw->n_draft_layers)
        return em_error_set(
            err, -EINVAL,
            "%s: compress_ratios has %d entries; %d (num_hidden_layers) are needed, up to %d more for draft layers",
            name, raw->ratios.n, n, raw->n_draft_layers);
    return 0;
}

/* Owners of every layer; the rules that tie sources and ratios together. */
static int derive_owners(em_model_config *c, const bool *is_kv, const bool *is_index, const char *name, em_error *err)
{
    int32_t kv = -1, index = -1;
    for (int32_t i = 0; i < c->n_layers; i++) {
        em_layer_role *role = &c->role[i];
        if (is_kv[i]) {
            role->kv_source_idx = c->n_kv_sources;
            c->kv_source_layer[c->n_kv_sources++] = i;
            kv = i;
        }
        if (is_index[i])
            index = i;
        role->is_index_source = is_index[i];
        if (is_kv[i] && role->ratio == 0)
            return em_error_set(err, -EINVAL,
                                "%s: kv_source_layer_ids names layer %d, whose compress_ratios entry is 0", name, i);
        if (is_kv[i] && !is_index[i])
            return em_error_set(err, -EINVAL,
                                "%s: layer %d is in kv_source_layer_ids but not in index_source_layer_ids", name, i);
        if (is_index[i] && role->ratio == 0)
            return em_error_set(err, -EINVAL,
                                "%s: index_source_layer_ids names layer %d, whose compress_ratios entry is 0", name, i);
        if (role->ratio == 0)
            continue;
        if (kv < 0)
            return em_error_set(err, -EINVAL,
                                "%s: layer %d has compress ratio %d but no kv_source_layer_ids entry at or before it",
                                name, i, role->ratio);
        if (role->ratio != c->role[kv].ratio)
            return em_error_set(err, -EINVAL, "%s: compress_ratios[%d] is %d, but its source layer %d has %d", name, i,
                                role->ratio, kv, c->role[kv].ratio);
        role->kv_owner = kv;
        role->index_owner = index; /* a KV source is an index source, so there is one */
        role->owner_source_idx = c->role[kv].kv_source_idx;
    }
    return 0;
}

static int derive_candidates(em_model_config *c, const char *name, em_error *err)
{
    int32_t source = c->candidate_source_layer;
    if (source < 0)
        return 0;
    if (source >= c->n_layers || !c->role[source].is_index_source)
        return em_error_set(err, -EINVAL, "%s: candidate_source_layer_id %d is not in index_source_layer_ids", name,
                            source);
    c->role[source].is_candidate_source = true;
    for (int32_t i = source + 1; i < c->n_layers; i++) {
        em_layer_role *role = &c->role[i];
        if (!role->is_index_source)
            continue;
        if (role->ratio != c->role[source].ratio)
            return em_error_set(
                err, -EINVAL,
                "%s: index source %d uses the candidates of layer %d and must share its compress ratio %d, not have %d",
                name, i, source, c->role[source].ratio, role->ratio);
        role->uses_candidates = true;
    }
    return 0;
}

static int derive_roles(em_config_raw *raw, const char *name, em_error *err)
{
    em_model_config *c = &raw->c;
    bool is_kv[EM_MAX_LAYERS] = {false}, is_index[EM_MAX_LAYERS] = {false};
    int r = check_ratios(raw, name, err);
    if (r < 0)
        return r;
    derive_sources(raw);
    r = mark_layers(&raw->kv_sources, "kv_source_layer_ids", name, c->n_layers, is_kv, err);
    if (r == 0)
        r = mark_layers(&raw->index_sources, "index_source_layer_ids", name, c->n_layers, is_index, err);
    if (r < 0)
        return r;
    for (int32_t i = 0; i < c->n_layers; i++)
        c->role[i] = (em_layer_role){.ratio = (int32_t)raw->ratios.v[i],
                                     .kv_owner = -1,
                                     .index_owner = -1,
                                     .kv_source_idx = -1,
                                     .owner_source_idx = -1,
                                     .engram_idx = -1};
    r = derive_owners(c, is_kv, is_index, name, err);
    return r < 0 ? r : derive_candidates(c, name, err);
}

static int derive_engram(em_config_raw *raw, const char *name, em_error *err)
{
    em_model_config *c = &raw->c;
    const em_config_list *ids = &raw->engram_layers, *rows = &raw->engram_rows;
    c->n_engram_layers = ids->n > 0 ? ids->n : 0;
    if (c->n_engram_layers == 0)
        return 0;
    if (ids->n > EM_MAX_ENGRAM_LAYERS)
        return em_error_set(err, -EINVAL, "%s: engram_layer_ids has %d entries; at most %d are supported", name, ids->n,
                            EM_MAX_ENGRAM_LAYERS);
    if (rows->n != ids->n)
        return em_error_set(err, -EINVAL,
                            "%s: engram_num_embeddings has %d entries, engram_layer_ids %d; one each is needed", name,
                            rows->n, ids->n);
    int64_t n_cols = (int64_t)(c->engram_max_order - 1) * c->engram_n_heads;
    for (int32_t i = 0; i < ids->n; i++) {
        int64_t layer = ids->v[i];
        if (layer >= c->n_layers)
            return em_error_set(err, -EINVAL, "%s: engram_layer_ids names layer %lld, but there are %d layers", name,
                                (long long)layer, c->n_layers);
        if (i > 0 && layer <= ids->v[i - 1]) /* the prime search runs in list order: another order is another model */
            return em_error_set(err, -EINVAL, "%s: engram_layer_ids must be ascending", name);
        if (rows->v[i] < n_cols * c->engram_vocab_size) /* every bucket holds at least that many */
            return em_error_set(err, -EINVAL,
                                "%s: engram_num_embeddings[%d] is %lld, too few for %lld buckets of %lld rows or more",
                                name, i, (long long)rows->v[i], (long long)n_cols, (long long)c->engram_vocab_size);
        c->engram_layer[i] = (int32_t)layer;
        c->engram_rows[i] = rows->v[i];
        c->role[layer].engram_idx = i;
    }
    if (c->engram_pad_id >= c->vocab_size)
        return em_error_set(err, -EINVAL, "%s: engram_pad_token_id is %d, but vocab_size is %d", name, c->engram_pad_id,
                            c->vocab_size);
    if (c->engram_n_classes > c->vocab_size)
        return em_error_set(err, -EINVAL, "%s: engram_compressed_vocab_size is %d, but vocab_size is %d", name,
                            c->engram_n_classes, c->vocab_size);
    return 0;
}

int em_config_derive(em_config_raw *raw, const char *name, em_error *err)
{
    em_model_config *c = &raw->c;
    if (c->max_len == 0)
        c->max_len = raw->vendor_seq_len > 0 ? raw->vendor_seq_len : 1 << 20;
    derive_ratios(raw);
    int r = derive_roles(raw, name, err);
    if (r == 0)
        r = check_sizes(c, c->n_kv_sources > 0, name, err);
    if (r == 0)
        r = settle_rope(raw, name, err);
    return r < 0 ? r : derive_engram(raw, name, err);
}
