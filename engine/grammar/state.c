/* The place of one sequence: accepting, taking back, asking. */
#include "engine/grammar/grammar_impl.h"

#include <string.h>

enum { MAX_ROLLBACK = 4096, MIN_CLEAN_UP = 4096 };

static int copy_readings(em_readings *to, const em_readings *from)
{
    if (em_gr_grow(&to->v, &to->cap, from->n, sizeof(*to->v)))
        return -ENOMEM;
    if (from->n)
        memcpy(to->v, from->v, from->n * sizeof(*to->v));
    to->n = from->n;
    return 0;
}

int em_grammar_state_new(em_grammar *g, uint32_t max_rollback, em_grammar_state **ret_state)
{
    if (max_rollback > MAX_ROLLBACK)
        return -EINVAL;
    em_grammar_state *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->g = em_grammar_ref(g);
    s->max_rollback = max_rollback;
    s->history = calloc((size_t)max_rollback + 1, sizeof(*s->history));
    int rc = s->history ? em_stacks_init(&s->stacks, &g->a) : -ENOMEM;
    if (!rc)
        rc = em_readings_add(&s->readings, &s->stacks, (em_reading){g->a.root, 0, 0, EM_GR_NO_END}, g->a.max_stack);
    if (rc) {
        em_grammar_state_free(s);
        return rc;
    }
    *ret_state = s;
    return 0;
}

em_grammar_state *em_grammar_state_free(em_grammar_state *s)
{
    if (!s)
        return NULL;
    for (uint32_t i = 0; s->history && i < s->max_rollback; i++)
        free(s->history[i].readings.v);
    free(s->history);
    free(s->readings.v);
    free(s->scratch[0].v);
    free(s->scratch[1].v);
    em_stacks_done(&s->stacks);
    em_grammar_unref(s->g);
    free(s);
    return NULL;
}

/* The stacks of `set` made anew in `to`. */
static int move_readings(em_readings *set, const em_stacks *from, em_stacks *to)
{
    int rc = 0;
    for (uint32_t i = 0; i < set->n && !rc; i++)
        rc = em_stacks_import(to, from, set->v[i].stack, &set->v[i].stack);
    return rc;
}

/* Drops frames that nothing refers to, once there are many. Failing leaves all as it was: it is only for memory. */
static void clean_up(em_grammar_state *s)
{
    if (s->stacks.n < MIN_CLEAN_UP || s->stacks.n < 2 * s->n_live)
        return;
    em_grammar_state *fresh;
    if (em_grammar_state_copy(s, &fresh))
        return;
    em_grammar_state old = *s;
    *s = *fresh;
    s->n_live = s->stacks.n;
    *fresh = old;
    em_grammar_state_free(fresh);
}

static int copy_into(em_grammar_state *to, const em_grammar_state *s)
{
    int rc = copy_readings(&to->readings, &s->readings);
    if (!rc)
        rc = move_readings(&to->readings, &s->stacks, &to->stacks);
    for (uint32_t back = 0; back < s->n_history && !rc; back++) {
        uint32_t i = (s->newest + s->max_rollback - back) % s->max_rollback;
        to->history[i].ended = s->history[i].ended;
        rc = copy_readings(&to->history[i].readings, &s->history[i].readings);
        if (!rc)
            rc = move_readings(&to->history[i].readings, &s->stacks, &to->stacks);
    }
    to->ended = s->ended;
    to->n_history = s->n_history;
    to->newest = s->newest;
    return rc;
}

int em_grammar_state_copy(const em_grammar_state *s, em_grammar_state **ret_state)
{
    em_grammar_state *to;
    int rc = em_grammar_state_new(s->g, s->max_rollback, &to);
    if (rc)
        return rc;
    em_stacks_clear(&to->stacks);
    rc = copy_into(to, s);
    if (rc) {
        em_grammar_state_free(to);
        return rc;
    }
    *ret_state = to;
    return 0;
}

/* --- going on ----------------------------------------------------------------------------------------------- */

/* Keeps what was before an accept. */
static int remember(em_grammar_state *s)
{
    if (!s->max_rollback)
        return 0;
    uint32_t next = (s->newest + 1) % s->max_rollback;
    int rc = copy_readings(&s->history[next].readings, &s->readings);
    if (rc)
        return rc;
    s->history[next].ended = s->ended;
    s->newest = next;
    s->n_history += s->n_history < s->max_rollback;
    return 0;
}

int em_grammar_state_accept_bytes(em_grammar_state *s, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    int rc = s->ended ? -EINVAL : copy_readings(&s->scratch[0], &s->readings);
    em_readings *now = &s->scratch[0], *next = &s->scratch[1];
    for (size_t i = 0; i < len && !rc; i++) {
        rc = em_readings_step(&s->stacks, now->v, now->n, p[i], s->g->a.max_stack, next);
        if (!rc && !next->n)
            rc = -EINVAL;
        em_readings *swap = now;
        now = next;
        next = swap;
    }
    if (!rc)
        rc = remember(s);
    if (!rc) {
        em_readings before = s->readings;
        s->readings = *now;
        *now = before;
    }
    clean_up(s);
    return rc;
}

int em_grammar_state_accept_token(em_grammar_state *s, uint32_t id)
{
    const em_grammar_vocab *v = s->g->vocab;
    if (!v || id >= v->n || s->ended)
        return -EINVAL;
    if (v->kind[id] == EM_GRAMMAR_TOKEN_TEXT)
        return em_grammar_state_accept_bytes(s, v->bytes + v->byte_at[id], v->byte_at[id + 1] - v->byte_at[id]);
    if (v->kind[id] != EM_GRAMMAR_TOKEN_END || !em_grammar_state_is_complete(s))
        return -EINVAL;
    int rc = remember(s);
    if (!rc)
        s->ended = true;
    return rc;
}

int em_grammar_state_rollback(em_grammar_state *s, uint32_t n)
{
    if (n > s->n_history)
        return -EINVAL;
    for (; n; n--, s->n_history--) {
        em_snapshot *last = &s->history[s->newest];
        em_readings swap = s->readings;
        s->readings = last->readings;
        last->readings = swap;
        last->readings.n = 0;
        s->ended = last->ended;
        s->newest = (s->newest + s->max_rollback - 1) % s->max_rollback;
    }
    return 0;
}

/* --- asking ------------------------------------------------------------------------------------------------- */

bool em_grammar_state_is_complete(const em_grammar_state *s)
{
    for (uint32_t i = 0; i < s->readings.n; i++)
        if (!s->readings.v[i].stack && em_reading_ends(&s->g->a, s->readings.v[i]))
            return true;
    return false;
}

bool em_grammar_state_is_final(const em_grammar_state *s)
{
    for (uint32_t i = 0; i < s->readings.n && !s->ended; i++)
        if (em_reading_goes_on(&s->g->a, s->readings.v[i]))
            return false;
    return true;
}

int em_grammar_state_fill_mask(em_grammar_state *s, uint64_t *mask)
{
    const em_grammar_vocab *v = s->g->vocab;
    int rc = 0;
    if (!v)
        return -EINVAL;
    memset(mask, 0, v->n_words * sizeof(*mask));
    if (s->ended)
        return 0;
    pthread_mutex_lock(&s->g->lock);
    for (uint32_t i = 0; i < s->readings.n && !rc; i++)
        rc = em_masks_add(&s->g->masks, &s->stacks, s->readings.v[i], mask);
    pthread_mutex_unlock(&s->g->lock);
    if (!rc && em_grammar_state_is_complete(s))
        for (uint32_t i = 0; i < v->n_ends; i++)
            mask[v->ends[i] / 64] |= UINT64_C(1) << (v->ends[i] % 64);
    return rc;
}

uint32_t em_grammar_state_min_bytes(const em_grammar_state *s)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < s->readings.n && !s->ended; i++) {
        uint32_t cost = em_reading_cost(&s->stacks, s->readings.v[i]);
        least = cost < least ? cost : least;
    }
    if (s->ended)
        return 0;
    return least < EM_AU_ENDLESS - 1 ? least : UINT32_MAX;
}
