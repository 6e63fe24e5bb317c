#include "tests/model/rig.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void open_rows(rig *r, int max_tokens)
{
    em_engram_spec spec = {.n_tables = r->cfg.n_engram_layers,
                           .max_order = r->cfg.engram_max_order,
                           .n_heads = r->cfg.engram_n_heads,
                           .head_dim = r->cfg.engram_head_dim,
                           .prime_start = r->cfg.engram_vocab_size,
                           .n_classes = r->map.n_classes,
                           .pad_class = r->map.class_of[r->cfg.engram_pad_id]};
    for (int i = 0; i < spec.n_tables; i++) {
        const em_engram_weights *w = &r->weights->engram[i];
        spec.dtype = w->dtype == EM_DTYPE_FP8    ? EM_ENGRAM_FP8
                     : w->dtype == EM_DTYPE_BF16 ? EM_ENGRAM_BF16
                                                 : EM_ENGRAM_F32;
        spec.table[i] =
            (em_engram_source){r->cfg.engram_layer[i], w->n_rows, w->rows->data, w->scales ? w->scales->data : NULL};
    }
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_MMAP, .max_tokens = max_tokens, .max_tickets = 2};
    char err[512] = "";
    ck_assert_msg(em_engram_open(&spec, &opts, &r->engram, err, sizeof err) == 0, "%s", err);
}

void rig_open(rig *r, const char *dir, int max_batch_tokens, int n_threads, unsigned cpu_flags)
{
    em_error err = {""};
    memset(r, 0, sizeof *r);
    ck_assert_msg(em_model_config_load(dir, &r->cfg, &err) == 0, "%s", err.text);
    ck_assert_msg(em_st_open(dir, &r->files, &err) == 0, "%s", err.text);
    ck_assert_msg(em_weights_load(&r->cfg, r->files, &r->weights, &err) == 0, "%s", err.text);
    if (r->cfg.n_engram_layers) {
        ck_assert_msg(em_tokenizer_load(dir, &r->tok, &err) == 0, "%s", err.text);
        ck_assert_msg(em_token_map_build(r->tok, &r->map, &err) == 0, "%s", err.text);
        open_rows(r, max_batch_tokens);
    }
    em_backend_shape shape = {.max_len = r->cfg.max_len,
                              .max_batch_tokens = max_batch_tokens,
                              .n_slots = 4,
                              .n_blocks = 256,
                              .block_tokens = 64};
    em_cpu_opts opts = {.n_threads = n_threads, .cpu_flags = cpu_flags};
    em_backend *be;
    ck_assert_msg(em_cpu_open(&r->cfg, r->weights, &shape, &opts, &be, &err) == 0, "%s", err.text);
    r->cpu = (em_cpu *)be;
    ck_assert_int_eq(em_kv_cache_new(4, 256, 64, &r->kv), 0);
}

void rig_close(rig *r)
{
    em_kv_cache_free(r->kv);
    em_engram_close(r->engram);
    r->cpu->base.close(&r->cpu->base);
    em_weights_free(r->weights);
    em_st_close(r->files);
    em_token_map_done(&r->map);
    em_tokenizer_free(r->tok);
}

em_engram_ticket *rig_ask(rig *r, const em_batch *batch)
{
    if (!r->engram)
        return NULL;
    int order = r->cfg.engram_max_order, n = 0;
    int32_t *suffix = malloc((size_t)batch->n_tokens * (size_t)order * sizeof *suffix);
    int32_t *classes = malloc((size_t)r->cfg.max_len * sizeof *classes);
    for (int s = 0; s < batch->n_seqs; s++) {
        const em_batch_seq *run = &batch->seqs[s];
        for (int p = 0; p < run->pos + run->n_tokens; p++) {
            classes[p] = r->map.class_of[run->tokens[p]];
            if (p >= run->pos)
                em_engram_suffix(em_engram_table_hash(r->engram, 0), classes, (size_t)p + 1, suffix + order * n++);
        }
    }
    em_engram_ticket *t;
    ck_assert_int_eq(em_engram_ask(r->engram, suffix, n, &t), 0);
    free(suffix);
    free(classes);
    return t;
}

float *run_chunks(em_model *m, const int32_t *ids, int n, const int *chunks, int n_chunks)
{
    int vocab = em_model_get_config(m)->vocab_size;
    float *logits = malloc((size_t)n * (size_t)vocab * sizeof *logits);
    em_seq_kv kv = {.slot = -1};
    em_error err = {""};
    ck_assert_int_eq(em_seq_kv_open(em_model_kv_cache(m), &kv), 0);
    ck_assert_int_eq(em_seq_kv_reserve(em_model_kv_cache(m), &kv, n), 0);
    for (int pos = 0, i = 0; pos < n; i++) {
        int take = chunks[i % n_chunks] < n - pos ? chunks[i % n_chunks] : n - pos;
        em_batch_seq run = {.kv = &kv, .tokens = ids, .pos = pos, .n_tokens = take, .n_logits = take};
        em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = take, .n_logits = take};
        ck_assert_msg(em_model_forward(m, &batch, NULL, logits + (size_t)pos * (size_t)vocab, &err) == 0, "%s",
                      err.text);
        pos += take;
    }
    em_seq_kv_close(em_model_kv_cache(m), &kv);
    return logits;
}

em_model *open_model(const char *dir, int max_batch_tokens, int n_threads, unsigned cpu_flags)
{
    em_model_opts opts = {.dir = dir,
                          .n_threads = n_threads,
                          .max_seqs = 8,
                          .max_batch_tokens = max_batch_tokens,
                          .cpu_flags_mask = cpu_flags};
    em_model *m = NULL;
    em_error err = {""};
    ck_assert_msg(em_model_open(&opts, &m, &err) == 0, "%s", err.text);
    return m;
}

const em_st_tensor *expected(const em_st_set *set, int c, const char *what, int layer)
{
    char name[96];
    if (layer >= 0)
        snprintf(name, sizeof name, "%d.%s.%d", c, what, layer);
    else
        snprintf(name, sizeof name, "%d.%s", c, what);
    return em_st_find(set, name);
}
