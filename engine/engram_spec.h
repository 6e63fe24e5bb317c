/* From a model's config and tokenizer to what libengram wants to know. Pure but for memory; any thread. */
#ifndef EM_ENGINE_ENGRAM_SPEC_H
#define EM_ENGINE_ENGRAM_SPEC_H

#include "engine/config.h"
#include "engine/matrix.h"
#include "engine/token_map.h"
#include "engram/engram.h"

static inline em_engram_dtype em_engram_row_dtype(em_dtype d)
{
    return d == EM_DTYPE_FP8 ? EM_ENGRAM_FP8 : d == EM_DTYPE_BF16 ? EM_ENGRAM_BF16 : EM_ENGRAM_F32;
}

/* The class map of a model with Engram layers. -EINVAL with a sentence when tokenizer and config.json do not belong
 * together; dir is used in it. */
int em_engram_token_map(const em_tokenizer *tok, const em_model_config *cfg, const char *dir, em_token_map *ret_map,
                        em_error *err);

/* Everything but where the rows lie. map: of em_engram_token_map. */
void em_engram_spec_fill(const em_model_config *cfg, em_dtype rows, const em_token_map *map, em_engram_spec *ret_spec);

#endif
