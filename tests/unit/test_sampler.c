/* The sampler against a brute-force reference that sorts everything, written from the rules in sampler.h. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/sampler.h"
#include "tests/support/fixtures.h"

/* --- the reference ------------------------------------------------------------------------------------------ */

static const float *sort_logits;

static int by_rank(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    if (sort_logits[x] != sort_logits[y])
        return sort_logits[x] > sort_logits[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

static void rank(const float *logits, int32_t n, int32_t *order)
{
    for (int32_t i = 0; i < n; i++)
        order[i] = i;
    sort_logits = logits;
    qsort(order, (size_t)n, sizeof(*order), by_rank);
}

/* Sets kept[id] to the token's weight or 0; *doubt: top_p lies so near a border that rounding decides. */
static void reference_filter(const float *logits, int32_t n, const em_sampling *how, double *kept, bool *doubt)
{
    int32_t *order = malloc((size_t)n * sizeof(*order));
    rank(logits, n, order);
    int32_t n_kept = how->top_k > 0 && how->top_k < n ? how->top_k : n;
    double max = logits[order[0]], sum = 0;
    memset(kept, 0, (size_t)n * sizeof(*kept));
    for (int32_t i = 0; i < n_kept; i++)
        sum += kept[order[i]] = exp((logits[order[i]] - max) / (double)how->temperature);
    *doubt = false;
    if (how->min_p > 0) {
        sum = 0;
        for (int32_t i = 0; i < n_kept; i++) {
            if (kept[order[i]] < (double)how->min_p)
                kept[order[i]] = 0;
            sum += kept[order[i]];
        }
    }
    if (how->top_p < 1) {
        double mass = 0, target = (double)how->top_p * sum;
        int32_t i = 0;
        for (; i < n_kept && (i == 0 || mass < target); i++) {
            mass += kept[order[i]];
            *doubt |= fabs(mass - target) < 1e-12 * sum;
        }
        for (; i < n_kept; i++)
            kept[order[i]] = 0;
    }
    free(order);
}

static int32_t reference_draw(const double *kept, int32_t n, double u, bool *doubt)
{
    double sum = 0, below = 0;
    int32_t last = -1;
    for (int32_t i = 0; i < n; i++)
        sum += kept[i];
    for (int32_t i = 0; i < n; i++) {
        if (kept[i] <= 0)
            continue;
        last = i;
        below += kept[i];
        *doubt |= fabs(below - u * sum) < 1e-12 * sum && u > 0 && below < sum * (1 - 1e-12);
        if (below > u * sum)
            break;
    }
    return last;
}

/* --- logits of many shapes ---------------------------------------------------------------------------------- */

static void make_logits(unsigned long long seed, uint32_t c, float *logits, int32_t n)
{
    unsigned kind = (unsigned)(em_rng_u64(seed, c, 0, 9) % 6);
    for (int32_t i = 0; i < n; i++) {
        double u = em_rng_uniform(seed, c, (uint64_t)i, 1);
        switch (kind) {
        case 0: logits[i] = (float)(20 * u - 10); break;           /* spread */
        case 1: logits[i] = (float)floor(u * 4); break;            /* many ties */
        case 2: logits[i] = u < 0.5 ? -INFINITY : (float)u; break; /* masked */
        case 3: logits[i] = u < 0.5 ? -0.0f : 0.0f; break;         /* all equal, both zeros */
        case 4: logits[i] = (float)(-1e30 * u); break;             /* huge */
        default: logits[i] = (float)(-3 * log(u + 1e-9)); break;   /* a few stand out */
        }
    }
    if (kind == 2)
        logits[n / 2] = 0.5f;
}

static em_sampling make_sampling(unsigned long long seed, uint32_t c, int32_t n)
{
    static const float temperature[] = {0.0f, 0.3f, 1.0f, 2.0f, 1e-30f};
    static const float top_p[] = {0.0f, 1e-9f, 0.1f, 0.5f, 0.9f, 0.999f, 1.0f};
    static const float min_p[] = {0.0f, 0.0f, 0.0f, 0.05f, 0.5f, 1.0f};
    const int32_t top_k[] = {0, -1, 1, 2, 5, n - 1, n, n + 7};
    return (em_sampling){
        .temperature = temperature[em_rng_u64(seed, c, 1, 9) % 5],
        .top_p = top_p[em_rng_u64(seed, c, 2, 9) % 7],
        .top_k = top_k[em_rng_u64(seed, c, 3, 9) % 8],
        .min_p = min_p[em_rng_u64(seed, c, 5, 9) % 6],
        .seed = em_rng_u64(seed, c, 4, 9),
    };
}

START_TEST(picks_as_the_reference)
{
    static const int32_t sizes[] = {1, 2, 3, 17, 256, 1000, 5003};
    unsigned long long seed = test_seed(1);
    int n_compared = 0;
    for (size_t si = 0; si < sizeof(sizes) / sizeof(sizes[0]); si++) {
        int32_t n = sizes[si];
        em_sampler *s;
        ck_assert_int_eq(em_sampler_new(n, &s), 0);
        float *logits = malloc((size_t)n * sizeof(*logits));
        double *kept = malloc((size_t)n * sizeof(*kept));
        for (uint32_t c = 0; c < 300; c++) {
            make_logits(seed + si, c, logits, n);
            em_sampling how = make_sampling(seed + si, c, n);
            int32_t id = -1, want;
            ck_assert_int_eq(em_sampler_pick(s, logits, &how, c, 1000 + c, &id), 0);
            bool doubt = false;
            if (how.temperature > 0) {
                reference_filter(logits, n, &how, kept, &doubt);
                ck_assert_msg(doubt || kept[id] > 0, "size %d case %u: token %d was filtered out", n, c, id);
                want = reference_draw(kept, n, em_rng_uniform(how.seed, c, 1000 + c, 0), &doubt);
            } else {
                want = 0;
                for (int32_t i = 1; i < n; i++)
                    want = logits[i] > logits[want] ? i : want;
            }
            n_compared += !doubt;
            ck_assert_msg(doubt || id == want, "size %d case %u (t %g p %g k %d): got %d, want %d", n, c,
                          (double)how.temperature, (double)how.top_p, how.top_k, id, want);
        }
        free(logits);
        free(kept);
        em_sampler_free(s);
    }
    ck_assert_int_gt(n_compared, 1900); /* of 2,100: doubtful cases are the exception */
}
END_TEST

START_TEST(draws_follow_the_probabilities)
{
    const float logits[] = {0, 1, 2, -1, 2, 0.5f};
    enum { N = 6, DRAWS = 60000 };
    em_sampler *s;
    ck_assert_int_eq(em_sampler_new(N, &s), 0);
    em_sampling how = {.temperature = 0.8f, .top_p = 0.95f, .top_k = 5, .seed = test_seed(5)};
    double p[N], sum = 0;
    bool doubt;
    reference_filter(logits, N, &how, p, &doubt);
    for (int i = 0; i < N; i++)
        sum += p[i];
    int count[N] = {0};
    for (int d = 0; d < DRAWS; d++) {
        int32_t id;
        ck_assert_int_eq(em_sampler_pick(s, logits, &how, 3, (uint64_t)d, &id), 0);
        count[id]++;
    }
    for (int i = 0; i < N; i++) {
        double want = DRAWS * p[i] / sum;
        ck_assert_msg(fabs(count[i] - want) <= 5 * sqrt(want) + 1e-9, "token %d: %d draws, expected %g", i, count[i],
                      want);
    }
    em_sampler_free(s);
}
END_TEST

START_TEST(logprobs_as_the_reference)
{
    unsigned long long seed = test_seed(2);
    for (uint32_t c = 0; c < 400; c++) {
        int32_t n = 1 + (int32_t)(em_rng_u64(seed, c, 0, 1) % 700);
        int32_t n_top = (int32_t)(em_rng_u64(seed, c, 0, 2) % (EM_MAX_LOGPROBS + 1));
        int32_t id = (int32_t)(em_rng_u64(seed, c, 0, 3) % (uint64_t)n);
        float *logits = malloc((size_t)n * sizeof(*logits));
        int32_t *order = malloc((size_t)n * sizeof(*order));
        make_logits(seed, c, logits, n);
        em_sampler *s;
        ck_assert_int_eq(em_sampler_new(n, &s), 0);
        float logprob;
        em_top_logprob top[EM_MAX_LOGPROBS];
        ck_assert_int_eq(em_sampler_logprobs(s, logits, id, n_top, &logprob, top), 0);

        rank(logits, n, order);
        long double sum = 0, max = logits[order[0]];
        for (int32_t i = 0; i < n; i++)
            sum += expl(logits[i] - max);
        for (int32_t i = -1; i < n_top && i < n; i++) {
            int32_t at = i < 0 ? id : order[i];
            float got = i < 0 ? logprob : top[i].logprob;
            if (i >= 0)
                ck_assert_int_eq(top[i].id, at);
            long double want = logits[at] - max - logl(sum);
            ck_assert_msg(got == (float)want || fabsl(got - want) <= 1e-6L * (1 + fabsl(want)),
                          "case %u: token %d has %g, want %Lg", c, at, (double)got, want);
            if (at == id)
                ck_assert_mem_eq(&got, &logprob, sizeof(got)); /* the same float in both places */
        }
        em_sampler_free(s);
        free(logits);
        free(order);
    }
}
END_TEST

START_TEST(refuses_what_is_no_number)
{
    enum { N = 50 };
    em_sampler *s;
    ck_assert_int_eq(em_sampler_new(N, &s), 0);
    const em_sampling hows[] = {
        {.temperature = 0, .top_p = 1}, {.temperature = 1, .top_p = 1}, {.temperature = 1, .top_p = 0.5f, .top_k = 3}};
    const float bad[] = {NAN, -NAN, INFINITY};
    float logits[N], logprob;
    em_top_logprob top[2];
    for (size_t h = 0; h < 3; h++) {
        for (int at = 0; at < N; at++) {
            for (size_t b = 0; b < 3; b++) {
                for (int i = 0; i < N; i++)
                    logits[i] = (float)i;
                logits[at] = bad[b];
                int32_t id = -7;
                ck_assert_int_eq(em_sampler_pick(s, logits, &hows[h], 0, 0, &id), -EDOM);
                ck_assert_int_eq(id, -7);
                ck_assert_int_eq(em_sampler_logprobs(s, logits, 0, 2, &logprob, top), -EDOM);
            }
        }
        for (int i = 0; i < N; i++)
            logits[i] = -INFINITY;
        int32_t id;
        ck_assert_int_eq(em_sampler_pick(s, logits, &hows[h], 0, 0, &id), -EDOM);
        ck_assert_int_eq(em_sampler_logprobs(s, logits, 0, 2, &logprob, top), -EDOM);
        logits[31] = -1e38f; /* one finite logit is the whole distribution */
        ck_assert_int_eq(em_sampler_pick(s, logits, &hows[h], 0, 0, &id), 0);
        ck_assert_int_eq(id, 31);
    }
    ck_assert_int_eq(em_sampler_logprobs(s, logits, N, 0, &logprob, top), -EINVAL);
    ck_assert_int_eq(em_sampler_logprobs(s, logits, -1, 0, &logprob, top), -EINVAL);
    ck_assert_int_eq(em_sampler_logprobs(s, logits, 0, EM_MAX_LOGPROBS + 1, &logprob, top), -EINVAL);
    em_sampler_free(s);
    ck_assert_ptr_null(em_sampler_free(NULL));
    ck_assert_int_eq(em_sampler_new(0, &s), -EINVAL);
}
END_TEST

START_TEST(seed_choice_and_position_alone)
{
    enum { N = 2000 };
    float logits[N];
    unsigned long long seed = test_seed(9);
    for (int i = 0; i < N; i++)
        logits[i] = (float)em_rng_uniform(seed, 0, (uint64_t)i, 0);
    em_sampler *a, *b;
    ck_assert_int_eq(em_sampler_new(N, &a), 0);
    ck_assert_int_eq(em_sampler_new(N, &b), 0);
    em_sampling how = {.temperature = 1, .top_p = 0.9f, .top_k = 500, .seed = 77};
    int n_other = 0;
    for (uint64_t pos = 0; pos < 200; pos++) {
        int32_t x, y, z;
        em_sampler_pick(a, logits, &how, 0, pos, &x);
        em_sampler_pick(b, logits, &how, 1, 199 - pos, &z); /* b has another history */
        em_sampler_pick(b, logits, &how, 0, pos, &y);
        ck_assert_int_eq(x, y);
        em_sampler_pick(a, logits, &how, 1, pos, &z);
        n_other += x != z;
    }
    ck_assert_int_gt(n_other, 150);
    em_sampler_free(a);
    em_sampler_free(b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sampler");
    TCase *t = tcase_create("sampler");
    tcase_add_test(t, picks_as_the_reference);
    tcase_add_test(t, draws_follow_the_probabilities);
    tcase_add_test(t, logprobs_as_the_reference);
    tcase_add_test(t, refuses_what_is_no_number);
    tcase_add_test(t, seed_choice_and_position_alone);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
