/* The checksum mode: in each tier a row that is not the file's fails its ticket, and nothing else does. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/fixtures.h"
#include "tests/unit/engram_rig.h"

static const em_engram_tier tier[] = {EM_ENGRAM_TIER_RAM, EM_ENGRAM_TIER_MMAP, EM_ENGRAM_TIER_SHARED,
                                      EM_ENGRAM_TIER_NVME};

enum { N_TIERS = sizeof tier / sizeof *tier, MAX_TOKENS = 60 };

static char dir[] = "/tmp/engram-verify-XXXXXX";

static em_engram_opts verify_opts(int i)
{
    return (em_engram_opts){.tier = tier[i],
                            .max_tokens = MAX_TOKENS,
                            .max_tickets = 2,
                            .shared_dir = dir,
                            .cache_bytes = 50000000,
                            .verify = true};
}

/* Takes all tables of an ask: which of them fail, as bits; each failure must be a wrong row. */
static unsigned failed_tables(const model *m, em_engram *g, const int32_t *suffix, int32_t n)
{
    em_engram_ticket *ticket;
    unsigned failed = 0;
    ck_assert_int_eq(em_engram_ask(g, suffix, n, &ticket), 0);
    for (int32_t t = 0; t < m->spec.n_tables; t++) {
        em_engram_rows rows;
        int rc = em_engram_take(ticket, t, &rows), n_lost = 0;
        ck_assert(rc == 0 || rc == -EBADMSG);
        for (int32_t i = 0; i < n; i++)
            n_lost += rows.token_flags[i] & EM_ENGRAM_ROW_LOST ? 1 : 0;
        ck_assert((n_lost > 0) == (rc != 0));
        failed |= (unsigned)(rc != 0) << t;
    }
    em_engram_release(ticket);
    return failed;
}

/* Changes one byte of a row, or of its scales, in the file. */
static void spoil_row(const model *m, int32_t table_idx, int64_t row, bool scales, em_pcg64 *rng)
{
    const em_engram_source *source = &m->spec.table[table_idx];
    size_t bytes = scales ? m->scale_bytes : m->row_bytes;
    uint64_t at = (scales ? source->scales_offset : source->codes_offset) + (uint64_t)row * bytes + below(rng, bytes);
    uint8_t v;
    ck_assert_int_eq(pread(m->fd, &v, 1, (off_t)at), 1);
    v ^= 1;
    ck_assert_int_eq(pwrite(m->fd, &v, 1, (off_t)at), 1);
}

START_TEST(a_row_that_is_not_the_files_is_found)
{
    em_pcg64 rng;
    char command[100];
    em_pcg64_seed(&rng, test_seed(1) + (unsigned)_i);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    for (int round = 0; round < 12; round++) {
        model m = make_model(&rng, round & 1 ? EM_ENGRAM_FP8 : EM_ENGRAM_INT8, 2, 96, 200);
        em_engram_opts opts = verify_opts(_i);
        em_engram_stats stats;
        int32_t suffix[MAX_TOKENS * EM_ENGRAM_MAX_ORDER], table_idx = (int32_t)below(&rng, 2);
        int32_t n = 1 + (int32_t)below(&rng, round & 4 ? MAX_TOKENS : 3), at = (int32_t)below(&rng, (uint64_t)n);
        int64_t row[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS];
        put_in_file(&m, "/tmp");
        em_engram *g = open_model(&m, &opts);
        const em_engram_hash *hash = em_engram_table_hash(g, table_idx);
        check_asks(&m, g, &rng, 10, MAX_TOKENS);
        random_suffix(&m, &rng, n, suffix);
        ck_assert_uint_eq(failed_tables(&m, g, suffix, n), 0); /* now they are in the nvme tier's cache, too */

        em_engram_row_ids(hash, suffix + at * hash->max_order, row);
        spoil_row(&m, table_idx, row[below(&rng, (uint64_t)hash->n_cols)], round & 2, &rng);
        ck_assert_uint_eq(failed_tables(&m, g, suffix, n), 1u << table_idx);
        em_engram_get_stats(g, &stats);
        ck_assert_uint_eq(stats.failed, 1);
        ck_assert_uint_ge(stats.rows_wrong, 1);
        ck_assert_uint_eq(stats.rows_verified, stats.rows);
        ck_assert_uint_eq(stats.read_errors, 0);
        em_engram_close(g);
        free_model(&m);
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(without_a_file_there_is_nothing_to_compare_with)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(2));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 32, 50);
    em_engram_opts opts = verify_opts(0);
    em_engram *g = NULL;
    char err[200] = "";
    put_in_file(&m, "/tmp");
    m.spec.table[1].scales_fd = 0;
    ck_assert_int_eq(em_engram_open(&m.spec, &opts, &g, err, sizeof err), -EINVAL);
    ck_assert_msg(strstr(err, "file of the table of layer 4") != NULL, "%s", err);
    ck_assert_ptr_null(g);
    free_model(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engram-verify");
    TCase *t = tcase_create("verify");
    tcase_add_loop_test(t, a_row_that_is_not_the_files_is_found, 0, N_TIERS);
    tcase_add_test(t, without_a_file_there_is_nothing_to_compare_with);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
