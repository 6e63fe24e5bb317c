/* Requests: checking, lengths, freeing. */
#include "engine/request.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "engine/base/utf8.h"

static int check_prompt(const em_prompt *p, int32_t prompt_idx, const em_engine_info *info, em_error *err)
{
    if (!p->ids || p->n_ids < 1)
        return em_error_set(err, -EINVAL, "prompt %d is empty: give it at least one token.", prompt_idx);
    if (p->n_ids > info->max_len)
        return em_error_set(err, -EINVAL, "prompt %d has %d tokens, but the model's length is %d: shorten it.",
                            prompt_idx, p->n_ids, info->max_len);
    for (int32_t i = 0; i < p->n_ids; i++) {
        if (p->ids[i] < 0 || p->ids[i] >= info->vocab_size)
            return em_error_set(err, -EINVAL, "token %d of prompt %d is %d, which is not in the vocabulary (0 to %d).",
                                i, prompt_idx, p->ids[i], info->vocab_size - 1);
    }
    return 0;
}

static int check_sampling(const em_sampling *s, em_error *err)
{
    if (!isfinite(s->temperature) || s->temperature < 0)
        return em_error_set(err, -EINVAL, "temperature is %g: it must be a number of 0 or more.",
                            (double)s->temperature);
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return em_error_set(err, -EINVAL, "top_p is %g: it must lie between 0 and 1.", (double)s->top_p);
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return em_error_set(err, -EINVAL, "min_p is %g: it must lie between 0 and 1.", (double)s->min_p);
    if (s->top_k < -1)
        return em_error_set(err, -EINVAL, "top_k is %d: it must be positive, or 0 or -1 for off.", s->top_k);
    return 0;
}

static int check_stops(const em_request *r, const em_engine_info *info, em_error *err)
{
    if (r->n_stops < 0 || r->n_stops > EM_REQUEST_MAX_STOPS || (r->n_stops && !r->stops))
        return em_error_set(err, -EINVAL, "%d stop strings were given: at most %d are allowed.", r->n_stops,
                            EM_REQUEST_MAX_STOPS);
    if (r->n_stops && !info->has_tokenizer)
        return em_error_set(err, -EINVAL, "stop strings need a tokenizer, and this model has none: leave them out.");
    size_t n_bytes = 0;
    for (int32_t i = 0; i < r->n_stops; i++) {
        const em_stop *stop = &r->stops[i];
        if (!stop->text || !stop->len)
            return em_error_set(err, -EINVAL, "stop string %d is empty: leave it out.", i);
        if (stop->len > EM_REQUEST_MAX_STOP_BYTES - n_bytes)
            return em_error_set(err, -EINVAL, "the stop strings have more than %d bytes together: shorten them.",
                                EM_REQUEST_MAX_STOP_BYTES);
        if (!em_utf8_valid(stop->text, stop->len))
            return em_error_set(err, -EINVAL, "stop string %d is not valid UTF-8.", i);
        n_bytes += stop->len;
    }
    return 0;
}

static int check_logits(const em_request *r, em_error *err)
{
    const em_logit_rules *l = &r->logits;
    if (!isfinite(l->presence_penalty) || !isfinite(l->frequency_penalty) || !isfinite(l->repetition_penalty) ||
        l->repetition_penalty < 0)
        return em_error_set(err, -EINVAL, "a penalty is not a number in its range.");
    if (l->n_bias < 0 || l->n_bias > EM_MAX_LOGIT_BIAS || (l->n_bias && !l->bias))
        return em_error_set(err, -EINVAL, "logit_bias has %d entries: at most %d are allowed.", l->n_bias,
                            EM_MAX_LOGIT_BIAS);
    if (r->n_stop_ids < 0 || r->n_stop_ids > EM_MAX_STOP_TOKEN_IDS || (r->n_stop_ids && !r->stop_ids))
        return em_error_set(err, -EINVAL, "stop_token_ids has %d entries: at most %d are allowed.", r->n_stop_ids,
                            EM_MAX_STOP_TOKEN_IDS);
    if (r->min_tokens < 0)
        return em_error_set(err, -EINVAL, "min_tokens is %d: it must be 0 or more.", r->min_tokens);
    return 0;
}

static int check_insight(const em_request *r, const em_engine_info *info, em_error *err)
{
    int64_t n = 0;
    if (r->prompt_engram && !r->engram)
        return em_error_set(err, -EINVAL, "prompt_engram was asked for without engram.");
    if (!r->engram)
        return 0;
    if (!info->insight.n_layers)
        return em_error_set(err, -EINVAL,
                            "engram was asked for, but this model has no Engram layers or its backend does not tell "
                            "about them: leave it out.");
    for (int32_t i = 0; i < r->n_prompts; i++)
        n += em_request_max_new(r, r->prompts[i].n_ids, info->max_len) + (r->prompt_engram ? r->prompts[i].n_ids : 0);
    if (n * r->n > EM_REQUEST_MAX_INSIGHT)
        return em_error_set(err, -EINVAL,
                            "engram was asked for with up to %lld tokens over all choices: at most %d are allowed, so "
                            "lower max_tokens or n.",
                            (long long)(n * r->n), EM_REQUEST_MAX_INSIGHT);
    return 0;
}

int em_request_check(const em_request *r, const em_engine_info *info, em_error *err)
{
    if (r->n_prompts < 1 || !r->prompts)
        return em_error_set(err, -EINVAL, "the request has no prompt: give at least one.");
    if (r->n < 1 || (int64_t)r->n * r->n_prompts > EM_REQUEST_MAX_CHOICES)
        return em_error_set(err, -EINVAL,
                            "n is %d with %d prompts: n must be at least 1, and both together at most %d.", r->n,
                            r->n_prompts, EM_REQUEST_MAX_CHOICES);
    for (int32_t i = 0; i < r->n_prompts; i++) {
        int rc = check_prompt(&r->prompts[i], i, info, err);
        if (rc)
            return rc;
    }
    if (r->max_tokens < 0)
        return em_error_set(err, -EINVAL, "max_tokens is %d: it must be 0 or more.", r->max_tokens);
    if (r->logprobs < -1 || r->logprobs > EM_MAX_LOGPROBS)
        return em_error_set(err, -EINVAL, "logprobs is %d: it must lie between 0 and %d.", r->logprobs,
                            EM_MAX_LOGPROBS);
    if (r->prompt_logprobs && r->logprobs < 0)
        return em_error_set(err, -EINVAL,
                            "prompt logprobs were asked for without logprobs: set logprobs to 0 or more.");
    if (r->grammar && !info->has_tokenizer)
        return em_error_set(err, -EINVAL, "a grammar needs a tokenizer, and this model has none: leave it out.");
    if (r->cache_salt_len > EM_REQUEST_MAX_SALT_BYTES || (r->cache_salt_len && !r->cache_salt))
        return em_error_set(err, -EINVAL, "cache_salt has %zu bytes: at most %d are allowed.", r->cache_salt_len,
                            EM_REQUEST_MAX_SALT_BYTES);
    int rc = check_insight(r, info, err);
    if (!rc)
        rc = check_sampling(&r->sampling, err);
    if (!rc)
        rc = check_logits(r, err);
    return rc ? rc : check_stops(r, info, err);
}

bool em_request_stops_at(const em_request *r, int32_t id, int32_t eos_id)
{
    for (int32_t i = 0; i < r->n_stop_ids; i++)
        if (r->stop_ids[i] == id)
            return true;
    return id == eos_id && !r->ignore_eos;
}

int32_t em_request_max_new(const em_request *r, int32_t n_prompt, int32_t max_len)
{
    return r->max_tokens < max_len - n_prompt ? r->max_tokens : max_len - n_prompt;
}

int32_t em_request_positions(const em_request *r, int32_t n_prompt, int32_t max_len)
{
    int32_t max_new = em_request_max_new(r, n_prompt, max_len);
    if (max_new)
        return n_prompt + max_new - !r->engram; /* nothing follows the last, but it may be told about */
    if (r->prompt_engram)
        return n_prompt;
    return r->prompt_logprobs ? n_prompt - 1 : 0; /* the last prompt token scores nothing */
}

em_request *em_request_free(em_request *r)
{
    if (!r)
        return NULL;
    for (int32_t i = 0; r->prompts && i < r->n_prompts; i++)
        free(r->prompts[i].ids);
    for (int32_t i = 0; r->stops && i < r->n_stops; i++)
        free(r->stops[i].text);
    free(r->prompts);
    free(r->stops);
    free(r->cache_salt);
    free(r->logits.bias);
    free(r->stop_ids);
    free(r->grammar);
    free(r);
    return NULL;
}
