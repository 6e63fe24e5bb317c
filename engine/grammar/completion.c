/* The shortest text that completes an answer, and the fewest tokens that spell it. */
#include "engine/grammar/grammar_impl.h"

#include <string.h>

#define MAX_COMPLETION_BYTES (1u << 20)

/* A way through the automaton along its best choices. */
typedef struct guide {
    const em_automaton *a;
    em_gr_u32s rets; /* states to return to, the next one last */
    uint32_t state, need;
    em_buf text;
} guide;

static int go_down_stack(guide *g, const em_stacks *stacks, uint32_t frame)
{
    int rc = 0;
    uint32_t n = stacks->frames[frame].depth;
    if (em_gr_grow(&g->rets.v, &g->rets.cap, n, sizeof(uint32_t)))
        return -ENOMEM;
    g->rets.n = n;
    for (uint32_t f = frame; f; f = stacks->frames[f].below)
        g->rets.v[--n] = stacks->frames[f].ret;
    return rc;
}

/* One byte, one call, or one return. *ret_done: the text is complete. */
static int advance(guide *g, bool *ret_done)
{
    const em_automaton *a = g->a;
    uint32_t best = a->best[g->state];
    if (best == EM_AU_BEST_END) {
        *ret_done = !g->rets.n;
        g->state = g->rets.n ? g->rets.v[--g->rets.n] : g->state;
        return 0;
    }
    if (best >= EM_AU_BEST_CALL) {
        em_dfa_call call = a->calls[best - EM_AU_BEST_CALL];
        if (call.callee == EM_DFA_FORK) {
            g->state = call.ret;
            return 0;
        }
        g->state = a->callees[call.callee].start;
        g->need = a->callees[call.callee].need;
        return em_gr_push(&g->rets, call.ret);
    }
    bool between = a->flags[g->state] & EM_AU_CHARACTER, opens = a->flags[g->state] & EM_AU_OPEN;
    if (between && g->need) {
        g->need--;
        return em_buf_append(&g->text, "a", 1);
    }
    uint8_t byte = (uint8_t)best;
    g->state = em_automaton_next(a, g->state, byte);
    if ((a->flags[g->state] & EM_AU_CHARACTER) && !opens)
        g->need -= g->need > 0;
    return em_buf_append(&g->text, &byte, 1);
}

static int shortest_text(const em_grammar_state *s, guide *g)
{
    const em_reading *v = s->readings.v, *best = &v[0];
    for (uint32_t i = 1; i < s->readings.n; i++)
        if (em_reading_cost(&s->stacks, v[i]) < em_reading_cost(&s->stacks, *best))
            best = &v[i];
    if (em_reading_cost(&s->stacks, *best) > MAX_COMPLETION_BYTES)
        return -ENOSPC;
    g->state = best->state;
    g->need = best->need;
    int rc = go_down_stack(g, &s->stacks, best->stack);
    for (bool done = false; !done && !rc;)
        rc = advance(g, &done);
    return rc;
}

/* --- spelling ----------------------------------------------------------------------------------------------- */

/* Fewest tokens of text[i ..] and the first of them. */
typedef struct spelling {
    uint32_t n, id;
} spelling;

/* Tries every token of one trie that text[at ..] begins with. */
static void try_tokens(const em_grammar_vocab *v, uint32_t from, uint32_t to, const char *text, size_t len, size_t at,
                       spelling *best)
{
    for (size_t i = at; i < len; i++) {
        while (from < to && v->byte[from] != (uint8_t)text[i])
            from = v->end[from];
        if (from >= to)
            return;
        const spelling *rest = &best[i + 1];
        if (v->rank[from] < v->rank[from + 1] && rest->n != UINT32_MAX && rest->n + 1 < best[at].n)
            best[at] = (spelling){rest->n + 1, v->order[v->rank[from]]};
        to = v->end[from++];
    }
}

static int spell(const em_grammar_vocab *v, const em_buf *text, uint32_t *ret_ids, uint32_t cap, uint32_t *ret_n)
{
    size_t len = text->len;
    spelling *best = calloc(len + 1, sizeof(*best));
    int rc = best ? 0 : -ENOMEM;
    for (size_t at = len + 1; best && at-- > 0;) {
        best[at] = (spelling){at == len ? 0 : UINT32_MAX, 0};
        try_tokens(v, 0, v->n_plain, text->data, len, at, best);
        try_tokens(v, v->n_plain, v->n_nodes, text->data, len, at, best);
    }
    if (best && best[0].n == UINT32_MAX)
        rc = -EINVAL;
    else if (best && best[0].n > cap)
        rc = -ENOSPC;
    if (!rc) {
        uint32_t n = 0;
        for (size_t at = 0; at < len; n++) {
            ret_ids[n] = best[at].id;
            at += v->byte_at[best[at].id + 1] - v->byte_at[best[at].id];
        }
        *ret_n = n;
    }
    free(best);
    return rc;
}

int em_grammar_state_completion(const em_grammar_state *s, uint32_t *ret_ids, uint32_t cap, uint32_t *ret_n)
{
    guide g = {.a = &s->g->a};
    if (!s->g->vocab)
        return -EINVAL;
    if (s->ended || em_grammar_state_is_complete(s)) {
        *ret_n = 0;
        return 0;
    }
    int rc = shortest_text(s, &g);
    if (!rc)
        rc = spell(s->g->vocab, &g.text, ret_ids, cap, ret_n);
    free(g.rets.v);
    em_buf_done(&g.text);
    return rc;
}
