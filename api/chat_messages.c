/* The field `messages`. Fields of a message that nobody needs are passed over: clients send whole answers back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api/chat_read.h"

static const struct {
    const char *name;
    em_role role;
} roles[] = {{"system", EM_ROLE_SYSTEM},       {"developer", EM_ROLE_SYSTEM}, {"user", EM_ROLE_USER},
             {"assistant", EM_ROLE_ASSISTANT}, {"tool", EM_ROLE_TOOL},        {"latest_reminder", EM_ROLE_REMINDER}};

static int no_memory(em_chat_reader *r)
{
    return em_api_no_memory(r->err);
}

/* --- content ------------------------------------------------------------------------------------------------ */

static int read_part(em_chat_reader *r, const em_node *part, const char *path, em_buf *joined)
{
    em_text text;
    if (part->type != EM_JSON_OBJECT)
        return em_node_wrong_type(part, path, "an object {\"type\": \"text\", \"text\": ...}", r->err);
    const em_node *type = em_node_member(part, "type");
    em_path inner = em_path_member(path, "type");
    if (!type || type->type != EM_JSON_STRING)
        return em_node_wrong_type(type, inner.s, "\"text\"", r->err);
    if (!em_node_is(type, "text"))
        return em_api_error_set(r->err, 400, "unsupported_content", inner.s,
                                "%s is \"%.40s\", but this server takes text alone: no images, audio or files", inner.s,
                                type->text);
    inner = em_path_member(path, "text");
    int e = em_node_text(em_node_member(part, "text"), inner.s, &text, r->err);
    if (e)
        return e;
    em_buf_append(joined, text.s, text.len);
    return 0;
}

static int read_parts(em_chat_reader *r, const em_node *list, const char *path, em_text *ret)
{
    em_buf joined = {0};
    int e = 0;
    size_t idx = 0;
    for (const em_node *part = list->child; part && !e; part = part->next, idx++) {
        if (idx)
            em_buf_append(&joined, "\n\n", 2);
        em_path inner = em_path_item(path, idx);
        e = read_part(r, part, inner.s, &joined);
    }
    char *copy = e || joined.failed ? NULL : em_arena_alloc(&r->d->arena, joined.len + 1);
    if (copy) {
        if (joined.len)
            memcpy(copy, joined.data, joined.len);
        *ret = (em_text){copy, joined.len};
    } else if (!e) {
        e = no_memory(r);
    }
    em_buf_done(&joined);
    return e;
}

static int read_content(em_chat_reader *r, const em_node *m, const char *path, em_message *out)
{
    const em_node *content = em_node_member(m, "content");
    em_path inner = em_path_member(path, "content");
    if (!content && out->role == EM_ROLE_ASSISTANT)
        return 0; /* calls may stand in its place */
    if (content && content->type == EM_JSON_ARRAY && out->role != EM_ROLE_REMINDER)
        return read_parts(r, content, inner.s, &out->content);
    if (!content || content->type != EM_JSON_STRING)
        return em_node_wrong_type(content, inner.s, "a string or a list of text parts", r->err);
    out->content = (em_text){content->text, content->len};
    return 0;
}

/* --- assistant ---------------------------------------------------------------------------------------------- */

/* The arguments as a JSON object, where they are one. */
static int read_arguments(em_chat_reader *r, const char *path, em_tool_call *call)
{
    em_node *root = NULL;
    int e = em_tree_parse(&r->d->arena, call->arguments.s, call->arguments.len, EM_JSON_MAX_DEPTH - 1, &r->values_left,
                          &root);
    if (e == -ENOMEM)
        return no_memory(r);
    if (e == -E2BIG)
        return em_api_error_set(r->err, 400, "out_of_range", path,
                                "%s brings the JSON values of this request to more than %d", path, EM_CHAT_MAX_VALUES);
    if (!e && root->type == EM_JSON_OBJECT)
        call->object = root;
    return 0;
}

static int read_call(em_chat_reader *r, const em_node *n, const char *path, em_tool_call *call)
{
    if (n->type != EM_JSON_OBJECT)
        return em_node_wrong_type(n, path, "an object", r->err);
    const em_node *type = em_node_member(n, "type"), *function = em_node_member(n, "function");
    em_path inner = em_path_member(path, "type");
    if (type && !em_node_is(type, "function"))
        return em_node_wrong_value(type, inner.s, "\"function\"", r->err);
    inner = em_path_member(path, "id");
    int e = em_node_text(em_node_member(n, "id"), inner.s, &call->id, r->err);
    inner = em_path_member(path, "function");
    if (!e && (!function || function->type != EM_JSON_OBJECT))
        e = em_node_wrong_type(function, inner.s, "an object", r->err);
    inner = em_path_member(em_path_member(path, "function").s, "name");
    if (!e)
        e = em_node_text(em_node_member(function, "name"), inner.s, &call->name, r->err);
    inner = em_path_member(em_path_member(path, "function").s, "arguments");
    if (!e)
        e = em_node_text(em_node_member(function, "arguments"), inner.s, &call->arguments, r->err);
    return e ? e : read_arguments(r, inner.s, call);
}

static bool same_text(em_text a, em_text b)
{
    return a.len == b.len && !memcmp(a.s, b.s, a.len);
}

static int check_call_id(em_chat_reader *r, const char *path, const em_message *m, size_t idx)
{
    for (size_t i = 0; i < idx; i++)
        if (same_text(m->calls[i].id, m->calls[idx].id))
            return em_api_error_set(r->err, 400, "invalid_value", path,
                                    "%s.id is \"%.40s\" like an earlier call's; ids of calls must differ", path,
                                    m->calls[idx].id.s);
    return 0;
}

static int read_calls(em_chat_reader *r, const em_node *m, const char *path, em_message *out)
{
    const em_node *list = em_node_member(m, "tool_calls");
    if (!list)
        return 0;
    em_path inner = em_path_member(path, "tool_calls");
    if (list->type != EM_JSON_ARRAY)
        return em_node_wrong_type(list, inner.s, "a list of calls", r->err);
    size_t n = em_node_count(list);
    if (n < 1 || n > EM_CHAT_MAX_CALLS)
        return em_api_error_set(r->err, 400, "out_of_range", inner.s, "%s must hold between 1 and %d calls, got %zu",
                                inner.s, EM_CHAT_MAX_CALLS, n);
    if (!r->t->can_call)
        return em_api_error_set(r->err, 400, "unsupported_content", inner.s,
                                "%s cannot be sent: this model has no tool calls", inner.s);
    out->calls = em_arena_alloc(&r->d->arena, n * sizeof *out->calls);
    if (!out->calls)
        return no_memory(r);
    int e = 0;
    for (const em_node *call = list->child; call && !e; call = call->next, out->n_calls++) {
        inner = em_path_item(em_path_member(path, "tool_calls").s, out->n_calls);
        e = read_call(r, call, inner.s, &out->calls[out->n_calls]);
        if (!e)
            e = check_call_id(r, inner.s, out, out->n_calls);
    }
    return e;
}

/* Both names that servers give the reasoning. */
static int read_reasoning(em_chat_reader *r, const em_node *m, const char *path, em_message *out)
{
    static const char *const names[] = {"reasoning_content", "reasoning"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const em_node *n = em_node_member(m, names[i]);
        em_path inner = em_path_member(path, names[i]);
        if (n)
            return em_node_text(n, inner.s, &out->reasoning, r->err);
    }
    return 0;
}

static int read_assistant(em_chat_reader *r, const em_node *m, const char *path, em_message *out)
{
    int e = read_reasoning(r, m, path, out);
    if (!e)
        e = read_calls(r, m, path, out);
    if (e)
        return e;
    em_path inner = em_path_member(path, "function_call");
    if (em_node_member(m, "function_call"))
        return em_api_error_set(r->err, 400, "unsupported_content", inner.s, "%s is not supported: send tool_calls",
                                inner.s);
    inner = em_path_member(path, "content");
    if (!out->content.s && !out->n_calls)
        return em_api_error_set(r->err, 400, "missing_required_parameter", inner.s,
                                "%s is missing: an assistant's message needs content or tool_calls", path);
    return 0;
}

/* --- one message -------------------------------------------------------------------------------------------- */

static int read_role(em_chat_reader *r, const em_node *m, const char *path, em_role *ret)
{
    const em_node *role = em_node_member(m, "role");
    em_path inner = em_path_member(path, "role");
    if (!role || role->type != EM_JSON_STRING)
        return em_node_wrong_type(role, inner.s, "a string", r->err);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (em_node_is(role, roles[i].name)) {
            *ret = roles[i].role;
            return 0;
        }
    return em_node_wrong_value(role, inner.s, "system, developer, user, assistant or tool", r->err);
}

static int read_prefix(em_chat_reader *r, const em_node *m, const char *path, em_message *out)
{
    const em_node *prefix = em_node_member(m, "prefix");
    em_path inner = em_path_member(path, "prefix");
    if (prefix && prefix->type != EM_JSON_TRUE && prefix->type != EM_JSON_FALSE)
        return em_node_wrong_type(prefix, inner.s, "true or false", r->err);
    out->prefix = prefix && prefix->type == EM_JSON_TRUE;
    if (out->prefix && (out->role != EM_ROLE_ASSISTANT || m->next))
        return em_api_error_set(r->err, 400, "invalid_value", inner.s,
                                "%s is only allowed in the last message, and only of the assistant", inner.s);
    return 0;
}

static int read_message(em_chat_reader *r, const em_node *m, const char *path, em_message *out)
{
    if (m->type != EM_JSON_OBJECT)
        return em_node_wrong_type(m, path, "an object", r->err);
    int e = read_role(r, m, path, &out->role);
    if (!e)
        e = read_content(r, m, path, out);
    if (!e)
        e = read_prefix(r, m, path, out);
    if (!e && out->role == EM_ROLE_ASSISTANT)
        e = read_assistant(r, m, path, out);
    em_path inner = em_path_member(path, "tool_call_id");
    if (!e && out->role == EM_ROLE_TOOL)
        e = em_node_text(em_node_member(m, "tool_call_id"), inner.s, &out->call_id, r->err);
    inner = em_path_member(path, "role");
    if (!e && out->role == EM_ROLE_REMINDER && r->t->native && r->t->id[EM_MARK_REMINDER] < 0)
        e = em_api_error_set(r->err, 400, "unsupported_content", inner.s,
                             "%s cannot be latest_reminder: this model has no such messages", inner.s);
    return e;
}

/* --- results of calls --------------------------------------------------------------------------------------- */

static size_t results_from(const em_dialog *d, size_t i)
{
    size_t n = 0;
    while (i + n < d->n_messages && d->messages[i + n].role == EM_ROLE_TOOL)
        n++;
    return n;
}

/* Moves the result of a call to its place in the run that begins at messages[first]. */
static int place_result(em_chat_reader *r, const em_tool_call *call, size_t call_idx, size_t first, size_t n_results)
{
    em_message *run = r->d->messages + first;
    for (size_t i = call_idx; i < n_results; i++)
        if (same_text(run[i].call_id, call->id)) {
            em_message result = run[i];
            memmove(run + call_idx + 1, run + call_idx, (i - call_idx) * sizeof *run);
            run[call_idx] = result;
            return 0;
        }
    return em_api_error_set(r->err, 400, "invalid_value", "messages",
                            "messages[%zu] calls a tool with id \"%.40s\", but no tool message that follows answers it",
                            first - 1, call->id.s);
}

/* After a message with calls come exactly their results, in any order. */
static int order_results(em_chat_reader *r, size_t i)
{
    em_message *m = &r->d->messages[i];
    size_t n = results_from(r->d, i + 1);
    int e = 0;
    for (size_t c = 0; c < m->n_calls && !e; c++)
        e = place_result(r, &m->calls[c], c, i + 1, n);
    if (!e && n > m->n_calls)
        e = em_api_error_set(r->err, 400, "invalid_value", "messages",
                             "messages holds %zu tool messages behind messages[%zu], which makes %zu calls: each call "
                             "has one result",
                             n, i, m->n_calls);
    return e;
}

static int check_results(em_chat_reader *r)
{
    for (size_t i = 0; i < r->d->n_messages; i++) {
        const em_message *m = &r->d->messages[i];
        bool follows = i > 0 && (m[-1].n_calls || m[-1].role == EM_ROLE_TOOL);
        em_path path = em_path_member(em_path_item("messages", i).s, "role");
        if (m->role == EM_ROLE_TOOL && !follows)
            return em_api_error_set(r->err, 400, "invalid_value", path.s,
                                    "%s is tool, but no message with tool_calls stands before it", path.s);
        int e = m->n_calls ? order_results(r, i) : 0;
        if (e)
            return e;
    }
    return 0;
}

/* --- all ---------------------------------------------------------------------------------------------------- */

int em_chat_read_messages(em_chat_reader *r, const em_field *f)
{
    em_node *list = NULL;
    if (!f)
        return em_api_error_set(r->err, 400, "missing_required_parameter", "messages",
                                "messages is missing: send a list of messages");
    int e = em_chat_read_tree(r, f, &list);
    if (e)
        return e;
    if (list->type != EM_JSON_ARRAY)
        return em_node_wrong_type(list, "messages", "a list of messages", r->err);
    size_t n = em_node_count(list);
    if (!n)
        return em_api_error_set(r->err, 400, "invalid_value", "messages",
                                "messages is an empty list; it needs at least one message");
    r->d->messages = em_arena_alloc(&r->d->arena, n * sizeof *r->d->messages);
    if (!r->d->messages)
        return no_memory(r);
    for (const em_node *m = list->child; m && !e; m = m->next, r->d->n_messages++) {
        em_path path = em_path_item("messages", r->d->n_messages);
        e = read_message(r, m, path.s, &r->d->messages[r->d->n_messages]);
    }
    return e ? e : check_results(r);
}
