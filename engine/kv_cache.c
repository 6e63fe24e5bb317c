/* Who holds which slot and which KV blocks. Free slots and blocks lie on stacks, lowest number on top at the start, so
 * the same history of calls hands out the same numbers. A sequence is open exactly while its block table exists.
 *
 * Kept blocks without a holder stand in a ring in order of their release. A sequence lets its blocks go from the last
 * to the first, and holds whatever stands before a block it shares: so the head of the ring never is the prefix of
 * another kept block, and evicting from there takes leaves first. */
#include "engine/kv_cache.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BLOCKS 8 /* room of a fresh block table */

typedef struct idle_link {
    int32_t prev, next;
} idle_link;

struct em_kv_cache {
    int32_t n_slots, n_blocks, block_tokens;
    int32_t *free_slot; /* [n_slots] stack */
    int32_t n_free_slots;
    int32_t *free_block; /* [n_blocks] stack */
    int32_t n_free_blocks;
    uint32_t *refs;  /* [n_blocks] sequences that hold the block; 0: it is on the stack or idle */
    bool *kept;      /* [n_blocks] */
    int32_t n_idle;  /* kept blocks without a holder */
    idle_link *idle; /* [n_blocks + 1] ring of these; the last one is its anchor */
    void (*on_evict)(void *ctx, int32_t block_id);
    void *evict_ctx;
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
    c->kept = calloc((size_t)n_blocks, sizeof(*c->kept));
    c->idle = calloc((size_t)n_blocks + 1, sizeof(*c->idle));
    if (!c->free_slot || !c->free_block || !c->refs || !c->kept || !c->idle) {
        em_kv_cache_free(c);
        return -ENOMEM;
    }
    for (int32_t i = 0; i < n_slots; i++)
        c->free_slot[i] = n_slots - 1 - i;
    for (int32_t i = 0; i < n_blocks; i++)
        c->free_block[i] = n_blocks - 1 - i;
    c->idle[n_blocks] = (idle_link){n_blocks, n_blocks};
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
    free(c->kept);
    free(c->idle);
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
    return c->n_free_blocks + c->n_idle;
}

int32_t em_kv_cache_idle_blocks(const em_kv_cache *c)
{
    return c->n_idle;
}

uint32_t em_kv_cache_refs(const em_kv_cache *c, int32_t block_id)
{
    return c->refs[block_id];
}

int32_t em_kv_cache_free_slots(const em_kv_cache *c)
{
    return c->n_free_slots;
}

int32_t em_kv_cache_blocks_for(const em_kv_cache *c, int32_t n_tokens)
{
    return n_tokens < 1 ? 0 : (n_tokens - 1) / c->block_tokens + 1;
}

/* --- blocks ------------------------------------------------------------------------------------------------- */

static void idle_push(em_kv_cache *c, int32_t block_id)
{
    int32_t anchor = c->n_blocks, last = c->idle[anchor].prev;
    c->idle[block_id] = (idle_link){last, anchor};
    c->idle[last].next = block_id;
    c->idle[anchor].prev = block_id;
    c->n_idle++;
}

static void idle_remove(em_kv_cache *c, int32_t block_id)
{
    idle_link l = c->idle[block_id];
    c->idle[l.prev].next = l.next;
    c->idle[l.next].prev = l.prev;
    c->n_idle--;
}

/* A block for a new holder; there must be one. */
static int32_t take_block(em_kv_cache *c)
{
    int32_t block_id;
    if (c->n_free_blocks) {
        block_id = c->free_block[--c->n_free_blocks];
    } else {
        block_id = c->idle[c->n_blocks].next;
        idle_remove(c, block_id);
        c->kept[block_id] = false;
        if (c->on_evict)
            c->on_evict(c->evict_ctx, block_id);
    }
    c->refs[block_id] = 1;
    return block_id;
}

static void hold_block(em_kv_cache *c, int32_t block_id)
{
    if (c->refs[block_id]++ == 0)
        idle_remove(c, block_id);
}

static void drop_block(em_kv_cache *c, int32_t block_id)
{
    if (--c->refs[block_id])
        return;
    if (c->kept[block_id])
        idle_push(c, block_id);
    else
        c->free_block[c->n_free_blocks++] = block_id;
}

void em_kv_cache_keep(em_kv_cache *c, int32_t block_id)
{
    c->kept[block_id] = true;
}

void em_kv_cache_on_evict(em_kv_cache *c, void (*fn)(void *ctx, int32_t block_id), void *ctx)
{
    c->on_evict = fn;
    c->evict_ctx = ctx;
}

/* --- sequences ---------------------------------------------------------------------------------------------- */

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

/* Room for `want` blocks: twice what there is, so that a sequence that grows block by block copies its table seldom. */
static int grow_table(em_kv_cache *c, em_seq_kv *kv, int32_t want)
{
    if (want <= kv->cap_blocks)
        return 0;
    int64_t cap = 2 * (int64_t)kv->cap_blocks > want ? 2 * (int64_t)kv->cap_blocks : want;
    cap = cap < c->n_blocks ? cap : c->n_blocks;
    int32_t *table = realloc(kv->block_table, (size_t)cap * sizeof(*table));
    if (!table)
        return -ENOMEM;
    kv->block_table = table;
    kv->cap_blocks = (int32_t)cap;
    return 0;
}

int em_seq_kv_share(em_kv_cache *c, em_seq_kv *kv, int32_t block_id)
{
    int rc = grow_table(c, kv, kv->n_blocks + 1);
    if (rc)
        return rc;
    hold_block(c, block_id);
    kv->block_table[kv->n_blocks++] = block_id;
    return 0;
}

void em_seq_kv_replace(em_kv_cache *c, em_seq_kv *kv, int32_t i, int32_t block_id)
{
    hold_block(c, block_id);
    drop_block(c, kv->block_table[i]);
    kv->block_table[i] = block_id;
}

int em_seq_kv_reserve(em_kv_cache *c, em_seq_kv *kv, int32_t n_tokens)
{
    int32_t want = em_kv_cache_blocks_for(c, n_tokens);
    if (want <= kv->n_blocks)
        return 0;
    if (want - kv->n_blocks > em_kv_cache_free_blocks(c))
        return -EAGAIN;
    int rc = grow_table(c, kv, want);
    if (rc)
        return rc;
    while (kv->n_blocks < want)
        kv->block_table[kv->n_blocks++] = take_block(c);
    return 0;
}

void em_seq_kv_close(em_kv_cache *c, em_seq_kv *kv)
{
    if (kv->block_table) {
        /* last block first: the stack then gives them out again in position order, and leaves are evicted first */
        for (int32_t i = kv->n_blocks - 1; i >= 0; i--)
            drop_block(c, kv->block_table[i]);
        free(kv->block_table);
        c->free_slot[c->n_free_slots++] = kv->slot;
    }
    *kv = (em_seq_kv){.slot = -1};
}
