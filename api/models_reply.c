#include "api/models_reply.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "api/fields.h"
#include "api/json_out.h"

/* root names the model behind an alias. */
static void write_model(const em_api_context *ctx, const char *name, int64_t created, em_buf *out)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    em_buf_puts(out, "{\"id\":");
    em_json_text(out, name, strlen(name));
    em_buf_printf(out, ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"engramd\",\"root\":", created);
    em_json_text(out, ctx->model_names[0], strlen(ctx->model_names[0]));
    em_buf_printf(out, ",\"max_model_len\":%d}", (int)info.max_len);
}

int em_api_models(const em_api_context *ctx, int64_t created, em_buf *out)
{
    em_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < ctx->n_model_names; i++) {
        if (i)
            em_buf_append(out, ",", 1);
        write_model(ctx, ctx->model_names[i], created, out);
    }
    em_buf_puts(out, "]}");
    return out->failed ? -ENOMEM : 0;
}

int em_api_model(const em_api_context *ctx, const char *id, int64_t created, em_buf *out, em_api_error *err)
{
    for (int i = 0; i < ctx->n_model_names; i++)
        if (!strcmp(ctx->model_names[i], id)) {
            write_model(ctx, id, created, out);
            return out->failed ? em_api_no_memory(err) : 0;
        }
    return em_api_error_set(err, 404, "model_not_found", "model", "The model \"%s\" is not served here", id);
}

int em_api_version(em_buf *out)
{
    em_buf_puts(out, "{\"version\":\"" ENGRAMD_VERSION "\"}");
    return out->failed ? -ENOMEM : 0;
}
