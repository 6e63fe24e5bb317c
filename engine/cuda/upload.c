/* Weights: from the mapped checkpoint through a ring of page-locked chunks to the device, so that files are read while
 * earlier chunks are on the bus. Everything but the routed experts goes first; experts follow while there is room, the
 * others stay in page-locked memory of the host, where the device reads them over the bus. */
#include "engine/cuda/cuda.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct upload {
    em_cuda *c;
    em_error *err;
    uint8_t *at, *end; /* room that is left in the arena */
    uint8_t *host_at;  /* for experts that do not fit */
    size_t host_bytes; /* wanted there so far, when only counting */
    bool counting;     /* walks without memory, to find host_bytes */
    int status;

    uint8_t *ring; /* [EM_CUDA_RING_CHUNKS][EM_CUDA_RING_CHUNK] */
    cudaEvent_t sent[EM_CUDA_RING_CHUNKS];
    uint64_t n_chunks;
    const em_device_opts *opts;
    uint64_t done, all; /* bytes */
} upload;

static size_t round_up(size_t n)
{
    return (n + EM_CUDA_ALIGN - 1) / EM_CUDA_ALIGN * EM_CUDA_ALIGN;
}

static bool ok(upload *u, int code, const char *what)
{
    if (u->status == 0 && !em_cuda_ok(u->c, code, what))
        u->status = em_error_set(u->err, -EIO, "%s", u->c->fault.text);
    return u->status == 0;
}

static void report(upload *u, size_t bytes)
{
    u->done += bytes;
    if (u->opts->on_progress && u->all)
        u->opts->on_progress(u->opts->progress_ctx, "weights to the GPU", (double)u->done / (double)u->all);
}

/* Chunk by chunk; a chunk of the ring is filled again when its last copy has been made. */
static void send(upload *u, uint8_t *to, const uint8_t *from, size_t bytes)
{
    for (size_t at = 0; at < bytes && u->status == 0;) {
        size_t n = bytes - at < EM_CUDA_RING_CHUNK ? bytes - at : EM_CUDA_RING_CHUNK;
        uint64_t i = u->n_chunks++ % EM_CUDA_RING_CHUNKS;
        uint8_t *chunk = u->ring + i * EM_CUDA_RING_CHUNK;
        if (u->n_chunks > EM_CUDA_RING_CHUNKS && !ok(u, cudaEventSynchronize(u->sent[i]), "sending weights"))
            return;
        memcpy(chunk, from + at, n);
        if (!ok(u, cudaMemcpyAsync(to + at, chunk, n, cudaMemcpyHostToDevice, u->c->stream), "sending weights") ||
            !ok(u, cudaEventRecord(u->sent[i], u->c->stream), "an event"))
            return;
        at += n;
        report(u, n);
    }
}

/* A place for bytes that every step needs: on the device. */
static void *put(upload *u, const void *from, size_t bytes)
{
    if (!bytes || u->status < 0)
        return NULL;
    size_t padded = round_up(bytes);
    if (padded > (size_t)(u->end - u->at)) {
        u->status =
            em_error_set(u->err, -ENOMEM, "the weights do not fit the part of the GPU's memory planned for them");
        return NULL;
    }
    uint8_t *to = u->at;
    u->at += padded;
    if (!u->counting)
        send(u, to, from, bytes);
    return to;
}

/* A place for a part of an expert, wherever there is one. */
static void *put_expert(upload *u, const void *from, size_t bytes)
{
    size_t padded = round_up(bytes);
    if (!bytes || u->status < 0)
        return NULL;
    if (padded <= (size_t)(u->end - u->at))
        return put(u, from, bytes);
    u->host_bytes += padded;
    if (u->counting)
        return NULL;
    uint8_t *to = u->host_at;
    u->host_at += padded;
    memcpy(to, from, bytes);
    report(u, bytes);
    return to;
}

static void put_matrix(upload *u, em_matrix *m, const em_matrix *from, bool expert)
{
    void *(*place)(upload *, const void *, size_t) = expert ? put_expert : put;
    *m = *from;
    if (!from->rows)
        return;
    m->data = place(u, from->data, (size_t)from->rows * em_matrix_row_bytes(from));
    if (from->scale)
        m->scale = place(u, from->scale,
                         (size_t)((from->rows + from->scale_rows - 1) / from->scale_rows * from->scale_stride));
}

static const float *put_floats(upload *u, const float *from, int64_t n)
{
    return from ? put(u, from, (size_t)n * sizeof(float)) : NULL;
}

static void put_hc(upload *u, em_hc_weights *to, const em_hc_weights *from)
{
    int64_t hc = u->c->cfg->hc_mult;
    put_matrix(u, &to->fn, &from->fn, false);
    to->base = put_floats(u, from->base, (2 + hc) * hc);
    to->scale = put_floats(u, from->scale, 3);
}

static void put_expert_weights(upload *u, em_expert_weights *to, const em_expert_weights *from, bool expert)
{
    put_matrix(u, &to->w1, &from->w1, expert);
    put_matrix(u, &to->w3, &from->w3, expert);
    put_matrix(u, &to->w2, &from->w2, expert);
}

/* All of a layer but its routed experts. */
static void put_layer(upload *u, em_layer_weights *to, const em_layer_weights *from)
{
    const em_model_config *cfg = u->c->cfg;
    const struct {
        em_matrix *to;
        const em_matrix *from;
    } matrices[] = {{&to->wq_a, &from->wq_a},
                    {&to->wq_b, &from->wq_b},
                    {&to->wkv, &from->wkv},
                    {&to->wo_a, &from->wo_a},
                    {&to->wo_b, &from->wo_b},
                    {&to->comp_wkv, &from->comp_wkv},
                    {&to->comp_wgate, &from->comp_wgate},
                    {&to->index_wk, &from->index_wk},
                    {&to->index_wq_b, &from->index_wq_b},
                    {&to->index_weights_proj, &from->index_weights_proj},
                    {&to->router, &from->router}};
    for (size_t i = 0; i < sizeof(matrices) / sizeof(*matrices); i++)
        put_matrix(u, matrices[i].to, matrices[i].from, false);
    put_hc(u, &to->hc_attn, &from->hc_attn);
    put_hc(u, &to->hc_ffn, &from->hc_ffn);
    put_expert_weights(u, &to->shared, &from->shared, false);
    to->attn_norm = put_floats(u, from->attn_norm, cfg->hidden_size);
    to->ffn_norm = put_floats(u, from->ffn_norm, cfg->hidden_size);
    to->q_norm = put_floats(u, from->q_norm, cfg->q_lora_rank);
    to->kv_norm = put_floats(u, from->kv_norm, cfg->head_dim);
    to->attn_sink = put_floats(u, from->attn_sink, cfg->n_heads);
    to->comp_norm = put_floats(u, from->comp_norm, cfg->head_dim);
    to->index_k_norm = put_floats(u, from->index_k_norm, cfg->index_head_dim);
    to->router_bias = put_floats(u, from->router_bias, cfg->n_experts);
}

static void put_fixed(upload *u, const em_weights *w)
{
    em_cuda *c = u->c;
    const em_model_config *cfg = c->cfg;
    put_matrix(u, &c->weights.embed, &w->embed, false);
    put_matrix(u, &c->weights.head, &w->head, false);
    c->weights.norm = put_floats(u, w->norm, cfg->hidden_size);
    for (int32_t l = 0; l < cfg->n_layers; l++)
        put_layer(u, &c->weights.layers[l], &w->layers[l]);
    for (int32_t i = 0; i < cfg->n_engram_layers; i++) {
        em_engram_weights *to = &c->weights.engram[i];
        const em_engram_weights *from = &w->engram[i];
        put_matrix(u, &to->wkv, &from->wkv, false);
        to->qk_weight = put_floats(u, from->qk_weight, (int64_t)cfg->hc_mult * cfg->hidden_size);
        c->weights.layers[cfg->engram_layer[i]].engram = to;
    }
}

/* Routed experts, and each layer's list of them for the kernels. */
static void put_experts(upload *u, const em_weights *w)
{
    em_cuda *c = u->c;
    size_t E = (size_t)c->cfg->n_experts;
    em_cuda_expert *list = calloc(E + 1, sizeof(*list));
    if (!list) {
        u->status = em_error_set(u->err, -ENOMEM, "not enough memory for the list of experts");
        return;
    }
    u->end -= (size_t)c->cfg->n_layers * round_up((E + 1) * sizeof(*list)); /* the lists come last */
    for (int32_t l = 0; l < c->cfg->n_layers; l++)
        for (size_t e = 0; e < E; e++)
            put_expert_weights(u, &c->weights.layers[l].experts[e], &w->layers[l].experts[e], true);
    u->end += (size_t)c->cfg->n_layers * round_up((E + 1) * sizeof(*list));
    for (int32_t l = 0; l < c->cfg->n_layers; l++) {
        const em_layer_weights *lw = &c->weights.layers[l];
        for (size_t e = 0; e < E; e++)
            list[e] = (em_cuda_expert){lw->experts[e].w1, lw->experts[e].w3, lw->experts[e].w2};
        list[E] = (em_cuda_expert){lw->shared.w1, lw->shared.w3, lw->shared.w2};
        c->expert_table[l] = put(u, list, (E + 1) * sizeof(*list));
    }
    free(list);
}

static int alloc_lists(em_cuda *c, em_error *err)
{
    size_t layers = (size_t)c->cfg->n_layers;
    c->weights.layers = calloc(layers, sizeof(*c->weights.layers));
    c->expert_table = calloc(layers, sizeof(*c->expert_table));
    for (size_t l = 0; c->weights.layers && l < layers; l++) {
        c->weights.layers[l].experts = calloc((size_t)c->cfg->n_experts, sizeof(em_expert_weights));
        if (!c->weights.layers[l].experts)
            return em_error_set(err, -ENOMEM, "not enough memory for the list of experts");
    }
    return c->weights.layers && c->expert_table
               ? 0
               : em_error_set(err, -ENOMEM, "not enough memory for the list of layers");
}

/* Walks once without memory: finds how much the host must hold, and how much there is in all. */
static int count(upload *u, const em_weights *w)
{
    upload n = {.c = u->c, .err = u->err, .at = u->at, .end = u->end, .counting = true};
    put_fixed(&n, w);
    put_experts(&n, w);
    u->all = w->bytes;
    u->host_bytes = n.host_bytes;
    return n.status;
}

static int open_ring(upload *u)
{
    u->ring = em_cuda_pin(u->c, EM_CUDA_RING_CHUNK * EM_CUDA_RING_CHUNKS, u->err);
    if (!u->ring)
        return -ENOMEM;
    for (int i = 0; i < EM_CUDA_RING_CHUNKS; i++)
        if (!ok(u, cudaEventCreateWithFlags(&u->sent[i], cudaEventDisableTiming), "making an event"))
            return u->status;
    return 0;
}

static void close_ring(upload *u)
{
    int r = cudaStreamSynchronize(u->c->stream);
    ok(u, r, "sending weights");
    for (int i = 0; i < EM_CUDA_RING_CHUNKS; i++)
        if (u->sent[i])
            cudaEventDestroy(u->sent[i]);
    em_cuda_unpin(u->c, u->ring);
}

int em_cuda_upload(em_cuda *c, const em_weights *w, uint8_t *at, size_t room, const em_device_opts *opts, em_error *err)
{
    upload u = {.c = c, .err = err, .at = at, .end = at + room, .opts = opts};
    int r = alloc_lists(c, err);
    if (r == 0)
        r = count(&u, w);
    if (r == 0 && u.host_bytes && !(c->host_experts = em_cuda_pin(c, u.host_bytes, err)))
        r = -ENOMEM;
    if (r < 0)
        return r;
    u.host_at = c->host_experts;
    r = open_ring(&u);
    if (r == 0) {
        put_fixed(&u, w);
        put_experts(&u, w);
    }
    close_ring(&u);
    return r < 0 ? r : u.status;
}

void em_cuda_weights_done(em_cuda *c)
{
    for (int32_t l = 0; c->weights.layers && l < c->cfg->n_layers; l++)
        free(c->weights.layers[l].experts);
    free(c->weights.layers);
    free(c->expert_table);
    em_cuda_unpin(c, c->host_experts);
}
