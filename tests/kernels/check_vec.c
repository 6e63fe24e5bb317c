/* The functions of one vector. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/kerncheck.h"

/* Two inputs and two outputs of n floats, every kind of data for every size. */
typedef struct vectors {
    int64_t n;
    float *a, *b, *got, *want;
} vectors;

static vectors vectors_make(check *c, int64_t n, int fill)
{
    size_t bytes = (size_t)n * sizeof(float);
    vectors v = {n, guarded_alloc(bytes), guarded_alloc(bytes), guarded_alloc(bytes), guarded_alloc(bytes)};
    fill_floats(c, fill, v.a, n);
    fill_floats(c, fill == FILL_LARGE ? FILL_RANDOM : fill, v.b, n); /* products stay finite */
    memcpy(v.got, v.b, bytes);
    memcpy(v.want, v.b, bytes);
    set_args(c, "n %lld fill %d", (long long)n, fill);
    return v;
}

static void vectors_done(check *c, vectors *v)
{
    expect_true(c, guarded_intact(v->got), "written in front of the output");
    guarded_free(v->want);
    guarded_free(v->got);
    guarded_free(v->b);
    guarded_free(v->a);
}

static void for_all(check *c, void (*one)(check *c, vectors *v))
{
    for (const int64_t *n = check_sizes; *n; n++)
        for (int fill = 0; fill < N_FILLS; fill++) {
            vectors v = vectors_make(c, *n, fill);
            one(c, &v);
            vectors_done(c, &v);
        }
}

static void dot_once(check *c, vectors *v)
{
    double scale = 0, scale_sq = 0;
    for (int64_t i = 0; i < v->n; i++) {
        scale += fabs((double)v->a[i] * (double)v->b[i]);
        scale_sq += (double)v->b[i] * (double)v->b[i];
    }
    expect_near(c, c->tier->dot(v->a, v->b, v->n), c->ref->dot(v->a, v->b, v->n), tolerance(TOL_SUM, v->n, scale), 0);
    expect_near(c, c->tier->sum_sq(v->b, v->n), c->ref->sum_sq(v->b, v->n), tolerance(TOL_SUM, v->n, scale_sq), 1);
}

void check_dot(check *c)
{
    for_all(c, dot_once);
}

static void axpy_once(check *c, vectors *v)
{
    float a = rnd_float(c) * 3;
    c->ref->axpy(v->want, a, v->a, v->n);
    c->tier->axpy(v->got, a, v->a, v->n);
    for (int64_t i = 0; i < v->n; i++) {
        double scale = fabs((double)a * (double)v->a[i]) + fabs((double)v->b[i]);
        expect_near(c, v->got[i], v->want[i], tolerance(TOL_FMA, 1, scale), i);
    }
}

void check_axpy(check *c)
{
    for_all(c, axpy_once);
}

/* The bits of that many calls of axpy, from none on. */
static void add_rows_once(check *c, vectors *v)
{
    int64_t n_rows = rnd_below(c, 6);
    float a[5], *rows = guarded_alloc((size_t)(n_rows * v->n + 1) * sizeof(float));
    fill_floats(c, FILL_RANDOM, a, 5);
    fill_floats(c, FILL_WIDE, rows, n_rows * v->n + 1);
    memcpy(v->got, v->b, (size_t)v->n * sizeof(float));
    memcpy(v->want, v->b, (size_t)v->n * sizeof(float));
    c->tier->add_rows(v->got, a, rows, n_rows, v->n);
    for (int64_t i = 0; i < n_rows; i++)
        c->tier->axpy(v->want, a[i], rows + i * v->n, v->n);
    expect_bytes(c, v->got, v->want, (size_t)v->n * sizeof(float), "not the sum of single rows");
    guarded_free(rows);
}

void check_add_rows(check *c)
{
    for_all(c, add_rows_once);
}

/* The order of the two products is part of the definition: equal bits. */
static void scale_mul_once(check *c, vectors *v)
{
    float s = rnd_float(c) * 5;
    for (int with_w = 0; with_w < 2; with_w++) {
        c->ref->scale_mul(v->want, v->a, with_w ? v->b : NULL, s, v->n);
        c->tier->scale_mul(v->got, v->a, with_w ? v->b : NULL, s, v->n);
        expect_bytes(c, v->got, v->want, (size_t)v->n * sizeof(float), with_w ? "with weights" : "without weights");
    }
    memcpy(v->got, v->a, (size_t)v->n * sizeof(float)); /* in place */
    c->ref->scale_mul(v->want, v->a, v->b, s, v->n);
    c->tier->scale_mul(v->got, v->got, v->b, s, v->n);
    expect_bytes(c, v->got, v->want, (size_t)v->n * sizeof(float), "in place");
}

void check_scale_mul(check *c)
{
    for_all(c, scale_mul_once);
}

static void swiglu_once(check *c, vectors *v)
{
    static const float limits[] = {10.0f, 0.0f, 0.5f};
    float limit = limits[rnd_below(c, 3)], weight = rnd_float(c) * 2;
    if (v->n > 3)
        v->a[rnd_below(c, v->n)] = rnd(c) & 1 ? -200.0f : 200.0f;
    c->ref->swiglu(v->want, v->a, v->b, limit, weight, v->n);
    c->tier->swiglu(v->got, v->a, v->b, limit, weight, v->n);
    for (int64_t i = 0; i < v->n; i++)
        expect_near(c, v->got[i], v->want[i], tolerance(TOL_SWIGLU, 1, fabs((double)v->want[i])), i);
}

void check_swiglu(check *c)
{
    for_all(c, swiglu_once);
}

static void exp_once(check *c, vectors *v)
{
    /* Softmax arguments are at most 0: all the way down through the subnormal results to plain 0. */
    float range = rnd(c) & 1 ? 120.0f : 20.0f, max = rnd_float(c);
    for (int64_t i = 0; i < v->n; i++)
        v->a[i] = max - fabsf(rnd_float(c)) * range;
    v->a[rnd_below(c, v->n)] = max;
    if (v->n > 2)
        v->a[rnd_below(c, v->n)] = rnd(c) & 1 ? -INFINITY : -1e30f;
    memcpy(v->got, v->a, (size_t)v->n * sizeof(float));
    memcpy(v->want, v->a, (size_t)v->n * sizeof(float));
    float want = c->ref->exp_sum(v->want, max, v->n), got = c->tier->exp_sum(v->got, max, v->n);
    for (int64_t i = 0; i < v->n; i++)
        expect_near(c, v->got[i], v->want[i], tolerance(TOL_EXP, 1, (double)v->want[i]), i);
    expect_near(c, got, want, tolerance(TOL_EXP_SUM, v->n, (double)want), -1);
}

/* exp itself against the double function, which no tier computes with. */
static void exp_against_double(check *c)
{
    for (int i = 0; i < 20000; i++) {
        float x[1] = {i < 10 ? (float)-i * 1000.0f : rnd_float(c) * 106.0f - 18.0f}, arg = x[0];
        set_args(c, "exp(%a)", (double)arg);
        float sum = c->tier->exp_sum(x, 0.0f, 1);
        double want = exp((double)arg);
        expect_true(c, fabs((double)x[0] - want) <= want * 0x1p-22 + 0x1p-149 || (isinf(x[0]) && want > 0x1.fffffep127),
                    "further than 2 ulp from exp");
        expect_true(c, sum == x[0], "the sum of one is that one");
    }
    float zero[1] = {0.0f};
    c->tier->exp_sum(zero, 0.0f, 1);
    expect_true(c, zero[0] == 1.0f, "exp(0) is not 1");
}

void check_exp_sum(check *c)
{
    for_all(c, exp_once);
    exp_against_double(c);
}

static void max_once(check *c, vectors *v)
{
    expect_near(c, c->tier->max(v->a, v->n), c->ref->max(v->a, v->n), 0, 0);
    v->a[rnd_below(c, v->n)] = -INFINITY;
    expect_near(c, c->tier->max(v->a, v->n), c->ref->max(v->a, v->n), 0, 1);
}

void check_max(check *c)
{
    for_all(c, max_once);
}
