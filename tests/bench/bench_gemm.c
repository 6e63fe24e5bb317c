/* How much of the machine's read rate the expert products reach with one token: FP4 experts of the released shape (or
 * FP8 and BF16 matrices of the same shape) from a pool larger than every cache, visited in random order, all threads;
 * reading and multiplying take turns, the median of each counts. Prints one JSON object. */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/pack.h"
#include "tests/support/read_rate.h"

enum { DIM = 5120, INTER = 2304, ITEM_ROWS = 64, MAX_TOKENS = 64, ROUNDS = 5 };

typedef struct bench {
    em_kernels k;
    em_pool *pool;
    em_dtype dtype;
    int n_tokens;
    int64_t n_experts;
    size_t expert_bytes; /* of one expert's three matrices, padded to 64 */
    size_t pool_bytes;
    uint8_t *data;
    uint32_t *order;                          /* experts in the order of the visit */
    em_matrix gate, up, down;                 /* views of the expert being multiplied */
    float *x, *hidden_gate, *hidden_up, *out; /* [n_tokens, DIM], [n_tokens, INTER] twice, [n_tokens, DIM] */
} bench;

static size_t matrix_bytes(const em_matrix *w)
{
    return em_packed_bytes(w->dtype, w->rows, w->cols, w->scale_rows);
}

static em_matrix shape(em_dtype dtype, int64_t rows, int64_t cols)
{
    em_matrix w = {.dtype = dtype, .rows = rows, .cols = cols, .packed = true};
    if (dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4) {
        w.scale_rows = dtype == EM_DTYPE_FP8 ? 32 : 1;
        w.scale_cols = 32;
        w.scale_stride = cols / 32;
    }
    return w;
}

/* A view of [rows, cols] at *at, which moves behind it. */
static em_matrix view(em_dtype dtype, int64_t rows, int64_t cols, const uint8_t **at)
{
    em_matrix w = shape(dtype, rows, cols);
    w.data = *at;
    *at += matrix_bytes(&w);
    return w;
}

static void set_expert(bench *b, int64_t e)
{
    const uint8_t *at = b->data + (size_t)e * b->expert_bytes;
    b->gate = view(b->dtype, INTER, DIM, &at);
    b->up = view(b->dtype, INTER, DIM, &at);
    b->down = view(b->dtype, DIM, INTER, &at);
}

static void in_item(void *ctx, int64_t item, int worker)
{
    bench *b = ctx;
    int64_t n = INTER / ITEM_ROWS, begin = item % n * ITEM_ROWS;
    (void)worker;
    b->k.gemm[b->dtype](item < n ? &b->gate : &b->up, begin, begin + ITEM_ROWS, b->x, DIM, b->n_tokens,
                        item < n ? b->hidden_gate : b->hidden_up, INTER);
}

static void out_item(void *ctx, int64_t item, int worker)
{
    bench *b = ctx;
    (void)worker;
    b->k.gemm[b->dtype](&b->down, item * ITEM_ROWS, (item + 1) * ITEM_ROWS, b->hidden_gate, INTER, b->n_tokens, b->out,
                        DIM);
}

/* Weight bytes per second of one visit to every expert. */
static double multiply_once(bench *b)
{
    uint64_t t = em_now_ns();
    for (int64_t e = 0; e < b->n_experts; e++) {
        set_expert(b, b->order[e]);
        em_pool_run(b->pool, in_item, b, 2 * INTER / ITEM_ROWS);
        em_pool_run(b->pool, out_item, b, DIM / ITEM_ROWS);
    }
    return (double)b->pool_bytes * 1e9 / (double)(em_now_ns() - t);
}

/* Codes at random; scales near 1; BF16 values near 1. */
static void fill_item(void *ctx, int64_t item, int worker)
{
    bench *b = ctx;
    uint8_t *p = b->data + (size_t)item * b->expert_bytes;
    uint64_t s = em_rng_u64(1, 0, (uint64_t)item, 0) | 1;
    (void)worker;
    for (size_t i = 0; i + 8 <= b->expert_bytes; i += 8) {
        s ^= s << 13, s ^= s >> 7, s ^= s << 17;
        uint64_t v =
            b->dtype == EM_DTYPE_BF16 ? (s & 0x807F807F807F807Fu) | 0x3F003F003F003F00u : s & 0xBBBBBBBBBBBBBBBBu;
        memcpy(p + i, &v, 8);
    }
    const uint8_t *at = p;
    em_matrix m[3] = {view(b->dtype, INTER, DIM, &at), view(b->dtype, INTER, DIM, &at),
                      view(b->dtype, DIM, INTER, &at)};
    for (int i = 0; i < 3; i++)
        for (int64_t strip = 0; strip < m[i].rows / EM_STRIP_ROWS; strip++)
            memset((uint8_t *)(uintptr_t)m[i].data +
                       (size_t)strip * em_strip_bytes(b->dtype, m[i].cols, m[i].scale_rows),
                   120, em_strip_scale_bytes(b->dtype, m[i].cols, m[i].scale_rows));
}

static int prepare(bench *b, size_t want_bytes)
{
    em_matrix in = shape(b->dtype, INTER, DIM), out = shape(b->dtype, DIM, INTER);
    b->expert_bytes = (2 * matrix_bytes(&in) + matrix_bytes(&out) + 63) / 64 * 64;
    b->n_experts = (int64_t)(want_bytes / b->expert_bytes) + 1;
    b->pool_bytes = (size_t)b->n_experts * b->expert_bytes;
    b->data = huge_alloc(b->pool_bytes);
    b->order = malloc((size_t)b->n_experts * sizeof(*b->order));
    size_t n_floats = (size_t)MAX_TOKENS * (2 * DIM + 2 * INTER);
    b->x = huge_alloc(n_floats * sizeof(float));
    if (!b->data || !b->order || !b->x)
        return -ENOMEM;
    b->hidden_gate = b->x + (size_t)MAX_TOKENS * DIM;
    b->hidden_up = b->hidden_gate + (size_t)MAX_TOKENS * INTER;
    b->out = b->hidden_up + (size_t)MAX_TOKENS * INTER;
    for (size_t i = 0; i < (size_t)MAX_TOKENS * DIM; i++)
        b->x[i] = (float)(em_rng_uniform(2, 0, i, 0) - 0.5);
    for (int64_t e = 0; e < b->n_experts; e++) { /* a shuffle, inside out */
        int64_t j = (int64_t)(em_rng_u64(3, 0, (uint64_t)e, 0) % (uint64_t)(e + 1));
        b->order[e] = b->order[j];
        b->order[j] = (uint32_t)e;
    }
    em_pool_run(b->pool, fill_item, b, b->n_experts);
    return 0;
}

static void report(bench *b, double *read, double *mul)
{
    static const char *const dtypes[] = {"f32", "bf16", "fp8", "fp4"};
    double weights = (double)b->n_experts * 3 * DIM * INTER;
    double r = median_of(read, ROUNDS), g = median_of(mul, ROUNDS);
    printf("{\"bench\": \"gemm\", \"tier\": \"%s\", \"dtype\": \"%s\", \"tokens\": %d, \"threads\": %d, \"pool_mib\": "
           "%.0f, "
           "\"read_gbps\": %.2f, \"weights_gbps\": %.2f, \"fraction_of_read\": %.3f, \"gflops\": %.1f}\n",
           b->k.name, dtypes[b->dtype], b->n_tokens, em_pool_threads(b->pool), (double)b->pool_bytes / 1048576.0,
           r / 1e9, g / 1e9, g / r, 2e-9 * weights * b->n_tokens * g / (double)b->pool_bytes);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: bench_gemm [--pool-mib N] [--threads N] [--tokens 1..%d] [--tier c|avx2|avx512]\n"
            "                  [--dtype bf16|fp8|fp4]\n",
            MAX_TOKENS);
    return 2;
}

static int parse(int argc, char **argv, bench *b, size_t *pool_mib, int *n_threads, unsigned *flags)
{
    static const struct option options[] = {{"pool-mib", 1, 0, 'p'}, {"threads", 1, 0, 't'}, {"tokens", 1, 0, 'm'},
                                            {"tier", 1, 0, 'k'},     {"dtype", 1, 0, 'd'},   {0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'p')
            *pool_mib = strtoul(optarg, NULL, 10);
        else if (c == 't')
            *n_threads = atoi(optarg);
        else if (c == 'm')
            b->n_tokens = atoi(optarg);
        else if (c == 'k')
            *flags &= strcmp(optarg, "c") == 0 ? 0 : strcmp(optarg, "avx2") == 0 ? EM_CPU_AVX2 : ~0u;
        else if (c == 'd')
            b->dtype = strcmp(optarg, "fp8") == 0    ? EM_DTYPE_FP8
                       : strcmp(optarg, "bf16") == 0 ? EM_DTYPE_BF16
                                                     : EM_DTYPE_FP4;
        else
            return -EINVAL;
    }
    bool fine =
        *pool_mib >= 1 && *pool_mib <= 1 << 20 && *n_threads >= 1 && b->n_tokens >= 1 && b->n_tokens <= MAX_TOKENS;
    return fine && optind == argc ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    bench b = {.dtype = EM_DTYPE_FP4, .n_tokens = 1};
    size_t pool_mib = 2048;
    int n_threads = em_cpu_count();
    unsigned flags = em_cpu_flags();
    if (parse(argc, argv, &b, &pool_mib, &n_threads, &flags) < 0)
        return usage();
    em_kernels_init(&b.k, flags);
    int r = em_pool_new(n_threads, &b.pool);
    if (r == 0)
        r = prepare(&b, pool_mib << 20);
    if (r < 0) {
        fprintf(stderr, "bench_gemm: %s: ask for a smaller --pool-mib or fewer --threads\n", strerror(-r));
        return 1;
    }
    double read[ROUNDS], mul[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        read[i] = read_rate_once(b.pool, b.data, b.pool_bytes);
        mul[i] = multiply_once(&b);
    }
    report(&b, read, mul);
    em_pool_free(b.pool);
    free(b.x);
    free(b.order);
    free(b.data);
    return 0;
}
