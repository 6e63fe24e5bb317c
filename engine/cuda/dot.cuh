/* Products of weight rows with inputs, the inner loop of every dense and expert kernel.
 *
 * A warp computes R rows times M inputs. Lane l takes the eight columns from 8 l on, then those 256 further, and so on,
 * one after the other with fmaf; the 32 lanes' sums are added in pairs (warp_sums). This order depends on the number of
 * columns alone, so the bits of a result do not depend on R, on M or on the other inputs. Codes are decoded exactly and
 * scaled before they are multiplied. */
#ifndef EM_CUDA_DOT_CUH
#define EM_CUDA_DOT_CUH

#include "engine/cuda/numbers.cuh"
#include "engine/cuda/reduce.cuh"

enum {
    LANE_COLS = 8,
    STEP_COLS = LANE_COLS * WARP,
};

/* How the loads of one product look. */
typedef struct dot_mode {
    bool wide;       /* rows of w and x are aligned and whole, columns of a scale a power of two: whole words are loaded */
    bool bf16;       /* inputs are rounded to bf16 */
    int scale_shift; /* log2 of w.scale_cols */
} dot_mode;

/* For rows of x that begin at multiples of x_stride. */
static inline __host__ __device__ dot_mode dot_mode_of(const em_matrix &w, const float *x, int64_t x_stride, bool bf16)
{
    dot_mode mode = {true, bf16, 5};
    while (mode.scale_shift < 30 && 1 << mode.scale_shift < w.scale_cols)
        mode.scale_shift++;
    mode.wide = w.cols % LANE_COLS == 0 && x_stride % 4 == 0 && (uintptr_t)x % 16 == 0 && (uintptr_t)w.data % 16 == 0 &&
                (!w.scale || 1 << mode.scale_shift == w.scale_cols);
    return mode;
}

/* One row of weights. */
typedef struct weight_row {
    const uint8_t *codes, *scales;
} weight_row;

template <int DTYPE> static inline __device__ weight_row row_of(const em_matrix &w, int64_t row)
{
    int64_t bytes = DTYPE == EM_DTYPE_F32 ? w.cols * 4 : DTYPE == EM_DTYPE_BF16 ? w.cols * 2 : w.cols;
    if (DTYPE == EM_DTYPE_FP4)
        bytes /= 2;
    weight_row r = {(const uint8_t *)w.data + row * bytes, NULL};
    if (w.scale)
        r.scales = w.scale + row / w.scale_rows * w.scale_stride;
    return r;
}

static inline __device__ void load_floats(const float *p, float (&v)[LANE_COLS])
{
    float4 a = __ldg((const float4 *)p), b = __ldg((const float4 *)p + 1);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

/* Eight weights from column col (a multiple of 8) of a row, in words. */
template <int DTYPE>
static inline __device__ void load_weights(const weight_row &row, int col, int scale_shift, float (&v)[LANE_COLS])
{
    if (DTYPE == EM_DTYPE_F32) {
        load_floats((const float *)row.codes + col, v);
        return;
    }
    if (DTYPE == EM_DTYPE_BF16) {
        uint4 p = __ldg((const uint4 *)((const uint16_t *)row.codes + col));
        unsigned word[4] = {p.x, p.y, p.z, p.w};
#pragma unroll
        for (int j = 0; j < LANE_COLS; j++)
            v[j] = bf16_value(word[j / 2] >> (j % 2 * 16) & 0xFFFFu);
        return;
    }
    float scale = e8m0_value(__ldg(row.scales + (col >> scale_shift)));
    if (DTYPE == EM_DTYPE_FP8) {
        uint2 p = __ldg((const uint2 *)(row.codes + col));
#pragma unroll
        for (int j = 0; j < LANE_COLS; j++)
            v[j] = e4m3_finite((j < 4 ? p.x : p.y) >> (j % 4 * 8) & 0xFFu) * scale;
    } else {
        unsigned p = __ldg((const unsigned *)(row.codes + col / 2));
#pragma unroll
        for (int j = 0; j < LANE_COLS; j++)
            v[j] = e2m1_value(p >> (j * 4) & 15u) * scale;
    }
}

static inline __device__ void load_inputs(const float *x, bool bf16, float (&v)[LANE_COLS])
{
    load_floats(x, v);
    if (bf16) {
#pragma unroll
        for (int j = 0; j < LANE_COLS; j++)
            v[j] = round_bf16(v[j]);
    }
}

/* Lane l gets the product number l >> (5 - log2(R * M)), where row r and input m make number r * M + m. */
template <int DTYPE, int R, int M>
static inline __device__ float dot_typed(const em_matrix &w, const int64_t (&row)[R], const float *const (&x)[M],
                                         dot_mode mode)
{
    weight_row rows[R];
#pragma unroll
    for (int r = 0; r < R; r++)
        rows[r] = row_of<DTYPE>(w, row[r]);
    int cols = (int)w.cols;
    float acc[R * M];
#pragma unroll
    for (int i = 0; i < R * M; i++)
        acc[i] = 0.0f;
#pragma unroll(M == 1 ? 4 : 1) /* few inputs: the loads of several steps at a time */
    for (int col = (int)lane_id() * LANE_COLS; col < cols; col += STEP_COLS) {
        float weight[R][LANE_COLS];
#pragma unroll
        for (int r = 0; r < R; r++)
            load_weights<DTYPE>(rows[r], col, mode.scale_shift, weight[r]);
#pragma unroll
        for (int m = 0; m < M; m++) {
            float in[LANE_COLS];
            load_inputs(x[m] + col, mode.bf16, in);
#pragma unroll
            for (int r = 0; r < R; r++)
#pragma unroll
                for (int j = 0; j < LANE_COLS; j++)
                    acc[r * M + m] = fmaf(weight[r][j], in[j], acc[r * M + m]);
        }
    }
    return warp_sums<R * M>(acc);
}

/* The same order for rows of any width at any address, one value at a time. */
template <int R, int M>
static __device__ float dot_narrow(const em_matrix &w, const int64_t (&row)[R], const float *const (&x)[M], bool bf16)
{
    float acc[R * M];
#pragma unroll
    for (int i = 0; i < R * M; i++)
        acc[i] = 0.0f;
#pragma unroll 1
    for (int64_t col = lane_id() * LANE_COLS; col < w.cols;
         col += col % LANE_COLS == LANE_COLS - 1 ? STEP_COLS - LANE_COLS + 1 : 1) {
        float weight[R];
#pragma unroll
        for (int r = 0; r < R; r++)
            weight[r] = matrix_value(w, row[r], col);
#pragma unroll
        for (int m = 0; m < M; m++) {
            float in = bf16 ? round_bf16(x[m][col]) : x[m][col];
#pragma unroll
            for (int r = 0; r < R; r++)
                acc[r * M + m] = fmaf(weight[r], in, acc[r * M + m]);
        }
    }
    return warp_sums<R * M>(acc);
}

template <int R, int M>
static inline __device__ float dot_rows(const em_matrix &w, const int64_t (&row)[R], const float *const (&x)[M],
                                        dot_mode mode)
{
    if (!mode.wide)
        return dot_narrow<R, M>(w, row, x, mode.bf16);
    switch (w.dtype) {
    case EM_DTYPE_F32: return dot_typed<EM_DTYPE_F32, R, M>(w, row, x, mode);
    case EM_DTYPE_BF16: return dot_typed<EM_DTYPE_BF16, R, M>(w, row, x, mode);
    case EM_DTYPE_FP8: return dot_typed<EM_DTYPE_FP8, R, M>(w, row, x, mode);
    default: return dot_typed<EM_DTYPE_FP4, R, M>(w, row, x, mode);
    }
}

/* The row and the input of this lane's result; false: another lane has the same one. */
template <int R, int M> static inline __device__ bool dot_place(int *ret_row, int *ret_input)
{
    constexpr int lanes = WARP / (R * M);
    int i = (int)lane_id() / lanes;
    *ret_row = i / M;
    *ret_input = i % M;
    return lane_id() % lanes == 0;
}

#endif
