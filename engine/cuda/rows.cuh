/* Rows of sequences' state: where they lie (engine/state_layout.h) and how they are written and read (spec 3.5, 9). */
#ifndef EM_CUDA_ROWS_CUH
#define EM_CUDA_ROWS_CUH

#include "engine/cuda/kernels.h"
#include "engine/cuda/numbers.cuh"
#include "engine/cuda/reduce.cuh"

static inline __device__ uint8_t *ring_row(const em_cuda_state &st, int32_t slot, int32_t layer, int32_t pos)
{
    int64_t row = (int64_t)layer * st.window + pos % st.window;
    return st.slots + slot * st.slot_bytes + row * st.window_row;
}

/* kv [(ratio - 1), D], then gate. */
static inline __device__ float *open_group(const em_cuda_state &st, const em_cuda_source &src, int32_t slot)
{
    return (float *)(st.slots + slot * st.slot_bytes + src.open_off);
}

/* The block of compressed row j, and the row's number inside. */
static inline __device__ uint8_t *block_of(const em_cuda_step &step, const em_cuda_state &st, const em_cuda_source &src,
                                           int32_t seq, int32_t j, int *ret_row)
{
    int rows = st.block_tokens / src.ratio;
    *ret_row = j % rows;
    return st.blocks + step.block_table[seq * step.block_stride + j / rows] * st.block_bytes;
}

static inline __device__ uint8_t *comp_row(const em_cuda_step &step, const em_cuda_state &st, const em_cuda_source &src,
                                           int32_t seq, int32_t j)
{
    int row;
    uint8_t *block = block_of(step, st, src, seq, j, &row);
    return block + src.comp_off + (int64_t)row * st.comp_row;
}

static inline __device__ uint8_t *key_row(const em_cuda_step &step, const em_cuda_state &st, const em_cuda_source &src,
                                          int32_t seq, int32_t j)
{
    int row;
    uint8_t *block = block_of(step, st, src, seq, j, &row);
    return block + src.key_off + (int64_t)row * st.key_row;
}

/* ---- one warp, one block of the quantiser: lane i has value i ---- */

/* Largest magnitude of each `width` lanes, at least floor. NaN does not count. */
static inline __device__ float lanes_amax(float v, int width, float floor)
{
    return fmaxf(lanes_max(fabsf(v), width), floor);
}

/* Two lanes' codes make a byte, the even lane's in the low nibble; both get it. */
static inline __device__ unsigned pair_codes(unsigned code)
{
    unsigned other = __shfl_xor_sync(ALL_LANES, code, 1);
    return lane_id() & 1 ? other | code << 4 : code | other << 4;
}

/* Q1: E4M3, a UE8M0 scale per 32. (float)(1 / 448.), bits 0x3B124925. An infinity gives the scale code of NaN. */
static inline __device__ unsigned encode_e4m3_b32(float v, unsigned *ret_scale)
{
    *ret_scale = e8m0_code_above(lanes_amax(v, 32, 1e-4f) * 0x1.24924ap-9f) & 0xFFu;
    return e4m3_code(v / e8m0_value(*ret_scale));
}

/* Q3, Q4: E2M1, a UE8M0 scale per 32. Floor 6 * 2^-126; (float)(1 / 6.), bits 0x3E2AAAAB. */
static inline __device__ unsigned encode_e2m1_b32(float v, unsigned *ret_scale)
{
    *ret_scale = e8m0_code_above(lanes_amax(v, 32, 0x1.8p-124f) * 0x1.555556p-3f) & 0xFFu;
    return e2m1_code(v / e8m0_value(*ret_scale));
}

/* Q2: E2M1, an E4M3 scale per 16 lanes. Floor 6 * 2^-9, so the scale is never 0; rounded to E4M3 it may be too small: the
 * codes then saturate. */
static inline __device__ unsigned encode_e2m1_b16(float v, unsigned *ret_scale)
{
    *ret_scale = e4m3_code(lanes_amax(v, 16, 0x1.8p-7f) / 6.0f);
    return e2m1_code(v / e4m3_value(*ret_scale));
}

/* ---- a whole row, by all warps of a block; x where every thread may read it ---- */

static inline __device__ void store_floats(uint8_t *row, const float *x, int n)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        ((float *)row)[i] = x[i];
}

static inline __device__ void store_window(const em_cuda_state &st, uint8_t *row, const float *x)
{
    int D = st.head_dim, lane = (int)lane_id();
    if (!st.pack_window)
        return store_floats(row, x, D);
    for (int b = (int)warp_id(); b < D / 32; b += (int)(blockDim.x / WARP)) {
        unsigned scale, code = encode_e4m3_b32(x[b * 32 + lane], &scale);
        row[b * 32 + lane] = (uint8_t)code;
        if (lane == 0)
            row[D + b] = (uint8_t)scale;
    }
}

static inline __device__ void store_key(const em_cuda_state &st, uint8_t *row, const float *x)
{
    int n = st.index_head_dim, lane = (int)lane_id();
    if (!st.pack_key)
        return store_floats(row, x, n);
    for (int b = (int)warp_id(); b < n / 32; b += (int)(blockDim.x / WARP)) {
        unsigned scale, code = pair_codes(encode_e2m1_b32(x[b * 32 + lane], &scale));
        if (lane % 2 == 0)
            row[b * 16 + lane / 2] = (uint8_t)code;
        if (lane == 0)
            row[n / 2 + b] = (uint8_t)scale;
    }
}

/* Two blocks of 16 a warp; a lone last one leaves the upper lanes idle. */
static inline __device__ void store_comp(const em_cuda_state &st, uint8_t *row, const float *x)
{
    int D = st.head_dim, lane = (int)lane_id();
    if (!st.pack_comp)
        return store_floats(row, x, D);
    for (int at = (int)warp_id() * WARP; at < D; at += (int)blockDim.x) {
        int i = at + lane;
        unsigned scale, code = pair_codes(encode_e2m1_b16(i < D ? x[i] : 0.0f, &scale));
        if (i < D && lane % 2 == 0)
            row[i / 2] = (uint8_t)code;
        if (i < D && lane % 16 == 0)
            row[D / 2 + i / 16] = (uint8_t)scale;
    }
}

/* ---- one value of a stored row ---- */

static inline __device__ float window_value(const em_cuda_state &st, const uint8_t *row, int i)
{
    if (!st.pack_window)
        return ((const float *)row)[i];
    return e4m3_value(row[i]) * e8m0_value(row[st.head_dim + i / 32]);
}

static inline __device__ float comp_value(const em_cuda_state &st, const uint8_t *row, int i)
{
    if (!st.pack_comp)
        return ((const float *)row)[i];
    return e2m1_value(row[i / 2] >> (i % 2 * 4) & 15u) * e4m3_value(row[st.head_dim / 2 + i / 16]);
}

static inline __device__ float key_value(const em_cuda_state &st, const uint8_t *row, int i)
{
    if (!st.pack_key)
        return ((const float *)row)[i];
    return e2m1_value(row[i / 2] >> (i % 2 * 4) & 15u) * e8m0_value(row[st.index_head_dim / 2 + i / 32]);
}

#endif
