#include "api/chat_request.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "api/generation.h"
#include "api/prompts.h"

/* The fields as read. */
typedef struct params {
    em_generation gen;
    em_dialog_fields dialog;
    int64_t max_tokens, max_completion_tokens; /* -1: not given */
    bool logprobs;
    const em_field *top_logprobs;
} params;

static const params defaults = {.gen = EM_GENERATION_DEFAULTS,
                                .dialog = {.parallel_tool_calls = true},
                                .max_tokens = -1,
                                .max_completion_tokens = -1};

/* --- fields ------------------------------------------------------------------------------------------------- */

static int read_max_tokens(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    return em_read_max_tokens(f, ctx, &((params *)into)->max_tokens, err);
}

static int read_max_completion_tokens(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    return em_read_max_tokens(f, ctx, &((params *)into)->max_completion_tokens, err);
}

/* ["text"] is what we give; clients that list it mean no more. */
static int read_modalities(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_json j;
    em_field_open(f, &j);
    if (j.type == EM_JSON_ARRAY && f->n_values == 2 && em_json_next(&j) == EM_JSON_STRING && em_json_is(&j, "text"))
        return 0;
    return em_api_error_set(err, 400, "unsupported_parameter", f->name,
                            "%s is not supported by this server: leave it out (or send its default, [\"text\"])",
                            f->name);
}

#define AT(field) offsetof(params, field)

/* clang-format off */
static const em_field_rule rules[] = {
    {.use = EM_FIELD_TABLE, .offset = AT(gen), .table = &em_generation_fields},
    {.use = EM_FIELD_TABLE, .offset = AT(dialog), .table = &em_dialog_field_table},
    {"max_tokens", EM_FIELD_READ, .read = read_max_tokens},
    {"max_completion_tokens", EM_FIELD_READ, .read = read_max_completion_tokens},
    {"logprobs", EM_FIELD_BOOL, AT(logprobs)},
    {"top_logprobs", EM_FIELD_LATER, AT(top_logprobs)},
    {"modalities", EM_FIELD_READ, .read = read_modalities},

    {"audio", EM_FIELD_UNSUPPORTED},
    {"function_call", EM_FIELD_UNSUPPORTED},
    {"functions", EM_FIELD_UNSUPPORTED, .neutral = "[]"},
    {"prediction", EM_FIELD_UNSUPPORTED},
    {"verbosity", EM_FIELD_UNSUPPORTED, .neutral = "\"medium\""},
    {"web_search_options", EM_FIELD_UNSUPPORTED},
    /* extensions that other servers have */
    {"add_generation_prompt", EM_FIELD_UNSUPPORTED, .neutral = "true"},
    {"add_special_tokens", EM_FIELD_UNSUPPORTED, .neutral = "false"},
    {"chat_template", EM_FIELD_UNSUPPORTED},
    {"chat_template_kwargs", EM_FIELD_UNSUPPORTED, .neutral = "{}"},
    {"continue_final_message", EM_FIELD_UNSUPPORTED, .neutral = "false"},
    {"documents", EM_FIELD_UNSUPPORTED, .neutral = "[]"},
    {"echo", EM_FIELD_UNSUPPORTED, .neutral = "false"},
    {"include_reasoning", EM_FIELD_UNSUPPORTED, .neutral = "true"},
};

static const em_field_rule prompt_rules[] = {
    {"model", EM_FIELD_READ, .read = em_field_read_model},
    {.use = EM_FIELD_TABLE, .offset = AT(dialog), .table = &em_dialog_field_table},
};
/* clang-format on */

const em_field_table em_chat_fields = {rules, sizeof rules / sizeof *rules};
static const em_field_table prompt_fields = {prompt_rules, sizeof prompt_rules / sizeof *prompt_rules};

/* An unknown model is judged before everything else. */
static int check_model(const em_body *body, const em_api_context *ctx, em_api_error *err)
{
    const em_field *model = em_body_find(body, "model");
    return model ? em_field_read_model(model, ctx, NULL, err) : 0;
}

static int read_logprobs(const params *p, const em_api_context *ctx, int32_t *ret, em_api_error *err)
{
    int64_t n = 0;
    int32_t most = ctx->max_logprobs < EM_MAX_LOGPROBS ? ctx->max_logprobs : EM_MAX_LOGPROBS;
    em_json j;
    if (p->top_logprobs) {
        em_field_open(p->top_logprobs, &j);
        int r = em_value_int(&j, "top_logprobs", 0, most, &n, err);
        if (r)
            return r;
    }
    if (p->top_logprobs && !p->logprobs)
        return em_api_error_set(err, 400, "invalid_value", "top_logprobs",
                                "top_logprobs is only allowed with logprobs: true");
    *ret = p->logprobs ? (int32_t)n : -1;
    return 0;
}

/* --- the prompt --------------------------------------------------------------------------------------------- */

/* limit: tokens that are counted; 0: all. */
static int ids_of(const em_chat_prompt *prompt, const em_chat_template *t, const em_api_context *ctx, size_t limit,
                  em_ids *ids, em_api_error *err)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    int r = em_chat_prompt_ids(prompt, t, ctx->engine, limit, ids);
    if (r == -E2BIG)
        return em_prompt_too_long("messages", &info, "more than ", limit, err);
    if (r == -ENOTSUP)
        return em_api_error_set(err, 400, "no_tokenizer", "messages",
                                "messages cannot become a prompt: the model has no tokenizer");
    return r ? em_api_no_memory(err) : 0;
}

/* The prompt must leave room for an answer. */
static int prompt_ids(const em_dialog *d, const em_chat_template *t, const em_api_context *ctx, em_ids *ids,
                      em_api_error *err)
{
    em_engine_info info;
    em_chat_prompt prompt = {0};
    em_engine_get_info(ctx->engine, &info);
    int r = em_chat_render(d, t, &prompt) ? em_api_no_memory(err) : 0;
    if (!r)
        r = ids_of(&prompt, t, ctx, em_prompt_count_limit(&info), ids, err);
    em_chat_prompt_done(&prompt);
    if (!r && ids->n >= (size_t)info.max_len)
        r = em_prompt_too_long("messages", &info, "", ids->n, err);
    return r;
}

/* --- building ----------------------------------------------------------------------------------------------- */

static em_chat_mode mode_of(const em_dialog *d)
{
    const em_message *last = &d->messages[d->n_messages - 1];
    em_chat_mode mode = {.stage = d->thinking ? EM_STAGE_REASONING : EM_STAGE_CONTENT,
                         .tool_calls = d->tools_parsed,
                         .in_calls = d->call_required,
                         .single_call = d->single_call,
                         .json_output = d->json_output};
    if (last->prefix && d->thinking)
        mode.stage = last->content.len     ? EM_STAGE_CONTENT_CONTINUATION
                     : last->reasoning.len ? EM_STAGE_REASONING_CONTINUATION
                                           : EM_STAGE_REASONING;
    return mode;
}

static int copy_rule(const em_dialog *d, em_chat *c, em_api_error *err)
{
    c->rule = d->rule;
    c->rule.text = NULL;
    char *text = malloc(d->rule.len + 1);
    if (!text)
        return em_api_no_memory(err);
    if (d->rule.len)
        memcpy(text, d->rule.text, d->rule.len);
    text[d->rule.len] = '\0';
    c->rule.text = text;
    return 0;
}

/* The request gets the ids, the chat a copy of them. */
static int take_prompt(em_ids *ids, em_chat *c, em_api_error *err)
{
    c->req->prompts = calloc(1, sizeof *c->req->prompts);
    c->prompt.ids = malloc(ids->n * sizeof *c->prompt.ids);
    if (!c->req->prompts || !c->prompt.ids)
        return em_api_no_memory(err);
    memcpy(c->prompt.ids, ids->id, ids->n * sizeof *c->prompt.ids);
    c->prompt.n_ids = (int32_t)ids->n;
    c->req->n_prompts = 1;
    c->req->prompts[0] = (em_prompt){.ids = ids->id, .n_ids = (int32_t)ids->n};
    *ids = (em_ids){0};
    return 0;
}

/* max_completion_tokens is the newer name and wins; without either the answer may fill the context. */
static int64_t max_tokens_of(const params *p, const em_api_context *ctx)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    if (p->max_completion_tokens >= 0)
        return p->max_completion_tokens;
    return p->max_tokens >= 0 ? p->max_tokens : info.max_len;
}

static int fill(params *p, const em_dialog *d, em_ids *ids, const em_api_context *ctx, em_chat *c, em_api_error *err)
{
    int r = read_logprobs(p, ctx, &c->logprobs, err);
    if (!r)
        r = em_generation_request(&p->gen, max_tokens_of(p, ctx), c->logprobs, ctx, &c->req, err);
    if (!r)
        r = take_prompt(ids, c, err);
    if (!r)
        r = copy_rule(d, c, err);
    if (r)
        return r;
    c->engine = ctx->engine;
    em_fingerprint_write(ctx->engine, c->fingerprint, sizeof c->fingerprint);
    c->model = ctx->n_model_names ? ctx->model_names[0] : "";
    c->stream = p->gen.stream;
    c->include_usage = p->gen.include_usage;
    c->continuous_usage = p->gen.continuous_usage;
    c->return_token_ids = p->gen.return_token_ids;
    c->tokens_as_ids = p->gen.tokens_as_ids;
    c->limit = em_generation_limit(&p->gen, ctx);
    c->engram = p->gen.engram;
    c->n = (int32_t)p->gen.n;
    c->mode = mode_of(d);
    c->stops = p->gen.stops;
    c->n_stops = p->gen.n_stops;
    p->gen.stops = NULL;
    p->gen.n_stops = 0;
    return 0;
}

static int check_choices(const params *p, const em_api_context *ctx, em_api_error *err)
{
    if (p->gen.n <= ctx->max_choices)
        return 0;
    return em_api_error_set(err, 400, "out_of_range", "n", "n must be at most %d, got %lld", (int)ctx->max_choices,
                            (long long)p->gen.n);
}

static int build(params *p, const em_dialog *d, const em_chat_template *t, const em_api_context *ctx, em_chat **ret,
                 em_api_error *err)
{
    em_ids ids = {0};
    int r = prompt_ids(d, t, ctx, &ids, err);
    em_chat *c = r ? NULL : calloc(1, sizeof *c);
    if (!r)
        r = c ? fill(p, d, &ids, ctx, c, err) : em_api_no_memory(err);
    em_ids_done(&ids);
    if (r)
        em_chat_free(c);
    else
        *ret = c;
    return r;
}

static int parse_fields(const em_body *body, const em_api_context *ctx, params *p, em_chat **ret, em_api_error *err)
{
    em_dialog d = {0};
    em_chat_template t;
    int r = check_model(body, ctx, err);
    if (!r)
        r = em_fields_apply(body, &em_chat_fields, ctx, p, err);
    if (!r)
        r = em_generation_check(&p->gen, err);
    if (!r)
        r = check_choices(p, ctx, err);
    if (r)
        return r;
    em_chat_template_find(ctx->engine, &t);
    r = em_dialog_read(&p->dialog, &t, ctx, &d, err);
    if (!r)
        r = build(p, &d, &t, ctx, ret, err);
    em_dialog_done(&d);
    return r;
}

/* --- the doors ---------------------------------------------------------------------------------------------- */

int em_chat_parse(const char *body_text, size_t len, const em_api_context *ctx, em_chat **ret_chat, em_api_error *err)
{
    em_body *body = malloc(sizeof *body);
    if (!body)
        return em_api_no_memory(err);
    params p = defaults;
    int r = em_body_read(body, body_text, len, (unsigned)ctx->max_depth, err);
    if (!r)
        r = parse_fields(body, ctx, &p, ret_chat, err);
    em_stops_free(p.gen.stops, p.gen.n_stops);
    free(body);
    return r;
}

em_chat *em_chat_free(em_chat *c)
{
    if (!c)
        return NULL;
    em_request_free(c->req);
    free(c->prompt.ids);
    em_stops_free(c->stops, c->n_stops);
    free((char *)c->rule.text);
    free(c);
    return NULL;
}

int em_chat_bind(em_chat *c, em_api_error *err)
{
    bool reasons = c->mode.stage == EM_STAGE_REASONING || c->mode.stage == EM_STAGE_REASONING_CONTINUATION;
    int r = em_constraint_source(&c->rule, reasons ? em_mark_spelling[EM_MARK_THINK_END] : "", c->mode.single_call,
                                 &c->req->grammar, err);
    c->mode.bound = c->req->grammar != NULL;
    return r;
}

/* The conversation of a body of which only what makes the prompt is looked at. */
static int read_dialog(const em_body *body, const em_api_context *ctx, const em_chat_template *t, em_dialog *d,
                       em_api_error *err)
{
    params p = defaults;
    em_body *rest = malloc(sizeof *rest);
    if (!rest)
        return em_api_no_memory(err);
    rest->n_fields = 0;
    for (int i = 0; i < body->n_fields; i++)
        if (em_fields_know(&prompt_fields, body->fields[i].name) ||
            !em_fields_know(&em_chat_fields, body->fields[i].name))
            rest->fields[rest->n_fields++] = body->fields[i];
    int r = check_model(rest, ctx, err);
    if (!r)
        r = em_fields_apply(rest, &prompt_fields, ctx, &p, err);
    if (!r)
        r = em_dialog_read(&p.dialog, t, ctx, d, err);
    free(rest); /* the texts of fields belong to the caller's body */
    return r;
}

int em_chat_read_prompt(const em_body *body, const em_api_context *ctx, em_chat_prompt *prompt, em_api_error *err)
{
    em_dialog d = {0};
    em_chat_template t;
    em_chat_template_find(ctx->engine, &t);
    int r = read_dialog(body, ctx, &t, &d, err);
    if (!r && em_chat_render(&d, &t, prompt))
        r = em_api_no_memory(err);
    em_dialog_done(&d);
    return r;
}

int em_chat_tokenize(const em_body *body, const em_api_context *ctx, em_ids *ids, em_api_error *err)
{
    em_chat_prompt prompt = {0};
    em_chat_template t;
    em_chat_template_find(ctx->engine, &t);
    int r = em_chat_read_prompt(body, ctx, &prompt, err);
    if (!r)
        r = ids_of(&prompt, &t, ctx, 0, ids, err);
    em_chat_prompt_done(&prompt);
    return r;
}
