/* The small number formats against their definitions in double, and the spec's table of scales. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/cpu/kernels.h"
#include "engine/formats.h"
#include "tests/support/fixtures.h"

/* Spec 3.1, from the fields. */
static double e4m3_value(int code)
{
    int e = code >> 3 & 15, m = code & 7;
    double v = e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
    return code & 128 ? -v : v;
}

static double e2m1_value(int code)
{
    static const double v[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    return code & 8 ? -v[code & 7] : v[code & 7];
}

/* The code below n whose value is nearest to |v|, the even one of two equally near: by looking at all of them. */
static int nearest(double (*value)(int code), int n, double v)
{
    int best = 0;
    for (int c = 1; c < n; c++) {
        double d = fabs(value(c) - fabs(v)), b = fabs(value(best) - fabs(v));
        if (d < b || (d == b && c % 2 == 0))
            best = c;
    }
    return best;
}

START_TEST(e4m3_decodes)
{
    for (int c = 0; c < 256; c++) {
        float v = em_e4m3_to_f32((uint8_t)c);
        if ((c & 127) == 127) {
            ck_assert(isnan(v));
            continue;
        }
        ck_assert_double_eq((double)v, e4m3_value(c));
        ck_assert_int_eq(!!signbit(v), c >> 7);
        ck_assert_uint_eq(em_f32_to_e4m3(v), c);
    }
}
END_TEST

static void check_e4m3(float v)
{
    int want = nearest(e4m3_value, 127, (double)v) | (signbit(v) ? 128 : 0);
    ck_assert_msg(em_f32_to_e4m3(v) == want, "%a gives %02x, not %02x", (double)v, em_f32_to_e4m3(v), want);
}

START_TEST(e4m3_rounds)
{
    unsigned long long seed = test_seed(11);
    for (int c = 0; c < 126; c++) {
        float mid = (float)((e4m3_value(c) + e4m3_value(c + 1)) / 2);
        for (int s = -1; s <= 1; s += 2) {
            check_e4m3((float)s * mid);
            check_e4m3((float)s * nextafterf(mid, 0));
            check_e4m3((float)s * nextafterf(mid, INFINITY));
        }
    }
    for (uint64_t i = 0; i < 20000; i++) {
        double u = em_rng_uniform(seed, 0, i, 0) - 0.5;
        check_e4m3((float)ldexp(u, (int)(em_rng_u64(seed, 1, i, 0) % 24) - 12));
    }
    ck_assert_uint_eq(em_f32_to_e4m3(1e30f), 0x7E);
    ck_assert_uint_eq(em_f32_to_e4m3(-464.1f), 0xFE);
    ck_assert_uint_eq(em_f32_to_e4m3(-INFINITY), 0xFE);
    ck_assert_uint_eq(em_f32_to_e4m3(NAN), 0x7F);
    ck_assert_uint_eq(em_f32_to_e4m3(-0.0f), 0x80);
    ck_assert_uint_eq(em_f32_to_e4m3(0x1p-140f), 0);
}
END_TEST

START_TEST(e2m1)
{
    unsigned long long seed = test_seed(12);
    for (int c = 0; c < 16; c++) {
        ck_assert_double_eq((double)em_e2m1_to_f32((uint8_t)c), e2m1_value(c));
        ck_assert_uint_eq(em_f32_to_e2m1(em_e2m1_to_f32((uint8_t)c)), c);
        ck_assert_double_eq((double)em_e2m1_to_f32((uint8_t)(c | 0xA0)),
                            e2m1_value(c)); /* the other nibble is no matter */
    }
    /* spec 3.5: ties down at 0.25, 1.25, 2.5, 5; up at 0.75, 1.75, 3.5 */
    static const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
    static const int codes[] = {0, 2, 2, 4, 4, 6, 6};
    for (int i = 0; i < 7; i++)
        ck_assert_uint_eq(em_f32_to_e2m1(ties[i]), codes[i]);
    for (uint64_t i = 0; i < 20000; i++) {
        float v = (float)(16 * em_rng_uniform(seed, 0, i, 0) - 8);
        int want = nearest(e2m1_value, 8, fmin(fabs((double)v), 6)) | (v < 0 ? 8 : 0);
        ck_assert_uint_eq(em_f32_to_e2m1(v), want);
    }
    ck_assert_uint_eq(em_f32_to_e2m1(-0.1f), 8); /* becomes -0 */
    ck_assert_uint_eq(em_f32_to_e2m1(-INFINITY), 15);
}
END_TEST

START_TEST(e8m0)
{
    for (int c = 0; c < 255; c++)
        ck_assert_double_eq((double)em_e8m0_to_f32((uint8_t)c), ldexp(1, c - 127));
    ck_assert(isnan(em_e8m0_to_f32(255)));
    for (int e = -126; e < 127; e++) {
        float t = ldexpf(1, e);
        ck_assert_int_eq(em_pow2ceil_exp(t), e);
        ck_assert_int_eq(em_pow2ceil_exp(nextafterf(t, INFINITY)), e + 1);
        if (e > -126)
            ck_assert_int_eq(em_pow2ceil_exp(nextafterf(t, 0)), e);
    }
}
END_TEST

START_TEST(bf16)
{
    unsigned long long seed = test_seed(13);
    for (uint32_t c = 0; c < 65536; c++) {
        float v = em_bf16_to_f32((uint16_t)c);
        if (isnan(v))
            ck_assert(isnan(em_bf16_to_f32(em_f32_to_bf16(v))));
        else
            ck_assert_uint_eq(em_f32_to_bf16(v), c);
    }
    for (uint64_t i = 0; i < 20000; i++) {
        uint32_t bits = (uint32_t)em_rng_u64(seed, 0, i, 0);
        if (i % 4 == 0)
            bits = (bits & 0xFFFF0000u) | 0x8000; /* ties */
        float v;
        memcpy(&v, &bits, 4);
        double below = (double)em_bf16_to_f32((uint16_t)(bits >> 16));
        double above = (double)em_bf16_to_f32((uint16_t)((bits >> 16) + 1));
        if (!isfinite(v) || !isfinite(above))
            continue;
        double d = fabs((double)v - below), u = fabs(above - (double)v);
        uint16_t want = (uint16_t)((bits >> 16) + (u < d || (u == d && (bits >> 16) % 2)));
        ck_assert_uint_eq(em_f32_to_bf16(v), want);
    }
    ck_assert_uint_eq(em_f32_to_bf16(3.4e38f), 0x7F80); /* above the last finite value's midpoint */
    uint32_t quiet = 0x7F800001;
    float nan;
    memcpy(&nan, &quiet, 4);
    ck_assert(isnan(em_bf16_to_f32(em_f32_to_bf16(nan)))); /* its set bit lies in the half that is cut off */
}
END_TEST

/* Spec, appendix A.5: block maximum and the three scales. */
START_TEST(spec_scales)
{
    static const struct {
        float amax;
        int e4m3_exp, e2m1_exp;
        float e2m1_scale;
    } rows[] = {
        {0, -22, -126, 0x1p-9f}, {1.0f, -8, -2, 0.171875f}, {3.7f, -6, 0, 0.625f}, {448, 0, 7, 72}, {449, 1, 7, 72}};
    em_kernels k;
    for (unsigned flags = 0; flags <= (EM_CPU_AVX2 | EM_CPU_AVX512); flags++) {
        if (flags & ~em_cpu_flags())
            continue;
        em_kernels_init(&k, flags);
        for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
            float x[32] = {[7] = -rows[i].amax};
            uint8_t codes[32], scales[2];
            k.enc_e4m3_b32(x, 32, codes, scales);
            ck_assert_int_eq(scales[0] - 127, rows[i].e4m3_exp);
            k.enc_e2m1_b32(x, 32, codes, scales);
            ck_assert_int_eq(scales[0] - 127, rows[i].e2m1_exp);
            k.enc_e2m1_b16(x, 32, codes, scales);
            ck_assert_float_eq(em_e4m3_to_f32(scales[0]), rows[i].e2m1_scale);
        }
    }
}
END_TEST

/* Every code under every scale, as a row of a matrix: the tables that kernels use against the functions. */
START_TEST(rows)
{
    em_kernels k;
    uint8_t codes[256];
    float y[256];
    for (int c = 0; c < 256; c++)
        codes[c] = (uint8_t)c;
    for (unsigned flags = 0; flags <= (EM_CPU_AVX2 | EM_CPU_AVX512); flags++) {
        if (flags & ~em_cpu_flags())
            continue;
        em_kernels_init(&k, flags);
        for (int scale = 0; scale < 256; scale++) {
            uint8_t scales[1] = {(uint8_t)scale};
            em_matrix w = {.dtype = EM_DTYPE_FP8,
                           .rows = 1,
                           .cols = 256,
                           .data = codes,
                           .scale = scales,
                           .scale_rows = 1,
                           .scale_cols = 256,
                           .scale_stride = 1};
            k.row_f32(&w, 0, y);
            for (int c = 0; c < 256; c++) {
                float want = em_e4m3_to_f32((uint8_t)c) * em_e8m0_to_f32((uint8_t)scale);
                ck_assert(y[c] == want || (isnan(y[c]) && isnan(want)));
            }
            w.dtype = EM_DTYPE_FP4;
            k.row_f32(&w, 0, y);
            for (int c = 0; c < 256; c++) {
                float want = em_e2m1_to_f32((uint8_t)(codes[c / 2] >> (c % 2 * 4))) * em_e8m0_to_f32((uint8_t)scale);
                ck_assert(y[c] == want || (isnan(y[c]) && isnan(want)));
            }
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("formats");
    TCase *t = tcase_create("formats");
    tcase_add_test(t, e4m3_decodes);
    tcase_add_test(t, e4m3_rounds);
    tcase_add_test(t, e2m1);
    tcase_add_test(t, e8m0);
    tcase_add_test(t, bf16);
    tcase_add_test(t, spec_scales);
    tcase_add_test(t, rows);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
