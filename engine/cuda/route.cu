/* The router's choice and the grouping of (token, expert) pairs by expert, without a read by the host (spec 4.10). */
#include <float.h>

#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/reduce.cuh"

enum { ROUTE_WARPS = 4 };

static __device__ float router_score(em_cuda_scoring scoring, float z)
{
    if (scoring == EM_CUDA_SIGMOID)
        return 1.0f / (1.0f + expf(-z));
    return sqrtf(z > 20.0f ? z : log1pf(expf(z))); /* sqrt of softplus, linear above 20 */
}

/* Logits -> scores in place, by one warp; each lane reads back only what it wrote. */
static __device__ void score_experts(const em_cuda_route_args &a, float *p)
{
    float top = -INFINITY, sum = 0.0f;
    for (int e = (int)lane_id(); e < a.n_experts; e += WARP) {
        float z = p[e] / a.gate_temp;
        p[e] = a.scoring == EM_CUDA_SOFTMAX ? z : router_score(a.scoring, z);
        top = fmaxf(top, z);
    }
    if (a.scoring != EM_CUDA_SOFTMAX)
        return;
    top = lanes_max(top, WARP);
    for (int e = (int)lane_id(); e < a.n_experts; e += WARP)
        sum += p[e] = expf(p[e] - top);
    sum = warp_sum(sum);
    for (int e = (int)lane_id(); e < a.n_experts; e += WARP)
        p[e] /= sum;
}

/* The best expert not taken yet: largest biased score, ties to the lowest number. Whatever a broken model computes,
 * NaN and -inf count as the lowest finite score, so that different experts come out. */
static __device__ int next_expert(const em_cuda_route_args &a, const float *p, uint64_t taken)
{
    float best = -INFINITY;
    int id = INT32_MAX;
    for (int e = (int)lane_id(), n = 0; e < a.n_experts; e += WARP, n++) {
        float v = p[e] + a.bias[e];
        v = v > -FLT_MAX ? v : -FLT_MAX;
        if (!(taken >> n & 1) && v > best) {
            best = v;
            id = e;
        }
    }
#pragma unroll
    for (int off = WARP / 2; off > 0; off /= 2) {
        float v = __shfl_xor_sync(ALL_LANES, best, off);
        int e = __shfl_xor_sync(ALL_LANES, id, off);
        if (v > best || (v == best && e < id)) {
            best = v;
            id = e;
        }
    }
    return id;
}

/* One warp per token. The bias steers the choice only. */
static __global__ void route(const em_cuda_route_args a)
{
    int64_t token = (int64_t)blockIdx.x * ROUTE_WARPS + warp_id();
    if (token >= a.n_tokens)
        return;
    float *p = a.router + token * a.n_experts, *weight = a.expert_w + token * a.k, sum = 0.0f;
    int32_t *chosen = a.expert_id + token * a.k;
    uint64_t taken = 0; /* bit n: expert n * 32 + lane */
    score_experts(a, p);
    __syncwarp();
    for (int i = 0; i < a.k; i++) {
        int id = next_expert(a, p, taken);
        if ((unsigned)id % WARP == lane_id())
            taken |= 1ull << (id / WARP);
        sum += p[id];
        if (lane_id() == 0)
            chosen[i] = id;
    }
    __syncwarp();
    for (int i = (int)lane_id(); i < a.k; i += WARP) {
        float w = p[chosen[i]];
        if (a.norm_topk_prob && a.k > 1)
            w /= sum + 1e-20f;
        weight[i] = w * a.scaling;
    }
}

int em_cuda_route(em_cuda_stream s, const em_cuda_route_args *a)
{
    return a->n_tokens ? LAUNCH(route, blocks_for(a->n_tokens, ROUTE_WARPS), ROUTE_WARPS * WARP, 0, s, *a) : 0;
}

/* One block: pairs of each expert, where each expert begins, and the items. Counting is exact in any order. */
static __global__ void count_experts(const em_cuda_dispatch_args a)
{
    DYN_SHARED(int, count); /* [E] */
    SHARED(int, used, [1]);
    int E = a.n_experts, pairs = a.n_tokens * a.k;
    for (int e = (int)threadIdx.x; e < E; e += (int)blockDim.x)
        count[e] = 0;
    if (threadIdx.x == 0)
        used[0] = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < pairs; i += (int)blockDim.x)
        atomicAdd(&count[a.expert_id[i]], 1);
    __syncthreads();
    /* number E stands for the shared expert, E + 1 for the end */
    for (int e = (int)threadIdx.x; e <= E + 1; e += (int)blockDim.x) {
        int begin = 0, item = 0;
        for (int i = 0; i < e && i < E; i++) {
            begin += count[i];
            item += (count[i] + EM_CUDA_ITEM_TOKENS - 1) / EM_CUDA_ITEM_TOKENS;
        }
        int n = e < E ? count[e] : a.n_tokens;
        a.expert_begin[e] = e <= E ? begin : begin + a.n_tokens;
        for (int i = 0; e <= E && i < n; i += EM_CUDA_ITEM_TOKENS)
            a.item[item++] = {e, begin + i, min(n - i, (int)EM_CUDA_ITEM_TOKENS)};
        if (e == E)
            *a.n_items = item;
        if (e < E && n > 0)
            atomicAdd(&used[0], 1);
    }
    __syncthreads();
    if (threadIdx.x == 0 && a.experts_read)
        *a.experts_read += (uint64_t)used[0];
}

/* How many of a token's experts come before this one. */
static __device__ int rank_of(const em_cuda_dispatch_args &a, int token, int expert)
{
    int n = 0;
    for (int i = 0; i < a.k; i++)
        n += a.expert_id[(int64_t)token * a.k + i] < expert;
    return n;
}

/* One warp per expert: its pairs in the order of tokens. */
static __global__ void place_entries(const em_cuda_dispatch_args a)
{
    int expert = (int)blockIdx.x, k = a.k, at = a.expert_begin[expert], end = a.expert_begin[expert + 1];
    if (expert == a.n_experts) {
        for (int t = (int)lane_id(); t < a.n_tokens; t += WARP) {
            a.entry[at + t] = {t, expert, 1.0f};
            a.entry_of[(int64_t)t * (k + 1) + k] = at + t;
        }
        return;
    }
    for (int base = 0; at < end; base += WARP) {
        int i = base + (int)lane_id();
        bool mine = i < a.n_tokens * k && a.expert_id[i] == expert;
        unsigned votes = __ballot_sync(ALL_LANES, mine);
        if (mine) {
            int e = at + __popc(votes & ((1u << lane_id()) - 1)), token = i / k;
            a.entry[e] = {token, expert, a.expert_w[i]};
            a.entry_of[(int64_t)token * (k + 1) + rank_of(a, token, expert)] = e;
        }
        at += __popc(votes);
    }
}

int em_cuda_dispatch(em_cuda_stream s, const em_cuda_dispatch_args *a)
{
    if (a->n_tokens == 0)
        return 0;
    unsigned threads = a->n_tokens * a->k > 256 ? 1024 : 256;
    int r = LAUNCH(count_experts, 1, threads, (unsigned)a->n_experts * sizeof(int), s, *a);
    return r ? r : LAUNCH(place_entries, (unsigned)a->n_experts + 1, WARP, 0, s, *a);
}
