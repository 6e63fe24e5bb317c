/* The rules a request must keep. */
#ifndef EM_ENGINE_REQUEST_H
#define EM_ENGINE_REQUEST_H

#include "engine/engine.h"

#define EM_REQUEST_MAX_CHOICES 16384 /* prompts * n: bounds what one request can make the engine allocate */
#define EM_REQUEST_MAX_STOPS 256
#define EM_REQUEST_MAX_STOP_BYTES 65536 /* of all stop strings of a request together */

/* -EINVAL with a sentence when a field breaks the rules of em_request. Pure; any thread. */
int em_request_check(const em_request *r, const em_engine_info *info, em_error *err);

/* Drawing id ends a choice: EOS, unless ignored, or one of stop_ids. */
bool em_request_stops_at(const em_request *r, int32_t id, int32_t eos_id);

/* Tokens that may be generated behind a prompt: max_tokens, cut to what fits. */
int32_t em_request_max_new(const em_request *r, int32_t n_prompt, int32_t max_len);

/* Positions a choice needs state for: its prompt and all generated tokens but the last, which nothing follows (unless
 * Engram is asked about). */
int32_t em_request_positions(const em_request *r, int32_t n_prompt, int32_t max_len);

#endif
