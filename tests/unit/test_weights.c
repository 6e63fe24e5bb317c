/* The golden checkpoints bound to their places, against what their own files say. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/formats.h"
#include "engine/weights.h"
#include "tests/support/fixtures.h"
#include "tests/tools/model_writer.h"

static em_model_config cfg;
static em_st_set *set;
static em_weights *w;
static em_error err;

static void load(const char *dir)
{
    ck_assert_msg(em_model_config_load(dir, &cfg, &err) == 0, "%s", err.text);
    ck_assert_msg(em_st_open(dir, &set, &err) == 0, "%s", err.text);
    ck_assert_msg(em_weights_load(&cfg, set, &w, &err) == 0, "%s", err.text);
}

static void load_fixture(const char *name)
{
    char rel[128], path[1024];
    snprintf(rel, sizeof(rel), "models/%s/checkpoint", name);
    load(fixture_path(path, sizeof(path), rel));
}

static void unload(void)
{
    w = em_weights_free(w);
    set = em_st_close(set);
}

static void check_matrix(const em_matrix *m, em_dtype dtype, int64_t rows, int64_t cols)
{
    ck_assert_int_eq(m->dtype, dtype);
    ck_assert_int_eq(m->rows, rows);
    ck_assert_int_eq(m->cols, cols);
    ck_assert_ptr_nonnull(m->data);
    size_t align = dtype == EM_DTYPE_F32 ? 4 : dtype == EM_DTYPE_BF16 ? 2 : 1;
    ck_assert_uint_eq((uintptr_t)m->data % align, 0);
    ck_assert_int_eq(m->scale != NULL, dtype == EM_DTYPE_FP8 || dtype == EM_DTYPE_FP4);
    if (m->scale)
        ck_assert_int_eq(m->scale_stride, (cols + m->scale_cols - 1) / m->scale_cols);
}

static uint64_t all_bytes(void)
{
    uint64_t n = 0;
    for (size_t i = 0; i < em_st_count(set); i++) {
        const em_st_tensor *t = em_st_get(set, i);
        if (strncmp(t->name, "mtp.", 4) && strncmp(t->name, "vision.", 7) && strncmp(t->name, "aligner.", 8) &&
            strncmp(t->name, "image_", 6))
            n += t->bytes;
    }
    return n;
}

START_TEST(window_model)
{
    load_fixture("1-window");
    check_matrix(&w->embed, EM_DTYPE_F32, 160, 64);
    check_matrix(&w->layers[1].wo_a, EM_DTYPE_F32, 32, 64);
    check_matrix(&w->layers[0].hc_attn.fn, EM_DTYPE_F32, 8, 128);
    ck_assert_ptr_null(w->layers[0].comp_wkv.data);
    ck_assert_ptr_null(w->layers[0].engram);
    const em_st_tensor *t = em_st_find(set, "layers.1.attn.attn_sink");
    ck_assert(memcmp(w->layers[1].attn_sink, t->data, 16) == 0);
    ck_assert_uint_eq(w->bytes, all_bytes());
    ck_assert_uint_eq(w->table_bytes, 0);
    unload();
}
END_TEST

START_TEST(compressed_model)
{
    load_fixture("2-compressed");
    check_matrix(&w->layers[1].comp_wgate, EM_DTYPE_F32, 32, 64);
    ck_assert_int_eq(w->layers[3].comp_wgate.rows, 0); /* ratio 1: no gate */
    check_matrix(&w->layers[3].comp_wkv, EM_DTYPE_F32, 32, 64);
    check_matrix(&w->layers[5].index_wq_b, EM_DTYPE_F32, 64, 32);
    ck_assert_ptr_null(w->layers[5].index_wk.data);
    ck_assert_ptr_null(w->layers[2].index_wq_b.data);
    unload();
}
END_TEST

START_TEST(engram_model_with_model_names)
{
    load_fixture("3-engram");
    check_matrix(&w->head, EM_DTYPE_BF16, 768, 64);
    const em_engram_weights *g = w->layers[2].engram;
    ck_assert(g == &w->engram[1] && w->layers[1].engram == &w->engram[0] && !w->layers[0].engram);
    ck_assert(g->dtype == EM_DTYPE_BF16 && g->n_rows == 2712 && !g->scales);
    check_matrix(&g->wkv, EM_DTYPE_BF16, 5 * 64, 3 * 2 * 32);
    const em_st_tensor *q = em_st_find(set, "model.layers.2.engram.q_weight"),
                       *k = em_st_find(set, "model.layers.2.engram.k_weight");
    for (size_t i = 0; i < 4 * 64; i++) {
        uint16_t a, b;
        memcpy(&a, q->data + 2 * i, 2);
        memcpy(&b, k->data + 2 * i, 2);
        ck_assert(g->qk_weight[i] == em_bf16_to_f32(a) * em_bf16_to_f32(b));
    }
    ck_assert_uint_eq(w->table_bytes, (2521 + 2712) * 64);
    ck_assert_uint_eq(w->bytes + w->table_bytes, all_bytes());
    unload();
}
END_TEST

START_TEST(released_model)
{
    load_fixture("4-released");
    int fd = em_st_fd(set, 2);
    ck_assert_int_ge(fd, 0);
    ck_assert(strstr(em_st_path(set, 2), "model-0000"));
    const em_layer_weights *l = &w->layers[4];
    check_matrix(&l->wq_b, EM_DTYPE_FP8, 256, 64);
    ck_assert(l->wq_b.scale_rows == 32 && l->wq_b.scale_cols == 32);
    check_matrix(&l->experts[15].w1, EM_DTYPE_FP4, cfg.moe_inter, 128);
    check_matrix(&l->experts[15].w2, EM_DTYPE_FP4, 128, cfg.moe_inter);
    ck_assert(l->experts[3].w1.scale_rows == 1 && l->experts[3].w1.scale_cols == 32);
    check_matrix(&l->shared.w2, EM_DTYPE_FP8, 128, cfg.moe_inter);
    check_matrix(&l->router, EM_DTYPE_BF16, 16, 128);
    const em_engram_weights *g = w->layers[3].engram;
    ck_assert(g->dtype == EM_DTYPE_FP8 && g->scales && g->scales->shape[1] == cfg.engram_head_dim / 32);
    ck_assert_uint_eq(w->bytes + w->table_bytes, all_bytes());
    unload();
}
END_TEST

START_TEST(odd_model)
{
    load_fixture("5-odd");
    check_matrix(&w->layers[0].wq_b, EM_DTYPE_F32, 120, 24);
    ck_assert(w->layers[3].engram->rows->shape[1] == 20 && !w->layers[3].engram->scales);
    unload();
}
END_TEST

/* The bundled model has F32 tensors at addresses that are no multiple of 4: they must come back aligned and equal. */
START_TEST(bundled_model_and_alignment)
{
    load(bundled_model_dir());
    int misaligned = 0;
    for (int32_t i = 0; i < cfg.n_layers; i++) {
        char name[64];
        snprintf(name, sizeof(name), "layers.%d.hc_ffn_fn", i);
        const em_st_tensor *t = em_st_find(set, name);
        const em_matrix *m = &w->layers[i].hc_ffn.fn;
        check_matrix(m, EM_DTYPE_F32, 24, 1024);
        ck_assert(memcmp(m->data, t->data, t->bytes) == 0);
        misaligned += (uintptr_t)t->data % 4 != 0;
        ck_assert_int_eq(m->data == t->data, (uintptr_t)t->data % 4 == 0); /* copied only when it must be */
    }
    ck_assert_int_gt(misaligned, 0);
    ck_assert_uint_eq(w->bytes + w->table_bytes, all_bytes());
    unload();
}
END_TEST

/* --- other ways to store the same ------------------------------------------------------------------------------ */

static char dir[64];

static void write_tiny(void)
{
    model_spec spec;
    strcpy(dir, "/tmp/em-weights-XXXXXX");
    ck_assert(mkdtemp(dir));
    ck_assert_int_eq(model_spec_preset(&spec, "tiny", 21), 0);
    ck_assert_msg(model_write(dir, &spec, NULL, &err) == 0, "%s", err.text);
}

static void remove_tiny(void)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    ck_assert_int_eq(system(cmd), 0);
}

/* Replaces every occurrence in the first `limit` bytes of a file by a text of the same length. */
static int patch(const char *file, size_t limit, const char *from, const char *to)
{
    char path[128], *text;
    size_t size, len = strlen(from);
    int n = 0;
    ck_assert_uint_eq(len, strlen(to));
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    ck_assert_int_eq(em_file_read(path, 1 << 26, &text, &size, &err), 0);
    for (size_t i = 0; i + len <= size && i < limit; i++)
        if (memcmp(text + i, from, len) == 0) {
            memcpy(text + i, to, len);
            n++;
        }
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(text, 1, size, f) == size && fclose(f) == 0);
    free(text);
    return n;
}

#define HEADER 30000 /* bytes: within the JSON of the tiny model */

START_TEST(storage_spellings)
{
    write_tiny();
    ck_assert_int_gt(patch("model.safetensors", HEADER, "\"dtype\":\"F8_E8M0\"", "\"dtype\":     \"U8\""),
                     50);                                                         /* scales as U8 */
    ck_assert_int_gt(patch("model.safetensors", HEADER, "\"I8\"", "\"U8\""), 50); /* FP4 as U8 */
    load(dir);
    check_matrix(&w->layers[0].wq_a, EM_DTYPE_FP8, 32, 64);
    check_matrix(&w->layers[5].experts[3].w2, EM_DTYPE_FP4, 64, 32);
    ck_assert_ptr_nonnull(w->layers[1].engram->scales);
    unload();
    /* F4 counts columns where I8 counts bytes */
    ck_assert_int_gt(patch("model.safetensors", HEADER, "\"U8\",\"shape\":[32,32]", "\"F4\",\"shape\":[32,64]"), 20);
    load(dir);
    const em_matrix *m = &w->layers[2].experts[1].w1;
    check_matrix(m, EM_DTYPE_FP4, 32, 64);
    ck_assert(m->scale_rows == 1 && m->scale_cols == 32 && m->scale_stride == 2);
    unload();
    remove_tiny();
}
END_TEST

START_TEST(tiles_without_a_config)
{
    write_tiny();
    ck_assert_int_eq(patch("config.json", 1 << 20, "quantization_config", "quantisation_config"), 1);
    load(dir);
    ck_assert_int_eq(cfg.fp8_block_rows, 0);
    const em_matrix *m = &w->layers[0].wq_a;
    check_matrix(m, EM_DTYPE_FP8, 32, 64);
    ck_assert(m->scale_rows == 32 && m->scale_cols == 32); /* from the shape of the scale alone */
    check_matrix(&w->layers[0].experts[0].w1, EM_DTYPE_FP4, 32, 64);
    unload();
    /* one scale for 64 columns: [1,2] of wq_a becomes [2,1], tiles of 16 rows and 64 columns */
    ck_assert_int_gt(patch("model.safetensors", HEADER, "\"F8_E8M0\",\"shape\":[1,2]", "\"F8_E8M0\",\"shape\":[2,1]"),
                     5);
    load(dir);
    m = &w->layers[0].wq_a;
    ck_assert(m->scale_rows == 16 && m->scale_cols == 64 && m->scale_stride == 1);
    unload();
    /* with the config back, its 32x32 decides and the shape is wrong */
    ck_assert_int_eq(patch("config.json", 1 << 20, "quantisation_config", "quantization_config"), 1);
    em_weights *none = NULL;
    ck_assert_int_eq(em_model_config_load(dir, &cfg, &err), 0);
    ck_assert_int_eq(em_st_open(dir, &set, &err), 0);
    ck_assert_int_lt(em_weights_load(&cfg, set, &none, &err), 0);
    ck_assert(strstr(err.text, "fits no tile"));
    set = em_st_close(set);
    remove_tiny();
}
END_TEST

START_TEST(wrong_config_is_refused)
{
    char path[1024];
    fixture_path(path, sizeof(path), "models/1-window/checkpoint");
    ck_assert_int_eq(em_model_config_load(path, &cfg, &err), 0);
    ck_assert_int_eq(em_st_open(path, &set, &err), 0);
    em_weights *none = NULL;
    cfg.vocab_size++;
    ck_assert_int_lt(em_weights_load(&cfg, set, &none, &err), 0);
    ck_assert(strstr(err.text, "embed.weight") && strstr(err.text, "[160, 64]") && strstr(err.text, "[161, 64]"));
    cfg.vocab_size--;
    cfg.n_layers = 1;
    ck_assert_int_lt(em_weights_load(&cfg, set, &none, &err), 0);
    ck_assert(strstr(err.text, "left over") && strstr(err.text, "layers.1."));
    cfg.n_layers = 3;
    ck_assert_int_lt(em_weights_load(&cfg, set, &none, &err), 0);
    ck_assert(strstr(err.text, "lacks") && strstr(err.text, "layers.2."));
    cfg.n_layers = 2;
    cfg.n_experts--;
    ck_assert_int_lt(em_weights_load(&cfg, set, &none, NULL), 0);
    ck_assert_ptr_null(none);
    ck_assert_ptr_null(em_weights_free(NULL));
    set = em_st_close(set);
    ck_assert_ptr_null(em_st_close(NULL));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("weights");
    TCase *c = tcase_create("weights");
    tcase_add_test(c, window_model);
    tcase_add_test(c, compressed_model);
    tcase_add_test(c, engram_model_with_model_names);
    tcase_add_test(c, released_model);
    tcase_add_test(c, odd_model);
    tcase_add_test(c, bundled_model_and_alignment);
    tcase_add_test(c, storage_spellings);
    tcase_add_test(c, tiles_without_a_config);
    tcase_add_test(c, wrong_config_is_refused);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
