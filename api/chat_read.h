/* The fields of a chat body that make the prompt -> em_dialog. Pure; any thread. */
#ifndef EM_API_CHAT_READ_H
#define EM_API_CHAT_READ_H

#include "api/chat_template.h"
#include "api/fields.h"

/* What a client can grow. */
#define EM_CHAT_MAX_VALUES 262144 /* JSON values of messages, arguments, tools and schemas together */
#define EM_CHAT_MAX_TOOLS 1024
#define EM_CHAT_MAX_CALLS 1024 /* in one message */
#define EM_SCHEMA_MAX_DEPTH 64

/* The fields, for the table of an endpoint. */
typedef struct em_dialog_fields {
    const em_field *messages, *tools, *tool_choice, *response_format, *structured_outputs;
    const em_field *thinking, *reasoning_effort;
    bool parallel_tool_calls;
} em_dialog_fields;

#define EM_DIALOG_FIELDS_DEFAULTS ((em_dialog_fields){.parallel_tool_calls = true})
extern const em_field_table em_dialog_field_table;

/* -EINVAL with err filled. The texts of the fields must live until the dialog is done. */
int em_dialog_read(const em_dialog_fields *f, const em_chat_template *t, const em_api_context *ctx,
                   em_dialog *ret_dialog, em_api_error *err);

/* --- its parts ---------------------------------------------------------------------------------------------- */

typedef struct em_chat_reader {
    em_dialog *d;
    const em_chat_template *t;
    size_t values_left; /* of EM_CHAT_MAX_VALUES */
    em_api_error *err;
} em_chat_reader;

int em_chat_read_tree(em_chat_reader *r, const em_field *f, em_node **ret_root);
int em_chat_read_messages(em_chat_reader *r, const em_field *f);
/* Tools and tool_choice; ret_asked: a call is required or one function named. */
int em_chat_read_tools(em_chat_reader *r, const em_field *tools, const em_field *choice);
/* response_format and structured_outputs. */
int em_chat_read_format(em_chat_reader *r, const em_field *format, const em_field *structured);

/* Where a value stands, for errors: "messages[3].content". Long ones lose their middle, which no error needs. */
typedef struct em_path {
    char s[160];
} em_path;
em_path em_path_member(const char *path, const char *name);
em_path em_path_item(const char *path, size_t idx);

/* A value of a tree that is not what it should be; n NULL: it is missing. Both return -EINVAL. */
int em_node_wrong_type(const em_node *n, const char *path, const char *expected, em_api_error *err);
/* "path must be ..., got ..." for a string with a value that is not known. */
int em_node_wrong_value(const em_node *n, const char *path, const char *expected, em_api_error *err);
int em_node_text(const em_node *n, const char *path, em_text *ret, em_api_error *err); /* a string that must be there */

/* A tree as compact JSON in the arena. */
int em_chat_write_json(em_chat_reader *r, const em_node *n, const char **ret_text, size_t *ret_len);

/* --- schemas ------------------------------------------------------------------------------------------------ */

/* Is n a JSON Schema as far as its form goes: known keywords hold what they must? -EINVAL names the place. */
int em_schema_check(const em_node *n, const char *path, em_api_error *err);
/* What `strict` promises: every object without them gets additionalProperties false and all properties required. The
 * result is a copy that shares what did not change. -ENOMEM. */
int em_schema_complete(em_arena *a, const em_node *n, const em_node **ret_schema);

#endif
