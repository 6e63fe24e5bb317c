/* AVX2: stored codes to float32 and back, bit for bit as in the plain C. */
#include <math.h>
#include <string.h>

#include "engine/cpu/avx2.h"
#include "engine/formats.h"

/* ---- to float32 ---- */

/* 8 floats at 2^-8 times a scale, NaN where the code is one. Two products: the scale times 2^8 may not exist. */
EM_INLINE __m256 finish_e4m3(__m256 v, __m128i codes8, __m256 scale)
{
    const __m256 up = _mm256_set1_ps(0x1p8f), nan = _mm256_set1_ps(NAN);
    __m256i mag = _mm256_and_si256(_mm256_cvtepu8_epi32(codes8), _mm256_set1_epi32(0x7F));
    __m256 is_nan = _mm256_castsi256_ps(_mm256_cmpeq_epi32(mag, _mm256_set1_epi32(0x7F)));
    return _mm256_blendv_ps(_mm256_mul_ps(_mm256_mul_ps(v, up), scale), nan, is_nan);
}

/* 32 E4M3 codes times a scale. */
EM_INLINE void dec_e4m3_32(const uint8_t *codes, float scale, float *y)
{
    __m256 s = _mm256_set1_ps(scale), v[2];
    for (int i = 0; i < 32; i += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(codes + i));
        avx2_e4m3(c, &v[0], &v[1]);
        _mm256_storeu_ps(y + i, finish_e4m3(v[0], c, s));
        _mm256_storeu_ps(y + i + 8, finish_e4m3(v[1], _mm_srli_si128(c, 8), s));
    }
}

/* n_vecs times 8 E2M1 values times a scale; signs of zeros are kept, so this goes by the table of values. */
EM_INLINE void dec_e2m1(__m128i codes, __m256 scale, int n_vecs, float *y)
{
    const __m256 mags = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    const __m128i nibble = _mm_set1_epi8(0x0F);
    const __m256i sign = _mm256_set1_epi32(INT32_MIN);
    __m128i even = _mm_and_si128(codes, nibble), odd = _mm_and_si128(_mm_srli_epi16(codes, 4), nibble);
    __m128i c = _mm_unpacklo_epi8(even, odd);
    for (int64_t j = 0; j < n_vecs; j++) {
        __m256i idx = _mm256_cvtepu8_epi32(c); /* the permutation looks at three bits of it */
        __m256 v = _mm256_permutevar8x32_ps(mags, idx);
        v = _mm256_xor_ps(v, _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(idx, 28), sign)));
        _mm256_storeu_ps(y + 8 * j, _mm256_mul_ps(v, scale));
        c = j == 1 ? _mm_unpackhi_epi8(even, odd) : _mm_srli_si128(c, 8);
    }
}

static void dec_e4m3_b32(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t b = 0; b < n / 32; b++)
        dec_e4m3_32(codes + b * 32, em_e8m0_table[scales[b]], y + b * 32);
}

static void dec_e2m1_b32(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t b = 0; b < n / 32; b++)
        dec_e2m1(_mm_loadu_si128((const __m128i *)(codes + b * 16)), _mm256_set1_ps(em_e8m0_table[scales[b]]), 4,
                 y + b * 32);
}

static void dec_e2m1_b16(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t b = 0; b < n / 16; b++)
        dec_e2m1(_mm_loadl_epi64((const __m128i *)(codes + b * 8)), _mm256_set1_ps(em_e4m3_table[scales[b]]), 2,
                 y + b * 16);
}

/* ---- one weight row ---- */

static void row_bf16(const uint8_t *p, int64_t n, float *y)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(p + i * 2)));
        _mm256_storeu_ps(y + i, _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)));
    }
    for (; i < n; i++) {
        uint16_t v;
        memcpy(&v, p + i * 2, sizeof(v));
        y[i] = em_bf16_to_f32(v);
    }
}

static void row_f32(const em_matrix *w, int64_t row, float *y)
{
    const uint8_t *codes = (const uint8_t *)w->data + (size_t)row * em_matrix_row_bytes(w);
    if (w->dtype == EM_DTYPE_F32) {
        memcpy(y, codes, (size_t)w->cols * sizeof(float));
        return;
    }
    if (w->dtype == EM_DTYPE_BF16) {
        row_bf16(codes, w->cols, y);
        return;
    }
    const uint8_t *scales = w->scale + row / w->scale_rows * w->scale_stride;
    for (int64_t i = 0; i < w->cols; i += 32) {
        int64_t n = w->cols - i < 32 ? w->cols - i : 32;
        float scale = em_e8m0_table[scales[i / w->scale_cols]], part[32], *out = n == 32 ? y + i : part;
        uint8_t copy[32] = {0};
        size_t n_bytes = (size_t)(w->dtype == EM_DTYPE_FP8 ? n : n / 2);
        memcpy(copy, codes + (w->dtype == EM_DTYPE_FP8 ? i : i / 2), n_bytes);
        if (w->dtype == EM_DTYPE_FP8)
            dec_e4m3_32(copy, scale, out);
        else
            dec_e2m1(_mm_loadu_si128((const __m128i *)copy), _mm256_set1_ps(scale), 4, out);
        if (out == part)
            memcpy(y + i, part, (size_t)n * sizeof(float));
    }
}

/* ---- from float32 ---- */

EM_INLINE __m256 abs_ps(__m256 v)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}

/* Largest magnitude of n_vecs vectors, at least floor; NaN does not count. */
EM_INLINE float amax(const float *x, int n_vecs, float floor)
{
    __m256 m = _mm256_set1_ps(floor);
    for (int64_t j = 0; j < n_vecs; j++)
        m = _mm256_max_ps(abs_ps(_mm256_loadu_ps(x + 8 * j)), m);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

EM_INLINE __m256i blend(__m256i a, __m256i b, __m256 mask)
{
    return _mm256_blendv_epi8(a, b, _mm256_castps_si256(mask));
}

/* em_f32_to_e4m3 of 8 lanes. */
EM_INLINE __m256i to_e4m3(__m256 v)
{
    __m256i u = _mm256_castps_si256(v);
    __m256 a = abs_ps(v);
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(u, 24), _mm256_set1_epi32(0x80));
    __m256i even = _mm256_and_si256(_mm256_srli_epi32(u, 20), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_castps_si256(a), _mm256_add_epi32(even, _mm256_set1_epi32(0x7FFFF)));
    r = _mm256_sub_epi32(_mm256_srli_epi32(r, 20), _mm256_set1_epi32(120 << 3));
    __m256i tiny = _mm256_castps_si256(_mm256_add_ps(a, _mm256_set1_ps(0x1p14f)));
    tiny = _mm256_and_si256(tiny, _mm256_set1_epi32(0xF));
    r = blend(r, tiny, _mm256_cmp_ps(a, _mm256_set1_ps(0x1p-6f), _CMP_LT_OQ));
    r = blend(r, _mm256_set1_epi32(0x7E), _mm256_cmp_ps(a, _mm256_set1_ps(448.0f), _CMP_GE_OQ));
    r = _mm256_or_si256(r, sign);
    return blend(r, _mm256_set1_epi32(0x7F), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}

/* em_f32_to_e2m1 of 8 lanes; every comparison that holds subtracts -1. */
EM_INLINE __m256i to_e2m1(__m256 v)
{
    __m256 a = abs_ps(v);
    __m256i c = _mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(v), 28), _mm256_set1_epi32(8));
#define ABOVE(bound, how) c = _mm256_sub_epi32(c, _mm256_castps_si256(_mm256_cmp_ps(a, _mm256_set1_ps(bound), how)))
    ABOVE(0.25f, _CMP_GT_OQ);
    ABOVE(0.75f, _CMP_GE_OQ);
    ABOVE(1.25f, _CMP_GT_OQ);
    ABOVE(1.75f, _CMP_GE_OQ);
    ABOVE(2.5f, _CMP_GT_OQ);
    ABOVE(3.5f, _CMP_GE_OQ);
    ABOVE(5.0f, _CMP_GT_OQ);
#undef ABOVE
    return c;
}

/* 16 lanes of small values as bytes. */
EM_INLINE __m128i to_bytes(__m256i lo, __m256i hi)
{
    __m256i w = _mm256_permute4x64_epi64(_mm256_packus_epi32(lo, hi), 0xD8); /* packing works on 128-bit halves */
    return _mm_packus_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
}

EM_INLINE void store_e4m3(const float *x, __m256 inverse, uint8_t *codes)
{
    __m256i lo = to_e4m3(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
    __m256i hi = to_e4m3(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
    _mm_storeu_si128((__m128i *)codes, to_bytes(lo, hi));
}

/* 16 quotients, packed into 8 bytes. */
EM_INLINE void store_e2m1(__m256 lo, __m256 hi, uint8_t *codes)
{
    __m128i c = to_bytes(to_e2m1(lo), to_e2m1(hi));
    __m128i pairs = _mm_or_si128(c, _mm_srli_epi16(c, 4)); /* the odd byte's code into the upper nibble of the even */
    pairs = _mm_and_si128(pairs, _mm_set1_epi16(0xFF));
    _mm_storel_epi64((__m128i *)codes, _mm_packus_epi16(pairs, pairs));
}

/* The UE8M0 code of a block whose largest magnitude is a, and one over its scale (exact; NaN for code 255). */
EM_INLINE uint8_t scale_code(float a, float over_max, __m256 *inverse)
{
    uint8_t code = (uint8_t)(127 + em_pow2ceil_exp(a * over_max));
    *inverse = _mm256_set1_ps(em_e8m0_table[(uint8_t)(254 - code)]);
    return code;
}

static void enc_e4m3_b32(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 32; b++) {
        __m256 inverse;
        scales[b] = scale_code(amax(x + b * 32, 4, 1e-4f), 0x1.24924ap-9f, &inverse);
        store_e4m3(x + b * 32, inverse, codes + b * 32);
        store_e4m3(x + b * 32 + 16, inverse, codes + b * 32 + 16);
    }
}

static void enc_e2m1_b32(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 32; b++) {
        __m256 inverse;
        scales[b] = scale_code(amax(x + b * 32, 4, 0x1.8p-124f), 0x1.555556p-3f, &inverse);
        for (const float *p = x + b * 32; p < x + b * 32 + 32; p += 16, codes += 8)
            store_e2m1(_mm256_mul_ps(_mm256_loadu_ps(p), inverse), _mm256_mul_ps(_mm256_loadu_ps(p + 8), inverse),
                       codes);
    }
}

static void enc_e2m1_b16(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 16; b++) {
        const float *p = x + b * 16;
        scales[b] = em_f32_to_e4m3(amax(p, 2, 0x1.8p-7f) / 6.0f);
        __m256 s = _mm256_set1_ps(em_e4m3_table[scales[b]]);
        store_e2m1(_mm256_div_ps(_mm256_loadu_ps(p), s), _mm256_div_ps(_mm256_loadu_ps(p + 8), s), codes + b * 8);
    }
}

void em_avx2_codes_init(em_kernels *k)
{
    k->row_f32 = row_f32;
    k->enc_e4m3_b32 = enc_e4m3_b32;
    k->dec_e4m3_b32 = dec_e4m3_b32;
    k->enc_e2m1_b32 = enc_e2m1_b32;
    k->dec_e2m1_b32 = dec_e2m1_b32;
    k->enc_e2m1_b16 = enc_e2m1_b16;
    k->dec_e2m1_b16 = dec_e2m1_b16;
}
