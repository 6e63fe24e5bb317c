/* Where a long text can be cut so that its parts give the ids of the whole. */
#include <string.h>

#include "engine/tokenizer_impl.h"

static bool is_break(char c)
{
    return c == '\n' || c == '\r';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* An added token may span the cut only if it holds a line break itself. */
static bool added_token_has_break(const em_tokenizer *tok)
{
    for (int32_t id = 0; id < tok->n_tokens; id++) {
        const em_token *t = &tok->tokens[id];
        if (t->added && (memchr(t->raw, '\n', t->raw_len) || memchr(t->raw, '\r', t->raw_len)))
            return true;
    }
    return false;
}

size_t em_tokenizer_cut(const em_tokenizer *tok, const char *text, size_t len)
{
    if (added_token_has_break(tok))
        return 0;
    /* no pattern of the pre-tokenizer goes on behind a line break when a letter follows */
    for (size_t at = len; at-- > 1;)
        if (is_letter(text[at]) && is_break(text[at - 1]))
            return at;
    return 0;
}
