/* AVX2: sums, maxima and the functions of one vector. */
#include "engine/cpu/avx2.h"

EM_INLINE __m256 load(const float *x, int64_t n)
{
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, avx2_first(n));
}

EM_INLINE void store(float *y, int64_t n, __m256 v)
{
    if (n >= 8)
        _mm256_storeu_ps(y, v);
    else
        _mm256_maskstore_ps(y, avx2_first(n), v);
}

/* 2^k for -126 <= k <= 127 */
EM_INLINE __m256 pow2(__m256i k)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k, _mm256_set1_epi32(127)), 23));
}

/* exp to within 1 ulp: 2^k times the Taylor series of the rest, whose ninth term is below 2^-27. Beyond the clamp the
 * answer is 0 or infinity anyway; operands are in the order that lets NaN through. 2^k is applied in halves: whole it
 * may be subnormal or infinite where the result is not, and only the second product can round. */
EM_INLINE __m256 exp_ps(__m256 x)
{
    x = _mm256_min_ps(_mm256_set1_ps(89.0f), _mm256_max_ps(_mm256_set1_ps(-105.0f), x));
    __m256 k =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p0f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(k, _mm256_set1_ps(0x1.62e430p-1f), x); /* ln 2 in two parts */
    r = _mm256_fnmadd_ps(k, _mm256_set1_ps(-0x1.05c610p-29f), r);
    __m256 p = _mm256_set1_ps(1.0f / 5040);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 720));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 120));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 24));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f / 6));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0.5f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.0f));
    __m256i ki = _mm256_cvtps_epi32(k), half = _mm256_srai_epi32(ki, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, pow2(half)), pow2(_mm256_sub_epi32(ki, half)));
}

static float dot(const float *a, const float *b, int64_t n)
{
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (int64_t j = 0; j < 4; j++)
            s[j] = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8 * j), _mm256_loadu_ps(b + i + 8 * j), s[j]);
    for (; i < n; i += 8)
        s[0] = _mm256_fmadd_ps(load(a + i, n - i), load(b + i, n - i), s[0]);
    return avx2_sum(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
}

/* In double: the statistic of a norm scales a whole row, and one bit of it would push many values over the quantisers'
 * rounding boundaries at once. */
static float sum_sq(const float *x, int64_t n)
{
    __m256d s[2] = {_mm256_setzero_pd(), _mm256_setzero_pd()};
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = load(x + i, n - i);
        __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(v)), hi = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
        s[0] = _mm256_fmadd_pd(lo, lo, s[0]);
        s[1] = _mm256_fmadd_pd(hi, hi, s[1]);
    }
    double lane[4];
    _mm256_storeu_pd(lane, _mm256_add_pd(s[0], s[1]));
    return (float)((lane[0] + lane[1]) + (lane[2] + lane[3]));
}

static void axpy(float *y, float a, const float *x, int64_t n)
{
    __m256 va = _mm256_set1_ps(a);
    for (int64_t i = 0; i < n; i += 8)
        store(y + i, n - i, _mm256_fmadd_ps(va, load(x + i, n - i), load(y + i, n - i)));
}

/* Four vectors of y stay in registers while all rows pass. */
static void add_rows(float *y, const float *a, const float *rows, int64_t n_rows, int64_t n)
{
    int64_t d = 0;
    for (; d + 32 <= n; d += 32) {
        __m256 s[4];
#pragma GCC unroll 4
        for (int64_t j = 0; j < 4; j++)
            s[j] = _mm256_loadu_ps(y + d + 8 * j);
        for (int64_t i = 0; i < n_rows; i++) {
            const float *row = rows + i * n + d;
#pragma GCC unroll 4
            for (int64_t j = 0; j < 4; j++)
                s[j] = _mm256_fmadd_ps(_mm256_set1_ps(a[i]), _mm256_loadu_ps(row + 8 * j), s[j]);
        }
#pragma GCC unroll 4
        for (int64_t j = 0; j < 4; j++)
            _mm256_storeu_ps(y + d + 8 * j, s[j]);
    }
    for (int64_t i = 0; i < n_rows && d < n; i++)
        axpy(y + d, a[i], rows + i * n + d, n - d);
}

static void scale_mul(float *y, const float *x, const float *w, float s, int64_t n)
{
    __m256 vs = _mm256_set1_ps(s);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(load(x + i, n - i), vs);
        store(y + i, n - i, w ? _mm256_mul_ps(load(w + i, n - i), v) : v);
    }
}

static void swiglu(float *out, const float *g, const float *u, float limit, float weight, int64_t n)
{
    const __m256 one = _mm256_set1_ps(1.0f), w = _mm256_set1_ps(weight);
    const __m256 top = _mm256_set1_ps(limit), bottom = _mm256_set1_ps(-limit);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 gi = load(g + i, n - i), ui = load(u + i, n - i);
        if (limit > 0) {
            gi = _mm256_min_ps(top, gi);
            ui = _mm256_min_ps(top, _mm256_max_ps(bottom, ui));
        }
        __m256 e = exp_ps(_mm256_xor_ps(gi, _mm256_set1_ps(-0.0f)));
        __m256 silu = _mm256_div_ps(gi, _mm256_add_ps(one, e));
        store(out + i, n - i, _mm256_mul_ps(w, _mm256_mul_ps(silu, ui)));
    }
}

static float exp_sum(float *x, float max, int64_t n)
{
    __m256 sum = _mm256_setzero_ps(), vmax = _mm256_set1_ps(max);
    for (int64_t i = 0; i < n; i += 8) {
        __m256 e = exp_ps(_mm256_sub_ps(load(x + i, n - i), vmax));
        store(x + i, n - i, e);
        sum = _mm256_add_ps(sum, _mm256_and_ps(e, _mm256_castsi256_ps(avx2_first(n - i))));
    }
    return avx2_sum(sum);
}

/* Comparisons as in the plain C: a NaN counts only in x[0]. */
static float max_of(const float *x, int64_t n)
{
    __m256 m = _mm256_set1_ps(x[0]);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        m = _mm256_max_ps(_mm256_loadu_ps(x + i), m);
    float lanes[8], top = x[0];
    _mm256_storeu_ps(lanes, m);
    for (int j = 0; j < 8; j++)
        top = lanes[j] > top ? lanes[j] : top;
    for (; i < n; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

void em_avx2_vec_init(em_kernels *k)
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
