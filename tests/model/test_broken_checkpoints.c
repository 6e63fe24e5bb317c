/* Broken checkpoints: every kind of fault is refused with one sentence that names it, and nothing leaks or crashes. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"
#include "engine/weights.h"
#include "tests/support/fixtures.h"
#include "tests/tools/break_model.h"
#include "tests/tools/model_writer.h"

static char sound[64], broken[64];

static void remove_dir(const char *dir)
{
    char cmd[128];
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    ck_assert_int_eq(system(cmd), 0);
}

static void setup(void)
{
    model_spec spec;
    em_error err;
    strcpy(sound, "/tmp/em-sound-XXXXXX");
    strcpy(broken, "/tmp/em-broken-XXXXXX");
    ck_assert(mkdtemp(sound) && mkdtemp(broken));
    ck_assert_int_eq(model_spec_preset(&spec, "tiny", 3), 0);
    ck_assert_msg(model_write(sound, &spec, NULL, &err) == 0, "%s", err.text);
}

static void teardown(void)
{
    remove_dir(sound);
    remove_dir(broken);
}

/* What a program does at start: config, files, weights. */
static int load(const char *dir, em_error *err)
{
    em_model_config *cfg = calloc(1, sizeof(*cfg));
    em_st_set *set = NULL;
    em_weights *w = NULL;
    int r = em_model_config_load(dir, cfg, err);
    if (r == 0)
        r = em_st_open(dir, &set, err);
    if (r == 0)
        r = em_weights_load(cfg, set, &w, err);
    em_weights_free(w);
    em_st_close(set);
    free(cfg);
    return r;
}

START_TEST(the_sound_one_loads)
{
    em_error err = {0};
    ck_assert_msg(load(sound, &err) == 0, "%s", err.text);
}
END_TEST

START_TEST(every_kind_is_refused_in_words)
{
    const break_kind *kind = break_model_kind((size_t)_i);
    em_error err = {0};
    ck_assert_msg(break_model(kind, sound, broken, &err) == 0, "%s: %s", kind->name, err.text);
    err.text[0] = '\0';
    int r = load(broken, &err);
    if (!kind->by_loader) { /* sound as far as the loader sees */
        ck_assert_msg(r == 0, "%s: %s", kind->name, err.text);
        return;
    }
    ck_assert_msg(r < 0, "%s was accepted", kind->name);
    ck_assert_msg(strstr(err.text, kind->says), "%s: \"%s\" is not in: %s", kind->name, kind->says, err.text);
    ck_assert_msg(!strchr(err.text, '\n') && em_utf8_valid(err.text, strlen(err.text)), "%s: %s", kind->name, err.text);
    printf("%-26s %s\n", kind->name, err.text);
}
END_TEST

START_TEST(there_are_enough_kinds)
{
    size_t by_loader = 0;
    for (size_t i = 0; i < break_model_count(); i++) {
        by_loader += break_model_kind(i)->by_loader;
        ck_assert_ptr_eq(break_model_find(break_model_kind(i)->name), break_model_kind(i)); /* names are unique */
    }
    ck_assert_uint_ge(by_loader, 40);
    printf("%zu kinds, %zu found by the loader\n", break_model_count(), by_loader);
}
END_TEST

/* Any byte of the weights' header or of config.json changed: refused or loaded, never a crash, never without words. */
START_TEST(random_bytes_never_crash)
{
    unsigned long long seed = test_seed(5);
    model_rng r = model_rng_init(seed, "bytes");
    static const char *const files[] = {"model.safetensors", "config.json"};
    char cmd[256], path[128];
    snprintf(cmd, sizeof(cmd), "cp '%s'/* '%s'/", sound, broken);
    ck_assert_int_eq(system(cmd), 0);
    int refused = 0;
    for (int round = 0; round < 400; round++) {
        em_error err = {0};
        bool config = round % 2;
        snprintf(path, sizeof(path), "%s/%s", broken, files[config]);
        FILE *f = fopen(path, "r+b");
        long at = config ? model_rng_range(&r, 0, 1500) : model_rng_range(&r, 0, 20000);
        fseek(f, at, SEEK_SET);
        int old = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(model_rng_range(&r, 0, 255), f);
        fclose(f);
        int code = load(broken, &err);
        refused += code < 0;
        if (code < 0 && !err.text[0])
            ck_abort_msg("no sentence for byte %ld of %s", at, path);
        f = fopen(path, "r+b");
        fseek(f, at, SEEK_SET);
        fputc(old, f);
        fclose(f);
    }
    em_error err = {0};
    ck_assert_msg(load(broken, &err) == 0, "%s", err.text);
    ck_assert_int_gt(refused, 200);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("broken-checkpoints");
    TCase *c = tcase_create("broken-checkpoints");
    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, the_sound_one_loads);
    tcase_add_loop_test(c, every_kind_is_refused_in_words, 0, (int)break_model_count());
    tcase_add_test(c, there_are_enough_kinds);
    tcase_add_test(c, random_bytes_never_crash);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
