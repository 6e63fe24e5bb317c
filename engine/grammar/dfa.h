/* Deterministic automata of one rule: at most one way to go on for each byte, besides calls of other rules. One thread. */
#ifndef EM_ENGINE_GRAMMAR_DFA_H
#define EM_ENGINE_GRAMMAR_DFA_H

#include "engine/grammar/nfa.h"

typedef struct em_dfa_range {
    uint32_t to;
    uint8_t lo, hi; /* bytes, both included */
} em_dfa_range;

typedef struct em_dfa_call {
    uint32_t callee;
    uint32_t ret; /* state after what was called is complete */
} em_dfa_call;

/* As callee: nothing is called, the way just goes on at `ret` too. So states are made where merging them would need far
 * too many. */
#define EM_DFA_FORK UINT32_MAX

typedef struct em_dfa {
    uint32_t n; /* states; 0 is the start */
    uint32_t cap;
    uint32_t *range_at;   /* [n + 1] */
    uint32_t *call_at;    /* [n + 1] */
    bool *accept;         /* [n] */
    em_dfa_range *ranges; /* of each state ascending, none twice */
    em_dfa_call *calls;   /* of each state ascending by callee */
    uint32_t cap_ranges, cap_calls;
} em_dfa;

/* Subset construction. nullable: [n_rules] rules that match the empty text, may be NULL. max_states: beyond it the
 * build's fault of too many states. forks: may have some instead, if nothing is called. */
int em_dfa_init(em_gr_build *b, const em_nfa *nfa, const bool *nullable, uint32_t max_states, bool forks,
                em_dfa *ret_dfa);
void em_dfa_done(em_dfa *dfa); /* a zeroed one is fine */

/* From an expression without calls. forks: may have some; then only em_dfa_expr takes it. */
int em_dfa_of_expr(em_gr_build *b, em_expr x, bool forks, em_dfa *ret_dfa);

typedef enum em_dfa_op {
    EM_DFA_AND,     /* both match */
    EM_DFA_AND_NOT, /* the first matches and the second does not */
} em_dfa_op;

/* Of two automata without calls and forks. */
int em_dfa_combine(em_gr_build *b, const em_dfa *x, const em_dfa *y, em_dfa_op op, em_dfa *ret_dfa);

/* An automaton without calls as an expression. */
em_expr em_dfa_expr(em_gr_build *b, const em_dfa *dfa);

/* State after byte c; UINT32_MAX: none. */
uint32_t em_dfa_next(const em_dfa *dfa, uint32_t state, uint8_t c);

#endif
