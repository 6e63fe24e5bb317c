/* Products of the experts over the items of a step, and the sum of each token's experts (spec 4.10 steps 4, 5). */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/dot.cuh"
#include "engine/cuda/kernels.h"

enum {
    WARPS = 4,
    UP_ROWS = 2,   /* of each of w1 and w3, in a warp */
    DOWN_ROWS = 4, /* of w2 */
};

static __device__ float swiglu(float g, float u, float limit, float weight)
{
    if (limit > 0) {
        g = g > limit ? limit : g;
        u = u > limit ? limit : u < -limit ? -limit : u;
    }
    return weight * (g / (1.0f + expf(-g)) * u);
}

template <int R> static __device__ void rows_from(int64_t row0, int64_t end, int64_t (&row)[R])
{
#pragma unroll
    for (int r = 0; r < R; r++)
        row[r] = min(row0 + r, end - 1);
}

/* Gate and up rows of up to M entries, then SwiGLU: a lane has the same element of both. */
template <int M> static __device__ void up_rows(const em_cuda_moe_args &a, const em_cuda_item &item, int64_t row0)
{
    const em_cuda_expert &e = a.expert[item.expert];
    int64_t row[UP_ROWS];
    const float *x[M];
    rows_from(row0, a.inter, row);
#pragma unroll
    for (int m = 0; m < M; m++)
        x[m] = a.x + (int64_t)a.entry[item.entry + min(m, item.n - 1)].token * a.hidden;
    float g = 0.0f, u = 0.0f;
#pragma unroll 1 /* one copy of the code for both */
    for (int i = 0; i < 2; i++) {
        const em_matrix &w = i == 0 ? e.w1 : e.w3;
        g = u;
        u = dot_rows<UP_ROWS, M>(w, row, x, dot_mode_of(w, a.x, a.hidden, a.math == EM_CUDA_MATH_BF16));
    }
    int r, m;
    if (dot_place<UP_ROWS, M>(&r, &m) && row0 + r < a.inter && m < item.n)
        a.act[(int64_t)(item.entry + m) * a.inter + row0 + r] =
            swiglu(g, u, a.swiglu_limit, a.entry[item.entry + m].weight);
}

/* Grid: (rows, items). */
static __global__ void __launch_bounds__(WARPS *WARP) expert_up(const em_cuda_moe_args a)
{
    int64_t row0 = ((int64_t)blockIdx.x * WARPS + warp_id()) * UP_ROWS;
    if ((int)blockIdx.y >= *a.n_items || row0 >= a.inter)
        return;
    em_cuda_item item = a.item[blockIdx.y];
    if (item.n == 1)
        up_rows<1>(a, item, row0);
    else if (item.n <= 4)
        up_rows<4>(a, item, row0);
    else
        up_rows<8>(a, item, row0);
}

template <int M> static __device__ void down_rows(const em_cuda_moe_args &a, const em_cuda_item &item, int64_t row0)
{
    const em_matrix &w = a.expert[item.expert].w2;
    int64_t row[DOWN_ROWS];
    const float *x[M];
    rows_from(row0, a.hidden, row);
#pragma unroll
    for (int m = 0; m < M; m++)
        x[m] = a.act + (int64_t)(item.entry + min(m, item.n - 1)) * a.inter;
    float sum = dot_rows<DOWN_ROWS, M>(w, row, x, dot_mode_of(w, a.act, a.inter, a.math == EM_CUDA_MATH_BF16));
    int r, m;
    if (dot_place<DOWN_ROWS, M>(&r, &m) && row0 + r < a.hidden && m < item.n)
        a.part[(int64_t)(item.entry + m) * a.hidden + row0 + r] = sum;
}

static __global__ void __launch_bounds__(WARPS *WARP) expert_down(const em_cuda_moe_args a)
{
    int64_t row0 = ((int64_t)blockIdx.x * WARPS + warp_id()) * DOWN_ROWS;
    if ((int)blockIdx.y >= *a.n_items || row0 >= a.hidden)
        return;
    em_cuda_item item = a.item[blockIdx.y];
    if (item.n == 1)
        down_rows<1>(a, item, row0);
    else if (item.n <= 4)
        down_rows<4>(a, item, row0);
    else
        down_rows<8>(a, item, row0);
}

static dim3 moe_grid(const em_cuda_moe_args *a, int64_t rows, int64_t rows_per_warp)
{
    return dim3(blocks_for(rows, WARPS * rows_per_warp), (unsigned)em_cuda_item_cap(a->n_tokens, a->n_experts, a->k));
}

int em_cuda_expert_up(em_cuda_stream s, const em_cuda_moe_args *a)
{
    return a->n_tokens ? LAUNCH(expert_up, moe_grid(a, a->inter, UP_ROWS), WARPS * WARP, 0, s, *a) : 0;
}

int em_cuda_expert_down(em_cuda_stream s, const em_cuda_moe_args *a)
{
    return a->n_tokens ? LAUNCH(expert_down, moe_grid(a, a->hidden, DOWN_ROWS), WARPS * WARP, 0, s, *a) : 0;
}

/* One thread per (token, column); entries in ascending expert order, the shared one last. */
static __global__ void combine(const em_cuda_moe_args a)
{
    int64_t token = blockIdx.y, d = global_thread();
    if (d >= a.hidden)
        return;
    const int32_t *entry = a.entry_of + token * (a.k + 1);
    float sum = a.part[(int64_t)entry[0] * a.hidden + d];
    for (int i = 1; i <= a.k; i++)
        sum += a.part[(int64_t)entry[i] * a.hidden + d];
    a.y[token * a.hidden + d] = sum;
}

int em_cuda_combine(em_cuda_stream s, const em_cuda_moe_args *a)
{
    dim3 grid(blocks_for(a->hidden, 256), (unsigned)a->n_tokens);
    return a->n_tokens ? LAUNCH(combine, grid, 256, 0, s, *a) : 0;
}
