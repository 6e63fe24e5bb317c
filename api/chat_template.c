#include "api/chat_template.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BAR "\xef\xbd\x9c"   /* U+FF5C */
#define BLANK "\xe2\x96\x81" /* U+2581 */
#define DSML BAR "DSML" BAR

const char *const em_mark_spelling[EM_N_MARKS] = {
    [EM_MARK_BOS] = "<" BAR "begin" BLANK "of" BLANK "sentence" BAR ">",
    [EM_MARK_EOS] = "<" BAR "end" BLANK "of" BLANK "sentence" BAR ">",
    [EM_MARK_SYSTEM] = "<" BAR "System" BAR ">",
    [EM_MARK_USER] = "<" BAR "User" BAR ">",
    [EM_MARK_ASSISTANT] = "<" BAR "Assistant" BAR ">",
    [EM_MARK_REMINDER] = "<" BAR "latest_reminder" BAR ">",
    [EM_MARK_THINK] = "<think>",
    [EM_MARK_THINK_END] = "</think>",
    [EM_MARK_DSML] = DSML,
};

/* --- which model -------------------------------------------------------------------------------------------- */

/* The id of a token with exactly this spelling; -1: none. */
static int32_t token_of(const em_engine *engine, const char *spelling)
{
    em_ids ids = {0};
    size_t want = strlen(spelling), len = 0;
    int32_t id = -1;
    if (em_engine_tokenize(engine, spelling, want, true, 1, &ids) == 0 && ids.n == 1) {
        const uint8_t *bytes = em_engine_token_bytes(engine, ids.id[0], &len);
        if (len == want && !memcmp(bytes, spelling, len))
            id = ids.id[0];
    }
    em_ids_done(&ids);
    return id;
}

void em_chat_template_find(const em_engine *engine, em_chat_template *ret_template)
{
    em_chat_template t;
    em_engine_info info;
    em_engine_get_info(engine, &info);
    for (int m = 0; m < EM_N_MARKS; m++)
        t.id[m] = info.has_tokenizer ? token_of(engine, em_mark_spelling[m]) : -1;
    t.native = t.id[EM_MARK_EOS] >= 0 && t.id[EM_MARK_SYSTEM] >= 0 && t.id[EM_MARK_USER] >= 0 &&
               t.id[EM_MARK_ASSISTANT] >= 0 && t.id[EM_MARK_THINK_END] >= 0;
    t.can_think = t.native && t.id[EM_MARK_THINK] >= 0;
    t.can_call = t.native && t.id[EM_MARK_DSML] >= 0;
    if (!t.native)
        t.id[EM_MARK_BOS] = info.add_bos ? info.bos_id : -1;
    *ret_template = t;
}

/* --- writing ------------------------------------------------------------------------------------------------ */

typedef struct writer {
    em_chat_prompt *p;
    const em_chat_template *t;
    int failed; /* -ENOMEM */
} writer;

static void put(writer *w, const char *s, size_t len)
{
    if (len && em_buf_append(&w->p->text, s, len))
        w->failed = -ENOMEM;
}

static void put_text(writer *w, em_text t)
{
    put(w, t.s, t.len);
}

static void put_mark(writer *w, em_mark mark)
{
    em_chat_prompt *p = w->p;
    if (p->n_places == p->cap_places) {
        size_t cap = p->cap_places ? p->cap_places * 2 : 32;
        em_chat_place *places = realloc(p->places, cap * sizeof *places);
        if (!places) {
            w->failed = -ENOMEM;
            return;
        }
        p->places = places;
        p->cap_places = cap;
    }
    p->places[p->n_places++] = (em_chat_place){.at = p->text.len, .mark = mark};
    put(w, em_mark_spelling[mark], strlen(em_mark_spelling[mark]));
}

static const char *find_mark(const char *s, em_mark *ret_mark)
{
    static const em_mark inner[] = {EM_MARK_THINK, EM_MARK_THINK_END, EM_MARK_DSML};
    const char *first = NULL;
    for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) {
        const char *at = strstr(s, em_mark_spelling[inner[i]]);
        if (at && (!first || at < first)) {
            first = at;
            *ret_mark = inner[i];
        }
    }
    return first;
}

/* The template's own words: marks spelled in them are meant. */
static void put_own(writer *w, const char *s)
{
    em_mark mark = EM_MARK_DSML;
    for (const char *at; (at = find_mark(s, &mark)); s = at + strlen(em_mark_spelling[mark])) {
        put(w, s, (size_t)(at - s));
        put_mark(w, mark);
    }
    put(w, s, strlen(s));
}

static void put_json(writer *w, const em_node *n)
{
    em_node_write(n, EM_JSON_SPACED, &w->p->text);
}

/* --- the system message ------------------------------------------------------------------------------------- */

static const char tools_head[] =
    "\n\n## Tools\n\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \"<" DSML
    " calls>\" block like the following:\n\n"
    "<" DSML " calls>\n"
    "<" DSML " invoke name=\"$TOOL_NAME\">\n"
    "<" DSML " parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</" DSML " parameter>\n"
    "...\n"
    "</" DSML " invoke>\n"
    "<" DSML " invoke name=\"$TOOL_NAME2\">\n"
    "...\n"
    "</" DSML " invoke>\n"
    "</" DSML " calls>\n\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types (numbers, booleans, "
    "arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
    "<think>...</think> BEFORE any tool calls or final response.\n\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n\n"
    "### Available Tool Schemas\n\n";
static const char tools_tail[] =
    "\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n";
static const char format_head[] =
    "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

static void put_tool(writer *w, const em_tool *tool)
{
    em_buf *out = &w->p->text;
    em_buf_puts(out, "{\"name\": ");
    em_buf_json_string(out, tool->name.s, tool->name.len);
    em_buf_puts(out, ", \"description\": ");
    em_buf_json_string(out, tool->description.s ? tool->description.s : "", tool->description.len);
    em_buf_puts(out, ", \"parameters\": ");
    if (tool->parameters)
        put_json(w, tool->parameters);
    else
        em_buf_puts(out, "{}");
    em_buf_puts(out, "}\n");
}

static void put_tools(writer *w, const em_dialog *d)
{
    put_own(w, tools_head);
    for (size_t i = 0; i < d->n_tools; i++)
        put_tool(w, &d->tools[i]);
    put_own(w, tools_tail);
}

/* What stands in front of everything: effort, the first system message, tools, the form of the answer. */
static void put_head(writer *w, const em_dialog *d, em_text system)
{
    if (!d->thinking && !system.len && !d->n_tools && !d->answer_schema)
        return;
    put_mark(w, EM_MARK_SYSTEM);
    if (d->thinking)
        em_buf_printf(&w->p->text,
                      "Reasoning Effort: %d (range 1-100, the higher the value, the more thorough the reasoning)\n\n",
                      d->effort);
    put_text(w, system);
    if (d->n_tools)
        put_tools(w, d);
    if (d->answer_schema) {
        put_own(w, format_head);
        put_json(w, d->answer_schema);
    }
}

/* --- calls -------------------------------------------------------------------------------------------------- */

static void put_parameter(writer *w, const char *name, size_t name_len, const em_node *value)
{
    bool string = value->type == EM_JSON_STRING;
    put_own(w, "<" DSML " parameter name=\"");
    put(w, name, name_len);
    put_own(w, string ? "\" string=\"true\">" : "\" string=\"false\">");
    if (string)
        put(w, value->text, value->len);
    else
        put_json(w, value);
    put_own(w, "</" DSML " parameter>\n");
}

/* Arguments that are not exactly one JSON object become one string parameter. */
static void put_parameters(writer *w, const em_tool_call *call)
{
    if (!call->object) {
        em_node text = {.type = EM_JSON_STRING, .text = call->arguments.s, .len = call->arguments.len};
        put_parameter(w, "arguments", 9, &text);
    } else if (!call->object->child) {
        put_own(w, "\n");
    } else {
        for (const em_node *m = call->object->child; m; m = m->next)
            put_parameter(w, m->key, m->key_len, m);
    }
}

static void put_calls(writer *w, const em_message *m)
{
    put_own(w, "\n\n<" DSML " calls>\n");
    for (size_t i = 0; i < m->n_calls; i++) {
        put_own(w, "<" DSML " invoke name=\"");
        put_text(w, m->calls[i].name);
        put_own(w, "\">\n");
        put_parameters(w, &m->calls[i]);
        put_own(w, "</" DSML " invoke>\n");
    }
    put_own(w, "</" DSML " calls>");
}

/* --- messages ----------------------------------------------------------------------------------------------- */

/* Reasoning of earlier turns is kept only while tools are in force; a message that is to be continued keeps its own. */
static void put_assistant(writer *w, const em_dialog *d, const em_message *m)
{
    bool keep = d->thinking && (d->n_tools || m->prefix);
    put_mark(w, EM_MARK_ASSISTANT);
    if (keep) {
        put_mark(w, EM_MARK_THINK);
        put_text(w, m->reasoning);
    }
    if (!(keep && m->prefix && !m->content.len)) /* else the reasoning itself goes on */
        put_mark(w, EM_MARK_THINK_END);
    put_text(w, m->content);
    if (m->n_calls)
        put_calls(w, m);
    if (!m->prefix)
        put_mark(w, EM_MARK_EOS);
}

static bool is_users(const em_message *m)
{
    return m->role == EM_ROLE_USER || m->role == EM_ROLE_TOOL;
}

/* Messages of the user and results of calls that follow each other are one turn. */
static void put_message(writer *w, const em_dialog *d, size_t i)
{
    const em_message *m = &d->messages[i];
    switch (m->role) {
    case EM_ROLE_ASSISTANT: put_assistant(w, d, m); return;
    case EM_ROLE_SYSTEM: put_mark(w, EM_MARK_SYSTEM); break;
    case EM_ROLE_REMINDER: put_mark(w, EM_MARK_REMINDER); break;
    case EM_ROLE_USER:
    case EM_ROLE_TOOL:
        if (i > 0 && is_users(&d->messages[i - 1]))
            put_own(w, "\n\n");
        else
            put_mark(w, EM_MARK_USER);
        break;
    }
    if (m->role == EM_ROLE_TOOL)
        put_own(w, "<tool_result>");
    put_text(w, m->content);
    if (m->role == EM_ROLE_TOOL)
        put_own(w, "</tool_result>");
}

static void put_native(writer *w, const em_dialog *d)
{
    size_t i = 0;
    em_text system = {0};
    if (w->t->id[EM_MARK_BOS] >= 0)
        put_mark(w, EM_MARK_BOS);
    if (d->messages[0].role == EM_ROLE_SYSTEM)
        system = d->messages[i++].content;
    put_head(w, d, system);
    for (; i < d->n_messages; i++)
        put_message(w, d, i);
    if (d->messages[d->n_messages - 1].prefix)
        return;
    put_mark(w, EM_MARK_ASSISTANT);
    put_mark(w, d->thinking ? EM_MARK_THINK : EM_MARK_THINK_END);
    if (d->call_required)
        put_own(w, "\n\n<" DSML " calls>\n");
}

/* --- a model without the family's tokens -------------------------------------------------------------------- */

static void put_plain(writer *w, const em_dialog *d)
{
    static const char *const who[] = {[EM_ROLE_SYSTEM] = "System: ",
                                      [EM_ROLE_USER] = "User: ",
                                      [EM_ROLE_ASSISTANT] = "Assistant: ",
                                      [EM_ROLE_TOOL] = "Tool: ",
                                      [EM_ROLE_REMINDER] = "Reminder: "};
    if (w->t->id[EM_MARK_BOS] >= 0)
        put_mark(w, EM_MARK_BOS);
    for (size_t i = 0; i < d->n_messages; i++) {
        const em_message *m = &d->messages[i];
        put(w, who[m->role], strlen(who[m->role]));
        put_text(w, m->content);
        if (m->prefix)
            return;
        put(w, "\n\n", 2);
    }
    put(w, "Assistant:", 10);
}

/* --- the door ----------------------------------------------------------------------------------------------- */

int em_chat_render(const em_dialog *d, const em_chat_template *t, em_chat_prompt *prompt)
{
    writer w = {.p = prompt, .t = t};
    if (t->native)
        put_native(&w, d);
    else
        put_plain(&w, d);
    return w.failed || prompt->text.failed ? -ENOMEM : 0;
}

void em_chat_prompt_done(em_chat_prompt *p)
{
    em_buf_done(&p->text);
    free(p->places);
    *p = (em_chat_prompt){0};
}

/* Ids of the plain text from one place to the next. */
static int add_text(const em_chat_prompt *p, size_t from, size_t to, const em_engine *engine, size_t max_ids,
                    em_ids *ids)
{
    if (from == to)
        return 0;
    if (max_ids && ids->n >= max_ids)
        return -E2BIG;
    return em_engine_tokenize(engine, p->text.data + from, to - from, false, max_ids ? max_ids - ids->n : 0, ids);
}

int em_chat_prompt_ids(const em_chat_prompt *p, const em_chat_template *t, const em_engine *engine, size_t max_ids,
                       em_ids *ids)
{
    size_t from = 0;
    int r = 0;
    for (size_t i = 0; i < p->n_places && !r; i++) {
        const em_chat_place *place = &p->places[i];
        r = add_text(p, from, place->at, engine, max_ids, ids);
        if (!r)
            r = em_ids_push(ids, t->id[place->mark]);
        from = place->at + strlen(em_mark_spelling[place->mark]);
    }
    return r ? r : add_text(p, from, p->text.len, engine, max_ids, ids);
}
