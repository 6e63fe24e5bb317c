/* AVX-512: products of F32 rows, straight from where they lie.
 *
 * One output element has one accumulator of 16 lanes. Columns are taken in groups of 32, two fused multiply-adds each,
 * in ascending order, the last group masked; then one sum over the lanes. Blocking over rows and tokens only decides
 * what else is computed meanwhile, so a token's bits depend on nothing but its own inputs. */
#include "engine/cpu/avx512.h"
#include "engine/cpu/gemm_blocks.h"

/* Columns k .. k+n-1 of a row; what a group lacks reads as 0. */
EM_INLINE void load_group(const float *p, int64_t n, __m512 *lo, __m512 *hi)
{
    *lo = n == GROUP ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(avx512_first(n), p);
    *hi = n == GROUP ? _mm512_loadu_ps(p + 16) : _mm512_maskz_loadu_ps(avx512_first(n - 16), p + 16);
}

EM_INLINE void gemm_step(int n_r, int n_m, const gemm_args *a, int64_t k, int64_t n,
                         __m512 acc[BLOCK_ROWS][BLOCK_TOKENS])
{
    __m512 lo[BLOCK_ROWS], hi[BLOCK_ROWS], x_lo, x_hi;
#pragma GCC unroll 4
    for (int r = 0; r < n_r; r++)
        load_group(a->w + r * a->cols + k, n, &lo[r], &hi[r]);
#pragma GCC unroll 4
    for (int m = 0; m < n_m; m++) {
        load_group(a->x + m * a->x_stride + k, n, &x_lo, &x_hi);
#pragma GCC unroll 4
        for (int r = 0; r < n_r; r++) {
            acc[r][m] = _mm512_fmadd_ps(lo[r], x_lo, acc[r][m]);
            acc[r][m] = _mm512_fmadd_ps(hi[r], x_hi, acc[r][m]);
        }
    }
}

/* n_r rows times n_m tokens; both constants after inlining. */
EM_INLINE void gemm_block(int n_r, int n_m, const gemm_args *args)
{
    const gemm_args a = *args;
    const int64_t full = a.cols / GROUP * GROUP;
    __m512 acc[BLOCK_ROWS][BLOCK_TOKENS];
#pragma GCC unroll 4
    for (int r = 0; r < n_r; r++)
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++)
            acc[r][m] = _mm512_setzero_ps();
    for (int64_t k = 0; k < full; k += GROUP)
        gemm_step(n_r, n_m, &a, k, GROUP, acc);
    if (full < a.cols)
        gemm_step(n_r, n_m, &a, full, a.cols - full, acc);
#pragma GCC unroll 4
    for (int m = 0; m < n_m; m++)
#pragma GCC unroll 4
        for (int r = 0; r < n_r; r++)
            a.y[m * a.y_stride + r] = avx512_sum(acc[r][m]);
}

GEMM_ROWS

void em_avx512_gemm_init(em_kernels *k)
{
    k->gemm_rows = gemm_rows;
}
