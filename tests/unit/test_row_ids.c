/* Row ids of every instruction set that this machine has, against a plain %. */
#include <check.h>
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engram/pcg64.h"
#include "engram/row_ids.h"
#include "tests/support/fixtures.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))
#define LOW_31 ((UINT64_C(1) << 31) - 1)
#define CANARY INT64_C(-0x5EED)

enum { MAX_TOKENS = 200 };

static const char *const tier_name[EM_N_ROW_IDS_TIERS] = {"c", "avx2", "avx512"};

typedef struct rig {
    em_pcg64 rng;
    em_engram_hash hash;
    em_row_hasher hasher;
    size_t n_tokens;
    int32_t suffix[MAX_TOKENS * EM_ENGRAM_MAX_ORDER];
    int64_t want[MAX_TOKENS * EM_ENGRAM_MAX_COLS], got[MAX_TOKENS * EM_ENGRAM_MAX_COLS + 1];
} rig;

static uint64_t below(rig *r, uint64_t bound)
{
    return em_pcg64_below(&r->rng, bound);
}

/* With these multipliers the first three classes spell any 64 bits. */
static void spell(uint64_t v, int32_t *ret_suffix)
{
    ret_suffix[0] = (int32_t)(v & LOW_31);
    ret_suffix[1] = (int32_t)(v >> 31 & LOW_31);
    ret_suffix[2] = (int32_t)(v >> 62);
}

/* What a remainder or a rounding could get wrong. */
static uint64_t awkward_value(rig *r, uint64_t d)
{
    const uint64_t near = below(r, UINT64_MAX / d) * d, top = UINT64_MAX / d * d;
    const uint64_t v[] = {em_pcg64_next(&r->rng),
                          em_pcg64_next(&r->rng) >> below(r, 64),
                          near,
                          near - 1,
                          near + 1,
                          near + d - 1,
                          top,
                          top - 1,
                          top + 1,
                          0,
                          d - 1,
                          d,
                          d + 1,
                          INT64_MAX,
                          (uint64_t)INT64_MAX + 1,
                          UINT64_MAX,
                          (UINT64_C(1) << below(r, 64)) - 1,
                          (UINT64_C(1) << below(r, 64)) + 1};
    return v[below(r, COUNT(v))];
}

/* Buckets of any size, not only primes; in half of the rounds all of one size, as in a model. */
static void make_hash(rig *r)
{
    em_engram_hash *h = &r->hash;
    int shift = (int)below(r, 63);
    bool alike = below(r, 2);
    memset(h, 0, sizeof *h);
    h->max_order = 3 + (int32_t)below(r, EM_ENGRAM_MAX_ORDER - 2);
    h->n_heads = 1 + (int32_t)below(r, below(r, 8) ? 17 : EM_ENGRAM_MAX_HEADS);
    h->n_cols = (h->max_order - 1) * h->n_heads;
    h->multiplier[0] = 1;
    h->multiplier[1] = INT64_C(1) << 31;
    h->multiplier[2] = INT64_C(1) << 62;
    for (int i = 3; i < h->max_order; i++)
        h->multiplier[i] = (int64_t)em_pcg64_next(&r->rng);
    for (int col = 0; col < h->n_cols; col++) {
        uint64_t most = (uint64_t)INT64_MAX >> (alike ? shift : (int)below(r, 63));
        uint64_t d = below(r, 4) ? most - below(r, most / 2 + 1) : 1 + below(r, most);
        h->prime[col] = (int64_t)d;
        h->reciprocal[col] = UINT64_MAX / d;
        h->offset[col] = (int64_t)below(r, UINT64_C(1) << 40);
    }
    em_row_hasher_init(&r->hasher, h);
}

static void make_tokens(rig *r)
{
    const em_engram_hash *h = &r->hash;
    r->n_tokens = 1 + below(r, below(r, 2) ? MAX_TOKENS : 9);
    for (size_t t = 0; t < r->n_tokens; t++) {
        int32_t *suffix = r->suffix + t * (size_t)h->max_order;
        spell(awkward_value(r, (uint64_t)h->prime[below(r, (uint64_t)h->n_cols)]), suffix);
        for (int i = 3; i < h->max_order; i++)
            suffix[i] = below(r, 2) ? (int32_t)(uint32_t)em_pcg64_next(&r->rng) : 0;
        uint64_t v = (uint64_t)suffix[0];
        for (int col = 0; col < h->n_cols; col++) {
            int back = 1 + col / h->n_heads;
            if (col % h->n_heads == 0)
                v ^= (uint64_t)suffix[back] * (uint64_t)h->multiplier[back];
            r->want[t * (size_t)h->n_cols + (size_t)col] = (int64_t)(v % (uint64_t)h->prime[col]) + h->offset[col];
        }
    }
}

static void check_tier(rig *r, const char *name, em_row_ids_fn fn)
{
    size_t n = r->n_tokens * (size_t)r->hash.n_cols;
    memset(r->got, 0xA5, n * sizeof *r->got);
    r->got[n] = CANARY;
    fn(&r->hasher, r->suffix, r->n_tokens, r->got);
    for (size_t i = 0; i < n; i++)
        if (r->got[i] != r->want[i])
            ck_abort_msg("%s: token %zu of %zu, bucket of %lld rows: %lld, not %lld", name, i / (size_t)r->hash.n_cols,
                         r->n_tokens, (long long)r->hash.prime[i % (size_t)r->hash.n_cols], (long long)r->got[i],
                         (long long)r->want[i]);
    ck_assert_int_eq(r->got[n], CANARY);
}

static void check_rounds(rig *r, int rounds)
{
    em_row_ids_fn fn[EM_N_ROW_IDS_TIERS];
    em_row_ids_tiers(fn);
    ck_assert_ptr_nonnull(fn[EM_ROW_IDS_C]);
    for (int round = 0; round < rounds; round++) {
        make_hash(r);
        make_tokens(r);
        for (int tier = 0; tier < EM_N_ROW_IDS_TIERS; tier++)
            if (fn[tier])
                check_tier(r, tier_name[tier], fn[tier]);
        check_tier(r, "as the service asks", em_row_hasher_run);
    }
}

START_TEST(every_tier_has_the_bits_of_a_plain_remainder)
{
    static rig r;
    em_pcg64_seed(&r.rng, test_seed(31));
    check_rounds(&r, 4000);
}
END_TEST

/* The program that uses the library may have set another one. */
START_TEST(rounding_modes_change_nothing)
{
    static const int mode[] = {FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
    static rig r;
    em_pcg64_seed(&r.rng, test_seed(32));
    for (int i = 0; i < COUNT(mode); i++) {
        ck_assert_int_eq(fesetround(mode[i]), 0);
        check_rounds(&r, 500);
    }
    fesetround(FE_TONEAREST);
}
END_TEST

START_TEST(the_fastest_tier_is_chosen)
{
    static rig r;
    em_row_ids_fn fn[EM_N_ROW_IDS_TIERS], best = NULL;
    em_pcg64_seed(&r.rng, 1);
    make_hash(&r);
    em_row_ids_tiers(fn);
    for (int tier = 0; tier < EM_N_ROW_IDS_TIERS; tier++)
        if (fn[tier]) {
            fprintf(stderr, "row ids: %s\n", tier_name[tier]);
            best = fn[tier];
        }
    ck_assert(r.hasher.row_ids == best);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("row-ids");
    TCase *t = tcase_create("row-ids");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_tier_has_the_bits_of_a_plain_remainder);
    tcase_add_test(t, rounding_modes_change_nothing);
    tcase_add_test(t, the_fastest_tier_is_chosen);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
