/* Steps of the automaton with its stacks. */
#include "engine/grammar/readings.h"

#include <string.h>

static bool frame_equal(const void *ctx, uint32_t element, const void *key)
{
    const em_frame *x = &((const em_stacks *)ctx)->frames[element], *y = key;
    return x->ret == y->ret && x->below == y->below;
}

static uint64_t frame_hash(const void *ctx, uint32_t element)
{
    const em_frame *f = &((const em_stacks *)ctx)->frames[element];
    return em_gr_mix(em_gr_mix(0, f->ret), f->below);
}

int em_stacks_init(em_stacks *s, const em_automaton *a)
{
    *s = (em_stacks){.a = a};
    if (em_gr_grow(&s->frames, &s->cap, 16, sizeof(*s->frames)))
        return -ENOMEM;
    s->frames[0] = (em_frame){.ret = EM_AU_NONE};
    s->n = 1;
    return 0;
}

void em_stacks_done(em_stacks *s)
{
    free(s->frames);
    free(s->index.slot);
    free(s->seen);
    *s = (em_stacks){0};
}

void em_stacks_clear(em_stacks *s)
{
    s->n = 1;
    s->index.n = 0;
    if (s->index.cap)
        memset(s->index.slot, 0, s->index.cap * sizeof(*s->index.slot));
}

static uint32_t add_cost(uint32_t x, uint32_t y)
{
    return x + y < EM_AU_ENDLESS ? x + y : EM_AU_ENDLESS; /* neither is above EM_AU_ENDLESS */
}

int em_stacks_push(em_stacks *s, uint32_t below, uint32_t ret, uint32_t *ret_frame)
{
    em_frame f = {.ret = ret, .below = below};
    uint64_t hash = em_gr_mix(em_gr_mix(0, ret), below);
    uint32_t found = em_gr_index_find(&s->index, hash, s, frame_equal, &f);
    if (found == UINT32_MAX) {
        if (em_gr_grow(&s->frames, &s->cap, (size_t)s->n + 1, sizeof(f)))
            return -ENOMEM;
        f.depth = s->frames[below].depth + 1;
        f.cost = add_cost(s->frames[below].cost, s->a->cost[ret]);
        s->frames[s->n] = f;
        if (em_gr_index_add(&s->index, hash, s->n, s, frame_hash))
            return -ENOMEM;
        found = s->n++;
    }
    *ret_frame = found;
    return 0;
}

int em_stacks_import(em_stacks *s, const em_stacks *from, uint32_t frame, uint32_t *ret_frame)
{
    em_gr_u32s path = {0};
    int rc = 0;
    for (uint32_t f = frame; f && !rc; f = from->frames[f].below)
        rc = em_gr_push(&path, from->frames[f].ret);
    uint32_t at = 0;
    while (path.n && !rc)
        rc = em_stacks_push(s, at, path.v[--path.n], &at);
    free(path.v);
    if (!rc)
        *ret_frame = at;
    return rc;
}

/* --- sets --------------------------------------------------------------------------------------------------- */

/* Up to so many readings a set is searched from end to end. */
#define FEW 16u
#define N_SEEN 8192u /* slots; at most 4096 readings are in a set */

static uint32_t first_slot(em_reading r)
{
    uint64_t h = em_gr_mix(r.state | (uint64_t)r.stack << 32, r.need | (uint64_t)r.rem << 32);
    return (uint32_t)(h >> 20) & (N_SEEN - 1);
}

/* The slot of a reading of the set that is being made, or the empty one where it belongs. */
static uint64_t *slot_of(em_stacks *s, const em_readings *set, em_reading r)
{
    uint32_t i = first_slot(r);
    while (s->seen[i] >> 32 == s->generation && memcmp(&set->v[(uint32_t)s->seen[i]], &r, sizeof(r)) != 0)
        i = (i + 1) & (N_SEEN - 1);
    return &s->seen[i];
}

/* Is the reading in the set? -ENOMEM. */
static int has_reading(em_stacks *s, const em_readings *set, em_reading r)
{
    for (uint32_t i = 0; i < set->n && set->n <= FEW; i++)
        if (!memcmp(&set->v[i], &r, sizeof(r)))
            return 1;
    if (set->n <= FEW)
        return 0;
    if (!s->seen && !(s->seen = calloc(N_SEEN, sizeof(*s->seen))))
        return -ENOMEM;
    for (; s->n_seen < set->n; s->n_seen++)
        *slot_of(s, set, set->v[s->n_seen]) = (uint64_t)s->generation << 32 | s->n_seen;
    return *slot_of(s, set, r) >> 32 == s->generation;
}

/* Another set is begun: what was noted about the last one is void. */
static void begin_set(em_stacks *s)
{
    s->n_seen = 0;
    if (++s->generation)
        return;
    if (s->seen)
        memset(s->seen, 0, N_SEEN * sizeof(*s->seen));
    s->generation = 1;
}

static int append(em_readings *set, em_stacks *s, em_reading r, uint32_t max_depth)
{
    if (s->frames[r.stack].depth + s->a->height[r.state] > max_depth)
        return 0;
    int known = has_reading(s, set, r);
    if (known)
        return known > 0 ? 0 : known;
    if (set->n >= s->a->max_readings)
        return -E2BIG;
    if (em_gr_grow(&set->v, &set->cap, (size_t)set->n + 1, sizeof(r)))
        return -ENOMEM;
    set->v[set->n++] = r;
    return 0;
}

/* A call out of reading r. Where it would return only to end, it takes the place of r instead. */
static int enter(em_readings *set, em_stacks *s, em_reading r, em_dfa_call call, uint32_t max_depth)
{
    if (call.callee == EM_DFA_FORK) {
        r.state = call.ret;
        return append(set, s, r, max_depth);
    }
    em_au_callee c = s->a->callees[call.callee];
    em_reading in = {.state = c.start, .stack = r.stack, .need = c.need, .rem = c.rem};
    if (!(s->a->flags[call.ret] & EM_AU_TAIL)) {
        /* the way after the call must fit as well, or it could be entered and not be left */
        if (s->frames[r.stack].depth + s->a->height[call.ret] > max_depth)
            return 0;
        int rc = em_stacks_push(s, r.stack, call.ret, &in.stack);
        if (rc)
            return rc;
    }
    return append(set, s, in, max_depth);
}

int em_readings_add(em_readings *set, em_stacks *s, em_reading r, uint32_t max_depth)
{
    const em_automaton *a = s->a;
    uint32_t at = set->n;
    if (!at)
        begin_set(s);
    int rc = append(set, s, r, max_depth);
    for (; at < set->n && !rc; at++) {
        em_reading now = set->v[at];
        for (uint32_t i = a->call_at[now.state]; i < a->call_at[now.state + 1] && !rc; i++)
            rc = enter(set, s, now, a->calls[i], max_depth);
        if (!rc && now.stack && em_reading_ends(a, now)) {
            em_frame f = s->frames[now.stack];
            rc = append(set, s, (em_reading){f.ret, f.below, 0, EM_GR_NO_END}, max_depth);
        }
    }
    return rc;
}

/* The reading after a byte; false: it does not go on so. */
static bool move(const em_automaton *a, em_reading *r, uint8_t byte)
{
    uint32_t to = em_automaton_next(a, r->state, byte);
    if (to == EM_AU_NONE)
        return false;
    uint8_t from_flags = a->flags[r->state], to_flags = a->flags[to];
    if (from_flags & EM_AU_CHARACTER) {
        bool closes = to_flags & EM_AU_ACCEPT;
        if (closes ? r->need > 0 : r->rem == 0)
            return false;
    }
    if ((to_flags & EM_AU_CHARACTER) && !(from_flags & EM_AU_OPEN)) {
        r->need -= r->need > 0;
        r->rem -= r->rem != EM_GR_NO_END;
    }
    r->state = to;
    if (to_flags & EM_AU_ACCEPT) { /* behind the closing quote, or elsewhere: no more counting */
        r->need = 0;
        r->rem = EM_GR_NO_END;
    }
    return true;
}

int em_readings_step(em_stacks *s, const em_reading *v, uint32_t n, uint8_t byte, uint32_t max_depth, em_readings *out)
{
    out->n = 0;
    int rc = 0;
    for (uint32_t i = 0; i < n && !rc; i++) {
        em_reading r = v[i];
        if (move(s->a, &r, byte))
            rc = em_readings_add(out, s, r, max_depth);
    }
    return rc;
}

uint32_t em_reading_cost(const em_stacks *s, em_reading r)
{
    const em_automaton *a = s->a;
    bool between = a->flags[r.state] & (EM_AU_OPEN | EM_AU_CHARACTER);
    uint32_t need = r.need && !between ? r.need - 1 : r.need; /* the character that is begun counts */
    return add_cost(add_cost(a->cost[r.state], need < EM_AU_ENDLESS ? need : EM_AU_ENDLESS), s->frames[r.stack].cost);
}
