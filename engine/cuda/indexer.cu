/* The indexer (spec 4.8, 4.9): queries on the quantiser's grid, and scores of every visible compressed position. */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/rope.cuh"
#include "engine/cuda/rows.cuh"

enum {
    QUERY_WARPS = 4,
    KEYS = WARP,       /* keys of a block: lane i has key i */
    SCORE_WARPS = 4,   /* each takes HEADS heads at a time */
    HEADS = 4,
    HEADS_AT_ONCE = 32, /* whose dot products wait in shared memory to be added in order */
    TOKENS = 8,        /* of a block: they share its decoded keys */
};

/* One warp per (token, head). */
static __global__ void index_query(const em_cuda_index_query_args a)
{
    int64_t i = (int64_t)blockIdx.x * QUERY_WARPS + warp_id(), token = i / a.n_heads;
    int n = a.state.index_head_dim, pairs = a.rope.n_pairs, lane = (int)lane_id();
    if (token >= a.n_tokens)
        return;
    float *q = a.index_q + i * n;
    rotate_tail(q, n, a.rope.cos + token * pairs, a.rope.sin + token * pairs, pairs, 1.0f, lane, WARP);
    __syncwarp();
    if (!a.state.pack_key)
        return;
    for (int at = lane; at < n; at += WARP) { /* Q4: the query lives on the same grid as the keys */
        unsigned scale, code = encode_e2m1_b32(q[at], &scale);
        q[at] = e2m1_value(code) * e8m0_value(scale);
    }
}

int em_cuda_index_query(em_cuda_stream s, const em_cuda_index_query_args *a)
{
    long long n = (long long)a->n_tokens * a->n_heads;
    return n ? LAUNCH(index_query, blocks_for(n, QUERY_WARPS), QUERY_WARPS * WARP, 0, s, *a) : 0;
}

static __device__ int visible(const em_cuda_step &step, const em_cuda_source &src, int64_t token)
{
    return (step.pos[token] + 1) / src.ratio;
}

/* Dot products of one key (this lane's) with HEADS heads from `head` on, into dots [heads][KEYS]. */
static __device__ void score_heads(const em_cuda_index_scores_args &a, const float *key, const float *q, int head,
                                   float *dots)
{
    int width = a.state.index_head_dim;
    float acc[HEADS] = {0};
    const float *of[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++)
        of[h] = q + (int64_t)min(head + h, a.n_heads - 1) * width;
    for (int i = 0; i < width; i++) {
        float k = key[i];
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            acc[h] = fmaf(k, __ldg(of[h] + i), acc[h]);
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++)
        dots[h * KEYS] = acc[h];
}

/* Scores of one token against the block's keys; every warp takes part. keys [KEYS][width + 1]. */
static __device__ void score_token(const em_cuda_index_scores_args &a, int64_t token, int first, const float *keys,
                                   float *dots)
{
    int width = a.state.index_head_dim, lane = (int)lane_id(), heads = a.n_heads;
    float dot_scale = 1.0f / sqrtf((float)width), weight_scale = 1.0f / sqrtf((float)heads), sum = 0.0f;
    const float *q = a.index_q + token * heads * width, *weight = a.index_w + token * heads;
    for (int base = 0; base < heads; base += HEADS_AT_ONCE) {
        for (int h = (int)warp_id() * HEADS; h < HEADS_AT_ONCE && base + h < heads; h += SCORE_WARPS * HEADS)
            score_heads(a, keys + lane * (width + 1), q, base + h, dots + h * KEYS + lane);
        __syncthreads();
        for (int h = 0; h < HEADS_AT_ONCE && base + h < heads && warp_id() == 0; h++) {
            float dot = dots[h * KEYS + lane];
            sum += (dot > 0.0f ? dot : 0.0f) * dot_scale * (weight[base + h] * weight_scale);
        }
        __syncthreads();
    }
    int j = first + lane;
    if (warp_id() == 0 && j < visible(a.step, a.source, token))
        a.scores[(token - a.token_begin) * a.score_stride + j] = sum;
}

/* Grid: (key blocks, groups of tokens). Tokens of one run that follow each other use the same decoded keys. */
static __global__ void __launch_bounds__(SCORE_WARPS *WARP) index_scores(const em_cuda_index_scores_args a)
{
    DYN_SHARED(float, keys);
    int width = a.state.index_head_dim, first = (int)blockIdx.x * KEYS, have = -1;
    float *dots = keys + KEYS * (width + 1);
    int64_t begin = a.token_begin + (int64_t)blockIdx.y * TOKENS;
    int64_t end = min(begin + TOKENS, (int64_t)a.token_begin + a.n_rows);
    for (int64_t token = begin; token < end; token++) {
        int seq = a.step.seq_of[token], seen = visible(a.step, a.source, token);
        if (first >= seen)
            continue;
        /* a later token of the run sees more keys: those of the whole run are decoded the first time */
        int last = (a.step.run_pos[seq] + a.step.run_len[seq]) / a.source.ratio;
        for (int j = (int)warp_id(); j < KEYS && have != seq; j += SCORE_WARPS) {
            const uint8_t *row = first + j < last ? key_row(a.step, a.state, a.source, seq, first + j) : NULL;
            for (int i = (int)lane_id(); i < width; i += WARP)
                keys[j * (width + 1) + i] = row ? key_value(a.state, row, i) : 0.0f;
        }
        have = seq;
        __syncthreads();
        score_token(a, token, first, keys, dots);
    }
}

int em_cuda_index_scores(em_cuda_stream s, const em_cuda_index_scores_args *a)
{
    size_t shared = (size_t)(KEYS * (a->state.index_head_dim + 1) + HEADS_AT_ONCE * KEYS) * sizeof(float);
    dim3 grid(blocks_for(a->n_keys, KEYS), blocks_for(a->n_rows, TOKENS));
    return a->n_rows && a->n_keys ? LAUNCH(index_scores, grid, SCORE_WARPS * WARP, shared, s, *a) : 0;
}
