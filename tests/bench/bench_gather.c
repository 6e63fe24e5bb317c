/* Rows per second and core: the Engram service against a bare prefetching copy loop on the same table in the same run.
 *
 *   bench_gather [--table-mib N] [--rounds N] [--seed N] [--json]
 *
 * Everything runs on one core, the gather thread included, and on one copy of the table (the ram tier's), so the rates
 * compare. Rounds are interleaved; the median is reported, once the bytes of both were found equal. The source is a small
 * file mapped over and over, so that the table is in memory once. */
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "engram/engram.h"
#include "engram/pcg64.h"
#include "engram/row_ids.h"
#include "engram/rows.h"

enum {
    ROW_BYTES = 256,
    SCALE_BYTES = 8,
    ORDERS = 3,
    HEADS = 8,
    COLS = ORDERS * HEADS,
    TOKENS = 512,   /* of one ask: a chunk of a prompt */
    N_BATCHES = 64, /* asks of one pass, so that a pass reads 200 MB of table */
    MAX_ROUNDS = 99,
    DECODE_STEPS = 400,
};

typedef struct bench {
    em_engram_spec spec;
    em_row_hasher hasher;
    em_engram_table table;
    int32_t *suffix;         /* [N_BATCHES, TOKENS, 4] */
    int64_t *row_id;         /* [N_BATCHES, TOKENS, COLS] */
    uint8_t *codes, *scales; /* staging of one batch */
    em_engram *service;
} bench;

typedef enum measure {
    BARE,    /* prefetch, copy: nothing else */
    KERNEL,  /* the library's copy */
    SERVICE, /* ask, take, release: hashing, queue and thread included */
    HASH,    /* row ids alone */
    N_MEASURES,
} measure;

static const char *const measure_name[] = {"bare_loop", "kernel", "service", "hash"};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Of all threads: on one core what others do there does not count. */
static double cpu_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_gather: %s\n", what);
    exit(1);
}

static uint8_t *map_huge(size_t bytes)
{
    size_t huge = (size_t)2 << 20;
    uint8_t *p = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die("no memory for the table");
    p += -(uintptr_t)p & (huge - 1);
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* A span of address space in which the same few megabytes repeat. */
static uint8_t *map_pattern(size_t bytes)
{
    enum { PERIOD = 64 << 20 };
    size_t whole = (bytes + PERIOD - 1) / PERIOD * PERIOD;
    int fd = memfd_create("pattern", MFD_CLOEXEC);
    uint8_t *p = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fd < 0 || p == MAP_FAILED || ftruncate(fd, PERIOD))
        die("no memory for the source");
    for (size_t at = 0; at < whole; at += PERIOD)
        if (mmap(p + at, PERIOD, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
            die("no memory for the source");
    for (size_t i = 0; i < PERIOD; i++)
        p[i] = (uint8_t)(i / 64 * 2654435761u >> 13 ^ i); /* rows differ */
    close(fd);
    return p;
}

/* Handed to the ram tier, whose copy is the table from then on. */
static void open_table(bench *b, size_t table_bytes)
{
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_RAM, .max_tokens = TOKENS, .max_tickets = 2, .n_threads = 1};
    int64_t n_rows = (int64_t)(table_bytes / (ROW_BYTES + SCALE_BYTES));
    uint8_t *codes = map_pattern((size_t)n_rows * ROW_BYTES), *scales = map_pattern((size_t)n_rows * SCALE_BYTES);
    char err[256];
    b->spec = (em_engram_spec){.n_tables = 1,
                               .dtype = EM_ENGRAM_FP8,
                               .max_order = ORDERS + 1,
                               .n_heads = HEADS,
                               .head_dim = ROW_BYTES,
                               .prime_start = n_rows / COLS - 1000,
                               .n_classes = 99092,
                               .pad_class = 2};
    b->spec.table[0] = (em_engram_source){.layer = 1, .n_rows = n_rows, .codes = codes, .scales = scales};
    if (em_engram_open(&b->spec, &opts, &b->service, err, sizeof err))
        die(err);
    munmap(codes, (size_t)n_rows * ROW_BYTES);
    munmap(scales, (size_t)n_rows * SCALE_BYTES);
    em_engram_table_view(b->service, 0, &b->table);
    em_row_hasher_init(&b->hasher, em_engram_table_hash(b->service, 0));
}

static void make_asks(bench *b, uint64_t seed)
{
    size_t n = (size_t)N_BATCHES * TOKENS;
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    b->suffix = malloc(n * (ORDERS + 1) * sizeof *b->suffix);
    b->row_id = malloc(n * COLS * sizeof *b->row_id);
    b->codes = map_huge((size_t)TOKENS * COLS * ROW_BYTES);
    b->scales = map_huge((size_t)TOKENS * COLS * SCALE_BYTES);
    if (!b->suffix || !b->row_id)
        die("out of memory");
    for (size_t i = 0; i < n * (ORDERS + 1); i++)
        b->suffix[i] = (int32_t)em_pcg64_below(&rng, (uint64_t)b->spec.n_classes);
    em_row_hasher_run(&b->hasher, b->suffix, n, b->row_id);
}

/* The yardstick: what a loop with nothing to decide can do. */
static void bare_loop(const bench *b, const int64_t *row_id, size_t n)
{
    enum { DISTANCE = 16 };
    for (size_t i = 0; i < n; i++) {
        if (i + DISTANCE < n) {
            const uint8_t *ahead = b->table.codes + row_id[i + DISTANCE] * ROW_BYTES;
            for (int line = 0; line < ROW_BYTES; line += 64)
                __builtin_prefetch(ahead + line);
            __builtin_prefetch(b->table.scales + row_id[i + DISTANCE] * SCALE_BYTES);
        }
        memcpy(b->codes + i * ROW_BYTES, b->table.codes + row_id[i] * ROW_BYTES, ROW_BYTES);
        memcpy(b->scales + i * SCALE_BYTES, b->table.scales + row_id[i] * SCALE_BYTES, SCALE_BYTES);
    }
}

static void serve(const bench *b, const int32_t *suffix, int32_t n_tokens)
{
    em_engram_ticket *ticket;
    em_engram_rows rows;
    if (em_engram_ask(b->service, suffix, n_tokens, &ticket) || em_engram_take(ticket, 0, &rows))
        die("the service refused");
    em_engram_release(ticket);
}

/* The bare loop's bytes against the kernel's and the service's. */
static void check_bytes(const bench *b)
{
    size_t n = (size_t)TOKENS * COLS;
    uint8_t *codes = malloc(n * ROW_BYTES), *scales = malloc(n * SCALE_BYTES);
    em_engram_ticket *ticket;
    em_engram_rows rows;
    if (!codes || !scales)
        die("out of memory");
    bare_loop(b, b->row_id, n);
    em_rows_copy(&b->table, b->row_id, n, codes, scales);
    if (memcmp(codes, b->codes, n * ROW_BYTES) != 0 || memcmp(scales, b->scales, n * SCALE_BYTES) != 0)
        die("the kernel's rows are not the table's");
    if (em_engram_ask(b->service, b->suffix, TOKENS, &ticket) || em_engram_take(ticket, 0, &rows))
        die("the service refused");
    if (memcmp(rows.codes, b->codes, n * ROW_BYTES) != 0 || memcmp(rows.scales, b->scales, n * SCALE_BYTES) != 0)
        die("the service's rows are not the table's");
    em_engram_release(ticket);
    free(codes);
    free(scales);
}

/* Seconds of the core in one pass over all batches. */
static double run_pass(const bench *b, measure what)
{
    size_t n = (size_t)TOKENS * COLS;
    double begin = cpu_s();
    for (size_t i = 0; i < N_BATCHES; i++) {
        const int64_t *row_id = b->row_id + i * n;
        const int32_t *suffix = b->suffix + i * TOKENS * (ORDERS + 1);
        if (what == BARE)
            bare_loop(b, row_id, n);
        else if (what == KERNEL)
            em_rows_copy(&b->table, row_id, n, b->codes, b->scales);
        else if (what == SERVICE)
            serve(b, suffix, TOKENS);
        else
            em_row_hasher_run(&b->hasher, suffix, TOKENS, (int64_t *)b->codes);
    }
    return cpu_s() - begin;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n & 1 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

/* One token at a time with computing in between, as in decode: what the step thread pays for ask and take. */
static void decode_cost(const bench *b, double *ret_ask_us, double *ret_take_us)
{
    static double ask[DECODE_STEPS], take[DECODE_STEPS];
    for (size_t i = 0; i < DECODE_STEPS; i++) {
        em_engram_ticket *ticket;
        em_engram_rows rows;
        double t0 = now_s();
        if (em_engram_ask(b->service, b->suffix + i * (ORDERS + 1), 1, &ticket))
            die("the service refused");
        double t1 = now_s();
        usleep(300);
        double t2 = now_s();
        em_engram_take(ticket, 0, &rows);
        take[i] = (now_s() - t2) * 1e6;
        ask[i] = (t1 - t0) * 1e6;
        em_engram_release(ticket);
    }
    *ret_ask_us = median(ask, DECODE_STEPS);
    *ret_take_us = median(take, DECODE_STEPS);
}

static void report(bool json, size_t table_mib, const double rate[], double ask_us, double take_us)
{
    const char *format =
        json ? "\"%s_rows_s\": %.0f, \"%s_of_bare\": %.4f, " : "%-10s %12.0f rows/s per core  %s %6.3f of bare\n";
    printf(json ? "{\"table_mib\": %zu, " : "table of %zu MiB, rows of 256 + 8 bytes\n", table_mib);
    for (int i = 0; i < N_MEASURES; i++)
        printf(format, measure_name[i], rate[i], json ? measure_name[i] : "", rate[i] / rate[BARE]);
    printf(json ? "\"hash_ns_token\": %.1f, \"decode_ask_us\": %.2f, \"decode_take_us\": %.2f}\n"
                : "hash %.1f ns per token and table; one token: ask %.2f us, take %.2f us\n",
           1e9 * COLS / rate[HASH], ask_us, take_us);
}

static void pin_to_one_core(void)
{
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all))
        die("no affinity");
    CPU_ZERO(&one);
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0 && !CPU_COUNT(&one); cpu--)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

int main(int argc, char **argv)
{
    static double seconds[N_MEASURES][MAX_ROUNDS];
    double rate[N_MEASURES], ask_us, take_us;
    unsigned long table_mib = 512, rounds = 9, seed = 1;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        unsigned long *number = !strcmp(argv[i], "--table-mib") ? &table_mib
                                : !strcmp(argv[i], "--rounds")  ? &rounds
                                : !strcmp(argv[i], "--seed")    ? &seed
                                                                : NULL;
        if (!strcmp(argv[i], "--json"))
            json = true;
        else if (number && i + 1 < argc)
            *number = strtoul(argv[++i], NULL, 0);
        else
            die("usage: bench_gather [--table-mib N] [--rounds N] [--seed N] [--json]");
    }
    if (table_mib < 8 || table_mib > 1u << 20 || rounds < 1 || rounds > MAX_ROUNDS)
        die("a table of 8 MiB or more and 1 to 99 rounds, please");

    bench b = {.service = NULL};
    fprintf(stderr, "seed %lu\n", seed);
    pin_to_one_core(); /* the library's thread inherits it */
    open_table(&b, table_mib << 20);
    make_asks(&b, seed);
    check_bytes(&b);
    for (unsigned long round = 0; round < rounds; round++)
        for (int what = 0; what < N_MEASURES; what++)
            seconds[what][round] = run_pass(&b, (measure)what);
    for (int what = 0; what < N_MEASURES; what++)
        rate[what] = (double)N_BATCHES * TOKENS * COLS / median(seconds[what], (int)rounds);
    decode_cost(&b, &ask_us, &take_us);
    em_engram_close(b.service);
    report(json, table_mib, rate, ask_us, take_us);
    return 0;
}
