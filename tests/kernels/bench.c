/* Times of the kernels of one table, one thread: products from 64 MiB of weights, the rest on one vector in the
 * cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/cpu/pack.h"
#include "tests/kernels/kerncheck.h"
#include "tests/support/read_rate.h"

enum { COLS = 5120, WEIGHT_BYTES = 64 << 20, ROUNDS = 5, VEC = 5120, REPEATS = 2000 };

typedef struct bench_data {
    const em_kernels *k;
    em_matrix w;
    int64_t n_m;
    float *x, *y, *z;
    uint8_t *codes, *scales;
} bench_data;

static volatile float bench_sink;

/* Of this thread: what other programs take meanwhile does not count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void show(const bench_data *d, const char *op, double ns, double bytes, double read_rate)
{
    printf("%-8s %-16s %10.0f ns %8.2f GB/s  %5.1f %% of the read rate\n", d->k->name, op, ns, bytes / ns,
           100 * bytes * 1e9 / ns / read_rate);
}

static void bench_gemm(bench_data *d, const char *filter, double read_rate)
{
    static const char *const names[] = {"gemm_f32", "gemm_bf16", "gemm_fp8", "gemm_fp4"};
    static const int64_t tokens[] = {1, 4, 16};
    for (int dtype = EM_DTYPE_F32; dtype <= EM_DTYPE_FP4; dtype++)
        for (int t = 0; t < 3; t++) {
            char op[32];
            snprintf(op, sizeof(op), "%s_m%d", names[dtype], (int)tokens[t]);
            if (!strstr(op, filter))
                continue;
            d->w.dtype = (em_dtype)dtype;
            d->w.scale_rows = dtype == EM_DTYPE_FP8 ? 32 : 1;
            size_t strip = em_strip_bytes(d->w.dtype, COLS, d->w.scale_rows);
            d->w.rows = (int64_t)(WEIGHT_BYTES / strip) * EM_STRIP_ROWS;
            double ns[ROUNDS];
            for (int i = 0; i < ROUNDS; i++) {
                uint64_t start = cpu_ns();
                d->k->gemm[dtype](&d->w, 0, d->w.rows, d->x, COLS, tokens[t], d->y, d->w.rows);
                ns[i] = (double)(cpu_ns() - start);
            }
            show(d, op, median_of(ns, ROUNDS), (double)strip * (double)d->w.rows / EM_STRIP_ROWS, read_rate);
        }
}

static void run_dot(bench_data *d)
{
    bench_sink = d->k->dot(d->x, d->y, VEC);
}
static void run_axpy(bench_data *d)
{
    d->k->axpy(d->z, 0.5f, d->x, VEC);
}
static void run_sum_sq(bench_data *d)
{
    bench_sink = d->k->sum_sq(d->x, VEC);
}
static void run_scale_mul(bench_data *d)
{
    d->k->scale_mul(d->z, d->x, d->x, 0.5f, VEC);
}
static void run_swiglu(bench_data *d)
{
    d->k->swiglu(d->z, d->x, d->x, 10.0f, 0.5f, VEC);
}
static void run_exp_sum(bench_data *d)
{
    bench_sink = d->k->exp_sum(d->z, 0.5f, VEC);
}
static void run_max(bench_data *d)
{
    bench_sink = d->k->max(d->x, VEC);
}
static void run_enc_e4m3(bench_data *d)
{
    d->k->enc_e4m3_b32(d->x, VEC, d->codes, d->scales);
}
static void run_dec_e4m3(bench_data *d)
{
    d->k->dec_e4m3_b32(d->codes, d->scales, VEC, d->z);
}
static void run_enc_e2m1(bench_data *d)
{
    d->k->enc_e2m1_b32(d->x, VEC, d->codes, d->scales);
}
static void run_dec_e2m1(bench_data *d)
{
    d->k->dec_e2m1_b32(d->codes, d->scales, VEC, d->z);
}
static void run_enc_e2m1_16(bench_data *d)
{
    d->k->enc_e2m1_b16(d->x, VEC, d->codes, d->scales);
}
static void run_dec_e2m1_16(bench_data *d)
{
    d->k->dec_e2m1_b16(d->codes, d->scales, VEC, d->z);
}

/* bytes: of the floats read and written, and of the codes */
static const struct {
    const char *name;
    void (*run)(bench_data *d);
    double bytes_per_value;
} vec_ops[] = {
    {"dot", run_dot, 8},
    {"axpy", run_axpy, 12},
    {"sum_sq", run_sum_sq, 4},
    {"scale_mul", run_scale_mul, 12},
    {"swiglu", run_swiglu, 12},
    {"exp_sum", run_exp_sum, 8},
    {"max", run_max, 4},
    {"enc_e4m3_b32", run_enc_e4m3, 5},
    {"dec_e4m3_b32", run_dec_e4m3, 5},
    {"enc_e2m1_b32", run_enc_e2m1, 4.5},
    {"dec_e2m1_b32", run_dec_e2m1, 4.5},
    {"enc_e2m1_b16", run_enc_e2m1_16, 4.5},
    {"dec_e2m1_b16", run_dec_e2m1_16, 4.5},
};

static void bench_vec(bench_data *d, const char *filter, double read_rate)
{
    for (size_t op = 0; op < sizeof(vec_ops) / sizeof(*vec_ops); op++) {
        if (!strstr(vec_ops[op].name, filter))
            continue;
        double ns[ROUNDS];
        for (int i = 0; i < ROUNDS; i++) {
            memcpy(d->z, d->x, VEC * sizeof(float));
            uint64_t start = cpu_ns();
            for (int r = 0; r < REPEATS; r++)
                vec_ops[op].run(d);
            ns[i] = (double)(cpu_ns() - start) / REPEATS;
        }
        show(d, vec_ops[op].name, median_of(ns, ROUNDS), vec_ops[op].bytes_per_value * VEC, read_rate);
    }
}

void bench_kernels(const em_kernels *k, const char *filter, double read_rate)
{
    bench_data d = {.k = k, .w = {.cols = COLS, .scale_rows = 1, .scale_cols = 32, .packed = true}};
    size_t max_rows = WEIGHT_BYTES / (COLS / 2);
    uint8_t *strips = huge_alloc(WEIGHT_BYTES);
    d.x = huge_alloc(16 * COLS * sizeof(float));
    d.y = huge_alloc(max_rows * 16 * sizeof(float));
    d.z = huge_alloc(VEC * sizeof(float));
    d.codes = huge_alloc(VEC);
    d.scales = huge_alloc(VEC);
    if (strips && d.x && d.y && d.z && d.codes && d.scales) {
        memset(strips, 0x33, WEIGHT_BYTES); /* codes and scales alike: 0x33 is small in every format */
        for (int i = 0; i < 16 * COLS; i++)
            d.x[i] = (float)(i % 37 - 18) / 16;
        d.w.data = strips;
        bench_gemm(&d, filter, read_rate);
        bench_vec(&d, filter, read_rate);
    } else {
        fprintf(stderr, "kerncheck: no memory for the benchmark\n");
    }
    free(d.scales);
    free(d.codes);
    free(d.z);
    free(d.y);
    free(d.x);
    free(strips);
}
