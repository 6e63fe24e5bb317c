/* One loaded model: checkpoint, tables and backend, and the forward pass over a flat batch.
 *
 * Threads: open and close by one thread; afterwards one thread at a time (the step thread) may ask for rows, run
 * em_model_forward and use the KV cache. config, tokenizer and token map are read-only and free for all. */
#ifndef EM_ENGINE_MODEL_H
#define EM_ENGINE_MODEL_H

#include "engine/backend_open.h"
#include "engine/base/error.h"
#include "engine/batch.h"
#include "engine/config.h"
#include "engine/token_map.h"
#include "engine/tokenizer.h"
#include "engram/engram.h"

typedef struct em_model em_model;

typedef struct em_model_opts {
    const char *dir;          /* checkpoint folder */
    int32_t n_threads;        /* 0: as many as the process may use */
    int32_t max_len;          /* tokens of a sequence; 0: the model's, at most the model's */
    int32_t max_seqs;         /* sequences with state at a time (slots) */
    int32_t max_batch_tokens; /* most tokens in one em_model_forward */
    int32_t max_snapshots;    /* saved copies of a sequence's slot, for prefixes; 0: none */
    int64_t snapshot_bytes;   /* bounds max_snapshots, as the number of KV blocks then does; 0: no bound */
    int64_t kv_cache_bytes;   /* KV blocks; 0: enough for max_seqs short sequences and at least one of max_len */
    int32_t kv_block_tokens;  /* 0: default; rounded up to a multiple of every ratio */
    em_engram_tier engram_tier;
    const char *engram_shared_dir; /* of the shared tier; NULL: /dev/shm */
    int64_t engram_cache_bytes;    /* rows read lately, in the nvme tier; 0: none */
    bool engram_verify;            /* as em_engram_opts.verify */
    bool engram_prefault;          /* as em_engram_opts.prefault */
    int32_t max_tickets;           /* Engram tickets out at a time; 0: 4 */
    em_backend_kind backend;       /* what computes */
    const char *cuda_module;       /* file of the CUDA backend; NULL: searched beside the program */
    unsigned cpu_flags_mask;       /* kernel tiers allowed; all ones: what the machine has; 0: plain C */
    void (*on_progress)(void *ctx, const char *phase, double fraction); /* may be NULL */
    void *progress_ctx;
} em_model_opts;

int em_model_open(const em_model_opts *opts, em_model **ret_model, em_error *err);
em_model *em_model_close(em_model *m); /* NULL is fine; returns NULL */

const em_model_config *em_model_get_config(const em_model *m);
const em_tokenizer *em_model_tokenizer(const em_model *m); /* NULL: the folder has none */
int32_t em_model_max_len(const em_model *m);
int32_t em_model_max_batch_tokens(const em_model *m);
em_kv_cache *em_model_kv_cache(em_model *m);
int32_t em_model_snapshots(const em_model *m);        /* places for saved slots */
em_engram *em_model_engram(em_model *m);              /* NULL: no Engram layers */
const char *em_model_backend_name(const em_model *m); /* "cpu/avx512" */
/* Why the GPU was not taken although it was allowed, one clause; empty when there is nothing to say. */
const char *em_model_backend_why(const em_model *m);
int32_t em_model_n_threads(const em_model *m);     /* compute threads in use */
uint64_t em_model_weight_bytes(const em_model *m); /* weights as the backend holds them */
uint64_t em_model_kv_bytes(const em_model *m);     /* KV blocks and slots */

/* Where the time of the steps since open went, in nanoseconds of the calling thread. */
typedef struct em_step_times {
    uint64_t ask;          /* hashing look-backs and asking for Engram rows */
    uint64_t wait;         /* for rows that an Engram layer did not find in place */
    uint64_t engram;       /* Engram layers once their rows are there */
    uint64_t attention;    /* all of attention but its dense products: compressor, index, selection, scores, values */
    uint64_t dense;        /* attention's dense products */
    uint64_t moe;          /* router and experts */
    uint64_t head;         /* collapse, norm, product with the vocabulary */
    uint64_t other;        /* embedding, residual streams */
    uint64_t experts_read; /* a count: routed experts whose weights were read, over steps and layers */
} em_step_times;
void em_model_get_times(const em_model *m, em_step_times *ret_times);

/* Weight bytes that a step reads whatever it computes, and those of one routed expert; experts are taken to be alike. */
void em_model_step_bytes(const em_model *m, int64_t *ret_fixed, int64_t *ret_expert);

/* Can a run save its slot at boundaries inside of it (em_batch_seq.saves)? */
bool em_model_saves_inside(const em_model *m);

/* State, between steps. A snapshot i (0 .. max_snapshots-1) is addressed as slot max_seqs + i: copying a sequence's slot
 * there and back later resumes it at the same position, bit for bit. copy_block makes a private copy of a KV block. */
void em_model_copy_slot(em_model *m, int32_t from, int32_t to);
void em_model_copy_block(em_model *m, int32_t from, int32_t to);

/* Asks for the Engram rows of every token of the batch; may run while an earlier step computes. The ticket's tokens are
 * in batch order. *ret_ticket is NULL when the model has no Engram layers. */
int em_model_ask(em_model *m, const em_batch *batch, em_engram_ticket **ret_ticket);

/* What a run's insight holds for each token; n_layers is 0 where nothing can be told: no Engram layers, or a backend that
 * does not tell. Then no run may have n_insight. */
em_insight_shape em_model_insight_shape(const em_model *m);
/* The layer numbers of the Engram layers, in order: [n_layers]. */
const int32_t *em_model_engram_layers(const em_model *m);

/* Computes the batch: reads and advances each sequence's state, waits for rows where a layer needs them, writes
 * logits [batch->n_logits, vocab_size] in batch order. Any mix of prefill chunks and decode tokens gives the same bits
 * as one token at a time. Takes the ticket of em_model_ask over the same batch and releases it, also on failure; NULL
 * asks here and now. After a failure the sequences of the batch must be dropped; rows of Engram that are lost fail their
 * own runs only (em_batch_seq.error), and the others' bits are as if nothing had happened. */
int em_model_forward(em_model *m, const em_batch *batch, em_engram_ticket *ticket, float *logits, em_error *err);

#endif
