/* The bundled model's memory against pocket/expected.jsonl: the gate of every Engram layer, token and stream, and the
 * answers with the Engram output left out, which must fall apart: the facts live in the tables. */
#include "tests/model/rig.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/fixtures.h"
#include "tests/support/golden_json.h"

#define GATE_TOL 1e-3
#define MAX_ANSWER 24 /* tokens */

/* Runs ids[pos, n) through the stages, with or without Engram; logits of the last token. gates: [engram layers][n, hc] or
 * NULL. */
static void run(rig *r, em_seq_kv *kv, const int32_t *ids, int pos, int n, bool with_engram, float **gates,
                float *logits)
{
    em_batch_seq seq = {.kv = kv, .tokens = ids, .pos = pos, .n_tokens = n - pos, .n_logits = 1};
    em_batch batch = {.seqs = &seq, .n_seqs = 1, .n_tokens = n - pos, .n_logits = 1};
    em_backend *be = &r->cpu->base;
    em_engram_ticket *ticket = rig_ask(r, &batch);
    ck_assert_int_eq(be->begin(be, &batch, NULL), 0);
    be->embed(be);
    for (int l = 0; l < r->cfg.n_layers; l++) {
        int table = r->cfg.role[l].engram_idx;
        if (table >= 0 && with_engram) {
            em_engram_rows rows;
            ck_assert_int_eq(em_engram_take(ticket, table, &rows), 0);
            be->engram(be, l, &rows);
            if (gates)
                memcpy(gates[table], r->cpu->engram_gate, (size_t)(n - pos) * (size_t)r->cfg.hc_mult * sizeof(float));
        }
        be->hc_pre(be, l, EM_SITE_ATTN);
        be->attention(be, l);
        be->hc_post(be, l, EM_SITE_ATTN);
        be->hc_pre(be, l, EM_SITE_FFN);
        be->moe(be, l);
        be->hc_post(be, l, EM_SITE_FFN);
    }
    ck_assert_int_eq(be->head(be, logits, NULL), 0);
    em_engram_release(ticket);
}

/* "engram_gate": {"1": [[...4], ...], "3": ...}: the worst difference over all values. */
static double worst_gate(em_json j, const rig *r, float **gates, int n)
{
    double worst = 0;
    int seen = 0;
    ck_assert_int_eq(j.type, EM_JSON_OBJECT);
    while (em_json_next(&j) == EM_JSON_KEY) {
        char key[16];
        ck_assert_int_eq(em_json_string(&j, key, sizeof key, NULL), 0);
        int table = r->cfg.role[atoi(key)].engram_idx, i = 0;
        ck_assert_int_ge(table, 0);
        em_json_next(&j);
        while (em_json_next(&j) == EM_JSON_ARRAY) {
            while (em_json_next(&j) == EM_JSON_NUMBER) {
                double want;
                ck_assert_int_eq(em_json_f64(&j, &want), 0);
                worst = fmax(worst, fabs(want - (double)gates[table][i++]));
            }
        }
        ck_assert_int_eq(i, n * r->cfg.hc_mult);
        seen++;
    }
    ck_assert_int_eq(seen, r->cfg.n_engram_layers);
    return worst;
}

/* Greedy text without Engram, up to `want` bytes or EOS. */
static size_t answer_without(rig *r, em_seq_kv *kv, int32_t *ids, int n, float *logits, char *text, size_t want)
{
    size_t len = 0;
    for (int i = 0; i < MAX_ANSWER && len < want; i++) {
        run(r, kv, ids, i ? n - 1 : 0, n, false, NULL, logits);
        int best = 0;
        for (int v = 1; v < r->cfg.vocab_size; v++)
            best = logits[v] > logits[best] ? v : best;
        size_t piece;
        const uint8_t *bytes = em_tokenizer_bytes(r->tok, best, &piece);
        memcpy(text + len, bytes, piece);
        len += piece;
        ids[n++] = best;
        if (best == r->cfg.eos_id)
            break;
    }
    return len;
}

START_TEST(test_memory)
{
    char path[1024];
    golden_file f;
    if (!golden_open(fixture_path(path, sizeof path, "pocket/expected.jsonl"), &f))
        ck_assert(golden_open(EM_TESTS_GOLDEN_DIR "/pocket/expected.jsonl", &f));
    rig r;
    rig_open(&r, bundled_model_dir(), 512, 2, em_cpu_flags());
    float *logits = malloc((size_t)r.cfg.vocab_size * sizeof *logits), *gates[EM_MAX_ENGRAM_LAYERS];
    for (int t = 0; t < r.cfg.n_engram_layers; t++)
        gates[t] = malloc(512 * (size_t)r.cfg.hc_mult * sizeof(float));
    int lines = 0, same_without = 0, still_right = 0;
    const char *line;
    for (size_t len; golden_line(&f, &line, &len); lines++) {
        em_json j;
        size_t n, want_len, text_len;
        ck_assert(golden_find(line, len, "ids", &j));
        int32_t *prompt = golden_ids(j, &n), *ids = malloc((n + MAX_ANSWER + 1) * sizeof *ids);
        memcpy(ids, prompt, n * sizeof *ids);
        em_seq_kv kv = {.slot = -1};
        ck_assert_int_eq(em_seq_kv_open(r.kv, &kv), 0);
        ck_assert_int_eq(em_seq_kv_reserve(r.kv, &kv, (int32_t)n + MAX_ANSWER), 0);
        run(&r, &kv, ids, 0, (int)n, true, gates, logits);
        ck_assert(golden_find(line, len, "engram_gate", &j));
        double worst = worst_gate(j, &r, gates, (int)n);
        ck_assert_msg(worst <= GATE_TOL, "line %d: a gate is off by %g", f.line, worst);

        char *want = golden_member_text(line, len, "text_without_engram", &want_len), got[MAX_ANSWER * 256];
        char *with = golden_member_text(line, len, "text", &text_len);
        size_t got_len = answer_without(&r, &kv, ids, (int)n, logits, got, want_len);
        same_without += got_len >= want_len && !memcmp(got, want, want_len);
        still_right += got_len >= text_len && !memcmp(got, with, text_len);
        em_seq_kv_close(r.kv, &kv);
        free(with);
        free(want);
        free(ids);
        free(prompt);
    }
    printf("%d lines; without Engram %d answers as expected, %d still right\n", lines, same_without, still_right);
    ck_assert_int_gt(lines, 0);
    ck_assert_int_ge(same_without * 10, lines * 9); /* no margins are given: a near-tie may go the other way */
    ck_assert_int_le(still_right * 10, lines);
    for (int t = 0; t < r.cfg.n_engram_layers; t++)
        free(gates[t]);
    free(logits);
    free(f.data);
    rig_close(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pocket");
    TCase *tc = tcase_create("memory");
    tcase_set_timeout(tc, 300);
    tcase_add_test(tc, test_memory);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
