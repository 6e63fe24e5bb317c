/* A whole answer and a stream go through the same three functions: take an event into its choice, write the choice,
 * write the usage. A stream writes and empties the choice after every event, a whole answer once at the end; that is
 * why the pieces of a stream add up to the whole answer. */
#include "api/completion_reply.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/answer.h"
#include "api/fields.h"
#include "api/insight.h"
#include "api/json_out.h"
#include "api/logprobs.h"

typedef struct choice {
    bool begun;                /* the prompt's part is in */
    em_buf text;               /* not yet written */
    em_logprob_lists logprobs; /* likewise */
    em_buf ids;                /* likewise, JSON items */
    em_insight_lists insight;  /* likewise */
    bool prompt_ids_due;
    em_finish finish;
    int32_t completion_tokens, cached_tokens;
    double logprob_sum; /* of the n_scored tokens drawn; only with a ranking, or where asked for */
    int32_t n_scored;
    int64_t echo_chars; /* characters of the prompt in front of the answer */
} choice;

struct em_completion_reply {
    const em_completion *c;
    choice *choices; /* [n_choices] */
    int32_t n_choices;
    em_answer answer;
};

int em_completion_reply_new(const em_completion *c, const char *id, int64_t created, em_completion_reply **ret_reply)
{
    em_completion_reply *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->c = c;
    r->n_choices = c->n_prompts * c->best_of;
    r->choices = calloc((size_t)r->n_choices, sizeof *r->choices);
    int e = em_answer_init(&r->answer, "text_completion", id, created, c->model, c->fingerprint);
    r->answer.include_usage = c->include_usage;
    r->answer.continuous_usage = c->continuous_usage;
    r->answer.limit = c->limit;
    if (!r->choices || e) {
        em_completion_reply_free(r);
        return -ENOMEM;
    }
    for (int32_t i = 0; i < r->n_choices; i++)
        r->choices[i].logprobs.as_ids = c->tokens_as_ids;
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
        em_insight_lists_done(&r->choices[i].insight);
    }
    free(r->choices);
    em_answer_done(&r->answer);
    free(r);
    return NULL;
}

/* --- taking events ------------------------------------------------------------------------------------------ */

static int32_t prompt_of(const em_completion_reply *r, const choice *ch)
{
    return (int32_t)(ch - r->choices) / r->c->best_of;
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
    if (!r->c->echo) {
        em_insight_lists_begin(&ch->insight, r->c->prompt_ids[prompt].ids, r->c->prompt_ids[prompt].n_ids);
        return;
    }
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
        if (r->c->logprobs >= 0)
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
        if (tok->has_logprob) {
            ch->logprob_sum += tok->logprob;
            ch->n_scored++;
        }
        if (r->c->logprobs >= 0 && tok->visible)
            em_logprob_lists_add(&ch->logprobs, r->c->engine, tok, ch->echo_chars + tok->text_offset);
        if (r->c->return_token_ids)
            em_buf_printf(&ch->ids, "%s%" PRId32, ch->ids.len ? "," : "", tok->id);
    }
    ch->completion_tokens = ev->completion_tokens;
}

static int take(em_completion_reply *r, const em_event *ev, choice **ret_choice)
{
    if (ev->choice < 0 || ev->choice >= r->n_choices || r->answer.complete)
        return -EINVAL;
    choice *ch = &r->choices[ev->choice];
    bool fails = em_finish_is_failure(ev->finish);
    if (fails)
        em_answer_take_failure(&r->answer, ev);
    if (!ch->begun && (!fails || ev->text_len || ev->n_tokens))
        begin_choice(r, ch);
    if (ev->kind == EM_EVENT_PROMPT)
        take_prompt_tokens(r, ch, ev);
    else
        take_answer(r, ch, ev);
    em_insight_lists_add(&ch->insight, r->c->engine, ev);
    ch->cached_tokens = ev->cached_tokens;
    if (ev->finish != EM_FINISH_NONE)
        ch->finish = ev->finish;
    r->answer.complete = ev->last;
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
    em_token_ids_json(&ch->ids, out);
    if (!ch->prompt_ids_due)
        return;
    const em_prompt *p = &r->c->prompt_ids[prompt_of(r, ch)];
    em_buf_puts(out, ",\"prompt_token_ids\":");
    em_json_ids(out, p->ids, (size_t)p->n_ids);
    ch->prompt_ids_due = false; /* a stream sends them once */
}

/* empty_lists: logprobs that were asked for but are empty are written as lists, not as null. */
static void write_choice(const em_completion_reply *r, choice *ch, int32_t index, bool empty_lists, em_buf *out)
{
    em_buf_printf(out, "{\"index\":%d,\"text\":", (int)index);
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
    if (ch->insight.n || (empty_lists && r->c->engram)) {
        em_buf_puts(out, ",\"engram\":");
        em_insight_lists_json(&ch->insight, r->c->engine, out);
    }
    em_buf_puts(out, "}");
}

/* A prompt counts once, however many samples it has; its hits are those of its first sample. */
static em_usage usage_of(const em_completion_reply *r)
{
    em_usage u = {.reasoning = -1};
    for (int32_t i = 0; i < r->c->n_prompts; i++) {
        u.prompt += r->c->prompt_ids[i].n_ids;
        u.cached += r->choices[(size_t)i * (size_t)r->c->best_of].cached_tokens;
    }
    for (int32_t i = 0; i < r->n_choices; i++)
        u.completion += r->choices[i].completion_tokens;
    return u;
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

/* Its rank, best first: mean log-probability of the tokens drawn, of equal ones the earlier sample. */
static double score_of(const choice *ch)
{
    return ch->n_scored ? ch->logprob_sum / ch->n_scored : 0;
}

/* The best of a prompt's samples that was not taken yet. */
static choice *take_best(choice *samples, int32_t n, bool *taken)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (!taken[i] && (best < 0 || score_of(&samples[i]) > score_of(&samples[best])))
            best = i;
    taken[best] = true;
    return &samples[best];
}

/* The answers to one prompt: all its samples in order, or the best of them. */
static void write_prompt(const em_completion_reply *r, int32_t prompt, em_buf *out)
{
    const em_completion *c = r->c;
    choice *samples = &r->choices[(size_t)prompt * (size_t)c->best_of];
    bool taken[EM_MAX_BEST_OF] = {false};
    for (int32_t i = 0; i < c->n; i++) {
        int32_t index = prompt * c->n + i;
        choice *ch = c->best_of > c->n ? take_best(samples, c->best_of, taken) : &samples[i];
        if (index)
            em_buf_append(out, ",", 1);
        write_choice(r, ch, index, true, out);
    }
}

int em_completion_reply_json(em_completion_reply *r, em_buf *out, em_api_error *err)
{
    em_usage usage = usage_of(r);
    int e = em_answer_check(&r->answer, err);
    if (e)
        return e;
    em_buf_append(out, r->answer.head.data, r->answer.head.len);
    for (int32_t i = 0; i < r->c->n_prompts; i++)
        write_prompt(r, i, out);
    em_buf_puts(out, "],");
    em_usage_json(&usage, out);
    em_buf_puts(out, "}");
    return out->failed ? em_api_no_memory(err) : 0;
}

/* --- streamed ----------------------------------------------------------------------------------------------- */

static bool has_news(const choice *ch)
{
    return ch->text.len || ch->logprobs.n || ch->ids.len || ch->insight.n || ch->prompt_ids_due ||
           ch->finish == EM_FINISH_STOP || ch->finish == EM_FINISH_LENGTH;
}

static void stream_choice(const em_completion_reply *r, choice *ch, em_buf *out)
{
    em_usage usage = {.prompt = r->c->prompt_ids[prompt_of(r, ch)].n_ids,
                      .completion = ch->completion_tokens,
                      .cached = ch->cached_tokens,
                      .reasoning = -1};
    em_answer_chunk_begin(&r->answer, out);
    write_choice(r, ch, (int32_t)(ch - r->choices), false, out);
    em_answer_chunk_end(&r->answer, NULL, &usage, out);
    em_buf_clear(&ch->text);
    em_buf_clear(&ch->ids);
    em_logprob_lists_clear(&ch->logprobs);
    em_insight_lists_clear(&ch->insight);
}

int em_completion_reply_stream(em_completion_reply *r, const em_event *ev, em_buf *out)
{
    choice *ch;
    int e = take(r, ev, &ch);
    if (e)
        return e;
    if (r->answer.failure != EM_FINISH_CANCEL && has_news(ch))
        stream_choice(r, ch, out);
    if (ev->last) {
        em_usage usage = usage_of(r);
        em_answer_stream_end(&r->answer, &usage, out);
    }
    return out->failed ? -ENOMEM : 0;
}
