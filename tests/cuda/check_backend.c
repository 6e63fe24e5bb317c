/* The golden models on the CUDA backend, as their README asks: every layer alone, fed with the expected input; end to
 * end; greedy continuations; any chunking and any mix of sequences with the same bits; copies of state.
 *
 *     check-backend [MODEL ...]      names like 1-window; all of them when none is given
 *
 * Runs on the stand-ins or on a GPU (device_rig.h). */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/cpu.h"
#include "tests/cuda/device_rig.h"
#include "tests/support/fixtures.h"

#define TOL 1e-3f
#define MAX_TOKENS 1024
#define MAX_CASES 16

static const char *name; /* of the model, for sentences */

static const em_st_tensor *expected(const em_st_set *set, int c, const char *what, int layer)
{
    char key[96];
    if (layer >= 0)
        snprintf(key, sizeof(key), "%d.%s.%d", c, what, layer);
    else
        snprintf(key, sizeof(key), "%d.%s", c, what);
    return em_st_find(set, key);
}

static int32_t *case_ids(const em_st_set *set, int c, int *ret_n)
{
    const em_st_tensor *t = expected(set, c, "ids", -1);
    int32_t *ids = malloc(t->bytes + 1);
    NEED(ids, "out of memory");
    memcpy(ids, t->data, t->bytes);
    *ret_n = (int)t->shape[0];
    return ids;
}

static int n_cases(const em_st_set *set)
{
    int n = 0;
    while (n < MAX_CASES && expected(set, n, "ids", -1))
        n++;
    return n;
}

static void open_rig(device_rig *r, const char *checkpoint, em_engram_tier tier)
{
    em_error err = {""};
    rig_opts o = {.dir = checkpoint,
                  .max_batch_tokens = MAX_TOKENS,
                  .n_slots = 7,
                  .n_snapshots = 2,
                  .n_blocks = 256,
                  .tier = tier};
    NEED(rig_open(r, &o, &err) == 0, "%s: %s", name, err.text);
}

static em_seq_kv open_seq(device_rig *r, int n)
{
    em_seq_kv kv = {.slot = -1};
    NEED(em_seq_kv_open(r->kv, &kv) == 0 && em_seq_kv_reserve(r->kv, &kv, n) == 0, "no room for a sequence");
    return kv;
}

/* --- every layer alone ------------------------------------------------------------------------------------------ */

/* A device buffer of floats as the host sees it. */
static float *fetch(const device_rig *r, const void *device, int64_t count)
{
    float *v = malloc((size_t)count * 4 + 4);
    NEED(v, "out of memory");
    rig_read(r, v, device, (size_t)count * 4);
    return v;
}

/* Rows beyond the tolerance; marks them in bad. */
static int bad_rows(const em_st_tensor *t, const float *got, bool *bad)
{
    int64_t rows = t->shape[0], width = 1;
    int n = 0;
    for (int d = 1; d < t->n_dims; d++)
        width *= t->shape[d];
    for (int64_t i = 0; i < rows; i++) {
        bool worse = false;
        for (int64_t j = 0; j < width; j++) {
            float want;
            memcpy(&want, t->data + (i * width + j) * 4, 4);
            worse = worse || !(fabsf(want - got[i * width + j]) <= TOL);
        }
        n += worse;
        if (worse && bad)
            bad[i] = true;
    }
    return n;
}

static void same_floats(const em_st_set *set, int c, const char *what, int layer, const device_rig *r, const void *dev)
{
    const em_st_tensor *t = expected(set, c, what, layer);
    if (!t)
        return;
    float *got = fetch(r, dev, (int64_t)(t->bytes / 4));
    NEED(bad_rows(t, got, NULL) == 0, "%s case %d, layer %d: %s differs", name, c, layer, what);
    free(got);
}

/* Packed window rows of the run, decoded. */
static void same_window(const em_st_set *set, int c, int layer, const device_rig *r, int T)
{
    const em_st_tensor *t = expected(set, c, "window_k", layer);
    const em_cuda *cu = r->cuda;
    if (!t)
        return;
    int64_t D = r->cfg.head_dim;
    em_kernels k;
    em_kernels_init(&k, 0);
    uint8_t *rows = malloc((size_t)T * cu->layout.window_row);
    float *got = malloc((size_t)(T * D) * sizeof(*got));
    NEED(rows && got, "out of memory");
    rig_read(r, rows, cu->win, (size_t)T * cu->layout.window_row);
    for (int i = 0; i < T; i++) {
        const uint8_t *row = rows + (size_t)i * cu->layout.window_row;
        if (cu->layout.pack_window)
            k.dec_e4m3_b32(row, row + D, D, got + i * D);
        else
            memcpy(got + i * D, row, (size_t)D * 4);
    }
    NEED(bad_rows(t, got, NULL) == 0, "%s case %d, layer %d: window rows differ", name, c, layer);
    free(rows);
    free(got);
}

static void same_experts(const em_st_set *set, int c, int layer, const device_rig *r, int T, const bool *skip)
{
    const em_st_tensor *t = expected(set, c, "experts", layer);
    size_t k = (size_t)r->cfg.n_experts_per_tok;
    if (!t)
        return;
    int32_t *got = (int32_t *)(void *)fetch(r, r->cuda->expert_id, (int64_t)k * T);
    for (int i = 0; i < T; i++)
        NEED((skip && skip[i]) || !memcmp(t->data + (size_t)i * k * 4, got + (size_t)i * k, k * 4),
             "%s case %d, layer %d, token %d: other experts", name, c, layer, i);
    free(got);
}

/* Selected positions of every token as 0/1 rows. */
static void same_topk(const em_st_set *set, int c, int layer, const device_rig *r, int T, const bool *skip)
{
    const em_st_tensor *t = expected(set, c, "topk", layer);
    const em_cuda *cu = r->cuda;
    if (!t)
        return;
    int64_t width = t->shape[1];
    int32_t *n = (int32_t *)(void *)fetch(r, cu->topk_n, T);
    int32_t *idx = (int32_t *)(void *)fetch(r, cu->topk, (int64_t)T * cu->topk_cap);
    uint8_t *row = calloc((size_t)width + 1, 1);
    NEED(row, "out of memory");
    for (int i = 0; i < T; i++) {
        memset(row, 0, (size_t)width);
        for (int32_t j = 0; j < n[i]; j++) {
            NEED(idx[(int64_t)i * cu->topk_cap + j] < width, "%s: a position out of range", name);
            row[idx[(int64_t)i * cu->topk_cap + j]] = 1;
        }
        NEED((skip && skip[i]) || !memcmp(row, t->data + i * width, (size_t)width),
             "%s case %d, layer %d, token %d: other positions", name, c, layer, i);
    }
    free(n);
    free(idx);
    free(row);
}

static void same_candidates(const em_st_set *set, int c, int layer, const device_rig *r, int T, const bool *skip)
{
    const em_st_tensor *t = expected(set, c, "candidates", layer);
    int64_t words = r->cuda->cand_words;
    if (!t)
        return;
    uint64_t *cand = (uint64_t *)(void *)fetch(r, r->cuda->cand, 2 * words * T);
    for (int i = 0; i < T; i++)
        for (int64_t b = 0; !(skip && skip[i]) && b < t->shape[1]; b++)
            NEED((cand[i * words + b / 64] >> (b % 64) & 1) == t->data[i * t->shape[1] + b],
                 "%s case %d, layer %d, token %d: other candidate blocks", name, c, layer, i);
    free(cand);
}

/* Streams and pre as the layer before is expected to leave them; false where the file does not hold them. */
static bool feed_layer(const em_st_set *set, int c, device_rig *r, int layer, int T)
{
    if (layer == 0)
        return true;
    const em_st_tensor *streams = expected(set, c, "streams", layer - 1), *mix = expected(set, c, "mix_ffn", layer - 1);
    if (!streams || !mix)
        return false;
    rig_write(r, r->cuda->streams, streams->data, streams->bytes);
    int hc = r->cfg.hc_mult, n_mix = (2 + hc) * hc;
    const em_hc_weights *w = &r->weights->layers[layer - 1].hc_ffn;
    float *pre = malloc((size_t)(T * hc) * sizeof(*pre));
    NEED(pre, "out of memory");
    for (int i = 0; i < T; i++) {
        float m[(2 + EM_MAX_HC) * EM_MAX_HC], post[EM_MAX_HC], comb[EM_MAX_HC * EM_MAX_HC];
        memcpy(m, mix->data + (size_t)i * (size_t)n_mix * 4, (size_t)n_mix * 4);
        em_hc_split(&r->cfg, m, w->base, w->scale, pre + i * hc, post, comb);
    }
    rig_write(r, r->cuda->pre, pre, (size_t)(T * hc) * 4);
    free(pre);
    return true;
}

static void engram_layer(const em_st_set *set, int c, device_rig *r, em_engram_ticket *t, int l, bool compare)
{
    em_engram_rows rows;
    const em_st_tensor *ids = expected(set, c, "engram_rows", l);
    NEED(em_engram_take(t, r->cfg.role[l].engram_idx, &rows) == 0, "no rows");
    NEED(!ids || !memcmp(ids->data, rows.row_id, ids->bytes), "%s case %d, layer %d: other table rows", name, c, l);
    r->cuda->base.engram(&r->cuda->base, l, &rows);
    if (compare) {
        same_floats(set, c, "engram_gate", l, r, r->cuda->engram_gate);
        same_floats(set, c, "engram_out", l, r, r->cuda->streams);
    }
}

static void run_layer(const em_st_set *set, int c, device_rig *r, em_engram_ticket *t, int l, int T, bool compare,
                      const bool *skip)
{
    em_cuda *cu = r->cuda;
    em_backend *be = &cu->base;
    if (r->cfg.role[l].engram_idx >= 0)
        engram_layer(set, c, r, t, l, compare);
    be->hc_pre(be, l, EM_SITE_ATTN);
    be->attention(be, l);
    if (compare) {
        same_window(set, c, l, r, T);
        same_floats(set, c, "attn", l, r, cu->y);
    }
    if (r->cfg.role[l].is_index_source) {
        same_topk(set, c, l, r, T, skip);
        same_candidates(set, c, l, r, T, skip);
    }
    be->hc_post(be, l, EM_SITE_ATTN);
    be->hc_pre(be, l, EM_SITE_FFN);
    be->moe(be, l);
    same_experts(set, c, l, r, T, skip);
    if (compare)
        same_floats(set, c, "expert_weights", l, r, cu->expert_w);
    be->hc_post(be, l, EM_SITE_FFN);
    if (compare)
        same_floats(set, c, "streams", l, r, cu->streams);
}

/* One case stage by stage. alone: each layer gets the expected input. Otherwise the model runs freely, and rows that
 * `skip` names (a quantiser's rounding boundary moved them) are left out. */
static void run_case(const em_st_set *set, int c, device_rig *r, bool alone, const bool *skip)
{
    int T;
    int32_t *ids = case_ids(set, c, &T);
    em_seq_kv kv = open_seq(r, T);
    em_batch_seq run = {.kv = &kv, .tokens = ids, .n_tokens = T, .n_logits = T};
    em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = T, .n_logits = T};
    float *logits = malloc((size_t)T * (size_t)r->cfg.vocab_size * 4);
    em_error err = {""};
    em_backend *be = &r->cuda->base;
    em_engram_ticket *ticket = rig_ask(r, &batch);
    bool no_graphs = r->cuda->no_graphs;
    r->cuda->no_graphs = true; /* or a case of one token would be recorded, and nothing computed before the end */
    NEED(logits && be->begin(be, &batch, &err) == 0, "%s", err.text);
    be->embed(be);
    for (int l = 0; l < r->cfg.n_layers; l++) {
        if (alone && !feed_layer(set, c, r, l, T))
            break;
        run_layer(set, c, r, ticket, l, T, alone, skip);
    }
    NEED(be->head(be, logits, &err) == 0, "%s", err.text);
    r->cuda->no_graphs = no_graphs;
    em_engram_release(ticket);
    em_seq_kv_close(r->kv, &kv);
    free(logits);
    free(ids);
}

static void check_layers(const em_st_set *set, device_rig *r)
{
    for (int c = 0; c < n_cases(set); c++)
        if (expected(set, c, "streams", 0))
            run_case(set, c, r, true, NULL);
}

/* --- end to end ------------------------------------------------------------------------------------------------- */

/* Logits of every token, computed in chunks of these sizes. */
static float *run_chunks(device_rig *r, const int32_t *ids, int n, const int *chunks, int n_chunks)
{
    size_t vocab = (size_t)r->cfg.vocab_size;
    float *logits = malloc((size_t)n * vocab * sizeof(*logits));
    em_seq_kv kv = open_seq(r, n);
    em_error err = {""};
    NEED(logits, "out of memory");
    for (int pos = 0, i = 0; pos < n; i++) {
        int take = chunks[i % n_chunks] < n - pos ? chunks[i % n_chunks] : n - pos;
        em_batch_seq run = {.kv = &kv, .tokens = ids, .pos = pos, .n_tokens = take, .n_logits = take};
        em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = take, .n_logits = take};
        NEED(rig_forward(r, &batch, logits + (size_t)pos * vocab, &err) == 0, "%s", err.text);
        pos += take;
    }
    em_seq_kv_close(r->kv, &kv);
    return logits;
}

static void check_end_to_end(const em_st_set *set, device_rig *r)
{
    bool tight = r->cfg.head_dim % 16 && r->cfg.index_head_dim % 32;
    for (int c = 0; c < n_cases(set); c++) {
        int T;
        int32_t *ids = case_ids(set, c, &T);
        float *logits = run_chunks(r, ids, T, &T, 1);
        bool *skip = calloc((size_t)T, 1);
        NEED(skip, "out of memory");
        int bad = bad_rows(expected(set, c, "logits", -1), logits, skip);
        printf("  case %d: %d of %d rows beyond %g\n", c, bad, T, (double)TOL);
        NEED(bad * 20 <= T && (!tight || bad == 0), "%s case %d: %d of %d rows differ", name, c, bad, T);
        run_case(set, c, r, false, skip);
        free(skip);
        free(logits);
        free(ids);
    }
}

static int best_of(const float *v, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = v[i] > v[best] ? i : best;
    return best;
}

/* The prompt in one step, then a token at a time: recorded steps, and the same ones again. */
static void greedy_case(const em_st_set *set, int c, device_rig *r)
{
    const em_st_tensor *greedy = expected(set, c, "greedy", -1), *margin = expected(set, c, "greedy_margin", -1);
    int T, steps = (int)greedy->shape[0], vocab = r->cfg.vocab_size;
    int32_t *ids = case_ids(set, c, &T), *seq = malloc((size_t)(T + steps) * sizeof(*seq));
    float *logits = malloc((size_t)vocab * sizeof(*logits));
    em_error err = {""};
    em_seq_kv kv = open_seq(r, T + steps);
    NEED(seq && logits, "out of memory");
    memcpy(seq, ids, (size_t)T * 4);
    for (int s = 0; s < steps; s++) {
        em_batch_seq run = {.kv = &kv, .tokens = seq, .pos = s ? T + s - 1 : 0, .n_tokens = s ? 1 : T, .n_logits = 1};
        em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = run.n_tokens, .n_logits = 1};
        int32_t want;
        float gap;
        NEED(rig_forward(r, &batch, logits, &err) == 0, "%s", err.text);
        memcpy(&want, greedy->data + s * 4, 4);
        memcpy(&gap, margin->data + s * 4, 4);
        seq[T + s] = best_of(logits, vocab);
        NEED(seq[T + s] == want || gap <= 0.02f, "%s case %d step %d: %d, not %d", name, c, s, seq[T + s], want);
        if (seq[T + s] != want)
            break;
    }
    em_seq_kv_close(r->kv, &kv);
    free(seq);
    free(logits);
    free(ids);
}

/* --- the same bits ---------------------------------------------------------------------------------------------- */

static void same_bits(const device_rig *r, const float *a, const float *b, int rows, const char *what, int c)
{
    for (int i = 0; i < rows; i++)
        NEED(!memcmp(a + (size_t)i * (size_t)r->cfg.vocab_size, b + (size_t)i * (size_t)r->cfg.vocab_size,
                     (size_t)r->cfg.vocab_size * 4),
             "%s case %d: %s changes the bits of row %d", name, c, what, i);
}

/* The shortest case of some length; long ones would only repeat it. */
static int short_case(const em_st_set *set)
{
    int best = -1;
    for (int c = 0; c < n_cases(set); c++) {
        int64_t n = expected(set, c, "ids", -1)->shape[0];
        if (n >= 4 && (best < 0 || n < expected(set, best, "ids", -1)->shape[0]))
            best = c;
    }
    NEED(best >= 0, "%s: all cases are too short", name);
    return best;
}

/* All at once, cut anyhow, and token by token, which is a recorded step each. */
static void check_chunks(const em_st_set *set, device_rig *r)
{
    static const int patterns[][4] = {{1, 1, 1, 1}, {7, 7, 7, 7}, {2, 3, 1, 17}};
    int c = short_case(set), T;
    int32_t *ids = case_ids(set, c, &T);
    float *whole = run_chunks(r, ids, T, &T, 1);
    for (size_t p = 0; p < sizeof(patterns) / sizeof(*patterns); p++) {
        float *got = run_chunks(r, ids, T, patterns[p], 4);
        same_bits(r, whole, got, T, "cutting", c);
        free(got);
    }
    free(whole);
    free(ids);
}

/* One sequence of a mixed batch. */
typedef struct stream {
    int32_t *ids;
    int n, pos;
    em_seq_kv kv;
    float *want, *got;
} stream;

/* Computes the next tokens of all that are not at their end: mostly single ones, so that decode steps of several sizes
 * come, padded and not. False when all are done. */
static bool mixed_step(device_rig *r, stream *s, int n, uint64_t *rnd, float *logits)
{
    em_batch_seq run[8];
    int of[8];
    em_error err = {""};
    em_batch batch = {.seqs = run};
    bool decode = *rnd >> 40 & 1;
    for (int i = 0; i < n; i++) {
        *rnd = *rnd * 6364136223846793005ull + 1442695040888963407ull;
        int take = decode ? 1 : 1 + (int)(*rnd >> 33) % 9;
        take = take < s[i].n - s[i].pos ? take : s[i].n - s[i].pos;
        if (take == 0 || (*rnd >> 60) == 0)
            continue;
        of[batch.n_seqs] = i;
        run[batch.n_seqs++] =
            (em_batch_seq){.kv = &s[i].kv, .tokens = s[i].ids, .pos = s[i].pos, .n_tokens = take, .n_logits = take};
        batch.n_tokens += take;
        batch.n_logits += take;
    }
    if (batch.n_seqs > 0)
        NEED(rig_forward(r, &batch, logits, &err) == 0, "%s", err.text);
    size_t vocab = (size_t)r->cfg.vocab_size;
    for (int i = 0; i < batch.n_seqs; logits += (size_t)run[i].n_tokens * vocab, i++) {
        memcpy(s[of[i]].got + (size_t)run[i].pos * vocab, logits, (size_t)run[i].n_tokens * vocab * 4);
        s[of[i]].pos += run[i].n_tokens;
    }
    for (int i = 0; i < n; i++)
        if (s[i].pos < s[i].n)
            return true;
    return false;
}

/* Several sequences together give each one the bits that it has alone. */
static void check_mixed(const em_st_set *set, device_rig *r)
{
    stream s[5];
    size_t vocab = (size_t)r->cfg.vocab_size;
    uint64_t rnd = test_seed(7);
    float *logits = malloc((size_t)MAX_TOKENS * vocab * 4);
    NEED(logits, "out of memory");
    for (int i = 0; i < 5; i++) {
        s[i].ids = case_ids(set, i % n_cases(set), &s[i].n);
        s[i].n = s[i].n < 40 ? s[i].n : 40;
        s[i].pos = 0;
        s[i].want = run_chunks(r, s[i].ids, s[i].n, &s[i].n, 1);
        s[i].got = malloc((size_t)s[i].n * vocab * 4);
        s[i].kv = open_seq(r, s[i].n);
        NEED(s[i].got, "out of memory");
    }
    while (mixed_step(r, s, 5, &rnd, logits))
        ;
    for (int i = 0; i < 5; i++) {
        same_bits(r, s[i].want, s[i].got, s[i].n, "company", i);
        em_seq_kv_close(r->kv, &s[i].kv);
        free(s[i].ids);
        free(s[i].want);
        free(s[i].got);
    }
    free(logits);
}

/* A sequence stops halfway, its state is copied aside and spoiled; the copy goes on as if nothing had been. */
static void check_copies(const em_st_set *set, device_rig *r)
{
    int c = short_case(set), T;
    int32_t *ids = case_ids(set, c, &T);
    size_t vocab = (size_t)r->cfg.vocab_size;
    float *whole = run_chunks(r, ids, T, &T, 1), *rest = malloc((size_t)T * vocab * 4);
    em_backend *be = &r->cuda->base;
    em_error err = {""};
    em_seq_kv kv = open_seq(r, T), other = open_seq(r, T);
    int half = T / 2, snapshot = r->shape.n_slots + 1;
    NEED(rest && half > 0, "%s case %d is too short", name, c);
    em_batch_seq run = {.kv = &kv, .tokens = ids, .n_tokens = half};
    em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = half};
    NEED(rig_forward(r, &batch, rest, &err) == 0, "%s", err.text);
    be->copy_slot(be, kv.slot, snapshot);
    for (int i = 0; i < kv.n_blocks; i++)
        be->copy_block(be, kv.block_table[i], other.block_table[i]);
    run = (em_batch_seq){.kv = &kv, .tokens = ids + 1, .n_tokens = T - 1};
    batch.n_tokens = T - 1;
    NEED(rig_forward(r, &batch, rest, &err) == 0, "%s", err.text);
    be->copy_slot(be, snapshot, other.slot);
    run = (em_batch_seq){.kv = &other, .tokens = ids, .pos = half, .n_tokens = T - half, .n_logits = T - half};
    batch.n_tokens = batch.n_logits = T - half;
    NEED(rig_forward(r, &batch, rest, &err) == 0, "%s", err.text);
    same_bits(r, whole + (size_t)half * vocab, rest, T - half, "a copy of state", c);
    em_seq_kv_close(r->kv, &kv);
    em_seq_kv_close(r->kv, &other);
    free(whole);
    free(rest);
    free(ids);
}

/* --- all -------------------------------------------------------------------------------------------------------- */

/* Rows read from the tables and rows that were gathered must not differ. */
static void check_tiers(const em_st_set *set, device_rig *r, const char *checkpoint)
{
    static const int one = 1;
    int c = short_case(set), T;
    int32_t *ids = case_ids(set, c, &T);
    T = T < 12 ? T : 12;
    float *fetched = run_chunks(r, ids, T, &one, 1);
    device_rig staged;
    open_rig(&staged, checkpoint, EM_ENGRAM_TIER_MMAP);
    float *gathered = run_chunks(&staged, ids, T, &one, 1);
    same_bits(r, fetched, gathered, T, "where rows come from", c);
    rig_close(&staged);
    free(fetched);
    free(gathered);
    free(ids);
}

static void check_model(const char *folder)
{
    char checkpoint[1200];
    em_st_set *set = NULL;
    em_error err = {""};
    device_rig r;
    name = strrchr(folder, '/') + 1;
    printf("%s\n", name);
    NEED(em_st_open(folder, &set, &err) == 0, "%s", err.text);
    snprintf(checkpoint, sizeof(checkpoint), "%s/checkpoint", folder);
    open_rig(&r, checkpoint, EM_ENGRAM_TIER_RAM);
    check_layers(set, &r);
    check_end_to_end(set, &r);
    for (int c = 0; c < n_cases(set); c++)
        if (expected(set, c, "greedy", -1))
            greedy_case(set, c, &r);
    check_chunks(set, &r);
    check_mixed(set, &r);
    check_copies(set, &r);
    if (r.engram)
        check_tiers(set, &r, checkpoint);
    rig_close(&r);
    em_st_close(set);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(int argc, char **argv)
{
    char root[1024], path[1400], *folder[64];
    int n = 0;
    fixture_path(root, sizeof(root), "models");
    DIR *d = opendir(root);
    for (struct dirent *e; d && (e = readdir(d)) && n < 64;) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++)
            wanted = wanted || !strcmp(argv[i], e->d_name);
        snprintf(path, sizeof(path), "%s/%s/expected.safetensors", root, e->d_name);
        FILE *f = wanted && e->d_name[0] != '.' ? fopen(path, "rb") : NULL;
        if (!f)
            continue;
        fclose(f);
        snprintf(path, sizeof(path), "%s/%s", root, e->d_name);
        folder[n++] = strdup(path);
    }
    if (d)
        closedir(d);
    NEED(n > 0, "no golden models in %s", root);
    qsort(folder, (size_t)n, sizeof(*folder), by_name);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < n; i++) {
        check_model(folder[i]);
        free(folder[i]);
    }
    printf("%d models agree\n", n);
    return 0;
}
