/* The plain C kernels: the definition of correct, and the tier of machines without AVX2. */
#include <math.h>
#include <string.h>

#include "engine/cpu/pack.h"
#include "engine/cpu/tiers.h"
#include "engine/formats.h"

enum {
    LANES = 16,       /* partial sums of a dot product: element i goes to sum i % LANES */
    BLOCK_TOKENS = 8, /* tokens that share one widening */
};

/* ---- weights to float32 ---- */

/* The run of columns from col on, at most n, that share a scale. */
static int64_t run_of_scale(const em_matrix *w, int64_t col, int64_t n)
{
    int64_t left = w->scale_cols - col % w->scale_cols;
    return left < n ? left : n;
}

static void widen_fp8(const em_matrix *w, int64_t row, int64_t col, int64_t n, float *out)
{
    const uint8_t *codes = (const uint8_t *)w->data + row * w->cols + col;
    const uint8_t *scales = w->scale + row / w->scale_rows * w->scale_stride;
    for (int64_t i = 0, run; i < n; i += run) {
        float scale = em_e8m0_table[scales[(col + i) / w->scale_cols]];
        run = run_of_scale(w, col + i, n - i);
        for (int64_t j = i; j < i + run; j++)
            out[j] = em_e4m3_table[codes[j]] * scale;
    }
}

/* col, n and the run are even. */
static void widen_fp4(const em_matrix *w, int64_t row, int64_t col, int64_t n, float *out)
{
    const uint8_t *codes = (const uint8_t *)w->data + row * (w->cols / 2) + col / 2;
    const uint8_t *scales = w->scale + row / w->scale_rows * w->scale_stride;
    for (int64_t i = 0, run; i < n; i += run) {
        const float *values = em_e2m1_scaled[scales[(col + i) / w->scale_cols]];
        run = run_of_scale(w, col + i, n - i);
        for (int64_t j = i; j < i + run; j += 2) {
            out[j] = values[codes[j / 2] & 15];
            out[j + 1] = values[codes[j / 2] >> 4];
        }
    }
}

/* Columns col .. col + n - 1 of one row. */
static void widen(const em_matrix *w, int64_t row, int64_t col, int64_t n, float *out)
{
    switch (w->dtype) {
    case EM_DTYPE_F32: memcpy(out, (const float *)w->data + row * w->cols + col, (size_t)n * sizeof(float)); break;
    case EM_DTYPE_BF16: {
        const uint16_t *p = (const uint16_t *)w->data + row * w->cols + col;
        for (int64_t i = 0; i < n; i++)
            out[i] = em_bf16_to_f32(p[i]);
        break;
    }
    case EM_DTYPE_FP8: widen_fp8(w, row, col, n, out); break;
    case EM_DTYPE_FP4: widen_fp4(w, row, col, n, out); break;
    }
}

void em_ref_row_f32(const em_matrix *w, int64_t row, float *y)
{
    widen(w, row, 0, w->cols, y);
}

/* ---- sums ---- */

static float sum_lanes(const float acc[LANES])
{
    float t[LANES];
    memcpy(t, acc, sizeof(t));
    for (int half = LANES / 2; half >= 1; half /= 2)
        for (int j = 0; j < half; j++)
            t[j] += t[j + half];
    return t[0];
}

static void dot_lanes(float acc[LANES], const float *a, const float *b, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            acc[j] += a[i + j] * b[i + j];
    for (int j = 0; i < n; i++, j++)
        acc[j] += a[i] * b[i];
}

void em_ref_gemm_rows(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride,
                      int64_t n_rows, float *y, int64_t y_stride)
{
    for (int64_t m = 0; m < n_rows; m++)
        for (int64_t o = row_begin; o < row_end; o++) {
            float acc[LANES] = {0};
            dot_lanes(acc, (const float *)w->data + o * w->cols, x + m * x_stride, w->cols);
            y[m * y_stride + o] = sum_lanes(acc);
        }
}

/* ---- packed weights ---- */

static void widen_words(em_dtype dtype, const uint8_t *code, float out[EM_STRIP_COLS][EM_STRIP_ROWS])
{
    if (dtype == EM_DTYPE_F32) {
        memcpy(out, code, sizeof(float) * EM_STRIP_COLS * EM_STRIP_ROWS);
        return;
    }
    for (int64_t pair = 0; pair < EM_STRIP_COLS / 2; pair++)
        for (int row = 0; row < EM_STRIP_ROWS; row++, code += 4) {
            uint16_t v[2];
            memcpy(v, code, 4);
            out[2 * pair][row] = em_bf16_to_f32(v[0]);
            out[2 * pair + 1][row] = em_bf16_to_f32(v[1]);
        }
}

/* scale[row] of the group; the same for all where there is one. */
static void widen_codes(em_dtype dtype, const uint8_t *code, const uint8_t scale[EM_STRIP_ROWS],
                        float out[EM_STRIP_COLS][EM_STRIP_ROWS])
{
    for (int row = 0; row < EM_STRIP_ROWS; row++) {
        float factor = em_e8m0_table[scale[row]];
        const float *values = em_e2m1_scaled[scale[row]];
        if (dtype == EM_DTYPE_FP8) {
            for (int col = 0; col < EM_STRIP_COLS; col++)
                out[col][row] = em_e4m3_table[code[col * EM_STRIP_ROWS + row]] * factor;
            continue;
        }
        for (int word = 0; word < EM_STRIP_COLS / 8; word++)
            for (int i = 0; i < 4; i++) {
                uint8_t pair = code[4 * (word * EM_STRIP_ROWS + row) + i];
                out[8 * word + 2 * i][row] = values[pair & 15];
                out[8 * word + 2 * i + 1][row] = values[pair >> 4];
            }
    }
}

/* Group g of a strip, [column][row], scaled. */
static void widen_group(const em_matrix *w, const uint8_t *strip, int64_t g, float out[EM_STRIP_COLS][EM_STRIP_ROWS])
{
    const uint8_t *code =
        strip + em_strip_scale_bytes(w->dtype, w->cols, w->scale_rows) + (size_t)g * em_strip_group_bytes(w->dtype);
    uint8_t scale[EM_STRIP_ROWS];
    int n_scales = em_strip_scales(w->dtype, w->scale_rows);
    if (n_scales == 0) {
        widen_words(w->dtype, code, out);
        return;
    }
    if (n_scales == 1)
        memset(scale, strip[g], sizeof(scale));
    else
        memcpy(scale, strip + g * EM_STRIP_ROWS, sizeof(scale));
    widen_codes(w->dtype, code, scale, out);
}

/* Columns of a group in ascending order. */
static void add_columns(float acc[EM_STRIP_ROWS], const float w[EM_STRIP_COLS][EM_STRIP_ROWS], const float *x,
                        int64_t n)
{
    float sum[EM_STRIP_ROWS];
    memcpy(sum, acc, sizeof(sum));
    for (int64_t col = 0; col < n; col++)
        for (int row = 0; row < EM_STRIP_ROWS; row++)
            sum[row] += w[col][row] * x[col];
    memcpy(acc, sum, sizeof(sum));
}

void em_ref_gemm(const em_matrix *w, int64_t row_begin, int64_t row_end, const float *x, int64_t x_stride,
                 int64_t n_rows, float *y, int64_t y_stride)
{
    size_t strip_bytes = em_strip_bytes(w->dtype, w->cols, w->scale_rows);
    for (int64_t m0 = 0; m0 < n_rows; m0 += BLOCK_TOKENS) {
        int64_t n_m = n_rows - m0 < BLOCK_TOKENS ? n_rows - m0 : BLOCK_TOKENS;
        for (int64_t row = row_begin / EM_STRIP_ROWS * EM_STRIP_ROWS; row < row_end; row += EM_STRIP_ROWS) {
            const uint8_t *strip = (const uint8_t *)w->data + (size_t)(row / EM_STRIP_ROWS) * strip_bytes;
            float acc[BLOCK_TOKENS][EM_STRIP_ROWS] = {{0}}, group[EM_STRIP_COLS][EM_STRIP_ROWS];
            for (int64_t k = 0; k < w->cols; k += EM_STRIP_COLS) {
                widen_group(w, strip, k / EM_STRIP_COLS, group);
                int64_t n = w->cols - k < EM_STRIP_COLS ? w->cols - k : EM_STRIP_COLS;
                for (int64_t m = 0; m < n_m; m++)
                    add_columns(acc[m], group, x + (m0 + m) * x_stride + k, n);
            }
            for (int64_t m = 0; m < n_m; m++)
                for (int64_t i = 0; i < EM_STRIP_ROWS; i++)
                    if (row + i >= row_begin && row + i < row_end)
                        y[(m0 + m) * y_stride + row + i] = acc[m][i];
        }
    }
}

float em_ref_dot(const float *a, const float *b, int64_t n)
{
    float acc[LANES] = {0};
    dot_lanes(acc, a, b, n);
    return sum_lanes(acc);
}

/* In double: the statistic of a norm scales a whole row, and one bit of it would push many values over the quantisers'
 * rounding boundaries at once. */
float em_ref_sum_sq(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return (float)sum;
}

/* ---- element by element ---- */

void em_ref_axpy(float *y, float a, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

void em_ref_add_rows(float *y, const float *a, const float *rows, int64_t n_rows, int64_t n)
{
    for (int64_t i = 0; i < n_rows; i++)
        em_ref_axpy(y, a[i], rows + i * n, n);
}

void em_ref_scale_mul(float *y, const float *x, const float *w, float s, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = w ? w[i] * (x[i] * s) : x[i] * s;
}

void em_ref_swiglu(float *out, const float *g, const float *u, float limit, float weight, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float gi = g[i], ui = u[i];
        if (limit > 0) {
            gi = gi > limit ? limit : gi;
            ui = ui > limit ? limit : ui < -limit ? -limit : ui;
        }
        out[i] = weight * (gi / (1.0f + expf(-gi)) * ui);
    }
}

float em_ref_exp_sum(float *x, float max, int64_t n)
{
    float acc[LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - max);
        acc[i % LANES] += x[i];
    }
    return sum_lanes(acc);
}

float em_ref_max(const float *x, int64_t n)
{
    float m = x[0];
    for (int64_t i = 1; i < n; i++)
        m = x[i] > m ? x[i] : m;
    return m;
}

/* ---- cache quantisers ---- */

/* Largest magnitude of a block, at least `floor`. NaN does not count: it survives as a code of its own in E4M3. */
static float amax(const float *x, int n, float floor)
{
    float a = floor;
    for (int i = 0; i < n; i++)
        a = fabsf(x[i]) > a ? fabsf(x[i]) : a;
    return a;
}

static void pack_e2m1(const float *x, int n, float scale, uint8_t *codes)
{
    for (int i = 0; i < n; i += 2)
        codes[i / 2] = (uint8_t)(em_f32_to_e2m1(x[i] / scale) | em_f32_to_e2m1(x[i + 1] / scale) << 4);
}

static void unpack_e2m1(const uint8_t *codes, int n, float scale, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = em_e2m1_to_f32((uint8_t)(codes[i / 2] >> (i % 2 * 4))) * scale;
}

void em_ref_enc_e4m3_b32(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 32; b++) {
        /* (float)(1 / 448.), bits 0x3B124925. An infinity gives scale code 255: the whole block reads as NaN. */
        uint8_t code = (uint8_t)(127 + em_pow2ceil_exp(amax(x + b * 32, 32, 1e-4f) * 0x1.24924ap-9f));
        float scale = em_e8m0_to_f32(code);
        for (int64_t i = b * 32; i < b * 32 + 32; i++)
            codes[i] = em_f32_to_e4m3(x[i] / scale);
        scales[b] = code;
    }
}

void em_ref_dec_e4m3_b32(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = em_e4m3_table[codes[i]] * em_e8m0_table[scales[i / 32]];
}

void em_ref_enc_e2m1_b32(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 32; b++) {
        /* floor 6 * 2^-126; (float)(1 / 6.), bits 0x3E2AAAAB */
        uint8_t code = (uint8_t)(127 + em_pow2ceil_exp(amax(x + b * 32, 32, 0x1.8p-124f) * 0x1.555556p-3f));
        pack_e2m1(x + b * 32, 32, em_e8m0_to_f32(code), codes + b * 16);
        scales[b] = code;
    }
}

void em_ref_dec_e2m1_b32(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t b = 0; b < n / 32; b++)
        unpack_e2m1(codes + b * 16, 32, em_e8m0_to_f32(scales[b]), y + b * 32);
}

void em_ref_enc_e2m1_b16(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 16; b++) {
        /* floor 6 * 2^-9, so the scale is never 0; rounded to E4M3 it may be too small: the codes then saturate */
        uint8_t code = em_f32_to_e4m3(amax(x + b * 16, 16, 0x1.8p-7f) / 6.0f);
        pack_e2m1(x + b * 16, 16, em_e4m3_to_f32(code), codes + b * 8);
        scales[b] = code;
    }
}

void em_ref_dec_e2m1_b16(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t b = 0; b < n / 16; b++)
        unpack_e2m1(codes + b * 8, 16, em_e4m3_to_f32(scales[b]), y + b * 16);
}
