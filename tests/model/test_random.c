/* Random valid configurations (spec 1.5), drawn by the model writer: chunked = stepped = one-shot = mixed with others, bit
 * for bit, in every kernel tier and with several threads; every tier against the plain C within float error. */
#include "tests/model/rig.h"

#include <check.h>
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/fixtures.h"
#include "tests/tools/model_writer.h"

#define N_MODELS 40 /* ENGRAMD_TEST_MODELS changes it */
#define MAX_TOKENS 96

static unsigned long long base_seed;
static int n_models = N_MODELS;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

/* Ids of a text-like sequence: mostly repeated n-grams, so that groups, look-backs and ties all occur. */
static int draw_ids(const em_model *m, model_rng *rng, int32_t *ids)
{
    const em_model_config *cfg = em_model_get_config(m);
    int n = model_rng_range(rng, 1, 8) == 1 ? 1 : model_rng_range(rng, 2, MAX_TOKENS);
    n = n < em_model_max_len(m) ? n : em_model_max_len(m);
    for (int i = 0; i < n; i++)
        ids[i] = i > 8 && model_rng_range(rng, 0, 1) ? ids[i - 7] : model_rng_range(rng, 0, cfg->vocab_size - 1);
    return n;
}

static void same(const float *a, const float *b, int n, int vocab, const char *what, const char *model)
{
    ck_assert_msg(!memcmp(a, b, (size_t)n * (size_t)vocab * sizeof *a), "%s changes bits of %s", what, model);
}

/* Two sequences at once, in alternating chunks, against their solo logits. */
static void check_pair(em_model *m, const int32_t *ids, int n, const float *want, model_rng *rng, const char *name)
{
    int vocab = em_model_get_config(m)->vocab_size, pos[2] = {0, 0};
    float *logits = malloc(2 * MAX_TOKENS * (size_t)vocab * sizeof *logits);
    em_seq_kv kv[2] = {{.slot = -1}, {.slot = -1}};
    for (int s = 0; s < 2; s++) {
        ck_assert_int_eq(em_seq_kv_open(em_model_kv_cache(m), &kv[s]), 0);
        ck_assert_int_eq(em_seq_kv_reserve(em_model_kv_cache(m), &kv[s], n), 0);
    }
    while (pos[0] < n || pos[1] < n) {
        em_batch_seq run[2];
        em_batch batch = {.seqs = run};
        for (int s = 0; s < 2; s++) {
            int take = model_rng_range(rng, 0, 9);
            take = take < n - pos[s] ? take : n - pos[s];
            if (take == 0)
                continue;
            run[batch.n_seqs++] =
                (em_batch_seq){.kv = &kv[s], .tokens = ids, .pos = pos[s], .n_tokens = take, .n_logits = take};
            batch.n_tokens += take;
            batch.n_logits += take;
            pos[s] += take;
        }
        if (batch.n_seqs == 0)
            continue;
        ck_assert_int_eq(em_model_forward(m, &batch, NULL, logits, NULL), 0);
        const float *row = logits;
        for (int s = 0; s < batch.n_seqs; s++) {
            same(want + (size_t)run[s].pos * (size_t)vocab, row, run[s].n_tokens, vocab, "a second sequence", name);
            row += (size_t)run[s].n_tokens * (size_t)vocab;
        }
    }
    for (int s = 0; s < 2; s++)
        em_seq_kv_close(em_model_kv_cache(m), &kv[s]);
    free(logits);
}

/* Float error of a tier, relative to the row's largest logit. Cache quantisers, routing and selection turn a last-bit
 * difference into a step, so rows may differ; most must not. Without any of them all rows must agree. */
static void close_to_plain(const float *a, const float *b, int n, int vocab, const em_model_config *cfg,
                           const char *name)
{
    int bad = 0;
    for (int i = 0; i < n; i++) {
        float scale = 1e-6f, worst = 0;
        for (int v = 0; v < vocab; v++) {
            float x = a[(size_t)i * (size_t)vocab + (size_t)v], y = b[(size_t)i * (size_t)vocab + (size_t)v];
            ck_assert_msg(isfinite(x) && isfinite(y), "%s: a logit is not finite", name);
            scale = fmaxf(scale, fabsf(x));
            worst = fmaxf(worst, fabsf(x - y));
        }
        bad += worst > 2e-3f * scale;
    }
    bool stepless = cfg->head_dim % 16 && (cfg->n_kv_sources == 0 || cfg->index_head_dim % 32);
    ck_assert_msg(bad * 4 <= n + 3, "%s: %d of %d rows are off the plain C", name, bad, n);
    ck_assert_msg(!stepless || bad * 20 <= n, "%s: no quantiser, yet %d of %d rows are off", name, bad, n);
}

static void check_model(const char *dir, const char *name, uint64_t seed)
{
    static const int one = 1, big = MAX_TOKENS;
    const unsigned tiers[] = {0, EM_CPU_AVX2, em_cpu_flags()};
    model_rng rng = model_rng_init(seed, "ids");
    int32_t ids[MAX_TOKENS];
    int n = 0;
    float *plain = NULL;
    for (int t = 0; t < 3; t++) {
        em_model *m = open_model(dir, 2 * MAX_TOKENS, t == 2 ? 3 : 1, tiers[t]);
        int vocab = em_model_get_config(m)->vocab_size;
        if (t == 0)
            n = draw_ids(m, &rng, ids);
        float *want = run_chunks(m, ids, n, &big, 1), *stepped = run_chunks(m, ids, n, &one, 1);
        int chunks[5];
        for (int i = 0; i < 5; i++)
            chunks[i] = model_rng_range(&rng, 1, 23);
        float *chunked = run_chunks(m, ids, n, chunks, 5);
        same(want, stepped, n, vocab, "token by token", name);
        same(want, chunked, n, vocab, "chunking", name);
        check_pair(m, ids, n, want, &rng, name);
        if (plain)
            close_to_plain(plain, want, n, vocab, em_model_get_config(m), name);
        else
            plain = want;
        if (want != plain)
            free(want);
        free(stepped);
        free(chunked);
        em_model_close(m);
    }
    free(plain);
}

START_TEST(test_random_model)
{
    char dir[] = "/tmp/engramd-random-XXXXXX", name[512], line[700];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    uint64_t seed = base_seed + (uint64_t)_i;
    model_spec spec;
    em_error err = {""};
    model_spec_random(&spec, seed);
    snprintf(line, sizeof line, "seed %llu: %s", (unsigned long long)seed,
             model_spec_describe(&spec, name, sizeof name));
    ck_assert_msg(model_write(dir, &spec, NULL, &err) == 0, "%s: %s", line, err.text);
    check_model(dir, line, seed);
    nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}
END_TEST

int main(void)
{
    base_seed = test_seed(1);
    const char *n = getenv("ENGRAMD_TEST_MODELS");
    n_models = n && *n ? atoi(n) : N_MODELS;
    Suite *s = suite_create("random");
    TCase *tc = tcase_create("configurations");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_random_model, 0, n_models);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
