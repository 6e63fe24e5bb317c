/* A trace of a text against rows counted one by one, and what inspect says against the files. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/engine.h"
#include "engine/token_map.h"
#include "tests/support/fixtures.h"
#include "tests/tools/model_writer.h"

static char dir[64];
static model_info info;

static void write_model(uint64_t seed, bool engram)
{
    model_spec spec;
    em_error err = {""};
    ck_assert_int_eq(model_spec_preset(&spec, "tiny", seed), 0);
    if (!engram)
        spec.c.n_engram_layers = 0;
    ck_assert_msg(model_write(dir, &spec, &info, &err) == 0, "%s", err.text);
}

static void setup(void)
{
    strcpy(dir, "/tmp/engramd-trace-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    write_model(5, true);
}

static void teardown(void)
{
    char cmd[96];
    snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
    ck_assert_int_eq(system(cmd), 0);
}

/* --- the trace --------------------------------------------------------------------------------------------------- */

/* Words that come again, and some that do not. */
static size_t make_text(char *text, size_t cap, uint64_t seed)
{
    size_t len = 0;
    for (uint64_t i = 0; len + 40 < cap; i++) {
        uint64_t r = em_rng_u64(seed, 0, i, 0);
        len += (size_t)(r % 7 ? sprintf(text + len, "word%d ", (int)(r / 7 % 9))
                              : sprintf(text + len, "%llx\nNext ", (unsigned long long)r));
    }
    return len;
}

/* Rows of each order and of all, by marking them in the tables. */
static void count_rows(const em_ids *ids, const em_tokenizer *tok, uint64_t unique[EM_ENGRAM_MAX_ORDER + 1])
{
    static em_inspect in;
    em_error err = {""};
    em_token_map map;
    em_engine_opts opts = {.model_dir = dir, .max_queue = 1};
    ck_assert_msg(em_engine_inspect(&opts, NULL, &in, &err) == 0, "%s", err.text);
    ck_assert_int_eq(em_token_map_build(tok, &map, &err), 0);
    int32_t *classes = malloc(ids->n * sizeof(*classes));
    for (size_t i = 0; i < ids->n; i++)
        classes[i] = map.class_of[ids->id[i]];
    for (int32_t t = 0; t < in.n_tables; t++) {
        const em_engram_hash *h = &in.table[t].hash;
        uint8_t *seen = calloc((size_t)h->n_rows, 1);
        for (size_t i = 0; i < ids->n; i++) {
            int32_t suffix[EM_ENGRAM_MAX_ORDER];
            int64_t row[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS];
            em_engram_suffix(h, classes, i + 1, suffix);
            em_engram_row_ids(h, suffix, row);
            for (int32_t col = 0; col < h->n_cols; col++) {
                unique[2 + col / h->n_heads] += !seen[row[col]];
                seen[row[col]] = 1;
            }
        }
        free(seen);
    }
    free(classes);
    em_token_map_done(&map);
}

static void run_trace(const char *text, size_t len, size_t piece, em_trace_result *ret)
{
    em_trace_opts opts = {.model_dir = dir, .cache_bytes = 50000};
    em_trace *t;
    em_error err = {""};
    ck_assert_msg(em_trace_open(&opts, &t, &err) == 0, "%s", err.text);
    for (size_t at = 0, seen = 0; seen < len;) {
        seen = seen + piece < len ? seen + piece : len;
        size_t n = seen == len ? len - at : em_trace_cut(t, text + at, seen - at);
        ck_assert_int_eq(em_trace_add(t, text + at, n, &err), 0);
        at += n;
    }
    ck_assert_msg(em_trace_finish(t, NULL, NULL, ret, &err) == 0, "%s", err.text);
    em_trace_close(t);
}

START_TEST(rows_are_counted)
{
    static char text[20000];
    uint64_t unique[EM_ENGRAM_MAX_ORDER + 1] = {0}, sum = 0;
    size_t len = make_text(text, sizeof(text), test_seed(1));
    em_trace_result whole, parts;
    em_tokenizer *tok;
    em_ids ids = {0};
    em_error err = {""};
    ck_assert_int_eq(em_tokenizer_load(dir, &tok, &err), 0);
    if (em_tokenizer_add_bos(tok))
        ck_assert_int_eq(em_ids_push(&ids, em_tokenizer_bos(tok)), 0);
    ck_assert_int_eq(em_tokenizer_encode(tok, text, len, true, 0, &ids), 0);
    count_rows(&ids, tok, unique);

    run_trace(text, len, len, &whole);
    run_trace(text, len, 37, &parts);
    ck_assert_mem_eq(&whole, &parts, sizeof(whole));
    ck_assert_uint_eq(whole.tokens, ids.n);
    ck_assert_uint_eq(whole.one_in, 1);
    ck_assert_int_eq(whole.n_orders, 3);
    for (int32_t i = 0; i < whole.n_orders; i++) {
        ck_assert_int_eq(whole.order[i].order, i + 2);
        ck_assert_uint_eq(whole.order[i].unique, unique[i + 2]);
        sum += whole.order[i].asked;
    }
    ck_assert_uint_eq(whole.rows, sum);
    ck_assert_uint_eq(whole.rows, ids.n * (uint64_t)whole.rows_per_token);
    ck_assert_uint_eq(whole.unique, unique[2] + unique[3] + unique[4]);
    em_ids_done(&ids);
    em_tokenizer_free(tok);
}
END_TEST

START_TEST(the_curve_rises_to_what_can_be_found)
{
    static char text[30000];
    size_t len = make_text(text, sizeof(text), test_seed(2));
    em_trace_result res;
    int n_configured = 0;
    run_trace(text, len, len, &res);
    double most = 1 - (double)res.unique / (double)res.rows;
    bool met = false;
    for (int32_t i = 0; i < res.n_points; i++) {
        const em_trace_point *p = &res.point[i];
        ck_assert(p->known);
        ck_assert_uint_eq(p->rows, em_engram_cache_rows(res.row_bytes, p->bytes));
        ck_assert(i == 0 || (p->bytes > p[-1].bytes && p->lru >= p[-1].lru));
        ck_assert(p->cache >= 0 && p->cache <= most + 1e-12 && p->lru <= most + 1e-12);
        if (p->rows >= res.unique) {
            ck_assert_double_eq_tol(p->lru, most, 1e-12);
            ck_assert_double_eq_tol(p->cache, most, 1e-12);
        }
        met |= p->rows == res.unique;
        n_configured += p->configured;
        ck_assert(p->configured == (p->bytes == 50000));
    }
    ck_assert_int_eq(n_configured, 1);
    ck_assert(met);
    ck_assert_double_gt(most, 0.3);
}
END_TEST

START_TEST(no_tables_is_a_sentence)
{
    em_trace_opts opts = {.model_dir = dir};
    em_engine_opts engine = {.model_dir = dir, .max_queue = 1};
    em_trace *t = NULL;
    em_error err = {""};
    em_inspect *in = malloc(sizeof(*in));
    write_model(5, false);
    ck_assert_int_eq(em_trace_open(&opts, &t, &err), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "no Engram layers"));
    ck_assert_ptr_null(t);
    ck_assert_int_eq(em_engine_inspect(&engine, NULL, in, &err), 0);
    ck_assert_int_eq(in->n_tables, 0);
    opts.model_dir = "/nonexistent";
    ck_assert_int_lt(em_trace_open(&opts, &t, &err), 0);
    free(in);
}
END_TEST

/* --- inspect ----------------------------------------------------------------------------------------------------- */

START_TEST(inspect_says_what_the_files_hold)
{
    em_engine_opts opts = {.model_dir = dir, .max_queue = 1};
    em_inspect *in = malloc(sizeof(*in));
    em_error err = {""};
    uint64_t bytes = 0;
    ck_assert_msg(em_engine_inspect(&opts, NULL, in, &err) == 0, "%s", err.text);
    ck_assert_int_eq(in->n_tables, info.config.n_engram_layers);
    ck_assert_int_eq(in->n_classes, info.config.engram_n_classes);
    ck_assert_str_eq(in->dtype, "F8_E4M3");
    ck_assert_str_eq(in->scale_dtype, "F8_E8M0");
    for (int32_t i = 0; i < in->n_tables; i++) {
        ck_assert_int_eq(in->table[i].layer, info.config.engram_layer[i]);
        ck_assert_int_eq(in->table[i].n_rows, info.config.engram_rows[i]);
        ck_assert_int_eq(in->table[i].hash.n_rows + 7, in->table[i].n_rows); /* the writer's spare rows */
        bytes += in->table[i].bytes;
    }
    ck_assert_uint_eq(in->table_bytes, bytes);

    /* each tier as a plan of its own says it */
    ck_assert_str_eq(in->auto_tier, "ram");
    ck_assert_int_ge(in->n_tiers, 4);
    for (int32_t i = 0; i < in->n_tiers; i++) {
        em_memory_plan plan;
        opts.engram_tier = in->tier[i].name;
        ck_assert_msg(em_engine_plan(&opts, NULL, &plan, &err) == 0, "%s", err.text);
        ck_assert_uint_eq(in->tier[i].own, plan.own);
        ck_assert_uint_eq(in->tier[i].cached, plan.cached);
        ck_assert_uint_eq(in->tier[i].locked, plan.locked);
    }
    free(in);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("trace");
    TCase *t = tcase_create("trace");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, rows_are_counted);
    tcase_add_test(t, the_curve_rises_to_what_can_be_found);
    tcase_add_test(t, no_tables_is_a_sentence);
    tcase_add_test(t, inspect_says_what_the_files_hold);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
