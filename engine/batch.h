/* What one step computes: the flat description of all its tokens, the only thing the layers see of requests. */
#ifndef EM_ENGINE_BATCH_H
#define EM_ENGINE_BATCH_H

#include <stdint.h>

#include "engine/kv_cache.h"

/* A run of consecutive positions of one sequence: a prefill chunk, or one decode token. */
typedef struct em_batch_seq {
    em_seq_kv *kv;         /* the sequence's state; blocks for pos + n_tokens positions are reserved */
    const int32_t *tokens; /* ids of the whole sequence from position 0; tokens[pos .. pos+n_tokens-1] are computed,
                            * the ones before are read as Engram look-back */
    int32_t pos;           /* first position of the run = positions computed so far */
    int32_t n_tokens;      /* >= 1 */
    int32_t n_logits;      /* logits wanted for the last n_logits tokens of the run, 0..n_tokens */
} em_batch_seq;

typedef struct em_batch {
    em_batch_seq *seqs; /* each sequence at most once */
    int32_t n_seqs;
    int32_t n_tokens; /* sum over the sequences */
    int32_t n_logits; /* sum over the sequences */
} em_batch;

#endif
