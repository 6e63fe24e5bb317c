/* POST /tokenize and /detokenize. Pure on memory; any thread. */
#ifndef EM_API_TOKENIZE_H
#define EM_API_TOKENIZE_H

#include "api/completion_request.h"

/* {prompt, add_special_tokens}, or the body of a chat -> {tokens, count, max_model_len}. */
int em_api_tokenize(const char *body, size_t len, const em_api_context *ctx, em_buf *out, em_api_error *err);
/* {tokens} -> {prompt}. */
int em_api_detokenize(const char *body, size_t len, const em_api_context *ctx, em_buf *out, em_api_error *err);

#endif
