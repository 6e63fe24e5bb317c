/* Regular expressions -> expressions. docs/structured_output.md has the language. */
#ifndef EM_ENGINE_GRAMMAR_REGEX_H
#define EM_ENGINE_GRAMMAR_REGEX_H

#include "engine/grammar/build.h"

typedef enum em_regex_use {
    EM_REGEX_WHOLE,   /* the whole text matches, as UTF-8 */
    EM_REGEX_IN_JSON, /* some part of the content of a JSON string matches */
} em_regex_use;

/* what: how the sentence names it ("regex", "pattern of ..."). The text is valid UTF-8. */
em_expr em_regex_expr(em_gr_build *b, const char *what, const char *text, size_t len, em_regex_use use);

#endif
