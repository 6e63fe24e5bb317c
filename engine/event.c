/* Events: one malloc'd block each, so that a sink can pass them to another thread and free them there. */
#include "engine/event.h"

#include <stdlib.h>
#include <string.h>

static size_t count_top(const em_event *draft)
{
    size_t n = 0;
    for (int32_t i = 0; i < draft->n_tokens; i++)
        n += (size_t)draft->tokens[i].n_top;
    return n;
}

/* Copies the draft's tokens to `tokens` and their alternatives to `top`, one behind the other. */
static void copy_tokens(const em_event *draft, em_event_token *tokens, em_top_logprob *top)
{
    for (int32_t i = 0; i < draft->n_tokens; i++) {
        tokens[i] = draft->tokens[i];
        if (!tokens[i].n_top) {
            tokens[i].top = NULL;
            continue;
        }
        memcpy(top, draft->tokens[i].top, (size_t)tokens[i].n_top * sizeof(*top));
        tokens[i].top = top;
        top += tokens[i].n_top;
    }
}

em_event *em_event_new(const em_event *draft)
{
    size_t tokens_bytes = (size_t)draft->n_tokens * sizeof(em_event_token);
    size_t top_bytes = count_top(draft) * sizeof(em_top_logprob);
    size_t insight_bytes = draft->insight.gate ? (size_t)draft->n_tokens * em_insight_token_bytes(&draft->shape) : 0;
    size_t error_bytes = draft->error ? strlen(draft->error) + 1 : 0;
    /* in order of alignment: event, tokens (pointers inside), alternatives and insight (4 bytes), characters */
    em_event *ev = malloc(sizeof(*ev) + tokens_bytes + top_bytes + insight_bytes + draft->text_len + 1 + error_bytes);
    if (!ev)
        return NULL;
    *ev = *draft;
    ev->next = NULL;
    em_event_token *tokens = (em_event_token *)(ev + 1);
    em_top_logprob *top = (em_top_logprob *)(tokens + draft->n_tokens);
    void *insight = (char *)top + top_bytes;
    char *text = (char *)insight + insight_bytes;
    copy_tokens(draft, tokens, top);
    if (insight_bytes) {
        ev->insight = em_insight_place(insight, &draft->shape, (size_t)draft->n_tokens);
        em_insight_copy(&ev->insight, &draft->insight, &draft->shape, (size_t)draft->n_tokens);
    }
    if (draft->text_len)
        memcpy(text, draft->text, draft->text_len);
    text[draft->text_len] = '\0';
    ev->tokens = tokens;
    ev->text = text;
    if (draft->error)
        ev->error = memcpy(text + draft->text_len + 1, draft->error, error_bytes);
    return ev;
}

void em_event_free(em_event *ev)
{
    free(ev);
}
