/* AVX2: products of F32 rows, straight from where they lie.
 *
 * One output element has one accumulator of 8 lanes. Columns are taken in groups of 32 in ascending order; the last,
 * partial group goes through masked loads. Then one sum over the lanes. */
#include "engine/cpu/avx2.h"
#include "engine/cpu/gemm_blocks.h"

enum { VECS = GROUP / 8 }; /* vectors of one group */

EM_INLINE __m256 load_vec(const float *p, int64_t n)
{
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, avx2_first(n));
}

EM_INLINE void gemm_step(int n_r, int n_m, const gemm_args *a, int64_t k, int64_t n,
                         __m256 acc[BLOCK_ROWS][BLOCK_TOKENS])
{
#pragma GCC unroll 4
    for (int64_t v = 0; v < VECS; v++) {
        int64_t left = n == GROUP ? 8 : n - 8 * v;
        if (left <= 0)
            return;
#pragma GCC unroll 4
        for (int r = 0; r < n_r; r++) {
            __m256 w = load_vec(a->w + r * a->cols + k + 8 * v, left);
#pragma GCC unroll 4
            for (int m = 0; m < n_m; m++)
                acc[r][m] = _mm256_fmadd_ps(w, load_vec(a->x + m * a->x_stride + k + 8 * v, left), acc[r][m]);
        }
    }
}

/* n_r rows times n_m tokens; both constants after inlining. */
EM_INLINE void row_block(int n_r, int n_m, const gemm_args *args)
{
    const gemm_args a = *args;
    const int64_t full = a.cols / GROUP * GROUP;
    __m256 acc[BLOCK_ROWS][BLOCK_TOKENS];
#pragma GCC unroll 4
    for (int r = 0; r < n_r; r++)
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++)
            acc[r][m] = _mm256_setzero_ps();
    for (int64_t k = 0; k < full; k += GROUP)
        gemm_step(n_r, n_m, &a, k, GROUP, acc);
    if (full < a.cols)
        gemm_step(n_r, n_m, &a, full, a.cols - full, acc);
#pragma GCC unroll 4
    for (int m = 0; m < n_m; m++)
#pragma GCC unroll 4
        for (int r = 0; r < n_r; r++)
            a.y[m * a.y_stride + r] = avx2_sum(acc[r][m]);
}

/* Sixteen registers hold two rows of several tokens, but four rows of one. */
EM_INLINE void gemm_block(int n_r, int n_m, const gemm_args *args)
{
    if (n_r == 1 || n_m == 1) {
        row_block(n_r, n_m, args);
        return;
    }
    gemm_args second = *args;
    second.w += 2 * args->cols;
    second.y += 2;
    row_block(2, n_m, args);
    row_block(2, n_m, &second);
}

GEMM_ROWS

void em_avx2_gemm_init(em_kernels *k)
{
    k->gemm_rows = gemm_rows;
}
