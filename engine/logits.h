/* What a request changes about the logits before a token is drawn from them: penalties, biases, tokens that may not come.
 * Pure but for the scratch of em_logit_editor; everything is a function of the sequence's own ids, so neither batching
 * nor preemption can change it.
 *
 * Order, as vLLM has it: repetition, frequency and presence penalty, then logit_bias, then tokens that may not come. The
 * sampler applies temperature, min_p, top_k and top_p afterwards. Logprobs in answers are those of the raw logits. */
#ifndef EM_ENGINE_LOGITS_H
#define EM_ENGINE_LOGITS_H

#include <stdbool.h>
#include <stdint.h>

#define EM_MAX_LOGIT_BIAS 1024   /* entries of one request */
#define EM_MAX_STOP_TOKEN_IDS 64 /* of one request */

typedef struct em_logit_bias {
    int32_t id;
    float bias; /* added */
} em_logit_bias;

typedef struct em_logit_rules {
    float presence_penalty;   /* -2..2; subtracted from every token that was generated before; 0: off */
    float frequency_penalty;  /* -2..2; subtracted once per time it was generated; 0: off */
    float repetition_penalty; /* > 0; tokens of prompt and answer: positive logits divided by it, negative multiplied;
                               * 1: off, and 0 counts as off so that a zeroed struct changes nothing */
    em_logit_bias *bias;      /* [n_bias] malloc'd */
    int32_t n_bias;
} em_logit_rules;

/* Tokens that may not come at this step. */
typedef struct em_logit_bans {
    const int32_t *id; /* [n_id] */
    int32_t n_id;
    const uint64_t *mask; /* bit i set: token i may come; NULL: all may */
} em_logit_bans;

/* True when neither rules nor bans change anything: the logits can be used as they are. */
bool em_logits_untouched(const em_logit_rules *rules, const em_logit_bans *bans);

typedef struct em_logit_editor em_logit_editor; /* scratch for one vocabulary; one thread at a time */
int em_logit_editor_new(int32_t vocab_size, em_logit_editor **ret_editor); /* -EINVAL, -ENOMEM */
em_logit_editor *em_logit_editor_free(em_logit_editor *ed);                /* NULL is fine; returns NULL */

/* The changed copy of logits [vocab_size], valid until the next call. ids: the whole sequence [n_ids], of which the first
 * n_prompt are the prompt. Ids outside the vocabulary are ignored. */
const float *em_logits_edit(em_logit_editor *ed, const float *logits, const em_logit_rules *rules,
                            const em_logit_bans *bans, const int32_t *ids, int32_t n_prompt, int32_t n_ids);

#endif
