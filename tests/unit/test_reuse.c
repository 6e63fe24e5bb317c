/* Reuse distances against their definition, curves against caches that are really run, samples against the whole. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/reuse.h"
#include "engram/row_cache.h"
#include "tests/support/fixtures.h"

/* Asks as texts make them: few keys often, many seldom. */
static uint64_t draw(uint64_t seed, uint64_t i, uint64_t n_keys)
{
    double u = (double)(em_rng_u64(seed, 0, i, 0) >> 11) * 0x1p-53;
    uint64_t rank = (uint64_t)exp(u * log((double)n_keys));
    return rank * 0x9e3779b97f4a7c15u; /* keys need not be small */
}

static void fill(em_reuse *r, uint64_t seed, uint64_t n, uint64_t n_keys)
{
    for (uint64_t i = 0; i < n; i++)
        ck_assert_int_eq(em_reuse_add(r, draw(seed, i, n_keys)), 0);
    ck_assert_uint_eq(r->n_asked, n);
}

static uint32_t distance_by_definition(const em_reuse *r, size_t at)
{
    uint32_t n_others = 0;
    for (size_t i = at; i-- > 0;) {
        if (r->key[i] == r->key[at])
            return n_others;
        bool again = false;
        for (size_t k = i + 1; k < at && !again; k++)
            again = r->key[k] == r->key[i];
        n_others += !again;
    }
    return EM_REUSE_FIRST;
}

START_TEST(distances_are_what_they_say)
{
    static const uint64_t n_keys[] = {1, 2, 3, 17, 60, 1000};
    uint32_t *distance;
    em_reuse r = {.max = 1000};
    fill(&r, test_seed(1) + (unsigned)_i, 300, n_keys[_i]);
    ck_assert_uint_eq(r.n, 300);
    ck_assert_int_eq(em_reuse_distances(&r, &distance), 0);
    for (size_t i = 0; i < r.n; i++)
        ck_assert_uint_eq(distance[i], distance_by_definition(&r, i));
    free(distance);
    em_reuse_done(&r);
}
END_TEST

START_TEST(nothing_asked)
{
    uint32_t *distance;
    double share = -1;
    em_reuse r = {.max = 10};
    ck_assert_int_eq(em_reuse_distances(&r, &distance), 0);
    ck_assert_double_eq(em_reuse_lru_hits(&r, distance, 5), 0);
    ck_assert_int_eq(em_reuse_cache_hits(&r, 5, &share), 0);
    ck_assert_double_eq(share, 0);
    free(distance);
    em_reuse_done(&r);
}
END_TEST

/* A list of n_rows keys, the one asked last in front. */
static double run_lru(const em_reuse *r, size_t n_rows)
{
    uint64_t *list = malloc((n_rows + 1) * sizeof(*list));
    size_t n = 0, n_hits = 0;
    for (size_t i = 0; i < r->n; i++) {
        size_t at = 0;
        while (at < n && list[at] != r->key[i])
            at++;
        n_hits += at < n;
        if (at == n)
            at = n < n_rows ? n++ : n_rows - 1;
        memmove(list + 1, list, at * sizeof(*list));
        list[0] = r->key[i];
    }
    free(list);
    return (double)n_hits / (double)r->n;
}

/* The cache itself, rows and all. */
static double run_row_cache(const em_reuse *r, uint64_t n_rows)
{
    em_row_cache cache;
    size_t n_hits = 0;
    ck_assert_int_eq(em_row_cache_open(&cache, sizeof(uint64_t), n_rows), 0);
    for (size_t i = 0; i < r->n; i++) {
        uint64_t row;
        if (em_row_cache_get(&cache, r->key[i], (uint8_t *)&row)) {
            ck_assert_uint_eq(row, r->key[i]);
            n_hits++;
        } else {
            em_row_cache_put(&cache, r->key[i], (const uint8_t *)&r->key[i]);
        }
    }
    em_row_cache_close(&cache);
    return (double)n_hits / (double)r->n;
}

START_TEST(shares_are_those_of_caches_that_run)
{
    static const uint64_t n_rows[] = {1, 2, 7, 30, 111, 5000};
    uint32_t *distance;
    double share, last = -1;
    em_reuse r = {.max = 20000};
    fill(&r, test_seed(2), 20000, 3000);
    ck_assert_uint_eq(r.shift, 0);
    ck_assert_int_eq(em_reuse_distances(&r, &distance), 0);
    for (size_t i = 0; i < sizeof(n_rows) / sizeof(*n_rows); i++) {
        double lru = em_reuse_lru_hits(&r, distance, n_rows[i]);
        ck_assert_double_eq_tol(lru, run_lru(&r, n_rows[i]), 1e-12);
        ck_assert_int_eq(em_reuse_cache_hits(&r, n_rows[i], &share), 0);
        ck_assert_double_eq_tol(share, run_row_cache(&r, n_rows[i]), 1e-12);
        ck_assert_double_gt(lru, last);
        last = lru;
    }
    ck_assert_double_eq_tol(share, last, 1e-12); /* all rows fit: the policy does not matter */
    free(distance);
    em_reuse_done(&r);
}
END_TEST

/* Bounded memory, and figures that are near those of all asks. */
START_TEST(a_sample_stands_for_all)
{
    static const uint64_t n_rows[] = {4000, 10000, 20000, 40000};
    uint32_t *of_all, *of_some;
    double share_all, share_some;
    uint64_t seed = test_seed(3), n = 300000, n_unique[2] = {0, 0};
    em_reuse all = {.max = n}, some = {.max = 20000};
    fill(&all, seed, n, 100000);
    fill(&some, seed, n, 100000);
    ck_assert_uint_eq(all.n, n);
    ck_assert_uint_le(some.cap, some.max);
    ck_assert_uint_ge(some.shift, 4);
    ck_assert_int_eq(em_reuse_distances(&all, &of_all), 0);
    ck_assert_int_eq(em_reuse_distances(&some, &of_some), 0);
    for (size_t i = 0; i < sizeof(n_rows) / sizeof(*n_rows); i++) {
        ck_assert_uint_ge(n_rows[i], em_reuse_least_rows(&some));
        ck_assert_double_eq_tol(em_reuse_lru_hits(&some, of_some, n_rows[i]),
                                em_reuse_lru_hits(&all, of_all, n_rows[i]), 0.03);
        ck_assert_int_eq(em_reuse_cache_hits(&all, n_rows[i], &share_all), 0);
        ck_assert_int_eq(em_reuse_cache_hits(&some, n_rows[i], &share_some), 0);
        ck_assert_double_eq_tol(share_some, share_all, 0.03);
    }
    for (size_t i = 0; i < all.n; i++)
        n_unique[0] += of_all[i] == EM_REUSE_FIRST;
    for (size_t i = 0; i < some.n; i++)
        n_unique[1] += of_some[i] == EM_REUSE_FIRST;
    ck_assert_double_eq_tol((double)(n_unique[1] << some.shift) / (double)n_unique[0], 1, 0.1);
    free(of_all);
    free(of_some);
    em_reuse_done(&all);
    em_reuse_done(&some);
}
END_TEST

/* One key that fills the room by itself: what is kept stays bounded all the same. */
START_TEST(a_single_busy_key)
{
    em_reuse r = {.max = 100};
    for (int i = 0; i < 100000; i++)
        ck_assert_int_eq(em_reuse_add(&r, 7), 0);
    ck_assert_uint_le(r.n, 100);
    ck_assert_uint_eq(r.n_asked, 100000);
    em_reuse_done(&r);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reuse");
    TCase *t = tcase_create("reuse");
    tcase_add_loop_test(t, distances_are_what_they_say, 0, 6);
    tcase_add_test(t, nothing_asked);
    tcase_add_test(t, shares_are_those_of_caches_that_run);
    tcase_add_test(t, a_sample_stands_for_all);
    tcase_add_test(t, a_single_busy_key);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
