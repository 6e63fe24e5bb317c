/* What Engram did for tokens: plain arrays that the forward pass writes, sequences keep, events carry and answers show.
 * Pure; whoever allocates the arrays frees them. */
#ifndef EM_ENGINE_INSIGHT_H
#define EM_ENGINE_INSIGHT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Of one token. Without Engram layers all is 0. */
typedef struct em_insight_shape {
    int32_t n_layers, n_streams, n_orders; /* Engram layers; residual streams; n-gram orders, from 2 upward */
} em_insight_shape;

/* Of a row of tokens. A gate that is NaN: not known, the token was never computed. */
typedef struct em_insight {
    float *gate;     /* [n_tokens, n_layers, n_streams] 0 to 1: how much of the value each stream took */
    float *share;    /* [n_tokens, n_layers, n_orders] norm of each order's part of the value, over the sum of all */
    uint8_t *cached; /* [n_tokens, n_layers] 1: in the nvme tier, all rows were in the row cache */
} em_insight;

/* Bytes of one token in all three arrays. */
static inline size_t em_insight_token_bytes(const em_insight_shape *s)
{
    return (size_t)s->n_layers * ((size_t)(s->n_streams + s->n_orders) * sizeof(float) + 1);
}

/* The three arrays of n tokens, one behind the other in n * em_insight_token_bytes of memory aligned for floats. */
static inline em_insight em_insight_place(void *memory, const em_insight_shape *s, size_t n)
{
    size_t layers = n * (size_t)s->n_layers;
    float *gate = memory, *share = gate + layers * (size_t)s->n_streams;
    return (em_insight){gate, share, (uint8_t *)(share + layers * (size_t)s->n_orders)};
}

static inline void em_insight_copy(const em_insight *to, const em_insight *from, const em_insight_shape *s, size_t n)
{
    size_t layers = n * (size_t)s->n_layers;
    memcpy(to->gate, from->gate, layers * (size_t)s->n_streams * sizeof(float));
    memcpy(to->share, from->share, layers * (size_t)s->n_orders * sizeof(float));
    memcpy(to->cached, from->cached, layers);
}

/* The same arrays from a later token on. */
static inline em_insight em_insight_from(const em_insight *in, const em_insight_shape *s, size_t token)
{
    size_t layers = token * (size_t)s->n_layers;
    return (em_insight){in->gate + layers * (size_t)s->n_streams, in->share + layers * (size_t)s->n_orders,
                        in->cached + layers};
}

#endif
