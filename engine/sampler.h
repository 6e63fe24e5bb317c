/* Logits -> token. Pure functions; the order of steps and every tie rule is fixed:
 * logprobs are the log-softmax of the raw logits (before temperature). temperature 0 is greedy, ties to the lowest id.
 * Otherwise: logits / temperature, keep the top_k largest (ties at the cut: lowest ids), softmax, drop what is less
 * probable than min_p times the best, keep the smallest set of most probable tokens whose mass reaches top_p (at least
 * one; ties: lowest id first), draw with one uniform number of (seed, choice, position), tokens laid out in order of their ids. "Largest" and "most probable" both order
 * by the raw logit, so nothing hangs on the rounding of a softmax. Sums are doubles added in a fixed order. */
#ifndef EM_ENGINE_SAMPLER_H
#define EM_ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#define EM_MAX_LOGPROBS 20

typedef struct em_sampling {
    float temperature; /* >= 0; 0: greedy */
    float top_p;       /* 0..1; 0 means the most probable token only; 1: off */
    int32_t top_k;     /* 0 or -1: off */
    float min_p;       /* 0..1; drops tokens less probable than min_p times the best one; 0: off */
    uint64_t seed;
} em_sampling;

typedef struct em_top_logprob {
    int32_t id;
    float logprob;
} em_top_logprob;

typedef struct em_sampler em_sampler;                             /* scratch for one vocabulary; one thread at a time */
int em_sampler_new(int32_t vocab_size, em_sampler **ret_sampler); /* vocab_size >= 1; -EINVAL, -ENOMEM */
em_sampler *em_sampler_free(em_sampler *s);

/* Picks a token. choice and position feed the random draw. -EDOM when a logit is NaN or +inf, or all are -inf. */
int em_sampler_pick(em_sampler *s, const float *logits, const em_sampling *how, uint32_t choice, uint64_t position,
                    int32_t *ret_id);

/* log-softmax of the raw logits at `id`, and the n most probable tokens, best first (ties: lowest id). The value of a
 * token is the same float in both places. n in 0..EM_MAX_LOGPROBS; min(n, vocab_size) entries are written. -EDOM as
 * above; -EINVAL: id or n out of range. */
int em_sampler_logprobs(em_sampler *s, const float *logits, int32_t id, int32_t n, float *ret_logprob,
                        em_top_logprob *ret_top);

#endif
