/* The order in which the CPU's kernels want weights: strips of EM_STRIP_ROWS output rows, one row per vector lane, so
 * that a product needs no sum over lanes and a strip is one stream through memory.
 *
 * A strip is [scales][codes], columns in groups of EM_STRIP_COLS, rows and columns that the matrix lacks as zeros:
 *   scales  FP4 and FP8: for each group UE8M0 bytes, one per row; only one where all rows share it (FP8 tiles whose
 *           height divides by EM_STRIP_ROWS). Filled up to 64 bytes.
 *   codes   FP4: words of 8 columns of one row, as the checkpoint has them; BF16: words of 2 columns; F32: of one; all
 *           [columns / n][row]. FP8: bytes [column][row].
 * Packing only moves codes. Pure functions on memory; any thread. */
#ifndef EM_CPU_PACK_H
#define EM_CPU_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "engine/matrix.h"

#define EM_STRIP_ROWS 16
#define EM_STRIP_COLS 32

static inline int64_t em_strip_groups(int64_t cols)
{
    return (cols + EM_STRIP_COLS - 1) / EM_STRIP_COLS;
}

/* Scales of one group: 0, 1 or EM_STRIP_ROWS. */
static inline int em_strip_scales(em_dtype dtype, int32_t scale_rows)
{
    return dtype == EM_DTYPE_FP4             ? EM_STRIP_ROWS
           : dtype != EM_DTYPE_FP8           ? 0
           : scale_rows % EM_STRIP_ROWS == 0 ? 1
                                             : EM_STRIP_ROWS;
}

/* Bytes of the codes of one group. */
static inline size_t em_strip_group_bytes(em_dtype dtype)
{
    const size_t values = (size_t)EM_STRIP_ROWS * EM_STRIP_COLS;
    return dtype == EM_DTYPE_F32    ? 4 * values
           : dtype == EM_DTYPE_BF16 ? 2 * values
           : dtype == EM_DTYPE_FP8  ? values
                                    : values / 2;
}

/* Bytes in front of a strip's codes. */
static inline size_t em_strip_scale_bytes(em_dtype dtype, int64_t cols, int32_t scale_rows)
{
    return ((size_t)em_strip_groups(cols) * (size_t)em_strip_scales(dtype, scale_rows) + 63) / 64 * 64;
}

static inline size_t em_strip_bytes(em_dtype dtype, int64_t cols, int32_t scale_rows)
{
    return em_strip_scale_bytes(dtype, cols, scale_rows) + (size_t)em_strip_groups(cols) * em_strip_group_bytes(dtype);
}

/* Bytes of a packed matrix; a multiple of 64. */
static inline size_t em_packed_bytes(em_dtype dtype, int64_t rows, int64_t cols, int32_t scale_rows)
{
    return (size_t)((rows + EM_STRIP_ROWS - 1) / EM_STRIP_ROWS) * em_strip_bytes(dtype, cols, scale_rows);
}

/* The view of what em_pack_strips makes of w at data. */
em_matrix em_packed_view(const em_matrix *w, const void *data);

/* Strips [begin, end) of w, which is not packed, to their places in data [em_packed_bytes], 64-byte aligned. */
void em_pack_strips(const em_matrix *w, int64_t begin, int64_t end, void *data);

#endif
