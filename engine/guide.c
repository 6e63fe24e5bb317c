#include "engine/guide.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct em_guide {
    em_grammar_state *state;
    uint32_t n_words; /* of a mask */
    bool all_bytes;   /* every byte is a token */
    uint32_t *forced; /* [n_forced] the completion that has begun; `at` of them have come */
    uint32_t n_forced, at;
    bool completing; /* the last token came from there */
};

int em_guide_new(em_grammar *grammar, em_guide **ret_guide)
{
    em_guide *g = calloc(1, sizeof(*g));
    if (!g)
        return -ENOMEM;
    int rc = em_grammar_state_new(grammar, 1, &g->state);
    if (rc) {
        free(g);
        return rc;
    }
    const em_grammar_vocab *v = em_grammar_get_vocab(grammar);
    g->n_words = (em_grammar_vocab_size(v) + 63) / 64;
    g->all_bytes = em_grammar_vocab_has_bytes(v);
    *ret_guide = g;
    return 0;
}

em_guide *em_guide_free(em_guide *g)
{
    if (!g)
        return NULL;
    em_grammar_state_free(g->state);
    free(g->forced);
    free(g);
    return NULL;
}

/* Does the answer still end within `left` tokens? Every byte is at most a token where the vocabulary has all of them;
 * where it has not, the spelling is looked for. 0, -ENOSPC: it does not; -ENOMEM. */
static int fits(const em_guide *g, int32_t left)
{
    uint32_t n, n_bytes = em_grammar_state_min_bytes(g->state);
    if (n_bytes == 0 || (g->all_bytes && n_bytes <= (uint32_t)left))
        return 0;
    uint32_t *ids = malloc(((size_t)left + 1) * sizeof(*ids));
    if (!ids)
        return -ENOMEM;
    int rc = em_grammar_state_completion(g->state, ids, (uint32_t)left, &n);
    free(ids);
    return rc == -EINVAL ? -ENOSPC : rc;
}

/* Begins the shortest completion from here. */
static int force(em_guide *g, int32_t left)
{
    uint32_t n, *ids = malloc(((size_t)left + 1) * sizeof(*ids));
    if (!ids)
        return -ENOMEM;
    int rc = em_grammar_state_completion(g->state, ids, (uint32_t)left, &n);
    if (rc) {
        free(ids);
        return rc == -EINVAL ? -ENOSPC : rc;
    }
    free(g->forced);
    g->forced = ids;
    g->n_forced = n;
    g->at = 0;
    return 0;
}

static bool is_forced(const em_guide *g)
{
    return g->at < g->n_forced;
}

/* Takes the banned ids out; false: nothing is left. */
static bool apply_bans(const em_guide *g, uint64_t *mask, const em_logit_bans *bans)
{
    uint64_t any = 0;
    for (int32_t i = 0; i < bans->n_id; i++)
        if (bans->id[i] >= 0 && (uint32_t)bans->id[i] / 64 < g->n_words)
            mask[bans->id[i] / 64] &= ~(UINT64_C(1) << (bans->id[i] % 64));
    for (uint32_t i = 0; i < g->n_words && !any; i++)
        any = mask[i];
    return any;
}

int em_guide_next_token(em_guide *g, uint64_t *mask, const em_logit_bans *bans, int32_t left, em_guide_next *ret_next,
                        int32_t *ret_id)
{
    if (!is_forced(g)) {
        int rc = em_grammar_state_fill_mask(g->state, mask);
        if (rc)
            return rc;
        if (apply_bans(g, mask, bans)) {
            *ret_next = EM_GUIDE_DRAW;
            return 0;
        }
        rc = force(g, left);
        if (rc)
            return rc;
    }
    *ret_next = is_forced(g) ? EM_GUIDE_FORCED : EM_GUIDE_OVER;
    if (is_forced(g))
        *ret_id = (int32_t)g->forced[g->at];
    return 0;
}

/* The token that was accepted last leads too far: back, and on by the completion. */
static int turn_back(em_guide *g, int32_t left, int32_t *id, em_guide_next *ret_next)
{
    int32_t drawn = *id;
    em_grammar_state_rollback(g->state, 1);
    int rc = force(g, left);
    if (rc == -ENOSPC) { /* there never was room: the answer is cut where the budget ends */
        *ret_next = EM_GUIDE_DRAW;
        return em_grammar_state_accept_token(g->state, (uint32_t)drawn);
    }
    if (rc)
        return rc;
    *ret_next = is_forced(g) ? EM_GUIDE_DRAW : EM_GUIDE_OVER;
    if (!is_forced(g))
        return 0;
    *id = (int32_t)g->forced[g->at++];
    g->completing = true;
    return em_grammar_state_accept_token(g->state, (uint32_t)*id);
}

int em_guide_take(em_guide *g, int32_t left, int32_t *id, em_guide_next *ret_next)
{
    int rc = em_grammar_state_accept_token(g->state, (uint32_t)*id);
    if (rc)
        return rc;
    g->completing = is_forced(g);
    if (g->completing)
        g->at++;
    else
        rc = fits(g, left - 1);
    if (rc == -ENOSPC)
        return turn_back(g, left, id, ret_next);
    *ret_next = EM_GUIDE_DRAW;
    return rc;
}

bool em_guide_completing(const em_guide *g)
{
    return g->completing;
}

bool em_guide_complete(const em_guide *g)
{
    return em_grammar_state_is_complete(g->state);
}

bool em_guide_final(const em_guide *g)
{
    return em_grammar_state_is_final(g->state);
}
