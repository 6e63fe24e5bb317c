/* Thompson's construction. The invariant that makes it right: building an expression between two states adds no edge
 * into the first and none out of the second, so alternatives and repeats cannot leak into each other. */
#include "engine/grammar/nfa.h"

#include <string.h>

/* A rule longer than this is called instead of standing in place of its name. */
#define MAX_IN_PLACE 1024u
#define MAX_IN_PLACE_DEPTH 12

typedef struct maker {
    em_gr_build *b;
    em_nfa *nfa;
    uint32_t max_states; /* for the rule that is being put in place, else the limit */
    int depth;           /* rules in place now */
    bool too_long;       /* max_states was passed */
} maker;

static void build(maker *m, em_expr x, uint32_t from, uint32_t to);

static uint32_t new_state(maker *m)
{
    if (m->nfa->n_states >= m->max_states) {
        m->too_long = true;
        return 0;
    }
    return m->nfa->n_states++;
}

static void add_edge(maker *m, uint32_t from, uint32_t to, em_nfa_edge e)
{
    if (m->b->rc || m->too_long)
        return;
    /* edges are bounded by states: each of them ends in a state made for it, or is one of a set of bytes */
    if (m->nfa->n_edges / 8 >= m->b->lim.nfa_states) {
        m->too_long = true;
        return;
    }
    if (em_gr_grow(&m->nfa->edges, &m->nfa->cap_edges, (size_t)m->nfa->n_edges + 1, sizeof(*m->nfa->edges))) {
        em_gr_no_memory(m->b);
        return;
    }
    e.from = from;
    e.to = to;
    m->nfa->edges[m->nfa->n_edges++] = e;
}

static void add_epsilon(maker *m, uint32_t from, uint32_t to)
{
    add_edge(m, from, to, (em_nfa_edge){.kind = EM_NFA_EPSILON});
}

static void build_text(maker *m, const em_expr_node *x, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < x->n; i++) {
        uint32_t next = i + 1 < x->n ? new_state(m) : to;
        uint8_t c = (uint8_t)m->b->bytes.data[x->a + i];
        add_edge(m, from, next, (em_nfa_edge){.kind = EM_NFA_RANGE, .lo = c, .hi = c});
        from = next;
    }
}

static void build_seq(maker *m, const em_expr_node *x, uint32_t from, uint32_t to)
{
    for (uint32_t i = 0; i < x->n && !m->too_long; i++) {
        uint32_t next = i + 1 < x->n ? new_state(m) : to;
        build(m, m->b->list.v[x->a + i], from, next);
        from = next;
    }
}

static void build_repeat(maker *m, const em_expr_node *x, uint32_t from, uint32_t to)
{
    uint32_t at = new_state(m);
    add_epsilon(m, from, at);
    for (uint32_t i = 0; i < x->b && !m->too_long && em_gr_step(m->b, 1); i++) {
        uint32_t next = new_state(m);
        build(m, x->a, at, next);
        at = next;
    }
    if (x->n == EM_EX_ENDLESS) {
        uint32_t loop = new_state(m);
        add_epsilon(m, at, loop);
        build(m, x->a, loop, loop);
        add_epsilon(m, loop, to);
        return;
    }
    for (uint32_t i = x->b; i < x->n && !m->too_long && em_gr_step(m->b, 1); i++) {
        uint32_t next = new_state(m);
        add_epsilon(m, at, to);
        build(m, x->a, at, next);
        at = next;
    }
    add_epsilon(m, at, to);
}

static void build_graph(maker *m, const em_expr_node *x, uint32_t from, uint32_t to)
{
    uint32_t base = m->nfa->n_states;
    if (x->b > m->max_states - base) {
        m->too_long = true;
        return;
    }
    m->nfa->n_states += x->b;
    add_epsilon(m, from, base);
    add_epsilon(m, base + x->b - 1, to);
    for (uint32_t i = 0; i < x->n && !m->too_long; i++) {
        em_graph_edge e = m->b->edges[x->a + i];
        build(m, e.expr, base + e.from, base + e.to);
    }
}

/* The body instead of the call, if it is short; a rule found too long is not tried again. */
static bool build_in_place(maker *m, uint32_t rule, uint32_t from, uint32_t to)
{
    if (!m->b->rules[rule].in_place || m->depth >= MAX_IN_PLACE_DEPTH)
        return false;
    uint32_t n_edges = m->nfa->n_edges, n_states = m->nfa->n_states, max = m->max_states;
    m->max_states = n_states + MAX_IN_PLACE < max ? n_states + MAX_IN_PLACE : max;
    m->depth++;
    build(m, m->b->rules[rule].body, from, to);
    m->depth--;
    m->max_states = max;
    if (!m->too_long)
        return true;
    m->too_long = false;
    m->b->rules[rule].in_place = false;
    m->nfa->n_edges = n_edges;
    m->nfa->n_states = n_states;
    return false;
}

static void build(maker *m, em_expr expr, uint32_t from, uint32_t to)
{
    if (m->too_long || !em_gr_step(m->b, 1))
        return;
    const em_expr_node x = m->b->nodes[expr];
    switch ((em_expr_kind)x.kind) {
    case EM_EX_NEVER: break;
    case EM_EX_EMPTY: add_epsilon(m, from, to); break;
    case EM_EX_RANGE:
        add_edge(m, from, to, (em_nfa_edge){.kind = EM_NFA_RANGE, .lo = (uint8_t)x.a, .hi = (uint8_t)x.b});
        break;
    case EM_EX_TEXT: build_text(m, &x, from, to); break;
    case EM_EX_SEQ: build_seq(m, &x, from, to); break;
    case EM_EX_ALT:
        for (uint32_t i = 0; i < x.n && !m->too_long; i++)
            build(m, m->b->list.v[x.a + i], from, to);
        break;
    case EM_EX_REPEAT: build_repeat(m, &x, from, to); break;
    case EM_EX_CALL:
        if (!build_in_place(m, m->b->callees[x.a].rule, from, to))
            add_edge(m, from, to, (em_nfa_edge){.kind = EM_NFA_CALL, .arg = x.a});
        break;
    case EM_EX_BEGIN: add_edge(m, from, to, (em_nfa_edge){.kind = EM_NFA_BEGIN}); break;
    case EM_EX_END: add_edge(m, from, to, (em_nfa_edge){.kind = EM_NFA_END}); break;
    case EM_EX_GRAPH: build_graph(m, &x, from, to); break;
    }
}

/* Edges in the order of their states (a counting sort, stable). */
static int sort_edges(em_nfa *nfa)
{
    uint32_t *first = calloc((size_t)nfa->n_states + 2, sizeof(*first));
    em_nfa_edge *sorted = malloc(((size_t)nfa->n_edges + 1) * sizeof(*sorted));
    if (!first || !sorted) {
        free(first);
        free(sorted);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < nfa->n_edges; i++)
        first[nfa->edges[i].from + 2]++;
    for (uint32_t s = 0; s < nfa->n_states; s++)
        first[s + 2] += first[s + 1];
    /* first[s + 1] now counts up from where s begins to where it ends */
    for (uint32_t i = 0; i < nfa->n_edges; i++)
        sorted[first[nfa->edges[i].from + 1]++] = nfa->edges[i];
    free(nfa->edges);
    nfa->edges = sorted;
    nfa->cap_edges = nfa->n_edges + 1;
    nfa->first = first;
    return 0;
}

int em_nfa_init(em_gr_build *b, em_expr body, em_nfa *ret_nfa)
{
    em_nfa nfa = {.n_states = 2};
    maker m = {.b = b, .nfa = &nfa, .max_states = b->lim.nfa_states - b->n_nfa};
    if (m.max_states < nfa.n_states)
        m.too_long = true;
    build(&m, body, 0, 1);
    if (m.too_long)
        em_gr_fail(b, -E2BIG,
                   "The grammar has more than %u places once its repeats are written out; make them shorter.",
                   b->lim.nfa_states);
    b->n_nfa += nfa.n_states;
    if (!b->rc && sort_edges(&nfa))
        em_gr_no_memory(b);
    if (b->rc) {
        em_nfa_done(&nfa);
        return b->rc;
    }
    *ret_nfa = nfa;
    return 0;
}

void em_nfa_done(em_nfa *nfa)
{
    free(nfa->edges);
    free(nfa->first);
    *nfa = (em_nfa){0};
}
