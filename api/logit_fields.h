/* Fields that change logits before the draw: logit_bias, repetition_penalty, stop_token_ids. `into` is an em_generation. */
#ifndef EM_API_LOGIT_FIELDS_H
#define EM_API_LOGIT_FIELDS_H

#include "api/generation.h"

em_field_reader em_read_logit_bias, em_read_repetition_penalty, em_read_stop_token_ids;

/* Rules, biases and stop ids of a generation into a request. -ENOMEM. */
int em_logit_fields_copy(const em_generation *g, em_request *req);

#endif
