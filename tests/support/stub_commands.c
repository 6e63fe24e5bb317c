/* What the commands besides serve and generate ask of an engine, for the program without a model. */
#include "engine/engine.h"

#include <errno.h>

int em_engine_plan(const struct em_engine_opts *opts, const em_machine_roots *roots, em_memory_plan *ret_plan,
                   em_error *err)
{
    return em_error_set(err, -ENOTSUP, "the stub has no plan.");
}

int em_engine_bench(const em_bench_opts *opts, em_bench_result *ret_result, em_error *err)
{
    return em_error_set(err, -ENOTSUP, "the stub has no speed.");
}

/* Bytes are ids: every place will do. */
size_t em_engine_text_cut(const em_engine *e, const char *text, size_t len)
{
    return len;
}
