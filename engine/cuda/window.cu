/* The window of exact attention: latents of the step, packed as the ring stores them, and the ring (spec 4.6). */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/rope.cuh"
#include "engine/cuda/rows.cuh"

/* One block per token. */
static __global__ void window(const em_cuda_window_args a)
{
    DYN_SHARED(float, k); /* [D] */
    int64_t token = blockIdx.x;
    int D = a.state.head_dim, pairs = a.rope.n_pairs;
    block_rmsnorm(k, a.kv + token * D, a.kv_norm, D, a.norm_eps);
    __syncthreads();
    rotate_tail(k, D, a.rope.cos + token * pairs, a.rope.sin + token * pairs, pairs, 1.0f, (int)threadIdx.x,
                (int)blockDim.x);
    __syncthreads();
    store_window(a.state, a.win + token * a.state.window_row, k);
    float *lat = a.q_lat + token * a.q_rank;
    block_rmsnorm(lat, lat, a.q_norm, a.q_rank, a.norm_eps);
}

int em_cuda_window(em_cuda_stream s, const em_cuda_window_args *a)
{
    size_t shared = (size_t)a->state.head_dim * sizeof(float);
    return a->n_tokens ? LAUNCH(window, (unsigned)a->n_tokens, 256, shared, s, *a) : 0;
}

/* One block per token. */
static __global__ void window_store(const em_cuda_window_store_args a)
{
    int token = (int)blockIdx.x, seq = a.step.seq_of[token];
    if (a.step.run_len[seq] - (token - a.step.run_start[seq]) > a.state.window)
        return; /* a later token of the run takes its place */
    uint8_t *row = ring_row(a.state, a.step.slot[seq], a.layer, a.step.pos[token]);
    const uint8_t *from = a.win + (int64_t)token * a.state.window_row;
    for (int i = (int)threadIdx.x; i < a.state.window_row; i += (int)blockDim.x)
        row[i] = from[i];
}

int em_cuda_window_store(em_cuda_stream s, const em_cuda_window_store_args *a)
{
    return a->step.n_tokens ? LAUNCH(window_store, (unsigned)a->step.n_tokens, 128, 0, s, *a) : 0;
}
