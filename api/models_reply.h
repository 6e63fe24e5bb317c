/* GET /v1/models and /v1/models/{id}, /version. Pure on memory; any thread. */
#ifndef EM_API_MODELS_REPLY_H
#define EM_API_MODELS_REPLY_H

#include "api/completion_request.h"

int em_api_models(const em_api_context *ctx, int64_t created, em_buf *out);
/* 404 model_not_found in err when no served name equals id. */
int em_api_model(const em_api_context *ctx, const char *id, int64_t created, em_buf *out, em_api_error *err);

int em_api_version(em_buf *out); /* {"version": ...} */

#endif
