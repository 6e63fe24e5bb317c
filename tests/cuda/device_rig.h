/* A checkpoint on the CUDA backend, opened part by part, so that a test can look at the device's buffers between stages.
 * The same source runs on the stand-ins of tests/cuda and on a GPU, and needs no test framework: what is wrong ends the
 * program with a sentence. */
#ifndef EM_TESTS_CUDA_DEVICE_RIG_H
#define EM_TESTS_CUDA_DEVICE_RIG_H

#include "engine/cuda/cuda.h"
#include "engine/safetensors.h"
#include "engine/token_map.h"
#include "engine/tokenizer.h"

/* Ends the program with a sentence unless the condition holds. */
#define NEED(cond, ...) ((cond) ? (void)0 : rig_die(__FILE__, __LINE__, __VA_ARGS__))
__attribute__((noreturn, format(printf, 3, 4))) void rig_die(const char *file, int line, const char *fmt, ...);

typedef struct device_rig {
    em_model_config cfg;
    em_st_set *files;
    em_weights *weights;
    em_tokenizer *tok;
    em_token_map map;
    em_engram *engram; /* NULL: none */
    em_kv_cache *kv;
    em_cuda *cuda;
    em_backend_shape shape;
    em_device_plan plan;
} device_rig;

typedef struct rig_opts {
    const char *dir;
    int32_t max_batch_tokens, n_slots, n_snapshots, n_blocks;
    em_engram_tier tier;   /* ram: page-locked tables, which the device reads itself; mmap: rows are staged */
    uint64_t device_bytes; /* 0: what is free */
} rig_opts;

/* 0, or what opening the backend or the tables said; then everything is closed. */
int rig_open(device_rig *r, const rig_opts *opts, em_error *err);
void rig_close(device_rig *r);

em_engram_ticket *rig_ask(device_rig *r, const em_batch *batch);
/* As em_model_forward: the stages in the model's order. */
int rig_forward(device_rig *r, const em_batch *batch, float *logits, em_error *err);

/* Between host and device, after everything that was enqueued. */
void rig_read(const device_rig *r, void *host, const void *device, size_t bytes);
void rig_write(const device_rig *r, void *device, const void *host, size_t bytes);

#endif
