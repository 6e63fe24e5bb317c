/* Frequencies of the rotary embedding (spec 4.5), the same numbers in every backend. Pure; any thread. */
#ifndef EM_ENGINE_ROPE_FREQUENCIES_H
#define EM_ENGINE_ROPE_FREQUENCIES_H

#include "engine/config.h"

/* [rope_dim / 2] each: of layers without compression, and of those with it (YaRN where the config says so). */
void em_rope_frequencies(const em_model_config *cfg, float *main, float *comp);

#endif
