#include "api/constraint.h"

#include <string.h>

#include "api/call_grammar.h"
#include "api/fields.h"

static int set_source(em_grammar_kind kind, const char *text, size_t len, const char *after,
                      em_grammar_source **ret_source, em_api_error *err)
{
    em_grammar_source *source = em_grammar_source_new(kind, text, len, after, strlen(after));
    if (!source)
        return em_api_no_memory(err);
    *ret_source = source;
    return 0;
}

/* Calls that the model may make or leave are kept to only where a tool asks for it. */
static int call_source(const em_constraint *c, bool single, em_grammar_source **ret_source, em_api_error *err)
{
    em_buf text = {0};
    em_call_form form = {.tools = c->text,
                         .len = c->len,
                         .required = c->kind == EM_CONSTRAINT_CALL_REQUIRED,
                         .single = single,
                         .param = c->param};
    if (!form.required && !em_call_any_strict(c->text, c->len))
        return 0;
    int r = em_call_grammar(&form, &text, err);
    if (!r)
        r = set_source(EM_GRAMMAR_EBNF, text.data, text.len, "", ret_source, err);
    em_buf_done(&text);
    return r;
}

int em_constraint_source(const em_constraint *c, const char *after, bool single_call, em_grammar_source **ret_source,
                         em_api_error *err)
{
    static const em_grammar_kind kinds[] = {[EM_CONSTRAINT_JSON] = EM_GRAMMAR_JSON_SCHEMA,
                                            [EM_CONSTRAINT_REGEX] = EM_GRAMMAR_REGEX,
                                            [EM_CONSTRAINT_CHOICE] = EM_GRAMMAR_CHOICE,
                                            [EM_CONSTRAINT_GRAMMAR] = EM_GRAMMAR_EBNF};
    if (c->kind == EM_CONSTRAINT_NONE)
        return 0;
    if (c->kind == EM_CONSTRAINT_CALL || c->kind == EM_CONSTRAINT_CALL_REQUIRED)
        return call_source(c, single_call, ret_source, err);
    em_grammar_kind kind = c->kind == EM_CONSTRAINT_JSON && !c->len ? EM_GRAMMAR_JSON_OBJECT : kinds[c->kind];
    return set_source(kind, c->text, c->len, after, ret_source, err);
}
