/* KV bookkeeping against a model of itself under random operations. */
#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/kv_cache.h"
#include "tests/support/fixtures.h"

enum { N_SLOTS = 7, N_BLOCKS = 40, BLOCK_TOKENS = 16 };

/* What is wrong, or NULL: no block and no slot in two hands, and none lost. Plain tests, because an assertion of Check
 * costs a system call. */
static const char *broken_invariant(const em_kv_cache *c, const em_seq_kv *kv, const bool *open, int n)
{
    bool block_used[N_BLOCKS] = {false}, slot_used[N_SLOTS] = {false};
    int n_blocks = 0, n_slots = 0;
    for (int i = 0; i < n; i++) {
        if (!open[i]) {
            if (kv[i].slot != -1)
                return "a closed sequence has a slot";
            continue;
        }
        if (kv[i].slot < 0 || kv[i].slot >= N_SLOTS || slot_used[kv[i].slot])
            return "a slot is out of range or has two owners";
        slot_used[kv[i].slot] = true;
        n_slots++;
        if (kv[i].n_blocks > kv[i].cap_blocks)
            return "a block table is longer than its room";
        for (int b = 0; b < kv[i].n_blocks; b++) {
            int32_t id = kv[i].block_table[b];
            if (id < 0 || id >= N_BLOCKS || block_used[id])
                return "a block is out of range or has two owners";
            block_used[id] = true;
            n_blocks++;
        }
    }
    if (em_kv_cache_free_slots(c) != N_SLOTS - n_slots)
        return "a slot was lost";
    return em_kv_cache_free_blocks(c) == N_BLOCKS - n_blocks ? NULL : "a block was lost";
}

START_TEST(random_operations)
{
    unsigned long long seed = test_seed(3);
    enum { N = N_SLOTS + 2 };
    em_kv_cache *c;
    ck_assert_int_eq(em_kv_cache_new(N_SLOTS, N_BLOCKS, BLOCK_TOKENS, &c), 0);
    em_seq_kv kv[N];
    bool open[N] = {false};
    for (int i = 0; i < N; i++)
        kv[i] = (em_seq_kv){.slot = -1};
    int n_full = 0, n_no_slot = 0;
    for (int op = 0; op < 8000; op++) {
        uint64_t r = em_rng_u64(seed, 0, (uint64_t)op, 0);
        int i = (int)(r % N);
        if (!open[i]) {
            int free_slots = em_kv_cache_free_slots(c);
            int rc = em_seq_kv_open(c, &kv[i]);
            ck_assert_int_eq(rc, free_slots ? 0 : -EAGAIN);
            open[i] = !rc;
            n_no_slot += rc != 0;
        } else if (r >> 8 & 3) {
            int32_t n_tokens = (int32_t)((r >> 16) % (20 * BLOCK_TOKENS)), had = kv[i].n_blocks;
            int32_t want = em_kv_cache_blocks_for(c, n_tokens), free_blocks = em_kv_cache_free_blocks(c);
            int rc = em_seq_kv_reserve(c, &kv[i], n_tokens);
            ck_assert_int_eq(rc, want - had > free_blocks ? -EAGAIN : 0);
            ck_assert_int_eq(kv[i].n_blocks, rc || want < had ? had : want);
            n_full += rc != 0;
        } else {
            em_seq_kv_close(c, &kv[i]);
            open[i] = false;
        }
        const char *broken = broken_invariant(c, kv, open, N);
        ck_assert_msg(!broken, "after operation %d: %s", op, broken);
    }
    ck_assert_int_gt(n_full, 50); /* the interesting cases were met */
    ck_assert_int_gt(n_no_slot, 50);
    for (int i = 0; i < N; i++)
        em_seq_kv_close(c, &kv[i]);
    ck_assert_int_eq(em_kv_cache_free_slots(c), N_SLOTS);
    ck_assert_int_eq(em_kv_cache_free_blocks(c), N_BLOCKS);
    ck_assert_ptr_null(em_kv_cache_free(c));
}
END_TEST

START_TEST(growing_keeps_the_table)
{
    em_kv_cache *c;
    ck_assert_int_eq(em_kv_cache_new(1, 1000, 4, &c), 0);
    em_seq_kv kv;
    ck_assert_int_eq(em_seq_kv_open(c, &kv), 0);
    int32_t seen[1000];
    for (int32_t n = 1; n <= 4000; n++) {
        ck_assert_int_eq(em_seq_kv_reserve(c, &kv, n), 0);
        ck_assert_int_eq(kv.n_blocks, (n + 3) / 4);
        seen[kv.n_blocks - 1] = kv.block_table[kv.n_blocks - 1];
        ck_assert_mem_eq(seen, kv.block_table, (size_t)kv.n_blocks * sizeof(*seen));
    }
    ck_assert_int_eq(em_seq_kv_reserve(c, &kv, 4001), -EAGAIN);
    ck_assert_int_eq(kv.n_blocks, 1000);
    em_seq_kv_close(c, &kv);
    em_kv_cache_free(c);
}
END_TEST

START_TEST(sizes)
{
    em_kv_cache *c = NULL;
    ck_assert_int_eq(em_kv_cache_new(0, 1, 1, &c), -EINVAL);
    ck_assert_int_eq(em_kv_cache_new(1, 0, 1, &c), -EINVAL);
    ck_assert_int_eq(em_kv_cache_new(1, 1, 0, &c), -EINVAL);
    ck_assert_ptr_null(c);
    ck_assert_int_eq(em_kv_cache_new(2, 3, 8, &c), 0);
    ck_assert_int_eq(em_kv_cache_blocks(c), 3);
    ck_assert_int_eq(em_kv_cache_block_tokens(c), 8);
    ck_assert_int_eq(em_kv_cache_blocks_for(c, 0), 0);
    ck_assert_int_eq(em_kv_cache_blocks_for(c, 1), 1);
    ck_assert_int_eq(em_kv_cache_blocks_for(c, 8), 1);
    ck_assert_int_eq(em_kv_cache_blocks_for(c, 9), 2);
    ck_assert_int_eq(em_kv_cache_blocks_for(c, INT32_MAX), 1 << 28);
    em_seq_kv never_opened;
    memset(&never_opened, 0, sizeof(never_opened));
    em_seq_kv_close(c, &never_opened);
    em_seq_kv_close(c, &never_opened);
    ck_assert_int_eq(em_kv_cache_free_slots(c), 2);
    em_kv_cache_free(c);
    ck_assert_ptr_null(em_kv_cache_free(NULL));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kv_cache");
    TCase *t = tcase_create("bookkeeping");
    tcase_add_test(t, random_operations);
    tcase_add_test(t, growing_keeps_the_table);
    tcase_add_test(t, sizes);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
