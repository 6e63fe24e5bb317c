/* What the vector tiers' products of F32 rows share: the walk over rows and tokens. A block function computes BLOCK_ROWS
 * rows (or one) times 1, 2 or BLOCK_TOKENS tokens; blocking never touches the order of operations of one output element.
 * Included by tier files only, after their flags are set. */
#ifndef EM_CPU_GEMM_BLOCKS_H
#define EM_CPU_GEMM_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/cpu/simd.h"
#include "engine/matrix.h"

enum {
    GROUP = 32,      /* columns of one step */
    BLOCK_ROWS = 4,  /* output rows that share the loads of x */
    BLOCK_TOKENS = 4 /* tokens that share the loads of rows */
};

typedef struct gemm_args {
    const float *w; /* the block's first row */
    int64_t cols;
    const float *x; /* of the block's first token */
    int64_t x_stride;
    float *y; /* of both */
    int64_t y_stride;
} gemm_args;

/* blocks[one row or BLOCK_ROWS][1, 2 or BLOCK_TOKENS tokens] */
typedef void (*block_fn)(const gemm_args *args);

EM_INLINE void gemm_blocks(const block_fn blocks[2][3], const em_matrix *w, int64_t row_begin, int64_t row_end,
                           const float *x, int64_t x_stride, int64_t n_rows, float *y, int64_t y_stride)
{
    gemm_args a = {.cols = w->cols, .x_stride = x_stride, .y_stride = y_stride};
    for (int64_t row = row_begin, step; row < row_end; row += step) {
        bool wide = row_end - row >= BLOCK_ROWS;
        step = wide ? BLOCK_ROWS : 1;
        a.w = (const float *)w->data + row * w->cols;
        for (int64_t m = 0, m_step; m < n_rows; m += m_step) {
            int width = n_rows - m >= BLOCK_TOKENS ? 2 : n_rows - m >= 2 ? 1 : 0;
            m_step = width == 2 ? BLOCK_TOKENS : width + 1;
            a.x = x + m * x_stride;
            a.y = y + m * y_stride + row;
            blocks[wide][width](&a);
        }
    }
}

/* Defines gemm_rows, an em_gemm_fn, over gemm_block(n_r, n_m, args). */
#define BLOCK(n_r, n_m)                                                                                                \
    static void block_##n_r##x##n_m(const gemm_args *args)                                                             \
    {                                                                                                                  \
        gemm_block(n_r, n_m, args);                                                                                    \
    }
#define GEMM_ROWS                                                                                                      \
    BLOCK(1, 1)                                                                                                        \
    BLOCK(1, 2)                                                                                                        \
    BLOCK(1, 4)                                                                                                        \
    BLOCK(4, 1)                                                                                                        \
    BLOCK(4, 2)                                                                                                        \
    BLOCK(4, 4)                                                                                                        \
    static const block_fn blocks[2][3] = {{block_1x1, block_1x2, block_1x4}, {block_4x1, block_4x2, block_4x4}};       \
    static void gemm_rows(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride,    \
                          int64_t n_rows, float *y, int64_t y_stride)                                                  \
    {                                                                                                                  \
        gemm_blocks(blocks, w, row_begin, row_end, x, x_stride, n_rows, y, y_stride);                                  \
    }

#endif
