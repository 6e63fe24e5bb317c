/* AVX-512: matrix products straight from the checkpoint's layout.
 *
 * One output element has one accumulator of 16 lanes. Columns are taken in groups of 32, two fused multiply-adds each, in
 * ascending order, the last group masked; then one sum over the lanes. Blocking over rows and tokens only decides what else
 * is computed meanwhile, so a token's bits depend on nothing but its own inputs.
 *
 *   FP4   16 bytes hold 32 columns; low nibbles are the even ones. Both nibbles index the 16 values times
 *         the group's scale (a row of a table, one load), and x is split into even and odd columns on the fly, shared by all rows of the block.
 *   FP8   code fields move into half floats (times 2^-8, undone at the end); the tile's scale goes to x, shared by the
 *         rows of the block, which therefore lie in one tile. */
#include "engine/cpu/avx512.h"

enum {
    GROUP = 32,           /* columns of one step */
    BLOCK_ROWS = 4,       /* output rows that share the loads of x */
    BLOCK_TOKENS = 4,     /* tokens that share decoded weights */
    CHUNK_BYTES = 1 << 18 /* of x, walked once per block of rows: stays in the L2 cache */
};

typedef struct gemm_args {
    const em_matrix *w;
    int64_t row;
    const float *x; /* of the block's first token */
    int64_t x_stride;
    float *y;
    int64_t y_stride;
} gemm_args;

/* A row of the block: where its codes and scales begin. */
typedef struct weight_row {
    const uint8_t *codes;
    const uint8_t *scales;
} weight_row;

/* Of one column, doubled because of FP4. */
EM_INLINE int half_bytes(em_dtype dtype)
{
    return dtype == EM_DTYPE_F32 ? 8 : dtype == EM_DTYPE_BF16 ? 4 : dtype == EM_DTYPE_FP8 ? 2 : 1;
}

EM_INLINE weight_row row_at(const em_matrix *w, em_dtype dtype, int64_t row)
{
    weight_row r = {(const uint8_t *)w->data + row * w->cols * half_bytes(dtype) / 2, NULL};
    if (dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4)
        r.scales = w->scale + row / w->scale_rows * w->scale_stride;
    return r;
}

/* The weights of columns k .. k+n-1 (n < GROUP only in the last group, where the rest reads as 0). FP4: even columns in lo,
 * odd in hi, scaled; FP8: lower and upper half, times 2^-8 and not scaled; else lower and upper half. */
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

/* The next block of rows lies right behind this one; while one group of columns is computed, as many bytes of it are
 * fetched. Hardware follows four short streams poorly: this is worth half of the speed from memory. The addresses may
 * run past the matrix, which a prefetch forgives. */
EM_INLINE void prefetch_step(em_dtype dtype, weight_row first, int64_t cols, int64_t k)
{
    uintptr_t p = (uintptr_t)first.codes + (uintptr_t)(BLOCK_ROWS * (cols + k) * half_bytes(dtype) / 2);
#pragma GCC unroll 8
    for (int i = 0; i < BLOCK_ROWS * GROUP * half_bytes(dtype) / 2; i += 64)
        _mm_prefetch((const char *)(p + (uintptr_t)i), _MM_HINT_T1);
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
        if (n_r == BLOCK_ROWS)
            prefetch_step(dtype, rows[0], cols, k);
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

typedef void (*block_fn)(const gemm_args *args);

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

/* Rows from `row` that one block may take: FP8 rows must share a scale. */
EM_INLINE int64_t rows_together(const em_matrix *w, int64_t row, int64_t row_end)
{
    int64_t end = row_end;
    if (w->dtype == EM_DTYPE_FP8) {
        int64_t tile_end = (row / w->scale_rows + 1) * w->scale_rows;
        end = tile_end < row_end ? tile_end : row_end;
    }
    return end - row;
}

/* All rows, for a chunk of tokens whose x stays in the cache. */
EM_INLINE void gemm_chunk(const block_fn blocks[2][3], gemm_args a, int64_t row_begin, int64_t row_end, int64_t n_m)
{
    const float *x = a.x;
    float *y = a.y;
    for (int64_t row = row_begin, step; row < row_end; row += step) {
        bool wide = rows_together(a.w, row, row_end) >= BLOCK_ROWS;
        step = wide ? BLOCK_ROWS : 1;
        a.row = row;
        for (int64_t m = 0, m_step; m < n_m; m += m_step) {
            int width = n_m - m >= BLOCK_TOKENS ? 2 : n_m - m >= 2 ? 1 : 0;
            m_step = width == 2 ? BLOCK_TOKENS : width + 1;
            a.x = x + m * a.x_stride;
            a.y = y + m * a.y_stride;
            blocks[wide][width](&a);
        }
    }
}

EM_INLINE void gemm(const block_fn blocks[2][3], const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x,
                    int64_t x_stride, int64_t n_rows, float *y, int64_t y_stride)
{
    int64_t chunk = CHUNK_BYTES / 4 / w->cols / BLOCK_TOKENS * BLOCK_TOKENS;
    chunk = chunk < BLOCK_TOKENS ? BLOCK_TOKENS : chunk;
    for (int64_t m = 0; m < n_rows; m += chunk) {
        gemm_args a = {w, row_begin, x + m * x_stride, x_stride, y + m * y_stride, y_stride};
        gemm_chunk(blocks, a, row_begin, row_end, n_rows - m < chunk ? n_rows - m : chunk);
    }
}

#define GEMM(dtype)                                                                                                    \
    static void gemm_##dtype(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride, \
                             int64_t n_rows, float *y, int64_t y_stride)                                               \
    {                                                                                                                  \
        gemm(blocks_##dtype, w, row_begin, row_end, x, x_stride, n_rows, y, y_stride);                                 \
    }

GEMM(F32)
GEMM(BF16)
GEMM(FP8)
GEMM(FP4)

void em_avx512_gemm_init(em_kernels *k)
{
    k->gemm[EM_DTYPE_F32] = gemm_F32;
    k->gemm[EM_DTYPE_BF16] = gemm_BF16;
    k->gemm[EM_DTYPE_FP8] = gemm_FP8;
    k->gemm[EM_DTYPE_FP4] = gemm_FP4;
}
