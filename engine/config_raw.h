/* Inside the config loader: what the file said, before derivation and rules. Private to config*.c. */
#ifndef EM_ENGINE_CONFIG_RAW_H
#define EM_ENGINE_CONFIG_RAW_H

#include "engine/config.h"

/* A list of the file: absent (or null) when n is -1. */
typedef struct em_config_list {
    int32_t n;
    int64_t v[EM_MAX_LAYERS];
} em_config_list;

typedef struct em_config_raw {
    em_model_config c; /* scalars as read, defaults where the file has none */
    em_config_list ratios, kv_sources, index_sources, engram_layers, engram_rows;
    int32_t n_draft_layers; /* num_nextn_predict_layers */
    bool has_candidate;     /* candidate_source_layer_id was given */

    /* rotary embeddings: rope_parameters (main and compress) win over the rest */
    bool has_rope_scaling; /* rope_scaling, or the vendor's original_seq_len > 0 */
    bool has_rope_parameters;
    float main_theta, compress_theta;           /* of rope_parameters; 0 when absent there */
    double partial_rotary;                      /* the same; 0 when absent */
    em_model_config yarn_flat, yarn_parameters; /* only their yarn* fields count */
    int32_t vendor_seq_len; /* max_seq_len: the length limit where max_position_embeddings is absent; 0: absent */
} em_config_raw;

/* Reads the JSON text. Scalars are range-checked here, one by one. */
int em_config_read(const char *json, size_t len, const char *name, em_config_raw *ret_raw, em_error *err);

/* Fills lists that were left out, checks the rules of spec 1.5, derives the layer roles; the result is raw->c. */
int em_config_derive(em_config_raw *raw, const char *name, em_error *err);

#endif
