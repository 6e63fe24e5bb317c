/* Row ids of many tokens at once: one function for each instruction set, all with the same bits. The plain one is the
 * definition that engram.h gives of em_engram_row_ids. */
#ifndef EM_ENGRAM_ROW_IDS_H
#define EM_ENGRAM_ROW_IDS_H

#include "engram/internal.h"

/* v mod prime by a quotient in double: with inverse = (1 - 2^-49) / prime the four roundings (v, prime, the division,
 * the product; each 2^-52 at most, in any rounding mode) leave the product at or below the true quotient and above it
 * times 1 - 2^-48. So its whole part is the right one or one less as long as the quotient is below 2^48, that is with
 * primes from 2^16 on. With smaller ones the rest is below 2^16 + prime, and a second round ends it. */
#define EM_INVERSE_SCALE (1 - 0x1p-49)
#define EM_ONE_ROUND_PRIME (1 << 16)

typedef struct em_row_hasher em_row_hasher;

/* suffix [n_tokens, max_order] -> row_id [n_tokens, n_cols]. Pure, any thread. */
typedef void (*em_row_ids_fn)(const em_row_hasher *hasher, const int32_t *suffix, size_t n_tokens, int64_t *ret_row_id);

struct em_row_hasher {
    const em_engram_hash *hash;
    em_row_ids_fn row_ids; /* the fastest one here for many tokens */
    double inverse[EM_ENGRAM_MAX_COLS];
};

/* `hash` must live as long as the hasher. */
void em_row_hasher_init(em_row_hasher *hasher, const em_engram_hash *hash);

/* With the function that is fastest for so many tokens. */
void em_row_hasher_run(const em_row_hasher *hasher, const int32_t *suffix, size_t n_tokens, int64_t *ret_row_id);

typedef enum em_row_ids_tier { EM_ROW_IDS_C, EM_ROW_IDS_AVX2, EM_ROW_IDS_AVX512, EM_N_ROW_IDS_TIERS } em_row_ids_tier;

/* Fills the table, [EM_N_ROW_IDS_TIERS]; NULL for what the build or the machine lacks. */
void em_row_ids_tiers(em_row_ids_fn *ret_fn);

void em_row_ids_avx2(const em_row_hasher *hasher, const int32_t *suffix, size_t n_tokens, int64_t *ret_row_id);
void em_row_ids_avx512(const em_row_hasher *hasher, const int32_t *suffix, size_t n_tokens, int64_t *ret_row_id);

/* v % d without a division, for every v. With r = floor((2^64 - 1) / d), 2^64 / d - r <= 1, hence
 * v / d - v * r / 2^64 = v / 2^64 * (2^64 / d - r) < 1: the quotient found is the true one or one less, and the
 * remainder is below 2 * d, which fits as d < 2^63. */
static inline uint64_t em_mod_prime(uint64_t v, uint64_t d, uint64_t r)
{
    uint64_t quotient = (uint64_t)(((unsigned __int128)v * r) >> 64);
    uint64_t rest = v - quotient * d;
    return rest >= d ? rest - d : rest;
}

static inline int64_t em_row_of(const em_engram_hash *hash, int32_t col, uint64_t v)
{
    return (int64_t)em_mod_prime(v, (uint64_t)hash->prime[col], hash->reciprocal[col]) + hash->offset[col];
}

/* One more class into the hash of each token. Unsigned, so that even a class out of range stays inside the table. */
static inline void em_mix_class(const em_engram_hash *hash, const int32_t *suffix, int32_t back, size_t n_tokens,
                                uint64_t *v)
{
    size_t depth = (size_t)hash->max_order;
    uint64_t multiplier = (uint64_t)hash->multiplier[back];
    for (size_t t = 0; t < n_tokens; t++)
        v[t] ^= (uint64_t)suffix[t * depth + (size_t)back] * multiplier;
}

#endif
