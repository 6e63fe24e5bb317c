/* The indexer (spec 4.8, 4.9): scores every visible compressed position of a query, keeps the best candidate blocks where
 * the layer publishes or obeys them, and selects the top-k. The keys are those of the layer's KV owner, always. */
#include "engine/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Queries of one run that score the same decoded keys. */
typedef struct score_tile {
    int32_t seq, token, n_tokens; /* run; first token in the flat batch; how many */
    int32_t n_keys;               /* visible to the last of them */
    int64_t offset;               /* of its scores: [n_tokens, n_keys] */
    int64_t first_item;           /* (tile, key block) items before this tile */
} score_tile;

#define MAX_TILES 256

typedef struct select_call {
    em_cpu *c;
    const em_layer_role *role;
    int32_t source, ratio;
    float dot_scale, weight_scale;
    score_tile tile[MAX_TILES];
    int n_tiles;
    int64_t n_items;
} select_call;

static void query_item(void *ctx, int64_t token, int worker)
{
    em_cpu *c = ctx;
    const em_model_config *cfg = c->cfg;
    int32_t pairs = cfg->rope_dim / 2;
    int64_t width = cfg->index_head_dim;
    for (int32_t h = 0; h < cfg->index_n_heads; h++) {
        float *q = c->index_q + (token * cfg->index_n_heads + h) * width;
        em_rope_apply(q + width - cfg->rope_dim, c->cos_comp + token * pairs, c->sin_comp + token * pairs, pairs,
                      false);
        if (c->state.at.pack_key) { /* Q4: the query lives on the same grid as the keys */
            uint8_t *row = (uint8_t *)c->scratch[worker];
            em_cpu_store_key(c, row, q);
            em_cpu_load_key(c, row, q);
        }
    }
}

void em_cpu_index_query(em_cpu *c, int32_t layer)
{
    em_cpu_each_token(c, query_item);
}

/* Compressed positions that token may see: a group counts once its last token has been passed. */
static int32_t visible(const select_call *call, int64_t token)
{
    return (call->c->pos[token] + 1) / call->ratio;
}

/* Scores of one tile against one block of keys. */
static void score_item(void *ctx, int64_t item, int worker)
{
    const select_call *call = ctx;
    em_cpu *c = call->c;
    int t = 0;
    while (t + 1 < call->n_tiles && item >= call->tile[t + 1].first_item)
        t++;
    const score_tile *tile = &call->tile[t];
    int64_t heads = c->cfg->index_n_heads, width = c->cfg->index_head_dim;
    int32_t begin = (int32_t)(item - tile->first_item) * EM_KEY_BLOCK;
    int32_t n = tile->n_keys - begin < EM_KEY_BLOCK ? tile->n_keys - begin : EM_KEY_BLOCK;
    float *keys = c->scratch[worker], *dots = keys + EM_KEY_BLOCK * width;
    for (int32_t j = 0; j < n; j++)
        em_cpu_load_key(c, em_cpu_key_row(c, c->batch->seqs[tile->seq].kv, call->source, begin + j), keys + j * width);
    em_matrix view = {.dtype = EM_DTYPE_F32, .rows = n, .cols = width, .data = keys};
    c->k.gemm_rows(&view, 0, n, c->index_q + tile->token * heads * width, width, (int64_t)tile->n_tokens * heads, dots,
                   EM_KEY_BLOCK);
    for (int32_t i = 0; i < tile->n_tokens; i++) {
        float *score = c->scores + tile->offset + (int64_t)i * tile->n_keys + begin;
        const float *weight = c->index_w + (int64_t)(tile->token + i) * heads;
        int32_t seen = visible(call, tile->token + i) - begin;
        for (int32_t j = 0; j < n; j++) {
            float sum = 0.0f;
            for (int32_t h = 0; h < heads; h++) {
                float dot = dots[(i * heads + h) * EM_KEY_BLOCK + j];
                sum += (dot > 0.0f ? dot : 0.0f) * call->dot_scale * (weight[h] * call->weight_scale);
            }
            score[j] = j < seen ? sum : -INFINITY;
        }
    }
}

/* Level one: keeps the best blocks of one query; the newest visible block is always in. */
static void keep_candidates(const select_call *call, int64_t token, const float *score, int32_t n, float *block_score)
{
    em_cpu *c = call->c;
    int32_t size = c->cfg->candidate_block_size, n_blocks = (n + size - 1) / size;
    for (int32_t b = 0; b < n_blocks; b++) {
        float max = -INFINITY;
        for (int32_t j = b * size; j < n && j < (b + 1) * size; j++)
            max = score[j] > max ? score[j] : max;
        block_score[b] = max;
    }
    block_score[(n - 1) / size] = INFINITY;
    int32_t *kept = (int32_t *)(void *)(block_score + n_blocks);
    int32_t n_kept = em_topk_select(block_score, n_blocks, c->cfg->candidate_topk_blocks, kept);
    uint64_t *bits = c->cand + token * c->cand_words;
    for (int32_t i = 0; i < n_kept; i++)
        bits[kept[i] / 64] |= 1ull << (kept[i] % 64);
}

/* Level two: nothing outside the kept blocks. */
static void drop_others(const select_call *call, int64_t token, float *score, int32_t n)
{
    const em_cpu *c = call->c;
    const uint64_t *bits = c->cand + token * c->cand_words;
    int32_t size = c->cfg->candidate_block_size;
    for (int32_t b = 0; b * size < n; b++) {
        if (bits[b / 64] >> (b % 64) & 1)
            continue;
        for (int32_t j = b * size; j < n && j < (b + 1) * size; j++)
            score[j] = -INFINITY;
    }
}

static void pick_item(void *ctx, int64_t item, int worker)
{
    const select_call *call = ctx;
    em_cpu *c = call->c;
    int64_t token = call->tile[0].token + item;
    int32_t n = visible(call, token);
    c->topk_n[token] = 0;
    if (call->role->is_candidate_source)
        memset(c->cand + token * c->cand_words, 0, (size_t)c->cand_words * sizeof *c->cand);
    if (n == 0)
        return;
    float *score = c->scores + c->score_off[token];
    if (call->role->is_candidate_source)
        keep_candidates(call, token, score, n, c->scratch[worker]);
    if (call->role->uses_candidates)
        drop_others(call, token, score, n);
    c->topk_n[token] = em_topk_select(score, n, c->topk_cap, c->topk + token * c->topk_cap);
}

/* Takes tokens from `token` on, run by run, until the score buffer or the list of tiles is full; returns the next token.
 * Tokens are consecutive, so that picking can count from the first tile's. */
static int32_t fill_tiles(select_call *call, int32_t token)
{
    em_cpu *c = call->c;
    int64_t used = 0;
    call->n_tiles = 0;
    call->n_items = 0;
    while (token < c->n_tokens && call->n_tiles < MAX_TILES) {
        int32_t seq = c->seq_of[token], run_end = c->run_start[seq] + c->batch->seqs[seq].n_tokens;
        int32_t n = run_end - token < EM_SCORE_TOKENS ? run_end - token : EM_SCORE_TOKENS;
        while (n > 1 && used + (int64_t)n * visible(call, token + n - 1) > c->score_cap)
            n--;
        int64_t keys = visible(call, token + n - 1);
        if (used + n * keys > c->score_cap)
            break;
        call->tile[call->n_tiles++] = (score_tile){seq, token, n, (int32_t)keys, used, call->n_items};
        for (int32_t i = 0; i < n; i++)
            c->score_off[token + i] = used + i * keys;
        used += n * keys;
        call->n_items += (keys + EM_KEY_BLOCK - 1) / EM_KEY_BLOCK;
        token += n;
    }
    return token;
}

void em_cpu_select(em_cpu *c, int32_t layer)
{
    const em_model_config *cfg = c->cfg;
    const em_layer_role *role = &cfg->role[layer];
    select_call call = {.c = c,
                        .role = role,
                        .source = role->owner_source_idx,
                        .ratio = cfg->role[role->kv_owner].ratio,
                        .dot_scale = 1.0f / sqrtf((float)cfg->index_head_dim),
                        .weight_scale = 1.0f / sqrtf((float)cfg->index_n_heads)};
    for (int32_t token = 0; token < c->n_tokens;) {
        int32_t next = fill_tiles(&call, token);
        em_pool_run(c->pool, score_item, &call, call.n_items);
        em_pool_run(c->pool, pick_item, &call, next - token);
        token = next;
    }
}
