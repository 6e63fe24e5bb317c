#include "api/tokenize.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "api/chat_request.h"
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
    {"return_token_strs", EM_FIELD_UNSUPPORTED, .neutral = "false"},
};

static const em_field_rule detokenize_rules[] = {
    {"model", EM_FIELD_READ, .read = em_field_read_model},
    {"tokens", EM_FIELD_LATER, AT(tokens)},
};
/* clang-format on */

const em_field_table em_tokenize_fields = {tokenize_rules, sizeof tokenize_rules / sizeof *tokenize_rules};
const em_field_table em_detokenize_fields = {detokenize_rules, sizeof detokenize_rules / sizeof *detokenize_rules};

/* The body checked as a whole; the caller frees it. */
static int read_body(const char *text, size_t len, const em_api_context *ctx, em_body **ret_body, em_api_error *err)
{
    em_body *body = malloc(sizeof *body);
    if (!body)
        return em_api_no_memory(err);
    int r = em_body_read(body, text, len, (unsigned)ctx->max_depth, err);
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

static int tokenize_prompt(const em_body *body, const em_api_context *ctx, em_ids *ids, em_api_error *err)
{
    tokenize_params p = {.add_special_tokens = true};
    int r = em_fields_apply(body, &em_tokenize_fields, ctx, &p, err);
    return r ? r : tokenize_text(&p, ctx, ids, err);
}

static int tokenize_chat(const em_body *body, const em_api_context *ctx, em_ids *ids, em_api_error *err)
{
    if (em_body_find(body, "prompt"))
        return em_api_error_set(err, 400, "invalid_value", "prompt",
                                "prompt and messages cannot be sent together: send one of them");
    return em_chat_tokenize(body, ctx, ids, err);
}

int em_api_tokenize(const char *text, size_t len, const em_api_context *ctx, em_buf *out, em_api_error *err)
{
    em_body *body = NULL;
    em_ids ids = {0};
    int r = read_body(text, len, ctx, &body, err);
    if (r)
        return r;
    r = em_body_find(body, "messages") ? tokenize_chat(body, ctx, &ids, err) : tokenize_prompt(body, ctx, &ids, err);
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

int em_api_detokenize(const char *text, size_t len, const em_api_context *ctx, em_buf *out, em_api_error *err)
{
    tokenize_params p = {0};
    em_body *body = NULL;
    em_ids ids = {0};
    int r = read_body(text, len, ctx, &body, err);
    if (r)
        return r;
    r = em_fields_apply(body, &em_detokenize_fields, ctx, &p, err);
    if (!r)
        r = read_tokens(p.tokens, ctx, &ids, err);
    if (!r) {
        write_text(ctx, &ids, out);
        r = done(out, err);
    }
    em_ids_done(&ids);
    free(body);
    return r;
}

/* "name_token": its spelling, "name_token_id": its id; both null where the model has none. */
static void write_special(const em_engine *engine, const char *name, int32_t id, em_buf *out)
{
    size_t len = 0;
    const uint8_t *bytes = id >= 0 ? em_engine_token_bytes(engine, id, &len) : NULL;
    em_buf_printf(out, "\"%s_token\":", name);
    if (len)
        em_json_text(out, bytes, len);
    else
        em_buf_puts(out, "null");
    em_buf_printf(out, ",\"%s_token_id\":", name);
    em_buf_printf(out, id >= 0 ? "%d," : "null,", (int)id);
}

int em_api_tokenizer_info(const em_api_context *ctx, em_buf *out, em_api_error *err)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    if (!info.has_tokenizer)
        return em_api_error_set(err, 404, "no_tokenizer", NULL,
                                "The model has no tokenizer: send prompts as token ids");
    em_buf_puts(out, "{\"tokenizer_class\":\"engramd\",");
    write_special(ctx->engine, "bos", info.bos_id, out);
    write_special(ctx->engine, "eos", info.eos_id, out);
    em_buf_printf(out, "\"add_bos_token\":%s,\"vocab_size\":%d,\"model_max_length\":%d,\"chat_template\":null}",
                  info.add_bos ? "true" : "false", (int)info.vocab_size, (int)info.max_len);
    return done(out, err);
}
