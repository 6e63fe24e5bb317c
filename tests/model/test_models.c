/* The golden models, as their README asks: every layer alone, fed with the expected input; end to end; greedy
 * continuations; and any chunking, any mix of sequences and any number of threads with the same bits. */
#include "tests/model/rig.h"

#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/fixtures.h"

#define TOL 1e-3f
#define MAX_FOLDERS 64

static char *folder[MAX_FOLDERS];
static int n_folders;

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void find_folders(void)
{
    char path[1024], probe[1400];
    fixture_path(path, sizeof path, "models");
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(probe, sizeof probe, "%s/%s/expected.safetensors", path, e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(probe, "rb");
        if (f && n_folders < MAX_FOLDERS) {
            snprintf(probe, sizeof probe, "%s/%s", path, e->d_name);
            folder[n_folders++] = strdup(probe);
        }
        if (f)
            fclose(f);
    }
    if (d)
        closedir(d);
    qsort(folder, (size_t)n_folders, sizeof *folder, by_name);
}

static const char *checkpoint(int i, char *buf, size_t cap)
{
    snprintf(buf, cap, "%s/checkpoint", folder[i]);
    return buf;
}

/* The ids of a case, copied: a file may hold them at any address. Caller frees. */
static int32_t *case_ids(const em_st_set *set, int c, int *ret_n)
{
    const em_st_tensor *t = expected(set, c, "ids", -1);
    int32_t *ids = malloc(t->bytes + 1);
    memcpy(ids, t->data, t->bytes);
    *ret_n = (int)t->shape[0];
    return ids;
}

static em_st_set *open_expected(int i)
{
    em_st_set *set = NULL;
    em_error err = {""};
    ck_assert_msg(em_st_open(folder[i], &set, &err) == 0, "%s", err.text);
    return set;
}

/* Rows of `what` that differ by more than TOL anywhere; 0 when the file has no such tensor. */
static int bad_rows(const em_st_set *set, int c, const char *what, int layer, const float *got, int64_t got_stride,
                    bool *bad)
{
    const em_st_tensor *t = expected(set, c, what, layer);
    if (!t)
        return 0;
    int64_t rows = t->shape[0], width = 1;
    for (int d = 1; d < t->n_dims; d++)
        width *= t->shape[d];
    int n = 0;
    for (int64_t r = 0; r < rows; r++) {
        float worst = 0;
        for (int64_t i = 0; i < width; i++) {
            float want, g = got[r * got_stride + i];
            memcpy(&want, t->data + (r * width + i) * 4, 4);
            if (want <= -1e29f && g == -INFINITY)
                continue;
            float diff = fabsf(want - g);
            worst = diff > worst || isnan(diff) ? diff : worst;
        }
        if (!(worst <= TOL)) {
            n++;
            if (bad)
                bad[r] = true;
        }
    }
    return n;
}

static void same_floats(const em_st_set *set, int c, const char *what, int layer, const float *got, int64_t stride)
{
    ck_assert_msg(bad_rows(set, c, what, layer, got, stride, NULL) == 0, "case %d, layer %d: %s differs", c, layer,
                  what);
}

static void same_experts(const em_st_set *set, int c, const em_cpu *cpu, int layer, int T, const bool *skip)
{
    const em_st_tensor *t = expected(set, c, "experts", layer);
    int k = cpu->cfg->n_experts_per_tok;
    for (int i = 0; t && i < T; i++)
        ck_assert_msg((skip && skip[i]) ||
                          !memcmp(t->data + (size_t)i * (size_t)k * 4, cpu->expert_id + i * k, (size_t)k * 4),
                      "case %d, layer %d, token %d: other experts", c, layer, i);
}

/* Selected positions and kept blocks as 0/1 rows. */
static void same_selection(const em_st_set *set, int c, const em_cpu *cpu, int layer, int T, const bool *skip)
{
    const em_st_tensor *t = expected(set, c, "topk", layer), *blocks = expected(set, c, "candidates", layer);
    int64_t width = t ? t->shape[1] : 0;
    uint8_t *row = calloc((size_t)width + 1, 1);
    for (int i = 0; t && i < T; i++) {
        if (skip && skip[i])
            continue;
        memset(row, 0, (size_t)width);
        for (int j = 0; j < cpu->topk_n[i]; j++)
            row[cpu->topk[(int64_t)i * cpu->topk_cap + j]] = 1;
        ck_assert_msg(width == 0 || !memcmp(row, t->data + i * width, (size_t)width),
                      "case %d, layer %d, token %d: other positions", c, layer, i);
    }
    for (int i = 0; blocks && i < T; i++) {
        for (int64_t b = 0; !(skip && skip[i]) && b < blocks->shape[1]; b++) {
            bool kept = cpu->cand[i * cpu->cand_words + b / 64] >> (b % 64) & 1;
            ck_assert_msg(kept == blocks->data[i * blocks->shape[1] + b], "case %d, layer %d, token %d, block %d", c,
                          layer, i, (int)b);
        }
    }
    free(row);
}

static void same_rows(const em_st_set *set, int c, int layer, const em_engram_rows *rows)
{
    const em_st_tensor *t = expected(set, c, "engram_rows", layer);
    if (t)
        ck_assert_msg(t->bytes == (uint64_t)rows->n_tokens * (uint64_t)rows->n_cols * 8 &&
                          !memcmp(t->data, rows->row_id, t->bytes),
                      "case %d, layer %d: other table rows", c, layer);
}

/* Streams and pre as the layer before is expected to leave them; false where the file does not hold them. */
static bool feed_layer(const em_st_set *set, int c, em_cpu *cpu, int layer, int T)
{
    if (layer == 0)
        return true;
    const em_st_tensor *streams = expected(set, c, "streams", layer - 1), *mix = expected(set, c, "mix_ffn", layer - 1);
    if (!streams || !mix)
        return false;
    memcpy(cpu->streams, streams->data, streams->bytes);
    int hc = cpu->cfg->hc_mult, n_mix = (2 + hc) * hc;
    const em_hc_weights *w = &cpu->w->layers[layer - 1].hc_ffn;
    for (int i = 0; i < T; i++) {
        float m[80], post[8], comb[64];
        memcpy(m, mix->data + (size_t)i * (size_t)n_mix * 4, (size_t)n_mix * 4);
        em_hc_split(cpu->cfg, m, w->base, w->scale, cpu->pre + i * hc, post, comb);
    }
    return true;
}

static void run_layer(const em_st_set *set, int c, rig *r, em_engram_ticket *ticket, int l, int T, bool compare,
                      const bool *skip)
{
    em_cpu *cpu = r->cpu;
    em_backend *be = &cpu->base;
    int64_t H = r->cfg.hidden_size, hc = r->cfg.hc_mult, n_mix = (2 + hc) * hc;
    if (r->cfg.role[l].engram_idx >= 0) {
        em_engram_rows rows;
        ck_assert_int_eq(em_engram_take(ticket, r->cfg.role[l].engram_idx, &rows), 0);
        same_rows(set, c, l, &rows);
        be->engram(be, l, &rows);
        if (compare) {
            same_floats(set, c, "engram_gate", l, cpu->engram_gate, hc);
            same_floats(set, c, "engram_out", l, cpu->streams, hc * H);
        }
    }
    be->hc_pre(be, l, EM_SITE_ATTN);
    if (compare)
        same_floats(set, c, "mix_attn", l, cpu->mix, n_mix);
    be->attention(be, l);
    if (compare) {
        same_floats(set, c, "window_k", l, cpu->win, r->cfg.head_dim);
        same_floats(set, c, "attn", l, cpu->y, H);
    }
    if (r->cfg.role[l].is_index_source)
        same_selection(set, c, cpu, l, T, skip);
    be->hc_post(be, l, EM_SITE_ATTN);
    be->hc_pre(be, l, EM_SITE_FFN);
    if (compare)
        same_floats(set, c, "mix_ffn", l, cpu->mix, n_mix);
    be->moe(be, l);
    same_experts(set, c, cpu, l, T, skip);
    if (compare)
        same_floats(set, c, "expert_weights", l, cpu->expert_w, r->cfg.n_experts_per_tok);
    be->hc_post(be, l, EM_SITE_FFN);
    if (compare)
        same_floats(set, c, "streams", l, cpu->streams, hc * H);
}

/* One case through the stages. alone: each layer gets the expected input. Otherwise the model runs freely, and rows that
 * `skip` names (a quantiser's rounding boundary moved them) are left out of the exact comparisons. */
static void run_case(const em_st_set *set, int c, rig *r, bool alone, const bool *skip)
{
    int T;
    int32_t *ids = case_ids(set, c, &T);
    em_seq_kv kv = {.slot = -1};
    ck_assert_int_eq(em_seq_kv_open(r->kv, &kv), 0);
    ck_assert_int_eq(em_seq_kv_reserve(r->kv, &kv, T), 0);
    em_batch_seq run = {.kv = &kv, .tokens = ids, .n_tokens = T, .n_logits = T};
    em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = T, .n_logits = T};
    em_engram_ticket *ticket = rig_ask(r, &batch);
    em_backend *be = &r->cpu->base;
    ck_assert_int_eq(be->begin(be, &batch, NULL), 0);
    be->embed(be);
    for (int l = 0; l < r->cfg.n_layers; l++) {
        if (alone && !feed_layer(set, c, r->cpu, l, T))
            break;
        run_layer(set, c, r, ticket, l, T, alone, skip);
    }
    em_engram_release(ticket);
    em_seq_kv_close(r->kv, &kv);
    free(ids);
}

START_TEST(test_layers)
{
    char dir[1200];
    em_st_set *set = open_expected(_i);
    rig r;
    rig_open(&r, checkpoint(_i, dir, sizeof dir), 1024, 2, em_cpu_flags());
    for (int c = 0; expected(set, c, "ids", -1); c++)
        if (expected(set, c, "streams", 0))
            run_case(set, c, &r, true, NULL);
    rig_close(&r);
    em_st_close(set);
}
END_TEST

static bool tight(const em_model *m)
{
    const em_model_config *cfg = em_model_get_config(m);
    return cfg->head_dim % 16 && cfg->index_head_dim % 32;
}

/* Logits of all rows; then the integers of every layer on the rows that agree. */
START_TEST(test_end_to_end)
{
    char dir[1200];
    em_st_set *set = open_expected(_i);
    em_model *m = open_model(checkpoint(_i, dir, sizeof dir), 1024, 2, em_cpu_flags());
    rig r;
    rig_open(&r, dir, 1024, 2, em_cpu_flags());
    for (int c = 0; expected(set, c, "ids", -1); c++) {
        const em_st_tensor *want = expected(set, c, "logits", -1);
        int T;
        int32_t *ids = case_ids(set, c, &T);
        float *logits = run_chunks(m, ids, T, &T, 1);
        bool *skip = calloc((size_t)T, 1);
        int bad = bad_rows(set, c, "logits", -1, logits, want->shape[1], skip);
        printf("%s case %d: %d of %d rows beyond %g\n", folder[_i], c, bad, T, (double)TOL);
        ck_assert_msg(bad * 20 <= T, "%s case %d: %d of %d rows differ", folder[_i], c, bad, T);
        ck_assert_msg(!tight(m) || bad == 0, "%s case %d: no quantiser, yet %d rows differ", folder[_i], c, bad);
        run_case(set, c, &r, false, skip);
        free(skip);
        free(logits);
        free(ids);
    }
    rig_close(&r);
    em_model_close(m);
    em_st_close(set);
}
END_TEST

/* Greedy continuation after the prompt, compared while the winner is clear. */
START_TEST(test_greedy)
{
    char dir[1200];
    em_st_set *set = open_expected(_i);
    em_model *m = open_model(checkpoint(_i, dir, sizeof dir), 1024, 2, em_cpu_flags());
    int vocab = em_model_get_config(m)->vocab_size;
    for (int c = 0; expected(set, c, "greedy", -1); c++) {
        const em_st_tensor *ids = expected(set, c, "ids", -1), *greedy = expected(set, c, "greedy", -1);
        const em_st_tensor *margin = expected(set, c, "greedy_margin", -1);
        int T = (int)ids->shape[0], steps = (int)greedy->shape[0];
        int32_t *seq = malloc((size_t)(T + steps) * sizeof *seq);
        float *logits = malloc((size_t)vocab * sizeof *logits);
        memcpy(seq, ids->data, (size_t)T * 4);
        em_seq_kv kv = {.slot = -1};
        ck_assert_int_eq(em_seq_kv_open(em_model_kv_cache(m), &kv), 0);
        ck_assert_int_eq(em_seq_kv_reserve(em_model_kv_cache(m), &kv, T + steps), 0);
        for (int s = 0; s < steps; s++) {
            int pos = s ? T + s - 1 : 0, n = s ? 1 : T;
            em_batch_seq run = {.kv = &kv, .tokens = seq, .pos = pos, .n_tokens = n, .n_logits = 1};
            em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = n, .n_logits = 1};
            ck_assert_int_eq(em_model_forward(m, &batch, NULL, logits, NULL), 0);
            int best = 0;
            for (int i = 1; i < vocab; i++)
                best = logits[i] > logits[best] ? i : best;
            int32_t want;
            float gap;
            memcpy(&want, greedy->data + s * 4, 4);
            memcpy(&gap, margin->data + s * 4, 4);
            ck_assert_msg(best == want || gap <= 0.02f, "%s case %d step %d: %d, not %d", folder[_i], c, s, best, want);
            if (best != want)
                break;
            seq[T + s] = best;
        }
        em_seq_kv_close(em_model_kv_cache(m), &kv);
        free(logits);
        free(seq);
    }
    em_model_close(m);
    em_st_close(set);
}
END_TEST

/* One-shot, any chunking and token by token; 1 to 8 threads; every kernel tier: within a tier the same bits. */
START_TEST(test_same_bits)
{
    static const int patterns[][4] = {{1, 1, 1, 1}, {7, 7, 7, 7}, {2, 3, 1, 17}, {64, 5, 64, 5}};
    static const int threads[] = {1, 2, 3, 5, 8};
    const unsigned tiers[] = {0, EM_CPU_AVX2, em_cpu_flags()};
    char dir[1200];
    em_st_set *set = open_expected(_i);
    for (size_t tier = 0; tier < 3; tier++) {
        em_model *m = open_model(checkpoint(_i, dir, sizeof dir), 1024, 1, tiers[tier]);
        size_t vocab = (size_t)em_model_get_config(m)->vocab_size;
        for (int c = 0; expected(set, c, "ids", -1); c++) {
            int T;
            int32_t *ids = case_ids(set, c, &T);
            float *want = run_chunks(m, ids, T, &T, 1);
            for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
                float *got = run_chunks(m, ids, T, patterns[p], 4);
                ck_assert_msg(!memcmp(want, got, (size_t)T * vocab * 4), "%s case %d: chunks %zu change bits",
                              folder[_i], c, p);
                free(got);
            }
            for (size_t n = 0; tier == 2 && n < sizeof threads / sizeof *threads; n++) {
                em_model *other = open_model(dir, 1024, threads[n], tiers[tier]);
                float *got = run_chunks(other, ids, T, patterns[n % 4], 4);
                ck_assert_msg(!memcmp(want, got, (size_t)T * vocab * 4), "%s: %d threads change bits", folder[_i],
                              threads[n]);
                free(got);
                em_model_close(other);
            }
            free(want);
            free(ids);
        }
        em_model_close(m);
    }
    em_st_close(set);
}
END_TEST

/* Several sequences in one batch, prefill chunks beside decode tokens: each has its solo bits. */
START_TEST(test_mixed_batch)
{
    char dir[1200];
    em_st_set *set = open_expected(_i);
    em_model *m = open_model(checkpoint(_i, dir, sizeof dir), 1024, 2, em_cpu_flags());
    size_t vocab = (size_t)em_model_get_config(m)->vocab_size;
    int n_cases = 0, len[8], pos[8] = {0};
    int32_t *ids[8];
    float *want[8], *got[8];
    em_seq_kv kv[8];
    for (; n_cases < 8 && expected(set, n_cases, "ids", -1); n_cases++) {
        ids[n_cases] = case_ids(set, n_cases, &len[n_cases]);
        want[n_cases] = run_chunks(m, ids[n_cases], len[n_cases], &len[n_cases], 1);
        got[n_cases] = malloc((size_t)len[n_cases] * vocab * 4);
    }
    for (int c = 0; c < n_cases; c++) {
        kv[c] = (em_seq_kv){.slot = -1};
        ck_assert_int_eq(em_seq_kv_open(em_model_kv_cache(m), &kv[c]), 0);
        ck_assert_int_eq(em_seq_kv_reserve(em_model_kv_cache(m), &kv[c], len[c]), 0);
    }
    float *logits = malloc(8 * 32 * vocab * 4);
    unsigned long long rnd = test_seed(7) + (unsigned)_i;
    for (bool more = true; more;) {
        em_batch_seq run[8];
        int of[8];
        em_batch batch = {.seqs = run};
        more = false;
        for (int c = 0; c < n_cases; c++) {
            rnd = rnd * 6364136223846793005ull + 1442695040888963407ull;
            int n = 1 + (int)(rnd >> 33) % ((rnd >> 60) % 2 ? 1 : 32);
            n = n < len[c] - pos[c] ? n : len[c] - pos[c];
            if (n == 0)
                continue;
            of[batch.n_seqs] = c;
            run[batch.n_seqs++] =
                (em_batch_seq){.kv = &kv[c], .tokens = ids[c], .pos = pos[c], .n_tokens = n, .n_logits = n};
            batch.n_tokens += n;
            batch.n_logits += n;
        }
        if (batch.n_seqs == 0)
            break;
        more = true;
        ck_assert_int_eq(em_model_forward(m, &batch, NULL, logits, NULL), 0);
        const float *row = logits;
        for (int s = 0; s < batch.n_seqs; s++) {
            size_t n = (size_t)run[s].n_tokens * vocab;
            memcpy(got[of[s]] + (size_t)pos[of[s]] * vocab, row, n * 4);
            pos[of[s]] += run[s].n_tokens;
            row += n;
        }
    }
    for (int c = 0; c < n_cases; c++) {
        ck_assert_msg(!memcmp(want[c], got[c], (size_t)len[c] * vocab * 4), "%s case %d: batching changes bits",
                      folder[_i], c);
        em_seq_kv_close(em_model_kv_cache(m), &kv[c]);
        free(want[c]);
        free(got[c]);
        free(ids[c]);
    }
    free(logits);
    em_model_close(m);
    em_st_close(set);
}
END_TEST

int main(void)
{
    find_folders();
    printf("%d golden models\n", n_folders);
    if (n_folders == 0)
        return 1;
    Suite *s = suite_create("models");
    TCase *tc = tcase_create("golden");
    tcase_set_timeout(tc, 300);
    tcase_add_loop_test(tc, test_layers, 0, n_folders);
    tcase_add_loop_test(tc, test_end_to_end, 0, n_folders);
    tcase_add_loop_test(tc, test_greedy, 0, n_folders);
    tcase_add_loop_test(tc, test_same_bits, 0, n_folders);
    tcase_add_loop_test(tc, test_mixed_batch, 0, n_folders);
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
