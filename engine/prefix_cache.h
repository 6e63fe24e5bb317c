/* Which KV blocks hold which tokens, and where a sequence can resume. Bookkeeping only: the bytes lie in the backend.
 *
 * A full block is known by all tokens from the start of the sequence to the block's end, and by the salt of its request.
 * It is found by a keyed hash, and it is taken only when the tokens and the salt themselves are equal, so neither a
 * collision nor a guess can give one tenant another's state. Blocks form a tree by their prefixes; they stay with the
 * KV cache as kept blocks and vanish when it evicts them.
 *
 * A sequence cannot resume at every boundary: its slot (window rings, open groups) must have been saved there. Such a
 * snapshot belongs to the block that ends at its position. There are few; the longest unused one gives way.
 *
 * Not thread-safe: the step thread owns it. Deterministic but for the key, which no result depends on. */
#ifndef EM_ENGINE_PREFIX_CACHE_H
#define EM_ENGINE_PREFIX_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/kv_cache.h"

/* A keyed hash of bytes. */
typedef uint64_t em_prefix_hash(const uint64_t key[2], const void *bytes, size_t len);
uint64_t em_siphash(const uint64_t key[2], const void *bytes, size_t len); /* SipHash-1-3 */

typedef struct em_prefix_opts {
    int32_t n_snapshots;
    uint64_t key[2];      /* secret: drawn at random for each process */
    em_prefix_hash *hash; /* em_siphash, or anything else: a weaker one makes it slower, not wrong */
} em_prefix_opts;

/* The tokens of a sequence and whose they are. */
typedef struct em_prefix_text {
    const int32_t *tokens;
    const char *salt;
    size_t salt_len;
} em_prefix_text;

/* Where a sequence can resume. */
typedef struct em_prefix_hit {
    int32_t n_tokens;      /* positions that need not be computed, whole blocks; 0: none */
    int32_t n_blocks;      /* of these positions */
    int32_t n_used_blocks; /* of these: held by some sequence already */
    int32_t block_id;      /* the last one */
    int32_t snapshot;      /* number of the saved slot */
} em_prefix_hit;

typedef struct em_prefix_cache em_prefix_cache;

/* kv must outlive the cache and serve no other one. -ENOMEM. */
int em_prefix_cache_new(em_kv_cache *kv, const em_prefix_opts *opts, em_prefix_cache **ret_cache);
em_prefix_cache *em_prefix_cache_free(em_prefix_cache *pc); /* NULL is fine; returns NULL */

/* The deepest place to resume within the first n_tokens. */
em_prefix_hit em_prefix_cache_find(const em_prefix_cache *pc, const em_prefix_text *text, int32_t n_tokens);
/* Gives the blocks of a hit, just found, to a sequence without blocks, and counts its snapshot as used. -ENOMEM. */
int em_prefix_cache_use(em_prefix_cache *pc, const em_prefix_hit *hit, em_seq_kv *kv);

/* Makes blocks first .. n_blocks - 1 of a sequence, which are full, findable; those before are so already. Where an
 * equal block is known, the sequence gets that one instead of its own. Returns how many blocks from the start on are
 * known now: fewer than n_blocks when memory runs out. */
int32_t em_prefix_cache_put(em_prefix_cache *pc, const em_prefix_text *text, em_seq_kv *kv, int32_t first,
                            int32_t n_blocks);

/* A snapshot is taken before it is filled, and put behind a block once that is known, or given back.
 *
 * take: the number of one that nobody finds from now on: a free one, or the longest unused; -1: there is none. owner:
 * the sequence that moves its snapshot along, whose earlier one it is then, unless somebody resumed from that. 0: nobody's. */
int32_t em_prefix_cache_take_snapshot(em_prefix_cache *pc, uint64_t owner);
/* Where the block has a snapshot already, this one becomes free. */
void em_prefix_cache_put_snapshot(em_prefix_cache *pc, int32_t snapshot, int32_t block_id, uint64_t owner);
void em_prefix_cache_give_back_snapshot(em_prefix_cache *pc, int32_t snapshot);

#endif
