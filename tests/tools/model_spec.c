/* Which model: presets, and random points of the space of valid configurations. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/tools/model_writer.h"

static void set_common(model_spec *s, uint64_t seed)
{
    memset(s, 0, sizeof(*s));
    s->seed = seed;
    s->storage = MODEL_RELEASED;
    s->n_shards = 1;
    s->nested = true;
    s->add_bos = true;
    em_model_config *c = &s->c;
    c->rope_theta = 10000.0f;
    c->compress_rope_theta = 160000.0f;
    c->yarn = true;
    c->yarn_factor = 16;
    c->yarn_beta_fast = 32;
    c->yarn_beta_slow = 1;
    c->yarn_original_len = 32;
    c->max_len = 512;
    c->candidate_source_layer = -1;
    c->scoring = EM_SCORE_SQRTSOFTPLUS;
    c->gate_temp = 1;
    c->norm_topk_prob = true;
    c->routed_scaling_factor = 1.5f;
    c->swiglu_limit = 10;
    c->hc_mult = 4;
    c->hc_sinkhorn_iters = 20;
    c->hc_eps = 1e-6f;
    c->norm_eps = 1e-20f;
    c->engram_pad_id = 8; /* whose class is not its id: a mix-up of the two shows */
    c->bos_id = 0;
    c->eos_id = 1;
    c->pad_id = 2;
}

void model_spec_schedule(model_spec *s, int32_t n)
{
    em_model_config *c = &s->c;
    c->n_layers = n;
    c->n_kv_sources = 0;
    c->candidate_source_layer = -1;
    memset(c->role, 0, sizeof(c->role));
    int32_t n_window = n > 3 ? 2 : n > 1 ? 1 : 0, first_one = n_window + (n - n_window) / 2;
    for (int32_t i = n_window; i < n; i++) {
        bool is_kv = i == n_window || i == first_one;
        c->role[i].ratio = i < first_one ? 2 : 1;
        c->role[i].is_index_source = is_kv || (i > first_one && (i - first_one) % 4 == 1);
        if (is_kv)
            c->kv_source_layer[c->n_kv_sources++] = i;
    }
    if (first_one < n)
        c->candidate_source_layer = first_one;
    c->n_engram_layers = n > 1 ? 2 : 1;
    c->engram_layer[0] = n > 1 ? 1 : 0;
    c->engram_layer[1] = n - 1 > 1 ? n / 2 + (n < 4) : 1;
    if (n == 2)
        c->n_engram_layers = 1;
}

typedef struct preset {
    const char *name;
    int32_t layers, vocab, tokenizer, hidden, heads, head_dim, rope_dim, q_lora, o_groups, o_lora, window;
    int32_t index_heads, index_dim, topk, blocks, block, experts, per_tok, inter;
    int32_t engram_vocab, engram_heads, engram_dim, max_len;
} preset;

static const preset presets[] = {
    {"tiny", 6, 320, 300, 64, 4, 32, 8, 32, 2, 16, 8, 2, 32, 6, 3, 4, 4, 2, 32, 50, 2, 32, 512},
    {"s", 6, 4096, 4000, 384, 6, 64, 16, 128, 2, 64, 64, 4, 32, 64, 16, 8, 16, 4, 192, 90000, 4, 32, 4096},
    {"m", 10, 16384, 16000, 2048, 32, 128, 32,  512,     4, 512, 128,
     8,   64, 512,   256,   8,    64, 6,   768, 1260000, 4, 128, 32768},
    {"l", 18, 32768, 32000, 2560, 40, 128, 32,   768,     4, 640, 128,
     8,   64, 512,   256,   8,    96, 6,   1024, 1260000, 8, 128, 65536},
};

int model_spec_preset(model_spec *s, const char *name, uint64_t seed)
{
    const preset *p = NULL;
    for (size_t i = 0; i < sizeof(presets) / sizeof(*presets); i++)
        if (strcmp(presets[i].name, name) == 0)
            p = &presets[i];
    if (!p)
        return -EINVAL;
    set_common(s, seed);
    em_model_config *c = &s->c;
    s->tokenizer_size = p->tokenizer;
    s->spare_rows = 7;
    c->vocab_size = p->vocab;
    c->hidden_size = p->hidden;
    c->max_len = p->max_len;
    c->yarn_original_len = p->max_len / 16;
    c->n_heads = p->heads;
    c->head_dim = p->head_dim;
    c->rope_dim = p->rope_dim;
    c->q_lora_rank = p->q_lora;
    c->o_groups = p->o_groups;
    c->o_lora_rank = p->o_lora;
    c->window = p->window;
    c->index_n_heads = p->index_heads;
    c->index_head_dim = p->index_dim;
    c->index_topk = p->topk;
    c->candidate_topk_blocks = p->blocks;
    c->candidate_block_size = p->block;
    c->n_experts = p->experts;
    c->n_experts_per_tok = p->per_tok;
    c->moe_inter = p->inter;
    c->engram_vocab_size = p->engram_vocab;
    c->engram_max_order = 4;
    c->engram_n_heads = p->engram_heads;
    c->engram_head_dim = p->engram_dim;
    model_spec_schedule(s, p->layers);
    return 0;
}

/* --- random --------------------------------------------------------------------------------------------------- */

static bool chance(model_rng *r, int32_t percent)
{
    return model_rng_range(r, 1, 100) <= percent;
}

static int32_t pick(model_rng *r, const int32_t *list, int32_t n)
{
    return list[model_rng_range(r, 0, n - 1)];
}

#define PICK(r, ...)                                                                                                   \
    pick(r, (const int32_t[]){__VA_ARGS__}, (int32_t)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

/* Layer by layer, keeping the rules of the format: a layer with a ratio needs a source of that ratio before it. */
static void draw_layers(model_rng *r, em_model_config *c)
{
    c->n_layers = model_rng_range(r, 1, 8);
    int32_t ratio = 0, owner_ratio = 0;
    for (int32_t i = 0; i < c->n_layers; i++) {
        if (i == 0 || chance(r, 45))
            ratio = PICK(r, 0, 0, 1, 1, 2, 2, 3, 4);
        em_layer_role *role = &c->role[i];
        role->ratio = ratio;
        if (ratio == 0)
            continue;
        bool is_kv = owner_ratio != ratio || chance(r, 20);
        if (is_kv) {
            c->kv_source_layer[c->n_kv_sources++] = i;
            owner_ratio = ratio;
        }
        role->is_index_source = is_kv || chance(r, 40);
    }
    /* a candidate source whose later index sources share its ratio */
    for (int32_t i = c->n_layers - 1; i >= 0; i--) {
        if (!c->role[i].is_index_source)
            continue;
        if (c->role[i].ratio != owner_ratio)
            break;
        if (chance(r, 50))
            c->candidate_source_layer = i;
    }
}

static void draw_attention(model_rng *r, em_model_config *c)
{
    c->n_heads = model_rng_range(r, 1, 7);
    c->head_dim = PICK(r, 6, 8, 12, 16, 20, 24, 32, 32, 40, 48, 64);
    c->index_head_dim = PICK(r, 6, 8, 12, 20, 32, 32, 48, 64);
    int32_t narrow = c->head_dim < c->index_head_dim ? c->head_dim : c->index_head_dim;
    c->rope_dim = 2 * model_rng_range(r, 1, narrow / 2 < 8 ? narrow / 2 : 8);
    c->q_lora_rank = model_rng_range(r, 4, 48);
    do
        c->o_groups = model_rng_range(r, 1, c->n_heads);
    while (c->n_heads * c->head_dim % c->o_groups);
    c->o_lora_rank = model_rng_range(r, 3, 24);
    c->window = PICK(r, 1, 2, 3, 5, 5, 8, 13, 16);
    c->index_n_heads = model_rng_range(r, 1, 5);
    c->index_topk = PICK(r, 1, 2, 3, 5, 8, 500);
    c->candidate_topk_blocks = model_rng_range(r, 1, 4);
    c->candidate_block_size = model_rng_range(r, 1, 5);
    c->yarn = chance(r, 50);
    c->yarn_factor = (float)PICK(r, 1, 2, 4, 16);
    c->yarn_original_len = PICK(r, 8, 16, 32, 64);
    c->yarn_beta_fast = (float)PICK(r, 32, 4);
    c->rope_theta = (float)PICK(r, 10000, 100);
    c->compress_rope_theta = (float)PICK(r, 160000, 500);
}

static void draw_moe(model_rng *r, em_model_config *c)
{
    c->n_experts = model_rng_range(r, 1, 9);
    c->n_experts_per_tok = chance(r, 25) ? 1 : chance(r, 25) ? c->n_experts : model_rng_range(r, 1, c->n_experts);
    c->moe_inter = PICK(r, 8, 10, 24, 32, 33, 64);
    c->scoring = (em_scoring)model_rng_range(r, 0, 2);
    c->norm_topk_prob = chance(r, 70);
    c->gate_temp = chance(r, 70) ? 1.0f : 0.7f;
    c->routed_scaling_factor = (float)PICK(r, 1, 2, 3) * 0.5f;
    c->swiglu_limit = (float)PICK(r, 10, 10, 1, 0);
}

static void draw_engram(model_rng *r, model_spec *s)
{
    em_model_config *c = &s->c;
    c->engram_vocab_size = model_rng_range(r, 5, 150);
    c->engram_max_order = model_rng_range(r, 2, 5);
    c->engram_n_heads = model_rng_range(r, 1, 4);
    c->engram_head_dim = PICK(r, 1, 5, 10, 16, 20, 32, 32, 64);
    c->engram_pad_id = model_rng_range(r, 0, 40);
    s->spare_rows = PICK(r, 0, 0, 1, 13);
    int32_t want = PICK(r, 0, 1, 2, 3);
    for (int32_t i = 0; i < c->n_layers && c->n_engram_layers < want; i++)
        if (c->n_layers - i <= want - c->n_engram_layers || chance(r, 40))
            c->engram_layer[c->n_engram_layers++] = i;
}

void model_spec_random(model_spec *s, uint64_t seed)
{
    model_rng r = model_rng_init(seed, "spec");
    set_common(s, seed);
    em_model_config *c = &s->c;
    draw_layers(&r, c);
    draw_attention(&r, c);
    draw_moe(&r, c);
    draw_engram(&r, s);
    c->hidden_size = chance(&r, 40) ? PICK(&r, 32, 64, 96) : model_rng_range(&r, 5, 80);
    c->hc_mult = model_rng_range(&r, 1, 4);
    c->hc_sinkhorn_iters = PICK(&r, 1, 2, 7, 20);
    c->max_len = PICK(&r, 128, 200, 512);
    s->tokenizer_size = MODEL_MIN_TOKENIZER + model_rng_range(&r, 0, 80);
    c->vocab_size = s->tokenizer_size + PICK(&r, 0, 0, 1, 7);
    s->storage = (model_storage)model_rng_range(&r, 0, 2);
    s->n_shards = PICK(&r, 1, 1, 2, 5);
    s->nested = chance(&r, 50);
    s->vendor_spelling = !s->nested && chance(&r, 30);
    s->model_prefix = chance(&r, 30);
    s->foreign = chance(&r, 30);
    s->float_scales = chance(&r, 50);
    s->packed_layout = chance(&r, 50);
    s->add_bos = chance(&r, 50);
}

const char *model_spec_describe(const model_spec *s, char *buf, size_t cap)
{
    static const char *const storage[] = {"f32", "bf16", "released"};
    const em_model_config *c = &s->c;
    char ratios[4 * 16 + 1] = "";
    for (int32_t i = 0, at = 0; i < c->n_layers && i < 16; i++)
        at += snprintf(ratios + at, sizeof(ratios) - (size_t)at, "%d%s", c->role[i].ratio,
                       c->role[i].is_index_source ? "i" : "");
    snprintf(buf, cap,
             "seed %llu %s layers %s kv %d cand %d H %d heads %dx%d rope %d idx %dx%d top %d win %d groups %d experts "
             "%d/%d inter %d hc %d "
             "engram %d order %d heads %dx%d yarn %d",
             (unsigned long long)s->seed, storage[s->storage], ratios, c->n_kv_sources, c->candidate_source_layer,
             c->hidden_size, c->n_heads, c->head_dim, c->rope_dim, c->index_n_heads, c->index_head_dim, c->index_topk,
             c->window, c->o_groups, c->n_experts_per_tok, c->n_experts, c->moe_inter, c->hc_mult, c->n_engram_layers,
             c->engram_max_order, c->engram_n_heads, c->engram_head_dim, c->yarn);
    return buf;
}
