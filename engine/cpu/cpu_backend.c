/* Opening and closing the CPU backend, and the beginning of a step. */
#include "engine/cpu/cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Compressed positions of the longest sequence, over all sources. */
static int64_t most_positions(const em_model_config *cfg, int32_t max_len)
{
    int64_t most = 0;
    for (int32_t s = 0; s < cfg->n_kv_sources; s++)
        most = max64(most, max_len / cfg->role[cfg->kv_source_layer[s]].ratio);
    return most;
}

/* What one worker may need at a time: the largest of the stages' demands. */
static int64_t scratch_floats(const em_cpu *c, int64_t positions)
{
    const em_model_config *cfg = c->cfg;
    int64_t n = c->topk_cap * (int64_t)cfg->head_dim + EM_HEAD_GROUP * ((int64_t)cfg->window + c->topk_cap);
    n = max64(n, EM_KEY_BLOCK * (int64_t)(cfg->index_head_dim + EM_SCORE_TOKENS * cfg->index_n_heads));
    if (cfg->candidate_source_layer >= 0) {
        int64_t blocks = positions / cfg->candidate_block_size + 1;
        n = max64(n, blocks + min64(blocks, cfg->candidate_topk_blocks));
    }
    n = max64(n, cfg->hidden_size);
    n = max64(n, max64(cfg->n_experts, cfg->rope_dim));
    return (max64(n, max64(cfg->head_dim, cfg->index_head_dim)) + 15) / 16 * 16;
}

typedef struct buffer {
    void *field; /* address of the pointer to set */
    int64_t count;
    size_t size; /* bytes of one element */
} buffer;

enum { MAX_BUFFERS = 80 };

/* What a buffer takes, with room for a cache line of its own. */
static size_t padded_bytes(const buffer *buf)
{
    return ((size_t)buf->count * buf->size + 127) / 64 * 64;
}

static size_t total_bytes(const buffer *buf, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += padded_bytes(&buf[i]);
    return total;
}

/* Places all buffers in one mapping. */
static int place(em_cpu *c, const buffer *buf, size_t n)
{
    size_t total = total_bytes(buf, n);
    void *p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -ENOMEM;
    c->arena = p;
    c->arena_bytes = total;
    uint8_t *at = p;
    for (size_t i = 0; i < n; i++) {
        memcpy(buf[i].field, &at, sizeof at);
        at += padded_bytes(&buf[i]);
    }
    return 0;
}

/* Sets the capacities of a step's buffers and lists them all; from cfg and shape alone, so that em_cpu_workspace_bytes
 * counts exactly what is placed later. scratch gets the workers' memory. Returns how many there are. */
static size_t list_buffers(em_cpu *c, int64_t threads, float **scratch, buffer *ret_list)
{
    const em_model_config *cfg = c->cfg;
    int64_t T = c->shape.max_batch_tokens, H = cfg->hidden_size, D = cfg->head_dim, hc = cfg->hc_mult;
    int64_t seqs = min64(T, c->shape.n_slots), pairs = cfg->rope_dim / 2, k = cfg->n_experts_per_tok,
            E = cfg->n_experts;
    int64_t positions = most_positions(cfg, c->shape.max_len), engram = cfg->n_engram_layers ? T : 0;
    int64_t comp = cfg->n_kv_sources ? T : 0;
    int64_t engram_cols = (int64_t)(cfg->engram_max_order - 1) * cfg->engram_n_heads * cfg->engram_head_dim;
    c->topk_cap = (int32_t)max64(1, min64(cfg->index_topk, positions));
    c->score_cap = comp ? max64(4 << 20, positions) : 0;
    c->cand_words = cfg->candidate_source_layer >= 0 ? positions / cfg->candidate_block_size / 64 + 1 : 0;
    c->scratch_floats = scratch_floats(c, positions);
    /* every expert's tail block, plus full blocks, times the tiles of the wider product */
    c->moe_item_cap = (E + 1 + T * (k + 1) / EM_TOKEN_BLOCK) * ((max64(H, cfg->moe_inter) + 63) / 64);
    const buffer want[] = {
        {&c->pos, T, 4},
        {&c->seq_of, T, 4},
        {&c->run_start, seqs, 4},
        {&c->win_off, seqs, 4},
        {&c->win_hist, seqs, 4},
        {&c->freq_main, pairs, 4},
        {&c->freq_comp, pairs, 4},
        {&c->cos_main, T * pairs, 4},
        {&c->sin_main, T * pairs, 4},
        {&c->cos_comp, T * pairs, 4},
        {&c->sin_comp, T * pairs, 4},
        {&c->streams, T * hc * H, 4},
        {&c->streams2, T * hc * H, 4},
        {&c->pre, T * hc, 4},
        {&c->mix, T * (2 + hc) * hc, 4},
        {&c->post, T * hc, 4},
        {&c->comb, T * hc * hc, 4},
        {&c->x, T * H, 4},
        {&c->y, T * H, 4},
        {&c->last, T * H, 4},
        {&c->engram_in, engram * engram_cols, 4},
        {&c->engram_kv, engram * (hc + 1) * H, 4},
        {&c->engram_gate, T * hc, 4},
        {&c->insight_token, engram, 4},
        {&c->insight_share, engram, sizeof(float *)},
        {&c->q_lat, T * cfg->q_lora_rank, 4},
        {&c->q, T * cfg->n_heads * D, 4},
        {&c->kv, T * D, 4},
        {&c->win, (T + seqs * (cfg->window - 1)) * D, 4},
        {&c->o_lat, T * cfg->o_groups * cfg->o_lora_rank, 4},
        {&c->comp_kv, comp * D, 4},
        {&c->comp_gate, comp * D, 4},
        {&c->latent, comp * D, 4},
        {&c->index_key, comp * cfg->index_head_dim, 4},
        {&c->group_seq, T, 4},
        {&c->group_j, T, 4},
        {&c->index_q, comp * cfg->index_n_heads * cfg->index_head_dim, 4},
        {&c->index_w, comp * cfg->index_n_heads, 4},
        {&c->scores, c->score_cap, 4},
        {&c->score_off, T, 8},
        {&c->cand, T * c->cand_words, 8},
        {&c->topk, T * c->topk_cap, 4},
        {&c->topk_n, T, 4},
        {&c->router, T * E, 4},
        {&c->expert_id, T * k, 4},
        {&c->expert_w, T * k, 4},
        {&c->entry, T * (k + 1), sizeof(em_moe_entry)},
        {&c->entry_of, T * (k + 1), 4},
        {&c->entry_fill, T, 4},
        {&c->expert_begin, E + 2, 4},
        {&c->moe_x, T * k * H, 4},
        {&c->moe_g, T * (k + 1) * cfg->moe_inter, 4},
        {&c->moe_u, T * (k + 1) * cfg->moe_inter, 4},
        {&c->moe_y, T * (k + 1) * H, 4},
        {&c->moe_item, c->moe_item_cap, 5 * sizeof(int32_t)},
        {&c->scratch, threads, sizeof(float *)},
        {&c->scratch_tag, threads, 8},
        {scratch, threads * c->scratch_floats, 4},
    };
    _Static_assert(sizeof want / sizeof *want <= MAX_BUFFERS, "the list of buffers is too short");
    memcpy(ret_list, want, sizeof want);
    return sizeof want / sizeof *want;
}

int64_t em_cpu_workspace_bytes(const em_model_config *cfg, const em_backend_shape *shape, int32_t n_threads)
{
    em_cpu c = {.cfg = cfg, .shape = *shape};
    float *scratch;
    buffer list[MAX_BUFFERS];
    return (int64_t)total_bytes(list, list_buffers(&c, n_threads, &scratch, list));
}

static int alloc_buffers(em_cpu *c)
{
    float *scratch = NULL;
    buffer list[MAX_BUFFERS];
    int64_t threads = em_pool_threads(c->pool);
    int r = place(c, list, list_buffers(c, threads, &scratch, list));
    for (int64_t i = 0; r == 0 && i < threads; i++)
        c->scratch[i] = scratch + i * c->scratch_floats;
    return r;
}

/* Where each token stands, and where each run's window rows go. */
static int cpu_begin(em_backend *be, const em_batch *batch, em_error *err)
{
    em_cpu *c = (em_cpu *)be;
    if (batch->n_tokens < 1 || batch->n_tokens > c->shape.max_batch_tokens || batch->n_seqs > c->shape.n_slots)
        return em_error_set(err, -EINVAL,
                            "a step of %d tokens from %d sequences exceeds the %d tokens or %d sequences planned",
                            batch->n_tokens, batch->n_seqs, c->shape.max_batch_tokens, c->shape.n_slots);
    c->batch = batch;
    c->n_tokens = batch->n_tokens;
    int32_t token = 0, row = 0;
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const em_batch_seq *run = &batch->seqs[s];
        c->run_start[s] = token;
        c->win_off[s] = row;
        c->win_hist[s] = run->pos < c->cfg->window - 1 ? run->pos : c->cfg->window - 1;
        row += c->win_hist[s] + run->n_tokens;
        for (int32_t i = 0; i < run->n_tokens; i++, token++) {
            c->pos[token] = run->pos + i;
            c->seq_of[token] = s;
        }
    }
    em_cpu_rope_begin(c);
    return 0;
}

static void embed_item(void *ctx, int64_t token, int worker)
{
    em_cpu *c = ctx;
    const em_batch_seq *run = &c->batch->seqs[c->seq_of[token]];
    int32_t hc = c->cfg->hc_mult;
    int64_t H = c->cfg->hidden_size;
    float *streams = c->streams + token * hc * H, *pre = c->pre + token * hc;
    c->k.row_f32(&c->w->embed, run->tokens[c->pos[token]], streams);
    for (int32_t s = 1; s < hc; s++)
        memcpy(streams + s * H, streams, (size_t)H * sizeof(float));
    for (int32_t s = 0; s < hc; s++) /* the very first collapse reads stream 0 only */
        pre[s] = s == 0 ? 1.0f : 0.0f;
}

void em_cpu_embed(em_backend *be)
{
    em_cpu *c = (em_cpu *)be;
    em_cpu_each_token(c, embed_item);
}

static void cpu_close(em_backend *be)
{
    em_cpu *c = (em_cpu *)be;
    em_pool_free(c->pool);
    em_packed_weights_free(c->packed);
    em_cpu_state_done(&c->state);
    if (c->arena)
        munmap(c->arena, c->arena_bytes);
    free(c);
}

static const char *backend_name(const char *tier)
{
    return !strcmp(tier, "avx512") ? "cpu/avx512" : !strcmp(tier, "avx2") ? "cpu/avx2" : "cpu/c";
}

int em_cpu_open(const em_model_config *cfg, const em_weights *w, const em_backend_shape *shape, const em_cpu_opts *opts,
                em_backend **ret_backend, em_error *err)
{
    em_cpu *c = calloc(1, sizeof *c);
    if (!c)
        return em_error_set(err, -ENOMEM, "not enough memory for the CPU backend");
    c->cfg = cfg;
    c->shape = *shape;
    em_kernels_init(&c->k, opts->cpu_flags);
    c->base = (em_backend){.name = backend_name(c->k.name),
                           .saves_inside = true,
                           .begin = cpu_begin,
                           .embed = em_cpu_embed,
                           .engram = em_cpu_engram,
                           .insight = em_cpu_insight,
                           .hc_pre = em_cpu_hc_pre,
                           .attention = em_cpu_attention,
                           .moe = em_cpu_moe,
                           .hc_post = em_cpu_hc_post,
                           .head = em_cpu_head,
                           .copy_slot = em_cpu_copy_slot,
                           .copy_block = em_cpu_copy_block,
                           .close = cpu_close};
    int r = em_pool_new(opts->n_threads, &c->pool);
    if (r < 0) {
        r = em_error_set(err, r, "cannot start %d compute threads; lower --threads", opts->n_threads);
    } else if ((r = em_packed_weights_new(cfg, w, c->pool, opts->on_progress, opts->progress_ctx, &c->packed)) < 0) {
        r = em_error_set(err, r, "not enough address space for the weights in the kernels' order; see engramd plan");
    } else if ((r = alloc_buffers(c)) < 0 || (r = em_cpu_state_init(&c->state, cfg, shape)) < 0) {
        r = em_error_set(err, r,
                         "not enough address space for a step of %d tokens and %d sequences; lower "
                         "--max-num-batched-tokens, --max-num-seqs or --kv-cache-bytes",
                         shape->max_batch_tokens, shape->n_slots);
    }
    if (r < 0) {
        cpu_close(&c->base);
        return r;
    }
    c->w = &c->packed->w;
    c->base.weight_bytes = c->packed->bytes;
    em_rope_frequencies(cfg, c->freq_main, c->freq_comp);
    *ret_backend = &c->base;
    return 0;
}
