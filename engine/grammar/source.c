#include "engine/grammar/source.h"

#include <stdlib.h>
#include <string.h>

em_grammar_source *em_grammar_source_new(em_grammar_kind kind, const char *text, size_t len, const char *after,
                                         size_t after_len)
{
    em_grammar_source *s = len > SIZE_MAX / 4 || after_len > SIZE_MAX / 4 ? NULL : malloc(sizeof(*s) + len + after_len);
    if (!s)
        return NULL;
    char *bytes = (char *)(s + 1);
    if (len)
        memcpy(bytes, text, len);
    if (after_len)
        memcpy(bytes + len, after, after_len);
    *s = (em_grammar_source){.kind = kind, .text = bytes, .len = len, .after = bytes + len, .after_len = after_len};
    return s;
}

bool em_grammar_source_equal(const em_grammar_source *a, const em_grammar_source *b)
{
    return a->kind == b->kind && a->len == b->len && a->after_len == b->after_len &&
           !memcmp(a->text, b->text, a->len) && !memcmp(a->after, b->after, a->after_len);
}
