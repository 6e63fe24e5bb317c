/* Nanoseconds of a core for the row ids of a token in one table of the released shape (24 rows of buckets with 16 million),
 * by instruction set and by tokens at a time.
 *
 *   bench_hash [--rounds N] [--seed N]
 *
 * Rounds are interleaved, medians are reported; all instruction sets' rows were found equal before. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engram/pcg64.h"
#include "engram/row_ids.h"

enum { DEPTH = 4, HEADS = 8, COLS = (DEPTH - 1) * HEADS, TOKENS = 64, MAX_ROUNDS = 99, TOKENS_PER_ROUND = 40000 };

static const char *const tier_name[EM_N_ROW_IDS_TIERS] = {"c", "avx2", "avx512"};

typedef struct bench {
    em_engram_hash hash;
    em_row_hasher hasher;
    em_row_ids_fn fn[EM_N_ROW_IDS_TIERS];
    int32_t suffix[TOKENS * DEPTH];
    int64_t row_id[TOKENS * COLS];
} bench;

static void die(const char *what)
{
    fprintf(stderr, "bench_hash: %s\n", what);
    exit(1);
}

static double cpu_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void prepare(bench *b, uint64_t seed)
{
    em_engram_spec spec = {.n_tables = 1,
                           .dtype = EM_ENGRAM_FP8,
                           .max_order = DEPTH,
                           .n_heads = HEADS,
                           .head_dim = 256,
                           .prime_start = 16000000,
                           .n_classes = 99092,
                           .pad_class = 2};
    char err[256];
    em_pcg64 rng;
    spec.table[0] = (em_engram_source){.layer = 1, .n_rows = INT64_MAX};
    if (em_engram_hash_init(&spec, &b->hash, err, sizeof err))
        die(err);
    em_row_hasher_init(&b->hasher, &b->hash);
    em_row_ids_tiers(b->fn);
    em_pcg64_seed(&rng, seed);
    for (int i = 0; i < TOKENS * DEPTH; i++)
        b->suffix[i] = (int32_t)em_pcg64_below(&rng, (uint64_t)spec.n_classes);
}

static void check_rows(bench *b)
{
    static int64_t want[TOKENS * COLS];
    b->fn[EM_ROW_IDS_C](&b->hasher, b->suffix, TOKENS, want);
    for (int tier = 0; tier < EM_N_ROW_IDS_TIERS; tier++)
        if (b->fn[tier]) {
            b->fn[tier](&b->hasher, b->suffix, TOKENS, b->row_id);
            if (memcmp(want, b->row_id, sizeof want) != 0)
                die("the instruction sets disagree");
        }
}

static double run(bench *b, em_row_ids_fn fn, size_t n_tokens)
{
    double begin = cpu_ns();
    for (size_t done = 0; done < TOKENS_PER_ROUND; done += n_tokens) {
        fn(&b->hasher, b->suffix, n_tokens, b->row_id);
        __asm__ volatile("" ::"r"(b->row_id) : "memory"); /* the rows are wanted */
    }
    return (cpu_ns() - begin) / TOKENS_PER_ROUND;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(bench *b, size_t n_tokens, size_t rounds)
{
    static double ns[EM_N_ROW_IDS_TIERS][MAX_ROUNDS];
    for (size_t round = 0; round < rounds; round++)
        for (int tier = 0; tier < EM_N_ROW_IDS_TIERS; tier++)
            if (b->fn[tier])
                ns[tier][round] = run(b, b->fn[tier], n_tokens);
    for (int tier = 0; tier < EM_N_ROW_IDS_TIERS; tier++)
        if (b->fn[tier]) {
            qsort(ns[tier], rounds, sizeof ns[tier][0], by_value);
            printf("%3zu tokens at a time  %-7s %6.2f ns per token and table\n", n_tokens, tier_name[tier],
                   ns[tier][rounds / 2]);
        }
}

int main(int argc, char **argv)
{
    static const size_t n_tokens[] = {1, 2, 4, 8, TOKENS};
    static bench b;
    unsigned long rounds = 21, seed = 1;
    for (int i = 1; i < argc; i++) {
        unsigned long *number = !strcmp(argv[i], "--rounds") ? &rounds : !strcmp(argv[i], "--seed") ? &seed : NULL;
        if (!number || i + 1 == argc)
            die("usage: bench_hash [--rounds N] [--seed N]");
        *number = strtoul(argv[++i], NULL, 0);
    }
    if (rounds < 1 || rounds > MAX_ROUNDS)
        die("1 to 99 rounds, please");
    fprintf(stderr, "seed %lu\n", seed);
    prepare(&b, seed);
    check_rows(&b);
    for (size_t i = 0; i < sizeof n_tokens / sizeof n_tokens[0]; i++)
        measure(&b, n_tokens[i], rounds);
    return 0;
}
