/* Hyper-connections (spec 4.2, 4.3): the mix of a site in parts of columns, its end together with collapse and norm, and
 * expand. */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/numbers.cuh"
#include "engine/cuda/reduce.cuh"

enum {
    MIX_THREADS = 256,
    MIX_TOKENS = 4, /* of a block: they share its part of fn */
    MAX_HC = 8,
    MAX_MIX = (2 + MAX_HC) * MAX_HC,
};

/* One block: a part of the columns for up to MIX_TOKENS tokens; a warp takes every eighth row. */
static __global__ void hc_mix(const em_cuda_hc_mix_args a)
{
    int64_t width = a.fn.cols, begin = (int64_t)blockIdx.x * EM_CUDA_HC_COLS, parts = gridDim.x;
    int64_t end = begin + EM_CUDA_HC_COLS < width ? begin + EM_CUDA_HC_COLS : width;
    int64_t first = (int64_t)blockIdx.y * MIX_TOKENS;
    int n = a.n_tokens - first < MIX_TOKENS ? (int)(a.n_tokens - first) : MIX_TOKENS;
    unsigned lane = lane_id();
    for (int64_t row = warp_id(); row < a.fn.rows; row += MIX_THREADS / WARP) {
        float acc[MIX_TOKENS] = {0};
        for (int64_t c = begin + lane; c < end; c += WARP) {
            float w = matrix_value(a.fn, row, c);
#pragma unroll
            for (int m = 0; m < MIX_TOKENS; m++)
                acc[m] = fmaf(w, a.streams[(first + min(m, n - 1)) * width + c], acc[m]);
        }
        float sum = warp_sums<MIX_TOKENS>(acc);
        int m = (int)lane / (WARP / MIX_TOKENS);
        if (lane % (WARP / MIX_TOKENS) == 0 && m < n)
            a.part[((first + m) * parts + blockIdx.x) * a.fn.rows + row] = sum;
    }
    for (int m = (int)warp_id(); m < n; m += MIX_THREADS / WARP) {
        double sq = 0.0;
        for (int64_t c = begin + lane; c < end; c += WARP) {
            double v = a.streams[(first + m) * width + c];
            sq += v * v;
        }
        sq = warp_sum(sq);
        if (lane == 0)
            a.part_sq[(first + m) * parts + blockIdx.x] = sq;
    }
}

int em_cuda_hc_mix(em_cuda_stream s, const em_cuda_hc_mix_args *a)
{
    dim3 grid(blocks_for(a->fn.cols, EM_CUDA_HC_COLS), blocks_for(a->n_tokens, MIX_TOKENS));
    return a->n_tokens ? LAUNCH(hc_mix, grid, MIX_THREADS, 0, s, *a) : 0;
}

static __device__ float sigmoid(float v)
{
    return 1.0f / (1.0f + expf(-v));
}

/* Divides every row (step 1) or column (step hc) of m by its sum + eps; by one warp. */
static __device__ void normalise(float *m, int hc, bool columns, float eps)
{
    float next[MAX_HC * MAX_HC / WARP];
    for (int i = (int)lane_id(), n = 0; i < hc * hc; i += WARP, n++) {
        float sum = 0.0f;
        for (int k = 0; k < hc; k++)
            sum += columns ? m[k * hc + i % hc] : m[i / hc * hc + k];
        next[n] = m[i] / (sum + eps);
    }
    __syncwarp();
    for (int i = (int)lane_id(), n = 0; i < hc * hc; i += WARP, n++)
        m[i] = next[n];
    __syncwarp();
}

/* Row softmax, then columns and rows in turn; ends with columns. m [hc, hc] in shared memory; by one warp. */
static __device__ void sinkhorn(float *m, int hc, int iters, float eps)
{
    for (int j = (int)lane_id(); j < hc; j += WARP) {
        float *row = m + j * hc, top = row[0], sum = 0.0f;
        for (int k = 1; k < hc; k++)
            top = row[k] > top ? row[k] : top;
        for (int k = 0; k < hc; k++)
            sum += row[k] = expf(row[k] - top);
        for (int k = 0; k < hc; k++)
            row[k] = row[k] / sum + eps;
    }
    __syncwarp();
    for (int it = 0; it < iters; it++) {
        if (it > 0)
            normalise(m, hc, false, eps);
        normalise(m, hc, true, eps);
    }
}

/* mix [(2 + hc) * hc] in shared memory, already scaled by rho -> pre, post, comb of one token; by one warp. */
static __device__ void split_mix(const em_cuda_hc_pre_args &a, int64_t token, float *mix)
{
    int hc = a.hc;
    for (int i = (int)lane_id(); i < (2 + hc) * hc; i += WARP) {
        float v = mix[i] * a.scale[i < hc ? 0 : i < 2 * hc ? 1 : 2] + a.base[i];
        if (i < hc)
            a.pre[token * hc + i] = sigmoid(v) + a.hc_eps;
        else if (i < 2 * hc)
            a.post[token * hc + i - hc] = 2.0f * sigmoid(v);
        else
            mix[i] = v;
    }
    __syncwarp();
    float *comb = mix + 2 * hc;
    sinkhorn(comb, hc, a.sinkhorn_iters, a.hc_eps);
    for (int i = (int)lane_id(); i < hc * hc; i += WARP)
        a.comb[token * hc * hc + i] = comb[i];
}

/* One block per token. */
static __global__ void hc_pre(const em_cuda_hc_pre_args a)
{
    SHARED(float, mix, [MAX_MIX]);
    int64_t token = blockIdx.x, H = a.hidden, width = a.hc * H;
    int64_t parts = (width + EM_CUDA_HC_COLS - 1) / EM_CUDA_HC_COLS;
    int n_mix = (2 + a.hc) * a.hc;
    const float *streams = a.streams + token * width, *pre = a.pre + token * a.hc;
    float *x = a.x + token * H;

    double sq = 0.0; /* one joint norm over all streams */
    for (int64_t p = 0; p < parts; p++)
        sq += a.part_sq[token * parts + p];
    float rho = inv_rms(sq, width, a.norm_eps);
    for (int i = (int)threadIdx.x; i < n_mix; i += (int)blockDim.x) {
        float sum = 0.0f;
        for (int64_t p = 0; p < parts; p++)
            sum += a.part[(token * parts + p) * n_mix + i];
        mix[i] = sum * rho;
    }
    for (int64_t d = threadIdx.x; d < H; d += blockDim.x) {
        float v = pre[0] * streams[d];
        for (int s = 1; s < a.hc; s++)
            v += pre[s] * streams[s * H + d];
        x[d] = v;
    }
    block_rmsnorm(x, x, a.norm, H, a.norm_eps); /* its barriers also part pre's readers from its writer */
    if (warp_id() == 0)
        split_mix(a, token, mix);
}

int em_cuda_hc_pre(em_cuda_stream s, const em_cuda_hc_pre_args *a)
{
    return a->n_tokens ? LAUNCH(hc_pre, (unsigned)a->n_tokens, 256, 0, s, *a) : 0;
}

/* One thread per (token, column). The first index of comb is the old stream; the sum over old streams comes first. */
static __global__ void hc_post(const em_cuda_hc_post_args a)
{
    int64_t token = blockIdx.y, d = global_thread(), H = a.hidden;
    int hc = a.hc;
    if (d >= H)
        return;
    float old[MAX_HC], y = a.y[token * H + d];
    float *streams = a.streams + token * hc * H + d;
    const float *post = a.post + token * hc, *comb = a.comb + token * hc * hc;
#pragma unroll
    for (int j = 0; j < MAX_HC; j++)
        old[j] = j < hc ? streams[j * H] : 0.0f;
    for (int k = 0; k < hc; k++) {
        float v = comb[k] * old[0];
#pragma unroll
        for (int j = 1; j < MAX_HC; j++)
            if (j < hc)
                v += comb[j * hc + k] * old[j];
        streams[k * H] = post[k] * y + v;
    }
}

int em_cuda_hc_post(em_cuda_stream s, const em_cuda_hc_post_args *a)
{
    dim3 grid(blocks_for(a->hidden, 256), (unsigned)a->n_tokens);
    return a->n_tokens ? LAUNCH(hc_post, grid, 256, 0, s, *a) : 0;
}
