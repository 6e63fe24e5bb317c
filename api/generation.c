#include "api/generation.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/logit_fields.h"
#include "engine/base/clock.h"

#define MAX_TIMEOUT_S 2592000 /* a month */
#define COLDEST 1e-5          /* below, logits over temperature leave the range of a float: greedy says the same */

/* --- fields with limits of their own ------------------------------------------------------------------------ */

static int read_n(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_json j;
    em_field_open(f, &j);
    return em_value_int(&j, f->name, 1, ctx->max_n, &((em_generation *)into)->n, err);
}

static int read_seed(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_generation *g = into;
    em_json j;
    em_field_open(f, &j);
    g->has_seed = true;
    return em_value_int(&j, f->name, INT64_MIN, INT64_MAX, &g->seed, err);
}

/* j stands at one stop string. */
static int push_stop(const em_json *j, const char *path, const em_api_context *ctx, em_generation *g, em_api_error *err)
{
    em_stop stop = {0};
    int r = em_value_string(j, path, &stop.text, &stop.len, err);
    if (!r && stop.len == 0)
        r = em_api_error_set(err, 400, "invalid_value", path, "%s is an empty string, which would stop at once", path);
    if (!r && stop.len > (size_t)ctx->max_stop_bytes)
        r = em_api_error_set(err, 400, "out_of_range", path, "%s is %zu bytes long; at most %d are allowed", path,
                             stop.len, (int)ctx->max_stop_bytes);
    em_stop *stops = r ? NULL : realloc(g->stops, ((size_t)g->n_stops + 1) * sizeof *stops);
    if (!r && !stops)
        r = em_api_no_memory(err);
    if (r) {
        free(stop.text);
        return r;
    }
    g->stops = stops;
    g->stops[g->n_stops++] = stop;
    return 0;
}

static int read_stop(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_generation *g = into;
    em_json j;
    em_field_open(f, &j);
    if (j.type == EM_JSON_STRING)
        return push_stop(&j, f->name, ctx, g, err);
    if (j.type != EM_JSON_ARRAY)
        return em_value_wrong_type(&j, f->name, "a string or a list of strings", err);
    size_t n_items = f->n_values - 1;
    if (n_items < 1 || n_items > (size_t)ctx->max_stops)
        return em_api_error_set(err, 400, "out_of_range", f->name, "%s must hold between 1 and %d strings, got %zu",
                                f->name, (int)ctx->max_stops, n_items);
    int r = 0;
    while (!r && em_json_next(&j) != EM_JSON_ARRAY_END) {
        char path[32];
        snprintf(path, sizeof path, "stop[%d]", (int)g->n_stops);
        r = push_stop(&j, path, ctx, g, err);
    }
    return r;
}

/* In seconds, more than none; what the server allows is a bound of its own. */
static int read_timeout(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_json j;
    double seconds;
    em_field_open(f, &j);
    int r = em_value_real(&j, f->name, 0, MAX_TIMEOUT_S, &seconds, err);
    if (!r && seconds <= 0)
        r = em_api_error_set(err, 400, "out_of_range", f->name, "%s must be more than 0 seconds", f->name);
    if (!r)
        ((em_generation *)into)->timeout_ns = seconds < 1e-9 ? 1 : (uint64_t)(seconds * 1e9);
    return r;
}

/* An empty salt would look like one and separate nobody. */
static int read_cache_salt(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_generation *g = into;
    em_json j;
    char *text;
    size_t len;
    em_field_open(f, &j);
    int r = em_value_string(&j, f->name, &text, &len, err);
    if (r)
        return r;
    if (len < 1 || len > (size_t)ctx->max_cache_salt_bytes || len > sizeof g->cache_salt) {
        r = em_api_error_set(err, 400, "out_of_range", f->name, "%s must be 1 to %d bytes long, got %zu", f->name,
                             (int)ctx->max_cache_salt_bytes, len);
    } else {
        memcpy(g->cache_salt, text, len);
        g->cache_salt_len = len;
    }
    free(text);
    return r;
}

static int read_stream_option(const cJSON *item, const em_api_context *ctx, em_generation *g, em_api_error *err)
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
    if (continuous)
        g->continuous_usage = cJSON_IsTrue(item);
    if (usage)
        g->include_usage = cJSON_IsTrue(item);
    return 0;
}

static int read_stream_options(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_generation *g = into;
    g->stream_options = f;
    if (f->type != EM_JSON_OBJECT) {
        em_json j;
        em_field_open(f, &j);
        return em_value_wrong_type(&j, f->name, "an object", err);
    }
    cJSON *tree = NULL;
    int r = em_field_tree(f, &tree, err);
    for (const cJSON *item = r ? NULL : tree->child; item && !r; item = item->next)
        r = read_stream_option(item, ctx, g, err);
    cJSON_Delete(tree);
    return r;
}

int em_read_max_tokens(const em_field *f, const em_api_context *ctx, int64_t *ret, em_api_error *err)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    em_json j;
    em_field_open(f, &j);
    return em_value_int(&j, f->name, 0, info.max_len, ret, err);
}

/* --- the table ---------------------------------------------------------------------------------------------- */

#define AT(field) offsetof(em_generation, field)

/* clang-format off */
static const em_field_rule rules[] = {
    {"model", EM_FIELD_READ, .read = em_field_read_model},
    {"temperature", EM_FIELD_REAL, AT(temperature), 0, 2},
    {"top_p", EM_FIELD_REAL, AT(top_p), 0, 1},
    {"top_k", EM_FIELD_INT, AT(top_k), -1, INT32_MAX},
    {"seed", EM_FIELD_READ, .read = read_seed},
    {"n", EM_FIELD_READ, .read = read_n},
    {"stop", EM_FIELD_READ, .read = read_stop},
    {"stream", EM_FIELD_BOOL, AT(stream)},
    {"stream_options", EM_FIELD_READ, .read = read_stream_options},
    {"return_token_ids", EM_FIELD_BOOL, AT(return_token_ids)},
    {"return_tokens_as_token_ids", EM_FIELD_BOOL, AT(tokens_as_ids)},
    {"engram", EM_FIELD_BOOL, AT(engram)},
    {"ignore_eos", EM_FIELD_BOOL, AT(ignore_eos)},
    {"priority", EM_FIELD_INT, AT(priority), INT32_MIN, INT32_MAX},
    {"cache_salt", EM_FIELD_READ, .read = read_cache_salt},
    {"timeout", EM_FIELD_READ, .read = read_timeout},
    {"presence_penalty", EM_FIELD_REAL, AT(presence_penalty), -2, 2},
    {"frequency_penalty", EM_FIELD_REAL, AT(frequency_penalty), -2, 2},
    {"repetition_penalty", EM_FIELD_READ, .read = em_read_repetition_penalty},
    {"logit_bias", EM_FIELD_READ, .read = em_read_logit_bias},
    {"min_p", EM_FIELD_REAL, AT(min_p), 0, 1},
    {"min_tokens", EM_FIELD_INT, AT(min_tokens), 0, INT32_MAX},
    {"stop_token_ids", EM_FIELD_READ, .read = em_read_stop_token_ids},

    {"user", EM_FIELD_NO_EFFECT, .what = EM_JSON_STRING},
    {"metadata", EM_FIELD_NO_EFFECT, .what = EM_JSON_OBJECT},
    {"store", EM_FIELD_NO_EFFECT, .what = EM_JSON_TRUE},
    {"service_tier", EM_FIELD_NO_EFFECT, .what = EM_JSON_STRING},
    {"safety_identifier", EM_FIELD_NO_EFFECT, .what = EM_JSON_STRING},
    {"prompt_cache_key", EM_FIELD_NO_EFFECT, .what = EM_JSON_STRING},

    {"prompt_cache_retention", EM_FIELD_UNSUPPORTED},
    /* extensions that other servers have */
    {"length_penalty", EM_FIELD_UNSUPPORTED, .neutral = "1"},
    {"include_stop_str_in_output", EM_FIELD_UNSUPPORTED, .neutral = "false"},
    {"skip_special_tokens", EM_FIELD_UNSUPPORTED, .neutral = "true"},
    {"spaces_between_special_tokens", EM_FIELD_UNSUPPORTED, .neutral = "true"},
    {"prompt_logprobs", EM_FIELD_UNSUPPORTED},
    {"allowed_token_ids", EM_FIELD_UNSUPPORTED},
    {"bad_words", EM_FIELD_UNSUPPORTED, .neutral = "[]"},
    {"truncate_prompt_tokens", EM_FIELD_UNSUPPORTED},
    {"use_beam_search", EM_FIELD_UNSUPPORTED, .neutral = "false"},
};
/* clang-format on */

const em_field_table em_generation_fields = {rules, sizeof rules / sizeof *rules};

/* --- what follows from them --------------------------------------------------------------------------------- */

int em_generation_check(const em_generation *g, em_api_error *err)
{
    if (g->stream_options && !g->stream)
        return em_api_error_set(err, 400, "invalid_value", "stream_options",
                                "stream_options is only allowed with stream: true");
    return 0;
}

static int sampling_of(const em_generation *g, em_sampling *ret, em_api_error *err)
{
    uint64_t seed = (uint64_t)g->seed;
    if (!g->has_seed && getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
        return em_api_error_set(err, 500, "engine_failure", NULL, "No random seed could be drawn; send a seed");
    *ret = (em_sampling){.temperature = g->temperature < COLDEST ? 0.0f : (float)g->temperature,
                         .top_p = (float)g->top_p,
                         .top_k = (int32_t)g->top_k,
                         .min_p = (float)g->min_p,
                         .seed = seed};
    return 0;
}

em_time_limit em_generation_limit(const em_generation *g, const em_api_context *ctx)
{
    bool own = g->timeout_ns && (!ctx->timeout_ns || g->timeout_ns < ctx->timeout_ns);
    return (em_time_limit){.ns = own ? g->timeout_ns : ctx->timeout_ns, .own = own};
}

static int check_engram(const em_generation *g, const em_api_context *ctx, em_api_error *err)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    if (!g->engram || info.insight.n_layers)
        return 0;
    return em_api_error_set(
        err, 400, "unsupported_parameter", "engram",
        "engram cannot be true: this model has no Engram layers, or its backend does not tell about "
        "them");
}

int em_generation_request(const em_generation *g, int64_t max_tokens, int32_t logprobs, const em_api_context *ctx,
                          em_request **ret_request, em_api_error *err)
{
    em_sampling sampling;
    if (g->min_tokens > max_tokens)
        return em_api_error_set(err, 400, "out_of_range", "min_tokens",
                                "min_tokens (%lld) must not exceed max_tokens (%lld)", (long long)g->min_tokens,
                                (long long)max_tokens);
    int r = check_engram(g, ctx, err);
    if (!r)
        r = sampling_of(g, &sampling, err);
    if (r)
        return r;
    em_request *req = calloc(1, sizeof *req);
    if (!req)
        return em_api_no_memory(err);
    req->n = (int32_t)g->n;
    req->max_tokens = (int32_t)max_tokens;
    req->sampling = sampling;
    req->ignore_eos = g->ignore_eos;
    req->logprobs = logprobs;
    req->engram = g->engram;
    req->priority = (int32_t)g->priority;
    req->min_tokens = (int32_t)g->min_tokens;
    if (em_logit_fields_copy(g, req)) {
        em_request_free(req);
        return em_api_no_memory(err);
    }
    em_time_limit limit = em_generation_limit(g, ctx);
    req->deadline_ns = limit.ns ? em_now_ns() + limit.ns : 0;
    if (g->cache_salt_len) {
        req->cache_salt = malloc(g->cache_salt_len);
        if (!req->cache_salt) {
            em_request_free(req);
            return em_api_no_memory(err);
        }
        memcpy(req->cache_salt, g->cache_salt, g->cache_salt_len);
        req->cache_salt_len = g->cache_salt_len;
    }
    *ret_request = req;
    return 0;
}

void em_stops_free(em_stop *stops, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        free(stops[i].text);
    free(stops);
}

void em_fingerprint_write(const em_engine *engine, char *out, size_t cap)
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
