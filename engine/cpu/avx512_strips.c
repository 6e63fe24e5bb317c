/* AVX-512: products of packed weights.
 *
 * A lane is an output row. Each group of columns has two sums of its own, every second column (or word half) each in
 * ascending order; they are added, scaled, and added to the row's sum. Neither decoded weights nor x need the scale
 * then, and sums of different groups overlap in the pipeline although those of one group are chains. How many tokens
 * share the decoded weights decides nothing about the order, so a token's bits depend on its own inputs alone.
 *
 *   FP4   a word holds 8 columns of one row. A permutation of words looks at the low 4 of 16 bits, one of dwords at the
 *         low 4 of 32: shifted by a nibble at a time, the first gives columns 4 .. 7 (into the upper halves, which are
 *         the float's), the second columns 0 .. 3.
 *   FP8   code fields move into half floats (times 2^-8, undone at the end). NaN codes read as +-480: a test for them
 *         would cost 6 %, and no checkpoint has them. */
#include "engine/cpu/avx512.h"
#include "engine/cpu/strips.h"

enum { MOST_TOKENS = 8 };

/* 16 UE8M0 codes, or one for all lanes. */
EM_INLINE __m512 load_scales(const uint8_t *p, int n_scales)
{
    if (n_scales == 1)
        return _mm512_set1_ps(em_e8m0_table[*p]);
    __m512i code = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(const void *)p));
    __m512i bits = _mm512_slli_epi32(code, 23);
    bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(code, code), _mm512_set1_epi32(0x00400000)); /* 2^-127 */
    bits = _mm512_mask_mov_epi32(bits, _mm512_cmpeq_epi32_mask(code, _mm512_set1_epi32(255)),
                                 _mm512_set1_epi32(0x7FC00000));
    return _mm512_castsi512_ps(bits);
}

/* E2M1 values as the upper halves of floats, twice: the index has 5 bits. */
EM_INLINE __m512i e2m1_halves(void)
{
    __m512i v = _mm512_castps_si512(avx512_e2m1_values());
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16))),
                              _mm512_cvtepi32_epi16(_mm512_srli_epi32(v, 16)), 1);
}

/* One pair of columns: the i-th of those that a group is cut into. Says which they are, relative to the group. */
EM_INLINE void load_pair(em_dtype dtype, const uint8_t *group, int64_t i, __m512 *w0, __m512 *w1, int64_t *col0,
                         int64_t *col1)
{
    *col0 = 2 * i;
    *col1 = 2 * i + 1;
    if (dtype == EM_DTYPE_F32) {
        *w0 = _mm512_load_ps((const float *)(const void *)group + 32 * i);
        *w1 = _mm512_load_ps((const float *)(const void *)group + 32 * i + 16);
    } else if (dtype == EM_DTYPE_BF16) {
        __m512i v = _mm512_load_si512(group + 64 * i);
        *w0 = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
        *w1 = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xFFFF0000)));
    } else if (dtype == EM_DTYPE_FP8) {
        avx512_e4m3(_mm256_load_si256((const __m256i *)(const void *)(group + 32 * i)), w0, w1);
    } else {
        __m512i v = _mm512_load_si512(group + 64 * (i / 4));
        v = i % 4 ? _mm512_srli_epi16(v, (unsigned)(4 * (i % 4))) : v;
        *w0 = _mm512_permutexvar_ps(v, avx512_e2m1_values());
        *w1 = _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAA, v, e2m1_halves()));
        *col0 = i / 4 * 8 + i % 4;
        *col1 = *col0 + 4;
    }
}

EM_INLINE void add_group(em_dtype dtype, int n_m, const uint8_t *group, const uint8_t *scales, int n_scales,
                         const float *const x[MOST_TOKENS], __m512 acc[MOST_TOKENS])
{
    __m512 sum0[MOST_TOKENS], sum1[MOST_TOKENS];
#pragma GCC unroll 8
    for (int m = 0; m < n_m; m++)
        sum0[m] = sum1[m] = _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int64_t i = 0; i < EM_STRIP_COLS / 2; i++) {
        __m512 w0, w1;
        int64_t col0, col1;
        if ((size_t)i * em_strip_group_bytes(dtype) / 16 % 64 == 0)
            _mm_prefetch((const char *)group + (size_t)i * em_strip_group_bytes(dtype) / 16 + PREFETCH_BYTES,
                         _MM_HINT_T1);
        load_pair(dtype, group, i, &w0, &w1, &col0, &col1);
#pragma GCC unroll 8
        for (int m = 0; m < n_m; m++) {
            sum0[m] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[m][col0]), sum0[m]);
            sum1[m] = _mm512_fmadd_ps(w1, _mm512_set1_ps(x[m][col1]), sum1[m]);
        }
    }
    __m512 scale = _mm512_setzero_ps();
    if (dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4)
        scale = load_scales(scales, n_scales);
#pragma GCC unroll 8
    for (int m = 0; m < n_m; m++) {
        __m512 sum = _mm512_add_ps(sum0[m], sum1[m]);
        acc[m] = dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4 ? _mm512_fmadd_ps(sum, scale, acc[m])
                                                                : _mm512_add_ps(acc[m], sum);
    }
}

/* One strip times n_m tokens, a constant after inlining. */
EM_INLINE void strip(em_dtype dtype, int n_m, const strip_args *args)
{
    const strip_args a = *args;
    const size_t bytes = em_strip_group_bytes(dtype);
    const int n_scales = dtype == EM_DTYPE_FP4 ? EM_STRIP_ROWS : a.n_scales;
    const float *x[MOST_TOKENS];
    __m512 acc[MOST_TOKENS];
#pragma GCC unroll 8
    for (int m = 0; m < n_m; m++)
        acc[m] = _mm512_setzero_ps();
    token_rows(n_m, a.x, a.x_stride, x);
    for (int64_t g = 0; g < a.n_groups; g++) {
        add_group(dtype, n_m, a.codes + (size_t)g * bytes, a.scales + g * n_scales, n_scales, x, acc);
        next_group(n_m, x);
    }
    if (a.tail) {
        token_rows(n_m, a.tail, EM_STRIP_COLS, x);
        add_group(dtype, n_m, a.codes + (size_t)a.n_groups * bytes, a.scales + a.n_groups * n_scales, n_scales, x, acc);
    }
    const __mmask16 lanes = (__mmask16)((1u << a.end_lane) - (1u << a.first_lane));
#pragma GCC unroll 8
    for (int m = 0; m < n_m; m++) {
        if (dtype == EM_DTYPE_FP8)
            acc[m] = _mm512_mul_ps(acc[m], _mm512_set1_ps(0x1p8f));
        _mm512_mask_storeu_ps(a.y + m * a.y_stride, lanes, acc[m]);
    }
}

#define STRIP(dtype, n_m)                                                                                              \
    static void strip_##dtype##_##n_m(const strip_args *a)                                                             \
    {                                                                                                                  \
        strip(EM_DTYPE_##dtype, n_m, a);                                                                               \
    }
#define STRIPS(dtype)                                                                                                  \
    STRIP(dtype, 1)                                                                                                    \
    STRIP(dtype, 2)                                                                                                    \
    STRIP(dtype, 3)                                                                                                    \
    STRIP(dtype, 4)                                                                                                    \
    STRIP(dtype, 5)                                                                                                    \
    STRIP(dtype, 6)                                                                                                    \
    STRIP(dtype, 7)                                                                                                    \
    STRIP(dtype, 8)                                                                                                    \
    static const strip_fn strips_##dtype[MOST_TOKENS] = {strip_##dtype##_1, strip_##dtype##_2, strip_##dtype##_3,      \
                                                         strip_##dtype##_4, strip_##dtype##_5, strip_##dtype##_6,      \
                                                         strip_##dtype##_7, strip_##dtype##_8};                        \
    GEMM_OF_STRIPS(dtype, MOST_TOKENS)

STRIPS(F32)
STRIPS(BF16)
STRIPS(FP8)
STRIPS(FP4)

void em_avx512_strips_init(em_kernels *k)
{
    k->gemm[EM_DTYPE_F32] = gemm_F32;
    k->gemm[EM_DTYPE_BF16] = gemm_BF16;
    k->gemm[EM_DTYPE_FP8] = gemm_FP8;
    k->gemm[EM_DTYPE_FP4] = gemm_FP4;
}
