/* Measuring what a model does on this machine, without HTTP. Part of the engine's door (engine/engine.h includes it).
 *
 * Decode steps are measured at a position of a long sequence. Its state is computed for the first tokens and repeated from
 * there on: the same bytes and the same arithmetic as a real context, at a fraction of the time. Every sequence has
 * state of its own and draws its tokens at random, so that a batch reads different experts and rows. */
#ifndef EM_ENGINE_BENCH_H
#define EM_ENGINE_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"

#define EM_BENCH_MAX_SIZES 16 /* batches, contexts, prompts */
#define EM_BENCH_MAX_POINTS (EM_BENCH_MAX_SIZES * EM_BENCH_MAX_SIZES)
#define EM_BENCH_MAX_TOKENS (1 << 24) /* of a context or prompt */

struct em_engine_opts; /* of engine/engine.h */

typedef struct em_bench_opts {
    const struct em_engine_opts *engine; /* max_seqs and kv_cache_bytes are chosen for the largest batch and context */
    int32_t batch[EM_BENCH_MAX_SIZES], n_batches;
    int32_t context[EM_BENCH_MAX_SIZES], n_contexts;
    int32_t prompt[EM_BENCH_MAX_SIZES], n_prompts;
    uint64_t point_ns;   /* time for one figure; each takes five rounds, and at least a step in each */
    uint64_t read_bytes; /* the buffer whose reading is the yardstick */
    void (*on_progress)(void *ctx, const char *what, double fraction); /* may be NULL */
    void *progress_ctx;
} em_bench_opts;

/* Milliseconds of a step, by part. */
typedef struct em_bench_ms {
    double engram;    /* asking, waiting for rows, the layers themselves */
    double attention; /* but its dense products */
    double moe, dense, head, other;
} em_bench_ms;

typedef struct em_bench_decode {
    int32_t batch, context;
    double tok_s;            /* of all sequences together */
    double bytes_per_token;  /* weights that a step read, shared by its tokens */
    double fraction_of_read; /* bytes_per_token * tok_s, of the rate at which memory was read between the steps */
    double engram_fraction;  /* of the step: hashing, asking and waiting for rows */
    em_bench_ms ms;
} em_bench_decode;

typedef struct em_bench_prefill {
    int32_t tokens;
    double tok_s;
} em_bench_prefill;

typedef struct em_bench_result {
    char cpu[96];
    int32_t cores;    /* compute threads */
    char device[32];  /* the backend: "cpu/avx512" */
    const char *math; /* "f32" */
    double read_gbps; /* median of all passes over the buffer */
    em_bench_decode decode[EM_BENCH_MAX_POINTS];
    int32_t n_decode;
    em_bench_prefill prefill[EM_BENCH_MAX_SIZES];
    int32_t n_prefill;
    int32_t n_skipped; /* figures that the model's length or the memory has no room for */
    bool has_engram;
    int64_t engram_rows; /* of all tables */
    double gather_rows_s_per_core;
    double wait_us_p50, wait_us_p99; /* of decode steps: for rows that were not there yet */
    bool has_server;
    double schedule_us_p50, schedule_us_p99; /* of the step loop with the largest batch: planning a step */
} em_bench_result;

/* *ret_result is written whole. -EINVAL a size is out of range; else as em_engine_open. */
int em_engine_bench(const em_bench_opts *opts, em_bench_result *ret_result, em_error *err);

#endif
