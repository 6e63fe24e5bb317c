#include "api/completion_request.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/chat_read.h"
#include "api/generation.h"
#include "api/prompts.h"

#define DEFAULT_MAX_TOKENS 16

/* The fields as read, before they become an em_request. */
typedef struct params {
    em_generation gen;
    const em_field *prompt, *response_format, *structured_outputs;
    int64_t max_tokens, logprobs, best_of; /* best_of 0: not given */
    bool echo, add_special_tokens;
} params;

/* --- fields with limits of their own ------------------------------------------------------------------------ */

static int read_max_tokens(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    return em_read_max_tokens(f, ctx, &((params *)into)->max_tokens, err);
}

static int read_logprobs(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    int32_t most = ctx->max_logprobs < EM_MAX_LOGPROBS ? ctx->max_logprobs : EM_MAX_LOGPROBS;
    em_json j;
    em_field_open(f, &j);
    return em_value_int(&j, f->name, 0, most, &((params *)into)->logprobs, err);
}

/* --- the table ---------------------------------------------------------------------------------------------- */

#define AT(field) offsetof(params, field)

static const em_field_rule completion_rules[] = {
    {.use = EM_FIELD_TABLE, .offset = AT(gen), .table = &em_generation_fields},
    {"prompt", EM_FIELD_LATER, AT(prompt)},
    {"max_tokens", EM_FIELD_READ, .read = read_max_tokens},
    {"best_of", EM_FIELD_INT, AT(best_of), 0, EM_MAX_BEST_OF},
    {"echo", EM_FIELD_BOOL, AT(echo)},
    {"logprobs", EM_FIELD_READ, .read = read_logprobs},
    {"add_special_tokens", EM_FIELD_BOOL, AT(add_special_tokens)},

    {"response_format", EM_FIELD_LATER, AT(response_format)},
    {"structured_outputs", EM_FIELD_LATER, AT(structured_outputs)},

    {"suffix", EM_FIELD_UNSUPPORTED},
};

const em_field_table em_completion_fields = {completion_rules, sizeof completion_rules / sizeof *completion_rules};

/* --- rules between fields ----------------------------------------------------------------------------------- */

static int64_t samples_of(const params *p)
{
    return p->best_of ? p->best_of : p->gen.n;
}

/* 0 counts as absent, as in OpenAI's range; n itself leaves nothing to choose, so such an answer may be streamed. */
static int check_best_of(const params *p, em_api_error *err)
{
    if (p->best_of && p->best_of < p->gen.n)
        return em_api_error_set(err, 400, "out_of_range", "best_of", "best_of must be at least n (%lld), got %lld",
                                (long long)p->gen.n, (long long)p->best_of);
    if (p->best_of > p->gen.n && p->gen.stream)
        return em_api_error_set(err, 400, "invalid_value", "best_of",
                                "best_of above n cannot be streamed: which samples are the best is known at the end");
    return 0;
}

static int check_together(const params *p, em_api_error *err)
{
    if (!p->prompt)
        return em_api_error_set(err, 400, "missing_required_parameter", "prompt",
                                "prompt is missing: send a text, a list of texts or token ids");
    int r = em_generation_check(&p->gen, err);
    return r ? r : check_best_of(p, err);
}

static int check_choices(const params *p, int32_t n_prompts, const em_api_context *ctx, em_api_error *err)
{
    int64_t n = n_prompts * samples_of(p);
    bool ranks = p->best_of > p->gen.n;
    if (n <= ctx->max_choices)
        return 0;
    return em_api_error_set(err, 400, "out_of_range",
                            ranks          ? "best_of"
                            : p->gen.n > 1 ? "n"
                                           : "prompt",
                            "%s times the number of prompts must be at most %d, got %lld", ranks ? "best_of" : "n",
                            (int)ctx->max_choices, (long long)n);
}

/* --- building ----------------------------------------------------------------------------------------------- */

static int copy_prompts(const em_prompts *from, em_prompt **ret_copy)
{
    em_prompt *copy = calloc((size_t)from->n, sizeof *copy);
    if (!copy)
        return -ENOMEM;
    for (int32_t i = 0; i < from->n; i++) {
        size_t bytes = (size_t)from->prompts[i].n_ids * sizeof *copy[i].ids;
        copy[i].n_ids = from->prompts[i].n_ids;
        copy[i].ids = malloc(bytes);
        if (!copy[i].ids) {
            while (i-- > 0)
                free(copy[i].ids);
            free(copy);
            return -ENOMEM;
        }
        memcpy(copy[i].ids, from->prompts[i].ids, bytes);
    }
    *ret_copy = copy;
    return 0;
}

/* Moves prompts and stops into a request. */
static int build_request(params *p, em_prompts *prompts, const em_api_context *ctx, em_request **ret, em_api_error *err)
{
    em_request *req = NULL;
    int64_t logprobs = p->logprobs < 0 && p->best_of > p->gen.n ? 0 : p->logprobs; /* a ranking needs them */
    int r = em_generation_request(&p->gen, p->max_tokens, (int32_t)logprobs, ctx, &req, err);
    if (r)
        return r;
    req->n = (int32_t)samples_of(p);
    req->prompts = prompts->prompts;
    req->n_prompts = prompts->n;
    prompts->prompts = NULL;
    req->stops = p->gen.stops;
    req->n_stops = p->gen.n_stops;
    p->gen.stops = NULL;
    p->gen.n_stops = 0;
    req->prompt_logprobs = p->echo && p->logprobs >= 0;
    req->prompt_engram = p->echo && p->gen.engram;
    *ret = req;
    return 0;
}

/* Takes over what prompts hold. */
static int build(params *p, em_prompts *prompts, const em_api_context *ctx, em_completion **ret, em_api_error *err)
{
    em_completion *c = calloc(1, sizeof *c);
    if (!c)
        return em_api_no_memory(err);
    int r = copy_prompts(prompts, &c->prompt_ids) ? em_api_no_memory(err) : 0;
    c->n_prompts = prompts->n;
    if (!r)
        r = build_request(p, prompts, ctx, &c->req, err);
    if (r) {
        em_completion_free(c);
        return r;
    }
    c->engine = ctx->engine;
    em_fingerprint_write(ctx->engine, c->fingerprint, sizeof c->fingerprint);
    c->model = ctx->n_model_names ? ctx->model_names[0] : "";
    c->stream = p->gen.stream;
    c->include_usage = p->gen.include_usage;
    c->continuous_usage = p->gen.continuous_usage;
    c->echo = p->echo;
    c->return_token_ids = p->gen.return_token_ids;
    c->tokens_as_ids = p->gen.tokens_as_ids;
    c->limit = em_generation_limit(&p->gen, ctx);
    c->engram = p->gen.engram;
    c->logprobs = (int32_t)p->logprobs;
    c->n = (int32_t)p->gen.n;
    c->best_of = (int32_t)samples_of(p);
    c->prompt_bos = prompts->bos;
    c->prompt_text = prompts->text;
    for (int32_t i = 0; i < prompts->n && !p->echo; i++) {
        free(c->prompt_text[i]);
        c->prompt_text[i] = NULL;
    }
    *prompts = (em_prompts){0};
    *ret = c;
    return 0;
}

/* What the answers must look like, as a chat may ask for it. */
static int read_form(const params *p, em_completion *c, em_api_error *err)
{
    em_dialog d = {0};
    em_chat_reader reader = {.d = &d, .values_left = EM_CHAT_MAX_VALUES, .err = err};
    int r = em_chat_read_format(&reader, p->response_format, p->structured_outputs);
    if (!r)
        r = em_constraint_source(&d.rule, "", false, &c->req->grammar, err);
    c->form_param = d.rule.param;
    em_dialog_done(&d);
    return r;
}

static int parse_fields(const em_body *body, const em_api_context *ctx, params *p, em_completion **ret,
                        em_api_error *err)
{
    int r = em_fields_apply(body, &em_completion_fields, ctx, p, err);
    if (!r)
        r = check_together(p, err);
    em_prompts prompts = {0};
    em_completion *c = NULL;
    if (!r)
        r = em_prompts_read(p->prompt, ctx, p->add_special_tokens, &prompts, err);
    if (!r)
        r = check_choices(p, prompts.n, ctx, err);
    if (!r)
        r = build(p, &prompts, ctx, &c, err);
    if (!r)
        r = read_form(p, c, err);
    if (r)
        em_completion_free(c);
    else
        *ret = c;
    em_prompts_done(&prompts);
    return r;
}

int em_completion_parse(const char *body_text, size_t len, const em_api_context *ctx, em_completion **ret_completion,
                        em_api_error *err)
{
    em_body *body = malloc(sizeof *body);
    if (!body)
        return em_api_no_memory(err);
    params p = {
        .gen = EM_GENERATION_DEFAULTS, .max_tokens = DEFAULT_MAX_TOKENS, .logprobs = -1, .add_special_tokens = true};
    int r = em_body_read(body, body_text, len, (unsigned)ctx->max_depth, err);
    if (!r)
        r = parse_fields(body, ctx, &p, ret_completion, err);
    em_stops_free(p.gen.stops, p.gen.n_stops);
    free(body);
    return r;
}

em_completion *em_completion_free(em_completion *c)
{
    if (!c)
        return NULL;
    em_request_free(c->req);
    for (int32_t i = 0; i < c->n_prompts; i++) {
        if (c->prompt_text)
            free(c->prompt_text[i]);
        if (c->prompt_ids)
            free(c->prompt_ids[i].ids);
    }
    free(c->prompt_text);
    free(c->prompt_ids);
    free(c->prompt_bos);
    free(c);
    return NULL;
}
