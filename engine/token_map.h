/* Engram's compressed token map: token id -> class (spec 5.2, 13.9). Derived from the tokenizer at each start. */
#ifndef EM_ENGINE_TOKEN_MAP_H
#define EM_ENGINE_TOKEN_MAP_H

#include "engine/base/buf.h"
#include "engine/tokenizer.h"

typedef struct em_token_map {
    int32_t *class_of; /* [n_ids] */
    int32_t n_ids;     /* size of the tokenizer */
    int32_t n_classes;
} em_token_map;

/* -ENOMEM. Pure; uses the calling thread only. */
int em_token_map_build(const em_tokenizer *tok, em_token_map *ret_map, em_error *err);
/* Appends what makes the class of an id of the tokenizer: its text in normal form, else as it is. -ENOMEM. */
int em_token_map_key(const em_tokenizer *tok, int32_t id, em_buf *out);
void em_token_map_done(em_token_map *map);

#endif
