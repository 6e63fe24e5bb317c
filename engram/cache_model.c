/* The row cache without its rows: the same code decides what is kept. */
#include "engram/internal.h"
#include "engram/row_cache.h"

#include <errno.h>
#include <stdlib.h>

struct em_engram_cache_model {
    em_row_cache cache;
};

uint64_t em_engram_cache_rows(size_t row_bytes, uint64_t bytes)
{
    return em_row_cache_rows(row_bytes, bytes);
}

int em_engram_cache_model_new(uint64_t n_rows, em_engram_cache_model **ret_model)
{
    em_engram_cache_model *model = malloc(sizeof *model);
    if (!model || em_row_cache_open(&model->cache, 0, n_rows)) {
        free(model);
        return -ENOMEM;
    }
    *ret_model = model;
    return 0;
}

em_engram_cache_model *em_engram_cache_model_free(em_engram_cache_model *model)
{
    if (model)
        em_row_cache_close(&model->cache);
    free(model);
    return NULL;
}

bool em_engram_cache_model_ask(em_engram_cache_model *model, uint64_t key)
{
    if (em_row_cache_get(&model->cache, key, NULL))
        return true;
    em_row_cache_put(&model->cache, key, NULL);
    return false;
}
