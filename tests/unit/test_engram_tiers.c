/* Where tables' memory comes from: locked, read ahead, spread over memory nodes; and what is said when that cannot be. The
 * linker puts __wrap_syscall in the way of the library's, so that a machine may have several nodes here. */
#include <check.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/mempolicy.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/support/fixtures.h"
#include "tests/unit/engram_rig.h"

/* --- a machine with memory nodes ----------------------------------------------------------------------------------- */

static unsigned long nodes; /* 0: the real ones */
static struct {
    int n_calls, mode;
    uintptr_t at;
    size_t bytes, all_bytes;
    unsigned long mask;
} bound;

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

long __wrap_syscall(long number, ...)
{
    long a[6];
    va_list args;
    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (nodes && number == SYS_get_mempolicy) {
        ck_assert_int_eq(a[4], MPOL_F_MEMS_ALLOWED);
        ck_assert_int_ge(a[2], 64);
        *(unsigned long *)a[1] = nodes;
        return 0;
    }
    if (number == SYS_mbind) {
        bound.n_calls++;
        bound.at = (uintptr_t)a[0];
        bound.bytes = (size_t)a[1];
        bound.all_bytes += bound.bytes;
        bound.mode = (int)a[2];
        bound.mask = *(unsigned long *)a[3];
        errno = EPERM; /* as in many containers: a wish, nothing depends on it */
        return -1;
    }
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

START_TEST(tables_are_spread_over_memory_nodes)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(1));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 1024, 8000);
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_RAM, .max_tokens = 20, .max_tickets = 1};
    nodes = _i ? 0x5 : 0x1;
    em_engram *g = open_model(&m, &opts);
    em_engram_table view;
    em_engram_table_view(g, 1, &view);
    if (_i) {
        ck_assert_int_ge(bound.n_calls, 2); /* at least the codes of both tables */
        ck_assert_int_eq(bound.mode, MPOL_INTERLEAVE);
        ck_assert_uint_eq(bound.mask, 0x5);
        ck_assert_uint_eq(bound.at % 4096, 0);
        ck_assert_uint_ge(bound.all_bytes, 2 * (size_t)view.n_rows * 900);
    } else {
        ck_assert_int_eq(bound.n_calls, 0);
    }
    check_asks(&m, g, &rng, 10, 20);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* --- locked memory ------------------------------------------------------------------------------------------------- */

/* As for a service without privileges. */
static void limit_locked_memory(rlim_t bytes)
{
    struct rlimit limit = {bytes, bytes};
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct caps[2];
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    ck_assert_int_eq(__real_syscall(SYS_capget, &head, caps), 0);
    caps[0].effective &= ~(1u << CAP_IPC_LOCK);
    ck_assert_int_eq(__real_syscall(SYS_capset, &head, caps), 0);
}

static uint64_t locked_bytes(void)
{
    char line[200];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f) && sscanf(line, "VmLck: %llu", &kib) != 1)
        ;
    fclose(f);
    return kib * 1024;
}

START_TEST(a_small_limit_is_named_in_a_sentence)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(2));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 256, 2000);
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_PINNED, .max_tokens = 20, .max_tickets = 1};
    em_engram *g = NULL;
    char err[300] = "";
    limit_locked_memory(64 << 10);
    int rc = em_engram_open(&m.spec, &opts, &g, err, sizeof err);
    ck_assert_msg(rc == -ENOMEM || rc == -EAGAIN, "%d", rc);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(err, "cannot be locked in memory") && strstr(err, " 65536 bytes (ulimit -l"), "%s", err);
    ck_assert_uint_eq(locked_bytes(), 0); /* nothing stays behind */
    opts.tier = EM_ENGRAM_TIER_RAM;       /* as the sentence advises */
    g = open_model(&m, &opts);
    check_asks(&m, g, &rng, 10, 20);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

START_TEST(pinned_tables_are_locked)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(3));
    model m = make_model(&rng, EM_ENGRAM_INT8, 2, 20, 100);
    while ((m.spec.table[0].n_rows + m.spec.table[1].n_rows) * 24 >
           2 << 20) { /* unprivileged processes may lock 8 MiB */
        free_model(&m);
        m = make_model(&rng, EM_ENGRAM_INT8, 2, 20, 100);
    }
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_PINNED, .max_tokens = 20, .max_tickets = 1};
    em_engram_stats stats;
    limit_locked_memory(4 << 20);
    em_engram *g = open_model(&m, &opts);
    em_engram_get_stats(g, &stats);
    ck_assert_int_eq(em_engram_tier_of(g), EM_ENGRAM_TIER_PINNED);
    ck_assert_uint_eq(stats.resident_bytes, stats.table_bytes);
    ck_assert_uint_ge(locked_bytes(), stats.table_bytes);
    check_asks(&m, g, &rng, 20, 20);
    em_engram_close(g);
    ck_assert_uint_eq(locked_bytes(), 0);
    free_model(&m);
}
END_TEST

/* --- page cache ---------------------------------------------------------------------------------------------------- */

static void count_progress(void *ctx, uint64_t done, uint64_t total)
{
    ck_assert_uint_le(done, total);
    *(uint64_t *)ctx = done;
}

START_TEST(a_mapping_is_read_ahead_where_asked)
{
    enum { ROWS = 100000 };
    char path[] = "/tmp/engram-test-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    unlink(path);
    ck_assert_int_eq(ftruncate(fd, (off_t)ROWS * 264), 0);
    uint8_t *map = mmap(NULL, (size_t)ROWS * 264, PROT_READ, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(map, MAP_FAILED);
    close(fd);
    em_engram_spec spec = {.n_tables = 1,
                           .dtype = EM_ENGRAM_FP8,
                           .max_order = 2,
                           .n_heads = 1,
                           .head_dim = 256,
                           .prime_start = 7,
                           .n_classes = 10};
    spec.table[0] = (em_engram_source){.layer = 1, .n_rows = ROWS, .codes = map, .scales = map + (size_t)ROWS * 256};
    uint64_t done = 0;
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_MMAP,
                           .max_tokens = 1,
                           .max_tickets = 1,
                           .prefault = _i,
                           .on_progress = count_progress,
                           .progress_ctx = &done};
    em_engram *g;
    em_engram_stats stats;
    ck_assert_int_eq(em_engram_open(&spec, &opts, &g, NULL, 0), 0);
    em_engram_get_stats(g, &stats);
    ck_assert_uint_eq(stats.resident_bytes, _i ? stats.table_bytes : 0);
    ck_assert_uint_eq(done, _i ? stats.table_bytes : 0);
    em_engram_close(g);
    munmap(map, (size_t)ROWS * 264);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engram-tiers");
    TCase *t = tcase_create("tiers");
    tcase_add_loop_test(t, tables_are_spread_over_memory_nodes, 0, 2);
    tcase_add_test(t, a_small_limit_is_named_in_a_sentence);
    tcase_add_test(t, pinned_tables_are_locked);
    tcase_add_loop_test(t, a_mapping_is_read_ahead_where_asked, 0, 2);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
