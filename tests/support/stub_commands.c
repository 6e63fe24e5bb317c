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

int em_engine_inspect(const em_engine_opts *opts, const em_machine_roots *roots, em_inspect *ret_inspect, em_error *err)
{
    return em_error_set(err, -ENOTSUP, "the stub has no tables.");
}

int em_trace_open(const em_trace_opts *opts, em_trace **ret_trace, em_error *err)
{
    return em_error_set(err, -ENOTSUP, "the stub has no tables.");
}

em_trace *em_trace_close(em_trace *t)
{
    return NULL;
}

/* Never come to: there is no trace. */
size_t em_trace_cut(const em_trace *t, const char *text, size_t len)
{
    return 0;
}

int em_trace_add(em_trace *t, const char *text, size_t len, em_error *err)
{
    return -ENOTSUP;
}

int em_trace_finish(em_trace *t, void (*on_progress)(void *ctx, const char *what, double fraction), void *ctx,
                    em_trace_result *ret_result, em_error *err)
{
    return -ENOTSUP;
}
