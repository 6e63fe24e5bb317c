/* The CPU kernels: one table of function pointers, filled with plain C and then overwritten by what the machine has.
 * Callers never test for hardware. The plain C (engine/cpu/ref.c) is the definition of correct; tests/kernels
 * compares every tier with it.
 *
 * Determinism: every output element is a pure function of its own inputs, with one fixed order of operations per tier.
 * In gemm the order for y[m][o] must not depend on n_rows (M), on the row range, or on m: a token's bits are the same
 * alone and in any batch, chunk or thread count.
 *
 * In scale_mul, max, row_f32 and the cache quantisers all tiers give the same bits; elsewhere tiers differ by rounding
 * (limits: tests/kernels/common.c). NaN in gives NaN out, except in max and in E2M1 codes, which have none. The
 * rounding mode must be nearest, subnormals on: as a program starts.
 *
 * All functions are pure on memory, re-entrant, allocate nothing. Pointers to float are at least 4-byte aligned.
 * Outputs of axpy, scale_mul, swiglu and exp_sum may be one of the inputs itself, but not overlap one otherwise. */
#ifndef EM_CPU_KERNELS_H
#define EM_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "engine/matrix.h"

/* What the machine (and the operating system) can do. */
enum {
    EM_CPU_AVX2 = 1 << 0,   /* AVX2 + FMA + F16C + BMI2 */
    EM_CPU_AVX512 = 1 << 1, /* AVX-512 F, BW, DQ, VL */
};
unsigned em_cpu_flags(void); /* asks the CPU each time, which a hypervisor may make slow: call it at start */

/* y[m * y_stride + o] = sum over i of w[o][i] * x[m * x_stride + i], for row_begin <= o < row_end, 0 <= m < n_rows.
 * Accumulation in float32 (a fixed number of partial sums, combined in a fixed order). FP8 and FP4 codes are decoded
 * exactly; scales are applied in float32: to the weight or to the products that share it, as the tier likes, which is
 * the same while all stay within float32's range. NaN scales, weights and inputs give NaN; only FP8's two NaN codes
 * may read as +-480. x and y must not overlap. Any cols >= 1 (FP4: even). Ranges that begin and end at multiples of
 * EM_STRIP_ROWS waste nothing. */
typedef void (*em_gemm_fn)(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride,
                           int64_t n_rows, float *y, int64_t y_stride);

typedef struct em_kernels {
    const char *name; /* "c", "avx2", "avx512" */

    em_gemm_fn gemm[4];   /* by em_dtype; w is packed (engine/cpu/pack.h) */
    em_gemm_fn gemm_rows; /* w is F32, row after row, not packed: keys, not weights */

    /* sum of a[i] * b[i] */
    float (*dot)(const float *a, const float *b, int64_t n);
    /* y += a * x */
    void (*axpy)(float *y, float a, const float *x, int64_t n);
    /* y[n] += sum over i of a[i] * rows[i][n], i ascending: the bits of as many calls of axpy */
    void (*add_rows)(float *y, const float *a, const float *rows, int64_t n_rows, int64_t n);
    /* sum of squares */
    float (*sum_sq)(const float *x, int64_t n);
    /* y[i] = w[i] * (x[i] * s): the tail of an RMS norm, s = 1 / sqrt(mean + eps); w NULL means all ones */
    void (*scale_mul)(float *y, const float *x, const float *w, float s, int64_t n);
    /* SwiGLU of one token (spec 4.10 step 4): out = weight * silu(min(g, limit)) * clamp(u, -limit, limit);
     * limit <= 0: no clamp */
    void (*swiglu)(float *out, const float *g, const float *u, float limit, float weight, int64_t n);
    /* x[i] = exp(x[i] - max), returns the sum (fixed order). max: subtracted first. */
    float (*exp_sum)(float *x, float max, int64_t n);
    float (*max)(const float *x, int64_t n); /* n >= 1; NaN counts only in x[0] */

    /* One row of a matrix widened to F32; FP8's NaN codes give NaN here. */
    void (*row_f32)(const em_matrix *w, int64_t row, float *y);

    /* Cache quantisers (spec 3.5). Codes and scales are stored; decode gives exactly what the model sees.
     * e4m3_b32 (Q1, Q5): n % 32 == 0; codes [n], scales UE8M0 [n / 32].
     * e2m1_b32 (Q3, Q4): n % 32 == 0; codes [n / 2] (even column in the low nibble), scales UE8M0 [n / 32].
     * e2m1_b16 (Q2):     n % 16 == 0; codes [n / 2], scales E4M3 [n / 16].
     * Outside of finite input: an infinity makes the whole block NaN where the scale is UE8M0 and saturates in Q2; a
     * NaN keeps its place in E4M3 and becomes a zero in E2M1. */
    void (*enc_e4m3_b32)(const float *x, int64_t n, uint8_t *codes, uint8_t *scales);
    void (*dec_e4m3_b32)(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y);
    void (*enc_e2m1_b32)(const float *x, int64_t n, uint8_t *codes, uint8_t *scales);
    void (*dec_e2m1_b32)(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y);
    void (*enc_e2m1_b16)(const float *x, int64_t n, uint8_t *codes, uint8_t *scales);
    void (*dec_e2m1_b16)(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y);
} em_kernels;

/* Fills the table for the given flags; 0 is plain C. Flags the build lacks are ignored. */
void em_kernels_init(em_kernels *k, unsigned flags);

#endif
