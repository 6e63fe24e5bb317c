/* Rows per second of the nvme tier, every one of them from the file: what deploy/bench/engram.py sets beside fio.
 *
 *     bench_nvme FILE [--mib N] [--seconds N]
 *
 * FILE is written with N MiB of rows of 256 bytes when it has not that size. Tokens are drawn at random, 512 in an ask, two
 * asks out at a time, no row cache. Prints one JSON object. */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engram/engram.h"
#include "engram/pcg64.h"

enum { ROW_BYTES = 256, ORDERS = 3, HEADS = 8, COLS = ORDERS * HEADS, TOKENS = 512, N_ASKS = 2, N_CLASSES = 99092 };

static void die(const char *what)
{
    fprintf(stderr, "bench_nvme: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* Written for real: of a file that is only reserved no disk would read anything. */
static void make_file(const char *path, size_t bytes)
{
    enum { CHUNK = 1 << 20 };
    struct stat st;
    em_pcg64 rng;
    uint64_t *chunk = malloc(CHUNK);
    FILE *f;
    if (!chunk)
        die("memory");
    if (stat(path, &st) == 0 && (size_t)st.st_size == bytes) {
        free(chunk);
        return;
    }
    em_pcg64_seed(&rng, 1);
    f = fopen(path, "wb");
    for (size_t at = 0; f && at < bytes; at += CHUNK) {
        for (size_t i = 0; i < CHUNK / 8; i++)
            chunk[i] = em_pcg64_below(&rng, UINT64_MAX);
        if (fwrite(chunk, 1, CHUNK, f) != CHUNK)
            die(path);
    }
    if (!f || fflush(f) || fsync(fileno(f)) || fclose(f))
        die(path);
    free(chunk);
}

static void draw(em_pcg64 *rng, int32_t *suffix)
{
    for (int i = 0; i < TOKENS * (ORDERS + 1); i++)
        suffix[i] = (int32_t)em_pcg64_below(rng, N_CLASSES);
}

/* Asks are out all the time: the oldest is taken and asked anew. */
static double run(em_engram *g, double seconds)
{
    static int32_t suffix[TOKENS * (ORDERS + 1)];
    em_engram_ticket *ticket[N_ASKS];
    em_engram_rows rows;
    em_pcg64 rng;
    em_pcg64_seed(&rng, 2);
    double begin = now_s();
    for (int i = 0; i < N_ASKS; i++) {
        draw(&rng, suffix);
        if (em_engram_ask(g, suffix, TOKENS, &ticket[i]))
            die("ask");
    }
    for (int i = 0; now_s() - begin < seconds; i = (i + 1) % N_ASKS) {
        if (em_engram_take(ticket[i], 0, &rows))
            die("take");
        em_engram_release(ticket[i]);
        draw(&rng, suffix);
        if (em_engram_ask(g, suffix, TOKENS, &ticket[i]))
            die("ask");
    }
    for (int i = 0; i < N_ASKS; i++) {
        em_engram_take(ticket[i], 0, &rows);
        em_engram_release(ticket[i]);
    }
    return now_s() - begin;
}

int main(int argc, char **argv)
{
    unsigned long mib = 2048, seconds = 5;
    const char *path = NULL;
    char err[256];
    for (int i = 1; i < argc; i++) {
        unsigned long *number = !strcmp(argv[i], "--mib") ? &mib : !strcmp(argv[i], "--seconds") ? &seconds : NULL;
        if (number && i + 1 < argc)
            *number = strtoul(argv[++i], NULL, 0);
        else
            path = argv[i];
    }
    if (!path || mib < 8 || mib > 1 << 20 || seconds < 1) {
        fprintf(stderr, "usage: bench_nvme FILE [--mib N] [--seconds N]\n");
        return 2;
    }
    int64_t n_rows = (int64_t)(mib << 20) / ROW_BYTES;
    make_file(path, mib << 20);
    uint8_t *scales = calloc((size_t)n_rows, ROW_BYTES / 32);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!scales || fd < 0)
        die(path);
    em_engram_spec spec = {.n_tables = 1,
                           .dtype = EM_ENGRAM_FP8,
                           .max_order = ORDERS + 1,
                           .n_heads = HEADS,
                           .head_dim = ROW_BYTES,
                           .prime_start = n_rows / COLS - 1000,
                           .n_classes = N_CLASSES};
    spec.table[0] = (em_engram_source){.layer = 1, .n_rows = n_rows, .scales = scales, .codes_fd = fd};
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_NVME, .max_tokens = TOKENS, .max_tickets = N_ASKS};
    em_engram *g;
    em_engram_stats stats;
    if (em_engram_open(&spec, &opts, &g, err, sizeof err)) {
        fprintf(stderr, "bench_nvme: %s\n", err);
        return 1;
    }
    double took = run(g, (double)seconds);
    em_engram_get_stats(g, &stats);
    printf("{\"rows_s\":%.0f,\"reads_s\":%.0f,\"bytes_s\":%.0f,\"most_in_flight\":%u,\"io_uring\":%s}\n",
           (double)stats.rows_unique / took, (double)stats.rows_read / took, (double)stats.read_bytes / took,
           stats.most_in_flight, stats.io_uring ? "true" : "false");
    em_engram_close(g);
    free(scales);
    close(fd);
    return 0;
}
