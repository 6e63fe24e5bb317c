/* The field `prompt` (text, list of texts, ids, list of ids) -> token ids, and lists of ids in general. Read with the
 * pull reader straight into arrays: a list of a million ids never becomes a tree. */
#ifndef EM_API_PROMPTS_H
#define EM_API_PROMPTS_H

#include "api/fields.h"

typedef struct em_prompts {
    em_prompt *prompts; /* [n] */
    char **text;        /* [n] the text as sent; NULL for ids */
    int32_t *bos;       /* [n] 1 when a BOS was added in front */
    int32_t n, cap;
} em_prompts;

void em_prompts_done(em_prompts *p);

/* Each prompt fits the model (shorter than max_len) and has at least one id. */
int em_prompts_read(const em_field *f, const em_api_context *ctx, bool add_special_tokens, em_prompts *ret,
                    em_api_error *err);

/* A text gets a BOS in front when it is asked for, and the model's tokenizer adds one. */
static inline bool em_text_wants_bos(const em_engine_info *info, bool add_special_tokens)
{
    return add_special_tokens && info->add_bos && info->bos_id >= 0;
}

/* Ids of one text, special tokens spelled in it included. limit: -E2BIG when there are more (0: no limit; err is left
 * to the caller then); all other failures are -EINVAL with err filled. */
int em_text_ids(const em_api_context *ctx, const char *path, const char *text, size_t len, bool bos, size_t limit,
                em_ids *ids, em_api_error *err);

/* context_length_exceeded; more: "" or "more than ". */
int em_prompt_too_long(const char *path, const em_engine_info *info, const char *more, size_t n_ids, em_api_error *err);
/* How far ids are counted: most errors can then name the exact length, and a huge text is not worth it. */
static inline size_t em_prompt_count_limit(const em_engine_info *info)
{
    return (size_t)info->max_len * 4 + 4096;
}

/* j stands at the [ of a list of ids; afterwards at its ]. path names the list. */
int em_id_list_read(em_json *j, const char *path, int32_t vocab_size, em_ids *ids, em_api_error *err);

#endif
