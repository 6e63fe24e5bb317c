/* Weight products and row norms over the step's tokens, cut into items for the pool. */
#include "engine/cpu/cpu.h"

#include <math.h>

#include "engine/base/clock.h"
#include "engine/cpu/pack.h"

#define EM_TILE_BYTES INT64_C(131072) /* weights of one item: large enough to stream, small enough to balance */
#define EM_TILE_MAX_ROWS 256

/* Rows of w in one item. Never changes a result: an output element is always computed whole. */
static int64_t tile_rows(const em_matrix *w)
{
    int64_t rows = EM_TILE_BYTES / (int64_t)em_matrix_row_bytes(w) / EM_STRIP_ROWS * EM_STRIP_ROWS;
    if (rows < EM_STRIP_ROWS)
        rows = EM_STRIP_ROWS;
    return rows < EM_TILE_MAX_ROWS ? rows : EM_TILE_MAX_ROWS;
}

typedef struct linear_call {
    const em_cpu *c;
    const em_linear_job *jobs;
    int n_jobs;
    int64_t first[EM_MAX_LINEAR_JOBS + 1]; /* first item of each job */
    int64_t tile[EM_MAX_LINEAR_JOBS];      /* rows of an item */
    int64_t blocks[EM_MAX_LINEAR_JOBS];    /* token blocks; consecutive items share their weights */
} linear_call;

static void linear_item(void *ctx, int64_t item, int worker)
{
    const linear_call *call = ctx;
    int i = 0;
    while (item >= call->first[i + 1])
        i++;
    const em_linear_job *job = &call->jobs[i];
    int64_t local = item - call->first[i];
    int64_t row = job->row_begin + local / call->blocks[i] * call->tile[i];
    int64_t m = local % call->blocks[i] * EM_TOKEN_BLOCK;
    int64_t row_end = row + call->tile[i] < job->row_end ? row + call->tile[i] : job->row_end;
    int64_t n = job->n_rows - m < EM_TOKEN_BLOCK ? job->n_rows - m : EM_TOKEN_BLOCK;
    call->c->k.gemm[job->w->dtype](job->w, row, row_end, job->x + m * job->x_stride, job->x_stride, n,
                                   job->y + m * job->y_stride, job->y_stride);
}

void em_cpu_linear(em_cpu *c, const em_linear_job *jobs, int n_jobs)
{
    linear_call call = {.c = c, .jobs = jobs, .n_jobs = n_jobs};
    int64_t items = 0;
    for (int i = 0; i < n_jobs; i++) {
        call.first[i] = items;
        call.tile[i] = tile_rows(jobs[i].w);
        call.blocks[i] = (jobs[i].n_rows + EM_TOKEN_BLOCK - 1) / EM_TOKEN_BLOCK;
        items += (jobs[i].row_end - jobs[i].row_begin + call.tile[i] - 1) / call.tile[i] * call.blocks[i];
    }
    call.first[n_jobs] = items;
    uint64_t start_ns = em_now_ns();
    em_pool_run(c->pool, linear_item, &call, items);
    c->base.linear_ns += em_now_ns() - start_ns;
}

em_linear_job em_cpu_job(const em_cpu *c, const em_matrix *w, const float *x, int64_t x_stride, float *y)
{
    return (em_linear_job){
        .w = w, .row_end = w->rows, .x = x, .x_stride = x_stride, .y = y, .y_stride = w->rows, .n_rows = c->n_tokens};
}

void em_cpu_rmsnorm(const em_cpu *c, float *y, const float *x, const float *w, int64_t n)
{
    float mean = c->k.sum_sq(x, n) / (float)n;
    c->k.scale_mul(y, x, w, 1.0f / sqrtf(mean + c->cfg->norm_eps), n);
}

void em_cpu_each_token(em_cpu *c, em_pool_fn fn)
{
    em_pool_run(c->pool, fn, c, c->n_tokens);
}
