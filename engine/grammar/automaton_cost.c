/* The nearest end from every state: Dijkstra's algorithm as Knuth generalised it to grammars (A generalization of
 * Dijkstra's algorithm, 1977): a call costs what its rule costs, and is known once both it and the way after it are. */
#include "engine/grammar/automaton.h"

#include <string.h>

typedef struct known {
    uint32_t cost, height, state, best;
} known;

typedef struct search {
    em_gr_build *b;
    em_automaton *a;
    known *heap; /* by cost, then height */
    uint32_t n_heap, cap_heap;
    bool *final;                      /* [n] */
    uint32_t *range_from, *call_from; /* source state of each range and call */
    uint32_t *by_range_at, *by_range; /* ranges by their target */
    uint32_t *by_ret_at, *by_ret;     /* calls by where they return */
    uint32_t *by_start_at, *by_start; /* calls by what they start */
} search;

static bool before(known x, known y)
{
    if (x.cost != y.cost)
        return x.cost < y.cost;
    return x.height != y.height ? x.height < y.height : x.state < y.state;
}

static void heap_push(search *s, known k)
{
    if (em_gr_grow(&s->heap, &s->cap_heap, (size_t)s->n_heap + 1, sizeof(k))) {
        em_gr_no_memory(s->b);
        return;
    }
    uint32_t i = s->n_heap++;
    for (; i && before(k, s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = k;
}

static known heap_pop(search *s)
{
    known top = s->heap[0], last = s->heap[--s->n_heap];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < s->n_heap; i = child) {
        if (child + 1 < s->n_heap && before(s->heap[child + 1], s->heap[child]))
            child++;
        if (!before(s->heap[child], last))
            break;
        s->heap[i] = s->heap[child];
    }
    s->heap[i] = last;
    return top;
}

static uint32_t add_cost(uint32_t x, uint32_t y)
{
    uint64_t sum = (uint64_t)x + y;
    return sum < EM_AU_ENDLESS ? (uint32_t)sum : EM_AU_ENDLESS - 1;
}

/* The state a call begins with; of a fork, its one target. */
static uint32_t called(const em_automaton *a, uint32_t call)
{
    uint32_t callee = a->calls[call].callee;
    return callee == EM_DFA_FORK ? a->calls[call].ret : a->callees[callee].start;
}

/* Items 0..n-1 by their key (a counting sort): those of key k are order[at[k] .. at[k + 1]). */
static int sort_by(uint32_t n, const uint32_t *keys, uint32_t n_keys, uint32_t **ret_at, uint32_t **ret_order)
{
    uint32_t *at = calloc((size_t)n_keys + 2, sizeof(*at)), *order = malloc(((size_t)n + 1) * sizeof(*order));
    *ret_at = at;
    *ret_order = order;
    if (!at || !order)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        at[keys[i] + 2]++;
    for (uint32_t k = 0; k < n_keys; k++)
        at[k + 2] += at[k + 1];
    for (uint32_t i = 0; i < n; i++)
        order[at[keys[i] + 1]++] = i;
    return 0;
}

static int index_edges(search *s)
{
    em_automaton *a = s->a;
    uint32_t n_ranges = a->range_at[a->n], n_calls = a->call_at[a->n], most = n_ranges > n_calls ? n_ranges : n_calls;
    uint32_t *keys = malloc(((size_t)most + 1) * sizeof(*keys));
    s->range_from = malloc(((size_t)n_ranges + 1) * sizeof(*s->range_from));
    s->call_from = malloc(((size_t)n_calls + 1) * sizeof(*s->call_from));
    int rc = keys && s->range_from && s->call_from ? 0 : -ENOMEM;
    for (uint32_t state = 0; state < a->n && !rc; state++) {
        for (uint32_t i = a->range_at[state]; i < a->range_at[state + 1]; i++)
            s->range_from[i] = state;
        for (uint32_t i = a->call_at[state]; i < a->call_at[state + 1]; i++)
            s->call_from[i] = state;
    }
    for (uint32_t i = 0; i < n_ranges && !rc; i++)
        keys[i] = a->ranges[i].to;
    if (!rc)
        rc = sort_by(n_ranges, keys, a->n, &s->by_range_at, &s->by_range);
    for (uint32_t i = 0; i < n_calls && !rc; i++)
        keys[i] = a->calls[i].ret;
    if (!rc)
        rc = sort_by(n_calls, keys, a->n, &s->by_ret_at, &s->by_ret);
    for (uint32_t i = 0; i < n_calls && !rc; i++)
        keys[i] = called(a, i);
    if (!rc)
        rc = sort_by(n_calls, keys, a->n, &s->by_start_at, &s->by_start);
    free(keys);
    return rc;
}

/* The byte of a range that reads best in a shortest answer. */
static uint8_t nicest_byte(em_dfa_range r)
{
    static const char nice[] = "a0";
    for (const char *c = nice; *c; c++)
        if (r.lo <= (uint8_t)*c && (uint8_t)*c <= r.hi)
            return (uint8_t)*c;
    return r.lo;
}

static void relax_call(search *s, uint32_t call)
{
    const em_automaton *a = s->a;
    uint32_t ret = a->calls[call].ret, from = s->call_from[call];
    if (a->calls[call].callee == EM_DFA_FORK) {
        if (s->final[ret] && !s->final[from])
            heap_push(s, (known){a->cost[ret], a->height[ret], from, EM_AU_BEST_CALL + call});
        return;
    }
    em_au_callee c = a->callees[a->calls[call].callee];
    if (!s->final[ret] || !s->final[c.start] || s->final[from])
        return;
    uint32_t inside = a->height[c.start] + 1u;
    heap_push(s, (known){.cost = add_cost(add_cost(a->cost[c.start], c.need), a->cost[ret]),
                         .height = inside > a->height[ret] ? inside : a->height[ret],
                         .state = from,
                         .best = EM_AU_BEST_CALL + call});
}

static void settle(search *s, known k)
{
    em_automaton *a = s->a;
    s->final[k.state] = true;
    a->cost[k.state] = k.cost;
    a->height[k.state] = k.height < UINT16_MAX ? (uint16_t)k.height : UINT16_MAX;
    a->best[k.state] = k.best;
    for (uint32_t i = s->by_range_at[k.state]; i < s->by_range_at[k.state + 1]; i++) {
        uint32_t range = s->by_range[i], from = s->range_from[range];
        if (!s->final[from])
            heap_push(s, (known){add_cost(k.cost, 1), k.height, from, nicest_byte(a->ranges[range])});
    }
    for (uint32_t i = s->by_ret_at[k.state]; i < s->by_ret_at[k.state + 1]; i++)
        relax_call(s, s->by_ret[i]);
    for (uint32_t i = s->by_start_at[k.state]; i < s->by_start_at[k.state + 1]; i++)
        relax_call(s, s->by_start[i]);
}

/* Drops what leads to a state, or calls a rule, that never ends. */
static void cut_dead(em_automaton *a)
{
    uint32_t n_ranges = 0, n_calls = 0, range = 0, call = 0;
    for (uint32_t s = 0; s < a->n; s++) {
        uint32_t end = a->range_at[s + 1];
        a->range_at[s] = n_ranges;
        for (; range < end; range++)
            if (a->cost[a->ranges[range].to] != EM_AU_NONE)
                a->ranges[n_ranges++] = a->ranges[range];
        end = a->call_at[s + 1];
        a->call_at[s] = n_calls;
        for (; call < end; call++) {
            em_dfa_call c = a->calls[call];
            if (a->cost[c.ret] == EM_AU_NONE || a->cost[called(a, call)] == EM_AU_NONE)
                continue;
            if (a->best[s] == EM_AU_BEST_CALL + call)
                a->best[s] = EM_AU_BEST_CALL + n_calls;
            a->calls[n_calls++] = c;
        }
    }
    a->range_at[a->n] = n_ranges;
    a->call_at[a->n] = n_calls;
}

static void run(search *s)
{
    em_automaton *a = s->a;
    for (uint32_t i = 0; i < a->n && !s->b->rc; i++) {
        a->cost[i] = EM_AU_NONE;
        if (a->flags[i] & EM_AU_ACCEPT)
            heap_push(s, (known){0, 0, i, EM_AU_BEST_END});
    }
    while (s->n_heap && em_gr_step(s->b, 1)) {
        known k = heap_pop(s);
        if (!s->final[k.state])
            settle(s, k);
    }
    if (s->b->rc)
        return;
    if (a->cost[a->root] == EM_AU_NONE)
        em_gr_fail(s->b, -EINVAL, "No text can satisfy the grammar: it never ends, or it allows nothing.");
    else if (a->height[a->root] > a->max_stack)
        em_gr_fail(s->b, -E2BIG, "The shortest text of the grammar has more than %u rules open at a time.",
                   a->max_stack);
    else
        cut_dead(a);
}

int em_automaton_cost(em_gr_build *b, em_automaton *a)
{
    search s = {.b = b, .a = a, .final = calloc(a->n, sizeof(bool))};
    a->cost = malloc((size_t)a->n * sizeof(*a->cost));
    a->best = malloc((size_t)a->n * sizeof(*a->best));
    a->height = calloc(a->n, sizeof(*a->height));
    if (!s.final || !a->cost || !a->best || !a->height || index_edges(&s))
        em_gr_no_memory(b);
    else
        run(&s);
    free(s.heap);
    free(s.final);
    free(s.range_from);
    free(s.call_from);
    free(s.by_range_at);
    free(s.by_range);
    free(s.by_ret_at);
    free(s.by_ret);
    free(s.by_start_at);
    free(s.by_start);
    return b->rc;
}

/* --- plain characters --------------------------------------------------------------------------------------- */

/* The plain characters (vocab.h) as bytes: sequences of n ranges. */
static const struct spelling {
    uint8_t n, lo[4], hi[4];
} spellings[] = {
    {1, {' '}, {'!'}},
    {1, {'#'}, {'['}},
    {1, {']'}, {0x7f}},
    {2, {0xc2, 0x80}, {0xdf, 0xbf}},
    {3, {0xe0, 0xa0, 0x80}, {0xe0, 0xbf, 0xbf}},
    {3, {0xe1, 0x80, 0x80}, {0xe1, 0xbf, 0xbf}},
    {3, {0xe2, 0x80, 0x80}, {0xe2, 0x80, 0xa7}}, /* without U+2028 and U+2029 */
    {3, {0xe2, 0x80, 0xaa}, {0xe2, 0x80, 0xbf}},
    {3, {0xe2, 0x81, 0x80}, {0xe2, 0xbf, 0xbf}},
    {3, {0xe3, 0x80, 0x80}, {0xec, 0xbf, 0xbf}},
    {3, {0xed, 0x80, 0x80}, {0xed, 0x9f, 0xbf}},
    {3, {0xee, 0x80, 0x80}, {0xef, 0xbf, 0xbf}},
    {4, {0xf0, 0x90, 0x80, 0x80}, {0xf0, 0xbf, 0xbf, 0xbf}},
    {4, {0xf1, 0x80, 0x80, 0x80}, {0xf3, 0xbf, 0xbf, 0xbf}},
    {4, {0xf4, 0x80, 0x80, 0x80}, {0xf4, 0x8f, 0xbf, 0xbf}},
};

/* Do all texts of a spelling, from its byte i on, lead from s to `to`, none of them needing a higher stack? */
static bool all_lead_to(const em_automaton *a, uint32_t s, const struct spelling *sp, uint32_t i, uint32_t to)
{
    int covered = sp->lo[i]; /* bytes below are accounted for */
    for (uint32_t r = a->range_at[s]; r < a->range_at[s + 1] && covered <= sp->hi[i]; r++) {
        em_dfa_range range = a->ranges[r];
        if (range.hi < covered)
            continue;
        if (range.lo > covered || a->height[range.to] > a->height[to])
            return false;
        if (i + 1 >= sp->n || i >= 3 ? range.to != to : !all_lead_to(a, range.to, sp, i + 1, to))
            return false;
        covered = range.hi + 1;
    }
    return covered > sp->hi[i];
}

static uint32_t plain_of(const em_automaton *a, uint32_t s)
{
    uint32_t to = em_automaton_next(a, s, ' ');
    for (size_t i = 0; i < sizeof(spellings) / sizeof(spellings[0]) && to != EM_AU_NONE; i++)
        if (!all_lead_to(a, s, &spellings[i], 0, to))
            return EM_AU_NONE;
    return to;
}

int em_automaton_plain(em_automaton *a)
{
    a->plain = malloc((size_t)a->n * sizeof(*a->plain));
    if (!a->plain)
        return -ENOMEM;
    for (uint32_t s = 0; s < a->n; s++)
        a->plain[s] = plain_of(a, s);
    return 0;
}
