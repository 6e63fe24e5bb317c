/* Known blocks by their prefixes, and snapshots. */
#include "engine/prefix_cache.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = -1 };
#define TAKEN UINT64_MAX /* used_at of a snapshot that is being filled */

/* What is known of a KV block; the node's number is the block's. */
typedef struct node {
    int32_t parent;      /* block before it; NONE: the first of its sequence */
    int32_t bucket_next; /* NONE: the last */
    int32_t snapshot;    /* NONE: no place to resume */
    uint64_t hash;       /* of all tokens to its end, and the salt */
    char *salt;          /* first blocks only */
    size_t salt_len;
} node;

typedef struct snapshot {
    int32_t block_id; /* NONE: free */
    uint64_t owner;   /* 0: nobody's */
    uint64_t used_at; /* tick of the last use; 0: never, or free; TAKEN */
} snapshot;

struct em_prefix_cache {
    em_kv_cache *kv;
    em_prefix_opts opts;
    int32_t block_tokens;
    node *nodes;     /* [n_blocks] */
    int32_t *tokens; /* [n_blocks, block_tokens] */
    int32_t *bucket; /* [n_buckets] first node or NONE; n_buckets is a power of two */
    uint32_t n_buckets;
    snapshot *snapshots; /* [n_snapshots] */
    uint64_t tick;
    unsigned char *scratch; /* hash of the prefix, then the tokens of a block */
};

/* --- hash --------------------------------------------------------------------------------------------------- */

static uint64_t rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

static void sip_word(uint64_t v[4], uint64_t word)
{
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
}

uint64_t em_siphash(const uint64_t key[2], const void *bytes, size_t len)
{
    const unsigned char *at = bytes;
    uint64_t v[4] = {key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
                     key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573)};
    uint64_t word, last = (uint64_t)len << 56;
    size_t left = len;
    for (; left >= 8; left -= 8, at += 8) {
        memcpy(&word, at, 8);
        sip_word(v, word);
    }
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)at[i] << 8 * i;
    sip_word(v, last);
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static uint64_t hash_salt(const em_prefix_cache *pc, const em_prefix_text *text)
{
    return pc->opts.hash(pc->opts.key, text->salt_len ? text->salt : "", text->salt_len);
}

static uint64_t hash_block(const em_prefix_cache *pc, uint64_t prefix, const int32_t *tokens)
{
    size_t bytes = (size_t)pc->block_tokens * sizeof(*tokens);
    memcpy(pc->scratch, &prefix, sizeof(prefix));
    memcpy(pc->scratch + sizeof(prefix), tokens, bytes);
    return pc->opts.hash(pc->opts.key, pc->scratch, sizeof(prefix) + bytes);
}

/* --- opening ------------------------------------------------------------------------------------------------ */

static void forget_block(void *ctx, int32_t block_id);

int em_prefix_cache_new(em_kv_cache *kv, const em_prefix_opts *opts, em_prefix_cache **ret_cache)
{
    em_prefix_cache *pc = calloc(1, sizeof(*pc));
    if (!pc)
        return -ENOMEM;
    size_t n_blocks = (size_t)em_kv_cache_blocks(kv);
    pc->opts = *opts;
    pc->block_tokens = em_kv_cache_block_tokens(kv);
    for (pc->n_buckets = 1; pc->n_buckets < n_blocks;)
        pc->n_buckets *= 2;
    size_t block_bytes = (size_t)pc->block_tokens * sizeof(*pc->tokens);
    pc->nodes = calloc(n_blocks, sizeof(*pc->nodes));
    pc->tokens = malloc(n_blocks * block_bytes);
    pc->bucket = malloc(pc->n_buckets * sizeof(*pc->bucket));
    pc->snapshots = calloc((size_t)opts->n_snapshots + 1, sizeof(*pc->snapshots));
    pc->scratch = malloc(sizeof(uint64_t) + block_bytes);
    if (!pc->nodes || !pc->tokens || !pc->bucket || !pc->snapshots || !pc->scratch) {
        em_prefix_cache_free(pc);
        return -ENOMEM;
    }
    memset(pc->bucket, 0xff, pc->n_buckets * sizeof(*pc->bucket));
    for (int32_t i = 0; i < opts->n_snapshots; i++)
        pc->snapshots[i].block_id = NONE;
    pc->kv = kv;
    em_kv_cache_on_evict(kv, forget_block, pc);
    *ret_cache = pc;
    return 0;
}

em_prefix_cache *em_prefix_cache_free(em_prefix_cache *pc)
{
    if (!pc)
        return NULL;
    if (pc->kv) {
        em_kv_cache_on_evict(pc->kv, NULL, NULL);
        for (int32_t i = 0; i < em_kv_cache_blocks(pc->kv); i++)
            free(pc->nodes[i].salt);
    }
    free(pc->nodes);
    free(pc->tokens);
    free(pc->bucket);
    free(pc->snapshots);
    free(pc->scratch);
    free(pc);
    return NULL;
}

/* --- known blocks ------------------------------------------------------------------------------------------- */

static int32_t *bucket_of(const em_prefix_cache *pc, uint64_t hash)
{
    return &pc->bucket[hash & (pc->n_buckets - 1)];
}

static int32_t *tokens_of(const em_prefix_cache *pc, int32_t block_id)
{
    return pc->tokens + (size_t)block_id * (size_t)pc->block_tokens;
}

/* The known block with these tokens behind `parent`; everything is compared, the hash only finds candidates. */
static int32_t find_block(const em_prefix_cache *pc, uint64_t hash, int32_t parent, const int32_t *tokens,
                          const em_prefix_text *text)
{
    size_t bytes = (size_t)pc->block_tokens * sizeof(*tokens);
    int32_t b = *bucket_of(pc, hash);
    for (; b != NONE; b = pc->nodes[b].bucket_next) {
        const node *n = &pc->nodes[b];
        if (n->hash != hash || n->parent != parent || memcmp(tokens_of(pc, b), tokens, bytes) != 0)
            continue;
        if (parent != NONE)
            break;
        if (n->salt_len == text->salt_len && (!n->salt_len || memcmp(n->salt, text->salt, n->salt_len) == 0))
            break;
    }
    return b;
}

/* False: no memory for the salt. */
static bool learn_block(em_prefix_cache *pc, int32_t block_id, uint64_t hash, int32_t parent, const int32_t *tokens,
                        const em_prefix_text *text)
{
    node *n = &pc->nodes[block_id];
    *n = (node){.parent = parent, .snapshot = NONE, .hash = hash};
    if (parent == NONE && text->salt_len) {
        n->salt = malloc(text->salt_len);
        if (!n->salt)
            return false;
        n->salt_len = text->salt_len;
        memcpy(n->salt, text->salt, text->salt_len);
    }
    memcpy(tokens_of(pc, block_id), tokens, (size_t)pc->block_tokens * sizeof(*tokens));
    n->bucket_next = *bucket_of(pc, hash);
    *bucket_of(pc, hash) = block_id;
    em_kv_cache_keep(pc->kv, block_id);
    return true;
}

/* The KV cache gives the block away. Blocks behind it have gone before. */
static void forget_block(void *ctx, int32_t block_id)
{
    em_prefix_cache *pc = ctx;
    node *n = &pc->nodes[block_id];
    int32_t *at = bucket_of(pc, n->hash);
    while (*at != block_id)
        at = &pc->nodes[*at].bucket_next;
    *at = n->bucket_next;
    if (n->snapshot != NONE)
        pc->snapshots[n->snapshot] = (snapshot){.block_id = NONE};
    free(n->salt);
    *n = (node){.snapshot = NONE};
}

int32_t em_prefix_cache_put(em_prefix_cache *pc, const em_prefix_text *text, em_seq_kv *kv, int32_t first,
                            int32_t n_blocks)
{
    for (int32_t i = first; i < n_blocks; i++) {
        int32_t parent = i ? kv->block_table[i - 1] : NONE, own = kv->block_table[i];
        const int32_t *tokens = text->tokens + (size_t)i * (size_t)pc->block_tokens;
        uint64_t hash = hash_block(pc, i ? pc->nodes[parent].hash : hash_salt(pc, text), tokens);
        int32_t block_id = find_block(pc, hash, parent, tokens, text);
        if (block_id == NONE) {
            if (!learn_block(pc, own, hash, parent, tokens, text))
                return i;
        } else if (block_id != own) {
            em_seq_kv_replace(pc->kv, kv, i, block_id);
        }
    }
    return n_blocks;
}

/* --- resuming ----------------------------------------------------------------------------------------------- */

em_prefix_hit em_prefix_cache_find(const em_prefix_cache *pc, const em_prefix_text *text, int32_t n_tokens)
{
    em_prefix_hit hit = {.block_id = NONE, .snapshot = NONE};
    int32_t parent = NONE, n_used = 0;
    uint64_t hash = hash_salt(pc, text);
    for (int32_t i = 0; i < n_tokens / pc->block_tokens; i++) {
        const int32_t *tokens = text->tokens + (size_t)i * (size_t)pc->block_tokens;
        hash = hash_block(pc, hash, tokens);
        parent = find_block(pc, hash, parent, tokens, text);
        if (parent == NONE)
            break;
        n_used += em_kv_cache_refs(pc->kv, parent) > 0;
        if (pc->nodes[parent].snapshot != NONE)
            hit = (em_prefix_hit){.n_tokens = (i + 1) * pc->block_tokens,
                                  .n_blocks = i + 1,
                                  .n_used_blocks = n_used,
                                  .block_id = parent,
                                  .snapshot = pc->nodes[parent].snapshot};
    }
    return hit;
}

int em_prefix_cache_use(em_prefix_cache *pc, const em_prefix_hit *hit, em_seq_kv *kv)
{
    int32_t *path = malloc((size_t)hit->n_blocks * sizeof(*path));
    if (!path)
        return -ENOMEM;
    int32_t block_id = hit->block_id;
    for (int32_t i = hit->n_blocks - 1; i >= 0; i--, block_id = pc->nodes[block_id].parent)
        path[i] = block_id;
    int rc = 0;
    for (int32_t i = 0; i < hit->n_blocks && !rc; i++)
        rc = em_seq_kv_share(pc->kv, kv, path[i]);
    free(path);
    if (rc)
        return rc;
    pc->snapshots[hit->snapshot].used_at = ++pc->tick;
    pc->snapshots[hit->snapshot].owner = 0; /* worth keeping where it is */
    return 0;
}

/* The snapshot to give up: the owner's own, a free one, or the longest unused; NONE when all are taken. */
static int32_t choose_snapshot(const em_prefix_cache *pc, uint64_t owner)
{
    int32_t best = NONE;
    for (int32_t i = 0; i < pc->opts.n_snapshots; i++) {
        const snapshot *s = &pc->snapshots[i];
        if (owner && s->owner == owner && s->block_id != NONE)
            return i;
        if (s->used_at != TAKEN && (best == NONE || s->used_at < pc->snapshots[best].used_at))
            best = i; /* a free one was never used */
    }
    return best;
}

int32_t em_prefix_cache_take_snapshot(em_prefix_cache *pc, uint64_t owner)
{
    int32_t i = choose_snapshot(pc, owner);
    if (i == NONE)
        return NONE;
    if (pc->snapshots[i].block_id != NONE)
        pc->nodes[pc->snapshots[i].block_id].snapshot = NONE;
    pc->snapshots[i] = (snapshot){.block_id = NONE, .used_at = TAKEN};
    return i;
}

void em_prefix_cache_put_snapshot(em_prefix_cache *pc, int32_t i, int32_t block_id, uint64_t owner)
{
    node *n = &pc->nodes[block_id];
    if (n->snapshot != NONE) {
        pc->snapshots[n->snapshot].used_at = ++pc->tick;
        em_prefix_cache_give_back_snapshot(pc, i);
        return;
    }
    pc->snapshots[i] = (snapshot){.block_id = block_id, .owner = owner, .used_at = ++pc->tick};
    n->snapshot = i;
}

void em_prefix_cache_give_back_snapshot(em_prefix_cache *pc, int32_t i)
{
    pc->snapshots[i] = (snapshot){.block_id = NONE};
}
