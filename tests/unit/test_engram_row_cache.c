/* The row cache: a row found is the row put in, memory is bounded, and a scan does not push out what is in use. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engram/pcg64.h"
#include "engram/row_cache.h"
#include "tests/support/fixtures.h"

enum { ROW_BYTES = 24 };

static const uint8_t *row_of(uint64_t key)
{
    static uint8_t row[ROW_BYTES];
    for (size_t i = 0; i < ROW_BYTES; i++)
        row[i] = (uint8_t)(key * 31 + i * 7);
    return row;
}

/* As a reader does: looked for, and put in when it was not there. */
static bool use(em_row_cache *cache, uint64_t key)
{
    uint8_t row[ROW_BYTES];
    if (em_row_cache_get(cache, key, row)) {
        ck_assert_mem_eq(row, row_of(key), ROW_BYTES);
        return true;
    }
    em_row_cache_put(cache, key, row_of(key));
    return false;
}

static void open_cache(em_row_cache *cache, uint32_t n_entries)
{
    uint64_t bytes = 0;
    while (em_row_cache_rows(ROW_BYTES, bytes) < n_entries) /* the smallest size that gives so many */
        bytes++;
    ck_assert_int_eq(em_row_cache_open(cache, ROW_BYTES, em_row_cache_rows(ROW_BYTES, bytes)), 0);
    ck_assert_uint_eq(cache->n_entries, n_entries);
    ck_assert_uint_eq(em_row_cache_bytes(cache), bytes);
}

START_TEST(what_is_found_is_what_was_put_in)
{
    static const uint32_t size[] = {1, 2, 3, 9, 10, 11, 64, 500};
    em_row_cache cache;
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(1) + (unsigned)_i);
    open_cache(&cache, size[_i]);
    uint64_t n_hits = 0;
    for (int i = 0; i < 200000; i++) {
        uint64_t range = 1 + em_pcg64_below(&rng, 3 * (uint64_t)size[_i]);
        uint64_t key = em_pcg64_below(&rng, range) << em_pcg64_below(&rng, 3) * 29;
        n_hits += use(&cache, key);
        if (em_pcg64_below(&rng, 10) == 0)
            em_row_cache_put(&cache, key, row_of(key)); /* twice, as two threads may */
    }
    ck_assert_uint_gt(n_hits, 1000);
    ck_assert_uint_eq(cache.fresh.n + cache.kept.n, cache.n_entries);
    em_row_cache_close(&cache);
}
END_TEST

START_TEST(all_rows_stay_while_there_is_room)
{
    em_row_cache cache;
    open_cache(&cache, 1000);
    for (uint64_t key = 0; key < cache.n_entries; key++)
        ck_assert(!use(&cache, key * 977));
    for (uint64_t key = 0; key < cache.n_entries; key++)
        ck_assert(use(&cache, key * 977));
    em_row_cache_close(&cache);
}
END_TEST

/* A working set of half the cache, then ten times the cache of rows that are met once. */
START_TEST(a_scan_pushes_out_nothing_in_use)
{
    enum { SIZE = 1000, HOT = 500 };
    em_row_cache cache;
    int n_there = 0;
    open_cache(&cache, SIZE);
    for (int round = 0; round < 3; round++)
        for (uint64_t key = 0; key < HOT; key++)
            use(&cache, key);
    for (uint64_t key = 0; key < 10 * SIZE; key++) {
        use(&cache, 1000000 + key);
        if (key % 20 == 0)
            use(&cache, key / 20 % HOT); /* used on, once in twenty */
    }
    for (uint64_t key = 0; key < HOT; key++)
        n_there += use(&cache, key);
    ck_assert_int_ge(n_there, HOT * 95 / 100); /* of a plain queue or a least-recently-used list none would be */
    em_row_cache_close(&cache);
}
END_TEST

/* What was in use long ago makes room. */
START_TEST(a_new_working_set_gets_in)
{
    enum { SIZE = 1000 };
    em_row_cache cache;
    int n_there = 0;
    open_cache(&cache, SIZE);
    for (uint64_t set = 0; set < 2; set++)
        for (int round = 0; round < 10; round++)
            for (uint64_t key = 0; key < SIZE / 2; key++)
                use(&cache, set * 100000 + key);
    for (uint64_t key = 0; key < SIZE / 2; key++)
        n_there += use(&cache, 100000 + key);
    ck_assert_int_eq(n_there, SIZE / 2);
    em_row_cache_close(&cache);
}
END_TEST

START_TEST(no_memory_no_cache)
{
    em_row_cache cache;
    uint8_t row[ROW_BYTES];
    ck_assert_int_eq(em_row_cache_open(&cache, ROW_BYTES, em_row_cache_rows(ROW_BYTES, 5)), 0);
    em_row_cache_put(&cache, 1, row_of(1));
    ck_assert(!em_row_cache_get(&cache, 1, row));
    ck_assert_uint_eq(em_row_cache_bytes(&cache), 0);
    em_row_cache_close(&cache);
    ck_assert_int_eq(em_row_cache_open(&cache, ROW_BYTES, UINT64_MAX), -ENOMEM);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engram-row-cache");
    TCase *t = tcase_create("row cache");
    tcase_add_loop_test(t, what_is_found_is_what_was_put_in, 0, 8);
    tcase_add_test(t, all_rows_stay_while_there_is_room);
    tcase_add_test(t, a_scan_pushes_out_nothing_in_use);
    tcase_add_test(t, a_new_working_set_gets_in);
    tcase_add_test(t, no_memory_no_cache);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
