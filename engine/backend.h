/* A backend computes the stages of one step on its own device. em_model_forward calls them in the order of the model
 * (engine/model.c is the forward pass on one page); a backend never decides that order.
 *
 * Ownership: the backend owns activations, per-sequence state and its copy or view of the weights. config, weights and
 * the Engram rows given to a stage belong to the model and outlive the backend or the step.
 * Threads: one caller, the step thread. Stages may only enqueue work; head is where results are there, and where a
 * fault of an earlier stage is told. After head nothing of the step is in flight. */
#ifndef EM_ENGINE_BACKEND_H
#define EM_ENGINE_BACKEND_H

#include "engine/base/error.h"
#include "engine/batch.h"
#include "engine/config.h"
#include "engine/weights.h"
#include "engram/engram.h"

typedef enum em_site { EM_SITE_ATTN, EM_SITE_FFN } em_site;

/* How much a backend must hold. */
typedef struct em_backend_shape {
    int32_t max_len;          /* tokens of one sequence */
    int32_t max_batch_tokens; /* tokens of one step */
    int32_t n_slots;          /* sequences with state */
    int32_t n_snapshots;      /* saved copies of a slot, addressed as slots n_slots .. n_slots + n_snapshots - 1 */
    int32_t n_blocks;         /* KV blocks */
    int32_t block_tokens;     /* positions of one block; a multiple of every ratio */
} em_backend_shape;

typedef struct em_backend em_backend;

struct em_backend {
    const char *name;      /* "cpu/avx512" */
    em_engram_mem mem;     /* memory the Engram service should use for tables and staging */
    em_error mem_error;    /* why mem's alloc last failed, one sentence; empty: plainly no memory */
    bool saves_inside;     /* attention obeys em_batch_seq.saves; else no batch has any */
    uint64_t weight_bytes; /* of its own copy of the weights, in memory of its own; 0: it uses what is mapped */
    uint64_t linear_ns;    /* so far in dense weight products: what a stage's time is made of */
    uint64_t experts_read; /* so far, over steps and layers: routed experts whose weights a step had to read */

    /* A table as the service holds it, once at open: a backend that can read it there may fetch rows itself. May be
     * NULL. */
    void (*table)(em_backend *be, int32_t table_idx, const em_engram_table *table);

    /* one step, in this order; T tokens, streams [T, hc, H], x and y [T, H] live in the backend */
    int (*begin)(em_backend *be, const em_batch *batch, em_error *err); /* positions, rotary tables */
    /* Row ids of a table are known (codes and scales of rows may not be there yet): true when the backend fetches the
     * rows itself, so that nobody needs to wait for them. May be NULL. */
    bool (*expect)(em_backend *be, int32_t table_idx, const em_engram_rows *rows);
    void (*embed)(em_backend *be); /* ids -> streams */
    /* streams += gate * value; rows stay where they are until head has returned. NULL: the backend fetches them. */
    void (*engram)(em_backend *be, int32_t layer, const em_engram_rows *rows);
    /* Behind engram of the same layer, when some run has n_insight: its gates and the shares of the orders in the value
     * go to insight.gate and insight.share of each such run, at that layer's place among the Engram layers. They must be
     * there when head returns. rows as engram got them.
     * NULL: the backend cannot tell. */
    void (*insight)(em_backend *be, int32_t layer, const em_engram_rows *rows);
    void (*hc_pre)(em_backend *be, int32_t layer, em_site site);  /* mix, collapse, norm: streams -> x */
    void (*attention)(em_backend *be, int32_t layer);             /* x -> y; advances the sequences' state */
    void (*moe)(em_backend *be, int32_t layer);                   /* x -> y */
    void (*hc_post)(em_backend *be, int32_t layer, em_site site); /* expand: y -> streams */
    int (*head)(em_backend *be, float *logits, em_error *err);    /* [n_logits, vocab] */

    /* state, between steps: what a fork or a resumed prefix needs. Slots and snapshots count as one range. */
    void (*copy_slot)(em_backend *be, int32_t from, int32_t to);
    void (*copy_block)(em_backend *be, int32_t from, int32_t to);

    void (*close)(em_backend *be); /* NULL never */
};

/* Bytes of state one KV block and one slot take in this backend's storage (packed, spec section 9). */
typedef struct em_state_bytes {
    int64_t block, slot;
} em_state_bytes;

typedef struct em_cpu_opts {
    int32_t n_threads;                               /* >= 1 */
    unsigned cpu_flags;                              /* kernel tiers to use */
    void (*on_progress)(void *ctx, double fraction); /* of packing the weights; may be NULL */
    void *progress_ctx;
} em_cpu_opts;

em_state_bytes em_cpu_state_bytes(const em_model_config *cfg, int32_t block_tokens);
/* Bytes of a step's buffers, the most that em_cpu_open will take for them; their pages come as they are touched. */
int64_t em_cpu_workspace_bytes(const em_model_config *cfg, const em_backend_shape *shape, int32_t n_threads);
int em_cpu_open(const em_model_config *cfg, const em_weights *w, const em_backend_shape *shape, const em_cpu_opts *opts,
                em_backend **ret_backend, em_error *err);

#endif
