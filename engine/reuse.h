/* How often rows come again: what caches of any size would find of a stream of asks, in bounded memory.
 *
 * Each ask is a key. As long as they fit, all are kept; then only those whose hash falls into a half, a quarter, ... of
 * all hashes. Such a sample keeps or drops a key with all its asks, so that between two asks of a key lies the same share
 * of the other keys as of the stream: a cache of a share of the size behaves on it as the whole one would (spatial
 * sampling). Misses are counted on the sample and set against all asks, which makes it matter little on which side of the
 * line the few busiest keys fall: they hardly ever miss.
 *
 * Zero-initialise but for max; one thread. */
#ifndef EM_ENGINE_REUSE_H
#define EM_ENGINE_REUSE_H

#include <stddef.h>
#include <stdint.h>

typedef struct em_reuse {
    size_t max;       /* asks kept at most, 2 or more; up to 32 bytes each while distances are measured */
    uint64_t *key;    /* [n] of the asks kept, in their order */
    size_t n, cap;    /* asks */
    uint32_t shift;   /* one key in 2^shift is kept */
    uint64_t n_asked; /* all of them */
} em_reuse;

int em_reuse_add(em_reuse *r, uint64_t key); /* -ENOMEM */
void em_reuse_done(em_reuse *r);

#define EM_REUSE_FIRST UINT32_MAX /* distance of an ask whose key has not come before */

/* For each ask kept: how many other keys were asked since its key was asked last. [n], caller frees. -ENOMEM. */
int em_reuse_distances(const em_reuse *r, uint32_t **ret_distance);

/* The smallest cache that the asks kept say something about. */
uint64_t em_reuse_least_rows(const em_reuse *r);

/* The share of all asks that the n_rows rows asked last would hold; exact while shift is 0. */
double em_reuse_lru_hits(const em_reuse *r, const uint32_t *distance, uint64_t n_rows);

/* The same for the row cache of the nvme tier, which is run over the asks kept. -ENOMEM. */
int em_reuse_cache_hits(const em_reuse *r, uint64_t n_rows, double *ret_share);

#endif
