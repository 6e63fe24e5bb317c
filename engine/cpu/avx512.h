/* The AVX-512 tier (F, BW, DQ, VL; F16C): what its files share. Only files compiled with the tier's flags include
 * this. */
#ifndef EM_CPU_AVX512_H
#define EM_CPU_AVX512_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/cpu/simd.h"
#include "engine/cpu/tiers.h"

/* Sum of the lanes; the order is written out, so that it does not depend on the compiler. */
EM_INLINE float avx512_sum(__m512 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Lanes 0 .. n-1, n clamped to 0 .. 16. */
EM_INLINE __mmask16 avx512_first(int64_t n)
{
    return n >= 16 ? 0xFFFF : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* E2M1 values by code. */
EM_INLINE __m512 avx512_e2m1_values(void)
{
    return _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f,
                          -4.0f, -6.0f);
}

/* 32 E4M3 codes as float32 times 2^-8: the code's fields moved into a half, whose bias is larger by 8. Subnormals are
 * right; the two NaN codes come out as +-480 * 2^-8. */
EM_INLINE void avx512_e4m3(__m256i codes, __m512 *lo, __m512 *hi)
{
    __m512i h = _mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7);
    h = _mm512_and_si512(h, _mm512_set1_epi16((short)0xBFFF)); /* the copy of the sign that landed in the exponent */
    *lo = _mm512_cvtph_ps(_mm512_castsi512_si256(h));
    *hi = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1));
}

void em_avx512_gemm_init(em_kernels *k);
void em_avx512_strips_init(em_kernels *k);
void em_avx512_vec_init(em_kernels *k);
void em_avx512_codes_init(em_kernels *k);

#endif
