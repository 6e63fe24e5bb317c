/* Expressions and rules of one compilation. */
#include "engine/grammar/build.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"

const em_grammar_limits em_grammar_default_limits = {
    .source_bytes = 1u << 20,
    .nesting = 100,
    .nodes = 400000,
    .choices = 20000,
    .repeat = 4096,
    .string_length = 1000000,
    .nfa_states = 400000,
    .states = 120000,
    .steps = 60000000,
    .stack = 200,
    .readings = 2048,
    .mask_steps = 2000000,
    .cache_bytes = 64u << 20,
};

void em_gr_build_init(em_gr_build *b, const em_grammar_limits *limits, em_error *err)
{
    *b = (em_gr_build){.lim = limits ? *limits : em_grammar_default_limits, .err = err};
    if (b->lim.nesting > 120)
        b->lim.nesting = 120;
    if (b->lim.stack > 1000)
        b->lim.stack = 1000;
    if (b->lim.readings > 4096)
        b->lim.readings = 4096;
    if (b->lim.readings < 2)
        b->lim.readings = 2;
    b->string_rule = b->any_rule = b->number_rule = b->integer_rule = b->key_rule = UINT32_MAX;
    static const em_expr_node first[2] = {{.kind = EM_EX_NEVER}, {.kind = EM_EX_EMPTY}};
    if (em_gr_grow(&b->nodes, &b->cap_nodes, 64, sizeof(*b->nodes))) {
        em_gr_no_memory(b);
        return;
    }
    memcpy(b->nodes, first, sizeof(first));
    b->n_nodes = 2;
}

void em_gr_build_done(em_gr_build *b)
{
    for (uint32_t i = 0; i < b->n_rules; i++)
        free(b->rules[i].name);
    for (uint32_t i = 0; i < b->n_known_sets; i++)
        free(b->known_sets[i].r);
    free(b->rules);
    free(b->callees);
    free(b->callee_index.slot);
    free(b->nodes);
    free(b->list.v);
    free(b->edges);
    em_buf_done(&b->bytes);
    *b = (em_gr_build){0};
}

int em_gr_fail(em_gr_build *b, int code, const char *fmt, ...)
{
    if (b->rc)
        return b->rc;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    b->rc = code;
    return em_error_set(b->err, code, "%s", text);
}

int em_gr_no_memory(em_gr_build *b)
{
    return em_gr_fail(b, -ENOMEM, "Out of memory while compiling a grammar.");
}

bool em_gr_step(em_gr_build *b, uint64_t n)
{
    b->steps += n;
    if (!b->rc && b->steps > b->lim.steps)
        em_gr_fail(b, -E2BIG, "The grammar takes more than %llu steps to compile; make it simpler.",
                   (unsigned long long)b->lim.steps);
    return !b->rc;
}

bool em_gr_check_source(em_gr_build *b, const char *what, const char *text, size_t len)
{
    if (len > b->lim.source_bytes)
        em_gr_fail(b, -E2BIG, "The %s has %zu bytes; at most %u are allowed.", what, len, b->lim.source_bytes);
    else if (!em_utf8_valid(text, len))
        em_gr_fail(b, -EINVAL, "The %s is not valid UTF-8.", what);
    return !b->rc;
}

static em_expr add_node(em_gr_build *b, em_expr_kind kind, uint32_t a, uint32_t bb, uint32_t n)
{
    if (b->rc)
        return EM_EXPR_NEVER;
    if (b->n_nodes >= b->lim.nodes) {
        em_gr_fail(b, -E2BIG, "The grammar needs more than %u expressions; make it smaller.", b->lim.nodes);
        return EM_EXPR_NEVER;
    }
    if (em_gr_grow(&b->nodes, &b->cap_nodes, (size_t)b->n_nodes + 1, sizeof(*b->nodes))) {
        em_gr_no_memory(b);
        return EM_EXPR_NEVER;
    }
    b->nodes[b->n_nodes] = (em_expr_node){.kind = (uint8_t)kind, .a = a, .b = bb, .n = n};
    return b->n_nodes++;
}

em_expr em_ex_range(em_gr_build *b, uint8_t lo, uint8_t hi)
{
    if (lo != hi)
        return add_node(b, EM_EX_RANGE, lo, hi, 0);
    if (!b->range[lo])
        b->range[lo] = add_node(b, EM_EX_RANGE, lo, hi, 0);
    return b->range[lo];
}

em_expr em_ex_text(em_gr_build *b, const void *bytes, size_t len)
{
    if (len == 0)
        return EM_EXPR_EMPTY;
    size_t at = b->bytes.len;
    if (at + len > UINT32_MAX || em_buf_append(&b->bytes, bytes, len)) {
        em_gr_no_memory(b);
        return EM_EXPR_NEVER;
    }
    return add_node(b, EM_EX_TEXT, (uint32_t)at, 0, (uint32_t)len);
}

em_expr em_ex_list(em_gr_build *b, em_expr_kind kind, const em_expr *members, size_t n)
{
    uint32_t at = b->list.n;
    em_expr unit = kind == EM_EX_SEQ ? EM_EXPR_EMPTY : EM_EXPR_NEVER;
    for (size_t i = 0; i < n && !b->rc; i++) {
        if (kind == EM_EX_SEQ && members[i] == EM_EXPR_NEVER) {
            b->list.n = at;
            return EM_EXPR_NEVER;
        }
        if (members[i] != unit && em_gr_push(&b->list, members[i]))
            em_gr_no_memory(b);
    }
    uint32_t count = b->list.n - at;
    if (count > 1)
        return add_node(b, kind, at, 0, count);
    b->list.n = at;
    return count ? b->list.v[at] : unit;
}

em_expr em_ex_seq2(em_gr_build *b, em_expr x, em_expr y)
{
    return em_ex_list(b, EM_EX_SEQ, (em_expr[2]){x, y}, 2);
}

em_expr em_ex_alt2(em_gr_build *b, em_expr x, em_expr y)
{
    return em_ex_list(b, EM_EX_ALT, (em_expr[2]){x, y}, 2);
}

em_expr em_ex_repeat(em_gr_build *b, em_expr x, uint32_t min, uint32_t max)
{
    if (max == 0 || x == EM_EXPR_EMPTY || (x == EM_EXPR_NEVER && min == 0))
        return EM_EXPR_EMPTY;
    if (x == EM_EXPR_NEVER || (min == 1 && max == 1))
        return x;
    return add_node(b, EM_EX_REPEAT, x, min, max);
}

static bool callee_equal(const void *ctx, uint32_t element, const void *key)
{
    const em_gr_callee *x = &((const em_gr_build *)ctx)->callees[element], *y = key;
    return x->rule == y->rule && x->need == y->need && x->rem == y->rem;
}

static uint64_t callee_hash(const void *ctx, uint32_t element)
{
    const em_gr_callee *c = &((const em_gr_build *)ctx)->callees[element];
    return em_gr_mix(em_gr_mix(em_gr_mix(0, c->rule), c->need), c->rem);
}

em_expr em_ex_call(em_gr_build *b, uint32_t rule, uint32_t need, uint32_t rem)
{
    if (b->rc)
        return EM_EXPR_NEVER;
    if (em_gr_grow(&b->callees, &b->cap_callees, (size_t)b->n_callees + 1, sizeof(*b->callees))) {
        em_gr_no_memory(b);
        return EM_EXPR_NEVER;
    }
    em_gr_callee key = b->callees[b->n_callees] = (em_gr_callee){rule, need, rem};
    uint64_t hash = callee_hash(b, b->n_callees);
    uint32_t found = em_gr_index_find(&b->callee_index, hash, b, callee_equal, &key);
    if (found != UINT32_MAX)
        return add_node(b, EM_EX_CALL, found, 0, 0);
    if (em_gr_index_add(&b->callee_index, hash, b->n_callees, b, callee_hash)) {
        em_gr_no_memory(b);
        return EM_EXPR_NEVER;
    }
    return add_node(b, EM_EX_CALL, b->n_callees++, 0, 0);
}

em_expr em_ex_anchor(em_gr_build *b, em_expr_kind begin_or_end)
{
    return add_node(b, begin_or_end, 0, 0, 0);
}

em_expr em_ex_graph(em_gr_build *b, const em_graph_edge *edges, size_t n, uint32_t n_states)
{
    if (b->rc)
        return EM_EXPR_NEVER;
    if (em_gr_grow(&b->edges, &b->cap_edges, b->n_edges + n, sizeof(*b->edges))) {
        em_gr_no_memory(b);
        return EM_EXPR_NEVER;
    }
    uint32_t at = b->n_edges;
    if (n)
        memcpy(b->edges + at, edges, n * sizeof(*edges));
    b->n_edges += (uint32_t)n;
    return add_node(b, EM_EX_GRAPH, at, n_states, (uint32_t)n);
}

uint32_t em_gr_rule_new(em_gr_build *b, const char *name, size_t name_len)
{
    if (b->rc)
        return UINT32_MAX;
    if (b->n_rules >= b->lim.nodes) {
        em_gr_fail(b, -E2BIG, "The grammar needs more than %u rules; make it smaller.", b->lim.nodes);
        return UINT32_MAX;
    }
    char *copy = name ? malloc(name_len + 1) : NULL; /* a part of the source, which ends nowhere but at its length */
    if ((name && !copy) || em_gr_grow(&b->rules, &b->cap_rules, (size_t)b->n_rules + 1, sizeof(*b->rules))) {
        free(copy);
        em_gr_no_memory(b);
        return UINT32_MAX;
    }
    if (copy) {
        memcpy(copy, name, name_len);
        copy[name_len] = '\0';
    }
    b->rules[b->n_rules] = (em_gr_rule){.body = EM_EXPR_NEVER, .name = copy};
    return b->n_rules++;
}

uint32_t em_graph_state(em_graph *g)
{
    return g->n_states++;
}

void em_graph_edge_add(em_gr_build *b, em_graph *g, uint32_t from, uint32_t to, em_expr expr)
{
    if (b->rc || expr == EM_EXPR_NEVER)
        return;
    if (g->n / 4 >= b->lim.nfa_states)
        em_gr_fail(b, -E2BIG,
                   "The grammar has more than %u places once its repeats are written out; make them shorter.",
                   b->lim.nfa_states);
    else if (em_gr_grow(&g->edges, &g->cap, (size_t)g->n + 1, sizeof(*g->edges)))
        em_gr_no_memory(b);
    else
        g->edges[g->n++] = (em_graph_edge){from, to, expr};
}

em_expr em_graph_expr(em_gr_build *b, em_graph *g, uint32_t last)
{
    /* the end is the last state by number, which nobody knows while states are being added */
    uint32_t end = em_graph_state(g);
    em_graph_edge_add(b, g, last, end, EM_EXPR_EMPTY);
    em_expr x = em_ex_graph(b, g->edges, g->n, g->n_states);
    free(g->edges);
    *g = (em_graph){0};
    return x;
}

em_expr em_ex_json_string(em_gr_build *b, const char *s, size_t len)
{
    em_buf text = {0};
    em_expr x = EM_EXPR_NEVER;
    if (em_buf_json_string(&text, s, len))
        em_gr_no_memory(b);
    else
        x = em_ex_text(b, text.data, text.len);
    em_buf_done(&text);
    return x;
}
