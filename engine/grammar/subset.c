/* Subset construction: a state of the result is the set of states that the nondeterministic automaton may be in. Only
 * states count that read something, call something, or are the end. */
#include "engine/grammar/subset.h"

#include <string.h>

typedef struct subset {
    em_gr_build *b;
    const em_nfa *nfa;
    const bool *nullable;
    uint32_t max_states;
    em_dfa dfa;
    em_gr_u32s members; /* of all sets */
    em_gr_u32s set_at;  /* [dfa.n + 1] */
    em_gr_index index;
    uint32_t *seen; /* [nfa states] stamp of the last closure that met it */
    uint32_t stamp;
    em_gr_u32s stack, current;
    em_gr_u32s targets; /* by interval of bytes */
    em_gr_u32s pending; /* edge numbers of the set being expanded */
    uint32_t n_ranges, n_calls;
    bool may_fork, forks;
    uint64_t fork_steps; /* of the build: when they are reached, no more sets are merged */
} subset;

/* An automaton that passes one of these goes on as it is, without merging: larger ones tend to explode. */
enum { FORK_STATES = 20000, FORK_STEPS = 20000000 };

static bool set_equal(const void *ctx, uint32_t element, const void *key)
{
    const subset *s = ctx;
    const em_gr_u32s *k = key;
    uint32_t at = s->set_at.v[element], n = s->set_at.v[element + 1] - at;
    return n == k->n && (!n || !memcmp(s->members.v + at, k->v, n * sizeof(uint32_t)));
}

static uint64_t hash_of(const uint32_t *v, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++)
        h = em_gr_mix(h, v[i]);
    return h;
}

static uint64_t set_hash(const void *ctx, uint32_t element)
{
    const subset *s = ctx;
    uint32_t at = s->set_at.v[element];
    return hash_of(s->members.v + at, s->set_at.v[element + 1] - at);
}

static int compare_u32(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

static bool may_pass(const subset *s, const em_nfa_edge *e, bool begin, bool end)
{
    switch ((em_nfa_kind)e->kind) {
    case EM_NFA_EPSILON: return true;
    case EM_NFA_BEGIN: return begin;
    case EM_NFA_END: return end;
    case EM_NFA_CALL: return s->nullable && s->nullable[s->b->callees[e->arg].rule];
    case EM_NFA_RANGE: break;
    }
    return false;
}

static int visit(subset *s, uint32_t state)
{
    if (s->seen[state] == s->stamp)
        return 0;
    s->seen[state] = s->stamp;
    return em_gr_push(&s->stack, state);
}

/* Everything reachable from `from` without reading; begin, end: those anchors hold. Leaves it sorted in `current`. */
static int closure(subset *s, const uint32_t *from, uint32_t n, bool begin, bool end)
{
    s->stamp++;
    s->stack.n = s->current.n = 0;
    int rc = 0;
    for (uint32_t i = 0; i < n && !rc; i++)
        rc = visit(s, from[i]);
    while (s->stack.n && !rc && em_gr_step(s->b, 1)) {
        uint32_t state = s->stack.v[--s->stack.n];
        bool counts = state == 1;
        for (uint32_t i = s->nfa->first[state]; i < s->nfa->first[state + 1] && !rc; i++) {
            const em_nfa_edge *e = &s->nfa->edges[i];
            counts |= e->kind != EM_NFA_EPSILON && e->kind != EM_NFA_BEGIN;
            if (may_pass(s, e, begin, end))
                rc = visit(s, e->to);
        }
        s->b->steps += s->nfa->first[state + 1] - s->nfa->first[state];
        if (counts && !rc)
            rc = em_gr_push(&s->current, state);
    }
    if (rc)
        return em_gr_no_memory(s->b);
    if (s->current.n > 1)
        qsort(s->current.v, s->current.n, sizeof(uint32_t), compare_u32);
    return s->b->rc;
}

/* May the text end in this set? */
static bool set_accepts(subset *s, uint32_t set)
{
    uint32_t at = s->set_at.v[set], n = s->set_at.v[set + 1] - at;
    bool ends = false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t state = s->members.v[at + i];
        if (state == 1)
            return true;
        for (uint32_t e = s->nfa->first[state]; e < s->nfa->first[state + 1]; e++)
            ends |= s->nfa->edges[e].kind == EM_NFA_END;
    }
    if (!ends || closure(s, s->members.v + at, n, set == 0, true))
        return false;
    for (uint32_t i = 0; i < s->current.n; i++)
        if (s->current.v[i] == 1)
            return true;
    return false;
}

/* The number of the set in `current`, new or known; UINT32_MAX on a fault. */
static uint32_t set_state(subset *s)
{
    uint64_t hash = hash_of(s->current.v, s->current.n);
    uint32_t found = em_gr_index_find(&s->index, hash, s, set_equal, &s->current);
    if (found != UINT32_MAX || em_dfa_add_state(s->b, &s->dfa, s->max_states))
        return found;
    uint32_t set = s->dfa.n - 1;
    int rc = s->members.n > (1u << 28) ? -ENOMEM : 0;
    for (uint32_t i = 0; i < s->current.n && !rc; i++)
        rc = em_gr_push(&s->members, s->current.v[i]);
    if (!rc)
        rc = em_gr_push(&s->set_at, s->members.n);
    if (!rc)
        rc = em_gr_index_add(&s->index, hash, set, s, set_hash);
    if (rc) {
        em_gr_no_memory(s->b);
        return UINT32_MAX;
    }
    s->dfa.accept[set] = set_accepts(s, set);
    return s->b->rc ? UINT32_MAX : set;
}

/* Cuts 0..255 where an edge of `pending` begins or ends: interval[c] for each byte. Returns their number. */
static uint32_t cut_bytes(const subset *s, uint32_t interval[257], uint8_t lo[257])
{
    bool cut[257] = {true};
    for (uint32_t i = 0; i < s->pending.n; i++) {
        const em_nfa_edge *e = &s->nfa->edges[s->pending.v[i]];
        cut[e->lo] = cut[e->hi + 1] = true;
    }
    uint32_t n = 0;
    for (int c = 0; c < 256; c++) {
        if (cut[c])
            lo[n++] = (uint8_t)c;
        interval[c] = n - 1;
    }
    interval[256] = n;
    return n;
}

/* Lays the targets of `pending` out by interval, those of interval k in targets[at[k] .. at[k + 1]). */
static int group_targets(subset *s, const uint32_t interval[257], uint32_t n, uint32_t at[258])
{
    uint64_t total = 0;
    memset(at, 0, (n + 1) * sizeof(*at));
    for (uint32_t i = 0; i < s->pending.n; i++) {
        const em_nfa_edge *e = &s->nfa->edges[s->pending.v[i]];
        for (uint32_t k = interval[e->lo]; k <= interval[e->hi]; k++, total++)
            at[k + 1]++;
    }
    if (!em_gr_step(s->b, total))
        return s->b->rc;
    if (em_gr_grow(&s->targets.v, &s->targets.cap, total, sizeof(uint32_t)))
        return em_gr_no_memory(s->b);
    uint32_t fill[257];
    for (uint32_t k = 0; k < n; k++) {
        at[k + 1] += at[k];
        fill[k] = at[k];
    }
    for (uint32_t i = 0; i < s->pending.n; i++) {
        const em_nfa_edge *e = &s->nfa->edges[s->pending.v[i]];
        for (uint32_t k = interval[e->lo]; k <= interval[e->hi]; k++)
            s->targets.v[fill[k]++] = e->to;
    }
    return 0;
}

static int expand_bytes(subset *s)
{
    uint32_t interval[257], at[258], first = s->n_ranges;
    uint8_t lo[257];
    uint32_t n = cut_bytes(s, interval, lo);
    if (group_targets(s, interval, n, at))
        return s->b->rc;
    for (uint32_t k = 0; k < n; k++) {
        if (at[k] == at[k + 1])
            continue;
        if (closure(s, s->targets.v + at[k], at[k + 1] - at[k], false, false))
            return s->b->rc;
        if (!s->current.n)
            continue;
        em_dfa_range r = {.lo = lo[k], .hi = k + 1 < n ? (uint8_t)(lo[k + 1] - 1) : 255};
        r.to = set_state(s);
        if (r.to == UINT32_MAX || em_dfa_add_range(s->b, &s->dfa, &s->n_ranges, first, r))
            return s->b->rc;
    }
    return 0;
}

static int add_call(subset *s, em_dfa_call call)
{
    if (em_gr_grow(&s->dfa.calls, &s->dfa.cap_calls, (size_t)s->n_calls + 1, sizeof(call)))
        return em_gr_no_memory(s->b);
    s->dfa.calls[s->n_calls++] = call;
    return 0;
}

/* `pending` has the call edges, sorted by callee: one call for each, returning to where any of its edges leads. */
static int expand_calls(subset *s)
{
    for (uint32_t i = 0, end; i < s->pending.n; i = end) {
        uint32_t callee = s->nfa->edges[s->pending.v[i]].arg;
        s->targets.n = 0;
        for (end = i; end < s->pending.n && s->nfa->edges[s->pending.v[end]].arg == callee; end++)
            if (em_gr_push(&s->targets, s->nfa->edges[s->pending.v[end]].to))
                return em_gr_no_memory(s->b);
        if (closure(s, s->targets.v, s->targets.n, false, false))
            return s->b->rc;
        em_dfa_call call = {.callee = callee, .ret = set_state(s)};
        if (call.ret == UINT32_MAX || add_call(s, call))
            return s->b->rc;
    }
    return 0;
}

/* Edge numbers of one kind in a set, into `pending`. */
static int collect(subset *s, uint32_t set, em_nfa_kind kind)
{
    s->pending.n = 0;
    for (uint32_t i = s->set_at.v[set]; i < s->set_at.v[set + 1]; i++) {
        uint32_t state = s->members.v[i];
        for (uint32_t e = s->nfa->first[state]; e < s->nfa->first[state + 1]; e++)
            if (s->nfa->edges[e].kind == kind && em_gr_push(&s->pending, e))
                return em_gr_no_memory(s->b);
    }
    return em_gr_step(s->b, s->pending.n) ? 0 : s->b->rc;
}

static int compare_by_callee(const void *x, const void *y, void *ctx)
{
    const em_nfa_edge *edges = ctx;
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    if (edges[a].arg != edges[b].arg)
        return edges[a].arg < edges[b].arg ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* Instead of merging: on with every member by itself. */
static int expand_fork(subset *s, uint32_t set)
{
    uint32_t n = s->set_at.v[set + 1] - s->set_at.v[set];
    for (uint32_t i = 0; i < n && em_gr_step(s->b, 1); i++) {
        s->current.n = 0;
        if (em_gr_push(&s->current, s->members.v[s->set_at.v[set] + i]))
            return em_gr_no_memory(s->b);
        em_dfa_call call = {.callee = EM_DFA_FORK, .ret = set_state(s)};
        if (call.ret == UINT32_MAX || add_call(s, call))
            return s->b->rc;
    }
    return s->b->rc;
}

static int expand(subset *s, uint32_t set)
{
    s->dfa.range_at[set] = s->n_ranges;
    s->dfa.call_at[set] = s->n_calls;
    s->forks |= s->may_fork && (s->dfa.n >= FORK_STATES || s->b->steps >= s->fork_steps);
    if (s->forks && s->set_at.v[set + 1] - s->set_at.v[set] > 1)
        return expand_fork(s, set);
    if (collect(s, set, EM_NFA_RANGE) || expand_bytes(s) || collect(s, set, EM_NFA_CALL))
        return s->b->rc;
    if (s->pending.n > 1)
        qsort_r(s->pending.v, s->pending.n, sizeof(uint32_t), compare_by_callee, s->nfa->edges);
    return expand_calls(s);
}

static bool calls_something(const em_nfa *nfa)
{
    for (uint32_t i = 0; i < nfa->n_edges; i++)
        if (nfa->edges[i].kind == EM_NFA_CALL)
            return true;
    return false;
}

int em_dfa_init(em_gr_build *b, const em_nfa *nfa, const bool *nullable, uint32_t max_states, bool forks,
                em_dfa *ret_dfa)
{
    subset s = {.b = b, .nfa = nfa, .nullable = nullable, .max_states = max_states};
    s.may_fork = forks && !calls_something(nfa);
    s.fork_steps = b->steps + FORK_STEPS;
    s.seen = calloc(nfa->n_states, sizeof(*s.seen));
    if (!s.seen || em_gr_push(&s.set_at, 0))
        em_gr_no_memory(b);
    static const uint32_t start = 0;
    if (!b->rc && !closure(&s, &start, 1, true, false))
        set_state(&s);
    for (uint32_t set = 0; set < s.dfa.n && !b->rc; set++)
        expand(&s, set);
    free(s.seen);
    free(s.members.v);
    free(s.set_at.v);
    free(s.index.slot);
    free(s.stack.v);
    free(s.current.v);
    free(s.targets.v);
    free(s.pending.v);
    if (b->rc) {
        em_dfa_done(&s.dfa);
        return b->rc;
    }
    s.dfa.range_at[s.dfa.n] = s.n_ranges;
    s.dfa.call_at[s.dfa.n] = s.n_calls;
    *ret_dfa = s.dfa;
    return 0;
}
