/* The end of a step: collapse and norm of the tokens whose logits are wanted (spec 4.2, 4.11), and the greedy choice. */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/reduce.cuh"

static __global__ void head(const em_cuda_head_args a)
{
    int64_t token = a.index[blockIdx.x], H = a.hidden;
    const float *streams = a.streams + token * a.hc * H, *pre = a.pre + token * a.hc;
    float *last = a.last + (int64_t)blockIdx.x * H;
    for (int64_t d = threadIdx.x; d < H; d += blockDim.x) {
        float v = pre[0] * streams[d];
        for (int s = 1; s < a.hc; s++)
            v += pre[s] * streams[s * H + d];
        last[d] = v;
    }
    block_rmsnorm(last, last, a.norm, H, a.norm_eps);
}

int em_cuda_head(em_cuda_stream s, const em_cuda_head_args *a)
{
    return a->n_logits ? LAUNCH(head, (unsigned)a->n_logits, 256, 0, s, *a) : 0;
}

enum { ARGMAX_THREADS = 1024 };

static __global__ void argmax(const em_cuda_argmax_args a)
{
    SHARED(float, best_of, [ARGMAX_THREADS]);
    SHARED(int, id_of, [ARGMAX_THREADS]);
    const float *logits = a.logits + (int64_t)blockIdx.x * a.vocab;
    float best = -INFINITY;
    int id = 0;
    for (int i = (int)threadIdx.x; i < a.vocab; i += ARGMAX_THREADS) {
        if (logits[i] > best) {
            best = logits[i];
            id = i;
        }
    }
    best_of[threadIdx.x] = best;
    id_of[threadIdx.x] = id;
    for (unsigned n = ARGMAX_THREADS / 2; n > 0; n /= 2) {
        __syncthreads();
        if (threadIdx.x >= n)
            continue;
        unsigned o = threadIdx.x + n;
        bool better = best_of[o] > best_of[threadIdx.x];
        if (better || (best_of[o] == best_of[threadIdx.x] && id_of[o] < id_of[threadIdx.x])) {
            best_of[threadIdx.x] = best_of[o];
            id_of[threadIdx.x] = id_of[o];
        }
    }
    if (threadIdx.x == 0)
        a.id[blockIdx.x] = id_of[0];
}

int em_cuda_argmax(em_cuda_stream s, const em_cuda_argmax_args *a)
{
    return a->n_rows ? LAUNCH(argmax, (unsigned)a->n_rows, ARGMAX_THREADS, 0, s, *a) : 0;
}
