#include "api/tokenize.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "api/json_out.h"
#include "api/prompts.h"

typedef struct tokenize_params {
    const em_field *prompt, *tokens;
    bool add_special_tokens;
} tokenize_params;

#define AT(field) offsetof(tokenize_params, field)

/* clang-format off */
static const em_field_rule tokenize_rules[] = {
    {"model", EM_FIELD_READ, .read = em_field_read_model},
    {"prompt", EM_FIELD_LATER, AT(prompt)},
    {"add_special_tokens", EM_FIELD_BOOL, AT(add_special_tokens)},
    {"messages", EM_FIELD_UNSUPPORTED},
    {"return_token_strs", EM_FIELD_UNSUPPORTED, .neutral = "false"},
};

static const em_field_rule detokenize_rules[] = {
    {"model", EM_FIELD_READ, .read = em_field_read_model},
    {"tokens", EM_FIELD_LATER, AT(tokens)},
};
/* clang-format on */

/* A body with a handful of fields. The fields point into `body`, which the caller frees. */
static int read_params(const char *text, size_t len, const em_field_rule *rules, size_t n_rules,
                       const em_api_context *ctx, em_body **ret_body, tokenize_params *p, em_api_error *err)
{
    em_body *body = malloc(sizeof *body);
    if (!body)
        return em_api_no_memory(err);
    int r = em_body_read(body, text, len, (unsigned)ctx->max_depth, err);
    if (!r)
        r = em_fields_apply(body, rules, n_rules, ctx, p, err);
    if (r)
        free(body);
    else
        *ret_body = body;
    return r;
}

static int done(const em_buf *out, em_api_error *err)
{
    return out->failed ? em_api_no_memory(err) : 0;
}

static int tokenize_text(const tokenize_params *p, const em_api_context *ctx, em_ids *ids, em_api_error *err)
{
    if (!p->prompt)
        return em_api_error_set(err, 400, "missing_required_parameter", "prompt", "prompt is missing: send a text");
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    em_json j;
    em_field_open(p->prompt, &j);
    char *text = NULL;
    size_t len = 0;
    int r = em_value_string(&j, "prompt", &text, &len, err);
    if (!r)
        r = em_text_ids(ctx, "prompt", text, len, em_text_wants_bos(&info, p->add_special_tokens), 0, ids, err);
    free(text);
    return r;
}

int em_api_tokenize(const char *body_text, size_t len, const em_api_context *ctx, em_buf *out, em_api_error *err)
{
    tokenize_params p = {.add_special_tokens = true};
    em_body *body = NULL;
    int r = read_params(body_text, len, tokenize_rules, sizeof tokenize_rules / sizeof *tokenize_rules, ctx, &body, &p,
                        err);
    if (r)
        return r;
    em_ids ids = {0};
    r = tokenize_text(&p, ctx, &ids, err);
    if (!r) {
        em_engine_info info;
        em_engine_get_info(ctx->engine, &info);
        em_buf_puts(out, "{\"tokens\":");
        em_json_ids(out, ids.id, ids.n);
        em_buf_printf(out, ",\"count\":%zu,\"max_model_len\":%d}", ids.n, (int)info.max_len);
        r = done(out, err);
    }
    em_ids_done(&ids);
    free(body);
    return r;
}

static int read_tokens(const em_field *f, const em_api_context *ctx, em_ids *ids, em_api_error *err)
{
    if (!f)
        return em_api_error_set(err, 400, "missing_required_parameter", "tokens",
                                "tokens is missing: send a list of token ids");
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    if (!info.has_tokenizer)
        return em_api_error_set(err, 400, "no_tokenizer", "tokens",
                                "tokens cannot become text: the model has no tokenizer");
    em_json j;
    em_field_open(f, &j);
    if (j.type != EM_JSON_ARRAY)
        return em_value_wrong_type(&j, "tokens", "a list of token ids", err);
    return em_id_list_read(&j, "tokens", info.vocab_size, ids, err);
}

static void write_text(const em_api_context *ctx, const em_ids *ids, em_buf *out)
{
    em_buf text = {0};
    em_lossy l = {0};
    for (size_t i = 0; i < ids->n; i++) {
        size_t len = 0;
        const uint8_t *bytes = em_engine_token_bytes(ctx->engine, ids->id[i], &len);
        em_lossy_add(&l, bytes, len, &text);
    }
    em_lossy_end(&l, &text);
    em_buf_puts(out, "{\"prompt\":");
    em_buf_json_string(out, text.len ? text.data : "", text.len);
    em_buf_puts(out, "}");
    out->failed |= text.failed;
    em_buf_done(&text);
}

int em_api_detokenize(const char *body_text, size_t len, const em_api_context *ctx, em_buf *out, em_api_error *err)
{
    tokenize_params p = {0};
    em_body *body = NULL;
    int r = read_params(body_text, len, detokenize_rules, sizeof detokenize_rules / sizeof *detokenize_rules, ctx,
                        &body, &p, err);
    if (r)
        return r;
    em_ids ids = {0};
    r = read_tokens(p.tokens, ctx, &ids, err);
    if (!r) {
        write_text(ctx, &ids, out);
        r = done(out, err);
    }
    em_ids_done(&ids);
    free(body);
    return r;
}
