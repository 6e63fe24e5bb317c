/* What the vector tiers' products of packed weights share: the view of one strip, and the walk over strips and tokens.
 * A block function computes one strip times its number of tokens; blocking never touches the order of operations of one
 * output element. Included by tier files only, after their flags are set. */
#ifndef EM_CPU_STRIPS_H
#define EM_CPU_STRIPS_H

#include <stdint.h>
#include <string.h>

#include "engine/cpu/pack.h"
#include "engine/cpu/simd.h"

enum {
    PREFETCH_BYTES = 8192, /* codes fetched ahead: hardware alone leaves a tenth of the read rate unused */
    CHUNK_BYTES = 1 << 19, /* of x, which stay in the L2 cache */
    CHUNK_TOKENS = 64
};

typedef struct strip_args {
    const uint8_t *scales, *codes;
    int n_scales;     /* of a group */
    int64_t n_groups; /* whole ones */
    const float *x;   /* [tokens, x_stride] */
    int64_t x_stride;
    const float *tail; /* [tokens, EM_STRIP_COLS] x of the last group filled up with zeros; NULL: it is whole */
    float *y;          /* of the strip's first row; [tokens, y_stride] */
    int64_t y_stride;
    int first_lane, end_lane; /* rows to write */
} strip_args;

typedef void (*strip_fn)(const strip_args *a);

/* Where each token's inputs begin, and the step to the next group. The compiler must not see how these pointers depend
 * on one another: it would keep dozens of sums of them in memory instead of a register each. */
EM_INLINE void token_rows(int n_m, const float *x, int64_t x_stride, const float *ret_x[])
{
#pragma GCC unroll 8
    for (int m = 0; m < n_m; m++)
        ret_x[m] = x + m * x_stride;
}

EM_INLINE void next_group(int n_m, const float *x[])
{
#pragma GCC unroll 8
    for (int m = 0; m < n_m; m++) {
        x[m] += EM_STRIP_COLS;
        __asm__("" : "+r"(x[m]));
    }
}

/* One strip times n tokens, at most `most` at a time; fns[n - 1] takes n. */
EM_INLINE void strip_tokens(const strip_fn *fns, int most, strip_args a, int64_t n_m)
{
    for (int64_t m = 0, n; m < n_m; m += n) {
        n = n_m - m < most ? n_m - m : most;
        fns[n - 1](&a);
        a.x += n * a.x_stride;
        a.y += n * a.y_stride;
        a.tail += a.tail ? n * EM_STRIP_COLS : 0;
    }
}

/* The tokens of a chunk together are CHUNK_BYTES of x at most, walked once per strip. */
EM_INLINE void gemm_strips(const strip_fn *fns, int most, const em_matrix *w, int64_t row_begin, int64_t row_end,
                           const float *x, int64_t x_stride, int64_t n_rows, float *y, int64_t y_stride)
{
    float tail[CHUNK_TOKENS][EM_STRIP_COLS];
    int64_t whole = w->cols / EM_STRIP_COLS, rest = w->cols % EM_STRIP_COLS;
    int64_t chunk = CHUNK_BYTES / 4 / w->cols / most * most;
    chunk = chunk < most ? most : chunk > CHUNK_TOKENS ? CHUNK_TOKENS : chunk;
    size_t strip = em_strip_bytes(w->dtype, w->cols, w->scale_rows);
    size_t scale_bytes = em_strip_scale_bytes(w->dtype, w->cols, w->scale_rows);
    strip_args a = {.n_scales = em_strip_scales(w->dtype, w->scale_rows),
                    .n_groups = whole,
                    .x_stride = x_stride,
                    .tail = rest ? tail[0] : NULL,
                    .y_stride = y_stride};
    for (int64_t m = 0; m < n_rows; m += chunk) {
        int64_t n = n_rows - m < chunk ? n_rows - m : chunk;
        a.x = x + m * x_stride;
        for (int64_t i = 0; rest && i < n; i++) {
            memcpy(tail[i], a.x + i * x_stride + whole * EM_STRIP_COLS, (size_t)rest * sizeof(float));
            memset(tail[i] + rest, 0, (size_t)(EM_STRIP_COLS - rest) * sizeof(float));
        }
        for (int64_t s = row_begin / EM_STRIP_ROWS; s * EM_STRIP_ROWS < row_end; s++) {
            int64_t row = s * EM_STRIP_ROWS;
            a.scales = (const uint8_t *)w->data + (size_t)s * strip;
            a.codes = a.scales + scale_bytes;
            a.first_lane = row < row_begin ? (int)(row_begin - row) : 0;
            a.end_lane = row_end - row < EM_STRIP_ROWS ? (int)(row_end - row) : EM_STRIP_ROWS;
            a.y = y + m * y_stride + row;
            strip_tokens(fns, most, a, n);
        }
    }
}

/* Defines gemm_DTYPE, an em_gemm_fn over the functions strips_DTYPE. */
#define GEMM_OF_STRIPS(dtype, most)                                                                                    \
    static void gemm_##dtype(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride, \
                             int64_t n_rows, float *y, int64_t y_stride)                                               \
    {                                                                                                                  \
        gemm_strips(strips_##dtype, most, w, row_begin, row_end, x, x_stride, n_rows, y, y_stride);                    \
    }

#endif
