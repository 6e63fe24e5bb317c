/* Body of POST /v1/completions -> em_request and how to answer it. Pure on memory; any thread. */
#ifndef EM_API_COMPLETION_REQUEST_H
#define EM_API_COMPLETION_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/error.h"
#include "engine/engine.h"

/* What a request may grow to, and what the server serves. Filled once from the configuration. */
typedef struct em_api_context {
    const em_engine *engine;        /* tokenises; facts through em_engine_get_info */
    const char *const *model_names; /* [n_model_names] accepted spellings; the first is the one answered */
    int n_model_names;
    bool ignore_unknown_fields;
    int32_t max_prompts;          /* prompts in one request */
    int32_t max_choices;          /* prompts * n */
    int32_t max_n;                /* 128 */
    int32_t max_stops;            /* 16 */
    int32_t max_stop_bytes;       /* of one stop string */
    int32_t max_logit_bias;       /* <= EM_MAX_LOGIT_BIAS */
    int32_t max_logprobs;         /* <= EM_MAX_LOGPROBS */
    int32_t max_cache_salt_bytes; /* <= EM_REQUEST_MAX_SALT_BYTES */
    int32_t max_depth;            /* nesting of the JSON body, 64 */
    uint64_t timeout_ns;          /* --request-timeout; 0: none */
    bool default_thinking;        /* chat: reasoning on where the request does not say (and the model can) */
} em_api_context;

#define EM_MAX_BEST_OF 20 /* as OpenAI has it */

/* How long a request may take. */
typedef struct em_time_limit {
    uint64_t ns; /* 0: for ever */
    bool own;    /* asked for by the request, and less than what the server allows */
} em_time_limit;

typedef struct em_completion {
    em_request *req;         /* taken by the server at submit (set to NULL then) */
    const em_engine *engine; /* from the context: bytes of tokens */
    char fingerprint[16];    /* system_fingerprint: same for equal program, backend and model */
    const char *model;       /* as answered; from the context */
    const char *form_param;  /* static: the field that asked for the form of the answer; NULL: none did */
    bool stream, include_usage, continuous_usage, echo, return_token_ids, tokens_as_ids, engram;
    em_time_limit limit;
    int32_t logprobs;      /* -1: null in the answer */
    int32_t n_prompts, n;  /* n: answers to each prompt */
    int32_t best_of;       /* samples of each prompt, of which the n best are answered; n where all are */
    char **prompt_text;    /* [n_prompts] what echo puts in front; NULL for id prompts and without echo */
    em_prompt *prompt_ids; /* [n_prompts] copies kept for the reply (echo, prompt_token_ids) */
    int32_t *prompt_bos;   /* [n_prompts] 1 when a BOS was added in front */
} em_completion;

/* -EINVAL with err filled: malformed JSON, a wrong type, out of range, unknown field or model, prompt too long. */
int em_completion_parse(const char *body, size_t len, const em_api_context *ctx, em_completion **ret_completion,
                        em_api_error *err);
em_completion *em_completion_free(em_completion *c); /* NULL is fine; returns NULL */

#endif
