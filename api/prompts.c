#include "api/prompts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define PATH_CAP 96

void em_prompts_done(em_prompts *p)
{
    for (int32_t i = 0; i < p->n; i++) {
        free(p->prompts[i].ids);
        free(p->text[i]);
    }
    free(p->prompts);
    free(p->text);
    free(p->bos);
    *p = (em_prompts){0};
}

static int grow(em_prompts *p)
{
    if (p->n < p->cap)
        return 0;
    int32_t cap = p->cap ? p->cap * 2 : 1;
    em_prompt *prompts = realloc(p->prompts, (size_t)cap * sizeof *prompts);
    p->prompts = prompts ? prompts : p->prompts;
    char **text = realloc(p->text, (size_t)cap * sizeof *text);
    p->text = text ? text : p->text;
    int32_t *bos = realloc(p->bos, (size_t)cap * sizeof *bos);
    p->bos = bos ? bos : p->bos;
    if (!prompts || !text || !bos)
        return -ENOMEM;
    p->cap = cap;
    return 0;
}

/* A new prompt at the end, with nothing in it. */
static int push_prompt(em_prompts *p, const em_api_context *ctx, em_api_error *err)
{
    if (p->n >= ctx->max_prompts)
        return em_api_error_set(err, 400, "out_of_range", "prompt", "prompt holds more than %d prompts",
                                (int)ctx->max_prompts);
    if (grow(p))
        return em_api_no_memory(err);
    p->prompts[p->n] = (em_prompt){0};
    p->text[p->n] = NULL;
    p->bos[p->n] = 0;
    p->n++;
    return 0;
}

int em_prompt_too_long(const char *path, const em_engine_info *info, const char *more, size_t n_ids, em_api_error *err)
{
    return em_api_error_set(err, 400, "context_length_exceeded", path,
                            "%s has %s%zu tokens, but this model's context length is %d tokens and a prompt must be "
                            "shorter than that",
                            path, more, n_ids, (int)info->max_len);
}

/* Checks the length and hands the ids over. */
static int take_ids(em_prompts *p, const char *path, const em_engine_info *info, em_ids *ids, em_api_error *err)
{
    if (ids->n >= (size_t)info->max_len)
        return em_prompt_too_long(path, info, "", ids->n, err);
    em_prompt *prompt = &p->prompts[p->n - 1];
    prompt->n_ids = (int32_t)ids->n;
    prompt->ids = ids->id;
    *ids = (em_ids){0};
    return 0;
}

/* --- ids ---------------------------------------------------------------------------------------------------- */

static int read_id(const em_json *j, const char *list, size_t idx, int32_t vocab_size, em_ids *ids, em_api_error *err)
{
    char path[PATH_CAP + 24];
    int64_t id = 0;
    int r = em_json_i64(j, &id);
    if (!r && id >= 0 && id < vocab_size)
        return em_ids_push(ids, (int32_t)id) ? em_api_no_memory(err) : 0;
    snprintf(path, sizeof path, "%s[%zu]", list, idx);
    if (r == -EINVAL)
        return em_value_wrong_type(j, path, "a token id", err);
    char shown[64];
    return em_api_error_set(err, 400, "out_of_range", path, "%s must be a token id between 0 and %d, got %s", path,
                            (int)vocab_size - 1, em_value_shown(j, shown));
}

int em_id_list_read(em_json *j, const char *path, int32_t vocab_size, em_ids *ids, em_api_error *err)
{
    int r = 0;
    for (size_t idx = 0; !r; idx++) {
        em_json_type t = em_json_next(j);
        if (t == EM_JSON_ARRAY_END)
            return 0;
        if (t == EM_JSON_ERROR)
            return em_api_error_set(err, 400, "invalid_json", path, "%s is not valid JSON", path);
        r = read_id(j, path, idx, vocab_size, ids, err);
    }
    return r;
}

static int empty_list(const char *path, em_api_error *err)
{
    return em_api_error_set(err, 400, "invalid_value", path, "%s is an empty list; it needs at least one token id",
                            path);
}

static int read_id_prompt(em_json *j, const char *path, const em_api_context *ctx, em_prompts *p, em_api_error *err)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    int r = push_prompt(p, ctx, err);
    if (r)
        return r;
    em_ids ids = {0};
    r = em_id_list_read(j, path, info.vocab_size, &ids, err);
    if (!r && ids.n == 0)
        r = empty_list(path, err);
    if (!r)
        r = take_ids(p, path, &info, &ids, err);
    em_ids_done(&ids);
    return r;
}

/* --- texts -------------------------------------------------------------------------------------------------- */

int em_text_ids(const em_api_context *ctx, const char *path, const char *text, size_t len, bool bos, size_t limit,
                em_ids *ids, em_api_error *err)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    if (!info.has_tokenizer)
        return em_api_error_set(err, 400, "no_tokenizer", path,
                                "%s must be given as token ids: the model has no tokenizer", path);
    if (bos && em_ids_push(ids, info.bos_id))
        return em_api_no_memory(err);
    int r = len ? em_engine_tokenize(ctx->engine, text, len, true, limit, ids) : 0;
    if (r == -ENOMEM)
        return em_api_no_memory(err);
    if (r && r != -E2BIG)
        return em_api_error_set(err, 400, "invalid_value", path, "%s cannot be turned into tokens", path);
    return r;
}

/* The ids of the last prompt, whose text is there. */
static int tokenize_prompt(em_prompts *p, const char *path, size_t len, const em_api_context *ctx,
                           bool add_special_tokens, em_api_error *err)
{
    em_engine_info info;
    em_engine_get_info(ctx->engine, &info);
    /* An empty text has nothing but BOS to begin from, whether or not one was asked for. */
    bool bos = em_text_wants_bos(&info, add_special_tokens) || (len == 0 && info.bos_id >= 0);
    size_t limit = em_prompt_count_limit(&info);
    em_ids ids = {0};
    p->bos[p->n - 1] = bos;
    int r = em_text_ids(ctx, path, p->text[p->n - 1], len, bos, limit, &ids, err);
    if (r == -E2BIG)
        r = em_prompt_too_long(path, &info, "more than ", limit, err);
    else if (!r && ids.n == 0)
        r = em_api_error_set(err, 400, "invalid_value", path,
                             "%s is empty, and the model has no token that begins a text; send some text", path);
    else if (!r)
        r = take_ids(p, path, &info, &ids, err);
    em_ids_done(&ids);
    return r;
}

static int read_text_prompt(const em_json *j, const char *path, const em_api_context *ctx, bool add_special_tokens,
                            em_prompts *p, em_api_error *err)
{
    int r = push_prompt(p, ctx, err);
    size_t len = 0;
    if (!r)
        r = em_value_string(j, path, &p->text[p->n - 1], &len, err);
    return r ? r : tokenize_prompt(p, path, len, ctx, add_special_tokens, err);
}

/* --- the field ---------------------------------------------------------------------------------------------- */

/* j stands at item idx of a list of texts or of id lists; kind is the type of the first. */
static int read_item(em_json *j, em_json_type kind, int32_t idx, const em_api_context *ctx, bool add_special_tokens,
                     em_prompts *p, em_api_error *err)
{
    char path[PATH_CAP];
    snprintf(path, sizeof path, "prompt[%d]", (int)idx);
    bool texts = kind == EM_JSON_STRING;
    if (j->type != kind)
        return em_value_wrong_type(j, path, texts ? "a string like the first" : "a list of token ids like the first",
                                   err);
    if (texts)
        return read_text_prompt(j, path, ctx, add_special_tokens, p, err);
    return read_id_prompt(j, path, ctx, p, err);
}

static int read_list(const em_field *f, const em_api_context *ctx, bool add_special_tokens, em_prompts *p,
                     em_api_error *err)
{
    em_json j;
    em_field_open(f, &j);
    em_json_type kind = em_json_next(&j);
    if (kind == EM_JSON_ARRAY_END)
        return em_api_error_set(err, 400, "invalid_value", f->name, "%s is an empty list; it needs a text or token ids",
                                f->name);
    if (kind == EM_JSON_NUMBER) {
        em_field_open(f, &j); /* one list of ids: again from its [ */
        return read_id_prompt(&j, f->name, ctx, p, err);
    }
    if (kind != EM_JSON_STRING && kind != EM_JSON_ARRAY)
        return em_value_wrong_type(&j, "prompt[0]", "a string, a token id or a list of token ids", err);
    int r = 0;
    for (int32_t idx = 0; !r && j.type != EM_JSON_ARRAY_END; idx++) {
        r = read_item(&j, kind, idx, ctx, add_special_tokens, p, err);
        if (!r && em_json_next(&j) == EM_JSON_ERROR)
            r = em_api_error_set(err, 400, "invalid_json", f->name, "%s is not valid JSON", f->name);
    }
    return r;
}

int em_prompts_read(const em_field *f, const em_api_context *ctx, bool add_special_tokens, em_prompts *ret,
                    em_api_error *err)
{
    em_prompts p = {0};
    em_json j;
    em_field_open(f, &j);
    int r;
    if (j.type == EM_JSON_STRING)
        r = read_text_prompt(&j, f->name, ctx, add_special_tokens, &p, err);
    else if (j.type == EM_JSON_ARRAY)
        r = read_list(f, ctx, add_special_tokens, &p, err);
    else
        r = em_value_wrong_type(&j, f->name, "a string, a list of strings, token ids or a list of token ids", err);
    if (r)
        em_prompts_done(&p);
    else
        *ret = p;
    return r;
}
