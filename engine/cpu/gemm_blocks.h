/* What the vector tiers' matrix products share: the view of a block, prefetching, and the walk over rows and tokens.
 * A block function computes BLOCK_ROWS rows (or one) times 1, 2 or BLOCK_TOKENS tokens; blocking never touches the
 * order of operations of one output element. Included by tier files only, after their flags are set. */
#ifndef EM_CPU_GEMM_BLOCKS_H
#define EM_CPU_GEMM_BLOCKS_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/matrix.h"

#define EM_INLINE static inline __attribute__((always_inline))

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

/* The next block of n_r rows lies right behind this one; while one group of columns is computed, as many bytes of it
 * are fetched. Hardware follows four short streams poorly: this is worth a third of the speed from memory. The
 * addresses may run past the matrix, which a prefetch forgives. Single rows are left-overs. */
EM_INLINE void prefetch_step(em_dtype dtype, int n_r, weight_row first, int64_t cols, int64_t k)
{
    uintptr_t p = (uintptr_t)first.codes + (uintptr_t)(n_r * (cols + k) * half_bytes(dtype) / 2);
    if (n_r == 1)
        return;
#pragma GCC unroll 8
    for (int i = 0; i < n_r * GROUP * half_bytes(dtype) / 2; i += 64)
        _mm_prefetch((const char *)(p + (uintptr_t)i), _MM_HINT_T1);
}

/* blocks[one row or BLOCK_ROWS][1, 2 or BLOCK_TOKENS tokens] */
typedef void (*block_fn)(const gemm_args *args);

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

/* Defines gemm_DTYPE, an em_gemm_fn over the block functions blocks_DTYPE. */
#define GEMM_OF_BLOCKS(dtype)                                                                                          \
    static void gemm_##dtype(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride, \
                             int64_t n_rows, float *y, int64_t y_stride)                                               \
    {                                                                                                                  \
        gemm_blocks(blocks_##dtype, w, row_begin, row_end, x, x_stride, n_rows, y, y_stride);                          \
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

EM_INLINE void gemm_blocks(const block_fn blocks[2][3], const em_matrix *w, int64_t row_begin, int64_t row_end,
                           const float *x, int64_t x_stride, int64_t n_rows, float *y, int64_t y_stride)
{
    int64_t chunk = CHUNK_BYTES / 4 / w->cols / BLOCK_TOKENS * BLOCK_TOKENS;
    chunk = chunk < BLOCK_TOKENS ? BLOCK_TOKENS : chunk;
    for (int64_t m = 0; m < n_rows; m += chunk) {
        gemm_args a = {w, row_begin, x + m * x_stride, x_stride, y + m * y_stride, y_stride};
        gemm_chunk(blocks, a, row_begin, row_end, n_rows - m < chunk ? n_rows - m : chunk);
    }
}

#endif
