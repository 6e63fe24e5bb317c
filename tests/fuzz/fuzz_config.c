/* Any bytes as a config.json: refused with a sentence, or a config that keeps every rule inner code relies on. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good)
        abort();
}

static void check_roles(const em_model_config *c)
{
    int32_t n_sources = 0;
    for (int32_t i = 0; i < c->n_layers; i++) {
        const em_layer_role *r = &c->role[i];
        require(r->ratio >= 0 && r->ratio <= EM_MAX_RATIO);
        if (r->ratio == 0) {
            require(r->kv_owner < 0 && r->index_owner < 0 && r->kv_source_idx < 0 && !r->is_index_source);
            continue;
        }
        require(r->kv_owner >= 0 && r->kv_owner <= r->index_owner && r->index_owner <= i);
        require(c->role[r->kv_owner].ratio == r->ratio && c->role[r->kv_owner].kv_source_idx == r->owner_source_idx);
        require(c->role[r->index_owner].is_index_source && c->role[r->index_owner].kv_owner == r->kv_owner);
        if (r->kv_source_idx >= 0)
            require(r->kv_source_idx == n_sources && c->kv_source_layer[n_sources++] == i && r->is_index_source);
        if (r->uses_candidates)
            require(i > c->candidate_source_layer && c->role[c->candidate_source_layer].ratio == r->ratio);
    }
    require(n_sources == c->n_kv_sources);
}

static void check_config(const em_model_config *c)
{
    require(c->n_layers >= 1 && c->n_layers <= EM_MAX_LAYERS && c->hc_mult >= 1 && c->hc_mult <= EM_MAX_HC);
    require(c->vocab_size > 0 && c->hidden_size > 0 && c->max_len > 0 && c->window > 0 && c->hc_sinkhorn_iters > 0);
    require(c->rope_dim > 0 && c->rope_dim % 2 == 0 && c->rope_dim <= c->head_dim);
    require((int64_t)c->n_heads * c->head_dim % c->o_groups == 0);
    require(c->n_experts_per_tok >= 1 && c->n_experts_per_tok <= c->n_experts);
    require(c->n_kv_sources == 0 || (c->rope_dim <= c->index_head_dim && c->index_topk > 0 && c->index_n_heads > 0));
    require(c->candidate_source_layer < 0 || (c->candidate_topk_blocks > 0 && c->candidate_block_size > 0));
    require(isfinite(c->norm_eps) && isfinite(c->hc_eps) && c->gate_temp > 0 && isfinite(c->routed_scaling_factor) &&
            isfinite(c->swiglu_limit) && c->rope_theta >= 1 && c->compress_rope_theta >= 1);
    require(!c->yarn ||
            (c->yarn_factor >= 1 && c->yarn_original_len > 0 && c->yarn_beta_fast > 0 && c->yarn_beta_slow > 0));
    require(c->fp8_block_cols % 32 == 0 && c->eos_id < c->vocab_size);
    require(c->n_engram_layers >= 0 && c->n_engram_layers <= EM_MAX_ENGRAM_LAYERS);
    for (int32_t i = 0; i < c->n_engram_layers; i++) {
        require(c->engram_layer[i] < c->n_layers && c->role[c->engram_layer[i]].engram_idx == i);
        require(c->engram_rows[i] >= c->engram_vocab_size * (c->engram_max_order - 1) * c->engram_n_heads);
        require(c->engram_pad_id >= 0 && c->engram_pad_id < c->vocab_size);
    }
    check_roles(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    em_model_config *c = malloc(sizeof(*c));
    em_error err = {0};
    if (em_model_config_parse((const char *)data, size, "fuzz", c, &err) == 0)
        check_config(c);
    else
        require(err.text[0] != '\0');
    free(c);
    return 0;
}
