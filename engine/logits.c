#include "engine/logits.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct em_logit_editor {
    int32_t vocab_size;
    float *logits;  /* [vocab_size] the copy */
    int32_t *count; /* [vocab_size] how often a token was generated; all zero between calls */
};

int em_logit_editor_new(int32_t vocab_size, em_logit_editor **ret_editor)
{
    if (vocab_size < 1)
        return -EINVAL;
    em_logit_editor *ed = calloc(1, sizeof(*ed));
    if (!ed)
        return -ENOMEM;
    ed->vocab_size = vocab_size;
    ed->logits = malloc((size_t)vocab_size * sizeof(*ed->logits));
    ed->count = calloc((size_t)vocab_size, sizeof(*ed->count));
    if (!ed->logits || !ed->count) {
        em_logit_editor_free(ed);
        return -ENOMEM;
    }
    *ret_editor = ed;
    return 0;
}

em_logit_editor *em_logit_editor_free(em_logit_editor *ed)
{
    if (!ed)
        return NULL;
    free(ed->logits);
    free(ed->count);
    free(ed);
    return NULL;
}

static bool repeats_matter(const em_logit_rules *r)
{
    return r->repetition_penalty != 0.0f && r->repetition_penalty != 1.0f;
}

bool em_logits_untouched(const em_logit_rules *rules, const em_logit_bans *bans)
{
    bool penalties = rules->presence_penalty != 0.0f || rules->frequency_penalty != 0.0f || repeats_matter(rules);
    return !penalties && !rules->n_bias && !bans->n_id && !bans->mask;
}

/* Each token of prompt and answer once, however often it occurs: count marks what has been seen with -1. */
static void penalise_repeats(em_logit_editor *ed, float penalty, const int32_t *ids, int32_t n_ids)
{
    for (int32_t i = 0; i < n_ids; i++) {
        int32_t id = ids[i];
        if (id < 0 || id >= ed->vocab_size || ed->count[id])
            continue;
        ed->count[id] = -1;
        ed->logits[id] = ed->logits[id] > 0.0f ? ed->logits[id] / penalty : ed->logits[id] * penalty;
    }
    for (int32_t i = 0; i < n_ids; i++)
        if (ids[i] >= 0 && ids[i] < ed->vocab_size)
            ed->count[ids[i]] = 0;
}

static void penalise_generated(em_logit_editor *ed, const em_logit_rules *rules, const int32_t *ids, int32_t n_ids)
{
    for (int32_t i = 0; i < n_ids; i++)
        if (ids[i] >= 0 && ids[i] < ed->vocab_size)
            ed->count[ids[i]]++;
    for (int32_t i = 0; i < n_ids; i++) {
        int32_t id = ids[i];
        if (id < 0 || id >= ed->vocab_size || !ed->count[id])
            continue;
        ed->logits[id] -= rules->frequency_penalty * (float)ed->count[id] + rules->presence_penalty;
        ed->count[id] = 0;
    }
}

static void ban(em_logit_editor *ed, const em_logit_bans *bans)
{
    for (int32_t i = 0; i < bans->n_id; i++)
        if (bans->id[i] >= 0 && bans->id[i] < ed->vocab_size)
            ed->logits[bans->id[i]] = -INFINITY;
    for (int32_t from = 0; bans->mask && from < ed->vocab_size; from += 64) {
        uint64_t word = bans->mask[from / 64];
        int32_t n = ed->vocab_size - from < 64 ? ed->vocab_size - from : 64;
        for (int32_t i = 0; word != UINT64_MAX && i < n; i++)
            if (!(word >> i & 1))
                ed->logits[from + i] = -INFINITY;
    }
}

const float *em_logits_edit(em_logit_editor *ed, const float *logits, const em_logit_rules *rules,
                            const em_logit_bans *bans, const int32_t *ids, int32_t n_prompt, int32_t n_ids)
{
    memcpy(ed->logits, logits, (size_t)ed->vocab_size * sizeof(*logits));
    if (repeats_matter(rules))
        penalise_repeats(ed, rules->repetition_penalty, ids, n_ids);
    if (rules->presence_penalty != 0.0f || rules->frequency_penalty != 0.0f)
        penalise_generated(ed, rules, ids + n_prompt, n_ids - n_prompt);
    for (int32_t i = 0; i < rules->n_bias; i++)
        if (rules->bias[i].id >= 0 && rules->bias[i].id < ed->vocab_size)
            ed->logits[rules->bias[i].id] += rules->bias[i].bias;
    ban(ed, bans);
    return ed->logits;
}
