/* Per-sequence state of the CPU backend: window rings and open groups in slots, compressed rows and index keys in KV
 * blocks, at the places that engine/state_layout.h gives. */
#include "engine/cpu/cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

em_state_bytes em_cpu_state_bytes(const em_model_config *cfg, int32_t block_tokens)
{
    em_state_layout at;
    em_state_layout_init(&at, cfg, block_tokens);
    return (em_state_bytes){.block = (int64_t)at.block_bytes, .slot = (int64_t)at.slot_bytes};
}

/* Zeroed address space that costs memory only once it is touched. */
static uint8_t *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int em_cpu_state_init(em_cpu_state *st, const em_model_config *cfg, const em_backend_shape *shape)
{
    *st = (em_cpu_state){.blocks = NULL};
    em_state_layout_init(&st->at, cfg, shape->block_tokens);
    st->blocks_size = st->at.block_bytes * (size_t)shape->n_blocks;
    st->blocks = reserve(st->blocks_size);
    st->slots_size = st->at.slot_bytes * ((size_t)shape->n_slots + (size_t)shape->n_snapshots);
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
    *st = (em_cpu_state){0};
}

void em_cpu_copy_slot(em_backend *be, int32_t from, int32_t to)
{
    const em_cpu_state *st = &((em_cpu *)be)->state;
    memcpy(st->slots + (size_t)to * st->at.slot_bytes, st->slots + (size_t)from * st->at.slot_bytes, st->at.slot_bytes);
}

void em_cpu_copy_block(em_backend *be, int32_t from, int32_t to)
{
    const em_cpu_state *st = &((em_cpu *)be)->state;
    memcpy(st->blocks + (size_t)to * st->at.block_bytes, st->blocks + (size_t)from * st->at.block_bytes,
           st->at.block_bytes);
}

uint8_t *em_cpu_ring_row(const em_cpu *c, int32_t slot, int32_t layer, int32_t pos)
{
    const em_cpu_state *st = &c->state;
    size_t row = (size_t)layer * (size_t)st->at.window + (size_t)(pos % st->at.window);
    return st->slots + (size_t)slot * st->at.slot_bytes + row * st->at.window_row;
}

float *em_cpu_open_group(const em_cpu *c, int32_t slot, int32_t source)
{
    return (float *)(void *)(c->state.slots + (size_t)slot * c->state.at.slot_bytes + c->state.at.open_off[source]);
}

/* Start of the block that holds compressed row j, and its row number inside. */
static uint8_t *block_of(const em_cpu *c, const em_seq_kv *kv, int32_t source, int32_t j, size_t *ret_row)
{
    int32_t ratio = c->cfg->role[c->cfg->kv_source_layer[source]].ratio;
    int32_t rows = c->state.at.block_tokens / ratio;
    *ret_row = (size_t)(j % rows);
    return c->state.blocks + (size_t)kv->block_table[j / rows] * c->state.at.block_bytes;
}

uint8_t *em_cpu_comp_row(const em_cpu *c, const em_seq_kv *kv, int32_t source, int32_t j)
{
    size_t row;
    uint8_t *block = block_of(c, kv, source, j, &row);
    return block + c->state.at.comp_off[source] + row * c->state.at.comp_row;
}

uint8_t *em_cpu_key_row(const em_cpu *c, const em_seq_kv *kv, int32_t source, int32_t j)
{
    size_t row;
    uint8_t *block = block_of(c, kv, source, j, &row);
    return block + c->state.at.key_off[source] + row * c->state.at.key_row;
}

void em_cpu_store_window(const em_cpu *c, uint8_t *row, const float *x)
{
    int64_t D = c->cfg->head_dim;
    if (c->state.at.pack_window)
        c->k.enc_e4m3_b32(x, D, row, row + D);
    else
        memcpy(row, x, (size_t)D * sizeof(float));
}

void em_cpu_load_window(const em_cpu *c, const uint8_t *row, float *x)
{
    int64_t D = c->cfg->head_dim;
    if (c->state.at.pack_window)
        c->k.dec_e4m3_b32(row, row + D, D, x);
    else
        memcpy(x, row, (size_t)D * sizeof(float));
}

void em_cpu_store_comp(const em_cpu *c, uint8_t *row, const float *x)
{
    int64_t D = c->cfg->head_dim;
    if (c->state.at.pack_comp)
        c->k.enc_e2m1_b16(x, D, row, row + D / 2);
    else
        memcpy(row, x, (size_t)D * sizeof(float));
}

void em_cpu_load_comp(const em_cpu *c, const uint8_t *row, float *x)
{
    int64_t D = c->cfg->head_dim;
    if (c->state.at.pack_comp)
        c->k.dec_e2m1_b16(row, row + D / 2, D, x);
    else
        memcpy(x, row, (size_t)D * sizeof(float));
}

void em_cpu_store_key(const em_cpu *c, uint8_t *row, const float *x)
{
    int64_t n = c->cfg->index_head_dim;
    if (c->state.at.pack_key)
        c->k.enc_e2m1_b32(x, n, row, row + n / 2);
    else
        memcpy(row, x, (size_t)n * sizeof(float));
}

void em_cpu_load_key(const em_cpu *c, const uint8_t *row, float *x)
{
    int64_t n = c->cfg->index_head_dim;
    if (c->state.at.pack_key)
        c->k.dec_e2m1_b32(row, row + n / 2, n, x);
    else
        memcpy(x, row, (size_t)n * sizeof(float));
}
