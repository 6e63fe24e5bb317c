/* The CPU backend's own copy of the weights, every matrix of products packed (engine/cpu/pack.h) in one mapping of huge
 * pages. Matrices are packed by all threads at once, and the file's pages are given back as it goes, so that weights
 * are never held twice. What is not a product's matrix (embed, vectors) is shared with the source, which must outlive
 * the copy. */
#ifndef EM_CPU_PACKED_WEIGHTS_H
#define EM_CPU_PACKED_WEIGHTS_H

#include "engine/cpu/thread_pool.h"
#include "engine/weights.h"

typedef struct em_packed_weights {
    em_weights w; /* the copy; read-only */
    size_t bytes; /* of the packed matrices */

    /* internal */
    em_expert_weights *experts; /* [n_layers * n_experts] */
    void *map;
} em_packed_weights;

/* on_progress (may be NULL) is called by the caller's thread. -ENOMEM. */
int em_packed_weights_new(const em_model_config *cfg, const em_weights *src, em_pool *pool,
                          void (*on_progress)(void *ctx, double fraction), void *ctx, em_packed_weights **ret_packed);
em_packed_weights *em_packed_weights_free(em_packed_weights *p); /* NULL is fine; returns NULL */

#endif
