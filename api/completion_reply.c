/* A whole answer and a stream go through the same three functions: take an event into its choice, write the choice,
 * write the usage. A stream writes and empties the choice after every event, a whole answer once at the end; that is
 * why the pieces of a stream add up to the whole answer. */
#include "api/completion_reply.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "api/json_out.h"
#include "api/logprobs.h"
#include "api/sse.h"

typedef struct choice {
    bool begun;                /* the prompt's part is in */
    em_buf text;               /* not yet written */
    em_logprob_lists logprobs; /* likewise */
    em_buf ids;                /* likewise, JSON items */
    bool prompt_ids_due;
    em_finish finish;
    int32_t completion_tokens, cached_tokens;
    int64_t echo_chars; /* characters of the prompt in front of the answer */
} choice;

struct em_completion_reply {
    const em_completion *c;
    choice *choices; /* [n_choices] */
    int32_t n_choices;
    em_buf head;       /* {"id":...,"choices":[ of every object */
    em_finish failure; /* NONE, CANCEL, TIMEOUT, ERROR: the gravest of all choices */
    char why[512];
    bool complete; /* the last event was taken */
};

static void write_head(em_buf *b, const em_completion *c, const char *id, int64_t created)
{
    em_buf_puts(b, "{\"id\":");
    em_json_text(b, id, strlen(id));
    em_buf_printf(b, ",\"object\":\"text_completion\",\"created\":%" PRId64 ",\"model\":", created);
    em_json_text(b, c->model, strlen(c->model));
    em_buf_printf(b, ",\"system_fingerprint\":\"%s\",\"choices\":[", c->fingerprint);
}

int em_completion_reply_new(const em_completion *c, const char *id, int64_t created, em_completion_reply **ret_reply)
{
    em_completion_reply *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->c = c;
    r->n_choices = c->n_prompts * c->n;
    r->choices = calloc((size_t)r->n_choices, sizeof *r->choices);
    write_head(&r->head, c, id, created);
    if (!r->choices || r->head.failed) {
        em_completion_reply_free(r);
        return -ENOMEM;
    }
    *ret_reply = r;
    return 0;
}

em_completion_reply *em_completion_reply_free(em_completion_reply *r)
{
    if (!r)
        return NULL;
    for (int32_t i = 0; r->choices && i < r->n_choices; i++) {
        em_buf_done(&r->choices[i].text);
        em_buf_done(&r->choices[i].ids);
        em_logprob_lists_done(&r->choices[i].logprobs);
    }
    free(r->choices);
    em_buf_done(&r->head);
    free(r);
    return NULL;
}

/* --- taking events ------------------------------------------------------------------------------------------ */

static int32_t prompt_of(const em_completion_reply *r, const choice *ch)
{
    return (int32_t)(ch - r->choices) / r->c->n;
}

/* Text of a prompt's ids from `from` on; out may be NULL. A BOS that we added is no part of the text. */
static void decode_prompt(const em_completion_reply *r, int32_t prompt, int32_t n_ids, em_lossy *l, em_buf *out)
{
    const em_prompt *p = &r->c->prompt_ids[prompt];
    for (int32_t i = r->c->prompt_bos[prompt]; i < n_ids; i++) {
        size_t len = 0;
        const uint8_t *bytes = em_engine_token_bytes(r->c->engine, p->ids[i], &len);
        em_lossy_add(l, bytes, len, out);
    }
}

/* What comes before the answer: the echoed prompt, and its ids where asked for. */
static void begin_choice(em_completion_reply *r, choice *ch)
{
    int32_t prompt = prompt_of(r, ch);
    ch->begun = true;
    ch->prompt_ids_due = r->c->return_token_ids;
    if (!r->c->echo)
        return;
    em_lossy l = {0};
    const char *text = r->c->prompt_text[prompt];
    if (text) {
        em_lossy_add(&l, (const uint8_t *)text, strlen(text), &ch->text);
    } else {
        decode_prompt(r, prompt, r->c->prompt_ids[prompt].n_ids, &l, &ch->text);
        em_lossy_end(&l, &ch->text);
    }
    ch->echo_chars = l.n_chars;
}

/* Offsets in the echoed text: the character in which a token's first byte lies. */
static void take_prompt_tokens(em_completion_reply *r, choice *ch, const em_event *ev)
{
    int32_t bos = r->c->prompt_bos[prompt_of(r, ch)];
    em_lossy l = {0};
    for (int32_t i = 0; i < ev->n_tokens; i++) {
        const em_event_token *tok = &ev->tokens[i];
        em_logprob_lists_add(&ch->logprobs, r->c->engine, tok, l.n_chars);
        size_t len = 0;
        const uint8_t *bytes = em_engine_token_bytes(r->c->engine, tok->id, &len);
        if (i >= bos)
            em_lossy_add(&l, bytes, len, NULL);
    }
}

static void take_answer(em_completion_reply *r, choice *ch, const em_event *ev)
{
    if (ev->text_len)
        em_buf_append(&ch->text, ev->text, ev->text_len);
    for (int32_t i = 0; i < ev->n_tokens; i++) {
        const em_event_token *tok = &ev->tokens[i];
        if (r->c->logprobs >= 0 && tok->visible)
            em_logprob_lists_add(&ch->logprobs, r->c->engine, tok, ch->echo_chars + tok->text_offset);
        if (r->c->return_token_ids)
            em_buf_printf(&ch->ids, "%s%" PRId32, ch->ids.len ? "," : "", tok->id);
    }
    ch->completion_tokens = ev->completion_tokens;
}

static bool is_failure(em_finish f)
{
    return f == EM_FINISH_CANCEL || f == EM_FINISH_TIMEOUT || f == EM_FINISH_ERROR;
}

static void take_failure(em_completion_reply *r, const em_event *ev)
{
    if (ev->finish <= r->failure)
        return; /* CANCEL < TIMEOUT < ERROR: an error is the cause when others were cancelled for it */
    r->failure = ev->finish;
    snprintf(r->why, sizeof r->why, "%s", ev->error ? ev->error : "");
}

static int take(em_completion_reply *r, const em_event *ev, choice **ret_choice)
{
    if (ev->choice < 0 || ev->choice >= r->n_choices || r->complete)
        return -EINVAL;
    choice *ch = &r->choices[ev->choice];
    bool fails = is_failure(ev->finish);
    if (fails)
        take_failure(r, ev);
    if (!ch->begun && (!fails || ev->text_len || ev->n_tokens))
        begin_choice(r, ch);
    if (ev->kind == EM_EVENT_PROMPT)
        take_prompt_tokens(r, ch, ev);
    else
        take_answer(r, ch, ev);
    ch->cached_tokens = ev->cached_tokens;
    if (ev->finish != EM_FINISH_NONE)
        ch->finish = ev->finish;
    r->complete = ev->last;
    *ret_choice = ch;
    return 0;
}

/* --- writing ------------------------------------------------------------------------------------------------ */

static const char *finish_json(em_finish f)
{
    return f == EM_FINISH_STOP ? "\"stop\"" : f == EM_FINISH_LENGTH ? "\"length\"" : "null";
}

static void write_ids(const em_completion_reply *r, choice *ch, em_buf *out)
{
    em_buf_puts(out, ",\"token_ids\":[");
    em_buf_append(out, ch->ids.data, ch->ids.len);
    em_buf_puts(out, "]");
    out->failed |= ch->ids.failed;
    if (!ch->prompt_ids_due)
        return;
    const em_prompt *p = &r->c->prompt_ids[prompt_of(r, ch)];
    em_buf_puts(out, ",\"prompt_token_ids\":");
    em_json_ids(out, p->ids, (size_t)p->n_ids);
    ch->prompt_ids_due = false; /* a stream sends them once */
}

/* empty_lists: logprobs that were asked for but are empty are written as lists, not as null. */
static void write_choice(const em_completion_reply *r, choice *ch, bool empty_lists, em_buf *out)
{
    em_buf_printf(out, "{\"index\":%d,\"text\":", (int)(ch - r->choices));
    em_buf_json_string(out, ch->text.len ? ch->text.data : "", ch->text.len);
    out->failed |= ch->text.failed;
    em_buf_puts(out, ",\"logprobs\":");
    if (ch->logprobs.n || (empty_lists && r->c->logprobs >= 0))
        em_logprob_lists_json(&ch->logprobs, out);
    else
        em_buf_puts(out, "null");
    em_buf_puts(out, ",\"finish_reason\":");
    em_buf_puts(out, finish_json(ch->finish));
    if (r->c->return_token_ids)
        write_ids(r, ch, out);
    em_buf_puts(out, "}");
}

/* A prompt counts once, however many samples it has; its hits are those of its first sample. */
static void write_usage(const em_completion_reply *r, em_buf *out)
{
    int64_t prompt = 0, cached = 0, completion = 0;
    for (int32_t i = 0; i < r->c->n_prompts; i++) {
        prompt += r->c->prompt_ids[i].n_ids;
        cached += r->choices[(size_t)i * (size_t)r->c->n].cached_tokens;
    }
    for (int32_t i = 0; i < r->n_choices; i++)
        completion += r->choices[i].completion_tokens;
    em_buf_printf(out,
                  "\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"total_tokens\":%" PRId64
                  ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64 "}}",
                  prompt, completion, prompt + completion, cached);
}

static int failure_error(const em_completion_reply *r, em_api_error *err)
{
    switch (r->failure) {
    case EM_FINISH_CANCEL: return em_api_error_set(err, 499, "cancelled", NULL, "The request was cancelled");
    case EM_FINISH_TIMEOUT:
        return em_api_error_set(err, 504, "timeout", NULL, "The request took longer than this server allows");
    default: break;
    }
    return em_api_error_set(err, 500, "engine_failure", NULL, "%s",
                            r->why[0] ? r->why : "The engine failed on this request");
}

/* --- whole -------------------------------------------------------------------------------------------------- */

int em_completion_reply_add(em_completion_reply *r, const em_event *ev)
{
    choice *ch;
    int e = take(r, ev, &ch);
    if (e)
        return e;
    return ch->text.failed || ch->ids.failed ? -ENOMEM : 0;
}

int em_completion_reply_json(em_completion_reply *r, em_buf *out, em_api_error *err)
{
    if (r->failure != EM_FINISH_NONE)
        return failure_error(r, err);
    if (!r->complete)
        return em_api_error_set(err, 500, "engine_failure", NULL, "The answer is not complete");
    em_buf_append(out, r->head.data, r->head.len);
    for (int32_t i = 0; i < r->n_choices; i++) {
        if (i)
            em_buf_append(out, ",", 1);
        write_choice(r, &r->choices[i], true, out);
    }
    em_buf_puts(out, "],");
    write_usage(r, out);
    em_buf_puts(out, "}");
    return out->failed ? em_api_no_memory(err) : 0;
}

/* --- streamed ----------------------------------------------------------------------------------------------- */

static bool has_news(const choice *ch)
{
    return ch->text.len || ch->logprobs.n || ch->ids.len || ch->prompt_ids_due || ch->finish == EM_FINISH_STOP ||
           ch->finish == EM_FINISH_LENGTH;
}

static void stream_choice(const em_completion_reply *r, choice *ch, em_buf *out)
{
    em_sse_begin(out);
    em_buf_append(out, r->head.data, r->head.len);
    write_choice(r, ch, false, out);
    em_buf_puts(out, r->c->include_usage ? "],\"usage\":null}" : "]}");
    em_sse_end(out);
    em_buf_clear(&ch->text);
    em_buf_clear(&ch->ids);
    em_logprob_lists_clear(&ch->logprobs);
}

static void stream_usage(const em_completion_reply *r, em_buf *out)
{
    em_sse_begin(out);
    em_buf_append(out, r->head.data, r->head.len);
    em_buf_puts(out, "],");
    write_usage(r, out);
    em_buf_puts(out, "}");
    em_sse_end(out);
}

static void stream_end(const em_completion_reply *r, em_buf *out)
{
    if (r->failure == EM_FINISH_CANCEL)
        return;
    if (r->failure != EM_FINISH_NONE) {
        em_api_error err;
        failure_error(r, &err);
        em_sse_error(out, &err);
    } else if (r->c->include_usage) {
        stream_usage(r, out);
    }
    em_sse_done(out);
}

int em_completion_reply_stream(em_completion_reply *r, const em_event *ev, em_buf *out)
{
    choice *ch;
    int e = take(r, ev, &ch);
    if (e)
        return e;
    if (r->failure != EM_FINISH_CANCEL && has_news(ch))
        stream_choice(r, ch, out);
    if (ev->last)
        stream_end(r, out);
    return out->failed ? -ENOMEM : 0;
}
