/* The beginning of a step: rotary tables of its positions (spec 4.5), embedding rows into the streams (spec 4.1). */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/numbers.cuh"

static __global__ void rope_table(const em_cuda_rope_table_args a)
{
    long long i = global_thread();
    if (i >= (long long)a.step.n_tokens * a.n_pairs)
        return;
    float pos = (float)a.step.pos[i / a.n_pairs];
    int pair = (int)(i % a.n_pairs);
    float angle = pos * a.freq_main[pair];
    a.cos_main[i] = cosf(angle);
    a.sin_main[i] = sinf(angle);
    angle = pos * a.freq_comp[pair];
    a.cos_comp[i] = cosf(angle);
    a.sin_comp[i] = sinf(angle);
}

int em_cuda_rope_table(em_cuda_stream s, const em_cuda_rope_table_args *a)
{
    long long n = (long long)a->step.n_tokens * a->n_pairs;
    return n ? LAUNCH(rope_table, blocks_for(n, 128), 128, 0, s, *a) : 0;
}

/* Grid: (columns, tokens). */
static __global__ void embed(const em_cuda_embed_args a)
{
    int64_t token = blockIdx.y, col = global_thread(), H = a.embed.cols;
    if (col < a.hc) /* the very first collapse reads stream 0 only */
        a.pre[token * a.hc + col] = col == 0 ? 1.0f : 0.0f;
    if (col >= H)
        return;
    float v = matrix_value(a.embed, a.step.token[token], col);
    for (int s = 0; s < a.hc; s++)
        a.streams[(token * a.hc + s) * H + col] = v;
}

int em_cuda_embed(em_cuda_stream s, const em_cuda_embed_args *a)
{
    int64_t width = a->embed.cols > a->hc ? a->embed.cols : a->hc;
    dim3 grid(blocks_for(width, 256), (unsigned)a->step.n_tokens);
    return a->step.n_tokens ? LAUNCH(embed, grid, 256, 0, s, *a) : 0;
}
