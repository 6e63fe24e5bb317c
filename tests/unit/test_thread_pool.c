/* The pool: every item once, whoever is asleep; no CPU time while idle; fewer CPUs than threads; what the control
 * groups grant. */
#include <check.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/cpu/cpu_count.h"
#include "engine/cpu/thread_pool.h"

enum { MAX_ITEMS = 5000, MAX_WORKERS = 64 };

/* One job, on the stack of the caller: a worker that came too late would find it overwritten. */
typedef struct job {
    int64_t n_items;
    int n_workers;
    int times[MAX_ITEMS];           /* plain: each item has one writer */
    int by_worker[MAX_WORKERS];     /* plain: each worker has its own */
    atomic_int inside[MAX_WORKERS]; /* whether the worker is in an item */
    atomic_int wrong;
} job;

static void count_item(void *ctx, int64_t item, int worker)
{
    job *j = ctx;
    if (item < 0 || item >= j->n_items || worker < 0 || worker >= j->n_workers) {
        atomic_store(&j->wrong, 1);
        return;
    }
    if (atomic_exchange(&j->inside[worker], 1))
        atomic_store(&j->wrong, 1);
    j->times[item]++;
    j->by_worker[worker]++;
    atomic_store(&j->inside[worker], 0);
}

static void run_and_check(em_pool *pool, int64_t n_items)
{
    static job j;
    memset(&j, 0, sizeof(j));
    j.n_items = n_items;
    j.n_workers = em_pool_threads(pool);
    em_pool_run(pool, count_item, &j, n_items);
    ck_assert(!atomic_load(&j.wrong));
    int64_t sum = 0;
    for (int64_t i = 0; i < n_items; i++)
        ck_assert_int_eq(j.times[i], 1);
    for (int w = 0; w < j.n_workers; w++)
        sum += j.by_worker[w];
    ck_assert_int_eq(sum, n_items);
}

START_TEST(every_item_once)
{
    static const int threads[] = {1, 2, 3, 8, 33};
    em_pool *pool;
    ck_assert_int_eq(em_pool_new(threads[_i], &pool), 0);
    ck_assert_int_eq(em_pool_threads(pool), threads[_i]);
    for (int64_t n = 0; n < 200; n++)
        run_and_check(pool, n);
    run_and_check(pool, MAX_ITEMS);
    ck_assert_ptr_null(em_pool_free(pool));
}
END_TEST

/* Jobs of all sizes with pauses of all lengths between them: workers that spin, fall asleep, sleep, wake late. */
START_TEST(pauses)
{
    em_pool *pool;
    ck_assert_int_eq(em_pool_new(4, &pool), 0);
    for (int i = 0; i < 300; i++) {
        run_and_check(pool, 1 + i * 7 % 40);
        if (i % 3 == 0)
            usleep((useconds_t)(i % 10 * 20));
    }
    em_pool_free(pool);
}
END_TEST

static void nothing(void *ctx, int64_t item, int worker)
{
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

START_TEST(idle_costs_nothing)
{
    em_pool *pool;
    ck_assert_int_eq(em_pool_new(2, &pool), 0);
    em_pool_run(pool, nothing, NULL, 100);
    usleep(50000);
    double before = cpu_seconds();
    usleep(300000);
    ck_assert_double_lt(cpu_seconds() - before, 0.1);
    em_pool_free(pool);
}
END_TEST

/* Eight threads on one CPU: jobs must not wait for workers that the system does not run. */
START_TEST(one_cpu)
{
    cpu_set_t all, one;
    ck_assert_int_eq(sched_getaffinity(0, sizeof(all), &all), 0);
    CPU_ZERO(&one);
    for (int c = 0; c < CPU_SETSIZE && CPU_COUNT(&one) == 0; c++)
        if (CPU_ISSET(c, &all))
            CPU_SET(c, &one);
    ck_assert_int_eq(sched_setaffinity(0, sizeof(one), &one), 0);
    ck_assert_int_eq(em_cpu_count(), 1);
    em_pool *pool;
    ck_assert_int_eq(em_pool_new(8, &pool), 0);
    uint64_t start = em_now_ns();
    for (int i = 0; i < 2000; i++)
        em_pool_run(pool, nothing, NULL, 16);
    double seconds = (double)(em_now_ns() - start) * 1e-9;
    printf("2000 jobs of 8 threads on one CPU: %.3f s\n", seconds);
    ck_assert_double_lt(seconds, 10); /* a collapse takes a scheduler slice a job: minutes */
    em_pool_free(pool);
    ck_assert_int_eq(sched_setaffinity(0, sizeof(all), &all), 0);
}
END_TEST

START_TEST(free_null)
{
    ck_assert_ptr_null(em_pool_free(NULL));
}
END_TEST

/* ---- control groups, in a folder of our own ---- */

static char root[] = "/tmp/engramd-cgroup-XXXXXX";

static void write_file(const char *rel, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", root, rel);
    for (char *p = path + strlen(root) + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0700);
            *p = '/';
        }
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

static double cpus(const char *cgroup_text)
{
    char file[512], mount[512];
    write_file("self", cgroup_text);
    snprintf(file, sizeof(file), "%s/self", root);
    snprintf(mount, sizeof(mount), "%s/sys", root);
    return em_cgroup_cpus(file, mount);
}

static void make_root(void)
{
    strcpy(root + strlen(root) - 6, "XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
}

static void remove_root(void)
{
    char cmd[64];
    snprintf(cmd, sizeof(cmd), "rm -r %s", root);
    ck_assert_int_eq(system(cmd), 0);
}

START_TEST(cgroup_v2)
{
    write_file("sys/cgroup.procs", "");
    write_file("sys/a/cpu.max", "400000 100000\n");
    write_file("sys/a/b/cpu.max", "max 100000\n");
    write_file("sys/a/c/cpu.max", "150000 100000\n");
    write_file("sys/d/cpu.max", "rubbish\n");
    write_file("sys/e/cpu.max", "-5 0\n");
    ck_assert_double_eq(cpus("0::/\n"), 0);
    ck_assert_double_eq(cpus("0::/a\n"), 4);
    ck_assert_double_eq(cpus("0::/a/b\n"), 4); /* from the parent */
    ck_assert_double_eq(cpus("0::/a/c\n"), 1.5);
    ck_assert_double_eq(cpus("0::/a/gone\n"), 4); /* not visible here */
    ck_assert_double_eq(cpus("0::/d\n"), 0);
    ck_assert_double_eq(cpus("0::/e\n"), 0);
    write_file("sys/cpu.max", "50000 100000\n"); /* as in a container that sees its own group as the root */
    ck_assert_double_eq(cpus("0::/\n"), 0.5);
    ck_assert_double_eq(cpus("0::/../../x\n"), 0.5);
    ck_assert_double_eq(cpus("nonsense\n"), 0);
    ck_assert_double_eq(cpus(""), 0);
}
END_TEST

START_TEST(cgroup_v1)
{
    write_file("sys/cpu,cpuacct/docker/cpu.cfs_quota_us", "250000\n");
    write_file("sys/cpu,cpuacct/docker/cpu.cfs_period_us", "100000\n");
    write_file("sys/cpu/slice/cpu.cfs_quota_us", "-1\n");
    write_file("sys/cpu/slice/cpu.cfs_period_us", "100000\n");
    write_file("sys/cpu/slice/low/cpu.cfs_quota_us", "70000\n");
    write_file("sys/cpu/slice/low/cpu.cfs_period_us", "100000\n");
    ck_assert_double_eq(cpus("11:memory:/docker\n4:cpu,cpuacct:/docker\n"), 2.5);
    ck_assert_double_eq(cpus("4:cpuset:/docker\n"), 0);
    ck_assert_double_eq(cpus("4:cpu,cpuacct:/slice\n"), 0);
    ck_assert_double_eq(cpus("4:cpuacct,cpu:/slice/low\n"), 0.7); /* found under the plain name */
}
END_TEST

START_TEST(count_is_sane)
{
    cpu_set_t all;
    ck_assert_int_eq(sched_getaffinity(0, sizeof(all), &all), 0);
    ck_assert_int_ge(em_cpu_count(), 1);
    ck_assert_int_le(em_cpu_count(), CPU_COUNT(&all));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("thread-pool");
    TCase *t = tcase_create("pool");
    tcase_add_loop_test(t, every_item_once, 0, 5);
    tcase_add_test(t, pauses);
    tcase_add_test(t, idle_costs_nothing);
    tcase_add_test(t, one_cpu);
    tcase_add_test(t, free_null);
    tcase_add_test(t, count_is_sane);
    suite_add_tcase(s, t);
    TCase *c = tcase_create("cgroup");
    tcase_add_checked_fixture(c, make_root, remove_root);
    tcase_add_test(c, cgroup_v2);
    tcase_add_test(c, cgroup_v1);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
