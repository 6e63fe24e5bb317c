/* config.json of a deepseek_v41 checkpoint -> em_model_config, every field range-checked.
 *
 * Accepts the nested form (text_config), the flat form of transformers (deepseek_v41_text) and the vendor's
 * inference/config.json spellings (spec section 1.2, column alias; 1.3 for rope_parameters). Fields that may be
 * omitted are derived as transformers does (spec 1.5). Afterwards the rules of spec 1.5 hold, so that inner code
 * can use simple loops without checks.
 *
 * The struct is plain data, read-only after load, shared by all threads. */
#ifndef EM_ENGINE_CONFIG_H
#define EM_ENGINE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

#define EM_MAX_LAYERS 256 /* backbone layers */
#define EM_MAX_ENGRAM_LAYERS 16
#define EM_MAX_HC 8     /* residual streams */
#define EM_MAX_RATIO 64 /* tokens in one compressed position */

typedef enum em_scoring { EM_SCORE_SQRTSOFTPLUS, EM_SCORE_SOFTMAX, EM_SCORE_SIGMOID } em_scoring;

/* What one layer does (derived from the lists of the config; spec 1.4). */
typedef struct em_layer_role {
    int32_t ratio;            /* tokens per compressed position; 0: window only */
    int32_t kv_owner;         /* layer whose compressed cache this layer reads; -1 when ratio is 0 */
    int32_t index_owner;      /* layer whose top-k this layer uses; -1 when ratio is 0 */
    int32_t kv_source_idx;    /* rank among KV sources if this layer is one (has compressor + index keys); else -1 */
    int32_t owner_source_idx; /* rank of kv_owner among KV sources; -1 when ratio is 0 */
    bool is_index_source;     /* has an indexer of its own */
    bool is_candidate_source; /* publishes candidate blocks */
    bool uses_candidates;     /* index source after the candidate source: restricted to its blocks */
    int32_t engram_idx;       /* rank among Engram layers; -1: none */
} em_layer_role;

typedef struct em_model_config {
    /* sizes */
    int32_t vocab_size;  /* rows of embed.weight and head.weight */
    int32_t hidden_size; /* H */
    int32_t n_layers;    /* backbone */
    int32_t max_len;     /* max_position_embeddings: prompt and answer together, tokens */

    /* attention */
    int32_t n_heads;
    int32_t head_dim; /* D: width of the shared K=V latent */
    int32_t rope_dim; /* rd: trailing rotary channels, even, <= head_dim, <= index_head_dim */
    int32_t q_lora_rank;
    int32_t o_groups, o_lora_rank;
    int32_t window;   /* exact-attention window in tokens, self included */
    float rope_theta; /* base of ratio-0 layers, no YaRN */
    float compress_rope_theta;
    bool yarn; /* the compress table uses YaRN (only then the four fields below count) */
    float yarn_factor, yarn_beta_fast, yarn_beta_slow;
    int32_t yarn_original_len; /* tokens */

    /* compressed attention */
    int32_t n_kv_sources;                   /* layers with a compressor, a compressed cache and an index-key cache */
    int32_t kv_source_layer[EM_MAX_LAYERS]; /* ascending */
    int32_t candidate_source_layer;         /* -1: no two-level selection */
    int32_t candidate_topk_blocks, candidate_block_size; /* blocks kept, compressed positions per block */
    int32_t index_n_heads, index_head_dim, index_topk;

    /* mixture of experts */
    int32_t n_experts, n_experts_per_tok; /* routed */
    int32_t moe_inter;                    /* moe_intermediate_size, routed and shared */
    em_scoring scoring;
    float gate_temp; /* divides router logits */
    bool norm_topk_prob;
    float routed_scaling_factor;
    float swiglu_limit; /* <= 0: no clamp */

    /* hyper-connections */
    int32_t hc_mult; /* residual streams */
    int32_t hc_sinkhorn_iters;
    float hc_eps;
    float norm_eps; /* every RMS norm of the text model */

    /* Engram */
    int32_t n_engram_layers;                    /* 0: none */
    int32_t engram_layer[EM_MAX_ENGRAM_LAYERS]; /* backbone layer numbers, ascending */
    int64_t engram_rows[EM_MAX_ENGRAM_LAYERS];  /* rows of each table */
    int64_t engram_vocab_size;                  /* the prime search starts here */
    int32_t engram_max_order;                   /* orders 2..this */
    int32_t engram_n_heads, engram_head_dim;    /* hash heads per order; row width */
    int32_t engram_pad_id;                      /* raw token id */
    int32_t engram_n_classes;                   /* engram_compressed_vocab_size: must equal the tokenizer's */

    /* storage, as quantization_config says; 0 or false when it is absent */
    int32_t fp8_block_rows, fp8_block_cols; /* weight_block_size */
    bool fp4_experts;                       /* expert_dtype is fp4 */

    /* tokens with a meaning; -1 when the file has none */
    int32_t bos_id, eos_id, pad_id;

    em_layer_role role[EM_MAX_LAYERS];
} em_model_config;

/* Parses the text of a config.json. name is used in sentences (usually the path). -EINVAL with one sentence that
 * names the field. Pure; any thread. */
int em_model_config_parse(const char *json, size_t len, const char *name, em_model_config *ret_config, em_error *err);

/* Reads DIR/config.json (at most 4 MiB). */
int em_model_config_load(const char *dir, em_model_config *ret_config, em_error *err);

#endif
