/* engine/model.h without a model: logits come from a script, and every batch is checked against the contract of
 * em_model_forward. Linked in front of the engine's library, it takes the place of engine/model.c. */
#ifndef EM_TESTS_STUB_MODEL_H
#define EM_TESTS_STUB_MODEL_H

#include "engine/model.h"

typedef struct stub_model {
    const char *tokenizer_dir; /* NULL: none */
    int32_t vocab_size, max_len;
    int32_t eos_id; /* -1: none */
    int32_t n_blocks, block_tokens;
    int32_t n_snapshots; /* 0: 8; -1: none */
    bool saves_inside;
    em_insight_shape insight; /* what it can tell: gates as stub_model_gate, equal shares, cached at even positions */
    /* The logits behind tokens[0 .. n-1]: a function of these alone, so that batching cannot matter. */
    void (*logits)(void *ctx, const int32_t *tokens, int32_t n, float *row);
    /* Before a batch is computed; may block. Non-zero fails the step. May be NULL. */
    int (*on_forward)(void *ctx, const em_batch *batch);
    void *ctx;
} stub_model;

float stub_model_gate(int32_t token, int32_t pos, int32_t layer, int32_t stream);

/* What the next em_model_open gives. */
void stub_model_set(const stub_model *stub);

/* What was seen since stub_model_set; any time. */
typedef struct stub_counts {
    int32_t n_steps, n_tokens;
    int32_t max_seqs, max_tokens, max_logits; /* in one step */
    int32_t n_asks;                           /* batches asked for ahead of the forward pass */
    int32_t n_slot_copies, n_block_copies, n_saves;
} stub_counts;
stub_counts stub_model_counts(void);

#endif
