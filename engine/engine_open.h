/* Inside of opening an engine: what planning and benchmarks share with it. */
#ifndef EM_ENGINE_ENGINE_OPEN_H
#define EM_ENGINE_ENGINE_OPEN_H

#include "engine/engine.h"
#include "engine/model.h"

/* The options as a model takes them: defaults filled in, names looked up. */
int em_engine_model_opts(const em_engine_opts *opts, em_model_opts *ret_opts, em_error *err);

/* "ram", "mmap", ...; "none" for what is no tier. */
const char *em_engine_tier_name(em_engram_tier tier);

/* An engine over a model that was opened with em_engine_model_opts of the same options. Takes the model, which nobody
 * else may use from then on; also on failure, when it is closed. */
int em_engine_over(em_model *model, const em_engine_opts *opts, em_engine **ret_engine, em_error *err);

#endif
