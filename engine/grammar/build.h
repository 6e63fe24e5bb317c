/* What one compilation works on: expressions, rules, callees. The front ends (schema, regex, EBNF) make expressions and
 * rules; em_gr_link turns them into a grammar.
 *
 * One thread. The first fault is kept and everything after it does nothing, so that a front end may check once at the
 * end of a piece of work. */
#ifndef EM_ENGINE_GRAMMAR_BUILD_H
#define EM_ENGINE_GRAMMAR_BUILD_H

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/grammar/grammar.h"
#include "engine/grammar/grow.h"

typedef uint32_t em_expr; /* index of an expression; 0 matches nothing at all, 1 the empty text */
#define EM_EXPR_NEVER 0u
#define EM_EXPR_EMPTY 1u

typedef enum em_expr_kind {
    EM_EX_NEVER,
    EM_EX_EMPTY,
    EM_EX_RANGE,  /* one byte of a..b */
    EM_EX_TEXT,   /* bytes[a .. a+n) */
    EM_EX_SEQ,    /* list[a .. a+n), one after the other */
    EM_EX_ALT,    /* one of list[a .. a+n) */
    EM_EX_REPEAT, /* a, at least b and at most n times (EM_EX_ENDLESS: no most) */
    EM_EX_CALL,   /* what callee a matches */
    EM_EX_BEGIN,  /* nothing was read before, in this rule */
    EM_EX_END,    /* nothing is read after, in this rule */
    EM_EX_GRAPH,  /* edges[a .. a+n): from 0 to b - 1 along expressions */
} em_expr_kind;

#define EM_EX_ENDLESS UINT32_MAX

typedef struct em_expr_node {
    uint8_t kind;
    uint32_t a, b, n;
} em_expr_node;

typedef struct em_graph_edge {
    uint32_t from, to;
    em_expr expr;
} em_graph_edge;

typedef struct em_gr_rule {
    em_expr body;
    char *name;    /* for sentences; NULL: made by the compiler */
    bool in_place; /* its body may stand in place of a call: it does not reach itself */
} em_gr_rule;

/* A rule as it is called. need and rem count the characters of a string: at least need, at most rem. */
typedef struct em_gr_callee {
    uint32_t rule, need, rem;
} em_gr_callee;

#define EM_GR_NO_END UINT32_MAX /* rem: no most */

typedef struct em_char_range {
    uint32_t lo, hi; /* both included */
} em_char_range;

/* A set of characters that was spelled out before. */
typedef struct em_known_set {
    em_char_range *r; /* [n] */
    uint32_t n;
    bool in_json;
    em_expr expr;
} em_known_set;

#define EM_GR_KNOWN_SETS 32

typedef struct em_gr_build {
    em_grammar_limits lim;
    em_error *err; /* may be NULL */
    int rc;        /* of the first fault */
    em_expr_node *nodes;
    uint32_t n_nodes, cap_nodes;
    em_gr_u32s list; /* members of SEQ and ALT */
    em_graph_edge *edges;
    uint32_t n_edges, cap_edges;
    em_buf bytes; /* of TEXT */
    em_gr_rule *rules;
    uint32_t n_rules, cap_rules;
    em_gr_callee *callees;
    uint32_t n_callees, cap_callees;
    em_gr_index callee_index;
    em_expr range[256]; /* EM_EX_RANGE of one byte each; 0: not made yet */
    em_known_set known_sets[EM_GR_KNOWN_SETS];
    uint32_t n_known_sets;
    uint64_t steps;     /* done so far, of lim.steps */
    uint32_t n_nfa;     /* states of all nondeterministic automata so far, of lim.nfa_states */
    uint32_t n_choices; /* so far, of lim.choices */
    uint32_t string_rule, any_rule, number_rule, integer_rule, key_rule; /* of JSON; UINT32_MAX: not made yet */
} em_gr_build;

void em_gr_build_init(em_gr_build *b, const em_grammar_limits *limits, em_error *err);
void em_gr_build_done(em_gr_build *b);

/* Notes a fault unless there is one; returns the first one's code. */
__attribute__((format(printf, 3, 4))) int em_gr_fail(em_gr_build *b, int code, const char *fmt, ...);
int em_gr_no_memory(em_gr_build *b);
bool em_gr_step(em_gr_build *b, uint64_t n); /* counts work; false: a fault, perhaps of the limit */
bool em_gr_check_source(em_gr_build *b, const char *what, const char *text, size_t len); /* size and UTF-8 */

em_expr em_ex_range(em_gr_build *b, uint8_t lo, uint8_t hi);
em_expr em_ex_text(em_gr_build *b, const void *bytes, size_t len);
em_expr em_ex_list(em_gr_build *b, em_expr_kind seq_or_alt, const em_expr *members, size_t n);
em_expr em_ex_seq2(em_gr_build *b, em_expr x, em_expr y);
em_expr em_ex_alt2(em_gr_build *b, em_expr x, em_expr y);
em_expr em_ex_repeat(em_gr_build *b, em_expr x, uint32_t min, uint32_t max);
em_expr em_ex_call(em_gr_build *b, uint32_t rule, uint32_t need, uint32_t rem);
em_expr em_ex_anchor(em_gr_build *b, em_expr_kind begin_or_end);
/* Takes a copy of the edges. */
em_expr em_ex_graph(em_gr_build *b, const em_graph_edge *edges, size_t n, uint32_t n_states);

/* A rule whose body comes later; UINT32_MAX on a fault. name is copied and may be NULL. */
uint32_t em_gr_rule_new(em_gr_build *b, const char *name, size_t name_len);

/* A graph while it is being made. */
typedef struct em_graph {
    em_graph_edge *edges;
    uint32_t n, cap, n_states;
} em_graph;
uint32_t em_graph_state(em_graph *g); /* a new state */
void em_graph_edge_add(em_gr_build *b, em_graph *g, uint32_t from, uint32_t to, em_expr expr);
/* The expression of it, with `last` as its end; frees the edges. */
em_expr em_graph_expr(em_gr_build *b, em_graph *g, uint32_t last);

/* Shortest quoted JSON text of a string, as an expression. */
em_expr em_ex_json_string(em_gr_build *b, const char *s, size_t len);

#endif
