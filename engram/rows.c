#include "engram/rows.h"

#include <string.h>

/* Rows whose cache lines are asked for while an earlier row is copied. A row comes about 500 ns after it is asked for
 * and costs about 40, so a dozen must be under way; more than the core can track does no good. */
#define DISTANCE 16
#define LINE 64

static inline void prefetch_span(const uint8_t *p, size_t bytes)
{
    const uint8_t *line = (const uint8_t *)((uintptr_t)p & ~(uintptr_t)(LINE - 1));
    for (; line < p + bytes; line += LINE)
        __builtin_prefetch(line, 0, 3);
}

static inline void prefetch_row(const em_engram_table *table, int64_t row_id, size_t row_bytes, size_t scale_bytes)
{
    prefetch_span(table->codes + (size_t)row_id * row_bytes, row_bytes);
    if (scale_bytes)
        prefetch_span(table->scales + (size_t)row_id * scale_bytes, scale_bytes);
}

/* Inlined with constant sizes for the shapes that matter, where the copies become plain vector moves. */
static inline __attribute__((always_inline)) void copy_rows(const em_engram_table *table, const int64_t *row_id,
                                                            size_t n, uint8_t *codes, uint8_t *scales, size_t row_bytes,
                                                            size_t scale_bytes)
{
    for (size_t i = 0; i < n && i < DISTANCE; i++)
        prefetch_row(table, row_id[i], row_bytes, scale_bytes);
    for (size_t i = 0; i < n; i++) {
        if (i + DISTANCE < n)
            prefetch_row(table, row_id[i + DISTANCE], row_bytes, scale_bytes);
        memcpy(codes + i * row_bytes, table->codes + (size_t)row_id[i] * row_bytes, row_bytes);
        if (scale_bytes)
            memcpy(scales + i * scale_bytes, table->scales + (size_t)row_id[i] * scale_bytes, scale_bytes);
    }
}

void em_rows_copy(const em_engram_table *table, const int64_t *row_id, size_t n, uint8_t *codes, uint8_t *scales)
{
    if (table->row_bytes == 256 && table->scale_bytes == 8) /* the released model's rows */
        copy_rows(table, row_id, n, codes, scales, 256, 8);
    else
        copy_rows(table, row_id, n, codes, scales, table->row_bytes, table->scale_bytes);
}
