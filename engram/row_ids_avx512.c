/* Row ids with AVX-512 F and DQ: 8 columns at a time, the quotient in double, product and remainder in 64 bits. */
#include "engram/row_ids.h"

#include <immintrin.h>

enum { TILE = 64 }; /* tokens whose hashes lie in the cache beside the columns */

typedef struct em_columns {
    __m512i prime, offset;
    __m512d inverse;
    __mmask8 mask; /* the lanes in use */
} em_columns;

/* v - floor(v / prime) * prime, or prime more */
static inline __m512i take_multiples(const em_columns *c, __m512i v, __m512d v_double)
{
    __m512i quotient = _mm512_cvttpd_epu64(_mm512_mul_pd(v_double, c->inverse));
    return _mm512_sub_epi64(v, _mm512_mullo_epi64(quotient, c->prime));
}

static inline void store_rows(const em_columns *c, __m512i rest, int64_t *row_id)
{
    /* below 0 wraps to the top: the smaller one is the remainder */
    rest = _mm512_min_epu64(rest, _mm512_sub_epi64(rest, c->prime));
    _mm512_mask_storeu_epi64(row_id, c->mask, _mm512_add_epi64(rest, c->offset));
}

static void columns_of_tile(const em_columns *c, const uint64_t *v, const double *v_double, size_t n, size_t n_cols,
                            int64_t *row_id)
{
    for (size_t t = 0; t < n; t++)
        store_rows(c, take_multiples(c, _mm512_set1_epi64((int64_t)v[t]), _mm512_set1_pd(v_double[t])),
                   row_id + t * n_cols);
}

static void small_columns_of_tile(const em_columns *c, const uint64_t *v, const double *v_double, size_t n,
                                  size_t n_cols, int64_t *row_id)
{
    for (size_t t = 0; t < n; t++) {
        __m512i rest = take_multiples(c, _mm512_set1_epi64((int64_t)v[t]), _mm512_set1_pd(v_double[t]));
        store_rows(c, take_multiples(c, rest, _mm512_cvtepu64_pd(rest)), row_id + t * n_cols);
    }
}

static void tile_of_order(const em_row_hasher *hasher, int32_t order, const uint64_t *v, size_t n, int64_t *row_id)
{
    const em_engram_hash *hash = hasher->hash;
    double v_double[TILE] __attribute__((aligned(64)));
    size_t whole = n / 8 * 8;
    for (size_t t = 0; t < whole; t += 8)
        _mm512_store_pd(v_double + t, _mm512_cvtepu64_pd(_mm512_load_si512(v + t)));
    for (size_t t = whole; t < n; t++) /* one by one: a wide load would wait for the narrow stores of just now */
        v_double[t] = _mm_cvtsd_f64(_mm_cvtu64_sd(_mm_setzero_pd(), v[t]));

    for (int32_t head = 0; head < hash->n_heads; head += 8) {
        int32_t col = (order - 2) * hash->n_heads + head, rest = hash->n_heads - head;
        __mmask8 mask = (__mmask8)(rest < 8 ? (1 << rest) - 1 : 0xFF);
        const em_columns c = {_mm512_maskz_loadu_epi64(mask, hash->prime + col),
                              _mm512_maskz_loadu_epi64(mask, hash->offset + col),
                              _mm512_maskz_loadu_pd(mask, hasher->inverse + col), mask};
        bool small = _mm512_mask_cmplt_epu64_mask(mask, c.prime, _mm512_set1_epi64(EM_ONE_ROUND_PRIME));
        if (small)
            small_columns_of_tile(&c, v, v_double, n, (size_t)hash->n_cols, row_id + col);
        else
            columns_of_tile(&c, v, v_double, n, (size_t)hash->n_cols, row_id + col);
    }
}

void em_row_ids_avx512(const em_row_hasher *hasher, const int32_t *suffix, size_t n_tokens, int64_t *ret_row_id)
{
    const em_engram_hash *hash = hasher->hash;
    for (size_t at = 0; at < n_tokens; at += TILE) {
        size_t n = n_tokens - at < TILE ? n_tokens - at : TILE;
        const int32_t *tile = suffix + at * (size_t)hash->max_order;
        uint64_t v[TILE] __attribute__((aligned(64)));
        for (size_t t = 0; t < n; t++)
            v[t] = 0;
        em_mix_class(hash, tile, 0, n, v);
        for (int32_t order = 2; order <= hash->max_order; order++) {
            em_mix_class(hash, tile, order - 1, n, v);
            tile_of_order(hasher, order, v, n, ret_row_id + at * (size_t)hash->n_cols);
        }
    }
}
