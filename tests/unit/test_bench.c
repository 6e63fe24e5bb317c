/* The benchmark's arithmetic, and a whole run on the model that comes with the program. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/bench_run.h"
#include "engine/cpu/read_rate.h"
#include "engine/engine.h"
#include "tests/support/fixtures.h"

START_TEST(median)
{
    double v[] = {5, 1, 9, 3};
    ck_assert_double_eq(em_median(v, 1), 5);
    ck_assert_double_eq(em_median(v, 3), 5);
    ck_assert_double_eq(em_median(v, 4), 4);
    for (int i = 1; i < 4; i++)
        ck_assert_double_le(v[i - 1], v[i]);
}
END_TEST

START_TEST(percentile)
{
    double v[100];
    em_bench_samples s = {.v = v, .cap = 100};
    ck_assert_double_eq(em_bench_percentile(&s, 0.5), 0);
    for (int i = 0; i < 130; i++) /* what does not fit is left out */
        em_bench_add_sample(&s, 99 - i);
    ck_assert_int_eq(s.n, 100);
    ck_assert_double_eq(em_bench_percentile(&s, 0.5), 50);
    ck_assert_double_eq(em_bench_percentile(&s, 0.99), 99);
    ck_assert_double_eq(em_bench_percentile(&s, 1), 99);
}
END_TEST

START_TEST(histogram_quantile)
{
    em_histogram h = {0};
    ck_assert_double_eq(em_histogram_quantile(&h, 0.5), 0);
    em_histogram_init(&h, EM_HISTOGRAM_SCHEDULE, 0);
    ck_assert_double_eq(em_histogram_quantile(&h, 0.5), 0);
    for (int i = 0; i < 90; i++)
        em_histogram_add(&h, 25e-6); /* in 20 .. 30 us */
    for (int i = 0; i < 10; i++)
        em_histogram_add(&h, 2.0); /* above all bounds */
    ck_assert_double_eq_tol(em_histogram_quantile(&h, 0.45), 25e-6, 1e-9);
    ck_assert_double_eq_tol(em_histogram_quantile(&h, 0.90), 30e-6, 1e-9);
    ck_assert_double_eq_tol(em_histogram_quantile(&h, 0.99), 1e-2, 1e-9);
}
END_TEST

START_TEST(read_rate)
{
    em_pool *pool;
    size_t n = (9 << 20) + 4096; /* no whole number of items */
    ck_assert_int_eq(em_pool_new(2, &pool), 0);
    uint8_t *data = em_huge_alloc(n);
    ck_assert_ptr_nonnull(data);
    ck_assert_uint_eq((uintptr_t)data % (2 << 20), 0);
    for (size_t i = 0; i < n; i += 4096)
        ck_assert_uint_eq(data[i], 0);
    double rate = em_read_rate_once(pool, data, n);
    ck_assert(isfinite(rate) && rate > 0);
    free(data);
    em_pool_free(pool);
}
END_TEST

/* Progress never goes back, and ends at one. */
static void on_progress(void *ctx, const char *what, double fraction)
{
    double *last = ctx;
    if (strcmp(what, "decode") != 0 && strcmp(what, "prefill") != 0 && strcmp(what, "done") != 0)
        return; /* loading has its own */
    ck_assert_double_ge(fraction, *last);
    ck_assert_double_le(fraction, 1);
    *last = fraction;
}

START_TEST(whole_run)
{
    em_engine_opts engine = {.model_dir = bundled_model_dir(), .n_threads = 2};
    double last = 0;
    em_bench_opts opts = {.engine = &engine,
                          .batch = {1, 3},
                          .n_batches = 2,
                          .context = {1, 65, 1000, 100000},
                          .n_contexts = 4,
                          .prompt = {7, 100000},
                          .n_prompts = 2,
                          .point_ns = 1000000,
                          .read_bytes = 1 << 20,
                          .on_progress = on_progress,
                          .progress_ctx = &last};
    em_bench_result *r = malloc(sizeof(*r));
    em_error err = {.text = ""};
    ck_assert_msg(em_engine_bench(&opts, r, &err) == 0, "%s", err.text);
    ck_assert_double_eq(last, 1);
    ck_assert_int_eq(r->n_decode, 6);
    ck_assert_int_eq(r->n_prefill, 1);
    ck_assert_int_eq(r->n_skipped, 3);
    ck_assert_int_eq(r->cores, 2);
    for (int i = 0; i < r->n_decode; i++) {
        const em_bench_decode *d = &r->decode[i];
        ck_assert_int_eq(d->batch, opts.batch[i % 2]);
        ck_assert_int_eq(d->context, opts.context[i / 2]);
        ck_assert(d->tok_s > 0 && d->fraction_of_read > 0 && d->bytes_per_token > 0);
        ck_assert(d->ms.engram > 0 && d->ms.moe > 0 && d->ms.dense > 0 && d->ms.head > 0 && d->ms.other > 0);
        if (i % 2) /* three tokens share what they read */
            ck_assert_double_lt(d->bytes_per_token, r->decode[i - 1].bytes_per_token);
    }
    ck_assert(r->has_engram && r->engram_rows > 0 && r->gather_rows_s_per_core > 0);
    ck_assert(r->has_server && r->schedule_us_p50 > 0 && r->schedule_us_p99 >= r->schedule_us_p50);
    free(r);
}
END_TEST

START_TEST(bad_sizes)
{
    em_engine_opts engine = {.model_dir = bundled_model_dir()};
    em_bench_result *r = malloc(sizeof(*r));
    em_error err;
    em_bench_opts opts = {.engine = &engine, .batch = {0}, .n_batches = 1, .read_bytes = 1 << 20};
    ck_assert_int_eq(em_engine_bench(&opts, r, &err), -EINVAL);
    opts = (em_bench_opts){.engine = &engine, .context = {-1}, .n_contexts = 1, .read_bytes = 1 << 20};
    ck_assert_int_eq(em_engine_bench(&opts, r, &err), -EINVAL);
    opts = (em_bench_opts){.engine = &engine, .read_bytes = 5};
    ck_assert_int_eq(em_engine_bench(&opts, r, &err), -EINVAL);
    engine.model_dir = "/nonexistent";
    opts = (em_bench_opts){.engine = &engine, .read_bytes = 1 << 20};
    ck_assert_int_eq(em_engine_bench(&opts, r, &err), -ENOENT);
    free(r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bench");
    TCase *t = tcase_create("bench");
    tcase_add_test(t, median);
    tcase_add_test(t, percentile);
    tcase_add_test(t, histogram_quantile);
    tcase_add_test(t, read_rate);
    tcase_add_test(t, whole_run);
    tcase_add_test(t, bad_sizes);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
