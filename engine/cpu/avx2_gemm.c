/* AVX2: matrix products straight from the checkpoint's layout.
 *
 * One output element has one accumulator of 8 lanes. Columns are taken in groups of 32 in ascending order: four
 * products are summed on their own, then scaled into the accumulator, so that neither decoded weights nor x need the
 * scale. The last, partial group goes through zero-filled copies. FP8 codes decode to 2^-8 and FP4 codes to twice
 * their value, undone at the end. NaN codes of FP8 read as +-480. */
#include <string.h>

#include "engine/cpu/avx2.h"
#include "engine/cpu/gemm_blocks.h"

enum { VECS = GROUP / 8 }; /* vectors of one group */

/* A group of columns of one row, decoded. */
EM_INLINE void load_weights(em_dtype dtype, const uint8_t *codes, __m256 out[VECS])
{
    if (dtype == EM_DTYPE_FP4) {
        avx2_e2m1(_mm_loadu_si128((const __m128i *)codes), out);
    } else if (dtype == EM_DTYPE_FP8) {
        avx2_e4m3(_mm_loadu_si128((const __m128i *)codes), &out[0], &out[1]);
        avx2_e4m3(_mm_loadu_si128((const __m128i *)(codes + 16)), &out[2], &out[3]);
    } else if (dtype == EM_DTYPE_BF16) {
#pragma GCC unroll 4
        for (int64_t j = 0; j < VECS; j++) {
            __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(codes + 16 * j)));
            out[j] = _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
        }
    } else {
#pragma GCC unroll 4
        for (int64_t j = 0; j < VECS; j++)
            out[j] = _mm256_loadu_ps((const float *)(const void *)codes + 8 * j);
    }
}

/* One group for n_r rows and n_m tokens: codes of each row, x of each token. */
EM_INLINE void gemm_step(em_dtype dtype, int n_r, int n_m, const uint8_t *const *codes, const weight_row *rows,
                         int64_t tile, const float *x, int64_t x_stride, __m256 acc[BLOCK_ROWS][BLOCK_TOKENS])
{
    __m256 w[VECS], scale = _mm256_setzero_ps();
#pragma GCC unroll 4
    for (int r = 0; r < n_r; r++) {
        load_weights(dtype, codes[r], w);
        if (dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4)
            scale = _mm256_set1_ps(em_e8m0_table[rows[r].scales[tile]]);
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++) {
            const float *xm = x + m * x_stride;
            __m256 g = _mm256_mul_ps(w[0], _mm256_loadu_ps(xm));
            g = _mm256_fmadd_ps(w[1], _mm256_loadu_ps(xm + 8), g);
            g = _mm256_fmadd_ps(w[2], _mm256_loadu_ps(xm + 16), g);
            g = _mm256_fmadd_ps(w[3], _mm256_loadu_ps(xm + 24), g);
            acc[r][m] = dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4 ? _mm256_fmadd_ps(g, scale, acc[r][m])
                                                                       : _mm256_add_ps(acc[r][m], g);
        }
    }
}

/* The last n columns, in copies filled up with zeros. */
EM_INLINE void gemm_tail(em_dtype dtype, int n_r, int n_m, const gemm_args *a, const weight_row *rows, int64_t k,
                         int64_t n, int64_t tile, __m256 acc[BLOCK_ROWS][BLOCK_TOKENS])
{
    uint8_t code_copy[BLOCK_ROWS][GROUP * sizeof(float)] = {{0}};
    float x_copy[BLOCK_TOKENS][GROUP] = {{0}};
    const uint8_t *codes[BLOCK_ROWS];
    for (int r = 0; r < n_r; r++) {
        memcpy(code_copy[r], rows[r].codes + k * half_bytes(dtype) / 2, (size_t)(n * half_bytes(dtype) / 2));
        codes[r] = code_copy[r];
    }
    for (int m = 0; m < n_m; m++)
        memcpy(x_copy[m], a->x + m * a->x_stride + k, (size_t)n * sizeof(float));
    gemm_step(dtype, n_r, n_m, codes, rows, tile, x_copy[0], GROUP, acc);
}

/* n_r rows times n_m tokens; both constants after inlining. */
EM_INLINE void gemm_block(em_dtype dtype, int n_r, int n_m, const gemm_args *args)
{
    const gemm_args a = *args;
    const int64_t cols = a.w->cols, full = cols / GROUP * GROUP;
    const int64_t tile_cols = dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4 ? a.w->scale_cols : GROUP;
    const uint8_t *codes[BLOCK_ROWS];
    weight_row rows[BLOCK_ROWS];
    __m256 acc[BLOCK_ROWS][BLOCK_TOKENS];
#pragma GCC unroll 4
    for (int r = 0; r < n_r; r++) {
        rows[r] = row_at(a.w, dtype, a.row + r);
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++)
            acc[r][m] = _mm256_setzero_ps();
    }
    int64_t k = 0, tile = 0, tile_end = tile_cols;
    for (; k < full; k += GROUP) {
#pragma GCC unroll 4
        for (int r = 0; r < n_r; r++)
            codes[r] = rows[r].codes + k * half_bytes(dtype) / 2;
        prefetch_step(dtype, n_r, rows[0], cols, k);
        gemm_step(dtype, n_r, n_m, codes, rows, tile, a.x + k, a.x_stride, acc);
        if (k + GROUP == tile_end) {
            tile++;
            tile_end += tile_cols;
        }
    }
    if (k < cols)
        gemm_tail(dtype, n_r, n_m, &a, rows, k, cols - k, tile, acc);
    const float undo = dtype == EM_DTYPE_FP8 ? 0x1p8f : dtype == EM_DTYPE_FP4 ? 0.5f : 1.0f;
#pragma GCC unroll 4
    for (int m = 0; m < n_m; m++)
#pragma GCC unroll 4
        for (int r = 0; r < n_r; r++)
            a.y[m * a.y_stride + a.row + r] = avx2_sum(acc[r][m]) * undo;
}

/* Sixteen registers hold two rows of several tokens, but four rows of one. */
#define BLOCK(dtype, n_m)                                                                                              \
    static void block_##dtype##_1x##n_m(const gemm_args *args)                                                         \
    {                                                                                                                  \
        gemm_block(EM_DTYPE_##dtype, 1, (n_m), args);                                                                  \
    }                                                                                                                  \
    static void block_##dtype##_4x##n_m(const gemm_args *args)                                                         \
    {                                                                                                                  \
        gemm_args half = *args;                                                                                        \
        half.row += 2;                                                                                                 \
        gemm_block(EM_DTYPE_##dtype, (n_m) == 1 ? 4 : 2, (n_m), args);                                                 \
        if ((n_m) > 1)                                                                                                 \
            gemm_block(EM_DTYPE_##dtype, 2, (n_m), &half);                                                             \
    }
#define BLOCKS(dtype)                                                                                                  \
    BLOCK(dtype, 1)                                                                                                    \
    BLOCK(dtype, 2)                                                                                                    \
    BLOCK(dtype, 4)                                                                                                    \
    static const block_fn blocks_##dtype[2][3] = {                                                                     \
        {block_##dtype##_1x1, block_##dtype##_1x2, block_##dtype##_1x4},                                               \
        {block_##dtype##_4x1, block_##dtype##_4x2, block_##dtype##_4x4},                                               \
    };

BLOCKS(F32)
BLOCKS(BF16)
BLOCKS(FP8)
BLOCKS(FP4)

GEMM_OF_BLOCKS(F32)
GEMM_OF_BLOCKS(BF16)
GEMM_OF_BLOCKS(FP8)
GEMM_OF_BLOCKS(FP4)

void em_avx2_gemm_init(em_kernels *k)
{
    k->gemm[EM_DTYPE_F32] = gemm_F32;
    k->gemm[EM_DTYPE_BF16] = gemm_BF16;
    k->gemm[EM_DTYPE_FP8] = gemm_FP8;
    k->gemm[EM_DTYPE_FP4] = gemm_FP4;
}
