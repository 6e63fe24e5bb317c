#include "engine/cpu/pack.h"

#include <string.h>

em_matrix em_packed_view(const em_matrix *w, const void *data)
{
    em_matrix p = *w;
    p.data = data;
    p.scale = NULL;
    p.packed = true;
    return p;
}

/* Rows of the strip that the matrix lacks scale by one. */
static void pack_scales(const em_matrix *w, int64_t first_row, uint8_t *out)
{
    enum { SCALE_OF_ONE = 127 };
    int n = em_strip_scales(w->dtype, w->scale_rows);
    int64_t groups = em_strip_groups(w->cols);
    for (int lane = 0; lane < n; lane++) {
        int64_t row = first_row + lane;
        const uint8_t *from = row < w->rows ? w->scale + row / w->scale_rows * w->scale_stride : NULL;
        for (int64_t g = 0; g < groups; g++)
            out[g * n + lane] = from ? from[g * EM_STRIP_COLS / w->scale_cols] : SCALE_OF_ONE;
    }
}

/* One group: codes of every row, `bytes` each, lane by lane. */
static void pack_words(const uint8_t *const row[EM_STRIP_ROWS], size_t bytes, uint8_t *out)
{
    for (size_t i = 0; i < bytes; i += 4)
        for (int lane = 0; lane < EM_STRIP_ROWS; lane++, out += 4)
            memcpy(out, row[lane] + i, 4);
}

static void pack_bytes(const uint8_t *const row[EM_STRIP_ROWS], uint8_t *out)
{
    for (int lane = 0; lane < EM_STRIP_ROWS; lane++)
        for (int i = 0; i < EM_STRIP_COLS; i++)
            out[i * EM_STRIP_ROWS + lane] = row[lane][i];
}

static void pack_strip(const em_matrix *w, int64_t first_row, uint8_t *out)
{
    static const uint8_t zeros[EM_STRIP_COLS * sizeof(float)];
    size_t group_bytes = em_strip_group_bytes(w->dtype), bytes = group_bytes / EM_STRIP_ROWS;
    size_t row_bytes = em_matrix_row_bytes(w);
    uint8_t tail[EM_STRIP_ROWS][EM_STRIP_COLS * sizeof(float)];
    const uint8_t *row[EM_STRIP_ROWS];
    pack_scales(w, first_row, out);
    out += em_strip_scale_bytes(w->dtype, w->cols, w->scale_rows);
    for (size_t at = 0; at < row_bytes; at += bytes, out += group_bytes) {
        for (int lane = 0; lane < EM_STRIP_ROWS; lane++) {
            row[lane] = zeros;
            if (first_row + lane >= w->rows)
                continue;
            row[lane] = (const uint8_t *)w->data + (size_t)(first_row + lane) * row_bytes + at;
            if (row_bytes - at < bytes) {
                memset(tail[lane], 0, bytes);
                row[lane] = memcpy(tail[lane], row[lane], row_bytes - at);
            }
        }
        if (w->dtype == EM_DTYPE_FP8)
            pack_bytes(row, out);
        else
            pack_words(row, bytes, out);
    }
}

void em_pack_strips(const em_matrix *w, int64_t begin, int64_t end, void *data)
{
    size_t strip = em_strip_bytes(w->dtype, w->cols, w->scale_rows);
    for (int64_t s = begin; s < end; s++)
        pack_strip(w, s * EM_STRIP_ROWS, (uint8_t *)data + (size_t)s * strip);
}
