/* What one step computes: the flat description of all its tokens, the only thing the layers see of requests. */
#ifndef EM_ENGINE_BATCH_H
#define EM_ENGINE_BATCH_H

#include <stdint.h>

#include "engine/insight.h"
#include "engine/kv_cache.h"

/* A place in a run at which the sequence's slot is saved, as it is when positions 0 .. pos - 1 are computed. */
typedef struct em_batch_save {
    int32_t pos;  /* a boundary of KV blocks, so that no group is open: run.pos < pos <= run.pos + run.n_tokens */
    int32_t slot; /* where to: a snapshot's */
} em_batch_save;

/* A run of consecutive positions of one sequence: a prefill chunk, or one decode token. */
typedef struct em_batch_seq {
    em_seq_kv *kv;         /* the sequence's state; blocks for pos + n_tokens positions are reserved */
    const int32_t *tokens; /* ids of the whole sequence from position 0; tokens[pos .. pos+n_tokens-1] are computed,
                            * the ones before are read as Engram look-back */
    int32_t pos;           /* first position of the run = positions computed so far */
    int32_t n_tokens;      /* >= 1 */
    int32_t n_logits;      /* logits wanted for the last n_logits tokens of the run, 0..n_tokens */
    const em_batch_save *saves; /* [n_saves] in order of position; only where the backend can (saves_inside) */
    int32_t n_saves;
    int32_t n_insight;  /* tokens at the end of the run whose gates are told, 0..n_tokens */
    em_insight insight; /* of those tokens, in the caller's memory: written by em_model_forward */
    /* Written by em_model_forward: 0, or why this run alone has failed: -EIO, a row of the table of Engram layer
     * `error_layer` could not be read; -EBADMSG, it is not what its file holds. Its logits and state mean nothing. */
    int error;
    int32_t error_layer;
} em_batch_seq;

typedef struct em_batch {
    em_batch_seq *seqs; /* each sequence at most once */
    int32_t n_seqs;
    int32_t n_tokens; /* sum over the sequences */
    int32_t n_logits; /* sum over the sequences */
} em_batch;

#endif
