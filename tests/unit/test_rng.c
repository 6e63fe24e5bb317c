/* Random numbers: published vectors of Philox4x32-10, and what the engine builds on them. */
#include <check.h>
#include <stdlib.h>

#include "engine/base/rng.h"

static const struct {
    uint32_t counter[4], key[2], out[4];
} known[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

START_TEST(known_answers)
{
    uint32_t out[4];
    em_philox4x32(known[_i].counter, known[_i].key, out);
    for (int i = 0; i < 4; i++)
        ck_assert_uint_eq(out[i], known[_i].out[i]);
}
END_TEST

START_TEST(words_and_counters)
{
    /* 0x299f31d0a4093822 is the third key, 0x85a308d3243f6a88 the position, 0x13198a2e the choice */
    uint64_t bits = em_rng_u64(UINT64_C(0x299f31d0a4093822), 0x13198a2e, UINT64_C(0x85a308d3243f6a88), 0x03707344);
    ck_assert_uint_eq(bits, UINT64_C(0xd16cfe0994fdcceb));
    double u = em_rng_uniform(UINT64_C(0x299f31d0a4093822), 0x13198a2e, UINT64_C(0x85a308d3243f6a88), 0x03707344);
    ck_assert_double_eq(u, (double)(UINT64_C(0xd16cfe0994fdcceb) >> 11) / 9007199254740992.0);
}
END_TEST

START_TEST(every_argument_counts)
{
    uint64_t base = em_rng_u64(7, 1, 100, 0);
    ck_assert_uint_eq(base, em_rng_u64(7, 1, 100, 0));
    ck_assert_uint_ne(base, em_rng_u64(8, 1, 100, 0));
    ck_assert_uint_ne(base, em_rng_u64(7 + (UINT64_C(1) << 32), 1, 100, 0));
    ck_assert_uint_ne(base, em_rng_u64(7, 2, 100, 0));
    ck_assert_uint_ne(base, em_rng_u64(7, 1, 101, 0));
    ck_assert_uint_ne(base, em_rng_u64(7, 1, 100 + (UINT64_C(1) << 32), 0));
    ck_assert_uint_ne(base, em_rng_u64(7, 1, 100, 1));
}
END_TEST

START_TEST(uniform_is_uniform)
{
    enum { N_BINS = 64, N = 64 * 4096 };
    int count[N_BINS] = {0};
    for (int i = 0; i < N; i++) {
        double u = em_rng_uniform(42, (uint32_t)(i % 3), (uint64_t)i, 0);
        ck_assert(u >= 0 && u < 1);
        count[(int)(u * N_BINS)]++;
    }
    double chi2 = 0;
    for (int b = 0; b < N_BINS; b++)
        chi2 += (count[b] - 4096.0) * (count[b] - 4096.0) / 4096.0;
    ck_assert_msg(chi2 < 120, "chi square of 63 degrees of freedom is %g", chi2); /* p = 2e-5; the draws are fixed */
    ck_assert_msg(chi2 > 25, "chi square is %g: too even to be random", chi2);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rng");
    TCase *t = tcase_create("philox");
    tcase_add_loop_test(t, known_answers, 0, sizeof(known) / sizeof(known[0]));
    tcase_add_test(t, words_and_counters);
    tcase_add_test(t, every_argument_counts);
    tcase_add_test(t, uniform_is_uniform);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
