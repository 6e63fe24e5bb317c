/* Inside of the memory plan: the numbers it is made of. Pure functions, any thread. */
#ifndef EM_ENGINE_PLAN_COUNT_H
#define EM_ENGINE_PLAN_COUNT_H

#include "engine/backend_open.h"
#include "engine/engram_spec.h"
#include "engine/model.h"
#include "engine/plan.h"
#include "engine/weights.h"

/* Lengths, block size and number of blocks, from the options and the model: what em_model_open opens. */
int em_model_shape(const em_model_config *cfg, const em_model_opts *opts, em_backend_shape *ret_shape, em_error *err);

/* What a device would have to hold; device_bytes is left 0. n_tensors: in the headers. */
void em_model_device_need(const em_weights_sizes *sizes, uint64_t n_tensors, const em_model_opts *opts,
                          const em_backend_shape *shape, em_device_need *ret_need);

/* Rows of logits that a step has room for: bounded in bytes, because a prompt that is scored wants one per token. */
int32_t em_model_logits_rows(const em_model_config *cfg, int32_t max_seqs, int32_t max_batch_tokens);

#define EM_MODEL_TICKETS 4 /* what 0 in em_model_opts.max_tickets stands for */

/* What is known before anything is opened. */
typedef struct em_plan_input {
    const em_model_config *cfg;
    em_model_opts opts;       /* as em_model_open would get them, n_threads filled in */
    em_weights_sizes weights; /* of the headers */
    uint64_t n_tensors;       /* in the headers */
    uint64_t tokenizer_bytes; /* of tokenizer.json; 0: none */
    em_backend_choice choice; /* for these options; zeroed: the CPU */
} em_plan_input;

struct em_engine_opts; /* of engine/engine.h */
/* Reads a folder's files into both, cfg first; in->cfg is cfg. */
int em_plan_read(const struct em_engine_opts *opts, em_model_config *cfg, em_plan_input *in, em_error *err);

/* Fills everything but machine, checks and advice. -EINVAL as em_model_shape. */
int em_plan_count(const em_plan_input *in, em_memory_plan *ret_plan, em_error *err);

/* Fills the rest: does it fit, and if not, which flags would make it fit. */
void em_plan_judge(const em_plan_input *in, const em_machine *machine, em_memory_plan *plan);

#endif
