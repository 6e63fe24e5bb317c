/* AVX-512: matrix products straight from the checkpoint's layout.
 *
 * One output element has one accumulator of 16 lanes. Columns are taken in groups of 32, two fused multiply-adds
 * each, in ascending order, the last group masked; then one sum over the lanes. Blocking over rows and tokens only
 * decides what else is computed meanwhile, so a token's bits depend on nothing but its own inputs.
 *
 *   FP4   16 bytes hold 32 columns; low nibbles are the even ones. Both nibbles index the 16 values times the group's
 *         scale (a row of a table, one load); x is split into even and odd columns on the fly, shared by the rows of
 *         the block.
 *   FP8   code fields move into half floats (times 2^-8, undone at the end); the tile's scale goes to x, shared by the
 *         rows of the block, which therefore lie in one tile. NaN codes read as +-480: a test for them would cost 6 %
 *         here, and no checkpoint has them. */
#include "engine/cpu/avx512.h"
#include "engine/cpu/gemm_blocks.h"

/* The weights of columns k .. k+n-1 (n < GROUP only in the last group, where the rest reads as 0). FP4: even columns
 * in lo, odd in hi, scaled; FP8: lower and upper half, times 2^-8 and not scaled; else lower and upper half. */
EM_INLINE void load_weights(em_dtype dtype, weight_row r, int64_t k, int64_t tile, int64_t n, __m512 *lo, __m512 *hi)
{
    __mmask16 m0 = avx512_first(n), m1 = avx512_first(n - 16);
    if (dtype == EM_DTYPE_F32) {
        const float *p = (const float *)(const void *)r.codes + k;
        *lo = n == GROUP ? _mm512_loadu_ps(p) : _mm512_maskz_loadu_ps(m0, p);
        *hi = n == GROUP ? _mm512_loadu_ps(p + 16) : _mm512_maskz_loadu_ps(m1, p + 16);
    } else if (dtype == EM_DTYPE_BF16) {
        const uint8_t *p = r.codes + k * 2;
        __m256i a = n == GROUP ? _mm256_loadu_si256((const __m256i *)p) : _mm256_maskz_loadu_epi16(m0, p);
        __m256i b = n == GROUP ? _mm256_loadu_si256((const __m256i *)(p + 32)) : _mm256_maskz_loadu_epi16(m1, p + 32);
        *lo = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16));
        *hi = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
    } else if (dtype == EM_DTYPE_FP8) {
        const uint8_t *p = r.codes + k;
        __m256i c = n == GROUP ? _mm256_loadu_si256((const __m256i *)p)
                               : _mm256_maskz_loadu_epi8((__mmask32)((1u << n) - 1), p);
        avx512_e4m3(c, lo, hi);
    } else {
        const uint8_t *p = r.codes + k / 2;
        __m128i c = n == GROUP ? _mm_loadu_si128((const __m128i *)p) : _mm_maskz_loadu_epi8(avx512_first(n / 2), p);
        __m512i v = _mm512_cvtepu8_epi32(c);
        __m512 values = _mm512_load_ps(em_e2m1_scaled[r.scales[tile]]);
        *lo = _mm512_permutexvar_ps(v, values);
        *hi = _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), values);
    }
}

/* x to match load_weights. */
EM_INLINE void load_x(em_dtype dtype, const float *x, int64_t n, __m512 scale, __m512 *lo, __m512 *hi)
{
    __m512 a = n == GROUP ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(avx512_first(n), x);
    __m512 b = n == GROUP ? _mm512_loadu_ps(x + 16) : _mm512_maskz_loadu_ps(avx512_first(n - 16), x + 16);
    if (dtype == EM_DTYPE_FP4) {
        const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        *lo = _mm512_permutex2var_ps(a, even, b);
        *hi = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
    } else if (dtype == EM_DTYPE_FP8) {
        *lo = _mm512_mul_ps(a, scale);
        *hi = _mm512_mul_ps(b, scale);
    } else {
        *lo = a;
        *hi = b;
    }
}

/* One group of columns for n_r rows and n_m tokens. */
EM_INLINE void gemm_step(em_dtype dtype, int n_r, int n_m, const gemm_args *a, const weight_row *rows, int64_t k,
                         int64_t tile, int64_t n, __m512 acc[BLOCK_ROWS][BLOCK_TOKENS])
{
    __m512 lo[BLOCK_ROWS], hi[BLOCK_ROWS], x_lo, x_hi;
    __m512 scale = _mm512_setzero_ps();
    if (dtype == EM_DTYPE_FP8)
        scale = _mm512_set1_ps(em_e8m0_table[rows[0].scales[tile]]);
#pragma GCC unroll 4
    for (int r = 0; r < n_r; r++)
        load_weights(dtype, rows[r], k, tile, n, &lo[r], &hi[r]);
#pragma GCC unroll 4
    for (int m = 0; m < n_m; m++) {
        load_x(dtype, a->x + m * a->x_stride + k, n, scale, &x_lo, &x_hi);
#pragma GCC unroll 4
        for (int r = 0; r < n_r; r++) {
            acc[r][m] = _mm512_fmadd_ps(lo[r], x_lo, acc[r][m]);
            acc[r][m] = _mm512_fmadd_ps(hi[r], x_hi, acc[r][m]);
        }
    }
}

/* n_r rows times n_m tokens; both constants after inlining. */
EM_INLINE void gemm_block(em_dtype dtype, int n_r, int n_m, const gemm_args *args)
{
    const gemm_args a = *args;
    const int64_t cols = a.w->cols, full = cols / GROUP * GROUP;
    const int64_t tile_cols = dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4 ? a.w->scale_cols : GROUP;
    weight_row rows[BLOCK_ROWS];
    __m512 acc[BLOCK_ROWS][BLOCK_TOKENS];
#pragma GCC unroll 4
    for (int r = 0; r < n_r; r++) {
        rows[r] = row_at(a.w, dtype, a.row + r);
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++)
            acc[r][m] = _mm512_setzero_ps();
    }
    int64_t k = 0, tile = 0, tile_end = tile_cols;
    for (; k < full; k += GROUP) {
        prefetch_step(dtype, n_r, rows[0], cols, k);
        gemm_step(dtype, n_r, n_m, &a, rows, k, tile, GROUP, acc);
        if (k + GROUP == tile_end) {
            tile++;
            tile_end += tile_cols;
        }
    }
    if (k < cols)
        gemm_step(dtype, n_r, n_m, &a, rows, k, tile, cols - k, acc);
#pragma GCC unroll 4
    for (int m = 0; m < n_m; m++)
#pragma GCC unroll 4
        for (int r = 0; r < n_r; r++) {
            float sum = avx512_sum(acc[r][m]);
            a.y[m * a.y_stride + a.row + r] = dtype == EM_DTYPE_FP8 ? sum * 0x1p8f : sum;
        }
}

/* Blocks of one format: [one row, BLOCK_ROWS rows][1, 2, BLOCK_TOKENS tokens]. */
#define BLOCK(dtype, n_r, n_m)                                                                                         \
    static void block_##dtype##_##n_r##x##n_m(const gemm_args *args)                                                   \
    {                                                                                                                  \
        gemm_block(EM_DTYPE_##dtype, n_r, n_m, args);                                                                  \
    }
#define BLOCKS(dtype)                                                                                                  \
    BLOCK(dtype, 1, 1)                                                                                                 \
    BLOCK(dtype, 1, 2)                                                                                                 \
    BLOCK(dtype, 1, 4)                                                                                                 \
    BLOCK(dtype, 4, 1)                                                                                                 \
    BLOCK(dtype, 4, 2)                                                                                                 \
    BLOCK(dtype, 4, 4)                                                                                                 \
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

void em_avx512_gemm_init(em_kernels *k)
{
    k->gemm[EM_DTYPE_F32] = gemm_F32;
    k->gemm[EM_DTYPE_BF16] = gemm_BF16;
    k->gemm[EM_DTYPE_FP8] = gemm_FP8;
    k->gemm[EM_DTYPE_FP4] = gemm_FP4;
}
