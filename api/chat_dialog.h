/* A conversation as a client sent it, checked and in plain C: what the template renders. Everything in it lives in its
 * arena. */
#ifndef EM_API_CHAT_DIALOG_H
#define EM_API_CHAT_DIALOG_H

#include "api/constraint.h"
#include "api/json_tree.h"

typedef struct em_text {
    const char *s; /* [len] UTF-8, may hold U+0000; NULL: not given */
    size_t len;
} em_text;

typedef enum em_role {
    EM_ROLE_SYSTEM, /* also "developer" */
    EM_ROLE_USER,
    EM_ROLE_ASSISTANT,
    EM_ROLE_TOOL,
    EM_ROLE_REMINDER, /* "latest_reminder" */
} em_role;

typedef struct em_tool_call {
    em_text id, name;
    em_text arguments;     /* as sent: JSON, or whatever the model once wrote */
    const em_node *object; /* they as one JSON object; NULL when they are none */
} em_tool_call;

typedef struct em_message {
    em_role role;
    em_text content;     /* text parts joined by an empty line */
    em_text reasoning;   /* assistant */
    em_tool_call *calls; /* assistant: [n_calls] */
    size_t n_calls;
    em_text call_id; /* tool: which call this is the result of */
    bool prefix;     /* assistant, last: the answer goes on from here */
} em_message;

typedef struct em_tool {
    em_text name, description;
    const em_node *parameters; /* NULL: none; completed where strict */
    const em_node *strict;     /* as sent; NULL: not given */
} em_tool;

typedef struct em_dialog {
    em_arena arena;
    em_message *messages; /* [n_messages]; results of calls in the order of the calls */
    size_t n_messages;
    em_tool *tools; /* [n_tools] in force: empty with tool_choice none, one with a named function */
    size_t n_tools;
    bool call_required;           /* the answer is calls: tool_choice required or named */
    const em_node *answer_schema; /* response_format: what the prompt shows; NULL: nothing */
    bool thinking;
    int effort; /* 1..100 */
    /* for the parser and the decoder */
    bool tools_parsed;  /* tools are in force: their markup is calls */
    bool single_call;   /* parallel_tool_calls false */
    bool json_output;   /* response_format json_object: text around the JSON is dropped */
    em_constraint rule; /* its text lives in the arena */
} em_dialog;

void em_dialog_done(em_dialog *d);

#endif
