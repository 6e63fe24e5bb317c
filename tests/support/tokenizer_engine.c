#include "tests/support/tokenizer_engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct em_engine {
    em_tokenizer *tok;
    int32_t max_len;
};

em_engine *tokenizer_engine_new(const char *dir, int32_t max_len)
{
    em_error err = {0};
    em_engine *e = calloc(1, sizeof *e);
    if (!e || em_tokenizer_load(dir, &e->tok, &err)) {
        fprintf(stderr, "no tokenizer in %s: %s\n", dir, err.text);
        abort();
    }
    e->max_len = max_len;
    return e;
}

void tokenizer_engine_free(em_engine *e)
{
    if (e)
        em_tokenizer_free(e->tok);
    free(e);
}

void em_engine_get_info(const em_engine *e, em_engine_info *ret_info)
{
    *ret_info = (em_engine_info){.vocab_size = em_tokenizer_size(e->tok),
                                 .max_len = e->max_len,
                                 .bos_id = em_tokenizer_bos(e->tok),
                                 .eos_id = 1,
                                 .has_tokenizer = true,
                                 .add_bos = em_tokenizer_add_bos(e->tok),
                                 .backend = "none"};
}

int em_engine_tokenize(const em_engine *e, const char *text, size_t len, bool special, size_t max_ids, em_ids *ids)
{
    return em_tokenizer_encode(e->tok, text, len, special, max_ids, ids);
}

const uint8_t *em_engine_token_bytes(const em_engine *e, int32_t id, size_t *ret_len)
{
    return em_tokenizer_bytes(e->tok, id, ret_len);
}

bool em_engine_token_is_special(const em_engine *e, int32_t id)
{
    return em_tokenizer_is_special(e->tok, id);
}

int em_engine_engram_text(const em_engine *e, int32_t id, em_buf *out)
{
    size_t len;
    const uint8_t *bytes = em_tokenizer_bytes(e->tok, id, &len);
    return em_buf_append(out, bytes, len);
}
