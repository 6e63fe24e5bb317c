/* One arena: how large each part is, planned before anything is taken, and where it lies. */
#include "engine/cuda/cuda.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/base/units.h"

#define MIN_SCORES (INT64_C(4) << 20)    /* index scores of one tile, unless one query needs more */
#define LOGITS_BYTES (INT64_C(32) << 20) /* fetched at a time */
#define PART_TOKENS 64                   /* steps of so many tokens share attention's rows out to many blocks */
#define MARGIN 32                        /* one part in so many stays free: graphs, the driver's own needs */

typedef struct buffer {
    void *field; /* address of the pointer to set */
    int64_t count;
    size_t size; /* bytes of one element */
} buffer;

enum { MAX_BUFFERS = 80, MAX_TABLE_BUFFERS = 5 };

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static size_t round_up(size_t n)
{
    return (n + EM_CUDA_ALIGN - 1) / EM_CUDA_ALIGN * EM_CUDA_ALIGN;
}

static size_t padded(const buffer *b)
{
    return round_up((size_t)b->count * b->size);
}

/* --- sizes that follow from model and shape --------------------------------------------------------------------- */

static int32_t pow2_from(int32_t n)
{
    int32_t p = 1;
    while (p < n)
        p *= 2;
    return p;
}

static void table_sizes(em_cuda *c)
{
    const em_model_config *cfg = c->cfg;
    c->n_cols = (cfg->engram_max_order - 1) * cfg->engram_n_heads;
    for (int32_t i = 0; i < cfg->n_engram_layers; i++) {
        em_dtype dtype = c->weights.engram[i].dtype;
        em_matrix row = {.dtype = dtype, .cols = cfg->engram_head_dim};
        c->rows[i].row_bytes = em_matrix_row_bytes(&row);
        c->rows[i].scale_bytes = dtype == EM_DTYPE_FP8 ? (size_t)cfg->engram_head_dim / 32 : 0;
    }
}

static void derive(em_cuda *c)
{
    const em_model_config *cfg = c->cfg;
    c->cap_runs = pow2_from((int32_t)min64(c->shape.n_slots, c->shape.max_batch_tokens));
    c->cap_tokens = (int32_t)max64(c->shape.max_batch_tokens, c->cap_runs);
    c->block_stride = ((int64_t)c->shape.max_len + c->shape.block_tokens - 1) / c->shape.block_tokens;
    c->positions = 1;
    for (int32_t s = 0; s < cfg->n_kv_sources; s++)
        c->positions = max64(c->positions, c->shape.max_len / cfg->role[cfg->kv_source_layer[s]].ratio);
    int64_t size = max64(1, cfg->candidate_block_size), most_blocks = (c->positions + size - 1) / size;
    c->topk_cap = (int32_t)max64(1, min64(cfg->index_topk, c->positions));
    c->score_cap = cfg->n_kv_sources ? max64(min64(MIN_SCORES, c->positions * c->cap_tokens), c->positions) : 1;
    c->cand_words = cfg->candidate_source_layer >= 0 ? (most_blocks + 63) / 64 : 0;
    c->block_score_cap = c->cand_words ? c->score_cap / size + c->cap_tokens : 0;
    int64_t rows = LOGITS_BYTES / ((int64_t)cfg->vocab_size * (int64_t)sizeof(float));
    c->logit_rows = (int32_t)max64(1, min64(rows, c->cap_tokens));
    c->no_graphs = c->logit_rows < c->cap_runs;
    c->step_bytes = sizeof(int32_t) * (size_t)(4 * (int64_t)c->cap_tokens + 4 * (int64_t)c->cap_runs);
    c->part_tokens = (int32_t)min64(c->cap_runs, PART_TOKENS);
    table_sizes(c);
}

/* --- the lists -------------------------------------------------------------------------------------------------- */

static size_t list_tables(em_cuda *c, buffer *list)
{
    int64_t rows = (int64_t)c->cap_runs * c->n_cols;
    size_t n = 0;
    for (int32_t i = 0; i < c->cfg->n_engram_layers; i++) {
        list[n++] = (buffer){&c->rows[i].ids, rows, 8};
        list[n++] = (buffer){&c->rows[i].ahead, rows * c->cfg->engram_head_dim, 4};
    }
    return n;
}

/* Every buffer of a step on the device. One row, one line. */
static size_t list_buffers(em_cuda *c, buffer list[MAX_BUFFERS + MAX_TABLE_BUFFERS * EM_MAX_ENGRAM_LAYERS])
{
    derive(c);
    const em_model_config *cfg = c->cfg;
    int64_t T = c->cap_tokens, H = cfg->hidden_size, D = cfg->head_dim, hc = cfg->hc_mult, E = cfg->n_experts;
    int64_t pairs = cfg->rope_dim / 2, k = cfg->n_experts_per_tok, mix = (int64_t)(2 + hc) * hc;
    int64_t parts = (hc * H + EM_CUDA_HC_COLS - 1) / EM_CUDA_HC_COLS;
    int64_t comp = cfg->n_kv_sources ? T : 0, engram = cfg->n_engram_layers ? T : 0;
    int64_t row = engram ? (int64_t)c->rows[0].row_bytes : 0, scale = engram ? (int64_t)c->rows[0].scale_bytes : 0;
    const buffer want[] = {
        {&c->dev_step, (int64_t)c->step_bytes + (int64_t)4 * c->cap_runs * c->block_stride, 1},
        {&c->freq_main, pairs, 4},
        {&c->freq_comp, pairs, 4},
        {&c->cos_main, T * pairs, 4},
        {&c->sin_main, T * pairs, 4},
        {&c->cos_comp, T * pairs, 4},
        {&c->sin_comp, T * pairs, 4},
        {&c->streams, T * hc * H, 4},
        {&c->pre, T * hc, 4},
        {&c->post, T * hc, 4},
        {&c->comb, T * hc * hc, 4},
        {&c->part, T * parts * mix, 4},
        {&c->part_sq, T * parts, 8},
        {&c->x, T * H, 4},
        {&c->y, T * H, 4},
        {&c->row_codes, engram * c->n_cols * row, 1},
        {&c->row_scales, engram * c->n_cols * scale, 1},
        {&c->engram_in, engram * c->n_cols * cfg->engram_head_dim, 4},
        {&c->engram_kv, engram * (hc + 1) * H, 4},
        {&c->engram_gate, engram * hc, 4},
        {&c->q_lat, T * cfg->q_lora_rank, 4},
        {&c->q, T * cfg->n_heads * D, 4},
        {&c->kv, T * D, 4},
        {&c->attend_part,
         em_cuda_attend_part_floats(c->part_tokens, cfg->n_heads, D, cfg->window, cfg->n_kv_sources ? c->topk_cap : 0),
         4},
        {&c->win, T * (int64_t)c->layout.window_row, 1},
        {&c->o_lat, T * cfg->o_groups * cfg->o_lora_rank, 4},
        {&c->comp_kv, comp * D, 4},
        {&c->comp_gate, comp * D, 4},
        {&c->latent, comp * D, 4},
        {&c->index_key, comp * cfg->index_head_dim, 4},
        {&c->index_q, comp * cfg->index_n_heads * cfg->index_head_dim, 4},
        {&c->index_w, comp * cfg->index_n_heads, 4},
        {&c->scores, c->score_cap, 4},
        {&c->block_score, c->block_score_cap, 4},
        {&c->cand, comp * c->cand_words, 8},
        {&c->topk, comp * c->topk_cap, 4},
        {&c->topk_n, T, 4},
        {&c->router, T * E, 4},
        {&c->expert_id, T * k, 4},
        {&c->expert_w, T * k, 4},
        {&c->entry, T * (k + 1), sizeof(em_cuda_entry)},
        {&c->entry_of, T * (k + 1), 4},
        {&c->expert_begin, E + 2, 4},
        {&c->n_items, 1, 4},
        {&c->item, em_cuda_item_cap(T, E, k), sizeof(em_cuda_item)},
        {&c->experts_read, 1, 8},
        {&c->act, T * (k + 1) * cfg->moe_inter, 4},
        {&c->moe_part, T * (k + 1) * H, 4},
        {&c->last, T * H, 4},
        {&c->logits, (int64_t)c->logit_rows * cfg->vocab_size, 4},
    };
    size_t n = sizeof(want) / sizeof(*want);
    _Static_assert(sizeof(want) / sizeof(*want) <= MAX_BUFFERS, "the list of buffers is too short");
    for (size_t i = 0; i < n; i++)
        list[i] = want[i];
    return n + list_tables(c, list + n);
}

/* Page-locked buffers of the host. */
static size_t list_host(em_cuda *c, buffer list[MAX_BUFFERS + MAX_TABLE_BUFFERS * EM_MAX_ENGRAM_LAYERS])
{
    derive(c);
    size_t n = 0;
    int64_t rows = (int64_t)c->cap_runs * c->n_cols;
    list[n++] = (buffer){&c->host_step, (int64_t)c->step_bytes + (int64_t)4 * c->cap_runs * c->block_stride, 1};
    list[n++] = (buffer){&c->host_experts_read, 1, 8};
    list[n++] = (buffer){&c->host_logits, (int64_t)c->logit_rows * c->cfg->vocab_size, 4};
    for (int32_t i = 0; i < c->cfg->n_engram_layers; i++) {
        em_cuda_rows *r = &c->rows[i];
        list[n++] = (buffer){&r->host_ids, rows, 8};
        list[n++] = (buffer){&r->host_codes, rows * (int64_t)r->row_bytes, 1};
        list[n++] = (buffer){&r->host_scales, rows * (int64_t)r->scale_bytes, 1};
    }
    return n;
}

static size_t total(const buffer *list, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += padded(&list[i]);
    return bytes;
}

static void place(const buffer *list, size_t n, uint8_t *at)
{
    for (size_t i = 0; i < n; i++) {
        *(uint8_t **)list[i].field = list[i].count ? at : NULL;
        at += padded(&list[i]);
    }
}

/* --- places ----------------------------------------------------------------------------------------------------- */

size_t em_cuda_activation_bytes(em_cuda *c)
{
    buffer list[MAX_BUFFERS + MAX_TABLE_BUFFERS * EM_MAX_ENGRAM_LAYERS];
    return total(list, list_buffers(c, list));
}

size_t em_cuda_host_buffer_bytes(em_cuda *c)
{
    buffer list[MAX_BUFFERS + MAX_TABLE_BUFFERS * EM_MAX_ENGRAM_LAYERS];
    return total(list, list_host(c, list));
}

/* The arrays of a step inside their block. */
static em_cuda_step_arrays step_arrays(const em_cuda *c, uint8_t *block)
{
    int32_t *p = (int32_t *)(void *)block;
    int64_t T = c->cap_tokens, R = c->cap_runs;
    return (em_cuda_step_arrays){.token = p,
                                 .pos = p + T,
                                 .seq_of = p + 2 * T,
                                 .logit = p + 3 * T,
                                 .run_start = p + 4 * T,
                                 .run_pos = p + 4 * T + R,
                                 .run_len = p + 4 * T + 2 * R,
                                 .slot = p + 4 * T + 3 * R,
                                 .block_table = p + 4 * T + 4 * R};
}

void em_cuda_place(em_cuda *c, uint8_t *arena)
{
    buffer list[MAX_BUFFERS + MAX_TABLE_BUFFERS * EM_MAX_ENGRAM_LAYERS];
    place(list, list_buffers(c, list), arena);
    c->dev = step_arrays(c, c->dev_step);
    c->step = (em_cuda_step){.token = c->dev.token,
                             .pos = c->dev.pos,
                             .seq_of = c->dev.seq_of,
                             .run_start = c->dev.run_start,
                             .run_pos = c->dev.run_pos,
                             .run_len = c->dev.run_len,
                             .slot = c->dev.slot,
                             .block_table = c->dev.block_table,
                             .block_stride = c->block_stride};
}

int em_cuda_place_host(em_cuda *c, em_error *err)
{
    buffer list[MAX_BUFFERS + MAX_TABLE_BUFFERS * EM_MAX_ENGRAM_LAYERS];
    size_t n = list_host(c, list);
    uint8_t *p = em_cuda_pin(c, total(list, n), err);
    if (!p)
        return -ENOMEM;
    place(list, n, p);
    c->host = step_arrays(c, c->host_step);
    return 0;
}

/* --- the plan --------------------------------------------------------------------------------------------------- */

/* What the kernels can compute. */
static int check_limits(const em_model_config *cfg, const em_backend_shape *shape, em_error *err)
{
    if (cfg->head_dim > EM_CUDA_MAX_HEAD_DIM || cfg->index_head_dim > EM_CUDA_MAX_INDEX_DIM ||
        cfg->n_experts > EM_CUDA_MAX_EXPERTS)
        return em_error_set(err, -ENOTSUP,
                            "the GPU's kernels know heads of up to %d channels, index heads of up to %d and up to %d "
                            "experts; this model has %d, %d and %d",
                            EM_CUDA_MAX_HEAD_DIM, EM_CUDA_MAX_INDEX_DIM, EM_CUDA_MAX_EXPERTS, cfg->head_dim,
                            cfg->index_head_dim, cfg->n_experts);
    if (shape->max_batch_tokens > EM_CUDA_MAX_TOKENS || shape->n_slots > EM_CUDA_MAX_TOKENS / 2)
        return em_error_set(err, -ENOTSUP, "a step on the GPU has at most %d tokens; lower --max-num-batched-tokens",
                            EM_CUDA_MAX_TOKENS);
    return 0;
}

static int too_small(const em_device_need *need, uint64_t fixed, em_error *err)
{
    char a[EM_UNITS_TEXT], b[EM_UNITS_TEXT];
    return em_error_set(err, -ENOMEM,
                        "the GPU has %s free, but everything except the experts needs %s; lower "
                        "--max-num-batched-tokens, --max-num-seqs or --kv-cache-bytes",
                        em_bytes_text(need->device_bytes, b), em_bytes_text(fixed, a));
}

int em_cuda_plan(const em_model_config *cfg, const em_backend_shape *shape, const em_device_need *need,
                 em_device_plan *ret_plan, em_error *err)
{
    int r = check_limits(cfg, shape, err);
    if (r < 0)
        return r;
    em_cuda *c = calloc(1, sizeof(*c));
    if (!c)
        return em_error_set(err, -ENOMEM, "not enough memory to plan");
    c->cfg = cfg;
    c->shape = *shape;
    for (int32_t i = 0; i < cfg->n_engram_layers; i++) /* the widest rows there are, until the tables are known */
        c->weights.engram[i].dtype = EM_DTYPE_F32;
    em_state_layout_init(&c->layout, cfg, shape->block_tokens);
    size_t block = c->layout.block_bytes, slot = c->layout.slot_bytes;
    em_device_plan p = {.weights = need->weights + (uint64_t)cfg->n_layers *
                                                       round_up((size_t)(cfg->n_experts + 1) * sizeof(em_cuda_expert)),
                        .activations = em_cuda_activation_bytes(c),
                        .slots = round_up(slot * ((size_t)shape->n_slots + (size_t)shape->n_snapshots + 1)),
                        .kv_blocks = round_up(block * ((size_t)shape->n_blocks + 1)),
                        .host_buffers = em_cuda_host_buffer_bytes(c) + EM_CUDA_RING_CHUNK * EM_CUDA_RING_CHUNKS,
                        .n_blocks = shape->n_blocks};
    free(c);
    uint64_t fixed = p.weights + p.activations + p.slots + p.kv_blocks,
             room = need->device_bytes - need->device_bytes / MARGIN;
    if (fixed > room)
        return too_small(need, fixed, err);
    p.experts = need->experts < room - fixed ? need->experts : room - fixed;
    p.host_experts = need->experts - p.experts;
    if (need->max_blocks > p.n_blocks) {
        uint64_t more = (room - fixed - p.experts) / block, most = (uint64_t)(need->max_blocks - p.n_blocks);
        more = more > 0 ? more - 1 : 0; /* what rounding may take */
        more = more < most ? more : most;
        p.n_blocks += (int32_t)more;
        p.kv_blocks = round_up(block * ((size_t)p.n_blocks + 1));
    }
    *ret_plan = p;
    return 0;
}
