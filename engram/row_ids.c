/* Row ids in plain C, and the choice of the fastest function that the machine has. */
#include "engram/row_ids.h"

#include <string.h>

void em_engram_row_ids(const em_engram_hash *hash, const int32_t *suffix, int64_t *ret_row_id)
{
    uint64_t v = 0;
    int32_t col = 0;

    em_mix_class(hash, suffix, 0, 1, &v);
    for (int32_t i = 1; i < hash->max_order; i++) {
        em_mix_class(hash, suffix, i, 1, &v);
        for (int32_t head = 0; head < hash->n_heads; head++, col++)
            ret_row_id[col] = em_row_of(hash, col, v);
    }
}

static void row_ids_c(const em_row_hasher *hasher, const int32_t *suffix, size_t n_tokens, int64_t *ret_row_id)
{
    size_t depth = (size_t)hasher->hash->max_order, n_cols = (size_t)hasher->hash->n_cols;
    for (size_t t = 0; t < n_tokens; t++)
        em_engram_row_ids(hasher->hash, suffix + t * depth, ret_row_id + t * n_cols);
}

void em_row_ids_tiers(em_row_ids_fn *ret_fn)
{
    memset(ret_fn, 0, EM_N_ROW_IDS_TIERS * sizeof *ret_fn);
    ret_fn[EM_ROW_IDS_C] = row_ids_c;
#ifdef EM_HAVE_X86_TIERS
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        ret_fn[EM_ROW_IDS_AVX2] = em_row_ids_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        ret_fn[EM_ROW_IDS_AVX512] = em_row_ids_avx512;
#endif
}

void em_row_hasher_init(em_row_hasher *hasher, const em_engram_hash *hash)
{
    em_row_ids_fn fn[EM_N_ROW_IDS_TIERS];
    em_row_ids_tiers(fn);
    hasher->hash = hash;
    for (int32_t tier = 0; tier < EM_N_ROW_IDS_TIERS; tier++)
        if (fn[tier])
            hasher->row_ids = fn[tier];
    for (int32_t col = 0; col < hash->n_cols; col++)
        hasher->inverse[col] = EM_INVERSE_SCALE / (double)hash->prime[col];
}

/* For one token there is nothing to share between tokens, and plain C is a little faster. */
void em_row_hasher_run(const em_row_hasher *hasher, const int32_t *suffix, size_t n_tokens, int64_t *ret_row_id)
{
    if (n_tokens == 1)
        em_engram_row_ids(hasher->hash, suffix, ret_row_id);
    else
        hasher->row_ids(hasher, suffix, n_tokens, ret_row_id);
}
