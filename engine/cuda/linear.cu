/* Dense products and row norms. One kernel for every number of inputs: decode and prefill give the same bits. */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/dot.cuh"
#include "engine/cuda/kernels.h"

enum { WARPS = 4 };

typedef struct linear_args {
    em_cuda_linear_job job[EM_CUDA_MAX_JOBS];
    dot_mode mode[EM_CUDA_MAX_JOBS];
    unsigned first[EM_CUDA_MAX_JOBS + 1];  /* first block of each job */
    unsigned group_tiles[EM_CUDA_MAX_JOBS]; /* blocks of one group */
} linear_args;

/* One warp: up to R rows of one group times up to M inputs. */
template <int M, int R> static __global__ void __launch_bounds__(WARPS *WARP) linear(const linear_args a)
{
    int j = 0;
    while (blockIdx.x >= a.first[j + 1])
        j++;
    const em_cuda_linear_job &job = a.job[j];
    unsigned tile = blockIdx.x - a.first[j];
    int64_t group = tile / a.group_tiles[j];
    int64_t row0 = job.row_begin + group * job.rows_per_group;
    int64_t end = min(row0 + job.rows_per_group, job.row_end);
    row0 += ((int64_t)(tile % a.group_tiles[j]) * WARPS + warp_id()) * R;
    int64_t m0 = (int64_t)blockIdx.y * M;
    if (row0 >= end || m0 >= job.n_rows)
        return;
    int64_t row[R];
    const float *x[M];
#pragma unroll
    for (int r = 0; r < R; r++)
        row[r] = min(row0 + r, end - 1);
#pragma unroll
    for (int m = 0; m < M; m++)
        x[m] = job.x + min(m0 + m, (int64_t)job.n_rows - 1) * job.x_stride + group * job.w.cols;
    float sum = dot_rows<R, M>(job.w, row, x, a.mode[j]);
    int r, m;
    if (dot_place<R, M>(&r, &m) && row0 + r < end && m0 + m < job.n_rows)
        job.y[(m0 + m) * job.y_stride + row0 + r] = sum;
}

/* Blocks of all jobs, R rows a warp. */
static linear_args plan_linear(const em_cuda_linear_job *jobs, int32_t n_jobs, em_cuda_math math, int rows_per_warp)
{
    linear_args a = {};
    unsigned block = 0;
    for (int32_t i = 0; i < EM_CUDA_MAX_JOBS; i++) {
        a.first[i] = block;
        if (i >= n_jobs || jobs[i].row_end <= jobs[i].row_begin)
            continue;
        a.job[i] = jobs[i];
        a.mode[i] = dot_mode_of(jobs[i].w, jobs[i].x, jobs[i].x_stride, math == EM_CUDA_MATH_BF16);
        a.group_tiles[i] = blocks_for(jobs[i].rows_per_group, WARPS * rows_per_warp);
        block += a.group_tiles[i] * blocks_for(jobs[i].row_end - jobs[i].row_begin, jobs[i].rows_per_group);
    }
    a.first[EM_CUDA_MAX_JOBS] = block;
    return a;
}

int em_cuda_linear(em_cuda_stream s, const em_cuda_linear_job *jobs, int32_t n_jobs, em_cuda_math math)
{
    int32_t m = 0;
    for (int32_t i = 0; i < n_jobs; i++)
        m = jobs[i].n_rows > m ? jobs[i].n_rows : m;
    linear_args a = plan_linear(jobs, n_jobs, math, m == 1 ? 2 : 4);
    unsigned blocks = a.first[EM_CUDA_MAX_JOBS];
    if (m == 0 || blocks == 0)
        return 0;
    if (m == 1)
        return LAUNCH((linear<1, 2>), blocks, WARPS * WARP, 0, s, a);
    if (m <= 4)
        return LAUNCH((linear<4, 4>), blocks, WARPS * WARP, 0, s, a);
    return LAUNCH((linear<8, 4>), dim3(blocks, blocks_for(m, 8)), WARPS * WARP, 0, s, a);
}

static __global__ void rmsnorm(const em_cuda_rmsnorm_args a)
{
    int64_t at = (int64_t)blockIdx.x * a.stride;
    block_rmsnorm(a.y + at, a.x + at, a.w, a.width, a.eps);
}

int em_cuda_rmsnorm(em_cuda_stream s, const em_cuda_rmsnorm_args *a)
{
    return a->n_rows ? LAUNCH(rmsnorm, (unsigned)a->n_rows, 256, 0, s, *a) : 0;
}
