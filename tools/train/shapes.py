"""Sizes of models to train: the text part of config.json."""
import hashing
import tokenizer as family

COMMON = {
    "num_key_value_heads": 1, "rope_theta": 10000.0, "compress_rope_theta": 160000.0,
    "rope_scaling": {"rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 1024, "beta_fast": 32,
                     "beta_slow": 1},
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-20, "sliding_window": 64, "candidate_topk_blocks": 16,
    "candidate_block_size": 8, "index_n_heads": 4, "index_head_dim": 32, "index_topk": 64, "n_shared_experts": 1,
    "scoring_func": "sqrtsoftplus", "norm_topk_prob": True, "routed_scaling_factor": 1.5, "topk_method": "noaux_tc",
    "swiglu_limit": 10.0, "hidden_act": "silu", "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6}

SHAPES = {
    # as the bundled model: 14 million parameters with its 6,144 ids, besides Engram's
    "pocket": {
        "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "head_dim": 64, "qk_rope_head_dim": 16,
        "q_lora_rank": 128, "o_groups": 2, "o_lora_rank": 64, "compress_ratios": [0, 0, 2, 2, 1, 1],
        "kv_source_layer_ids": [2, 4], "index_source_layer_ids": [2, 4, 5], "candidate_source_layer_id": 4,
        "n_routed_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "engram_layer_ids": [1, 3]},
    # two million with 4,096 ids: for trying things out
    "tiny": {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 32, "qk_rope_head_dim": 16,
        "q_lora_rank": 64, "o_groups": 2, "o_lora_rank": 32, "compress_ratios": [0, 2, 1, 1],
        "kv_source_layer_ids": [1, 2], "index_source_layer_ids": [1, 2, 3], "candidate_source_layer_id": 2,
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "engram_layer_ids": [1]},
}

ENGRAM = {"engram_max_ngram_size": 4, "engram_n_heads": 4, "engram_head_dim": 32,
          "engram_pad_token_id": family.PAD_ID}


def make_config(shape, n_ids, engram_rows, classes):
    """shape: a key of SHAPES. n_ids: the tokenizer's. engram_rows: rows per hash head, at least; 0: a model without
    Engram. classes: hashing.token_classes."""
    config = {"vocab_size": n_ids, **COMMON, **SHAPES[shape]}
    layers = config.pop("engram_layer_ids")
    if not engram_rows:
        return config
    config |= {"engram_layer_ids": layers, "engram_vocab_size": engram_rows, **ENGRAM}
    addresser = hashing.Addresser(classes, config)
    return config | {"engram_num_embeddings": addresser.n_rows(), "engram_compressed_vocab_size": addresser.n_classes}
