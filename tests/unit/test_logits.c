/* Penalties, biases and bans against the definition, written the slow way. */
#include "engine/logits.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/fixtures.h"

enum { VOCAB = 97, MAX_IDS = 60 };

static unsigned long long state;

static unsigned draw(unsigned n)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(state >> 33) % n;
}

static float expected_logit(int id, float x, const em_logit_rules *r, const em_logit_bans *b, const int32_t *ids,
                            int n_prompt, int n_ids)
{
    int all = 0, made = 0;
    for (int i = 0; i < n_ids; i++) {
        all += ids[i] == id;
        made += i >= n_prompt && ids[i] == id;
    }
    if (all && r->repetition_penalty != 0.0f && r->repetition_penalty != 1.0f)
        x = x > 0 ? x / r->repetition_penalty : x * r->repetition_penalty;
    if (made)
        x -= r->frequency_penalty * (float)made + r->presence_penalty;
    for (int i = 0; i < r->n_bias; i++)
        x += r->bias[i].id == id ? r->bias[i].bias : 0.0f;
    for (int i = 0; i < b->n_id; i++)
        x = b->id[i] == id ? -INFINITY : x;
    return b->mask && !(b->mask[id / 64] >> (id % 64) & 1) ? -INFINITY : x;
}

START_TEST(test_against_the_definition)
{
    state = test_seed(3);
    em_logit_editor *ed;
    ck_assert_int_eq(em_logit_editor_new(VOCAB, &ed), 0);
    for (int round = 0; round < 2000; round++) {
        float logits[VOCAB];
        int32_t ids[MAX_IDS], banned[3] = {(int32_t)draw(VOCAB), -1, VOCAB + 5};
        em_logit_bias bias[4];
        uint64_t mask[2] = {~0ull << draw(64), ~0ull};
        for (int i = 0; i < VOCAB; i++)
            logits[i] = (float)draw(2000) / 100.0f - 10.0f;
        int n_ids = 1 + (int)draw(MAX_IDS), n_prompt = 1 + (int)draw((unsigned)n_ids);
        for (int i = 0; i < n_ids; i++)
            ids[i] = (int32_t)draw(12);
        for (int i = 0; i < 4; i++)
            bias[i] = (em_logit_bias){(int32_t)draw(VOCAB + 10) - 5, (float)draw(200) - 100.0f};
        em_logit_rules rules = {.presence_penalty = (float)draw(5) - 2.0f,
                                .frequency_penalty = (float)draw(9) / 2.0f - 2.0f,
                                .repetition_penalty = (float)draw(4) / 2.0f,
                                .bias = bias,
                                .n_bias = (int32_t)draw(5)};
        em_logit_bans bans = {banned, (int32_t)draw(4), draw(2) ? mask : NULL};
        const float *got = em_logits_edit(ed, logits, &rules, &bans, ids, n_prompt, n_ids);
        for (int i = 0; i < VOCAB; i++) {
            float want = expected_logit(i, logits[i], &rules, &bans, ids, n_prompt, n_ids);
            ck_assert_msg(got[i] == want || fabsf(got[i] - want) < 1e-4f, "round %d id %d: %g, not %g", round, i,
                          (double)got[i], (double)want);
        }
    }
    em_logit_editor_free(ed);
}
END_TEST

START_TEST(test_untouched)
{
    em_logit_rules none = {0}, off = {.repetition_penalty = 1.0f}, on = {.presence_penalty = 0.5f};
    em_logit_bans nothing = {0}, one = {.id = &(int32_t){1}, .n_id = 1};
    ck_assert(em_logits_untouched(&none, &nothing));
    ck_assert(em_logits_untouched(&off, &nothing));
    ck_assert(!em_logits_untouched(&on, &nothing));
    ck_assert(!em_logits_untouched(&none, &one));
    em_logit_editor *ed;
    ck_assert_int_lt(em_logit_editor_new(0, &ed), 0);
    ck_assert_ptr_null(em_logit_editor_free(NULL));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("logits");
    TCase *tc = tcase_create("all");
    tcase_add_test(tc, test_against_the_definition);
    tcase_add_test(tc, test_untouched);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
