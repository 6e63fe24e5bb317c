#include "tests/support/fake_engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct em_engine {
    em_engine_info info;
    uint8_t bytes[256];
};

#define BAR "\xef\xbd\x9c"   /* U+FF5C */
#define BLANK "\xe2\x96\x81" /* U+2581 */

static const struct {
    const char *text;
    bool special;
} added[] = {
    {"<bos>", true},
    {"<eos>", true},
    {"<sep>", true},
    {" caf\xc3\xa9", false},
    {"<" BAR "System" BAR ">", false},
    {"<" BAR "User" BAR ">", false},
    {"<" BAR "Assistant" BAR ">", false},
    {"<think>", false},
    {"</think>", false},
    {BAR "DSML" BAR, false},
    {"<" BAR "begin" BLANK "of" BLANK "sentence" BAR ">", true},
    {"<" BAR "end" BLANK "of" BLANK "sentence" BAR ">", true},
};

/* How many of them this engine has. */
static int32_t n_added(const em_engine *e)
{
    return (e->info.vocab_size >= FAKE_CHAT_VOCAB ? FAKE_CHAT_VOCAB : FAKE_VOCAB) - 256;
}

em_engine *fake_engine_new(const em_engine_info *info)
{
    em_engine *e = calloc(1, sizeof *e);
    if (!e)
        abort();
    e->info = info ? *info
                   : (em_engine_info){.vocab_size = FAKE_VOCAB,
                                      .max_len = 64,
                                      .bos_id = FAKE_BOS,
                                      .eos_id = FAKE_EOS,
                                      .has_tokenizer = true,
                                      .add_bos = true,
                                      .backend = "fake"};
    for (int i = 0; i < 256; i++)
        e->bytes[i] = (uint8_t)i;
    return e;
}

void fake_engine_free(em_engine *e)
{
    free(e);
}

void em_engine_get_info(const em_engine *e, em_engine_info *ret_info)
{
    *ret_info = e->info;
}

int em_ids_push(em_ids *ids, int32_t id)
{
    if (ids->n == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 8;
        int32_t *p = realloc(ids->id, cap * sizeof *p);
        if (!p)
            return -ENOMEM;
        ids->id = p;
        ids->cap = cap;
    }
    ids->id[ids->n++] = id;
    return 0;
}

void em_ids_done(em_ids *ids)
{
    free(ids->id);
    *ids = (em_ids){0};
}

/* Marks of the chat format become ids only where the caller asks for them; " caf\u00e9" is an ordinary token. */
static int32_t added_at(const em_engine *e, const char *text, size_t len, bool special)
{
    for (int32_t i = 0; i < n_added(e); i++) {
        size_t n = strlen(added[i].text);
        if (n <= len && !memcmp(added[i].text, text, n) && (special || 256 + i == FAKE_WORD))
            return i;
    }
    return -1;
}

int em_engine_tokenize(const em_engine *e, const char *text, size_t len, bool special, size_t max_ids, em_ids *ids)
{
    if (!e->info.has_tokenizer)
        return -ENOTSUP;
    size_t n = 0;
    for (size_t i = 0; i < len; n++) {
        if (max_ids && n == max_ids)
            return -E2BIG;
        int32_t a = added_at(e, text + i, len - i, special);
        if (em_ids_push(ids, a >= 0 ? 256 + a : (uint8_t)text[i]))
            return -ENOMEM;
        i += a >= 0 ? strlen(added[a].text) : 1;
    }
    return 0;
}

const uint8_t *em_engine_token_bytes(const em_engine *e, int32_t id, size_t *ret_len)
{
    bool known = e->info.has_tokenizer && id >= 0 && id < 256 + n_added(e);
    *ret_len = !known ? 0 : id < 256 ? 1 : strlen(added[id - 256].text);
    if (!known)
        return e->bytes;
    return id < 256 ? &e->bytes[id] : (const uint8_t *)added[id - 256].text;
}

bool em_engine_token_is_special(const em_engine *e, int32_t id)
{
    return id >= 256 && id < 256 + n_added(e) && added[id - 256].special;
}

/* Letters in lower case, as a normal form would have them. */
int em_engine_engram_text(const em_engine *e, int32_t id, em_buf *out)
{
    size_t len;
    const char *bytes = (const char *)em_engine_token_bytes(e, id, &len);
    for (size_t i = 0; i < len; i++) {
        char c = bytes[i] >= 'A' && bytes[i] <= 'Z' ? (char)(bytes[i] + 32) : bytes[i];
        if (em_buf_append(out, &c, 1))
            return -ENOMEM;
    }
    return 0;
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

em_event *fake_event(em_event_kind kind, int32_t choice, const char *text, const em_event_token *tokens,
                     int32_t n_tokens, em_finish finish)
{
    size_t text_len = text ? strlen(text) : 0, n_top = 0;
    for (int32_t i = 0; i < n_tokens; i++)
        n_top += (size_t)tokens[i].n_top;
    size_t tokens_bytes = (size_t)n_tokens * sizeof *tokens, top_bytes = n_top * sizeof(em_top_logprob);
    em_event *ev = calloc(1, sizeof *ev + tokens_bytes + top_bytes + text_len + 1);
    if (!ev)
        abort();
    em_event_token *tok = (em_event_token *)(ev + 1);
    em_top_logprob *top = (em_top_logprob *)((char *)tok + tokens_bytes);
    char *copy = (char *)top + top_bytes;
    for (int32_t i = 0; i < n_tokens; i++) {
        tok[i] = tokens[i];
        tok[i].top = top;
        for (int32_t k = 0; k < tokens[i].n_top; k++)
            *top++ = tokens[i].top[k];
    }
    if (text_len)
        memcpy(copy, text, text_len);
    *ev = (em_event){.kind = kind,
                     .choice = choice,
                     .text = copy,
                     .text_len = text_len,
                     .tokens = tok,
                     .n_tokens = n_tokens,
                     .finish = finish};
    return ev;
}

void em_event_free(em_event *ev)
{
    free(ev);
}
