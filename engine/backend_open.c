#include "engine/backend_open.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODULE_FILE "engramd-cuda.so"
#define IN_BUILD_TREE "engine/cuda/" MODULE_FILE
#define INSTALLED "../" EM_MODULE_LIBDIR "/engramd/" MODULE_FILE

/* --- the module ------------------------------------------------------------------------------------------------- */

/* DIR/RELATIVE, if a file lies there. */
static bool try_path(const char *dir, const char *relative, char path[PATH_MAX])
{
    return snprintf(path, PATH_MAX, "%s/%s", dir, relative) < PATH_MAX && access(path, R_OK) == 0;
}

static int find_module(char path[PATH_MAX], em_error *err)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    exe[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(exe, '/');
    if (!slash)
        return em_error_set(err, -ENOENT, "the program cannot tell where it lies itself, so not where its module is");
    *slash = '\0';
    if (try_path(exe, IN_BUILD_TREE, path) || try_path(exe, INSTALLED, path))
        return 0;
    return em_error_set(err, -ENOENT, "this engramd has no CUDA module (%s)", MODULE_FILE);
}

/* Program and module must agree on every struct they share. */
static int check_module(const char *path, const em_backend_module *m, em_error *err)
{
    if (strcmp(m->version, ENGRAMD_VERSION) != 0)
        return em_error_set(err, -ELIBBAD, "%s belongs to engramd %s, this is %s: install both from one build", path,
                            m->version, ENGRAMD_VERSION);
    if (m->layout != em_backend_module_layout())
        return em_error_set(err, -ELIBBAD, "%s was built from other sources than this program: build both together",
                            path);
    return 0;
}

int em_backend_module_load(const char *path, const em_backend_module **ret_module, em_error *err)
{
    char found[PATH_MAX];
    int r = 0;
    if (!path || !*path) {
        if ((r = find_module(found, err)) < 0)
            return r;
        path = found;
    } else if (access(path, R_OK) != 0) {
        return em_error_set(err, -ENOENT, "%s cannot be read: %s", path, strerror(errno));
    }
    /* It never goes: a driver's library leaves threads and exit handlers behind. */
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!handle)
        return em_error_set(err, -ELIBBAD, "the CUDA module does not open: %s", dlerror());
    em_backend_module_fn entry;
    *(void **)&entry = dlsym(handle, EM_BACKEND_MODULE_ENTRY);
    const em_backend_module *m = entry ? entry() : NULL;
    r = m ? check_module(path, m, err)
          : em_error_set(err, -ELIBBAD, "%s has no " EM_BACKEND_MODULE_ENTRY ": it is of another engramd", path);
    dlclose(handle);
    if (r == 0)
        *ret_module = m;
    return r;
}

/* --- the choice ------------------------------------------------------------------------------------------------- */

static int choose_module(const char *path, const em_model_config *cfg, const em_device_need *need,
                         em_backend_shape *shape, em_backend_choice *choice, em_error *err)
{
    em_device_need n = *need;
    int r = em_backend_module_load(path, &choice->module, err);
    if (r == 0)
        r = choice->module->probe(&choice->device, err);
    if (r < 0)
        return r;
    n.device_bytes = choice->device.free_bytes;
    r = choice->module->plan(cfg, shape, &n, &choice->plan, err);
    if (r == 0)
        shape->n_blocks = choice->plan.n_blocks;
    return r;
}

int em_backend_choose(em_backend_kind kind, const char *module_path, const em_model_config *cfg,
                      const em_device_need *need, em_backend_shape *shape, em_backend_choice *ret_choice, em_error *err)
{
    em_backend_choice choice = {.module = NULL};
    em_error why = {""};
    if (kind != EM_BACKEND_CPU) {
        int r = choose_module(module_path, cfg, need, shape, &choice, &why);
        if (r < 0 && kind == EM_BACKEND_CUDA)
            return em_error_set(err, r, "--backend cuda: %s", why.text);
        if (r < 0) {
            choice = (em_backend_choice){.module = NULL};
            snprintf(choice.why, sizeof(choice.why), "%.*s", (int)sizeof(choice.why) - 1, why.text);
        }
    }
    *ret_choice = choice;
    return 0;
}
