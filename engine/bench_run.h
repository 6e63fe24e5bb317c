/* Inside of the benchmark: what its parts share. */
#ifndef EM_ENGINE_BENCH_RUN_H
#define EM_ENGINE_BENCH_RUN_H

#include <stddef.h>

#include "engine/base/rng.h"
#include "engine/cpu/thread_pool.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "engine/sampler.h"

#define EM_BENCH_ROUNDS 5

/* Times of which percentiles are wanted; what does not fit any more is left out. */
typedef struct em_bench_samples {
    double *v;
    int n, cap;
} em_bench_samples;

typedef struct em_bench_run {
    const em_bench_opts *opts;
    em_model *model;
    const em_model_config *cfg;
    em_sampler *sampler;
    float *logits;  /* [most sequences, vocab] */
    uint64_t draws; /* random numbers used so far */

    em_pool *pool; /* reads the yardstick's buffer */
    void *read_data;
    double *read_rate; /* [n_reads] of all passes */
    int n_reads, cap_reads;

    em_bench_samples waits;   /* microseconds of decode steps */
    int32_t n_points, n_done; /* for progress */
} em_bench_run;

/* A token that may follow any other. */
int32_t em_bench_token(em_bench_run *b);
/* The share p (0..1) of the sorted samples lies at or below; 0 without any. Sorts. */
double em_bench_percentile(em_bench_samples *s, double p);
void em_bench_add_sample(em_bench_samples *s, double v);
/* One pass over the yardstick's buffer, remembered. */
double em_bench_read_once(em_bench_run *b);
/* Tells what is measured now; `done` more figures are there. */
void em_bench_progress(em_bench_run *b, const char *what, int32_t done);

/* Steps at every batch and context that there is room for. */
int em_bench_decode_all(em_bench_run *b, em_bench_result *result, em_error *err);
/* Copies of random rows on one thread. */
int em_bench_gather(em_bench_run *b, em_bench_result *result, em_error *err);
/* Takes the model over: the step loop with as many requests as the largest batch. */
int em_bench_loop(em_bench_run *b, em_bench_result *result, em_error *err);

#endif
