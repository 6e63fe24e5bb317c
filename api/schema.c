/* JSON Schemas of tools and answers: is the form right, and completing those that are to be strict. What they mean is
 * the grammar compiler's business. */
#include <errno.h>
#include <string.h>

#include "api/chat_read.h"

typedef enum keyword_form {
    FORM_SCHEMA,         /* a schema: an object or a boolean */
    FORM_SCHEMAS,        /* a list of schemas, not empty */
    FORM_SCHEMA_OR_LIST, /* items of older drafts */
    FORM_MEMBERS,        /* an object whose values are schemas */
    FORM_TYPES,          /* a type's name, or a list of them */
    FORM_NAMES,          /* a list of strings */
    FORM_LIST,
    FORM_TEXT,
    FORM_NUMBER,
    FORM_COUNT, /* an integer, 0 or more */
} keyword_form;

static const struct {
    const char *name;
    keyword_form form;
} keywords[] = {
    {"type", FORM_TYPES},
    {"properties", FORM_MEMBERS},
    {"patternProperties", FORM_MEMBERS},
    {"$defs", FORM_MEMBERS},
    {"definitions", FORM_MEMBERS},
    {"dependentSchemas", FORM_MEMBERS},
    {"additionalProperties", FORM_SCHEMA},
    {"unevaluatedProperties", FORM_SCHEMA},
    {"propertyNames", FORM_SCHEMA},
    {"contains", FORM_SCHEMA},
    {"additionalItems", FORM_SCHEMA},
    {"unevaluatedItems", FORM_SCHEMA},
    {"not", FORM_SCHEMA},
    {"if", FORM_SCHEMA},
    {"then", FORM_SCHEMA},
    {"else", FORM_SCHEMA},
    {"items", FORM_SCHEMA_OR_LIST},
    {"prefixItems", FORM_SCHEMAS},
    {"anyOf", FORM_SCHEMAS},
    {"oneOf", FORM_SCHEMAS},
    {"allOf", FORM_SCHEMAS},
    {"required", FORM_NAMES},
    {"enum", FORM_LIST},
    {"$ref", FORM_TEXT},
    {"pattern", FORM_TEXT},
    {"format", FORM_TEXT},
    {"title", FORM_TEXT},
    {"description", FORM_TEXT},
    {"minimum", FORM_NUMBER},
    {"maximum", FORM_NUMBER},
    {"exclusiveMinimum", FORM_NUMBER},
    {"exclusiveMaximum", FORM_NUMBER},
    {"multipleOf", FORM_NUMBER},
    {"minLength", FORM_COUNT},
    {"maxLength", FORM_COUNT},
    {"minItems", FORM_COUNT},
    {"maxItems", FORM_COUNT},
    {"minProperties", FORM_COUNT},
    {"maxProperties", FORM_COUNT},
    {"minContains", FORM_COUNT},
    {"maxContains", FORM_COUNT},
};

static const char *const type_names[] = {"object", "array", "string", "number", "integer", "boolean", "null"};

/* --- checking ----------------------------------------------------------------------------------------------- */

static int check_schema(const em_node *n, const char *path, int depth, em_api_error *err);

static int check_type(const em_node *n, const char *path, em_api_error *err)
{
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++)
        if (em_node_is(n, type_names[i]))
            return 0;
    return em_node_wrong_value(n, path, "one of object, array, string, number, integer, boolean, null", err);
}

static int check_children(const em_node *n, em_json_type type, const char *path, const char *expected,
                          int (*check)(const em_node *, const char *, int, em_api_error *), int depth,
                          em_api_error *err)
{
    size_t idx = 0;
    if (n->type != type)
        return em_node_wrong_type(n, path, expected, err);
    for (const em_node *m = n->child; m; m = m->next, idx++) {
        em_path inner = m->key ? em_path_member(path, m->key) : em_path_item(path, idx);
        int r = check(m, inner.s, depth, err);
        if (r)
            return r;
    }
    return 0;
}

static int check_name(const em_node *n, const char *path, int depth, em_api_error *err)
{
    return n->type == EM_JSON_STRING ? 0 : em_node_wrong_type(n, path, "a string", err);
}

static int check_type_item(const em_node *n, const char *path, int depth, em_api_error *err)
{
    return check_type(n, path, err);
}

static int check_count(const em_node *n, const char *path, em_api_error *err)
{
    em_json j;
    int64_t v = -1;
    if (n->type == EM_JSON_NUMBER) {
        em_json_init(&j, n->text, n->len, 0);
        em_json_next(&j);
        if (em_json_i64(&j, &v))
            v = -1;
    }
    return v >= 0 ? 0 : em_node_wrong_type(n, path, "an integer, 0 or more", err);
}

static int check_keyword(const em_node *n, keyword_form form, const char *path, int depth, em_api_error *err)
{
    bool list = n->type == EM_JSON_ARRAY;
    switch (form) {
    case FORM_SCHEMA: return check_schema(n, path, depth, err);
    case FORM_SCHEMA_OR_LIST:
        if (!list)
            return check_schema(n, path, depth, err);
        return check_children(n, EM_JSON_ARRAY, path, "", check_schema, depth, err);
    case FORM_SCHEMAS:
        if (list && !n->child)
            return em_api_error_set(err, 400, "invalid_schema", path, "%s is an empty list; it needs a schema", path);
        return check_children(n, EM_JSON_ARRAY, path, "a list of schemas", check_schema, depth, err);
    case FORM_MEMBERS: return check_children(n, EM_JSON_OBJECT, path, "an object of schemas", check_schema, depth, err);
    case FORM_TYPES:
        if (!list)
            return check_type(n, path, err);
        return check_children(n, EM_JSON_ARRAY, path, "", check_type_item, depth, err);
    case FORM_NAMES: return check_children(n, EM_JSON_ARRAY, path, "a list of strings", check_name, depth, err);
    case FORM_LIST: return list ? 0 : em_node_wrong_type(n, path, "a list", err);
    case FORM_TEXT: return check_name(n, path, depth, err);
    case FORM_NUMBER: return n->type == EM_JSON_NUMBER ? 0 : em_node_wrong_type(n, path, "a number", err);
    case FORM_COUNT: break;
    }
    return check_count(n, path, err);
}

static int check_member(const em_node *m, const char *path, int depth, em_api_error *err)
{
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (m->key_len == strlen(keywords[i].name) && !memcmp(m->key, keywords[i].name, m->key_len))
            return check_keyword(m, keywords[i].form, path, depth, err);
    return 0; /* annotations, and what the grammar compiler judges */
}

static int check_schema(const em_node *n, const char *path, int depth, em_api_error *err)
{
    if (n->type == EM_JSON_TRUE || n->type == EM_JSON_FALSE)
        return 0;
    if (depth >= EM_SCHEMA_MAX_DEPTH)
        return em_api_error_set(err, 400, "invalid_schema", path, "%s is nested deeper than %d schemas", path,
                                EM_SCHEMA_MAX_DEPTH);
    return check_children(n, EM_JSON_OBJECT, path, "a JSON Schema: an object, true or false", check_member, depth + 1,
                          err);
}

int em_schema_check(const em_node *n, const char *path, em_api_error *err)
{
    return check_schema(n, path, 0, err);
}

/* --- completing --------------------------------------------------------------------------------------------- */

/* What a value is, which its key alone does not tell: a property may be called "default". */
typedef enum place {
    PLACE_VALUE, /* a schema, a list of them, or a keyword's plain value */
    PLACE_MAP,   /* an object of schemas by name */
} place;

static int complete(em_arena *a, const em_node *n, place where, em_node **ret_copy);

static bool key_is(const em_node *n, const char *key)
{
    return n->key && n->key_len == strlen(key) && !memcmp(n->key, key, n->key_len);
}

static em_node *member_of(const em_node *n, const char *key)
{
    for (em_node *m = n->child; m; m = m->next)
        if (key_is(m, key))
            return m;
    return NULL;
}

static em_node *add_member(em_arena *a, em_node *object, em_json_type type, const char *key)
{
    em_node *m = em_node_new(a, type);
    if (!m)
        return NULL;
    m->key = key;
    m->key_len = strlen(key);
    em_node_append(object, m);
    return m;
}

static bool is_map(const em_node *n)
{
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (keywords[i].form == FORM_MEMBERS && key_is(n, keywords[i].name))
            return n->type == EM_JSON_OBJECT;
    return false;
}

/* Enums and defaults hold plain values, which stay as they are. */
static bool is_plain(const em_node *n)
{
    return key_is(n, "enum") || key_is(n, "const") || key_is(n, "default") || key_is(n, "examples");
}

static int copy_child(em_arena *a, const em_node *m, place parent, em_node **ret_copy)
{
    if (parent == PLACE_MAP || !is_plain(m))
        return complete(a, m, parent != PLACE_MAP && is_map(m) ? PLACE_MAP : PLACE_VALUE, ret_copy);
    em_node *copy = em_node_new(a, m->type);
    if (!copy)
        return -ENOMEM;
    *copy = *m;
    copy->next = NULL;
    *ret_copy = copy;
    return 0;
}

static int require_all(em_arena *a, em_node *object, const em_node *properties)
{
    em_node *required = add_member(a, object, EM_JSON_ARRAY, "required");
    em_node **tail = required ? &required->child : NULL;
    for (const em_node *p = properties->child; p && tail; p = p->next) {
        em_node *name = em_node_new(a, EM_JSON_STRING);
        if (!name)
            return -ENOMEM;
        name->text = p->key;
        name->len = p->key_len;
        *tail = name;
        tail = &name->next;
    }
    return tail ? 0 : -ENOMEM;
}

/* copy is an object schema. */
static int close_object(em_arena *a, em_node *copy)
{
    em_node *properties = member_of(copy, "properties");
    if (!properties && !(properties = add_member(a, copy, EM_JSON_OBJECT, "properties")))
        return -ENOMEM;
    if (!member_of(copy, "additionalProperties") && !add_member(a, copy, EM_JSON_FALSE, "additionalProperties"))
        return -ENOMEM;
    return member_of(copy, "required") ? 0 : require_all(a, copy, properties);
}

/* A schema is known by its type. */
static int complete(em_arena *a, const em_node *n, place where, em_node **ret_copy)
{
    em_node *copy = em_node_new(a, n->type);
    if (!copy)
        return -ENOMEM;
    *copy = *n;
    copy->next = NULL;
    copy->child = NULL;
    em_node **tail = &copy->child;
    for (const em_node *m = n->child; m; m = m->next) {
        int r = copy_child(a, m, where, tail);
        if (r)
            return r;
        tail = &(*tail)->next;
    }
    *ret_copy = copy;
    if (where == PLACE_VALUE && em_node_is(em_node_member(copy, "type"), "object"))
        return close_object(a, copy);
    return 0;
}

int em_schema_complete(em_arena *a, const em_node *n, const em_node **ret_schema)
{
    em_node *copy = NULL;
    int r = complete(a, n, PLACE_VALUE, &copy);
    if (!r)
        *ret_schema = copy;
    return r;
}
