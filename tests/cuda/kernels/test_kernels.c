/* Every kernel on the emulator against the plain C of the CPU backend: random models stage by stage, sequences in mixed
 * batches, and sizes of their own; threads and blocks in changing orders. */
#include <check.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/cuda/kernels/twin.h"
#include "tests/support/fixtures.h"

#ifndef N_MODELS
#define N_MODELS 12 /* ENGRAMD_TEST_MODELS changes it */
#endif
#define N_SEQS 3
#define MAX_LEN 70
#define MAX_BATCH 48

static unsigned long long base_seed;
static int n_models = N_MODELS;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void run_layer(twin *t, int32_t l, em_engram_ticket *ticket)
{
    if (t->r.cfg.role[l].engram_idx >= 0) {
        em_engram_rows rows;
        ck_assert_int_eq(em_engram_take(ticket, t->r.cfg.role[l].engram_idx, &rows), 0);
        twin_engram(t, l, &rows);
    }
    twin_hc_pre(t, l, EM_SITE_ATTN);
    twin_attention(t, l);
    twin_hc_post(t, l, EM_SITE_ATTN);
    twin_hc_pre(t, l, EM_SITE_FFN);
    twin_moe(t, l);
    twin_hc_post(t, l, EM_SITE_FFN);
}

static void run_step(twin *t, const em_batch *batch)
{
    em_cpu *c = t->r.cpu;
    em_engram_ticket *ticket = rig_ask(&t->r, batch);
    ck_assert_int_eq(c->base.begin(&c->base, batch, NULL), 0);
    twin_begin(t, batch);
    twin_embed(t);
    for (int32_t l = 0; l < t->r.cfg.n_layers; l++)
        run_layer(t, l, ticket);
    twin_head(t);
    twin_end(t);
    em_engram_release(ticket);
}

typedef struct sequence {
    em_seq_kv kv;
    int32_t ids[MAX_LEN], len, pos;
} sequence;

/* Runs of random lengths until all sequences are at their end. */
static void run_sequences(twin *t, model_rng *rng)
{
    sequence seq[N_SEQS];
    int32_t n_ids =
        t->r.tok ? t->r.map.n_ids : t->r.cfg.vocab_size; /* the vocabulary may be larger than the tokenizer */
    for (int s = 0; s < N_SEQS; s++) {
        seq[s] = (sequence){.kv = {.slot = -1}, .len = model_rng_range(rng, s == 0 ? 40 : 1, MAX_LEN)};
        for (int i = 0; i < seq[s].len; i++)
            seq[s].ids[i] =
                i > 8 && model_rng_range(rng, 0, 1) ? seq[s].ids[i - 7] : model_rng_range(rng, 0, n_ids - 1);
        ck_assert_int_eq(em_seq_kv_open(t->r.kv, &seq[s].kv), 0);
        ck_assert_int_eq(em_seq_kv_reserve(t->r.kv, &seq[s].kv, seq[s].len), 0);
    }
    for (bool more = true; more;) {
        em_batch_seq run[N_SEQS];
        em_batch batch = {.seqs = run};
        more = false;
        for (int s = 0; s < N_SEQS; s++) {
            int left = seq[s].len - seq[s].pos, room = MAX_BATCH - batch.n_tokens;
            int n = model_rng_range(rng, 0, 3) == 0 ? 1 : model_rng_range(rng, 0, 30);
            n = n < left ? n : left;
            n = n < room ? n : room;
            more = more || left > n;
            if (n == 0)
                continue;
            int logits = model_rng_range(rng, 0, n < 3 ? n : 3);
            run[batch.n_seqs++] = (em_batch_seq){&seq[s].kv, seq[s].ids, seq[s].pos, n, logits};
            batch.n_tokens += n;
            batch.n_logits += logits;
            seq[s].pos += n;
        }
        if (batch.n_seqs)
            run_step(t, &batch);
    }
    for (int s = 0; s < N_SEQS; s++)
        em_seq_kv_close(t->r.kv, &seq[s].kv);
}

START_TEST(test_model)
{
    char dir[] = "/tmp/engramd-kernels-XXXXXX", name[512];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    uint64_t seed = base_seed + (uint64_t)_i;
    model_spec spec;
    em_error err = {""};
    model_spec_random(&spec, seed);
    set_context("seed %llu: %s", (unsigned long long)seed, model_spec_describe(&spec, name, sizeof name));
    ck_assert_msg(model_write(dir, &spec, NULL, &err) == 0, "%s", err.text);
    twin t = {0};
    rig_open(&t.r, dir, MAX_BATCH, 1, 0);
    model_rng rng = model_rng_init(seed, "sequences");
    run_sequences(&t, &rng);
    rig_close(&t.r);
    nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    check_codes_counted();
}
END_TEST

static void (*const checks[])(uint64_t seed) = {check_products, check_product_bits, check_selection,
                                                check_argmax,   check_attention,    check_quantisers};

START_TEST(test_alone)
{
    checks[_i](base_seed);
    check_codes_counted();
}
END_TEST

int main(void)
{
    base_seed = test_seed(1);
    const char *n = getenv("ENGRAMD_TEST_MODELS");
    n_models = n && *n ? atoi(n) : N_MODELS;
    Suite *s = suite_create("kernels");
    TCase *tc = tcase_create("alone");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_alone, 0, (int)(sizeof checks / sizeof *checks));
    suite_add_tcase(s, tc);
    tc = tcase_create("models");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_model, 0, n_models);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
