#include "engine/engram_spec.h"

#include <errno.h>

int em_engram_token_map(const em_tokenizer *tok, const em_model_config *cfg, const char *dir, em_token_map *ret_map,
                        em_error *err)
{
    em_token_map map;
    int r = em_token_map_build(tok, &map, err);
    if (r < 0)
        return r;
    if (map.n_classes != cfg->engram_n_classes)
        r = em_error_set(err, -EINVAL,
                         "%s: the tokenizer gives %d Engram classes, but engram_compressed_vocab_size in config.json "
                         "is %d; every table row would be wrong: use the tokenizer.json of this model",
                         dir, map.n_classes, cfg->engram_n_classes);
    else if (cfg->engram_pad_id >= map.n_ids)
        r = em_error_set(err, -EINVAL, "%s/config.json: engram_pad_token_id %d is not an id of the tokenizer (%d ids)",
                         dir, cfg->engram_pad_id, map.n_ids);
    if (r < 0) {
        em_token_map_done(&map);
        return r;
    }
    *ret_map = map;
    return 0;
}

void em_engram_spec_fill(const em_model_config *cfg, em_dtype rows, const em_token_map *map, em_engram_spec *ret_spec)
{
    em_engram_spec spec = {.n_tables = cfg->n_engram_layers,
                           .dtype = em_engram_row_dtype(rows),
                           .max_order = cfg->engram_max_order,
                           .n_heads = cfg->engram_n_heads,
                           .head_dim = cfg->engram_head_dim,
                           .prime_start = cfg->engram_vocab_size,
                           .n_classes = map->n_classes,
                           .pad_class = map->class_of[cfg->engram_pad_id]};
    for (int32_t i = 0; i < spec.n_tables; i++)
        spec.table[i] = (em_engram_source){.layer = cfg->engram_layer[i], .n_rows = cfg->engram_rows[i]};
    *ret_spec = spec;
}
