/* Who holds which slot and which KV blocks. Free slots and blocks lie on stacks, lowest number on top at the start, so
 * the same history of calls hands out the same numbers. A sequence is open exactly while its block table exists. */
#include "engine/kv_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BLOCKS 8 /* room of a fresh block table */

struct em_kv_cache {
    int32_t n_slots, n_blocks, block_tokens;
    int32_t *free_slot; /* [n_slots] stack */
    int32_t n_free_slots;
    int32_t *free_block; /* [n_blocks] stack */
    int32_t n_free_blocks;
    uint32_t *refs; /* [n_blocks] sequences that hold the block; 0: it is on the stack */
};

int em_kv_cache_new(int32_t n_slots, int32_t n_blocks, int32_t block_tokens, em_kv_cache **ret_cache)
{
    if (n_slots < 1 || n_blocks < 1 || block_tokens < 1)
        return -EINVAL;
    em_kv_cache *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->n_slots = c->n_free_slots = n_slots;
    c->n_blocks = c->n_free_blocks = n_blocks;
    c->block_tokens = block_tokens;
    c->free_slot = malloc((size_t)n_slots * sizeof(*c->free_slot));
    c->free_block = malloc((size_t)n_blocks * sizeof(*c->free_block));
    c->refs = calloc((size_t)n_blocks, sizeof(*c->refs));
    if (!c->free_slot || !c->free_block || !c->refs) {
        em_kv_cache_free(c);
        return -ENOMEM;
    }
    for (int32_t i = 0; i < n_slots; i++)
        c->free_slot[i] = n_slots - 1 - i;
    for (int32_t i = 0; i < n_blocks; i++)
        c->free_block[i] = n_blocks - 1 - i;
    *ret_cache = c;
    return 0;
}

em_kv_cache *em_kv_cache_free(em_kv_cache *c)
{
    if (!c)
        return NULL;
    free(c->free_slot);
    free(c->free_block);
    free(c->refs);
    free(c);
    return NULL;
}

int32_t em_kv_cache_block_tokens(const em_kv_cache *c)
{
    return c->block_tokens;
}

int32_t em_kv_cache_blocks(const em_kv_cache *c)
{
    return c->n_blocks;
}

int32_t em_kv_cache_free_blocks(const em_kv_cache *c)
{
    return c->n_free_blocks;
}

int32_t em_kv_cache_free_slots(const em_kv_cache *c)
{
    return c->n_free_slots;
}

int32_t em_kv_cache_blocks_for(const em_kv_cache *c, int32_t n_tokens)
{
    return n_tokens < 1 ? 0 : (n_tokens - 1) / c->block_tokens + 1;
}

int em_seq_kv_open(em_kv_cache *c, em_seq_kv *ret_kv)
{
    if (!c->n_free_slots)
        return -EAGAIN;
    int32_t *table = malloc(FIRST_BLOCKS * sizeof(*table));
    if (!table)
        return -ENOMEM;
    *ret_kv = (em_seq_kv){
        .slot = c->free_slot[--c->n_free_slots],
        .cap_blocks = FIRST_BLOCKS,
        .block_table = table,
    };
    return 0;
}

int em_seq_kv_reserve(em_kv_cache *c, em_seq_kv *kv, int32_t n_tokens)
{
    int32_t want = em_kv_cache_blocks_for(c, n_tokens);
    if (want <= kv->n_blocks)
        return 0;
    if (want - kv->n_blocks > c->n_free_blocks)
        return -EAGAIN;
    if (want > kv->cap_blocks) {
        /* twice the room, so that a sequence that grows block by block copies its table seldom */
        int64_t cap = 2 * (int64_t)kv->cap_blocks > want ? 2 * (int64_t)kv->cap_blocks : want;
        cap = cap < c->n_blocks ? cap : c->n_blocks;
        int32_t *table = realloc(kv->block_table, (size_t)cap * sizeof(*table));
        if (!table)
            return -ENOMEM;
        kv->block_table = table;
        kv->cap_blocks = (int32_t)cap;
    }
    while (kv->n_blocks < want) {
        int32_t block_id = c->free_block[--c->n_free_blocks];
        c->refs[block_id] = 1;
        kv->block_table[kv->n_blocks++] = block_id;
    }
    return 0;
}

void em_seq_kv_close(em_kv_cache *c, em_seq_kv *kv)
{
    if (kv->block_table) {
        /* last block first: the stack then gives them out again in position order */
        for (int32_t i = kv->n_blocks - 1; i >= 0; i--) {
            int32_t block_id = kv->block_table[i];
            if (--c->refs[block_id] == 0)
                c->free_block[c->n_free_blocks++] = block_id;
        }
        free(kv->block_table);
        c->free_slot[c->n_free_slots++] = kv->slot;
    }
    *kv = (em_seq_kv){.slot = -1};
}
