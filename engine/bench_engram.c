/* How fast one thread copies rows that lie anywhere in the tables. */
#include <errno.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/bench_run.h"
#include "engine/cpu/read_rate.h"

#define ROWS 65536 /* of one pass: more than any cache of translations knows, less than a second of work */

/* One pass: rows of all tables in turn, ids drawn before the clock runs. */
static double pass(em_bench_run *b, em_engram *g, int64_t *ids, uint8_t *codes, uint8_t *scales)
{
    int32_t n_tables = b->cfg->n_engram_layers;
    uint64_t ns = 0;
    for (int32_t t = 0; t < n_tables; t++) {
        em_engram_table view;
        em_engram_table_view(g, t, &view);
        for (int32_t i = 0; i < ROWS; i++)
            ids[i] = (int64_t)(em_rng_u64(2, 0, b->draws++, 0) % (uint64_t)view.n_rows);
        uint64_t start_ns = em_now_ns();
        em_engram_copy_rows(g, t, ids, ROWS, codes, view.scale_bytes ? scales : NULL);
        ns += em_now_ns() - start_ns;
    }
    return (double)ROWS * n_tables * 1e9 / (double)(ns ? ns : 1);
}

int em_bench_gather(em_bench_run *b, em_bench_result *result, em_error *err)
{
    em_engram *g = em_model_engram(b->model);
    if (!g)
        return 0;
    em_engram_table view;
    double rate[EM_BENCH_ROUNDS];
    for (int32_t t = 0; t < b->cfg->n_engram_layers; t++) {
        em_engram_table_view(g, t, &view);
        result->engram_rows += view.n_rows;
    }
    int64_t *ids = malloc(ROWS * sizeof(*ids));
    uint8_t *codes = em_huge_alloc(ROWS * view.row_bytes), *scales = em_huge_alloc(ROWS * view.scale_bytes + 1);
    int r = ids && codes && scales ? 0 : em_error_set(err, -ENOMEM, "not enough memory to measure the gather");
    for (int i = 0; i < EM_BENCH_ROUNDS && r == 0; i++)
        rate[i] = pass(b, g, ids, codes, scales);
    free(ids);
    free(codes);
    free(scales);
    if (r < 0)
        return r;
    result->has_engram = true;
    result->gather_rows_s_per_core = em_median(rate, EM_BENCH_ROUNDS);
    return 0;
}
