/* What an answer must look like, as text that is not compiled yet. */
#ifndef EM_ENGINE_GRAMMAR_SOURCE_H
#define EM_ENGINE_GRAMMAR_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum em_grammar_kind {
    EM_GRAMMAR_JSON_SCHEMA,
    EM_GRAMMAR_JSON_OBJECT, /* any; no text */
    EM_GRAMMAR_REGEX,       /* matches the whole answer */
    EM_GRAMMAR_CHOICE,      /* text: a JSON list of strings, one of which is the answer */
    EM_GRAMMAR_EBNF,
} em_grammar_kind;

/* One malloc'd block, text and mark included: free() it. */
typedef struct em_grammar_source {
    em_grammar_kind kind;
    const char *text; /* [len] UTF-8 */
    size_t len;
    const char
        *after; /* [after_len] UTF-8; not empty: any text up to this mark comes first, and the answer behind it */
    size_t after_len;
} em_grammar_source;

em_grammar_source *em_grammar_source_new(em_grammar_kind kind, const char *text, size_t len, const char *after,
                                         size_t after_len); /* copies; NULL: out of memory */
bool em_grammar_source_equal(const em_grammar_source *a, const em_grammar_source *b);

#endif
