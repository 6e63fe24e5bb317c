/* Expressions -> nondeterministic automata over bytes and calls (Thompson's construction), one per rule. One thread. */
#ifndef EM_ENGINE_GRAMMAR_NFA_H
#define EM_ENGINE_GRAMMAR_NFA_H

#include "engine/grammar/build.h"

typedef enum em_nfa_kind {
    EM_NFA_EPSILON,
    EM_NFA_RANGE, /* a byte of lo..hi */
    EM_NFA_CALL,  /* of callee `arg` */
    EM_NFA_BEGIN, /* passable before anything was read */
    EM_NFA_END,   /* passable if nothing is read after */
} em_nfa_kind;

typedef struct em_nfa_edge {
    uint32_t from, to;
    uint32_t arg;
    uint8_t kind, lo, hi;
} em_nfa_edge;

typedef struct em_nfa {
    em_nfa_edge *edges; /* [n_edges], sorted by `from` once built */
    uint32_t n_edges, cap_edges;
    uint32_t *first;   /* [n_states + 1]: where the edges of a state begin */
    uint32_t n_states; /* 0 is the start, 1 the end */
} em_nfa;

/* 0, or the build's fault. */
int em_nfa_init(em_gr_build *b, em_expr body, em_nfa *ret_nfa);
void em_nfa_done(em_nfa *nfa); /* a zeroed one is fine */

#endif
