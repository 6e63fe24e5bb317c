/* POST /tokenize and /detokenize, GET /tokenizer_info. Pure on memory; any thread. */
#ifndef EM_API_TOKENIZE_H
#define EM_API_TOKENIZE_H

#include "api/completion_request.h"

/* {prompt, add_special_tokens}, or the body of a chat -> {tokens, count, max_model_len}. */
int em_api_tokenize(const char *body, size_t len, const em_api_context *ctx, em_buf *out, em_api_error *err);
/* {tokens} -> {prompt}. */
int em_api_detokenize(const char *body, size_t len, const em_api_context *ctx, em_buf *out, em_api_error *err);
/* What a client needs to use the two in place of a tokenizer of its own (lm-eval's remote tokenizer): the spelling of
 * special tokens, and facts about the vocabulary. */
int em_api_tokenizer_info(const em_api_context *ctx, em_buf *out, em_api_error *err);

#endif
