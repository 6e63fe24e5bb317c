/* The fields `response_format` and `structured_outputs`: what the answer must look like. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/chat_read.h"

static int set_rule(em_chat_reader *r, em_constraint_kind kind, const char *text, size_t len, const char *param)
{
    /* Calls come first: an answer that may be a call cannot be held to a schema from its beginning. */
    if (r->d->rule.kind == EM_CONSTRAINT_NONE)
        r->d->rule = (em_constraint){.kind = kind, .text = text, .len = len, .param = param};
    return 0;
}

static int set_json_rule(em_chat_reader *r, em_constraint_kind kind, const em_node *n, const char *param)
{
    const char *text = NULL;
    size_t len = 0;
    int e = em_chat_write_json(r, n, &text, &len);
    return e ? e : set_rule(r, kind, text, len, param);
}

/* --- response_format ---------------------------------------------------------------------------------------- */

static int read_json_object(em_chat_reader *r)
{
    em_node *shown = NULL;
    size_t values = 8;
    static const char text[] = "{\"type\":\"json_object\"}";
    if (em_tree_parse(&r->d->arena, text, sizeof text - 1, 0, &values, &shown))
        return em_api_no_memory(r->err);
    r->d->answer_schema = shown;
    r->d->json_output = true;
    return set_rule(r, EM_CONSTRAINT_JSON, "", 0, "response_format");
}

static int read_json_schema(em_chat_reader *r, const em_node *format)
{
    static const char path[] = "response_format.json_schema";
    const em_node *wrapper = em_node_member(format, "json_schema");
    if (!wrapper || wrapper->type != EM_JSON_OBJECT)
        return em_node_wrong_type(wrapper, path, "an object with name and schema", r->err);
    const em_node *schema = em_node_member(wrapper, "schema"), *strict = em_node_member(wrapper, "strict");
    if (!schema)
        return em_node_wrong_type(schema, "response_format.json_schema.schema", "a JSON Schema", r->err);
    if (strict && strict->type != EM_JSON_TRUE && strict->type != EM_JSON_FALSE)
        return em_node_wrong_type(strict, "response_format.json_schema.strict", "true or false", r->err);
    int e = em_schema_check(schema, "response_format.json_schema.schema", r->err);
    if (e)
        return e;
    r->d->answer_schema = schema;
    if (strict && strict->type == EM_JSON_TRUE) {
        const em_node *type = em_node_member(schema, "type");
        if (!em_node_is(type, "object"))
            return em_node_wrong_value(type, "response_format.json_schema.schema.type",
                                       "\"object\" (with strict, the top level is an object)", r->err);
        if (em_schema_complete(&r->d->arena, schema, &schema))
            return em_api_no_memory(r->err);
    }
    return set_json_rule(r, EM_CONSTRAINT_JSON, schema, "response_format");
}

static int read_regex(em_chat_reader *r, const em_node *format)
{
    em_text regex;
    int e = em_node_text(em_node_member(format, "regex"), "response_format.regex", &regex, r->err);
    return e ? e : set_rule(r, EM_CONSTRAINT_REGEX, regex.s, regex.len, "response_format");
}

static int read_response_format(em_chat_reader *r, const em_field *f)
{
    em_node *format = NULL;
    int e = em_chat_read_tree(r, f, &format);
    if (e)
        return e;
    if (format->type != EM_JSON_OBJECT)
        return em_node_wrong_type(format, "response_format", "an object", r->err);
    const em_node *type = em_node_member(format, "type");
    if (em_node_is(type, "text"))
        return 0;
    if (em_node_is(type, "json_object"))
        return read_json_object(r);
    if (em_node_is(type, "json_schema"))
        return read_json_schema(r, format);
    if (em_node_is(type, "regex"))
        return read_regex(r, format);
    return em_node_wrong_value(type, "response_format.type", "text, json_object, json_schema or regex", r->err);
}

/* --- structured_outputs ------------------------------------------------------------------------------------- */

#define PARAM "structured_outputs"

/* A schema, or its text. */
static int structured_json(em_chat_reader *r, const em_node *n)
{
    static const char path[] = PARAM ".json";
    em_node *schema = NULL;
    if (n->type == EM_JSON_STRING) {
        int e = em_tree_parse(&r->d->arena, n->text, n->len, EM_SCHEMA_MAX_DEPTH, &r->values_left, &schema);
        if (e == -ENOMEM)
            return em_api_no_memory(r->err);
        if (e)
            return em_api_error_set(r->err, 400, "invalid_schema", path,
                                    "%s is a string, but what it holds is not valid JSON", path);
    }
    int e = em_schema_check(schema ? schema : n, path, r->err);
    return e ? e : set_json_rule(r, EM_CONSTRAINT_JSON, schema ? schema : n, PARAM);
}

static int structured_choice(em_chat_reader *r, const em_node *n)
{
    char path[64];
    size_t idx = 0;
    if (n->type != EM_JSON_ARRAY || !n->child)
        return em_node_wrong_type(n, PARAM ".choice", "a list of strings with at least one", r->err);
    for (const em_node *item = n->child; item; item = item->next, idx++) {
        snprintf(path, sizeof path, PARAM ".choice[%zu]", idx);
        if (item->type != EM_JSON_STRING || !item->len)
            return em_node_wrong_type(item, path, "a string that is not empty", r->err);
    }
    return set_json_rule(r, EM_CONSTRAINT_CHOICE, n, PARAM);
}

static int structured_text(em_chat_reader *r, const em_node *n, em_constraint_kind kind, const char *path)
{
    em_text text;
    int e = em_node_text(n, path, &text, r->err);
    return e ? e : set_rule(r, kind, text.s, text.len, PARAM);
}

static int structured_object(em_chat_reader *r, const em_node *n)
{
    if (n->type != EM_JSON_TRUE)
        return em_node_wrong_type(n, PARAM ".json_object", "true", r->err);
    return set_rule(r, EM_CONSTRAINT_JSON, "", 0, PARAM);
}

static int read_structured_member(em_chat_reader *r, const em_node *n)
{
    char path[96];
    if (!strcmp(n->key, "json"))
        return structured_json(r, n);
    if (!strcmp(n->key, "regex"))
        return structured_text(r, n, EM_CONSTRAINT_REGEX, PARAM ".regex");
    if (!strcmp(n->key, "grammar"))
        return structured_text(r, n, EM_CONSTRAINT_GRAMMAR, PARAM ".grammar");
    if (!strcmp(n->key, "choice"))
        return structured_choice(r, n);
    if (!strcmp(n->key, "json_object"))
        return structured_object(r, n);
    snprintf(path, sizeof path, PARAM ".%.64s", n->key);
    return em_api_error_set(
        r->err, 400, "unsupported_parameter", path,
        "%s is not supported by this server; " PARAM " takes one of json, regex, choice, grammar, json_object", path);
}

static int read_structured(em_chat_reader *r, const em_field *f)
{
    em_node *root = NULL;
    int n = 0;
    int e = em_chat_read_tree(r, f, &root);
    if (e)
        return e;
    if (root->type != EM_JSON_OBJECT)
        return em_node_wrong_type(root, PARAM, "an object", r->err);
    for (const em_node *m = root->child; m && !e; m = m->next) {
        if (m->type == EM_JSON_NULL)
            continue;
        if (n++)
            return em_api_error_set(r->err, 400, "invalid_value", PARAM,
                                    PARAM " takes exactly one of json, regex, choice, grammar, json_object");
        e = read_structured_member(r, m);
    }
    return e;
}

int em_chat_read_format(em_chat_reader *r, const em_field *format, const em_field *structured)
{
    int e = format ? read_response_format(r, format) : 0;
    if (e || !structured)
        return e;
    if (r->d->rule.kind != EM_CONSTRAINT_NONE)
        return em_api_error_set(r->err, 400, "invalid_value", PARAM,
                                PARAM " cannot be combined with tools or with a response_format that asks for a form");
    return read_structured(r, structured);
}
