/* The fields `tools` and `tool_choice`. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/chat_read.h"

/* --- tools -------------------------------------------------------------------------------------------------- */

static int read_parameters(em_chat_reader *r, const em_node *function, const char *path, em_tool *tool)
{
    const em_node *parameters = em_node_member(function, "parameters");
    if (!parameters)
        return 0;
    em_path inner = em_path_member(path, "parameters");
    if (parameters->type != EM_JSON_OBJECT)
        return em_node_wrong_type(parameters, inner.s, "a JSON Schema of an object", r->err);
    int e = em_schema_check(parameters, inner.s, r->err);
    if (e)
        return e;
    inner = em_path_member(em_path_member(path, "parameters").s, "type");
    const em_node *type = em_node_member(parameters, "type");
    if (parameters->child && !em_node_is(type, "object"))
        return em_node_wrong_value(type, inner.s, "\"object\"", r->err);
    tool->parameters = parameters;
    if (tool->strict && tool->strict->type == EM_JSON_TRUE &&
        em_schema_complete(&r->d->arena, parameters, &tool->parameters))
        return em_api_no_memory(r->err);
    return 0;
}

static int read_function(em_chat_reader *r, const em_node *function, const char *path, em_tool *tool)
{
    em_path inner = em_path_member(path, "name");
    int e = em_node_text(em_node_member(function, "name"), inner.s, &tool->name, r->err);
    if (!e && !tool->name.len)
        e = em_api_error_set(r->err, 400, "invalid_value", inner.s, "%s is an empty string", inner.s);
    const em_node *description = em_node_member(function, "description");
    inner = em_path_member(path, "description");
    if (!e && description)
        e = em_node_text(description, inner.s, &tool->description, r->err);
    tool->strict = em_node_member(function, "strict");
    inner = em_path_member(path, "strict");
    if (!e && tool->strict && tool->strict->type != EM_JSON_TRUE && tool->strict->type != EM_JSON_FALSE)
        e = em_node_wrong_type(tool->strict, inner.s, "true or false", r->err);
    return e ? e : read_parameters(r, function, path, tool);
}

static int read_tool(em_chat_reader *r, const em_node *n, size_t idx, em_tool *tool)
{
    em_path path = em_path_item("tools", idx);
    if (n->type != EM_JSON_OBJECT)
        return em_node_wrong_type(n, path.s, "an object", r->err);
    const em_node *type = em_node_member(n, "type"), *function = em_node_member(n, "function");
    path = em_path_member(em_path_item("tools", idx).s, "type");
    if (!em_node_is(type, "function"))
        return em_node_wrong_value(type, path.s, "\"function\"", r->err);
    path = em_path_member(em_path_item("tools", idx).s, "function");
    if (!function || function->type != EM_JSON_OBJECT)
        return em_node_wrong_type(function, path.s, "an object", r->err);
    return read_function(r, function, path.s, tool);
}

static const em_tool *find_tool(const em_dialog *d, size_t n, em_text name)
{
    for (size_t i = 0; i < n; i++)
        if (d->tools[i].name.len == name.len && !memcmp(d->tools[i].name.s, name.s, name.len))
            return &d->tools[i];
    return NULL;
}

static int read_list(em_chat_reader *r, const em_field *f)
{
    em_node *list = NULL;
    int e = em_chat_read_tree(r, f, &list);
    if (e)
        return e;
    if (list->type != EM_JSON_ARRAY)
        return em_node_wrong_type(list, "tools", "a list of tools", r->err);
    size_t n = em_node_count(list);
    if (n > EM_CHAT_MAX_TOOLS)
        return em_api_error_set(r->err, 400, "out_of_range", "tools", "tools holds %zu tools; at most %d are allowed",
                                n, EM_CHAT_MAX_TOOLS);
    if (n && !r->t->can_call)
        return em_api_error_set(r->err, 400, "unsupported_parameter", "tools",
                                "tools cannot be used: this model has no tool calls");
    r->d->tools = em_arena_alloc(&r->d->arena, n * sizeof *r->d->tools + 1);
    if (!r->d->tools)
        return em_api_no_memory(r->err);
    for (const em_node *tool = list->child; tool && !e; tool = tool->next, r->d->n_tools++) {
        size_t i = r->d->n_tools;
        e = read_tool(r, tool, i, &r->d->tools[i]);
        if (!e && find_tool(r->d, i, r->d->tools[i].name)) {
            em_path path = em_path_member(em_path_item("tools", i).s, "function.name");
            e = em_api_error_set(r->err, 400, "invalid_value", path.s,
                                 "%s is \"%.64s\" like an earlier tool's; names of tools must differ", path.s,
                                 r->d->tools[i].name.s);
        }
    }
    return e;
}

/* --- tool_choice -------------------------------------------------------------------------------------------- */

static const char expected[] = "none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ...}}";

static int choose_named(em_chat_reader *r, const em_node *choice)
{
    em_text name;
    const em_node *type = em_node_member(choice, "type"), *function = em_node_member(choice, "function");
    if (!em_node_is(type, "function"))
        return em_node_wrong_value(type, "tool_choice.type", "\"function\"", r->err);
    if (!function || function->type != EM_JSON_OBJECT)
        return em_node_wrong_type(function, "tool_choice.function", "an object", r->err);
    int e = em_node_text(em_node_member(function, "name"), "tool_choice.function.name", &name, r->err);
    if (e)
        return e;
    const em_tool *tool = find_tool(r->d, r->d->n_tools, name);
    if (!tool)
        return em_api_error_set(r->err, 400, "invalid_value", "tool_choice.function.name",
                                "tool_choice.function.name is \"%.64s\", which is not one of tools", name.s);
    r->d->tools[0] = *tool;
    r->d->n_tools = 1;
    r->d->call_required = true;
    return 0;
}

static int read_choice(em_chat_reader *r, const em_field *f)
{
    em_node *choice = NULL;
    int e = em_chat_read_tree(r, f, &choice);
    if (e)
        return e;
    if (choice->type == EM_JSON_OBJECT)
        return choose_named(r, choice);
    if (choice->type != EM_JSON_STRING)
        return em_node_wrong_type(choice, "tool_choice", expected, r->err);
    if (em_node_is(choice, "none"))
        r->d->n_tools = 0;
    else if (em_node_is(choice, "required"))
        r->d->call_required = r->d->n_tools > 0;
    else if (!em_node_is(choice, "auto"))
        return em_node_wrong_value(choice, "tool_choice", expected, r->err);
    return 0;
}

/* --- what the decoder is to keep to ------------------------------------------------------------------------- */

static void write_tool(const em_tool *tool, em_buf *out)
{
    em_buf_puts(out, "{\"type\":\"function\",\"function\":{\"name\":");
    em_buf_json_string(out, tool->name.s, tool->name.len);
    em_buf_puts(out, ",\"description\":");
    if (tool->description.s)
        em_buf_json_string(out, tool->description.s, tool->description.len);
    else
        em_buf_puts(out, "null");
    em_buf_puts(out, ",\"parameters\":");
    if (tool->parameters)
        em_node_write(tool->parameters, EM_JSON_COMPACT, out);
    else
        em_buf_puts(out, "{}");
    em_buf_puts(out, ",\"strict\":");
    em_buf_puts(out, !tool->strict ? "null" : tool->strict->type == EM_JSON_TRUE ? "true" : "false");
    em_buf_puts(out, "}}");
}

static int make_rule(em_chat_reader *r)
{
    em_buf out = {0};
    em_buf_puts(&out, "[");
    for (size_t i = 0; i < r->d->n_tools; i++) {
        if (i)
            em_buf_puts(&out, ",");
        write_tool(&r->d->tools[i], &out);
    }
    em_buf_puts(&out, "]");
    char *text = out.failed ? NULL : em_arena_alloc(&r->d->arena, out.len + 1);
    if (text)
        memcpy(text, out.data, out.len + 1);
    r->d->rule = (em_constraint){.kind = r->d->call_required ? EM_CONSTRAINT_CALL_REQUIRED : EM_CONSTRAINT_CALL,
                                 .text = text,
                                 .len = out.len,
                                 .param = r->d->call_required ? "tool_choice" : "tools"};
    em_buf_done(&out);
    return text ? 0 : em_api_no_memory(r->err);
}

int em_chat_read_tools(em_chat_reader *r, const em_field *tools, const em_field *choice)
{
    int e = tools ? read_list(r, tools) : 0;
    const em_message *last = &r->d->messages[r->d->n_messages - 1];
    if (!e && r->d->n_tools && last->prefix)
        e = em_api_error_set(r->err, 400, "invalid_value", "tools",
                             "tools cannot be combined with a message that has prefix: true");
    if (!e && choice)
        e = read_choice(r, choice);
    r->d->tools_parsed = r->d->n_tools > 0;
    return e || !r->d->n_tools ? e : make_rule(r);
}
