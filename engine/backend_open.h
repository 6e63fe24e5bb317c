/* Which backend computes: the CPU's, which is part of the program, or a module's. */
#ifndef EM_ENGINE_BACKEND_OPEN_H
#define EM_ENGINE_BACKEND_OPEN_H

#include "engine/backend_module.h"

typedef enum em_backend_kind {
    EM_BACKEND_AUTO, /* the GPU where one can be used, else the CPU */
    EM_BACKEND_CPU,
    EM_BACKEND_CUDA, /* the GPU or nothing */
} em_backend_kind;

typedef struct em_backend_choice {
    const em_backend_module *module; /* NULL: the CPU */
    em_device_info device;           /* of the module */
    em_device_plan plan;
    char why[256]; /* why `auto` does not take the GPU, one clause; empty otherwise */
} em_backend_choice;

/* Opens the module at `path`; NULL: engramd-cuda.so beside the build tree of the program, then where it was installed.
 * It stays loaded until the process ends. -ENOENT: there is none; -ELIBBAD: it does not open, or was built from other
 * sources. */
int em_backend_module_load(const char *path, const em_backend_module **ret_module, em_error *err);

/* Decides for a model: looks for a module and a device, plans the device's memory. shape->n_blocks is set to what the
 * plan gives; need->device_bytes is ignored: the device tells. With AUTO the answer is always 0. */
int em_backend_choose(em_backend_kind kind, const char *module_path, const em_model_config *cfg,
                      const em_device_need *need, em_backend_shape *shape, em_backend_choice *ret_choice,
                      em_error *err);

#endif
