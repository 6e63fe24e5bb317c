/* The text model's tensors bound by name to the places the forward pass uses, every shape and dtype checked once.
 *
 * Names with or without a leading "model."; lm_head.weight counts as head.weight. Foreign families (mtp., vision.,
 * aligner., image_) are left aside; any other tensor that is missing or left over is an error that names it (spec
 * section 2.4). Matrices stay in the mapping; vectors (norms, biases, sinks: a few floats each) are widened to F32
 * and owned here. The safetensors set must outlive the weights. Read-only after load; any thread. */
#ifndef EM_ENGINE_WEIGHTS_H
#define EM_ENGINE_WEIGHTS_H

#include "engine/config.h"
#include "engine/matrix.h"
#include "engine/safetensors.h"

/* One mHC site (spec 4.3). */
typedef struct em_hc_weights {
    em_matrix fn;       /* [(2 + hc) * hc, hc * H] F32 (or BF16) */
    const float *base;  /* [(2 + hc) * hc] */
    const float *scale; /* [3]: pre, post, comb */
} em_hc_weights;

typedef struct em_expert_weights {
    em_matrix w1, w3; /* [moe_inter, H]: gate, up */
    em_matrix w2;     /* [H, moe_inter]: down */
} em_expert_weights;

typedef struct em_engram_weights {
    /* the table: rows of head_dim codes; FP8 with one UE8M0 per row and 32 columns, or BF16/F32 without scales */
    em_dtype dtype;
    int64_t n_rows;
    const em_st_tensor *rows;   /* [n_rows, head_dim] */
    const em_st_tensor *scales; /* [n_rows, head_dim / 32] UE8M0, NULL unless FP8 */
    em_matrix wkv;              /* [(hc + 1) * H, orders * heads * head_dim]: hc keys, then the value */
    const float *qk_weight;     /* [hc, H]: q_weight * k_weight, elementwise (spec 5.5 step 3) */
} em_engram_weights;

typedef struct em_layer_weights {
    const float *attn_norm, *ffn_norm; /* [H] */
    em_hc_weights hc_attn, hc_ffn;

    em_matrix wq_a;         /* [q_lora_rank, H] */
    const float *q_norm;    /* [q_lora_rank] */
    em_matrix wq_b;         /* [n_heads * D, q_lora_rank] */
    em_matrix wkv;          /* [D, H] */
    const float *kv_norm;   /* [D] */
    const float *attn_sink; /* [n_heads] */
    em_matrix wo_a;         /* [o_groups * o_lora_rank, n_heads * D / o_groups] */
    em_matrix wo_b;         /* [H, o_groups * o_lora_rank] */

    /* KV sources only (role.kv_source_idx >= 0) */
    em_matrix comp_wkv;        /* [D, H] */
    em_matrix comp_wgate;      /* [D, H]; rows = 0 when ratio is 1 */
    const float *comp_norm;    /* [D] */
    em_matrix index_wk;        /* [index_head_dim, D] */
    const float *index_k_norm; /* [index_head_dim] */

    /* index sources only */
    em_matrix index_wq_b;         /* [index_n_heads * index_head_dim, q_lora_rank] */
    em_matrix index_weights_proj; /* [index_n_heads, H] */

    em_matrix router;           /* [n_experts, H] */
    const float *router_bias;   /* [n_experts] */
    em_expert_weights *experts; /* [n_experts] */
    em_expert_weights shared;

    const em_engram_weights *engram; /* NULL unless an Engram layer */
} em_layer_weights;

typedef struct em_weights {
    em_matrix embed;          /* [vocab, H] */
    em_matrix head;           /* [vocab, H] */
    const float *norm;        /* [H] */
    em_layer_weights *layers; /* [n_layers] */
    em_engram_weights engram[EM_MAX_ENGRAM_LAYERS];
    uint64_t bytes;       /* mapped bytes of all text-model tensors, tables left out */
    uint64_t table_bytes; /* mapped bytes of the Engram tables */
    void *owned;          /* internal: arena of the widened vectors */
} em_weights;

int em_weights_load(const em_model_config *cfg, const em_st_set *set, em_weights **ret_weights, em_error *err);
em_weights *em_weights_free(em_weights *w); /* NULL is fine; returns NULL */

/* Gives back the mapped pages that lie wholly inside [data, data + bytes), for whoever has a copy of its own: they are
 * read from the file again if somebody looks. Memory that the weights own is left alone. Any thread. */
void em_weights_forget(const em_weights *w, const void *data, size_t bytes);

/* Calls fn for every matrix that takes part in products (all but embed), in the order of a step. */
void em_weights_each_matrix(const em_model_config *cfg, em_weights *w, void (*fn)(void *ctx, em_matrix *m), void *ctx);

/* --- weights_sizes.c: how many bytes, for plans and measurements */

/* From the headers alone; nothing of the tensors' data is read. */
typedef struct em_weights_sizes {
    uint64_t mapped;      /* tensors of the text model, tables left out */
    uint64_t experts;     /* of them: routed experts */
    uint64_t packed;      /* matrices of products in the order of the CPU's kernels */
    uint64_t embed;       /* of the mapped: rows of token embeddings */
    uint64_t tables;      /* Engram tables */
    em_dtype table_dtype; /* of their rows; F32 without tables */
    uint64_t owned;       /* what em_weights_load allocates: widened vectors, copies of misaligned matrices, lists */
} em_weights_sizes;
int em_weights_measure(const em_model_config *cfg, const em_st_set *set, em_weights_sizes *ret_sizes, em_error *err);

/* Bytes of weights that every step reads, and those of one routed expert (of the first layer; they are alike). */
void em_weights_step_bytes(const em_model_config *cfg, const em_weights *w, int64_t *ret_fixed, int64_t *ret_expert);

#endif
