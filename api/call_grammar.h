/* The grammar of tool calls as a model of the family writes them: an EBNF text for the engine, made of the tools. What
 * it allows is what api/chat_parse.h reads back as calls of these tools with arguments that their schemas allow. */
#ifndef EM_API_CALL_GRAMMAR_H
#define EM_API_CALL_GRAMMAR_H

#include "api/error.h"
#include "engine/base/buf.h"

typedef struct em_call_form {
    const char *tools; /* [len] a JSON list of OpenAI's tool objects */
    size_t len;
    bool
        required; /* the text is calls, and the prompt has opened their block; else any text, in which a block may open */
    bool single;       /* one call at most */
    const char *param; /* static: the field that asked for it, for errors */
} em_call_form;

/* Appends the text. required: arguments are what the tool's schema allows; else so of tools with "strict": true, and of
 * the others any JSON object. -EINVAL with err filled: a tool that cannot be written so. */
int em_call_grammar(const em_call_form *form, em_buf *out, em_api_error *err);

/* Has one of the tools "strict": true? False also when memory runs out. */
bool em_call_any_strict(const char *tools, size_t len);

#endif
