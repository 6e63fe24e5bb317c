/* Rules -> one automaton: which rules match the empty text, each rule made deterministic, all put into one numbering,
 * left recursion refused. */
#include "engine/grammar/automaton.h"

#include <string.h>

static const char *rule_name(const em_gr_build *b, uint32_t rule)
{
    return b->rules[rule].name ? b->rules[rule].name : "a part of the grammar";
}

/* --- rules that match the empty text ------------------------------------------------------------------------ */

typedef struct empty_search {
    em_gr_build *b;
    const em_nfa *nfas; /* [n_rules] */
    bool *nullable;     /* [n_rules] */
    em_gr_u32s stack;
    bool *seen; /* [largest n_states] */
} empty_search;

/* Does the rule reach its end without reading, given the rules known to? */
static bool reaches_end(empty_search *s, const em_nfa *nfa)
{
    memset(s->seen, 0, nfa->n_states);
    s->stack.n = 0;
    uint32_t state = 0;
    s->seen[0] = true;
    while (state != 1 && em_gr_step(s->b, 1)) {
        for (uint32_t i = nfa->first[state]; i < nfa->first[state + 1]; i++) {
            const em_nfa_edge *e = &nfa->edges[i];
            if (e->kind == EM_NFA_RANGE || s->seen[e->to] ||
                (e->kind == EM_NFA_CALL && !s->nullable[s->b->callees[e->arg].rule]))
                continue;
            s->seen[e->to] = true;
            if (em_gr_push(&s->stack, e->to))
                em_gr_no_memory(s->b);
        }
        if (!s->stack.n)
            return false;
        state = s->stack.v[--s->stack.n];
    }
    return !s->b->rc;
}

static void find_nullable(em_gr_build *b, const em_nfa *nfas, bool *nullable)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < b->n_rules; i++)
        most = nfas[i].n_states > most ? nfas[i].n_states : most;
    empty_search s = {.b = b, .nfas = nfas, .nullable = nullable, .seen = malloc((size_t)most + 1)};
    if (!s.seen)
        em_gr_no_memory(b);
    for (bool news = true; news && !b->rc;) {
        news = false;
        for (uint32_t i = b->n_rules; i-- > 0 && em_gr_step(b, nfas[i].n_states / 64);) {
            if (!nullable[i] && reaches_end(&s, &nfas[i]))
                news = nullable[i] = true;
        }
    }
    free(s.seen);
    free(s.stack.v);
}

/* --- one numbering ------------------------------------------------------------------------------------------ */

typedef struct joiner {
    em_gr_build *b;
    em_automaton *a;
    uint32_t cap, n_ranges, cap_ranges, n_calls, cap_calls;
    uint32_t *start; /* [n_rules] first state of each rule */
} joiner;

static int grow_states(joiner *j, uint32_t n)
{
    em_automaton *a = j->a;
    uint32_t cap = j->cap, c[4] = {cap, cap, cap, cap};
    size_t need = (size_t)a->n + n + 1;
    if (em_gr_grow(&a->range_at, &c[0], need, sizeof(*a->range_at)) ||
        em_gr_grow(&a->call_at, &c[1], need, sizeof(*a->call_at)) ||
        em_gr_grow(&a->flags, &c[2], need, sizeof(*a->flags)) ||
        em_gr_grow(&a->rule_of, &c[3], need, sizeof(*a->rule_of)))
        return -ENOMEM;
    j->cap = c[0];
    return 0;
}

/* Puts the states of a rule behind those that are there. */
static int append_rule(joiner *j, uint32_t rule, const em_dfa *d)
{
    em_automaton *a = j->a;
    uint32_t base = a->n;
    if (grow_states(j, d->n) ||
        em_gr_grow(&a->ranges, &j->cap_ranges, (size_t)j->n_ranges + d->range_at[d->n] + 1, sizeof(*a->ranges)) ||
        em_gr_grow(&a->calls, &j->cap_calls, (size_t)j->n_calls + d->call_at[d->n] + 1, sizeof(*a->calls)))
        return em_gr_no_memory(j->b);
    for (uint32_t s = 0; s < d->n; s++) {
        a->range_at[base + s] = j->n_ranges + d->range_at[s];
        a->call_at[base + s] = j->n_calls + d->call_at[s];
        a->flags[base + s] = d->accept[s] ? EM_AU_ACCEPT : 0;
        a->rule_of[base + s] = rule;
    }
    for (uint32_t i = 0; i < d->range_at[d->n]; i++) {
        a->ranges[j->n_ranges] = d->ranges[i];
        a->ranges[j->n_ranges++].to += base;
    }
    for (uint32_t i = 0; i < d->call_at[d->n]; i++)
        a->calls[j->n_calls++] = (em_dfa_call){d->calls[i].callee, d->calls[i].ret + base};
    a->n += d->n;
    a->range_at[a->n] = j->n_ranges;
    a->call_at[a->n] = j->n_calls;
    j->start[rule] = base;
    return 0;
}

static int append_rules(joiner *j, em_nfa *nfas, const bool *nullable)
{
    em_gr_build *b = j->b;
    for (uint32_t i = 0; i < b->n_rules && !b->rc; i++) {
        em_dfa d = {0};
        if (!em_dfa_init(b, &nfas[i], nullable, b->lim.states - j->a->n, true, &d))
            append_rule(j, i, &d);
        em_dfa_done(&d);
        em_nfa_done(&nfas[i]);
    }
    return b->rc;
}

static int link_callees(joiner *j)
{
    em_automaton *a = j->a;
    a->callees = malloc(((size_t)j->b->n_callees + 1) * sizeof(*a->callees));
    if (!a->callees)
        return em_gr_no_memory(j->b);
    for (uint32_t i = 0; i < j->b->n_callees; i++) {
        em_gr_callee c = j->b->callees[i];
        a->callees[i] = (em_au_callee){j->start[c.rule], c.need, c.rem};
    }
    a->n_callees = j->b->n_callees;
    a->n_rules = j->b->n_rules;
    a->root = j->start[0];
    return 0;
}

/* Characters of a string are counted in the state behind its opening quote. */
static void mark_string_rule(joiner *j)
{
    if (j->b->string_rule == UINT32_MAX)
        return;
    uint32_t open = j->start[j->b->string_rule];
    j->a->flags[open] |= EM_AU_OPEN;
    j->a->flags[em_automaton_next(j->a, open, '"')] |= EM_AU_CHARACTER;
}

/* --- left recursion ----------------------------------------------------------------------------------------- */

typedef struct recursion {
    joiner *j;
    uint8_t *color;  /* [n_rules] 0: not seen, 1: on the path, 2: done */
    em_gr_u32s path; /* rule, next call: pairs */
} recursion;

static int enter(recursion *r, uint32_t rule)
{
    em_gr_build *b = r->j->b;
    if (r->color[rule] == 2)
        return 0;
    if (r->color[rule] == 1)
        return em_gr_fail(b, -EINVAL,
                          "%.200s refers to itself before it reads anything (left recursion); put the text first.",
                          rule_name(b, rule));
    r->color[rule] = 1;
    if (em_gr_push(&r->path, rule) || em_gr_push(&r->path, r->j->a->call_at[r->j->start[rule]]))
        return em_gr_no_memory(b);
    return 0;
}

static int refuse_left_recursion(joiner *j)
{
    recursion r = {.j = j, .color = calloc((size_t)j->b->n_rules + 1, 1)};
    if (!r.color)
        em_gr_no_memory(j->b);
    for (uint32_t rule = 0; rule < j->b->n_rules && !j->b->rc; rule++) {
        enter(&r, rule);
        while (r.path.n && em_gr_step(j->b, 1)) {
            uint32_t at = r.path.v[r.path.n - 2], call = r.path.v[r.path.n - 1]++;
            bool more = call < j->a->call_at[j->start[at] + 1];
            if (more && j->a->calls[call].callee == EM_DFA_FORK)
                continue; /* a rule that forks calls nothing */
            if (more) {
                enter(&r, j->b->callees[j->a->calls[call].callee].rule);
            } else {
                r.color[at] = 2;
                r.path.n -= 2;
            }
        }
    }
    free(r.color);
    free(r.path.v);
    return j->b->rc;
}

/* --- the whole ---------------------------------------------------------------------------------------------- */

static void mark_tails(em_automaton *a)
{
    for (uint32_t s = 0; s < a->n; s++)
        if ((a->flags[s] & EM_AU_ACCEPT) && a->range_at[s] == a->range_at[s + 1] && a->call_at[s] == a->call_at[s + 1])
            a->flags[s] |= EM_AU_TAIL;
}

static int join_rules(em_gr_build *b, em_nfa *nfas, bool *nullable, em_automaton *a)
{
    joiner j = {.b = b, .a = a, .start = calloc((size_t)b->n_rules + 1, sizeof(uint32_t))};
    if (!j.start)
        em_gr_no_memory(b);
    for (uint32_t i = 0; i < b->n_rules && !b->rc; i++)
        em_nfa_init(b, b->rules[i].body, &nfas[i]);
    if (!b->rc)
        find_nullable(b, nfas, nullable);
    if (!b->rc && !append_rules(&j, nfas, nullable) && !link_callees(&j) && !refuse_left_recursion(&j)) {
        mark_string_rule(&j);
        if (!em_automaton_cost(b, a) && em_automaton_plain(a))
            em_gr_no_memory(b);
        mark_tails(a);
    }
    free(j.start);
    return b->rc;
}

int em_automaton_init(em_gr_build *b, em_automaton *ret_automaton)
{
    em_automaton a = {.max_stack = b->lim.stack, .max_readings = b->lim.readings};
    em_nfa *nfas = calloc((size_t)b->n_rules + 1, sizeof(*nfas));
    bool *nullable = calloc((size_t)b->n_rules + 1, sizeof(*nullable));
    if (!nfas || !nullable)
        em_gr_no_memory(b);
    else if (!b->rc)
        join_rules(b, nfas, nullable, &a);
    for (uint32_t i = 0; nfas && i < b->n_rules; i++)
        em_nfa_done(&nfas[i]);
    free(nfas);
    free(nullable);
    if (b->rc) {
        em_automaton_done(&a);
        return b->rc;
    }
    *ret_automaton = a;
    return 0;
}

void em_automaton_done(em_automaton *a)
{
    free(a->range_at);
    free(a->call_at);
    free(a->ranges);
    free(a->calls);
    free(a->flags);
    free(a->rule_of);
    free(a->cost);
    free(a->best);
    free(a->height);
    free(a->plain);
    free(a->callees);
    *a = (em_automaton){0};
}

uint64_t em_automaton_bytes(const em_automaton *a)
{
    uint64_t per_state = 4 * sizeof(uint32_t) + 2 * sizeof(uint32_t) + sizeof(uint16_t) + 1;
    return a->n * per_state + a->range_at[a->n] * (uint64_t)sizeof(em_dfa_range) +
           a->call_at[a->n] * (uint64_t)sizeof(em_dfa_call) + a->n_callees * (uint64_t)sizeof(em_au_callee);
}
