/* The plan's way to the files: config.json, the headers, the size of tokenizer.json; nothing else is read. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "engine/cpu/thread_pool.h"
#include "engine/engine_open.h"
#include "engine/plan_count.h"
#include "engine/safetensors.h"

static uint64_t file_size(const char *dir, const char *name)
{
    char path[PATH_MAX];
    struct stat st;
    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path) || stat(path, &st) != 0)
        return 0;
    return (uint64_t)st.st_size;
}

static int read_headers(const char *dir, em_plan_input *in, em_error *err)
{
    em_st_set *set = NULL;
    int r = em_st_open(dir, &set, err);
    if (r < 0)
        return r;
    in->n_tensors = em_st_count(set);
    r = em_weights_measure(in->cfg, set, &in->weights, err);
    em_st_close(set);
    return r;
}

static int choose_backend(em_plan_input *in, em_error *err)
{
    em_backend_shape shape;
    em_device_need need;
    int r = em_model_shape(in->cfg, &in->opts, &shape, err);
    if (r < 0)
        return r;
    em_model_device_need(&in->weights, in->n_tensors, &in->opts, &shape, &need);
    return em_backend_choose(in->opts.backend, in->opts.cuda_module, in->cfg, &need, &shape, &in->choice, err);
}

int em_plan_read(const em_engine_opts *opts, em_model_config *cfg, em_plan_input *in, em_error *err)
{
    *in = (em_plan_input){.cfg = cfg};
    int r = em_engine_model_opts(opts, &in->opts, err);
    if (r == 0)
        r = em_model_config_load(opts->model_dir, cfg, err);
    if (r == 0)
        r = read_headers(opts->model_dir, in, err);
    if (r < 0)
        return r;
    if (in->opts.n_threads == 0)
        in->opts.n_threads = em_cpu_count();
    in->tokenizer_bytes = file_size(opts->model_dir, "tokenizer.json");
    return choose_backend(in, err);
}

int em_engine_plan(const em_engine_opts *opts, const em_machine_roots *roots, em_memory_plan *ret_plan, em_error *err)
{
    em_model_config cfg;
    em_plan_input in;
    em_memory_plan plan;
    int r = em_plan_read(opts, &cfg, &in, err);
    if (r == 0)
        r = em_plan_count(&in, &plan, err);
    if (r < 0)
        return r;
    em_machine machine;
    em_machine_read(roots, &machine);
    em_plan_judge(&in, &machine, &plan);
    *ret_plan = plan;
    return 0;
}
