/* Number formats of weights and caches, and the view of one stored matrix.
 * Formats: spec of DeepSeek-V4.1, section 3 (storage formats and exact rounding). */
#ifndef EM_ENGINE_MATRIX_H
#define EM_ENGINE_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum em_dtype {
    EM_DTYPE_F32,
    EM_DTYPE_BF16,
    EM_DTYPE_FP8, /* E4M3 codes; UE8M0 scale per tile of scale_rows x scale_cols */
    EM_DTYPE_FP4, /* E2M1 codes, two per byte, column 2k in the low nibble; UE8M0 scale per row and scale_cols columns */
} em_dtype;

/* A linear weight [rows, cols] as the checkpoint stores it, row-major: y = W x. A view: owns nothing; data points
 * into a mapping, at any byte alignment the file happens to have (2- and 4-byte types are aligned to their size). */
typedef struct em_matrix {
    em_dtype dtype;
    int64_t rows, cols;   /* outputs, inputs (logical columns, also for FP4) */
    const void *data;     /* row stride: cols * {4, 2, 1, 0.5} bytes; FP4 has even cols */
    const uint8_t *scale; /* FP8, FP4: UE8M0 bytes [ceil(rows/scale_rows), scale_stride]; else NULL */
    int32_t scale_rows;   /* rows one scale covers: the FP8 tile's height, 1 for FP4 */
    int32_t scale_cols;   /* columns one scale covers; a multiple of 32 */
    int64_t scale_stride; /* scales in one row of tiles = ceil(cols / scale_cols) */
    bool packed;          /* data holds codes and scales in the order of the CPU's kernels (engine/cpu/pack.h), 64-byte
                           * aligned; scale is NULL */
} em_matrix;

/* Bytes of one row of codes. */
static inline size_t em_matrix_row_bytes(const em_matrix *w)
{
    switch (w->dtype) {
    case EM_DTYPE_F32: return (size_t)w->cols * 4;
    case EM_DTYPE_BF16: return (size_t)w->cols * 2;
    case EM_DTYPE_FP8: return (size_t)w->cols;
    case EM_DTYPE_FP4: return (size_t)w->cols / 2;
    }
    return 0;
}

#endif
