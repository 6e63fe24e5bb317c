/* Per-sequence state of the CPU backend: window rings and open groups in slots, compressed rows and index keys in KV
 * blocks. Rows are stored on their quantiser's grid (spec 3.5, 9): packing loses nothing, since the model itself only
 * sees quantised values. Where a width does not divide by the quantiser's block, the model skips it and rows are F32. */
#include "engine/cpu/cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Row sizes and offsets; no memory. */
static void layout(em_cpu_state *st, const em_model_config *cfg, int32_t block_tokens)
{
    size_t D = (size_t)cfg->head_dim, I = (size_t)cfg->index_head_dim;
    st->pack_window = D % 32 == 0;
    st->pack_comp = D % 16 == 0;
    st->pack_key = I % 32 == 0;
    st->window_row = st->pack_window ? D + D / 32 : 4 * D;
    st->comp_row = st->pack_comp ? D / 2 + D / 16 : 4 * D;
    st->key_row = st->pack_key ? I / 2 + I / 32 : 4 * I;
    st->window = cfg->window;
    st->block_tokens = block_tokens;
    size_t block = 0, slot = round_up((size_t)cfg->n_layers * (size_t)cfg->window * st->window_row, 64);
    for (int32_t s = 0; s < cfg->n_kv_sources; s++) {
        size_t ratio = (size_t)cfg->role[cfg->kv_source_layer[s]].ratio, rows = (size_t)block_tokens / ratio;
        if (st->comp_off) {
            st->comp_off[s] = block;
            st->key_off[s] = round_up(block + rows * st->comp_row, 64);
            st->open_off[s] = slot;
        }
        block = round_up(round_up(block + rows * st->comp_row, 64) + rows * st->key_row, 64);
        slot = round_up(slot + (ratio - 1) * 2 * D * sizeof(float), 64);
    }
    st->block_bytes = block ? block : 64;
    st->slot_bytes = slot;
}

em_state_bytes em_cpu_state_bytes(const em_model_config *cfg, int32_t block_tokens)
{
    em_cpu_state st = {0};
    layout(&st, cfg, block_tokens);
    return (em_state_bytes){.block = (int64_t)st.block_bytes, .slot = (int64_t)st.slot_bytes};
}

/* Zeroed address space that costs memory only once it is touched. */
static uint8_t *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int em_cpu_state_init(em_cpu_state *st, const em_model_config *cfg, const em_backend_shape *shape)
{
    size_t n = (size_t)(cfg->n_kv_sources ? cfg->n_kv_sources : 1);
    *st = (em_cpu_state){.comp_off = calloc(n, sizeof(size_t)),
                         .key_off = calloc(n, sizeof(size_t)),
                         .open_off = calloc(n, sizeof(size_t))};
    if (!st->comp_off || !st->key_off || !st->open_off) {
        em_cpu_state_done(st);
        return -ENOMEM;
    }
    layout(st, cfg, shape->block_tokens);
    st->blocks_size = st->block_bytes * (size_t)shape->n_blocks;
    st->blocks = reserve(st->blocks_size);
    st->slots_size = st->slot_bytes * ((size_t)shape->n_slots + (size_t)shape->n_snapshots);
    st->slots = reserve(st->slots_size);
    if (!st->blocks || !st->slots) {
        em_cpu_state_done(st);
        return -ENOMEM;
    }
    return 0;
}

void em_cpu_state_done(em_cpu_state *st)
{
    if (st->blocks)
        munmap(st->blocks, st->blocks_size);
    if (st->slots)
        munmap(st->slots, st->slots_size);
    free(st->comp_off);
    free(st->key_off);
    free(st->open_off);
    *st = (em_cpu_state){0};
}

void em_cpu_copy_slot(em_backend *be, int32_t from, int32_t to)
{
    const em_cpu_state *st = &((em_cpu *)be)->state;
    memcpy(st->slots + (size_t)to * st->slot_bytes, st->slots + (size_t)from * st->slot_bytes, st->slot_bytes);
}

void em_cpu_copy_block(em_backend *be, int32_t from, int32_t to)
{
    const em_cpu_state *st = &((em_cpu *)be)->state;
    memcpy(st->blocks + (size_t)to * st->block_bytes, st->blocks + (size_t)from * st->block_bytes, st->block_bytes);
}

uint8_t *em_cpu_ring_row(const em_cpu *c, int32_t slot, int32_t layer, int32_t pos)
{
    const em_cpu_state *st = &c->state;
    size_t row = (size_t)layer * (size_t)st->window + (size_t)(pos % st->window);
    return st->slots + (size_t)slot * st->slot_bytes + row * st->window_row;
}

float *em_cpu_open_group(const em_cpu *c, int32_t slot, int32_t source)
{
    return (float *)(void *)(c->state.slots + (size_t)slot * c->state.slot_bytes + c->state.open_off[source]);
}

/* Start of the block that holds compressed row j, and its row number inside. */
static uint8_t *block_of(const em_cpu *c, const em_seq_kv *kv, int32_t source, int32_t j, size_t *ret_row)
{
    int32_t ratio = c->cfg->role[c->cfg->kv_source_layer[source]].ratio;
    int32_t rows = c->state.block_tokens / ratio;
    *ret_row = (size_t)(j % rows);
    return c->state.blocks + (size_t)kv->block_table[j / rows] * c->state.block_bytes;
}

uint8_t *em_cpu_comp_row(const em_cpu *c, const em_seq_kv *kv, int32_t source, int32_t j)
{
    size_t row;
    uint8_t *block = block_of(c, kv, source, j, &row);
    return block + c->state.comp_off[source] + row * c->state.comp_row;
}

uint8_t *em_cpu_key_row(const em_cpu *c, const em_seq_kv *kv, int32_t source, int32_t j)
{
    size_t row;
    uint8_t *block = block_of(c, kv, source, j, &row);
    return block + c->state.key_off[source] + row * c->state.key_row;
}

void em_cpu_store_window(const em_cpu *c, uint8_t *row, const float *x)
{
    int64_t D = c->cfg->head_dim;
    if (c->state.pack_window)
        c->k.enc_e4m3_b32(x, D, row, row + D);
    else
        memcpy(row, x, (size_t)D * sizeof(float));
}

void em_cpu_load_window(const em_cpu *c, const uint8_t *row, float *x)
{
    int64_t D = c->cfg->head_dim;
    if (c->state.pack_window)
        c->k.dec_e4m3_b32(row, row + D, D, x);
    else
        memcpy(x, row, (size_t)D * sizeof(float));
}

void em_cpu_store_comp(const em_cpu *c, uint8_t *row, const float *x)
{
    int64_t D = c->cfg->head_dim;
    if (c->state.pack_comp)
        c->k.enc_e2m1_b16(x, D, row, row + D / 2);
    else
        memcpy(row, x, (size_t)D * sizeof(float));
}

void em_cpu_load_comp(const em_cpu *c, const uint8_t *row, float *x)
{
    int64_t D = c->cfg->head_dim;
    if (c->state.pack_comp)
        c->k.dec_e2m1_b16(row, row + D / 2, D, x);
    else
        memcpy(x, row, (size_t)D * sizeof(float));
}

void em_cpu_store_key(const em_cpu *c, uint8_t *row, const float *x)
{
    int64_t n = c->cfg->index_head_dim;
    if (c->state.pack_key)
        c->k.enc_e2m1_b32(x, n, row, row + n / 2);
    else
        memcpy(row, x, (size_t)n * sizeof(float));
}

void em_cpu_load_key(const em_cpu *c, const uint8_t *row, float *x)
{
    int64_t n = c->cfg->index_head_dim;
    if (c->state.pack_key)
        c->k.dec_e2m1_b32(row, row + n / 2, n, x);
    else
        memcpy(x, row, (size_t)n * sizeof(float));
}
