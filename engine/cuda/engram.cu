/* The Engram layer: row ids by hashing, rows to float32, a gate per stream (spec 5.4, 5.5). */
#include "engine/cuda/compat.cuh"
#include "engine/cuda/kernels.h"
#include "engine/cuda/numbers.cuh"
#include "engine/cuda/reduce.cuh"

/* One thread per token and column. The products stay below 2^63 by construction of the multipliers. */
static __global__ void hash_rows(const em_cuda_engram_hash_args a)
{
    long long i = global_thread();
    if (i >= (long long)a.n_tokens * a.n_cols)
        return;
    const em_cuda_hash *h = a.hash;
    const int32_t *ids = a.ids + i / a.n_cols * a.ids_stride;
    int col = (int)(i % a.n_cols), order = col / h->n_heads + 2;
    bool ended = false; /* look-back is sticky: behind the start everything is the pad class */
    int64_t v = 0;
    for (int back = 0; back < order; back++) {
        ended = ended || ids[back] < 0 || ids[back] >= a.n_ids;
        int64_t c = ended ? h->pad_class : a.class_of[ids[back]];
        v ^= c * h->multiplier[back];
    }
    a.row_id[i] = v % h->prime[col] + h->offset[col];
}

int em_cuda_engram_hash(em_cuda_stream s, const em_cuda_engram_hash_args *a)
{
    long long n = (long long)a->n_tokens * a->n_cols;
    return n ? LAUNCH(hash_rows, blocks_for(n, 128), 128, 0, s, *a) : 0;
}

static __device__ int64_t table_row(const em_cuda_engram_rows_args &a, int64_t i)
{
    return a.row_id ? a.row_id[i] : i;
}

/* FP8 rows: one thread per 16 codes, which share a scale. Loads of 16 bytes, neighbours side by side, are what a bus to
 * host memory carries best. */
static __global__ void rows_fp8(const em_cuda_engram_rows_args a)
{
    int per_row = a.head_dim / 16;
    long long i = global_thread();
    if (i >= (long long)a.n_tokens * a.n_cols * per_row)
        return;
    int64_t row = table_row(a, i / per_row);
    int at = (int)(i % per_row) * 16;
    uint4 codes = *(const uint4 *)(a.codes + row * a.head_dim + at);
    float scale = e8m0_value(a.scales[row * (a.head_dim / 32) + at / 32]);
    float *out = a.out + i / per_row * a.head_dim + at;
    unsigned word[4] = {codes.x, codes.y, codes.z, codes.w};
    for (int j = 0; j < 16; j++)
        out[j] = e4m3_value(word[j / 4] >> (j % 4 * 8) & 0xFFu) * scale;
}

/* Rows without scales: one thread per value. */
static __global__ void rows_plain(const em_cuda_engram_rows_args a)
{
    long long i = global_thread();
    if (i >= (long long)a.n_tokens * a.n_cols * a.head_dim)
        return;
    int64_t at = table_row(a, i / a.head_dim) * a.head_dim + i % a.head_dim;
    a.out[i] = a.dtype == EM_DTYPE_BF16 ? bf16_value(((const uint16_t *)a.codes)[at]) : ((const float *)a.codes)[at];
}

int em_cuda_engram_rows(em_cuda_stream s, const em_cuda_engram_rows_args *a)
{
    long long n = (long long)a->n_tokens * a->n_cols * a->head_dim;
    if (n == 0)
        return 0;
    if (a->dtype == EM_DTYPE_FP8)
        return LAUNCH(rows_fp8, blocks_for(n / 16, 128), 128, 0, s, *a);
    return LAUNCH(rows_plain, blocks_for(n, 128), 128, 0, s, *a);
}

/* One block per (stream, token). Norms are per stream and weight-free but for the product of the two weight vectors. */
static __global__ void engram_gate(const em_cuda_engram_gate_args a)
{
    int64_t s = blockIdx.x, token = blockIdx.y, H = a.hidden;
    const float *kv = a.kv + token * (a.hc + 1) * H, *key = kv + s * H, *value = kv + a.hc * H;
    const float *qk = a.qk_weight + s * H;
    float *x = a.streams + (token * a.hc + s) * H;
    double xx = 0.0, kk = 0.0, dot = 0.0;
    for (int64_t d = threadIdx.x; d < H; d += blockDim.x) {
        xx += (double)x[d] * (double)x[d];
        kk += (double)key[d] * (double)key[d];
        dot += (double)(x[d] * qk[d]) * (double)key[d];
    }
    float rho = inv_rms(block_sum(xx), H, a.norm_eps);
    rho *= inv_rms(block_sum(kk), H, a.norm_eps);
    float delta = (float)block_sum(dot) * rho / sqrtf((float)H);
    float root = copysignf(sqrtf(fmaxf(fabsf(delta), 1e-6f)), delta); /* +0 opens the gate a little: not sign() */
    float g = 1.0f / (1.0f + expf(-root));
    if (threadIdx.x == 0)
        a.gate[token * a.hc + s] = g;
    for (int64_t d = threadIdx.x; d < H; d += blockDim.x)
        x[d] += g * value[d];
}

int em_cuda_engram_gate(em_cuda_stream s, const em_cuda_engram_gate_args *a)
{
    dim3 grid((unsigned)a->hc, (unsigned)a->n_tokens);
    return a->n_tokens ? LAUNCH(engram_gate, grid, 256, 0, s, *a) : 0;
}
