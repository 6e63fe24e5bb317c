/* Sums and maxima over a warp or a block, in an order that the block's size alone decides. */
#ifndef EM_CUDA_REDUCE_CUH
#define EM_CUDA_REDUCE_CUH

#include "engine/cuda/compat.cuh"

/* Every lane gets the sum over the warp. */
template <class T> static inline __device__ T warp_sum(T v)
{
#pragma unroll
    for (int off = WARP / 2; off > 0; off /= 2)
        v += __shfl_xor_sync(ALL_LANES, v, off);
    return v;
}

/* Every lane gets the maximum over each group of `width` lanes (a power of two). NaN does not count against a number. */
static inline __device__ float lanes_max(float v, int width)
{
    for (int off = width / 2; off > 0; off /= 2)
        v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, off));
    return v;
}

/* N sums over the warp at once, N a power of two up to 32: lane i gets the one of v[i >> (5 - log2 N)]. The lanes' values
 * are paired as in warp_sum, so the bits of a sum do not depend on N. Recursive, so that the values stay in registers. */
template <int N, int OFF = WARP / 2> static inline __device__ float warp_sums(const float (&v)[N])
{
    if constexpr (N == 1) {
        float sum = v[0];
#pragma unroll
        for (int off = OFF; off > 0; off /= 2)
            sum += __shfl_xor_sync(ALL_LANES, sum, off);
        return sum;
    } else {
        bool upper = lane_id() & OFF;
        float half[N / 2];
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            float keep = upper ? v[i + N / 2] : v[i], give = upper ? v[i] : v[i + N / 2];
            half[i] = keep + __shfl_xor_sync(ALL_LANES, give, OFF);
        }
        return warp_sums<N / 2, OFF / 2>(half);
    }
}

/* Every thread of the block gets the sum; all must call. */
template <class T> static inline __device__ T block_sum(T v)
{
    SHARED(T, part, [WARP]);
    v = warp_sum(v);
    __syncthreads(); /* nobody reads the last sum's parts any more */
    if (lane_id() == 0)
        part[warp_id()] = v;
    __syncthreads();
    T sum = part[0];
    for (unsigned i = 1; i < blockDim.x / WARP; i++)
        sum += part[i];
    return sum;
}

/* 1 / sqrt(mean(x^2) + eps) of n values that the block's threads share; all must call. The sum is in double: one bit of
 * the statistic scales a whole row, which would push many values over the quantisers' rounding boundaries at once. */
static inline __device__ float inv_rms(double sum_sq, int64_t n, float eps)
{
    float mean = (float)sum_sq / (float)n;
    return 1.0f / sqrtf(mean + eps);
}

static inline __device__ float block_inv_rms(const float *x, int64_t n, float eps)
{
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += (double)x[i] * (double)x[i];
    return inv_rms(block_sum(sum), n, eps);
}

/* y = w * (x / rms) by the block's threads; every thread reads and writes its own elements, so y may be x. */
static inline __device__ void block_rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps)
{
    float s = block_inv_rms(x, n, eps);
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        y[i] = w ? w[i] * (x[i] * s) : x[i] * s;
}

#endif
