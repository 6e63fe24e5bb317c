/* A sink that keeps what a request gives, checks what every stream of events must hold, and lets a test wait for it. */
#ifndef EM_TESTS_COLLECTOR_H
#define EM_TESTS_COLLECTOR_H

#include "engine/engine.h"

/* Gates, then shares, of tokens one behind the other. */
typedef struct insight_list {
    float *v;         /* [n_tokens, n_layers, n_streams + n_orders] */
    int32_t n_tokens; /* 0: nothing was told */
    em_insight_shape shape;
} insight_list;

typedef struct choice_result {
    char *text; /* NUL-terminated */
    size_t text_len;
    em_event_token *tokens; /* [n_tokens] generated; `top` owned, too */
    int32_t n_tokens;
    em_event_token *prompt; /* [n_prompt] from EM_EVENT_PROMPT */
    int32_t n_prompt;
    insight_list insight, prompt_insight; /* of tokens, of prompt */
    int32_t n_events;                     /* EM_EVENT_TEXT */
    em_finish finish;
    int32_t prompt_tokens, completion_tokens;
    int32_t cached_tokens; /* of the last event; no part of the answer */
    char error[256];
} choice_result;

typedef struct collector collector;

collector *collector_new(int32_t n_choices);
void collector_free(collector *c); /* after the last event, or before a refused submit */
em_sink collector_sink(collector *c);
/* Called on the step thread inside on_event, after the event was kept. */
void collector_on_event(collector *c, void (*fn)(void *ctx, const em_event *ev), void *ctx);

/* Wait for the last event, or until a choice has n tokens or has finished; abort after 60 s. */
void collector_wait(collector *c);
void collector_wait_tokens(collector *c, int32_t choice, int32_t n);
bool collector_ended(collector *c);
/* After collector_wait. */
const choice_result *collector_choice(const collector *c, int32_t choice);
int32_t collector_step_ends(collector *c);

/* The same answer, bit for bit? Prints the first difference. */
bool choice_results_equal(const choice_result *a, const choice_result *b);

#endif
