/* The compressor of a KV source (spec 4.7, 4.9): groups of `ratio` tokens -> one latent, its index key, and the stored
 * rows of both. A group belongs to its last token; tokens of one that is not complete wait in the sequence's slot. */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/rope.cuh"
#include "engine/cuda/rows.cuh"

/* kv and gate rows of position p of a run: in the step, or waiting in the slot. */
static __device__ void member_rows(const em_cuda_compress_args &a, int seq, int p, const float **ret_kv,
                                   const float **ret_gate)
{
    int64_t D = a.state.head_dim, ratio = a.source.ratio;
    if (p >= a.step.run_pos[seq]) {
        int64_t token = a.step.run_start[seq] + p - a.step.run_pos[seq];
        *ret_kv = a.comp_kv + token * D;
        *ret_gate = a.comp_gate + token * D;
        return;
    }
    const float *open = open_group(a.state, a.source, a.step.slot[seq]);
    *ret_kv = open + p % ratio * D;
    *ret_gate = open + (ratio - 1 + p % ratio) * D;
}

/* Softmax of the gates over the group's tokens, weighted sum of kv, in channel d. */
static __device__ float pool_channel(const em_cuda_compress_args &a, int seq, int first, int d)
{
    const float *kv, *gate;
    float top = -INFINITY, sum = 0.0f, acc = 0.0f;
    for (int i = 0; i < a.source.ratio; i++) {
        member_rows(a, seq, first + i, &kv, &gate);
        top = i == 0 || gate[d] > top ? gate[d] : top;
    }
    for (int i = 0; i < a.source.ratio; i++) {
        member_rows(a, seq, first + i, &kv, &gate);
        float e = expf(gate[d] - top);
        sum += e;
        acc += e * kv[d];
    }
    return acc / sum;
}

/* One block per token. */
static __global__ void compress(const em_cuda_compress_args a)
{
    int64_t token = blockIdx.x;
    int D = a.state.head_dim, ratio = a.source.ratio, pos = a.step.pos[token], seq = a.step.seq_of[token];
    float *latent = a.latent + token * D;
    bool completes = (pos + 1) % ratio == 0;
    for (int d = (int)threadIdx.x; d < D; d += (int)blockDim.x) {
        float v = 0.0f;
        if (completes)
            v = ratio == 1 ? a.comp_kv[token * D + d] : pool_channel(a, seq, pos + 1 - ratio, d);
        latent[d] = v;
    }
    if (completes)
        block_rmsnorm(latent, latent, a.comp_norm, D, a.norm_eps);
}

int em_cuda_compress(em_cuda_stream s, const em_cuda_compress_args *a)
{
    return a->step.n_tokens ? LAUNCH(compress, (unsigned)a->step.n_tokens, 256, 0, s, *a) : 0;
}

/* Key and latent of a complete group. The key comes from the latent before it is rotated and quantised (spec 8.4 item
 * 19); both turn at the group's first position. */
static __device__ void store_group(const em_cuda_comp_store_args &a, int64_t token, int seq, int j)
{
    int D = a.state.head_dim, I = a.state.index_head_dim;
    float *key = a.index_key + token * I, *latent = a.latent + token * D;
    float first = (float)(j * a.source.ratio);
    block_rmsnorm(key, key, a.index_k_norm, I, a.norm_eps);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < a.n_pairs; i += (int)blockDim.x) {
        float angle = first * a.freq_comp[i], c = cosf(angle), s = sinf(angle);
        rotate_pair(key + I - 2 * a.n_pairs + 2 * i, c, s);
        rotate_pair(latent + D - 2 * a.n_pairs + 2 * i, c, s);
    }
    __syncthreads();
    store_key(a.state, key_row(a.step, a.state, a.source, seq, j), key);
    store_comp(a.state, comp_row(a.step, a.state, a.source, seq, j), latent);
}

/* One block per token: it completes a group, or waits for the next step, or lies inside a group of this step. */
static __global__ void comp_store(const em_cuda_comp_store_args a)
{
    int64_t token = blockIdx.x;
    int D = a.state.head_dim, ratio = a.source.ratio, pos = a.step.pos[token], seq = a.step.seq_of[token];
    if ((pos + 1) % ratio == 0) {
        store_group(a, token, seq, pos / ratio);
        return;
    }
    int end = a.step.run_pos[seq] + a.step.run_len[seq];
    if (pos < end / ratio * ratio)
        return;
    float *open = open_group(a.state, a.source, a.step.slot[seq]);
    for (int d = (int)threadIdx.x; d < D; d += (int)blockDim.x) {
        open[(int64_t)(pos % ratio) * D + d] = a.comp_kv[token * D + d];
        open[(int64_t)(ratio - 1 + pos % ratio) * D + d] = a.comp_gate[token * D + d];
    }
}

int em_cuda_comp_store(em_cuda_stream s, const em_cuda_comp_store_args *a)
{
    return a->step.n_tokens ? LAUNCH(comp_store, (unsigned)a->step.n_tokens, 256, 0, s, *a) : 0;
}
