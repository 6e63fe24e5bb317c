/* The generator of random checkpoints: the loader takes all it writes; names, shards and spelling change nothing. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/formats.h"
#include "engine/tokenizer.h"
#include "engine/weights.h"
#include "tests/support/fixtures.h"
#include "tests/tools/model_writer.h"

static char dir[64];
static em_error err;
static em_model_config cfg;
static em_st_set *set;
static em_weights *w;

static void make_dir(void)
{
    strcpy(dir, "/tmp/em-model-XXXXXX");
    ck_assert(mkdtemp(dir));
}

static void remove_dir(void)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    ck_assert_int_eq(system(cmd), 0);
}

static void write_and_load(const model_spec *spec)
{
    char text[512];
    model_info info;
    make_dir();
    ck_assert_msg(model_write(dir, spec, &info, &err) == 0, "%s: %s", model_spec_describe(spec, text, sizeof(text)),
                  err.text);
    ck_assert_msg(em_model_config_load(dir, &cfg, &err) == 0 && em_st_open(dir, &set, &err) == 0 &&
                      em_weights_load(&cfg, set, &w, &err) == 0,
                  "%s: %s", model_spec_describe(spec, text, sizeof(text)), err.text);
    ck_assert_uint_eq(em_st_count(set), (size_t)info.n_tensors);
}

static void unload(void)
{
    w = em_weights_free(w);
    set = em_st_close(set);
    remove_dir();
}

START_TEST(random_models_load)
{
    unsigned long long seed = test_seed(1);
    int features = 0;
    for (unsigned i = 0; i < 150; i++) {
        model_spec spec;
        model_spec_random(&spec, seed + i);
        write_and_load(&spec);
        em_tokenizer *tok = NULL;
        ck_assert_msg(em_tokenizer_load(dir, &tok, &err) == 0, "%s", err.text);
        ck_assert_int_le(em_tokenizer_size(tok), cfg.vocab_size);
        em_tokenizer_free(tok);
        features |= (cfg.n_kv_sources >= 3) << 0 | (cfg.n_engram_layers == 3) << 1 | (cfg.n_heads % 2) << 2 |
                    (cfg.head_dim % 16 != 0) << 3 | (cfg.window == 5) << 4 | (cfg.n_experts_per_tok == 1) << 5 |
                    (cfg.n_experts_per_tok == cfg.n_experts) << 6 | (cfg.candidate_source_layer >= 0) << 7 |
                    (cfg.candidate_source_layer < 0) << 8 | cfg.yarn << 9 | !cfg.yarn << 10 | (cfg.hc_mult == 1) << 11 |
                    (cfg.hc_mult == 3) << 12 | (w->layers[0].wq_a.dtype == EM_DTYPE_FP8) << 13 |
                    (w->layers[0].experts[0].w1.dtype == EM_DTYPE_FP4) << 14 | (w->embed.dtype == EM_DTYPE_F32) << 15;
        for (int32_t l = 0; l < cfg.n_layers; l++)
            features |= 1 << (16 + (cfg.role[l].ratio < 5 ? cfg.role[l].ratio : 5)) | cfg.role[l].uses_candidates << 22;
        unload();
    }
    ck_assert_msg(features == 0x5fffff, "the space is not covered: %x", features); /* bit 21 is for ratios above 4 */
}
END_TEST

/* One value of a matrix as the model sees it. */
static float value(const em_matrix *m, int64_t row, int64_t col)
{
    const uint8_t *p = (const uint8_t *)m->data + (size_t)row * em_matrix_row_bytes(m);
    float f;
    uint16_t h;
    float scale = m->scale ? em_e8m0_to_f32(m->scale[row / m->scale_rows * m->scale_stride + col / m->scale_cols]) : 1;
    switch (m->dtype) {
    case EM_DTYPE_F32: return memcpy(&f, p + 4 * col, 4), f;
    case EM_DTYPE_BF16: return memcpy(&h, p + 2 * col, 2), em_bf16_to_f32(h);
    case EM_DTYPE_FP8: return em_e4m3_to_f32(p[col]) * scale;
    case EM_DTYPE_FP4: return em_e2m1_to_f32((uint8_t)(p[col / 2] >> 4 * (col % 2))) * scale;
    }
    return 0;
}

/* rows of a random matrix times a vector of deviation 1 must have deviation about 1. */
static void check_gain(const em_matrix *m, double want)
{
    double sum = 0;
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            sum += (double)value(m, r, c) * (double)value(m, r, c);
    double gain = sqrt(sum / (double)m->rows);
    double room =
        m->dtype == EM_DTYPE_FP8 ? 1.35 : 1.1; /* a tiny matrix has but a few tiles, each a factor of 1 or 2 */
    ck_assert_msg(gain > want / room && gain < want * room, "gain %g instead of %g", gain, want);
}

START_TEST(weights_keep_activations_near_one)
{
    for (int storage = MODEL_F32; storage <= MODEL_RELEASED; storage++) {
        model_spec spec;
        ck_assert_int_eq(model_spec_preset(&spec, "tiny", 7), 0);
        spec.storage = (model_storage)storage;
        write_and_load(&spec);
        check_gain(&w->layers[2].wq_b, 1);
        check_gain(&w->layers[2].experts[1].w1, 1);
        check_gain(&w->layers[5].experts[2].w2, 1);
        check_gain(&w->layers[1].engram->wkv, 1);
        check_gain(&w->head, 3);
        check_gain(&w->layers[0].hc_attn.fn, 1);
        float lo = 1e9f, hi = -1e9f;
        for (int i = 0; i < cfg.hidden_size; i++) {
            lo = fminf(lo, w->norm[i]);
            hi = fmaxf(hi, w->norm[i]);
        }
        ck_assert(lo > 0.89f && lo < 0.95f && hi > 1.05f && hi < 1.11f);
        ck_assert(w->layers[3].attn_sink[0] != 0 && w->layers[3].router_bias[1] != 0);
        unload();
    }
    model_spec spec;
    ck_assert_int_lt(model_spec_preset(&spec, "huge", 1), 0);
}
END_TEST

/* Sum over all tensors of the text model, by canonical name: equal when every byte is. */
static uint64_t fingerprint(void)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < em_st_count(set); i++) {
        const em_st_tensor *t = em_st_get(set, i);
        const char *name = strncmp(t->name, "model.", 6) == 0       ? t->name + 6
                           : strcmp(t->name, "lm_head.weight") == 0 ? t->name + 3
                                                                    : t->name;
        uint64_t h = 0xcbf29ce484222325u;
        for (; *name; name++)
            h = (h ^ (uint8_t)*name) * 0x100000001b3u;
        for (uint64_t k = 0; k < t->bytes; k++)
            h = (h ^ t->data[k]) * 0x100000001b3u;
        sum += h;
    }
    return sum;
}

START_TEST(storage_details_do_not_change_the_weights)
{
    model_spec spec;
    ck_assert_int_eq(model_spec_preset(&spec, "tiny", 11), 0);
    write_and_load(&spec);
    uint64_t want = fingerprint();
    em_model_config want_cfg = cfg;
    unload();
    spec.n_shards = 4;
    spec.model_prefix = spec.packed_layout = spec.vendor_spelling = true;
    spec.nested = false;
    write_and_load(&spec);
    ck_assert_uint_eq(fingerprint(), want);
    ck_assert(memcmp(&cfg, &want_cfg, sizeof(cfg)) == 0); /* all three spellings say the same */
    unload();
    spec.seed++;
    write_and_load(&spec);
    ck_assert_uint_ne(fingerprint(), want);
    unload();
}
END_TEST

/* The sizes that benchmarks name, and that what is said without writing is what is written. */
START_TEST(presets_have_their_sizes)
{
    static const struct {
        const char *name;
        double weights, tables; /* gigabytes */
    } want[] = {{"s", 0.025, 0.07}, {"m", 2.0, 4.0}, {"l", 8.0, 8.0}};
    model_spec spec;
    model_info info, written;
    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
        ck_assert_int_eq(model_spec_preset(&spec, want[i].name, 1), 0);
        ck_assert_msg(model_measure(&spec, &info, &err) == 0, "%s", err.text);
        double tables = (double)info.table_bytes * 1e-9, weights = (double)info.bytes * 1e-9 - tables;
        ck_assert_double_eq_tol(weights / want[i].weights, 1, 0.1);
        ck_assert_double_eq_tol(tables / want[i].tables, 1, 0.05);
    }
    make_dir();
    ck_assert_int_eq(model_spec_preset(&spec, "tiny", 1), 0);
    ck_assert_int_eq(model_measure(&spec, &info, &err), 0);
    ck_assert_int_eq(model_write(dir, &spec, &written, &err), 0);
    ck_assert_mem_eq(&info, &written, sizeof(info));
    remove_dir();
}
END_TEST

START_TEST(impossible_specs_are_refused)
{
    model_spec spec;
    make_dir();
    ck_assert_int_eq(model_spec_preset(&spec, "tiny", 1), 0);
    spec.tokenizer_size = 10;
    ck_assert_int_lt(model_write(dir, &spec, NULL, &err), 0);
    ck_assert_int_eq(model_spec_preset(&spec, "tiny", 1), 0);
    spec.c.rope_dim = 7;
    ck_assert_int_lt(model_write(dir, &spec, NULL, &err), 0);
    ck_assert(strstr(err.text, "qk_rope_head_dim"));
    remove_dir();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("model-writer");
    TCase *c = tcase_create("model-writer");
    tcase_add_test(c, random_models_load);
    tcase_add_test(c, weights_keep_activations_near_one);
    tcase_add_test(c, storage_details_do_not_change_the_weights);
    tcase_add_test(c, presets_have_their_sizes);
    tcase_add_test(c, impossible_specs_are_refused);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
