/* AVX-512: sums, maxima and the functions of one vector. */
#include "engine/cpu/avx512.h"

EM_INLINE __m512 load(const float *x, int64_t n)
{
    return n >= 16 ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(avx512_first(n), x);
}

EM_INLINE void store(float *y, int64_t n, __m512 v)
{
    if (n >= 16)
        _mm512_storeu_ps(y, v);
    else
        _mm512_mask_storeu_ps(y, avx512_first(n), v);
}

/* exp to within 1 ulp: 2^k times the Taylor series of the rest, whose ninth term is below 2^-27. Beyond the clamp the
 * answer is 0 or infinity anyway; operands are in the order that lets NaN through. */
EM_INLINE __m512 exp_ps(__m512 x)
{
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(_mm512_set1_ps(-105.0f), x));
    __m512 k = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p0f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(k, _mm512_set1_ps(0x1.62e430p-1f), x); /* ln 2 in two parts */
    r = _mm512_fnmadd_ps(k, _mm512_set1_ps(-0x1.05c610p-29f), r);
    __m512 p = _mm512_set1_ps(1.0f / 5040);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, k); /* rounds once, subnormals included */
}

static float dot(const float *a, const float *b, int64_t n)
{
    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (int64_t j = 0; j < 4; j++)
            s[j] = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16 * j), _mm512_loadu_ps(b + i + 16 * j), s[j]);
    for (; i < n; i += 16)
        s[0] = _mm512_fmadd_ps(load(a + i, n - i), load(b + i, n - i), s[0]);
    return avx512_sum(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}

/* In double: the statistic of a norm scales a whole row, and one bit of it would push many values over the quantisers'
 * rounding boundaries at once. */
static float sum_sq(const float *x, int64_t n)
{
    __m512d s[2] = {_mm512_setzero_pd(), _mm512_setzero_pd()};
    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = load(x + i, n - i);
        __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(v)), hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
        s[0] = _mm512_fmadd_pd(lo, lo, s[0]);
        s[1] = _mm512_fmadd_pd(hi, hi, s[1]);
    }
    return (float)_mm512_reduce_add_pd(_mm512_add_pd(s[0], s[1]));
}

static void axpy(float *y, float a, const float *x, int64_t n)
{
    __m512 va = _mm512_set1_ps(a);
    for (int64_t i = 0; i < n; i += 16)
        store(y + i, n - i, _mm512_fmadd_ps(va, load(x + i, n - i), load(y + i, n - i)));
}

/* Four vectors of y stay in registers while all rows pass. */
static void add_rows(float *y, const float *a, const float *rows, int64_t n_rows, int64_t n)
{
    int64_t d = 0;
    for (; d + 64 <= n; d += 64) {
        __m512 s[4];
#pragma GCC unroll 4
        for (int64_t j = 0; j < 4; j++)
            s[j] = _mm512_loadu_ps(y + d + 16 * j);
        for (int64_t i = 0; i < n_rows; i++) {
            const float *row = rows + i * n + d;
#pragma GCC unroll 4
            for (int64_t j = 0; j < 4; j++)
                s[j] = _mm512_fmadd_ps(_mm512_set1_ps(a[i]), _mm512_loadu_ps(row + 16 * j), s[j]);
        }
#pragma GCC unroll 4
        for (int64_t j = 0; j < 4; j++)
            _mm512_storeu_ps(y + d + 16 * j, s[j]);
    }
    for (int64_t i = 0; i < n_rows && d < n; i++)
        axpy(y + d, a[i], rows + i * n + d, n - d);
}

static void scale_mul(float *y, const float *x, const float *w, float s, int64_t n)
{
    __m512 vs = _mm512_set1_ps(s);
    for (int64_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_mul_ps(load(x + i, n - i), vs);
        store(y + i, n - i, w ? _mm512_mul_ps(load(w + i, n - i), v) : v);
    }
}

static void swiglu(float *out, const float *g, const float *u, float limit, float weight, int64_t n)
{
    const __m512 one = _mm512_set1_ps(1.0f), w = _mm512_set1_ps(weight);
    const __m512 top = _mm512_set1_ps(limit), bottom = _mm512_set1_ps(-limit);
    for (int64_t i = 0; i < n; i += 16) {
        __m512 gi = load(g + i, n - i), ui = load(u + i, n - i);
        if (limit > 0) {
            gi = _mm512_min_ps(top, gi);
            ui = _mm512_min_ps(top, _mm512_max_ps(bottom, ui));
        }
        __m512 e = exp_ps(_mm512_xor_ps(gi, _mm512_set1_ps(-0.0f)));
        __m512 silu = _mm512_div_ps(gi, _mm512_add_ps(one, e));
        store(out + i, n - i, _mm512_mul_ps(w, _mm512_mul_ps(silu, ui)));
    }
}

static float exp_sum(float *x, float max, int64_t n)
{
    __m512 sum = _mm512_setzero_ps(), vmax = _mm512_set1_ps(max);
    for (int64_t i = 0; i < n; i += 16) {
        __m512 e = exp_ps(_mm512_sub_ps(load(x + i, n - i), vmax));
        store(x + i, n - i, e);
        sum = _mm512_mask_add_ps(sum, avx512_first(n - i), sum, e);
    }
    return avx512_sum(sum);
}

/* Comparisons as in the plain C: a NaN counts only in x[0]. */
static float max_of(const float *x, int64_t n)
{
    __m512 m = _mm512_set1_ps(x[0]);
    for (int64_t i = 0; i < n; i += 16)
        m = _mm512_max_ps(_mm512_mask_loadu_ps(m, avx512_first(n - i), x + i), m);
    float lanes[16], top = x[0];
    _mm512_storeu_ps(lanes, m);
    for (int j = 0; j < 16; j++)
        top = lanes[j] > top ? lanes[j] : top;
    return top;
}

void em_avx512_vec_init(em_kernels *k)
{
    k->dot = dot;
    k->axpy = axpy;
    k->add_rows = add_rows;
    k->sum_sq = sum_sq;
    k->scale_mul = scale_mul;
    k->swiglu = swiglu;
    k->exp_sum = exp_sum;
    k->max = max_of;
}
