/* kerncheck: every kernel of every tier this machine has, compared with the plain C; or timed. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/kernels/kerncheck.h"
#include "tests/support/read_rate.h"

static const struct {
    const char *name;
    void (*run)(check *c);
    bool alone; /* means something for the plain C too */
} checks[] = {
    {"gemm", check_gemm, true},         {"gemm_bits", check_gemm_bits, true},
    {"gemm_nan", check_gemm_nan, true}, {"row_f32", check_row_f32, false},
    {"dot", check_dot, false},          {"axpy", check_axpy, false},
    {"add_rows", check_add_rows, true}, {"scale_mul", check_scale_mul, true},
    {"swiglu", check_swiglu, false},    {"exp_sum", check_exp_sum, true},
    {"max", check_max, false},          {"enc", check_enc, true},
    {"dec", check_dec, true},
};

enum { N_TIERS = 3 };

/* The tables to check; returns how many the machine can run. */
static int tiers(em_kernels tables[N_TIERS])
{
    static const unsigned flags[N_TIERS] = {0, EM_CPU_AVX2, EM_CPU_AVX2 | EM_CPU_AVX512};
    int n = 0;
    for (int i = 0; i < N_TIERS; i++) {
        if ((em_cpu_flags() & flags[i]) != flags[i]) {
            printf("(this machine lacks flags %#x)\n", flags[i]);
            continue;
        }
        em_kernels_init(&tables[n], flags[i]);
        if (n == 0 || strcmp(tables[n].name, tables[n - 1].name) != 0) /* a build without tiers repeats itself */
            n++;
    }
    return n;
}

static int run_checks(const em_kernels *tables, int n_tables, uint64_t seed, const char *filter)
{
    int n_failed = 0, n_run = 0;
    for (int t = 0; t < n_tables; t++)
        for (size_t i = 0; i < sizeof(checks) / sizeof(*checks); i++) {
            if (!strstr(checks[i].name, filter) || (t == 0 && !checks[i].alone))
                continue;
            /* each check has its own stream, so that --filter repeats what a full run did */
            check c = {.ref = &tables[0], .tier = &tables[t], .rng = seed + i * 1000003, .where = checks[i].name};
            checks[i].run(&c);
            printf("%-7s %-10s %9d compared, %d failed\n", tables[t].name, checks[i].name, c.n_compared, c.n_failed);
            n_failed += c.n_failed;
            n_run++;
        }
    if (n_run == 0)
        printf("no check has \"%s\" in its name\n", filter);
    return n_run && !n_failed ? 0 : 1;
}

static int run_bench(const em_kernels *tables, int n_tables, const char *filter)
{
    enum { READ_BYTES = 1 << 30, ROUNDS = 5 };
    void *data = huge_alloc(READ_BYTES);
    em_pool *pool = NULL;
    double rates[ROUNDS];
    if (!data || em_pool_new(1, &pool) < 0) {
        fprintf(stderr, "kerncheck: no memory for the benchmark\n");
        free(data);
        return 1;
    }
    for (int i = 0; i < ROUNDS; i++)
        rates[i] = read_rate_once(pool, data, READ_BYTES);
    double rate = median_of(rates, ROUNDS);
    printf("one thread reads %.2f GB/s\n", rate / 1e9);
    for (int t = 0; t < n_tables; t++)
        bench_kernels(&tables[t], filter, rate);
    em_pool_free(pool);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"seed", 1, 0, 's'}, {"filter", 1, 0, 'f'}, {"bench", 0, 0, 'b'}, {0}};
    const char *env = getenv("ENGRAMD_TEST_SEED");
    uint64_t seed = env && *env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);
    const char *filter = "";
    bool bench = false;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (o == 's')
            seed = strtoull(optarg, NULL, 0);
        else if (o == 'f')
            filter = optarg;
        else if (o == 'b')
            bench = true;
        else {
            fprintf(stderr, "usage: kerncheck [--seed N] [--filter NAME] [--bench]\n");
            return 2;
        }
    }
    em_kernels tables[N_TIERS];
    int n = tiers(tables);
    if (bench)
        return run_bench(tables, n, filter);
    printf("seed %llu\n", (unsigned long long)seed);
    return run_checks(tables, n, seed, filter);
}
