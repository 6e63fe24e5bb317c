/* Which Engram rows a text touches, and what caches of them would find. Part of the engine's door (engine/engine.h includes
 * it). Reads config.json, tokenizer.json and the headers of the tensor files; no row is touched.
 *
 * The text is one sequence, given in pieces, and its tokens ask one after another, as they do when it is generated; a
 * prompt asks for many tokens at a time and for a row that several of them want only once, so it reads less. Memory is
 * bounded whatever the length of the text: beyond em_trace_opts.max_samples asks the figures about rows are of a sample
 * (engine/reuse.h). One thread. */
#ifndef EM_ENGINE_TRACE_H
#define EM_ENGINE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

#define EM_TRACE_MAX_ORDERS 7
#define EM_TRACE_MAX_POINTS 24
#define EM_TRACE_MAX_SAMPLES (1 << 23) /* what 0 in max_samples stands for: less than 250 MB */

typedef struct em_trace_opts {
    const char *model_dir;
    uint64_t cache_bytes; /* a size of the nvme tier's row cache to be among the points; 0: none */
    uint32_t max_samples; /* asks kept, 2 or more; 0: EM_TRACE_MAX_SAMPLES */
} em_trace_opts;

typedef struct em_trace em_trace;

/* -EINVAL: the model has no Engram layers, or what opening a model would refuse. */
int em_trace_open(const em_trace_opts *opts, em_trace **ret_trace, em_error *err);
em_trace *em_trace_close(em_trace *t); /* NULL is fine; returns NULL */

/* How much of the text's beginning can be added on its own, see em_tokenizer_cut. */
size_t em_trace_cut(const em_trace *t, const char *text, size_t len);

/* The next piece, valid UTF-8; special tokens spelled in it become ids, and a BOS comes first where the model wants one. */
int em_trace_add(em_trace *t, const char *text, size_t len, em_error *err);

typedef struct em_trace_order {
    int32_t order;
    uint64_t asked, unique; /* rows; unique: different ones */
} em_trace_order;

/* A cache of the nvme tier. Shares of the rows asked. */
typedef struct em_trace_point {
    uint64_t bytes, rows; /* rows that it holds */
    bool known;           /* false: smaller than the sample can tell about, the shares are 0 */
    double lru;           /* found, if it kept those asked last */
    double cache;         /* found with the tier's own policy */
    bool configured;      /* this is em_trace_opts.cache_bytes */
} em_trace_point;

typedef struct em_trace_result {
    uint64_t tokens;
    int32_t n_tables, max_order, n_heads;
    int32_t rows_per_token; /* of all tables */
    size_t row_bytes;       /* codes of a row: what the cache holds */
    uint64_t rows, unique;  /* asked for in all, different ones */
    uint32_t one_in;        /* 1: unique and the points are exact; N: estimated from the asks of one row in N */
    em_trace_order order[EM_TRACE_MAX_ORDERS];
    int32_t n_orders;
    em_trace_point point[EM_TRACE_MAX_POINTS]; /* by size; one of them just holds all rows of the text */
    int32_t n_points;
} em_trace_result;

/* May take seconds: each point runs a cache. */
int em_trace_finish(em_trace *t, void (*on_progress)(void *ctx, const char *what, double fraction), void *ctx,
                    em_trace_result *ret_result, em_error *err);

#endif
