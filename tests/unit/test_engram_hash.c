/* From token classes to rows: NumPy's generator, primes, multipliers, look-back, row ids, and what is refused. */
#include <check.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engram/engram.h"
#include "engram/pcg64.h"
#include "engram/primes.h"
#include "tests/support/fixtures.h"
#include "tests/unit/engram_order_vectors.h"
#include "tests/unit/engram_vectors.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

/* --- the generator ----------------------------------------------------------------------------------------------- */

START_TEST(generator_is_numpys)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, raw_vector[_i].seed);
    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(em_pcg64_next(&rng), raw_vector[_i].out[i]);
}
END_TEST

START_TEST(bounded_draws_are_numpys)
{
    em_pcg64 rng;
    uint64_t fnv = 14695981039346656037u;
    em_pcg64_seed(&rng, 5);
    for (int i = 0; i < 200; i++) {
        uint64_t v = em_pcg64_below(&rng, below_vector[_i].bound);
        ck_assert_uint_lt(v, below_vector[_i].bound);
        fnv = (fnv ^ v) * 1099511628211u;
    }
    ck_assert_uint_eq(fnv, below_vector[_i].fnv);
}
END_TEST

/* --- primes ------------------------------------------------------------------------------------------------------ */

START_TEST(primes_agree_with_a_sieve)
{
    enum { LIMIT = 300000 };
    static char composite[LIMIT];
    for (size_t p = 2; p * p < LIMIT; p++)
        for (size_t m = p * p; !composite[p] && m < LIMIT; m += p)
            composite[m] = 1;
    uint64_t next = 0;
    for (size_t n = LIMIT; n-- > 0;) {
        bool prime = n >= 2 && !composite[n];
        if (prime)
            next = n;
        if (em_prime_test(n) != prime || (next && em_prime_from(n) != next))
            ck_abort_msg("wrong at %zu", n);
    }
}
END_TEST

START_TEST(primes_of_64_bits)
{
    static const uint64_t prime[] = {2147483647u, 4294967291u, 2305843009213693951u, 9223372036854775783u,
                                     18446744073709551557u};
    /* strong pseudoprimes to the first bases, Carmichael numbers, squares and products of large primes */
    static const uint64_t composite[] = {561,
                                         2047,
                                         1373653,
                                         25326001,
                                         3215031751u,
                                         2152302898747u,
                                         3474749660383u,
                                         341550071728321u,
                                         3825123056546413051u,
                                         443372888629441u,
                                         18446744030759878681u,
                                         9223372028264841217u,
                                         256000000u + 39,
                                         18446744073709551615u};
    for (int i = 0; i < COUNT(prime); i++)
        ck_assert_msg(em_prime_test(prime[i]), "%llu", (unsigned long long)prime[i]);
    for (int i = 0; i < COUNT(composite); i++)
        ck_assert_msg(!em_prime_test(composite[i]), "%llu", (unsigned long long)composite[i]);
    ck_assert_uint_eq(em_prime_from(16000000), 16000057);
    ck_assert_uint_eq(em_prime_from(9223372036854775783u), 9223372036854775783u);
    ck_assert_uint_eq(em_prime_from(9223372036854775784u), 0); /* the next one has 64 bits */
    ck_assert_uint_eq(em_prime_from(UINT64_MAX), 0);
}
END_TEST

/* --- buckets and multipliers ------------------------------------------------------------------------------------- */

static em_engram_spec released_spec(void)
{
    em_engram_spec spec = {.n_tables = 2,
                           .dtype = EM_ENGRAM_FP8,
                           .max_order = 4,
                           .n_heads = 8,
                           .head_dim = 256,
                           .prime_start = 16000000,
                           .n_classes = 99092,
                           .pad_class = 2};
    spec.table[0] = (em_engram_source){.layer = 1, .n_rows = 384006168};
    spec.table[1] = (em_engram_source){.layer = 14, .n_rows = 384016682};
    return spec;
}

static void init_released(em_engram_hash hash[2])
{
    em_engram_spec spec = released_spec();
    char err[256] = "";
    ck_assert_msg(em_engram_hash_init(&spec, hash, err, sizeof err) == 0, "%s", err);
}

START_TEST(released_buckets_and_multipliers)
{
    static const int64_t multiplier[2][4] = {{76632096046245, 4839876093313, 35959672319349, 73987337458391},
                                             {67716810739261, 51510806800915, 30921347202721, 82619226485591}};
    em_engram_hash hash[2];
    init_released(hash);
    ck_assert_int_eq(hash[0].n_rows, 384006168);
    ck_assert_int_eq(hash[1].n_rows, 384016682);
    for (int t = 0; t < 2; t++) {
        ck_assert_int_eq(hash[t].n_cols, 24);
        for (int i = 0; i < 4; i++)
            ck_assert_int_eq(hash[t].multiplier[i], multiplier[t][i]);
        for (int col = 0; col < 24; col++) {
            ck_assert_int_eq(hash[t].prime[col], released_prime[t][col]);
            ck_assert_int_eq(hash[t].offset[col], released_offset[t][col]);
        }
    }
}
END_TEST

/* Every size of vocabulary, also those whose draws are of 32 bits, and seeds of two words. */
START_TEST(multipliers_are_numpys)
{
    em_engram_spec spec = released_spec();
    em_engram_hash hash;
    spec.n_tables = 1;
    spec.max_order = 8;
    spec.prime_start = 1;
    spec.pad_class = 0;
    spec.table[0].layer = multiplier_vector[_i].layer;
    spec.n_classes = multiplier_vector[_i].n_classes;
    ck_assert_int_eq(em_engram_hash_init(&spec, &hash, NULL, 0), 0);
    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(hash.multiplier[i], multiplier_vector[_i].multiplier[i]);
}
END_TEST

START_TEST(products_fit_63_bits_for_every_vocabulary)
{
    unsigned long long seed = test_seed(31);
    em_engram_spec spec = released_spec();
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    spec.n_tables = 1;
    spec.max_order = EM_ENGRAM_MAX_ORDER;
    spec.n_heads = 1;
    spec.prime_start = 1;
    spec.pad_class = 0;
    for (int round = 0; round < 20000; round++) {
        em_engram_hash hash;
        int64_t product;
        spec.n_classes = (int32_t)(1 + em_pcg64_below(&rng, (uint64_t)INT32_MAX >> em_pcg64_below(&rng, 31)));
        spec.table[0].layer = (int32_t)em_pcg64_below(&rng, INT32_MAX);
        ck_assert_int_eq(em_engram_hash_init(&spec, &hash, NULL, 0), 0);
        for (int i = 0; i < EM_ENGRAM_MAX_ORDER; i++) {
            if (!(hash.multiplier[i] & 1) || hash.multiplier[i] < 0 ||
                __builtin_mul_overflow(hash.multiplier[i], (int64_t)spec.n_classes - 1, &product))
                ck_abort_msg("%lld with %d classes", (long long)hash.multiplier[i], spec.n_classes);
        }
    }
}
END_TEST

/* The model's own words: for each (layer, order) search from the start and skip what is used. */
START_TEST(buckets_are_the_unused_primes)
{
    em_engram_spec spec = released_spec();
    em_engram_hash hash[3];
    uint64_t used[3 * 6 * 5];
    int n_used = 0;
    spec.n_tables = 3;
    spec.table[2] = (em_engram_source){.layer = 7, .n_rows = 1000000};
    spec.max_order = 7;
    spec.n_heads = 5;
    spec.prime_start = _i;
    ck_assert_int_eq(em_engram_hash_init(&spec, hash, NULL, 0), 0);
    for (int t = 0; t < 3; t++) {
        int64_t sum = 0;
        for (int order = 2; order <= 7; order++) {
            uint64_t p = (uint64_t)_i - 1;
            for (int head = 0; head < 5; head++) {
                bool taken;
                do {
                    p = em_prime_from(p + 1);
                    taken = false;
                    for (int i = 0; i < n_used; i++)
                        taken |= used[i] == p;
                } while (taken);
                used[n_used++] = p;
                int col = 5 * (order - 2) + head;
                ck_assert_int_eq(hash[t].prime[col], (int64_t)p);
                ck_assert_int_eq(hash[t].offset[col], sum);
                sum += (int64_t)p;
            }
        }
        ck_assert_int_eq(hash[t].n_rows, sum);
    }
}
END_TEST

/* Orders that begin at different places, other seeds: the paper's own program and worse. */
START_TEST(orders_with_starts_of_their_own)
{
    em_engram_spec spec = {.dtype = EM_ENGRAM_BF16, .head_dim = 64};
    em_engram_hash hash[3];
    int32_t suffix[EM_ENGRAM_MAX_ORDER];
    int64_t row[16];
    spec.n_tables = order_vector[_i].n_tables;
    spec.max_order = order_vector[_i].max_order;
    spec.n_heads = order_vector[_i].n_heads;
    spec.n_classes = order_vector[_i].n_classes;
    spec.pad_class = order_vector[_i].pad_class;
    spec.seed = order_vector[_i].seed;
    memcpy(spec.order_start, order_vector[_i].start, sizeof spec.order_start);
    for (int t = 0; t < spec.n_tables; t++)
        spec.table[t] = (em_engram_source){.layer = order_vector[_i].table[t].layer, .n_rows = 1 << 30};
    for (int with_default = 0; with_default < 2; with_default++) {
        ck_assert_int_eq(em_engram_hash_init(&spec, hash, NULL, 0), 0);
        for (int t = 0; t < spec.n_tables; t++) {
            const em_engram_hash *h = &hash[t];
            ck_assert_mem_eq(h->multiplier, order_vector[_i].table[t].multiplier, (size_t)spec.max_order * 8);
            ck_assert_mem_eq(h->prime, order_vector[_i].table[t].prime, (size_t)h->n_cols * 8);
            for (size_t at = 0; at < (size_t)order_vector[_i].n_tokens; at++) {
                em_engram_suffix(h, order_vector[_i].class_of, at + 1, suffix);
                em_engram_row_ids(h, suffix, row);
                ck_assert_mem_eq(row, order_vector[_i].table[t].row[at], (size_t)h->n_cols * 8);
            }
        }
        spec.prime_start = spec.order_start[0]; /* the same, said by the common start */
        for (int order = 2; order <= spec.max_order; order++)
            if (spec.order_start[order - 2] == spec.prime_start)
                spec.order_start[order - 2] = 0;
    }
}
END_TEST

/* --- rows -------------------------------------------------------------------------------------------------------- */

static void rows_of(const em_engram_hash *hash, const int32_t *classes, size_t n, int64_t *ret_row)
{
    int32_t suffix[EM_ENGRAM_MAX_ORDER];
    em_engram_suffix(hash, classes, n, suffix);
    em_engram_row_ids(hash, suffix, ret_row);
}

START_TEST(released_rows)
{
    static const int32_t full[] = {5, 17, 42, 99091}, first[] = {7}, start[] = {0, 15844, 1751},
                         chat[] = {0, 98615, 15844, 3, 98616, 98634};
    static const int col[] = {0, 7, 8, 15, 16, 23};
    em_engram_hash hash[2];
    int64_t row[24];
    init_released(hash);
    for (int t = 0; t < 2; t++) {
        rows_of(&hash[t], full, 4, row);
        ck_assert_mem_eq(row, released_row_full[t], sizeof row);
    }
    rows_of(&hash[0], first, 1, row);
    ck_assert_mem_eq(row, released_row_first, sizeof row);
    for (int i = 0; i < COUNT(released_start); i++) {
        rows_of(&hash[released_start[i].table_idx], start, (size_t)released_start[i].pos + 1, row);
        for (int k = 0; k < 6; k++)
            ck_assert_int_eq(row[col[k]], released_start[i].row[k]);
    }
    for (int i = 0; i < COUNT(released_chat); i++)
        for (int t = 0; t < 2; t++) {
            rows_of(&hash[t], chat, (size_t)released_chat[i].pos + 1, row);
            ck_assert_int_eq(row[0], released_chat[i].row[t][0]);
            ck_assert_int_eq(row[23], released_chat[i].row[t][1]);
        }
}
END_TEST

/* The remainder without division, where it could go wrong: beside multiples of the prime and at the ends. */
START_TEST(remainder_is_exact)
{
    unsigned long long seed = test_seed(77);
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    em_engram_hash hash = {.max_order = 2, .n_heads = 1, .n_cols = 1, .offset = {0}};
    static const int32_t suffix[2] = {1, 0};
    for (int round = 0; round < 200000; round++) {
        uint64_t d = 1 + em_pcg64_below(&rng, (uint64_t)INT64_MAX >> em_pcg64_below(&rng, 62));
        uint64_t near = em_pcg64_below(&rng, UINT64_MAX / d) * d;
        const uint64_t v[] = {em_pcg64_next(&rng),
                              near,
                              near - 1,
                              near + 1,
                              near + d - 1,
                              0,
                              INT64_MAX,
                              UINT64_MAX,
                              d - 1,
                              d,
                              d + 1,
                              UINT64_MAX / d * d,
                              UINT64_MAX / d * d - 1};
        hash.prime[0] = (int64_t)d;
        hash.reciprocal[0] = UINT64_MAX / d;
        for (int i = 0; i < COUNT(v); i++) {
            int64_t row;
            hash.multiplier[0] = (int64_t)v[i];
            em_engram_row_ids(&hash, suffix, &row);
            if ((uint64_t)row != v[i] % d)
                ck_abort_msg("%llu %% %llu", (unsigned long long)v[i], (unsigned long long)d);
        }
    }
}
END_TEST

/* Random shapes against the definition in 128 bits with a plain %. */
START_TEST(rows_follow_the_definition)
{
    unsigned long long seed = test_seed(5);
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    for (int round = 0; round < 300; round++) {
        em_engram_spec spec = {.n_tables = 2, .dtype = EM_ENGRAM_F32, .head_dim = 1};
        em_engram_hash hash[2];
        spec.max_order = 2 + (int32_t)em_pcg64_below(&rng, EM_ENGRAM_MAX_ORDER - 1);
        spec.n_heads = 1 + (int32_t)em_pcg64_below(&rng, round % 10 ? 8 : EM_ENGRAM_MAX_HEADS);
        spec.n_classes = 1 + (int32_t)em_pcg64_below(&rng, (uint64_t)INT32_MAX >> em_pcg64_below(&rng, 31));
        spec.pad_class = (int32_t)em_pcg64_below(&rng, (uint64_t)spec.n_classes);
        spec.prime_start = 1 + (int64_t)em_pcg64_below(&rng, (uint64_t)1 << em_pcg64_below(&rng, 54));
        for (int t = 0; t < 2; t++)
            spec.table[t] = (em_engram_source){.layer = 100 * t + round, .n_rows = INT64_MAX};
        ck_assert_int_eq(em_engram_hash_init(&spec, hash, NULL, 0), 0);

        int32_t suffix[EM_ENGRAM_MAX_ORDER];
        int64_t row[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS];
        for (int i = 0; i < spec.max_order; i++)
            suffix[i] = (int32_t)em_pcg64_below(&rng, (uint64_t)spec.n_classes);
        const em_engram_hash *h = &hash[round & 1];
        em_engram_row_ids(h, suffix, row);
        __int128 v = (__int128)suffix[0] * h->multiplier[0];
        for (int order = 2; order <= spec.max_order; order++) {
            v ^= (__int128)suffix[order - 1] * h->multiplier[order - 1];
            for (int head = 0; head < spec.n_heads; head++) {
                int col = spec.n_heads * (order - 2) + head;
                ck_assert_int_eq(row[col], (int64_t)(v % h->prime[col]) + h->offset[col]);
            }
        }

        /* whatever the classes are, a row of the column's bucket */
        for (int i = 0; i < spec.max_order; i++)
            suffix[i] = (int32_t)(uint32_t)em_pcg64_next(&rng);
        em_engram_row_ids(h, suffix, row);
        for (int col = 0; col < h->n_cols; col++)
            ck_assert(row[col] >= h->offset[col] && row[col] < h->offset[col] + h->prime[col]);
    }
}
END_TEST

/* Sticky: one dead position, or the start, hides all that lies behind it. */
START_TEST(look_back_is_sticky)
{
    unsigned long long seed = test_seed(9);
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    for (int round = 0; round < 20000; round++) {
        em_engram_hash hash = {.max_order = 2 + (int32_t)em_pcg64_below(&rng, 7), .pad_class = 1000};
        int32_t classes[12], suffix[EM_ENGRAM_MAX_ORDER + 1], other[EM_ENGRAM_MAX_ORDER];
        size_t n = 1 + em_pcg64_below(&rng, 12);
        for (size_t i = 0; i < n; i++)
            classes[i] = em_pcg64_below(&rng, 5) ? (int32_t)em_pcg64_below(&rng, 900) : EM_ENGRAM_DEAD;

        suffix[hash.max_order] = -77;
        em_engram_suffix(&hash, classes, n, suffix);
        ck_assert_int_eq(suffix[hash.max_order], -77); /* not a word more */
        bool gone = false;
        for (int i = 0; i < hash.max_order; i++) {
            gone = gone || (size_t)i >= n || classes[n - 1 - (size_t)i] == EM_ENGRAM_DEAD;
            ck_assert_int_eq(suffix[i], gone ? 1000 : classes[n - 1 - (size_t)i]);
        }

        /* the last max_order classes are enough, and what is hidden does not matter */
        size_t keep = n < (size_t)hash.max_order ? n : (size_t)hash.max_order;
        em_engram_suffix(&hash, classes + n - keep, keep, other);
        ck_assert_mem_eq(suffix, other, (size_t)hash.max_order * sizeof *other);
        size_t alive = 0;
        while (alive < n && classes[n - 1 - alive] != EM_ENGRAM_DEAD)
            alive++;
        for (size_t i = 0; i + alive + 1 < n; i++)
            classes[i] = 5;
        em_engram_suffix(&hash, classes, n, other);
        ck_assert_mem_eq(suffix, other, (size_t)hash.max_order * sizeof *other);
    }
}
END_TEST

/* --- what is refused --------------------------------------------------------------------------------------------- */

typedef void (*spoil_fn)(em_engram_spec *spec);
#define SPOIL(name, statement)                                                                                         \
    static void name(em_engram_spec *s)                                                                                \
    {                                                                                                                  \
        statement;                                                                                                     \
    }
SPOIL(no_tables, s->n_tables = 0)
SPOIL(many_tables, s->n_tables = EM_ENGRAM_MAX_TABLES + 1)
SPOIL(negative_tables, s->n_tables = INT32_MIN)
SPOIL(odd_dtype, s->dtype = (em_engram_dtype)9)
SPOIL(order_1, s->max_order = 1)
SPOIL(order_9, s->max_order = EM_ENGRAM_MAX_ORDER + 1)
SPOIL(no_heads, s->n_heads = 0)
SPOIL(many_heads, s->n_heads = EM_ENGRAM_MAX_HEADS + 1)
SPOIL(no_width, s->head_dim = 0)
SPOIL(huge_width, s->head_dim = INT32_MAX)
SPOIL(odd_width, s->head_dim = 250)
SPOIL(no_classes, s->n_classes = 0)
SPOIL(negative_classes, s->n_classes = -5)
SPOIL(dead_pad, s->pad_class = EM_ENGRAM_DEAD)
SPOIL(pad_beyond, s->pad_class = 99092)
SPOIL(start_0, s->prime_start = 0)
SPOIL(start_negative, s->prime_start = INT64_MIN)
SPOIL(start_huge, s->prime_start = INT64_MAX)
SPOIL(start_above_rows, s->prime_start = 17000000)
SPOIL(one_row_short, s->table[1].n_rows--)
SPOIL(no_rows, s->table[0].n_rows = 0)
SPOIL(negative_rows, s->table[0].n_rows = INT64_MIN)
SPOIL(negative_layer, s->table[1].layer = -1)
SPOIL(same_layer, s->table[1].layer = 1)
SPOIL(order_start_negative, s->order_start[1] = -3)
SPOIL(order_start_huge, s->order_start[2] = INT64_MAX)
SPOIL(order_start_above_rows, s->order_start[2] = 17000000)
SPOIL(huge_seed, s->seed = UINT64_MAX)
SPOIL(uncountable, s->prime_start = INT64_MAX / 24; s->table[0].n_rows = s->table[1].n_rows = INT64_MAX)

static const struct {
    spoil_fn spoil;
    const char *word; /* the sentence names the thing */
} bad_spec[] = {
    {no_tables, "0 tables"},
    {many_tables, "17 tables"},
    {negative_tables, "tables"},
    {odd_dtype, "row type 9"},
    {order_1, "n-gram"},
    {order_9, "n-gram is 9"},
    {no_heads, "0 hash heads"},
    {many_heads, "65 hash heads"},
    {no_width, "0 columns"},
    {huge_width, "2147483647"},
    {odd_width, "250 columns"},
    {no_classes, "0 token classes"},
    {negative_classes, "-5 token"},
    {dead_pad, "pad class -1"},
    {pad_beyond, "pad class 99092"},
    {start_0, "buckets"},
    {start_negative, "buckets"},
    {start_huge, "layer 1 has"},
    {start_above_rows, "layer 1"},
    {one_row_short, "384016681 rows, its 24 buckets need 384016682"},
    {no_rows, "layer 1 has 0 rows"},
    {negative_rows, "layer 1"},
    {negative_layer, "-1 is negative"},
    {order_start_negative, "-3 rows given for order 3"},
    {order_start_huge, "layer 1 has"},
    {order_start_above_rows, "layer 1 has"},
    {huge_seed, "seed 18446744073709551615 is too large for layer 1"},
    {same_layer, "1 is named twice"},
    {uncountable, "can be counted"},
};

START_TEST(bad_specs_are_refused_in_a_sentence)
{
    em_engram_spec spec = released_spec();
    em_engram_hash hash[2], before[2];
    char err[256] = "", cut[8];
    memset(hash, 0x5a, sizeof hash);
    memcpy(before, hash, sizeof hash);
    bad_spec[_i].spoil(&spec);
    ck_assert_int_eq(em_engram_hash_init(&spec, hash, err, sizeof err), -EINVAL);
    ck_assert_msg(strstr(err, bad_spec[_i].word) != NULL, "\"%s\" lacks \"%s\"", err, bad_spec[_i].word);
    ck_assert_ptr_null(strchr(err, '\n'));
    ck_assert_mem_eq(hash, before, sizeof hash);

    ck_assert_int_eq(em_engram_hash_init(&spec, hash, cut, sizeof cut), -EINVAL);
    ck_assert_str_eq(cut, "Engram:");
    ck_assert_int_eq(em_engram_hash_init(&spec, hash, NULL, 0), -EINVAL);
}
END_TEST

START_TEST(spare_rows_change_nothing)
{
    em_engram_spec spec = released_spec();
    em_engram_hash exact[2], spare[2];
    init_released(exact);
    spec.table[0].n_rows += 12345;
    spec.table[1].n_rows = INT64_MAX;
    ck_assert_int_eq(em_engram_hash_init(&spec, spare, NULL, 0), 0);
    ck_assert_mem_eq(exact, spare, sizeof exact);
}
END_TEST

START_TEST(the_largest_shape_works)
{
    em_engram_spec spec = {.n_tables = EM_ENGRAM_MAX_TABLES,
                           .dtype = EM_ENGRAM_BF16,
                           .max_order = EM_ENGRAM_MAX_ORDER,
                           .n_heads = EM_ENGRAM_MAX_HEADS,
                           .head_dim = 1,
                           .prime_start = 16000000,
                           .n_classes = INT32_MAX,
                           .pad_class = INT32_MAX - 1};
    em_engram_hash *hash = malloc(EM_ENGRAM_MAX_TABLES * sizeof *hash);
    for (int t = 0; t < EM_ENGRAM_MAX_TABLES; t++)
        spec.table[t] = (em_engram_source){.layer = INT32_MAX - t, .n_rows = (int64_t)1 << 40};
    ck_assert_int_eq(em_engram_hash_init(&spec, hash, NULL, 0), 0);
    int64_t last = 0;
    for (int t = 0; t < EM_ENGRAM_MAX_TABLES; t++)
        for (int col = 0; col < hash[t].n_cols; col++) {
            ck_assert_int_gt(hash[t].prime[col], last);
            last = hash[t].prime[col];
        }
    free(hash);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engram-hash");
    TCase *t = tcase_create("hash");
    tcase_add_loop_test(t, generator_is_numpys, 0, COUNT(raw_vector));
    tcase_add_loop_test(t, bounded_draws_are_numpys, 0, COUNT(below_vector));
    tcase_add_test(t, primes_agree_with_a_sieve);
    tcase_add_test(t, primes_of_64_bits);
    tcase_add_test(t, released_buckets_and_multipliers);
    tcase_add_loop_test(t, multipliers_are_numpys, 0, COUNT(multiplier_vector));
    tcase_add_test(t, products_fit_63_bits_for_every_vocabulary);
    tcase_add_loop_test(t, buckets_are_the_unused_primes, 1, 60);
    tcase_add_loop_test(t, orders_with_starts_of_their_own, 0, COUNT(order_vector));
    tcase_add_test(t, released_rows);
    tcase_add_test(t, remainder_is_exact);
    tcase_add_test(t, rows_follow_the_definition);
    tcase_add_test(t, look_back_is_sticky);
    tcase_add_loop_test(t, bad_specs_are_refused_in_a_sentence, 0, COUNT(bad_spec));
    tcase_add_test(t, spare_rows_change_nothing);
    tcase_add_test(t, the_largest_shape_works);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
