#include "engine/state_layout.h"

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

void em_state_layout_init(em_state_layout *l, const em_model_config *cfg, int32_t block_tokens)
{
    size_t D = (size_t)cfg->head_dim, I = (size_t)cfg->index_head_dim;
    *l = (em_state_layout){.pack_window = D % 32 == 0, .pack_comp = D % 16 == 0, .pack_key = I % 32 == 0};
    l->window_row = l->pack_window ? D + D / 32 : 4 * D;
    l->comp_row = l->pack_comp ? D / 2 + D / 16 : 4 * D;
    l->key_row = l->pack_key ? I / 2 + I / 32 : 4 * I;
    l->window = cfg->window;
    l->block_tokens = block_tokens;
    size_t block = 0, slot = round_up((size_t)cfg->n_layers * (size_t)cfg->window * l->window_row, 64);
    for (int32_t s = 0; s < cfg->n_kv_sources; s++) {
        size_t ratio = (size_t)cfg->role[cfg->kv_source_layer[s]].ratio, rows = (size_t)block_tokens / ratio;
        l->comp_off[s] = block;
        l->key_off[s] = round_up(block + rows * l->comp_row, 64);
        l->open_off[s] = slot;
        block = round_up(l->key_off[s] + rows * l->key_row, 64);
        slot = round_up(slot + (ratio - 1) * 2 * D * sizeof(float), 64);
    }
    l->block_bytes = block ? block : 64;
    l->slot_bytes = slot;
}
