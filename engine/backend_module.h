/* A backend that lies in a shared object of its own and is opened at run time, so that one program runs on machines with
 * and without the libraries it needs. The object exports one function, whose name carries the number of this contract.
 *
 * Program and module share plain structs (engine/config.h, weights.h, batch.h, backend.h); `version` and `layout` tell
 * whether both were built from the same ones. Threads: as engine/backend.h; probe and plan from any one thread. */
#ifndef EM_ENGINE_BACKEND_MODULE_H
#define EM_ENGINE_BACKEND_MODULE_H

#include "engine/backend.h"

#define EM_BACKEND_MODULE_ENTRY "em_backend_module_1"

/* The device a module would compute on. */
typedef struct em_device_info {
    char name[96];
    int32_t arch;               /* compute capability: 10 * major + minor */
    uint64_t total, free_bytes; /* of its memory */
} em_device_info;

/* What must lie somewhere, in bytes. */
typedef struct em_device_need {
    uint64_t weights;      /* all matrices and vectors but routed experts and Engram tables */
    uint64_t experts;      /* routed experts of all layers */
    uint64_t device_bytes; /* memory of the device that may be taken */
    int32_t max_blocks;    /* KV blocks at most, for as many as fit when all else is placed */
} em_device_need;

/* Where it lies: one arena on the device, planned before anything is taken. */
typedef struct em_device_plan {
    uint64_t weights;          /* on the device, experts left out */
    uint64_t experts;          /* routed experts on the device */
    uint64_t host_experts;     /* routed experts in page-locked memory of the host, read from there by the device */
    uint64_t activations;      /* of one step */
    uint64_t kv_blocks, slots; /* state of sequences; slots with snapshots */
    uint64_t host_buffers;     /* page-locked: uploads, logits */
    int32_t n_blocks;          /* of the shape, perhaps raised to what fits */
} em_device_plan;

typedef struct em_device_opts {
    em_device_plan plan;                                                /* what `plan` gave for this shape */
    void (*on_progress)(void *ctx, const char *phase, double fraction); /* while weights go up; may be NULL */
    void *progress_ctx;
} em_device_opts;

typedef struct em_backend_module {
    const char *version; /* of engramd */
    uint64_t layout;     /* em_backend_module_layout() where the module was compiled */
    const char *name;    /* "cuda" */

    /* -ENODEV with one sentence that says why there is no device that can be used. */
    int (*probe)(em_device_info *ret_info, em_error *err);
    /* -ENOMEM with one sentence when not even what every step needs fits. Pure. */
    int (*plan)(const em_model_config *cfg, const em_backend_shape *shape, const em_device_need *need,
                em_device_plan *ret_plan, em_error *err);
    int (*open)(const em_model_config *cfg, const em_weights *w, const em_backend_shape *shape,
                const em_device_opts *opts, em_backend **ret_backend, em_error *err);
} em_backend_module;

typedef const em_backend_module *(*em_backend_module_fn)(void);
const em_backend_module *em_backend_module_1(void); /* what a module defines */

/* Sizes of all that is shared, mixed: differs when one of them does. */
static inline uint64_t em_backend_module_layout(void)
{
    const uint64_t size[] = {
        sizeof(em_model_config), sizeof(em_layer_weights), sizeof(em_weights),     sizeof(em_engram_weights),
        sizeof(em_matrix),       sizeof(em_batch),         sizeof(em_batch_seq),   sizeof(em_seq_kv),
        sizeof(em_backend),      sizeof(em_backend_shape), sizeof(em_engram_rows), sizeof(em_device_info),
        sizeof(em_device_need),  sizeof(em_device_plan),   sizeof(em_device_opts), sizeof(em_engram_table)};
    uint64_t mix = UINT64_C(14695981039346656037);
    for (uint64_t i = 0; i < sizeof(size) / sizeof(*size); i++)
        mix = (mix ^ size[i]) * UINT64_C(1099511628211);
    return mix;
}

#endif
