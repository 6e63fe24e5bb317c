#include "api/chat_read.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* --- values of a tree --------------------------------------------------------------------------------------- */

static const char *shown(const em_node *n, char buf[64])
{
    size_t most = 40, len = n->len;
    switch (n->type) {
    case EM_JSON_STRING:
        if (len > most) {
            len = most;
            while (len && ((unsigned char)n->text[len] & 0xc0) == 0x80)
                len--; /* not in the middle of a character */
        }
        snprintf(buf, 64, "\"%.*s%s\"", (int)len, n->text, len < n->len ? "..." : "");
        return buf;
    case EM_JSON_NUMBER:
        snprintf(buf, 64, "%.*s%s", (int)(len > most ? most : len), n->text, len > most ? "..." : "");
        return buf;
    case EM_JSON_OBJECT: return "an object";
    case EM_JSON_ARRAY: return n->child ? "a list" : "an empty list";
    case EM_JSON_TRUE: return "true";
    case EM_JSON_FALSE: return "false";
    default: return "null";
    }
}

em_path em_path_member(const char *path, const char *name)
{
    em_path out;
    snprintf(out.s, sizeof out.s, "%.96s.%.60s", path, name);
    return out;
}

em_path em_path_item(const char *path, size_t idx)
{
    em_path out;
    snprintf(out.s, sizeof out.s, "%.96s[%zu]", path, idx);
    return out;
}

static int wrong(const em_node *n, const char *path, const char *code, const char *expected, em_api_error *err)
{
    char buf[64];
    if (!n)
        return em_api_error_set(err, 400, "missing_required_parameter", path, "%s is missing: it must be %s", path,
                                expected);
    return em_api_error_set(err, 400, code, path, "%s must be %s, got %s", path, expected, shown(n, buf));
}

int em_node_wrong_type(const em_node *n, const char *path, const char *expected, em_api_error *err)
{
    return wrong(n, path, "invalid_type", expected, err);
}

int em_node_wrong_value(const em_node *n, const char *path, const char *expected, em_api_error *err)
{
    return wrong(n, path, n && n->type == EM_JSON_STRING ? "invalid_value" : "invalid_type", expected, err);
}

int em_node_text(const em_node *n, const char *path, em_text *ret, em_api_error *err)
{
    if (!n || n->type != EM_JSON_STRING)
        return em_node_wrong_type(n, path, "a string", err);
    *ret = (em_text){n->text, n->len};
    return 0;
}

int em_chat_read_tree(em_chat_reader *r, const em_field *f, em_node **ret_root)
{
    int e = em_tree_parse(&r->d->arena, f->text, f->len, 0, &r->values_left, ret_root);
    if (!e)
        return 0;
    if (e == -ENOMEM)
        return em_api_no_memory(r->err);
    if (e == -E2BIG)
        return em_api_error_set(r->err, 400, "out_of_range", f->name,
                                "%s brings the JSON values of this request to more than %d", f->name,
                                EM_CHAT_MAX_VALUES);
    return em_api_error_set(r->err, 400, "out_of_range", f->name, "%s holds a number that is too large", f->name);
}

int em_chat_write_json(em_chat_reader *r, const em_node *n, const char **ret_text, size_t *ret_len)
{
    em_buf out = {0};
    em_node_write(n, EM_JSON_COMPACT, &out);
    char *text = out.failed ? NULL : em_arena_alloc(&r->d->arena, out.len + 1);
    if (text) {
        memcpy(text, out.data, out.len + 1);
        *ret_text = text;
        *ret_len = out.len;
    }
    em_buf_done(&out);
    return text ? 0 : em_api_no_memory(r->err);
}

/* --- thinking ----------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int effort; /* 0: no thinking */
} efforts[] = {{"none", 0},  {"minimal", 50}, {"low", 50},    {"medium", 75},
               {"high", 75}, {"xhigh", 75},   {"ultra", 100}, {"max", 100}};

#define DEFAULT_EFFORT 75

static int read_effort(em_chat_reader *r, const em_field *f, int *ret_effort)
{
    em_node *n = NULL;
    int e = em_chat_read_tree(r, f, &n);
    for (size_t i = 0; !e && i < sizeof efforts / sizeof *efforts; i++)
        if (em_node_is(n, efforts[i].name)) {
            *ret_effort = efforts[i].effort;
            return 0;
        }
    return e ? e : em_node_wrong_value(n, f->name, "none, minimal, low, medium, high, xhigh, ultra or max", r->err);
}

static int read_thinking(em_chat_reader *r, const em_field *f, bool *ret_thinking)
{
    em_node *n = NULL;
    int e = em_chat_read_tree(r, f, &n);
    if (e)
        return e;
    if (n->type != EM_JSON_OBJECT)
        return em_node_wrong_type(n, f->name, "an object {\"type\": \"enabled\"}", r->err);
    const em_node *type = em_node_member(n, "type");
    *ret_thinking = em_node_is(type, "enabled") || em_node_is(type, "adaptive");
    if (*ret_thinking || em_node_is(type, "disabled"))
        return 0;
    return em_node_wrong_value(type, "thinking.type", "enabled, adaptive or disabled", r->err);
}

/* The object `thinking` wins over reasoning_effort. A required call leaves no room for reasoning: asked for explicitly
 * it is an error, else it is off. */
static int decide_thinking(em_chat_reader *r, const em_dialog_fields *f, bool dflt)
{
    em_dialog *d = r->d;
    bool asked = f->thinking || f->reasoning_effort;
    int e = 0;
    d->effort = DEFAULT_EFFORT;
    d->thinking = dflt && r->t->can_think;
    if (f->reasoning_effort) {
        e = read_effort(r, f->reasoning_effort, &d->effort);
        d->thinking = d->effort > 0;
    }
    if (!e && f->thinking)
        e = read_thinking(r, f->thinking, &d->thinking);
    if (e)
        return e;
    if (!d->effort)
        d->effort = DEFAULT_EFFORT;
    if (d->thinking && !r->t->can_think) {
        const char *param = f->thinking ? "thinking" : "reasoning_effort";
        return em_api_error_set(r->err, 400, "unsupported_parameter", param,
                                "%s asks for reasoning, which this model does not have", param);
    }
    if (d->thinking && d->call_required && asked)
        return em_api_error_set(r->err, 400, "invalid_value", "tool_choice",
                                "tool_choice must be none or auto while reasoning is asked for: send thinking "
                                "{\"type\": \"disabled\"} with it");
    d->thinking = d->thinking && !d->call_required;
    return 0;
}

/* --- all ---------------------------------------------------------------------------------------------------- */

#define AT(field) offsetof(em_dialog_fields, field)

/* clang-format off */
static const em_field_rule rules[] = {
    {"messages", EM_FIELD_LATER, AT(messages), .nul_ok = true},
    {"tools", EM_FIELD_LATER, AT(tools), .nul_ok = true},
    {"tool_choice", EM_FIELD_LATER, AT(tool_choice)},
    {"parallel_tool_calls", EM_FIELD_BOOL, AT(parallel_tool_calls)},
    {"response_format", EM_FIELD_LATER, AT(response_format)},
    {"structured_outputs", EM_FIELD_LATER, AT(structured_outputs)},
    {"thinking", EM_FIELD_LATER, AT(thinking)},
    {"reasoning_effort", EM_FIELD_LATER, AT(reasoning_effort)},
};
/* clang-format on */

const em_field_table em_dialog_field_table = {rules, sizeof rules / sizeof *rules};

int em_dialog_read(const em_dialog_fields *f, const em_chat_template *t, const em_api_context *ctx,
                   em_dialog *ret_dialog, em_api_error *err)
{
    em_dialog d = {0};
    em_chat_reader r = {.d = &d, .t = t, .values_left = EM_CHAT_MAX_VALUES, .err = err};
    int e = em_chat_read_messages(&r, f->messages);
    if (!e)
        e = em_chat_read_tools(&r, f->tools, f->tool_choice);
    if (!e)
        e = em_chat_read_format(&r, f->response_format, f->structured_outputs);
    if (!e)
        e = decide_thinking(&r, f, ctx->default_thinking);
    if (e) {
        em_dialog_done(&d);
        return e;
    }
    d.single_call = d.tools_parsed && !f->parallel_tool_calls;
    *ret_dialog = d;
    return 0;
}

void em_dialog_done(em_dialog *d)
{
    em_arena_done(&d->arena);
    *d = (em_dialog){0};
}
