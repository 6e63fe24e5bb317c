/* What requests of /v1/completions and /v1/chat/completions have in common: how to sample, when to stop, how to answer.
 * An endpoint's own parameters hold an em_generation, and its table of fields has a row EM_FIELD_TABLE for it. */
#ifndef EM_API_GENERATION_H
#define EM_API_GENERATION_H

#include <stddef.h>

#include "api/fields.h"

typedef struct em_generation {
    int64_t n, top_k, seed;
    bool has_seed;
    double temperature, top_p;
    em_stop *stops; /* [n_stops] owned */
    int32_t n_stops;
    bool ignore_eos;
    double min_p, presence_penalty, frequency_penalty, repetition_penalty;
    em_logit_bias bias[EM_MAX_LOGIT_BIAS];
    int32_t n_bias;
    int64_t min_tokens;
    int32_t stop_ids[EM_MAX_STOP_TOKEN_IDS];
    int32_t n_stop_ids;
    int64_t priority;
    uint64_t timeout_ns;                        /* 0: none of its own */
    char cache_salt[EM_REQUEST_MAX_SALT_BYTES]; /* cache_salt_len bytes */
    size_t cache_salt_len;                      /* 0: none */
    bool stream, include_usage, continuous_usage, return_token_ids, tokens_as_ids, engram;
    const em_field *stream_options;
} em_generation;

#define EM_GENERATION_DEFAULTS ((em_generation){.n = 1, .temperature = 1, .top_p = 1, .repetition_penalty = 1})

extern const em_field_table em_generation_fields;

/* max_tokens and its newer name: 0 up to the model's length. */
int em_read_max_tokens(const em_field *f, const em_api_context *ctx, int64_t *ret, em_api_error *err);
/* stream_options only with stream. */
int em_generation_check(const em_generation *g, em_api_error *err);

em_time_limit em_generation_limit(const em_generation *g, const em_api_context *ctx);

/* An em_request with everything but its prompts; it takes no stops (the endpoint knows whose they are). */
int em_generation_request(const em_generation *g, int64_t max_tokens, int32_t logprobs, const em_api_context *ctx,
                          em_request **ret_request, em_api_error *err);
void em_stops_free(em_stop *stops, int32_t n);

/* system_fingerprint: the same as long as nothing changes that may change an answer's bits. */
void em_fingerprint_write(const em_engine *engine, char *out, size_t cap);

#endif
