/* Matrix products and row widening: values against the plain C, bits against themselves under every blocking. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/pack.h"
#include "tests/kernels/kerncheck.h"

static const char *const dtype_names[] = {"f32", "bf16", "fp8", "fp4"};

/* Scales: around 1, or from the whole range whose products float32 can hold with the x that goes with them. */
enum { SCALES_USUAL, SCALES_TINY, SCALES_WIDE };

static void fill_codes(check *c, em_matrix *w, uint8_t *codes, bool nan_codes)
{
    int64_t n = w->rows * w->cols;
    for (int64_t i = 0; i < n; i++) {
        uint64_t r = rnd(c);
        if (w->dtype == EM_DTYPE_F32) {
            float v = rnd_float(c) * 2;
            memcpy(codes + i * 4, &v, 4);
        } else if (w->dtype == EM_DTYPE_BF16) {
            uint16_t v = (uint16_t)((r & 0x807F) | (0x3C00 + (r >> 16 & 0x3FF))); /* 2^-7 .. 2^1 */
            memcpy(codes + i * 2, &v, 2);
        } else if (w->dtype == EM_DTYPE_FP8) {
            uint8_t v = (uint8_t)r;
            codes[i] = !nan_codes && (v & 0x7F) == 0x7F ? v - 1 : v;
        } else if (i % 2 == 0) {
            codes[i / 2] = (uint8_t)r;
        }
    }
}

/* A random matrix whose codes and scales end at a closed page. */
static em_matrix make_matrix(check *c, em_dtype dtype, int64_t rows, int64_t cols, int scales, bool nan_codes)
{
    em_matrix w = {.dtype = dtype, .rows = rows, .cols = dtype == EM_DTYPE_FP4 ? (cols + 1) / 2 * 2 : cols};
    uint8_t *codes = guarded_alloc((size_t)rows * em_matrix_row_bytes(&w));
    fill_codes(c, &w, codes, nan_codes);
    w.data = codes;
    if (dtype != EM_DTYPE_FP8 && dtype != EM_DTYPE_FP4)
        return w;
    w.scale_rows = dtype == EM_DTYPE_FP4 ? 1 : (int32_t)(rnd(c) & 1 ? 32 : 1 + rnd_below(c, 9));
    w.scale_cols = 32 * (int32_t)(1 + (rnd(c) & 1 ? 0 : rnd_below(c, 4)));
    w.scale_stride = (w.cols + w.scale_cols - 1) / w.scale_cols;
    size_t n_scales = (size_t)((rows + w.scale_rows - 1) / w.scale_rows * w.scale_stride);
    uint8_t *scale = guarded_alloc(n_scales);
    for (size_t i = 0; i < n_scales; i++)
        scale[i] = scales == SCALES_TINY   ? (uint8_t)rnd_below(c, 3)
                   : scales == SCALES_WIDE ? (uint8_t)(60 + rnd_below(c, 100))
                                           : (uint8_t)(118 + rnd_below(c, 12));
    w.scale = scale;
    return w;
}

static void free_matrix(em_matrix *w)
{
    guarded_free((void *)(uintptr_t)w->data);
    guarded_free((void *)(uintptr_t)w->scale);
}

/* The same matrix as the kernels want it, also at a closed page; behind a strip's last row there is nothing to write. */
static em_matrix pack(const em_matrix *w)
{
    void *data = NULL;
    if (posix_memalign(&data, 64, em_packed_bytes(w->dtype, w->rows, w->cols, w->scale_rows)) != 0) {
        fprintf(stderr, "kerncheck: no memory\n");
        exit(1);
    }
    int64_t strips = (w->rows + EM_STRIP_ROWS - 1) / EM_STRIP_ROWS, middle = strips / 2;
    em_pack_strips(w, middle, strips, data); /* in any order */
    em_pack_strips(w, 0, middle, data);
    return em_packed_view(w, data);
}

static void free_packed(em_matrix *p)
{
    free((void *)(uintptr_t)p->data);
}

/* In double, and the sum of the terms' magnitudes. */
static double exact_dot(const float *row, const float *x, int64_t n, double *ret_magnitude)
{
    double s = 0, magnitude = 0;
    for (int64_t i = 0; i < n; i++) {
        double term = (double)row[i] * (double)x[i];
        s += term;
        magnitude += fabs(term);
    }
    *ret_magnitude = magnitude;
    return s;
}

/* One product of a row range of w, by fn from p, with room between the rows of x and y that must stay as it is. */
static void gemm_once(check *c, em_gemm_fn fn, em_matrix *w, em_matrix *p, int64_t n_m, int fill)
{
    int64_t x_stride = w->cols + rnd_below(c, 3), y_stride = w->rows + 1 + rnd_below(c, 3);
    int64_t begin = rnd_below(c, w->rows), end = begin + 1 + rnd_below(c, w->rows - begin);
    size_t x_n = (size_t)((n_m - 1) * x_stride + w->cols), y_n = (size_t)((n_m - 1) * y_stride + w->rows);
    float *x = guarded_alloc(x_n * sizeof(float)), *row = guarded_alloc((size_t)w->cols * sizeof(float));
    float *got = guarded_alloc(y_n * sizeof(float)), *want = guarded_alloc(y_n * sizeof(float));
    fill_floats(c, fill, x, (int64_t)x_n);
    for (size_t i = 0; i < y_n; i++)
        got[i] = want[i] = -12345.0f;
    set_args(c, "%s%s rows %lld..%lld of %lld cols %lld tokens %lld fill %d tile %dx%d", dtype_names[w->dtype],
             p->packed ? "" : " rows", (long long)begin, (long long)end, (long long)w->rows, (long long)w->cols,
             (long long)n_m, fill, w->scale_rows, w->scale_cols);
    fn(p, begin, end, x, x_stride, n_m, got, y_stride);
    for (int64_t o = begin; o < end; o++) {
        c->ref->row_f32(w, o, row);
        for (int64_t m = 0; m < n_m; m++) {
            double magnitude, exact = exact_dot(row, x + m * x_stride, w->cols, &magnitude);
            expect_near(c, got[m * y_stride + o], (float)exact, tolerance(TOL_SUM, w->cols, magnitude), o);
            want[m * y_stride + o] = got[m * y_stride + o];
        }
    }
    expect_bytes(c, got, want, y_n * sizeof(float), "outside of the rows asked for");
    expect_true(c, guarded_intact(got), "written in front of the output");
    guarded_free(want);
    guarded_free(got);
    guarded_free(row);
    guarded_free(x);
}

void check_gemm(check *c)
{
    for (int dtype = EM_DTYPE_F32; dtype <= EM_DTYPE_FP4; dtype++)
        for (const int64_t *cols = check_sizes; *cols; cols++)
            for (int fill = 0; fill < N_FILLS; fill++) {
                int scales = fill == FILL_DENORMAL || fill == FILL_LARGE ? SCALES_USUAL : (int)rnd_below(c, 3);
                em_matrix w =
                    make_matrix(c, (em_dtype)dtype, 1 + rnd_below(c, *cols > 1000 ? 9 : 70), *cols, scales, false);
                em_matrix p = pack(&w);
                gemm_once(c, c->tier->gemm[dtype], &w, &p, 1 + rnd_below(c, 19), fill);
                if (dtype == EM_DTYPE_F32)
                    gemm_once(c, c->tier->gemm_rows, &w, &w, 1 + rnd_below(c, 9), fill);
                free_packed(&p);
                free_matrix(&w);
            }
}

/* Every token count and every row range must give the bits that each element has alone. */
enum { MAX_M = 20 };

static void bits_once(check *c, em_gemm_fn fn, const em_matrix *w, int64_t max_m)
{
    int64_t n = w->rows, stride = w->cols + 1;
    float *x = guarded_alloc((size_t)(max_m * stride) * sizeof(float));
    float *alone = guarded_alloc((size_t)(max_m * n) * sizeof(float));
    float *y = guarded_alloc((size_t)(max_m * n) * sizeof(float));
    fill_floats(c, FILL_WIDE, x, max_m * stride);
    for (int64_t m = 0; m < max_m; m++)
        for (int64_t o = 0; o < n; o++)
            fn(w, o, o + 1, x + m * stride, stride, 1, alone + m * n, n);
    for (int64_t n_m = 1; n_m <= max_m; n_m++)
        for (int64_t begin = 0; begin < n; begin++)
            for (int64_t end = begin + 1; end <= n; end++) {
                int64_t first = rnd_below(c, max_m - n_m + 1);
                set_args(c, "%s rows %lld..%lld cols %lld tokens %lld tile %dx%d", dtype_names[w->dtype],
                         (long long)begin, (long long)end, (long long)w->cols, (long long)n_m, w->scale_rows,
                         w->scale_cols);
                fn(w, begin, end, x + first * stride, stride, n_m, y, n);
                for (int64_t m = 0; m < n_m; m++)
                    expect_bytes(c, y + m * n + begin, alone + (first + m) * n + begin,
                                 (size_t)(end - begin) * sizeof(float), "differs from the element computed alone");
            }
    guarded_free(y);
    guarded_free(alone);
    guarded_free(x);
}

void check_gemm_bits(check *c)
{
    static const int64_t cols[] = {1, 17, 33, 96, 257, 640, 5120};
    for (int dtype = EM_DTYPE_F32; dtype <= EM_DTYPE_FP4; dtype++)
        for (size_t i = 0; i < sizeof(cols) / sizeof(*cols); i++) {
            em_matrix w = make_matrix(c, (em_dtype)dtype, cols[i] > 1000 ? 6 : 18, cols[i], SCALES_USUAL, false);
            em_matrix p = pack(&w);
            bits_once(c, c->tier->gemm[dtype], &p, MAX_M);
            if (dtype == EM_DTYPE_F32)
                bits_once(c, c->tier->gemm_rows, &w, MAX_M);
            free_packed(&p);
            free_matrix(&w);
        }
    /* a long batch */
    em_matrix w = make_matrix(c, EM_DTYPE_FP4, 8, 5120, SCALES_USUAL, false), p = pack(&w);
    int64_t n_m = 50;
    float *x = guarded_alloc((size_t)(n_m * w.cols) * sizeof(float)), alone[8];
    float *y = guarded_alloc((size_t)(n_m * w.rows) * sizeof(float));
    fill_floats(c, FILL_RANDOM, x, n_m * w.cols);
    c->tier->gemm[w.dtype](&p, 0, w.rows, x, w.cols, n_m, y, w.rows);
    for (int64_t m = 0; m < n_m; m++) {
        set_args(c, "fp4 8 rows cols 5120 tokens 50, token %lld", (long long)m);
        c->tier->gemm[w.dtype](&p, 0, w.rows, x + m * w.cols, w.cols, 1, alone, w.rows);
        expect_bytes(c, y + m * w.rows, alone, sizeof(alone), "differs from the token computed alone");
    }
    guarded_free(y);
    guarded_free(x);
    free_packed(&p);
    free_matrix(&w);
}

/* A NaN scale, weight or input reaches exactly the outputs it belongs to. */
void check_gemm_nan(check *c)
{
    for (int dtype = EM_DTYPE_F32; dtype <= EM_DTYPE_FP4; dtype++)
        for (int64_t cols = 32; cols <= 300; cols += 67) {
            em_matrix w = make_matrix(c, (em_dtype)dtype, 9, cols, SCALES_USUAL, false);
            float *x = guarded_alloc((size_t)(3 * w.cols) * sizeof(float)), y[3 * 9];
            fill_floats(c, FILL_EQUAL, x, 3 * w.cols);
            x[w.cols + rnd_below(c, w.cols)] = NAN; /* the second token */
            int64_t bad = rnd_below(c, 9), per_row = w.scale_rows ? w.scale_rows : 1;
            if (dtype == EM_DTYPE_F32)
                ((float *)(uintptr_t)w.data)[bad * w.cols + rnd_below(c, w.cols)] = NAN;
            else if (dtype == EM_DTYPE_BF16)
                ((uint16_t *)(uintptr_t)w.data)[bad * w.cols + rnd_below(c, w.cols)] = 0x7FC0;
            else
                ((uint8_t *)(uintptr_t)w.scale)[bad / per_row * w.scale_stride + rnd_below(c, w.scale_stride)] = 255;
            em_matrix p = pack(&w);
            c->tier->gemm[dtype](&p, 0, 9, x, w.cols, 3, y, 9);
            free_packed(&p);
            set_args(c, "%s cols %lld NaN in row %lld", dtype_names[dtype], (long long)w.cols, (long long)bad);
            for (int64_t i = 0; i < 27; i++)
                expect_true(c, !!isnan(y[i]) == (i / 9 == 1 || i % 9 / per_row == bad / per_row),
                            "NaN in the wrong place");
            guarded_free(x);
            free_matrix(&w);
        }
}

void check_row_f32(check *c)
{
    for (int dtype = EM_DTYPE_F32; dtype <= EM_DTYPE_FP4; dtype++)
        for (const int64_t *cols = check_sizes; *cols; cols++)
            for (int scales = SCALES_USUAL; scales <= SCALES_WIDE; scales++) {
                em_matrix w = make_matrix(c, (em_dtype)dtype, 1 + rnd_below(c, 5), *cols, scales, true);
                if (w.scale && rnd(c) & 1)
                    ((uint8_t *)(uintptr_t)w.scale)[0] = rnd(c) & 1 ? 255 : 254;
                float *got = guarded_alloc((size_t)w.cols * sizeof(float));
                float *want = guarded_alloc((size_t)w.cols * sizeof(float));
                for (int64_t row = 0; row < w.rows; row++) {
                    set_args(c, "%s row %lld cols %lld tile %dx%d", dtype_names[dtype], (long long)row,
                             (long long)w.cols, w.scale_rows, w.scale_cols);
                    c->ref->row_f32(&w, row, want);
                    c->tier->row_f32(&w, row, got);
                    for (int64_t i = 0; i < w.cols; i++)
                        expect_near(c, got[i], want[i], 0, i);
                }
                expect_true(c, guarded_intact(got), "written in front of the output");
                guarded_free(want);
                guarded_free(got);
                free_matrix(&w);
            }
}
