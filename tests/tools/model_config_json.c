/* config.json in the shapes and spellings that checkpoints come in. */
#include "tests/tools/model_writer.h"

typedef struct config_out {
    em_buf *b;
    bool vendor;
    bool first;
} config_out;

static void key(config_out *o, const char *name, const char *vendor_name)
{
    em_buf_printf(o->b, "%s\n  \"%s\": ", o->first ? "" : ",", o->vendor && vendor_name ? vendor_name : name);
    o->first = false;
}

static void put_int(config_out *o, const char *name, const char *vendor_name, int64_t v)
{
    key(o, name, vendor_name);
    em_buf_printf(o->b, "%lld", (long long)v);
}

static void put_float(config_out *o, const char *name, const char *vendor_name, float v)
{
    key(o, name, vendor_name);
    em_buf_printf(o->b, "%.9g", (double)v); /* nine digits give the float back */
}

static void put_list(config_out *o, const char *name, const char *vendor_name, const int32_t *v, int32_t n)
{
    key(o, name, vendor_name);
    em_buf_puts(o->b, "[");
    for (int32_t i = 0; i < n; i++)
        em_buf_printf(o->b, "%s%d", i ? ", " : "", v[i]);
    em_buf_puts(o->b, "]");
}

static void put_schedule(config_out *o, const em_model_config *c)
{
    int32_t list[EM_MAX_LAYERS], n = 0;
    for (int32_t i = 0; i < c->n_layers; i++)
        list[i] = c->role[i].ratio;
    put_list(o, "compress_ratios", NULL, list, c->n_layers);
    put_list(o, "kv_source_layer_ids", "kv_source_layers", c->kv_source_layer, c->n_kv_sources);
    for (int32_t i = 0; i < c->n_layers; i++)
        if (c->role[i].is_index_source)
            list[n++] = i;
    put_list(o, "index_source_layer_ids", "index_source_layers", list, n);
    put_int(o, "candidate_source_layer_id", "candidate_source_layer", c->candidate_source_layer);
    put_int(o, "candidate_topk_blocks", NULL, c->candidate_topk_blocks);
    put_int(o, "candidate_block_size", NULL, c->candidate_block_size);
    put_int(o, "index_n_heads", NULL, c->index_n_heads);
    put_int(o, "index_head_dim", NULL, c->index_head_dim);
    put_int(o, "index_topk", NULL, c->index_topk);
}

static void put_rope(config_out *o, const em_model_config *c)
{
    put_float(o, "rope_theta", NULL, c->rope_theta);
    put_float(o, "compress_rope_theta", NULL, c->compress_rope_theta);
    if (o->vendor) {
        put_int(o, "original_seq_len", NULL, c->yarn ? c->yarn_original_len : 0);
        put_float(o, "rope_factor", NULL, c->yarn_factor);
        put_float(o, "beta_fast", NULL, c->yarn_beta_fast);
        put_float(o, "beta_slow", NULL, c->yarn_beta_slow);
        return;
    }
    key(o, "rope_scaling", NULL);
    if (c->yarn)
        em_buf_printf(o->b,
                      "{\"rope_type\": \"yarn\", \"factor\": %.9g, \"original_max_position_embeddings\": %d, "
                      "\"beta_fast\": %.9g, "
                      "\"beta_slow\": %.9g}",
                      (double)c->yarn_factor, c->yarn_original_len, (double)c->yarn_beta_fast,
                      (double)c->yarn_beta_slow);
    else
        em_buf_puts(o->b, "null");
}

static void put_attention(config_out *o, const em_model_config *c)
{
    put_int(o, "num_attention_heads", "n_heads", c->n_heads);
    put_int(o, "num_key_value_heads", NULL, 1);
    put_int(o, "head_dim", NULL, c->head_dim);
    put_int(o, "qk_rope_head_dim", "rope_head_dim", c->rope_dim);
    put_int(o, "q_lora_rank", NULL, c->q_lora_rank);
    put_int(o, "o_groups", NULL, c->o_groups);
    put_int(o, "o_lora_rank", NULL, c->o_lora_rank);
    put_int(o, "sliding_window", "window_size", c->window);
    put_float(o, "rms_norm_eps", "norm_eps", c->norm_eps);
}

static void put_moe(config_out *o, const em_model_config *c)
{
    static const char *const scoring[] = {"sqrtsoftplus", "softmax", "sigmoid"};
    put_int(o, "n_routed_experts", NULL, c->n_experts);
    put_int(o, "num_experts_per_tok", "n_activated_experts", c->n_experts_per_tok);
    put_int(o, "n_shared_experts", NULL, 1);
    put_int(o, "moe_intermediate_size", "moe_inter_dim", c->moe_inter);
    key(o, "scoring_func", "score_func");
    em_buf_printf(o->b, "\"%s\"", scoring[c->scoring]);
    put_float(o, "gate_temp", NULL, c->gate_temp);
    key(o, "norm_topk_prob", NULL);
    em_buf_puts(o->b, c->norm_topk_prob ? "true" : "false");
    put_float(o, "routed_scaling_factor", "route_scale", c->routed_scaling_factor);
    put_float(o, "swiglu_limit", NULL, c->swiglu_limit);
    put_int(o, "hc_mult", NULL, c->hc_mult);
    put_int(o, "hc_sinkhorn_iters", NULL, c->hc_sinkhorn_iters);
    put_float(o, "hc_eps", NULL, c->hc_eps);
}

static void put_engram(config_out *o, const em_model_config *c)
{
    put_list(o, "engram_layer_ids", NULL, c->engram_layer, c->n_engram_layers);
    if (c->n_engram_layers == 0)
        return;
    key(o, "engram_num_embeddings", NULL);
    for (int32_t i = 0; i < c->n_engram_layers; i++)
        em_buf_printf(o->b, "%s%lld", i ? ", " : "[", (long long)c->engram_rows[i]);
    em_buf_puts(o->b, "]");
    put_int(o, "engram_vocab_size", NULL, c->engram_vocab_size);
    put_int(o, "engram_max_ngram_size", NULL, c->engram_max_order);
    put_int(o, "engram_n_heads", NULL, c->engram_n_heads);
    put_int(o, "engram_head_dim", NULL, c->engram_head_dim);
    put_int(o, "engram_pad_token_id", "engram_pad_id", c->engram_pad_id);
    put_int(o, "engram_compressed_vocab_size", NULL, c->engram_n_classes);
}

static void put_text(config_out *o, const em_model_config *c)
{
    put_int(o, "vocab_size", NULL, c->vocab_size);
    put_int(o, "hidden_size", "dim", c->hidden_size);
    put_int(o, "num_hidden_layers", "n_layers", c->n_layers);
    put_int(o, "max_position_embeddings", "max_seq_len", c->max_len);
    put_attention(o, c);
    put_rope(o, c);
    put_schedule(o, c);
    put_moe(o, c);
    put_engram(o, c);
}

void model_config_json(const model_spec *s, em_buf *out)
{
    const em_model_config *c = &s->c;
    bool odd = c->hidden_size % 2 || c->moe_inter % 2;
    config_out o = {.b = out, .vendor = s->vendor_spelling && !s->nested, .first = true};
    em_buf_puts(out, "{");
    key(&o, "architectures", NULL);
    em_buf_puts(out, "[\"DeepseekV41ForCausalLM\"]");
    if (!o.vendor) {
        key(&o, "model_type", NULL);
        em_buf_puts(out, s->nested ? "\"deepseek_v41\"" : "\"deepseek_v41_text\"");
    }
    put_int(&o, "bos_token_id", NULL, c->bos_id);
    put_int(&o, "eos_token_id", NULL, c->eos_id);
    put_int(&o, "pad_token_id", NULL, c->pad_id);
    if (s->nested) {
        key(&o, "text_config", NULL);
        em_buf_puts(out, "{");
        o.first = true;
        put_text(&o, c);
        em_buf_puts(out, "}");
    } else {
        put_text(&o, c);
    }
    if (s->storage == MODEL_RELEASED) {
        key(&o, "quantization_config", NULL);
        em_buf_printf(out,
                      "{\"quant_method\": \"fp8\", \"activation_scheme\": \"dynamic\", \"weight_block_size\": [32, "
                      "32], \"scale_fmt\": "
                      "\"ue8m0\", \"expert_dtype\": \"%s\"}",
                      odd ? "fp8" : "fp4");
    }
    em_buf_puts(out, "\n}\n");
}
