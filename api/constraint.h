/* What an answer must look like, as a request asks for it: a kind and its source text. The engine's grammars are
 * compiled from these. */
#ifndef EM_API_CONSTRAINT_H
#define EM_API_CONSTRAINT_H

#include <stdbool.h>
#include <stddef.h>

#include "api/error.h"
#include "engine/engine.h"

typedef enum em_constraint_kind {
    EM_CONSTRAINT_NONE,
    EM_CONSTRAINT_JSON,          /* text: a JSON Schema; empty: any JSON object */
    EM_CONSTRAINT_REGEX,         /* text: a regular expression that the whole answer matches */
    EM_CONSTRAINT_CHOICE,        /* text: a JSON list of strings, one of which is the answer */
    EM_CONSTRAINT_GRAMMAR,       /* text: EBNF */
    EM_CONSTRAINT_CALL,          /* text: a JSON list of OpenAI's tool objects, any of which may be called */
    EM_CONSTRAINT_CALL_REQUIRED, /* likewise, and the answer is calls; the prompt has opened their block */
} em_constraint_kind;

typedef struct em_constraint {
    em_constraint_kind kind;
    const char *text; /* [len] UTF-8, NUL-terminated */
    size_t len;
    const char *param; /* static: the field that asked for it */
} em_constraint;

/* The source of its grammar, malloc'd; NULL where nothing is to be kept to. after: a mark that ends what comes before the
 * answer; empty: nothing does. single_call: of calls, one at most. -EINVAL with err filled. */
int em_constraint_source(const em_constraint *c, const char *after, bool single_call, em_grammar_source **ret_source,
                         em_api_error *err);

#endif
