/* Rotation of channel pairs (0,1), (2,3), ... (spec 4.5). */
#ifndef EM_CUDA_ROPE_CUH
#define EM_CUDA_ROPE_CUH

#include "engine/cuda/compat.cuh"

static inline __device__ void rotate_pair(float *v, float cos, float sin)
{
    float a = v[0], b = v[1];
    v[0] = a * cos - b * sin;
    v[1] = a * sin + b * cos;
}

/* The last 2 * n_pairs of v's n channels, by threads first, first + step, ... of those who call. sign -1: back. */
static inline __device__ void rotate_tail(float *v, int n, const float *cos, const float *sin, int n_pairs, float sign,
                                          int first, int step)
{
    for (int i = first; i < n_pairs; i += step)
        rotate_pair(v + n - 2 * n_pairs + 2 * i, cos[i], sign * sin[i]);
}

#endif
