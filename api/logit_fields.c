#include "api/logit_fields.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A token id as the name of a member: decimal digits, inside the vocabulary. */
static int id_of_name(const em_json *j, const em_api_context *ctx, int32_t *ret_id, em_api_error *err)
{
    char name[16], *end = name;
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    long id = -1;
    if (em_json_string(j, name, sizeof name, NULL) == 0 && name[0] >= '0' && name[0] <= '9')
        id = strtol(name, &end, 10);
    if (id < 0 || *end || id >= info.vocab_size)
        return em_api_error_set(err, 400, "invalid_value", "logit_bias",
                                "logit_bias must name token ids from 0 to %d, got \"%.*s\"", (int)info.vocab_size - 1,
                                (int)(j->raw_len < 40 ? j->raw_len : 40), j->raw);
    *ret_id = (int32_t)id;
    return 0;
}

int em_read_logit_bias(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_generation *g = into;
    em_json j;
    em_field_open(f, &j);
    if (j.type != EM_JSON_OBJECT)
        return em_value_wrong_type(&j, f->name, "an object of token ids and numbers", err);
    while (em_json_next(&j) == EM_JSON_KEY) {
        em_logit_bias entry;
        double bias;
        int most = ctx->max_logit_bias < EM_MAX_LOGIT_BIAS ? ctx->max_logit_bias : EM_MAX_LOGIT_BIAS;
        if (g->n_bias == most)
            return em_api_error_set(err, 400, "out_of_range", f->name, "%s may have at most %d entries", f->name, most);
        int r = id_of_name(&j, ctx, &entry.id, err);
        if (r)
            return r;
        char path[40];
        snprintf(path, sizeof path, "logit_bias.%d", (int)entry.id);
        em_json_next(&j);
        r = em_value_real(&j, path, -100, 100, &bias, err);
        if (r)
            return r;
        entry.bias = (float)bias;
        g->bias[g->n_bias++] = entry;
    }
    return 0;
}

/* Above 0, as it divides; above 2 nothing sensible is left. */
int em_read_repetition_penalty(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_generation *g = into;
    em_json j;
    em_field_open(f, &j);
    int r = em_value_real(&j, f->name, 0, 2, &g->repetition_penalty, err);
    if (!r && (float)g->repetition_penalty <= 0)
        r = em_api_error_set(err, 400, "out_of_range", f->name, "%s must be more than 0", f->name);
    return r;
}

int em_read_stop_token_ids(const em_field *f, const em_api_context *ctx, void *into, em_api_error *err)
{
    em_generation *g = into;
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    em_json j;
    em_field_open(f, &j);
    if (j.type != EM_JSON_ARRAY)
        return em_value_wrong_type(&j, f->name, "a list of token ids", err);
    while (em_json_next(&j) != EM_JSON_ARRAY_END) {
        char path[40];
        int64_t id;
        int most = ctx->max_stops < EM_MAX_STOP_TOKEN_IDS ? ctx->max_stops : EM_MAX_STOP_TOKEN_IDS;
        if (g->n_stop_ids == most)
            return em_api_error_set(err, 400, "out_of_range", f->name, "%s may have at most %d entries", f->name, most);
        snprintf(path, sizeof path, "stop_token_ids[%d]", (int)g->n_stop_ids);
        int r = em_value_int(&j, path, 0, info.vocab_size - 1, &id, err);
        if (r)
            return r;
        g->stop_ids[g->n_stop_ids++] = (int32_t)id;
    }
    return 0;
}

/* malloc'd copy; NULL for none. */
static int copy_list(const void *from, int32_t n, size_t size, void **ret_copy)
{
    if (n == 0)
        return 0;
    void *copy = malloc((size_t)n * size);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, from, (size_t)n * size);
    *ret_copy = copy;
    return 0;
}

int em_logit_fields_copy(const em_generation *g, em_request *req)
{
    req->logits.presence_penalty = (float)g->presence_penalty;
    req->logits.frequency_penalty = (float)g->frequency_penalty;
    req->logits.repetition_penalty = (float)g->repetition_penalty;
    void *bias = NULL, *stop_ids = NULL;
    int r = copy_list(g->bias, g->n_bias, sizeof *g->bias, &bias);
    req->logits.bias = bias;
    req->logits.n_bias = r ? 0 : g->n_bias;
    if (!r)
        r = copy_list(g->stop_ids, g->n_stop_ids, sizeof *g->stop_ids, &stop_ids);
    req->stop_ids = stop_ids;
    req->n_stop_ids = r ? 0 : g->n_stop_ids;
    return r;
}
