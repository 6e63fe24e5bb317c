/* Row ids with AVX2 and FMA: 4 columns at a time. There is no product of 64 bits, so all happens in double: a hash is
 * the sum of two doubles, high and low 32 bits. high - quotient * prime rounds once and needs no rounding: it is whole
 * and, as the remainder found is below 2 * prime, less than 2^53 with primes below 2^51. Larger ones (no memory holds
 * such a table) and the last columns of an order are left to plain C. */
#include "engram/row_ids.h"

#include <immintrin.h>

enum { TILE = 64 };                    /* tokens whose hashes lie in the cache beside the columns */
#define PRIME_LIMIT (INT64_C(1) << 51) /* what is below fits a double together with its multiples that occur */
#define WHOLE 0x1p52                   /* added to a whole number below it: the low bits are the number's */

/* The hashes of a tile of tokens. */
typedef struct em_tile {
    uint64_t v[TILE];
    double sum[TILE], high[TILE], low[TILE]; /* v rounded; its halves */
} em_tile;

typedef struct em_columns {
    __m256d prime, inverse;
    __m256i prime_int, offset;
} em_columns;

static inline __m256d floor_of_quotient(const em_columns *c, __m256d v)
{
    return _mm256_floor_pd(_mm256_mul_pd(v, c->inverse));
}

/* v - floor(v / prime) * prime, or prime more */
static inline __m256d take_multiples(const em_columns *c, const em_tile *tile, size_t t)
{
    __m256d quotient = floor_of_quotient(c, _mm256_broadcast_sd(tile->sum + t));
    __m256d rest = _mm256_fnmadd_pd(quotient, c->prime, _mm256_broadcast_sd(tile->high + t));
    return _mm256_add_pd(rest, _mm256_broadcast_sd(tile->low + t));
}

static inline __m256i whole_of(__m256d x)
{
    const __m256d whole = _mm256_set1_pd(WHOLE);
    return _mm256_castpd_si256(_mm256_xor_pd(_mm256_add_pd(x, whole), whole));
}

static inline void store_rows(const em_columns *c, __m256d rest, int64_t *row_id)
{
    __m256i row = whole_of(rest), less = _mm256_sub_epi64(row, c->prime_int);
    __m256d either = _mm256_blendv_pd(_mm256_castsi256_pd(less), _mm256_castsi256_pd(row), _mm256_castsi256_pd(less));
    _mm256_storeu_si256((__m256i *)row_id, _mm256_add_epi64(_mm256_castpd_si256(either), c->offset));
}

static void columns_of_tile(const em_columns *c, const em_tile *tile, size_t n, size_t n_cols, int64_t *row_id)
{
    for (size_t t = 0; t < n; t++)
        store_rows(c, take_multiples(c, tile, t), row_id + t * n_cols);
}

static void small_columns_of_tile(const em_columns *c, const em_tile *tile, size_t n, size_t n_cols, int64_t *row_id)
{
    for (size_t t = 0; t < n; t++) {
        __m256d rest = take_multiples(c, tile, t);
        store_rows(c, _mm256_fnmadd_pd(floor_of_quotient(c, rest), c->prime, rest), row_id + t * n_cols);
    }
}

static void split(em_tile *tile, size_t n)
{
    for (size_t t = 0; t < n; t++) {
        tile->high[t] = (double)(int64_t)(tile->v[t] >> 32) * 0x1p32;
        tile->low[t] = (double)(int64_t)(tile->v[t] & UINT32_MAX);
        tile->sum[t] = tile->high[t] + tile->low[t];
    }
}

/* Whether the 4 columns from `col` on could be done. */
static bool four_columns(const em_row_hasher *hasher, int32_t col, const em_tile *tile, size_t n, int64_t *row_id)
{
    const em_engram_hash *hash = hasher->hash;
    __m256i prime = _mm256_loadu_si256((const __m256i *)(hash->prime + col));
    __m256i too_large = _mm256_cmpgt_epi64(prime, _mm256_set1_epi64x(PRIME_LIMIT - 1));
    __m256i small = _mm256_cmpgt_epi64(_mm256_set1_epi64x(EM_ONE_ROUND_PRIME), prime);
    if (!_mm256_testz_si256(too_large, too_large))
        return false;
    const __m256d whole = _mm256_set1_pd(WHOLE);
    const em_columns c = {_mm256_sub_pd(_mm256_or_pd(_mm256_castsi256_pd(prime), whole), whole),
                          _mm256_loadu_pd(hasher->inverse + col), prime,
                          _mm256_loadu_si256((const __m256i *)(hash->offset + col))};
    if (_mm256_testz_si256(small, small))
        columns_of_tile(&c, tile, n, (size_t)hash->n_cols, row_id + col);
    else
        small_columns_of_tile(&c, tile, n, (size_t)hash->n_cols, row_id + col);
    return true;
}

static void tile_of_order(const em_row_hasher *hasher, int32_t order, em_tile *tile, size_t n, int64_t *row_id)
{
    const em_engram_hash *hash = hasher->hash;
    int32_t col = (order - 2) * hash->n_heads, end = col + hash->n_heads;
    split(tile, n);
    while (col < end)
        if (end - col >= 4 && four_columns(hasher, col, tile, n, row_id)) {
            col += 4;
        } else {
            for (size_t t = 0; t < n; t++)
                row_id[t * (size_t)hash->n_cols + (size_t)col] = em_row_of(hash, col, tile->v[t]);
            col++;
        }
}

void em_row_ids_avx2(const em_row_hasher *hasher, const int32_t *suffix, size_t n_tokens, int64_t *ret_row_id)
{
    const em_engram_hash *hash = hasher->hash;
    for (size_t at = 0; at < n_tokens; at += TILE) {
        size_t n = n_tokens - at < TILE ? n_tokens - at : TILE;
        const int32_t *classes = suffix + at * (size_t)hash->max_order;
        em_tile tile;
        for (size_t t = 0; t < n; t++)
            tile.v[t] = 0;
        em_mix_class(hash, classes, 0, n, tile.v);
        for (int32_t order = 2; order <= hash->max_order; order++) {
            em_mix_class(hash, classes, order - 1, n, tile.v);
            tile_of_order(hasher, order, &tile, n, ret_row_id + at * (size_t)hash->n_cols);
        }
    }
}
