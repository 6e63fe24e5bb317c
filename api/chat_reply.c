/* A whole answer and a stream take events into their choices alike. A stream writes what is new after every event and
 * forgets it, a whole answer writes all of it at the end; that is why the pieces of a stream add up to the whole. */
#include "api/chat_reply.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/answer.h"
#include "api/chat_logprobs.h"
#include "api/fields.h"
#include "api/insight.h"
#include "api/json_out.h"

typedef struct call {
    em_buf name;
    em_buf arguments; /* not yet written */
    bool announced;   /* a stream has told its id and name */
} call;

typedef struct choice {
    em_chat_parser *parser;
    bool begun;                /* a stream has told its role */
    em_buf reasoning, content; /* not yet written */
    call *calls;               /* [n_calls] */
    int32_t n_calls;
    em_chat_logprobs logprobs;
    em_buf ids;               /* not yet written, JSON items */
    em_insight_lists insight; /* likewise */
    em_finish finish;
    bool finish_due; /* not yet written */
    int32_t completion_tokens, cached_tokens, reasoning_tokens;
    int failed; /* -ENOMEM while the parser gave out */
} choice;

struct em_chat_reply {
    const em_chat *c;
    em_answer answer;
    em_chat_rules *rules;
    choice *choices; /* [c->n] */
    int32_t n_open;  /* choices that go on; 0: the answer is complete, whatever the engine still tells */
    uint64_t key;    /* of the ids of calls */
    bool prompt_ids_due, told_last;
};

/* --- making ------------------------------------------------------------------------------------------------- */

/* Where the parser of a choice puts what it finds. */
static void take_part(void *ctx, em_chat_part part, int32_t idx, const char *text, size_t len)
{
    choice *ch = ctx;
    switch (part) {
    case EM_PART_REASONING: em_buf_append(&ch->reasoning, text, len); return;
    case EM_PART_CONTENT: em_buf_append(&ch->content, text, len); return;
    case EM_PART_CALL_ARGUMENTS:
        if (idx < ch->n_calls)
            em_buf_append(&ch->calls[idx].arguments, text, len);
        return;
    case EM_PART_CALL_NAME: break;
    }
    call *calls = realloc(ch->calls, ((size_t)ch->n_calls + 1) * sizeof *calls);
    if (!calls) {
        ch->failed = -ENOMEM;
        return;
    }
    ch->calls = calls;
    ch->calls[ch->n_calls] = (call){0};
    em_buf_append(&ch->calls[ch->n_calls++].name, text, len);
}

static uint64_t hash(const char *s)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (; *s; s++)
        h = (h ^ (uint8_t)*s) * UINT64_C(1099511628211);
    return h;
}

int em_chat_reply_new(const em_chat *c, const char *id, int64_t created, em_chat_reply **ret_reply)
{
    em_chat_reply *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->c = c;
    r->key = hash(id);
    r->prompt_ids_due = c->return_token_ids;
    const char *object = c->stream ? "chat.completion.chunk" : "chat.completion";
    int e = em_answer_init(&r->answer, object, id, created, c->model, c->fingerprint);
    r->answer.include_usage = c->include_usage;
    r->answer.continuous_usage = c->continuous_usage;
    r->answer.limit = c->limit;
    if (!e)
        e = em_chat_rules_new(&c->mode, c->stops, c->n_stops, &r->rules);
    if (!e && !(r->choices = calloc((size_t)c->n, sizeof *r->choices)))
        e = -ENOMEM;
    for (; !e && r->n_open < c->n; r->n_open += !e) {
        choice *ch = &r->choices[r->n_open];
        em_insight_lists_begin(&ch->insight, c->prompt.ids, c->prompt.n_ids);
        ch->logprobs.as_ids = c->tokens_as_ids;
        e = em_chat_parser_new(r->rules, (em_chat_sink){take_part, ch}, &ch->parser);
    }
    if (e)
        em_chat_reply_free(r);
    else
        *ret_reply = r;
    return e;
}

static void choice_done(choice *ch)
{
    em_chat_parser_free(ch->parser);
    for (int32_t i = 0; i < ch->n_calls; i++) {
        em_buf_done(&ch->calls[i].name);
        em_buf_done(&ch->calls[i].arguments);
    }
    free(ch->calls);
    em_buf_done(&ch->reasoning);
    em_buf_done(&ch->content);
    em_buf_done(&ch->ids);
    em_chat_logprobs_done(&ch->logprobs);
    em_insight_lists_done(&ch->insight);
}

em_chat_reply *em_chat_reply_free(em_chat_reply *r)
{
    if (!r)
        return NULL;
    for (int32_t i = 0; r->choices && i < r->c->n; i++)
        choice_done(&r->choices[i]);
    free(r->choices);
    em_chat_rules_free(r->rules);
    em_answer_done(&r->answer);
    free(r);
    return NULL;
}

/* --- taking events ------------------------------------------------------------------------------------------ */

static void take_tokens(em_chat_reply *r, choice *ch, const em_event *ev)
{
    em_chat_position at;
    em_chat_parser_where(ch->parser, &at);
    for (int32_t i = 0; i < ev->n_tokens; i++) {
        const em_event_token *tok = &ev->tokens[i];
        ch->reasoning_tokens += tok->text_offset < at.reasoning_end;
        if (r->c->logprobs >= 0 && tok->visible)
            em_chat_logprobs_add(&ch->logprobs, r->c->engine, tok);
        if (r->c->return_token_ids)
            em_buf_printf(&ch->ids, "%s%" PRId32, ch->ids.len ? "," : "", tok->id);
    }
    em_insight_lists_add(&ch->insight, r->c->engine, ev);
    em_chat_logprobs_settle(&ch->logprobs, &at, ch->finish != EM_FINISH_NONE);
}

static void end_choice(em_chat_reply *r, choice *ch, em_finish finish)
{
    ch->finish = finish;
    ch->finish_due = !em_finish_is_failure(finish);
    r->n_open--;
}

static int take_text(em_chat_reply *r, choice *ch, const em_event *ev)
{
    bool ends = ev->finish == EM_FINISH_STOP || ev->finish == EM_FINISH_LENGTH;
    int e = em_chat_parser_push(ch->parser, ev->text, ev->text_len);
    bool stopped = e > 0;
    if (e >= 0 && (ends || stopped))
        e = em_chat_parser_finish(ch->parser);
    if (e < 0)
        return e;
    if ((ends || stopped) && ch->finish == EM_FINISH_NONE)
        end_choice(r, ch, stopped ? EM_FINISH_STOP : ev->finish);
    return 0;
}

/* ret_choice: NULL when the event has nothing to say: its choice has ended already. 1: it ends here, before the engine
 * knows. */
static int take(em_chat_reply *r, const em_event *ev, choice **ret_choice)
{
    if (ev->choice < 0 || ev->choice >= r->c->n || ev->kind != EM_EVENT_TEXT || r->told_last)
        return -EINVAL;
    r->told_last = ev->last;
    choice *ch = &r->choices[ev->choice];
    *ret_choice = NULL;
    if (ch->finish == EM_FINISH_NONE) {
        if (em_finish_is_failure(ev->finish)) {
            em_answer_take_failure(&r->answer, ev);
            end_choice(r, ch, ev->finish);
        }
        int e = ev->text_len || !em_finish_is_failure(ev->finish) ? take_text(r, ch, ev) : 0;
        if (e)
            return e;
        take_tokens(r, ch, ev);
        ch->completion_tokens = ev->completion_tokens;
        ch->cached_tokens = ev->cached_tokens;
        *ret_choice = ch;
    }
    r->answer.complete = ev->last || r->n_open == 0;
    if (ch->failed)
        return ch->failed;
    return *ret_choice && ch->finish != EM_FINISH_NONE && ev->finish == EM_FINISH_NONE;
}

/* --- writing ------------------------------------------------------------------------------------------------ */

static const char *finish_json(const choice *ch)
{
    if (ch->finish == EM_FINISH_LENGTH)
        return "\"length\"";
    return ch->n_calls ? "\"tool_calls\"" : "\"stop\"";
}

static void write_text(const em_buf *text, em_buf *out)
{
    em_buf_json_string(out, text->len ? text->data : "", text->len);
    out->failed |= text->failed;
}

/* The head of a call, up to its arguments. */
static void write_call_name(const em_chat_reply *r, const choice *ch, int32_t idx, em_buf *out)
{
    uint64_t which = (uint64_t)(ch - r->choices) << 32 | (uint32_t)idx;
    em_buf_printf(out, "\"id\":\"call_%016" PRIx64 "%08" PRIx32 "\",\"type\":\"function\",\"function\":{\"name\":",
                  (r->key ^ which) * UINT64_C(0x9e3779b97f4a7c15), (uint32_t)which);
    write_text(&ch->calls[idx].name, out);
    em_buf_puts(out, ",\"arguments\":");
}

static void write_ids(em_chat_reply *r, choice *ch, em_buf *out)
{
    if (r->c->return_token_ids)
        em_token_ids_json(&ch->ids, out);
    em_buf_consume(&ch->ids, ch->ids.len);
}

static void write_insight(const em_chat_reply *r, choice *ch, em_buf *out)
{
    em_buf_puts(out, ",\"engram\":");
    em_insight_lists_json(&ch->insight, r->c->engine, out);
    em_insight_lists_clear(&ch->insight);
}

static em_usage usage_of(const em_chat_reply *r)
{
    em_usage u = {.prompt = r->c->prompt.n_ids, .cached = r->choices[0].cached_tokens};
    for (int32_t i = 0; i < r->c->n; i++) {
        u.completion += r->choices[i].completion_tokens;
        u.reasoning += r->choices[i].reasoning_tokens;
    }
    return u;
}

static void write_prompt_ids(em_chat_reply *r, em_buf *out)
{
    if (r->prompt_ids_due) {
        em_buf_puts(out, ",\"prompt_token_ids\":");
        em_json_ids(out, r->c->prompt.ids, (size_t)r->c->prompt.n_ids);
    }
    r->prompt_ids_due = false;
}

static bool reasons(const em_chat_reply *r)
{
    return r->c->mode.stage == EM_STAGE_REASONING || r->c->mode.stage == EM_STAGE_REASONING_CONTINUATION;
}

/* --- whole -------------------------------------------------------------------------------------------------- */

int em_chat_reply_add(em_chat_reply *r, const em_event *ev)
{
    choice *ch;
    return take(r, ev, &ch);
}

static void write_message(const em_chat_reply *r, choice *ch, em_buf *out)
{
    em_buf_puts(out, "{\"role\":\"assistant\",\"content\":");
    if (ch->n_calls && !ch->content.len)
        em_buf_puts(out, "null");
    else
        write_text(&ch->content, out);
    em_buf_puts(out, ",\"refusal\":null");
    if (reasons(r)) {
        em_buf_puts(out, ",\"reasoning_content\":");
        write_text(&ch->reasoning, out);
    }
    for (int32_t i = 0; i < ch->n_calls; i++) {
        em_buf_puts(out, i ? ",{" : ",\"tool_calls\":[{");
        write_call_name(r, ch, i, out);
        write_text(&ch->calls[i].arguments, out);
        em_buf_puts(out, "}}");
    }
    em_buf_puts(out, ch->n_calls ? "]}" : "}");
}

static void write_choice(em_chat_reply *r, choice *ch, em_buf *out)
{
    em_buf_printf(out, "{\"index\":%d,\"message\":", (int)(ch - r->choices));
    write_message(r, ch, out);
    em_buf_puts(out, ",\"logprobs\":");
    if (r->c->logprobs >= 0)
        em_chat_logprobs_json(&ch->logprobs, reasons(r), out);
    else
        em_buf_puts(out, "null");
    em_buf_puts(out, ",\"finish_reason\":");
    em_buf_puts(out, finish_json(ch));
    write_ids(r, ch, out);
    if (r->c->engram)
        write_insight(r, ch, out);
    em_buf_puts(out, "}");
}

int em_chat_reply_json(em_chat_reply *r, em_buf *out, em_api_error *err)
{
    em_usage usage = usage_of(r);
    int e = em_answer_check(&r->answer, err);
    if (e)
        return e;
    em_buf_append(out, r->answer.head.data, r->answer.head.len);
    for (int32_t i = 0; i < r->c->n; i++) {
        if (i)
            em_buf_puts(out, ",");
        write_choice(r, &r->choices[i], out);
    }
    em_buf_puts(out, "],");
    em_usage_json(&usage, out);
    write_prompt_ids(r, out);
    em_buf_puts(out, "}");
    return out->failed ? em_api_no_memory(err) : 0;
}

/* --- streamed ----------------------------------------------------------------------------------------------- */

static void begin_chunk(const em_chat_reply *r, const choice *ch, em_buf *out)
{
    em_answer_chunk_begin(&r->answer, out);
    em_buf_printf(out, "{\"index\":%d,\"delta\":{", (int)(ch - r->choices));
}

/* The delta is written: what goes along with it. */
static void end_chunk(em_chat_reply *r, choice *ch, bool with_tokens, const char *finish, em_buf *out)
{
    em_buf more = {0};
    em_buf_puts(out, "},\"logprobs\":");
    if (with_tokens && em_chat_logprobs_pending(&ch->logprobs))
        em_chat_logprobs_json(&ch->logprobs, reasons(r), out);
    else
        em_buf_puts(out, "null");
    em_buf_printf(out, ",\"finish_reason\":%s", finish);
    if (with_tokens) {
        write_ids(r, ch, out);
        em_chat_logprobs_clear(&ch->logprobs);
    }
    if (with_tokens && ch->insight.n)
        write_insight(r, ch, out);
    em_buf_puts(out, "}");
    write_prompt_ids(r, &more);
    em_usage usage = {.prompt = r->c->prompt.n_ids,
                      .completion = ch->completion_tokens,
                      .cached = ch->cached_tokens,
                      .reasoning = ch->reasoning_tokens};
    em_answer_chunk_end(&r->answer, &more, &usage, out);
    out->failed |= more.failed;
    em_buf_done(&more);
}

static void stream_role(em_chat_reply *r, choice *ch, em_buf *out)
{
    begin_chunk(r, ch, out);
    em_buf_puts(out, reasons(r) ? "\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"\""
                                : "\"role\":\"assistant\",\"content\":\"\"");
    end_chunk(r, ch, false, "null", out);
    ch->begun = true;
}

static bool call_has_news(const call *c)
{
    return !c->announced || c->arguments.len;
}

static void stream_call(const em_chat_reply *r, choice *ch, int32_t idx, em_buf *out)
{
    call *c = &ch->calls[idx];
    em_buf_printf(out, "{\"index\":%d,", (int)idx);
    if (c->announced)
        em_buf_puts(out, "\"function\":{\"arguments\":");
    else
        write_call_name(r, ch, idx, out);
    c->announced = true;
    write_text(&c->arguments, out);
    em_buf_consume(&c->arguments, c->arguments.len);
    em_buf_puts(out, "}}");
}

static bool has_news(const choice *ch)
{
    bool news = ch->reasoning.len || ch->content.len;
    for (int32_t i = 0; i < ch->n_calls && !news; i++)
        news = call_has_news(&ch->calls[i]);
    return news;
}

static const char *stream_text(const char *comma, const char *name, em_buf *text, em_buf *out)
{
    if (!text->len)
        return comma;
    em_buf_printf(out, "%s\"%s\":", comma, name);
    write_text(text, out);
    em_buf_consume(text, text->len);
    return ",";
}

static void stream_news(em_chat_reply *r, choice *ch, em_buf *out)
{
    begin_chunk(r, ch, out);
    const char *comma = stream_text("", "reasoning_content", &ch->reasoning, out);
    comma = stream_text(comma, "content", &ch->content, out);
    bool calls = false;
    for (int32_t i = 0; i < ch->n_calls; i++) {
        if (!call_has_news(&ch->calls[i]))
            continue;
        em_buf_printf(out, "%s%s", calls ? "," : comma, calls ? "" : "\"tool_calls\":[");
        stream_call(r, ch, i, out);
        calls = true;
    }
    if (calls)
        em_buf_puts(out, "]");
    end_chunk(r, ch, true, "null", out);
}

static void stream_choice(em_chat_reply *r, choice *ch, em_buf *out)
{
    if (!ch->begun)
        stream_role(r, ch, out);
    if (has_news(ch))
        stream_news(r, ch, out);
    if (ch->finish_due) {
        begin_chunk(r, ch, out);
        end_chunk(r, ch, true, finish_json(ch), out);
        ch->finish_due = false;
    }
}

int em_chat_reply_stream(em_chat_reply *r, const em_event *ev, em_buf *out)
{
    choice *ch;
    bool was_complete = r->answer.complete;
    int e = take(r, ev, &ch);
    if (e < 0)
        return e;
    bool silent = ch && em_finish_is_failure(ch->finish) && !has_news(ch);
    if (ch && !silent && r->answer.failure != EM_FINISH_CANCEL)
        stream_choice(r, ch, out);
    if (r->answer.complete && !was_complete) {
        em_usage usage = usage_of(r);
        em_answer_stream_end(&r->answer, &usage, out);
    }
    return out->failed ? -ENOMEM : e;
}

/* --- POST /v1/chat/completions ------------------------------------------------------------------------------ */

static int parse(const char *body, size_t len, const em_api_context *ctx, em_call *made, em_api_error *err)
{
    em_chat *c = NULL;
    int e = em_chat_parse(body, len, ctx, &c, err);
    if (!e)
        e = em_chat_bind(c, err);
    if (e) {
        em_chat_free(c);
        return e;
    }
    made->req = c->req;
    c->req = NULL;
    made->stream = c->stream;
    made->n = c->n;
    made->form_param = c->rule.param;
    made->parsed = c;
    return 0;
}

static int open_reply(em_call *made, const char *id, int64_t created)
{
    em_chat_reply *reply = NULL;
    int e = em_chat_reply_new(made->parsed, id, created, &reply);
    if (!e)
        made->reply = reply;
    return e;
}

static int add(em_call *made, const em_event *ev)
{
    return em_chat_reply_add(made->reply, ev);
}

static int json(em_call *made, em_buf *out, em_api_error *err)
{
    return em_chat_reply_json(made->reply, out, err);
}

static int stream(em_call *made, const em_event *ev, em_buf *out)
{
    return em_chat_reply_stream(made->reply, ev, out);
}

static void done(em_call *made)
{
    em_chat_reply_free(made->reply);
    em_chat_free(made->parsed);
}

const em_endpoint em_chat_endpoint = {"chatcmpl-", parse, open_reply, add, json, stream, done};
