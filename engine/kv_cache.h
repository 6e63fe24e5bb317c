/* Bookkeeping of per-sequence state: which slot and which KV blocks a sequence holds. No tensor data here: the backend
 * keeps the bytes, addressed by slot and block id.
 *
 * A slot holds what has a fixed size per sequence: the window rings and the open groups of the compressors. A KV block
 * holds the compressed rows and index keys of block_tokens consecutive positions, for all KV-source layers together.
 * Blocks carry reference counts, so that sequences can share a prefix. A block whose content may be wanted again is
 * marked as kept: when its last sequence lets it go it stays as it is, and is only given to another one when no plain
 * free block is left, the longest unused one first.
 *
 * Not thread-safe: the step thread owns it. Only what is fixed at the start (sizes, em_kv_cache_blocks_for) may be
 * asked by any thread. */
#ifndef EM_ENGINE_KV_CACHE_H
#define EM_ENGINE_KV_CACHE_H

#include <stdint.h>

typedef struct em_seq_kv {
    int32_t slot; /* -1: none */
    int32_t n_blocks;
    int32_t cap_blocks;
    int32_t *block_table; /* [cap_blocks] block ids in position order; NULL: not open */
} em_seq_kv;

typedef struct em_kv_cache em_kv_cache;

int em_kv_cache_new(int32_t n_slots, int32_t n_blocks, int32_t block_tokens,
                    em_kv_cache **ret_cache);  /* -EINVAL a size below 1; -ENOMEM */
em_kv_cache *em_kv_cache_free(em_kv_cache *c); /* NULL is fine; returns NULL */

int32_t em_kv_cache_block_tokens(const em_kv_cache *c);
int32_t em_kv_cache_blocks(const em_kv_cache *c);
int32_t em_kv_cache_free_blocks(const em_kv_cache *c);             /* held by no sequence, kept ones included */
int32_t em_kv_cache_idle_blocks(const em_kv_cache *c);             /* of these: kept */
uint32_t em_kv_cache_refs(const em_kv_cache *c, int32_t block_id); /* sequences that hold it */
int32_t em_kv_cache_free_slots(const em_kv_cache *c);
int32_t em_kv_cache_blocks_for(const em_kv_cache *c, int32_t n_tokens); /* blocks that cover n_tokens positions */

/* Takes a slot. kv must be zeroed or closed. -EAGAIN: no slot is free; -ENOMEM. */
int em_seq_kv_open(em_kv_cache *c, em_seq_kv *ret_kv);
/* Appends a block that others hold or that is kept. -ENOMEM. */
int em_seq_kv_share(em_kv_cache *c, em_seq_kv *kv, int32_t block_id);
/* Puts a block of equal content in the place of block i. */
void em_seq_kv_replace(em_kv_cache *c, em_seq_kv *kv, int32_t i, int32_t block_id);
/* Makes the block table cover n_tokens positions. -EAGAIN: not enough free blocks (nothing is taken); -ENOMEM. */
int em_seq_kv_reserve(em_kv_cache *c, em_seq_kv *kv, int32_t n_tokens);
/* Returns slot and blocks; slot is -1 afterwards. Fine with a closed struct and a zeroed one that was never opened. */
void em_seq_kv_close(em_kv_cache *c, em_seq_kv *kv);

/* --- kept blocks -------------------------------------------------------------------------------------------- */

/* Marks a block that a sequence holds. */
void em_kv_cache_keep(em_kv_cache *c, int32_t block_id);
/* Called when a kept block is about to be given away; it is not kept any more. */
void em_kv_cache_on_evict(em_kv_cache *c, void (*fn)(void *ctx, int32_t block_id), void *ctx);

#endif
