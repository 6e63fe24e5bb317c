/* A parameter of a string that may be anything, or one of some, is written as it is; every other one as JSON. A value
 * as it is ends where the next markup begins, so it cannot hold its beginning; in the strings of JSON values it may
 * stand, since the parser of a bound answer follows their quotes. */
#include "api/call_grammar.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/chat_read.h"

#define BAR "\xef\xbd\x9c" /* U+FF5C */
#define DSML BAR "DSML" BAR
#define CLOSE "</" DSML /* of any markup: no value written as it is may hold it */
#define NAME_END "\" string=\""
#define MAX_HOPS 16 /* of references in front of a parameter's type */

typedef struct writer {
    em_buf *out;
    const em_call_form *form;
    em_api_error *err;
    size_t tool;
    const em_node *schema; /* of the tool's parameters */
    bool has_refs;         /* it refers to parts of itself: then a part alone has no meaning */
} writer;

/* --- words -------------------------------------------------------------------------------------------------- */

/* A text in quotes, as EBNF has them. */
static void put_quoted(em_buf *out, const char *s, size_t len)
{
    em_buf_puts(out, "\"");
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            em_buf_printf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            em_buf_printf(out, "\\x%02x", c);
        else
            em_buf_append(out, &s[i], 1);
    }
    em_buf_puts(out, "\" ");
}

static void put_words(em_buf *out, const char *s)
{
    put_quoted(out, s, strlen(s));
}

static int refuse(const writer *w, const char *where, const char *why)
{
    return em_api_error_set(w->err, 400, "invalid_value", w->form->param, "tools[%zu].function%s %s", w->tool, where,
                            why);
}

/* --- what a schema says ------------------------------------------------------------------------------------- */

static bool has_ref(const em_node *n)
{
    if (n->type == EM_JSON_OBJECT && em_node_member(n, "$ref"))
        return true;
    for (const em_node *c = n->child; c; c = c->next)
        if (has_ref(c))
            return true;
    return false;
}

/* One step of a local pointer, without the escapes of URIs, which keywords and names of definitions rarely need. */
static const em_node *step(const em_node *n, const char *s, size_t len)
{
    char key[256];
    size_t m = 0;
    for (size_t i = 0; i < len && m + 1 < sizeof key; i++) {
        bool tilde = s[i] == '~' && i + 1 < len && (s[i + 1] == '0' || s[i + 1] == '1');
        key[m++] = tilde ? (s[i + 1] == '0' ? '~' : '/') : s[i];
        i += tilde;
    }
    key[m] = '\0';
    return em_node_member(n, key);
}

/* The schema itself, references followed; NULL: not found that way. */
static const em_node *follow(const writer *w, const em_node *n)
{
    for (int hop = 0; n && hop < MAX_HOPS; hop++) {
        const em_node *ref = em_node_member(n, "$ref");
        if (!ref)
            return n;
        if (ref->type != EM_JSON_STRING || !ref->len || ref->text[0] != '#')
            return NULL;
        n = w->schema;
        for (const char *p = ref->text + 1; n && *p == '/';) {
            size_t len = strcspn(p + 1, "/");
            n = step(n, p + 1, len);
            p += len + 1;
        }
    }
    return NULL;
}

/* Keywords that say nothing about which strings are valid. */
static bool says_nothing(const em_node *keyword)
{
    static const char *const words[] = {"title",      "description", "default",   "examples", "example",
                                        "deprecated", "readOnly",    "writeOnly", "$comment"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(keyword->key, words[i]))
            return true;
    return false;
}

/* May the value be any string, perhaps beside values of other types? */
static bool takes_any_string(const writer *w, const em_node *n, int depth)
{
    n = follow(w, n);
    if (!n || n->type != EM_JSON_OBJECT || depth > 4)
        return n && n->type == EM_JSON_TRUE;
    const em_node *any = em_node_member(n, "anyOf") ? em_node_member(n, "anyOf") : em_node_member(n, "oneOf");
    for (const em_node *one = any ? any->child : NULL; one; one = one->next)
        if (takes_any_string(w, one, depth + 1))
            return true;
    bool string = true;
    for (const em_node *k = n->child; k && string; k = k->next) {
        if (!strcmp(k->key, "type")) {
            string = em_node_is(k, "string");
            for (const em_node *t = k->type == EM_JSON_ARRAY ? k->child : NULL; t && !string; t = t->next)
                string = em_node_is(t, "string");
        } else {
            string = says_nothing(k);
        }
    }
    return string;
}

static bool is_raw(const em_node *n)
{
    return n->type == EM_JSON_STRING && !strstr(n->text, CLOSE) && strlen(n->text) == n->len;
}

/* The value is one of some strings that can be written as they are: the list, or the const alone. */
static const em_node *string_values(const writer *w, const em_node *n)
{
    n = follow(w, n);
    const em_node *list = em_node_member(n, "enum"), *only = em_node_member(n, "const");
    if (!n || n->type != EM_JSON_OBJECT || (!list && !only))
        return NULL;
    for (const em_node *k = n->child; k; k = k->next) {
        bool type = !strcmp(k->key, "type") && em_node_is(k, "string");
        if (k != list && k != only && !type && !says_nothing(k))
            return NULL;
    }
    for (const em_node *v = list ? list->child : NULL; v; v = v->next)
        if (!is_raw(v))
            return NULL;
    return list && only ? NULL : list ? (list->type == EM_JSON_ARRAY ? list : NULL) : is_raw(only) ? only : NULL;
}

static bool is_required(const em_node *schema, const char *name)
{
    const em_node *list = em_node_member(schema, "required");
    for (const em_node *n = list ? list->child : NULL; n; n = n->next)
        if (em_node_is(n, name))
            return true;
    return false;
}

/* --- values ------------------------------------------------------------------------------------------------- */

static void put_raw_values(writer *w, const em_node *values)
{
    put_words(w->out, "true\">");
    em_buf_puts(w->out, "(");
    for (const em_node *v = values->type == EM_JSON_ARRAY ? values->child : values; v; v = v->next) {
        put_quoted(w->out, v->text, v->len);
        em_buf_puts(w->out, values->type == EM_JSON_ARRAY && v->next ? "| " : ") ");
        if (values->type != EM_JSON_ARRAY)
            break;
    }
    put_words(w->out, CLOSE " parameter>\n");
}

static void put_any_string(writer *w)
{
    put_words(w->out, "true\">");
    em_buf_puts(w->out, "%until ");
    put_words(w->out, CLOSE);
    put_words(w->out, " parameter>\n");
}

/* A step of a pointer, escaped. */
static void put_step(em_buf *out, const char *s, size_t len)
{
    em_buf_puts(out, "/");
    for (size_t i = 0; i < len; i++) {
        if (s[i] == '~' || s[i] == '/')
            em_buf_puts(out, s[i] == '~' ? "~0" : "~1");
        else if (s[i] == '%')
            em_buf_puts(out, "%25");
        else
            em_buf_append(out, &s[i], 1);
    }
}

/* of: the keyword that n stands in; name: its member of that, or NULL. */
static void put_json(writer *w, const em_node *n, const char *of, const em_node *name)
{
    em_buf pointer = {0};
    put_words(w->out, "false\">");
    em_buf_puts(w->out, "%json ");
    if (n->type != EM_JSON_OBJECT || w->has_refs) {
        put_step(&pointer, of, strlen(of));
        if (name)
            put_step(&pointer, name->key, name->key_len);
        put_quoted(w->out, pointer.data ? pointer.data : "", pointer.len);
        n = w->schema;
    }
    w->out->failed |= pointer.failed;
    em_node_write(n, EM_JSON_COMPACT, w->out);
    em_buf_puts(w->out, " ");
    put_words(w->out, CLOSE " parameter>\n");
    em_buf_done(&pointer);
}

/* Behind the name of a parameter. */
static void put_value(writer *w, const em_node *n, const char *of, const em_node *name)
{
    const em_node *values = string_values(w, n);
    if (values) {
        put_raw_values(w, values);
        return;
    }
    em_buf_puts(w->out, "(");
    if (takes_any_string(w, n, 0)) {
        put_any_string(w);
        em_buf_puts(w->out, "| ");
    }
    put_json(w, n, of, name);
    em_buf_puts(w->out, ") ");
}

/* --- calls -------------------------------------------------------------------------------------------------- */

static int put_parameter(writer *w, const em_node *p)
{
    em_buf head = {0};
    if (strstr(p->key, NAME_END) || strlen(p->key) != p->key_len)
        return refuse(w, ".parameters", "has a property whose name cannot be written in a call");
    em_buf_puts(&head, "<" DSML " parameter name=\"");
    em_buf_append(&head, p->key, p->key_len);
    em_buf_puts(&head, NAME_END);
    em_buf_puts(w->out, "(");
    put_quoted(w->out, head.data ? head.data : "", head.len);
    w->out->failed |= head.failed;
    em_buf_done(&head);
    put_value(w, p, "properties", p);
    em_buf_puts(w->out, is_required(w->schema, p->key) ? ") " : ")? ");
    return 0;
}

/* Any names; values of one schema, or NULL: any. */
static void put_free_parameters(writer *w, const em_node *value)
{
    put_words(w->out, "\n");
    em_buf_puts(w->out, "| (");
    put_words(w->out, "<" DSML " parameter name=\"");
    em_buf_puts(w->out, "[^\"\\\\<\\x00-\\x1f]{1,64} ");
    put_words(w->out, NAME_END);
    if (value) {
        put_value(w, value, "additionalProperties", NULL);
    } else {
        em_buf_puts(w->out, "(");
        put_any_string(w);
        em_buf_puts(w->out, "| ");
        put_words(w->out, "false\">");
        em_buf_puts(w->out, "%json {} ");
        put_words(w->out, CLOSE " parameter>\n");
        em_buf_puts(w->out, ") ");
    }
    em_buf_puts(w->out, ")* ");
}

/* What the schema of all parameters may say; the rest would not be kept to. */
static int check_keywords(const writer *w)
{
    static const char *const known[] = {
        "type", "properties", "required", "additionalProperties", "$defs", "definitions", "$schema", "$id", "id"};
    for (const em_node *k = w->schema->child; k; k = k->next) {
        bool fine = says_nothing(k) || k->type == EM_JSON_NULL;
        for (size_t i = 0; i < sizeof known / sizeof *known && !fine; i++)
            fine = !strcmp(k->key, known[i]);
        if (!fine) {
            char where[96];
            snprintf(where, sizeof where, ".parameters.%.64s", k->key);
            return refuse(w, where, "is not supported where calls are kept to their schema");
        }
    }
    const em_node *properties = em_node_member(w->schema, "properties"), *list = em_node_member(w->schema, "required");
    for (const em_node *n = list ? list->child : NULL; n; n = n->next)
        if (n->type != EM_JSON_STRING || !em_node_member(properties, n->text))
            return refuse(w, ".parameters.required", "names something that properties lacks");
    return 0;
}

static int put_parameters(writer *w)
{
    int e = check_keywords(w);
    const em_node *properties = em_node_member(w->schema, "properties");
    const em_node *more = em_node_member(w->schema, "additionalProperties");
    if (e)
        return e;
    if ((!properties || !properties->child) && !(more && more->type == EM_JSON_FALSE)) {
        put_free_parameters(w, more && more->type == EM_JSON_OBJECT ? more : NULL);
        return 0;
    }
    const em_node *required = em_node_member(w->schema, "required");
    if (!required || !required->child) { /* a call without parameters leaves an empty line */
        put_words(w->out, "\n");
        em_buf_puts(w->out, properties && properties->child ? "| " : "");
    }
    for (const em_node *p = properties ? properties->child : NULL; p && !e; p = p->next)
        e = put_parameter(w, p);
    return e;
}

static int put_call(writer *w, const em_node *tool)
{
    const em_node *function = em_node_member(tool, "function"), *name = em_node_member(function, "name");
    const em_node *strict = em_node_member(function, "strict");
    em_buf head = {0};
    int e = 0;
    if (!name || strchr(name->text, '"') || strlen(name->text) != name->len)
        return refuse(w, ".name", "holds a quote, with which no call can be written");
    em_buf_puts(&head, "<" DSML " invoke name=\"");
    em_buf_append(&head, name->text, name->len);
    em_buf_puts(&head, "\">\n");
    em_buf_printf(w->out, "\ncall%zu ::= ", w->tool);
    put_quoted(w->out, head.data ? head.data : "", head.len);
    w->out->failed |= head.failed;
    em_buf_done(&head);
    em_buf_puts(w->out, "(");
    w->schema = em_node_member(function, "parameters");
    if (w->schema && (w->form->required || (strict && strict->type == EM_JSON_TRUE))) {
        w->has_refs = has_ref(w->schema);
        e = put_parameters(w);
    } else {
        put_free_parameters(w, NULL);
    }
    em_buf_puts(w->out, ") ");
    put_words(w->out, CLOSE " invoke>\n");
    return e;
}

static void put_root(writer *w, size_t n_tools)
{
    em_buf *out = w->out;
    em_buf_puts(out, "root ::= ");
    if (!w->form->required) {
        em_buf_puts(out, "%without ");
        put_words(out, "<" DSML);
        em_buf_puts(out, "| %until ");
        put_words(out, "<" DSML);
        put_words(out, " calls>\n");
    }
    em_buf_puts(out, w->form->single ? "call " : "call+ ");
    put_words(out, CLOSE " calls>");
    em_buf_puts(out, "\ncall ::= ");
    for (size_t i = 0; i < n_tools; i++)
        em_buf_printf(out, "%scall%zu ", i ? "| " : "", i);
}

/* --- the door ----------------------------------------------------------------------------------------------- */

static int read_tools(em_arena *a, const char *tools, size_t len, em_node **ret_list)
{
    size_t values = SIZE_MAX;
    return em_tree_parse(a, tools, len, 0, &values, ret_list);
}

int em_call_grammar(const em_call_form *form, em_buf *out, em_api_error *err)
{
    em_arena arena = {0};
    em_node *list = NULL;
    writer w = {.out = out, .form = form, .err = err};
    int e = read_tools(&arena, form->tools, form->len, &list) ? em_api_no_memory(err) : 0;
    if (!e)
        put_root(&w, em_node_count(list));
    for (const em_node *tool = e ? NULL : list->child; tool && !e; tool = tool->next, w.tool++)
        e = put_call(&w, tool);
    em_arena_done(&arena);
    return !e && out->failed ? em_api_no_memory(err) : e;
}

bool em_call_any_strict(const char *tools, size_t len)
{
    em_arena arena = {0};
    em_node *list = NULL;
    bool any = false;
    if (!read_tools(&arena, tools, len, &list))
        for (const em_node *tool = list->child; tool && !any; tool = tool->next) {
            const em_node *strict = em_node_member(em_node_member(tool, "function"), "strict");
            any = strict && strict->type == EM_JSON_TRUE;
        }
    em_arena_done(&arena);
    return any;
}
