/* The AVX2 tier (AVX2, FMA, F16C, BMI2): what its files share. Only files compiled with the tier's flags include
 * this. */
#ifndef EM_CPU_AVX2_H
#define EM_CPU_AVX2_H

#include <stdint.h>

#include "engine/cpu/simd.h"
#include "engine/cpu/tiers.h"

/* Sum of the lanes; the order is written out, so that it does not depend on the compiler. */
EM_INLINE float avx2_sum(__m256 v)
{
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Mask of lanes 0 .. n-1, n clamped to 0 .. 8. */
EM_INLINE __m256i avx2_first(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 8 ? 8 : (int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* 16 E4M3 codes as float32 times 2^-8: the code's fields moved into a half, whose bias is larger by 8. Subnormals are
 * right; the two NaN codes come out as +-480 * 2^-8. */
EM_INLINE void avx2_e4m3(__m128i codes, __m256 *lo, __m256 *hi)
{
    __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(codes), 7);
    h = _mm256_and_si256(h, _mm256_set1_epi16((short)0xBFFF)); /* the copy of the sign that landed in the exponent */
    *lo = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
    *hi = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
}

void em_avx2_gemm_init(em_kernels *k);
void em_avx2_strips_init(em_kernels *k);
void em_avx2_vec_init(em_kernels *k);
void em_avx2_codes_init(em_kernels *k);

#endif
