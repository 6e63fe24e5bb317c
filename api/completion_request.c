#include "api/completion_request.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/fields.h"
#include "api/prompts.h"
#include "engine/base/clock.h"

#define DEFAULT_MAX_TOKENS 16
#define COLDEST 1e-5 /* below, logits over temperature leave the range of a float: greedy says the same */

/* The fields as read, before they become an em_request. */
typedef struct params {
    const em_field *prompt, *best_of, *stream_options;
    int64_t max_tokens, n, top_k, logprobs, seed;
    bool has_seed;
    double temperature, top_p;
    bool stream, include_usage, echo, return_token_ids, ignore_eos, add_special_tokens;
    em_stop *stops; /* [n_stops] owned */
    int32_t n_stops;
} params;

/* --- fields with limits of their own ------------------------------------------------------------------------ */

static int read_max_tokens(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    em_json j;
    em_field_open(f, &j);
    return em_value_int(&j, f->name, 0, info.max_len, &((params *)into)->max_tokens, err);
}

static int read_n(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_json j;
    em_field_open(f, &j);
    return em_value_int(&j, f->name, 1, ctx->max_n, &((params *)into)->n, err);
}

static int read_logprobs(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    int32_t most = ctx->max_logprobs < EM_MAX_LOGPROBS ? ctx->max_logprobs : EM_MAX_LOGPROBS;
    em_json j;
    em_field_open(f, &j);
    return em_value_int(&j, f->name, 0, most, &((params *)into)->logprobs, err);
}

static int read_seed(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    params *p = into;
    em_json j;
    em_field_open(f, &j);
    p->has_seed = true;
    return em_value_int(&j, f->name, INT64_MIN, INT64_MAX, &p->seed, err);
}

/* j stands at one stop string. */
static int push_stop(const em_json *j, const char *path, const em_api_context *ctx, params *p, em_api_error *err)
{
    em_stop stop = {0};
    int r = em_value_string(j, path, &stop.text, &stop.len, err);
    if (!r && stop.len == 0)
        r = em_api_error_set(err, 400, "invalid_value", path, "%s is an empty string, which would stop at once", path);
    if (!r && stop.len > (size_t)ctx->max_stop_bytes)
        r = em_api_error_set(err, 400, "out_of_range", path, "%s is %zu bytes long; at most %d are allowed", path,
                             stop.len, (int)ctx->max_stop_bytes);
    em_stop *stops = r ? NULL : realloc(p->stops, ((size_t)p->n_stops + 1) * sizeof *stops);
    if (!r && !stops)
        r = em_api_no_memory(err);
    if (r) {
        free(stop.text);
        return r;
    }
    p->stops = stops;
    p->stops[p->n_stops++] = stop;
    return 0;
}

static int read_stop(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    params *p = into;
    em_json j;
    em_field_open(f, &j);
    if (j.type == EM_JSON_STRING)
        return push_stop(&j, f->name, ctx, p, err);
    if (j.type != EM_JSON_ARRAY)
        return em_value_wrong_type(&j, f->name, "a string or a list of strings", err);
    size_t n_items = f->n_values - 1;
    if (n_items < 1 || n_items > (size_t)ctx->max_stops)
        return em_api_error_set(err, 400, "out_of_range", f->name, "%s must hold between 1 and %d strings, got %zu",
                                f->name, (int)ctx->max_stops, n_items);
    int r = 0;
    while (!r && em_json_next(&j) != EM_JSON_ARRAY_END) {
        char path[32];
        snprintf(path, sizeof path, "stop[%d]", (int)p->n_stops);
        r = push_stop(&j, path, ctx, p, err);
    }
    return r;
}

static int read_stream_option(const cJSON *item, const em_api_context *ctx, params *p, em_api_error *err)
{
    char path[EM_BODY_MAX_NAME + 32];
    snprintf(path, sizeof path, "stream_options.%.64s", item->string);
    bool usage = !strcmp(item->string, "include_usage");
    bool continuous = !strcmp(item->string, "continuous_usage_stats");
    if (!usage && !continuous && strcmp(item->string, "include_obfuscation") != 0) {
        if (ctx->ignore_unknown_fields)
            return 0;
        return em_api_error_set(err, 400, "unknown_parameter", path, "Unknown parameter '%s'", path);
    }
    if (cJSON_IsNull(item))
        return 0;
    if (!cJSON_IsBool(item))
        return em_api_error_set(err, 400, "invalid_type", path, "%s must be true or false", path);
    if (continuous && cJSON_IsTrue(item))
        return em_api_error_set(err, 400, "unsupported_parameter", path,
                                "%s is not supported by this server: leave it out (or send its default, false)", path);
    if (usage)
        p->include_usage = cJSON_IsTrue(item);
    return 0;
}

static int read_stream_options(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    params *p = into;
    p->stream_options = f;
    if (f->type != EM_JSON_OBJECT) {
        em_json j;
        em_field_open(f, &j);
        return em_value_wrong_type(&j, f->name, "an object", err);
    }
    cJSON *tree = NULL;
    int r = em_field_tree(f, &tree, err);
    for (const cJSON *item = r ? NULL : tree->child; item && !r; item = item->next)
        r = read_stream_option(item, ctx, p, err);
    cJSON_Delete(tree);
    return r;
}

/* --- the table ---------------------------------------------------------------------------------------------- */

#define AT(field) offsetof(params, field)

static const em_field_rule completion_rules[] = {
    {"model", EM_FIELD_READ, .read = em_field_read_model},
    {"prompt", EM_FIELD_LATER, AT(prompt)},
    {"max_tokens", EM_FIELD_READ, .read = read_max_tokens},
    {"temperature", EM_FIELD_REAL, AT(temperature), 0, 2},
    {"top_p", EM_FIELD_REAL, AT(top_p), 0, 1},
    {"top_k", EM_FIELD_INT, AT(top_k), -1, INT32_MAX},
    {"seed", EM_FIELD_READ, .read = read_seed},
    {"n", EM_FIELD_READ, .read = read_n},
    {"best_of", EM_FIELD_LATER, AT(best_of)},
    {"stop", EM_FIELD_READ, .read = read_stop},
    {"echo", EM_FIELD_BOOL, AT(echo)},
    {"logprobs", EM_FIELD_READ, .read = read_logprobs},
    {"stream", EM_FIELD_BOOL, AT(stream)},
    {"stream_options", EM_FIELD_READ, .read = read_stream_options},
    {"return_token_ids", EM_FIELD_BOOL, AT(return_token_ids)},
    {"ignore_eos", EM_FIELD_BOOL, AT(ignore_eos)},
    {"add_special_tokens", EM_FIELD_BOOL, AT(add_special_tokens)},

    {"user", EM_FIELD_NO_EFFECT, .what = EM_JSON_STRING},
    {"metadata", EM_FIELD_NO_EFFECT, .what = EM_JSON_OBJECT},
    {"store", EM_FIELD_NO_EFFECT, .what = EM_JSON_TRUE},
    {"service_tier", EM_FIELD_NO_EFFECT, .what = EM_JSON_STRING},
    {"safety_identifier", EM_FIELD_NO_EFFECT, .what = EM_JSON_STRING},
    {"prompt_cache_key", EM_FIELD_NO_EFFECT, .what = EM_JSON_STRING},

    {"suffix", EM_FIELD_UNSUPPORTED},
    {"presence_penalty", EM_FIELD_UNSUPPORTED, .neutral = "0"},
    {"frequency_penalty", EM_FIELD_UNSUPPORTED, .neutral = "0"},
    {"logit_bias", EM_FIELD_UNSUPPORTED, .neutral = "{}"},
    {"prompt_cache_retention", EM_FIELD_UNSUPPORTED},
    /* extensions that other servers have */
    {"min_p", EM_FIELD_UNSUPPORTED, .neutral = "0"},
    {"repetition_penalty", EM_FIELD_UNSUPPORTED, .neutral = "1"},
    {"length_penalty", EM_FIELD_UNSUPPORTED, .neutral = "1"},
    {"min_tokens", EM_FIELD_UNSUPPORTED, .neutral = "0"},
    {"stop_token_ids", EM_FIELD_UNSUPPORTED, .neutral = "[]"},
    {"include_stop_str_in_output", EM_FIELD_UNSUPPORTED, .neutral = "false"},
    {"skip_special_tokens", EM_FIELD_UNSUPPORTED, .neutral = "true"},
    {"spaces_between_special_tokens", EM_FIELD_UNSUPPORTED, .neutral = "true"},
    {"return_tokens_as_token_ids", EM_FIELD_UNSUPPORTED, .neutral = "false"},
    {"prompt_logprobs", EM_FIELD_UNSUPPORTED},
    {"allowed_token_ids", EM_FIELD_UNSUPPORTED},
    {"bad_words", EM_FIELD_UNSUPPORTED, .neutral = "[]"},
    {"truncate_prompt_tokens", EM_FIELD_UNSUPPORTED},
    {"use_beam_search", EM_FIELD_UNSUPPORTED, .neutral = "false"},
    {"cache_salt", EM_FIELD_UNSUPPORTED},
    {"priority", EM_FIELD_UNSUPPORTED, .neutral = "0"},
    {"response_format", EM_FIELD_UNSUPPORTED},
    {"structured_outputs", EM_FIELD_UNSUPPORTED},
    {"timeout", EM_FIELD_UNSUPPORTED},
    {"engram", EM_FIELD_UNSUPPORTED, .neutral = "false"},
};

/* --- rules between fields ----------------------------------------------------------------------------------- */

/* best_of = n is what we do anyway; more would need a ranking. 0 counts as absent, as in OpenAI's range. */
static int check_best_of(const params *p, em_api_error *err)
{
    if (!p->best_of)
        return 0;
    em_json j;
    em_field_open(p->best_of, &j);
    int64_t v = 0;
    int r = em_value_int(&j, "best_of", 0, 20, &v, err);
    if (r || v == 0 || v == p->n)
        return r;
    if (v < p->n)
        return em_api_error_set(err, 400, "out_of_range", "best_of", "best_of must be at least n (%lld), got %lld",
                                (long long)p->n, (long long)v);
    return em_api_error_set(err, 400, "unsupported_parameter", "best_of",
                            "best_of above n is not supported by this server: leave it out, or send the value of n");
}

static int check_together(const params *p, em_api_error *err)
{
    if (!p->prompt)
        return em_api_error_set(err, 400, "missing_required_parameter", "prompt",
                                "prompt is missing: send a text, a list of texts or token ids");
    if (p->stream_options && !p->stream)
        return em_api_error_set(err, 400, "invalid_value", "stream_options",
                                "stream_options is only allowed with stream: true");
    return check_best_of(p, err);
}

static int check_choices(const params *p, int32_t n_prompts, const em_api_context *ctx, em_api_error *err)
{
    int64_t n = n_prompts * p->n;
    if (n <= ctx->max_choices)
        return 0;
    return em_api_error_set(err, 400, "out_of_range", p->n > 1 ? "n" : "prompt",
                            "n times the number of prompts must be at most %d, got %lld", (int)ctx->max_choices,
                            (long long)n);
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

static int sampling_of(const params *p, em_sampling *ret, em_api_error *err)
{
    uint64_t seed = (uint64_t)p->seed;
    if (!p->has_seed && getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        return em_api_error_set(err, 500, "engine_failure", NULL, "No random seed could be drawn; send a seed");
    *ret = (em_sampling){.temperature = p->temperature < COLDEST ? 0.0f : (float)p->temperature,
                         .top_p = (float)p->top_p,
                         .top_k = (int32_t)p->top_k,
                         .seed = seed};
    return 0;
}

/* Moves prompts and stops into a request. */
static int build_request(params *p, em_prompts *prompts, const em_api_context *ctx, em_request **ret, em_api_error *err)
{
    em_sampling sampling;
    int r = sampling_of(p, &sampling, err);
    if (r)
        return r;
    em_request *req = calloc(1, sizeof *req);
    if (!req)
        return em_api_no_memory(err);
    req->prompts = prompts->prompts;
    req->n_prompts = prompts->n;
    prompts->prompts = NULL;
    req->n = (int32_t)p->n;
    req->max_tokens = (int32_t)p->max_tokens;
    req->sampling = sampling;
    req->stops = p->stops;
    req->n_stops = p->n_stops;
    p->stops = NULL;
    p->n_stops = 0;
    req->ignore_eos = p->ignore_eos;
    req->logprobs = (int32_t)p->logprobs;
    req->prompt_logprobs = p->echo && p->logprobs >= 0;
    req->deadline_ns = ctx->timeout_ns ? em_now_ns() + ctx->timeout_ns : 0;
    *ret = req;
    return 0;
}

/* Short and the same as long as nothing changes that may change an answer's bits. */
static void write_fingerprint(const em_engine *engine, char *out, size_t cap)
{
    em_engine_info info;
    em_engine_get_info(engine, &info);
    char facts[192];
    snprintf(facts, sizeof facts, "%s %.64s %d %llu %llu", ENGRAMD_VERSION, info.backend ? info.backend : "",
             (int)info.vocab_size, (unsigned long long)info.weight_bytes, (unsigned long long)info.table_bytes);
    uint32_t h = 2166136261u; /* FNV-1a */
    for (const char *s = facts; *s; s++)
        h = (h ^ (uint8_t)*s) * 16777619u;
    snprintf(out, cap, "e-%08x", h);
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
    write_fingerprint(ctx->engine, c->fingerprint, sizeof c->fingerprint);
    c->model = ctx->n_model_names ? ctx->model_names[0] : "";
    c->stream = p->stream;
    c->include_usage = p->include_usage;
    c->echo = p->echo;
    c->return_token_ids = p->return_token_ids;
    c->logprobs = (int32_t)p->logprobs;
    c->n = (int32_t)p->n;
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

static int parse_fields(const em_body *body, const em_api_context *ctx, params *p, em_completion **ret,
                        em_api_error *err)
{
    int r = em_fields_apply(body, completion_rules, sizeof completion_rules / sizeof *completion_rules, ctx, p, err);
    if (!r)
        r = check_together(p, err);
    em_prompts prompts = {0};
    if (!r)
        r = em_prompts_read(p->prompt, ctx, p->add_special_tokens, &prompts, err);
    if (!r)
        r = check_choices(p, prompts.n, ctx, err);
    if (!r)
        r = build(p, &prompts, ctx, ret, err);
    em_prompts_done(&prompts);
    return r;
}

static void params_done(params *p)
{
    for (int32_t i = 0; i < p->n_stops; i++)
        free(p->stops[i].text);
    free(p->stops);
}

int em_completion_parse(const char *body_text, size_t len, const em_api_context *ctx, em_completion **ret_completion,
                        em_api_error *err)
{
    em_body *body = malloc(sizeof *body);
    if (!body)
        return em_api_no_memory(err);
    params p = {.max_tokens = DEFAULT_MAX_TOKENS,
                .n = 1,
                .logprobs = -1,
                .temperature = 1,
                .top_p = 1,
                .add_special_tokens = true};
    int r = em_body_read(body, body_text, len, (unsigned)ctx->max_depth, err);
    if (!r)
        r = parse_fields(body, ctx, &p, ret_completion, err);
    params_done(&p);
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
