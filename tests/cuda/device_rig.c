#include "tests/cuda/device_rig.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/plan_count.h"

void rig_die(const char *file, int line, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fflush(stdout);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

/* --- opening ---------------------------------------------------------------------------------------------------- */

static int open_rows(device_rig *r, const rig_opts *o, em_error *err)
{
    em_engram_spec spec = {.n_tables = r->cfg.n_engram_layers,
                           .dtype = em_engram_row_dtype(r->weights->engram[0].dtype),
                           .max_order = r->cfg.engram_max_order,
                           .n_heads = r->cfg.engram_n_heads,
                           .head_dim = r->cfg.engram_head_dim,
                           .prime_start = r->cfg.engram_vocab_size,
                           .n_classes = r->map.n_classes,
                           .pad_class = r->map.class_of[r->cfg.engram_pad_id]};
    for (int i = 0; i < spec.n_tables; i++) {
        const em_engram_weights *w = &r->weights->engram[i];
        spec.table[i] =
            (em_engram_source){r->cfg.engram_layer[i], w->n_rows, w->rows->data, w->scales ? w->scales->data : NULL};
    }
    em_backend *be = &r->cuda->base;
    em_engram_opts opts = {.tier = o->tier, .max_tokens = o->max_batch_tokens, .max_tickets = 2, .mem = be->mem};
    char text[512] = "";
    int rc = em_engram_open(&spec, &opts, &r->engram, text, sizeof(text));
    if (rc < 0)
        return em_error_set(err, rc, "%s", be->mem_error.text[0] ? be->mem_error.text : text);
    for (int32_t i = 0; i < r->cfg.n_engram_layers; i++) {
        em_engram_table table;
        em_engram_table_view(r->engram, i, &table);
        be->table(be, i, &table);
    }
    return 0;
}

static int open_backend(device_rig *r, const rig_opts *o, em_error *err)
{
    const em_backend_module *m = em_backend_module_1();
    em_device_info info;
    em_weights_sizes sizes;
    em_device_need need;
    em_model_opts mo = {.kv_cache_bytes = 1};
    int rc = m->probe(&info, err);
    if (rc == 0)
        rc = em_weights_measure(&r->cfg, r->files, &sizes, err);
    if (rc < 0)
        return rc;
    em_model_device_need(&sizes, em_st_count(r->files), &mo, &r->shape, &need);
    need.device_bytes = o->device_bytes ? o->device_bytes : info.free_bytes;
    rc = m->plan(&r->cfg, &r->shape, &need, &r->plan, err);
    em_device_opts dev = {.plan = r->plan};
    em_backend *be = NULL;
    if (rc == 0)
        rc = m->open(&r->cfg, r->weights, &r->shape, &dev, &be, err);
    r->cuda = (em_cuda *)be;
    return rc;
}

int rig_open(device_rig *r, const rig_opts *o, em_error *err)
{
    memset(r, 0, sizeof(*r));
    NEED(em_model_config_load(o->dir, &r->cfg, err) == 0, "%s", err->text);
    NEED(em_st_open(o->dir, &r->files, err) == 0, "%s", err->text);
    NEED(em_weights_load(&r->cfg, r->files, &r->weights, err) == 0, "%s", err->text);
    r->shape = (em_backend_shape){.max_len = r->cfg.max_len,
                                  .max_batch_tokens = o->max_batch_tokens,
                                  .n_slots = o->n_slots,
                                  .n_snapshots = o->n_snapshots,
                                  .n_blocks = o->n_blocks,
                                  .block_tokens = 64};
    NEED(em_kv_cache_new(o->n_slots, o->n_blocks, 64, &r->kv) == 0, "no KV cache");
    if (r->cfg.n_engram_layers) {
        NEED(em_tokenizer_load(o->dir, &r->tok, err) == 0, "%s", err->text);
        NEED(em_token_map_build(r->tok, &r->map, err) == 0, "%s", err->text);
    }
    int rc = open_backend(r, o, err);
    if (rc == 0 && r->cfg.n_engram_layers)
        rc = open_rows(r, o, err);
    if (rc < 0)
        rig_close(r);
    return rc;
}

void rig_close(device_rig *r)
{
    em_kv_cache_free(r->kv);
    em_engram_close(r->engram);
    if (r->cuda)
        r->cuda->base.close(&r->cuda->base);
    em_weights_free(r->weights);
    em_st_close(r->files);
    em_token_map_done(&r->map);
    em_tokenizer_free(r->tok);
    memset(r, 0, sizeof(*r));
}

/* --- a step ----------------------------------------------------------------------------------------------------- */

em_engram_ticket *rig_ask(device_rig *r, const em_batch *batch)
{
    if (!r->engram)
        return NULL;
    int32_t order = r->cfg.engram_max_order, n = 0;
    int32_t *suffix = malloc((size_t)batch->n_tokens * (size_t)order * sizeof(*suffix));
    int32_t *classes = malloc((size_t)r->cfg.max_len * sizeof(*classes));
    NEED(suffix && classes, "out of memory");
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const em_batch_seq *run = &batch->seqs[s];
        for (int32_t p = 0; p < run->pos + run->n_tokens; p++) {
            classes[p] = r->map.class_of[run->tokens[p]];
            if (p >= run->pos)
                em_engram_suffix(em_engram_table_hash(r->engram, 0), classes, (size_t)p + 1, suffix + order * n++);
        }
    }
    em_engram_ticket *t = NULL;
    NEED(em_engram_ask(r->engram, suffix, n, &t) == 0, "no ticket");
    free(suffix);
    free(classes);
    return t;
}

static void layer(device_rig *r, int32_t l, em_engram_ticket *t, const bool *fetched)
{
    em_backend *be = &r->cuda->base;
    int32_t table = r->cfg.role[l].engram_idx;
    if (table >= 0) {
        em_engram_rows rows;
        if (!fetched[table])
            NEED(em_engram_take(t, table, &rows) == 0, "no rows");
        be->engram(be, l, fetched[table] ? NULL : &rows);
    }
    be->hc_pre(be, l, EM_SITE_ATTN);
    be->attention(be, l);
    be->hc_post(be, l, EM_SITE_ATTN);
    be->hc_pre(be, l, EM_SITE_FFN);
    be->moe(be, l);
    be->hc_post(be, l, EM_SITE_FFN);
}

int rig_forward(device_rig *r, const em_batch *batch, float *logits, em_error *err)
{
    em_backend *be = &r->cuda->base;
    bool fetched[EM_MAX_ENGRAM_LAYERS] = {false};
    int rc = be->begin(be, batch, err);
    if (rc < 0)
        return rc;
    em_engram_ticket *t = rig_ask(r, batch);
    for (int32_t i = 0; i < r->cfg.n_engram_layers; i++) {
        em_engram_rows rows;
        em_engram_peek(t, i, &rows);
        fetched[i] = be->expect(be, i, &rows);
    }
    be->embed(be);
    for (int32_t l = 0; l < r->cfg.n_layers; l++)
        layer(r, l, t, fetched);
    rc = be->head(be, logits, err);
    em_engram_release(t);
    return rc;
}

/* --- looking in ------------------------------------------------------------------------------------------------- */

void rig_read(const device_rig *r, void *host, const void *device, size_t bytes)
{
    NEED(cudaStreamSynchronize(r->cuda->stream) == cudaSuccess, "the device failed");
    NEED(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost) == cudaSuccess, "cannot read from the device");
}

void rig_write(const device_rig *r, void *device, const void *host, size_t bytes)
{
    NEED(cudaStreamSynchronize(r->cuda->stream) == cudaSuccess, "the device failed");
    NEED(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "cannot write to the device");
}
