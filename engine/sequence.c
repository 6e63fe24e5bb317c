/* One token stream: its ids, its prompt scores, its text and the tokens that wait for text. */
#include "engine/sequence.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/event.h"
#include "engine/request.h"

#define FIRST_HELD 16 /* tokens that rarely all wait for text at a time */

/* --- requests ----------------------------------------------------------------------------------------------- */

int em_live_new(em_request *r, em_sink sink, const em_seq_rules *rules, em_live **ret_live)
{
    int32_t n_seqs = r->n_prompts * r->n;
    em_live *live = calloc(1, sizeof(*live) + (size_t)n_seqs * sizeof(live->seqs[0]));
    if (!live)
        return -ENOMEM;
    live->sink = sink;
    live->n_seqs = live->n_open = live->n_waiting = n_seqs;
    atomic_init(&live->cancelled, false);
    live->fresh_client = calloc(1, sizeof(*live->fresh_client));
    if (!live->fresh_client) {
        em_live_free(live);
        return -ENOMEM;
    }
    memcpy(live->fresh_client->name, r->client, strnlen(r->client, EM_REQUEST_CLIENT_MAX));
    uint64_t now_ns = em_now_ns();
    for (int32_t i = 0; i < n_seqs; i++) {
        em_seq *seq = &live->seqs[i];
        seq->live = live;
        seq->choice = i;
        seq->prompt = &r->prompts[i / r->n];
        seq->max_new = em_request_max_new(r, seq->prompt->n_ids, rules->max_len);
        seq->n_ids = seq->prompt->n_ids;
        seq->kv.slot = -1;
        seq->moments.arrival_ns = now_ns;
        seq->spare = em_event_new(&(em_event){.kind = EM_EVENT_TEXT, .choice = i});
        if (!seq->spare) {
            em_live_free(live);
            return -ENOMEM;
        }
    }
    live->request = r; /* last: until here the caller owns it */
    *ret_live = live;
    return 0;
}

em_live *em_live_free(em_live *live)
{
    if (!live)
        return NULL;
    for (int32_t i = 0; i < live->n_seqs; i++) {
        em_seq_done(&live->seqs[i]);
        em_event_free(live->seqs[i].spare);
    }
    while (live->out_head) {
        em_event *ev = live->out_head;
        live->out_head = ev->next;
        em_event_free(ev);
    }
    em_grammar_order_unref(live->order);
    em_request_free(live->request);
    free(live->fresh_client);
    free(live);
    return NULL;
}

/* --- life of a sequence ------------------------------------------------------------------------------------- */

static int32_t n_top_of(const em_seq *seq)
{
    return seq->live->request->logprobs > 0 ? seq->live->request->logprobs : 0;
}

static int start_scores(em_seq *seq)
{
    size_t n = (size_t)seq->prompt->n_ids, n_top = (size_t)n_top_of(seq);
    seq->scores = calloc(n, sizeof(*seq->scores));
    if (!seq->scores)
        return -ENOMEM;
    if (n_top && !(seq->score_top = malloc(n * n_top * sizeof(*seq->score_top))))
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        seq->scores[i] = (em_event_token){.id = seq->prompt->ids[i], .visible = true};
    return 0;
}

static int grow_held(em_seq *seq, int32_t cap)
{
    em_held_token *held = realloc(seq->held, (size_t)cap * sizeof(*held));
    if (!held)
        return -ENOMEM;
    seq->held = held;
    em_event_token *out = realloc(seq->out, (size_t)cap * sizeof(*out));
    if (!out)
        return -ENOMEM;
    seq->out = out;
    size_t n_top = (size_t)n_top_of(seq);
    if (n_top) {
        em_top_logprob *top = realloc(seq->held_top, (size_t)cap * n_top * sizeof(*top));
        if (!top)
            return -ENOMEM;
        seq->held_top = top;
    }
    seq->cap_held = cap;
    return 0;
}

static int start_insight(em_seq *seq, const em_insight_shape *shape)
{
    seq->insight_from = seq->live->request->prompt_engram ? 0 : seq->prompt->n_ids;
    size_t n = (size_t)(seq->prompt->n_ids + seq->max_new - seq->insight_from);
    seq->shape = *shape;
    seq->insight_memory = malloc(n * em_insight_token_bytes(shape) + 1);
    if (!seq->insight_memory)
        return -ENOMEM;
    seq->insight = em_insight_place(seq->insight_memory, shape, n);
    for (size_t i = 0; i < n * (size_t)shape->n_layers * (size_t)shape->n_streams; i++)
        seq->insight.gate[i] = NAN;
    return 0;
}

int em_seq_start(em_seq *seq, const em_seq_rules *rules)
{
    if (seq->started)
        return 0;
    seq->started = true;
    const em_request *r = seq->live->request;
    size_t n_prompt = (size_t)seq->prompt->n_ids;
    seq->ids = malloc((n_prompt + (size_t)seq->max_new) * sizeof(*seq->ids));
    if (!seq->ids)
        return -ENOMEM;
    memcpy(seq->ids, seq->prompt->ids, n_prompt * sizeof(*seq->ids));
    int rc = 0;
    if (rules->tok)
        rc = em_detok_new(r->stops, r->n_stops, &seq->detok);
    if (!rc && seq->max_new)
        rc = grow_held(seq, FIRST_HELD);
    if (!rc && seq->live->order)
        rc = em_guide_new(em_grammar_order_get(seq->live->order), &seq->guide);
    if (!rc && em_seq_reports_prompt(seq))
        rc = start_scores(seq);
    if (!rc && r->engram)
        rc = start_insight(seq, &rules->insight);
    return rc; /* on failure em_seq_done frees */
}

void em_seq_drop_scores(em_seq *seq)
{
    free(seq->scores);
    free(seq->score_top);
    seq->scores = NULL;
    seq->score_top = NULL;
    seq->scores_told = true;
}

void em_seq_done(em_seq *seq)
{
    em_seq_drop_scores(seq);
    seq->detok = em_detok_free(seq->detok);
    seq->guide = em_guide_free(seq->guide);
    free(seq->ids);
    free(seq->held);
    free(seq->held_top);
    free(seq->out);
    free(seq->insight_memory);
    seq->insight_memory = NULL;
    seq->insight = (em_insight){0};
    seq->ids = NULL;
    seq->held = NULL;
    seq->held_top = NULL;
    seq->out = NULL;
    seq->n_held = seq->cap_held = 0;
    seq->state = EM_SEQ_FINISHED;
}

int32_t em_seq_goal(const em_seq *seq)
{
    if (seq->max_new)
        return seq->n_ids;
    if (seq->live->request->prompt_engram)
        return seq->prompt->n_ids;
    return seq->live->request->prompt_logprobs ? seq->prompt->n_ids - 1 : 0;
}

bool em_seq_reports_prompt(const em_seq *seq)
{
    return seq->live->request->prompt_logprobs || seq->live->request->prompt_engram;
}

void em_seq_insight_of(const em_seq *seq, int32_t pos, int32_t n_tokens, int32_t *ret_n, em_insight *ret_insight)
{
    int32_t from = pos > seq->insight_from ? pos : seq->insight_from;
    *ret_n = 0;
    if (!seq->insight_memory || from >= pos + n_tokens)
        return;
    *ret_n = pos + n_tokens - from;
    *ret_insight = em_insight_from(&seq->insight, &seq->shape, (size_t)(from - seq->insight_from));
}

bool em_seq_draws(const em_seq *seq)
{
    return seq->max_new > 0 && seq->finish == EM_FINISH_NONE;
}

bool em_seq_scores(const em_seq *seq)
{
    return seq->live->request->prompt_logprobs && !seq->scores_told && seq->pos < seq->prompt->n_ids - 1;
}

/* --- prompt scores ------------------------------------------------------------------------------------------ */

void em_seq_put_score(em_seq *seq, int32_t p, float logprob, const em_top_logprob *top, int32_t n_top)
{
    em_event_token *t = &seq->scores[p];
    t->has_logprob = true;
    t->logprob = logprob;
    t->n_top = n_top;
    if (n_top) {
        em_top_logprob *to = seq->score_top + (size_t)p * (size_t)n_top_of(seq);
        memcpy(to, top, (size_t)n_top * sizeof(*to));
        t->top = to;
    }
}

bool em_seq_scored(const em_seq *seq)
{
    return seq->scores && seq->pos >= seq->prompt->n_ids - !seq->live->request->prompt_engram;
}

/* What every event of a choice tells. */
static em_event draft_of(const em_seq *seq, em_event_kind kind)
{
    return (em_event){
        .kind = kind,
        .choice = seq->choice,
        .prompt_tokens = seq->prompt->n_ids,
        .completion_tokens = seq->n_ids - seq->prompt->n_ids,
        .cached_tokens = seq->cached_tokens,
    };
}

void em_seq_score_draft(const em_seq *seq, em_event *ret_draft)
{
    *ret_draft = draft_of(seq, EM_EVENT_PROMPT);
    ret_draft->tokens = seq->scores;
    ret_draft->n_tokens = seq->prompt->n_ids;
    if (seq->live->request->prompt_engram) {
        ret_draft->insight = seq->insight;
        ret_draft->shape = seq->shape;
    }
}

/* --- generated text ----------------------------------------------------------------------------------------- */

/* Bytes a token puts into the answer: none for special tokens and ids the tokenizer does not have. */
static const uint8_t *text_of(const em_seq_rules *rules, int32_t id, size_t *ret_len)
{
    *ret_len = 0;
    if (!rules->tok || id >= em_tokenizer_size(rules->tok) || em_tokenizer_is_special(rules->tok, id))
        return NULL;
    return em_tokenizer_bytes(rules->tok, id, ret_len);
}

/* Takes out the tokens of the last event. */
static void drop_out(em_seq *seq)
{
    if (!seq->n_out)
        return;
    size_t left = (size_t)(seq->n_held - seq->n_out), n_top = (size_t)n_top_of(seq);
    memmove(seq->held, seq->held + seq->n_out, left * sizeof(*seq->held));
    if (n_top)
        memmove(seq->held_top, seq->held_top + (size_t)seq->n_out * n_top, left * n_top * sizeof(*seq->held_top));
    seq->n_held = (int32_t)left;
    seq->n_out = 0;
}

static int hold(em_seq *seq, const em_draw *draw, bool has_text)
{
    drop_out(seq);
    if (seq->n_held == seq->cap_held) {
        int rc = grow_held(seq, 2 * seq->cap_held);
        if (rc)
            return rc;
    }
    if (draw->n_top)
        memcpy(seq->held_top + (size_t)seq->n_held * (size_t)n_top_of(seq), draw->top,
               (size_t)draw->n_top * sizeof(draw->top[0]));
    seq->held[seq->n_held++] = (em_held_token){
        .id = draw->id,
        .has_text = has_text,
        .has_logprob = draw->has_logprob,
        .logprob = draw->logprob,
        .text_offset = seq->detok ? (int32_t)em_detok_chars(seq->detok) : 0,
        .n_top = draw->n_top,
    };
    return 0;
}

int em_seq_push(em_seq *seq, const em_draw *draw, const em_seq_rules *rules)
{
    size_t len;
    const uint8_t *bytes = text_of(rules, draw->id, &len);
    int rc = hold(seq, draw, len > 0);
    if (rc)
        return rc;
    seq->ids[seq->n_ids++] = draw->id;
    bool stopped = false;
    if (len) {
        rc = em_detok_push(seq->detok, bytes, len);
        if (rc < 0)
            return rc;
        stopped = seq->cut = rc > 0;
    }
    bool completing = seq->guide && em_guide_completing(seq->guide);
    if (!completing && em_request_stops_at(seq->live->request, draw->id, rules->eos_id))
        stopped = true;
    if (seq->guide && em_guide_final(seq->guide))
        stopped = true;
    if (stopped)
        return em_seq_end(seq, EM_FINISH_STOP);
    if (seq->n_ids - seq->prompt->n_ids == seq->max_new)
        return em_seq_end(seq, seq->guide && em_guide_complete(seq->guide) ? EM_FINISH_STOP : EM_FINISH_LENGTH);
    return 0;
}

int em_seq_end(em_seq *seq, em_finish finish)
{
    int rc = seq->detok ? em_detok_finish(seq->detok) : 0;
    if (rc > 0) {
        seq->cut = true;
        if (finish == EM_FINISH_LENGTH)
            finish = EM_FINISH_STOP;
    }
    seq->finish = finish;
    return rc < 0 ? rc : 0;
}

/* Held tokens, from the first, whose text is out by now; those without text follow the ones before them. */
static int32_t count_released(const em_seq *seq)
{
    if (!seq->detok || seq->finish != EM_FINISH_NONE)
        return seq->n_held;
    int64_t released = em_detok_released(seq->detok);
    int32_t n = 0;
    while (n < seq->n_held && seq->held[n].text_offset + (seq->held[n].has_text ? 1 : 0) <= released)
        n++;
    return n;
}

/* What Engram did for the newest token is still to be computed. */
static bool lacks_insight(const em_seq *seq)
{
    bool goes_on = seq->finish == EM_FINISH_NONE || seq->finish == EM_FINISH_STOP || seq->finish == EM_FINISH_LENGTH;
    return seq->insight_memory && seq->pos < em_seq_goal(seq) && goes_on;
}

bool em_seq_text_draft(em_seq *seq, em_event *ret_draft)
{
    if (lacks_insight(seq))
        return false;
    drop_out(seq);
    *ret_draft = draft_of(seq, EM_EVENT_TEXT);
    ret_draft->finish = seq->finish;
    if (seq->detok)
        ret_draft->text = em_detok_take(seq->detok, &ret_draft->text_len);
    int64_t cut = seq->cut ? em_detok_chars(seq->detok) : INT64_MAX;
    size_t n_top = (size_t)n_top_of(seq);
    seq->n_out = count_released(seq);
    for (int32_t i = 0; i < seq->n_out; i++) {
        const em_held_token *t = &seq->held[i];
        seq->out[i] = (em_event_token){
            .id = t->id,
            .visible = t->text_offset < cut,
            .has_logprob = t->has_logprob,
            .logprob = t->logprob,
            .text_offset = t->text_offset,
            .n_top = t->n_top,
            .top = t->n_top ? seq->held_top + (size_t)i * n_top : NULL,
        };
    }
    ret_draft->tokens = seq->out;
    ret_draft->n_tokens = seq->n_out;
    if (seq->insight_memory) {
        size_t first = (size_t)(seq->n_ids - seq->n_held - seq->insight_from);
        ret_draft->insight = em_insight_from(&seq->insight, &seq->shape, first);
        ret_draft->shape = seq->shape;
    }
    return ret_draft->text_len || ret_draft->n_tokens || seq->finish != EM_FINISH_NONE;
}
