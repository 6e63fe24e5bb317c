/* AVX2: products of packed weights. As in AVX-512, but a strip is two vectors of 8 lanes, and at most 4 tokens share
 * decoded weights: for one or two of them both halves of the strip go together, else one after the other.
 *
 *   FP4   a shuffle of bytes turns nibbles into twice their value, a small integer; shifted to the top of its lane it
 *         is 2^24 times that, undone with the scale. Columns go in the order in which they lie in a word.
 *   FP8   as in AVX-512. */
#include "engine/cpu/avx2.h"
#include "engine/cpu/strips.h"

enum { MOST_TOKENS = 4, MOST_HALVES = 2, LANES = 8 };

EM_INLINE __m256i pick(__m256i a, __m256i b, __m256i mask)
{
    return _mm256_blendv_epi8(a, b, mask);
}

/* Scales of one half. */
EM_INLINE __m256 load_scales(const uint8_t *p, int n_scales, int64_t half)
{
    if (n_scales == 1)
        return _mm256_set1_ps(em_e8m0_table[*p]);
    __m256i code = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + half * LANES)));
    __m256i bits = _mm256_slli_epi32(code, 23);
    bits = pick(bits, _mm256_set1_epi32(0x00400000), _mm256_cmpeq_epi32(code, _mm256_setzero_si256())); /* 2^-127 */
    bits = pick(bits, _mm256_set1_epi32(0x7FC00000), _mm256_cmpeq_epi32(code, _mm256_set1_epi32(255)));
    return _mm256_castsi256_ps(bits);
}

/* Byte b of each lane, at the top of it. */
EM_INLINE __m256i top_byte(__m256i v, int b)
{
    __m256i t = b == 3 ? v : _mm256_slli_epi32(v, 24 - 8 * b);
    return b == 0 ? t : _mm256_and_si256(t, _mm256_set1_epi32((int)0xFF000000));
}

/* Eight columns of 8 rows, decoded; the columns are those of an FP4 word, in order. */
EM_INLINE void load_columns(em_dtype dtype, const uint8_t *group, int64_t i, int64_t half, __m256 w[8])
{
    if (dtype == EM_DTYPE_FP4) {
        const __m256i doubled =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
        const __m256i nibble = _mm256_set1_epi8(0x0F);
        __m256i v = _mm256_load_si256((const __m256i *)(const void *)(group + 64 * i + 32 * half));
        __m256i even = _mm256_shuffle_epi8(doubled, _mm256_and_si256(v, nibble));
        __m256i odd = _mm256_shuffle_epi8(doubled, _mm256_and_si256(_mm256_srli_epi16(v, 4), nibble));
#pragma GCC unroll 4
        for (int64_t b = 0; b < 4; b++) {
            w[2 * b] = _mm256_cvtepi32_ps(top_byte(even, (int)b));
            w[2 * b + 1] = _mm256_cvtepi32_ps(top_byte(odd, (int)b));
        }
        return;
    }
#pragma GCC unroll 8
    for (int64_t c = 0; c < 8; c++) {
        int64_t col = 8 * i + c;
        if (dtype == EM_DTYPE_F32) {
            w[c] = _mm256_load_ps((const float *)(const void *)group + 16 * col + LANES * half);
        } else if (dtype == EM_DTYPE_BF16) {
            __m256i v = _mm256_load_si256((const __m256i *)(const void *)(group + 64 * (col / 2) + 32 * half));
            w[c] = _mm256_castsi256_ps(c % 2 ? _mm256_and_si256(v, _mm256_set1_epi32((int)0xFFFF0000))
                                             : _mm256_slli_epi32(v, 16));
        } else {
            __m128i v = _mm_loadl_epi64((const __m128i *)(const void *)(group + 16 * col + LANES * half));
            __m128i h = _mm_slli_epi16(_mm_cvtepi8_epi16(v), 7);
            w[c] = _mm256_cvtph_ps(_mm_and_si128(h, _mm_set1_epi16((short)0xBFFF)));
        }
    }
}

/* n_h halves from `half` on. */
EM_INLINE void add_group(em_dtype dtype, int n_m, int n_h, int64_t half, const uint8_t *group, const uint8_t *scales,
                         int n_scales, const float *const x[MOST_TOKENS], __m256 acc[MOST_HALVES][MOST_TOKENS])
{
    __m256 sum0[MOST_HALVES][MOST_TOKENS], sum1[MOST_HALVES][MOST_TOKENS], w[8];
#pragma GCC unroll 2
    for (int h = 0; h < n_h; h++)
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++)
            sum0[h][m] = sum1[h][m] = _mm256_setzero_ps();
#pragma GCC unroll 4
    for (int64_t i = 0; i < EM_STRIP_COLS / 8; i++) {
#pragma GCC unroll 2
        for (int h = 0; h < n_h; h++) {
            load_columns(dtype, group, i, half + h, w);
#pragma GCC unroll 4
            for (int c = 0; c < 8; c += 2)
#pragma GCC unroll 4
                for (int m = 0; m < n_m; m++) {
                    const float *xm = x[m] + 8 * i + c;
                    sum0[h][m] = _mm256_fmadd_ps(w[c], _mm256_broadcast_ss(xm), sum0[h][m]);
                    sum1[h][m] = _mm256_fmadd_ps(w[c + 1], _mm256_broadcast_ss(xm + 1), sum1[h][m]);
                }
        }
    }
#pragma GCC unroll 2
    for (int h = 0; h < n_h; h++) {
        __m256 scale = _mm256_setzero_ps();
        if (dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4)
            scale = load_scales(scales, n_scales, half + h);
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++) {
            __m256 sum = _mm256_add_ps(sum0[h][m], sum1[h][m]);
            if (dtype == EM_DTYPE_FP4)
                sum = _mm256_mul_ps(sum, _mm256_set1_ps(0x1p-25f));
            acc[h][m] = dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4 ? _mm256_fmadd_ps(sum, scale, acc[h][m])
                                                                       : _mm256_add_ps(acc[h][m], sum);
        }
    }
}

EM_INLINE void store_half(const strip_args *a, int64_t half, int m, __m256 v)
{
    float *y = a->y + m * a->y_stride + half * LANES;
    int first = a->first_lane - (int)half * LANES, end = a->end_lane - (int)half * LANES;
    if (first <= 0 && end >= LANES) {
        _mm256_storeu_ps(y, v);
        return;
    }
    __m256i below_first = avx2_first(first > 0 ? first : 0), below_end = avx2_first(end > 0 ? end : 0);
    _mm256_maskstore_ps(y, _mm256_andnot_si256(below_first, below_end), v);
}

EM_INLINE void strip_halves(em_dtype dtype, int n_m, int n_h, int64_t half, const strip_args *a)
{
    const size_t bytes = em_strip_group_bytes(dtype);
    const int n_scales = dtype == EM_DTYPE_FP4 ? EM_STRIP_ROWS : a->n_scales;
    const float *x[MOST_TOKENS];
    __m256 acc[MOST_HALVES][MOST_TOKENS];
#pragma GCC unroll 2
    for (int h = 0; h < n_h; h++)
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++)
            acc[h][m] = _mm256_setzero_ps();
    token_rows(n_m, a->x, a->x_stride, x);
    for (int64_t g = 0; g < a->n_groups; g++) {
        const uint8_t *codes = a->codes + (size_t)g * bytes;
#pragma GCC unroll 32
        for (size_t i = 0; i < bytes; i += 64)
            _mm_prefetch((const char *)codes + i + PREFETCH_BYTES, _MM_HINT_T1);
        add_group(dtype, n_m, n_h, half, codes, a->scales + g * n_scales, n_scales, x, acc);
        next_group(n_m, x);
    }
    if (a->tail) {
        token_rows(n_m, a->tail, EM_STRIP_COLS, x);
        add_group(dtype, n_m, n_h, half, a->codes + (size_t)a->n_groups * bytes, a->scales + a->n_groups * n_scales,
                  n_scales, x, acc);
    }
#pragma GCC unroll 2
    for (int h = 0; h < n_h; h++)
#pragma GCC unroll 4
        for (int m = 0; m < n_m; m++)
            store_half(a, half + h, m,
                       dtype == EM_DTYPE_FP8 ? _mm256_mul_ps(acc[h][m], _mm256_set1_ps(0x1p8f)) : acc[h][m]);
}

EM_INLINE void strip(em_dtype dtype, int n_m, const strip_args *a)
{
    if (n_m <= 2) {
        strip_halves(dtype, n_m, 2, 0, a);
    } else {
        strip_halves(dtype, n_m, 1, 0, a);
        strip_halves(dtype, n_m, 1, 1, a);
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
    static const strip_fn strips_##dtype[MOST_TOKENS] = {strip_##dtype##_1, strip_##dtype##_2, strip_##dtype##_3,      \
                                                         strip_##dtype##_4};                                           \
    GEMM_OF_STRIPS(dtype, MOST_TOKENS)

STRIPS(F32)
STRIPS(BF16)
STRIPS(FP8)
STRIPS(FP4)

void em_avx2_strips_init(em_kernels *k)
{
    k->gemm[EM_DTYPE_F32] = gemm_F32;
    k->gemm[EM_DTYPE_BF16] = gemm_BF16;
    k->gemm[EM_DTYPE_FP8] = gemm_FP8;
    k->gemm[EM_DTYPE_FP4] = gemm_FP4;
}
