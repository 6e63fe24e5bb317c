#include "api/constraint.h"

#include <string.h>

#include "api/fields.h"

int em_constraint_source(const em_constraint *c, const char *after, em_grammar_source **ret_source, em_api_error *err)
{
    static const em_grammar_kind kinds[] = {[EM_CONSTRAINT_JSON] = EM_GRAMMAR_JSON_SCHEMA,
                                            [EM_CONSTRAINT_REGEX] = EM_GRAMMAR_REGEX,
                                            [EM_CONSTRAINT_CHOICE] = EM_GRAMMAR_CHOICE,
                                            [EM_CONSTRAINT_GRAMMAR] = EM_GRAMMAR_EBNF};
    if (c->kind == EM_CONSTRAINT_NONE || c->kind == EM_CONSTRAINT_CALL)
        return 0;
    if (c->kind == EM_CONSTRAINT_CALL_REQUIRED)
        return em_api_error_set(err, 400, "unsupported_parameter", c->param,
                                "%s asks for something that this server cannot keep: leave it out", c->param);
    em_grammar_kind kind = c->kind == EM_CONSTRAINT_JSON && !c->len ? EM_GRAMMAR_JSON_OBJECT : kinds[c->kind];
    em_grammar_source *source = em_grammar_source_new(kind, c->text, c->len, after, strlen(after));
    if (!source)
        return em_api_no_memory(err);
    *ret_source = source;
    return 0;
}
