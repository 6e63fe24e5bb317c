/* Opens a checkpoint's parts one by one, so that a test can run the forward pass stage by stage and look between them. */
#ifndef EM_TESTS_RIG_H
#define EM_TESTS_RIG_H

#include "engine/cpu/cpu.h"
#include "engine/model.h"
#include "engine/safetensors.h"

typedef struct rig {
    em_model_config cfg;
    em_st_set *files;
    em_weights *weights;
    em_tokenizer *tok;
    em_token_map map;
    em_engram *engram; /* NULL: none */
    em_kv_cache *kv;
    em_cpu *cpu;
} rig;

/* Fails the test with the loader's sentence. */
void rig_open(rig *r, const char *dir, int max_batch_tokens, int n_threads, unsigned cpu_flags);
void rig_close(rig *r);

/* Rows of a batch for all tables, hashed from the batch's ids; NULL without Engram. */
em_engram_ticket *rig_ask(rig *r, const em_batch *batch);

/* --- sequences through em_model */

/* Logits of every token of ids [n, vocab] (malloc'd), computed in chunks of the given sizes, cycling through them. */
float *run_chunks(em_model *m, const int32_t *ids, int n, const int *chunks, int n_chunks);

em_model *open_model(const char *dir, int max_batch_tokens, int n_threads, unsigned cpu_flags);

/* A tensor of the expected values, or NULL: "0.logits". */
const em_st_tensor *expected(const em_st_set *set, int c, const char *what, int layer);

#endif
