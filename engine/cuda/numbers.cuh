/* The small number formats on the device, with the bits of engine/formats.c. */
#ifndef EM_CUDA_NUMBERS_CUH
#define EM_CUDA_NUMBERS_CUH

#include "engine/cuda/compat.cuh"
#include "engine/matrix.h"

static inline __device__ float bf16_value(unsigned v)
{
    return __uint_as_float(v << 16);
}

/* v rounded to the nearest bf16, ties to even; NaN stays NaN. */
static inline __device__ float round_bf16(float v)
{
    unsigned u = __float_as_uint(v);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return v;
    return __uint_as_float((u + 0x7FFFu + (u >> 16 & 1)) & 0xFFFF0000u);
}

/* The same fields under float32's bias are too small by 2^120, for subnormals too. The two NaN codes read as +-480. */
static inline __device__ float e4m3_finite(unsigned code)
{
    return __uint_as_float((code & 0x80u) << 24 | (code & 0x7Fu) << 20) * 0x1p120f;
}

static inline __device__ float e4m3_value(unsigned code)
{
    return (code & 0x7Fu) == 0x7Fu ? __uint_as_float(0x7FC00000u) : e4m3_finite(code);
}

static inline __device__ unsigned e4m3_code(float v)
{
    unsigned u = __float_as_uint(v), sign = u >> 24 & 0x80u;
    float a = __uint_as_float(u & 0x7FFFFFFFu);
    if (!(a == a))
        return 0x7Fu;
    if (a >= 448.0f)
        return sign | 0x7Eu;
    if (a < 0x1p-6f) /* subnormal step 2^-9: adding 2^14 leaves it in the last place, rounded to even */
        return sign | (__float_as_uint(a + 0x1p14f) & 0xFu);
    u = __float_as_uint(a);
    u += 0x7FFFFu + (u >> 20 & 1);
    return sign | ((u >> 20) - (120u << 3));
}

/* Low four bits. Two exponent bits and one of mantissa, again under float32's bias. */
static inline __device__ float e2m1_value(unsigned code)
{
    return __uint_as_float((code & 8u) << 28 | (code & 7u) << 22) * 0x1p126f;
}

static inline __device__ unsigned e2m1_code(float v)
{
    unsigned sign = __float_as_uint(v) >> 28 & 8u;
    float a = fabsf(v);
    return sign | ((a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f));
}

static inline __device__ float e8m0_value(unsigned code)
{
    if (code == 0)
        return 0x1p-127f;
    return __uint_as_float(code == 255 ? 0x7FC00000u : code << 23);
}

/* 127 + e with 2^e = t rounded up to a power of two; t positive. */
static inline __device__ unsigned e8m0_code_above(float t)
{
    unsigned u = __float_as_uint(t);
    return (u >> 23 & 0xFFu) + ((u & 0x7FFFFFu) != 0);
}

/* One weight. */
static inline __device__ float matrix_value(const em_matrix &w, int64_t row, int64_t col)
{
    if (w.dtype == EM_DTYPE_F32)
        return ((const float *)w.data)[row * w.cols + col];
    if (w.dtype == EM_DTYPE_BF16)
        return bf16_value(((const uint16_t *)w.data)[row * w.cols + col]);
    float scale = e8m0_value(w.scale[row / w.scale_rows * w.scale_stride + col / w.scale_cols]);
    if (w.dtype == EM_DTYPE_FP8)
        return e4m3_value(((const uint8_t *)w.data)[row * w.cols + col]) * scale;
    unsigned pair = ((const uint8_t *)w.data)[row * (w.cols / 2) + col / 2];
    return e2m1_value(col & 1 ? pair >> 4 : pair & 15u) * scale;
}

#endif
