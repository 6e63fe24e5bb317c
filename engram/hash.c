/* From token classes to row ids. Everything here is a pure function of the spec's sizes. */
#include "engram/internal.h"
#include "engram/pcg64.h"
#include "engram/primes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LAYER_SEED 10007 /* times the layer number: what each layer's generator seed has on top of the model's */

/* Where the search for the buckets of an n-gram order begins. */
static int64_t order_start(const em_engram_spec *spec, int32_t order)
{
    int64_t start = spec->order_start[order - 2];
    return start ? start : spec->prime_start;
}

static int check_shape(const em_engram_spec *spec, char *err, size_t err_len)
{
    if (spec->n_tables < 1 || spec->n_tables > EM_ENGRAM_MAX_TABLES)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: %d tables given, 1 to %d are possible", spec->n_tables,
                              EM_ENGRAM_MAX_TABLES);
    if ((unsigned)spec->dtype > EM_ENGRAM_INT8)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: unknown row type %d", (int)spec->dtype);
    if (spec->max_order < 2 || spec->max_order > EM_ENGRAM_MAX_ORDER)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: the longest n-gram is %d, it must be 2 to %d",
                              spec->max_order, EM_ENGRAM_MAX_ORDER);
    if (spec->n_heads < 1 || spec->n_heads > EM_ENGRAM_MAX_HEADS)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: %d hash heads given, 1 to %d are possible", spec->n_heads,
                              EM_ENGRAM_MAX_HEADS);
    if (spec->head_dim < 1 || spec->head_dim > EM_ENGRAM_MAX_HEAD_DIM)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: rows of %d columns given, 1 to %d are possible",
                              spec->head_dim, EM_ENGRAM_MAX_HEAD_DIM);
    if (spec->dtype == EM_ENGRAM_FP8 && spec->head_dim % EM_ENGRAM_SCALE_COLS)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: FP8 rows of %d columns: it must be a multiple of %d",
                              spec->head_dim, EM_ENGRAM_SCALE_COLS);
    if (spec->n_classes < 1)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: %d token classes given, at least 1 is needed",
                              spec->n_classes);
    if (spec->pad_class < 0 || spec->pad_class >= spec->n_classes)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: the pad class %d is not one of the %d token classes",
                              spec->pad_class, spec->n_classes);
    for (int32_t order = 2; order <= spec->max_order; order++)
        if (order_start(spec, order) < 1)
            return em_engram_fail(err, err_len, -EINVAL,
                                  "Engram: buckets of at least %lld rows given for order %d, it must be 1 or more",
                                  (long long)order_start(spec, order), order);
    return 0;
}

/* What the buckets of a table add up to at least; INT64_MAX when that cannot be counted. */
static int64_t least_rows(const em_engram_spec *spec)
{
    int64_t sum = 0, bucket;
    for (int32_t order = 2; order <= spec->max_order; order++)
        if (__builtin_mul_overflow(order_start(spec, order), (int64_t)spec->n_heads, &bucket) ||
            __builtin_add_overflow(sum, bucket, &sum))
            return INT64_MAX;
    return sum;
}

/* Besides sanity this bounds the search for primes: where the smallest sum cannot fit, none is looked for. */
static int check_source(const em_engram_spec *spec, int32_t table_idx, char *err, size_t err_len)
{
    const em_engram_source *source = &spec->table[table_idx];
    int64_t n_cols = (int64_t)(spec->max_order - 1) * spec->n_heads;

    if (source->layer < 0)
        return em_engram_fail(err, err_len, -EINVAL, "Engram: layer number %d is negative", source->layer);
    for (int32_t i = 0; i < table_idx; i++)
        if (spec->table[i].layer == source->layer)
            return em_engram_fail(err, err_len, -EINVAL, "Engram: layer %d is named twice", source->layer);
    if (source->n_rows < 1 || source->n_rows < least_rows(spec))
        return em_engram_fail(err, err_len, -EINVAL,
                              "Engram: the table of layer %d has %lld rows, too few for %lld buckets of at least %lld "
                              "rows in all",
                              source->layer, (long long)source->n_rows, (long long)n_cols, (long long)least_rows(spec));
    return 0;
}

/* Products of a class and a multiplier stay below 2^63: M <= 2 * bound - 1 < (2^63 - 1) / n_classes. The same
 * inequality keeps bound above 2^31, as n_classes is below 2^31. */
static void draw_multipliers(em_engram_hash *hash, uint64_t seed, int32_t n_classes)
{
    uint64_t bound = (uint64_t)INT64_MAX / (uint64_t)n_classes / 2;
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    for (int32_t i = 0; i < hash->max_order; i++)
        hash->multiplier[i] = (int64_t)(2 * em_pcg64_below(&rng, bound) + 1);
}

/* The primes that are still free. In the model's words each (layer, order) searches from its start anew and skips
 * primes in use. All of them are taken upward without a gap, so a search may go on where the last one from the same
 * start has ended; only orders with other starts can have taken what lies ahead of it. */
typedef struct em_prime_pool {
    uint64_t next[EM_ENGRAM_MAX_ORDER - 1]; /* of each order: below it, from its start on, everything is taken */
    uint64_t taken[EM_ENGRAM_MAX_TABLES * EM_ENGRAM_MAX_COLS];
    size_t n_taken;
    bool one_start; /* nothing can lie ahead */
} em_prime_pool;

static void pool_init(em_prime_pool *pool, const em_engram_spec *spec)
{
    pool->n_taken = 0;
    pool->one_start = true;
    for (int32_t order = 2; order <= spec->max_order; order++) {
        pool->next[order - 2] = (uint64_t)order_start(spec, order);
        pool->one_start &= pool->next[order - 2] == pool->next[0];
    }
}

static bool is_taken(const em_prime_pool *pool, uint64_t p)
{
    for (size_t i = 0; i < pool->n_taken; i++)
        if (pool->taken[i] == p)
            return true;
    return false;
}

/* 0 when no free prime fits 63 bits. */
static uint64_t take_prime(em_prime_pool *pool, int32_t order)
{
    uint64_t *next = &pool->next[pool->one_start ? 0 : order - 2];
    uint64_t p = em_prime_from(*next);
    while (p && !pool->one_start && is_taken(pool, p))
        p = em_prime_from(p + 1);
    if (p) {
        *next = p + 1;
        pool->taken[pool->n_taken++] = p;
    }
    return p;
}

static int fill_buckets(em_engram_hash *hash, const em_engram_source *source, em_prime_pool *pool, char *err,
                        size_t err_len)
{
    int64_t sum = 0;
    for (int32_t col = 0; col < hash->n_cols; col++) {
        uint64_t p = take_prime(pool, 2 + col / hash->n_heads);
        hash->offset[col] = sum;
        if (!p || __builtin_add_overflow(sum, (int64_t)p, &sum))
            return em_engram_fail(err, err_len, -EINVAL,
                                  "Engram: the buckets of layer %d have more rows than can be counted", source->layer);
        hash->prime[col] = (int64_t)p;
        hash->reciprocal[col] = UINT64_MAX / p;
    }
    hash->n_rows = sum;
    if (source->n_rows < sum)
        return em_engram_fail(err, err_len, -EINVAL,
                              "Engram: the table of layer %d has %lld rows, its %d buckets need %lld", source->layer,
                              (long long)source->n_rows, hash->n_cols, (long long)sum);
    return 0;
}

static int init_table(em_engram_hash *hash, const em_engram_spec *spec, int32_t table_idx, em_prime_pool *pool,
                      char *err, size_t err_len)
{
    const em_engram_source *source = &spec->table[table_idx];
    uint64_t seed;
    int rc = check_source(spec, table_idx, err, err_len);
    if (rc)
        return rc;
    if (__builtin_add_overflow(spec->seed, (uint64_t)LAYER_SEED * (uint64_t)source->layer, &seed))
        return em_engram_fail(err, err_len, -EINVAL, "Engram: the seed %llu is too large for layer %d",
                              (unsigned long long)spec->seed, source->layer);
    hash->max_order = spec->max_order;
    hash->n_heads = spec->n_heads;
    hash->n_cols = (spec->max_order - 1) * spec->n_heads;
    hash->pad_class = spec->pad_class;
    draw_multipliers(hash, seed, spec->n_classes);
    return fill_buckets(hash, source, pool, err, err_len);
}

/* Both lie on the heap: thread stacks are small and a hash has kilobytes. */
typedef struct em_hash_scratch {
    em_prime_pool pool;
    em_engram_hash hash[EM_ENGRAM_MAX_TABLES];
} em_hash_scratch;

int em_engram_hash_init(const em_engram_spec *spec, em_engram_hash *ret_hash, char *err, size_t err_len)
{
    int rc = check_shape(spec, err, err_len);
    if (rc)
        return rc;
    em_hash_scratch *scratch = calloc(1, sizeof *scratch);
    if (!scratch)
        return em_engram_fail(err, err_len, -ENOMEM, "Engram: out of memory");
    pool_init(&scratch->pool, spec);
    for (int32_t t = 0; !rc && t < spec->n_tables; t++)
        rc = init_table(&scratch->hash[t], spec, t, &scratch->pool, err, err_len);
    if (!rc)
        memcpy(ret_hash, scratch->hash, (size_t)spec->n_tables * sizeof *ret_hash);
    free(scratch);
    return rc;
}

void em_engram_suffix(const em_engram_hash *hash, const int32_t *classes, size_t n, int32_t *ret_suffix)
{
    size_t depth = (size_t)hash->max_order, i = 0;

    for (; i < depth && i < n && classes[n - 1 - i] != EM_ENGRAM_DEAD; i++)
        ret_suffix[i] = classes[n - 1 - i];
    for (; i < depth; i++)
        ret_suffix[i] = hash->pad_class;
}
