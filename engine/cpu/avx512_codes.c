/* AVX-512: stored codes to float32 and back, bit for bit as in the plain C. */
#include <math.h>
#include <string.h>

#include "engine/cpu/avx512.h"
#include "engine/formats.h"

/* ---- to float32 ---- */

/* 32 E4M3 codes times a scale; NaN codes give NaN. Two products: the scale times 2^8 may not exist. */
EM_INLINE void dec_e4m3_32(__m256i codes, float scale, __m512 *lo, __m512 *hi)
{
    const __m256i nan_code = _mm256_set1_epi8(0x7F);
    const __m512 up = _mm512_set1_ps(0x1p8f), s = _mm512_set1_ps(scale), nan = _mm512_set1_ps(NAN);
    __mmask32 is_nan = _mm256_cmpeq_epi8_mask(_mm256_and_si256(codes, nan_code), nan_code);
    avx512_e4m3(codes, lo, hi);
    *lo = _mm512_mask_mov_ps(_mm512_mul_ps(_mm512_mul_ps(*lo, up), s), (__mmask16)is_nan, nan);
    *hi = _mm512_mask_mov_ps(_mm512_mul_ps(_mm512_mul_ps(*hi, up), s), (__mmask16)(is_nan >> 16), nan);
}

/* 16 bytes of E2M1 pairs in column order; values: what the 16 codes mean. */
EM_INLINE void dec_e2m1_32(__m128i codes, __m512 values, __m512 *lo, __m512 *hi)
{
    const __m128i nibble = _mm_set1_epi8(0x0F);
    __m128i even = _mm_and_si128(codes, nibble), odd = _mm_and_si128(_mm_srli_epi16(codes, 4), nibble);
    *lo = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(even, odd)), values);
    *hi = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_unpackhi_epi8(even, odd)), values);
}

static void dec_e4m3_b32(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t b = 0; b < n / 32; b++) {
        __m512 lo, hi;
        dec_e4m3_32(_mm256_loadu_si256((const __m256i *)(codes + b * 32)), em_e8m0_table[scales[b]], &lo, &hi);
        _mm512_storeu_ps(y + b * 32, lo);
        _mm512_storeu_ps(y + b * 32 + 16, hi);
    }
}

static void dec_e2m1_b32(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t b = 0; b < n / 32; b++) {
        __m512 lo, hi;
        dec_e2m1_32(_mm_loadu_si128((const __m128i *)(codes + b * 16)), _mm512_load_ps(em_e2m1_scaled[scales[b]]), &lo,
                    &hi);
        _mm512_storeu_ps(y + b * 32, lo);
        _mm512_storeu_ps(y + b * 32 + 16, hi);
    }
}

static void dec_e2m1_b16(const uint8_t *codes, const uint8_t *scales, int64_t n, float *y)
{
    for (int64_t b = 0; b < n / 16; b++) {
        __m512 values = _mm512_mul_ps(avx512_e2m1_values(), _mm512_set1_ps(em_e4m3_table[scales[b]])), lo, unused;
        dec_e2m1_32(_mm_loadl_epi64((const __m128i *)(codes + b * 8)), values, &lo, &unused);
        _mm512_storeu_ps(y + b * 16, lo);
    }
}

/* ---- one weight row ---- */

static void row_bf16(const uint8_t *p, int64_t n, float *y)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 m = avx512_first(n - i);
        __m512i v = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p + i * 2));
        _mm512_mask_storeu_ps(y + i, m, _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)));
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
        uint8_t scale = scales[i / w->scale_cols];
        __m512 lo, hi;
        if (w->dtype == EM_DTYPE_FP8)
            dec_e4m3_32(_mm256_maskz_loadu_epi8((__mmask32)(~0u >> (32 - n)), codes + i), em_e8m0_table[scale], &lo,
                        &hi);
        else
            dec_e2m1_32(_mm_maskz_loadu_epi8(avx512_first(n / 2), codes + i / 2), _mm512_load_ps(em_e2m1_scaled[scale]),
                        &lo, &hi);
        _mm512_mask_storeu_ps(y + i, avx512_first(n), lo);
        _mm512_mask_storeu_ps(y + i + 16, avx512_first(n - 16), hi);
    }
}

/* ---- from float32 ---- */

EM_INLINE __m512 abs_ps(__m512 v)
{
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF)));
}

/* Largest lane, at least floor; NaN lanes do not count. */
EM_INLINE float max_lane(__m512 v, float floor)
{
    __m512 m = _mm512_max_ps(v, _mm512_set1_ps(floor));
    return _mm512_reduce_max_ps(m);
}

/* em_f32_to_e4m3 of 16 lanes. */
EM_INLINE __m512i to_e4m3(__m512 v)
{
    __m512i u = _mm512_castps_si512(v);
    __m512 a = abs_ps(v);
    __m512i sign = _mm512_and_si512(_mm512_srli_epi32(u, 24), _mm512_set1_epi32(0x80));
    __m512i even = _mm512_and_si512(_mm512_srli_epi32(u, 20), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_castps_si512(a), _mm512_add_epi32(even, _mm512_set1_epi32(0x7FFFF)));
    r = _mm512_sub_epi32(_mm512_srli_epi32(r, 20), _mm512_set1_epi32(120 << 3));
    __m512i tiny = _mm512_castps_si512(_mm512_add_ps(a, _mm512_set1_ps(0x1p14f)));
    r = _mm512_mask_and_epi32(r, _mm512_cmp_ps_mask(a, _mm512_set1_ps(0x1p-6f), _CMP_LT_OQ), tiny,
                              _mm512_set1_epi32(0xF));
    r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(a, _mm512_set1_ps(448.0f), _CMP_GE_OQ), _mm512_set1_epi32(0x7E));
    r = _mm512_or_si512(r, sign);
    return _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7F));
}

/* em_f32_to_e2m1 of 16 lanes, packed into 8 bytes. */
EM_INLINE void store_e2m1(__m512 v, uint8_t *codes)
{
    static const struct {
        float bound;
        bool tie_up;
    } steps[7] = {{0.25f, 0}, {0.75f, 1}, {1.25f, 0}, {1.75f, 1}, {2.5f, 0}, {3.5f, 1}, {5.0f, 0}};
    __m512 a = abs_ps(v);
    __m512i c = _mm512_and_si512(_mm512_srli_epi32(_mm512_castps_si512(v), 28), _mm512_set1_epi32(8));
#pragma GCC unroll 7
    for (int i = 0; i < 7; i++) {
        __m512 bound = _mm512_set1_ps(steps[i].bound);
        __mmask16 above =
            steps[i].tie_up ? _mm512_cmp_ps_mask(a, bound, _CMP_GE_OQ) : _mm512_cmp_ps_mask(a, bound, _CMP_GT_OQ);
        c = _mm512_mask_add_epi32(c, above, c, _mm512_set1_epi32(1));
    }
    __m512i pairs = _mm512_or_si512(c, _mm512_srli_epi64(c, 28)); /* the odd lane's code into the upper nibble */
    _mm_storel_epi64((__m128i *)codes, _mm512_cvtepi64_epi8(pairs));
}

/* The UE8M0 code of a block whose largest magnitude is a, and one over its scale (exact; NaN for code 255). */
EM_INLINE uint8_t scale_code(float a, float over_max, __m512 *inverse)
{
    uint8_t code = (uint8_t)(127 + em_pow2ceil_exp(a * over_max));
    *inverse = _mm512_set1_ps(em_e8m0_table[(uint8_t)(254 - code)]);
    return code;
}

static void enc_e4m3_b32(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 32; b++) {
        __m512 lo = _mm512_loadu_ps(x + b * 32), hi = _mm512_loadu_ps(x + b * 32 + 16), inverse;
        float a = max_lane(abs_ps(hi), max_lane(abs_ps(lo), 1e-4f));
        scales[b] = scale_code(a, 0x1.24924ap-9f, &inverse);
        _mm_storeu_si128((__m128i *)(codes + b * 32), _mm512_cvtepi32_epi8(to_e4m3(_mm512_mul_ps(lo, inverse))));
        _mm_storeu_si128((__m128i *)(codes + b * 32 + 16), _mm512_cvtepi32_epi8(to_e4m3(_mm512_mul_ps(hi, inverse))));
    }
}

static void enc_e2m1_b32(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 32; b++) {
        __m512 lo = _mm512_loadu_ps(x + b * 32), hi = _mm512_loadu_ps(x + b * 32 + 16), inverse;
        float a = max_lane(abs_ps(hi), max_lane(abs_ps(lo), 0x1.8p-124f));
        scales[b] = scale_code(a, 0x1.555556p-3f, &inverse);
        store_e2m1(_mm512_mul_ps(lo, inverse), codes + b * 16);
        store_e2m1(_mm512_mul_ps(hi, inverse), codes + b * 16 + 8);
    }
}

static void enc_e2m1_b16(const float *x, int64_t n, uint8_t *codes, uint8_t *scales)
{
    for (int64_t b = 0; b < n / 16; b++) {
        __m512 v = _mm512_loadu_ps(x + b * 16);
        scales[b] = em_f32_to_e4m3(max_lane(abs_ps(v), 0x1.8p-7f) / 6.0f);
        store_e2m1(_mm512_div_ps(v, _mm512_set1_ps(em_e4m3_table[scales[b]])), codes + b * 8);
    }
}

void em_avx512_codes_init(em_kernels *k)
{
    k->row_f32 = row_f32;
    k->enc_e4m3_b32 = enc_e4m3_b32;
    k->dec_e4m3_b32 = dec_e4m3_b32;
    k->enc_e2m1_b32 = enc_e2m1_b32;
    k->dec_e2m1_b32 = dec_e2m1_b32;
    k->enc_e2m1_b16 = enc_e2m1_b16;
    k->dec_e2m1_b16 = dec_e2m1_b16;
}
