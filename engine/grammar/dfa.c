/* Automata of one rule: made, combined, and turned back into expressions. The subset construction itself is in
 * subset.c. */
#include "engine/grammar/dfa.h"

#include <string.h>

#include "engine/grammar/subset.h"

static int too_many(em_gr_build *b)
{
    return em_gr_fail(b, -E2BIG,
                      "The grammar needs more than %u states; use fewer repeats, shorter bounds or fewer alternatives.",
                      b->lim.states);
}

int em_dfa_add_state(em_gr_build *b, em_dfa *dfa, uint32_t max_states)
{
    if (dfa->n >= max_states)
        return too_many(b);
    uint32_t cap[3] = {dfa->cap, dfa->cap, dfa->cap};
    if (em_gr_grow(&dfa->range_at, &cap[0], (size_t)dfa->n + 2, sizeof(*dfa->range_at)) ||
        em_gr_grow(&dfa->call_at, &cap[1], (size_t)dfa->n + 2, sizeof(*dfa->call_at)) ||
        em_gr_grow(&dfa->accept, &cap[2], (size_t)dfa->n + 2, sizeof(*dfa->accept)))
        return em_gr_no_memory(b);
    dfa->cap = cap[0];
    dfa->accept[dfa->n++] = false;
    return 0;
}

/* Adds to the state that is being written, the last of range_at; joins what continues the range before. */
int em_dfa_add_range(em_gr_build *b, em_dfa *dfa, uint32_t *n_ranges, uint32_t first, em_dfa_range r)
{
    if (*n_ranges > first) {
        em_dfa_range *last = &dfa->ranges[*n_ranges - 1];
        if (last->to == r.to && last->hi + 1 == r.lo) {
            last->hi = r.hi;
            return 0;
        }
    }
    if (em_gr_grow(&dfa->ranges, &dfa->cap_ranges, (size_t)*n_ranges + 1, sizeof(*dfa->ranges)))
        return em_gr_no_memory(b);
    dfa->ranges[(*n_ranges)++] = r;
    return 0;
}

void em_dfa_done(em_dfa *dfa)
{
    free(dfa->range_at);
    free(dfa->call_at);
    free(dfa->accept);
    free(dfa->ranges);
    free(dfa->calls);
    *dfa = (em_dfa){0};
}

int em_dfa_of_expr(em_gr_build *b, em_expr x, bool forks, em_dfa *ret_dfa)
{
    em_nfa nfa = {0};
    int rc = em_nfa_init(b, x, &nfa);
    if (!rc)
        rc = em_dfa_init(b, &nfa, NULL, b->lim.states, forks, ret_dfa);
    em_nfa_done(&nfa);
    return rc;
}

uint32_t em_dfa_next(const em_dfa *dfa, uint32_t state, uint8_t c)
{
    for (uint32_t i = dfa->range_at[state]; i < dfa->range_at[state + 1]; i++)
        if (c <= dfa->ranges[i].hi)
            return c >= dfa->ranges[i].lo ? dfa->ranges[i].to : UINT32_MAX;
    return UINT32_MAX;
}

/* --- two automata side by side ------------------------------------------------------------------------------ */

typedef struct pairs {
    em_gr_build *b;
    const em_dfa *x, *y;
    em_dfa_op op;
    em_gr_u32s of; /* [2 * n]: state of x, state of y (UINT32_MAX: y has stopped) */
    em_gr_index index;
    em_dfa out;
} pairs;

static bool pair_equal(const void *ctx, uint32_t element, const void *key)
{
    return !memcmp(&((const pairs *)ctx)->of.v[2 * (size_t)element], key, 2 * sizeof(uint32_t));
}

static uint64_t pair_hash(const void *ctx, uint32_t element)
{
    const uint32_t *p = &((const pairs *)ctx)->of.v[2 * (size_t)element];
    return em_gr_mix(em_gr_mix(0, p[0]), p[1]);
}

/* The number of a pair, new or known; UINT32_MAX on a fault. */
static uint32_t pair_state(pairs *p, uint32_t x, uint32_t y)
{
    uint32_t key[2] = {x, y};
    uint64_t hash = em_gr_mix(em_gr_mix(0, x), y);
    uint32_t found = em_gr_index_find(&p->index, hash, p, pair_equal, key);
    if (found != UINT32_MAX || em_dfa_add_state(p->b, &p->out, p->b->lim.states))
        return found;
    uint32_t s = p->out.n - 1;
    if (em_gr_push(&p->of, x) || em_gr_push(&p->of, y) || em_gr_index_add(&p->index, hash, s, p, pair_hash)) {
        em_gr_no_memory(p->b);
        return UINT32_MAX;
    }
    bool in_y = y != UINT32_MAX && p->y->accept[y];
    p->out.accept[s] = p->x->accept[x] && in_y == (p->op == EM_DFA_AND);
    return s;
}

static int expand_pair(pairs *p, uint32_t s, uint32_t *n_ranges)
{
    uint32_t x = p->of.v[2 * (size_t)s], y = p->of.v[2 * (size_t)s + 1], first = *n_ranges;
    for (uint32_t i = p->x->range_at[x]; i < p->x->range_at[x + 1]; i++) {
        em_dfa_range r = p->x->ranges[i];
        for (int c = r.lo; c <= r.hi && em_gr_step(p->b, 1); c++) {
            uint32_t to_y = y == UINT32_MAX ? UINT32_MAX : em_dfa_next(p->y, y, (uint8_t)c);
            if (to_y == UINT32_MAX && p->op == EM_DFA_AND)
                continue;
            uint32_t to = pair_state(p, r.to, to_y);
            em_dfa_range out = {.to = to, .lo = (uint8_t)c, .hi = (uint8_t)c};
            if (to == UINT32_MAX || em_dfa_add_range(p->b, &p->out, n_ranges, first, out))
                break;
        }
    }
    return p->b->rc;
}

int em_dfa_combine(em_gr_build *b, const em_dfa *x, const em_dfa *y, em_dfa_op op, em_dfa *ret_dfa)
{
    pairs p = {.b = b, .x = x, .y = y, .op = op};
    uint32_t n_ranges = 0;
    pair_state(&p, 0, 0);
    for (uint32_t s = 0; s < p.out.n && !b->rc; s++) {
        p.out.range_at[s] = n_ranges;
        p.out.call_at[s] = 0;
        expand_pair(&p, s, &n_ranges);
    }
    free(p.of.v);
    free(p.index.slot);
    if (b->rc) {
        em_dfa_done(&p.out);
        return b->rc;
    }
    p.out.range_at[p.out.n] = n_ranges;
    p.out.call_at[p.out.n] = 0;
    *ret_dfa = p.out;
    return 0;
}

em_expr em_dfa_expr(em_gr_build *b, const em_dfa *dfa)
{
    em_graph g = {.n_states = dfa->n + 1};
    for (uint32_t s = 0; s < dfa->n && em_gr_step(b, 1); s++) {
        for (uint32_t i = dfa->range_at[s]; i < dfa->range_at[s + 1]; i++)
            em_graph_edge_add(b, &g, s, dfa->ranges[i].to, em_ex_range(b, dfa->ranges[i].lo, dfa->ranges[i].hi));
        for (uint32_t i = dfa->call_at[s]; i < dfa->call_at[s + 1]; i++)
            em_graph_edge_add(b, &g, s, dfa->calls[i].ret, EM_EXPR_EMPTY); /* forks: there are no calls */
        if (dfa->accept[s])
            em_graph_edge_add(b, &g, s, dfa->n, EM_EXPR_EMPTY);
    }
    return em_graph_expr(b, &g, dfa->n);
}
