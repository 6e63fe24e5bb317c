#include "tests/support/collector.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/utf8.h"

/* A broken promise: the step thread cannot fail a Check test, but it can end the process with a sentence. */
#define MUST(cond, ...)                                                                                                \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                                                 \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

struct collector {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t n_choices;
    choice_result *choice; /* [n_choices] */
    bool used, last;
    int32_t n_step_ends;
    bool open_step; /* events came since the last on_step_end */
    void (*fn)(void *ctx, const em_event *ev);
    void *fn_ctx;
};

static void *must_alloc(void *p, size_t bytes)
{
    p = realloc(p, bytes ? bytes : 1);
    MUST(p, "out of memory");
    return p;
}

collector *collector_new(int32_t n_choices)
{
    collector *c = must_alloc(NULL, sizeof(*c));
    *c = (collector){.n_choices = n_choices};
    c->choice = must_alloc(NULL, (size_t)n_choices * sizeof(*c->choice));
    memset(c->choice, 0, (size_t)n_choices * sizeof(*c->choice));
    for (int32_t i = 0; i < n_choices; i++) {
        c->choice[i].text = must_alloc(NULL, 1);
        c->choice[i].text[0] = '\0';
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    return c;
}

static void free_tokens(em_event_token *tokens, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        free((void *)tokens[i].top);
    free(tokens);
}

void collector_free(collector *c)
{
    if (!c)
        return;
    MUST(c->last || !c->used, "freed before the last event");
    for (int32_t i = 0; i < c->n_choices; i++) {
        free(c->choice[i].text);
        free_tokens(c->choice[i].tokens, c->choice[i].n_tokens);
        free_tokens(c->choice[i].prompt, c->choice[i].n_prompt);
        free(c->choice[i].insight.v);
        free(c->choice[i].prompt_insight.v);
    }
    free(c->choice);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Appends deep copies. */
static void keep_tokens(em_event_token **tokens, int32_t *n, const em_event *ev)
{
    *tokens = must_alloc(*tokens, (size_t)(*n + ev->n_tokens) * sizeof(**tokens));
    for (int32_t i = 0; i < ev->n_tokens; i++) {
        em_event_token *t = &(*tokens)[(*n)++];
        *t = ev->tokens[i];
        if (t->n_top) {
            em_top_logprob *top = must_alloc(NULL, (size_t)t->n_top * sizeof(*top));
            t->top = memcpy(top, t->top, (size_t)t->n_top * sizeof(*top));
        } else {
            t->top = NULL;
        }
    }
}

static size_t insight_floats(const em_insight_shape *s)
{
    return (size_t)s->n_layers * (size_t)(s->n_streams + s->n_orders);
}

static void keep_insight(insight_list *list, const em_event *ev)
{
    if (!ev->insight.gate)
        return;
    const em_insight_shape *s = &ev->shape;
    size_t one = insight_floats(s);
    list->v = must_alloc(list->v, (size_t)(list->n_tokens + ev->n_tokens) * one * sizeof(*list->v));
    float *out = list->v + (size_t)list->n_tokens * one;
    for (int32_t i = 0; i < ev->n_tokens * s->n_layers; i++) {
        memcpy(out, ev->insight.gate + i * s->n_streams, (size_t)s->n_streams * sizeof(*out));
        memcpy(out + s->n_streams, ev->insight.share + i * s->n_orders, (size_t)s->n_orders * sizeof(*out));
        out += s->n_streams + s->n_orders;
    }
    list->n_tokens += ev->n_tokens;
    list->shape = *s;
}

static void keep_text(choice_result *r, const em_event *ev)
{
    MUST(em_utf8_valid(ev->text, ev->text_len), "choice %d", ev->choice);
    MUST(ev->text[ev->text_len] == '\0', "text without NUL");
    r->text = must_alloc(r->text, r->text_len + ev->text_len + 1);
    memcpy(r->text + r->text_len, ev->text, ev->text_len + 1);
    r->text_len += ev->text_len;
    MUST(ev->text_len || ev->n_tokens || ev->finish, "an event that tells nothing");
    for (int32_t i = 1; i < ev->n_tokens; i++)
        MUST(ev->tokens[i].text_offset >= ev->tokens[i - 1].text_offset, "offsets run backwards");
    keep_tokens(&r->tokens, &r->n_tokens, ev);
    keep_insight(&r->insight, ev);
    MUST(r->n_tokens <= ev->completion_tokens, "%d tokens told, %d counted", r->n_tokens, ev->completion_tokens);
    r->n_events++;
}

static void check_finish(collector *c, choice_result *r, const em_event *ev)
{
    r->finish = ev->finish;
    MUST((ev->error != NULL) == (ev->finish == EM_FINISH_ERROR), "finish %d, error %s", ev->finish, ev->error);
    snprintf(r->error, sizeof(r->error), "%s", ev->error ? ev->error : "");
    int32_t n_open = 0;
    for (int32_t i = 0; i < c->n_choices; i++)
        n_open += c->choice[i].finish == EM_FINISH_NONE;
    MUST(ev->last == (n_open == 0), "last is %d with %d open choices", ev->last, n_open);
    MUST(ev->finish == EM_FINISH_ERROR || r->n_tokens == ev->completion_tokens, "%d tokens told, %d counted",
         r->n_tokens, ev->completion_tokens);
}

static void on_event(void *ctx, em_event *ev)
{
    collector *c = ctx;
    pthread_mutex_lock(&c->lock);
    bool first = !c->used;
    c->used = true;
    MUST(!c->last, "an event after the last one");
    MUST(ev->choice >= 0 && ev->choice < c->n_choices, "choice %d", ev->choice);
    choice_result *r = &c->choice[ev->choice];
    MUST(r->finish == EM_FINISH_NONE, "choice %d goes on after its finish", ev->choice);
    if (ev->kind == EM_EVENT_READY) {
        MUST(first && !ev->text_len && !ev->n_tokens && !ev->finish && !ev->last, "ready comes first and says no more");
    } else if (ev->kind == EM_EVENT_PROMPT) {
        MUST(!r->n_events && !r->n_prompt, "prompt scores come first, and once");
        MUST(!ev->text_len && !ev->finish && !ev->last, "a prompt event says more than it should");
        keep_tokens(&r->prompt, &r->n_prompt, ev);
        keep_insight(&r->prompt_insight, ev);
        MUST(r->n_prompt == ev->prompt_tokens, "%d scores of %d tokens", r->n_prompt, ev->prompt_tokens);
    } else {
        keep_text(r, ev);
        if (ev->finish != EM_FINISH_NONE)
            check_finish(c, r, ev);
        else
            MUST(!ev->last, "last without a finish");
    }
    r->prompt_tokens = ev->prompt_tokens;
    r->completion_tokens = ev->completion_tokens;
    r->cached_tokens = ev->cached_tokens;
    c->open_step = true;
    if (c->fn)
        c->fn(c->fn_ctx, ev);
    if (ev->last)
        c->last = true;
    em_event_free(ev);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void on_step_end(void *ctx)
{
    collector *c = ctx;
    pthread_mutex_lock(&c->lock);
    MUST(!c->last, "the sink is not called after the last event");
    MUST(c->open_step, "a step that gave nothing ended");
    c->open_step = false;
    c->n_step_ends++;
    pthread_mutex_unlock(&c->lock);
}

em_sink collector_sink(collector *c)
{
    return (em_sink){.on_event = on_event, .on_step_end = on_step_end, .ctx = c};
}

void collector_on_event(collector *c, void (*fn)(void *ctx, const em_event *ev), void *ctx)
{
    c->fn = fn;
    c->fn_ctx = ctx;
}

static void wait_change(collector *c)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    MUST(pthread_cond_timedwait(&c->changed, &c->lock, &until) == 0, "nothing came for 60 s");
}

void collector_wait(collector *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->last)
        wait_change(c);
    pthread_mutex_unlock(&c->lock);
}

void collector_wait_tokens(collector *c, int32_t choice, int32_t n)
{
    pthread_mutex_lock(&c->lock);
    while (c->choice[choice].n_tokens < n && c->choice[choice].finish == EM_FINISH_NONE)
        wait_change(c);
    pthread_mutex_unlock(&c->lock);
}

bool collector_ended(collector *c)
{
    pthread_mutex_lock(&c->lock);
    bool ended = c->last;
    pthread_mutex_unlock(&c->lock);
    return ended;
}

const choice_result *collector_choice(const collector *c, int32_t choice)
{
    return &c->choice[choice];
}

int32_t collector_step_ends(collector *c)
{
    pthread_mutex_lock(&c->lock);
    int32_t n = c->n_step_ends;
    pthread_mutex_unlock(&c->lock);
    return n;
}

/* --- comparing ---------------------------------------------------------------------------------------------- */

static bool same_insight(const insight_list *a, const insight_list *b, const char *what)
{
    size_t bytes = (size_t)a->n_tokens * insight_floats(&a->shape) * sizeof(*a->v);
    if (a->n_tokens == b->n_tokens && (!bytes || !memcmp(a->v, b->v, bytes)))
        return true;
    fprintf(stderr, "%s differs: of %d and %d tokens\n", what, a->n_tokens, b->n_tokens);
    return false;
}

static bool same_float(float a, float b)
{
    return memcmp(&a, &b, sizeof(a)) == 0;
}

static bool same_tokens(const em_event_token *a, const em_event_token *b, int32_t n, const char *what)
{
    for (int32_t i = 0; i < n; i++) {
        bool same = a[i].id == b[i].id && a[i].visible == b[i].visible && a[i].has_logprob == b[i].has_logprob &&
                    same_float(a[i].logprob, b[i].logprob) && a[i].text_offset == b[i].text_offset &&
                    a[i].n_top == b[i].n_top;
        for (int32_t k = 0; same && k < a[i].n_top; k++)
            same = a[i].top[k].id == b[i].top[k].id && same_float(a[i].top[k].logprob, b[i].top[k].logprob);
        if (!same) {
            fprintf(stderr, "%s token %d differs: id %d / %d, logprob %.9g / %.9g, offset %d / %d\n", what, i, a[i].id,
                    b[i].id, (double)a[i].logprob, (double)b[i].logprob, a[i].text_offset, b[i].text_offset);
            return false;
        }
    }
    return true;
}

bool choice_results_equal(const choice_result *a, const choice_result *b)
{
    if (a->n_tokens != b->n_tokens || a->n_prompt != b->n_prompt || a->finish != b->finish ||
        a->prompt_tokens != b->prompt_tokens || a->completion_tokens != b->completion_tokens) {
        fprintf(stderr, "tokens %d / %d, prompt %d / %d, finish %d / %d\n", a->n_tokens, b->n_tokens, a->n_prompt,
                b->n_prompt, a->finish, b->finish);
        return false;
    }
    if (a->text_len != b->text_len || memcmp(a->text, b->text, a->text_len) != 0) {
        fprintf(stderr, "text '%s' / '%s'\n", a->text, b->text);
        return false;
    }
    return same_tokens(a->tokens, b->tokens, a->n_tokens, "answer") &&
           same_tokens(a->prompt, b->prompt, a->n_prompt, "prompt") &&
           same_insight(&a->insight, &b->insight, "insight of the answer") &&
           same_insight(&a->prompt_insight, &b->prompt_insight, "insight of the prompt");
}
